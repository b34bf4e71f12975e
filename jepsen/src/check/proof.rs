//! The proof that checkers find what they are for: simulated histories are valid, and each planted bug makes them
//! invalid, under the checkers that must see it, with many seeds.

use super::finding::{Finding, Judgement};
use super::judge::{judge, worst};
use crate::history::files::{Fault, History};
use crate::history::op::{Failure, Member, Op, Outcome, Reply, Request};
use crate::history::stream::{Ended, Entry, Event, Message, Stream};
use crate::rng::Rng;
use crate::simulate::{Bug, Options, simulate};
use crate::workload::Kind;

/// Seeds of each case.
const SEEDS: u64 = 8;
/// Operations of a history.
const OPS: usize = 1200;

fn shown(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

#[test]
fn histories_without_a_bug_are_valid() {
    for kind in Kind::ALL {
        for seed in 0..SEEDS {
            let (history, struck) = simulate(Options::new(kind, seed, OPS));
            let findings = judge(&history);
            assert_eq!((worst(&findings), struck), (Judgement::Valid, 0), "{kind:?} seed {seed}\n{}", shown(&findings));
            assert!(findings.iter().any(|finding| finding.checked > 100), "{kind:?} seed {seed}: nothing was checked");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let options = Options::new(Kind::Kubernetes, 3, 300);
    assert_eq!(simulate(options).0, simulate(options).0);
}

/// Plants a bug; each named checker must find it whenever it struck `needed` times.
fn planted(kind: Kind, bug: Bug, needed: u64, checkers: &[&str]) {
    let mut struck_at_all = 0;
    for seed in 100..100 + SEEDS {
        let (history, struck) = simulate(Options { bug: Some(bug), ..Options::new(kind, seed, OPS) });
        if struck < needed {
            continue;
        }
        struck_at_all += 1;
        let findings = judge(&history);
        for checker in checkers {
            let finding = findings.iter().find(|finding| finding.checker == *checker).expect("it judges this workload");
            let found = finding.judgement == Judgement::Invalid;
            assert!(found, "{checker} missed {bug:?} in {kind:?}, seed {seed}, {struck} times\n{}", shown(&findings));
        }
    }
    assert!(struck_at_all >= SEEDS / 2, "{bug:?} hardly ever struck in {kind:?}");
}

#[test]
fn registers_with_a_bug_are_invalid_by_revisions_and_by_search() {
    for bug in [Bug::LostWrite, Bug::StaleRead, Bug::IgnoredGuard] {
        planted(Kind::Register, bug, 3, &["revisions", "search"]);
    }
    planted(Kind::Register, Bug::WrongRead, 3, &["revisions", "search"]);
    planted(Kind::Register, Bug::Phantom, 3, &["revisions", "search"]);
    planted(Kind::Register, Bug::RefusedButApplied, 1, &["revisions"]);
    planted(Kind::Register, Bug::RevisionReused, 1, &["revisions"]);
    planted(Kind::Register, Bug::AppliedTwice, 1, &["revisions"]);
}

#[test]
fn lists_with_a_bug_are_invalid_by_revisions_and_by_cycles() {
    for bug in [Bug::LostWrite, Bug::StaleRead, Bug::WrongRead, Bug::HalfTransaction, Bug::IgnoredGuard] {
        planted(Kind::Append, bug, 3, &["revisions", "append"]);
    }
    for bug in [Bug::RevisionReused, Bug::Phantom, Bug::AppliedTwice] {
        planted(Kind::Append, bug, 1, &["revisions"]);
    }
}

#[test]
fn blind_writes_with_a_bug_are_invalid_by_revisions_and_by_cycles() {
    for bug in [Bug::LostWrite, Bug::StaleRead, Bug::WrongRead, Bug::Phantom, Bug::HalfTransaction] {
        planted(Kind::Wr, bug, 3, &["revisions", "wr"]);
    }
    for bug in [Bug::RevisionReused, Bug::AppliedTwice] {
        planted(Kind::Wr, bug, 1, &["revisions"]);
    }
}

#[test]
fn sets_with_a_bug_are_invalid() {
    planted(Kind::Set, Bug::LostWrite, 3, &["revisions", "set-full"]);
    planted(Kind::Set, Bug::IgnoredGuard, 3, &["revisions", "set-full"]);
    planted(Kind::Set, Bug::RefusedButApplied, 1, &["revisions", "set-full"]);
    planted(Kind::Set, Bug::StaleRead, 3, &["revisions"]);
}

#[test]
fn totals_with_a_bug_are_invalid() {
    planted(Kind::Bank, Bug::HalfTransaction, 1, &["revisions", "bank"]);
    planted(Kind::Bank, Bug::IgnoredGuard, 3, &["revisions", "bank"]);
    planted(Kind::Counter, Bug::LostWrite, 3, &["revisions", "counter"]);
    planted(Kind::Counter, Bug::IgnoredGuard, 3, &["revisions", "counter"]);
}

#[test]
fn leases_with_a_bug_are_invalid() {
    for bug in [Bug::EarlyLease, Bug::LateLease, Bug::LeaseInParts, Bug::FrozenTtl, Bug::LeaseBack] {
        planted(Kind::Lease, bug, 1, &["lease"]);
    }
}

#[test]
fn locks_whose_fence_is_ignored_are_invalid() {
    planted(Kind::Lock, Bug::LostWrite, 3, &["revisions", "fenced-set"]);
    // Two holders that both add: beliefs and fences must both tell.
    for seed in 0..SEEDS {
        let (mut history, _) = simulate(Options::new(Kind::Election, seed, OPS));
        let mut holds: Vec<&mut Op> =
            history.ops.iter_mut().filter(|op| matches!(op.request, Request::Hold(..))).collect();
        let (first, second) = holds.split_at_mut(1);
        second[0].start = first[0].start + 1;
        let findings = judge(&history);
        assert!(findings.iter().any(|finding| finding.has("two-holders")), "{}", shown(&findings));
        let put = history.entries.iter().find_map(|entry| {
            let event = entry.events.iter().find(|event| event.kv.key.starts_with(crate::workload::lock::ELEMENTS))?;
            Some((entry.rev, event.kv.key.clone()))
        });
        let (rev, key) = put.expect("somebody added");
        let entry = history.entries.iter_mut().find(|entry| entry.rev == rev).unwrap();
        entry.events[0].kv.value = "election/ffff".into();
        assert!(judge(&history).iter().any(|finding| finding.has("fence-broken")), "{key}");
    }
}

type Mutation = fn(&mut Stream, &mut Rng) -> bool;

fn with_events(stream: &mut Stream, at_least: usize, rng: &mut Rng) -> Option<usize> {
    let long: Vec<usize> = (0..stream.messages.len())
        .filter(|at| stream.messages[*at].events.len() >= at_least && !stream.messages[*at].fragment)
        .collect();
    (!long.is_empty()).then(|| *rng.pick(&long))
}

/// Every way a stream can go wrong, and the anomaly that names it (empty = any).
const MUTATIONS: [(&str, &str, Mutation); 13] = [
    ("duplicated event", "duplicate-event", |stream, rng| {
        let Some(at) = with_events(stream, 1, rng) else { return false };
        let again =
            Message { events: vec![stream.messages[at].events.last().unwrap().clone()], ..stream.messages[at].clone() };
        stream.messages.insert(at + 1, again);
        true
    }),
    ("skipped revision", "", |stream, rng| {
        let Some(at) = with_events(stream, 1, rng) else { return false };
        let revision = stream.messages[at].events[0].kv.mod_revision;
        stream.messages.iter_mut().for_each(|message| message.events.retain(|event| event.kv.mod_revision != revision));
        true
    }),
    ("torn revision", "torn-revision", |stream, rng| {
        let twin = |message: &Message| {
            message.events.windows(2).position(|two| two[0].kv.mod_revision == two[1].kv.mod_revision)
        };
        let Some(at) = stream.messages.iter().position(|message| twin(message).is_some()) else { return false };
        let place = twin(&stream.messages[at]).unwrap() + rng.below(2) as usize;
        stream.messages[at].events.remove(place);
        true
    }),
    ("reordered events", "", |stream, rng| {
        let Some(at) = with_events(stream, 2, rng) else { return false };
        stream.messages[at].events.reverse();
        true
    }),
    ("changed value", "wrong-event", |stream, rng| {
        let Some(at) = with_events(stream, 1, rng) else { return false };
        stream.messages[at].events[0].kv.value.push('!');
        true
    }),
    ("event of another key", "", |stream, rng| {
        let Some(at) = with_events(stream, 1, rng) else { return false };
        stream.messages[at].events[0].kv.key = "elsewhere".into();
        true
    }),
    ("wrong previous value", "wrong-prev", |stream, rng| {
        let Some(at) = with_events(stream, 1, rng) else { return false };
        let event = stream.messages[at].events.iter_mut().find(|event| event.prev.is_some());
        event.map(|event| event.prev.as_mut().unwrap().version += 1).is_some()
    }),
    ("missing previous value", "wrong-prev", |stream, rng| {
        let Some(at) = with_events(stream, 1, rng) else { return false };
        let event = stream.messages[at].events.iter_mut().find(|event| event.prev.is_some());
        event.map(|event| event.prev = None).is_some()
    }),
    ("progress that lies", "false-progress", |stream, rng| {
        let Some(at) = with_events(stream, 1, rng) else { return false };
        let rev = stream.messages[at].events.last().unwrap().kv.mod_revision;
        stream.messages.insert(at, Message { rev, ..Message::default() });
        true
    }),
    ("progress that goes back", "progress-went-back", |stream, rng| {
        let Some(at) = with_events(stream, 1, rng) else { return false };
        let rev = stream.messages[at].events[0].kv.mod_revision - 1;
        stream.messages.insert(at + 1, Message { rev, ..Message::default() });
        true
    }),
    ("events before the start", "early-event", |stream, _| {
        let late = stream.messages.iter().flat_map(|message| &message.events).map(|event| event.kv.mod_revision).max();
        late.map(|late| stream.watch.start_revision = late)
            .is_some_and(|()| stream.messages.iter().map(|message| message.events.len()).sum::<usize>() > 6)
    }),
    ("nothing at the end", "missing-event", |stream, _| {
        let events = stream.messages.iter().any(|message| !message.events.is_empty());
        stream.messages.truncate(1);
        events && stream.settled.is_some()
    }),
    ("cancelled for no compaction", "false-cancel", |stream, _| {
        let rev = stream.shown();
        stream.messages.push(Message { canceled: true, compact_revision: rev, ..Message::default() });
        rev > 0
    }),
];

#[test]
fn streams_with_a_bug_are_invalid() {
    for (what, name, mutate) in MUTATIONS {
        let mut struck = 0;
        for seed in 0..SEEDS * 2 {
            let mut rng = Rng::new(seed);
            let kind = if seed % 2 == 0 { Kind::Watch } else { Kind::Kubernetes };
            let (mut history, _) = simulate(Options::new(kind, seed / 2, OPS));
            let at = rng.below(history.streams.len() as u64) as usize;
            if !mutate(&mut history.streams[at], &mut rng) {
                continue;
            }
            struck += 1;
            let findings = judge(&history);
            let watch = findings.iter().find(|finding| finding.checker == "watch").expect("there are streams");
            let found = watch.judgement == Judgement::Invalid && (name.is_empty() || watch.has(name));
            assert!(found, "{what}, {kind:?} seed {seed}\n{}", shown(&findings));
        }
        assert!(struck >= 3, "{what} hardly ever struck");
    }
}

#[test]
fn a_stream_that_needs_what_is_compacted_must_be_cancelled() {
    let compacted = |canceled: bool, kind: Kind| {
        let (mut history, _) = simulate(Options { unknown_per_mille: 0, ..Options::new(kind, 1, OPS) });
        let id = 1_000_000;
        let out = Reply { rev: 300, ..Reply::default() };
        let (start, end) = (0, 1);
        let request = Request::Compact(100);
        history.ops.push(Op { id, process: 0, node: 0, start, end, request, outcome: Outcome::Ok { out } });
        let watch = crate::history::stream::Watch {
            key: "w/".into(),
            end: Some("w0".into()),
            start_revision: 50,
            ..Default::default()
        };
        let mut stream = Stream { id: 1, opened: 5, watch, ..Stream::default() };
        stream.messages.push(Message { t: 6, rev: 300, created: true, ..Message::default() });
        if canceled {
            stream.messages.push(Message { t: 7, canceled: true, compact_revision: 100, ..Message::default() });
            stream.ended = Ended::Canceled;
        } else {
            let later = history.entries.iter().find(|entry| entry.rev > 100).unwrap();
            stream.messages.push(Message { t: 7, rev: later.rev, events: later.events.clone(), ..Message::default() });
        }
        history.streams = vec![stream];
        judge(&history)
    };
    assert_eq!(worst(&compacted(true, Kind::Watch)), Judgement::Valid);
    let findings = compacted(false, Kind::Watch);
    assert!(findings.iter().any(|finding| finding.has("not-canceled")), "{}", shown(&findings));
}

#[test]
fn a_cache_that_misses_an_event_or_began_with_a_wrong_list_is_found() {
    let mut found = (0, 0);
    for seed in 0..SEEDS {
        let (history, _) = simulate(Options::new(Kind::Kubernetes, seed, OPS));
        let listed =
            history.streams.iter().position(|stream| stream.listing.as_ref().is_some_and(|list| list.kvs.len() > 1));
        if let Some(at) = listed {
            let mut wrong = history.clone();
            wrong.streams[at].listing.as_mut().unwrap().kvs.pop();
            found.0 += usize::from(judge(&wrong).iter().any(|finding| finding.has("cache-differs")));
        }
        let deleting =
            |stream: &Stream| stream.messages.iter().any(|message| message.events.iter().any(|event| event.deleted));
        if let Some(at) = history.streams.iter().position(deleting) {
            let mut wrong = history.clone();
            wrong.streams[at].messages.iter_mut().for_each(|message| message.events.retain(|event| !event.deleted));
            found.1 += usize::from(
                judge(&wrong)
                    .iter()
                    .any(|finding| finding.checker == "watch" && finding.judgement == Judgement::Invalid),
            );
        }
    }
    assert_eq!(found, (SEEDS as usize, SEEDS as usize));
}

fn history_of(ops: Vec<Op>, faults: Vec<Fault>) -> History {
    History { ops, faults, ..History::default() }
}

fn status(id: u64, node: u32, term: u64, leader: &str, rev: i64, applied: u64) -> Op {
    let member = Member { term, member: leader.into(), leader: leader.into(), applied, ..Member::default() };
    let out = Reply { rev, member: Some(Box::new(member)), ..Reply::default() };
    let outcome = Outcome::Ok { out };
    Op { id, process: node, node, start: id * 10, end: id * 10 + 5, request: Request::Status, outcome }
}

#[test]
fn members_that_contradict_themselves_or_each_other_are_found() {
    let names = |ops: Vec<Op>, faults: Vec<Fault>| -> Vec<String> {
        let finding = super::members::check(&history_of(ops, faults.clone()).ops, &faults);
        finding.anomalies.into_iter().map(|anomaly| anomaly.name).collect()
    };
    let good = vec![status(1, 0, 2, "7", 5, 9), status(2, 1, 2, "7", 4, 8), status(3, 0, 3, "8", 6, 11)];
    assert_eq!(names(good, vec![]), Vec::<String>::new());
    let sevens = [status(1, 0, 2, "7", 5, 9), status(2, 0, 2, "7", 5, 10), status(3, 1, 2, "8", 5, 9)];
    assert_eq!(names(sevens.to_vec(), vec![]), Vec::<String>::new(), "once it may be a mixture");
    assert_eq!(names([&sevens[..], &[status(4, 1, 2, "8", 5, 10)]].concat(), vec![]), ["two-leaders"]);
    assert_eq!(names(vec![status(1, 0, 3, "7", 5, 9), status(2, 0, 2, "8", 5, 9)], vec![]), ["went-back"]);
    let back = vec![status(1, 0, 2, "7", 5, 9), status(2, 0, 2, "7", 4, 8)];
    assert_eq!(names(back.clone(), vec![]), ["went-back"]);
    let kill = Fault {
        name: "kill".into(),
        nodes: vec![0],
        start: 12,
        end: 18,
        evidence: "pid".into(),
        effect: 1,
        ..Fault::default()
    };
    assert_eq!(names(back, vec![kill]), Vec::<String>::new());
    let hash = |id, node, hash, compact_revision| {
        let member = Member { hash, hash_revision: 9, compact_revision, ..Member::default() };
        let out = Reply { rev: 9, member: Some(Box::new(member)), ..Reply::default() };
        Op { request: Request::HashKv(9), outcome: Outcome::Ok { out }, ..status(id, node, 0, "0", 9, 0) }
    };
    assert_eq!(names(vec![hash(1, 0, 5, 1), hash(2, 1, 5, 1), hash(3, 1, 6, 2)], vec![]), Vec::<String>::new());
    assert_eq!(names(vec![hash(1, 0, 5, 1), hash(2, 1, 6, 1)], vec![]), ["hash-differs"]);
}

#[test]
fn members_that_show_different_orders_are_found() {
    let (mut history, _) = simulate(Options::new(Kind::Register, 1, 300));
    let mut other: Vec<Entry> = history.entries.iter().map(|entry| Entry { node: 1, ..entry.clone() }).collect();
    history.entries.append(&mut other.clone());
    assert_eq!(worst(&judge(&history)), Judgement::Valid);
    other[7].events[0].kv.value.push('!');
    history.entries.push(other[7].clone());
    assert!(judge(&history).iter().any(|finding| finding.has("members-disagree")));
    history.entries.retain(|entry| entry.rev != 20);
    assert!(judge(&history).iter().any(|finding| finding.checker == "order" && finding.anomaly_count > 1));
}

#[test]
fn an_unknown_write_is_never_a_reason_and_a_refused_one_always() {
    for seed in 0..SEEDS {
        let (mut history, _) = simulate(Options { unknown_per_mille: 0, ..Options::new(Kind::Register, seed, 400) });
        let writes: Vec<usize> =
            (0..history.ops.len()).filter(|at| matches!(history.ops[*at].request, Request::Put(_))).collect();
        let err = Failure { code: "deadline".into(), msg: "gone".into(), definite: false };
        for at in writes.iter().step_by(3) {
            history.ops[*at].outcome = Outcome::Info { err: err.clone() };
        }
        let findings = judge(&history);
        assert_eq!(worst(&findings), Judgement::Valid, "seed {seed}\n{}", shown(&findings));
        history.ops[writes[0]].outcome = Outcome::Fail { err: Failure { definite: true, ..err } };
        assert!(judge(&history).iter().any(|finding| finding.has("refused-but-applied")), "seed {seed}");
    }
}

#[test]
fn a_store_that_invents_versions_is_found() {
    let (mut history, _) = simulate(Options::new(Kind::Register, 2, 300));
    let event: &mut Event = &mut history.entries[20].events[0];
    event.kv.version += 1;
    event.deleted = false;
    assert!(judge(&history).iter().any(|finding| finding.has("wrong-fields")));
}
