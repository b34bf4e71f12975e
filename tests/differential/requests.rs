//! Random requests: every field in every combination, mostly valid, often at an edge, sometimes wrong.

use bytes::Bytes;
use kelson::proto::etcdserverpb as pb;
use pb::compare::TargetUnion;
use pb::request_op::Request as Op;

use crate::random::Random;

/// Keys that many requests touch; some are prefixes of others.
const HOT: [&[u8]; 12] = [b"a", b"a/", b"a/1", b"a/2", b"aa", b"b", b"b\0", b"b/1", b"c", b"\0", b"\xff", b"\xff\xff"];
/// Keys `k/000` and up, enough for answers of several chunks and pages.
pub const COLD: usize = 150;
/// Values; the longest makes a difference to no limit.
const VALUES: [&[u8]; 7] = [b"", b"1", b"2", b"value", b"\0\xfe\xff", b"9", &[b'x'; 300]];
/// Ids that leases are granted, and that are asked for.
pub const LEASES: [i64; 8] = [1, 2, 3, 77, 0x1234_5678_9abc, -5, i64::MAX, i64::MIN];
/// etcd's `--max-txn-ops`.
const TXN_OPS_MAX: usize = 128;
const TXN_DEPTH_MAX: usize = 3;

/// What the requests refer to: kept up to date from the answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// The store's current revision.
    pub revision: i64,
    /// The last compaction.
    pub compacted: i64,
}

/// Makes requests.
pub struct Requests {
    /// Where all choices come from.
    pub random: Random,
    /// What they refer to.
    pub now: Now,
}

impl Requests {
    /// A key; seldom an empty one, which is refused nearly everywhere.
    pub fn key(&mut self) -> Bytes {
        match self.random.below(100) {
            0 => Bytes::new(),
            1..=69 => Bytes::from_static(self.random.pick(&HOT)),
            _ => cold(self.random.below(COLD)),
        }
    }

    /// The end of a range that starts at `key`.
    fn range_end(&mut self, key: &[u8]) -> Bytes {
        match self.random.below(100) {
            0..=34 => Bytes::new(),
            35..=54 => prefix_end(key),
            55..=69 => Bytes::from_static(b"\0"),
            70..=79 => Bytes::from([key, b"\0"].concat()),
            80..=84 => Bytes::from_static(b"l"),
            _ => self.key(),
        }
    }

    /// A key and the end of its range, often wide ones.
    fn range_bounds(&mut self) -> (Bytes, Bytes) {
        match self.random.below(10) {
            0 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            1 => (Bytes::from_static(b"k/"), Bytes::from_static(b"k0")),
            2 => (cold(self.random.below(COLD)), cold(self.random.below(COLD))),
            _ => {
                let key = self.key();
                let end = self.range_end(&key);
                (key, end)
            }
        }
    }

    fn value(&mut self) -> Bytes {
        Bytes::from_static(self.random.pick(&VALUES))
    }

    fn lease(&mut self) -> i64 {
        if self.random.percent(75) { 0 } else { self.random.pick(&LEASES) }
    }

    /// A revision to read at: mostly the newest, else near an edge.
    pub fn revision(&mut self) -> i64 {
        let Now { revision, compacted } = self.now;
        match self.random.below(100) {
            0..=59 => 0,
            60..=79 => compacted + self.random.below((revision - compacted + 1) as usize) as i64,
            80..=84 => compacted - 1,
            85..=88 => compacted,
            89..=92 => revision,
            93..=95 => revision + 1,
            96 => -1,
            97 => i64::MAX,
            98 => i64::MIN,
            _ => self.random.below(revision as usize + 3) as i64,
        }
    }

    /// A bound of a revision filter; mostly none.
    fn filter(&mut self) -> i64 {
        match self.random.below(100) {
            0..=84 => 0,
            85..=95 => self.random.below(self.now.revision as usize + 2) as i64,
            96 => -3,
            97 => i64::MAX,
            98 => i64::MIN,
            _ => 1,
        }
    }

    /// A range, with all its fields.
    pub fn range(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.range_bounds();
        let mut request = pb::RangeRequest {
            key,
            range_end,
            limit: self.random.pick(&[0, 0, 0, 0, 1, 2, 3, 10, 12, 25, 100, 1_000, -1, -7, i64::MAX, i64::MIN]),
            revision: self.revision(),
            serializable: self.random.percent(30),
            keys_only: self.random.percent(20),
            count_only: self.random.percent(15),
            min_mod_revision: self.filter(),
            max_mod_revision: self.filter(),
            min_create_revision: self.filter(),
            max_create_revision: self.filter(),
            ..Default::default()
        };
        if self.random.percent(40) {
            request.sort_order = self.random.pick(&[0, 1, 1, 1, 2, 2, 2, 2, 2, 3, -1]);
            request.sort_target = self.random.pick(&[0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, -1, i32::MAX]);
        }
        request
    }

    /// A range for `RangeStream`, which takes fewer fields.
    pub fn range_stream(&mut self) -> pb::RangeRequest {
        let mut request = self.range();
        if self.random.percent(80) {
            request.sort_order = 0;
            request.min_mod_revision = 0;
            request.max_mod_revision = 0;
            request.min_create_revision = 0;
            request.max_create_revision = 0;
        }
        request
    }

    /// A put.
    pub fn put(&mut self) -> pb::PutRequest {
        let ignore_value = self.random.percent(8);
        let ignore_lease = self.random.percent(8);
        pb::PutRequest {
            key: self.key(),
            value: if ignore_value && self.random.percent(85) { Bytes::new() } else { self.value() },
            lease: if ignore_lease && self.random.percent(85) { 0 } else { self.lease() },
            prev_kv: self.random.percent(30),
            ignore_value,
            ignore_lease,
        }
    }

    /// A delete; seldom of very much.
    pub fn delete(&mut self) -> pb::DeleteRangeRequest {
        let (key, mut range_end) =
            if self.random.percent(5) { self.range_bounds() } else { (self.key(), Bytes::new()) };
        if self.random.percent(30) {
            range_end = Bytes::from([&key[..], b"\0"].concat());
        } else if self.random.percent(10) {
            range_end = self.range_end(&key);
        }
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.random.percent(40) }
    }

    /// A transaction; seldom one with too many operations.
    pub fn txn(&mut self) -> pb::TxnRequest {
        let mut txn = self.txn_of(0);
        if puts(&txn) {
            // etcd does not see that a delete without an end takes the key of a put in the same transaction. It accepts
            // both, and then it may crash: in the put, or in a later read of that revision.
            end_deletes(&mut txn);
        }
        if self.random.below(150) == 0 {
            let count = self.random.pick(&[TXN_OPS_MAX - 1, TXN_OPS_MAX, TXN_OPS_MAX + 1]);
            let get = pb::RangeRequest { key: Bytes::from_static(b"a"), ..Default::default() };
            let get = pb::RequestOp { request: Some(Op::RequestRange(get)) };
            match self.random.below(3) {
                0 => txn.success = vec![get; count],
                1 => txn.failure = vec![get; count],
                _ => txn.compare = vec![self.compare(); count],
            }
        }
        txn
    }

    fn txn_of(&mut self, depth: usize) -> pb::TxnRequest {
        let compares = self.random.pick(&[0, 0, 1, 1, 1, 2, 3]);
        let read_only = self.random.percent(25);
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.operations(depth, read_only),
            failure: self.operations(depth, read_only),
        }
    }

    fn operations(&mut self, depth: usize, read_only: bool) -> Vec<pb::RequestOp> {
        let count = self.random.pick(&[0, 1, 1, 1, 2, 2, 3, 5]);
        (0..count).map(|_| pb::RequestOp { request: self.operation(depth, read_only) }).collect()
    }

    fn operation(&mut self, depth: usize, read_only: bool) -> Option<Op> {
        match self.random.below(100) {
            0 if self.random.percent(30) => None,
            0..=8 if depth < TXN_DEPTH_MAX => Some(Op::RequestTxn(self.txn_of(depth + 1))),
            9..=44 if !read_only => Some(Op::RequestPut(self.put())),
            45..=59 if !read_only => Some(Op::RequestDeleteRange(self.delete())),
            _ => {
                let mut range = self.range();
                if self.random.percent(70) {
                    // Most combinations of edges make the whole transaction fail; leave some in peace.
                    range = pb::RangeRequest { key: range.key, range_end: range.range_end, ..Default::default() };
                }
                Some(Op::RequestRange(range))
            }
        }
    }

    fn compare(&mut self) -> pb::Compare {
        let (key, end) = if self.random.percent(70) { (self.key(), Bytes::new()) } else { self.range_bounds() };
        let target = self.random.pick(&[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, -1]);
        let number = match self.random.below(4) {
            0 => 0,
            1 => self.random.below(4) as i64,
            2 => self.random.pick(&LEASES),
            _ => self.random.below(self.now.revision as usize + 2) as i64,
        };
        // The union is usually the target's, sometimes another's, sometimes absent.
        let union = if self.random.percent(90) { target } else { self.random.below(7) as i32 };
        pb::Compare {
            result: self.random.pick(&[0, 0, 0, 1, 1, 2, 2, 3, 3, 4, -1]),
            target,
            key,
            range_end: end,
            target_union: match union {
                0 => Some(TargetUnion::Version(number)),
                1 => Some(TargetUnion::CreateRevision(number)),
                2 => Some(TargetUnion::ModRevision(number)),
                3 => Some(TargetUnion::Value(self.value())),
                4 => Some(TargetUnion::Lease(number)),
                _ => None,
            },
        }
    }

    /// A watcher. One that starts in the future starts soon.
    pub fn watch(&mut self) -> pb::WatchCreateRequest {
        let (key, range_end) = self.range_bounds();
        let Now { revision, compacted } = self.now;
        pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: match self.random.below(100) {
                0..=59 => 0,
                60..=74 => compacted + self.random.below((revision - compacted + 1) as usize) as i64,
                75..=79 => compacted,
                80..=84 => compacted - 1,
                85..=88 => 1,
                89..=95 => revision + self.random.below(4) as i64,
                96 => -1,
                97 => i64::MIN,
                _ => revision,
            },
            progress_notify: self.random.percent(20),
            filters: self.random.pick(&[
                vec![],
                vec![],
                vec![],
                vec![0],
                vec![1],
                vec![0, 1],
                vec![1, 1],
                vec![7],
                vec![-1],
            ]),
            prev_kv: self.random.percent(40),
            watch_id: self.random.pick(&[0, 0, 0, 0, 0, 0, 1, 2, 3, 9, -3, i64::MAX]),
            fragment: self.random.percent(20),
        }
    }
}

fn puts(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|operation| match &operation.request {
        Some(Op::RequestPut(_)) => true,
        Some(Op::RequestTxn(txn)) => puts(txn),
        _ => false,
    })
}

/// Gives every delete that has none an end behind all keys.
fn end_deletes(txn: &mut pb::TxnRequest) {
    for operation in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut operation.request {
            Some(Op::RequestDeleteRange(delete)) if delete.range_end == b"\0"[..] => {
                delete.range_end = Bytes::from_static(b"\xff\xff\xff");
            }
            Some(Op::RequestTxn(txn)) => end_deletes(txn),
            _ => {}
        }
    }
}

/// Key number `index` of the cold ones.
pub fn cold(index: usize) -> Bytes {
    Bytes::from(format!("k/{index:03}"))
}

fn prefix_end(key: &[u8]) -> Bytes {
    let mut end = key.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Bytes::from(end);
        }
    }
    Bytes::from_static(b"\0")
}
