//! Auto-compaction: what is forgotten without being asked, by age or by number of revisions, by etcd's rules
//! (`api/v3compactor`). Only the leader compacts; the compaction is a proposal like any other.
//!
//! Kubernetes compacts by itself and leaves this off. `server` runs [`Compactor::run`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::AutoCompaction;
use crate::proto::etcdserverpb as pb;
use crate::raft::{self, Node};
use crate::state::{self, Applied, Command};

/// How often the compaction by revision looks.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// The longest time between two compactions by age.
const PERIODIC_INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);
/// Samples taken in one interval of the compaction by age.
const SAMPLES_PER_INTERVAL: u32 = 10;

/// When to compact, and to which revision. It is told the time and the revision and knows nothing else.
#[derive(Debug)]
pub struct Compactor {
    mode: Mode,
    /// The revision compacted last; 0 at first.
    last: i64,
}

#[derive(Debug)]
enum Mode {
    /// Keeps what is younger than `period`.
    Periodic {
        period: Duration,
        /// A revision per sample interval, the oldest first: at most one more than the samples in a period.
        samples: VecDeque<i64>,
        /// When the next compaction is due: a period after the start, then an interval after each success.
        due: Duration,
    },
    /// Keeps this many revisions.
    Revision { kept: i64 },
}

impl Compactor {
    /// The compactor of a setting, started at `now`; `None` when it is off.
    pub fn new(setting: AutoCompaction, now: Duration) -> Option<Self> {
        let mode = match setting {
            AutoCompaction::Off => return None,
            AutoCompaction::Periodic(period) if period.is_zero() => return None,
            AutoCompaction::Periodic(period) => {
                Mode::Periodic { period, samples: VecDeque::new(), due: now.saturating_add(period) }
            }
            AutoCompaction::Revision(kept) if kept <= 0 => return None,
            AutoCompaction::Revision(kept) => Mode::Revision { kept },
        };
        Some(Self { mode, last: 0 })
    }

    /// Compacts for ever while this member leads; dropping the future ends it.
    pub async fn run(mut self, node: &Node, clock: &Clock) -> Infallible {
        loop {
            self.sample(node.store().revision());
            tokio::time::sleep(self.interval()).await;
            let status = node.status();
            if status.leader != Some(status.member_id) {
                continue;
            }
            let Some(revision) = self.due(clock.now(), node.store().revision()) else { continue };
            let request = pb::CompactionRequest { revision, physical: false };
            self.settle(clock.now(), revision, node.propose(Command::Compact(request)).await);
        }
    }

    /// The time between two looks.
    fn interval(&self) -> Duration {
        match &self.mode {
            Mode::Periodic { period, .. } => compaction_interval(*period) / SAMPLES_PER_INTERVAL,
            Mode::Revision { .. } => REVISION_INTERVAL,
        }
    }

    /// Notes the revision of now, once an interval.
    fn sample(&mut self, revision: i64) {
        let interval = self.interval();
        if let Mode::Periodic { period, samples, .. } = &mut self.mode {
            samples.push_back(revision);
            let samples_max = period.as_nanos() / interval.as_nanos().max(1) + 1;
            if samples.len() as u128 > samples_max {
                samples.pop_front();
            }
        }
    }

    /// The revision to compact to now, if it is time and there is something to compact.
    fn due(&self, now: Duration, revision: i64) -> Option<i64> {
        let target = match &self.mode {
            Mode::Periodic { samples, due, .. } => samples.front().copied().filter(|_| now >= *due)?,
            Mode::Revision { kept } => revision - kept,
        };
        (target > 0 && target != self.last).then_some(target)
    }

    /// Notes a compaction's fate. One that somebody else did is as good as done.
    fn settle(&mut self, now: Duration, revision: i64, fate: Result<Applied, raft::Error>) {
        let refusal = match fate.map(|applied| applied.response) {
            Ok(Ok(_) | Err(state::Error::Compacted)) => {
                tracing::info!(revision, "auto-compacted");
                self.last = revision;
                if let Mode::Periodic { period, due, .. } = &mut self.mode {
                    *due = now.saturating_add(compaction_interval(*period));
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(revision, error = refusal, "auto-compaction failed, trying again");
    }
}

fn compaction_interval(period: Duration) -> Duration {
    period.min(PERIODIC_INTERVAL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Response;

    const MINUTE: Duration = Duration::from_secs(60);

    fn applied(response: Result<Response, state::Error>) -> Result<Applied, raft::Error> {
        Ok(Applied { revision: 0, response })
    }

    /// Looks `looks` times with one more revision at each; what was compacted, and at which minute.
    fn minutes_and_targets(mut compactor: Compactor, looks: u32) -> Vec<(u64, i64)> {
        let mut now = Duration::ZERO;
        let mut compacted = Vec::new();
        for revision in 1..=i64::from(looks) {
            compactor.sample(revision);
            now += compactor.interval();
            if let Some(target) = compactor.due(now, revision) {
                compacted.push((now.as_secs() / 60, target));
                compactor.settle(now, target, applied(Ok(Response::Compact)));
            }
        }
        compacted
    }

    #[test]
    fn what_is_off_makes_no_compactor() {
        for off in [AutoCompaction::Off, AutoCompaction::Periodic(Duration::ZERO), AutoCompaction::Revision(0)] {
            assert!(Compactor::new(off, Duration::ZERO).is_none(), "{off:?}");
        }
    }

    #[test]
    fn a_short_period_is_compacted_once_a_period_to_where_it_was_a_period_ago() {
        let compactor = Compactor::new(AutoCompaction::Periodic(10 * MINUTE), Duration::ZERO).unwrap();
        assert_eq!(compactor.interval(), MINUTE);
        // Samples at minutes 0, 1, 2 … have revisions 1, 2, 3 …
        assert_eq!(minutes_and_targets(compactor, 35), [(10, 1), (20, 10), (30, 20)]);
    }

    #[test]
    fn a_long_period_is_compacted_once_an_hour() {
        let compactor = Compactor::new(AutoCompaction::Periodic(5 * 60 * MINUTE), Duration::ZERO).unwrap();
        assert_eq!(compactor.interval(), 6 * MINUTE);
        assert_eq!(minutes_and_targets(compactor, 75), [(300, 1), (360, 10), (420, 20)]);
    }

    #[test]
    fn by_revision_all_but_the_kept_ones_go() {
        let mut compactor = Compactor::new(AutoCompaction::Revision(10), Duration::ZERO).unwrap();
        assert_eq!(compactor.interval(), 5 * MINUTE);
        assert_eq!(compactor.due(MINUTE, 10), None);
        assert_eq!(compactor.due(MINUTE, 25), Some(15));
        compactor.settle(MINUTE, 15, applied(Err(state::Error::Compacted)));
        assert_eq!(compactor.due(MINUTE, 25), None, "nothing new");
        assert_eq!(compactor.due(MINUTE, 26), Some(16));
    }

    #[test]
    fn a_failed_compaction_is_tried_again() {
        let mut compactor = Compactor::new(AutoCompaction::Periodic(10 * MINUTE), Duration::ZERO).unwrap();
        compactor.sample(7);
        assert_eq!(compactor.due(10 * MINUTE, 9), Some(7));
        compactor.settle(10 * MINUTE, 7, Err(raft::Error::Timeout));
        assert_eq!(compactor.due(11 * MINUTE, 9), Some(7));
        compactor.settle(11 * MINUTE, 7, applied(Ok(Response::Compact)));
        assert_eq!(compactor.due(30 * MINUTE, 9), None, "the same revision again");
    }
}
