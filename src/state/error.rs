//! Why the state refused a command or a read. The same on every member at the same index.

/// A refusal; `rpc::status` gives it etcd's code and exact text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The revision asked for is older than the compaction mark.
    #[error("required revision has been compacted")]
    Compacted,
    /// The revision asked for has not happened yet.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    #[error("key not found")]
    KeyNotFound,
    /// No such lease.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// A lease of this id exists.
    #[error("lease already exists")]
    LeaseExists,
    /// The NOSPACE alarm is raised and the command would add bytes.
    #[error("database space exceeded")]
    NoSpace,
    /// The CORRUPT alarm is raised and the command would change something.
    #[error("corrupt cluster")]
    Corrupt,
}
