//! Requests of operators: who leads, members, hand-over, defragmentation, snapshots. Sent once, like all others.

use tonic::transport::Channel;

use super::{ANSWER_BYTES_MAX, Client, Error, revision};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::cluster_client::ClusterClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;

/// What a member says of itself and its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its id.
    pub member: u64,
    /// The leader's id, 0 = none.
    pub leader: u64,
    /// Raft's term.
    pub term: u64,
    /// Its newest revision.
    pub revision: i64,
}

/// One member in the list of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: u64,
    /// Its URLs for peers.
    pub peer_urls: Vec<String>,
    /// It has no vote.
    pub learner: bool,
}

impl Client {
    fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    /// What the member knows; it need not be true any more.
    pub async fn standing(&self) -> Result<Standing, Error> {
        let mut client = self.maintenance();
        let answer = self.within(client.status(pb::StatusRequest {})).await?.into_inner();
        let member = answer.header.as_ref().map_or(0, |header| header.member_id);
        Ok(Standing { member, leader: answer.leader, term: answer.raft_term, revision: revision(answer.header) })
    }

    /// Asks the leader to hand over to this member.
    pub async fn move_leader(&self, to: u64) -> Result<(), Error> {
        let mut client = self.maintenance();
        self.within(client.move_leader(pb::MoveLeaderRequest { target_id: to })).await.map(drop)
    }

    /// Asks the member to defragment its store.
    pub async fn defragment(&self) -> Result<(), Error> {
        let mut client = self.maintenance();
        self.within(client.defragment(pb::DefragmentRequest {})).await.map(drop)
    }

    /// Reads a whole snapshot; returns its bytes. The deadline holds between two pieces.
    pub async fn snapshot_bytes(&self) -> Result<u64, Error> {
        let mut client = self.maintenance();
        let mut pieces = self.within(client.snapshot(pb::SnapshotRequest {})).await?.into_inner();
        let mut bytes = 0;
        while let Some(piece) = self.within(pieces.message()).await? {
            bytes += piece.blob.len() as u64;
        }
        Ok(bytes)
    }

    /// All members, linearizably.
    pub async fn members(&self) -> Result<Vec<Listed>, Error> {
        let mut client = self.cluster();
        let answer = self.within(client.member_list(pb::MemberListRequest { linearizable: true })).await?.into_inner();
        let listed = |one: pb::Member| Listed { id: one.id, peer_urls: one.peer_ur_ls, learner: one.is_learner };
        Ok(answer.members.into_iter().map(listed).collect())
    }

    /// Removes a member.
    pub async fn remove_member(&self, id: u64) -> Result<(), Error> {
        let mut client = self.cluster();
        self.within(client.member_remove(pb::MemberRemoveRequest { id })).await.map(drop)
    }

    /// Adds a member with this URL for peers; returns its id.
    pub async fn add_member(&self, peer_url: &str, learner: bool) -> Result<u64, Error> {
        let mut client = self.cluster();
        let request = pb::MemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner: learner };
        let answer = self.within(client.member_add(request)).await?.into_inner();
        answer.member.map(|member| member.id).ok_or_else(|| Error::Contract("an added member without an id".into()))
    }

    /// Gives a learner its vote.
    pub async fn promote_member(&self, id: u64) -> Result<(), Error> {
        let mut client = self.cluster();
        self.within(client.member_promote(pb::MemberPromoteRequest { id })).await.map(drop)
    }
}
