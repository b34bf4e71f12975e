//! What one run came to in numbers, as `verdict.json` keeps them: all that a report over many runs needs when the
//! history itself is gone.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::check::finding::{Finding, Judgement};
use crate::history::files::{Fault, Forgotten, History};
use crate::history::op::{Op, Request};
use crate::nemesis::{BROKEN, HARNESS};

const SECOND: u64 = 1_000_000_000;
/// Numbers of processes from here on are samplers, readers and final reads.
const CLIENTS_BELOW: u32 = 10_000;
/// Faults that take a leader away without touching its followers, when they hit fewer than half of all members.
const TAKES_LEADER: [&str; 4] = ["kill", "power-cut", "pause", "partition"];
/// Faults that take nobody away.
const HARMLESS: [&str; 3] = ["compact", "defrag", "snapshot"];

/// Faults of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Count {
    /// Windows whose evidence shows an effect,
    pub with_effect: u64,
    /// and those without.
    pub without: u64,
    /// The sum of the effects, in the kind's unit.
    pub effect: u64,
}

/// How long clients waited for an answer because a leader was taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recovery {
    /// By which kind of fault.
    pub fault: String,
    /// The longest time between two answers round its start, in milliseconds.
    pub ms: u64,
    /// No other fault that disturbs answers overlapped.
    pub alone: bool,
}

/// One run in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// The workload.
    pub workload: String,
    /// How many members.
    pub members: u32,
    /// The seed.
    pub seed: u64,
    /// The binary,
    pub target: String,
    /// the first line of its `--version`,
    pub version: String,
    /// and its SHA-256.
    pub sha256: String,
    /// Kinds of faults that were to happen.
    pub nemeses: Vec<String>,
    /// Seconds of load as planned,
    pub seconds: u64,
    /// and from the first operation to the last, what comes after the load included.
    pub seconds_observed: u64,
    /// Operations in the history,
    pub operations: u64,
    /// of those: answered,
    pub answered: u64,
    /// refused,
    pub refused: u64,
    /// and left without an outcome.
    pub unknown: u64,
    /// What each checker looked at, in its unit.
    pub checked: BTreeMap<String, u64>,
    /// Changes in the order of all.
    pub changes: u64,
    /// Watch streams,
    pub streams: u64,
    /// and events on them, each compared with the order of all changes,
    pub watch_events: u64,
    /// besides those that the collectors of all members were sent, compared with each other.
    pub collected_events: u64,
    /// Faults by kind.
    pub faults: BTreeMap<String, Count>,
    /// Power cuts in which at least one page was lost.
    pub cuts_with_loss: u64,
    /// What all power cuts took.
    pub forgotten: Forgotten,
    /// Terms with a leader that were seen, but the first.
    pub leader_changes: u64,
    /// Seconds of load, the late part included.
    pub seconds_loaded: u64,
    /// Of those, the ones in which no client got an answer that needs a quorum.
    pub seconds_without_service: u64,
    /// The longest time between two such answers, in milliseconds.
    pub gap_ms_max: u64,
    /// Times without service after a leader was taken away.
    pub recoveries: Vec<Recovery>,
    /// Checkers that found something, with the first of what they found.
    pub invalid: BTreeMap<String, String>,
    /// Checkers that could not decide, with the first reason.
    pub undecided: BTreeMap<String, String>,
}

impl Tally {
    /// Counts a history that was judged.
    pub fn of(history: &History, findings: &[Finding]) -> Self {
        let plan = &history.plan;
        let count = |of: fn(&Op) -> bool| history.ops.iter().filter(|op| of(op)).count() as u64;
        let loaded_until = if plan.healed > 0 { plan.healed } else { plan.seconds * SECOND };
        let answers = answers(&history.ops);
        let within = answers.partition_point(|time| *time <= loaded_until);
        let gap = gap_between(&answers[..within], 0, loaded_until, loaded_until);
        let said = |judgement: Judgement, what: fn(&Finding) -> Option<String>| {
            let those = findings.iter().filter(|finding| finding.judgement == judgement);
            those.map(|finding| (finding.checker.to_owned(), what(finding).unwrap_or_default())).collect()
        };
        let mut tally = Self {
            workload: plan.workload.clone(),
            members: plan.nodes,
            seed: plan.seed,
            target: plan.target.clone(),
            version: plan.version.clone(),
            sha256: plan.sha256.clone(),
            nemeses: plan.nemeses.clone(),
            seconds: plan.seconds,
            seconds_observed: history.ops.iter().map(|op| op.end).max().unwrap_or(0) / SECOND,
            operations: history.ops.len() as u64,
            answered: count(|op| op.reply().is_some()),
            refused: count(Op::is_refused),
            unknown: count(Op::is_unknown),
            checked: findings.iter().map(|finding| (finding.checker.to_owned(), finding.checked)).collect(),
            changes: history.entries.iter().map(|entry| entry.rev).collect::<BTreeSet<_>>().len() as u64,
            streams: history.streams.len() as u64,
            watch_events: history.streams.iter().flat_map(|one| &one.messages).map(|one| one.events.len() as u64).sum(),
            collected_events: history.entries.iter().map(|entry| entry.events.len() as u64).sum(),
            leader_changes: terms(&history.ops).len().saturating_sub(1) as u64,
            seconds_loaded: loaded_until / SECOND,
            seconds_without_service: silent_seconds(&answers, loaded_until),
            gap_ms_max: gap / 1_000_000,
            recoveries: recoveries(history, &answers),
            invalid: said(Judgement::Invalid, |finding| {
                finding.anomalies.first().map(|anomaly| format!("{}: {}", anomaly.name, anomaly.text))
            }),
            undecided: said(Judgement::Unknown, |finding| finding.undecided.first().cloned()),
            ..Self::default()
        };
        let is_fault = |fault: &&Fault| !fault.name.starts_with(BROKEN) && !fault.name.starts_with(HARNESS);
        for fault in history.faults.iter().filter(is_fault) {
            let count = tally.faults.entry(fault.name.clone()).or_default();
            let had_effect = u64::from(fault.effect > 0);
            count.with_effect += had_effect;
            count.without += 1 - had_effect;
            count.effect += fault.effect;
            tally.cuts_with_loss += u64::from(fault.forgotten.pages_lost > 0);
            tally.forgotten.add(&fault.forgotten);
        }
        tally
    }

    /// Faults of all kinds that had an effect.
    pub fn faults_with_effect(&self) -> u64 {
        self.faults.values().map(|count| count.with_effect).sum()
    }

    /// Whether a checker other than `liveness`, which tells of faults without effect, could not decide.
    pub fn is_unknown(&self) -> bool {
        self.undecided.keys().any(|checker| checker != "liveness")
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            to,
            "{} operations ({} answered, {} unknown), {} changes, {} watch events on {} streams, {} faults",
            self.operations,
            self.answered,
            self.unknown,
            self.changes,
            self.watch_events,
            self.streams,
            self.faults_with_effect()
        )?;
        if self.forgotten.members > 0 {
            let lost = &self.forgotten;
            write!(to, ", {} members cut, {} of {} pages lost", lost.members, lost.pages_lost, lost.pages_unsynced)?;
        }
        write!(to, ", {} s of {} without service", self.seconds_without_service, self.seconds_loaded)
    }
}

/// When clients got answers that only a quorum can give, in order.
fn answers(ops: &[Op]) -> Vec<u64> {
    let serves = |op: &&Op| {
        let asks = !op.request.may_be_old() && !matches!(op.request, Request::Status | Request::HashKv(_));
        op.process < CLIENTS_BELOW && asks && op.reply().is_some() && !matches!(op.request, Request::Hold(..))
    };
    let mut times: Vec<u64> = ops.iter().filter(serves).map(|op| op.end).collect();
    times.sort_unstable();
    times
}

/// Whole seconds without an answer.
fn silent_seconds(answers: &[u64], until: u64) -> u64 {
    let served: BTreeSet<u64> = answers.iter().map(|time| time / SECOND).collect();
    (0..until / SECOND).filter(|second| !served.contains(second)).count() as u64
}

/// The longest time between two answers that overlaps `from..to`; the run's beginning and `end` count as answers.
fn gap_between(answers: &[u64], from: u64, to: u64, end: u64) -> u64 {
    let mut longest = 0;
    let mut before = answers[..answers.partition_point(|time| *time <= from)].last().copied().unwrap_or(0);
    for time in answers[answers.partition_point(|time| *time <= from)..].iter().chain([&end]) {
        longest = longest.max(time.saturating_sub(before));
        before = *time;
        if *time > to {
            break;
        }
    }
    longest
}

/// Terms in which a member said that it leads: since when, and which member.
fn terms(ops: &[Op]) -> BTreeMap<u64, (u64, u32)> {
    let mut terms = BTreeMap::new();
    let mut samples: Vec<&Op> = ops.iter().filter(|op| matches!(op.request, Request::Status)).collect();
    samples.sort_by_key(|op| op.end);
    for op in samples {
        let Some(member) = op.reply().and_then(|reply| reply.member.as_ref()) else { continue };
        if member.member == member.leader {
            terms.entry(member.term).or_insert((op.end, op.node));
        }
    }
    terms
}

/// Of each fault that took the leader and left a majority alone: how long nobody was answered.
fn recoveries(history: &History, answers: &[u64]) -> Vec<Recovery> {
    let terms = terms(&history.ops);
    let leader_at = |time: u64| terms.values().filter(|(since, _)| *since <= time).max().map(|(_, node)| *node);
    let end = if history.plan.healed > 0 { history.plan.healed } else { u64::MAX };
    let mut all = Vec::new();
    for fault in history.faults.iter().filter(|fault| TAKES_LEADER.contains(&fault.name.as_str()) && fault.effect > 0) {
        let few = fault.nodes.len() * 2 < history.plan.nodes as usize;
        if !few || leader_at(fault.start).is_none_or(|leader| !fault.nodes.contains(&leader)) {
            continue;
        }
        let disturbs = |other: &Fault| {
            let together = other.start < fault.end && other.end > fault.start;
            together && !std::ptr::eq(other, fault) && !HARMLESS.contains(&other.name.as_str())
        };
        let alone = !history.faults.iter().any(disturbs);
        let ms = gap_between(answers, fault.start, fault.end, end.max(fault.start)) / 1_000_000;
        all.push(Recovery { fault: fault.name.clone(), ms, alone });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::judge::judge;
    use crate::simulate::{Options, simulate};
    use crate::workload::Kind;

    #[test]
    fn the_longest_silence_that_overlaps_a_fault_is_found() {
        let answers = [10, 20, 90, 100, 300];
        assert_eq!(gap_between(&answers, 30, 95, 400), 70);
        assert_eq!(gap_between(&answers, 0, 400, 400), 200);
        assert_eq!(gap_between(&answers, 350, 390, 400), 100);
        assert_eq!(gap_between(&[], 0, 400, 400), 400);
    }

    #[test]
    fn seconds_without_any_answer_are_counted() {
        assert_eq!(silent_seconds(&[SECOND / 2, 3 * SECOND], 4 * SECOND), 2);
    }

    #[test]
    fn a_tally_adds_up_and_reads_back() {
        let (mut history, _) = simulate(Options::new(Kind::Watch, 1, 600));
        let forgotten = Forgotten { members: 2, pages_lost: 3, ..Forgotten::default() };
        for (effect, name) in [(2, "power-cut"), (0, "power-cut"), (1, "broken: panic")] {
            history.faults.push(Fault { name: name.into(), effect, forgotten, ..Fault::default() });
        }
        let tally = Tally::of(&history, &judge(&history));
        assert_eq!(tally.answered + tally.refused + tally.unknown, tally.operations);
        assert!(tally.watch_events > 0 && tally.checked["watch"] >= tally.watch_events);
        assert_eq!(tally.faults.len(), 1, "what broke by itself is no fault of ours");
        assert_eq!(tally.faults["power-cut"], Count { with_effect: 1, without: 1, effect: 2 });
        assert_eq!((tally.cuts_with_loss, tally.forgotten.pages_lost), (2, 6));
        let text = serde_json::to_string(&tally).unwrap();
        assert_eq!(serde_json::from_str::<Tally>(&text).unwrap(), tally);
    }
}
