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
    /// Takes the place of the machine's clocks.
    #[cfg(feature = "simulation")]
    simulated: Option<Simulated>,
}

/// What a simulated clock shows, until it is set again.
#[cfg(feature = "simulation")]
#[derive(Debug, Default)]
struct Simulated {
    nanos: std::sync::atomic::AtomicU64,
    unix_millis: std::sync::atomic::AtomicU64,
}

impl Clock {
    /// The machine's clock.
    #[expect(clippy::disallowed_methods, reason = "this is the module that may")]
    pub fn system() -> Self {
        Self(Arc::new(Inner {
            started: Instant::now(),
            skew_nanos: AtomicI64::new(0),
            #[cfg(feature = "simulation")]
            simulated: None,
        }))
    }

    /// A clock that stands still at zero until [`Clock::set`] moves it.
    #[cfg(feature = "simulation")]
    pub fn simulated() -> Self {
        let started = Self::system().0.started;
        Self(Arc::new(Inner { started, skew_nanos: AtomicI64::new(0), simulated: Some(Simulated::default()) }))
    }

    /// Sets a simulated clock: the monotonic reading, which must not go back, and the wall clock, which may.
    ///
    /// # Panics
    /// When the clock is the machine's.
    #[cfg(feature = "simulation")]
    pub fn set(&self, now: Duration, unix_millis: u64) {
        let simulated = self.0.simulated.as_ref().expect("only a simulated clock is set");
        simulated.nanos.store(now.as_nanos() as u64, Ordering::Relaxed);
        simulated.unix_millis.store(unix_millis, Ordering::Relaxed);
    }

    /// Time since this clock was made. Never goes back, unless a test skews it.
    #[expect(clippy::disallowed_methods, reason = "this is the module that may")]
    pub fn now(&self) -> Duration {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.0.simulated {
            return Duration::from_nanos(simulated.nanos.load(Ordering::Relaxed));
        }
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
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.0.simulated {
            return simulated.unix_millis.load(Ordering::Relaxed);
        }
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}
