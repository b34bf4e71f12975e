//! The Maintenance service: status, alarms, hashes, a copy of the data, and the levers of an operator.

use std::sync::Arc;

use prometheus::Histogram;
use tonic::{Request, Response, Status};

use super::{Error, Limits, header};
use crate::config::{ETCD_CLUSTER_VERSION, ETCD_VERSION};
use crate::metrics::Mvcc;
use crate::proto::etcdserverpb as pb;
use crate::raft::membership::Change;
use crate::raft::{self, Node};
use crate::state::{Applied, Command, HashKv, Response as Answer};

pub mod snapshot;

pub use snapshot::{Blobs, Copy, SnapshotSource};

/// etcd's `Maintenance` service.
#[derive(Clone)]
pub struct Maintenance {
    node: Arc<Node>,
    limits: Limits,
    snapshot: SnapshotSource,
}

impl Maintenance {
    /// Serves the node, with copies from `snapshot`.
    pub fn new(node: Arc<Node>, limits: Limits, snapshot: SnapshotSource) -> Self {
        Self { node, limits, snapshot }
    }

    /// Raises, lowers or lists alarms; listing goes through the log too, as in etcd.
    ///
    /// # Errors
    /// [`Error::AlarmAction`]; the proposal's fate.
    pub async fn alarm(&self, request: pb::AlarmRequest) -> Result<pb::AlarmResponse, Error> {
        pb::alarm_request::AlarmAction::try_from(request.action).map_err(|_| Error::AlarmAction)?;
        let Applied { revision, response } = self.node.propose(Command::Alarm(request)).await?;
        let Answer::Alarm(alarms) = response? else { unreachable!("an alarm request is answered with alarms") };
        Ok(pb::AlarmResponse { header: header::at(&self.node, revision), alarms })
    }

    /// How this member is, without asking another.
    pub fn status(&self) -> pb::StatusResponse {
        let raft = self.node.status();
        let sizes = self.node.db_sizes();
        let mut errors: Vec<String> = Vec::new();
        if raft.leader.is_none() {
            errors.push(Error::from(raft::Error::NoLeader).text().into_owned());
        }
        errors.extend(self.node.store().alarms().iter().map(describe));
        pb::StatusResponse {
            header: header::now(&self.node),
            version: ETCD_VERSION.into(),
            db_size: bytes(sizes.total_bytes),
            leader: raft.leader.unwrap_or(0),
            raft_index: raft.committed_index,
            raft_term: raft.term,
            raft_applied_index: raft.applied_index,
            errors,
            db_size_in_use: bytes(sizes.in_use_bytes),
            is_learner: raft.is_learner,
            storage_version: ETCD_CLUSTER_VERSION.into(),
            // etcd reports a quota that is off as the negative number that turned it off.
            db_size_quota: self.limits.quota_bytes.map_or(-1, bytes),
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }
    }

    /// A hash of the state at a revision, 0 = the newest, computed as etcd computes it.
    ///
    /// # Errors
    /// A compacted or future revision.
    pub async fn hash_kv(&self, request: pb::HashKvRequest) -> Result<pb::HashKvResponse, Error> {
        let HashKv { hash, compact_revision, revision } =
            self.hash_at(request.revision, |mvcc| &mvcc.hash_rev_seconds).await?;
        let header = header::now(&self.node);
        Ok(pb::HashKvResponse { header, hash, compact_revision, hash_revision: revision })
    }

    /// A hash of everything kept. As etcd's it compares with nothing but itself.
    ///
    /// # Errors
    /// The member stops.
    pub async fn hash(&self) -> Result<pb::HashResponse, Error> {
        let hash = self.hash_at(0, |mvcc| &mvcc.hash_seconds).await?.hash;
        Ok(pb::HashResponse { header: header::now(&self.node), hash })
    }

    /// Hands the leadership to another member and waits until it has it.
    ///
    /// # Errors
    /// Not the leader; no such voter; the other did not take it in time.
    pub async fn move_leader(&self, request: pb::MoveLeaderRequest) -> Result<pb::MoveLeaderResponse, Error> {
        let status = self.node.status();
        if status.leader != Some(status.member_id) {
            return Err(raft::Error::NotLeader.into());
        }
        self.node.change(Change::MoveLeader(request.target_id)).await?;
        Ok(pb::MoveLeaderResponse { header: None })
    }

    /// Whether an older etcd's format could be gone back to, and doing it. It is one minor version back, as etcd's
    /// rule is; but this version writes one format only, so that nothing is ever enabled.
    ///
    /// # Errors
    /// [`Error::DowngradeAction`], [`Error::DowngradeFormat`], [`Error::DowngradeTarget`]; no leader in time.
    pub async fn downgrade(&self, request: pb::DowngradeRequest) -> Result<pb::DowngradeResponse, Error> {
        use pb::downgrade_request::DowngradeAction;
        let action = DowngradeAction::try_from(request.action).map_err(|_| Error::DowngradeAction)?;
        self.node.read_barrier().await?;
        let current = minor_version(ETCD_CLUSTER_VERSION)?;
        let accepted = match action {
            DowngradeAction::Validate => {
                let (major, minor) = minor_version(&request.version)?;
                (major, minor.saturating_add(1)) == current
            }
            DowngradeAction::Enable => minor_version(&request.version).map(|_| false)?,
            DowngradeAction::Cancel => true,
        };
        if !accepted {
            return Err(Error::DowngradeTarget);
        }
        let (major, minor) = current;
        Ok(pb::DowngradeResponse { header: header::now(&self.node), version: format!("{major}.{minor}") })
    }

    /// Nothing: space is reclaimed by compaction, in the background, and the member need not stop for it. Counted, so
    /// that whoever looks whether it ran finds it.
    pub fn defragment(&self) -> pb::DefragmentResponse {
        self.node.meter().metrics.disk.backend_defrag_seconds.observe(0.0);
        pb::DefragmentResponse { header: None }
    }

    async fn hash_at(&self, revision: i64, timed: fn(&Mvcc) -> &Histogram) -> Result<HashKv, Error> {
        let (store, meter) = (Arc::clone(self.node.store()), self.node.meter());
        let started = meter.clock.now();
        let hash = super::off_the_io_thread(move || store.hash_kv(revision)).await??;
        timed(&meter.metrics.mvcc).observe(meter.since(started).as_secs_f64());
        Ok(hash)
    }
}

/// A size as the API has it.
fn bytes(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// An alarm as etcd prints it in a status.
fn describe(alarm: &pb::AlarmMember) -> String {
    // As Go prints a message: what is zero is not printed.
    match alarm.member_id {
        0 => format!("alarm:{} ", alarm.alarm().as_str_name()),
        id => format!("memberID:{id} alarm:{} ", alarm.alarm().as_str_name()),
    }
}

/// `major.minor` of a version, by etcd's rule: `major.minor` or `major.minor.patch`, which may have a suffix.
fn minor_version(text: &str) -> Result<(u64, u64), Error> {
    let number = |part: &str| part.parse::<u64>().map_err(|_| Error::DowngradeFormat);
    let mut parts = text.splitn(3, '.');
    let (Some(major), Some(minor)) = (parts.next(), parts.next()) else { return Err(Error::DowngradeFormat) };
    if let Some(patch) = parts.next() {
        number(patch.split(['-', '+']).next().unwrap_or_default())?;
    }
    Ok((number(major)?, number(minor)?))
}

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Maintenance {
    type SnapshotStream = Blobs;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        Ok(Response::new(Self::alarm(self, request.into_inner()).await?))
    }

    async fn status(&self, _request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        Ok(Response::new(Self::status(self)))
    }

    async fn defragment(
        &self,
        _request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        Ok(Response::new(Self::defragment(self)))
    }

    async fn hash(&self, _request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        Ok(Response::new(Self::hash(self).await?))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        Ok(Response::new(Self::hash_kv(self, request.into_inner()).await?))
    }

    async fn snapshot(&self, _request: Request<pb::SnapshotRequest>) -> Result<Response<Blobs>, Status> {
        Ok(Response::new(Blobs::start(Arc::clone(&self.snapshot))))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        Ok(Response::new(Self::move_leader(self, request.into_inner()).await?))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        Ok(Response::new(Self::downgrade(self, request.into_inner()).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_by_etcds_rule() {
        for good in ["3.6", "3.6.0", "3.6.12", "3.6.0-alpha.1", "03.6"] {
            assert_eq!(minor_version(good), Ok((3, 6)), "{good}");
        }
        for bad in ["", "3", "x", "3.x", "3.6.", "3.6.1.1", "3.-6", "v3.6"] {
            assert_eq!(minor_version(bad), Err(Error::DowngradeFormat), "{bad}");
        }
    }

    #[test]
    fn an_alarm_is_described_as_etcd_does() {
        let alarm = pb::AlarmMember { member_id: 7, alarm: pb::AlarmType::Nospace.into() };
        assert_eq!(describe(&alarm), "memberID:7 alarm:NOSPACE ");
    }
}
