//! Why a command was not applied, or a read not allowed.

/// `rpc::status` gives each etcd's code and text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No leader is known; nothing was proposed.
    #[error("no leader")]
    NoLeader,
    /// This member is not the leader and the request cannot be forwarded; nothing was proposed.
    #[error("not leader")]
    NotLeader,
    /// Leadership changed while the request was under way; the outcome is unknown.
    #[error("leader changed")]
    LeaderChanged,
    /// No answer within the request's deadline; the outcome is unknown.
    #[error("request timed out")]
    Timeout,
    /// Too much is waiting already; nothing was proposed.
    #[error("too many requests")]
    TooManyRequests,
    /// The encoded command is larger than allowed; nothing was proposed.
    #[error("request is too large: {bytes} bytes, the limit is {max}")]
    TooLarge {
        /// Encoded size.
        bytes: usize,
        /// `--max-request-bytes`.
        max: usize,
    },
    /// The member is shutting down; the outcome is unknown.
    #[error("server stopped")]
    Stopped,
    /// Storage or Raft failed and the member is about to end; the outcome is unknown.
    #[error("fatal: {0}")]
    Fatal(String),
}
