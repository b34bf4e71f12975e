//! The log as a task, for simulations: the same steps as on the thread, with a sync that takes simulated time.

use std::io;

use tokio::time::{sleep, timeout};

use super::{Work, Writer};

impl Writer {
    /// Runs until the last handle is dropped or the disk fails.
    pub async fn run_as_task(mut self) {
        self.retire();
        loop {
            let work = self.next().await;
            let result = match work {
                Work::Requests => self.write_slowly().await,
                Work::Idle => self.mark().and_then(|()| self.write_out()),
                Work::Close => self.close(),
            };
            match result {
                Ok(()) => self.complete(),
                Err(error) => return self.fail(&error),
            }
            if matches!(work, Work::Close) {
                return;
            }
        }
    }

    async fn next(&mut self) -> Work {
        loop {
            if let Some(work) = self.look(false) {
                return work;
            }
            let hint = self.shared.state.lock().committed_unwritten.is_some();
            let shared = self.shared.clone();
            let rung = shared.work_task.notified();
            if !self.wants_mark() && !hint {
                rung.await;
            } else if timeout(self.options.idle_mark, rung).await.is_err()
                && let Some(work) = self.look(true)
            {
                return work;
            }
        }
    }

    /// Takes what there is to do.
    fn look(&mut self, is_idle: bool) -> Option<Work> {
        let mut state = self.shared.state.lock();
        let work = if !state.queue.is_empty() {
            std::mem::swap(&mut state.queue, &mut self.batch);
            state.queued_bytes = 0;
            Work::Requests
        } else if state.closing {
            Work::Close
        } else if is_idle {
            Work::Idle
        } else {
            return None;
        };
        self.committed = state.committed_unwritten.take();
        Some(work)
    }

    /// Between the write and the sync the power may go.
    async fn write_slowly(&mut self) -> io::Result<()> {
        let purges = self.put_requests()?;
        if let Some(latency) = &self.options.sync_latency {
            sleep(latency()).await;
        }
        self.settle(purges)
    }
}
