//! The smallest piece of a history that still fails: operations are removed as long as the checker finds the same.
//!
//! The same is an anomaly of the same name that shares an operation with the one that was found, or, for a cycle, names
//! just the same operations; without its witnesses (the reads that fix an order, the writes that were read) it is gone.
//!
//! Of watches, whole streams go first, then messages and single events. What is removed leaves gaps that a checker finds,
//! too, so that there the same is an anomaly of the same name on the same stream that says the same.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::finding::{Anomaly, Finding};
use crate::history::op::{Op, Request};
use crate::history::stream::{Message, Stream};
use crate::shrink::greedy;

/// Questions to a checker about one anomaly.
const QUESTIONS_MAX: usize = 3000;
/// No more questions after this.
const TIME_MAX: Duration = Duration::from_secs(8);
/// A larger piece shows nothing: then the anomaly's own operations stand for it.
const PIECE_MAX: usize = 60;

/// Finds the piece of the first anomaly that names operations, and writes it down there.
pub fn find(ops: &[Op], finding: &mut Finding, check: impl Fn(&[Op]) -> Finding) {
    let Some(anomaly) = finding.anomalies.iter_mut().find(|anomaly| !anomaly.operations.is_empty()) else { return };
    let started = Instant::now();
    let mut part: Vec<Op> = ops.iter().filter(|op| !matches!(op.request, Request::Status)).cloned().collect();
    let named: BTreeSet<u64> = anomaly.operations.iter().copied().collect();
    // Statuses matter to the checkers that look at them only.
    if !part.iter().any(|op| named.contains(&op.id)) {
        part = ops.to_vec();
    }
    let fails = |part: &[Op]| {
        // Without the operations that it names it cannot be the same: no need to ask.
        let there: BTreeSet<u64> = part.iter().map(|op| op.id).filter(|id| named.contains(id)).collect();
        let enough = if anomaly.cycle.is_empty() { !there.is_empty() } else { there.len() == named.len() };
        enough && started.elapsed() < TIME_MAX && check(part).anomalies.iter().any(|other| is_same(anomaly, other))
    };
    let piece = match fails(&part) {
        true => greedy(&part, QUESTIONS_MAX, fails),
        false => Vec::new(),
    };
    if piece.len() <= PIECE_MAX {
        anomaly.piece = piece.iter().map(|op| op.id).collect();
    }
}

/// One thing that a stream sent: place of the stream, of the message in it, of the event in that, where it has events.
type Sent = (usize, usize, Option<usize>);

/// Finds what is left of the streams for the first anomaly that names one, and writes it down there.
pub fn find_watched(streams: &[Stream], finding: &mut Finding, check: impl Fn(&[Stream]) -> Finding) {
    let Some(anomaly) = finding.anomalies.iter_mut().find(|anomaly| !anomaly.streams.is_empty()) else { return };
    let started = Instant::now();
    let fails = |part: &[Stream]| {
        let named = anomaly.streams.iter().all(|id| part.iter().any(|stream| stream.id == *id));
        let says = |other: &Anomaly| {
            (&other.name, &other.streams, &other.text) == (&anomaly.name, &anomaly.streams, &anomaly.text)
        };
        named && started.elapsed() < TIME_MAX && check(part).anomalies.iter().any(says)
    };
    // Most checks look at one stream at a time, and a cache also at those that it was kept up to date by before.
    let alone: Vec<Stream> = streams.iter().filter(|stream| anomaly.streams.contains(&stream.id)).cloned().collect();
    let reader = |stream: &&Stream| alone.iter().any(|one| one.process == stream.process);
    let readers: Vec<Stream> = streams.iter().filter(reader).cloned().collect();
    let Some(part) = [&alone[..], &readers, streams].into_iter().find(|part| fails(part)) else { return };
    let part = greedy(part, QUESTIONS_MAX, fails);
    let sent: Vec<Sent> = (0..).zip(&part).flat_map(|(place, stream)| sent(place, stream)).collect();
    let left = greedy(&sent, QUESTIONS_MAX, |sent| fails(&only(&part, sent)));
    if left.len() <= PIECE_MAX {
        anomaly.watched = only(&part, &left);
    }
}

/// What can be removed from a stream: all but its creation.
fn sent(place: usize, stream: &Stream) -> Vec<Sent> {
    let messages = (0..).zip(&stream.messages).filter(|(_, message)| !message.created);
    let events = |(at, message): (usize, &Message)| match message.events.len() {
        0 => vec![(place, at, None)],
        count => (0..count).map(|event| (place, at, Some(event))).collect(),
    };
    messages.flat_map(events).collect()
}

/// The streams with this part, in order, of what they sent.
fn only(streams: &[Stream], sent: &[Sent]) -> Vec<Stream> {
    let mut all = Vec::new();
    for (place, stream) in (0..).zip(streams) {
        let created = stream.messages.iter().filter(|message| message.created);
        let mut messages: Vec<Message> = created.cloned().collect();
        for of in sent.iter().filter(|(of, ..)| *of == place).collect::<Vec<_>>().chunk_by(|a, b| a.1 == b.1) {
            let message = &stream.messages[of[0].1];
            let events = of.iter().filter_map(|(_, _, event)| event.map(|event| message.events[event].clone()));
            messages.push(Message { events: events.collect(), ..message.clone() });
        }
        all.push(Stream { messages, ..stream.clone() });
    }
    all
}

fn is_same(anomaly: &Anomaly, other: &Anomaly) -> bool {
    let ids = |anomaly: &Anomaly| anomaly.operations.iter().copied().collect::<BTreeSet<u64>>();
    let (a, b) = (ids(anomaly), ids(other));
    anomaly.name == other.name && if anomaly.cycle.is_empty() { !a.is_disjoint(&b) } else { a == b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::judge::{explain, judge};
    use crate::simulate::{Bug, Options, simulate};
    use crate::workload::Kind;

    /// The first anomaly with a piece that a checker found in a history with this bug.
    fn piece(kind: Kind, bug: Bug, checker: &str) -> (usize, Anomaly) {
        for seed in 1..20 {
            let (history, _) = simulate(Options { bug: Some(bug), ..Options::new(kind, seed, 600) });
            let mut findings = judge(&history);
            findings.retain(|finding| finding.checker == checker);
            explain(&mut findings, &history);
            let mut found = findings.iter().flat_map(|one| &one.anomalies);
            if let Some(anomaly) = found.find(|one| !one.piece.is_empty()) {
                return (history.ops.len(), anomaly.clone());
            }
        }
        panic!("no piece of {kind:?} with {bug:?}");
    }

    #[test]
    fn of_hundreds_of_operations_a_few_are_left() {
        // A list's order needs the writers of all its elements.
        for (kind, checker, most) in [(Kind::Append, "append", PIECE_MAX), (Kind::Register, "search", 12)] {
            let (all, anomaly) = piece(kind, Bug::StaleRead, checker);
            assert!(all >= 500 && anomaly.piece.len() <= most, "{checker}: {} of {all}", anomaly.piece.len());
            let shared = anomaly.operations.iter().filter(|id| anomaly.piece.contains(id)).count();
            assert!(shared > 0, "{checker}: {anomaly:?}");
        }
    }

    /// What is left of the streams of a history in which this happens to some of them, for what this checker finds first.
    fn watched(kind: Kind, checker: &str, plant: impl Fn(&mut Stream) -> bool) -> (usize, Anomaly) {
        let (mut history, _) = simulate(Options::new(kind, 3, 600));
        assert!(history.streams.iter_mut().any(plant), "nothing to plant it in");
        let mut findings = judge(&history);
        findings.retain(|finding| finding.checker == checker);
        explain(&mut findings, &history);
        let all = history.streams.iter().flat_map(|stream| &stream.messages);
        (all.map(|message| message.events.len()).sum(), findings.remove(0).anomalies.remove(0))
    }

    fn events(anomaly: &Anomaly) -> Vec<i64> {
        let messages = anomaly.watched.iter().flat_map(|stream| &stream.messages);
        messages.flat_map(|message| &message.events).map(|event| event.kv.mod_revision).collect()
    }

    #[test]
    fn of_a_stream_with_a_wrong_value_that_event_is_left() {
        let (all, anomaly) = watched(Kind::Watch, "watch", |stream| {
            let late = stream.messages.iter_mut().flat_map(|message| &mut message.events).nth(20);
            late.map(|event| event.kv.value.push('!')).is_some()
        });
        assert!(all > 1000 && anomaly.name == "wrong-event", "{all}: {anomaly:?}");
        assert_eq!((anomaly.watched.len(), events(&anomaly).len()), (1, 1), "{:?}", anomaly.watched);
        assert!(anomaly.text.contains(&events(&anomaly)[0].to_string()), "{anomaly:?}");
    }

    #[test]
    fn of_a_stream_that_skips_a_revision_its_neighbours_are_left() {
        let (_, anomaly) = watched(Kind::Watch, "watch", |stream| {
            let Some(skipped) = stream.messages.iter().flat_map(|message| &message.events).nth(20) else {
                return false;
            };
            let revision = skipped.kv.mod_revision;
            for message in &mut stream.messages {
                message.events.retain(|event| event.kv.mod_revision != revision);
            }
            stream.messages.retain(|message| !message.events.is_empty() || message.created);
            true
        });
        assert_eq!(anomaly.name, "skipped-event", "{anomaly:?}");
        let revisions: std::collections::BTreeSet<i64> = events(&anomaly).into_iter().collect();
        assert!((1..=2).contains(&revisions.len()), "{revisions:?}: {}", anomaly.text);
        assert!(anomaly.watched[0].messages[0].created);
    }

    #[test]
    fn of_a_cache_with_a_wrong_object_what_it_was_kept_by_is_left() {
        let (all, anomaly) = watched(Kind::Kubernetes, "reflector", |stream| {
            let Some(listing) = &mut stream.listing else { return false };
            listing.kvs.first_mut().map(|kv| kv.value.push('!')).is_some()
        });
        assert_eq!(anomaly.name, "cache-differs", "{anomaly:?}");
        assert_eq!(events(&anomaly).len(), 0, "of {all}: its list alone is wrong");
        assert_eq!(anomaly.watched.len(), 1);
    }

    #[test]
    fn a_cycle_keeps_all_its_operations() {
        let (_, anomaly) = piece(Kind::Append, Bug::StaleRead, "append");
        if !anomaly.cycle.is_empty() {
            assert!(anomaly.operations.iter().all(|id| anomaly.piece.contains(id)), "{anomaly:?}");
        }
    }
}
