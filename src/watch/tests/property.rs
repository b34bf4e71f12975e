//! Random writes, watchers, readers' paces and compactions, against what each watcher should have been told; and the
//! proof that the check notices what it is for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use prost::Message;

use super::*;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::event::EventType;
use crate::watch::range_index::KeyRange;

const KEYS: [&str; 6] = ["a", "aa", "ab", "b", "c", "d"];
const RANGES: [(&str, &str); 8] =
    [("a", ""), ("b", ""), ("a", "b"), ("a", "\0"), ("", "\0"), ("b", "d"), ("c", ""), ("d", "a")];
const STREAMS: usize = 3;
const FRAGMENT_BYTES: usize = 120;

#[derive(Clone, Debug)]
enum Action {
    /// One revision, applied and not yet published: (put or delete, key).
    Write(Vec<(bool, usize)>),
    /// Hands out what was applied, as one log entry.
    Publish,
    /// A snapshot is installed: the state is ahead, and the batches in between never come. The hub is told at once, or
    /// finds out by the next batch.
    Jump {
        told: bool,
    },
    /// The same, with a compaction mark of its own, which may lie in what the hub was never given.
    Install {
        told: bool,
        back: i64,
    },
    Compact {
        back: i64,
    },
    Create {
        stream: usize,
        range: usize,
        start: i64,
        id: i64,
        flags: u8,
        times: usize,
    },
    Cancel {
        stream: usize,
        nth: usize,
    },
    AskProgress {
        stream: usize,
    },
    Tick {
        stream: usize,
    },
    /// Whoever catches up is next, or who is synced.
    Turn {
        catch_up: bool,
    },
    /// The client has room for so many responses.
    Read {
        stream: usize,
        responses: usize,
    },
    Reconnect {
        stream: usize,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let stream = 0..STREAMS;
    prop_oneof![
        10 => prop::collection::vec((prop::bool::weighted(0.7), 0..KEYS.len()), 1..4).prop_map(Action::Write),
        8 => Just(Action::Publish),
        1 => any::<bool>().prop_map(|told| Action::Jump { told }),
        1 => (any::<bool>(), 0_i64..8).prop_map(|(told, back)| Action::Install { told, back }),
        1 => (0_i64..8).prop_map(|back| Action::Compact { back }),
        // Starts: 0 = now, 1.. = that far back, negative = that far ahead or, rarely, invalid.
        6 => (stream.clone(), 0..RANGES.len(), -3_i64..20, -2_i64..4, any::<u8>(), 1_usize..5)
            .prop_map(|(stream, range, start, id, flags, times)| Action::Create { times, stream, range, start, id: id.max(0), flags }),
        1 => (stream.clone(), 0_usize..8).prop_map(|(stream, nth)| Action::Cancel { stream, nth }),
        2 => stream.clone().prop_map(|stream| Action::AskProgress { stream }),
        2 => stream.clone().prop_map(|stream| Action::Tick { stream }),
        8 => (stream.clone(), 1_usize..6).prop_map(|(stream, responses)| Action::Read { stream, responses }),
        4 => any::<bool>().prop_map(|catch_up| Action::Turn { catch_up }),
        1 => stream.prop_map(|stream| Action::Reconnect { stream }),
    ]
}

/// Watchers on two keys, opened many at a time, some behind and some not; a stream that is read response by response,
/// and another that watches the same and is not read, so that the groups keep what the first may still need.
fn crowd() -> impl Strategy<Value = Vec<Action>> {
    let create = |(range, start)| Action::Create { stream: 0, range, start, id: 0, flags: 0, times: 1 };
    let write = |key| vec![Action::Write(vec![(true, key)]), Action::Publish];
    let read = |catch_up| vec![Action::Turn { catch_up }, Action::Read { stream: 0, responses: 1 }];
    let open = prop::collection::vec((0_usize..2, 0_i64..4), 4..16);
    let go_on =
        prop_oneof![1 => prop::sample::select(vec![0, 0, 0, 3]).prop_map(write), 3 => any::<bool>().prop_map(read)];
    let scene = (open, prop::collection::vec(go_on, 10..50)).prop_map(move |(watches, then)| {
        watches.into_iter().map(create).chain(then.into_iter().flatten()).collect::<Vec<_>>()
    });
    let laggard = |range| Action::Create { stream: 1, range, start: 0, id: 0, flags: 0, times: 1 };
    let before = vec![laggard(0), laggard(1), Action::Read { stream: 1, responses: 4 }];
    prop::collection::vec(scene, 1..4).prop_map(move |scenes| [before.clone(), scenes.concat()].concat())
}

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// The history leaves out some batches.
    LostInHistory,
    /// Groups are given batches without their last change.
    LostAtTheTip,
    /// A revision comes to the groups in two parts.
    SplitAtTheTip,
    /// Groups are given batches of a revision where the values before are not.
    NoPrevious,
    /// The client is told of progress one revision ahead.
    ProgressAhead,
    /// Compaction forgets without saying so.
    SilentCompaction,
}

/// A watch as its client sees it.
#[derive(Debug)]
struct Watch {
    range: KeyRange,
    request: pb::WatchCreateRequest,
    /// The first revision it should be told of.
    start: i64,
    received: Vec<Event>,
    /// The response before was a fragment and more was announced.
    in_fragments: bool,
}

/// A client that checks what it is told.
struct Checker {
    client: Client,
    asked: VecDeque<pb::WatchCreateRequest>,
    watches: BTreeMap<i64, Watch>,
    /// Compacted and not cancelled.
    ended: BTreeSet<i64>,
    header_max: i64,
}

/// The whole truth.
#[derive(Debug, Default)]
struct Log {
    batches: Vec<Arc<EventBatch>>,
    mark: i64,
}

type Verdict<T = ()> = Result<T, String>;

macro_rules! check {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

impl Watch {
    /// Whether what was received is exactly what happened from the start on up to `up_to`, or only the beginning of it.
    fn check(&self, log: &Log, up_to: i64, complete: bool) -> Verdict {
        let mut received = self.received.iter();
        let batches = log.batches.iter().filter(|batch| (self.start..=up_to).contains(&batch.revision));
        let filtered = |kind| self.request.filters.contains(&i32::from(kind == ChangeKind::Delete));
        for change in batches.flat_map(|batch| &batch.changes) {
            if !self.range.contains(change.record.key()) || filtered(change.kind) {
                continue;
            }
            let Some(event) = received.next() else {
                check!(!complete, "missing {:?} up to {up_to} in {self:?}", change.record);
                return Ok(());
            };
            let kind = if change.kind == ChangeKind::Put { EventType::Put } else { EventType::Delete };
            check!(event.r#type() == kind && event.kv.as_ref() == Some(&change.record), "not {change:?} but {event:?}");
            let at_mark = change.record.mod_revision() <= log.mark && event.prev_kv.is_none();
            let previous = if self.request.prev_kv { change.previous.as_ref() } else { None };
            check!(event.prev_kv.as_ref() == previous || at_mark, "previous of {change:?} in {event:?}");
        }
        match received.next() {
            Some(event) => Err(format!("{event:?} is not expected up to {up_to} in {self:?}")),
            None => Ok(()),
        }
    }

    fn receive(&mut self, response: pb::WatchResponse) -> Verdict {
        let revision = |event: &Event| event.kv.as_ref().unwrap().mod_revision();
        let before = self.received.last().map_or(0, revision);
        let first = revision(&response.events[0]);
        check!(first > before || (first == before && self.in_fragments), "revision {first} was split");
        check!(!response.fragment || self.request.fragment, "fragments not asked for");
        let long = response.encoded_len() >= FRAGMENT_BYTES && response.events.len() > 1;
        check!(!long || !self.request.fragment, "a fragment of {} bytes", response.encoded_len());
        check!(
            response.events.iter().map(revision).max() <= Some(response.header.unwrap().revision),
            "header is behind"
        );
        self.in_fragments = response.fragment;
        self.received.extend(response.events);
        Ok(())
    }
}

impl Checker {
    fn new(hub: &Arc<Hub>) -> Self {
        Self {
            client: Client::new(hub),
            asked: VecDeque::new(),
            watches: BTreeMap::new(),
            ended: BTreeSet::new(),
            header_max: 0,
        }
    }

    fn receive(&mut self, response: pb::WatchResponse, log: &Log, revision: i64, fault: Fault) -> Verdict {
        let mut at = response.header.unwrap().revision;
        check!(at <= revision, "header {at} is ahead of the state's {revision}");
        if response.compact_revision == 0 {
            check!(at >= self.header_max, "header {at} after {}", self.header_max);
            self.header_max = at;
        }
        let id = response.watch_id;
        if response.created {
            let request = self.asked.pop_front().ok_or("created what nobody asked for")?;
            return self.created(request, response);
        }
        if response.events.is_empty() && !response.canceled {
            if fault == Fault::ProgressAhead {
                at += 1;
            }
            check!(id != -1 || !self.watches.is_empty(), "progress of nothing");
            for (_, watch) in self.watches.iter().filter(|&(&watch, _)| id == -1 || id == watch) {
                check!(!watch.in_fragments, "progress within fragments");
                check!(
                    at >= watch.start.min(self.header_max) && at + 1 >= watch.start,
                    "progress {at} before its start"
                );
                watch.check(log, at, true)?;
                let last = watch.received.last().map_or(0, |event| event.kv.as_ref().unwrap().mod_revision());
                check!(last <= at, "progress {at} after event {last}");
            }
            return Ok(());
        }
        if response.canceled && self.ended.remove(&id) {
            return Ok(());
        }
        let watch = self.watches.get_mut(&id).ok_or(format!("{response:?} for no watch"))?;
        if !response.events.is_empty() {
            check!(!response.canceled && response.cancel_reason.is_empty(), "canceled with events");
            return watch.receive(response);
        }
        check!(!watch.in_fragments, "canceled within fragments");
        let watch = self.watches.remove(&id).expect("just seen");
        if response.compact_revision != 0 {
            check!(at == 0 && response.compact_revision <= log.mark, "compacted at {}", response.compact_revision);
            let last = watch.received.last().map_or(watch.start, |event| event.kv.as_ref().unwrap().mod_revision());
            self.ended.insert(id);
            check!(last < response.compact_revision, "compacted though {last} was sent");
        }
        watch.check(log, revision, false)
    }

    fn created(&mut self, request: pb::WatchCreateRequest, response: pb::WatchResponse) -> Verdict {
        let range = KeyRange::new(&request.key, &request.range_end);
        let id = request.watch_id;
        let duplicate = id != 0 && (self.watches.contains_key(&id) || self.ended.contains(&id));
        let (true, Ok(range)) = (!duplicate && request.start_revision >= 0, range) else {
            check!(response.canceled && response.watch_id == -1, "{request:?} was not refused");
            return Ok(());
        };
        check!(!response.canceled && response.events.is_empty(), "refused {request:?} with {response:?}");
        check!(request.watch_id == 0 || response.watch_id == request.watch_id, "not the id of {request:?}");
        let start = match request.start_revision {
            0 => response.header.unwrap().revision + 1,
            start => start,
        };
        let watch = Watch { range, request, start, received: Vec::new(), in_fragments: false };
        check!(self.watches.insert(response.watch_id, watch).is_none(), "id {} is in use", response.watch_id);
        Ok(())
    }

    /// Reads what it has room for.
    fn read(&mut self, responses: usize, log: &Log, revision: i64, fault: Fault) -> Verdict {
        for _ in 0..responses {
            match self.client.poll() {
                Poll::Ready(Some(Ok(response))) => self.receive(response, log, revision, fault)?,
                Poll::Ready(other) => return Err(format!("the stream ended: {other:?}")),
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}

/// So tight that groups and history give a few batches at a time.
fn tight() -> Options {
    Options { fragment_bytes: FRAGMENT_BYTES, window_bytes_max: 900, slice_bytes_max: 400, ..Options::default() }
}

/// So roomy that only the order of events and reads matters.
fn roomy() -> Options {
    Options { fragment_bytes: FRAGMENT_BYTES, ..Options::default() }
}

/// Runs a script; what is broken, if anything.
fn run(actions: &[Action], options: Options, fault: Fault) -> Verdict {
    // Ticks are done by hand, yet the stream wants a runtime for its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _guard = runtime.enter();
    let answer_max = if options.window_bytes_max < 1000 { 3 } else { usize::MAX };
    let (shelf, hub) = hub(options);
    shelf.0.lock().answer_max = answer_max;
    if fault == Fault::LostInHistory {
        shelf.0.lock().loses_every = 5;
    }
    let mut log = Log::default();
    let mut unpublished: Vec<Arc<EventBatch>> = Vec::new();
    let mut checkers: Vec<Checker> = (0..STREAMS).map(|_| Checker::new(&hub)).collect();

    for action in actions {
        match action {
            Action::Write(ops) => {
                let ops: Vec<Op<'_>> = ops.iter().map(|&(put, key)| (KEYS[key], put.then_some("value"))).collect();
                if let Some(batch) = shelf.apply(&ops) {
                    log.batches.push(batch.clone());
                    unpublished.push(batch);
                }
            }
            Action::Publish => publish(&hub, &mut unpublished, fault),
            Action::Jump { told } => {
                unpublished.clear();
                if *told {
                    hub.publish(&[], shelf.revision());
                }
            }
            Action::Install { told, back } => {
                unpublished.clear();
                compact(&shelf, &mut log, shelf.revision() - back, fault);
                if *told {
                    hub.publish(&[], shelf.revision());
                }
            }
            Action::Compact { back } => compact(&shelf, &mut log, hub.published() - back, fault),
            Action::Create { stream, range, start, id, flags, times } => {
                let (key, range_end) = RANGES[*range];
                let start_revision = match start {
                    0 => 0,
                    -3 => -1,
                    ahead @ ..0 => shelf.revision() - ahead,
                    back => (shelf.revision() - back + 1).max(1),
                };
                let request = pb::WatchCreateRequest {
                    key: key.into(),
                    range_end: range_end.into(),
                    start_revision,
                    watch_id: *id,
                    progress_notify: flags & 1 > 0,
                    prev_kv: flags & 2 > 0,
                    fragment: flags & 4 > 0,
                    filters: if flags & 24 == 8 { vec![i32::from(flags & 32 > 0)] } else { Vec::new() },
                };
                for _ in 0..*times {
                    checkers[*stream].asked.push_back(request.clone());
                    checkers[*stream].client.watch(request.clone());
                }
            }
            Action::Cancel { stream, nth } => {
                let checker = &checkers[*stream];
                checker.client.cancel(checker.watches.keys().chain(&checker.ended).nth(*nth).copied().unwrap_or(99));
            }
            Action::AskProgress { stream } => checkers[*stream].client.ask_progress(),
            Action::Tick { stream } => checkers[*stream].client.stream.tick(),
            Action::Read { stream, responses } => {
                checkers[*stream].read(*responses, &log, shelf.revision(), fault)?;
            }
            Action::Turn { catch_up } => {
                checkers.iter_mut().for_each(|checker| checker.client.stream.set_turn(*catch_up))
            }
            Action::Reconnect { stream } => checkers[*stream] = Checker::new(&hub),
        }
    }
    publish(&hub, &mut unpublished, fault);
    hub.publish(&[], shelf.revision());
    for checker in &mut checkers {
        settle(checker, &log, shelf.revision(), fault)?;
    }
    check!(hub.watchers() == checkers.iter().map(|checker| checker.watches.len()).sum::<usize>(), "counted watchers");
    check!(hub.unsynced_watchers() == 0 && hub.pending_batches() == 0, "all was delivered");
    drop(checkers);
    check!(hub.watchers() == 0 && hub.streams() == 0, "all is gone");
    Ok(())
}

fn compact(shelf: &Shelf, log: &mut Log, mark: i64, fault: Fault) {
    if mark > log.mark && mark > 1 {
        log.mark = mark;
        shelf.compact(mark);
        if fault == Fault::SilentCompaction {
            shelf.0.lock().mark = 0;
        }
    }
}

/// Reads to the end: then everything was told, and asking for progress is answered.
fn settle(checker: &mut Checker, log: &Log, revision: i64, fault: Fault) -> Verdict {
    checker.read(usize::MAX, log, revision, fault)?;
    check!(checker.asked.is_empty(), "unanswered {:?}", checker.asked);
    for watch in checker.watches.values() {
        watch.check(log, revision, true)?;
    }
    checker.header_max = 0;
    checker.client.ask_progress();
    checker.read(usize::MAX, log, revision, fault)?;
    let future = checker.watches.values().any(|watch| watch.request.start_revision > revision);
    let told = checker.header_max == revision;
    check!(told == (!future && !checker.watches.is_empty()), "progress told: {told}, {:?}", checker.watches);
    Ok(())
}

fn publish(hub: &Hub, unpublished: &mut Vec<Arc<EventBatch>>, fault: Fault) {
    let mut batches: Vec<Arc<EventBatch>> = std::mem::take(unpublished);
    let Some(revision) = batches.last().map(|batch| batch.revision) else { return };
    for batch in &mut batches {
        let mut broken = EventBatch::clone(batch);
        match fault {
            Fault::LostAtTheTip => drop(broken.changes.pop()),
            Fault::SplitAtTheTip if broken.changes.len() > 1 => {
                let last = broken.changes.pop();
                broken.changes.splice(0..0, last);
            }
            Fault::NoPrevious => broken.changes.iter_mut().for_each(|change| change.previous = None),
            _ => continue,
        }
        *batch = Arc::new(broken);
    }
    hub.publish(&batches, revision);
}

proptest! {
    #![proptest_config(Config { cases: 512, failure_persistence: None, ..Config::default() })]

    #[test]
    fn watchers_are_told_everything_once_in_order_and_whole(actions in prop::collection::vec(action(), 1..160)) {
        if let Err(violation) = run(&actions, tight(), Fault::Nothing) {
            return Err(TestCaseError::fail(violation));
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 2048, failure_persistence: None, ..Config::default() })]

    #[test]
    fn crowds_are_told_everything_while_some_catch_up(actions in crowd()) {
        if let Err(violation) = run(&actions, roomy(), Fault::Nothing) {
            return Err(TestCaseError::fail(violation));
        }
    }
}

#[test]
fn the_check_notices_every_fault() {
    use Fault::*;
    for fault in [LostInHistory, LostAtTheTip, SplitAtTheTip, NoPrevious, ProgressAhead, SilentCompaction] {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        let mut runner =
            TestRunner::new_with_rng(Config { cases: 200, failure_persistence: None, ..Config::default() }, rng);
        let found = runner.run(&prop::collection::vec(action(), 100..160), |actions| {
            run(&actions, tight(), fault).map_err(TestCaseError::fail)
        });
        assert!(found.is_err(), "{fault:?} went unnoticed");
    }
}
