//! One step of a conversation with a server. Steps are data: generated, sent, written to fixtures, and replayed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What stands in a request for the server's own member id, which differs from server to server.
pub const OWN_MEMBER: &str = "own";

/// What to send, and with that what to wait for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A unary call.
    Call {
        /// Like `KV/Put`.
        method: String,
        /// The request.
        message: Value,
    },
    /// `KV/RangeStream`; the answer is the concatenation of its messages.
    RangeStream(Value),
    /// One keep-alive on the session's only keep-alive stream, and its answer.
    KeepAlive(i64),
    /// A lease that must not outlive the step, or whose id the server chooses: granted, and revoked at once.
    GrantAndRevoke(Value),
    /// Opens watch stream number so and so.
    WatchOpen(u64),
    /// Creates a watcher and waits for the answer to that.
    WatchCreate {
        /// The stream.
        stream: u64,
        /// The `WatchCreateRequest`.
        message: Value,
    },
    /// Cancels a watcher. Waits for the answer to that, which only comes for a watcher that exists.
    WatchCancel {
        /// The stream.
        stream: u64,
        /// The watcher.
        watch_id: i64,
    },
    /// Waits until all watchers of the stream have seen everything up to `revision`; the answer is what each received
    /// since the last such step.
    WatchSync {
        /// The stream.
        stream: u64,
        /// At least every watcher's start revision and at most the current one.
        revision: i64,
    },
    /// Ends a stream.
    WatchClose(u64),
}

impl Step {
    /// The method, if it is a unary call.
    pub fn method(&self) -> &str {
        match self {
            Self::Call { method, .. } => method,
            _ => "",
        }
    }
}
