//! Notices the end of the parent, so that a member started by a test does not outlive it.
//!
//! Not by `PR_SET_PDEATHSIG`: that fires when the parent's *thread* ends, and test runners start processes from
//! threads that come and go.

use std::time::Duration;

use rustix::process::getppid;

/// How often the parent's id is looked at: a process whose parent ended gets another.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Returns soon after the parent that was there at the call has ended; never if there is none.
pub async fn ended() {
    let Some(parent) = getppid() else { return std::future::pending().await };
    while getppid() == Some(parent) {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
