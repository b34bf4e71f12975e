//! What the state costs with a million keys: `cargo bench --bench state [keys]`. Prints, asserts nothing about time.
//! On Linux the figures are CPU time, so that neighbours on the machine do not show; elsewhere time on the clock.

use std::convert::Infallible;

use bytes::Bytes;
use kelson::clock::Clock;
use kelson::proto::etcdserverpb as pb;
use kelson::state::{Command, Store};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Commands made before a round is timed.
const ROUND: usize = 50_000;

fn main() {
    let keys = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(1_000_000);
    let bench = Bench { clock: Clock::system(), store: Store::new(), keys };
    println!("{keys} keys of {} B on average, values of 32 B", (0..1000).map(|i| key(i).len()).sum::<usize>() / 1000);
    let before = resident_bytes();
    bench.puts("put, new key", 0..keys);
    let records: usize = bench.store.sizes().live_bytes as usize / keys;
    println!(
        "{:>32}: {} B a key, of these {records} B record",
        "memory with history",
        (resident_bytes() - before) / keys
    );
    bench.reads();
    bench.puts("put, known key", 0..keys / 4);
    bench.puts_under_views();
    bench.old_counts();
    bench.compaction();
    bench.restore();
    bench.delete_everything();
}

struct Bench {
    clock: Clock,
    store: Store,
    keys: usize,
}

impl Bench {
    /// Nanoseconds of CPU that this thread has used, else of the clock.
    fn nanos(&self) -> usize {
        let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let used = schedstat.split(' ').next().and_then(|nanos| nanos.parse().ok());
        used.unwrap_or_else(|| self.clock.now().as_nanos() as usize)
    }

    fn report(&self, what: &str, operations: usize, run: impl FnOnce()) {
        let start = self.nanos();
        run();
        let nanos = self.nanos() - start;
        println!("{what:>32}: {} ns", nanos / operations.max(1));
    }

    fn puts(&self, what: &str, range: std::ops::Range<usize>) {
        let mut nanos = 0;
        let mut rest = range.clone();
        while !rest.is_empty() {
            let commands: Vec<Command> = rest.by_ref().take(ROUND).map(|i| put(scatter(i, self.keys))).collect();
            let start = self.nanos();
            for command in &commands {
                self.store.apply(command);
            }
            nanos += self.nanos() - start;
        }
        println!("{what:>32}: {} ns", nanos / range.len().max(1));
    }

    /// A view taken before every put and kept until the next: every put copies its path.
    fn puts_under_views(&self) {
        let commands: Vec<Command> = (0..ROUND).map(|i| put(scatter(i * 7 + 3, self.keys))).collect();
        self.report("put, known key, a view each", ROUND, || {
            let mut pinned = self.store.view();
            for command in &commands {
                self.store.apply(command);
                pinned = self.store.view();
            }
            drop(pinned);
        });
    }

    fn reads(&self) {
        let requests: Vec<pb::RangeRequest> =
            (0..ROUND * 4).map(|i| range(key(scatter(i * 3 + 1, self.keys)), Vec::new())).collect();
        self.report("get", requests.len(), || {
            for request in &requests {
                assert_eq!(self.store.view().range(request).expect("readable").kvs.len(), 1);
            }
        });
        let pages: Vec<pb::RangeRequest> = (0..2000)
            .map(|i| pb::RangeRequest { limit: 500, ..range(key(scatter(i, self.keys)), b"/s".to_vec()) })
            .collect();
        self.report("page of 500, count included", pages.len(), || {
            for request in &pages {
                assert!(!self.store.view().range(request).expect("readable").kvs.is_empty());
            }
        });
        self.report("count of a range", pages.len() * 20, || {
            for request in pages.iter().cycle().take(pages.len() * 20) {
                assert!(self.store.view().count(&request.key, b"/s") > 0);
            }
        });
        self.report("whole range, per key", self.keys, || {
            assert_eq!(self.store.view().range(&range(vec![0], vec![0])).expect("readable").kvs.len(), self.keys);
        });
    }

    fn old_counts(&self) {
        for changes in [1000, 10_000, 100_000] {
            let at = self.store.revision();
            let commands: Vec<Command> = (0..changes).map(|i| put_key(new_key(scatter(i, self.keys), at))).collect();
            for command in &commands {
                self.store.apply(command);
            }
            let request = pb::RangeRequest { revision: at, count_only: true, ..range(vec![0], vec![0]) };
            self.report(&format!("count {changes} creations ago"), 100, || {
                for _ in 0..100 {
                    assert!(self.store.view().range(&request).expect("readable").count > 0);
                }
            });
        }
    }

    fn compaction(&self) {
        let revision = self.store.revision();
        self.store.apply(&Command::Compact(pb::CompactionRequest { revision, physical: false }));
        let (mut slices, mut dropped) = (0, 0);
        self.report("compaction, per key", self.keys, || {
            loop {
                let slice = self.store.compact_slice(revision, 1000);
                slices += 1;
                dropped += slice.dropped.len();
                if slice.done {
                    break;
                }
            }
        });
        println!("{:>32}: {slices}; {dropped} versions dropped", "slices");
    }

    fn restore(&self) {
        let view = self.store.view();
        let mut records = Vec::new();
        self.report("records for a snapshot, per key", self.keys, || records = view.records());
        let meta = self.store.meta();
        let mut restored = Store::new();
        self.report("restore, per record", records.len(), || {
            restored = Store::restore(meta, records.iter().cloned().map(Ok::<_, Infallible>)).expect("no source fails");
        });
        assert_eq!(restored.sizes().live_bytes, self.store.sizes().live_bytes);
        self.report("hash, per key", self.keys, || {
            self.store.hash_kv(0).expect("readable");
        });
    }

    fn delete_everything(&self) {
        let all = pb::DeleteRangeRequest { key: vec![0].into(), range_end: vec![0].into(), prev_kv: false };
        let keys = self.store.sizes().keys as usize;
        self.report("delete in one command, per key", keys, || {
            self.store.apply(&Command::DeleteRange(all));
        });
    }
}

/// `/registry/<kind>/<namespace>/<name>` as Kubernetes writes them.
fn key(i: usize) -> Vec<u8> {
    const KINDS: [&str; 6] = ["pods", "events", "configmaps", "secrets", "leases", "replicasets"];
    let kind = KINDS[i % KINDS.len()];
    let hash = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let namespace = hash >> 57;
    let name = hash & 0xffff_ffff;
    format!("/registry/{kind}/namespace-{namespace:03}/deployment-{:02}-{name:08x}-{i:07}", hash >> 40 & 31).into()
}

/// A permutation of `0..keys`, so that neighbours in time are none in key order.
fn scatter(i: usize, keys: usize) -> usize {
    (i * 7_368_787 + 12_345) % keys
}

/// A key beside an old one, not used before `at`.
fn new_key(i: usize, at: i64) -> Vec<u8> {
    let mut key = key(i);
    key.extend_from_slice(format!("-{at}").as_bytes());
    key
}

fn put(i: usize) -> Command {
    put_key(key(i))
}

fn put_key(key: Vec<u8>) -> Command {
    Command::Put(pb::PutRequest { key: key.into(), value: Bytes::from_static(&[7; 32]), ..Default::default() })
}

fn range(key: Vec<u8>, range_end: Vec<u8>) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() }
}

/// Resident memory of this process, as Linux tells it.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}
