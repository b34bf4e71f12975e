//! What a watch stream was asked for and everything it sent, and the log of changes that follows from one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Key;
use super::op::Kv;

/// One change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// The key-value after it; of a deletion only key and mod revision.
    pub kv: Kv,
    /// A deletion.
    #[serde(rename = "del", skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// The key-value before it, where it was asked for and there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev: Option<Kv>,
}

/// What a watcher was created with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    /// The key, or the first one.
    pub key: Key,
    /// The first key behind the range; `None` = one key.
    pub end: Option<Key>,
    /// 0 = from now on.
    pub start_revision: i64,
    /// Events say what was there before.
    pub prev_kv: bool,
    /// Large responses may be cut.
    pub fragment: bool,
    /// The server tells its progress by itself.
    pub progress_notify: bool,
    /// No puts.
    pub no_put: bool,
    /// No deletions.
    pub no_delete: bool,
}

impl Watch {
    /// Whether a key is in its range.
    pub fn covers(&self, key: &str) -> bool {
        match &self.end {
            None => key == self.key,
            Some(end) => key >= self.key.as_str() && key < end.as_str(),
        }
    }

    /// Whether it wants this event.
    pub fn wants(&self, event: &Event) -> bool {
        let filtered = if event.deleted { self.no_delete } else { self.no_put };
        !filtered && self.covers(&event.kv.key)
    }
}

/// One response on a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    /// Nanoseconds since the run began, when it arrived.
    pub t: u64,
    /// The header's revision.
    pub rev: i64,
    /// The watcher was created.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub created: bool,
    /// The watcher was cancelled,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub canceled: bool,
    /// because of this compaction, unless 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub compact_revision: i64,
    /// The reason in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// More of the same response follows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fragment: bool,
    /// The changes. Neither these nor a mark above: a notification of progress.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
}

impl Message {
    /// Whether it says only that everything up to its revision was sent.
    pub fn is_progress(&self) -> bool {
        self.events.is_empty() && !self.created && !self.canceled && !self.fragment
    }
}

/// A list that a reflector's cache began with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The revision of all its pages.
    pub rev: i64,
    /// What they said.
    pub kvs: Vec<Kv>,
}

/// How a stream ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The client was done with it.
    #[default]
    Closed,
    /// The server cancelled it.
    Canceled,
    /// The connection broke or the stream ended.
    Broken(String),
}

/// One watcher from its creation to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Unique in a history.
    pub id: u64,
    /// The reader; a reader has one stream after the other.
    pub process: u32,
    /// The member.
    pub node: u32,
    /// Nanoseconds since the run began, when it was asked for.
    pub opened: u64,
    /// As it was asked for.
    pub watch: Watch,
    /// The stream of the same reader that this one continues: its start is the revision behind all that one showed.
    pub resumes: Option<u64>,
    /// The cache it keeps up to date, for a reflector.
    pub listing: Option<Listing>,
    /// Everything that came, in order.
    pub messages: Vec<Message>,
    /// At the end of the run the reader waited until everything up to this revision was there or shown to be; `None` =
    /// it did not wait, or in vain.
    pub settled: Option<i64>,
    /// How it ended.
    pub ended: Ended,
}

impl Stream {
    /// The revision up to which everything was shown: of the last whole event or of progress.
    pub fn shown(&self) -> i64 {
        let of = |message: &Message| match message.events.last() {
            Some(event) => event.kv.mod_revision,
            None if message.is_progress() => message.rev,
            None => 0,
        };
        self.messages.iter().map(of).max().unwrap_or(0)
    }
}

/// All changes of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The member that showed it.
    pub node: u32,
    /// The revision.
    pub rev: i64,
    /// Nanoseconds since the run began, when it arrived; the earliest of all members after merging.
    pub t: u64,
    /// The changes, in order.
    pub events: Vec<Event>,
}

/// The order of all changes: what every checker by revision relies on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// By revision; nothing else happened from the first to the last.
    pub entries: BTreeMap<i64, Entry>,
    /// The revision before the first entry. The store was empty then.
    pub base: i64,
}

impl Log {
    /// The newest revision.
    pub fn head(&self) -> i64 {
        self.entries.last_key_value().map_or(self.base, |(rev, _)| *rev)
    }

    /// Merges what the members showed. Says which revisions two of them show differently, and which nobody shows.
    pub fn merge(base: i64, entries: &[Entry]) -> (Self, Vec<String>) {
        let mut log = Self { base, ..Self::default() };
        let mut wrong = Vec::new();
        for entry in entries {
            match log.entries.get_mut(&entry.rev) {
                None => {
                    log.entries.insert(entry.rev, entry.clone());
                }
                Some(known) if known.events == entry.events => known.t = known.t.min(entry.t),
                Some(known) => wrong.push(format!(
                    "revision {} is {} on node {}, but {} on node {}",
                    entry.rev,
                    show(&known.events),
                    known.node,
                    show(&entry.events),
                    entry.node
                )),
            }
        }
        let mut expected = base + 1;
        for rev in log.entries.keys() {
            if *rev > expected {
                wrong.push(format!("no member shows a change at revisions {expected}..{rev}"));
            }
            expected = rev + 1;
        }
        (log, wrong)
    }
}

/// The first revision behind `base` and up to `head` that no member showed.
pub fn first_gap(base: i64, head: i64, entries: &[Entry]) -> Option<i64> {
    let seen: std::collections::BTreeSet<i64> = entries.iter().map(|entry| entry.rev).collect();
    (base + 1..=head).find(|rev| !seen.contains(rev))
}

/// Events for a person.
pub fn show(events: &[Event]) -> String {
    let one = |event: &Event| match event.deleted {
        true => format!("delete {}", event.kv.key),
        false => format!("put {} = {} (version {})", event.kv.key, event.kv.value, event.kv.version),
    };
    match events {
        [] => "nothing".into(),
        _ => events.iter().take(4).map(one).collect::<Vec<_>>().join(", "),
    }
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(node: u32, rev: i64, key: &str) -> Entry {
        let kv = Kv { key: key.into(), mod_revision: rev, ..Kv::default() };
        Entry { node, rev, t: u64::from(node), events: vec![Event { kv, ..Event::default() }] }
    }

    #[test]
    fn members_that_disagree_and_revisions_that_nobody_shows_are_named() {
        let (log, wrong) = Log::merge(1, &[entry(1, 2, "a"), entry(0, 2, "a"), entry(0, 3, "b")]);
        assert_eq!((log.head(), log.entries[&2].t, wrong.len()), (3, 0, 0));
        assert_eq!(Log::merge(1, &[entry(0, 2, "a"), entry(1, 2, "b")]).1.len(), 1);
        assert_eq!(Log::merge(1, &[entry(0, 2, "a"), entry(1, 4, "b")]).1.len(), 1);
    }
}
