//! A member is sent a snapshot: from a file on one disk to a state, a file and answers on another.

use std::sync::mpsc::{Receiver, sync_channel};

use bytes::BytesMut;
use futures_util::stream;
use openraft::EntryPayload;
use openraft::storage::{RaftSnapshotBuilder as _, RaftStateMachine as _};

use super::*;
use crate::raft::snapshot::{Held, Image, SnapshotFile};
use crate::raft::types::{Entry, Membership, Payload, Proposal, SnapshotMeta, StoredMembership, log_id};
use crate::state::LeaseChange;

/// Bytes sent at a time: no divisor of a page.
const PIECE_BYTES: usize = 777;

/// A member's state machine and what it is tied to.
struct Member {
    machine: StateMachine,
    shared: Arc<Shared>,
    snapshots: Snapshots,
    batcher: Arc<Batcher>,
    leases: Receiver<LeaseChange>,
}

impl Member {
    fn new(id: u64, snapshots: Snapshots) -> Self {
        let store = Arc::new(Store::new());
        let checkpoint = Checkpoint::memory_only(&store, Clock::system());
        let batcher = Arc::new(Batcher::new(id));
        let (told, leases) = sync_channel(100);
        let on_lease = Box::new(move |change| told.try_send(change).unwrap());
        let shared = Shared::new(
            id,
            store.clone(),
            hub(&store),
            Mark::default(),
            [batcher.clone(), batcher.clone()],
            on_lease,
            meter(),
        );
        let shared = Arc::new(shared);
        checkpoint.attach(shared.clone());
        let machine = StateMachine::new(shared.clone(), snapshots.clone(), checkpoint);
        Self { machine, shared, snapshots, batcher, leases }
    }

    async fn apply(&mut self, index: u64, payload: Payload) {
        let entry = Entry { log_id: log_id(3, index), payload };
        self.machine.apply(stream::iter([Ok((entry, None))])).await.unwrap();
    }

    async fn command(&mut self, index: u64, command: &Command) {
        self.apply(index, EntryPayload::Normal(proposal(99, index, command))).await;
    }

    async fn build(&mut self) -> Held {
        self.machine.get_snapshot_builder().await.build_snapshot().await.unwrap()
    }

    fn store(&self) -> &Store {
        &self.shared.store
    }
}

fn proposal(origin: u64, sequence: u64, command: &Command) -> Proposal {
    let mut payload = BytesMut::new();
    Proposal::begin(origin, &mut payload);
    Command::begin_batch(&mut payload);
    command.encode(&mut payload);
    Proposal::finish(payload, sequence)
}

fn membership() -> Membership {
    let members =
        [1, 2].map(|id| (id, MemberInfo { peer_urls: vec![format!("http://{id}")], ..MemberInfo::default() }));
    Membership::new(vec![[1].into()], BTreeMap::from(members)).unwrap()
}

/// A member at entry 7 with everything that a state can hold, some of it compacted.
async fn ahead(snapshots: Snapshots) -> Member {
    let mut member = Member::new(1, snapshots);
    member.apply(1, EntryPayload::Membership(membership())).await;
    let leased = pb::PutRequest { key: "leased".into(), lease: 5, ..pb::PutRequest::default() };
    let alarm = pb::AlarmRequest { action: 1, member_id: 1, alarm: pb::AlarmType::Nospace.into() };
    let published = pb::Member { id: 1, name: "one".to_owned(), ..pb::Member::default() };
    let commands = [
        Command::LeaseGrant(pb::LeaseGrantRequest { id: 5, ttl: 60 }),
        Command::Put(leased),
        put("a", "1"),
        put("a", "2"),
        Command::Compact(pb::CompactionRequest { revision: 4, physical: false }),
        Command::Publish(published),
        Command::Alarm(alarm),
    ];
    for (index, command) in (2..).zip(&commands) {
        member.command(index, command).await;
    }
    member
}

/// Sends a snapshot as peers do, and takes it as Raft is given it.
fn send(held: &Held, to: &Snapshots) -> io::Result<Held> {
    let file = held.snapshot.open()?;
    let mut receiving = to.receiving()?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < file.len()? {
        let read = file.read_at(at, &mut piece)?;
        receiving.write_all(&piece[..read])?;
        at += read as u64;
    }
    let snapshot = receiving.finish()?;
    Ok(Held { meta: snapshot.meta()?, snapshot })
}

fn on_disk(dir: &Path) -> Snapshots {
    Snapshots::open(Arc::new(RealDisk), dir.to_owned()).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    RealDisk.read_dir(dir).unwrap()
}

fn name(index: u64) -> String {
    format!("{index:016x}.db")
}

fn mark(index: u64) -> Mark {
    Mark { log_id: Some(log_id(3, index)), ..Mark::default() }
}

/// A snapshot of an empty state at an entry.
fn save(snapshots: &Snapshots, index: u64) -> Held {
    let store = Store::new();
    snapshots.save(&Image { mark: mark(index), meta: store.meta(), view: store.view() }).unwrap()
}

#[tokio::test]
async fn an_installed_state_is_the_senders_and_goes_on_as_it_does() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let both_in_memory = (Snapshots::memory_only(), Snapshots::memory_only());
    for (of_leader, of_follower) in [(on_disk(here.path()), on_disk(there.path())), both_in_memory] {
        let mut leader = ahead(of_leader).await;
        let mut follower = Member::new(2, of_follower);
        follower.apply(1, EntryPayload::Membership(membership())).await;
        follower.command(2, &put("lost", "by the new state")).await;
        let pinned = follower.store().view();
        let put_bytes = follower.store().sizes().put_bytes;
        let applied = follower.shared.progress.notified();

        leader.build().await;
        let current = leader.machine.get_current_snapshot().await.unwrap().unwrap();
        let Held { meta, snapshot } = send(&current, &follower.snapshots).unwrap();
        assert_eq!(meta, current.meta);
        follower.machine.install_snapshot(&meta, snapshot).await.unwrap();
        applied.await;

        assert_eq!(follower.machine.applied_state().await.unwrap(), leader.machine.applied_state().await.unwrap());
        assert_eq!(follower.shared.applied_index.load(Ordering::Acquire), 8);
        assert!(!follower.shared.sole_voter.load(Ordering::Acquire), "member 1 is that");
        assert_eq!(follower.store().meta(), leader.store().meta(), "alarms, leases and members too");
        assert_eq!(follower.store().hash_kv(0), leader.store().hash_kv(0));
        assert_eq!(follower.store().lease(5), leader.store().lease(5));
        let keys = |store: &Store| (store.sizes().keys, store.sizes().live_bytes);
        assert_eq!(keys(follower.store()), keys(leader.store()));
        assert_eq!(follower.store().sizes().put_bytes, put_bytes);
        assert_eq!(follower.shared.hub.published(), leader.store().revision());
        assert_eq!(pinned.count(b"lost", b""), 1, "who reads the old state reads on");
        assert_eq!(follower.leases.try_iter().collect::<Vec<_>>(), [LeaseChange::Replaced { leases: vec![(5, 60)] }]);

        for member in [&mut leader, &mut follower] {
            member.command(9, &Command::LeaseRevoke(pb::LeaseRevokeRequest { id: 5 })).await;
        }
        assert_eq!((follower.store().lease(5), follower.store().view().count(b"leased", b"")), (None, 0));
        assert_eq!(follower.store().meta(), leader.store().meta());
        assert_eq!(follower.store().hash_kv(0), leader.store().hash_kv(0));
        let onward = follower.machine.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(onward.meta, meta, "whoever was sent a snapshot can send it on");
        assert_eq!(send(&onward, &Snapshots::memory_only()).unwrap().meta, meta);
    }
    assert_eq!(names(there.path()), [name(8)], "under its final name, and nothing beside it");
    assert_eq!(names(here.path()), [name(8)]);
}

#[tokio::test]
async fn proposals_on_their_way_are_unknown_after_an_install() {
    let mut leader = ahead(Snapshots::memory_only()).await;
    let built = leader.build().await;
    let mut follower = Member::new(2, Snapshots::memory_only());
    let mut on_its_way = follower.batcher.add(&put("proposed", "1")).unwrap();
    follower.batcher.next().await.unwrap();
    let mut waits = follower.batcher.add(&put("open", "1")).unwrap();
    let Held { meta, snapshot } = send(&built, &follower.snapshots).unwrap();
    follower.machine.install_snapshot(&meta, snapshot).await.unwrap();
    assert_eq!(on_its_way.try_recv().unwrap(), Err(Error::LeaderChanged));
    assert!(waits.try_recv().is_err(), "what was not proposed yet waits on");
}

#[tokio::test]
async fn what_does_not_lie_ahead_or_is_not_what_raft_says_is_not_installed() {
    let mut leader = ahead(Snapshots::memory_only()).await;
    let early = leader.build().await;
    leader.command(9, &Command::LeaseRevoke(pb::LeaseRevokeRequest { id: 5 })).await;
    let before = leader.store().meta();
    let error = leader.machine.install_snapshot(&early.meta, early.snapshot.clone()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");

    let other = SnapshotMeta { last_log_id: Some(log_id(3, 10)), ..early.meta.clone() };
    let error = leader.machine.install_snapshot(&other, early.snapshot.clone()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    let last_membership = StoredMembership::default();
    let other = SnapshotMeta { last_membership, ..early.meta };
    leader.machine.install_snapshot(&other, early.snapshot).await.unwrap_err();
    assert_eq!(leader.store().meta(), before);
    assert_eq!(leader.store().lease(5), None);
}

#[tokio::test]
async fn a_file_changed_or_cut_on_its_way_is_refused_where_it_can_be_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = on_disk(dir.path());
    let built = ahead(Snapshots::memory_only()).await.build().await;
    let file = built.snapshot.open().unwrap();
    let mut whole = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut whole).unwrap();
    let receive = |bytes: &[u8]| -> io::Result<SnapshotFile> {
        let mut receiving = snapshots.receiving()?;
        receiving.write_all(bytes)?;
        receiving.finish()
    };
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    receive(&changed).unwrap_err();
    for cut in [0, 1, 4096, whole.len() / 2, whole.len() - 33, whole.len() - 32, whole.len() - 1] {
        assert!(receive(&whole[..cut]).is_err(), "{cut} of {} bytes", whole.len());
    }
    assert_eq!(names(dir.path()), [""; 0], "what was refused is gone");
    let finished = receive(&whole).unwrap();
    assert_eq!(finished.meta().unwrap(), built.meta);
    assert_eq!(names(dir.path()).len(), 1);
    drop(finished);
    assert_eq!(names(dir.path()), [""; 0], "and so is what Raft did not want");
    drop(snapshots.receiving().unwrap());
    assert_eq!(names(dir.path()), [""; 0], "and what was given up");
}

#[test]
fn what_a_killed_process_left_is_removed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = on_disk(dir.path());
    save(&snapshots, 7);
    std::mem::forget(snapshots.receiving().unwrap());
    RealDisk.open(&dir.path().join("0000000000000009.db.tmp"), crate::storage::fs::Open::Create).unwrap();
    assert_eq!(names(dir.path()).len(), 3);
    let again = on_disk(dir.path());
    assert_eq!(names(dir.path()), [name(7)]);
    assert_eq!(again.newest_mark().unwrap().unwrap().log_id, mark(7).log_id);
}

#[test]
fn a_file_stays_under_whoever_sends_it_and_goes_with_the_last_one() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = on_disk(dir.path());
    let built = save(&snapshots, 7);
    let (sending, sending_too) = (snapshots.current().unwrap(), snapshots.current().unwrap());
    drop(built);
    save(&snapshots, 8);
    assert_eq!(names(dir.path()), [name(7), name(8)]);
    send(&sending, &Snapshots::memory_only()).unwrap();
    drop(sending);
    assert_eq!(names(dir.path()), [name(7), name(8)]);
    save(&snapshots, 9);
    assert_eq!(names(dir.path()), [name(7), name(9)], "nobody read the one in between");
    drop(sending_too);
    assert_eq!(names(dir.path()), [name(9)]);

    // The same after a restart, where the file was found and not written.
    let again = on_disk(dir.path());
    again.recall(&mark(9)).unwrap();
    let sending = again.current().unwrap();
    save(&again, 10);
    assert_eq!(names(dir.path()), [name(9), name(10)]);
    drop(sending);
    assert_eq!(names(dir.path()), [name(10)]);
    save(&again, 10);
    drop(again);
    assert_eq!(names(dir.path()), [name(10)], "the current one outlives the process, written twice or not");
}

#[tokio::test]
async fn a_build_that_ends_after_an_install_does_not_take_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut follower = Member::new(2, on_disk(dir.path()));
    follower.command(1, &put("a", "1")).await;
    let late = Image::of(&follower.shared);
    let built = ahead(Snapshots::memory_only()).await.build().await;
    let Held { meta, snapshot } = send(&built, &follower.snapshots).unwrap();
    follower.machine.install_snapshot(&meta, snapshot).await.unwrap();
    assert_eq!(follower.snapshots.save(&late).unwrap().meta, meta);
    assert_eq!(follower.snapshots.current().unwrap().meta, meta);
    assert_eq!(names(dir.path()), [name(8)]);
}

#[tokio::test]
async fn a_snapshot_in_memory_outlives_the_member_that_made_it_while_it_is_sent() {
    let mut member = ahead(Snapshots::memory_only()).await;
    let built = member.build().await;
    drop(member);
    send(&built, &Snapshots::memory_only()).unwrap();
    let path = built.snapshot.path().to_owned();
    drop(built);
    assert!(!RealDisk.exists(&path).unwrap());
}
