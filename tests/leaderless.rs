//! `hasleader: true`, clientv3's `WithRequireLeader`, on a member that lost its quorum.

mod common;

use common::members::*;
use common::*;
use kelson::Server;
use kelson::proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::watch_client::WatchClient;
use tonic::{Code, Request};

fn asking<T>(message: T, has_leader: bool) -> Request<T> {
    let mut request = Request::new(message);
    if has_leader {
        request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    }
    request
}

fn watch_everything() -> pb::WatchRequest {
    let create = pb::WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
}

/// A watch that is there.
async fn watch(server: &Server, has_leader: bool) -> Duplex<pb::WatchRequest, pb::WatchResponse> {
    let mut client = WatchClient::new(channel(server).await);
    let mut stream = Duplex::open(|requests| async move { client.watch(asking(requests, has_leader)).await });
    stream.send(watch_everything()).await;
    assert!(stream.next().await.unwrap().unwrap().created);
    stream
}

/// A lease being kept alive.
async fn keep_alive(
    server: &Server,
    id: i64,
    has_leader: bool,
) -> Duplex<pb::LeaseKeepAliveRequest, pb::LeaseKeepAliveResponse> {
    let mut client = LeaseClient::new(channel(server).await);
    let mut stream =
        Duplex::open(|requests| async move { client.lease_keep_alive(asking(requests, has_leader)).await });
    stream.send(pb::LeaseKeepAliveRequest { id }).await;
    assert_eq!(stream.next().await.unwrap().unwrap().ttl, 600);
    stream
}

#[tokio::test]
async fn whoever_needs_a_leader_is_refused_and_ended_without_one() {
    let mut servers = start(configs(2)).await;
    let (server, other) = (servers.remove(0), servers.remove(0));
    let grant = pb::LeaseGrantRequest { ttl: 600, id: 7 };
    LeaseClient::new(channel(&server).await).lease_grant(asking(grant, true)).await.unwrap();
    let (mut watching, mut unworried) = (watch(&server, true).await, watch(&server, false).await);
    let (mut kept, hopeful) = (keep_alive(&server, 7, true).await, keep_alive(&server, 7, false).await);

    other.kill();
    until("no leader", async || server.node().status().leader.is_none()).await;
    let no_leader = refused(Code::Unavailable, "etcdserver: no leader");
    let mut kv = KvClient::new(channel(&server).await);
    let read = pb::RangeRequest { serializable: true, ..range("k", "") };
    assert_eq!(refusal(kv.range(asking(read.clone(), true)).await), no_leader);
    kv.range(asking(read, false)).await.unwrap();
    let mut watches = WatchClient::new(channel(&server).await);
    let refused_watch = watches.watch(asking(futures_util::stream::iter([watch_everything()]), true)).await;
    assert_eq!(refusal(refused_watch.map(drop)), no_leader);

    // Whatever was open is ended later, and says why.
    assert_eq!(refusal(watching.next().await.unwrap()), no_leader);
    assert_eq!(refusal(kept.next().await.unwrap()), no_leader);
    // Those who did not ask for a leader are still there.
    unworried.send(watch_everything()).await;
    assert!(unworried.next().await.unwrap().unwrap().created);
    drop((unworried, hopeful));
    server.shutdown().await;
}

#[tokio::test]
async fn with_a_leader_the_metadata_changes_nothing() {
    let member = Member::start().await;
    let mut kv = member.kv();
    let revision = kv.put(asking(put("k", "v"), true)).await.unwrap().into_inner().header.unwrap().revision;
    let mut client = member.watch();
    let mut stream = Duplex::open(|requests| async move { client.watch(asking(requests, true)).await });
    stream.send(watch_everything()).await;
    assert!(stream.next().await.unwrap().unwrap().created);
    assert_eq!(member.put("k", "w").await, revision + 1);
    assert_eq!(stream.next().await.unwrap().unwrap().events.len(), 1);
}
