//! Carries out one lane of a schedule: waits, breaks, holds, mends, and writes each window down with its evidence.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::schedule::{Kind, LaneOf, Step, Whom};
use super::{Nemesis, Windows};
use crate::cluster::Cluster;
use crate::rng::Rng;

/// After a fault is undone, its window stays open until somebody answers, at most for this long.
const AFTERMATH_MAX: Duration = Duration::from_secs(10);

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
}

impl Lane {
    async fn perform(&self, step: &Step, windows: &Windows, stop: &watch::Receiver<bool>) {
        let number = windows.open(step.kind.name(), &[]);
        let rng = Rng::new(step.seed);
        let mut fault = Fault { cluster: &self.cluster, step, rng, windows, number, stop: stop.clone() };
        let outcome = match step.kind {
            Kind::Kill | Kind::Rolling | Kind::Pause | Kind::PowerCut | Kind::Clock => fault.of_process().await,
            Kind::DiskFull | Kind::SyncError | Kind::SlowSync => fault.of_disk().await,
            Kind::Member | Kind::Ghost => fault.of_membership().await,
            Kind::Partition | Kind::Isolate | Kind::Loss | Kind::Slow => fault.of_network().await,
            Kind::MoveLeader | Kind::Compact | Kind::Defrag | Kind::Snapshot => {
                match fault.of_operator().await {
                    Ok(outcome) => windows.close_with(number, outcome.evidence, outcome.effect),
                    // Refused, or lost in another fault: nothing was changed that a fault could be blamed for.
                    Err(_) => windows.abandon(number),
                }
                return;
            }
        };
        let after = match self.cluster.answers_again(AFTERMATH_MAX).await {
            Some(time) => format!("; answered {:.1} s after", time.as_secs_f64()),
            None => format!("; nobody answered for {AFTERMATH_MAX:?}"),
        };
        match outcome {
            Ok(Outcome { evidence, effect }) if effect > 0 => {
                windows.close_with(number, format!("{evidence}{after}"), effect);
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
            }
        }
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
            for step in &self.steps {
                if !wait(Duration::from_millis(step.wait_ms), &mut stop).await {
                    return;
                }
                self.perform(step, &windows, &stop).await;
            }
        })
    }
}
