//! The only reader of time. Everything else is given a [`Clock`], so that a test can turn it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A monotonic clock that starts at zero, plus the wall clock for what people read. Cheap to clone; clones agree.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    /// Added to the monotonic reading, in nanoseconds; 0 outside tests.
    skew_nanos: AtomicI64,
}

impl Clock {
    /// The machine's clock.
    #[expect(clippy::disallowed_methods, reason = "this is the module that may")]
    pub fn system() -> Self {
        Self(Arc::new(Inner { started: Instant::now(), skew_nanos: AtomicI64::new(0) }))
    }

    /// Time since this clock was made. Never goes back, unless a test skews it.
    #[expect(clippy::disallowed_methods, reason = "this is the module that may")]
    pub fn now(&self) -> Duration {
        let elapsed = Instant::now().duration_since(self.0.started).as_nanos() as i64;
        Duration::from_nanos(elapsed.saturating_add(self.0.skew_nanos.load(Ordering::Relaxed)).max(0) as u64)
    }

    /// Moves the clock by `nanos` against the machine's, for tests of expiry.
    pub fn skew(&self, nanos: i64) {
        self.0.skew_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Wall clock, milliseconds since 1970; for ids and log lines, never for deadlines.
    #[expect(clippy::disallowed_methods, reason = "this is the module that may")]
    pub fn unix_millis(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}
