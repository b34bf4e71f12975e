//! One watch: a cursor, what its client asked for, and the responses made of it.

use prost::Message;

use super::group::Entry;
use crate::mutants::{Mutant, planted};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::event::EventType;
use crate::state::{Change, ChangeKind, EventBatch};

/// One watch of one stream.
#[derive(Debug)]
pub(super) struct Watcher {
    pub id: i64,
    /// Tells this watcher from an earlier one with the same id.
    pub serial: u64,
    /// Every event of its range before this revision was sent or is not wanted; none from it on was sent.
    pub next: i64,
    /// The group keeps, or will be given, all from `next` on. Otherwise the watcher stands in the stream's catch-up.
    pub synced: bool,
    /// No progress below this revision is told to it: the start asked for, or what the created response said.
    pub progress_from: i64,
    pub progress: Progress,
    prev_kv: bool,
    fragment: bool,
    no_put: bool,
    no_delete: bool,
}

/// Whether a watcher is told of progress at the next tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It did not ask for it.
    Never,
    /// It did.
    Due,
    /// It did, but had events since the last tick.
    Skipped,
}

impl Watcher {
    pub fn new(request: &pb::WatchCreateRequest, id: i64, serial: u64, revision: i64) -> Self {
        let (next, progress_from) = match request.start_revision {
            0 => (revision + 1, revision),
            start => (start, start),
        };
        let filtered = |filter: FilterType| request.filters.contains(&i32::from(filter));
        Self {
            id,
            serial,
            next,
            synced: next > revision,
            progress_from,
            progress: if request.progress_notify { Progress::Due } else { Progress::Never },
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            no_put: filtered(FilterType::Noput),
            no_delete: filtered(FilterType::Nodelete),
        }
    }

    /// The events of a group's entries from `next` on; moves the cursor behind `last`, up to which they are complete.
    pub fn advance(&mut self, entries: &[Entry], last: i64) -> Vec<Event> {
        let mut events = Vec::new();
        let first = entries.partition_point(|entry| entry.batch.revision < self.next);
        for Entry { batch, matched, .. } in &entries[first..] {
            match matched {
                None => events.extend(batch.changes.iter().filter_map(|change| self.event(change, true))),
                Some(places) => {
                    let changes = places.iter().map(|&place| &batch.changes[place as usize]);
                    events.extend(changes.filter_map(|change| self.event(change, true)));
                }
            }
        }
        self.next = self.next.max(last + 1);
        events
    }

    /// The events among a batch of the history that `wanted` picks. At the compaction mark there are no previous values,
    /// as in etcd, where they would have to be read one revision earlier.
    pub fn pick(&self, batch: &EventBatch, compacted: i64, wanted: impl Fn(&[u8]) -> bool, events: &mut Vec<Event>) {
        let changes = batch.changes.iter().filter(|change| wanted(change.record.key()));
        events.extend(changes.filter_map(|change| self.event(change, batch.revision > compacted)));
    }

    fn event(&self, change: &Change, previous_kept: bool) -> Option<Event> {
        let kind = match change.kind {
            ChangeKind::Put if self.no_put && !planted(Mutant::FilterForgotten) => return None,
            ChangeKind::Delete if self.no_delete && !planted(Mutant::FilterForgotten) => return None,
            ChangeKind::Put => EventType::Put,
            ChangeKind::Delete => EventType::Delete,
        };
        let previous = change.previous.as_ref().filter(|_| self.prev_kv && previous_kept);
        let prev_kv =
            previous.map(|previous| if planted(Mutant::WrongPrev) { &change.record } else { previous }).cloned();
        Some(Event { r#type: kind.into(), kv: Some(change.record.clone()), prev_kv })
    }

    /// Makes a response of events, or several for a watcher that asked for fragments, each below `fragment_bytes`
    /// where events allow it. Gives the last one back and the others to `before`.
    pub fn respond(
        &self,
        header: pb::ResponseHeader,
        events: Vec<Event>,
        fragment_bytes: usize,
        mut before: impl FnMut(pb::WatchResponse),
    ) -> pb::WatchResponse {
        let mut response =
            pb::WatchResponse { header: Some(header), watch_id: self.id, events, ..pb::WatchResponse::default() };
        if !self.fragment || response.events.len() < 2 || response.encoded_len() < fragment_bytes {
            return response;
        }
        let events = std::mem::take(&mut response.events);
        response.fragment = true;
        let envelope = response.encoded_len();
        let mut bytes = envelope;
        for event in events {
            let event_bytes = prost::encoding::message::encoded_len(EVENTS, &event);
            if !response.events.is_empty() && bytes + event_bytes >= fragment_bytes {
                let rest =
                    pb::WatchResponse { header: Some(header), watch_id: self.id, fragment: true, ..Default::default() };
                before(std::mem::replace(&mut response, rest));
                bytes = envelope;
            }
            bytes += event_bytes;
            response.events.push(event);
        }
        response.fragment = false;
        response
    }
}

/// The field number of `WatchResponse.events`.
const EVENTS: u32 = 11;
