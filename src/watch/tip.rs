//! Synced watchers of one stream: what their groups hold for them is sent, group after group.
//!
//! Responses are made one at a time, when the client has room for one. Meanwhile the stream holds the entries of one
//! group, within the limits of a slice.

use std::collections::VecDeque;

use tonic::Status;

use super::SLICE_REVISIONS_MAX;
use super::catch_up::CatchUp;
use super::group::{Inbox, Taken};
use super::hub::Hub;
use super::watch_set::WatchSet;
use crate::mutants::{Mutant, planted};
use crate::proto::mvccpb::Event;

/// Revisions that a planted bug sends again.
const REPLAYED: i64 = 20;
/// Watchers looked at in one step when none has anything to send.
const WATCHERS_PER_STEP: usize = 64;

/// The walk through a stream's groups with news.
#[derive(Debug, Default)]
pub(super) struct Tip {
    /// Subscriptions to visit; a number may be stale or come twice, then a visit finds nothing.
    pub todo: VecDeque<usize>,
    visit: Option<Visit>,
    /// What was published when `todo` was last filled from the inbox.
    round: i64,
    /// Every synced watcher was sent all its events up to this revision.
    covered: i64,
}

/// Entries taken from one group, on their way to its watchers.
#[derive(Debug)]
struct Visit {
    number: usize,
    /// The subscription's.
    serial: u64,
    taken: Taken,
    /// Watchers with a place below this one have not been served. Counted downwards, so that one that is removed, and
    /// replaced by the last, hides nobody.
    left: usize,
}

/// What one step came to.
#[derive(Debug)]
pub(super) enum Step {
    /// No group has news; every synced watcher has all up to this revision.
    Idle(i64),
    /// It moved on.
    Moved,
    /// These events go to the watcher at this place; `revision` is one that the state shows, not before theirs.
    Events { at: (usize, usize), events: Vec<Event>, revision: i64 },
}

impl Tip {
    /// Serves the next watcher.
    ///
    /// # Errors
    /// The status the stream has to end with.
    pub fn step(
        &mut self,
        hub: &Hub,
        inbox: &Inbox,
        set: &mut WatchSet,
        catch_up: &mut CatchUp,
    ) -> Result<Step, Status> {
        if self.visit.is_none() && self.todo.is_empty() {
            // In this order: what was published before the inbox was found empty has been sent.
            self.round = hub.published();
            inbox.take(&mut self.todo)?;
        }
        if self.visit.is_none() {
            let Some(number) = self.todo.pop_front() else {
                self.covered = self.round;
                return Ok(Step::Idle(self.covered));
            };
            self.visit = Self::open(number, hub, set);
        }
        Ok(self.serve(set, catch_up))
    }

    fn open(number: usize, hub: &Hub, set: &mut WatchSet) -> Option<Visit> {
        let subscription = set.subscriptions.get_mut(number)?;
        let bytes_max = hub.options.slice_bytes_max;
        let taken = subscription.group.take(subscription.place, subscription.seen, SLICE_REVISIONS_MAX, bytes_max);
        subscription.seen = taken.last;
        Some(Visit { number, serial: subscription.serial, taken, left: subscription.watchers.len() })
    }

    fn serve(&mut self, set: &mut WatchSet, catch_up: &mut CatchUp) -> Step {
        let Some(visit) = &mut self.visit else { return Step::Moved };
        let Some(subscription) = set.subscriptions.get_mut(visit.number).filter(|is| is.serial == visit.serial) else {
            self.visit = None;
            return Step::Moved;
        };
        visit.left = visit.left.min(subscription.watchers.len());
        let mut fallen = 0;
        let mut step = Step::Moved;
        for _ in 0..WATCHERS_PER_STEP.min(visit.left) {
            visit.left -= 1;
            let watcher = &mut subscription.watchers[visit.left];
            if !watcher.synced {
                continue;
            }
            if watcher.next <= visit.taken.base {
                watcher.synced = false;
                if planted(Mutant::InstallReplays) {
                    watcher.next = (watcher.next - REPLAYED).max(1);
                }
                catch_up.push(watcher.id, watcher.serial);
                fallen += 1;
                continue;
            }
            if watcher.next <= visit.taken.after {
                // It caught up since these were taken and needs older ones, too: the visit it asked for brings both.
                continue;
            }
            let events = watcher.advance(&visit.taken.entries, visit.taken.last);
            if !events.is_empty() {
                let revision = self.round.max(visit.taken.last);
                step = Step::Events { at: (visit.number, visit.left), events, revision };
                break;
            }
        }
        if fallen > 0 {
            set.count_unsynced(fallen);
        }
        if visit.left == 0 {
            if visit.taken.more {
                self.todo.push_back(visit.number);
            }
            self.visit = None;
        }
        step
    }
}
