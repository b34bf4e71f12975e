//! Members whose data differs: who notices, what is then refused, and who must not start.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::*;
use kelson::config::{FeatureGates, Url};
use kelson::proto::etcdserverpb as pb;
use kelson::state::Command;
use kelson::{Config, Server};
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const CHECK_INTERVAL: Duration = Duration::from_millis(100);

fn gates(text: &str) -> FeatureGates {
    let mut gates = FeatureGates::default();
    gates.set(text).unwrap();
    gates
}

/// The settings of `count` members in memory, told apart by their peers' ports.
fn configs(count: usize) -> Vec<Config> {
    let listeners: Vec<_> = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let url =
        |listener: &std::net::TcpListener| Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let members: BTreeMap<String, Vec<Url>> =
        listeners.iter().enumerate().map(|(n, listener)| (format!("m{n}"), vec![url(listener)])).collect();
    let config = |(name, urls): (&String, &Vec<Url>)| Config {
        name: name.clone(),
        listen_peer_urls: urls.clone(),
        initial_advertise_peer_urls: urls.clone(),
        initial_cluster: members.clone(),
        ..Config::for_test()
    };
    members.iter().map(config).collect()
}

async fn start(configs: Vec<Config>) -> Vec<Server> {
    let started = configs.into_iter().map(|config| tokio::spawn(Server::start(config)));
    let started = futures_util::future::join_all(started).await;
    started.into_iter().map(|server| server.unwrap().unwrap()).collect()
}

fn id(server: &Server) -> u64 {
    server.node().status().member_id
}

fn leader_at(servers: &[Server]) -> usize {
    let leader = servers[0].node().status().leader.unwrap();
    servers.iter().position(|server| id(server) == leader).unwrap()
}

/// Changes one member's state behind the log's back.
fn plant(server: &Server) {
    let (applied, _) = server.node().store().apply(&Command::Put(put("planted", "here only")));
    applied.response.unwrap();
}

async fn channel(server: &Server) -> Channel {
    Endpoint::from_shared(server.client_endpoint()).unwrap().connect().await.unwrap()
}

async fn kv(server: &Server) -> KvClient<Channel> {
    KvClient::new(channel(server).await)
}

async fn write(server: &Server, key: &str) -> i64 {
    kv(server).await.put(put(key, "v")).await.unwrap().into_inner().header.unwrap().revision
}

async fn alarmed(server: &Server, member_id: u64) {
    let expected = [pb::AlarmMember { member_id, alarm: pb::AlarmType::Corrupt.into() }];
    until("the alarm", async || server.node().store().alarms() == expected).await;
}

async fn is_stopped(server: &Server) {
    let corrupt = refused(Code::DataLoss, "etcdserver: corrupt cluster");
    let mut kv = kv(server).await;
    assert_eq!(refusal(kv.put(put("k", "v")).await), corrupt);
    assert_eq!(refusal(kv.delete_range(delete("k", "")).await), corrupt);
    assert_eq!(refusal(kv.txn(then(vec![put_op("k", "v")])).await), corrupt);
    kv.range(range("a", "z")).await.unwrap();
}

async fn shutdown(servers: Vec<Server>) {
    futures_util::future::join_all(servers.into_iter().map(Server::shutdown)).await;
}

fn checked(configs: Vec<Config>) -> Vec<Config> {
    configs.into_iter().map(|config| Config { corrupt_check_time: CHECK_INTERVAL, ..config }).collect()
}

#[tokio::test]
async fn a_follower_that_differs_is_found_and_all_writes_stop() {
    let servers = start(checked(configs(3))).await;
    let leader = leader_at(&servers);
    let follower = (leader + 1) % 3;
    for key in ["a", "b", "c"] {
        write(&servers[leader], key).await;
    }
    plant(&servers[follower]);
    alarmed(&servers[leader], id(&servers[follower])).await;
    for server in &servers {
        is_stopped(server).await;
    }
    let mut maintenance = MaintenanceClient::new(channel(&servers[leader]).await);
    let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.errors, [format!("memberID:{} alarm:CORRUPT ", id(&servers[follower]))]);
    shutdown(servers).await;
}

#[tokio::test]
async fn a_leader_that_differs_is_outvoted() {
    let servers = start(checked(configs(3))).await;
    let leader = leader_at(&servers);
    plant(&servers[leader]);
    // From here on the same writes have other revisions there.
    write(&servers[leader], "a").await;
    alarmed(&servers[leader], id(&servers[leader])).await;
    is_stopped(&servers[(leader + 1) % 3]).await;
    shutdown(servers).await;
}

#[tokio::test]
async fn of_two_that_differ_nobody_knows_which_is_right() {
    let servers = start(checked(configs(2))).await;
    let leader = leader_at(&servers);
    plant(&servers[leader]);
    write(&servers[leader], "a").await;
    alarmed(&servers[leader], 0).await;
    is_stopped(&servers[leader]).await;
    shutdown(servers).await;
}

#[tokio::test]
async fn a_difference_is_found_at_a_compaction() {
    let with_gate = |config| Config {
        compact_hash_check_time: CHECK_INTERVAL,
        feature_gates: gates("CompactHashCheck=true"),
        ..config
    };
    let servers = start(configs(3).into_iter().map(with_gate).collect()).await;
    let leader = leader_at(&servers);
    let follower = (leader + 2) % 3;
    let revision = write(&servers[leader], "a").await;
    let compact = async |revision| {
        let request = pb::CompactionRequest { revision, physical: false };
        kv(&servers[leader]).await.compact(request).await.unwrap();
    };
    compact(revision).await;
    until("the others have it", async || servers[follower].node().store().revision() == revision).await;
    plant(&servers[follower]);
    let revision = write(&servers[leader], "b").await;
    assert!(servers[leader].node().store().alarms().is_empty());
    compact(revision).await;
    alarmed(&servers[leader], id(&servers[follower])).await;
    is_stopped(&servers[follower]).await;
    shutdown(servers).await;
}

#[tokio::test]
async fn a_member_with_other_data_than_its_peers_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut configs = configs(3);
    for config in &mut configs {
        config.feature_gates = gates("InitialCorruptCheck=true");
    }
    configs[2].data_dir = Some(dir.path().join("m2"));
    configs[2].unsafe_no_fsync = true;
    let last = configs[2].clone();
    let mut servers = start(configs).await;
    write(&servers[0], "a").await;

    servers.pop().unwrap().shutdown().await;
    let revision = write(&servers[0], "b").await;
    let healthy = Server::start(last.clone()).await.unwrap();
    assert_eq!(healthy.node().store().revision(), revision, "it serves what the others have");

    let member = id(&healthy);
    plant(&healthy);
    healthy.shutdown().await;
    write(&servers[0], "c").await;
    let error = Server::start(last.clone()).await.err().expect("a refusal").to_string();
    assert!(error.starts_with(&format!("corruption check: member {member:x} found data inconsistency")), "{error}");
    for server in &servers {
        assert!(error.contains(&format!("{:x}", id(server))), "{error}");
    }
    let without = Config { feature_gates: FeatureGates::default(), ..last };
    servers.push(Server::start(without).await.unwrap());
    shutdown(servers).await;
}
