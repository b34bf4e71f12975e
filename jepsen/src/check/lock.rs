//! Locks and elections: everything done under the fence was done by the holder.
//!
//! In an asynchronous network no lock keeps two clients from believing that they hold it; the fence keeps the second one
//! from doing anything. Two believers at once are wrong only in quiet times.

use std::collections::BTreeMap;

use super::finding::Finding;
use crate::history::files::Fault;
use crate::history::op::{Op, Request, prefix_end};
use crate::history::stream::Log;
use crate::model::Store;
use crate::workload::lock::ELEMENTS;
use crate::workload::script::SECOND;

/// Judges a history of the workloads `lock` and `election`.
pub fn check(ops: &[Op], log: &Log, faults: &[Fault]) -> Finding {
    let mut finding = Finding::new("lock");
    let mut store = Store::new(log.base);
    for entry in log.entries.values() {
        for event in entry.events.iter().filter(|event| !event.deleted && event.kv.key.starts_with(ELEMENTS)) {
            finding.checked += 1;
            // The element's value is the key under which its writer held.
            let key = &event.kv.value;
            let name = &key[..key.find('/').map_or(0, |at| at + 1)];
            let end = prefix_end(name);
            let candidates = store.range(name, Some(&end), entry.rev - 1);
            let holder = candidates.iter().min_by_key(|kv| kv.create_revision).map(|kv| kv.key.as_str());
            if holder != Some(key.as_str()) {
                let writer = ops.iter().find(|op| op.reply().is_some_and(|reply| reply.rev == entry.rev));
                let text = format!("{} was added at revision {} under {key}, {holder:?} held", event.kv.key, entry.rev);
                finding.wrong("fence-broken", text, writer.map(|op| op.id));
            }
        }
        store.commit(entry.rev, &entry.events);
    }
    let trusted = trusted_until(ops);
    let mut beliefs: Vec<&Op> = ops.iter().filter(|op| matches!(op.request, Request::Hold(..))).collect();
    beliefs.sort_by_key(|op| op.start);
    finding.checked += beliefs.len() as u64;
    let mut latest: Option<&Op> = None;
    for belief in beliefs {
        if let Some(other) = latest.filter(|other| belief.start < other.end.min(trusted(other)))
            && belief.start < trusted(belief)
        {
            let quiet = faults.iter().all(|fault| fault.end < other.start || fault.start > belief.end);
            if quiet {
                finding.wrong("two-holders", "both believed that they held, without any fault", [other.id, belief.id]);
            }
        }
        if latest.is_none_or(|other| other.end < belief.end) {
            latest = Some(belief);
        }
    }
    finding
}

/// Until when a believer could trust its lease, which is in its key's name and which it never renews: what a new leader
/// gives it on top it cannot know of.
fn trusted_until(ops: &[Op]) -> impl Fn(&Op) -> u64 {
    let granted = ops.iter().filter(|op| op.reply().is_some());
    let ends: BTreeMap<i64, u64> = granted
        .filter_map(|op| match op.request {
            Request::Grant(lease, ttl) => Some((lease, op.start.saturating_add(ttl.unsigned_abs() * SECOND))),
            _ => None,
        })
        .collect();
    move |belief| {
        let Request::Hold(_, key, _) = &belief.request else { return u64::MAX };
        let lease = key.rsplit('/').next().and_then(|lease| i64::from_str_radix(lease, 16).ok());
        lease.and_then(|lease| ends.get(&lease).copied()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::op::{Outcome, Reply};

    fn op(id: u64, (start, end): (u64, u64), request: Request) -> Op {
        Op { id, process: id as u32, node: 0, start, end, request, outcome: Outcome::Ok { out: Reply::default() } }
    }

    fn hold(id: u64, seconds: (u64, u64), lease: i64) -> Op {
        let (start, end) = seconds;
        op(id, (start * SECOND, end * SECOND), Request::Hold("lock/".into(), format!("lock/{lease:x}"), 1))
    }

    #[test]
    fn a_belief_counts_for_as_long_as_its_lease_could_be_trusted() {
        let grant = |id, lease| op(id, (id, id + 1), Request::Grant(lease, 5));
        let judge = |first: (u64, u64), second: (u64, u64)| {
            let ops = [grant(0, 17), grant(1, 18), hold(2, first, 17), hold(3, second, 18)];
            check(&ops, &Log::default(), &[]).has("two-holders")
        };
        assert!(judge((1, 3), (2, 4)), "both trust their leases");
        assert!(!judge((1, 9), (6, 8)), "the second begins when no lease of the two can be trusted");
        assert!(!judge((1, 2), (3, 4)), "one after the other");
    }
}
