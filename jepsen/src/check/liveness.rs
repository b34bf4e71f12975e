//! After all faults are undone: progress, every member answers, equal hashes. And what the guard saw: members that ended
//! by themselves. And whether each kind of fault had an effect at all, without which a run proves nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::Finding;
use crate::history::files::{Fault, Plan};
use crate::history::op::{Member, Op, Request};
use crate::nemesis::{BROKEN, HARNESS};

const SECOND: u64 = 1_000_000_000;
/// Some client's request is answered within this.
const PROGRESS_MAX: u64 = 10 * SECOND;
/// Every member answers, and all hashes are equal, within this.
const WHOLE_MAX: u64 = 30 * SECOND;

/// Judges the time after `plan.healed`, and the faults before.
pub fn check(ops: &[Op], faults: &[Fault], plan: &Plan) -> Finding {
    let mut finding = Finding::new("liveness");
    for fault in faults.iter().filter(|fault| fault.name.starts_with(BROKEN)) {
        finding.wrong(&fault.name, format!("node {:?}: {}", fault.nodes, fault.evidence), []);
    }
    let is_harness = |fault: &&Fault| fault.name.starts_with(HARNESS);
    if let Some(failed) = faults.iter().find(is_harness) {
        // Members that it did not start again, for instance, are silent through no fault of theirs.
        finding.undecided(format!("{}: {}", failed.name, failed.evidence));
        return finding;
    }
    let after = |op: &&Op| op.start >= plan.healed && op.reply().is_some() && !matches!(op.request, Request::Hold(..));
    let needs_quorum =
        |op: &&Op| !op.request.may_be_old() && !matches!(op.request, Request::Status | Request::HashKv(_));
    let answered: Vec<&Op> = ops.iter().filter(after).filter(needs_quorum).collect();
    finding.checked += answered.len() as u64;
    let seconds = |time: u64| time.saturating_sub(plan.healed) as f64 / SECOND as f64;
    let waited = ops.iter().map(|op| op.end).max().unwrap_or(0);
    let progress = Limit { plan, name: "no-progress", time: PROGRESS_MAX, waited };
    match answered.iter().map(|op| op.end).min() {
        Some(first) => {
            let text = || format!("first answer {:.1} s after everything was mended", seconds(first));
            progress.judge(&mut finding, Some(first), text);
        }
        None => progress.judge(&mut finding, None, || "no answer at all after everything was mended".into()),
    }
    let mut first: BTreeMap<u32, u64> = BTreeMap::new();
    for op in &answered {
        let end = first.entry(op.node).or_insert(op.end);
        *end = op.end.min(*end);
    }
    for node in 0..plan.nodes {
        let whole = Limit { plan, name: "member-silent", time: WHOLE_MAX, waited };
        let end = first.get(&node).copied();
        whole.judge(&mut finding, end, || match end {
            Some(end) => format!("node {node} answers after {:.1} s", seconds(end)),
            None => format!("node {node} does not answer any more"),
        });
    }
    check_hashes(&mut finding, ops, plan);
    for kind in &plan.nemeses {
        let effect: u64 = faults.iter().filter(|fault| fault.name == *kind).map(|fault| fault.effect).sum();
        if effect == 0 {
            finding.undecided(format!("no {kind} had an effect"));
        }
    }
    // A fault that met nothing is repeated at once: then the repetition counts.
    let repeated = |fault: &Fault| {
        faults.iter().any(|other| other.name == fault.name && other.effect > 0 && other.start >= fault.end)
    };
    let unproven = faults.iter().filter(|fault| fault.evidence.is_empty() && !repeated(fault));
    unproven.for_each(|fault| finding.undecided(format!("nothing shows that a {} had an effect", fault.name)));
    finding
}

/// Something must be there within a time after everything was mended.
struct Limit<'a> {
    plan: &'a Plan,
    /// What it is called when it is not.
    name: &'a str,
    time: u64,
    /// Until when what never came was waited for.
    waited: u64,
}

impl Limit<'_> {
    /// `end`: when it came, if it did. Seconds in which this machine was too busy do not count: what would have come in
    /// time without them is undecided.
    fn judge(&self, finding: &mut Finding, end: Option<u64>, text: impl FnOnce() -> String) {
        let Self { plan, name, time, waited } = self;
        let end = end.unwrap_or_else(|| *waited.max(&(plan.healed + time + 1)));
        if end <= plan.healed + time {
            return;
        }
        let seconds = plan.healed / SECOND..=end / SECOND;
        let busy = plan.busy.iter().filter(|second| seconds.contains(second)).count() as u64;
        match busy > 0 && end - plan.healed <= time + busy * SECOND {
            true => finding.undecided(format!("{}, but this machine was too busy in {busy} of these seconds", text())),
            false => finding.wrong(name, text(), []),
        }
    }
}

/// The answers to the last question of each member for its hash.
fn check_hashes(finding: &mut Finding, ops: &[Op], plan: &Plan) {
    let asked = ops.iter().filter(|op| matches!(op.request, Request::HashKv(_)) && op.start >= plan.healed);
    let mut last: BTreeMap<u32, &Op> = BTreeMap::new();
    for op in asked {
        let known = last.entry(op.node).or_insert(op);
        *known = if op.start > known.start { op } else { *known };
    }
    let round: Vec<Op> = last.values().map(|op| (*op).clone()).collect();
    if !equal_hashes(&round, plan.nodes as usize) {
        let shown = round.iter().map(|op| match member(op) {
            Some(one) => {
                format!("node {}: {} at {} under {}", op.node, one.hash, one.hash_revision, one.compact_revision)
            }
            None => format!("node {}: {:?}", op.node, op.outcome),
        });
        let text = format!("hashes are not equal in the end: {}", shown.collect::<Vec<_>>().join("; "));
        finding.wrong("hashes-differ", text, round.iter().map(|op| op.id));
    }
}

fn member(op: &Op) -> Option<&Member> {
    op.reply().and_then(|reply| reply.member.as_deref())
}

/// Whether two members gave different hashes of one revision under one compaction: they will not agree any more.
pub fn hashes_never_equal(round: &[Op]) -> bool {
    let mut known: BTreeMap<(i64, i64), u32> = BTreeMap::new();
    let differs =
        |one: &Member| *known.entry((one.hash_revision, one.compact_revision)).or_insert(one.hash) != one.hash;
    round.iter().filter_map(member).any(differs)
}

/// Whether this many members gave the same hash of the same revision under the same compaction.
pub fn equal_hashes(round: &[Op], members: usize) -> bool {
    let hashes: Vec<_> = round.iter().filter_map(member).collect();
    let different: BTreeSet<_> = hashes.iter().map(|one| (one.hash, one.hash_revision, one.compact_revision)).collect();
    hashes.len() == members && different.len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Judgement;

    #[test]
    fn a_fault_without_effect_leaves_a_run_undecided_unless_it_was_repeated_with_one() {
        let slow = |start, effect: u64| Fault {
            name: "slow".into(),
            start,
            end: start + 1,
            evidence: if effect > 0 { "held".into() } else { String::new() },
            effect,
            ..Fault::default()
        };
        let undecided = |faults: &[Fault]| {
            let plan = Plan { nemeses: vec!["slow".into()], healed: 1, ..Plan::default() };
            check(&[], faults, &plan).undecided.len()
        };
        assert_eq!(undecided(&[slow(1, 0), slow(5, 3)]), 0);
        assert_eq!(undecided(&[slow(1, 3), slow(5, 0)]), 1);
        assert_eq!(undecided(&[slow(1, 0)]), 2, "the fault, and its kind");
    }

    #[test]
    fn a_harness_that_failed_at_a_fault_leaves_silence_undecided() {
        let plan = Plan { nodes: 1, healed: 1, ..Plan::default() };
        assert_eq!(check(&[], &[], &plan).judgement, Judgement::Invalid);
        let failed = Fault { name: format!("{HARNESS}power-cut"), evidence: "in use".into(), ..Fault::default() };
        assert_eq!(check(&[], &[failed], &plan).judgement, Judgement::Unknown);
    }

    #[test]
    fn seconds_in_which_the_machine_was_too_busy_do_not_count() {
        let judged = |busy: std::ops::Range<u64>, end: Option<u64>| {
            let plan = Plan { healed: 20 * SECOND, busy: busy.collect(), ..Plan::default() };
            let mut finding = Finding::new("liveness");
            let limit = Limit { plan: &plan, name: "no-progress", time: PROGRESS_MAX, waited: 60 * SECOND };
            limit.judge(&mut finding, end.map(|end| end * SECOND), String::new);
            finding.judgement
        };
        assert_eq!(judged(0..0, Some(30)), Judgement::Valid);
        assert_eq!(judged(0..0, Some(35)), Judgement::Invalid);
        assert_eq!(judged(22..30, Some(35)), Judgement::Unknown);
        assert_eq!(judged(22..24, Some(35)), Judgement::Invalid, "13 other seconds are too many");
        assert_eq!(judged(0..20, Some(35)), Judgement::Invalid, "it was not busy any more");
        assert_eq!(judged(20..30, None), Judgement::Invalid);
        assert_eq!(judged(20..60, None), Judgement::Unknown);
    }
}
