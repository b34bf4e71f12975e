//! What is left when the quorum is gone: one member's data, made into a cluster of its own.

mod common;

use common::{Member, range};
use kelson::Config;
use kelson::config::{ClusterState, Url};
use kelson::proto::etcdserverpb as pb;

fn url(port: u16) -> Url {
    Url::parse(&format!("http://127.0.0.1:{port}")).unwrap()
}

fn free_ports() -> [u16; 3] {
    let sockets = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

/// Member `n` of three, with its data below `data`.
fn config(data: &std::path::Path, ports: [u16; 3], n: usize) -> Config {
    let names = ["a", "b", "c"];
    Config {
        name: names[n].to_owned(),
        data_dir: Some(data.join(names[n])),
        listen_peer_urls: vec![url(ports[n])],
        initial_advertise_peer_urls: vec![url(ports[n])],
        initial_cluster: names.iter().zip(ports).map(|(name, port)| ((*name).to_owned(), vec![url(port)])).collect(),
        ..Config::for_test()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_member_goes_on_alone_with_everything_and_grows_again() {
    let data = tempfile::tempdir().unwrap();
    let ports = free_ports();
    let (a, b, c) = tokio::join!(
        Member::start_with(config(data.path(), ports, 0)),
        Member::start_with(config(data.path(), ports, 1)),
        Member::start_with(config(data.path(), ports, 2)),
    );
    for n in 0..50 {
        let member = [&a, &b, &c][n % 3];
        member.put(&format!("k{n:02}"), "v").await;
    }
    // Read on the one that will be left, so that it has everything.
    let before = a.range(range("k", "l")).await;
    assert_eq!(before.count, 50);
    let ids = before.header.unwrap();
    for member in [b, c, a] {
        member.shutdown().await;
    }

    let alone = Member::start_with(Config { force_new_cluster: true, ..config(data.path(), ports, 0) }).await;
    let after = alone.range(range("k", "l")).await;
    assert_eq!(after.kvs, before.kvs);
    let header = after.header.unwrap();
    assert_eq!((header.cluster_id, header.member_id, header.revision), (ids.cluster_id, ids.member_id, ids.revision));
    assert!(header.raft_term > ids.raft_term, "a new term, so that whoever comes back is behind");
    let members = alone.cluster().member_list(pb::MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    assert_eq!(members.members.len(), 1);
    alone.put("after", "the disaster").await;
    alone.shutdown().await;

    // The flag is left out from now on, and the member may be joined again.
    let alone = Member::start_with(config(data.path(), ports, 0)).await;
    assert_eq!(alone.get("after").await.as_deref(), Some("the disaster"));
    let peer_ur_ls = vec![url(ports[1]).to_string()];
    let add = pb::MemberAddRequest { peer_ur_ls, is_learner: false };
    alone.cluster().member_add(add).await.unwrap();
    std::fs::remove_dir_all(data.path().join("b")).unwrap();
    let mut joining = config(data.path(), ports, 1);
    joining.initial_cluster_state = ClusterState::Existing;
    joining.initial_cluster.remove("c");
    let joined = Member::start_with(joining).await;
    assert_eq!(joined.range(range("k", "l")).await.count, 50);
    // The old third member is of no cluster any more.
    let old =
        tokio::time::timeout(std::time::Duration::from_secs(60), kelson::Server::start(config(data.path(), ports, 2)));
    let refusal = old.await.expect("it is told").err().expect("it was removed").to_string();
    assert!(refusal.contains("permanently removed"), "{refusal}");
    joined.shutdown().await;
    alone.shutdown().await;
}
