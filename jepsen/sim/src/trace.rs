//! Everything that happens, as one hash: two runs of a seed are the same when their hashes are.

use std::fmt::{self, Write};
use std::time::Duration;

use parking_lot::Mutex;

/// The hash of all events so far, and where they are shown.
#[derive(Debug)]
pub struct Trace(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    hash: Hash,
    events: u64,
    now: Duration,
    prints: bool,
}

/// FNV-1a, 64 bits: the same everywhere and always.
#[derive(Clone, Copy, Debug)]
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// What it has come to.
    pub fn value(self) -> u64 {
        self.0
    }
}

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text.as_bytes());
        Ok(())
    }
}

impl Trace {
    /// Nothing yet; `prints` shows every event on standard output.
    pub fn new(prints: bool) -> Self {
        Self(Mutex::new(Inner { hash: Hash::default(), events: 0, now: Duration::ZERO, prints }))
    }

    /// Moves the time between steps of the world.
    pub fn set_elapsed(&self, now: Duration) {
        self.0.lock().now = now;
    }

    /// Time since the world began: exact where a member runs, else as of the last step.
    pub fn now(&self) -> Duration {
        turmoil::sim_elapsed().unwrap_or_else(|| self.0.lock().now)
    }

    /// Adds an event, with its time.
    pub fn note(&self, event: fmt::Arguments<'_>) {
        let now = self.now();
        let mut inner = self.0.lock();
        inner.events += 1;
        inner.hash.add(&now.as_nanos().to_le_bytes());
        inner.hash.write_fmt(event).expect("hashing cannot fail");
        if inner.prints {
            println!("{:>12.6} {event}", now.as_secs_f64());
        }
    }

    /// Events and their hash.
    pub fn sum(&self) -> (u64, u64) {
        let inner = self.0.lock();
        (inner.events, inner.hash.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_order_content_and_time() {
        let sum = |events: &[(u64, &str)]| {
            let trace = Trace::new(false);
            for (nanos, event) in events {
                trace.set_elapsed(Duration::from_nanos(*nanos));
                trace.note(format_args!("{event}"));
            }
            trace.sum().1
        };
        let base = sum(&[(1, "a"), (2, "b")]);
        assert_eq!(base, sum(&[(1, "a"), (2, "b")]));
        assert_ne!(base, sum(&[(1, "b"), (2, "a")]));
        assert_ne!(base, sum(&[(1, "a"), (3, "b")]));
    }
}
