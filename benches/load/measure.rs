//! When operations start, and what is counted about them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use kelson::clock::Clock;
use tokio::sync::mpsc;

use super::histogram::Histogram;

/// How many operations may be due and not yet taken by a client; beyond it the pacer waits, and latencies still count
/// from the time each one should have started.
const BACKLOG_MAX: usize = 1 << 16;

/// The bounds of one stage; it ends at whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// No operation starts after this time.
    pub time: Duration,
    /// No more operations than this.
    pub operations: u64,
    /// Operations started per second, whatever the server does; without it each client starts one after another.
    pub rate: Option<f64>,
}

/// One operation's turn.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Position within the stage, from 0.
    pub index: u64,
    /// When it should start: latency counts from here.
    pub due: Duration,
}

/// One bounded stretch of load, shared by its clients.
pub struct Stage {
    clock: Clock,
    started: Duration,
    bounds: Bounds,
    next: AtomicU64,
    /// Set in an open loop: the turns as they fall due.
    schedule: Option<tokio::sync::Mutex<mpsc::Receiver<Turn>>>,
}

impl Stage {
    /// Starts now. An open loop gets a thread that sleeps from turn to turn, because the runtime's timers are a whole
    /// millisecond coarse; it ends with the stage.
    pub fn start(clock: &Clock, bounds: Bounds) -> Arc<Self> {
        let started = clock.now();
        let schedule = bounds.rate.map(|rate| {
            let (send, receive) = mpsc::channel(BACKLOG_MAX);
            let clock = clock.clone();
            thread::spawn(move || pace(&clock, started, bounds, rate, &send));
            tokio::sync::Mutex::new(receive)
        });
        Arc::new(Self { clock: clock.clone(), started, bounds, next: AtomicU64::new(0), schedule })
    }

    /// Waits for the caller's next turn; `None` when the stage is over.
    pub async fn turn(&self) -> Option<Turn> {
        if let Some(schedule) = &self.schedule {
            return schedule.lock().await.recv().await;
        }
        let due = self.clock.now();
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        (due < self.started + self.bounds.time && index < self.bounds.operations).then_some(Turn { index, due })
    }
}

fn pace(clock: &Clock, started: Duration, bounds: Bounds, rate: f64, turns: &mpsc::Sender<Turn>) {
    for index in 0..bounds.operations {
        let offset = Duration::from_secs_f64(index as f64 / rate);
        if offset >= bounds.time {
            return;
        }
        let due = started + offset;
        let now = clock.now();
        if due > now {
            thread::sleep(due - now);
        }
        if turns.blocking_send(Turn { index, due }).is_err() {
            return;
        }
    }
}

/// What one stage counted.
pub struct Totals {
    /// Operations that succeeded.
    pub operations: u64,
    /// Latency of each call that succeeded; one call may be several operations.
    pub latency: Histogram,
    /// Operations that failed.
    pub errors: u64,
    /// The first failure's text.
    pub first_error: Option<String>,
    /// Time from a put's start to each delivery of its event.
    pub deliveries: Histogram,
}

impl Totals {
    /// All zero.
    pub fn new() -> Self {
        Self { operations: 0, latency: Histogram::new(), errors: 0, first_error: None, deliveries: Histogram::new() }
    }
}

/// The totals, shared by all tasks of the one thread; the lock is never contended.
#[derive(Clone)]
pub struct Counter(Arc<Mutex<Totals>>);

impl Counter {
    /// With all counts zero.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Totals::new())))
    }

    /// Access to the counts; must not be held across an await.
    pub fn lock(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a failure.
    pub fn failed(&self, error: &dyn std::error::Error) {
        let mut totals = self.lock();
        totals.errors += 1;
        totals.first_error.get_or_insert_with(|| error.to_string());
    }

    /// Hands out the counts and starts again from zero.
    pub fn take(&self) -> Totals {
        std::mem::replace(&mut *self.lock(), Totals::new())
    }
}
