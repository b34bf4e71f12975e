//! openraft's generics, named once. Nobody above `raft` sees them.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::impls::leader_id_std;
use serde::{Deserialize, Serialize};

/// One log entry's payload: who proposed it, and the batch of commands. Written once, by the proposer; the same bytes
/// go to the log, to peers and to apply.
///
/// ```text
/// payload := origin:u64le  sequence:u64le  batch (state::command)
/// ```
/// `origin` is drawn by the proposing process at its start, so that it tells its own proposals from those of its
/// earlier lives; `sequence` counts its batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal(Bytes);

/// Bytes of a proposal before the batch.
pub const PROPOSAL_HEADER_BYTES: usize = 16;

impl Proposal {
    /// Starts a payload: `origin` and room for the sequence; commands are appended behind it.
    pub fn begin(origin: u64, out: &mut BytesMut) {
        out.put_u64_le(origin);
        out.put_u64_le(0);
    }

    /// Finishes a payload begun by [`Proposal::begin`].
    pub fn finish(mut payload: BytesMut, sequence: u64) -> Self {
        payload[8..PROPOSAL_HEADER_BYTES].copy_from_slice(&sequence.to_le_bytes());
        Self(payload.freeze())
    }

    /// Takes bytes from the log or a peer; `None` when they are too short to be a proposal.
    pub fn from_bytes(payload: Bytes) -> Option<Self> {
        (payload.len() >= PROPOSAL_HEADER_BYTES).then_some(Self(payload))
    }

    /// The whole payload.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Origin, sequence and the encoded commands.
    pub fn parts(&self) -> (u64, u64, Bytes) {
        let mut batch = self.0.clone();
        let origin = batch.get_u64_le();
        let sequence = batch.get_u64_le();
        (origin, sequence, batch)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What the membership in the log says of a member; name and client URLs are in the replicated state instead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Where peers reach it.
    pub peer_urls: Vec<String>,
    /// A learner that is to get a vote as soon as it has caught up; to clients it is a voter already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub becomes_voter: bool,
}

impl fmt::Display for MemberInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peer_urls.join(","))
    }
}

openraft::declare_raft_types!(
    /// Terms are plain numbers as etcd's, one leader a term.
    pub TypeConfig:
        D = Proposal,
        R = (),
        NodeId = u64,
        Node = MemberInfo,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
);

/// Position in the Raft log.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// What an entry holds.
pub type Payload = openraft::EntryPayload<Proposal, u64, MemberInfo>;
/// A vote.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// The membership together with the log id that set it.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// What openraft knows of a snapshot.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
/// The voters and learners.
pub type Membership = openraft::Membership<u64, MemberInfo>;
/// openraft's handle.
pub type Raft = openraft::Raft<TypeConfig, super::apply::StateMachine>;

/// A log id from its parts.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(term.into(), index)
}
