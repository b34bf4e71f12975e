//! The smallest piece of a history that still fails: operations are removed as long as the checker finds the same.
//!
//! The same is an anomaly of the same name that shares an operation with the one that was found, or, for a cycle, names
//! just the same operations; without its witnesses (the reads that fix an order, the writes that were read) it is gone.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::finding::{Anomaly, Finding};
use crate::history::op::{Op, Request};
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

    #[test]
    fn a_cycle_keeps_all_its_operations() {
        let (_, anomaly) = piece(Kind::Append, Bug::StaleRead, "append");
        if !anomaly.cycle.is_empty() {
            assert!(anomaly.operations.iter().all(|id| anomaly.piece.contains(id)), "{anomaly:?}");
        }
    }
}
