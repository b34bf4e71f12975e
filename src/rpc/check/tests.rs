//! What is refused before it is proposed, and in which words.

use super::*;
use crate::rpc::Limits;

const LIMITS: Limits = Limits { request_bytes_max: 1_572_864, txn_ops_max: 4, quota_bytes: None };

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn get(key: &'static str) -> pb::RequestOp {
    op(Request::RequestRange(pb::RangeRequest { key: key.into(), ..Default::default() }))
}

fn nest(txn: pb::TxnRequest) -> pb::RequestOp {
    op(Request::RequestTxn(txn))
}

fn then(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, ..Default::default() }
}

#[test]
fn a_range_needs_a_key_and_a_sort_option_of_the_api() {
    let range = |key: &'static str, sort_order, sort_target| {
        super::range(&pb::RangeRequest {
            key: key.into(),
            range_end: "z".into(),
            sort_order,
            sort_target,
            ..Default::default()
        })
    };
    assert_eq!(range("\0", 0, 0), Ok(()));
    assert_eq!(range("a", 2, 4), Ok(()));
    assert_eq!(range("", 0, 0), Err(Error::EmptyKey));
    assert_eq!(range("", 9, 9), Err(Error::EmptyKey), "the key is looked at first");
    for (order, target) in [(3, 0), (-1, 0), (0, 5), (1, -1)] {
        assert_eq!(range("a", order, target), Err(Error::InvalidSortOption), "{order} {target}");
    }
}

#[test]
fn a_stream_sorts_by_key_only_and_does_not_filter() {
    let ask = pb::RangeRequest { key: "a".into(), ..Default::default() };
    assert_eq!(range_stream(&ask), Ok(()));
    for (order, target, expected) in [
        (2, 0, Ok(())),
        (1, 0, Ok(())),
        (0, 3, Ok(())),
        (1, 3, Err(Error::StreamSort)),
        (2, 4, Err(Error::StreamSort)),
        (7, 0, Err(Error::InvalidSortOption)),
    ] {
        let ask = pb::RangeRequest { sort_order: order, sort_target: target, ..ask.clone() };
        assert_eq!(range_stream(&ask), expected, "{order} {target}");
    }
    for filtered in [
        pb::RangeRequest { min_mod_revision: 1, ..ask.clone() },
        pb::RangeRequest { max_mod_revision: -1, ..ask.clone() },
        pb::RangeRequest { min_create_revision: 1, ..ask.clone() },
        pb::RangeRequest { max_create_revision: 1, ..ask.clone() },
    ] {
        assert_eq!(range_stream(&filtered), Err(Error::StreamFilter), "{filtered:?}");
    }
}

#[test]
fn a_put_has_a_key_and_not_both_a_value_and_the_wish_to_keep_the_old_one() {
    let ask = pb::PutRequest { key: "k".into(), ..Default::default() };
    let table = [
        (pb::PutRequest::default(), Err(Error::EmptyKey)),
        (pb::PutRequest { ignore_value: true, ignore_lease: true, ..ask.clone() }, Ok(())),
        (
            pb::PutRequest { ignore_value: true, value: "v".into(), lease: 1, ignore_lease: true, ..ask.clone() },
            Err(Error::ValueProvided),
        ),
        (pb::PutRequest { ignore_lease: true, lease: -1, ..ask.clone() }, Err(Error::LeaseProvided)),
        (pb::PutRequest { value: "v".into(), lease: 1, ..ask }, Ok(())),
    ];
    for (request, expected) in table {
        assert_eq!(put(&request), expected, "{request:?}");
    }
    assert_eq!(delete_range(&pb::DeleteRangeRequest::default()), Err(Error::EmptyKey));
}

#[test]
fn a_transaction_has_a_budget_that_nested_ones_share() {
    let gets = |count: usize| vec![get("k"); count];
    let compare = pb::Compare { key: "k".into(), ..Default::default() };
    let table = [
        (pb::TxnRequest::default(), Ok(())),
        (then(gets(4)), Ok(())),
        (pb::TxnRequest { success: gets(4), failure: gets(4), compare: vec![compare.clone(); 4] }, Ok(())),
        (then(gets(5)), Err(Error::TooManyOperations)),
        (pb::TxnRequest { failure: gets(5), ..Default::default() }, Err(Error::TooManyOperations)),
        (pb::TxnRequest { compare: vec![compare; 5], ..Default::default() }, Err(Error::TooManyOperations)),
        (then(vec![nest(then(gets(3)))]), Ok(())),
        (then(vec![nest(then(gets(3))), nest(then(gets(2)))]), Err(Error::TooManyOperations)),
        (then(vec![nest(then(gets(2))), nest(then(gets(2)))]), Ok(())),
        (then(vec![nest(then(vec![nest(then(vec![nest(then(gets(1)))]))]))]), Ok(())),
        (then(vec![nest(then(vec![nest(then(vec![nest(then(gets(2)))]))]))]), Err(Error::TooManyOperations)),
    ];
    for (request, expected) in table {
        assert_eq!(txn(&request, &LIMITS), expected, "{request:?}");
    }
}

#[test]
fn a_transactions_parts_are_checked_as_if_they_stood_alone() {
    let put = |key: &'static str| op(Request::RequestPut(pb::PutRequest { key: key.into(), ..Default::default() }));
    let bad_sort = pb::RangeRequest { key: "k".into(), sort_order: 9, ..Default::default() };
    let table = [
        (pb::TxnRequest { compare: vec![pb::Compare::default()], ..Default::default() }, Err(Error::EmptyKey)),
        (then(vec![get("")]), Err(Error::EmptyKey)),
        (then(vec![op(Request::RequestRange(bad_sort))]), Err(Error::InvalidSortOption)),
        (then(vec![pb::RequestOp { request: None }]), Err(Error::EmptyOperation)),
        (then(vec![nest(then(vec![put("")]))]), Err(Error::EmptyKey)),
        (pb::TxnRequest { failure: vec![put("a"), put("a")], ..Default::default() }, Err(Error::DuplicateKey)),
        (pb::TxnRequest { success: vec![put("a")], failure: vec![put("a")], ..Default::default() }, Ok(())),
        // Every operation is looked at before what the branches write.
        (then(vec![put("a"), put("a"), get("")]), Err(Error::EmptyKey)),
    ];
    for (request, expected) in table {
        assert_eq!(txn(&request, &LIMITS), expected, "{request:?}");
    }
}

#[test]
fn a_request_is_measured_in_its_envelope() {
    let of = |len: usize| pb::PutRequest { key: "k".into(), value: vec![0; len].into(), ..Default::default() };
    // Key: 3 bytes; value: a tag, a length of 3 bytes; envelope: 14 bytes and a length of 3.
    let fitting = LIMITS.request_bytes_max - 3 - 4 - 17;
    assert_eq!(size(&of(fitting), &LIMITS), Ok(()));
    assert_eq!(size(&of(fitting + 1), &LIMITS), Err(Error::TooLarge));
}

#[test]
fn a_lease_may_not_outlast_the_limit() {
    assert_eq!(lease_ttl(-1), Ok(()));
    assert_eq!(lease_ttl(9_000_000_000), Ok(()));
    assert_eq!(lease_ttl(9_000_000_001), Err(Error::LeaseTtlTooLarge));
}

#[test]
fn peer_urls_have_a_scheme_a_host_and_a_port() {
    let urls = |urls: &[&str]| peer_urls(&urls.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(urls(&["http://b:2380", "http://a:2380"]), Ok(vec!["http://a:2380".into(), "http://b:2380".into()]));
    for bad in [&[][..], &["garbage"], &["http://a"], &["http://a:1/path"], &["ftp://a:1"], &["http://a:1", ""]] {
        assert_eq!(urls(bad), Err(Error::MemberUrls), "{bad:?}");
    }
}
