//! What Raft counts and times: proposals, applied entries and what they did, reads, compactions. Knows nothing of how
//! these work; called by the rest of `raft`, and read by `rpc` for its own measuring.
//!
//! On the way of a put stand two readings of the clock for the proposal and one for each command applied; everything
//! else is counted once an entry.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use crate::clock::Clock;
use crate::metrics::{Metrics, Op};
use crate::state::{Applied, Command, Effects, LeaseChange, OpCounts};

/// A read that waits longer for its index is slow, as etcd's retry of one.
const SLOW_READ_INDEX: Duration = Duration::from_millis(500);

/// Counts and times.
pub struct Meter {
    /// Where it goes.
    pub metrics: Arc<Metrics>,
    /// By which time is measured.
    pub clock: Clock,
    /// `--warning-apply-duration`.
    slow_apply: Duration,
}

impl Meter {
    /// Over a member's metrics and clock; an entry that takes longer than `slow_apply` is logged.
    pub fn new(metrics: Arc<Metrics>, clock: Clock, slow_apply: Duration) -> Self {
        Self { metrics, clock, slow_apply }
    }

    /// The time since `started`, by the meter's clock.
    pub fn since(&self, started: Duration) -> Duration {
        self.clock.now().saturating_sub(started)
    }

    /// Counts a proposal's fate.
    pub(super) fn proposed(&self, op: Op, started: Duration, fate: &Result<Applied, Error>) {
        let server = &self.metrics.server;
        server.request_duration_seconds.observe(op, fate.is_ok(), self.since(started));
        match fate {
            // What was refused at the door, here or at a shutdown, is no failed proposal in etcd either.
            Ok(_) | Err(Error::TooManyRequests | Error::TooLarge { .. } | Error::Stopped) => {}
            Err(Error::NoLeader | Error::NotLeader | Error::LeaderChanged | Error::Timeout | Error::Fatal(_)) => {
                server.proposals_failed.inc();
            }
        }
    }

    /// Counts a read index that was asked for.
    pub(super) fn read_index<T>(&self, started: Duration, fate: &Result<T, Error>) {
        let server = &self.metrics.server;
        if fate.is_err() {
            server.read_indexes_failed.inc();
        }
        if self.since(started) > SLOW_READ_INDEX {
            server.slow_read_indexes.inc();
        }
    }

    /// Counts a slice of a compaction, which held the index and dropped so many revisions.
    pub(super) fn compaction_slice(&self, started: Duration, dropped: usize) {
        let (mvcc, milliseconds) = (&self.metrics.mvcc, self.since(started).as_secs_f64() * 1e3);
        mvcc.db_compaction_pause_milliseconds.observe(milliseconds);
        mvcc.index_compaction_pause_milliseconds.observe(milliseconds);
        mvcc.db_compaction_keys.inc_by(dropped as u64);
    }

    /// Counts a compaction that is done.
    pub(super) fn compaction(&self, started: Duration) {
        let mvcc = &self.metrics.mvcc;
        mvcc.db_compaction_total_milliseconds.observe(self.since(started).as_secs_f64() * 1e3);
        mvcc.db_compaction_last.set(i64::try_from(self.clock.unix_millis() / 1000).unwrap_or(i64::MAX));
    }

    /// Begins an entry.
    pub(super) fn entry(&self) -> EntryMeter<'_> {
        let now = self.clock.now();
        EntryMeter { meter: self, started: now, before: now, operations: OpCounts::default(), txns: 0 }
    }
}

/// One entry being applied.
pub struct EntryMeter<'a> {
    meter: &'a Meter,
    started: Duration,
    /// When the command before was done.
    before: Duration,
    operations: OpCounts,
    /// Commands of more than one operation.
    txns: u64,
}

impl EntryMeter<'_> {
    /// Counts a command of the entry.
    pub(super) fn command(&mut self, command: &Command, applied: &Applied, effects: &Effects) {
        let now = self.meter.clock.now();
        let took = now.saturating_sub(self.before);
        self.before = now;
        self.meter.metrics.server.apply_duration_seconds.observe(op(command), applied.response.is_ok(), took);
        let OpCounts { puts, deletes, ranges } = effects.operations;
        self.operations.puts += puts;
        self.operations.deletes += deletes;
        self.operations.ranges += ranges;
        self.txns += u64::from(puts + deletes + ranges > 1);
        if let Some(change) = &effects.lease {
            self.lease(change);
        }
    }

    fn lease(&self, change: &LeaseChange) {
        let lease = &self.meter.metrics.lease;
        match change {
            LeaseChange::Granted { ttl, .. } => {
                lease.granted.inc();
                lease.ttl_seconds.observe(*ttl as f64);
            }
            LeaseChange::Revoked { .. } => lease.revoked.inc(),
            // What was granted and revoked on the way to the new state was counted where it was applied.
            LeaseChange::Replaced { .. } => {}
        }
    }

    /// Ends the entry: everything of it is visible.
    pub(super) fn end(self, index: u64, commands: usize) {
        let mvcc = &self.meter.metrics.mvcc;
        mvcc.put.inc_by(self.operations.puts);
        mvcc.delete.inc_by(self.operations.deletes);
        mvcc.range.inc_by(self.operations.ranges);
        mvcc.txn.inc_by(self.txns);
        let took = self.meter.since(self.started);
        if took > self.meter.slow_apply {
            self.meter.metrics.server.slow_apply.inc();
            let expected = self.meter.slow_apply;
            tracing::warn!(index, commands, ?took, ?expected, "apply request took too long");
        }
    }
}

/// What a command is in the metrics.
pub fn op(command: &Command) -> Op {
    match command {
        Command::Put(_) => Op::Put,
        Command::DeleteRange(_) => Op::DeleteRange,
        Command::Txn(_) => Op::Txn,
        Command::Compact(_) => Op::Compaction,
        Command::LeaseGrant(_) => Op::LeaseGrant,
        Command::LeaseRevoke(_) => Op::LeaseRevoke,
        Command::Alarm(_) => Op::Alarm,
        Command::Publish(_) => Op::ClusterMemberAttrSet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn only_what_takes_longer_than_expected_is_a_slow_apply() {
        let (metrics, clock) = (Arc::new(Metrics::new(&Config::for_test())), Clock::system());
        let meter = Meter::new(metrics.clone(), clock.clone(), Duration::from_secs(1000));
        meter.entry().end(1, 0);
        assert_eq!(metrics.server.slow_apply.get(), 0);
        let entry = meter.entry();
        clock.skew(Duration::from_secs(2000).as_nanos() as i64);
        entry.end(2, 0);
        assert_eq!(metrics.server.slow_apply.get(), 1);
    }

    #[test]
    fn a_proposal_refused_at_the_door_has_not_failed() {
        let metrics = Arc::new(Metrics::new(&Config::for_test()));
        let meter = Meter::new(metrics.clone(), Clock::system(), Duration::MAX);
        for error in [Error::TooManyRequests, Error::Stopped, Error::Timeout, Error::NoLeader] {
            meter.proposed(Op::Put, Duration::ZERO, &Err(error));
        }
        assert_eq!(metrics.server.proposals_failed.get(), 2);
    }
}
