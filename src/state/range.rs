//! Range requests on an index: etcd's rules for limits, sorting and filters. Called by `view`, and by `draft` for the
//! ranges inside a transaction.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use super::error::Error;
use super::key_index::{KeyIndex, KeyRange, NEWEST};
use crate::mutants::{Mutant, planted};
use crate::proto::Record;
use crate::proto::etcdserverpb as pb;
use pb::range_request::{SortOrder, SortTarget};

/// What a read sees.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The keys.
    pub index: &'a KeyIndex,
    /// The newest revision.
    pub revision: i64,
    /// The compaction mark.
    pub compact_revision: i64,
}

impl Reader<'_> {
    /// The revision for the index: [`NEWEST`] for `revision <= 0`.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn at(&self, revision: i64) -> Result<i64, Error> {
        match revision {
            ..=0 => Ok(NEWEST),
            revision if revision > self.revision => Err(Error::FutureRevision),
            revision if revision < self.compact_revision => Err(Error::Compacted),
            revision if revision == self.revision || planted(Mutant::PageMoves) => Ok(NEWEST),
            revision => Ok(revision),
        }
    }

    /// Checks the revision of a range inside a transaction. Only 0 stands for the newest there: a negative one is
    /// taken as it is and lies before the compaction mark, which etcd has at -1 before the first compaction.
    ///
    /// # Errors
    /// As [`Reader::at`].
    pub fn check_in_txn(&self, revision: i64) -> Result<(), Error> {
        let mark = if self.compact_revision == 0 { -1 } else { self.compact_revision };
        if revision != 0 && revision < mark {
            return Err(Error::Compacted);
        }
        self.at(revision).map(drop)
    }

    /// Answers a range request; the header is absent.
    ///
    /// # Errors
    /// As [`Reader::at`].
    pub fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        let at = self.at(request.revision)?;
        let range = KeyRange::new(&request.key, &request.range_end);
        if let KeyRange::One(key) = range {
            let found = self.index.get(key).and_then(|entry| entry.live_at(at));
            let kvs = found.filter(|_| !request.count_only).filter(|record| passes(request, record));
            let kvs = kvs.map(|record| answer(record, request.keys_only)).into_iter().collect();
            return Ok(pb::RangeResponse { header: None, kvs, more: false, count: i64::from(found.is_some()) });
        }
        let count = self.index.count(range, at);
        let mut response = pb::RangeResponse { header: None, kvs: Vec::new(), more: false, count: count as i64 };
        if request.count_only || count == 0 {
            return Ok(response);
        }
        // 0 and less mean no limit.
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let order = SortOrder::try_from(request.sort_order).unwrap_or(SortOrder::None);
        let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
        if target == SortTarget::Key {
            let back = order == SortOrder::Descend;
            (response.kvs, response.more) = self.in_key_order(request, range, at, count, limit, back);
            return Ok(response);
        }
        // etcd takes the limit before it sorts when no order is named, though it then sorts all the same.
        let fetch = if order == SortOrder::None && !filters(request) { limit.saturating_add(1) } else { usize::MAX };
        let mut records = self.collect(request, range, at, count, fetch);
        sort(&mut records, target, order == SortOrder::Descend);
        response.more = records.len() > limit;
        records.truncate(limit);
        if request.keys_only {
            records.iter_mut().for_each(|record| *record = record.without_value());
        }
        response.kvs = records;
        Ok(response)
    }

    /// Up to `limit` records from either end of the range, and whether more remain.
    fn in_key_order(
        &self,
        request: &pb::RangeRequest,
        range: KeyRange<'_>,
        at: i64,
        count: u64,
        limit: usize,
        back: bool,
    ) -> (Vec<Record>, bool) {
        let mut records = Vec::with_capacity(expected(request, count, limit));
        let filtered = filters(request);
        let visit = |entry: &super::key_index::Entry| {
            let Some(record) = entry.live_at(at).filter(|record| !filtered || passes(request, record)) else {
                return ControlFlow::Continue(());
            };
            if records.len() == limit {
                return ControlFlow::Break(());
            }
            records.push(answer(record, request.keys_only));
            // Without filters the count already says whether more remain.
            if !filtered && records.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let end = if back { self.index.scan_back(range, at, visit) } else { self.index.scan(range, at, visit) };
        let more = if filtered { end.is_break() } else { count > records.len() as u64 };
        (records, more)
    }

    /// Up to `fetch` records of the range in key order, values included.
    fn collect(
        &self,
        request: &pb::RangeRequest,
        range: KeyRange<'_>,
        at: i64,
        count: u64,
        fetch: usize,
    ) -> Vec<Record> {
        let mut records = Vec::with_capacity(expected(request, count, fetch));
        let full = self.index.scan(range, at, |entry| {
            records.extend(entry.live_at(at).filter(|record| passes(request, record)).cloned());
            if records.len() >= fetch { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        debug_assert!(full.is_continue() || records.len() == fetch, "only the limit ends the walk");
        records
    }
}

/// How many records to make room for: exact without filters, as few as possible with.
fn expected(request: &pb::RangeRequest, count: u64, limit: usize) -> usize {
    if filters(request) { 0 } else { usize::try_from(count).unwrap_or(usize::MAX).min(limit) }
}

fn answer(record: &Record, keys_only: bool) -> Record {
    if keys_only { record.without_value() } else { record.clone() }
}

fn filters(request: &pb::RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn passes(request: &pb::RangeRequest, record: &Record) -> bool {
    if !filters(request) {
        return true;
    }
    let fields = record.fields();
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(fields.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(fields.create_revision, request.min_create_revision, request.max_create_revision)
}

/// Sorts by anything but the key; what is equal stays in key order.
fn sort(records: &mut [Record], target: SortTarget, descend: bool) {
    let direct = |order: Ordering| if descend { order.reverse() } else { order };
    let number: fn(&Record) -> i64 = match target {
        SortTarget::Key => return,
        SortTarget::Value => return records.sort_by(|a, b| direct(a.value().cmp(b.value()))),
        SortTarget::Version => Record::version,
        SortTarget::Create => Record::create_revision,
        SortTarget::Mod => Record::mod_revision,
    };
    records.sort_by(|a, b| direct(number(a).cmp(&number(b))));
}
