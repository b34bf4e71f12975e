//! Where work goes that blocks: a file that is read, written and synced, a state that is freed.
//!
//! To a helper thread of the runtime. With the feature `simulation` it is a task instead, for a simulated world has one
//! thread and an order of its own; nothing there blocks.

use tokio::task::JoinHandle;

/// Starts work that blocks.
#[cfg(not(feature = "simulation"))]
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}

/// Starts work that would block outside a simulation.
#[cfg(feature = "simulation")]
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(async move { work() })
}
