//! What is replicated, its bytes, and what applying it gives back.
//!
//! ```text
//! batch   := format:u8 (=1)  command*
//! command := payload_bytes:u32le  kind:u8  payload
//! ```
//! The payload is the encoded protobuf request, written once by the proposer. One batch is one Raft log entry.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use super::draft::OpCounts;
use super::error::Error;
use super::event::SharedBatch;
use crate::proto::etcdserverpb as pb;

/// Version of the batch format above.
pub const FORMAT: u8 = 1;

/// A replicated operation. The numbers are on disk and on the wire: never reuse one.
#[derive(Clone, Debug, PartialEq)]
#[repr(u8)]
pub enum Command {
    /// Write one key.
    Put(pb::PutRequest) = 1,
    /// Remove a range of keys in one revision.
    DeleteRange(pb::DeleteRangeRequest) = 2,
    /// Compare, then do one of two lists of operations, in one revision.
    Txn(pb::TxnRequest) = 3,
    /// Move the compaction mark.
    Compact(pb::CompactionRequest) = 4,
    /// Make a lease; id and effective TTL were chosen by the proposer.
    LeaseGrant(pb::LeaseGrantRequest) = 5,
    /// End a lease and remove its keys in one revision.
    LeaseRevoke(pb::LeaseRevokeRequest) = 6,
    /// Raise, lower or list alarms.
    Alarm(pb::AlarmRequest) = 7,
    /// A member's name and client URLs (`ID`, `name`, `clientURLs` of `Member` are used).
    Publish(pb::Member) = 8,
}

/// Why bytes are no batch of commands.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a version with another format.
    #[error("command batch has format {0}, this version reads {FORMAT}")]
    Format(u8),
    /// An unknown command kind.
    #[error("unknown command kind {0}")]
    Kind(u8),
    /// Shorter than its own lengths say.
    #[error("command batch is truncated")]
    Truncated,
    /// The payload is no request.
    #[error("command payload: {0}")]
    Payload(#[from] prost::DecodeError),
}

impl Command {
    /// Starts a batch.
    pub fn begin_batch(out: &mut BytesMut) {
        out.put_u8(FORMAT);
    }

    /// Appends the command to a batch; returns the bytes it took.
    pub fn encode(&self, out: &mut BytesMut) -> usize {
        let before = out.len();
        let (kind, len) = match self {
            Self::Put(m) => (1, m.encoded_len()),
            Self::DeleteRange(m) => (2, m.encoded_len()),
            Self::Txn(m) => (3, m.encoded_len()),
            Self::Compact(m) => (4, m.encoded_len()),
            Self::LeaseGrant(m) => (5, m.encoded_len()),
            Self::LeaseRevoke(m) => (6, m.encoded_len()),
            Self::Alarm(m) => (7, m.encoded_len()),
            Self::Publish(m) => (8, m.encoded_len()),
        };
        out.reserve(5 + len);
        out.put_u32_le(u32::try_from(len).expect("requests are limited far below 4 GiB"));
        out.put_u8(kind);
        match self {
            Self::Put(m) => m.encode_raw(out),
            Self::DeleteRange(m) => m.encode_raw(out),
            Self::Txn(m) => m.encode_raw(out),
            Self::Compact(m) => m.encode_raw(out),
            Self::LeaseGrant(m) => m.encode_raw(out),
            Self::LeaseRevoke(m) => m.encode_raw(out),
            Self::Alarm(m) => m.encode_raw(out),
            Self::Publish(m) => m.encode_raw(out),
        }
        out.len() - before
    }

    /// Takes a batch apart; keys and values are slices of it.
    ///
    /// # Errors
    /// [`DecodeError`]; the member must stop, for what a quorum agreed on cannot be read.
    pub fn decode_batch(mut batch: Bytes) -> Result<Vec<Self>, DecodeError> {
        if batch.is_empty() {
            return Err(DecodeError::Truncated);
        }
        let format = batch.get_u8();
        if format != FORMAT {
            return Err(DecodeError::Format(format));
        }
        let mut commands = Vec::with_capacity(Self::count_batch(&batch)?);
        while batch.has_remaining() {
            let len = batch.get_u32_le() as usize;
            let kind = batch.get_u8();
            commands.push(Self::decode(kind, batch.split_to(len))?);
        }
        Ok(commands)
    }

    /// The commands in what follows the format, each of them whole.
    fn count_batch(mut rest: &[u8]) -> Result<usize, DecodeError> {
        let mut count = 0;
        while let Some((len, after)) = rest.split_first_chunk::<4>() {
            let len = u32::from_le_bytes(*len) as usize;
            rest = after.get(1..).and_then(|payload| payload.get(len..)).ok_or(DecodeError::Truncated)?;
            count += 1;
        }
        if rest.is_empty() { Ok(count) } else { Err(DecodeError::Truncated) }
    }

    fn decode(kind: u8, payload: Bytes) -> Result<Self, DecodeError> {
        Ok(match kind {
            1 => Self::Put(pb::PutRequest::decode(payload)?),
            2 => Self::DeleteRange(pb::DeleteRangeRequest::decode(payload)?),
            3 => Self::Txn(pb::TxnRequest::decode(payload)?),
            4 => Self::Compact(pb::CompactionRequest::decode(payload)?),
            5 => Self::LeaseGrant(pb::LeaseGrantRequest::decode(payload)?),
            6 => Self::LeaseRevoke(pb::LeaseRevokeRequest::decode(payload)?),
            7 => Self::Alarm(pb::AlarmRequest::decode(payload)?),
            8 => Self::Publish(pb::Member::decode(payload)?),
            kind => return Err(DecodeError::Kind(kind)),
        })
    }
}

/// What the proposer of a command gets back. Headers are absent (`rpc` fills them), but for those inside a
/// `TxnResponse`, which carry the revision as etcd's do.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To [`Command::Put`].
    Put(pb::PutResponse),
    /// To [`Command::DeleteRange`].
    DeleteRange(pb::DeleteRangeResponse),
    /// To [`Command::Txn`].
    Txn(pb::TxnResponse),
    /// To [`Command::Compact`].
    Compact,
    /// To [`Command::LeaseGrant`].
    LeaseGrant(pb::LeaseGrantResponse),
    /// To [`Command::LeaseRevoke`].
    LeaseRevoke,
    /// To [`Command::Alarm`]: for GET the alarms asked for, else those the action changed.
    Alarm(Vec<pb::AlarmMember>),
    /// To [`Command::Publish`].
    Published,
}

/// The result of a command, the same on every member.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The store's revision after the command.
    pub revision: i64,
    /// The answer, or why nothing was done.
    pub response: Result<Response, Error>,
}

/// What a command did besides answering; for the watch hub, the lessor, the checkpoint and the metrics.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Its changes, when the revision advanced.
    pub events: Option<SharedBatch>,
    /// A lease granted or ended.
    pub lease: Option<LeaseChange>,
    /// How many operations it carried out.
    pub operations: OpCounts,
}

/// A change of the lease table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// Granted with a TTL in seconds.
    Granted {
        /// The lease.
        id: i64,
        /// Seconds.
        ttl: i64,
    },
    /// Revoked or expired.
    Revoked {
        /// The lease.
        id: i64,
    },
    /// The state was replaced by another, and the table with it; no command does this.
    Replaced {
        /// Every lease there is now, with its TTL in seconds, as [`super::Store::leases`] has them.
        leases: Vec<(i64, i64)>,
    },
}
