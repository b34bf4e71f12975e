//! From a seed to a schedule of faults with nothing left to chance but what the cluster makes of it.
//!
//! Faults of processes, of the network and of operators come in three lanes that run beside each other, so that they
//! overlap; in one lane a fault is undone before the next begins.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// SIGKILL, and started again.
    Kill,
    /// All members, one after the other: SIGTERM, and started again.
    Rolling,
    /// SIGSTOP, longer than an election and than short leases.
    Pause,
    /// SIGKILL, and the power goes.
    PowerCut,
    /// The disk is full.
    DiskFull,
    /// A sync fails.
    SyncError,
    /// Syncs take long.
    SlowSync,
    /// The wall clock jumps.
    Clock,
    /// A member is removed, wiped, and added again.
    Member,
    /// Links are cut.
    Partition,
    /// Packets are lost.
    Loss,
    /// Packets are late.
    Slow,
    /// The leader is asked to hand over.
    MoveLeader,
    /// Old revisions are compacted.
    Compact,
    /// Stores are defragmented.
    Defrag,
    /// A snapshot is read.
    Snapshot,
    /// A member is cut off from its peers; clients still reach it.
    Isolate,
    /// A member is removed while it is down, and started again on what it had, before it is wiped and added again.
    Ghost,
}

/// Which of them exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneOf {
    /// Members and their disks.
    Processes,
    /// What lies between them.
    Network,
    /// Requests.
    Operators,
}

/// Whom it hits; who that is shows when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whom {
    /// The leader, or anybody while there is none.
    Leader,
    /// One that does not lead.
    Follower,
    /// Fewer than half.
    Minority,
    /// More than half.
    Majority,
    /// Everybody.
    All,
}

/// One fault to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Quiet time before it, in milliseconds.
    pub wait_ms: u64,
    /// What.
    pub kind: Kind,
    /// To whom.
    pub whom: Whom,
    /// For how long, in milliseconds.
    pub hold_ms: u64,
    /// Decides everything else about it.
    pub seed: u64,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Kill,
        Self::Rolling,
        Self::Pause,
        Self::PowerCut,
        Self::DiskFull,
        Self::SyncError,
        Self::SlowSync,
        Self::Clock,
        Self::Member,
        Self::Partition,
        Self::Loss,
        Self::Slow,
        Self::MoveLeader,
        Self::Compact,
        Self::Defrag,
        Self::Snapshot,
        Self::Isolate,
        Self::Ghost,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Rolling => "rolling",
            Self::Pause => "pause",
            Self::PowerCut => "power-cut",
            Self::DiskFull => "disk-full",
            Self::SyncError => "sync-error",
            Self::SlowSync => "slow-sync",
            Self::Clock => "clock",
            Self::Member => "member",
            Self::Ghost => "ghost",
            Self::Partition => "partition",
            Self::Isolate => "isolate",
            Self::Loss => "loss",
            Self::Slow => "slow",
            Self::MoveLeader => "move-leader",
            Self::Compact => "compact",
            Self::Defrag => "defrag",
            Self::Snapshot => "snapshot",
        }
    }

    /// The kind of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether members must live on chaosfs for it.
    pub fn needs_chaosfs(self) -> bool {
        matches!(self, Self::PowerCut | Self::DiskFull | Self::SyncError | Self::SlowSync)
    }

    /// The lane it runs in.
    pub fn lane(self) -> LaneOf {
        match self {
            Self::Partition | Self::Isolate | Self::Loss | Self::Slow => LaneOf::Network,
            Self::MoveLeader | Self::Compact | Self::Defrag | Self::Snapshot => LaneOf::Operators,
            _ => LaneOf::Processes,
        }
    }

    fn step(self, rng: &mut Rng) -> Step {
        use Whom::{All, Follower, Leader, Majority, Minority};
        let (whom, hold_ms): (&[Whom], (u64, u64)) = match self {
            Self::Kill => (&[Leader, Leader, Follower, Minority, Majority, All], (0, 5000)),
            Self::PowerCut => (&[Leader, Follower, Minority, Majority, All, All], (0, 3000)),
            Self::Pause => (&[Leader, Leader, Leader, Follower, Minority], (500, 8000)),
            Self::Rolling => (&[All], (100, 1500)),
            // A majority of broken disks is no fault that a cluster must live with.
            Self::DiskFull | Self::SyncError => (&[Leader, Follower, Minority], (2000, 6000)),
            Self::SlowSync => (&[Leader, Follower, Minority, All], (2000, 6000)),
            Self::Clock => (&[Leader, Follower, Minority, All], (3000, 9000)),
            Self::Member => (&[Leader, Follower, Follower], (0, 2000)),
            Self::Ghost => (&[Follower], (0, 2000)),
            Self::Partition => (&[Leader, Minority, Majority], (1500, 9000)),
            Self::Isolate => (&[Leader, Leader, Follower], (1500, 6000)),
            Self::Loss | Self::Slow => (&[Leader, Follower, All], (2000, 8000)),
            Self::MoveLeader | Self::Compact | Self::Defrag | Self::Snapshot => (&[Leader, Follower], (0, 0)),
        };
        let quiet_ms = match self.lane() {
            LaneOf::Processes | LaneOf::Network => (1000, 6000),
            LaneOf::Operators => (300, 3000),
        };
        let (wait_ms, whom) = (rng.between(quiet_ms.0, quiet_ms.1), *rng.pick(whom));
        Step { wait_ms, kind: self, whom, hold_ms: rng.between(hold_ms.0, hold_ms.1), seed: rng.bits() }
    }
}

/// All lanes with their steps, as in `schedule.json`.
pub type Schedule = Vec<(LaneOf, Vec<Step>)>;

impl LaneOf {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Processes, Self::Network, Self::Operators];
}

/// The schedule of a run.
pub fn schedule(kinds: &[Kind], seed: u64, time: Duration) -> Schedule {
    LaneOf::ALL.into_iter().map(|lane| (lane, steps(kinds, lane, seed, time))).collect()
}

/// A schedule of these steps, each lane's in their order.
pub fn in_lanes(steps: &[Step]) -> Schedule {
    let of = |lane| steps.iter().filter(|step| step.kind.lane() == lane).cloned().collect();
    LaneOf::ALL.into_iter().map(|lane| (lane, of(lane))).collect()
}

/// A random part of these kinds, at least two of them where there are two.
pub fn swarm(kinds: &[Kind], seed: u64) -> Vec<Kind> {
    let mut rng = Rng::new(seed).fork(10);
    loop {
        let some: Vec<Kind> = kinds.iter().copied().filter(|_| rng.chance(0.4)).collect();
        if some.len() >= kinds.len().min(2) {
            return some;
        }
    }
}

/// The steps of one lane, enough for this time, and each kind at least once. Each comes once before any comes twice.
pub fn steps(kinds: &[Kind], lane: LaneOf, seed: u64, time: Duration) -> Vec<Step> {
    let kinds: Vec<Kind> = kinds.iter().copied().filter(|kind| kind.lane() == lane).collect();
    let mut rng = Rng::new(seed).fork(20 + lane as u64);
    let (mut steps, mut sum) = (Vec::new(), 0);
    let mut round: Vec<Kind> = Vec::new();
    while steps.len() < kinds.len() || !kinds.is_empty() && sum < time.as_millis() as u64 {
        if round.is_empty() {
            round.clone_from(&kinds);
        }
        let kind = round.swap_remove(rng.below(round.len() as u64) as usize);
        let step = kind.step(&mut rng);
        sum += step.wait_ms + step.hold_ms;
        steps.push(step);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_each_kind_comes_early() {
        let time = Duration::from_secs(600);
        let all = |seed| steps(&Kind::ALL, LaneOf::Processes, seed, time);
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        let first: std::collections::BTreeSet<Kind> = all(1).iter().take(10).map(|step| step.kind).collect();
        assert_eq!(first.len(), 10);
        // However short the time is, each kind has a step.
        let short: std::collections::BTreeSet<Kind> =
            steps(&Kind::ALL, LaneOf::Processes, 1, Duration::from_secs(5)).iter().map(|step| step.kind).collect();
        assert_eq!(short.len(), 10);
    }

    #[test]
    fn a_swarm_is_a_part_that_depends_on_the_seed() {
        assert!((0..100).all(|seed| swarm(&Kind::ALL, seed).len() >= 2));
        assert_eq!(swarm(&[Kind::Kill], 1), [Kind::Kill]);
        assert_ne!(swarm(&Kind::ALL, 1), swarm(&Kind::ALL, 2));
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        assert!(Kind::ALL.iter().all(|kind| Kind::of(kind.name()) == Some(*kind)));
    }
}
