//! Members that come, change, lead and go, and those without a vote.

use super::*;

async fn list(cluster: &Cluster, by: usize) -> Vec<pb::Member> {
    let request = pb::MemberListRequest { linearizable: true };
    membership(cluster, by).member_list(request).await.unwrap().into_inner().members
}

/// What a change that is refused by `by` says.
async fn refused_add(cluster: &Cluster, by: usize, urls: &[&str], is_learner: bool) -> (Code, String) {
    let peer_ur_ls = urls.iter().map(ToString::to_string).collect();
    refusal(membership(cluster, by).member_add(pb::MemberAddRequest { peer_ur_ls, is_learner }).await)
}

#[tokio::test]
async fn a_learner_answers_for_itself_alone_and_votes_once_promoted() {
    let mut cluster = steady().await;
    write(&cluster, 0, "k", "v").await;
    let learner = cluster.add_learner().await.unwrap();
    let id = cluster.member(learner).id();
    cluster.await_same_state().await;

    assert_eq!(read(&cluster, learner, "k", true).await.unwrap().as_deref(), Some("v"));
    let status = maintenance(&cluster, learner).status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert!(status.is_learner && status.leader != 0, "{status:?}");
    let mut snapshot = maintenance(&cluster, learner).snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    while let Some(part) = snapshot.message().await.unwrap() {
        assert!(!part.version.is_empty());
    }

    let not_for_learners = refused(Code::FailedPrecondition, "etcdserver: rpc not supported for learner");
    assert_eq!(refusal(read(&cluster, learner, "k", false).await), not_for_learners);
    assert_eq!(refusal(kv(&cluster, learner).put(put("k", "x")).await), not_for_learners);
    assert_eq!(refusal(kv(&cluster, learner).delete_range(delete("k", "")).await), not_for_learners);
    assert_eq!(refusal(kv(&cluster, learner).txn(then(vec![get_op("k")])).await), not_for_learners);
    let compact = pb::CompactionRequest { revision: 2, physical: false };
    assert_eq!(refusal(kv(&cluster, learner).compact(compact).await), not_for_learners);
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 0 };
    assert_eq!(refusal(lease(&cluster, learner).lease_grant(grant).await), not_for_learners);
    let list_request = pb::MemberListRequest { linearizable: false };
    assert_eq!(refusal(membership(&cluster, learner).member_list(list_request).await), not_for_learners);
    let hash = pb::HashKvRequest { revision: 0 };
    assert_eq!(refusal(maintenance(&cluster, learner).hash_kv(hash).await), not_for_learners);
    let mut client = WatchClient::new(cluster.member(learner).channel());
    let mut watch = Duplex::open(|requests| async move { client.watch(requests).await });
    assert_eq!(refusal(watch.next().await.expect("an answer")), not_for_learners);

    // A second one is one too many, and nobody without a vote can lead.
    let too_many = refused(Code::FailedPrecondition, "etcdserver: too many learner members in cluster");
    assert_eq!(refused_add(&cluster, 0, &["http://127.0.0.1:1"], true).await, too_many);
    let leader = cluster.leader().await;
    let bad = refused(Code::FailedPrecondition, "etcdserver: bad leader transferee");
    assert_eq!(refusal(maintenance(&cluster, leader).move_leader(pb::MoveLeaderRequest { target_id: id }).await), bad);

    // Promoted by a follower, it is as good as any other.
    let by = followers(&cluster, leader)[0];
    let promoted = membership(&cluster, by).member_promote(pb::MemberPromoteRequest { id }).await.unwrap().into_inner();
    assert!(promoted.members.iter().all(|member| !member.is_learner) && promoted.members.len() == 4);
    until("it knows that it votes", || async { read(&cluster, learner, "k", false).await.is_ok() }).await;
    let voter = refused(Code::FailedPrecondition, "etcdserver: can only promote a learner member");
    assert_eq!(refusal(membership(&cluster, by).member_promote(pb::MemberPromoteRequest { id }).await), voter);
    write(&cluster, learner, "k", "by the new member").await;
    cluster.await_same_state().await;
}

#[tokio::test]
async fn a_learner_that_never_started_is_not_promoted() {
    let cluster = steady().await;
    let request = pb::MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".into()], is_learner: true };
    let added = membership(&cluster, 0).member_add(request).await.unwrap().into_inner();
    let member = added.member.unwrap();
    assert!(member.is_learner && member.name.is_empty() && added.members.len() == 4);
    let behind = "etcdserver: can only promote a learner member which is in sync with leader";
    for by in 0..3 {
        let promote = pb::MemberPromoteRequest { id: member.id };
        let refusal = refusal(membership(&cluster, by).member_promote(promote).await);
        assert_eq!(refusal, refused(Code::FailedPrecondition, behind));
    }
    membership(&cluster, 2).member_remove(pb::MemberRemoveRequest { id: member.id }).await.unwrap();
    assert_eq!(list(&cluster, 1).await.len(), 3);
}

#[tokio::test]
async fn members_are_added_changed_and_removed_by_whoever_is_asked() {
    let mut cluster = steady().await;
    for n in 0..20 {
        write(&cluster, 0, &format!("k{n}"), "v").await;
    }
    let added = cluster.add_member().await.unwrap();
    assert_eq!(read(&cluster, added, "k19", false).await.unwrap().as_deref(), Some("v"));
    let leader = cluster.leader().await;
    let by = followers(&cluster, leader)[0];
    let known = list(&cluster, by).await;
    let one = known.iter().find(|member| member.id == cluster.member(added).id()).unwrap();
    assert_eq!((one.name.as_str(), one.is_learner), (cluster.member(added).name(), false));
    assert_eq!(one.client_ur_ls, [cluster.member(added).endpoint()]);

    // By a follower, so that what the leader refuses travels.
    let used = &one.peer_ur_ls[0];
    let exists = refused(Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
    assert_eq!(refused_add(&cluster, by, &[used], false).await, exists);
    let others = cluster.member(by).id();
    let update = pb::MemberUpdateRequest { id: others, peer_ur_ls: vec![used.clone()] };
    assert_eq!(refusal(membership(&cluster, by).member_update(update).await), exists);
    let unknown = refused(Code::NotFound, "etcdserver: member not found");
    let remove = async |id| membership(&cluster, by).member_remove(pb::MemberRemoveRequest { id }).await;
    assert_eq!(refusal(remove(1).await), unknown);
    let update = pb::MemberUpdateRequest { id: 1, peer_ur_ls: vec!["http://127.0.0.1:1".into()] };
    assert_eq!(refusal(membership(&cluster, by).member_update(update).await), unknown);
    let promote = pb::MemberPromoteRequest { id: 1 };
    assert_eq!(refusal(membership(&cluster, by).member_promote(promote).await), unknown);

    // A member may have several URLs, one of which works.
    let urls = vec!["http://127.0.0.1:1".to_owned(), used.clone()];
    let update = pb::MemberUpdateRequest { id: one.id, peer_ur_ls: urls.clone() };
    let updated = membership(&cluster, by).member_update(update).await.unwrap().into_inner();
    let now = updated.members.iter().find(|member| member.id == one.id).unwrap();
    assert_eq!((&now.peer_ur_ls, &now.name), (&urls, &one.name), "the name is kept");
    write(&cluster, added, "k", "v").await;

    let gone = cluster.member(added).id();
    cluster.remove_member(added).await.unwrap();
    assert_eq!(list(&cluster, by).await.len(), 3);
    let remove = async |id| membership(&cluster, by).member_remove(pb::MemberRemoveRequest { id }).await;
    assert_eq!(refusal(remove(gone).await), unknown);
    cluster.await_same_state().await;
}

#[tokio::test]
async fn a_removed_member_ends_and_the_leader_can_be_removed() {
    let cluster = steady().await;
    let leader = cluster.leader().await;
    let others = followers(&cluster, leader);
    let id = cluster.member(leader).id();
    membership(&cluster, others[0]).member_remove(pb::MemberRemoveRequest { id }).await.unwrap();
    let reason = cluster.member(leader).server().failed().await;
    assert!(reason.contains("permanently removed"), "{reason}");
    let new = cluster.leader_among(&others).await;
    write(&cluster, new, "k", "v").await;
    assert_eq!(list(&cluster, others[1]).await.len(), 2);
}

#[tokio::test]
async fn no_change_leaves_a_cluster_that_cannot_decide() {
    let mut cluster = steady().await;
    let leader = cluster.leader().await;
    let [down, other] = followers(&cluster, leader)[..] else { panic!("three members") };
    cluster.kill(down).await;
    // Another voter is refused once the leader has missed the one that is down; that one may be removed.
    let unhealthy = refused(Code::Unavailable, "etcdserver: unhealthy cluster");
    until("its absence is noticed", || async {
        let leader = cluster.member(leader).server().node();
        leader.peers().get(cluster.member(down).id()).and_then(|peer| peer.silence())
            > Some(leader.leader_deadline() * 5)
    })
    .await;
    assert_eq!(refused_add(&cluster, other, &["http://127.0.0.1:1"], false).await, unhealthy);
    // Without the other, the leader alone could not decide.
    let id = cluster.member(other).id();
    let removed = membership(&cluster, other).member_remove(pb::MemberRemoveRequest { id }).await;
    assert_eq!(refusal(removed), unhealthy);
    let (id, by) = (cluster.member(down).id(), membership(&cluster, other));
    by.clone().member_remove(pb::MemberRemoveRequest { id }).await.unwrap();
    assert_eq!(list(&cluster, leader).await.len(), 2);
    write(&cluster, other, "k", "v").await;
}

/// Else a member that was removed and added again could take its old id from one that has not heard of it, by which nobody
/// speaks to it.
#[tokio::test]
async fn a_member_that_joins_is_told_when_the_list_may_be_old() {
    let cluster = steady().await;
    let leader = cluster.leader().await;
    let [cut_off, other] = followers(&cluster, leader)[..] else { panic!("three members") };
    cluster.partition(&[&[leader, other], &[cut_off]]);
    let url = "http://127.0.0.1:1";
    let request = pb::MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner: true };
    membership(&cluster, leader).member_add(request).await.unwrap();
    let told = async |by: usize, linearizable| {
        let answer = cluster.member(by).server().node().members_for_peer(linearizable).await;
        (answer.confirmed, answer.members.iter().any(|member| member.peer_ur_ls == [url]))
    };
    assert_eq!(told(cut_off, true).await, (false, false));
    assert_eq!(told(other, true).await, (true, true));
    assert!(!told(leader, false).await.0, "it was not asked to find out");
    cluster.heal();
    until("a leader to be heard of again", || async { told(cut_off, true).await == (true, true) }).await;
}

#[tokio::test]
async fn the_leadership_moves_to_whom_the_leader_is_told() {
    let cluster = steady().await;
    let old = cluster.leader().await;
    let [to, by] = followers(&cluster, old)[..] else { panic!("three members") };
    let target = pb::MoveLeaderRequest { target_id: cluster.member(to).id() };
    let not_leader = refused(Code::FailedPrecondition, "etcdserver: not leader");
    assert_eq!(refusal(maintenance(&cluster, by).move_leader(target).await), not_leader);
    let nobody = pb::MoveLeaderRequest { target_id: 1 };
    let bad = refused(Code::FailedPrecondition, "etcdserver: bad leader transferee");
    assert_eq!(refusal(maintenance(&cluster, old).move_leader(nobody).await), bad);
    write(&cluster, by, "k", "before").await;
    maintenance(&cluster, old).move_leader(target).await.unwrap();
    assert_eq!(cluster.leader_among(&[to]).await, to);
    for at in 0..3 {
        assert_eq!(read(&cluster, at, "k", false).await.unwrap().as_deref(), Some("before"));
    }
    write(&cluster, old, "k", "after").await;
    cluster.await_same_state().await;
}
