//! The KV service over gRPC: what a client sees of reading, writing, transactions and compaction.

mod common;

use common::*;
use kelson::Config;
use kelson::proto::etcdserverpb as pb;
use pb::range_request::{SortOrder, SortTarget};
use pb::response_op::Response;
use tonic::Code;

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";

#[tokio::test]
async fn a_fresh_store_has_revision_1_and_every_change_adds_1() {
    let member = Member::start().await;
    let header = member.range(range("a", "")).await.header.unwrap();
    assert_eq!(header.revision, 1);
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term >= 1, "{header:?}");
    assert_eq!(member.put("a", "1").await, 2);
    assert_eq!(member.put("a", "1").await, 3, "the same value is a change too");
    let nothing = member.kv().delete_range(delete("b", "")).await.unwrap().into_inner();
    assert_eq!((nothing.header.unwrap().revision, nothing.deleted), (3, 0), "nothing deleted is no change");
    assert_eq!(member.kv().txn(then(vec![get_op("a")])).await.unwrap().into_inner().header.unwrap().revision, 3);
    assert_eq!(
        member
            .kv()
            .txn(then(vec![put_op("b", ""), put_op("c", "")]))
            .await
            .unwrap()
            .into_inner()
            .header
            .unwrap()
            .revision,
        4
    );
    assert_eq!(member.revision().await, 4);
}

#[tokio::test]
async fn a_key_carries_its_revisions_version_and_binary_value() {
    let member = Member::start().await;
    let value: Vec<u8> = (0..=255).collect();
    let binary = pb::PutRequest { key: bytes("k\0\u{ff}"), value: value.clone().into(), ..Default::default() };
    member.kv().put(binary.clone()).await.unwrap();
    member.kv().put(binary.clone()).await.unwrap();
    let kv = member.range(pb::RangeRequest { key: binary.key.clone(), ..Default::default() }).await.kvs.remove(0);
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version(), kv.value()), (2, 3, 2, &value[..]));
    member.kv().delete_range(pb::DeleteRangeRequest { key: binary.key.clone(), ..Default::default() }).await.unwrap();
    let previous = member.kv().put(pb::PutRequest { prev_kv: true, ..binary.clone() }).await.unwrap().into_inner();
    assert_eq!(previous.prev_kv, None);
    let kv = member.range(pb::RangeRequest { key: binary.key, ..Default::default() }).await.kvs.remove(0);
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version()), (5, 5, 1));
}

#[tokio::test]
async fn a_range_ends_where_it_says() {
    let member = Member::start().await;
    for key in ["a", "b", "ba", "c", "d"] {
        member.put(key, key).await;
    }
    assert_eq!(member.keys("b", "").await, ["b"]);
    assert_eq!(member.keys("b", "c").await, ["b", "ba"]);
    assert_eq!(member.keys("b", "\0").await, ["b", "ba", "c", "d"]);
    assert_eq!(member.keys("\0", "\0").await, ["a", "b", "ba", "c", "d"]);
    assert_eq!(member.keys("c", "b").await, [""; 0]);
    assert_eq!(member.keys("c", "c").await, [""; 0]);
}

#[tokio::test]
async fn a_page_says_whether_there_is_more_and_counts_all() {
    let member = Member::start().await;
    for i in 0..5 {
        member.put(&format!("k{i}"), "v").await;
    }
    let of = |limit, count_only| pb::RangeRequest { limit, count_only, ..range("k", "l") };
    for (limit, kvs, more) in [(0, 5, false), (-1, 5, false), (2, 2, true), (5, 5, false), (9, 5, false)] {
        let page = member.range(of(limit, false)).await;
        assert_eq!((page.kvs.len(), page.more, page.count), (kvs, more, 5), "limit {limit}");
    }
    let count = member.range(of(2, true)).await;
    assert_eq!((count.kvs.len(), count.more, count.count), (0, false, 5));
    let bare = member.range(pb::RangeRequest { keys_only: true, ..of(1, false) }).await.kvs.remove(0);
    assert_eq!((bare.key(), bare.value(), bare.mod_revision()), (&b"k0"[..], &b""[..], 2));
}

#[tokio::test]
async fn sorting_and_filters_come_before_the_limit() {
    let member = Member::start().await;
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("a", "0")] {
        member.put(key, value).await;
    }
    let sorted = |order: SortOrder, target: SortTarget, limit| pb::RangeRequest {
        sort_order: order.into(),
        sort_target: target.into(),
        limit,
        ..range("a", "z")
    };
    let table = [
        (SortOrder::Descend, SortTarget::Key, 2, vec!["c", "b"]),
        (SortOrder::Ascend, SortTarget::Value, 2, vec!["a", "b"]),
        (SortOrder::Descend, SortTarget::Value, 1, vec!["c"]),
        (SortOrder::Ascend, SortTarget::Mod, 0, vec!["b", "c", "a"]),
        (SortOrder::Descend, SortTarget::Create, 0, vec!["c", "b", "a"]),
        (SortOrder::Descend, SortTarget::Version, 1, vec!["a"]),
        // Without an order the limit comes first.
        (SortOrder::None, SortTarget::Mod, 1, vec!["b"]),
    ];
    for (order, target, limit, expected) in table {
        let page = member.range(sorted(order, target, limit)).await;
        assert_eq!(keys(&page), expected, "{order:?} {target:?} {limit}");
        assert_eq!(page.count, 3);
    }
    let recent = pb::RangeRequest { min_mod_revision: 4, limit: 1, ..range("a", "z") };
    let page = member.range(recent).await;
    assert_eq!((keys(&page), page.more, page.count), (vec!["a".into()], true, 3));
    let old = pb::RangeRequest { max_create_revision: 3, ..range("a", "z") };
    assert_eq!(keys(&member.range(old).await), ["a", "b"]);
}

#[tokio::test]
async fn the_past_can_be_read_until_it_is_compacted() {
    let member = Member::start().await;
    for value in ["1", "2", "3"] {
        member.put("k", value).await;
    }
    member.kv().delete_range(delete("k", "")).await.unwrap();
    let at = async |revision| member.kv().range(pb::RangeRequest { revision, ..range("k", "") }).await;
    for (revision, value) in [(2, Some("1")), (3, Some("2")), (4, Some("3")), (5, None), (0, None), (-1, None)] {
        let answer = at(revision).await.unwrap().into_inner();
        assert_eq!(answer.kvs.first().map(|kv| text(kv.value())).as_deref(), value, "at {revision}");
        assert_eq!(answer.header.unwrap().revision, 5, "always the newest");
    }
    assert_eq!(refusal(at(6).await), refused(Code::OutOfRange, FUTURE));

    let compact = async |revision, physical| {
        let answer = member.kv().compact(pb::CompactionRequest { revision, physical }).await?;
        Ok(answer.into_inner().header.expect("a header").revision)
    };
    assert_eq!(refusal(compact(6, false).await), refused(Code::OutOfRange, FUTURE));
    assert_eq!(compact(3, true).await.unwrap(), 5);
    assert_eq!(refusal(compact(3, false).await), refused(Code::OutOfRange, COMPACTED));
    assert_eq!(refusal(at(2).await), refused(Code::OutOfRange, COMPACTED));
    assert_eq!(at(3).await.unwrap().into_inner().kvs.len(), 1, "the mark itself can be read");
    assert_eq!(compact(5, true).await.unwrap(), 5);
    assert_eq!(at(5).await.unwrap().into_inner().kvs.len(), 0);
    if !member.is_etcd() {
        for revision in [0, -1] {
            assert_eq!(refusal(compact(revision, false).await), refused(Code::OutOfRange, COMPACTED));
        }
    }
}

#[tokio::test]
async fn a_put_can_keep_the_value_or_the_lease() {
    let member = Member::start().await;
    let lease = member.lease().lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 7 }).await.unwrap().into_inner();
    let leased = pb::PutRequest { lease: lease.id, ..put("k", "1") };
    member.kv().put(leased.clone()).await.unwrap();

    let keep_lease = pb::PutRequest { ignore_lease: true, prev_kv: true, ..put("k", "2") };
    let answer = member.kv().put(keep_lease).await.unwrap().into_inner();
    assert_eq!(answer.prev_kv.map(|kv| text(kv.value())), Some("1".into()));
    let kv = async || member.range(range("k", "")).await.kvs.remove(0);
    assert_eq!((text(kv().await.value()), kv().await.lease()), ("2".into(), 7));

    let keep_value = pb::PutRequest { ignore_value: true, ..put("k", "") };
    member.kv().put(keep_value.clone()).await.unwrap();
    assert_eq!((text(kv().await.value()), kv().await.lease()), ("2".into(), 0), "no lease detaches");

    let refusals = [
        (put("", "v"), Code::InvalidArgument, "etcdserver: key is not provided"),
        (
            pb::PutRequest { value: bytes("v"), ..keep_value.clone() },
            Code::InvalidArgument,
            "etcdserver: value is provided",
        ),
        (pb::PutRequest { ignore_lease: true, ..leased }, Code::InvalidArgument, "etcdserver: lease is provided"),
        (pb::PutRequest { key: bytes("new"), ..keep_value }, Code::InvalidArgument, "etcdserver: key not found"),
        (pb::PutRequest { lease: 8, ..put("k", "") }, Code::NotFound, "etcdserver: requested lease not found"),
    ];
    for (request, code, text) in refusals {
        assert_eq!(refusal(member.kv().put(request).await), refused(code, text));
    }
}

#[tokio::test]
async fn a_deletion_tells_what_it_deleted() {
    let member = Member::start().await;
    for key in ["a", "b", "c"] {
        member.put(key, key).await;
    }
    let both = pb::DeleteRangeRequest { prev_kv: true, ..delete("a", "c") };
    let answer = member.kv().delete_range(both).await.unwrap().into_inner();
    assert_eq!((answer.deleted, answer.header.unwrap().revision), (2, 5));
    assert_eq!(answer.prev_kvs.iter().map(|kv| text(kv.key())).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(member.keys("\0", "\0").await, ["c"]);
    let none = member.kv().delete_range(delete("c", "a")).await.unwrap().into_inner();
    assert_eq!((none.deleted, none.header.unwrap().revision), (0, 5));
    let empty = member.kv().delete_range(delete("", "\0")).await;
    assert_eq!(refusal(empty), refused(Code::InvalidArgument, "etcdserver: key is not provided"));
}

#[tokio::test]
async fn the_transactions_of_kubernetes_work() {
    let member = Member::start().await;
    let when = |revision, success, failure| pb::TxnRequest {
        compare: vec![unchanged_since("k", revision)],
        success: vec![success],
        failure,
    };
    let run = async |txn| {
        let answer = member.kv().txn(txn).await.unwrap().into_inner();
        (answer.succeeded, answer.header.unwrap().revision, answer.responses)
    };
    let create = when(0, put_op("k", "1"), vec![]);
    let (succeeded, revision, responses) = run(create.clone()).await;
    assert_eq!((succeeded, revision, responses.len()), (true, 2, 1));
    let (succeeded, revision, responses) = run(create).await;
    assert_eq!((succeeded, revision, responses.len()), (false, 2, 0), "it exists");

    let (succeeded, revision, _) = run(when(2, put_op("k", "2"), vec![get_op("k")])).await;
    assert_eq!((succeeded, revision), (true, 3));
    let (succeeded, revision, responses) = run(when(2, put_op("k", "3"), vec![get_op("k")])).await;
    assert_eq!((succeeded, revision), (false, 3), "it changed");
    let Some(Response::ResponseRange(current)) = &responses[0].response else { panic!("{responses:?}") };
    assert_eq!(text(current.kvs[0].value()), "2");

    let (succeeded, revision, responses) = run(when(3, delete_op("k", ""), vec![get_op("k")])).await;
    assert_eq!((succeeded, revision), (true, 4));
    let Some(Response::ResponseDeleteRange(deleted)) = &responses[0].response else { panic!("{responses:?}") };
    assert_eq!((deleted.deleted, deleted.header.map(|header| (header.revision, header.member_id))), (1, Some((4, 0))));
}

#[tokio::test]
async fn operations_of_a_transaction_see_each_other_and_share_a_revision() {
    let member = Member::start().await;
    member.put("old", "").await;
    // All compares, nested ones too, are of the state before the transaction.
    let nested = pb::TxnRequest {
        compare: vec![unchanged_since("a", 0)],
        success: vec![put_op("b", "2")],
        failure: vec![put_op("b", "no")],
    };
    let txn = then(vec![put_op("a", "1"), get_op("a"), txn_op(nested), delete_op("old", ""), get_op("old")]);
    let answer = member.kv().txn(txn).await.unwrap().into_inner();
    assert!(answer.succeeded);
    let [_, got, inner, deleted, gone] = &answer.responses[..] else { panic!("{answer:?}") };
    let Some(Response::ResponseRange(got)) = &got.response else { panic!("{got:?}") };
    assert_eq!(text(got.kvs[0].value()), "1");
    let Some(Response::ResponseTxn(inner)) = &inner.response else { panic!("{inner:?}") };
    assert!(inner.succeeded);
    let Some(Response::ResponseDeleteRange(deleted)) = &deleted.response else { panic!("{deleted:?}") };
    assert_eq!(deleted.deleted, 1);
    let Some(Response::ResponseRange(gone)) = &gone.response else { panic!("{gone:?}") };
    assert_eq!(gone.kvs.len(), 0);
    let all = member.range(range("\0", "\0")).await;
    assert_eq!(all.kvs.iter().map(|kv| kv.mod_revision()).collect::<Vec<_>>(), [3, 3]);
}

#[tokio::test]
async fn a_transaction_that_would_fail_half_way_does_nothing() {
    let member = Member::start().await;
    let lost_lease = op(pb::request_op::Request::RequestPut(pb::PutRequest { lease: 99, ..put("b", "") }));
    let txn = then(vec![put_op("a", ""), lost_lease]);
    assert_eq!(refusal(member.kv().txn(txn).await), refused(Code::NotFound, "etcdserver: requested lease not found"));
    let future = op(pb::request_op::Request::RequestRange(pb::RangeRequest { revision: 99, ..range("a", "") }));
    let txn = then(vec![put_op("a", ""), future]);
    assert_eq!(refusal(member.kv().txn(txn).await), refused(Code::OutOfRange, FUTURE));
    assert_eq!((member.get("a").await, member.revision().await), (None, 1));
}

#[tokio::test]
async fn transactions_that_etcd_refuses_are_refused_in_its_words() {
    let member = Member::start().await;
    let many = vec![get_op("k"); 129];
    let refusals = [
        (then(many.clone()), "etcdserver: too many operations in txn request"),
        (then(vec![txn_op(then(vec![get_op("k"); 128]))]), "etcdserver: too many operations in txn request"),
        (then(vec![put_op("k", ""), put_op("k", "")]), "etcdserver: duplicate key given in txn request"),
        (then(vec![put_op("kk", ""), delete_op("k", "l")]), "etcdserver: duplicate key given in txn request"),
        (
            then(vec![put_op("k", ""), txn_op(then(vec![put_op("k", "")]))]),
            "etcdserver: duplicate key given in txn request",
        ),
        (then(vec![pb::RequestOp { request: None }]), "etcdserver: key not found"),
        (then(vec![get_op("")]), "etcdserver: key is not provided"),
        (
            pb::TxnRequest { compare: vec![pb::Compare::default()], ..Default::default() },
            "etcdserver: key is not provided",
        ),
    ];
    for (txn, text) in refusals {
        assert_eq!(refusal(member.kv().txn(txn).await), refused(Code::InvalidArgument, text));
    }
    assert_eq!(member.revision().await, 1);
}

#[tokio::test]
async fn a_key_may_be_deleted_and_written_again_in_one_transaction() {
    let member = Member::start().await;
    for key in ["a", "b", "c"] {
        member.put(key, "old").await;
    }
    // "From a on" is no range that collides with anything, by etcd's rules.
    let txn = then(vec![delete_op("a", "\0"), put_op("b", "new"), get_op("b")]);
    let answer = member.kv().txn(txn).await.unwrap().into_inner();
    let Some(Response::ResponseDeleteRange(deleted)) = &answer.responses[0].response else { panic!("{answer:?}") };
    assert_eq!(deleted.deleted, 3);
    let kv = member.range(range("\0", "\0")).await.kvs.remove(0);
    assert_eq!((text(kv.key()), kv.create_revision(), kv.mod_revision(), kv.version()), ("b".into(), 5, 5, 1));
    // And the other way round, in two nested ones.
    let txn = then(vec![txn_op(then(vec![put_op("x", "")])), txn_op(then(vec![delete_op("x", "")]))]);
    member.kv().txn(txn).await.unwrap();
    assert_eq!(member.keys("\0", "\0").await, ["b"]);
}

#[tokio::test]
async fn a_streamed_range_is_the_range_in_pieces() {
    let member = Member::start().await;
    for i in 0..60 {
        let large = "v".repeat(40_000);
        member.put(&format!("k{i:03}"), &large).await;
    }
    for request in [
        range("k", "l"),
        pb::RangeRequest { limit: 45, ..range("k", "l") },
        pb::RangeRequest { revision: 30, ..range("k", "l") },
        pb::RangeRequest { count_only: true, ..range("k", "l") },
        range("k000", ""),
        range("nothing", "nothinh"),
    ] {
        let expected = member.range(request.clone()).await;
        let mut stream = member.kv().range_stream(request.clone()).await.unwrap().into_inner();
        let mut joined = pb::RangeResponse::default();
        while let Some(message) = stream.message().await.unwrap() {
            assert_eq!(joined.header, None, "only the last message has a header");
            let piece = message.range_response.unwrap();
            let kvs = std::mem::take(&mut joined.kvs).into_iter().chain(piece.kvs.clone()).collect();
            joined = pb::RangeResponse { kvs, ..piece };
        }
        assert!(joined == expected, "{request:?}");
    }
    let refusals = [
        (range("", ""), Code::InvalidArgument, "etcdserver: key is not provided"),
        (pb::RangeRequest { revision: 99, ..range("k", "l") }, Code::OutOfRange, FUTURE),
        (
            pb::RangeRequest { sort_order: 1, sort_target: SortTarget::Mod.into(), ..range("k", "l") },
            Code::Unimplemented,
            "RangeStream does not support custom sort orders",
        ),
        (
            pb::RangeRequest { min_mod_revision: 1, ..range("k", "l") },
            Code::Unimplemented,
            "RangeStream does not support revision filters",
        ),
    ];
    for (request, code, text) in refusals {
        let answer = match member.kv().range_stream(request).await {
            Ok(stream) => stream.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        };
        assert_eq!(refusal(answer), refused(code, text));
    }
}

#[tokio::test]
async fn a_request_beyond_the_limits_is_refused_in_etcds_and_gos_words() {
    let member = Member::start().await;
    let large = "v".repeat(1_572_864);
    let refusal_of = async |value: &str| refusal(member.kv().put(put("k", value)).await);
    assert_eq!(refusal_of(&large).await, refused(Code::InvalidArgument, "etcdserver: request is too large"));
    let fits = &large[..1_572_864 - 64];
    assert_eq!(member.put("k", fits).await, 2);
    assert_eq!(member.get("k").await.as_deref(), Some(fits));
    // The message has a key of 3 bytes, and 4 before the value.
    let larger = "v".repeat(2_097_152 - 7 + 1);
    let text = "grpc: received message larger than max (2097153 vs. 2097152)";
    assert_eq!(refusal_of(&larger).await, refused(Code::ResourceExhausted, text));
    assert_eq!(refusal_of(&larger[1..]).await, refused(Code::InvalidArgument, "etcdserver: request is too large"));
}

#[tokio::test]
async fn a_full_store_refuses_writes_until_it_is_compacted_and_disarmed() {
    let config = Config { quota_backend_bytes: Some(200_000), ..Config::for_test() };
    let member = Member::start_with(config).await;
    let text = "etcdserver: mvcc: database space exceeded";
    let refused = refused(Code::ResourceExhausted, text);
    let value = "v".repeat(10_000);
    let mut puts = 0;
    let refusal_of_put = loop {
        match member.kv().put(put("k", &value)).await {
            Ok(_) => puts += 1,
            Err(status) => break refusal::<()>(Err(status)),
        }
        assert!(puts < 100, "the quota holds");
    };
    assert_eq!(refusal_of_put, refused);
    let status = member.maintenance().status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.db_size_quota, 200_000);
    assert_eq!(status.errors.len(), 1, "{:?}", status.errors);
    assert_eq!(refusal(member.kv().txn(then(vec![put_op("small", "")])).await), refused);
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 0 };
    assert_eq!(refusal(member.lease().lease_grant(grant).await), refused);
    // Reading and deleting go on, and compaction alone makes room.
    assert_eq!(member.get("k").await, Some(value.clone()));
    let deleted = member.kv().txn(then(vec![delete_op("k", "")])).await.unwrap().into_inner();
    let revision = deleted.header.unwrap().revision;
    member.kv().compact(pb::CompactionRequest { revision, physical: true }).await.unwrap();
    assert_eq!(refusal(member.kv().put(put("k", "v")).await), refused, "the alarm is still raised");
    let disarm = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Deactivate.into(),
        member_id: 0,
        alarm: pb::AlarmType::Nospace.into(),
    };
    let raised = member.maintenance().alarm(pb::AlarmRequest::default()).await.unwrap().into_inner().alarms;
    let disarm = pb::AlarmRequest { member_id: raised[0].member_id, ..disarm };
    member.maintenance().alarm(disarm).await.unwrap();
    member.put("k", &value).await;
}
