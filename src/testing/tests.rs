//! The cluster's own promises: what is kept and lost over a kill, and who reaches whom.

use super::*;
use crate::proto::etcdserverpb::kv_client::KvClient;

async fn put(cluster: &Cluster, number: usize, key: &str) -> Result<i64, tonic::Status> {
    let request = pb::PutRequest { key: key.to_owned().into(), value: "v".into(), ..pb::PutRequest::default() };
    let answer = KvClient::new(cluster.member(number).channel()).put(request).await?.into_inner();
    Ok(answer.header.unwrap().revision)
}

#[tokio::test]
async fn clusters_of_every_small_size_start_and_agree() {
    for size in [1, 2, 3, 5] {
        let cluster = Cluster::start(size).await.unwrap();
        for number in 0..size {
            put(&cluster, number, "k").await.unwrap();
        }
        assert_eq!(cluster.await_same_state().await.revision, 1 + size as i64);
        assert_eq!(cluster.membership().len(), size);
        assert_eq!(cluster.endpoints().len(), size);
        cluster.shutdown().await;
    }
}

#[tokio::test]
async fn a_killed_cluster_comes_back_with_everything_that_was_answered() {
    for on_disk in [false, true] {
        let builder = Cluster::builder();
        let mut cluster = if on_disk { builder.on_disk() } else { builder }.start().await.unwrap();
        let mut revision = 0;
        for n in 0..20 {
            revision = put(&cluster, n % 3, &format!("k{n}")).await.unwrap();
        }
        let (before, ids) = (cluster.await_same_state().await, [0, 1, 2].map(|n| cluster.member(n).id()));
        cluster.restart_all(&[0, 1, 2]).await.unwrap();
        assert_eq!((cluster.await_same_state().await, before.revision), (before, revision));
        assert_eq!([0, 1, 2].map(|n| cluster.member(n).id()), ids);
        put(&cluster, 0, "after").await.unwrap();
        assert!(cluster.await_same_state().await.revision > revision);
    }
}

#[tokio::test]
async fn a_member_that_is_alone_again_has_its_snapshot_and_the_log_behind_it() {
    let mut cluster =
        Cluster::builder().members(1).config(|config| config.snapshot_catchup_entries = 0).start().await.unwrap();
    for n in 0..10 {
        put(&cluster, 0, &format!("k{n}")).await.unwrap();
    }
    cluster.snapshot(0).await;
    let log = || cluster.member(0).server().node().log().sizes().entries;
    while log() > 5 {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    put(&cluster, 0, "behind").await.unwrap();
    let before = cluster.await_same_state().await;
    cluster.restart(0).await.unwrap();
    assert_eq!(cluster.await_same_state().await, before);
}

#[tokio::test]
async fn a_cut_is_one_way_and_healing_opens_every_way() {
    let cluster = Cluster::start(3).await.unwrap();
    let id = |number| cluster.member(number).id();
    cluster.cut(0, 1);
    assert!(!cluster.links.is_open(id(0), id(1)) && cluster.links.is_open(id(1), id(0)));
    cluster.partition(&[&[0], &[1, 2]]);
    let open = |from, to| cluster.links.is_open(id(from), id(to));
    assert!(open(1, 2) && open(2, 1) && !open(0, 1) && !open(1, 0) && !open(0, 2) && !open(2, 0));
    cluster.heal();
    assert!(open(0, 1));
}

#[tokio::test]
async fn members_come_go_stand_still_and_go_on() {
    let mut cluster = Cluster::start(3).await.unwrap();
    let added = cluster.add_member().await.unwrap();
    put(&cluster, added, "k").await.unwrap();
    cluster.pause(added).await;
    assert!(cluster.member(added).is_paused());
    put(&cluster, 0, "k").await.unwrap();
    cluster.resume(added);
    cluster.await_same_state().await;
    cluster.remove_member(added).await.unwrap();
    assert_eq!((cluster.membership().len(), cluster.endpoints().len(), cluster.running()), (3, 3, vec![0, 1, 2]));
    let learner = cluster.add_learner().await.unwrap();
    assert!(cluster.member(learner).server().node().is_learner());
    // A paused member ends like any other.
    cluster.pause(0).await;
    cluster.shutdown().await;
}

/// The leader before had begun to remove it. Its next change was made upon that half, so that it had no place in the
/// membership any more when it was to write the second half of its own: a broken invariant where there are debug assertions.
#[tokio::test]
async fn a_leader_whose_removal_is_half_done_finishes_that_before_it_changes_anything() {
    let mut cluster = Cluster::start(3).await.unwrap();
    let leader = cluster.leader().await;
    let (gone, last) = ((leader + 1) % 3, (leader + 2) % 3);
    let node = cluster.member(leader).server().node().clone();
    node.begin_removal(cluster.member(leader).id()).await;
    let removal = node.change(Change::Remove(cluster.member(gone).id()));
    tokio::select! {
        reason = cluster.failed() => assert!(reason.contains("permanently removed"), "{reason}"),
        // Whoever leads next has done it.
        _ = async { drop(removal.await); std::future::pending::<()>().await } => unreachable!("for ever"),
    }
    cluster.kill(leader).await;
    let by = cluster.leader_among(&[gone, last]).await;
    let members = cluster.member(by).server().node().members();
    assert!(members.iter().all(|member| member.id != cluster.member(leader).id()));
    cluster.shutdown().await;
}

/// Its answer is lost, and whether it was made nobody knows; it used to be called timed out.
#[tokio::test]
async fn a_removal_whose_leader_dies_before_it_answers_is_asked_for_again() {
    let mut cluster = Cluster::start(3).await.unwrap();
    let leader = cluster.leader().await;
    let asked = cluster.member((leader + 1) % 3).server().node().clone();
    let id = cluster.member(leader).id();
    cluster.pause(leader).await;
    let node = asked.clone();
    let removal = tokio::spawn(async move { node.change(Change::Remove(id)).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.kill(leader).await;
    removal.await.unwrap().expect("the next leader does it");
    assert!(asked.members().iter().all(|member| member.id != id));
    cluster.shutdown().await;
}

/// Until it is whole, nothing is decided without a majority of those who were there before.
#[tokio::test]
async fn a_removal_that_is_half_done_is_finished_without_being_asked_for_again() {
    let mut cluster = Cluster::start(3).await.unwrap();
    let leader = cluster.leader().await;
    let gone = (leader + 1) % 3;
    let node = cluster.member(leader).server().node().clone();
    node.begin_removal(cluster.member(gone).id()).await;
    let reason = cluster.failed().await;
    assert!(reason.contains("permanently removed"), "{reason}");
    cluster.kill(gone).await;
    assert_eq!(node.members().len(), 2);
    put(&cluster, leader, "k").await.unwrap();
    cluster.shutdown().await;
}

/// It had no business to: openraft is no leader any more and still takes what it is given, which ended the member with a
/// broken invariant where there are debug assertions.
#[tokio::test]
async fn a_leader_that_has_removed_itself_changes_the_membership_no_more() {
    let mut cluster = Cluster::start(2).await.unwrap();
    let leader = cluster.leader().await;
    let node = cluster.member(leader).server().node().clone();
    let removal = node.change(Change::Remove(node.status().member_id));
    let addition = node.change(Change::Add { peer_urls: vec!["http://127.0.0.1:1".to_owned()], is_learner: true });
    let (removed, reason) = tokio::join!(removal, async {
        tokio::select! {
            reason = cluster.failed() => reason,
            // Its turn comes right behind the removal; by whom it is done in the end does not matter.
            _ = async { drop(addition.await); std::future::pending::<()>().await } => unreachable!("for ever"),
        }
    });
    removed.unwrap();
    assert!(reason.contains("permanently removed"), "{reason}");
    cluster.kill(leader).await;
    cluster.leader_among(&[1 - leader]).await;
    cluster.shutdown().await;
}
