//! The Lease service: grants and revocations are proposed; renewals and remaining times are the lessor's, in memory.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::quota::{self, Quota};
use super::{Error, check, header, size_limit};
use crate::lessor::{Lessor, NotLeading};
use crate::mutants::{Mutant, planted};
use crate::proto::etcdserverpb as pb;
use crate::proto::peer;
use crate::raft::{self, Node};
use crate::state::{self, Applied, Command, Response as Answer};

/// How long the leader may take to answer for its clocks.
const PEER_DEADLINE: Duration = Duration::from_millis(500);
/// Pause before a leader is looked for again.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);
/// How many election timeouts a renewal waits for a leader.
const ELECTIONS_WAITED: u32 = 3;

/// etcd's `Lease` service.
#[derive(Clone)]
pub struct Lease {
    node: Arc<Node>,
    lessor: Arc<Lessor>,
    quota: Arc<Quota>,
}

impl Lease {
    /// Serves the node's leases with the lessor's clocks.
    pub fn new(node: Arc<Node>, lessor: Arc<Lessor>, quota: Arc<Quota>) -> Self {
        Self { node, lessor, quota }
    }

    /// Makes a lease. The id, where the client leaves it open, and the effective TTL are chosen here and replicated.
    ///
    /// # Errors
    /// A TTL beyond the limit; an id in use; the quota; the proposal's fate.
    pub async fn grant(&self, mut request: pb::LeaseGrantRequest) -> Result<pb::LeaseGrantResponse, Error> {
        self.quota.admit(quota::lease_cost()).await?;
        check::lease_ttl(request.ttl).map_err(|error| self.alarm().map_or(error.into(), Error::from))?;
        request.ttl = self.lessor.effective_ttl(request.ttl);
        if request.id == 0 {
            request.id = random_id();
        }
        let Applied { revision, response } = self.node.propose(Command::LeaseGrant(request)).await?;
        let Answer::LeaseGrant(mut response) = response? else { unreachable!("a grant is answered as a grant") };
        response.header = header::at(&self.node, revision);
        Ok(response)
    }

    /// What an alarm makes of every grant; etcd looks at alarms before it looks at the TTL.
    fn alarm(&self) -> Option<state::Error> {
        let alarms = self.node.store().alarms();
        let is_raised = |kind| alarms.iter().any(|alarm| alarm.alarm() == kind);
        if is_raised(pb::AlarmType::Corrupt) {
            Some(state::Error::Corrupt)
        } else if is_raised(pb::AlarmType::Nospace) {
            Some(state::Error::NoSpace)
        } else {
            None
        }
    }

    /// Ends a lease and removes its keys.
    ///
    /// # Errors
    /// No such lease; the proposal's fate.
    pub async fn revoke(&self, request: pb::LeaseRevokeRequest) -> Result<pb::LeaseRevokeResponse, Error> {
        let Applied { revision, response } = self.node.propose(Command::LeaseRevoke(request)).await?;
        response?;
        Ok(pb::LeaseRevokeResponse { header: header::at(&self.node, revision) })
    }

    /// Renews a lease, on whichever member leads; TTL 0 says that there is no such lease. The header is of before the
    /// renewal.
    ///
    /// # Errors
    /// No leader to renew it.
    pub async fn keep_alive(&self, request: pb::LeaseKeepAliveRequest) -> Result<pb::LeaseKeepAliveResponse, Error> {
        let header = header::now(&self.node);
        let ttl = match self.lessor.renew(request.id) {
            Ok(Some(ttl)) => ttl,
            Ok(None) | Err(NotLeading) => self.renew_or_miss(request.id).await?,
        };
        if ttl > 0 {
            self.node.meter().metrics.lease.renewed.inc();
        }
        Ok(pb::LeaseKeepAliveResponse { header, id: request.id, ttl })
    }

    /// What a lease was granted, what is left of it and, if asked, its keys; TTL −1 says that there is no such lease.
    ///
    /// # Errors
    /// No leader to ask.
    pub async fn time_to_live(
        &self,
        request: pb::LeaseTimeToLiveRequest,
    ) -> Result<pb::LeaseTimeToLiveResponse, Error> {
        self.node.read_barrier().await?;
        let header = header::now(&self.node);
        let Some(lease) = self.node.store().lease(request.id) else {
            return Ok(pb::LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..Default::default() });
        };
        let remaining = match self.lessor.remaining(request.id) {
            Ok(remaining) => remaining,
            Err(NotLeading) => self.remaining_at_leader(request.id).await?,
        };
        Ok(pb::LeaseTimeToLiveResponse {
            header,
            id: request.id,
            // No clock yet: the grant was applied in this instant.
            ttl: remaining.as_ref().map_or(lease.ttl, whole_seconds),
            granted_ttl: lease.ttl,
            keys: if request.keys { lease.keys } else { Vec::new() },
        })
    }

    /// A renewal may be repeated as often as need be, so it is, until somebody leads.
    async fn renew_or_miss(&self, lease: i64) -> Result<i64, Error> {
        self.until_led(|| self.renew_once(lease)).await
    }

    async fn renew_once(&self, lease: i64) -> Option<i64> {
        let ttl = match self.lessor.renew(lease) {
            Ok(ttl) => ttl.unwrap_or(0),
            Err(NotLeading) => {
                let peer = self.node.leader_peer()?;
                let request = peer::RenewRequest { envelope: peer.envelope(), lease };
                let call = peer.control(PEER_DEADLINE, |mut client| async move { client.renew(request).await });
                call.await.ok().filter(|answer| answer.leading)?.ttl
            }
        };
        if ttl > 0 || planted(Mutant::GoneByClock) {
            return Some(ttl);
        }
        // A clock that has run out, or that is not there, is one member's view; a next leader may see it otherwise. The
        // lease is gone when that is applied. Until then the client waits, as etcd's does for the revocation.
        self.node.read_barrier().await.ok()?;
        self.node.store().lease(lease).is_none().then_some(0)
    }

    async fn remaining_at_leader(&self, lease: i64) -> Result<Option<Duration>, Error> {
        self.until_led(|| self.remaining_once(lease)).await
    }

    async fn remaining_once(&self, lease: i64) -> Option<Option<Duration>> {
        if let Ok(remaining) = self.lessor.remaining(lease) {
            return Some(remaining);
        }
        let peer = self.node.leader_peer()?;
        let request = peer::RemainingRequest { envelope: peer.envelope(), lease };
        let call = peer.control(PEER_DEADLINE, |mut client| async move { client.remaining(request).await });
        let answer = call.await.ok().filter(|answer| answer.leading)?;
        Some(answer.found.then_some(Duration::from_millis(answer.remaining_ms)))
    }

    /// Asks until a leader answers, or for as long as an election may take.
    async fn until_led<T, F: Future<Output = Option<T>>>(&self, ask: impl Fn() -> F) -> Result<T, Error> {
        let asking = async {
            loop {
                if let Some(answer) = ask().await {
                    return answer;
                }
                self.node.await_change(RETRY_INTERVAL).await;
            }
        };
        let deadline = self.node.leader_deadline() * ELECTIONS_WAITED;
        tokio::time::timeout(deadline, asking).await.map_err(|_| raft::Error::NoLeader.into())
    }

    /// The leases there are, the first to expire first, as this member knows them.
    pub fn leases(&self) -> pb::LeaseLeasesResponse {
        let mut ids: Vec<i64> = self.node.store().leases().into_iter().map(|(id, _)| id).collect();
        self.lessor.sort_by_expiry(&mut ids);
        let leases = ids.into_iter().map(|id| pb::LeaseStatus { id }).collect();
        pb::LeaseLeasesResponse { header: header::now(&self.node), leases }
    }
}

/// A client's renewals, answered one by one as they come; an error is the last message.
pub type KeepAlives = Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

fn keep_alives(requests: Streaming<pb::LeaseKeepAliveRequest>, lease: Lease) -> KeepAlives {
    Box::pin(futures_util::stream::unfold(Some((requests, lease)), |state| async {
        let (mut requests, lease) = state?;
        let answer = match requests.message().await.transpose()? {
            Ok(request) => lease.keep_alive(request).await.map_err(Status::from),
            Err(status) => Err(size_limit::reword(status)),
        };
        let goes_on = answer.is_ok();
        Some((answer, goes_on.then_some((requests, lease))))
    }))
}

/// A positive id.
fn random_id() -> i64 {
    let random = getrandom::u64().expect("the kernel has random numbers");
    // One in 2^63 would be 0, which asks for an id.
    ((random >> 1) as i64).max(1)
}

fn whole_seconds(duration: &Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl pb::lease_server::Lease for Lease {
    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        Ok(Response::new(self.grant(request.into_inner()).await?))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        Ok(Response::new(self.revoke(request.into_inner()).await?))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        Ok(Response::new(keep_alives(request.into_inner(), self.clone())))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        Ok(Response::new(self.time_to_live(request.into_inner()).await?))
    }

    async fn lease_leases(
        &self,
        _request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        Ok(Response::new(self.leases()))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_chosen_id_is_positive() {
        for _ in 0..1000 {
            assert!(super::random_id() > 0);
        }
    }
}
