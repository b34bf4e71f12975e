//! The Cluster service: the requests are checked here, the rules of membership are `raft::membership`'s.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Error, check, header};
use crate::proto::etcdserverpb as pb;
use crate::raft::Node;
use crate::raft::membership::Change;

/// etcd's `Cluster` service.
#[derive(Clone)]
pub struct Cluster {
    node: Arc<Node>,
}

impl Cluster {
    /// Serves the node's membership.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// Adds a member.
    ///
    /// # Errors
    /// Bad peer URLs; a refusal by the rules of membership; the change's fate.
    pub async fn add(&self, request: pb::MemberAddRequest) -> Result<pb::MemberAddResponse, Error> {
        let peer_urls = check::peer_urls(&request.peer_ur_ls)?;
        let changed = self.node.change(Change::Add { peer_urls, is_learner: request.is_learner }).await?;
        let header = header::without_revision(&self.node);
        Ok(pb::MemberAddResponse { header, member: changed.added, members: self.node.members() })
    }

    /// Removes a member.
    ///
    /// # Errors
    /// A refusal by the rules of membership; the change's fate.
    pub async fn remove(&self, request: pb::MemberRemoveRequest) -> Result<pb::MemberRemoveResponse, Error> {
        self.node.change(Change::Remove(request.id)).await?;
        Ok(pb::MemberRemoveResponse { header: header::without_revision(&self.node), members: self.node.members() })
    }

    /// Changes a member's peer URLs. Unlike etcd, which crashes on them, this refuses bad ones.
    ///
    /// # Errors
    /// Bad peer URLs; a refusal by the rules of membership; the change's fate.
    pub async fn update(&self, request: pb::MemberUpdateRequest) -> Result<pb::MemberUpdateResponse, Error> {
        let peer_urls = check::peer_urls(&request.peer_ur_ls)?;
        self.node.change(Change::Update { id: request.id, peer_urls }).await?;
        Ok(pb::MemberUpdateResponse { header: header::without_revision(&self.node), members: self.node.members() })
    }

    /// Lists the members; with `linearizable` after a read barrier.
    ///
    /// # Errors
    /// No leader in time.
    pub async fn list(&self, request: pb::MemberListRequest) -> Result<pb::MemberListResponse, Error> {
        if request.linearizable {
            self.node.read_barrier().await?;
        }
        let members = self.node.members();
        Ok(pb::MemberListResponse { header: header::without_revision(&self.node), members })
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// A refusal by the rules of membership; the change's fate.
    pub async fn promote(&self, request: pb::MemberPromoteRequest) -> Result<pb::MemberPromoteResponse, Error> {
        self.node.change(Change::Promote(request.id)).await?;
        Ok(pb::MemberPromoteResponse { header: header::without_revision(&self.node), members: self.node.members() })
    }
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Cluster {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        Ok(Response::new(self.add(request.into_inner()).await?))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Ok(Response::new(self.remove(request.into_inner()).await?))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Ok(Response::new(self.update(request.into_inner()).await?))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Ok(Response::new(self.promote(request.into_inner()).await?))
    }
}
