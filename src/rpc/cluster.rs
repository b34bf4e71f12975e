//! The Cluster service. A cluster of one member answers everything about that member as etcd does; what needs a second
//! one is refused, in words of its own.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Error, check, header};
use crate::proto::etcdserverpb as pb;
use crate::raft::Node;

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
    /// Bad peer URLs; one that is in use; else [`Error::Unsupported`].
    pub async fn add(&self, request: pb::MemberAddRequest) -> Result<pb::MemberAddResponse, Error> {
        let urls = check::peer_urls(&request.peer_ur_ls)?;
        self.node.read_barrier().await?;
        unused(&urls, self.node.members().iter())?;
        Err(Error::Unsupported("adding members"))
    }

    /// Removes a member.
    ///
    /// # Errors
    /// No such member; the last voter cannot be removed, nor, in this version, any other.
    pub async fn remove(&self, request: pb::MemberRemoveRequest) -> Result<pb::MemberRemoveResponse, Error> {
        self.node.read_barrier().await?;
        let members = self.node.members();
        let member = find(&members, request.id)?;
        let voters = members.iter().filter(|other| !other.is_learner).count();
        if !member.is_learner && voters == 1 {
            return Err(Error::NotEnoughStarted);
        }
        Err(Error::Unsupported("removing members"))
    }

    /// Changes a member's peer URLs. Unlike etcd, which crashes on them, this refuses bad ones.
    ///
    /// # Errors
    /// Bad peer URLs; no such member; a URL that another member has; a real change is [`Error::Unsupported`].
    pub async fn update(&self, request: pb::MemberUpdateRequest) -> Result<pb::MemberUpdateResponse, Error> {
        let urls = check::peer_urls(&request.peer_ur_ls)?;
        self.node.read_barrier().await?;
        let members = self.node.members();
        let member = find(&members, request.id)?;
        unused(&urls, members.iter().filter(|other| other.id != request.id))?;
        let is_same = urls.len() == member.peer_ur_ls.len() && urls.iter().all(|url| member.peer_ur_ls.contains(url));
        if !is_same {
            return Err(Error::Unsupported("changing a member's peer URLs"));
        }
        Ok(pb::MemberUpdateResponse { header: header::without_revision(&self.node), members })
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
    /// No such member; a voter already; a learner is [`Error::Unsupported`].
    pub async fn promote(&self, request: pb::MemberPromoteRequest) -> Result<pb::MemberPromoteResponse, Error> {
        self.node.read_barrier().await?;
        if find(&self.node.members(), request.id)?.is_learner {
            Err(Error::Unsupported("promoting members"))
        } else {
            Err(Error::NotLearner)
        }
    }
}

fn find(members: &[pb::Member], id: u64) -> Result<&pb::Member, Error> {
    members.iter().find(|member| member.id == id).ok_or(Error::MemberNotFound)
}

fn unused<'a>(urls: &[String], mut members: impl Iterator<Item = &'a pb::Member>) -> Result<(), Error> {
    let is_used = members.any(|member| member.peer_ur_ls.iter().any(|url| urls.contains(url)));
    if is_used { Err(Error::PeerUrlExists) } else { Ok(()) }
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
