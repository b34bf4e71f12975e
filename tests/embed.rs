//! Members inside a program: started, stopped and started again on their data, several at a time.

mod common;

use std::path::Path;

use common::*;
use kelson::config::ClusterState;
use kelson::proto::etcdserverpb as pb;
use kelson::{Config, Server};

fn on_disk(data_dir: &Path) -> Config {
    Config { data_dir: Some(data_dir.to_owned()), ..Config::for_test() }
}

#[tokio::test]
async fn members_in_one_process_never_meet() {
    let (one, other) = tokio::join!(Member::start_with(Config::for_test()), Member::start_with(Config::for_test()));
    one.put("k", "one").await;
    assert_eq!(other.get("k").await, None);
    assert_ne!(one.endpoint, other.endpoint);
    one.shutdown().await;
    other.put("k", "other").await;
    assert_eq!(other.get("k").await.as_deref(), Some("other"));
}

#[tokio::test]
async fn a_restarted_member_has_everything_that_was_answered() {
    for graceful in [true, false] {
        let data = tempfile::tempdir().unwrap();
        let member = Member::start_with(on_disk(data.path())).await;
        member.lease().lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 7 }).await.unwrap();
        for i in 0..50 {
            member.put(&format!("k{i:02}"), "1").await;
        }
        member.kv().put(pb::PutRequest { lease: 7, ..put("leased", "v") }).await.unwrap();
        member.kv().delete_range(delete("k10", "k20")).await.unwrap();
        member.kv().compact(pb::CompactionRequest { revision: 30, physical: false }).await.unwrap();
        let before = member.range(range("\0", "\0")).await;
        let id = before.header.unwrap().member_id;
        if graceful {
            member.shutdown().await
        } else {
            member.kill()
        }

        let member = Member::start_with(on_disk(data.path())).await;
        let after = member.range(range("\0", "\0")).await;
        assert_eq!(after.kvs, before.kvs, "graceful: {graceful}");
        let header = after.header.unwrap();
        assert_eq!((header.revision, header.member_id), (before.header.unwrap().revision, id));
        assert!(header.raft_term >= before.header.unwrap().raft_term);
        let old = member.kv().range(pb::RangeRequest { revision: 29, ..range("k00", "") }).await;
        assert_eq!(refusal(old).1, "etcdserver: mvcc: required revision has been compacted");
        let past = member.range(pb::RangeRequest { revision: 52, ..range("k10", "k20") }).await;
        assert_eq!(past.count, 10);
        let lease = member.lease().lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 7, keys: true }).await.unwrap();
        assert_eq!((lease.get_ref().granted_ttl, lease.get_ref().keys.len()), (600, 1));
        assert_eq!(member.put("k", "v").await, header.revision + 1);
        member.shutdown().await;
    }
}

#[tokio::test]
async fn a_member_without_data_joins_nobody_and_one_with_data_stays_who_it_is() {
    let data = tempfile::tempdir().unwrap();
    let existing = || Config { initial_cluster_state: ClusterState::Existing, ..on_disk(data.path()) };
    let refusal = Server::start(existing()).await.err().expect("there is nothing to join").to_string();
    assert!(refusal.contains("--initial-cluster-state=existing") && refusal.contains("snapshot restore"), "{refusal}");

    let member = Member::start_with(on_disk(data.path())).await;
    member.put("k", "v").await;
    let id = async |member: &Member| member.range(range("k", "")).await.header.unwrap().member_id;
    let before = id(&member).await;
    member.shutdown().await;
    for config in [existing(), Config { force_new_cluster: true, ..on_disk(data.path()) }] {
        let member = Member::start_with(config).await;
        assert_eq!((id(&member).await, member.get("k").await.as_deref()), (before, Some("v")));
        member.shutdown().await;
    }
}
