//! Leases: no key goes before its lease has run out, none stays much longer, all keys of a lease go in one revision, and
//! what is left of a TTL only falls between two keep-alives.
//!
//! Times are the clients': a lease lives at least from the sending of its last answered renewal for its TTL, and what a
//! watch shows happened before it arrived.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::finding::Finding;
use crate::history::files::Fault;
use crate::history::op::{Op, Reply, Request};
use crate::history::stream::Log;
use crate::model::Store;

const SECOND: u64 = 1_000_000_000;
/// How late an end may be in quiet times: etcd looks every half second and revokes at a limited rate.
const LATE_MAX: u64 = 3 * SECOND;
/// Servers count whole seconds.
const RESOLUTION: i64 = 1;

/// What is known of one lease.
#[derive(Default)]
struct Life<'a> {
    ttl: i64,
    granted: Option<&'a Op>,
    /// Answered grants and keep-alives: from sending to answer.
    renewals: Vec<(u64, u64)>,
    /// Keep-alives without an answer: it may live longer than is known.
    maybe_longer: bool,
    revokes: Vec<&'a Op>,
    /// The first moment by which it was surely over: its keys went, a revocation or an answer said so.
    gone: Option<u64>,
}

impl Life<'_> {
    /// The moment before which it cannot have ended by itself.
    fn earliest_end(&self) -> u64 {
        self.renewals.iter().map(|(start, _)| start + self.ttl as u64 * SECOND).max().unwrap_or(0)
    }

    /// The moment at which it must have ended, but for the server's slack.
    fn latest_end(&self) -> Option<u64> {
        let last = self.renewals.iter().map(|(_, end)| end + self.ttl as u64 * SECOND).max()?;
        (!self.maybe_longer).then_some(last)
    }

    fn is_gone_by(&mut self, moment: u64) {
        self.gone = Some(self.gone.map_or(moment, |gone| gone.min(moment)));
    }

    fn revoked_before(&self, moment: u64) -> bool {
        self.revokes.iter().any(|op| !op.is_refused() && op.start <= moment)
    }
}

/// Judges all leases.
pub fn check(ops: &[Op], log: &Log, faults: &[Fault]) -> Finding {
    let mut store = Store::new(log.base);
    log.entries.values().for_each(|entry| store.commit(entry.rev, &entry.events));
    let faults = [faults, &unrest(ops)].concat();
    let mut run = Run { finding: Finding::new("lease"), lives: lives(ops), ops, log, store, faults: &faults };
    run.check_ends();
    run.check_remains();
    run.check_revokes();
    run.check_answers();
    run.finding
}

/// Times in which a member knew no leader, or another one than before, whatever the reason (a busy machine is one): as in
/// a fault, leases may have been given their whole TTL again.
fn unrest(ops: &[Op]) -> Vec<Fault> {
    let mut last: HashMap<u32, (&Op, bool, (u64, &str))> = HashMap::new();
    let mut times = Vec::new();
    for op in ops.iter().filter(|op| matches!(op.request, Request::Status)) {
        let Some(member) = op.reply().and_then(|reply| reply.member.as_deref()) else { continue };
        let (is_led, leader) = (member.leader != "0", (member.term, member.leader.as_str()));
        if let Some((before, was_led, old)) = last.insert(op.node, (op, is_led, leader))
            && !(was_led && is_led && old == leader)
        {
            let (name, nodes) = ("no leader".to_owned(), vec![op.node]);
            times.push(Fault {
                name,
                nodes,
                start: before.start,
                end: op.end,
                evidence: String::new(),
                effect: 0,
                forgotten: Default::default(),
            });
        }
    }
    times
}

fn lives(ops: &[Op]) -> BTreeMap<i64, Life<'_>> {
    let mut lives: BTreeMap<i64, Life> = BTreeMap::new();
    for op in ops {
        match (&op.request, op.reply()) {
            (Request::Grant(id, _), Some(reply)) => {
                let life = lives.entry(*id).or_default();
                life.ttl = reply.ttl;
                life.granted = Some(op);
                life.renewals.push((op.start, op.end));
            }
            (Request::KeepAlive(id), Some(reply)) if reply.ttl > 0 => {
                lives.entry(*id).or_default().renewals.push((op.start, op.end));
            }
            (Request::KeepAlive(id), None) if op.is_unknown() => lives.entry(*id).or_default().maybe_longer = true,
            (Request::Revoke(id), _) => lives.entry(*id).or_default().revokes.push(op),
            _ => {}
        }
    }
    lives.retain(|_, life| life.granted.is_some());
    lives
}

struct Run<'a> {
    finding: Finding,
    lives: BTreeMap<i64, Life<'a>>,
    ops: &'a [Op],
    log: &'a Log,
    store: Store,
    faults: &'a [Fault],
}

impl Run<'_> {
    fn quiet(&self, from: u64, to: u64) -> bool {
        self.faults.iter().all(|fault| fault.end < from || fault.start > to)
    }

    /// Revisions that requests of clients made, as far as they could have deleted something.
    fn owned(&self) -> HashSet<i64> {
        let deleting = |op: &&Op| matches!(op.request, Request::Delete(_) | Request::Txn(_));
        self.ops.iter().filter(deleting).filter_map(|op| op.reply()).map(|reply| reply.rev).collect()
    }

    /// Deletions that nobody asked for are ends of leases.
    fn check_ends(&mut self) {
        let owned = self.owned();
        let maybe = self.ops.iter().any(|op| op.is_unknown() && matches!(op.request, Request::Delete(_)));
        for entry in self.log.entries.values().filter(|entry| entry.events.iter().all(|event| event.deleted)) {
            if owned.contains(&entry.rev) {
                continue;
            }
            let lease = |key: &str| self.store.get(key, entry.rev - 1).map_or(0, |kv| kv.lease);
            let Some(id) = entry.events.first().map(|event| lease(&event.kv.key)).filter(|id| *id != 0) else {
                continue;
            };
            if let Some(life) = self.lives.get_mut(&id).filter(|_| !maybe) {
                life.is_gone_by(entry.t);
            }
            let Some(life) = self.lives.get(&id) else { continue };
            self.finding.checked += 1;
            let granted = life.granted.map(|op| op.id);
            let all = self.store.end_of_lease(id, entry.rev - 1, entry.rev);
            if all.len() != entry.events.len() && !maybe {
                let text = format!(
                    "revision {} took {} keys of lease {id}, which had {}",
                    entry.rev,
                    entry.events.len(),
                    all.len()
                );
                self.finding.wrong("revoke-in-parts", text, granted);
            }
            if life.revoked_before(entry.t) || maybe {
                continue;
            }
            let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / SECOND as f64;
            let earliest = life.earliest_end();
            if entry.t < earliest {
                let text =
                    format!("lease {id} ended at revision {}, {:.3} s early", entry.rev, seconds(entry.t, earliest));
                self.finding.wrong("early-end", text, granted);
            }
            if let Some(latest) = life.latest_end()
                && entry.t > latest + LATE_MAX
                && self.quiet(life.granted.map_or(0, |op| op.start), entry.t)
            {
                let text =
                    format!("lease {id} ended {:.3} s late, at revision {}", seconds(latest, entry.t), entry.rev);
                self.finding.wrong("late-end", text, granted);
            }
        }
    }

    /// Keys that are still there at the end although their lease is over.
    fn check_remains(&mut self) {
        let end = self.ops.iter().map(|op| op.end).max().unwrap_or(0);
        for (id, life) in &self.lives {
            let Some(latest) = life.latest_end().filter(|latest| latest + LATE_MAX < end) else { continue };
            let head = self.log.head();
            let remains = self.store.end_of_lease(*id, head, head + 1);
            // The last thing that the log showed may be older than the end: then it proves nothing.
            let seen = self.log.entries.values().next_back().map_or(0, |entry| entry.t);
            if !remains.is_empty() && seen > latest + LATE_MAX && self.quiet(latest, seen) {
                let text = format!("lease {id} is over, but {} is still there", remains[0].kv.key);
                self.finding.wrong("late-end", text, life.granted.map(|op| op.id));
            }
        }
    }

    /// An answered revocation took all keys.
    fn check_revokes(&mut self) {
        for (id, life) in &self.lives {
            for op in &life.revokes {
                let Some(reply) = op.reply() else { continue };
                self.finding.checked += 1;
                if let Some(left) = self.store.end_of_lease(*id, reply.rev.min(self.log.head()), 0).first() {
                    let text = format!("lease {id} was revoked, {} is there at revision {}", left.kv.key, reply.rev);
                    self.finding.wrong("revoke-incomplete", text, [op.id]);
                }
            }
        }
    }

    /// What keep-alives and questions for the TTL were told.
    fn check_answers(&mut self) {
        let mut answers: HashMap<i64, Vec<(&Op, &Reply)>> = HashMap::new();
        for op in self.ops {
            if let (Request::KeepAlive(id) | Request::TimeToLive(id), Some(reply)) = (&op.request, op.reply()) {
                answers.entry(*id).or_default().push((op, reply));
            }
        }
        let faults = self.faults;
        for (id, life) in &mut self.lives {
            let over: Vec<u64> = life.revokes.iter().filter(|op| op.reply().is_some()).map(|op| op.end).collect();
            over.into_iter().for_each(|end| life.is_gone_by(end));
            let told_gone = |(op, reply): &&(&Op, &Reply)| is_gone(op, reply);
            let first = answers.get(id).into_iter().flatten().filter(told_gone).map(|(op, _)| op.end).min();
            if let Some(end) = first.filter(|end| life.granted.is_some_and(|grant| grant.end < *end)) {
                life.is_gone_by(end);
            }
            for (op, reply) in answers.get(id).into_iter().flatten() {
                self.finding.checked += 1;
                let extended = |from: u64| faults.iter().any(|fault| fault.start <= op.end && fault.end >= from);
                if let Some((name, text)) = wrong_answer(life, op, reply, extended) {
                    self.finding.wrong(name, format!("lease {id}: {text}"), [op.id]);
                }
            }
        }
    }
}

fn is_gone(op: &Op, reply: &Reply) -> bool {
    if matches!(op.request, Request::TimeToLive(_)) { reply.ttl < 0 && reply.granted == 0 } else { reply.ttl <= 0 }
}

/// `extended`: whether a new leader may have given every lease its whole TTL again since a moment, with the time of an
/// election on top, as etcd's does.
fn wrong_answer(life: &Life, op: &Op, reply: &Reply, extended: impl Fn(u64) -> bool) -> Option<(&'static str, String)> {
    let asks = matches!(op.request, Request::TimeToLive(_));
    if is_gone(op, reply) {
        let early = op.end < life.earliest_end() && op.start > life.granted?.end;
        return (early && !life.revoked_before(op.end)).then(|| ("early-end", "it is gone before its time".into()));
    }
    // What etcd's leader says of a lease that is past its time and not revoked; if it does not lead any more its
    // successor may have given the lease time again, or ended it.
    let is_overdue = asks && reply.ttl < 0;
    if !is_overdue && life.gone.is_some_and(|gone| gone < op.start) {
        return Some(("came-back", format!("it was over, and answers {} s", reply.ttl)));
    }
    if !asks {
        return (reply.ttl != life.ttl)
            .then(|| ("wrong-ttl", format!("it was granted for {} s, renewed for {} s", life.ttl, reply.ttl)));
    }
    let start = life.granted.map_or(0, |grant| grant.start);
    if reply.granted != life.ttl || (reply.ttl > life.ttl && !extended(start)) {
        return Some(("wrong-ttl", format!("{} of {} s left, granted for {} s", reply.ttl, reply.granted, life.ttl)));
    }
    let whole = |nanoseconds: u64| (nanoseconds / SECOND) as i64;
    let before = || life.renewals.iter().filter(|(start, _)| *start <= op.end);
    // The newest renewal that had surely happened, and the newest that may have.
    let surely = before().filter(|(_, end)| *end <= op.start).map(|(start, _)| *start).max()?;
    let least = life.ttl - whole(op.end.saturating_sub(surely)) - 1 - RESOLUTION;
    if reply.ttl < least {
        return Some(("ttl-too-low", format!("{} s left, at least {least} had to be", reply.ttl)));
    }
    let perhaps = before().map(|(_, end)| *end).max()?;
    let most = life.ttl - whole(op.start.saturating_sub(perhaps)) + RESOLUTION;
    let lives_on = reply.ttl > most.max(RESOLUTION) && !life.maybe_longer && !extended(start);
    lives_on.then(|| ("ttl-not-falling", format!("{} s left, at most {most} may be", reply.ttl)))
}
