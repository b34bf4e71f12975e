//! The small state beside the records, and its bytes in a checkpoint or snapshot file.

use bytes::Bytes;
use prost::Message;

use super::event::Revision;
use crate::proto::etcdserverpb as pb;

/// Version of the encoding below.
pub const FORMAT: u32 = 1;

/// The newest revision that a state may be rebuilt at: a million changes a second reach it in 146,000 years, and as many
/// may follow before the numbers end.
pub const REVISION_MAX: i64 = 1 << 62;

/// Everything that is not a record: revision, compaction mark, leases, alarms, members.
#[derive(Clone, PartialEq, Message)]
pub struct Meta {
    /// Version of this encoding.
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// The newest revision.
    #[prost(int64, tag = "2")]
    pub revision: i64,
    /// The compaction mark; 0 when never compacted.
    #[prost(int64, tag = "3")]
    pub compact_revision: i64,
    /// Leases by id; their keys are found in the records.
    #[prost(message, repeated, tag = "4")]
    pub leases: Vec<LeaseMeta>,
    /// Raised alarms.
    #[prost(message, repeated, tag = "5")]
    pub alarms: Vec<pb::AlarmMember>,
    /// Members as published.
    #[prost(message, repeated, tag = "6")]
    pub members: Vec<pb::Member>,
}

/// A lease without its keys.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LeaseMeta {
    /// The lease.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Granted, in seconds.
    #[prost(int64, tag = "2")]
    pub ttl: i64,
    /// Seconds at its last checkpoint; 0 = none.
    #[prost(int64, tag = "3")]
    pub remaining_ttl: i64,
}

/// Why bytes are no [`Meta`].
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// Written by a version with another format.
    #[error("state meta has format {0}, this version reads {FORMAT}")]
    Format(u32),
    /// Beyond [`REVISION_MAX`], negative, or compacted beyond the newest.
    #[error("state meta has revision {revision}, compacted at {compact_revision}, which no state comes to")]
    Revision {
        /// The newest revision.
        revision: i64,
        /// The compaction mark.
        compact_revision: i64,
    },
    /// Not the message.
    #[error("state meta: {0}")]
    Bytes(#[from] prost::DecodeError),
}

/// Why a store could not be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError<E> {
    /// The source of the records failed.
    #[error("record source: {0}")]
    Source(E),
    /// The state counts the changes of one command in 32 bits.
    #[error("record at revision {}/{}, which no command comes to", .0.main, .0.sub)]
    Revision(Revision),
    /// A record does not follow the one before it.
    #[error("record at revision {}/{} does not follow {}/{}", found.main, found.sub, after.main, after.sub)]
    Order {
        /// The record read.
        found: Revision,
        /// The one before.
        after: Revision,
    },
}

impl Meta {
    /// The bytes.
    pub fn encode(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// [`MetaError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let meta = <Self as Message>::decode(bytes)?;
        if meta.format != FORMAT {
            return Err(MetaError::Format(meta.format));
        }
        let Self { revision, compact_revision, .. } = meta;
        if !(0..=REVISION_MAX).contains(&revision) || !(0..=revision).contains(&compact_revision) {
            return Err(MetaError::Revision { revision, compact_revision });
        }
        Ok(meta)
    }
}
