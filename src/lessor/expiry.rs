//! Expiring: the task that proposes the revocation of every lease whose time is over.
//!
//! There is no cap on leases per second: a round takes all that are due, a bounded number of them proposed at the same
//! time, which the open batch joins into a few log entries.

use std::convert::Infallible;
use std::future::{Future, ready};

use futures_util::StreamExt;

use super::{Lessor, TICK};
use crate::proto::etcdserverpb as pb;
use crate::raft::{self, Node};
use crate::state::{self, Applied, Command};

/// Revocations proposed at the same time.
const IN_FLIGHT_MAX: usize = 1024;

impl Lessor {
    /// Revokes what expires, for ever; dropping the future ends it. To be run while this member may lead; when it does
    /// not, nothing expires.
    pub async fn run(&self, node: &Node) -> Infallible {
        loop {
            tokio::time::sleep(TICK).await;
            let revoked = self.revoke_expired(|command| node.propose(command)).await;
            node.meter().metrics.lease.expired.inc_by(revoked);
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
