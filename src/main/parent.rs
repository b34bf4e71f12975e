//! Notices the end of the parent, so that a member started by a test does not outlive it.
//!
//! Not by `PR_SET_PDEATHSIG`: that fires when the parent's *thread* ends, and test runners start processes from
//! threads that come and go.

use std::time::Duration;

use rustix::process::getppid;

/// How often the parent's id is looked at: a process whose parent ended gets another.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Resolves soon after the parent that is there at the call has ended; never if there is none.
pub fn ended() -> impl Future<Output = ()> {
    let parent = getppid();
    async move {
        while parent.is_none() || getppid() == parent {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}
