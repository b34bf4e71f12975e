//! Rounds by hand, on an engine in memory that can lose power at any call.

use super::*;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::proto::etcdserverpb as pb;
use crate::raft::batch::Batcher;
use crate::raft::meter::Meter;
use crate::raft::types::log_id;
use crate::state::Command;
use crate::storage::engine::{Error, Visitor};
use crate::storage::memory::MemoryEngine;
use crate::watch::{self, Hub};

/// So long that a few of them make a chunk.
const LONG: usize = 3 << 20;

/// An opened engine; what it wrote stays when it is gone.
struct Opened {
    disk: Arc<Mutex<MemoryEngine>>,
    /// Writes and flushes that still succeed.
    calls_left: usize,
}

impl Opened {
    fn call(&mut self) -> Result<(), Error> {
        self.calls_left = self.calls_left.checked_sub(1).ok_or(Error::Failed)?;
        Ok(())
    }
}

impl Engine for Opened {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.disk.lock().get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visitor<'_>) -> Result<(), Error> {
        self.disk.lock().scan(from, to, visit)
    }

    fn write(&mut self, batch: &WriteBatch) -> Result<(), Error> {
        self.call()?;
        self.disk.lock().write(batch)
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.call()?;
        self.disk.lock().flush()
    }

    fn size_on_disk(&self) -> Result<u64, Error> {
        Ok(0)
    }
}

fn mark(index: u64) -> Mark {
    Mark { log_id: Some(log_id(1, index)), ..Mark::default() }
}

fn shared(store: Store, mark: Mark) -> Arc<Shared> {
    let store = Arc::new(store);
    let hub = Hub::new(store.clone(), |_| pb::ResponseHeader::default(), watch::Options::default());
    let metrics = Arc::new(Metrics::new(&crate::config::Config::for_test()));
    let meter = Meter::new(metrics, Clock::system(), Duration::MAX);
    let batcher = Arc::new(Batcher::new(1));
    Arc::new(Shared::new(1, store, Arc::new(hub), mark, [batcher.clone(), batcher], Box::new(|_| ()), meter))
}

/// A checkpoint over the state on what `disk` holds; `durable` as a start finds it.
fn checkpoint(shared: &Arc<Shared>, disk: &Arc<Mutex<MemoryEngine>>, durable: Option<&Mark>) -> (Arc<Inner>, Writer) {
    let open = |disk: &Arc<Mutex<MemoryEngine>>| {
        Box::new(Opened { disk: disk.clone(), calls_left: usize::MAX }) as Box<dyn Engine>
    };
    let again = disk.clone();
    let reopen: Reopen = Box::new(move || Ok(open(&again)));
    let engine = Some(open(disk));
    let Checkpoint(inner) = Checkpoint::new(engine, reopen, durable, &shared.store, Clock::system(), Box::new(|_| ()));
    let writer = inner.writer(shared.clone()).unwrap();
    (inner, writer)
}

fn put(store: &Store, key: &str, value_bytes: usize) {
    let (key, value) = (key.to_owned().into(), vec![b'v'; value_bytes].into());
    let (applied, _) = store.apply(&Command::Put(pb::PutRequest { key, value, ..Default::default() }));
    assert!(applied.response.is_ok());
}

fn delete(store: &Store, key: &str) {
    store.apply(&Command::DeleteRange(pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() }));
}

fn compact(store: &Store, revision: i64) {
    let (applied, _) = store.apply(&Command::Compact(pb::CompactionRequest { revision, physical: false }));
    assert!(applied.response.is_ok());
}

/// Another store with the same content, as a snapshot makes one.
fn copy(store: &Store) -> Store {
    let records = store.view().records().into_iter().map(Ok::<_, io::Error>);
    Store::restore(store.meta(), records).unwrap()
}

/// A state at entry 10, and what became of it at entry 20.
fn two_states() -> (Store, Store) {
    let old = Store::new();
    put(&old, "stays", 1);
    put(&old, "superseded", 1);
    put(&old, "removed", 1);
    delete(&old, "removed");
    put(&old, "long", LONG);
    let new = copy(&old);
    put(&new, "superseded", 2);
    for number in 0..6 {
        put(&new, &format!("long-{number}"), LONG);
    }
    compact(&new, new.revision() - 2);
    (old, new)
}

/// Whether the engine holds exactly this state, no record more.
fn holds(disk: &Mutex<MemoryEngine>, store: &Store, index: u64) -> bool {
    let disk = disk.lock();
    let Some(loaded) = load(&*disk).unwrap() else { return false };
    let mut keys = 0;
    let mut count = |_: &[u8], _: &[u8]| {
        keys += 1;
        Ok(ControlFlow::Continue(()))
    };
    disk.scan(engine::REVISIONS_START, engine::REVISIONS_END, &mut count).unwrap();
    let records = store.view().records();
    loaded.mark.log_id == mark(index).log_id
        && loaded.store.meta() == store.meta()
        && loaded.store.view().records() == records
        && keys == page::entries(&records).len()
}

fn install(shared: &Shared, store: &Store) {
    drop(shared.replace(Loaded { store: copy(store), mark: mark(20) }).unwrap());
}

#[test]
fn a_crash_at_any_point_of_a_rebuild_leaves_the_old_state_or_none() {
    let (old, new) = two_states();
    for flushed_only in [true, false] {
        for calls in 0.. {
            let disk = Arc::default();
            let shared = shared(copy(&old), mark(10));
            let (inner, mut writer) = checkpoint(&shared, &disk, None);
            writer.round(&inner).unwrap();
            assert!(holds(&disk, &old, 10));
            install(&shared, &new);
            writer.engine = Some(Box::new(Opened { disk: disk.clone(), calls_left: calls }));
            if writer.round(&inner).is_ok() {
                assert!(calls > 5, "there are several steps to fail in");
                assert!(holds(&disk, &new, 20));
                assert_eq!(inner.index.load(Ordering::Acquire), 20);
                break;
            }
            assert_eq!(inner.index.load(Ordering::Acquire), 10, "nothing newer is known to be durable");

            let mut crashed = MemoryEngine::clone(&disk.lock());
            if flushed_only {
                crashed.crash();
            }
            let crashed = Arc::new(Mutex::new(crashed));
            let is_empty = load(&*crashed.lock()).unwrap().is_none();
            let is_whole = holds(&crashed, &new, 20) && !flushed_only;
            assert!(is_empty || is_whole || holds(&crashed, &old, 10), "after {calls} calls");
            // As the start does: the snapshot file has the state, the engine counts as empty.
            let (inner, mut restarted) = checkpoint(&shared, &crashed, None);
            restarted.round(&inner).unwrap();
            assert!(holds(&crashed, &new, 20));

            // As the thread does when it lives on.
            writer.close(10);
            writer.round(&inner).unwrap();
            assert!(holds(&disk, &new, 20));
        }
    }
}

#[test]
fn a_round_that_an_install_overtakes_leaves_no_mark_and_begins_again() {
    let (old, new) = two_states();
    let disk = Arc::default();
    let shared = shared(copy(&old), mark(10));
    let (inner, mut writer) = checkpoint(&shared, &disk, None);
    writer.round(&inner).unwrap();
    // The old state goes on for a revision, which is to be written, but is asked for too late.
    put(&shared.store, "superseded", 2);
    let goal = writer.goal();
    install(&shared, &new);
    assert_eq!(writer.write(&goal).unwrap(), None);
    assert!(holds(&disk, &old, 10));
    writer.round(&inner).unwrap();
    assert!(holds(&disk, &new, 20));
    put(&shared.store, "after", 1);
    compact(&shared.store, shared.store.revision());
    writer.round(&inner).unwrap();
    writer.round(&inner).unwrap();
    assert!(holds(&disk, &copy(&shared.store), 20), "it goes on behind the new state, compaction too");
}

#[test]
fn what_a_killed_first_round_left_does_not_come_back() {
    let (old, new) = two_states();
    let disk = Arc::default();
    let (inner, mut writer) = checkpoint(&shared(copy(&old), mark(10)), &disk, None);
    writer.round(&inner).unwrap();
    let mut batch = WriteBatch::default();
    batch.delete(&engine::meta_key(MARK_KEY));
    disk.lock().write(&batch).unwrap();

    let (inner, mut writer) = checkpoint(&shared(copy(&new), mark(20)), &disk, None);
    writer.round(&inner).unwrap();
    assert!(holds(&disk, &new, 20), "compacted records of the old state are gone");
}

#[test]
fn a_checkpoint_that_is_there_is_gone_on_with() {
    let (old, _) = two_states();
    let disk = Arc::default();
    let (inner, mut writer) = checkpoint(&shared(copy(&old), mark(10)), &disk, None);
    writer.round(&inner).unwrap();
    let shared = shared(copy(&old), mark(10));
    let (_, mut writer) = checkpoint(&shared, &disk, Some(&mark(10)));
    put(&shared.store, "after", 1);
    assert!(writer.goal().base.is_none());
}
