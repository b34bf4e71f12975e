//! Which checkers judge which workload, and what they say together.

use super::finding::{Finding, Judgement};
use super::{append, lease, liveness, lock, members, piece, reflector, revisions, search, set, totals, watch, wr};
use crate::history::files::History;
use crate::history::op::{Op, Request};
use crate::history::stream::Log;
use crate::model::Store;
use crate::workload::Kind;

/// Runs every checker that the history's workload has.
pub fn judge(history: &History) -> Vec<Finding> {
    let (log, disagreements) = history.log();
    let ops = &history.ops[..];
    let mut findings = Vec::new();
    let mut order = Finding::new("order");
    order.checked = history.entries.len() as u64;
    disagreements.into_iter().for_each(|text| order.wrong("members-disagree", text, []));
    findings.push(order);
    findings.push(revisions::check(ops, &log));
    findings.push(members::check(ops, &history.faults));
    if history.plan.healed > 0 {
        findings.push(liveness::check(ops, &history.faults, &history.plan));
    }
    if !history.streams.is_empty() {
        findings.push(watch::check(&history.streams, ops, &log));
    }
    match Kind::of(&history.plan.workload) {
        Some(Kind::Register) => findings.push(search::check(ops)),
        Some(Kind::Append) => findings.push(append::check(&append::lift(ops))),
        Some(Kind::Wr | Kind::Wide) => findings.push(wr::check(ops, crate::workload::wr::PREFIX)),
        Some(Kind::Set) => findings.push(set::check(ops)),
        Some(Kind::Bank) => findings.push(totals::bank(ops, &log)),
        Some(Kind::Counter) => findings.push(totals::counter(ops)),
        Some(Kind::Lease) => findings.push(lease::check(ops, &log, &history.faults)),
        Some(Kind::Lock | Kind::Election) => {
            findings.push(lock::check(ops, &log, &history.faults));
            findings.push(set::check_fenced(ops));
            findings.push(lease::check(ops, &log, &history.faults));
        }
        Some(Kind::Kubernetes) => findings.push(reflector::check(&history.streams, &log)),
        Some(Kind::Watch) | None => {}
    }
    excuse_search(&mut findings);
    findings
}

/// Finds the smallest piece of the history for what each checker found first; this may take seconds each.
pub fn explain(findings: &mut [Finding], history: &History) {
    let (log, _) = history.log();
    findings.iter_mut().filter(|one| one.judgement == Judgement::Invalid).for_each(|one| shrink(one, history, &log));
}

/// `search` has found its own piece; the others have no need of one, or name no operation.
fn shrink(finding: &mut Finding, history: &History, log: &Log) {
    let (ops, faults) = (&history.ops[..], &history.faults[..]);
    match finding.checker {
        "revisions" => piece::find(ops, finding, |part| revisions::check(part, log)),
        "members" => piece::find(ops, finding, |part| members::check(part, faults)),
        "append" => piece::find(ops, finding, |part| append::check(&append::lift(part))),
        "wr" => piece::find(ops, finding, |part| wr::check(part, crate::workload::wr::PREFIX)),
        "set-full" => piece::find(ops, finding, set::check),
        "fenced-set" => piece::find(ops, finding, set::check_fenced),
        "bank" => piece::find(ops, finding, |part| totals::bank(part, log)),
        "counter" => piece::find(ops, finding, totals::counter),
        "lease" => piece::find(ops, finding, |part| lease::check(part, log, faults)),
        "lock" => piece::find(ops, finding, |part| lock::check(part, log, faults)),
        "watch" => {
            // Of all operations it looks at compactions only.
            let compactions: Vec<Op> =
                ops.iter().filter(|op| matches!(op.request, Request::Compact(_))).cloned().collect();
            let store = Store::of(log);
            piece::find_watched(&history.streams, finding, |part| watch::check_on(&store, part, &compactions, log));
        }
        "reflector" => {
            let store = Store::of(log);
            piece::find_watched(&history.streams, finding, |part| reflector::check_on(&store, part));
        }
        _ => {}
    }
}

/// `search` is a second opinion. Where it is undecided, as with many operations without an outcome, and the exact
/// `revisions` found nothing, its limits are told and do not make the run one that proves nothing.
fn excuse_search(findings: &mut [Finding]) {
    let exact = findings.iter().any(|one| one.checker == "revisions" && one.judgement == Judgement::Valid);
    for finding in findings.iter_mut().filter(|one| one.checker == "search" && exact) {
        if finding.judgement == Judgement::Unknown {
            finding.judgement = Judgement::Valid;
        }
    }
}

/// The worst of all.
pub fn worst(findings: &[Finding]) -> Judgement {
    findings.iter().map(|finding| finding.judgement).max().unwrap_or(Judgement::Unknown)
}
