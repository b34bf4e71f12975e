//! What goes wrong, when, and how it is mended. Driven by the seed; kinds mix and overlap.

use std::collections::BTreeMap;
use std::time::Duration;

use jepsen::rng::Rng;
use kelson::raft::membership::Change;
use kelson::storage::fs::Faults;

use crate::cluster::{Cluster, Ended};
use crate::member::Ask;
use crate::network::peer_url;
use crate::plan::Kind;

/// How long after its end a process is started again, at most.
const DOWN_MS_MAX: u64 = 2_500;
/// How long a fault of network or disk lasts, at least and at most.
const FAULT_MS: (u64, u64) = (100, 3_000);
/// A slow disk's syncs, microseconds.
const SLOW_SYNC_MICROS: (u64, u64) = (20_000, 400_000);
/// A slow link's messages, milliseconds.
const SLOW_MESSAGE_MS: (u64, u64) = (100, 800);
/// Bytes left on a disk that is about to be full.
const ROOM_BYTES: u64 = 40 << 10;
/// Part of the unsynced that a power cut keeps.
const KEEPS: [f64; 4] = [0.0, 0.3, 0.6, 0.95];

/// Part of the requests that are handled again.
const COPIED: [f64; 3] = [0.1, 0.4, 1.0];

/// How to end a fault.
#[derive(Clone, Debug)]
enum Undo {
    Pass(Vec<(usize, usize)>, bool),
    Release(Vec<(usize, usize)>),
    Latency(usize, usize),
    Disk(usize),
    Sync(usize),
    Start(usize),
    Copies(usize),
}

/// See the module.
pub struct Nemesis {
    rng: Rng,
    next_at: Duration,
    undo: Vec<(Duration, Undo)>,
    asks: u64,
    /// Faults by kind.
    pub counts: BTreeMap<Kind, u64>,
    /// Processes that were ended, or ended themselves.
    pub crashes: u64,
    /// What was done, in order.
    pub list: Vec<(Duration, String)>,
}

impl Nemesis {
    /// The nemesis of a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed).fork(3),
            next_at: Duration::from_millis(300),
            undo: Vec::new(),
            asks: 0,
            counts: BTreeMap::new(),
            crashes: 0,
            list: Vec::new(),
        }
    }

    /// What is due.
    pub fn step(&mut self, cluster: &mut Cluster, ended: Vec<Ended>) {
        let now = cluster.elapsed();
        for Ended { slot, reason, disk_failed } in ended {
            self.crashes += 1;
            self.note(cluster, format!("{slot} ended: {reason}"));
            let was_removed = reason.contains("removed from the cluster");
            if was_removed {
                cluster.vacate(slot);
                continue;
            }
            if !disk_failed {
                cluster.world.witness.breaks("member", format!("{slot} ended by itself: {reason}"));
            }
            self.start_later(now, slot);
        }
        let (due, later) = std::mem::take(&mut self.undo).into_iter().partition(|(at, _)| *at <= now);
        self.undo = later;
        let due: Vec<(Duration, Undo)> = due;
        due.into_iter().for_each(|(_, undo)| self.end(cluster, undo));
        if now >= self.next_at {
            let calm = cluster.world.plan.calm_ms;
            self.next_at = now + Duration::from_millis(self.rng.between(1, 2 * calm));
            let kind = *self.rng.pick(&cluster.world.plan.kinds);
            if let Some(what) = self.begin(cluster, kind) {
                // Whether requests were handled twice, only the end tells.
                if kind != Kind::Duplicate {
                    *self.counts.entry(kind).or_default() += 1;
                }
                self.note(cluster, format!("{}: {what}", kind.name()));
            }
        }
    }

    fn note(&mut self, cluster: &Cluster, what: String) {
        cluster.world.witness.trace.note(format_args!("FAULT {what}"));
        self.list.push((cluster.elapsed(), what));
    }

    fn start_later(&mut self, now: Duration, slot: usize) {
        let pause = self.rng.below(DOWN_MS_MAX);
        self.undo.push((now + Duration::from_millis(pause), Undo::Start(slot)));
    }

    fn end(&mut self, cluster: &mut Cluster, undo: Undo) {
        match undo {
            Undo::Pass(ways, reset) => {
                for (from, to) in ways {
                    cluster.pass(from, to);
                    if reset {
                        cluster.world.wires.reset(from, to);
                    }
                }
            }
            Undo::Release(pairs) => pairs.into_iter().for_each(|(a, b)| cluster.release(a, b)),
            Undo::Latency(a, b) => cluster.set_latency(a, b, cluster.world.plan.latency_ms.1),
            Undo::Disk(slot) => cluster.set_faults(slot, Faults::default()),
            Undo::Sync(slot) => *cluster.slots[slot].sync_micros.lock() = cluster.world.plan.sync_micros,
            Undo::Start(slot) => cluster.start(slot),
            Undo::Copies(slot) => cluster.slots[slot].copies.close(),
        }
    }

    fn later(&mut self, cluster: &Cluster, undo: Undo) {
        let lasts = Duration::from_millis(self.rng.between(FAULT_MS.0, FAULT_MS.1));
        self.undo.push((cluster.elapsed() + lasts, undo));
    }

    fn pair(&mut self, running: &[usize]) -> Option<(usize, usize)> {
        let a = *self.rng.pick(running);
        let others: Vec<usize> = running.iter().copied().filter(|&other| other != a).collect();
        (!others.is_empty()).then(|| (a, *self.rng.pick(&others)))
    }

    /// Begins a fault and says what it is; `None` where it is not possible now.
    fn begin(&mut self, cluster: &mut Cluster, kind: Kind) -> Option<String> {
        let running = cluster.running();
        if running.is_empty() {
            return None;
        }
        match kind {
            Kind::Partition | Kind::OneWay | Kind::Hold | Kind::Delay | Kind::Loss | Kind::Reset => {
                self.begin_network(cluster, kind, &running)
            }
            Kind::Kill | Kind::PowerCut | Kind::Blackout => Some(self.begin_crash(cluster, kind, &running)),
            Kind::DiskFull | Kind::FailedSync | Kind::SlowDisk => {
                let slot = *self.rng.pick(&running);
                Some(self.begin_disk(cluster, kind, slot))
            }
            Kind::ClockJump => {
                let slot = *self.rng.pick(&running);
                let most: u64 = *self.rng.pick(&[2_000, 3_600_000, 315_360_000_000]);
                let by = self.rng.below(2 * most) as i64 - most as i64;
                cluster.set_wall_offset(slot, by);
                Some(format!("{slot} by {by} ms"))
            }
            Kind::Transfer | Kind::Snapshot | Kind::Compact | Kind::Member => self.ask(cluster, kind),
            Kind::Duplicate => {
                let slot = *self.rng.pick(&running);
                let share = *self.rng.pick(&COPIED);
                cluster.slots[slot].copies.open(share);
                self.later(cluster, Undo::Copies(slot));
                Some(format!("{slot} handles {share} of its requests twice"))
            }
        }
    }

    fn begin_network(&mut self, cluster: &mut Cluster, kind: Kind, running: &[usize]) -> Option<String> {
        let (a, b) = self.pair(running)?;
        let between = |one: &[usize], two: &[usize]| -> Vec<(usize, usize)> {
            one.iter().flat_map(|&a| two.iter().map(move |&b| (a, b))).collect()
        };
        match kind {
            Kind::Partition => {
                let (one, two): (Vec<usize>, Vec<usize>) =
                    running.iter().partition(|&&slot| slot == a || (slot != b && self.rng.chance(0.4)));
                let ways = [between(&one, &two), between(&two, &one)].concat();
                ways.iter().for_each(|&(from, to)| cluster.lose(from, to));
                let reset = self.rng.chance(0.7);
                self.later(cluster, Undo::Pass(ways, reset));
                Some(format!("{one:?} | {two:?}"))
            }
            Kind::OneWay => {
                let ways = if self.rng.chance(0.5) {
                    vec![(a, b)]
                } else {
                    between(&[a], &running.iter().copied().filter(|&to| to != a).collect::<Vec<_>>())
                };
                ways.iter().for_each(|&(from, to)| cluster.lose(from, to));
                let reset = self.rng.chance(0.7);
                self.later(cluster, Undo::Pass(ways.clone(), reset));
                Some(format!("{ways:?}"))
            }
            Kind::Hold => {
                let pairs: Vec<(usize, usize)> =
                    running.iter().filter(|&&other| other != a).map(|&other| (a, other)).collect();
                pairs.iter().for_each(|&(a, b)| cluster.hold(a, b));
                self.later(cluster, Undo::Release(pairs));
                Some(format!("{a}"))
            }
            Kind::Delay => {
                let most = self.rng.between(SLOW_MESSAGE_MS.0, SLOW_MESSAGE_MS.1);
                cluster.set_latency(a, b, most);
                self.later(cluster, Undo::Latency(a, b));
                Some(format!("{a} - {b} up to {most} ms"))
            }
            Kind::Loss => {
                let ways = vec![(a, b), (b, a)];
                ways.iter().for_each(|&(from, to)| cluster.lose(from, to));
                let moment = Duration::from_millis(self.rng.between(1, 80));
                self.undo.push((cluster.elapsed() + moment, Undo::Pass(ways, self.rng.chance(0.5))));
                Some(format!("{a} - {b} for {moment:?}"))
            }
            _ => {
                let reset = cluster.world.wires.reset(a, b);
                Some(format!("{a} - {b}, {reset} connections"))
            }
        }
    }

    fn begin_crash(&mut self, cluster: &mut Cluster, kind: Kind, running: &[usize]) -> String {
        let now = cluster.elapsed();
        let keep = *self.rng.pick(&KEEPS);
        let slots = match kind {
            Kind::Blackout => running.to_vec(),
            _ => vec![*self.rng.pick(running)],
        };
        for &slot in &slots {
            self.crashes += 1;
            let seed = self.rng.bits();
            if kind == Kind::Kill {
                cluster.kill(slot);
            } else {
                cluster.cut_power(slot, keep, seed);
            }
            self.start_later(now, slot);
        }
        format!("{slots:?} keeping {keep}")
    }

    fn begin_disk(&mut self, cluster: &mut Cluster, kind: Kind, slot: usize) -> String {
        match kind {
            Kind::DiskFull => {
                let used = cluster.slots[slot].disk.lock().inner.used_bytes();
                let capacity = used + self.rng.below(ROOM_BYTES);
                cluster.set_faults(slot, Faults { capacity_bytes: Some(capacity), ..Faults::default() });
                self.later(cluster, Undo::Disk(slot));
                format!("{slot} at {capacity} bytes")
            }
            Kind::FailedSync => {
                let after = self.rng.below(4);
                cluster.set_faults(slot, Faults { fail_sync_after: Some(after), ..Faults::default() });
                self.later(cluster, Undo::Disk(slot));
                format!("{slot} after {after}")
            }
            _ => {
                *cluster.slots[slot].sync_micros.lock() = SLOW_SYNC_MICROS;
                self.later(cluster, Undo::Sync(slot));
                format!("{slot}")
            }
        }
    }

    /// Asks a member that serves for something.
    fn ask(&mut self, cluster: &mut Cluster, kind: Kind) -> Option<String> {
        let live = cluster.live();
        if live.is_empty() {
            return None;
        }
        let by = *self.rng.pick(&live);
        let members = cluster.members()?;
        let member = self.rng.pick(&members).clone();
        let ask = match kind {
            Kind::Transfer => Ask::Change(Change::MoveLeader(member.id)),
            Kind::Snapshot => Ask::Snapshot,
            Kind::Compact => Ask::Compact(self.rng.below(20) as i64),
            _ => {
                let learner = members.iter().find(|member| member.is_learner);
                let is_free = |slot: &usize| cluster.slots[*slot].seat.lock().is_none();
                let free = (0..cluster.slots.len()).find(is_free);
                match (learner, free, self.rng.below(4)) {
                    (Some(learner), _, 0 | 1) => Ask::Change(Change::Promote(learner.id)),
                    (_, Some(slot), 1 | 2) => Ask::Change(Change::Add {
                        peer_urls: vec![peer_url(slot)],
                        is_learner: learner.is_none() && self.rng.chance(0.5),
                    }),
                    _ if members.len() > 1 => Ask::Change(Change::Remove(member.id)),
                    _ => return None,
                }
            }
        };
        self.asks += 1;
        cluster.slots[by].ask(self.asks, ask.clone());
        Some(format!("{by} is asked for {ask:?}"))
    }

    /// Counts, at the end, the windows in which requests were handled twice, and gives the number of these.
    pub fn count_copies(&mut self, cluster: &Cluster) -> u64 {
        let mut copies = 0;
        for (windows, handled) in cluster.slots.iter().map(|slot| slot.copies.handled()) {
            if windows > 0 {
                *self.counts.entry(Kind::Duplicate).or_default() += windows;
            }
            copies += handled;
        }
        copies
    }

    /// Mends everything that is broken. Copies that wait are still to come: nobody could call them back.
    pub fn heal(&mut self, cluster: &mut Cluster) {
        self.undo.clear();
        cluster.heal();
        for slot in 0..cluster.slots.len() {
            cluster.set_faults(slot, Faults::default());
            cluster.slots[slot].copies.close();
            *cluster.slots[slot].sync_micros.lock() = cluster.world.plan.sync_micros;
        }
        for slot in cluster.down() {
            cluster.start(slot);
        }
        self.note(cluster, "everything is mended".to_owned());
    }
}
