//! A member whose log ends before the leader's begins is sent the leader's snapshot.

use super::*;

const WRITES: usize = 40;

async fn cluster() -> Cluster {
    Cluster::builder().timing(50, 1000).config(|config| config.snapshot_catchup_entries = 0).start().await.unwrap()
}

fn log_entries(cluster: &Cluster, member: usize) -> u64 {
    cluster.member(member).server().node().log().sizes().entries
}

/// Makes the members purge their logs; `behind` is one that is out of reach.
async fn purge(cluster: &Cluster, behind: usize) {
    for member in followers(cluster, behind) {
        cluster.snapshot(member).await;
        until("the log is purged", || async { log_entries(cluster, member) < WRITES as u64 }).await;
    }
}

async fn writes(cluster: &Cluster, by: usize) -> i64 {
    let mut revision = 0;
    for n in 0..WRITES {
        revision = write(cluster, by, &format!("k{}", n % 7), &n.to_string()).await;
    }
    revision
}

#[tokio::test]
async fn a_member_that_was_dead_is_caught_up_by_a_snapshot() {
    let mut cluster = cluster().await;
    let leader = cluster.leader().await;
    let [dead, other] = followers(&cluster, leader)[..] else { panic!("three members") };
    let id = grant(&cluster, other, 1000).await;
    let mut watching = Watching::begin(&cluster, other).await;
    cluster.kill(dead).await;
    let revision = writes(&cluster, other).await;
    purge(&cluster, dead).await;
    cluster.restart(dead).await.unwrap();
    assert_eq!(cluster.await_same_state().await.revision, revision);
    assert!(log_entries(&cluster, dead) < WRITES as u64, "it was not sent the log");
    let expected = watching.up_to(revision).await;
    assert_eq!(expected.len(), WRITES + 1);
    assert_eq!(Watching::begin(&cluster, dead).await.up_to(revision).await, expected);
    assert!(remaining(&cluster, dead, id).await > 0);
    // Once more, on the snapshot and the log behind it.
    let revision = write(&cluster, dead, "more", "v").await;
    cluster.restart(dead).await.unwrap();
    assert_eq!(cluster.await_same_state().await.revision, revision);
}

#[tokio::test]
async fn watches_go_on_while_their_member_is_caught_up_by_a_snapshot() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let [behind, other] = followers(&cluster, leader)[..] else { panic!("three members") };
    let before = write(&cluster, behind, "k", "before").await;
    let mut watching = Watching::begin(&cluster, behind).await;
    assert_eq!(watching.up_to(before).await.len(), 1);
    cluster.partition(&[&[behind], &[leader, other]]);
    let revision = writes(&cluster, leader).await;
    purge(&cluster, behind).await;
    cluster.heal();
    let events = watching.up_to(revision).await;
    assert_eq!(events.len(), WRITES);
    let last = write(&cluster, behind, "k", "after").await;
    assert_eq!(watching.up_to(last).await, [("PUT k=after".to_owned(), last)]);
    cluster.await_same_state().await;
    assert!(log_entries(&cluster, behind) < WRITES as u64, "it was not sent the log");
}
