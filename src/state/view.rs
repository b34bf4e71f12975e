//! Reads at a pinned state. A view never changes and takes no lock; called by `rpc`.

use bytes::Bytes;

use super::error::Error;
use crate::proto::Record;
use crate::proto::etcdserverpb as pb;

/// A slice of a range; see [`View::page`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In key order.
    pub records: Vec<Record>,
    /// Where to go on; `None` at the end.
    pub next: Option<Bytes>,
}

/// The state as it was when the view was taken.
#[derive(Clone, Debug)]
pub struct View {}

impl View {
    /// The newest revision in the view.
    pub fn revision(&self) -> i64 {
        1
    }

    /// The compaction mark when the view was taken; 0 when never compacted.
    pub fn compact_revision(&self) -> i64 {
        0
    }

    /// Answers a range request; the header is absent.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn range(&self, _request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        Ok(pb::RangeResponse::default())
    }

    /// Answers a transaction that only reads.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn txn(&self, _request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        Ok(pb::TxnResponse::default())
    }

    /// Number of keys in a range at the newest revision.
    pub fn count(&self, _key: &[u8], _range_end: &[u8]) -> i64 {
        0
    }

    /// Up to `keys_max` records and about `bytes_max` bytes (at least one record) of a range at revision `at` (0 = the
    /// view's newest).
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn page(
        &self,
        _key: &[u8],
        _range_end: &[u8],
        _at: i64,
        _keys_max: usize,
        _bytes_max: usize,
        _keys_only: bool,
    ) -> Result<Page, Error> {
        Ok(Page::default())
    }
}
