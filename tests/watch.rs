//! The Watch service over gRPC: what is told, in which order, and when.

mod common;

use common::*;
use kelson::proto::etcdserverpb as pb;
use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;

struct Stream(Duplex<pb::WatchRequest, pb::WatchResponse>);

impl Stream {
    fn open(member: &Member) -> Self {
        let mut client = member.watch();
        Self(Duplex::open(|requests| async move { client.watch(requests).await }))
    }

    async fn ask(&self, request: RequestUnion) {
        self.0.send(pb::WatchRequest { request_union: Some(request) }).await;
    }

    async fn next(&mut self) -> pb::WatchResponse {
        self.0.next().await.expect("the stream goes on").unwrap()
    }

    /// Starts a watch and takes its first answer.
    async fn create(&mut self, request: pb::WatchCreateRequest) -> i64 {
        self.ask(RequestUnion::CreateRequest(request)).await;
        let created = self.next().await;
        assert!(created.created && !created.canceled && created.events.is_empty(), "{created:?}");
        created.watch_id
    }

    /// Events of the next answers until there are this many.
    async fn events(&mut self, count: usize) -> Vec<(String, i64)> {
        let mut events = Vec::new();
        while events.len() < count {
            let answer = self.next().await;
            assert!(!answer.canceled, "{answer:?}");
            events.extend(answer.events.iter().map(event));
        }
        events
    }
}

fn watch(key: &str, range_end: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: bytes(key), range_end: bytes(range_end), ..Default::default() }
}

fn line(text: &str, revision: i64) -> (String, i64) {
    (text.to_owned(), revision)
}

#[tokio::test]
async fn a_watch_tells_the_changes_of_its_range_in_order() {
    let member = Member::start().await;
    let mut stream = Stream::open(&member);
    stream.create(watch("k", "l")).await;
    member.put("k1", "a").await;
    member.put("other", "x").await;
    member.kv().txn(then(vec![put_op("k2", "b"), put_op("k1", "c"), put_op("z", "")])).await.unwrap();
    member.kv().delete_range(delete("k", "l")).await.unwrap();
    let expected =
        [line("PUT k1=a", 2), line("PUT k2=b", 4), line("PUT k1=c", 4), line("DELETE k1", 5), line("DELETE k2", 5)];
    assert_eq!(stream.events(5).await, expected);
}

#[tokio::test]
async fn the_past_is_told_before_the_present_without_gap_or_repetition() {
    let member = Member::start().await;
    for i in 2..=200 {
        member.put("k", &i.to_string()).await;
    }
    let mut stream = Stream::open(&member);
    stream.create(pb::WatchCreateRequest { start_revision: 50, ..watch("k", "") }).await;
    let writing = async {
        for i in 201..=300 {
            member.put("k", &i.to_string()).await;
        }
    };
    let ((), events) = tokio::join!(writing, stream.events(251));
    let expected: Vec<_> = (50..=300).map(|i| line(&format!("PUT k={i}"), i)).collect();
    assert_eq!(events, expected);
}

#[tokio::test]
async fn previous_values_come_with_changes_and_deletions() {
    let member = Member::start().await;
    let mut stream = Stream::open(&member);
    stream.create(pb::WatchCreateRequest { prev_kv: true, ..watch("k", "") }).await;
    member.put("k", "1").await;
    member.put("k", "2").await;
    member.kv().delete_range(delete("k", "")).await.unwrap();
    let mut previous = Vec::new();
    while previous.len() < 3 {
        let answer = stream.next().await;
        previous.extend(answer.events.iter().map(|event| event.prev_kv.as_ref().map(|kv| text(kv.value()))));
    }
    assert_eq!(previous, [None, Some("1".into()), Some("2".into())]);
}

#[tokio::test]
async fn filters_leave_out_puts_or_deletions() {
    let member = Member::start().await;
    let mut stream = Stream::open(&member);
    let only_deletions = pb::WatchCreateRequest { filters: vec![FilterType::Noput.into()], ..watch("k", "") };
    stream.create(only_deletions).await;
    member.put("k", "1").await;
    member.kv().delete_range(delete("k", "")).await.unwrap();
    assert_eq!(stream.events(1).await, [line("DELETE k", 3)]);
}

#[tokio::test]
async fn a_watch_that_starts_in_the_compacted_past_is_canceled() {
    let member = Member::start().await;
    for _ in 0..5 {
        member.put("k", "").await;
    }
    member.kv().compact(pb::CompactionRequest { revision: 5, physical: true }).await.unwrap();
    let mut stream = Stream::open(&member);
    let id = stream.create(pb::WatchCreateRequest { start_revision: 3, ..watch("k", "") }).await;
    let canceled = stream.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled, canceled.compact_revision), (id, true, 5));
    let id = stream.create(pb::WatchCreateRequest { start_revision: 5, ..watch("k", "") }).await;
    let told = stream.next().await;
    assert_eq!((told.watch_id, told.events.len()), (id, 2), "the mark itself is told");
}

#[tokio::test]
async fn watches_of_a_stream_are_told_apart_and_canceled_alone() {
    let member = Member::start().await;
    let mut stream = Stream::open(&member);
    let first = stream.create(watch("a", "")).await;
    let second = stream.create(watch("a", "")).await;
    assert_ne!(first, second);
    stream.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: first })).await;
    let canceled = stream.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled), (first, true));
    member.put("a", "1").await;
    let told = stream.next().await;
    assert_eq!((told.watch_id, told.events.len()), (second, 1));
}

#[tokio::test]
async fn progress_is_told_when_everything_before_it_was() {
    let member = Member::start().await;
    let mut stream = Stream::open(&member);
    stream.create(watch("k", "l")).await;
    for i in 0..20 {
        member.put(&format!("k{i}"), "").await;
    }
    stream.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let mut last_event = 0;
    let progress = loop {
        let answer = stream.next().await;
        match answer.events.last() {
            Some(told) => last_event = event(told).1,
            None => break answer,
        }
    };
    assert_eq!(progress.watch_id, -1);
    let revision = progress.header.unwrap().revision;
    assert!(revision >= last_event && last_event <= 21, "{revision} {last_event}");
    if !member.is_etcd() {
        assert_eq!((revision, last_event), (21, 21));
    }
}

#[tokio::test]
async fn a_lease_that_ends_is_told_as_deletions_of_one_revision() {
    let member = Member::start().await;
    let mut stream = Stream::open(&member);
    stream.create(watch("k", "l")).await;
    member.lease().lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 7 }).await.unwrap();
    for key in ["k2", "k1"] {
        member.kv().put(pb::PutRequest { lease: 7, ..put(key, "v") }).await.unwrap();
    }
    member.lease().lease_revoke(pb::LeaseRevokeRequest { id: 7 }).await.unwrap();
    let expected = [line("PUT k2=v", 2), line("PUT k1=v", 3), line("DELETE k1", 4), line("DELETE k2", 4)];
    assert_eq!(stream.events(4).await, expected);
}
