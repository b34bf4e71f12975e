//! Reads at a pinned state. A view never changes and takes no lock; called by `rpc`.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::draft::Draft;
use super::error::Error;
use super::event::Revision;
use super::hash;
use super::key_index::{KeyIndex, KeyRange, NEWEST};
use super::range::Reader;
use super::store::HashKv;
use super::txn;
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

/// The state as it was when the view was taken. It costs little to take, but while it lives the writer copies what it
/// changes: long reads take a view for each slice.
#[derive(Clone, Debug)]
pub struct View {
    pub(super) index: KeyIndex,
    pub(super) revision: i64,
    pub(super) compact_revision: i64,
}

impl View {
    /// The newest revision in the view.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The compaction mark when the view was taken; 0 when never compacted.
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// Answers a range request; the header is absent.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        self.reader().range(request)
    }

    /// Answers a transaction that only reads; what one would write is not kept.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn txn(&self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        let mut index = self.index.clone();
        txn::execute(&mut Draft::new(&mut index, self.revision, self.compact_revision, None), request)
    }

    /// Number of keys in a range at the newest revision.
    pub fn count(&self, key: &[u8], range_end: &[u8]) -> i64 {
        self.index.count(KeyRange::new(key, range_end), NEWEST) as i64
    }

    /// Up to `keys_max` records and about `bytes_max` bytes (at least one record) of a range at revision `at` (0 = the
    /// view's newest).
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn page(
        &self,
        key: &[u8],
        range_end: &[u8],
        at: i64,
        keys_max: usize,
        bytes_max: usize,
        keys_only: bool,
    ) -> Result<Page, Error> {
        let at = self.reader().at(at)?;
        let mut page = Page::default();
        let mut bytes = 0;
        let end = self.index.scan(KeyRange::new(key, range_end), at, |entry| {
            let Some(record) = entry.live_at(at) else { return ControlFlow::Continue(()) };
            if !page.records.is_empty() && (page.records.len() >= keys_max || bytes >= bytes_max) {
                return ControlFlow::Break(Bytes::copy_from_slice(entry.key()));
            }
            let record = if keys_only { record.without_value() } else { record.clone() };
            bytes += record.as_bytes().len();
            page.records.push(record);
            ControlFlow::Continue(())
        });
        page.next = end.break_value();
        Ok(page)
    }

    /// Every record that is kept, tombstones included, in revision order: what a snapshot holds. Independent of how far
    /// physical compaction has come.
    pub fn records(&self) -> Vec<(Revision, bool, Record)> {
        hash::kept(&self.index, self.compact_revision, self.revision)
    }

    /// Hashes what is kept up to `revision` (0 = the view's newest), as etcd does.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        // Before a negative revision, which etcd takes as it is, there is nothing to hash.
        let at = if revision < 0 { revision } else { self.reader().at(revision)?.min(self.revision) };
        // etcd's mark is -1 before the first compaction.
        let compact_revision = if self.compact_revision == 0 { -1 } else { self.compact_revision };
        Ok(HashKv { hash: hash::hash_kv(&self.index, self.compact_revision, at), compact_revision, revision: at })
    }

    fn reader(&self) -> Reader<'_> {
        Reader { index: &self.index, revision: self.revision, compact_revision: self.compact_revision }
    }
}
