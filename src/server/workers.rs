//! The threads that serve connections: one single-threaded runtime each, connections handed out in turn.
//!
//! A work-stealing runtime costs 1.3 to 2 times the CPU per call, nearly all of it wake-ups across threads.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch as channel};

/// The runtimes that serve connections.
pub struct Workers {
    /// Threads of their own; none when connections are served by the thread that runs Raft.
    own: Vec<Worker>,
    handles: Vec<Handle>,
    next: AtomicUsize,
    open: channel::Sender<usize>,
}

/// A connection that is open until this is dropped.
pub struct Open(channel::Sender<usize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// One runtime and its thread; dropping it ends both.
pub struct Worker {
    handle: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread named `name` that runs what is spawned on its handle.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async {
                // Either way it is time to go: told so, or whoever could tell has gone.
                drop(ended.await);
            });
            // Tasks that block in another thread are not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, end: Some(end), thread: Some(thread) })
    }

    /// Where to spawn on this worker.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs a future on the worker and gives its result to the caller's runtime.
    ///
    /// # Errors
    /// When the worker ended or the future panicked.
    pub async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        self.handle.spawn(future).await.map_err(io::Error::other)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(end) = self.end.take()
            && end.send(()).is_err()
        {
            tracing::debug!("a worker ended before it was told to");
        }
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::warn!("a worker thread panicked");
        }
    }
}

impl Workers {
    /// Starts `count` workers; with one, connections are served on `raft`, and no command changes threads before the
    /// log's.
    ///
    /// # Errors
    /// As [`Worker::start`].
    pub fn start(count: usize, raft: &Handle) -> io::Result<Self> {
        let own = if count > 1 { count } else { 0 };
        let own: Vec<_> = (0..own).map(|n| Worker::start(&format!("io-{n}"))).collect::<io::Result<_>>()?;
        let mut handles: Vec<_> = own.iter().map(|worker| worker.handle().clone()).collect();
        if handles.is_empty() {
            handles.push(raft.clone());
        }
        Ok(Self { own, handles, next: AtomicUsize::new(0), open: channel::channel(0).0 })
    }

    /// Where to spawn on each thread that these have for themselves.
    pub fn own_handles(&self) -> Vec<Handle> {
        self.own.iter().map(|worker| worker.handle().clone()).collect()
    }

    /// Counts a connection.
    pub fn opened(&self) -> Open {
        self.open.send_modify(|open| *open += 1);
        Open(self.open.clone())
    }

    /// Returns when no connection is open.
    pub async fn idle(&self) {
        let mut open = self.open.subscribe();
        if open.wait_for(|&open| open == 0).await.is_err() {
            tracing::debug!("the counter of connections is gone");
        }
    }

    /// The worker whose turn it is.
    pub fn next(&self) -> &Handle {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        &self.handles[turn % self.handles.len()]
    }
}
