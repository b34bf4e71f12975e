//! A member's threads held still, as a process that is stopped by a signal or swapped out for long stands still: its
//! sockets stay open, its timers run on, and it does nothing. For tests.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A test that forgets to resume a member does not hold its threads for ever.
const PAUSE_MAX: Duration = Duration::from_secs(120);

/// While this lives, the threads stand still.
pub struct Pause(Arc<Gate>);

#[derive(Default)]
struct Gate {
    // Guards whether the threads may go on; a lock, because whole threads wait for it.
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut open = self.open.lock();
        while !*open {
            if self.opened.wait_for(&mut open, PAUSE_MAX).timed_out() {
                tracing::error!("a pause has lasted too long and ends by itself");
                return;
            }
        }
    }
}

impl Pause {
    /// Stops the threads of these single-threaded runtimes; returns when each stands still.
    pub async fn of(handles: &[Handle]) -> Self {
        let gate = Arc::new(Gate::default());
        let pause = Self(gate.clone());
        for handle in handles {
            let (stands, standing) = oneshot::channel();
            let gate = gate.clone();
            drop(handle.spawn(async move {
                if stands.send(()).is_ok() {
                    gate.pass();
                }
            }));
            if standing.await.is_err() {
                tracing::debug!("a runtime to be paused has ended");
            }
        }
        pause
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        *self.0.open.lock() = true;
        self.0.opened.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::workers::Worker;

    #[tokio::test]
    async fn a_paused_runtime_runs_nothing_until_the_pause_is_dropped() {
        let worker = Worker::start("paused").unwrap();
        let pause = Pause::of(&[worker.handle().clone()]).await;
        let mut task = worker.handle().spawn(async { 7 });
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut task).await.is_err());
        drop(pause);
        assert_eq!(task.await.unwrap(), 7);
    }
}
