//! Requests of the common history over the wire: sent once, answered or not.

use tonic::{ConnectError, Status};

use super::{ANSWER_BYTES_MAX, Client, Error, bytes_of, is_definite, op, text};
use crate::history::op::{
    Compare, Delete, Expected, Failure, Kv, Member, Outcome, Put, Range, Reply, Request, SortBy, Txn,
};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::mvccpb;

impl Client {
    /// Sends one request, once, and says how it ended.
    pub async fn call(&self, request: &Request) -> Outcome {
        match self.within(self.answer(request)).await {
            Ok(out) => Outcome::Ok { out },
            Err(Error::Status(status)) => without_answer(&status),
            Err(error) => {
                let code = if matches!(error, Error::Deadline(_)) { "deadline" } else { "connection" };
                Outcome::Info { err: Failure { code: code.into(), msg: error.to_string(), definite: false } }
            }
        }
    }

    async fn answer(&self, request: &Request) -> Result<Reply, Status> {
        let mut lease = LeaseClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let mut maintenance = MaintenanceClient::new(self.channel.clone());
        Ok(match request {
            Request::Range(range) => of_range(self.kv().range(range_of(range)).await?.into_inner()),
            Request::Put(put) => of_put(self.kv().put(put_of(put)).await?.into_inner()),
            Request::Delete(delete) => of_delete(self.kv().delete_range(delete_of(delete)).await?.into_inner()),
            Request::Txn(txn) => of_txn(self.kv().txn(txn_of(txn)).await?.into_inner()),
            Request::Compact(revision) => {
                let request = pb::CompactionRequest { revision: *revision, physical: false };
                at(self.kv().compact(request).await?.into_inner().header)
            }
            Request::Grant(id, ttl) => {
                let answer = lease.lease_grant(pb::LeaseGrantRequest { id: *id, ttl: *ttl }).await?.into_inner();
                Reply { ttl: answer.ttl, ..at(answer.header) }
            }
            Request::Revoke(id) => {
                at(lease.lease_revoke(pb::LeaseRevokeRequest { id: *id }).await?.into_inner().header)
            }
            Request::KeepAlive(id) => {
                let once = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: *id }]);
                let mut answers = lease.lease_keep_alive(once).await?.into_inner();
                let answer = answers.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))?;
                Reply { ttl: answer.ttl, ..at(answer.header) }
            }
            Request::TimeToLive(id) => {
                let request = pb::LeaseTimeToLiveRequest { id: *id, keys: true };
                let answer = lease.lease_time_to_live(request).await?.into_inner();
                let mut keys: Vec<String> = answer.keys.iter().map(|key| text(key)).collect();
                keys.sort();
                Reply { ttl: answer.ttl, granted: answer.granted_ttl, keys, ..at(answer.header) }
            }
            Request::Status => {
                let answer = maintenance.status(pb::StatusRequest {}).await?.into_inner();
                let member = Member {
                    member: answer.header.as_ref().map_or(0, |header| header.member_id).to_string(),
                    leader: answer.leader.to_string(),
                    term: answer.raft_term,
                    applied: answer.raft_applied_index,
                    ..Member::default()
                };
                Reply { member: Some(Box::new(member)), ..at(answer.header) }
            }
            Request::HashKv(revision) => {
                let answer = maintenance.hash_kv(pb::HashKvRequest { revision: *revision }).await?.into_inner();
                let member = Member {
                    member: answer.header.as_ref().map_or(0, |header| header.member_id).to_string(),
                    hash: answer.hash,
                    hash_revision: answer.hash_revision,
                    compact_revision: answer.compact_revision,
                    ..Member::default()
                };
                Reply { member: Some(Box::new(member)), ..at(answer.header) }
            }
            Request::Hold(..) => return Err(Status::invalid_argument("a belief is not a request")),
        })
    }
}

/// What an error says of a request's fate.
pub fn without_answer(status: &Status) -> Outcome {
    let code = format!("{:?}", status.code());
    let definite = is_unsent(status) || is_definite(status.code());
    let err = Failure { code, msg: status.message().into(), definite };
    if err.definite { Outcome::Fail { err } } else { Outcome::Info { err } }
}

/// Whether there was no connection, or no end of its handshake: then nothing was sent.
fn is_unsent(status: &Status) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(status);
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// An answer that has a header and nothing else of interest.
pub fn at(header: Option<pb::ResponseHeader>) -> Reply {
    Reply { rev: super::revision(header), ..Reply::default() }
}

/// A read as a message.
pub fn range_of(range: &Range) -> pb::RangeRequest {
    use pb::range_request::{SortOrder, SortTarget};
    let (sort_order, sort_target) = match range.sort {
        None => (SortOrder::None, SortTarget::Key),
        Some((by, descending)) => {
            let target = match by {
                SortBy::Key => SortTarget::Key,
                SortBy::Version => SortTarget::Version,
                SortBy::Create => SortTarget::Create,
                SortBy::Mod => SortTarget::Mod,
                SortBy::Value => SortTarget::Value,
            };
            (if descending { SortOrder::Descend } else { SortOrder::Ascend }, target)
        }
    };
    let [min_mod_revision, max_mod_revision, min_create_revision, max_create_revision] = range.bounds;
    pb::RangeRequest {
        key: bytes_of(&range.key),
        range_end: range.end.as_deref().map(bytes_of).unwrap_or_default(),
        limit: range.limit,
        revision: range.revision,
        sort_order: sort_order.into(),
        sort_target: sort_target.into(),
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision,
        max_mod_revision,
        min_create_revision,
        max_create_revision,
    }
}

/// A write as a message.
pub fn put_of(put: &Put) -> pb::PutRequest {
    pb::PutRequest {
        key: bytes_of(&put.key),
        value: bytes_of(&put.value),
        lease: put.lease,
        prev_kv: put.prev_kv,
        ..Default::default()
    }
}

/// A deletion as a message.
pub fn delete_of(delete: &Delete) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: bytes_of(&delete.key),
        range_end: delete.end.as_deref().map(bytes_of).unwrap_or_default(),
        prev_kv: delete.prev_kv,
    }
}

fn compare_of(compare: &Compare) -> pb::Compare {
    use pb::compare::{CompareTarget, TargetUnion};
    let (target, union) = match &compare.is {
        Expected::Version(number) => (CompareTarget::Version, TargetUnion::Version(*number)),
        Expected::Create(number) => (CompareTarget::Create, TargetUnion::CreateRevision(*number)),
        Expected::Mod(number) => (CompareTarget::Mod, TargetUnion::ModRevision(*number)),
        Expected::Value(value) => (CompareTarget::Value, TargetUnion::Value(bytes_of(value))),
        Expected::Lease(number) => (CompareTarget::Lease, TargetUnion::Lease(*number)),
    };
    pb::Compare {
        result: pb::compare::CompareResult::Equal.into(),
        target: target.into(),
        key: bytes_of(&compare.key),
        target_union: Some(union),
        ..Default::default()
    }
}

fn op_of(request: &Request) -> pb::RequestOp {
    use pb::request_op::Request as One;
    match request {
        Request::Range(range) => op(One::RequestRange(range_of(range))),
        Request::Put(put) => op(One::RequestPut(put_of(put))),
        Request::Delete(delete) => op(One::RequestDeleteRange(delete_of(delete))),
        Request::Txn(txn) => op(One::RequestTxn(txn_of(txn))),
        // Nothing else fits into a transaction; a server refuses an operation without a request.
        _ => pb::RequestOp { request: None },
    }
}

/// A transaction as a message.
pub fn txn_of(txn: &Txn) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: txn.compare.iter().map(compare_of).collect(),
        success: txn.success.iter().map(op_of).collect(),
        failure: txn.failure.iter().map(op_of).collect(),
    }
}

/// What answers a read.
pub fn of_range(answer: pb::RangeResponse) -> Reply {
    let kvs = answer.kvs.into_iter().map(kv_of).collect();
    Reply { kvs, more: answer.more, count: answer.count, ..at(answer.header) }
}

/// What answers a write.
pub fn of_put(answer: pb::PutResponse) -> Reply {
    Reply { prev: answer.prev_kv.into_iter().map(kv_of).collect(), ..at(answer.header) }
}

/// What answers a deletion.
pub fn of_delete(answer: pb::DeleteRangeResponse) -> Reply {
    let prev = answer.prev_kvs.into_iter().map(kv_of).collect();
    Reply { deleted: answer.deleted, prev, ..at(answer.header) }
}

/// What answers a transaction.
pub fn of_txn(answer: pb::TxnResponse) -> Reply {
    use pb::response_op::Response;
    // The inner headers say nothing that the outer one does not.
    let inner = |response: pb::ResponseOp| match response.response {
        Some(Response::ResponseRange(range)) => Reply { rev: 0, ..of_range(range) },
        Some(Response::ResponsePut(put)) => Reply { rev: 0, ..of_put(put) },
        Some(Response::ResponseDeleteRange(delete)) => Reply { rev: 0, ..of_delete(delete) },
        Some(Response::ResponseTxn(txn)) => Reply { rev: 0, ..of_txn(txn) },
        None => Reply::default(),
    };
    let replies = answer.responses.into_iter().map(inner).collect();
    Reply { succeeded: answer.succeeded, replies, ..at(answer.header) }
}

/// A key-value out of an answer.
pub fn kv_of(kv: mvccpb::KeyValue) -> Kv {
    Kv {
        key: text(&kv.key),
        value: text(&kv.value),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}
