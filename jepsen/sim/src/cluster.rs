//! The world of one run: turmoil's hosts, the members in them, and what can be done to both from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kelson::proto::etcdserverpb as pb;
use kelson::raft::Node;

use crate::clients::Clients;
use crate::determinism::{self, EPOCH_SECONDS};
use crate::disk::{SharedEngine, TracedDisk};
use crate::member::{self, Seat, Slot, World};
use crate::network::{Wires, host};
use crate::plan::{DRIFT_PERMILLE_MAX, Mutant, Plan};
use crate::trace::Trace;
use crate::witness::Witness;

/// How far the world goes in one step, during which no message arrives.
pub const TICK: Duration = Duration::from_millis(1);
/// Steps between two looks at who leads.
const LOOK_STEPS: u64 = 4;
/// A member whose log could not be written or synced must have ended after this.
pub const STOP_DEADLINE: Duration = Duration::from_secs(1);
/// Below what the fastest clock explains, in thousandths: clocks go in steps.
const CLOCK_SLACK_PERMILLE: u64 = 10;

/// See the module.
pub struct Cluster {
    /// What members share.
    pub world: World,
    /// The places for members.
    pub slots: Vec<Arc<Slot>>,
    sim: turmoil::Sim<'static>,
    steps: u64,
    /// By slot, milliseconds that its wall clock is off.
    wall_offset_ms: Vec<i64>,
    /// One-way links that lose everything.
    cut: BTreeSet<(usize, usize)>,
    /// Links that hold everything back.
    held: BTreeSet<(usize, usize)>,
    /// Slots whose process runs.
    running: BTreeSet<usize>,
    /// By slot: failures of its disk when the process began, and when a write or sync of its log has failed.
    failures: Vec<(u64, Option<Duration>)>,
    /// Ids that have had a disk; one that lost it is never started again.
    used: BTreeSet<u64>,
    cluster_id: u64,
}

/// Why a process is not running any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub slot: usize,
    /// In its own words.
    pub reason: String,
    /// Its disk had failed.
    pub disk_failed: bool,
}

impl Cluster {
    /// The members of the plan, started.
    pub fn new(plan: Plan, prints: bool) -> Self {
        let trace = Arc::new(Trace::new(prints));
        let second_permille = 1_000_000 / (1000 + DRIFT_PERMILLE_MAX) - CLOCK_SLACK_PERMILLE;
        let witness = Witness::new(trace, second_permille);
        let slots: Vec<Arc<Slot>> = (0..plan.slots).map(|number| Slot::new(number, &plan, &witness)).collect();
        let clients = Arc::new(Clients::new(&plan));
        let world = World { plan: Arc::new(plan), witness, wires: Arc::new(Wires::default()), clients };
        let plan = &world.plan;
        let mut sim = turmoil::Builder::new()
            .rng_seed(plan.seed)
            .epoch(epoch())
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(3600))
            .min_message_latency(Duration::from_millis(plan.latency_ms.0))
            .max_message_latency(Duration::from_millis(plan.latency_ms.1))
            .tcp_capacity(1 << 12)
            .enable_random_order()
            .build();
        let founders = member::founders(plan.members);
        let cluster_id = founders[0].cluster_id;
        for (slot, seat) in slots.iter().zip(founders) {
            *slot.seat.lock() = Some(seat);
        }
        for slot in &slots {
            let (world, slot) = (world.clone(), slot.clone());
            sim.host(host(slot.number), move || {
                let (world, slot) = (world.clone(), slot.clone());
                async move {
                    if slot.seat.lock().is_none() {
                        return Ok(());
                    }
                    let reason = member::run(world, slot.clone()).await;
                    *slot.ended.lock() = Some(reason);
                    // Whoever looks after the processes ends this one.
                    std::future::pending().await
                }
            });
        }
        let running: BTreeSet<usize> = (0..plan.members).collect();
        let used = slots.iter().filter_map(|slot| slot.seat.lock().as_ref().map(|seat| seat.member_id)).collect();
        let (count, mutant) = (plan.slots, plan.mutant);
        let cluster = Self {
            world,
            slots,
            sim,
            steps: 0,
            wall_offset_ms: vec![0; count],
            cut: BTreeSet::new(),
            held: BTreeSet::new(),
            running,
            failures: vec![(0, None); count],
            used,
            cluster_id,
        };
        if mutant == Some(Mutant::LyingSync) {
            (0..count).for_each(|slot| cluster.set_faults(slot, kelson::storage::fs::Faults::default()));
        }
        cluster
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Goes one step on. Gives the processes that ended by themselves, and ends them.
    pub fn step(&mut self) -> Vec<Ended> {
        let now = self.sim.elapsed();
        determinism::set_elapsed(now);
        self.world.witness.trace.set_elapsed(now);
        for slot in &self.slots {
            let drift = self.world.plan.drift_permille[slot.number];
            let monotonic = now + now / 1000 * drift.max(0) as u32;
            let monotonic = monotonic - now / 1000 * drift.min(0).unsigned_abs() as u32;
            let wall = EPOCH_SECONDS as i64 * 1000 + now.as_millis() as i64 + self.wall_offset_ms[slot.number];
            slot.clock.set(monotonic, wall.max(0) as u64);
        }
        if let Err(error) = self.sim.step() {
            self.world.witness.breaks("harness", format!("a host failed: {error}"));
        }
        self.steps += 1;
        if self.steps.is_multiple_of(LOOK_STEPS) {
            self.look();
        }
        self.reap()
    }

    fn look(&mut self) {
        let now = self.elapsed();
        for &number in &self.running {
            let slot = &self.slots[number];
            if let Some(node) = &*slot.node.lock() {
                let role = node.role();
                if role.leads {
                    self.world.witness.leads(role.term, node.status().member_id);
                }
                if !node.store().alarms().is_empty() {
                    self.world.witness.breaks("alarm", format!("{:?} on {number}", node.store().alarms()));
                }
            }
            let failed = slot.disk.lock().log_failures() > 0;
            match self.failures[number].1 {
                None if failed => self.failures[number].1 = Some(now),
                Some(since) if now > since + STOP_DEADLINE => {
                    self.world.witness.breaks("failed-log", format!("{number} goes on"));
                    self.failures[number].1 = Some(now);
                }
                _ => {}
            }
        }
    }

    fn reap(&mut self) -> Vec<Ended> {
        let ended: Vec<(usize, String)> =
            self.running.iter().filter_map(|&slot| Some((slot, self.slots[slot].ended.lock().take()?))).collect();
        let mut all = Vec::new();
        for (slot, reason) in ended {
            let disk_failed = self.slots[slot].disk.lock().failures() > self.failures[slot].0;
            self.world.witness.trace.note(format_args!("{slot} ended: {reason}"));
            self.end(slot);
            all.push(Ended { slot, reason, disk_failed });
        }
        all
    }

    /// Ends a process as kill -9 does.
    pub fn kill(&mut self, slot: usize) {
        self.world.witness.trace.note(format_args!("{slot} is killed"));
        self.end(slot);
    }

    fn end(&mut self, slot: usize) {
        if !self.running.remove(&slot) {
            return;
        }
        let node = self.slots[slot].node.lock().as_ref().map(Arc::downgrade);
        self.slots[slot].forget();
        self.sim.crash(host(slot));
        self.slots[slot].ended.lock().take();
        self.world.witness.member_ended(slot as u32);
        if node.is_some_and(|node| node.strong_count() > 0) {
            self.world.witness.breaks("harness", format!("something of {slot} lives on"));
        }
    }

    /// Cuts the power of a machine: the process is gone, nobody is told, and of what was not synced chance keeps a part.
    pub fn cut_power(&mut self, slot: usize, keep: f64, seed: u64) {
        self.world.witness.trace.note(format_args!("{slot} loses its power, keeping {keep}"));
        let others: Vec<usize> = (0..self.slots.len()).filter(|&other| other != slot).collect();
        for &other in others.iter().filter(|&&other| !self.is_held(slot, other)) {
            self.sim.partition(host(slot), host(other));
        }
        self.end(slot);
        self.slots[slot].disk.lock().inner.crash(keep, seed);
        self.slots[slot].engine.lock().crash();
        self.set_faults(slot, kelson::storage::fs::Faults::default());
        for &other in others.iter().filter(|&&other| !self.is_held(slot, other)) {
            self.sim.repair(host(slot), host(other));
            for (from, to) in [(slot, other), (other, slot)] {
                if self.cut.contains(&(from, to)) {
                    self.sim.partition_oneway(host(from), host(to));
                }
            }
        }
    }

    /// Starts the process of whoever sits in a slot. Nothing to do if it runs.
    pub fn start(&mut self, slot: usize) {
        if self.slots[slot].seat.lock().is_none() || !self.running.insert(slot) {
            return;
        }
        self.world.witness.trace.note(format_args!("{slot} is started"));
        self.slots[slot].disk.lock().begin_life();
        self.failures[slot] = (self.slots[slot].disk.lock().failures(), None);
        self.sim.bounce(host(slot));
    }

    /// Empties a slot: its member is none any more.
    pub fn vacate(&mut self, slot: usize) {
        self.end(slot);
        *self.slots[slot].seat.lock() = None;
        *self.slots[slot].disk.lock() = TracedDisk::new(slot as u32, self.world.witness.trace.clone());
        *self.slots[slot].engine.lock() = SharedEngine::default();
        self.set_faults(slot, kelson::storage::fs::Faults::default());
        self.world.clients.reseat(slot);
    }

    /// Seats every member that the cluster knows of and that has no process yet, and frees the places of those that were
    /// removed.
    pub fn follow_membership(&mut self) {
        let Some(members) = self.members() else { return };
        let by_url: BTreeMap<String, u64> =
            members.iter().filter_map(|member| Some((member.peer_ur_ls.first()?.clone(), member.id))).collect();
        for slot in 0..self.slots.len() {
            let Some(&id) = by_url.get(&crate::network::peer_url(slot)) else { continue };
            // One seen before was started before, and has or had its disk.
            if !self.used.insert(id) {
                continue;
            }
            self.world.witness.trace.note(format_args!("{slot} becomes {id:x}"));
            self.vacate(slot);
            let initial_members = BTreeMap::new();
            *self.slots[slot].seat.lock() = Some(Seat { member_id: id, cluster_id: self.cluster_id, initial_members });
            self.start(slot);
        }
    }

    /// The members as the one knows them that has applied most.
    pub fn members(&self) -> Option<Vec<pb::Member>> {
        self.nodes().into_iter().max_by_key(|(_, node)| node.status().applied_index).map(|(_, node)| node.members())
    }

    /// Running nodes by slot, ready or not.
    pub fn nodes(&self) -> Vec<(usize, Arc<Node>)> {
        self.running.iter().filter_map(|&slot| Some((slot, self.slots[slot].node.lock().clone()?))).collect()
    }

    /// Slots whose member serves.
    pub fn live(&self) -> Vec<usize> {
        self.running.iter().copied().filter(|&slot| self.slots[slot].live.lock().is_some()).collect()
    }

    /// Slots whose process runs.
    pub fn running(&self) -> Vec<usize> {
        self.running.iter().copied().collect()
    }

    /// Slots that have a member whose process does not run.
    pub fn down(&self) -> Vec<usize> {
        let sits = |slot: &usize| self.slots[*slot].seat.lock().is_some();
        (0..self.slots.len()).filter(|slot| !self.running.contains(slot)).filter(sits).collect()
    }

    /// What goes wrong on a disk from now on.
    pub fn set_faults(&self, slot: usize, faults: kelson::storage::fs::Faults) {
        let lying_sync = self.world.plan.mutant == Some(Mutant::LyingSync);
        self.slots[slot].disk.lock().inner.set_faults(kelson::storage::fs::Faults { lying_sync, ..faults });
    }

    /// Moves a wall clock.
    pub fn set_wall_offset(&mut self, slot: usize, milliseconds: i64) {
        self.wall_offset_ms[slot] = milliseconds;
    }

    fn is_held(&self, a: usize, b: usize) -> bool {
        self.held.contains(&(a.min(b), a.max(b)))
    }

    /// Lets everything of one member to another get lost.
    pub fn lose(&mut self, from: usize, to: usize) {
        if !self.is_held(from, to) && self.cut.insert((from, to)) {
            self.sim.partition_oneway(host(from), host(to));
        }
    }

    /// Lets it through again. What was lost stays lost, and its connections stay stuck until somebody notices.
    pub fn pass(&mut self, from: usize, to: usize) {
        if self.cut.remove(&(from, to)) {
            self.sim.repair_oneway(host(from), host(to));
        }
    }

    /// Holds back everything between two members.
    pub fn hold(&mut self, a: usize, b: usize) {
        let is_cut = self.cut.contains(&(a, b)) || self.cut.contains(&(b, a));
        if a != b && !is_cut && self.held.insert((a.min(b), a.max(b))) {
            self.sim.hold(host(a), host(b));
        }
    }

    /// Delivers what was held back.
    pub fn release(&mut self, a: usize, b: usize) {
        if self.held.remove(&(a.min(b), a.max(b))) {
            self.sim.release(host(a), host(b));
        }
    }

    /// Sets how long messages take at most between two members.
    pub fn set_latency(&self, a: usize, b: usize, most_ms: u64) {
        self.sim.set_link_max_message_latency(host(a), host(b), Duration::from_millis(most_ms));
    }

    /// Ends all faults of the network.
    pub fn heal(&mut self) {
        for (from, to) in self.cut.clone() {
            self.pass(from, to);
            self.world.wires.reset(from, to);
        }
        for (a, b) in self.held.clone() {
            self.release(a, b);
        }
        for a in 0..self.slots.len() {
            for b in a + 1..self.slots.len() {
                self.set_latency(a, b, self.world.plan.latency_ms.1);
            }
        }
    }
}

fn epoch() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS)
}
