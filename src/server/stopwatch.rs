//! Which unary calls took long: a line in the log for each, but not for all of a burst. Called by `services` at the end
//! of every call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonic::Code;

use crate::clock::Clock;

/// The clock that calls are measured by, and what is said of slow ones.
pub struct Stopwatch {
    /// Of the member.
    pub clock: Clock,
    /// `--warning-unary-request-duration`.
    pub expected: Duration,
    /// The second of the last line: whatever makes one call slow makes many so, and lines for all of them would make
    /// it worse.
    told: AtomicU64,
    /// Slow calls without a line since then.
    untold: AtomicU64,
}

impl Stopwatch {
    /// Tells of calls that take longer than `expected`.
    pub fn new(clock: Clock, expected: Duration) -> Self {
        Self { clock, expected, told: AtomicU64::new(u64::MAX), untold: AtomicU64::new(0) }
    }

    /// Logs a slow call that ended now, once a second at most.
    pub fn tell(&self, method: &str, code: Code, took: Duration, now: Duration) {
        if let Some(others) = self.others(now) {
            let expected = self.expected;
            tracing::warn!(method, ?code, ?took, ?expected, others, "request took too long");
        }
    }

    /// How many calls a line speaks for besides its own; `None` when none is due.
    fn others(&self, now: Duration) -> Option<u64> {
        if self.told.swap(now.as_secs(), Ordering::Relaxed) == now.as_secs() {
            self.untold.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.untold.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_slow_calls_gets_a_line_a_second_and_the_next_line_counts_it() {
        let stopwatch = Stopwatch::new(Clock::system(), Duration::ZERO);
        let at = |millis| stopwatch.others(Duration::from_millis(millis));
        assert_eq!([0, 1, 999, 1000, 1001, 5000].map(at), [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
