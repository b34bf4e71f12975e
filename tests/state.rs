//! The store under several threads, with nodes of their real size: whatever is seen at one moment is one revision.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use kelson::proto::etcdserverpb as pb;
use kelson::state::{Command, Error, Store};
use pb::request_op::Request;

const ACCOUNTS: u64 = 100;
const TOTAL: u64 = ACCOUNTS * 1000;
const TRANSFERS: u64 = 6000;

/// Accounts lie far from each other, with other keys between them.
fn account(number: u64) -> Bytes {
    format!("account/{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into()
}

fn put(key: Bytes, value: u64) -> pb::PutRequest {
    pb::PutRequest { key, value: value.to_string().into(), ..pb::PutRequest::default() }
}

fn between(key: &'static str, range_end: &'static str, revision: i64) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), range_end: range_end.into(), revision, ..Default::default() }
}

fn accounts(revision: i64) -> pb::RangeRequest {
    between("account/", "account0", revision)
}

fn sum(kvs: &[kelson::proto::Record]) -> u64 {
    kvs.iter().map(|kv| std::str::from_utf8(kv.value()).unwrap().parse::<u64>().unwrap()).sum()
}

/// The same numbers on every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Sets a flag when its thread ends, in whichever way, so that the others end too.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Moves money in transactions, and between them writes, deletes (also very many keys at once) and compacts.
fn write(store: &Store, ended: &AtomicBool) {
    let _ends = Ends(ended);
    let mut numbers = Numbers(7);
    let mut balances = vec![1000; ACCOUNTS as usize];
    for at in 0..TRANSFERS {
        let (from, to) = (numbers.below(ACCOUNTS), numbers.below(ACCOUNTS));
        let amount = numbers.below(balances[from as usize] + 1);
        balances[from as usize] -= amount;
        balances[to as usize] += amount;
        let puts = [from, to].map(|number| put(account(number), balances[number as usize]));
        let puts = if from == to { &puts[..1] } else { &puts[..] };
        let success = puts.iter().map(|put| pb::RequestOp { request: Some(Request::RequestPut(put.clone())) });
        let txn = pb::TxnRequest { success: success.collect(), ..Default::default() };
        store.apply(&Command::Txn(txn)).0.response.unwrap();
        for _ in 0..3 {
            let kind = if at % 2 == 0 { "between" } else { "account.note" };
            let key = format!("{kind}/{:016x}", numbers.below(u64::MAX));
            store.apply(&Command::Put(put(key.into(), at))).0.response.unwrap();
        }
        if at % 100 == 99 {
            let revision = store.revision() - 50;
            store.apply(&Command::Compact(pb::CompactionRequest { revision, physical: false })).0.response.unwrap();
        }
        if at % 1500 == 1499 {
            let delete = pb::DeleteRangeRequest { key: "b".into(), range_end: "c".into(), prev_kv: false };
            store.apply(&Command::DeleteRange(delete)).0.response.unwrap();
        }
    }
}

/// Money is neither made nor lost, at the newest and at an older revision, and counts agree with what is found.
fn read(store: &Store, ended: &AtomicBool) -> u64 {
    let (mut reads, mut last) = (0, 0);
    while !ended.load(Ordering::Acquire) {
        let view = store.view();
        assert!(view.revision() >= last, "revisions do not go back");
        last = view.revision();
        for revision in [0, last, last - 10, view.compact_revision().max(last - 40)] {
            let found = view.range(&accounts(revision)).unwrap();
            assert_eq!((sum(&found.kvs), found.count), (TOTAL, ACCOUNTS as i64), "at {revision} of {last}");
            let found = view.range(&between("a", "c", revision)).unwrap();
            assert_eq!(found.count, found.kvs.len() as i64, "at {revision} of {last}");
        }
        reads += 1;
    }
    reads
}

/// Pages of one revision, each from a view of its own, make up that revision.
fn page(store: &Store, ended: &AtomicBool) -> u64 {
    let mut walks = 0;
    while !ended.load(Ordering::Acquire) {
        let at = store.revision();
        let mut records = Vec::new();
        let mut next = Some(Bytes::from_static(b"account/"));
        while let Some(from) = next {
            match store.view().page(&from, b"account0", at, 7, usize::MAX, false) {
                Ok(page) => {
                    records.extend(page.records);
                    next = page.next;
                }
                Err(error) => {
                    assert_eq!(error, Error::Compacted);
                    records.clear();
                    break;
                }
            }
        }
        assert!(records.is_empty() || sum(&records) == TOTAL, "at {at}");
        walks += 1;
    }
    walks
}

/// History has every revision once, in order, as long as nothing newer than what was followed is dropped.
fn follow(store: &Store, ended: &AtomicBool) {
    let mut after = 1;
    loop {
        let at_end = ended.load(Ordering::Acquire);
        let batches = store.backlog(after, 100, usize::MAX);
        for batch in &batches {
            assert_eq!(batch.revision, after + 1);
            assert!(!batch.changes.is_empty());
            after += 1;
        }
        store.compact_slice(after, 300);
        if at_end && batches.is_empty() {
            break;
        }
    }
    assert_eq!(after, store.revision());
}

#[test]
fn readers_see_whole_revisions_while_others_write_and_compact() {
    let store = Store::new();
    let success = (0..ACCOUNTS).map(|number| Request::RequestPut(put(account(number), 1000)));
    let success = success.map(|request| pb::RequestOp { request: Some(request) }).collect();
    store.apply(&Command::Txn(pb::TxnRequest { success, ..Default::default() })).0.response.unwrap();
    for at in 0..50 {
        store.apply(&Command::Put(put("start".into(), at))).0.response.unwrap();
    }
    let ended = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| write(&store, &ended));
        threads.spawn(|| follow(&store, &ended));
        let readers = [threads.spawn(|| read(&store, &ended)), threads.spawn(|| page(&store, &ended))];
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    assert_eq!(sum(&store.view().range(&accounts(0)).unwrap().kvs), TOTAL);
}
