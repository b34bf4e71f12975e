//! The KV service: check, then propose what changes something and read the rest from a view of the state.
//!
//! A linearizable read waits for the read barrier and then takes the newest view; a serializable one takes it at once.
//! No lock is held while anything is awaited: a view is pinned and shares its memory with the store.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::quota::{self, Quota};
use super::{Error, Limits, check, header};
use crate::metrics::Op as Kind;
use crate::mutants::{Mutant, planted};
use crate::proto::etcdserverpb as pb;
use crate::raft::{self, Node};
use crate::state::{Applied, Command, Response as Answer, View};
use pb::request_op::Request as Op;

mod stream;

pub use stream::RangeStream;

/// A range of more keys than this is read on a thread for blocking work, so that other calls of the same io thread
/// need not wait for it.
const INLINE_KEYS_MAX: i64 = 10_000;

/// etcd's `KV` service.
#[derive(Clone)]
pub struct Kv {
    node: Arc<Node>,
    quota: Arc<Quota>,
    limits: Limits,
}

impl Kv {
    /// Serves the node's store.
    pub fn new(node: Arc<Node>, quota: Arc<Quota>, limits: Limits) -> Self {
        Self { node, quota, limits }
    }

    /// Keys of a range.
    ///
    /// # Errors
    /// [`check::range`]; a compacted or future revision; no leader in time.
    pub async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        check::range(&request)?;
        let meter = self.node.meter();
        let started = meter.clock.now();
        let answer = self.read(request).await;
        meter.metrics.server.request_duration_seconds.observe(Kind::Range, answer.is_ok(), meter.since(started));
        answer
    }

    async fn read(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        if !request.serializable && self.node.is_learner() {
            return Err(Error::Learner);
        }
        let view = self.view(request.serializable).await?;
        let meter = self.node.meter();
        let started = meter.clock.now();
        let answer = if is_long(&view, &request) {
            let view = view.clone();
            super::off_the_io_thread(move || view.range(&request)).await?
        } else {
            view.range(&request)
        };
        meter.metrics.server.range_duration_seconds.observe(Kind::Range, answer.is_ok(), meter.since(started));
        meter.metrics.mvcc.range.inc();
        let mut response = answer?;
        response.header = header::at(&self.node, view.revision() - i64::from(planted(Mutant::HeaderOffByOne)));
        Ok(response)
    }

    /// Keys of a range, piece by piece; refusals come at once, not in the stream.
    ///
    /// # Errors
    /// [`check::range_stream`]; a compacted or future revision; no leader in time.
    pub async fn range_stream(&self, request: pb::RangeRequest) -> Result<RangeStream, Error> {
        check::range_stream(&request)?;
        let view = self.view(request.serializable).await?;
        let header = self.node.header(view.revision());
        self.node.meter().metrics.mvcc.range.inc();
        Ok(RangeStream::new(Arc::clone(self.node.store()), &view, header, request)?)
    }

    /// Writes one key.
    ///
    /// # Errors
    /// [`check::put`]; the quota; the store's refusal; the proposal's fate.
    pub async fn put(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Error> {
        self.quota.admit(quota::put_cost(&request)).await?;
        check::put(&request)?;
        check::size(&request, &self.limits)?;
        let Applied { revision, response } = self.node.propose(Command::Put(request)).await?;
        let Answer::Put(mut response) = response? else { unreachable!("a put is answered as a put") };
        response.header = header::at(&self.node, revision);
        Ok(response)
    }

    /// Removes a range of keys.
    ///
    /// # Errors
    /// [`check::delete_range`]; the store's refusal; the proposal's fate.
    pub async fn delete_range(&self, request: pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Error> {
        check::delete_range(&request)?;
        check::size(&request, &self.limits)?;
        let Applied { revision, response } = self.node.propose(Command::DeleteRange(request)).await?;
        let Answer::DeleteRange(mut response) = response? else { unreachable!("a deletion is answered as one") };
        response.header = header::at(&self.node, revision);
        Ok(response)
    }

    /// Compares, then does one of two lists of operations. What only reads is not replicated; and unlike etcd's, a
    /// transaction that only compares is linearizable.
    ///
    /// # Errors
    /// [`check::txn`]; the quota; the store's refusal; the proposal's fate.
    pub async fn txn(&self, mut request: pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        self.quota.admit(quota::txn_cost(&request)).await?;
        check::txn(&request, &self.limits)?;
        if planted(Mutant::CompareBeforePropose) {
            let asked = pb::TxnRequest { compare: std::mem::take(&mut request.compare), ..Default::default() };
            if !self.view(false).await?.txn(&asked)?.succeeded {
                request.compare = vec![never()];
            }
        }
        let (revision, mut response) = if let Some(serializable) = reads_only(&request) {
            let view = self.view(serializable).await?;
            let response = view.txn(&request)?;
            let mvcc = &self.node.meter().metrics.mvcc;
            mvcc.range.inc_by(response.responses.len() as u64);
            mvcc.txn.inc_by(u64::from(response.responses.len() > 1));
            (view.revision(), response)
        } else {
            check::size(&request, &self.limits)?;
            let Applied { revision, response } = self.node.propose(Command::Txn(request)).await?;
            let Answer::Txn(response) = response? else { unreachable!("a transaction is answered as one") };
            (revision, response)
        };
        response.header = header::at(&self.node, revision);
        Ok(response)
    }

    /// Forgets the history before a revision; with `physical`, waits until its space is reclaimed.
    ///
    /// # Errors
    /// A compacted or future revision; the proposal's fate; with `physical`, that the member stops while it waits.
    pub async fn compact(&self, request: pb::CompactionRequest) -> Result<pb::CompactionResponse, Error> {
        let Applied { revision, response } = self.node.propose(Command::Compact(request)).await?;
        response?;
        if request.physical {
            self.node.compaction_done(request.revision).await?;
        }
        Ok(pb::CompactionResponse { header: header::at(&self.node, revision) })
    }

    async fn view(&self, serializable: bool) -> Result<View, raft::Error> {
        if !serializable {
            self.node.read_barrier().await?;
        }
        Ok(self.node.store().view())
    }
}

/// A comparison that never holds: no version is negative.
fn never() -> pb::Compare {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    let (result, target) = (CompareResult::Less.into(), CompareTarget::Version.into());
    pb::Compare { result, target, target_union: Some(TargetUnion::Version(0)), ..Default::default() }
}

/// Whether answering takes long enough to be felt by other calls.
fn is_long(view: &View, request: &pb::RangeRequest) -> bool {
    let one_key = request.range_end.is_empty();
    let in_key_order = request.sort_order() == pb::range_request::SortOrder::None;
    let few_wanted = (1..=INLINE_KEYS_MAX).contains(&request.limit) && in_key_order;
    !one_key && !request.count_only && !few_wanted && view.count(&request.key, &request.range_end) > INLINE_KEYS_MAX
}

/// For a transaction that consists of ranges only, at the top: whether it may be answered from any state. That takes
/// at least one range and each of them serializable; a nested transaction is replicated whatever it holds, as etcd's.
fn reads_only(request: &pb::TxnRequest) -> Option<bool> {
    let mut ranges = 0;
    let mut serializable = true;
    for op in request.success.iter().chain(&request.failure) {
        let Some(Op::RequestRange(range)) = &op.request else { return None };
        ranges += 1;
        serializable &= range.serializable;
    }
    Some(serializable && ranges > 0)
}

#[tonic::async_trait]
impl pb::kv_server::Kv for Kv {
    type RangeStreamStream = RangeStream;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        Ok(Response::new(Self::range(self, request.into_inner()).await?))
    }

    async fn range_stream(&self, request: Request<pb::RangeRequest>) -> Result<Response<RangeStream>, Status> {
        Ok(Response::new(Self::range_stream(self, request.into_inner()).await?))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        Ok(Response::new(Self::put(self, request.into_inner()).await?))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        Ok(Response::new(Self::delete_range(self, request.into_inner()).await?))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        Ok(Response::new(Self::txn(self, request.into_inner()).await?))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        Ok(Response::new(Self::compact(self, request.into_inner()).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(serializable: bool) -> pb::RequestOp {
        let range = pb::RangeRequest { key: "k".into(), serializable, ..Default::default() };
        pb::RequestOp { request: Some(Op::RequestRange(range)) }
    }

    fn txn(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::TxnRequest {
        pb::TxnRequest { compare: Vec::new(), success, failure }
    }

    #[test]
    fn a_transaction_is_local_only_when_it_has_ranges_and_all_are_serializable() {
        let nested = pb::RequestOp { request: Some(Op::RequestTxn(txn(vec![range(true)], vec![]))) };
        let put = pb::RequestOp { request: Some(Op::RequestPut(pb::PutRequest::default())) };
        assert_eq!(reads_only(&txn(vec![range(true)], vec![range(true)])), Some(true));
        assert_eq!(reads_only(&txn(vec![range(true)], vec![range(false)])), Some(false));
        assert_eq!(reads_only(&txn(vec![], vec![])), Some(false), "only compares");
        assert_eq!(reads_only(&txn(vec![range(true)], vec![put])), None);
        assert_eq!(reads_only(&txn(vec![nested], vec![])), None);
    }
}
