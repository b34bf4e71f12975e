//! Transactions, as etcd evaluates them: all compares, nested ones too, are decided on the state before the transaction;
//! then every operation of the taken path is checked; only then is anything done. Called by `apply` and `view`.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use super::draft::Draft;
use super::error::Error;
use super::key_index::{KeyRange, NEWEST};
use super::range::Reader;
use crate::proto::Record;
use crate::proto::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use pb::response_op::Response;

/// Which branch each transaction of a nest takes, in the order in which they are met.
type Path = Vec<bool>;

/// Executes a transaction. The response's own header is absent; those inside carry the revision only, or nothing in a
/// nested response, as in etcd.
///
/// # Errors
/// [`Error::Compacted`], [`Error::FutureRevision`], [`Error::LeaseNotFound`], [`Error::KeyNotFound`]; then nothing was
/// done.
pub fn execute(draft: &mut Draft<'_>, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
    let mut path = Path::new();
    decide(draft.reader(), request, &mut path);
    check(draft, request, &mut path.iter().copied())?;
    run(draft, request, &mut path.into_iter())
}

/// Keys that the range deletions of a transaction would remove at most, whichever branches are taken.
pub fn deletions(reader: Reader<'_>, request: &pb::TxnRequest) -> u64 {
    let ops = request.success.iter().chain(&request.failure).filter_map(|op| op.request.as_ref());
    ops.fold(0_u64, |sum, op| {
        sum.saturating_add(match op {
            Request::RequestDeleteRange(delete) if delete.range_end.is_empty() => 1,
            Request::RequestDeleteRange(delete) => {
                reader.index.count(KeyRange::new(&delete.key, &delete.range_end), NEWEST)
            }
            Request::RequestTxn(txn) => deletions(reader, txn),
            Request::RequestRange(_) | Request::RequestPut(_) => 0,
        })
    })
}

/// Whether a transaction contains a put in either branch, nested ones included.
pub fn has_put(request: &pb::TxnRequest) -> bool {
    let ops = request.success.iter().chain(&request.failure);
    ops.filter_map(|op| op.request.as_ref()).any(|op| match op {
        Request::RequestPut(_) => true,
        Request::RequestTxn(txn) => has_put(txn),
        Request::RequestRange(_) | Request::RequestDeleteRange(_) => false,
    })
}

fn branch(request: &pb::TxnRequest, succeeded: bool) -> impl Iterator<Item = Option<&Request>> {
    let ops = if succeeded { &request.success } else { &request.failure };
    ops.iter().map(|op| op.request.as_ref())
}

fn decide(reader: Reader<'_>, request: &pb::TxnRequest, path: &mut Path) {
    let succeeded = request.compare.iter().all(|compare| holds(reader, compare));
    path.push(succeeded);
    for op in branch(request, succeeded) {
        if let Some(Request::RequestTxn(nested)) = op {
            decide(reader, nested, path);
        }
    }
}

fn check(draft: &Draft<'_>, request: &pb::TxnRequest, path: &mut dyn Iterator<Item = bool>) -> Result<(), Error> {
    let succeeded = path.next().expect("the path was decided for this transaction");
    for op in branch(request, succeeded).flatten() {
        match op {
            Request::RequestRange(range) => draft.reader().check_in_txn(range.revision)?,
            Request::RequestPut(put) => draft.check_put(put)?,
            Request::RequestDeleteRange(_) => {}
            Request::RequestTxn(nested) => check(draft, nested, path)?,
        }
    }
    Ok(())
}

fn run(
    draft: &mut Draft<'_>,
    request: &pb::TxnRequest,
    path: &mut dyn Iterator<Item = bool>,
) -> Result<pb::TxnResponse, Error> {
    let succeeded = path.next().expect("the path was decided for this transaction");
    let responses = branch(request, succeeded).map(|op| {
        let response = match op {
            None => None,
            Some(Request::RequestRange(range)) => {
                let mut response = draft.range(range)?;
                response.header = header(draft);
                Some(Response::ResponseRange(response))
            }
            Some(Request::RequestPut(put)) => {
                let mut response = draft.put(put);
                response.header = header(draft);
                Some(Response::ResponsePut(response))
            }
            Some(Request::RequestDeleteRange(delete)) => {
                let mut response = draft.delete_range(delete);
                response.header = header(draft);
                Some(Response::ResponseDeleteRange(response))
            }
            Some(Request::RequestTxn(nested)) => {
                let mut response = run(draft, nested, path)?;
                response.header = Some(pb::ResponseHeader::default());
                Some(Response::ResponseTxn(response))
            }
        };
        Ok(pb::ResponseOp { response })
    });
    let responses = responses.collect::<Result<_, Error>>()?;
    Ok(pb::TxnResponse { header: None, succeeded, responses })
}

fn header(draft: &Draft<'_>) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision: draft.revision(), ..pb::ResponseHeader::default() })
}

/// Whether a compare holds for every key it names; for none at all it is asked of a key of zeros, but a value never
/// compares then.
fn holds(reader: Reader<'_>, compare: &pb::Compare) -> bool {
    let mut any = false;
    let range = KeyRange::new(&compare.key, &compare.range_end);
    let end = reader.index.scan(range, NEWEST, |entry| {
        let Some(record) = entry.live() else { return ControlFlow::Continue(()) };
        any = true;
        if holds_for(compare, record) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    if any {
        return end.is_continue();
    }
    compare.target != CompareTarget::Value as i32 && holds_for(compare, &Record::default())
}

fn holds_for(compare: &pb::Compare, record: &Record) -> bool {
    let fields = record.fields();
    // A value to compare with that is absent, or of another kind than the target, counts as 0 or empty.
    let target = CompareTarget::try_from(compare.target);
    let wanted = match (target, &compare.target_union) {
        (Ok(CompareTarget::Version), Some(TargetUnion::Version(wanted)))
        | (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(wanted)))
        | (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(wanted)))
        | (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(wanted))) => *wanted,
        _ => 0,
    };
    let order = match target {
        Ok(CompareTarget::Version) => fields.version.cmp(&wanted),
        Ok(CompareTarget::Create) => fields.create_revision.cmp(&wanted),
        Ok(CompareTarget::Mod) => fields.mod_revision.cmp(&wanted),
        Ok(CompareTarget::Lease) => fields.lease.cmp(&wanted),
        Ok(CompareTarget::Value) => {
            let wanted = if let Some(TargetUnion::Value(wanted)) = &compare.target_union { &wanted[..] } else { &[] };
            record.as_bytes()[fields.value].cmp(wanted)
        }
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}
