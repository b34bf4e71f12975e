//! The Cluster service over gRPC, of a cluster of one.

mod common;

use common::members::*;
use common::*;
use kelson::proto::etcdserverpb as pb;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

async fn list(member: &Member, linearizable: bool) -> pb::MemberListResponse {
    member.cluster().member_list(pb::MemberListRequest { linearizable }).await.unwrap().into_inner()
}

async fn only(member: &Member) -> pb::Member {
    list(member, true).await.members.remove(0)
}

#[tokio::test]
async fn a_member_is_listed_with_its_name_and_urls() {
    let member = Member::start().await;
    for linearizable in [false, true] {
        let answer = list(&member, linearizable).await;
        let header = answer.header.unwrap();
        assert_eq!(header.revision, 0, "the membership has no revision");
        assert!(header.member_id != 0 && header.cluster_id != 0);
        let [one] = &answer.members[..] else { panic!("{answer:?}") };
        assert_eq!((one.id, one.name.as_str(), one.is_learner), (header.member_id, "default", false));
        assert_eq!(one.client_ur_ls, std::slice::from_ref(&member.endpoint));
        assert_eq!(one.peer_ur_ls.len(), 1, "{one:?}");
    }
}

#[tokio::test]
async fn a_member_with_bad_or_used_urls_is_not_added() {
    let member = Member::start().await;
    let add = async |urls: &[&str]| {
        let peer_ur_ls = urls.iter().map(ToString::to_string).collect();
        refusal(member.cluster().member_add(pb::MemberAddRequest { peer_ur_ls, is_learner: false }).await)
    };
    let bad = refused(Code::InvalidArgument, "etcdserver: given member URLs are invalid");
    for urls in [&[][..], &["garbage"], &["http://127.0.0.1"], &["http://127.0.0.1:1/path"]] {
        assert_eq!(add(urls).await, bad, "{urls:?}");
    }
    let used = only(&member).await.peer_ur_ls.remove(0);
    let exists = refused(Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
    assert_eq!(add(&[&used]).await, exists);
}

#[tokio::test]
async fn the_last_member_stays_and_unknown_ones_are_not_found() {
    let member = Member::start().await;
    let id = only(&member).await.id;
    let unknown = refused(Code::NotFound, "etcdserver: member not found");
    let remove = async |id| refusal(member.cluster().member_remove(pb::MemberRemoveRequest { id }).await);
    let text = "etcdserver: re-configuration failed due to not enough started members";
    assert_eq!(remove(id).await, refused(Code::Unknown, text));
    assert_eq!(remove(1).await, unknown);
    let promote = async |id| refusal(member.cluster().member_promote(pb::MemberPromoteRequest { id }).await);
    let voter = refused(Code::FailedPrecondition, "etcdserver: can only promote a learner member");
    assert_eq!(promote(id).await, voter);
    assert_eq!(promote(1).await, unknown);
}

#[tokio::test]
async fn a_members_urls_are_checked_before_they_change() {
    let member = Member::start().await;
    let one = only(&member).await;
    let update =
        async |id, peer_ur_ls| member.cluster().member_update(pb::MemberUpdateRequest { id, peer_ur_ls }).await;
    let unknown = refused(Code::NotFound, "etcdserver: member not found");
    assert_eq!(refusal(update(1, vec!["http://127.0.0.1:1".into()]).await), unknown);
    let same = update(one.id, one.peer_ur_ls.clone()).await.unwrap().into_inner();
    assert_eq!(same.members, std::slice::from_ref(&one));
    if !member.is_etcd() {
        let bad = refused(Code::InvalidArgument, "etcdserver: given member URLs are invalid");
        assert_eq!(refusal(update(one.id, vec!["garbage".into()]).await), bad);
    }
}

#[tokio::test]
async fn the_peers_port_tells_the_version_over_http_1() {
    let config = configs(1).remove(0);
    let address = config.listen_peer_urls[0].to_string();
    let address = address.strip_prefix("http://").unwrap();
    let servers = start(vec![config]).await;
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET /version HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"etcdserver\":\"3.7.3\""), "{answer}");
    shutdown(servers).await;
}
