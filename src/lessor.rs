//! The leader's clocks of leases: when each lease ends, how long it has left, and who has expired.
//!
//! The state knows which leases exist and what they were granted; only the leader's lessor knows how long they still
//! last, in its memory alone. A new leader gives every lease its whole TTL again, so that a lease may live longer than
//! granted and never shorter. Expiring is a proposal like any other: a lease is gone when its revocation is applied.
//!
//! `rpc::lease` renews and asks; the apply thread reports grants and revocations; `server` runs [`Lessor::run`].

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::config::Config;
use crate::mutants::{Mutant, planted};
use crate::state::LeaseChange;

mod expiry;
mod wheel;

use wheel::{Place, Wheel};

/// How fine the wheel is, and how often it is looked at.
const TICK: Duration = Duration::from_millis(250);
/// After this a revocation whose outcome is unknown is proposed again.
const RETRY: Duration = Duration::from_secs(3);
/// Leases looked at while the lock is held once.
const VISITS_MAX: usize = 1024;

/// This member does not lead, so that it does not know how long leases last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lessor does not lead")]
pub struct NotLeading;

/// The clocks of all leases.
pub struct Lessor {
    clock: Clock,
    ttl_seconds_min: i64,
    /// Guards the clocks against renewals on the io threads, changes from the apply thread and the expiry task. A
    /// mutex, because nearly every access writes; each holds it for a few look-ups.
    clocks: Mutex<Clocks>,
}

#[derive(Default)]
struct Clocks {
    leading: bool,
    leases: HashMap<i64, LeaseClock>,
    wheel: Wheel,
}

/// One lease's clock. Invariant: its place in the wheel is at or before the first tick at or after `deadline`, or, for
/// one that was found expired, at its retry.
struct LeaseClock {
    ttl: Duration,
    /// On the lessor's clock; never goes back.
    deadline: Duration,
    place: Place,
}

/// The shortest TTL that is granted, in seconds: one and a half elections, rounded up, as in etcd. Shorter ones are
/// lengthened to it, so that a lease outlives a change of leader.
pub fn ttl_seconds_min(config: &Config) -> i64 {
    let heartbeat_ms = config.heartbeat_interval_ms.max(1);
    let election_ticks = config.election_timeout_ms / heartbeat_ms;
    let milliseconds = (3 * election_ticks / 2) * heartbeat_ms;
    i64::try_from(milliseconds.div_ceil(1000)).unwrap_or(i64::MAX)
}

impl Lessor {
    /// A lessor that does not lead yet.
    pub fn new(clock: Clock, ttl_seconds_min: i64) -> Self {
        Self { clock, ttl_seconds_min, clocks: Mutex::default() }
    }

    fn now(&self) -> Duration {
        if planted(Mutant::LeaseByWallClock) {
            return Duration::from_millis(self.clock.unix_millis());
        }
        self.clock.now()
    }

    /// The TTL that a grant of `ttl` seconds really gets.
    pub fn effective_ttl(&self, ttl: i64) -> i64 {
        ttl.max(self.ttl_seconds_min)
    }

    /// Starts the clocks: every lease has its whole TTL again, and `grace` (an election) on top. `leases` gives (id,
    /// TTL in seconds) of the state; it is called while changes are held back, so that none falls between.
    pub fn promote(&self, grace: Duration, leases: impl FnOnce() -> Vec<(i64, i64)>) {
        let mut clocks = self.clocks.lock();
        clocks.leading = true;
        clocks.restart(leases(), self.now().saturating_add(grace));
    }

    /// Stops the clocks: another member leads, or none.
    pub fn demote(&self) {
        *self.clocks.lock() = Clocks::default();
    }

    /// Follows the state; to be called for every applied change, in order, before the change is answered.
    pub fn on_change(&self, change: LeaseChange) {
        let now = self.now();
        let mut clocks = self.clocks.lock();
        match change {
            LeaseChange::Granted { id, ttl } if clocks.leading => clocks.start(id, seconds(ttl), now),
            LeaseChange::Granted { .. } => {}
            LeaseChange::Revoked { id } => clocks.stop(id),
            // Only a member that follows is given another state, but it may have led until a moment ago, or lead again
            // a moment later, without a word from whoever promotes: no clock of the old state stays, and whoever counts
            // as leading has all those of the new one.
            LeaseChange::Replaced { leases } => clocks.restart(leases, now),
        }
    }

    /// Gives a lease its whole TTL again and returns it, in seconds; `None` when there is no such lease, or it has
    /// expired and only waits for its revocation.
    ///
    /// # Errors
    /// [`NotLeading`].
    pub fn renew(&self, id: i64) -> Result<Option<i64>, NotLeading> {
        let now = self.now();
        let mut clocks = self.clocks.lock();
        if !clocks.leading {
            return Err(NotLeading);
        }
        let Some(lease) = clocks.leases.get_mut(&id).filter(|lease| lease.deadline > now) else { return Ok(None) };
        // The wheel is not touched: the lease is filed anew when its old place comes up.
        if !planted(Mutant::RenewForgotten) {
            lease.deadline = lease.deadline.max(now.saturating_add(lease.ttl));
        }
        Ok(Some(lease.ttl.as_secs() as i64))
    }

    /// How long a lease has left: zero for one that has expired, `None` when there is no such lease.
    ///
    /// # Errors
    /// [`NotLeading`].
    pub fn remaining(&self, id: i64) -> Result<Option<Duration>, NotLeading> {
        let now = self.now();
        let clocks = self.clocks.lock();
        if !clocks.leading {
            return Err(NotLeading);
        }
        Ok(clocks.leases.get(&id).map(|lease| lease.deadline.saturating_sub(now)))
    }

    /// Sorts lease ids by expiry, the first to end first; those without a clock go last. All of them, by id, when this
    /// member does not lead.
    pub fn sort_by_expiry(&self, ids: &mut [i64]) {
        let clocks = self.clocks.lock();
        ids.sort_by_cached_key(|id| (clocks.leases.get(id).map_or(Duration::MAX, |lease| lease.deadline), *id));
    }

    /// Leases that have expired, not more than are looked at under one lock; `None` when none is left to look at now.
    /// Each comes up again after [`RETRY`] unless its revocation was applied.
    fn expired(&self) -> Option<Vec<i64>> {
        let now = self.now();
        let mut clocks = self.clocks.lock();
        let mut expired = Vec::new();
        for visit in 0..VISITS_MAX {
            let Some(id) = clocks.wheel.pop(tick_before(now)) else {
                return if visit == 0 { None } else { Some(expired) };
            };
            let Clocks { leases, wheel, .. } = &mut *clocks;
            let lease = leases.get_mut(&id).expect("the wheel files only leases that have a clock");
            let next = if lease.deadline <= now {
                expired.push(id);
                now + RETRY
            } else {
                lease.deadline
            };
            lease.place = wheel.file(id, tick_after(next));
        }
        Some(expired)
    }
}

impl Clocks {
    /// Forgets every clock and, when leading, starts these anew.
    fn restart(&mut self, leases: Vec<(i64, i64)>, from: Duration) {
        *self = Self { leading: self.leading, ..Self::default() };
        if self.leading {
            for (id, ttl) in leases {
                self.start(id, seconds(ttl), from);
            }
        }
    }

    fn start(&mut self, id: i64, ttl: Duration, from: Duration) {
        self.stop(id);
        let deadline = from.saturating_add(ttl);
        let place = self.wheel.file(id, tick_after(deadline));
        self.leases.insert(id, LeaseClock { ttl, deadline, place });
    }

    fn stop(&mut self, id: i64) {
        let Some(lease) = self.leases.remove(&id) else { return };
        if let Some(moved) = self.wheel.remove(lease.place) {
            self.leases.get_mut(&moved).expect("the wheel files only leases that have a clock").place = lease.place;
        }
    }
}

/// A TTL; the state may hold one that was granted elsewhere, so that it is not trusted to be positive.
fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.max(0) as u64)
}

/// The first tick at or after a time: what is filed there is never looked at too early.
fn tick_after(time: Duration) -> u64 {
    time.as_nanos().div_ceil(TICK.as_nanos()) as u64
}

/// The last tick at or before a time.
fn tick_before(time: Duration) -> u64 {
    (time.as_nanos() / TICK.as_nanos()) as u64
}

#[cfg(test)]
mod tests;
