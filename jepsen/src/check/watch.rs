//! What etcd promises of a watch, against the order of changes.
//!
//! Ordered, unique, complete from its start (also when it continues another one), whole revisions at once, filters and
//! ranges respected, previous key-values right, nothing before its start, progress that is true and never taken back,
//! and cancelled, not skipped, when what it needs is compacted.

use std::collections::HashMap;
use std::rc::Rc;

use super::finding::Finding;
use crate::history::op::{Op, Request};
use crate::history::stream::{Ended, Entry, Event, Log, Message, Stream, show};
use crate::model::Store;

/// What decides which events a watch wants: key, end, no puts, no deletions.
type Wishes<'a> = (&'a str, Option<&'a str>, bool, bool);

/// Judges all streams.
pub fn check(streams: &[Stream], ops: &[Op], log: &Log) -> Finding {
    check_on(&Store::of(log), streams, ops, log)
}

/// The same for whoever asks often: the store is what the log comes to.
pub fn check_on(store: &Store, streams: &[Stream], ops: &[Op], log: &Log) -> Finding {
    let mut finding = Finding::new("watch");
    // A reader that resumes often has many streams with the same expectations.
    let mut cached: HashMap<Wishes, Rc<Vec<&Entry>>> = HashMap::new();
    for stream in streams {
        let watch = &stream.watch;
        let wanted = |entry: &&Entry| entry.events.iter().any(|event| watch.wants(event));
        let key = (watch.key.as_str(), watch.end.as_deref(), watch.no_put, watch.no_delete);
        let expected = || Rc::new(log.entries.values().filter(wanted).collect());
        let expected = cached.entry(key).or_insert_with(expected).clone();
        Run { stream, ops, log, store, expected, cursor: 0, start: 0, last: 0, promised: 0, finding: &mut finding }
            .judge();
    }
    finding
}

/// The newest compaction that a member had answered before a moment. Another one may not know of it yet: a watch is not
/// linearizable.
pub fn compacted_before(ops: &[Op], node: u32, moment: u64) -> i64 {
    let answered = |op: &&Op| op.node == node && op.reply().is_some() && op.end < moment;
    ops.iter().filter(answered).filter_map(compaction).max().unwrap_or(0)
}

/// The newest compaction that may have happened before a moment.
pub fn compacted_perhaps(ops: &[Op], moment: u64) -> i64 {
    ops.iter().filter(|op| !op.is_refused() && op.start < moment).filter_map(compaction).max().unwrap_or(0)
}

fn compaction(op: &Op) -> Option<i64> {
    match op.request {
        Request::Compact(revision) => Some(revision),
        _ => None,
    }
}

struct Run<'a> {
    stream: &'a Stream,
    ops: &'a [Op],
    log: &'a Log,
    store: &'a Store,
    /// Revisions with something for this stream.
    expected: Rc<Vec<&'a Entry>>,
    /// The first of them that was not yet shown.
    cursor: usize,
    start: i64,
    /// The newest revision shown.
    last: i64,
    /// The newest revision that progress promised to be complete.
    promised: i64,
    finding: &'a mut Finding,
}

impl Run<'_> {
    fn judge(mut self) {
        // etcd's progress answers may overtake the creation, for they come from another queue.
        let overtaking = self.stream.messages.iter().take_while(|message| message.is_progress()).count();
        let Some((first, rest)) = self.stream.messages[overtaking..].split_first() else {
            return self.ends();
        };
        if !first.created {
            self.wrong("not-created", format!("its first message is {first:?}"));
        }
        self.start = match self.stream.watch.start_revision {
            0 => first.rev + 1,
            start => start,
        };
        self.cursor = self.expected.partition_point(|entry| entry.rev < self.start);
        let mut response: Vec<&Event> = Vec::new();
        // The creation may carry a cancellation; nothing else comes with it.
        for message in std::iter::once(first).chain(rest) {
            response.extend(&message.events);
            if message.fragment {
                continue;
            }
            if !response.is_empty() {
                self.response(&std::mem::take(&mut response), message);
            } else if message.is_progress() {
                self.progress(message.rev);
            }
            if message.canceled {
                self.canceled(message);
            }
        }
        self.ends();
    }

    fn wrong(&mut self, name: &str, text: String) {
        self.finding.wrong_stream(name, text, self.stream.id);
    }

    /// One response: whole revisions, each in its turn.
    fn response(&mut self, events: &[&Event], message: &Message) {
        self.finding.checked += events.len() as u64;
        for revision in events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision) {
            self.revision(revision[0].kv.mod_revision, revision, message);
        }
        if message.rev < self.last {
            self.wrong("old-header", format!("a response of revision {} has the header {}", self.last, message.rev));
        }
    }

    fn revision(&mut self, revision: i64, events: &[&Event], message: &Message) {
        if revision < self.start {
            return self.wrong("early-event", format!("revision {revision} came, it starts at {}", self.start));
        }
        if revision <= self.last {
            let name = if revision == self.last { "duplicate-event" } else { "reordered" };
            return self.wrong(name, format!("revision {revision} came after {}", self.last));
        }
        if revision <= self.promised {
            self.wrong("false-progress", format!("revision {revision} came after progress {}", self.promised));
        }
        if revision > self.log.head() {
            return self.finding.undecided(format!("revision {revision} is behind the log's end"));
        }
        let at = self.expected.partition_point(|entry| entry.rev < revision);
        if at > self.cursor {
            let missed = self.expected[self.cursor].rev;
            self.wrong("skipped-event", format!("revision {missed} was left out before {revision}"));
        }
        (self.cursor, self.last) = (at, revision);
        let Some(entry) = self.expected.get(at).filter(|entry| entry.rev == revision) else {
            let sent: Vec<Event> = events.iter().map(|event| (*event).clone()).collect();
            return self
                .wrong("unwanted-event", format!("revision {revision} has nothing for it, it got {}", show(&sent)));
        };
        self.cursor = at + 1;
        let wanted: Vec<&Event> = entry.events.iter().filter(|event| self.stream.watch.wants(event)).collect();
        let same = |(a, b): (&&Event, &&Event)| a.kv == b.kv && a.deleted == b.deleted;
        if wanted.len() != events.len() || !wanted.iter().zip(events).all(same) {
            let name = if wanted.len() > events.len() { "torn-revision" } else { "wrong-event" };
            let text =
                format!("revision {revision} has {} events for it, {} came or differ", wanted.len(), events.len());
            return self.wrong(name, text);
        }
        events.iter().for_each(|event| self.previous(revision, event, message));
    }

    fn previous(&mut self, revision: i64, event: &Event, message: &Message) {
        let before = self.store.get(&event.kv.key, revision - 1);
        let right = match (&event.prev, before) {
            (Some(prev), before) => self.stream.watch.prev_kv && before == Some(prev),
            (None, None) => true,
            // What was there before may be compacted by the time that it is sent.
            (None, Some(_)) => !self.stream.watch.prev_kv || compacted_perhaps(self.ops, message.t) >= revision,
        };
        if !right {
            let text = format!("revision {revision}: {} was {:?} before, not {before:?}", event.kv.key, event.prev);
            self.wrong("wrong-prev", text);
        }
    }

    fn progress(&mut self, revision: i64) {
        self.finding.checked += 1;
        if let Some(missed) = self.expected.get(self.cursor).filter(|entry| entry.rev <= revision) {
            let missed = missed.rev;
            self.wrong("false-progress", format!("progress {revision}, but revision {missed} had not come"));
            // Said once; what comes late is told apart from what is skipped by the promise.
        }
        if revision < self.last {
            self.wrong("progress-went-back", format!("progress {revision} after revision {}", self.last));
        }
        self.promised = self.promised.max(revision);
    }

    /// A compaction must really be in the way of what comes next.
    fn canceled(&mut self, message: &Message) {
        let compacted = message.compact_revision;
        if compacted == 0 {
            return;
        }
        let next = self.last.max(self.promised).max(self.start - 1) + 1;
        if next >= compacted {
            self.wrong("false-cancel", format!("it needs revision {next}, compacted is {compacted}"));
        }
        if compacted > compacted_perhaps(self.ops, message.t) {
            self.wrong("false-cancel", format!("nobody asked to compact {compacted}"));
        }
    }

    fn ends(&mut self) {
        let stream = self.stream;
        let compacted = compacted_before(self.ops, stream.node, stream.opened);
        let start = stream.watch.start_revision;
        let canceled = stream.messages.iter().any(|message| message.canceled);
        let showed = stream.messages.iter().any(|message| !message.events.is_empty() || message.is_progress());
        if start > 0 && start < compacted && !canceled && (showed || stream.settled.is_some()) {
            self.wrong("not-canceled", format!("it starts at {start}, {compacted} was compacted before"));
        }
        if let Some(settled) = stream.settled {
            if let Some(missed) =
                self.expected.get(self.cursor).filter(|entry| entry.rev <= settled && entry.rev >= self.start)
            {
                let missed = missed.rev;
                self.wrong("missing-event", format!("revision {missed} never came, all up to {settled} had to"));
            }
        } else if let Ended::Broken(why) = &stream.ended
            && why.starts_with("behind")
        {
            self.finding.undecided(format!("stream {}: {why}", stream.id));
        }
    }
}
