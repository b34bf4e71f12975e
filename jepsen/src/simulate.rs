//! Histories of a server that does not exist: scripts of the workloads against the model, on a clock of its own.
//!
//! Requests take effect at one moment between their sending and their answer; some time out (whether they took effect
//! or not), some are refused. With a [`Bug`] planted, the server breaks a promise now and then. Checkers are proven
//! with it: every history without a bug must be valid, every one with it invalid. The same seed gives the same history.

use std::collections::BTreeMap;

use crate::history::files::{History, Plan};
use crate::history::op::{Failure, Kv, Member, Op, Outcome, Reply, Request};
use crate::history::stream::{Entry, Event, Listing, Message, Stream};
use crate::model::Store;
use crate::rng::Rng;
use crate::workload::Kind;
use crate::workload::reader::{self, From};
use crate::workload::script::{MILLISECOND, SECOND, Script, Step};

/// Nanoseconds that a request takes, at least and at most.
const TAKES: (u64, u64) = (MILLISECOND / 5, 4 * MILLISECOND);
/// A request without an answer is given up after this long.
const GIVES_UP: u64 = 50 * MILLISECOND;
/// How often the server looks for leases that are over.
const LEASES_EVERY: u64 = 100 * MILLISECOND;
/// The store's revision before the first request.
const BASE: i64 = 1;
/// Revisions back that a stale read shows.
const STALE: i64 = 3;

/// A promise that the simulated server breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// Answers a write and forgets it.
    LostWrite,
    /// Answers a read from a few revisions ago, as if it were the newest.
    StaleRead,
    /// Answers a read with the newest revision, but an older value.
    WrongRead,
    /// Answers a write with the revision of the one before.
    RevisionReused,
    /// Applies only the first half of a transaction.
    HalfTransaction,
    /// Refuses a write and applies it.
    RefusedButApplied,
    /// Applies the success branch although a comparison does not hold.
    IgnoredGuard,
    /// Makes a change that nobody asked for.
    Phantom,
    /// Applies a write twice.
    AppliedTwice,
    /// Ends a lease a second early.
    EarlyLease,
    /// Ends a lease many seconds late.
    LateLease,
    /// Takes only some keys when a lease ends.
    LeaseInParts,
    /// Renews a lease that is revoked.
    LeaseBack,
    /// Answers a whole TTL as what is left.
    FrozenTtl,
}

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The workload.
    pub kind: Kind,
    /// Fixes everything.
    pub seed: u64,
    /// Clients.
    pub clients: u32,
    /// Operations, about.
    pub ops: usize,
    /// Of a thousand requests, so many have no outcome, and as many are refused.
    pub unknown_per_mille: u64,
    /// The broken promise.
    pub bug: Option<Bug>,
}

impl Options {
    /// Ten clients, a few unknown outcomes, no bug.
    pub fn new(kind: Kind, seed: u64, ops: usize) -> Self {
        Self { kind, seed, clients: 10, ops, unknown_per_mille: 10, bug: None }
    }
}

/// Simulates a run; also says how often the bug struck.
pub fn simulate(options: Options) -> (History, u64) {
    let mut server = Server::new(options);
    server.run();
    let struck = server.struck;
    let plan = Plan {
        workload: options.kind.name().into(),
        seed: options.seed,
        nodes: 1,
        clients: options.clients,
        target: "simulator".into(),
        base: BASE,
        ..Plan::default()
    };
    let mut history = History { plan, ops: server.ops, entries: server.entries, ..History::default() };
    history.ops.sort_by_key(|op| (op.end, op.id));
    history.streams = streams(&history, options);
    (history, struck)
}

struct Lease {
    ttl: i64,
    ends: u64,
    revoked: bool,
}

/// What waits for its moment.
enum Due {
    /// A client is free.
    Free(usize),
    /// A request takes effect; it was sent then.
    Effect { client: usize, id: u64, sent: u64, request: Request },
    /// Leases are looked at.
    Leases,
}

struct Server {
    options: Options,
    rng: Rng,
    scripts: Vec<Box<dyn Script>>,
    agenda: BTreeMap<(u64, u64), Due>,
    tie: u64,
    now: u64,
    ids: u64,
    store: Store,
    leases: BTreeMap<i64, Lease>,
    ops: Vec<Op>,
    entries: Vec<Entry>,
    struck: u64,
}

impl Server {
    fn new(options: Options) -> Self {
        let rng = Rng::new(options.seed);
        let script = |process| options.kind.script(process, rng.fork(1000 + u64::from(process)));
        let scripts = (0..options.clients).map(script).collect();
        let mut server = Self {
            options,
            rng: rng.fork(1),
            scripts,
            agenda: BTreeMap::new(),
            tie: 0,
            now: 0,
            ids: 1,
            store: Store::new(BASE),
            leases: BTreeMap::new(),
            ops: Vec::new(),
            entries: Vec::new(),
            struck: 0,
        };
        (0..options.clients as usize).for_each(|client| server.at(0, Due::Free(client)));
        server.at(LEASES_EVERY, Due::Leases);
        server
    }

    fn at(&mut self, moment: u64, event: Due) {
        self.tie += 1;
        self.agenda.insert((moment, self.tie), event);
    }

    fn run(&mut self) {
        while let Some(((now, _), event)) = self.agenda.pop_first() {
            self.now = now;
            match event {
                Due::Free(_) if self.ops.len() >= self.options.ops => {}
                Due::Free(client) => self.free(client),
                Due::Effect { client, id, sent, request } => self.effect(client, id, sent, request),
                Due::Leases => {
                    self.end_leases();
                    if self.ops.len() < self.options.ops {
                        self.at(now + LEASES_EVERY, Due::Leases);
                    }
                }
            }
        }
        for request in self.options.kind.final_reads() {
            self.now += SECOND;
            let id = self.ids;
            self.ids += 1;
            let out = self.answer(&request);
            let (start, end) = (self.now - MILLISECOND, self.now);
            self.ops.push(Op { id, process: 30_000, node: 0, start, end, request, outcome: Outcome::Ok { out } });
        }
    }

    fn free(&mut self, client: usize) {
        let id = self.ids;
        self.ids += 1;
        match self.scripts[client].next(id, self.now) {
            Step::Wait(nanoseconds) => self.at(self.now + nanoseconds, Due::Free(client)),
            Step::Note(request, start) => {
                let outcome = Outcome::Ok { out: Reply::default() };
                let process = client as u32;
                self.ops.push(Op { id, process, node: 0, start, end: self.now, request, outcome });
                self.at(self.now + 1, Due::Free(client));
            }
            Step::Send(request) => {
                let effect = self.now + self.rng.between(TAKES.0, TAKES.1);
                self.at(effect, Due::Effect { client, id, sent: self.now, request });
            }
        }
    }

    fn effect(&mut self, client: usize, id: u64, start: u64, request: Request) {
        let mut end = self.now + self.rng.between(TAKES.0, TAKES.1);
        let fate = self.rng.below(1000);
        let (unknown, per_mille) = (fate, self.options.unknown_per_mille);
        let failure = |code: &str, definite| Failure { code: code.into(), msg: "simulated".into(), definite };
        let outcome = if unknown < per_mille {
            end = start + GIVES_UP;
            if self.rng.chance(0.5) {
                self.answer(&request);
            }
            Outcome::Info { err: failure("deadline", false) }
        } else if unknown < 2 * per_mille {
            if self.strikes(Bug::RefusedButApplied) && request.may_write() {
                let before = self.store.revision();
                self.answer(&request);
                self.struck += u64::from(self.store.revision() > before);
            }
            Outcome::Fail { err: failure("ResourceExhausted", true) }
        } else {
            Outcome::Ok { out: self.answer(&request) }
        };
        let op = Op { id, process: client as u32, node: 0, start, end, request, outcome };
        self.scripts[client].learn(&op);
        self.ops.push(op);
        let pause = self.rng.below(MILLISECOND);
        self.at(end + pause, Due::Free(client));
    }

    /// Whether this bug is planted, and strikes now. The caller counts, once it really did something.
    fn strikes(&mut self, bug: Bug) -> bool {
        self.options.bug == Some(bug) && self.rng.below(if bug == Bug::RefusedButApplied { 1 } else { 12 }) == 0
    }

    fn commit(&mut self, events: &[Event]) {
        let rev = self.store.revision() + 1;
        self.store.commit(rev, events);
        self.entries.push(Entry { node: 0, rev, t: self.now + MILLISECOND, events: events.to_vec() });
    }

    fn answer(&mut self, request: &Request) -> Reply {
        let head = self.store.revision();
        match request {
            Request::Grant(id, ttl) => {
                let ttl = (*ttl).max(2);
                self.leases.insert(*id, Lease { ttl, ends: self.now + ttl as u64 * SECOND, revoked: false });
                Reply { rev: head, ttl, ..Reply::default() }
            }
            Request::KeepAlive(id) => {
                let back = self.strikes(Bug::LeaseBack);
                let Some(lease) = self.leases.get_mut(id).filter(|lease| !lease.revoked || back) else {
                    return Reply { rev: head, ..Reply::default() };
                };
                lease.ends = self.now + lease.ttl as u64 * SECOND;
                Reply { rev: head, ttl: lease.ttl, ..Reply::default() }
            }
            Request::TimeToLive(id) => self.time_to_live(*id),
            Request::Revoke(id) => {
                self.end_lease(*id);
                Reply { rev: self.store.revision(), ..Reply::default() }
            }
            Request::Status | Request::HashKv(_) => {
                Reply { rev: head, member: Some(Box::new(Member::default())), ..Reply::default() }
            }
            Request::Compact(_) | Request::Hold(..) => Reply { rev: head, ..Reply::default() },
            _ => self.answer_kv(request),
        }
    }

    fn time_to_live(&mut self, id: i64) -> Reply {
        let (rev, frozen, back) = (self.store.revision(), self.strikes(Bug::FrozenTtl), self.strikes(Bug::LeaseBack));
        let keys: Vec<String> = self.store.end_of_lease(id, rev, rev).into_iter().map(|event| event.kv.key).collect();
        match self.leases.get(&id) {
            Some(lease) if !lease.revoked || back => {
                self.struck += u64::from(lease.revoked);
                let left = lease.ends.saturating_sub(self.now) / SECOND;
                // A second is within the resolution of the answer.
                self.struck += u64::from(frozen && lease.ttl - left as i64 > 2);
                let ttl = if frozen { lease.ttl } else { left as i64 };
                Reply { rev, ttl, granted: lease.ttl, keys, ..Reply::default() }
            }
            _ => Reply { rev, ttl: -1, ..Reply::default() },
        }
    }

    fn answer_kv(&mut self, request: &Request) -> Reply {
        let head = self.store.revision();
        let mut request = request.clone();
        if let Request::Txn(txn) = &mut request {
            let guarded = !txn.compare.is_empty() && request_would_fail(&self.store, txn);
            if guarded && txn.success.iter().any(Request::may_write) && self.strikes(Bug::IgnoredGuard) {
                txn.compare.clear();
                self.struck += 1;
            }
        }
        let effect = self.store.evaluate(&request, head, head + 1);
        if effect.events.is_empty() {
            return self.read(&request, head, effect.reply);
        }
        let mut reply = effect.reply;
        if self.strikes(Bug::LostWrite) {
            self.struck += 1;
            return reply;
        }
        let half = effect.events.len() > 1 && self.strikes(Bug::HalfTransaction);
        self.struck += u64::from(half);
        let events = if half { &effect.events[..effect.events.len() / 2] } else { &effect.events[..] };
        self.commit(events);
        if self.strikes(Bug::AppliedTwice) {
            let again = self.store.evaluate(
                &Request::put(events[0].kv.key.clone(), events[0].kv.value.clone()),
                head + 1,
                head + 2,
            );
            self.commit(&again.events);
            self.struck += 1;
        }
        if self.strikes(Bug::Phantom) {
            let event = Event { kv: Kv { value: "999999999".into(), ..events[0].kv.clone() }, ..Event::default() };
            let again = self.store.evaluate(&Request::put(event.kv.key, event.kv.value), head + 1, head + 2);
            self.commit(&again.events);
            self.struck += 1;
        }
        if head > BASE && self.strikes(Bug::RevisionReused) {
            reply.rev = head;
            self.struck += 1;
        }
        reply
    }

    fn read(&mut self, request: &Request, head: i64, reply: Reply) -> Reply {
        let old = self.store.evaluate(request, (head - STALE).max(BASE), head).reply;
        let differs = old.kvs != reply.kvs || old.replies != reply.replies;
        // Old enough that a write between the two had been answered before this read was sent.
        if differs && !request.may_write() && !request.may_be_old() {
            if self.strikes(Bug::StaleRead) {
                self.struck += 1;
                return old;
            }
            if self.strikes(Bug::WrongRead) {
                self.struck += 1;
                return Reply { rev: reply.rev, ..old };
            }
        }
        reply
    }

    fn end_leases(&mut self) {
        let shift = match self.options.bug {
            Some(Bug::EarlyLease) => -(SECOND as i64),
            Some(Bug::LateLease) => 10 * SECOND as i64,
            _ => 0,
        };
        let over = |lease: &Lease| !lease.revoked && lease.ends as i64 + shift <= self.now as i64;
        let ended: Vec<i64> = self.leases.iter().filter(|(_, lease)| over(lease)).map(|(id, _)| *id).collect();
        for id in ended {
            let before = self.store.revision();
            self.end_lease(id);
            self.struck += u64::from(shift != 0 && self.store.revision() > before);
        }
    }

    fn end_lease(&mut self, id: i64) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.revoked = true;
        let head = self.store.revision();
        let events = self.store.end_of_lease(id, head, head + 1);
        if events.len() > 1 && self.strikes(Bug::LeaseInParts) {
            self.struck += 1;
            let rest = events.len() / 2;
            self.commit(&events[..rest]);
            let mut later = events[rest..].to_vec();
            later.iter_mut().for_each(|event| event.kv.mod_revision += 1);
            self.commit(&later);
        } else if !events.is_empty() {
            self.commit(&events);
        }
    }
}

fn request_would_fail(store: &Store, txn: &crate::history::op::Txn) -> bool {
    let probe = crate::history::op::Txn { compare: txn.compare.clone(), ..Default::default() };
    let head = store.revision();
    !store.evaluate(&Request::Txn(probe), head, head + 1).reply.succeeded
}

/// What the readers of the workload would have been sent, message by message.
fn streams(history: &History, options: Options) -> Vec<Stream> {
    let mut rng = Rng::new(options.seed).fork(3);
    let mut store = Store::new(BASE);
    history.entries.iter().for_each(|entry| store.commit(entry.rev, &entry.events));
    let (head, end) = (store.revision(), history.ops.last().map_or(0, |op| op.end));
    let plans = reader::readers(options.kind, &mut rng, 24);
    let mut streams: Vec<Stream> = Vec::new();
    for (number, plan) in plans.iter().enumerate() {
        let mut at = rng.between(BASE as u64, (head - 1).max(BASE) as u64) as i64;
        let mut resumes = None;
        let mut listing = (plan.from == From::List).then(|| Listing {
            rev: at,
            kvs: store.range(&plan.watch.key, plan.watch.end.as_deref(), at).into_iter().cloned().collect(),
        });
        while at < head {
            let up_to = if plan.drop_after_ms > 0 { (at + rng.between(5, 80) as i64).min(head) } else { head };
            let id = streams.len() as u64 + 1;
            let mut watch = plan.watch.clone();
            watch.start_revision = if resumes.is_none() && listing.is_none() && rng.chance(0.3) { 0 } else { at + 1 };
            let created = Message { t: 0, rev: at, created: true, ..Message::default() };
            let mut stream =
                Stream { id, process: number as u32, watch, resumes, listing: listing.take(), ..Stream::default() };
            stream.messages.push(created);
            fill(&mut stream, history, &store, (at, up_to), &mut rng);
            stream.settled = (up_to == head).then_some(head);
            if stream.shown() < up_to {
                stream.messages.push(Message { t: end, rev: up_to, ..Message::default() });
            }
            (at, resumes) = (up_to, Some(id));
            streams.push(stream);
        }
    }
    streams
}

/// Sends the events behind `from` up to `to`, several revisions at once now and then, with progress in between.
fn fill(stream: &mut Stream, history: &History, store: &Store, (from, to): (i64, i64), rng: &mut Rng) {
    let mut batch: Vec<Event> = Vec::new();
    for entry in history.entries.iter().filter(|entry| entry.rev > from && entry.rev <= to) {
        for event in entry.events.iter().filter(|event| stream.watch.wants(event)) {
            let prev = store.get(&event.kv.key, entry.rev - 1).filter(|_| stream.watch.prev_kv).cloned();
            batch.push(Event { prev, ..event.clone() });
        }
        if !batch.is_empty() && rng.chance(0.6) {
            let events = std::mem::take(&mut batch);
            if stream.watch.fragment && events.len() > 1 && rng.chance(0.3) {
                let (first, rest) = events.split_at(events.len() / 2);
                let message = |events: &[Event], fragment| Message {
                    t: entry.t,
                    rev: entry.rev,
                    fragment,
                    events: events.to_vec(),
                    ..Message::default()
                };
                stream.messages.push(message(first, true));
                stream.messages.push(message(rest, false));
            } else {
                stream.messages.push(Message { t: entry.t, rev: entry.rev, events, ..Message::default() });
            }
        }
        if batch.is_empty() && rng.chance(0.1) {
            stream.messages.push(Message { t: entry.t, rev: entry.rev, ..Message::default() });
        }
    }
    if !batch.is_empty() {
        let t = history.ops.last().map_or(0, |op| op.end);
        stream.messages.push(Message { t, rev: to, events: batch, ..Message::default() });
    }
}
