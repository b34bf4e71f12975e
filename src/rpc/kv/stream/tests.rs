//! A stream of pieces against the one answer of a range at the same revision.

use tokio_stream::StreamExt;

use super::*;
use crate::state::Command;

/// A store with `count` keys `key-0000`, …, each of `value_bytes`.
fn store(count: usize, value_bytes: usize) -> Arc<Store> {
    let store = Store::new();
    for i in 0..count {
        put(&store, &format!("key-{i:04}"), &"v".repeat(value_bytes));
    }
    Arc::new(store)
}

fn put(store: &Store, key: &str, value: &str) {
    let put = pb::PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: value.as_bytes().to_vec().into(),
        ..Default::default()
    };
    store.apply(&Command::Put(put)).0.response.unwrap();
}

fn compact(store: &Store, revision: i64) {
    store.apply(&Command::Compact(pb::CompactionRequest { revision, physical: false })).0.response.unwrap();
}

fn ask() -> pb::RangeRequest {
    pb::RangeRequest { key: "key".into(), range_end: "kez".into(), ..Default::default() }
}

fn stream(store: &Arc<Store>, request: pb::RangeRequest) -> Result<RangeStream, state::Error> {
    let view = store.view();
    let header = pb::ResponseHeader { revision: view.revision(), ..Default::default() };
    RangeStream::new(Arc::clone(store), &view, header, request)
}

async fn collect(stream: RangeStream) -> Vec<pb::RangeResponse> {
    stream.map(|message| message.unwrap().range_response.unwrap()).collect().await
}

/// What a client makes of the messages, once their form is checked.
fn join(messages: Vec<pb::RangeResponse>) -> pb::RangeResponse {
    let (last, before) = messages.split_last().expect("at least one message");
    for message in before {
        assert_eq!((message.header, message.more, message.count), (None, false, 0), "only the last has these");
        assert!(!message.kvs.is_empty());
    }
    let kvs = messages.iter().flat_map(|message| message.kvs.clone()).collect();
    pb::RangeResponse { kvs, ..last.clone() }
}

#[tokio::test]
async fn joined_messages_are_what_range_answers() {
    let store = store(3000, 500);
    let header = Some(pb::ResponseHeader { revision: 3001, ..Default::default() });
    let requests = [
        ask(),
        pb::RangeRequest { limit: 2500, ..ask() },
        pb::RangeRequest { limit: 3000, ..ask() },
        pb::RangeRequest { limit: -1, ..ask() },
        pb::RangeRequest { revision: 2000, ..ask() },
        pb::RangeRequest { revision: 2000, limit: 1500, ..ask() },
        pb::RangeRequest { keys_only: true, ..ask() },
        pb::RangeRequest { count_only: true, limit: 3, ..ask() },
        pb::RangeRequest { range_end: "\0".into(), ..ask() },
        pb::RangeRequest { range_end: Bytes::new(), ..ask() },
        pb::RangeRequest { key: "key-0007".into(), range_end: Bytes::new(), ..ask() },
        pb::RangeRequest { key: "x".into(), range_end: "y".into(), ..ask() },
        pb::RangeRequest { sort_order: SortOrder::Ascend.into(), ..ask() },
        pb::RangeRequest { sort_order: SortOrder::Descend.into(), ..ask() },
        pb::RangeRequest { sort_order: SortOrder::Descend.into(), limit: 1501, revision: 2000, ..ask() },
        pb::RangeRequest { sort_order: SortOrder::Descend.into(), range_end: "\0".into(), ..ask() },
        pb::RangeRequest { sort_target: SortTarget::Mod.into(), limit: 20, ..ask() },
    ];
    for request in requests {
        let expected = pb::RangeResponse { header, ..store.view().range(&request).unwrap() };
        let messages = collect(stream(&store, request.clone()).unwrap()).await;
        assert!(join(messages) == expected, "{request:?}");
    }
}

#[tokio::test]
async fn messages_are_cut_by_bytes() {
    let few_large = collect(stream(&store(10, 400_000), ask()).unwrap()).await;
    assert!(few_large.len() >= 5, "{}", few_large.len());
    let many_small = collect(stream(&store(3000, 500), ask()).unwrap()).await;
    assert_eq!(many_small.len(), 3);
    let back = pb::RangeRequest { sort_order: SortOrder::Descend.into(), ..ask() };
    let many_small_back = collect(stream(&store(3000, 500), back).unwrap()).await;
    assert!(many_small_back.len() <= 8, "{}", many_small_back.len());
}

#[tokio::test]
async fn a_stream_stays_at_its_revision_while_the_store_goes_on() {
    let store = store(3000, 500);
    let mut stream = stream(&store, ask()).unwrap();
    let first = stream.next().await.unwrap().unwrap().range_response.unwrap();
    put(&store, "key-2999", "changed");
    put(&store, "key-2999-new", "added");
    let mut messages = collect(stream).await;
    messages.insert(0, first);
    let joined = join(messages);
    assert_eq!((joined.kvs.len(), joined.count), (3000, 3000));
    assert_eq!(joined.kvs.last().unwrap().value().len(), 500);
    assert_eq!(joined.header.unwrap().revision, 3001, "of when the stream began");
}

#[tokio::test]
async fn a_compaction_that_overtakes_a_stream_ends_it() {
    let store = store(3000, 500);
    let mut stream = stream(&store, ask()).unwrap();
    stream.next().await.unwrap().unwrap();
    put(&store, "a", "b");
    compact(&store, 3002);
    let status = stream.next().await.unwrap().unwrap_err();
    assert_eq!(status.message(), "etcdserver: mvcc: required revision has been compacted");
    assert!(stream.next().await.is_none());
}

#[test]
fn a_revision_that_cannot_be_read_is_refused_at_once() {
    let store = store(10, 1);
    compact(&store, 5);
    let at = |revision| stream(&store, pb::RangeRequest { revision, ..ask() }).err();
    assert_eq!(at(4), Some(state::Error::Compacted));
    assert_eq!(at(5), None);
    assert_eq!(at(12), Some(state::Error::FutureRevision));
}
