//! The gRPC edge: a request comes in as protobuf, is checked, proposed or read, and answered. No state, no lock, no
//! clock but to measure by. One file serves one gRPC service; `check` validates, `status` words every refusal, `header`
//! heads every answer. `server` makes the services, `http` uses them for the JSON gateway.

use crate::config::Config;
use crate::raft;

pub mod check;
pub mod cluster;
pub mod header;
pub mod health;
pub mod kv;
pub mod lease;
pub mod maintenance;
pub mod peer;
pub mod quota;
pub mod size_limit;
pub mod status;
pub mod watch;

pub use status::Error;

/// What gRPC's framing may add to the largest request (etcd's `grpcOverheadBytes`).
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

/// The limits that requests are held against; `--max-request-bytes` and the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A replicated request's bytes.
    pub request_bytes_max: usize,
    /// A transaction's compares, and operations of each branch.
    pub txn_ops_max: usize,
    /// Live and historic bytes at which writes are refused; `None` = no quota.
    pub quota_bytes: Option<u64>,
}

impl Limits {
    /// The largest message that a service decodes, in bytes.
    pub fn message_bytes_max(&self) -> usize {
        self.request_bytes_max + MESSAGE_OVERHEAD_BYTES
    }
}

impl From<&Config> for Limits {
    fn from(config: &Config) -> Self {
        Self {
            request_bytes_max: config.max_request_bytes,
            txn_ops_max: config.max_txn_ops,
            quota_bytes: config.quota_backend_bytes,
        }
    }
}

/// Runs work that takes long on a thread made for it.
async fn off_the_io_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    match crate::blocking::spawn(work).await {
        Ok(done) => Ok(done),
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        // The runtime is going down.
        Err(_) => Err(raft::Error::Stopped.into()),
    }
}
