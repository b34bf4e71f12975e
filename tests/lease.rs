//! The Lease service over gRPC: granting, renewing, asking, revoking and expiring.

mod common;

use common::*;
use kelson::proto::etcdserverpb as pb;
use tonic::Code;

async fn grant(member: &Member, id: i64, ttl: i64) -> pb::LeaseGrantResponse {
    member.lease().lease_grant(pb::LeaseGrantRequest { ttl, id }).await.unwrap().into_inner()
}

async fn time_to_live(member: &Member, id: i64) -> pb::LeaseTimeToLiveResponse {
    member.lease().lease_time_to_live(pb::LeaseTimeToLiveRequest { id, keys: true }).await.unwrap().into_inner()
}

async fn put_leased(member: &Member, key: &str, lease: i64) {
    member.kv().put(pb::PutRequest { lease, ..put(key, "v") }).await.unwrap();
}

async fn leases(member: &Member) -> Vec<i64> {
    let answer = member.lease().lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner();
    answer.leases.iter().map(|lease| lease.id).collect()
}

/// A stream of renewals: send ids, get answers.
struct KeepAlive(Duplex<pb::LeaseKeepAliveRequest, pb::LeaseKeepAliveResponse>);

impl KeepAlive {
    fn open(member: &Member) -> Self {
        let mut client = member.lease();
        Self(Duplex::open(|requests| async move { client.lease_keep_alive(requests).await }))
    }

    async fn renew(&mut self, id: i64) -> (i64, i64) {
        self.0.send(pb::LeaseKeepAliveRequest { id }).await;
        let answer = self.0.next().await.expect("an answer").unwrap();
        assert!(answer.header.is_some());
        (answer.id, answer.ttl)
    }
}

#[tokio::test]
async fn a_lease_gets_an_id_and_at_least_the_shortest_ttl() {
    let member = Member::start().await;
    for (asked, given) in [(-1, 2), (0, 2), (1, 2), (2, 2), (100, 100), (9_000_000_000, 9_000_000_000)] {
        let lease = grant(&member, 0, asked).await;
        assert!(lease.id > 0, "{lease:?}");
        assert_eq!((lease.ttl, lease.error.as_str()), (given, ""));
        assert_eq!(lease.header.unwrap().revision, 1, "a lease is no change of a key");
    }
    assert_eq!(grant(&member, -5, 60).await.id, -5);
    let again = member.lease().lease_grant(pb::LeaseGrantRequest { ttl: 60, id: -5 }).await;
    assert_eq!(refusal(again), refused(Code::FailedPrecondition, "etcdserver: lease already exists"));
    let long = member.lease().lease_grant(pb::LeaseGrantRequest { ttl: 9_000_000_001, id: 0 }).await;
    assert_eq!(refusal(long), refused(Code::OutOfRange, "etcdserver: too large lease TTL"));
}

#[tokio::test]
async fn a_lease_tells_its_time_and_its_keys() {
    let member = Member::start().await;
    grant(&member, 7, 1000).await;
    for key in ["b", "a"] {
        put_leased(&member, key, 7).await;
    }
    let lease = time_to_live(&member, 7).await;
    assert_eq!((lease.id, lease.granted_ttl), (7, 1000));
    assert!((900..=1000).contains(&lease.ttl), "{}", lease.ttl);
    let mut keys: Vec<String> = lease.keys.iter().map(|key| text(key)).collect();
    keys.sort();
    assert_eq!(keys, ["a", "b"]);
    let none = time_to_live(&member, 8).await;
    assert_eq!((none.id, none.ttl, none.granted_ttl, none.keys.len()), (8, -1, 0, 0));
    assert!(none.header.is_some());
}

#[tokio::test]
async fn a_revoked_lease_takes_its_keys_along_in_one_revision() {
    let member = Member::start().await;
    grant(&member, 7, 1000).await;
    grant(&member, 8, 1000).await;
    for key in ["c", "a", "b", "moved", "freed"] {
        put_leased(&member, key, 7).await;
    }
    put_leased(&member, "moved", 8).await;
    member.put("freed", "").await;
    let before = member.revision().await;
    let answer = member.lease().lease_revoke(pb::LeaseRevokeRequest { id: 7 }).await.unwrap().into_inner();
    assert_eq!(answer.header.unwrap().revision, before + 1);
    assert_eq!(member.keys("\0", "\0").await, ["freed", "moved"]);
    let again = member.lease().lease_revoke(pb::LeaseRevokeRequest { id: 7 }).await;
    assert_eq!(refusal(again), refused(Code::NotFound, "etcdserver: requested lease not found"));
    assert_eq!(leases(&member).await, [8]);
}

#[tokio::test]
async fn one_stream_renews_many_leases() {
    let member = Member::start().await;
    grant(&member, 7, 1000).await;
    grant(&member, 8, 2000).await;
    let mut renewals = KeepAlive::open(&member);
    assert_eq!(renewals.renew(7).await, (7, 1000));
    assert_eq!(renewals.renew(8).await, (8, 2000));
    assert_eq!(renewals.renew(9).await, (9, 0), "no such lease, and no error");
    assert_eq!(renewals.renew(7).await, (7, 1000));
    assert!(renewals.0.finish().await.is_empty(), "the stream ends well with the client's half");
}

#[tokio::test]
async fn leases_are_listed_by_expiry() {
    let member = Member::start().await;
    assert!(leases(&member).await.is_empty());
    for (id, ttl) in [(1, 3000), (2, 1000), (3, 2000)] {
        grant(&member, id, ttl).await;
    }
    assert_eq!(leases(&member).await, [2, 3, 1]);
}

#[tokio::test]
async fn an_expired_lease_deletes_its_keys_and_a_renewed_one_does_not() {
    let member = Member::start().await;
    grant(&member, 1, 2).await;
    grant(&member, 2, 2).await;
    put_leased(&member, "short", 1).await;
    put_leased(&member, "renewed", 2).await;
    let mut renewals = KeepAlive::open(&member);
    let gone = async {
        until("the key of the short lease goes", async || member.get("short").await.is_none()).await;
    };
    let renewing = async {
        loop {
            assert_eq!(renewals.renew(2).await, (2, 2));
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = gone => {}
        () = renewing => {}
    }
    assert_eq!(leases(&member).await, [2]);
    assert_eq!(time_to_live(&member, 1).await.ttl, -1);
    assert_eq!(KeepAlive::open(&member).renew(1).await, (1, 0));
    assert_eq!(member.get("renewed").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn thousands_of_leases_expire_together() {
    let member = Member::start().await;
    let grants = (0..5000).map(|_| {
        let mut client = member.lease();
        async move { client.lease_grant(pb::LeaseGrantRequest { ttl: 2, id: 0 }).await.map(drop) }
    });
    let granted = futures_util::future::join_all(grants).await;
    assert!(granted.iter().all(Result::is_ok));
    until("all leases expire", async || leases(&member).await.is_empty()).await;
}
