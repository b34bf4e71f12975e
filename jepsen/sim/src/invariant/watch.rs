//! A watch of everything shows every revision once, whole, in order, as it was applied.

use std::collections::BTreeMap;

use jepsen::history::stream::{Entry, Event, Message};

use super::{Broken, Held};

/// The order of all changes, and how far each watcher is.
#[derive(Debug, Default)]
pub struct Watches {
    order: BTreeMap<i64, Entry>,
    /// By stream: the next revision that it must show.
    next: BTreeMap<u64, i64>,
}

fn broken(text: String) -> Broken {
    Broken { invariant: "watch", text }
}

impl Watches {
    /// A member applied these changes as one revision.
    ///
    /// # Errors
    /// Another one applied others.
    pub fn applied(&mut self, entry: Entry) -> Held {
        let (node, rev) = (entry.node, entry.rev);
        match self.order.get(&rev) {
            Some(known) if known.events == entry.events => Ok(()),
            Some(known) => Err(broken(format!("revision {rev} is not the same on {node} and {}", known.node))),
            None => {
                self.order.insert(rev, entry);
                Ok(())
            }
        }
    }

    /// The order as far as it is known.
    pub fn order(&self) -> &BTreeMap<i64, Entry> {
        &self.order
    }

    /// A watch of all keys begins at a revision.
    pub fn opened(&mut self, stream: u64, start: i64) {
        self.next.insert(stream, start);
    }

    /// It shows something.
    ///
    /// # Errors
    /// That is not what comes next.
    pub fn shows(&mut self, stream: u64, message: &Message) -> Held {
        let next = self.next.entry(stream).or_insert(1);
        let mut rest = &message.events[..];
        while let Some(first) = rest.first() {
            let rev = first.kv.mod_revision;
            let (whole, later) = rest.split_at(rest.iter().take_while(|event| event.kv.mod_revision == rev).count());
            rest = later;
            if rev != *next {
                return Err(broken(format!("stream {stream} shows revision {rev} where {next} comes next")));
            }
            let known = self.order.get(&rev).map(|entry| &entry.events);
            if known.is_none_or(|events| !same(events, whole)) {
                return Err(broken(format!("stream {stream} shows revision {rev} as {whole:?}, not {known:?}")));
            }
            *next = rev + 1;
        }
        let is_progress = message.is_progress();
        if is_progress && message.rev >= *next {
            return Err(broken(format!("stream {stream} says it is at {}, but has not shown {next}", message.rev)));
        }
        Ok(())
    }
}

/// What was there before is shown only on request.
fn same(applied: &[Event], shown: &[Event]) -> bool {
    applied.len() == shown.len() && applied.iter().zip(shown).all(|(a, b)| a.kv == b.kv && a.deleted == b.deleted)
}

#[cfg(test)]
mod tests {
    use jepsen::history::op::Kv;

    use super::*;

    fn event(key: &str, rev: i64) -> Event {
        Event { kv: Kv { key: key.into(), mod_revision: rev, ..Kv::default() }, ..Event::default() }
    }

    fn message(events: Vec<Event>) -> Message {
        Message { rev: events.last().map_or(0, |event| event.kv.mod_revision), events, ..Message::default() }
    }

    fn watches() -> Watches {
        let mut watches = Watches::default();
        for rev in 2..6 {
            let events = vec![event("a", rev), event("b", rev)];
            watches.applied(Entry { rev, events, ..Entry::default() }).unwrap();
        }
        watches.opened(1, 2);
        watches
    }

    #[test]
    fn a_watch_that_shows_everything_is_as_it_must_be() {
        let mut watches = watches();
        let events = vec![event("a", 2), event("b", 2), event("a", 3), event("b", 3)];
        assert_eq!(watches.shows(1, &message(events)), Ok(()));
        assert_eq!(watches.shows(1, &Message { rev: 3, ..Message::default() }), Ok(()), "progress");
    }

    #[test]
    fn gaps_duplicates_halves_and_false_progress_are_found() {
        assert!(watches().shows(1, &message(vec![event("a", 3), event("b", 3)])).is_err(), "a gap");
        assert!(watches().shows(1, &message(vec![event("a", 2)])).is_err(), "half a revision");
        assert!(watches().shows(1, &message(vec![event("b", 2), event("a", 2)])).is_err(), "another order");
        assert!(watches().shows(1, &Message { rev: 2, ..Message::default() }).is_err(), "progress past what was shown");
        let mut twice = watches();
        let both = message(vec![event("a", 2), event("b", 2)]);
        assert_eq!(twice.shows(1, &both), Ok(()));
        assert!(twice.shows(1, &both).is_err(), "twice");
        let other = Entry { rev: 2, events: vec![event("c", 2)], ..Entry::default() };
        assert!(twice.applied(other).is_err(), "members that differ");
    }
}
