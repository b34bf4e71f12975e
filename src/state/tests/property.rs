//! Random command sequences against the model.

use proptest::collection::vec;
use proptest::prelude::*;

use super::model::{Model, ModelEvent, record, within};
use super::*;
use pb::compare::TargetUnion;
use pb::request_op::Request;

/// Keys are few, so that they meet, but enough for a tree of several levels: some are prefixes of others, some hold zero
/// bytes, some are long.
const KEYS: u8 = 90;

fn key(number: u8) -> Bytes {
    let text = match number % 9 {
        0 => vec![b'a' + number / 9],
        1 => vec![b'a' + number / 9, 0],
        2 => vec![b'a' + number / 9, 0, 0],
        3 => format!("/registry/pods/{}", number / 18).into_bytes(),
        4 => format!("/registry/pods/namespace-{}/name-{number}", number / 18).into_bytes(),
        5 => vec![0xff; 1 + usize::from(number / 9)],
        6 => vec![b'a' + number / 18; 40],
        7 => vec![0; usize::from(number / 9) + 1],
        _ => format!("{}{}", "long".repeat(50), number).into_bytes(),
    };
    text.into()
}

#[derive(Clone, Debug)]
enum Op {
    Command(Command),
    /// Compact at this part of what may be compacted, in 1/100.
    Compact(u8),
    /// A slice with the checkpoint at this part of history, and keys at most.
    Slice(u8, usize),
    /// A range at this part of history; more than 100 = the newest.
    Range(pb::RangeRequest, u8),
    Page(Bytes, Bytes, u8, usize, bool),
    ReadTxn(pb::TxnRequest),
    Pin,
    Restore,
    /// A store that has fallen behind is given the state of the one under test, and is under test from now on.
    Replace,
}

fn any_key() -> impl Strategy<Value = Bytes> {
    (0..KEYS).prop_map(key)
}

fn any_range() -> impl Strategy<Value = (Bytes, Bytes)> {
    prop_oneof![
        2 => any_key().prop_map(|key| (key, Bytes::new())),
        3 => (any_key(), any_key()).prop_map(|(a, b)| if a <= b { (a, b) } else { (b, a) }),
        1 => (any_key(), any_key()),
        1 => any_key().prop_map(|key| (key, Bytes::from_static(&[0]))),
        1 => Just((Bytes::from_static(&[0]), Bytes::from_static(&[0]))),
    ]
}

fn any_put() -> impl Strategy<Value = pb::PutRequest> {
    let lease = prop_oneof![3 => Just(0_i64), 1 => 1..4_i64];
    let rarely = || prop::bool::weighted(0.15);
    (any_key(), 0..4_u8, lease, any::<bool>(), rarely(), rarely()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| pb::PutRequest {
            key,
            value: if ignore_value { Bytes::new() } else { vec![b'v'; usize::from(value)].into() },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn any_delete() -> impl Strategy<Value = pb::DeleteRangeRequest> {
    (any_range(), any::<bool>()).prop_map(|((key, range_end), prev_kv)| pb::DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn any_range_request() -> impl Strategy<Value = pb::RangeRequest> {
    let limit = prop_oneof![2 => Just(0_i64), 3 => 1..12_i64, 1 => Just(-1_i64)];
    let bound = || prop_oneof![6 => Just(0_i64), 1 => 1..60_i64, 1 => Just(-3_i64)];
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    (any_range(), limit, 0..3_i32, 0..5_i32, flags, [bound(), bound(), bound(), bound()]).prop_map(
        |((key, range_end), limit, sort_order, sort_target, (keys_only, count_only), bounds)| pb::RangeRequest {
            key,
            range_end,
            limit,
            revision: 0,
            sort_order,
            sort_target,
            serializable: false,
            keys_only,
            count_only,
            min_mod_revision: bounds[0],
            max_mod_revision: bounds[1],
            min_create_revision: bounds[2],
            max_create_revision: bounds[3],
        },
    )
}

fn any_compare() -> impl Strategy<Value = pb::Compare> {
    (any_range(), 0..4_i32, 0..5_i32, 0..6_i64).prop_map(|((key, range_end), result, target, wanted)| pb::Compare {
        result,
        target,
        key,
        range_end,
        target_union: Some(match target {
            0 => TargetUnion::Version(wanted),
            1 => TargetUnion::CreateRevision(wanted),
            2 => TargetUnion::ModRevision(wanted),
            3 => TargetUnion::Value(vec![b'v'; wanted as usize].into()),
            _ => TargetUnion::Lease(wanted),
        }),
    })
}

/// Includes transactions that `rpc` would refuse (a key put twice), for the state must stand those too.
fn any_txn() -> impl Strategy<Value = pb::TxnRequest> {
    let leaf = prop_oneof![
        4 => any_put().prop_map(|mut put| {
            // Whether the key exists is checked before, and then must not change within the transaction.
            (put.ignore_lease, put.ignore_value) = (false, false);
            Request::RequestPut(put)
        }),
        2 => any_delete().prop_map(Request::RequestDeleteRange),
        2 => any_range_request().prop_map(Request::RequestRange),
        1 => (any_range_request(), 0..40_i64).prop_map(|(mut range, revision)| {
            range.revision = revision;
            Request::RequestRange(range)
        }),
    ];
    let txn_of = |op: BoxedStrategy<Request>| {
        let ops = vec(op.prop_map(|request| pb::RequestOp { request: Some(request) }), 0..4);
        (vec(any_compare(), 0..3), ops.clone(), ops).prop_map(|(compare, success, failure)| pb::TxnRequest {
            compare,
            success,
            failure,
        })
    };
    let leaf = leaf.boxed();
    let nested = txn_of(leaf.clone()).prop_map(Request::RequestTxn);
    let op = prop_oneof![4 => leaf, 1 => nested].boxed();
    txn_of(op)
}

fn any_read_txn() -> impl Strategy<Value = pb::TxnRequest> {
    let op = any_range_request().prop_map(|range| pb::RequestOp { request: Some(Request::RequestRange(range)) });
    let op = op.boxed();
    (vec(any_compare(), 0..3), vec(op.clone(), 0..3), vec(op, 0..3))
        .prop_map(|(compare, success, failure)| pb::TxnRequest { compare, success, failure })
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => any_put().prop_map(|put| Op::Command(Command::Put(put))),
        6 => any_delete().prop_map(|delete| Op::Command(Command::DeleteRange(delete))),
        8 => any_txn().prop_map(|txn| Op::Command(Command::Txn(txn))),
        3 => (1..4_i64).prop_map(|id| Op::Command(grant(id, 60))),
        1 => (1..4_i64).prop_map(|id| Op::Command(revoke(id))),
        2 => (0..120_u8).prop_map(Op::Compact),
        6 => (0..=100_u8, 1..40_usize).prop_map(|(up_to, keys)| Op::Slice(up_to, keys)),
        10 => (any_range_request(), 0..250_u8).prop_map(|(range, at)| Op::Range(range, at)),
        4 => (any_range(), 0..200_u8, 1..20_usize, any::<bool>())
            .prop_map(|((key, end), at, max, keys_only)| Op::Page(key, end, at, max, keys_only)),
        2 => any_read_txn().prop_map(Op::ReadTxn),
        2 => Just(Op::Pin),
        1 => Just(Op::Restore),
        1 => Just(Op::Replace),
    ]
}

/// The store under test, what it must be, and what was seen of it.
struct Run {
    store: Store,
    /// Gets the same commands but is never compacted physically.
    twin: Store,
    /// What was under test before the last replacement, and has stood still since.
    behind: Store,
    model: Model,
    /// The `up_to` of the last slice; it never falls.
    checkpoint: i64,
    pins: Vec<(View, Model)>,
    /// Revisions dropped by compaction slices.
    dropped: std::collections::BTreeSet<Revision>,
    /// Where each revision that was ever written belongs: its key.
    written: std::collections::BTreeMap<Revision, Vec<u8>>,
}

impl Run {
    fn new() -> Self {
        let (store, twin, behind, model) = (Store::new(), Store::new(), Store::new(), Model::new());
        let (pins, dropped, written) = Default::default();
        Self { store, twin, behind, model, checkpoint: 0, pins, dropped, written }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Command(command) => self.command(&command),
            Op::Compact(part) => {
                let revision = self.model.revision() * i64::from(part) / 100;
                self.command(&compact(revision));
            }
            Op::Slice(part, keys_max) => {
                self.checkpoint = self.checkpoint.max(self.model.revision() * i64::from(part) / 100);
                let up_to = self.checkpoint;
                let slice = self.store.compact_slice(up_to, keys_max);
                for (revision, _) in slice.dropped {
                    assert!(revision.main <= up_to, "{revision:?} is newer than the checkpoint at {up_to}");
                    assert!(self.dropped.insert(revision), "{revision:?} is dropped once");
                }
            }
            Op::Range(mut range, part) => {
                range.revision = self.revision_at(part);
                assert_eq!(self.store.view().range(&range), self.model.range(&range), "{range:?}");
            }
            Op::Page(key, end, part, keys_max, keys_only) => {
                let at = self.revision_at(part);
                self.pages(&key, &end, at, keys_max, keys_only);
            }
            Op::ReadTxn(txn) => assert_eq!(self.store.view().txn(&txn), self.model.txn(&txn)),
            Op::Pin => self.pins.push((self.store.view(), self.model.clone())),
            Op::Restore => {
                self.store = restored(&self.store);
                self.drop_what_no_snapshot_holds();
            }
            Op::Replace => {
                let put_bytes = self.behind.sizes().put_bytes;
                let replacements = self.behind.replacements();
                let before = (self.behind.view(), self.behind.meta(), self.behind.hash_kv(0));
                let old = self.behind.replace(restored(&self.store));
                assert_eq!((old.meta(), old.hash_kv(0)), (before.1, before.2), "the old state comes out whole");
                assert_eq!(before.0.records(), old.view().records(), "a pinned view stays");
                assert_eq!(self.behind.sizes().put_bytes, put_bytes, "bytes put are counted on");
                assert_eq!(self.behind.replacements(), replacements + 1);
                assert_eq!(self.behind.meta(), self.store.meta());
                std::mem::swap(&mut self.store, &mut self.behind);
                self.drop_what_no_snapshot_holds();
            }
        }
    }

    /// What a snapshot leaves out counts as dropped.
    fn drop_what_no_snapshot_holds(&mut self) {
        let kept: std::collections::BTreeSet<_> =
            self.store.view().records().iter().map(|(revision, ..)| *revision).collect();
        self.dropped.extend(self.written.keys().filter(|revision| !kept.contains(revision)));
    }

    fn revision_at(&self, part: u8) -> i64 {
        // Up to 10 % into the future.
        if part > 110 { 0 } else { self.model.revision() * i64::from(part) / 100 }
    }

    fn command(&mut self, command: &Command) {
        let before = self.model.revision();
        let response = self.model.apply(command);
        let expected = Applied { revision: self.model.revision(), response };
        let (applied, effects) = self.store.apply(command);
        assert_eq!(applied, expected, "{command:?}");
        let (of_twin, twin_effects) = self.twin.apply(command);
        assert_eq!(of_twin, expected);
        assert_eq!(effects.events, twin_effects.events);
        if self.model.revision() == before {
            assert_eq!(effects.events, None);
            return;
        }
        let batch = effects.events.expect("the revision advanced");
        assert_batch(&batch, &self.model.events[&batch.revision]);
        for (sub, change) in batch.changes.iter().enumerate() {
            let revision = Revision { main: batch.revision, sub: sub as i64 };
            self.written.insert(revision, change.record.key().to_vec());
        }
    }

    /// Pages through a range until its end.
    fn pages(&self, key: &Bytes, end: &Bytes, at: i64, keys_max: usize, keys_only: bool) {
        let view = self.store.view();
        let all = pb::RangeRequest {
            key: key.clone(),
            range_end: end.clone(),
            revision: at,
            keys_only,
            ..Default::default()
        };
        let expected = self.model.range(&all).map(|response| response.kvs);
        let mut found = Vec::new();
        let mut next = Some(key.clone());
        while let Some(from) = next {
            match view.page(&from, end, at, keys_max, 300, keys_only) {
                Ok(page) => {
                    assert!(page.records.len() <= keys_max);
                    assert!(!page.records.is_empty() || page.next.is_none());
                    found.extend(page.records);
                    next = page.next;
                }
                Err(error) => {
                    assert_eq!(Err(error), expected);
                    return;
                }
            }
        }
        assert_eq!(Ok(found), expected);
    }

    /// Everything that must hold at any time.
    fn check(&self) {
        let (store, model) = (&self.store, &self.model);
        assert_eq!(store.revision(), model.revision());
        assert_eq!(store.compact_revision(), model.compact_revision);
        store.view().index.check();
        self.check_sizes();
        self.check_history();
        self.check_counts();
        let leases: Vec<_> = model.leases.iter().map(|(id, ttl)| (*id, *ttl)).collect();
        assert_eq!(store.leases(), leases);
        for id in model.leases.keys() {
            let keys: Vec<Vec<u8>> = store.lease(*id).unwrap().keys.iter().map(|key| key.to_vec()).collect();
            assert_eq!(keys, model.lease_keys(*id), "keys of lease {id}");
        }
        for revision in [0, model.compact_revision, i64::midpoint(model.compact_revision, model.revision())] {
            assert_eq!(store.hash_kv(revision), self.twin.hash_kv(revision), "hash at {revision}");
        }
        for (view, model) in &self.pins {
            view.index.check();
            assert_eq!(view.revision(), model.revision());
            assert_eq!(view.range(&range("\0", "\0")), model.range(&range("\0", "\0")), "a pinned view stays");
            assert_eq!(view.count(b"\0", b"\0"), model.newest().len() as i64);
        }
    }

    fn check_sizes(&self) {
        let mut expected = Sizes { put_bytes: self.store.sizes().put_bytes, ..Sizes::default() };
        self.store.view().index.for_each(|entry| {
            for (at, version) in entry.versions().enumerate() {
                let bytes = version.record().as_bytes().len() as u64;
                if at == 0 && !version.is_tombstone() {
                    expected.live_bytes += bytes;
                    expected.keys += 1;
                } else {
                    expected.history_bytes += bytes;
                }
            }
        });
        assert_eq!(self.store.sizes(), expected);
        assert_eq!(expected.keys, self.model.newest().len() as u64);
    }

    fn check_history(&self) {
        let mark = self.model.compact_revision;
        let all = self.store.history((mark - 1).max(0), i64::MAX, usize::MAX, usize::MAX).unwrap();
        let expected: Vec<_> = self.model.events.range(mark..).collect();
        assert_eq!(all.len(), expected.len());
        for (batch, (revision, events)) in all.iter().zip(expected) {
            assert_eq!(batch.revision, *revision);
            if batch.revision > mark {
                assert_batch(batch, events);
            }
        }
        if mark > 1 {
            assert_eq!(self.store.history(mark - 2, i64::MAX, 1, 1), Err(CompactedAt(mark)));
        }
        let slice = self.store.history(mark.max(1), i64::MAX, 3, usize::MAX).unwrap();
        let after = all.iter().filter(|batch| batch.revision > mark.max(1)).take(3);
        assert!(slice.iter().eq(after));
    }

    fn check_counts(&self) {
        let view = self.store.view();
        let whole = (key(7), Bytes::from_static(&[0]));
        for (start, end) in [(key(0), key(60)), (key(3), key(85)), (key(40), key(44)), whole] {
            for at in self.model.compact_revision.max(1)..=self.model.revision() {
                let request = pb::RangeRequest {
                    key: start.clone(),
                    range_end: end.clone(),
                    revision: at,
                    count_only: true,
                    ..Default::default()
                };
                let keys = self.model.states[at as usize].keys();
                let expected = keys.filter(|key| within(key, &start, &end)).count() as i64;
                assert_eq!(view.range(&request).unwrap().count, expected, "{start:?} {end:?} at {at}");
            }
        }
    }

    /// After full compaction exactly what must be kept is kept, and everything else was reported as dropped once.
    fn finish(mut self) {
        self.check();
        let twin_sizes = self.twin.sizes();
        let hash = self.store.hash_kv(0);
        for (revision, _) in compact_fully(&self.store, i64::MAX) {
            assert!(self.dropped.insert(revision), "{revision:?} is dropped once");
        }
        self.check();
        assert_eq!(self.store.hash_kv(0), hash, "physical compaction does not show");
        let records = self.store.view().records();
        let kept: std::collections::BTreeSet<_> =
            records.iter().map(|(revision, _, record)| (revision.main, record.key().to_vec())).collect();
        assert_eq!(kept, self.model.kept());
        let mut in_index = Vec::new();
        self.store.view().index.for_each(|entry| in_index.extend(entry.versions().map(|v| v.revision())));
        in_index.sort();
        assert!(in_index.iter().eq(records.iter().map(|(revision, ..)| revision)));
        let dropped: std::collections::BTreeSet<_> =
            self.written.keys().filter(|revision| in_index.binary_search(revision).is_err()).copied().collect();
        assert_eq!(self.dropped, dropped);
        // Nothing depends on when the slices ran.
        compact_fully(&self.twin, i64::MAX);
        assert_eq!(self.twin.view().records(), records);
        assert!(self.twin.sizes().history_bytes <= twin_sizes.history_bytes);
        let again = restored(&self.store);
        assert_eq!(again.view().records(), records);
        assert_eq!(again.meta(), self.store.meta());
        self.store = again;
        self.check();
    }
}

fn assert_batch(batch: &EventBatch, expected: &[ModelEvent]) {
    let expected = expected.iter().map(|(is_put, key, after, before)| Change {
        kind: if *is_put { ChangeKind::Put } else { ChangeKind::Delete },
        record: match after {
            Some(kv) => record(key, kv),
            None => Record::tombstone(key, batch.revision),
        },
        previous: before.as_ref().map(|kv| record(key, kv)),
    });
    assert_eq!(batch.changes, expected.collect::<Vec<_>>(), "revision {}", batch.revision);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_commands_behaves_as_the_model(ops in vec(any_op(), 1..160)) {
        let mut run = Run::new();
        for (at, op) in ops.into_iter().enumerate() {
            run.step(op);
            if at % 16 == 0 {
                run.check();
            }
        }
        run.finish();
    }
}
