//! Clusters under faults, over gRPC: what several members promise while some of them are dead, cut off or asleep.
//!
//! Nothing here is decided by how long something takes; a test that needs time to pass turns a member's clock.

#[path = "cluster_faults/chaos.rs"]
mod chaos;
mod common;
#[path = "cluster_faults/members.rs"]
mod members;
#[path = "support/random.rs"]
mod random;
#[path = "cluster_faults/snapshots.rs"]
mod snapshots;

use std::time::Duration;

use common::*;
use kelson::proto::etcdserverpb as pb;
use kelson::testing::Cluster;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

const TIMED_OUT: &str = "etcdserver: request timed out";

fn kv(cluster: &Cluster, member: usize) -> KvClient<Channel> {
    KvClient::new(cluster.member(member).channel())
}

fn lease(cluster: &Cluster, member: usize) -> LeaseClient<Channel> {
    LeaseClient::new(cluster.member(member).channel())
}

fn membership(cluster: &Cluster, member: usize) -> ClusterClient<Channel> {
    ClusterClient::new(cluster.member(member).channel())
}

fn maintenance(cluster: &Cluster, member: usize) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(cluster.member(member).channel())
}

/// Three members of which nobody stands for election only because the machine is busy.
async fn steady() -> Cluster {
    Cluster::builder().timing(50, 1000).start().await.expect("a cluster starts")
}

/// Writes by one member; the revision after it.
async fn write(cluster: &Cluster, member: usize, key: &str, value: &str) -> i64 {
    let answer = kv(cluster, member).put(put(key, value)).await.expect("a put").into_inner();
    answer.header.expect("a header").revision
}

/// Reads by one member.
async fn read(cluster: &Cluster, member: usize, key: &str, serializable: bool) -> Result<Option<String>, Status> {
    let request = pb::RangeRequest { serializable, ..range(key, "") };
    let answer = kv(cluster, member).range(request).await?.into_inner();
    Ok(answer.kvs.first().map(|kv| text(kv.value())))
}

/// What all but `leader` are.
fn followers(cluster: &Cluster, leader: usize) -> Vec<usize> {
    (0..cluster.size()).filter(|&member| member != leader).collect()
}

/// A watch of everything from the first revision on, by one member.
struct Watching(Duplex<pb::WatchRequest, pb::WatchResponse>);

impl Watching {
    async fn begin(cluster: &Cluster, member: usize) -> Self {
        let mut client = WatchClient::new(cluster.member(member).channel());
        let stream = Duplex::open(|requests| async move { client.watch(requests).await });
        let create = pb::WatchCreateRequest {
            key: bytes("\0"),
            range_end: bytes("\0"),
            start_revision: 1,
            ..pb::WatchCreateRequest::default()
        };
        let create = pb::watch_request::RequestUnion::CreateRequest(create);
        stream.send(pb::WatchRequest { request_union: Some(create) }).await;
        let mut watching = Self(stream);
        let created = watching.0.next().await.expect("an answer").expect("no error");
        assert!(created.created && !created.canceled, "{created:?}");
        watching
    }

    /// The events up to `revision`: each revision once, in order.
    async fn up_to(&mut self, revision: i64) -> Vec<(String, i64)> {
        let mut events: Vec<(String, i64)> = Vec::new();
        while events.last().is_none_or(|(_, last)| *last < revision) {
            let answer = self.0.next().await.expect("the stream goes on").expect("no error");
            assert!(!answer.canceled, "{answer:?}");
            events.extend(answer.events.iter().map(event));
        }
        events
    }
}

#[tokio::test]
async fn a_write_by_any_member_is_read_by_every_other_at_once() {
    let cluster = steady().await;
    for by in 0..3 {
        for round in 0..5 {
            let value = format!("{by}-{round}");
            write(&cluster, by, "k", &value).await;
            for at in 0..3 {
                assert_eq!(read(&cluster, at, "k", false).await.unwrap(), Some(value.clone()), "{by} to {at}");
            }
        }
    }
    let state = cluster.await_same_state().await;
    assert_eq!(state.revision, 16);
    for at in 0..3 {
        assert_eq!(read(&cluster, at, "k", true).await.unwrap().as_deref(), Some("2-4"), "serializable at {at}");
        let hash = maintenance(&cluster, at).hash_kv(pb::HashKvRequest { revision: 0 }).await.unwrap().into_inner();
        assert_eq!((hash.hash, hash.hash_revision), (state.hash, state.revision));
    }
}

#[tokio::test]
async fn binary_values_and_transactions_are_the_same_on_every_member() {
    let cluster = steady().await;
    let binary: bytes::Bytes = (0..=255).collect::<Vec<u8>>().into();
    let request = pb::PutRequest { key: binary.clone(), value: binary.clone(), ..pb::PutRequest::default() };
    kv(&cluster, 0).put(request).await.unwrap();
    let revision = write(&cluster, 1, "k", "before").await;
    for by in 0..3 {
        let txn = pb::TxnRequest {
            compare: vec![unchanged_since("k", revision)],
            success: vec![put_op("k", "after"), delete_op("gone", ""), put_op("more", "x")],
            failure: vec![get_op("k")],
        };
        let answer = kv(&cluster, by).txn(txn).await.unwrap().into_inner();
        assert_eq!(answer.succeeded, by == 0, "only the first finds the key unchanged");
    }
    cluster.await_same_state().await;
    let all = pb::RangeRequest { serializable: true, ..range("\0", "\0") };
    let first = kv(&cluster, 0).range(all.clone()).await.unwrap().into_inner();
    assert_eq!((first.kvs[0].key(), first.kvs[0].value()), (&binary[..], &binary[..]));
    for at in 1..3 {
        assert_eq!(kv(&cluster, at).range(all.clone()).await.unwrap().into_inner().kvs, first.kvs);
    }
}

#[tokio::test]
async fn watches_by_followers_miss_and_repeat_nothing_when_the_leader_dies() {
    let mut cluster = steady().await;
    let leader = cluster.leader().await;
    let others = followers(&cluster, leader);
    let mut watching = Vec::new();
    for &by in &others {
        watching.push(Watching::begin(&cluster, by).await);
    }
    let mut expected = Vec::new();
    for n in 0..30 {
        if n == 10 {
            cluster.kill(leader).await;
            // A write that was on its way would be unknown, and this test knows them all.
            cluster.leader().await;
        }
        let revision = write(&cluster, others[n % 2], "k", &n.to_string()).await;
        expected.push((format!("PUT k={n}"), revision));
        if n == 20 {
            cluster.restart(leader).await.unwrap();
            watching.push(Watching::begin(&cluster, leader).await);
        }
    }
    let last = expected.last().unwrap().1;
    for mut watching in watching {
        assert_eq!(watching.up_to(last).await, expected);
    }
}

async fn grant(cluster: &Cluster, member: usize, ttl: i64) -> i64 {
    let answer = lease(cluster, member).lease_grant(pb::LeaseGrantRequest { ttl, id: 0 }).await.unwrap().into_inner();
    let leased = pb::PutRequest { lease: answer.id, ..put("leased", "v") };
    kv(cluster, member).put(leased).await.unwrap();
    answer.id
}

async fn renew(cluster: &Cluster, member: usize, id: i64) -> i64 {
    let mut client = lease(cluster, member);
    let mut stream = Duplex::open(|requests| async move { client.lease_keep_alive(requests).await });
    stream.send(pb::LeaseKeepAliveRequest { id }).await;
    stream.next().await.expect("an answer").expect("no error").ttl
}

async fn remaining(cluster: &Cluster, member: usize, id: i64) -> i64 {
    let request = pb::LeaseTimeToLiveRequest { id, keys: false };
    lease(cluster, member).lease_time_to_live(request).await.unwrap().into_inner().ttl
}

#[tokio::test]
async fn a_leader_that_wakes_up_ends_no_lease_that_its_successor_has_renewed() {
    let mut cluster = steady().await;
    let asleep = cluster.leader().await;
    let others = followers(&cluster, asleep);
    let id = grant(&cluster, others[0], 60).await;
    assert_eq!(renew(&cluster, others[1], id).await, 60);
    cluster.pause(asleep).await;
    // By its own clock the lease has ended while it slept.
    cluster.skew(asleep, Duration::from_secs(1000));
    let leader = cluster.leader().await;
    for &by in &others {
        assert_eq!(renew(&cluster, by, id).await, 60);
    }
    cluster.resume(asleep);
    until("the old leader follows", || async {
        let leadership = cluster.member(asleep).server().node().leadership();
        leadership.leader == Some(cluster.member(leader).id())
    })
    .await;
    // What it may have wanted to do is behind this in its log, or nowhere.
    write(&cluster, asleep, "k", "v").await;
    cluster.await_same_state().await;
    for at in 0..3 {
        assert!(remaining(&cluster, at, id).await > 0, "at {at}");
        assert_eq!(read(&cluster, at, "leased", false).await.unwrap().as_deref(), Some("v"));
    }
    assert_eq!(renew(&cluster, asleep, id).await, 60);
}

/// Makes a leader hand the leadership over and then not hear that this has happened: for an election timeout, which
/// should be long, it believes to lead. Gives the new leader.
async fn hand_over_unheard(cluster: &Cluster, old: usize) -> usize {
    let others = followers(cluster, old);
    for &other in &others {
        cluster.cut(other, old);
    }
    let target_id = cluster.member(others[0]).id();
    let mut client = maintenance(cluster, old);
    let asked = tokio::spawn(async move { client.move_leader(pb::MoveLeaderRequest { target_id }).await });
    let new = cluster.leader_among(&others).await;
    // Whether it is answered is not what this is about.
    asked.abort();
    new
}

async fn until_noticed(cluster: &Cluster, old: usize) {
    let node = cluster.member(old).server().node();
    until("it has noticed", || async { node.leadership().leader != Some(cluster.member(old).id()) }).await;
}

#[tokio::test]
async fn a_leader_that_was_deposed_unheard_ends_no_lease_that_its_successor_has_renewed() {
    let cluster = steady().await;
    let old = cluster.leader().await;
    let id = grant(&cluster, old, 60).await;
    let new = hand_over_unheard(&cluster, old).await;
    assert_eq!(renew(&cluster, new, id).await, 60);
    cluster.skew(old, Duration::from_secs(1000));
    until_noticed(&cluster, old).await;
    cluster.heal();
    write(&cluster, old, "k", "v").await;
    cluster.await_same_state().await;
    for at in 0..3 {
        assert!(remaining(&cluster, at, id).await > 0, "at {at}");
    }
}

/// By its own clock the lease had ended, and it said so, while its revocation waited for a quorum that it had lost; the
/// successor gave the lease its whole time again, and a client that had been told of its end met it alive.
#[tokio::test]
async fn a_leader_that_was_deposed_unheard_calls_no_lease_gone_that_its_successor_has_renewed() {
    let cluster = Cluster::builder().timing(20, 1000).start().await.unwrap();
    let old = cluster.leader().await;
    let id = grant(&cluster, old, 60).await;
    let new = hand_over_unheard(&cluster, old).await;
    assert_eq!(renew(&cluster, new, id).await, 60);
    cluster.skew(old, Duration::from_secs(1000));
    let mut client = lease(&cluster, old);
    let asked = tokio::spawn(async move {
        let mut stream = Duplex::open(|requests| async move { client.lease_keep_alive(requests).await });
        stream.send(pb::LeaseKeepAliveRequest { id }).await;
        stream.next().await.expect("an answer")
    });
    until_noticed(&cluster, old).await;
    cluster.heal();
    // It may find nobody to ask; but what it says must be so.
    if let Ok(answer) = asked.await.unwrap() {
        assert_eq!(answer.ttl, 60);
    }
    assert_eq!(renew(&cluster, old, id).await, 60);
}

#[tokio::test]
async fn a_leader_that_was_deposed_unheard_answers_no_read() {
    let cluster = steady().await;
    let old = cluster.leader().await;
    write(&cluster, old, "k", "old").await;
    let new = hand_over_unheard(&cluster, old).await;
    write(&cluster, new, "k", "new").await;
    let asked: Vec<_> = (0..5)
        .map(|n| {
            let mut client = kv(&cluster, old);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(n * 20)).await;
                client.range(range("k", "")).await
            })
        })
        .collect();
    until_noticed(&cluster, old).await;
    cluster.heal();
    for answer in asked {
        if let Ok(answer) = answer.await.unwrap() {
            assert_eq!(text(answer.into_inner().kvs[0].value()), "new");
        }
    }
}

#[tokio::test]
async fn a_new_leader_gives_a_lease_its_whole_time_again_and_then_ends_it() {
    let mut cluster = steady().await;
    let old = cluster.leader().await;
    let id = grant(&cluster, old, 1000).await;
    cluster.skew(old, Duration::from_secs(900));
    assert!(remaining(&cluster, old, id).await < 200);
    cluster.kill(old).await;
    let new = cluster.leader().await;
    let by = followers(&cluster, old).into_iter().find(|&member| member != new).unwrap();
    until("the new leader has the lease", || async { remaining(&cluster, by, id).await > 200 }).await;
    let term = cluster.member(new).server().node().leadership().term;
    cluster.skew(new, Duration::from_secs(2000));
    until("the lease ends", || async {
        // On a busy machine another may have been elected, which begins the lease's time anew.
        let leader = cluster.leader().await;
        let now = cluster.member(leader).server().node().leadership();
        if now.term != term {
            cluster.skew(leader, Duration::from_secs(2000));
        }
        read(&cluster, by, "leased", false).await.unwrap().is_none()
    })
    .await;
    assert_eq!(remaining(&cluster, by, id).await, -1);
    assert_eq!(renew(&cluster, by, id).await, 0);
    cluster.restart(old).await.unwrap();
    assert_eq!(read(&cluster, old, "leased", false).await.unwrap(), None);
    cluster.await_same_state().await;
}

#[tokio::test]
async fn a_minority_refuses_what_it_cannot_know_and_serves_what_it_has() {
    let cluster = steady().await;
    let old = cluster.leader().await;
    let others = followers(&cluster, old);
    write(&cluster, old, "k", "old").await;
    cluster.partition(&[&[old], &others]);
    // They wait for a quorum until their deadline; meanwhile the others go on.
    let (mut reads, mut writes) = (kv(&cluster, old), kv(&cluster, old));
    let (mut lists, mut adds) = (membership(&cluster, old), membership(&cluster, old));
    let refused_all = async {
        tokio::join!(
            reads.range(range("k", "")),
            writes.put(put("lost", "perhaps")),
            lists.member_list(pb::MemberListRequest { linearizable: true }),
            adds.member_add(pb::MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".into()], is_learner: false }),
        )
    };
    let served = async {
        let new = cluster.leader_among(&others).await;
        write(&cluster, new, "k", "new").await;
        for &at in &others {
            assert_eq!(read(&cluster, at, "k", false).await.unwrap().as_deref(), Some("new"));
        }
        assert_eq!(read(&cluster, old, "k", true).await.unwrap().as_deref(), Some("old"));
        let list = membership(&cluster, old).member_list(pb::MemberListRequest { linearizable: false }).await;
        assert_eq!(list.unwrap().into_inner().members.len(), 3);
    };
    let ((reads, writes, lists, adds), ()) = tokio::join!(refused_all, served);
    let timed_out = refused(Code::Unavailable, TIMED_OUT);
    // The first read may have got through before the new leader wrote.
    if let Ok(answer) = &reads {
        panic!("cut off, the old leader answered a linearizable read: {answer:?}");
    }
    assert_eq!(refusal(reads), timed_out);
    assert_eq!(refusal(writes), timed_out);
    assert_eq!(refusal(lists), timed_out);
    assert_eq!(refusal(adds).0, Code::Unavailable);
    cluster.heal();
    assert_eq!(read(&cluster, old, "k", false).await.unwrap().as_deref(), Some("new"));
    // The refused write is unknown: there or not, but the same everywhere.
    cluster.await_same_state().await;
    let lost = read(&cluster, 0, "lost", false).await.unwrap();
    for at in 1..3 {
        assert_eq!(read(&cluster, at, "lost", false).await.unwrap(), lost);
    }
}

#[tokio::test]
async fn no_linearizable_read_is_ever_older_than_an_acknowledged_write() {
    let mut cluster = steady().await;
    for (round, asleep, cut_off) in [(0, true, true), (1, false, true), (2, true, false)] {
        let old = cluster.leader().await;
        let others = followers(&cluster, old);
        write(&cluster, old, "k", &format!("{round}-old")).await;
        let mut client = kv(&cluster, old);
        client.range(range("k", "")).await.expect("a connection");
        if cut_off {
            cluster.partition(&[&[old], &others]);
        }
        if asleep {
            // When it wakes up it believes to lead, and the reads are the first that it hears.
            cluster.pause(old).await;
        }
        let new = cluster.leader_among(&others).await;
        let newest = format!("{round}-new");
        write(&cluster, new, "k", &newest).await;
        // From now on the old value is history, to the old leader as well, whatever it knows.
        let asked: Vec<_> = (0..20)
            .map(|n| {
                let mut client = client.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(n * 10)).await;
                    client.range(range("k", "")).await
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        cluster.resume(old);
        if cut_off {
            let node = cluster.member(old).server().node();
            until("it has noticed", || async { node.leadership().leader.is_none() }).await;
            cluster.heal();
        }
        for answer in asked {
            if let Ok(answer) = answer.await.unwrap() {
                assert_eq!(text(answer.into_inner().kvs[0].value()), newest);
            }
        }
    }
    cluster.await_same_state().await;
}

#[tokio::test]
async fn a_member_that_hears_nothing_disturbs_nobody() {
    let cluster = steady().await;
    let leader = cluster.leader().await;
    let [deaf, other] = followers(&cluster, leader)[..] else { panic!("three members") };
    let term = cluster.member(leader).server().node().leadership().term;
    cluster.cut(leader, deaf);
    cluster.cut(other, deaf);
    until("it misses the leader", || async { cluster.member(deaf).server().node().leadership().leader.is_none() })
        .await;
    for n in 0..10 {
        write(&cluster, other, "k", &n.to_string()).await;
    }
    cluster.heal();
    cluster.await_same_state().await;
    assert_eq!(read(&cluster, deaf, "k", false).await.unwrap().as_deref(), Some("9"));
    assert_eq!(cluster.member(leader).server().node().leadership().term, term, "nobody was elected");
}

/// Followers may have written an entry that the leader's own disk has lost when it was killed. Back in the same term it
/// would give another entry the same place, and the members would differ for ever without seeing it.
#[tokio::test]
async fn a_leader_that_was_killed_leads_again_only_in_a_new_term() {
    let mut cluster = Cluster::start(3).await.unwrap();
    let term = async |cluster: &Cluster, member: usize| {
        let answer = kv(cluster, member).put(put("k", "v")).await.expect("a put").into_inner();
        answer.header.expect("a header").raft_term
    };
    let leader = cluster.leader().await;
    let before = term(&cluster, leader).await;
    cluster.kill(leader).await;
    cluster.restart(leader).await.unwrap();
    let after = term(&cluster, leader).await;
    assert!(after > before, "{after} is not behind {before}");
    cluster.shutdown().await;
}
