//! What a seed means: the cluster, its surroundings and which kinds of faults there will be.

use std::fmt;
use std::time::Duration;

use jepsen::rng::Rng;

/// Kinds of faults. Each run has a random part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Members are split in two; messages between the halves get lost.
    Partition,
    /// The same one way only.
    OneWay,
    /// A member's messages are held back and come all at once.
    Hold,
    /// A link becomes slow.
    Delay,
    /// A link loses everything for a moment, again and again.
    Loss,
    /// Connections break.
    Reset,
    /// A process ends; what it wrote is still there.
    Kill,
    /// A machine loses its power, and of what was not synced, anything.
    PowerCut,
    /// All machines at once.
    Blackout,
    /// A disk is full.
    DiskFull,
    /// A sync fails, and its pages count as clean.
    FailedSync,
    /// A disk is slow.
    SlowDisk,
    /// A wall clock jumps.
    ClockJump,
    /// Another member is to lead.
    Transfer,
    /// A member writes a snapshot and purges its log.
    Snapshot,
    /// The history is compacted.
    Compact,
    /// Members are added, promoted, removed, replaced.
    Member,
    /// Requests between members are handled again, later.
    Duplicate,
}

/// Kinds that there were first. Later ones are drawn apart, so that seeds without them mean what they did.
const FIRST_KINDS: usize = 17;

impl Kind {
    /// All of them, in the order in which they came.
    pub const ALL: [Self; 18] = [
        Self::Partition,
        Self::OneWay,
        Self::Hold,
        Self::Delay,
        Self::Loss,
        Self::Reset,
        Self::Kill,
        Self::PowerCut,
        Self::Blackout,
        Self::DiskFull,
        Self::FailedSync,
        Self::SlowDisk,
        Self::ClockJump,
        Self::Transfer,
        Self::Snapshot,
        Self::Compact,
        Self::Member,
        Self::Duplicate,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::OneWay => "one-way",
            Self::Hold => "hold",
            Self::Delay => "delay",
            Self::Loss => "loss",
            Self::Reset => "reset",
            Self::Kill => "kill",
            Self::PowerCut => "power-cut",
            Self::Blackout => "blackout",
            Self::DiskFull => "disk-full",
            Self::FailedSync => "failed-sync",
            Self::SlowDisk => "slow-disk",
            Self::ClockJump => "clock-jump",
            Self::Transfer => "transfer",
            Self::Snapshot => "snapshot",
            Self::Compact => "compact",
            Self::Member => "member",
            Self::Duplicate => "duplicate",
        }
    }

    /// The kind of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A bug put in on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The log is not synced.
    NoSync,
    /// Disks say that they have synced, and have not.
    LyingSync,
    /// A copy of a forwarded batch is not known again.
    BatchTwice,
}

impl Mutant {
    /// The mutant of this name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "no-sync" => Some(Self::NoSync),
            "lying-sync" => Some(Self::LyingSync),
            "batch-twice" => Some(Self::BatchTwice),
            _ => None,
        }
    }
}

/// Everything that the seed decides before the run begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Members at the beginning.
    pub members: usize,
    /// Places for members, the first included.
    pub slots: usize,
    /// How long there are clients and faults.
    pub load: Duration,
    /// `--heartbeat-interval` and `--election-timeout`, milliseconds.
    pub timing_ms: (u64, u64),
    /// A message takes at least and at most so many milliseconds.
    pub latency_ms: (u64, u64),
    /// A sync takes at least and at most so many microseconds.
    pub sync_micros: (u64, u64),
    /// `--snapshot-catchup-entries`.
    pub catchup_entries: u64,
    /// Clients of each member.
    pub clients: usize,
    /// The mean pause between a client's requests, milliseconds.
    pub pause_ms: u64,
    /// Keys that they write.
    pub keys: u64,
    /// How much faster each slot's clock runs, in thousandths.
    pub drift_permille: Vec<i64>,
    /// The mean pause between two faults, milliseconds.
    pub calm_ms: u64,
    /// Which faults there are.
    pub kinds: Vec<Kind>,
    /// The bug put in.
    pub mutant: Option<Mutant>,
}

/// The fastest clock, in thousandths above the right one.
pub const DRIFT_PERMILLE_MAX: u64 = 50;

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let members = *rng.pick(&[1, 3, 3, 3, 3, 3, 3, 5]);
        let slots = members + 2;
        let clients = rng.between(1, 3) as usize;
        let timing_ms = *rng.pick(&[(100, 500), (100, 1000)]);
        let latency_max = *rng.pick(&[2, 5, 20, 50]);
        let sync_max = *rng.pick(&[200, 2_000, 10_000]);
        let drifts = rng.chance(0.5);
        let drift = |rng: &mut Rng| rng.below(2 * DRIFT_PERMILLE_MAX + 1) as i64 - DRIFT_PERMILLE_MAX as i64;
        let drift_permille = (0..slots).map(|_| if drifts { drift(&mut rng) } else { 0 }).collect();
        let share = *rng.pick(&[0.2, 0.4, 0.7]);
        let (first, later) = Kind::ALL.split_at(FIRST_KINDS);
        let mut kinds: Vec<Kind> = first.iter().copied().filter(|_| rng.chance(share)).collect();
        if kinds.is_empty() {
            kinds.push(*rng.pick(first));
        }
        let mut apart = Rng::new(seed).fork(4);
        kinds.extend(later.iter().filter(|_| apart.chance(share)));
        Self {
            seed,
            members,
            slots,
            load: Duration::from_millis(rng.between(6_000, 12_000)),
            timing_ms,
            latency_ms: (0, latency_max),
            sync_micros: (50, sync_max),
            catchup_entries: rng.between(0, 20),
            clients,
            pause_ms: (members * clients) as u64 * 1000 / *rng.pick(&[20, 50, 100]),
            keys: rng.between(2, 8),
            drift_permille,
            calm_ms: *rng.pick(&[150, 400, 900]),
            kinds,
            mutant: None,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
        write!(
            f,
            "seed {}: {} members, {:.1} s of load, heartbeat and election {:?} ms, messages {:?} ms, syncs {:?} µs, {} \
             catch-up entries, {} clients each, {} ms between requests, {} keys, drift {:?} ‰, {} ms between faults: {}",
            self.seed,
            self.members,
            self.load.as_secs_f64(),
            self.timing_ms,
            self.latency_ms,
            self.sync_micros,
            self.catchup_entries,
            self.clients,
            self.pause_ms,
            self.keys,
            self.drift_permille,
            self.calm_ms,
            kinds.join(" ")
        )?;
        if let Some(mutant) = self.mutant { write!(f, "; mutant {mutant:?}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_plan_and_seeds_have_different_ones() {
        assert_eq!(Plan::new(7).to_string(), Plan::new(7).to_string());
        assert_ne!(Plan::new(7).to_string(), Plan::new(8).to_string());
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.name()), Some(kind));
            assert!((0..100).any(|seed| Plan::new(seed).kinds.contains(&kind)), "{kind:?} happens");
        }
    }
}
