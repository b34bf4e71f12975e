//! The space quota, at the door: what a request would add is weighed before it is proposed, as etcd's `quota.go` does.
//! The store refuses writes by itself once the NOSPACE alarm is up; this is what raises it.
//!
//! Unlike etcd's, the measure is live and historic bytes and not a file's size, so that compaction alone frees space.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::proto::etcdserverpb as pb;
use crate::raft::Node;
use crate::rpc::Error;
use crate::state::{self, Command};
use pb::request_op::Request;

/// What a put weighs besides key and value (etcd's `kvOverhead`).
const PUT_OVERHEAD_BYTES: u64 = 256;
/// What a lease weighs (etcd's `leaseOverhead`).
const LEASE_BYTES: u64 = 64;

/// Refuses what would not fit. Shared by the KV and Lease services.
pub struct Quota {
    node: Arc<Node>,
    bytes_max: Option<u64>,
    /// Set while one caller raises the alarm, so that a burst of refused writes raises it once.
    raising: AtomicBool,
}

impl Quota {
    /// A quota of `bytes_max` bytes; `None` admits everything.
    pub fn new(node: Arc<Node>, bytes_max: Option<u64>) -> Self {
        Self { node, bytes_max, raising: AtomicBool::new(false) }
    }

    /// Admits a request that adds `cost` bytes, by [`put_cost`] and its like; one that adds none always passes.
    ///
    /// # Errors
    /// [`state::Error::NoSpace`], after the alarm was raised.
    pub async fn admit(&self, cost: u64) -> Result<(), Error> {
        let Some(bytes_max) = self.bytes_max else { return Ok(()) };
        if cost == 0 || self.used_bytes().saturating_add(cost) < bytes_max {
            return Ok(());
        }
        self.raise_alarm().await;
        Err(state::Error::NoSpace.into())
    }

    /// Bytes that count against the quota.
    fn used_bytes(&self) -> u64 {
        let sizes = self.node.store().sizes();
        sizes.live_bytes + sizes.history_bytes
    }

    async fn raise_alarm(&self) {
        let member_id = self.node.status().member_id;
        let alarm = pb::AlarmMember { member_id, alarm: pb::AlarmType::Nospace.into() };
        if self.node.store().alarms().contains(&alarm) || self.raising.swap(true, Ordering::Relaxed) {
            return;
        }
        let _lowered_when_done_or_dropped = Lower(&self.raising);
        tracing::warn!(member_id, used_bytes = self.used_bytes(), "space quota exceeded, raising alarm NOSPACE");
        let raise = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate.into(),
            member_id,
            alarm: pb::AlarmType::Nospace.into(),
        };
        if let Err(error) = self.node.propose(Command::Alarm(raise)).await {
            // The write is refused all the same, and the next one tries again.
            tracing::warn!(member_id, %error, "alarm NOSPACE not raised");
        }
    }
}

/// Clears the flag, also when the caller that raises the alarm goes away.
struct Lower<'a>(&'a AtomicBool);

impl Drop for Lower<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What a put weighs, in bytes.
pub fn put_cost(request: &pb::PutRequest) -> u64 {
    PUT_OVERHEAD_BYTES + (request.key.len() + request.value.len()) as u64
}

/// What the heavier branch of a transaction weighs, in bytes; nested transactions count.
pub fn txn_cost(request: &pb::TxnRequest) -> u64 {
    let branch = |ops: &[pb::RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => put_cost(put),
                Some(Request::RequestTxn(txn)) => txn_cost(txn),
                Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
            })
            .sum()
    };
    branch(&request.success).max(branch(&request.failure))
}

/// What a lease weighs, in bytes.
pub fn lease_cost() -> u64 {
    LEASE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> pb::RequestOp {
        let put = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        pb::RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn txn(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::TxnRequest {
        pb::TxnRequest { compare: Vec::new(), success, failure }
    }

    #[test]
    fn a_transaction_weighs_as_much_as_its_heavier_branch_with_nested_puts() {
        let delete = pb::RequestOp { request: Some(Request::RequestDeleteRange(pb::DeleteRangeRequest::default())) };
        assert_eq!(txn_cost(&txn(vec![delete], vec![])), 0);
        assert_eq!(txn_cost(&txn(vec![put("k", "v")], vec![])), 258);
        assert_eq!(txn_cost(&txn(vec![put("k", "v")], vec![put("k", "v"), put("l", "")])), 515);
        let nested = pb::RequestOp { request: Some(Request::RequestTxn(txn(vec![], vec![put("key", "value")]))) };
        assert_eq!(txn_cost(&txn(vec![nested, put("k", "v")], vec![])), 264 + 258);
    }
}
