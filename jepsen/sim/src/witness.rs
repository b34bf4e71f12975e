//! Sees everything: keeps the trace, the invariants' books and the history that the checkers judge at the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use jepsen::history::op::{Failure, Kv, Op, Outcome, Request};
use jepsen::history::stream::{Entry as Revision, Event, Log, Message, Stream};
use kelson::proto::Record;
use kelson::raft::observe::Observer;
use kelson::raft::types::Proposal;
use kelson::state::{ChangeKind, Command, Store};
use kelson::storage::log::LogEntry;
use parking_lot::Mutex;

use crate::invariant::applied::{Place, Progress};
use crate::invariant::leader::Leaders;
use crate::invariant::lease::Leases;
use crate::invariant::log::{Entry, Logs};
use crate::invariant::state::States;
use crate::invariant::watch::Watches;
use crate::invariant::{Broken, Held};
use crate::trace::{Hash, Trace};

/// What a log entry of commands is called by the log store.
const KIND_PROPOSAL: u8 = 1;
/// The whole state is hashed after one entry in so many: it is the dearest of all checks.
const HASHED_ONE_IN: u64 = 8;
/// Revisions looked at after one entry; a batch has fewer.
const REVISIONS_MAX: usize = 1 << 16;
/// Broken promises that are kept; more tell nothing new.
const BROKEN_MAX: usize = 20;

/// See the module.
pub struct Witness {
    /// The events.
    pub trace: Arc<Trace>,
    seen: Mutex<Seen>,
}

struct Seen {
    broken: Vec<Broken>,
    leaders: Leaders,
    logs: Logs,
    progress: Progress,
    states: States,
    leases: Leases,
    watches: Watches,
    /// By member: the revision up to which its changes were looked at.
    looked: BTreeMap<u32, i64>,
    ops: Vec<Op>,
    open: BTreeMap<u64, Op>,
    next_op: u64,
    streams: Vec<Stream>,
    installs: u64,
}

impl Seen {
    fn check(&mut self, trace: &Trace, held: Held) {
        if let Err(broken) = held {
            trace.note(format_args!("BROKEN {}: {}", broken.invariant, broken.text));
            if self.broken.len() < BROKEN_MAX {
                self.broken.push(broken);
            }
        }
    }
}

/// What a run came to, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Operations of clients.
    pub operations: u64,
    /// Those that were answered.
    pub answered: u64,
    /// Those without an outcome.
    pub unknown: u64,
    /// Entries applied by anybody.
    pub entries: u64,
    /// Terms with a leader.
    pub terms: u64,
    /// Snapshots installed by laggards.
    pub installs: u64,
    /// Messages on watches.
    pub messages: u64,
}

impl Witness {
    /// Has seen nothing. `second_permille`: see [`Leases::new`].
    pub fn new(trace: Arc<Trace>, second_permille: u64) -> Arc<Self> {
        let seen = Seen {
            broken: Vec::new(),
            leaders: Leaders::default(),
            logs: Logs::default(),
            progress: Progress::default(),
            states: States::default(),
            leases: Leases::new(second_permille),
            watches: Watches::default(),
            looked: BTreeMap::new(),
            ops: Vec::new(),
            open: BTreeMap::new(),
            next_op: 0,
            streams: Vec::new(),
            installs: 0,
        };
        Arc::new(Self { trace, seen: Mutex::new(seen) })
    }

    fn now(&self) -> u64 {
        self.trace.now().as_nanos() as u64
    }

    /// Broken promises so far.
    pub fn broken(&self) -> Vec<Broken> {
        self.seen.lock().broken.clone()
    }

    /// Something else that must not be.
    pub fn breaks(&self, invariant: &'static str, text: String) {
        self.seen.lock().check(&self.trace, Err(Broken { invariant, text }));
    }

    /// A member leads.
    pub fn leads(&self, term: u64, member: u64) {
        let mut seen = self.seen.lock();
        let held = seen.leaders.leads(term, member);
        seen.check(&self.trace, held);
    }

    /// A member starts with what its disk held.
    pub fn starts(&self, node: u32, index: u64, store: &Store) {
        let mut seen = self.seen.lock();
        let place = Place { index, revision: store.revision() };
        self.trace.note(format_args!("{node} starts at {place:?}"));
        let committed = seen.logs.last_committed();
        let held = seen.progress.starts(node, place, committed);
        seen.check(&self.trace, held);
        seen.looked.insert(node, store.revision());
        if index > 0 {
            let held = seen.states.is(node, index, hash_of(store));
            seen.check(&self.trace, held);
        }
    }

    /// What clients know by now.
    pub fn acknowledged(&self) -> i64 {
        self.seen.lock().progress.acknowledged()
    }

    /// A member is ready to serve, having been asked when clients knew `acknowledged`.
    pub fn is_ready(&self, node: u32, revision: i64, acknowledged: i64) {
        let mut seen = self.seen.lock();
        self.trace.note(format_args!("{node} ready at {revision}"));
        let held = seen.progress.is_ready(node, revision, acknowledged);
        seen.check(&self.trace, held);
    }

    /// A client sends a request.
    pub fn sends(&self, process: u32, node: u32, request: &Request) -> u64 {
        let mut seen = self.seen.lock();
        let (id, start) = (seen.next_op, self.now());
        seen.next_op += 1;
        if let Request::Revoke(lease) = request {
            seen.leases.asked_to_end(*lease);
        }
        self.trace.note(format_args!("{node} client {process} sends {id} {request:?}"));
        let outcome = gave_up("the member ended");
        seen.open.insert(id, Op { id, process, node, start, end: 0, request: request.clone(), outcome });
        id
    }

    /// The request has its outcome.
    pub fn ends(&self, id: u64, outcome: Outcome) {
        let mut seen = self.seen.lock();
        let Some(mut op) = seen.open.remove(&id) else { return };
        op.end = self.now();
        op.outcome = outcome;
        self.trace.note(format_args!("{} client {} has {id} {:?}", op.node, op.process, op.outcome));
        if let Some(reply) = op.reply() {
            seen.progress.acknowledges(reply.rev);
            match &op.request {
                Request::Grant(lease, _) => seen.leases.granted(*lease, reply.ttl, op.start),
                Request::KeepAlive(lease) if reply.ttl > 0 => seen.leases.renewed(*lease, op.start),
                _ => {}
            }
        }
        seen.ops.push(op);
    }

    /// A member ended: nobody will hear of what it was asked.
    pub fn member_ended(&self, node: u32) {
        let mut seen = self.seen.lock();
        let now = self.now();
        let of_node: Vec<u64> = seen.open.iter().filter(|(_, op)| op.node == node).map(|(id, _)| *id).collect();
        for mut op in of_node.into_iter().filter_map(|id| seen.open.remove(&id)).collect::<Vec<_>>() {
            op.end = now;
            seen.ops.push(op);
        }
    }

    /// A watch is opened; its number.
    pub fn opens(&self, stream: Stream) -> u64 {
        let mut seen = self.seen.lock();
        let id = seen.streams.len() as u64;
        self.trace.note(format_args!("{} watches #{id} from {}", stream.node, stream.watch.start_revision));
        seen.watches.opened(id, stream.watch.start_revision);
        seen.streams.push(Stream { id, opened: self.now(), ..stream });
        id
    }

    /// A watch shows something.
    pub fn shows(&self, stream: u64, message: Message) {
        let mut seen = self.seen.lock();
        let message = Message { t: self.now(), ..message };
        self.trace.note(format_args!("watch #{stream} {message:?}"));
        let held = seen.watches.shows(stream, &message);
        seen.check(&self.trace, held);
        seen.streams[stream as usize].messages.push(message);
    }

    /// A watch ended, or the reader waited for this revision at the end.
    pub fn stream(&self, stream: u64, change: impl FnOnce(&mut Stream)) {
        change(&mut self.seen.lock().streams[stream as usize]);
    }

    /// The operations and watches, and the order of changes.
    pub fn history(&self) -> (Vec<Op>, Vec<Stream>, Log) {
        let seen = self.seen.lock();
        let mut ops = seen.ops.clone();
        // Still under way when the run ended, and perhaps done: nobody knows.
        ops.extend(seen.open.values().map(|op| Op { end: self.now(), ..op.clone() }));
        ops.sort_by_key(|op| (op.end, op.id));
        (ops, seen.streams.clone(), Log { entries: seen.watches.order().clone(), base: 1 })
    }

    /// The run in numbers.
    pub fn counts(&self) -> Counts {
        let seen = self.seen.lock();
        Counts {
            operations: seen.ops.len() as u64,
            answered: seen.ops.iter().filter(|op| op.reply().is_some()).count() as u64,
            unknown: seen.ops.iter().filter(|op| op.is_unknown()).count() as u64,
            entries: seen.logs.last_committed(),
            terms: seen.leaders.terms() as u64,
            installs: seen.installs,
            messages: seen.streams.iter().map(|stream| stream.messages.len() as u64).sum(),
        }
    }

    /// Takes over what a member's state has that was not looked at.
    fn look(&self, seen: &mut Seen, node: u32, store: &Store) {
        let (after, head) = (seen.looked.insert(node, store.revision()).unwrap_or(1), store.revision());
        // What a snapshot brought may be compacted already; then others have shown it.
        let Ok(batches) = store.history(after, head, REVISIONS_MAX, usize::MAX) else { return };
        for batch in batches {
            let events =
                batch.changes.iter().map(|change| event(change.kind, &change.record, batch.revision)).collect();
            let held = seen.watches.applied(Revision { node, rev: batch.revision, t: self.now(), events });
            seen.check(&self.trace, held);
        }
    }
}

/// An operation that nobody will hear of again.
pub fn gave_up(why: &str) -> Outcome {
    Outcome::Info { err: Failure { code: "deadline".into(), msg: why.into(), definite: false } }
}

fn event(kind: ChangeKind, record: &Record, revision: i64) -> Event {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match kind {
        ChangeKind::Put => Event {
            kv: Kv {
                key: text(record.key()),
                value: text(record.value()),
                create_revision: record.create_revision(),
                mod_revision: record.mod_revision(),
                version: record.version(),
                lease: record.lease(),
            },
            ..Event::default()
        },
        ChangeKind::Delete => Event {
            kv: Kv { key: text(record.key()), mod_revision: revision, ..Kv::default() },
            deleted: true,
            ..Event::default()
        },
    }
}

/// Everything that members must hold alike.
fn hash_of(store: &Store) -> u64 {
    let mut hash = Hash::default();
    hash.add(&store.meta().encode());
    let kept = store.hash_kv(0).map_or(0, |hash| hash.hash);
    hash.add(&kept.to_le_bytes());
    hash.value()
}

fn entry_of(entry: &LogEntry) -> Entry {
    let sum = crc32c::crc32c_append(u32::from(entry.kind), &entry.payload);
    Entry { index: entry.index, term: entry.term, sum }
}

/// Leases that an entry ends.
fn revoked(entry: &LogEntry) -> Vec<i64> {
    let proposal = (entry.kind == KIND_PROPOSAL).then(|| Proposal::from_bytes(entry.payload.clone())).flatten();
    let commands = proposal.and_then(|proposal| Command::decode_batch(proposal.parts().2).ok()).unwrap_or_default();
    let id = |command: &Command| if let Command::LeaseRevoke(revoke) = command { Some(revoke.id) } else { None };
    commands.iter().filter_map(id).collect()
}

/// One member's observer.
pub struct Eye {
    /// Whose.
    pub node: u32,
    /// Who is told.
    pub witness: Arc<Witness>,
}

impl Observer for Eye {
    fn appended(&self, entries: &[LogEntry]) {
        let mut seen = self.witness.seen.lock();
        for entry in entries.iter().map(entry_of) {
            self.witness.trace.note(format_args!("{} appends {entry:?}", self.node));
            let held = seen.logs.appended(self.node, entry);
            seen.check(&self.witness.trace, held);
        }
    }

    fn applied(&self, entry: &LogEntry, store: &Store) {
        let (node, trace) = (self.node, &self.witness.trace);
        let mut seen = self.witness.seen.lock();
        let place = Place { index: entry.index, revision: store.revision() };
        trace.note(format_args!("{node} applies {place:?}"));
        if seen.logs.is_news(entry.index) {
            for lease in revoked(entry) {
                let held = seen.leases.ends(lease, self.witness.now());
                seen.check(trace, held);
            }
        }
        let held = seen.logs.applied(node, entry_of(entry));
        seen.check(trace, held);
        let held = seen.progress.applies(node, place);
        seen.check(trace, held);
        if entry.index.is_multiple_of(HASHED_ONE_IN) {
            let hash = hash_of(store);
            trace.note(format_args!("{node} holds {hash:016x}"));
            let held = seen.states.is(node, entry.index, hash);
            seen.check(trace, held);
        }
        self.witness.look(&mut seen, node, store);
    }

    fn installed(&self, index: u64, term: u64, store: &Store) {
        let (node, trace) = (self.node, &self.witness.trace);
        let mut seen = self.witness.seen.lock();
        let (place, hash) = (Place { index, revision: store.revision() }, hash_of(store));
        trace.note(format_args!("{node} installs {place:?} of term {term} {hash:016x}"));
        seen.installs += 1;
        let held = seen.progress.installs(node, place);
        seen.check(trace, held);
        let held = seen.states.is(node, index, hash);
        seen.check(trace, held);
        self.witness.look(&mut seen, node, store);
    }
}
