//! Watches: from applied changes to the streams of clients.
//!
//! A watcher is a cursor: the next revision it owes its client. Watchers of the same range share a group, which keeps
//! the batches that its streams have yet to take. A watcher whose cursor is within what the group keeps is *synced*; one
//! behind it reads [`History`] again, in bounded slices. There is no queue per watcher, and nothing a slow client does
//! reaches the writer.
//!
//! The raft thread calls [`Hub::publish`] once per applied log entry, after the state shows the changes and before the
//! proposers are answered; `rpc` makes a [`WatchStream`] of each gRPC stream. What this module is not: it checks no
//! permission, knows no Raft and stores nothing.
//!
//! The way of an event: `Hub::publish` → [`range_index`] (which groups) → `Group::push` → the stream's inbox (one
//! wake-up) → `WatchStream::poll_next` (when HTTP/2 has room) → client.

mod catch_up;
mod group;
mod hub;
pub mod range_index;
mod stream;
#[cfg(test)]
mod tests;
mod tip;
mod watch_set;
mod watcher;

use std::sync::Arc;
use std::time::Duration;

pub use hub::{Hub, StreamOptions};
pub use stream::WatchStream;

use crate::state::EventBatch;

/// What the hub asks of the state. Every method may be called from any thread, also while the writer works, and must
/// not make the writer wait for long.
pub trait History: Send + Sync {
    /// The newest revision that reads can see; never behind what was published to the hub.
    fn revision(&self) -> i64;

    /// The compaction mark; 0 or less when nothing was compacted.
    fn compact_revision(&self) -> i64;

    /// The batches of revisions in `(after, up_to]`, oldest first: at most `revisions_max`, and about `bytes_max` bytes,
    /// yet at least one when there is one.
    ///
    /// # Errors
    /// [`CompactedAt`] when `after + 1` is less than the compaction mark.
    fn history(
        &self,
        after: i64,
        up_to: i64,
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<EventBatch>>, CompactedAt>;
}

/// The history asked for is gone; holds the compaction mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactedAt(pub i64);

/// How the hub behaves, and its limits.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time between progress notifications of a stream; up to a tenth is added, so that streams do not tick together.
    pub progress_interval: Duration,
    /// A response at least this long is split for watchers that asked for fragments; etcd: max-request-bytes + 512 KiB.
    pub fragment_bytes: usize,
    /// Watchers on one stream; one more is refused.
    pub watchers_per_stream_max: usize,
    /// Bytes of recent batches that all groups together may keep for streams that have not taken them yet.
    pub window_bytes_max: usize,
    /// Bytes that a stream takes at once, from its groups or from the history; one batch may be larger.
    pub slice_bytes_max: usize,
}

/// Distinct revisions in one response, as in etcd.
const SLICE_REVISIONS_MAX: usize = 1000;

impl Default for Options {
    fn default() -> Self {
        Self {
            progress_interval: Duration::from_secs(600),
            fragment_bytes: 2 << 20,
            watchers_per_stream_max: 1_000_000,
            window_bytes_max: 64 << 20,
            slice_bytes_max: 1 << 20,
        }
    }
}

impl History for crate::state::Store {
    fn revision(&self) -> i64 {
        Self::revision(self)
    }

    fn compact_revision(&self) -> i64 {
        Self::compact_revision(self)
    }

    fn history(
        &self,
        after: i64,
        up_to: i64,
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<EventBatch>>, CompactedAt> {
        Self::history(self, after, up_to, revisions_max, bytes_max).map_err(|compacted| CompactedAt(compacted.0))
    }
}
