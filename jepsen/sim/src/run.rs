//! One seed from its beginning to the verdict: load with faults, then everything is mended and must work again, then the
//! history is judged.

use std::collections::BTreeMap;
use std::time::Duration;

use jepsen::check::finding::{Finding, Judgement};
use jepsen::check::{lease, revisions, watch};
use jepsen::history::files::Fault;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, STOP_DEADLINE};
use crate::invariant::Broken;
use crate::member::Ask;
use crate::nemesis::Nemesis;
use crate::plan::Plan;

/// Once everything is mended, members must serve, take writes and agree within this.
const LIVENESS_DEADLINE: Duration = Duration::from_secs(20);
/// How often the membership is looked at.
const MEMBERSHIP_INTERVAL: Duration = Duration::from_millis(50);
/// How often, at the end, each member is asked for a write until it has done one.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// A run with fewer answered operations proves nothing.
const ANSWERED_MIN: u64 = 10;

/// What panicked; a task's panic ends the task alone and would go unseen.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Lets every panic of the process be a failure of its run.
pub fn note_panics() {
    std::panic::set_hook(Box::new(|panic| PANICS.lock().push(panic.to_string().replace('\n', " "))));
}

/// What came of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Broken promises; none = valid.
    pub failures: Vec<String>,
    /// Why the run proves nothing, if it does not.
    pub inconclusive: Vec<String>,
    /// The hash of all events.
    pub trace_hash: String,
    /// How many there were.
    pub events: u64,
    /// Simulated time, seconds.
    pub simulated_seconds: f64,
    /// Steps of the world.
    pub steps: u64,
    /// Seconds from the mending until everything worked.
    pub recovery_seconds: f64,
    /// Operations of clients.
    pub operations: u64,
    /// Those that were answered.
    pub answered: u64,
    /// Those without an outcome.
    pub unknown: u64,
    /// Log entries that were applied.
    pub entries: u64,
    /// Terms with a leader.
    pub terms: u64,
    /// Snapshots installed by laggards.
    pub installs: u64,
    /// Messages on watches.
    pub messages: u64,
    /// Processes that ended in the middle.
    pub crashes: u64,
    /// Requests between members that were handled a second time.
    pub copies: u64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
}

/// Runs a plan. Of a process it must be the only run: see `determinism`.
pub fn run(plan: Plan, prints: bool) -> (Outcome, Vec<(Duration, String)>) {
    let (seed, load) = (plan.seed, plan.load);
    let mut cluster = Cluster::new(plan, prints);
    let mut nemesis = Nemesis::new(seed);
    let mut membership_at = Duration::ZERO;
    while cluster.elapsed() < load {
        let ended = cluster.step();
        nemesis.step(&mut cluster, ended);
        if cluster.elapsed() >= membership_at {
            membership_at = cluster.elapsed() + MEMBERSHIP_INTERVAL;
            cluster.follow_membership();
        }
    }
    nemesis.heal(&mut cluster);
    let healed = cluster.elapsed();
    if let Err(why) = recover(&mut cluster) {
        cluster.world.witness.breaks("liveness", why);
    }
    let recovery = cluster.elapsed() - healed;
    let mut failures: Vec<String> = cluster.world.witness.broken().iter().map(describe).collect();
    failures.extend(PANICS.lock().iter().map(|panic| format!("panic: {panic}")));
    let mut inconclusive = Vec::new();
    for finding in judge(&cluster, healed) {
        let anomalies = finding.anomalies.iter().map(|one| format!("{} {}: {}", finding.checker, one.name, one.text));
        failures.extend(anomalies.take(3));
        if finding.judgement == Judgement::Unknown {
            inconclusive.extend(finding.undecided.iter().map(|why| format!("{}: {why}", finding.checker)));
        }
    }
    let counts = cluster.world.witness.counts();
    if counts.answered < ANSWERED_MIN {
        inconclusive.push(format!("only {} operations were answered", counts.answered));
    }
    let copies = nemesis.count_copies(&cluster);
    let (events, hash) = cluster.world.witness.trace.sum();
    let outcome = Outcome {
        seed,
        failures,
        inconclusive,
        trace_hash: format!("{hash:016x}"),
        events,
        simulated_seconds: cluster.elapsed().as_secs_f64(),
        steps: cluster.steps(),
        recovery_seconds: recovery.as_secs_f64(),
        operations: counts.operations,
        answered: counts.answered,
        unknown: counts.unknown,
        entries: counts.entries,
        terms: counts.terms,
        installs: counts.installs,
        messages: counts.messages,
        crashes: nemesis.crashes,
        copies,
        faults: nemesis.counts.iter().map(|(kind, count)| (kind.name().to_owned(), *count)).collect(),
    };
    (outcome, nemesis.list)
}

fn describe(broken: &Broken) -> String {
    format!("{}: {}", broken.invariant, broken.text)
}

/// Waits until all members serve, have taken a write each and agree.
fn recover(cluster: &mut Cluster) -> Result<(), String> {
    let healed = cluster.elapsed();
    let deadline = healed + LIVENESS_DEADLINE;
    let mut probes: BTreeMap<usize, Probe> = BTreeMap::new();
    let mut asked = 1 << 32;
    let mut clients_stopped = false;
    loop {
        for ended in cluster.step() {
            // Who was removed hears of it now.
            if ended.reason.contains("removed from the cluster") {
                cluster.vacate(ended.slot);
                probes.remove(&ended.slot);
            } else if ended.disk_failed && cluster.elapsed() <= healed + STOP_DEADLINE {
                // Its disk failed before it was mended; a new process finds nothing wrong.
                probes.remove(&ended.slot);
                cluster.start(ended.slot);
            } else {
                return Err(format!("{} ended by itself: {}", ended.slot, ended.reason));
            }
        }
        cluster.follow_membership();
        let now = cluster.elapsed();
        for slot in cluster.live() {
            let probe = probes.entry(slot).or_default();
            let answers = cluster.slots[slot].answers();
            probe.is_done |= answers.iter().any(|(id, answer)| *id == probe.id && answer.is_ok());
            if !probe.is_done && now >= probe.again_at {
                asked += 1;
                *probe = Probe { id: asked, again_at: now + PROBE_INTERVAL, is_done: false };
                cluster.slots[slot].ask(asked, Ask::Probe(format!("p{asked}")));
            }
        }
        let seats = seats(cluster);
        let all_probed = seats.iter().all(|slot| probes.get(slot).is_some_and(|probe| probe.is_done));
        if all_probed && !seats.is_empty() && !clients_stopped {
            cluster.world.clients.stop();
            clients_stopped = true;
        }
        if clients_stopped && agree(cluster, &seats) {
            return Ok(());
        }
        if now >= deadline {
            let states = seats.iter().map(|&slot| state(cluster, slot)).collect::<Vec<_>>();
            return Err(format!("after {LIVENESS_DEADLINE:?} members do not all serve and agree: {states:?}"));
        }
    }
}

#[derive(Default)]
struct Probe {
    id: u64,
    again_at: Duration,
    is_done: bool,
}

/// The slots of the cluster's members.
fn seats(cluster: &Cluster) -> Vec<usize> {
    let ids: Vec<u64> = cluster.members().unwrap_or_default().iter().map(|member| member.id).collect();
    let sits =
        |slot: &usize| cluster.slots[*slot].seat.lock().as_ref().is_some_and(|seat| ids.contains(&seat.member_id));
    (0..cluster.slots.len()).filter(sits).collect()
}

fn state(cluster: &Cluster, slot: usize) -> String {
    let Some(node) = cluster.slots[slot].node.lock().clone() else { return format!("{slot} does not run") };
    let status = node.status();
    let live = cluster.slots[slot].live.lock().is_some();
    format!("{slot} serves: {live}, revision {}, {status:?}", node.store().revision())
}

/// Whether all have applied everything that is committed, and hold the same. That equal entries gave equal states the
/// invariants say.
fn agree(cluster: &Cluster, seats: &[usize]) -> bool {
    let all: Option<Vec<_>> =
        seats.iter().map(|&slot| Some(cluster.slots[slot].live.lock().as_ref()?.node.clone())).collect();
    let Some(nodes) = all else { return false };
    let place =
        |node: &kelson::raft::Node| (node.status().applied_index, node.store().revision(), node.store().hash_kv(0));
    let first = place(&nodes[0]);
    nodes.iter().all(|node| node.proposals_pending() == 0 && place(node) == first)
}

/// The checkers of the harness for real processes, over what clients saw.
fn judge(cluster: &Cluster, healed: Duration) -> Vec<Finding> {
    let (ops, streams, log) = cluster.world.witness.history();
    let mut findings = vec![revisions::check(&ops, &log), watch::check(&streams, &ops, &log)];
    if cluster.world.plan.drift_permille.iter().all(|drift| *drift == 0) {
        // There are faults all the time, so that nothing is late.
        let nodes = (0..cluster.slots.len() as u32).collect();
        let (start, end) = (0, healed.as_nanos() as u64 * 100);
        let faults = [Fault { name: "all".into(), nodes, start, end, ..Fault::default() }];
        findings.push(lease::check(&ops, &log, &faults));
    }
    findings
}
