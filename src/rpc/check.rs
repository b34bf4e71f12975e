//! Whether a request may be proposed or read at all: pure functions over one request and the limits, with etcd's rules
//! (`v3rpc/key.go`, `types/urls.go`) and etcd's order of checking. What depends on the store is the store's to refuse.
//!
//! Called by the services of `rpc` before they do anything else.

use http::HeaderMap;
use prost::Message;
use prost::encoding::encoded_len_varint;

use super::Limits;
use crate::config::Url;
use crate::proto::etcdserverpb as pb;
use pb::request_op::Request;

pub mod intervals;

/// etcd's longest lease, in seconds.
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// What etcd's `InternalRaftRequest` takes besides the request itself and its length: the header (a tag of two bytes,
/// a length, a tag and an id) and the request's own tag. etcd's ids take nine or ten bytes by what the member is
/// called; nine, so that nothing is refused that some etcd takes.
const ENVELOPE_BYTES: usize = 2 + 1 + 1 + 9 + 1;

/// A request that no store would accept. The texts are etcd's without their prefix; `status` adds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The key is empty.
    #[error("key is not provided")]
    EmptyKey,
    /// An operation of a transaction is none of the kinds; etcd's text is this one.
    #[error("key not found")]
    EmptyOperation,
    /// `ignore_value` with a value.
    #[error("value is provided")]
    ValueProvided,
    /// `ignore_lease` with a lease.
    #[error("lease is provided")]
    LeaseProvided,
    /// More compares or operations than `max-txn-ops`, nested ones counted.
    #[error("too many operations in txn request")]
    TooManyOperations,
    /// One branch writes a key twice, or writes and deletes it.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// A sort order or target that is not in the API.
    #[error("invalid sort option")]
    InvalidSortOption,
    /// Larger than `max-request-bytes`.
    #[error("request is too large")]
    TooLarge,
    /// Longer than [`LEASE_TTL_SECONDS_MAX`].
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    /// No peer URL, or one that is not `scheme://host:port`.
    #[error("given member URLs are invalid")]
    MemberUrls,
    /// The metadata's `client-api-version` is not UTF-8.
    #[error("invalid client api version")]
    ClientApiVersion,
    /// `RangeStream` sorts by key only.
    #[error("RangeStream does not support custom sort orders")]
    StreamSort,
    /// `RangeStream` does not filter.
    #[error("RangeStream does not support revision filters")]
    StreamFilter,
}

/// The API version that a client names in its metadata, `unknown` when it does not.
///
/// # Errors
/// [`Error::ClientApiVersion`].
pub fn client_api_version(metadata: &HeaderMap) -> Result<&str, Error> {
    match metadata.get("client-api-version") {
        None => Ok("unknown"),
        Some(version) => std::str::from_utf8(version.as_bytes()).map_err(|_| Error::ClientApiVersion),
    }
}

/// Whether a client wants no answer from a member that knows no leader, as clientv3's `WithRequireLeader`.
pub fn requires_leader(metadata: &HeaderMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

/// A range, alone or in a transaction.
///
/// # Errors
/// [`Error::EmptyKey`], [`Error::InvalidSortOption`].
pub fn range(request: &pb::RangeRequest) -> Result<(), Error> {
    key(&request.key)?;
    let order = pb::range_request::SortOrder::try_from(request.sort_order);
    let target = pb::range_request::SortTarget::try_from(request.sort_target);
    if order.is_err() || target.is_err() { Err(Error::InvalidSortOption) } else { Ok(()) }
}

/// A range to be streamed. Unlike etcd's, it may be sorted by key, in either direction.
///
/// # Errors
/// As [`range`], and [`Error::StreamSort`], [`Error::StreamFilter`].
pub fn range_stream(request: &pb::RangeRequest) -> Result<(), Error> {
    range(request)?;
    let by_key = request.sort_target() == pb::range_request::SortTarget::Key;
    if request.sort_order() != pb::range_request::SortOrder::None && !by_key {
        return Err(Error::StreamSort);
    }
    let bounds =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if bounds.iter().any(|&bound| bound != 0) { Err(Error::StreamFilter) } else { Ok(()) }
}

/// A put, alone or in a transaction.
///
/// # Errors
/// [`Error::EmptyKey`], [`Error::ValueProvided`], [`Error::LeaseProvided`].
pub fn put(request: &pb::PutRequest) -> Result<(), Error> {
    key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// A deletion, alone or in a transaction.
///
/// # Errors
/// [`Error::EmptyKey`].
pub fn delete_range(request: &pb::DeleteRangeRequest) -> Result<(), Error> {
    key(&request.key)
}

/// A transaction with everything in it: first the operations one by one, then what each branch writes.
///
/// # Errors
/// Those of its operations, [`Error::EmptyOperation`], [`Error::TooManyOperations`], [`Error::DuplicateKey`].
pub fn txn(request: &pb::TxnRequest, limits: &Limits) -> Result<(), Error> {
    operations(request, limits.txn_ops_max)?;
    intervals::branch(&request.success)?;
    intervals::branch(&request.failure)
}

/// The number of operations and each operation. A nested transaction may have what the outer one leaves over.
fn operations(request: &pb::TxnRequest, ops_max: usize) -> Result<(), Error> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > ops_max {
        return Err(Error::TooManyOperations);
    }
    for compare in &request.compare {
        key(&compare.key)?;
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(request)) => operations(request, ops_max - ops)?,
            None => return Err(Error::EmptyOperation),
        }
    }
    Ok(())
}

/// A grant's TTL in seconds; a short one is not an error, it is lengthened by the lessor.
///
/// # Errors
/// [`Error::LeaseTtlTooLarge`].
pub fn lease_ttl(seconds: i64) -> Result<(), Error> {
    if seconds > LEASE_TTL_SECONDS_MAX { Err(Error::LeaseTtlTooLarge) } else { Ok(()) }
}

/// A member's peer URLs: at least one, each with a scheme of etcd's, a host and a port, and no path. etcd sorts them.
///
/// # Errors
/// [`Error::MemberUrls`].
pub fn peer_urls(urls: &[String]) -> Result<Vec<String>, Error> {
    if urls.is_empty() {
        return Err(Error::MemberUrls);
    }
    let mut parsed = urls.iter().map(|url| Url::parse(url)).collect::<Result<Vec<_>, _>>();
    if let Ok(urls) = &mut parsed {
        urls.sort();
    }
    let urls = parsed.map_err(|_| Error::MemberUrls)?;
    Ok(urls.iter().map(ToString::to_string).collect())
}

/// The size of a request that is to be replicated, as etcd measures it: in its Raft envelope.
///
/// # Errors
/// [`Error::TooLarge`].
pub fn size(request: &impl Message, limits: &Limits) -> Result<(), Error> {
    let len = request.encoded_len();
    let bytes = ENVELOPE_BYTES + encoded_len_varint(len as u64) + len;
    if bytes > limits.request_bytes_max { Err(Error::TooLarge) } else { Ok(()) }
}

fn key(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
