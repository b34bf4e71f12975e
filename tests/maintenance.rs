//! The Maintenance service and the health service over gRPC.

mod common;

use common::*;
use kelson::proto::etcdserverpb as pb;
use sha2::{Digest, Sha256};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

async fn status(member: &Member) -> pb::StatusResponse {
    member.maintenance().status(pb::StatusRequest {}).await.unwrap().into_inner()
}

#[tokio::test]
async fn the_status_tells_version_sizes_and_raft() {
    let member = Member::start().await;
    member.put("k", "v").await;
    let status = status(&member).await;
    let header = status.header.unwrap();
    assert_eq!((status.version.as_str(), status.storage_version.as_str()), ("3.7.3", "3.7.0"));
    assert!(status.db_size >= status.db_size_in_use && status.db_size_in_use > 0, "{status:?}");
    assert_eq!((status.leader, status.is_learner, header.revision), (header.member_id, false, 2));
    assert!(status.raft_index >= status.raft_applied_index && status.raft_applied_index > 0);
    assert_eq!(status.raft_term, header.raft_term);
    assert_eq!(status.db_size_quota, 2 << 30);
    assert_eq!(status.errors, [""; 0]);
    assert_eq!(status.downgrade_info, Some(pb::DowngradeInfo::default()));
}

#[tokio::test]
async fn alarms_are_raised_listed_and_lowered() {
    use pb::alarm_request::AlarmAction;
    let member = Member::start().await;
    let alarm = async |action: AlarmAction, alarm: pb::AlarmType| {
        let request = pb::AlarmRequest { action: action.into(), member_id: 42, alarm: alarm.into() };
        member.maintenance().alarm(request).await.unwrap().into_inner().alarms
    };
    let raised = [pb::AlarmMember { member_id: 42, alarm: pb::AlarmType::Nospace.into() }];
    assert_eq!(alarm(AlarmAction::Get, pb::AlarmType::None).await, []);
    assert_eq!(alarm(AlarmAction::Deactivate, pb::AlarmType::Nospace).await, []);
    assert_eq!(alarm(AlarmAction::Activate, pb::AlarmType::Nospace).await, raised);
    assert_eq!(alarm(AlarmAction::Get, pb::AlarmType::None).await, raised);
    assert_eq!(status(&member).await.errors.len(), 1);
    let full = refused(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
    assert_eq!(refusal(member.kv().put(put("k", "v")).await), full);
    assert_eq!(alarm(AlarmAction::Deactivate, pb::AlarmType::Nospace).await, raised);
    member.put("k", "v").await;

    assert_eq!(alarm(AlarmAction::Activate, pb::AlarmType::Corrupt).await.len(), 1);
    let corrupt = refused(Code::DataLoss, "etcdserver: corrupt cluster");
    assert_eq!(refusal(member.kv().put(put("k", "v")).await), corrupt);
    assert_eq!(refusal(member.kv().delete_range(delete("k", "")).await), corrupt);
    assert_eq!(member.get("k").await.as_deref(), Some("v"));
    if !member.is_etcd() {
        // etcd crashes here.
        let unknown = pb::AlarmRequest { action: 9, ..Default::default() };
        assert_eq!(refusal(member.maintenance().alarm(unknown).await).0, Code::InvalidArgument);
    }
}

#[tokio::test]
async fn the_hash_is_of_a_revision_and_follows_its_content() {
    let member = Member::start().await;
    let hash = async |revision| member.maintenance().hash_kv(pb::HashKvRequest { revision }).await;
    let fresh = hash(0).await.unwrap().into_inner();
    assert_eq!((fresh.hash, fresh.compact_revision, fresh.hash_revision), (1_084_519_789, -1, 1), "as etcd's");
    member.put("a", "1").await;
    member.put("a", "2").await;
    let newest = hash(0).await.unwrap().into_inner();
    assert_eq!((newest.hash_revision, newest.header.unwrap().revision), (3, 3));
    let before = hash(2).await.unwrap().into_inner();
    assert_eq!(before.hash_revision, 2);
    assert_ne!(before.hash, newest.hash);
    let future = refused(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    assert_eq!(refusal(hash(4).await), future);
    member.kv().compact(pb::CompactionRequest { revision: 3, physical: true }).await.unwrap();
    let compacted = refused(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
    assert_eq!(refusal(hash(2).await), compacted);
    member.put("a", "3").await;
    assert_eq!(hash(0).await.unwrap().into_inner().compact_revision, 3);
    member.maintenance().hash(pb::HashRequest {}).await.unwrap();
}

#[tokio::test]
async fn defragmenting_and_moving_the_leader_to_itself_do_no_harm() {
    let member = Member::start().await;
    member.put("k", "v").await;
    let answer = member.maintenance().defragment(pb::DefragmentRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.header, None);
    let to = async |target_id| member.maintenance().move_leader(pb::MoveLeaderRequest { target_id }).await;
    let id = status(&member).await.header.unwrap().member_id;
    assert_eq!(to(id).await.unwrap().into_inner().header, None);
    assert_eq!(refusal(to(1).await), refused(Code::FailedPrecondition, "etcdserver: bad leader transferee"));
    assert_eq!(member.get("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn a_downgrade_is_judged_by_etcds_rule() {
    use pb::downgrade_request::DowngradeAction;
    let member = Member::start().await;
    let ask = async |action: DowngradeAction, version: &str| {
        let request = pb::DowngradeRequest { action: action.into(), version: version.into() };
        member.maintenance().downgrade(request).await.map(|answer| answer.into_inner().version)
    };
    for version in ["3.6", "3.6.0"] {
        assert_eq!(ask(DowngradeAction::Validate, version).await.unwrap(), "3.7");
    }
    let format = refused(Code::InvalidArgument, "etcdserver: wrong downgrade target version format");
    let target = refused(Code::InvalidArgument, "etcdserver: invalid downgrade target version");
    for action in [DowngradeAction::Validate, DowngradeAction::Enable] {
        assert_eq!(refusal(ask(action, "x").await), format);
        assert_eq!(refusal(ask(action, "3.5").await), target);
        assert_eq!(refusal(ask(action, "3.7").await), target);
    }
    assert_eq!(ask(DowngradeAction::Cancel, "").await.unwrap(), "3.7");
}

#[tokio::test]
async fn a_snapshot_is_a_file_with_its_checksum() {
    let member = Member::start().await;
    for i in 0..100 {
        member.put(&format!("k{i}"), &"v".repeat(1000)).await;
    }
    let mut stream = member.maintenance().snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let mut file = Vec::new();
    let mut remaining = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        assert_eq!((message.version.as_str(), message.header), ("3.7.0", None));
        assert!(message.blob.len() <= 32 * 1024);
        file.extend_from_slice(&message.blob);
        remaining.push(message.remaining_bytes);
    }
    assert!(remaining.is_sorted_by(|a, b| a >= b) && remaining.ends_with(&[0, 0]), "{remaining:?}");
    let (image, checksum) = file.split_at(file.len() - 32);
    assert_eq!(image.len() % 512, 0);
    assert_eq!(Sha256::digest(image).as_slice(), checksum);
}

#[tokio::test]
async fn the_whole_server_is_serving_and_nothing_else_is_known() {
    let member = Member::start().await;
    let mut health = HealthClient::new(member.channel());
    let check = HealthCheckRequest { service: String::new() };
    assert_eq!(health.check(check).await.unwrap().into_inner().status, 1);
    let unknown = health.check(HealthCheckRequest { service: "x".into() }).await;
    assert_eq!(refusal(unknown), refused(Code::NotFound, "unknown service"));
}
