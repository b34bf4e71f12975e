//! Locks and elections: everything done under the fence was done by the holder.
//!
//! In an asynchronous network no lock keeps two clients from believing that they hold it; the fence keeps the second one
//! from doing anything. Two believers at once are wrong only in quiet times.

use super::finding::Finding;
use crate::history::files::Fault;
use crate::history::op::{Op, Request, prefix_end};
use crate::history::stream::Log;
use crate::model::Store;
use crate::workload::lock::ELEMENTS;

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
    let mut beliefs: Vec<&Op> = ops.iter().filter(|op| matches!(op.request, Request::Hold(..))).collect();
    beliefs.sort_by_key(|op| op.start);
    finding.checked += beliefs.len() as u64;
    let mut latest: Option<&Op> = None;
    for belief in beliefs {
        if let Some(other) = latest.filter(|other| belief.start < other.end) {
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
