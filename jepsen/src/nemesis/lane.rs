//! Carries out one lane of a schedule: waits, breaks, holds, mends, and writes each window down with its evidence.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::schedule::{Kind, LaneOf, Step, Whom};
use super::{HARNESS, Nemesis, Windows};
use crate::cluster::Cluster;
use crate::rng::Rng;

/// After a fault is undone, its window stays open until somebody answers, at most for this long.
const AFTERMATH_MAX: Duration = Duration::from_secs(10);
/// A fault that showed no effect is repeated so many times.
const REPEATS_MAX: usize = 2;
/// Kinds that had no effect when the load's time is over get so much more.
const LATE_MAX: Duration = Duration::from_secs(60);
/// Faults are held this long then, at most, in milliseconds.
const LATE_HOLD_MS_MAX: u64 = 2500;
/// A kind that comes late is tried so many times.
const LATE_TRIES_MAX: usize = 4;
/// Quiet time before each of them.
const LATE_WAIT: Duration = Duration::from_millis(500);

/// What came of a fault.
pub(super) struct Outcome {
    /// Empty = nothing shows that it took effect.
    pub evidence: String,
    /// In its kind's unit.
    pub effect: u64,
}

/// A fault in progress: what its kind's code needs.
pub(super) struct Fault<'a> {
    pub cluster: &'a Arc<Cluster>,
    pub step: &'a Step,
    pub rng: Rng,
    pub windows: &'a Windows,
    /// The window's number.
    pub number: usize,
    pub stop: watch::Receiver<bool>,
}

impl Fault<'_> {
    /// Waits as long as the step says, or until the run stops.
    pub async fn hold(&mut self) {
        wait(Duration::from_millis(self.step.hold_ms), &mut self.stop).await;
    }

    /// Whom the step hits, now; the window is told.
    pub async fn whom(&mut self) -> Vec<u32> {
        let size = self.cluster.size();
        let mut all: Vec<u32> = (0..size).collect();
        // Shuffled: each prefix is a random part.
        (1..all.len()).rev().for_each(|last| all.swap(last, self.rng.below(last as u64 + 1) as usize));
        let leader = match self.step.whom {
            Whom::Leader | Whom::Follower => self.cluster.leader().await.map(|(leader, _)| leader),
            _ => None,
        };
        let count = match self.step.whom {
            Whom::Leader | Whom::Follower => 1,
            Whom::Minority => ((size - 1) / 2).max(1),
            Whom::Majority => size / 2 + 1,
            Whom::All => size,
        };
        match (self.step.whom, leader) {
            (Whom::Leader, Some(leader)) => all = vec![leader],
            (Whom::Follower, Some(leader)) if size > 1 => all.retain(|member| *member != leader),
            _ => {}
        }
        all.truncate(count as usize);
        all.sort_unstable();
        self.windows.aim(self.number, &all);
        all
    }
}

/// Sleeps; false when the run stops meanwhile.
pub(super) async fn wait(time: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    // An error says that nobody can stop the run any more: then it is over.
    tokio::time::timeout(time, stop.wait_for(|stop| *stop)).await.is_err()
}

/// Runs a blocking call of the network off the main thread.
pub(super) async fn aside<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(call).await?)
}

/// One lane of a schedule on a cluster.
pub struct Lane {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// Its steps, in order.
    pub steps: Vec<Step>,
    /// Which lane.
    pub lane: LaneOf,
    /// Held as long as it works, see [`Guard`](super::guard::Guard).
    pub at_work: Arc<()>,
}

impl Lane {
    /// One fault, undone in the end. Whether anything shows that it had an effect.
    async fn perform(&self, step: &Step, windows: &Windows, stop: &watch::Receiver<bool>) -> bool {
        let number = windows.open(step.kind.name(), &[]);
        let rng = Rng::new(step.seed);
        let mut fault = Fault { cluster: &self.cluster, step, rng, windows, number, stop: stop.clone() };
        let outcome = match step.kind {
            Kind::Kill | Kind::Rolling | Kind::Pause | Kind::PowerCut | Kind::Clock => fault.of_process().await,
            Kind::DiskFull | Kind::SyncError | Kind::SlowSync => fault.of_disk().await,
            Kind::Member | Kind::Ghost => fault.of_membership().await,
            Kind::Partition | Kind::Isolate | Kind::Loss | Kind::Slow => fault.of_network().await,
            Kind::MoveLeader | Kind::Compact | Kind::Defrag | Kind::Snapshot => {
                let outcome = fault.of_operator().await;
                let had_effect = outcome.as_ref().is_ok_and(|outcome| outcome.effect > 0);
                match outcome {
                    Ok(outcome) => windows.close_with(number, outcome.evidence, outcome.effect),
                    // Refused, or lost in another fault: nothing was changed that a fault could be blamed for.
                    Err(_) => windows.abandon(number),
                }
                return had_effect;
            }
        };
        let after = match self.cluster.answers_again(AFTERMATH_MAX).await {
            Some(time) => format!("; answered {:.1} s after", time.as_secs_f64()),
            None => format!("; nobody answered for {AFTERMATH_MAX:?}"),
        };
        match outcome {
            Ok(Outcome { evidence, effect }) if effect > 0 => {
                windows.close_with(number, format!("{evidence}{after}"), effect);
                return true;
            }
            // The run's end cut it short.
            Ok(_) if *stop.borrow() => windows.abandon(number),
            Ok(Outcome { evidence, .. }) => {
                eprintln!("jepsen: {} without effect: {evidence}", step.kind.name());
                windows.close_with(number, "", 0);
            }
            Err(error) => {
                eprintln!("jepsen: {}: {error:#}", step.kind.name());
                windows.close_with(number, "", 0);
                let failed = windows.open(format!("{HARNESS}{}", step.kind.name()), &[]);
                windows.close_with(failed, format!("{error:#}"), 0);
            }
        }
        false
    }

    /// One fault, and again while it has no effect: a network without traffic drops nothing, an idle disk fails nothing.
    async fn insist(&self, step: &Step, windows: &Windows, stop: &watch::Receiver<bool>) -> bool {
        for repeat in 0..=REPEATS_MAX {
            // Another seed: what it drew may be why.
            let step = Step { seed: step.seed.wrapping_add(repeat as u64), ..step.clone() };
            if self.perform(&step, windows, stop).await {
                return true;
            }
            if *stop.borrow() {
                break;
            }
        }
        false
    }

    /// The load's time is over before some kinds had an effect: it goes on until they had, once each.
    async fn late(&self, missing: &[Kind], windows: &Windows) {
        // Nobody sends on it, but it must not be closed either: that would count as a stop.
        let (open, go_on) = watch::channel(false);
        let until = tokio::time::Instant::now() + LATE_MAX;
        for kind in missing {
            let Some(step) = self.steps.iter().find(|step| step.kind == *kind) else { continue };
            for number in 0..LATE_TRIES_MAX {
                if tokio::time::Instant::now() > until {
                    break;
                }
                tokio::time::sleep(LATE_WAIT).await;
                let (hold_ms, seed) = (step.hold_ms.min(LATE_HOLD_MS_MAX), step.seed.wrapping_add(100 + number as u64));
                if self.perform(&Step { hold_ms, seed, ..step.clone() }, windows, &go_on).await {
                    break;
                }
            }
        }
        drop(open);
    }
}

impl Nemesis for Lane {
    fn name(&self) -> String {
        format!("{:?}", self.lane)
    }

    fn run(
        self: Box<Self>,
        windows: Windows,
        mut stop: watch::Receiver<bool>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let mut missing: Vec<Kind> = Vec::new();
            self.steps.iter().for_each(|step| missing.extend((!missing.contains(&step.kind)).then_some(step.kind)));
            for step in &self.steps {
                if !wait(Duration::from_millis(step.wait_ms), &mut stop).await {
                    break;
                }
                if self.insist(step, &windows, &stop).await {
                    missing.retain(|kind| *kind != step.kind);
                }
            }
            // A lane that is done before the load is waits for it: it may have something to add.
            wait(Duration::MAX, &mut stop).await;
            self.late(&missing, &windows).await;
        })
    }
}
