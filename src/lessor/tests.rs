//! The clocks of leases, with a clock that the tests turn.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use super::*;
use crate::proto::etcdserverpb as pb;
use crate::raft;
use crate::state::{Applied, Command, Response};

// The tests turn the clock by hundreds of seconds: what the machine's own time adds to that does not matter.

/// A lessor that leads `leases`, and its clock.
fn leading(leases: &[(i64, i64)]) -> (Lessor, Clock) {
    let clock = Clock::system();
    let lessor = Lessor::new(clock.clone(), 2);
    lessor.promote(Duration::ZERO, || leases.to_vec());
    (lessor, clock)
}

fn pass(clock: &Clock, time: Duration) {
    clock.skew(time.as_nanos() as i64);
}

fn grant(lessor: &Lessor, id: i64, ttl: i64) {
    lessor.on_change(LeaseChange::Granted { id, ttl });
}

/// Everything that has expired by now, without revoking it.
fn expired(lessor: &Lessor) -> BTreeSet<i64> {
    std::iter::from_fn(|| lessor.expired()).flatten().collect()
}

/// A round in which every proposal is applied; what was revoked.
async fn revoked(lessor: &Lessor) -> BTreeSet<i64> {
    let ids = RefCell::new(BTreeSet::new());
    let apply = |command| {
        let Command::LeaseRevoke(pb::LeaseRevokeRequest { id }) = command else { panic!("{command:?}") };
        assert!(ids.borrow_mut().insert(id), "{id} is proposed once");
        lessor.on_change(LeaseChange::Revoked { id });
        std::future::ready(Ok(Applied { revision: 1, response: Ok(Response::LeaseRevoke) }))
    };
    lessor.revoke_expired(apply).await;
    ids.into_inner()
}

#[test]
fn the_shortest_ttl_is_one_and_a_half_elections() {
    let of = |heartbeat_interval_ms, election_timeout_ms| {
        ttl_seconds_min(&Config { heartbeat_interval_ms, election_timeout_ms, ..Config::default() })
    };
    assert_eq!(of(100, 1000), 2);
    assert_eq!(of(100, 2000), 3);
    assert_eq!(of(100, 5000), 8);
    assert_eq!(of(10, 100), 1);
    let lessor = Lessor::new(Clock::system(), 2);
    assert_eq!([-1, 0, 1, 2, 60].map(|ttl| lessor.effective_ttl(ttl)), [2, 2, 2, 2, 60]);
}

#[test]
fn a_lease_expires_when_its_time_is_over_and_never_before() {
    let (lessor, clock) = leading(&[]);
    grant(&lessor, 1, 1000);
    grant(&lessor, 2, 2000);
    pass(&clock, Duration::from_secs(900));
    assert_eq!(expired(&lessor), BTreeSet::new());
    pass(&clock, Duration::from_secs(100) + TICK);
    assert_eq!(expired(&lessor), BTreeSet::from([1]));
    assert_eq!(lessor.remaining(1), Ok(Some(Duration::ZERO)));
    pass(&clock, Duration::from_secs(1000));
    assert_eq!(expired(&lessor), BTreeSet::from([1, 2]), "1 comes up again, its revocation was not applied");
}

#[test]
fn renewing_gives_the_whole_ttl_again() {
    let (lessor, clock) = leading(&[(1, 1000), (2, 1000)]);
    for _ in 0..5 {
        pass(&clock, Duration::from_secs(700));
        assert_eq!(lessor.renew(1), Ok(Some(1000)));
    }
    assert_eq!(lessor.renew(2), Ok(None), "expired, though not revoked yet");
    assert_eq!(lessor.renew(3), Ok(None), "never granted");
    assert_eq!(expired(&lessor), BTreeSet::from([2]));
    let remaining = lessor.remaining(1).unwrap().unwrap();
    assert!(remaining > Duration::from_secs(700) && remaining <= Duration::from_secs(1000), "{remaining:?}");
    pass(&clock, Duration::from_secs(1000) + TICK);
    assert!(expired(&lessor).contains(&1));
}

#[test]
fn a_new_leader_gives_every_lease_its_whole_ttl_and_the_grace() {
    let clock = Clock::system();
    let lessor = Lessor::new(clock.clone(), 2);
    grant(&lessor, 9, 1000);
    assert_eq!((lessor.renew(9), lessor.remaining(9)), (Err(NotLeading), Err(NotLeading)));
    lessor.promote(Duration::from_secs(500), || vec![(1, 1000)]);
    pass(&clock, Duration::from_secs(1200));
    assert_eq!(expired(&lessor), BTreeSet::new());
    assert_eq!(lessor.renew(1), Ok(Some(1000)));
    lessor.demote();
    pass(&clock, Duration::from_secs(6000));
    assert_eq!(expired(&lessor), BTreeSet::new(), "who does not lead expires nothing");
    lessor.promote(Duration::from_secs(500), || vec![(1, 1000)]);
    pass(&clock, Duration::from_secs(1500) + TICK);
    assert_eq!(expired(&lessor), BTreeSet::from([1]));
}

#[test]
fn the_grace_is_not_lost_by_renewing() {
    let (lessor, clock) = leading(&[]);
    lessor.promote(Duration::from_secs(500), || vec![(1, 1000)]);
    assert_eq!(lessor.renew(1), Ok(Some(1000)));
    pass(&clock, Duration::from_secs(1200));
    assert_eq!(expired(&lessor), BTreeSet::new());
}

#[test]
fn leases_are_sorted_by_expiry() {
    let (lessor, clock) = leading(&[(1, 3000), (2, 2000), (3, 1000), (4, 2000)]);
    pass(&clock, Duration::from_secs(500));
    lessor.renew(3).unwrap();
    let mut ids = [1, 2, 3, 4, 5];
    lessor.sort_by_expiry(&mut ids);
    assert_eq!(ids, [3, 2, 4, 1, 5]);
    lessor.demote();
    lessor.sort_by_expiry(&mut ids);
    assert_eq!(ids, [1, 2, 3, 4, 5]);
}

#[test]
fn a_lease_of_a_lifetime_and_one_of_a_broken_ttl_are_kept() {
    let (lessor, clock) = leading(&[(1, i64::MAX), (2, 9_000_000_000)]);
    grant(&lessor, 3, -5);
    pass(&clock, Duration::from_secs(3600));
    assert_eq!(expired(&lessor), BTreeSet::from([3]));
    assert_eq!(lessor.renew(1), Ok(Some(i64::MAX)));
    assert_eq!(lessor.renew(2), Ok(Some(9_000_000_000)));
}

#[tokio::test]
async fn a_hundred_thousand_leases_that_end_together_go_in_one_round() {
    let leases: Vec<(i64, i64)> = (1..=100_000).map(|id| (id, 5)).collect();
    let (lessor, clock) = leading(&leases);
    for id in 1..=10 {
        grant(&lessor, id, 3600);
    }
    pass(&clock, Duration::from_secs(5) + TICK);
    assert_eq!(revoked(&lessor).await, (11..=100_000).collect());
    assert_eq!(revoked(&lessor).await, BTreeSet::new());
    pass(&clock, Duration::from_secs(3600));
    assert_eq!(revoked(&lessor).await, (1..=10).collect());
}

#[tokio::test]
async fn a_revocation_of_unknown_fate_is_proposed_again() {
    let (lessor, clock) = leading(&[(1, 5)]);
    pass(&clock, Duration::from_secs(5) + TICK);
    let tries = Cell::new(0);
    let fail = |_| {
        tries.set(tries.get() + 1);
        std::future::ready(Err(raft::Error::Timeout))
    };
    lessor.revoke_expired(fail).await;
    lessor.revoke_expired(fail).await;
    assert_eq!(tries.get(), 1, "not before the retry's time");
    assert_eq!(lessor.renew(1), Ok(None), "it may be revoked already");
    pass(&clock, RETRY + TICK);
    assert_eq!(revoked(&lessor).await, BTreeSet::from([1]));
}

proptest::proptest! {
    /// Any order of grants, renewals, revocations and time: nothing expires early, everything expires.
    #[test]
    fn the_wheel_loses_nothing_and_is_never_early(
        steps in proptest::collection::vec((0..5_u8, 1..8_i64, 1..20_i64), 1..200),
    ) {
        let (lessor, clock) = leading(&[]);
        let mut ends = std::collections::BTreeMap::new();
        for (kind, id, amount) in steps {
            let seconds = Duration::from_secs(amount as u64);
            match kind {
                0 => {
                    ends.insert(id, (seconds, clock.now() + seconds));
                    grant(&lessor, id, amount);
                }
                1 => {
                    lessor.on_change(LeaseChange::Revoked { id });
                    ends.remove(&id);
                }
                2 => {
                    let now = clock.now();
                    if lessor.renew(id).unwrap().is_some() {
                        let (ttl, end) = ends.get_mut(&id).unwrap();
                        *end = now + *ttl;
                    }
                }
                3 => pass(&clock, seconds / 4),
                _ => {
                    for id in expired(&lessor) {
                        proptest::prop_assert!(ends[&id].1 <= clock.now(), "{} early", id);
                        lessor.on_change(LeaseChange::Revoked { id });
                        ends.remove(&id);
                    }
                }
            }
        }
        pass(&clock, Duration::from_secs(600));
        proptest::prop_assert_eq!(expired(&lessor), ends.keys().copied().collect());
    }
}

#[test]
fn a_replaced_state_leaves_no_clock_of_the_old_one() {
    let replaced = || LeaseChange::Replaced { leases: vec![(2, 1000), (3, 3000)] };
    let (lessor, clock) = leading(&[(1, 1000), (2, 1000)]);
    pass(&clock, Duration::from_secs(900));
    lessor.on_change(replaced());
    pass(&clock, Duration::from_secs(900));
    assert_eq!(lessor.remaining(1), Ok(None), "it is not in the new state");
    assert_eq!(expired(&lessor), BTreeSet::new(), "whoever counts as leading gives them their whole TTL again");
    pass(&clock, Duration::from_secs(100) + TICK);
    assert_eq!(expired(&lessor), BTreeSet::from([2]));

    lessor.demote();
    lessor.on_change(replaced());
    assert_eq!(lessor.remaining(3), Err(NotLeading));
    pass(&clock, Duration::from_secs(9000));
    assert_eq!(expired(&lessor), BTreeSet::new(), "a follower has no clocks");
}
