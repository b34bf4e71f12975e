//! Watchers behind what their groups keep, served from the history.
//!
//! They take turns. A slice of the history is read for the one whose turn it is, and serves every other one that is
//! within it, so that many watchers opened at the same old revision read the history once. A slice is bounded in
//! revisions and bytes, and is the only thing a stream holds for all of them.

use std::collections::VecDeque;
use std::sync::Arc;

use super::group::Standing;
use super::hub::Hub;
use super::watch_set::WatchSet;
use super::{CompactedAt, SLICE_REVISIONS_MAX};
use crate::mutants::{Mutant, planted};
use crate::proto::mvccpb::Event;
use crate::state::EventBatch;

/// Stale entries that are not worth a pass over the queue.
const STALE_MIN: usize = 64;

/// A stream's watchers that read history.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    /// (id, serial), whose turn it is first. An entry whose watcher is gone or synced is stale and skipped.
    queue: VecDeque<(i64, u64)>,
    slice: Option<Slice>,
}

/// A stretch of the history.
#[derive(Debug)]
struct Slice {
    /// `batches` is complete for revisions in `from..=to`.
    from: i64,
    to: i64,
    /// What was published when it was read.
    up_to: i64,
    batches: Vec<Arc<EventBatch>>,
    changes: usize,
    /// The compaction mark when it was read.
    compacted: i64,
    /// Entries of the queue that have not been offered it.
    left: usize,
}

/// What one step of catching up came to.
#[derive(Debug)]
pub(super) enum Step {
    /// Nobody needs it.
    Idle,
    /// It moved on, at a cost in changes looked at.
    Moved(usize),
    /// These events go to the watcher at this place; `revision` was published.
    Events { at: (usize, usize), events: Vec<Event>, revision: i64, changes: usize },
    /// The history a watcher needs is gone; it has to be cancelled.
    Compacted { id: i64, mark: CompactedAt },
}

impl CatchUp {
    /// Gives a watcher its turns, from now on.
    pub fn push(&mut self, id: i64, serial: u64) {
        self.queue.push_back((id, serial));
    }

    /// Drops stale entries when they outnumber the others, so that watches opened and cancelled in turn do not pile up.
    pub fn shed(&mut self, set: &WatchSet) {
        if self.queue.len() > 2 * set.unsynced() + STALE_MIN {
            self.queue.retain(|&(id, serial)| is_waiting(set, id, serial));
        }
    }

    /// How many entries stand in the queue.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Serves the next in turn. Numbers of subscriptions whose group holds news for a watcher that caught up go to
    /// `news`.
    pub fn step(&mut self, hub: &Hub, set: &mut WatchSet, news: &mut VecDeque<usize>) -> Step {
        match &mut self.slice {
            Some(slice) if slice.left > 0 => slice.left -= 1,
            _ => match self.read(hub, set) {
                Ok(true) => {}
                Ok(false) => return if self.queue.is_empty() { Step::Idle } else { Step::Moved(1) },
                Err((id, mark)) => {
                    self.queue.pop_front();
                    return Step::Compacted { id, mark };
                }
            },
        }
        let (Some(slice), Some((id, serial))) = (&self.slice, self.queue.pop_front()) else { return Step::Moved(1) };
        let Some((number, place)) = set.place(id) else { return Step::Moved(1) };
        let subscription = &mut set.subscriptions[number];
        let watcher = &mut subscription.watchers[place];
        if watcher.serial != serial || watcher.synced {
            return Step::Moved(1);
        }
        let mut events = Vec::new();
        let mut changes = 1;
        if (slice.from..=slice.to).contains(&watcher.next) {
            let first = slice.batches.partition_point(|batch| batch.revision < watcher.next);
            for batch in &slice.batches[first..] {
                watcher.pick(batch, slice.compacted, |key| subscription.group.range.contains(key), &mut events);
            }
            changes += slice.changes;
            watcher.next = slice.to + 1;
            if planted(Mutant::DuplicateEvent) && watcher.progress_from == slice.from && slice.from < slice.to {
                watcher.next = slice.to;
            }
        }
        let revision = slice.up_to;
        let standing =
            if watcher.next > slice.up_to { subscription.group.standing(watcher.next) } else { Standing::Behind };
        if standing == Standing::Behind {
            self.queue.push_back((id, serial));
        } else {
            watcher.synced = true;
            if standing == Standing::HasNews {
                subscription.seen = subscription.seen.min(watcher.next - 1);
                news.push_back(number);
            }
            set.count_synced(1);
        }
        if events.is_empty() {
            Step::Moved(changes)
        } else {
            Step::Events { at: (number, place), events, revision, changes }
        }
    }

    /// Reads the slice that the first in the queue needs; false when that one is stale, and was dropped, or there is none.
    fn read(&mut self, hub: &Hub, set: &WatchSet) -> Result<bool, (i64, CompactedAt)> {
        self.slice = None;
        let Some(&(id, serial)) = self.queue.front() else { return Ok(false) };
        let Some(watcher) = set.get(id).filter(|_| is_waiting(set, id, serial)) else {
            self.queue.pop_front();
            return Ok(false);
        };
        let up_to = hub.published();
        let compacted = hub.history.compact_revision();
        let from = watcher.next;
        let batches = if from > up_to {
            Vec::new()
        } else {
            hub.history
                .history(from - 1, up_to, SLICE_REVISIONS_MAX, hub.options.slice_bytes_max)
                .or_else(|mark| if planted(Mutant::SlowSkips) { Ok(Vec::new()) } else { Err(mark) })
                .map_err(|mark| (id, mark))?
        };
        let to = batches.last().map_or(up_to, |last| last.revision);
        let changes = batches.iter().map(|batch| batch.changes.len()).sum();
        self.slice = Some(Slice { from, to, up_to, batches, changes, compacted, left: self.queue.len() - 1 });
        Ok(true)
    }
}

/// Whether an entry of the queue is not stale.
fn is_waiting(set: &WatchSet, id: i64, serial: u64) -> bool {
    set.get(id).is_some_and(|watcher| watcher.serial == serial && !watcher.synced)
}
