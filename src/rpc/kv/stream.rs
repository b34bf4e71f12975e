//! The answer to `RangeStream`: one revision's range, read piece by piece while the client takes it.
//!
//! Nothing is read ahead: HTTP/2's flow control asks for the next message only when there is room for it. Each piece
//! takes its own view at the revision of the first, so that a slow client holds one piece of the range and keeps
//! nothing of the store alive; a compaction that overtakes it ends its stream as compacted, as in etcd.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio_stream::Stream;
use tonic::Status;

use super::Error;
use crate::proto::{Record, etcdserverpb as pb};
use crate::state::{self, Store, View};
use pb::range_request::{SortOrder, SortTarget};

/// A message's records, in bytes; a single larger record still makes one message.
const MESSAGE_BYTES: usize = 512 * 1024;
/// A message's records.
const MESSAGE_KEYS_MAX: usize = 10_000;
/// Records of a descending stream's first message; how large they are is only known once they are read.
const DESCEND_KEYS_FIRST: usize = 10;
/// How much longer than the last a descending stream's message may be, in records.
const DESCEND_GROWTH_MAX: usize = 8;

/// A stream of `RangeStreamResponse`; header, `more` and `count` come with the last.
pub struct RangeStream {
    store: Arc<Store>,
    /// `key` or `range_end` moves behind what was sent; `revision` is the one that is read, whatever happens.
    request: pb::RangeRequest,
    /// Keys still to be sent.
    left: usize,
    /// Keys of the next message at most, of a descending stream.
    descend_keys: usize,
    /// The last message without its records; `None` once it is sent.
    last: Option<pb::RangeResponse>,
}

impl RangeStream {
    /// Starts a stream over the store as `view` shows it; the request passed [`super::check::range_stream`].
    pub(super) fn new(
        store: Arc<Store>,
        view: &View,
        header: pb::ResponseHeader,
        mut request: pb::RangeRequest,
    ) -> Result<Self, state::Error> {
        if request.revision <= 0 {
            request.revision = view.revision();
        }
        // Also says whether the revision can be read at all.
        let count = view.range(&pb::RangeRequest { count_only: true, ..request.clone() })?.count;
        let wanted = if request.limit > 0 { count.min(request.limit) } else { count };
        let left = if request.count_only { 0 } else { usize::try_from(wanted).expect("a count is not negative") };
        let more = !request.count_only && wanted < count;
        let last = pb::RangeResponse { header: Some(header), kvs: Vec::new(), more, count };
        Ok(Self { store, request, left, descend_keys: DESCEND_KEYS_FIRST, last: Some(last) })
    }

    /// The next message, `None` after the last.
    fn message(&mut self) -> Result<Option<pb::RangeResponse>, state::Error> {
        if self.last.is_none() {
            return Ok(None);
        }
        let kvs = if self.left == 0 { Vec::new() } else { self.read()? };
        self.left -= kvs.len();
        if self.left > 0 {
            return Ok(Some(pb::RangeResponse { kvs, ..Default::default() }));
        }
        Ok(self.last.take().map(|last| pb::RangeResponse { kvs, ..last }))
    }

    /// Reads the next records, at least one, and moves the request's bounds behind them.
    fn read(&mut self) -> Result<Vec<Record>, state::Error> {
        let records = match (self.request.sort_order(), self.request.sort_target()) {
            (SortOrder::Descend, _) => self.descending(),
            (SortOrder::Ascend, _) | (SortOrder::None, SortTarget::Key) => self.ascending(),
            // etcd takes a target without an order, which sorts what was limited: only all of it at once can.
            (SortOrder::None, SortTarget::Version | SortTarget::Create | SortTarget::Mod | SortTarget::Value) => {
                Ok(self.store.view().range(&self.request)?.kvs)
            }
        }?;
        assert!(
            (1..=self.left).contains(&records.len()),
            "a revision has the {} keys that were counted in it, read {}",
            self.left,
            records.len()
        );
        Ok(records)
    }

    fn ascending(&mut self) -> Result<Vec<Record>, state::Error> {
        let pb::RangeRequest { key, range_end, revision, keys_only, .. } = &self.request;
        let keys_max = self.left.min(MESSAGE_KEYS_MAX);
        let page = self.store.view().page(key, range_end, *revision, keys_max, MESSAGE_BYTES, *keys_only)?;
        if let Some(next) = page.next {
            self.request.key = next;
        }
        Ok(page.records)
    }

    fn descending(&mut self) -> Result<Vec<Record>, state::Error> {
        let keys_max = self.left.min(self.descend_keys);
        let limit = i64::try_from(keys_max).expect("a message's keys are few");
        let records = self.store.view().range(&pb::RangeRequest { limit, ..self.request.clone() })?.kvs;
        let bytes: usize = records.iter().map(|record| record.as_bytes().len()).sum();
        let fitting = keys_max * MESSAGE_BYTES / bytes.max(1);
        self.descend_keys = fitting.clamp(1, MESSAGE_KEYS_MAX.min(keys_max * DESCEND_GROWTH_MAX));
        if let Some(last) = records.last() {
            self.request.range_end = Bytes::copy_from_slice(last.key());
        }
        Ok(records)
    }
}

impl Stream for RangeStream {
    type Item = Result<pb::RangeStreamResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let message = this.message().map_err(|error| {
            this.last = None;
            Status::from(Error::from(error))
        });
        let wrap = |response| pb::RangeStreamResponse { range_response: Some(response) };
        Poll::Ready(message.transpose().map(|message| message.map(wrap)))
    }
}

#[cfg(test)]
mod tests;
