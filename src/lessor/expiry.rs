//! Expiring: the task that proposes the revocation of every lease whose time is over.
//!
//! There is no cap on leases per second: a round takes all that are due, a bounded number of them proposed at the same
//! time, which the open batch joins into a few log entries.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::time::Duration;

use futures_util::StreamExt;

use super::{Lessor, TICK};
use crate::proto::etcdserverpb as pb;
use crate::raft::{self, Node};
use crate::state::{self, Applied, Command};

/// Revocations proposed at the same time.
const IN_FLIGHT_MAX: usize = 1024;

impl Lessor {
    /// Follows the leadership and revokes what expires, for ever; dropping the future ends it. Only the leader's clocks
    /// run, and only what it proposes itself, having led ever since, ends a lease: whoever was asleep while another led
    /// knows nothing of the renewals meanwhile.
    pub async fn run(&self, node: &Node, grace: Duration) -> Infallible {
        let mut leadership = node.watch_leadership();
        let mut leads_in = None;
        loop {
            let now = *leadership.borrow_and_update();
            let led_in = now.is_leading.then_some(now.term);
            if led_in != leads_in {
                leads_in = led_in;
                match led_in {
                    Some(_) => self.promote(grace, || node.store().leases()),
                    None => self.demote(),
                }
            }
            if let Ok(Ok(())) = tokio::time::timeout(TICK, leadership.changed()).await {
                continue;
            }
            // A revocation can be under way for as long as there is no quorum. The clocks must stop as soon as this member
            // does not lead any more: meanwhile another one may have given every lease its whole TTL again.
            tokio::select! {
                revoked = self.revoke_expired(|command| node.propose_as_leader(command)) => {
                    node.meter().metrics.lease.expired.inc_by(revoked);
                }
                Ok(()) = leadership.changed() => {}
            }
        }
    }

    /// One round: everything that has expired by now. How many leases it ended.
    pub(super) async fn revoke_expired<P, F>(&self, propose: P) -> u64
    where
        P: Fn(Command) -> F,
        F: Future<Output = Result<Applied, raft::Error>>,
    {
        let mut revoked = 0;
        while let Some(expired) = self.expired() {
            let found = expired.len();
            let proposed = futures_util::stream::iter(expired)
                .map(|id| propose(Command::LeaseRevoke(pb::LeaseRevokeRequest { id })))
                .buffer_unordered(IN_FLIGHT_MAX);
            let unsettled: Vec<String> = proposed
                .inspect(|fate| revoked += u64::from(fate.as_ref().is_ok_and(|applied| applied.response.is_ok())))
                .filter_map(|fate| ready(unsettled(fate)))
                .collect()
                .await;
            if let Some(error) = unsettled.first() {
                tracing::warn!(found, unsettled = unsettled.len(), error, "expired leases not revoked, trying again");
                break;
            }
        }
        revoked
    }
}

/// Why a revocation has to be proposed again; `None` when the lease is gone, whoever revoked it.
fn unsettled(fate: Result<Applied, raft::Error>) -> Option<String> {
    match fate.map(|applied| applied.response) {
        Ok(Ok(_) | Err(state::Error::LeaseNotFound)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}
