//! Whether one branch of a transaction writes a key twice: etcd's rule of intervals (`v3rpc/key.go`, `checkIntervals`).
//!
//! A branch may not put a key twice, nor put a key that it also deletes, in either order. The two branches of a nested
//! transaction exclude each other and may write the same key. Two things look like gaps; they are etcd's behaviour, and
//! harmless because operations run in order: what a nested transaction deletes is held only against what is looked at
//! after it, so that a later nested one may delete what an earlier one put; and a deletion "from this key on"
//! (`range_end` = one zero byte) collides with nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::Error;
use crate::proto::etcdserverpb as pb;
use pb::request_op::Request;

/// The keys that a branch puts and the ranges that it deletes.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Deletes<'a>,
}

/// Deleted ranges, joined where they overlap: start → end, start included, end not.
#[derive(Default)]
struct Deletes<'a>(BTreeMap<&'a [u8], End<'a>>);

/// Where a deleted range ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End<'a> {
    /// Just behind this key.
    After(&'a [u8]),
    /// Just before this key.
    Before(&'a [u8]),
}

impl<'a> End<'a> {
    fn covers(self, key: &[u8]) -> bool {
        match self {
            Self::After(last) => key <= last,
            Self::Before(end) => key < end,
        }
    }

    /// A key that sorts as the end does, and whether the end lies behind it.
    fn position(self) -> (&'a [u8], bool) {
        match self {
            Self::After(last) => (last, true),
            Self::Before(end) => (end, false),
        }
    }
}

impl<'a> Deletes<'a> {
    fn covers(&self, key: &[u8]) -> bool {
        let before = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        before.is_some_and(|(_, end)| end.covers(key))
    }

    fn insert(&mut self, mut start: &'a [u8], mut end: End<'a>) {
        if !end.covers(start) {
            return;
        }
        // Everything that begins within the new range or reaches into it becomes part of it. Each range is removed
        // at most once after it was inserted, so that n insertions cost O(n log n).
        loop {
            let (end_key, _) = end.position();
            let overlapping = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(end_key))).next_back();
            let Some((&other_start, &other_end)) = overlapping else { break };
            let touches = other_end.covers(start) || other_start >= start;
            if !touches {
                break;
            }
            self.0.remove(other_start);
            start = start.min(other_start);
            if other_end.position() > end.position() {
                end = other_end;
            }
        }
        self.0.insert(start, end);
    }
}

/// Checks one branch, nested transactions included.
///
/// # Errors
/// [`Error::DuplicateKey`].
pub fn branch(ops: &[pb::RequestOp]) -> Result<(), Error> {
    // One operation that is no transaction has nothing to collide with: the usual case costs nothing.
    match ops {
        [] => Ok(()),
        [op] if !matches!(op.request, Some(Request::RequestTxn(_))) => Ok(()),
        ops => writes(ops).map(drop),
    }
}

fn writes(ops: &[pb::RequestOp]) -> Result<Writes<'_>, Error> {
    let mut writes = Writes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            let end =
                if delete.range_end.is_empty() { End::After(&delete.key) } else { End::Before(&delete.range_end) };
            writes.deletes.insert(&delete.key, end);
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            writes.nest(self::writes(&nested.success)?, self::writes(&nested.failure)?)?;
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request
            && (writes.deletes.covers(&put.key) || !writes.puts.insert(&put.key))
        {
            return Err(Error::DuplicateKey);
        }
    }
    Ok(writes)
}

impl<'a> Writes<'a> {
    /// Adds what a nested transaction may write: one branch or the other.
    fn nest(&mut self, success: Self, failure: Self) -> Result<(), Error> {
        for key in success.puts.iter().chain(&failure.puts) {
            if self.puts.contains(key) || self.deletes.covers(key) {
                return Err(Error::DuplicateKey);
            }
        }
        for mut puts in [success.puts, failure.puts] {
            // The smaller set is moved into the larger one.
            if puts.len() > self.puts.len() {
                std::mem::swap(&mut puts, &mut self.puts);
            }
            self.puts.extend(puts);
        }
        for deletes in [success.deletes, failure.deletes] {
            for (start, end) in deletes.0 {
                self.deletes.insert(start, end);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str) -> pb::RequestOp {
        let put = pb::PutRequest { key: key.into(), ..Default::default() };
        pb::RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn delete(key: &'static str, range_end: &'static str) -> pb::RequestOp {
        let delete = pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: false };
        pb::RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
    }

    fn nested(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        let txn = pb::TxnRequest { compare: Vec::new(), success, failure };
        pb::RequestOp { request: Some(Request::RequestTxn(txn)) }
    }

    #[test]
    fn a_branch_may_write_a_key_once() {
        let fine: [Vec<pb::RequestOp>; 10] = [
            vec![put("a"), put("b")],
            vec![delete("a", "c"), delete("b", "d")],
            vec![put("a"), delete("b", "c"), put("c")],
            vec![delete("b", "a"), put("b")],
            vec![delete("a", "\0"), put("b")],
            vec![delete("a", ""), put("aa"), put("a\0")],
            vec![nested(vec![put("a")], vec![put("a")])],
            vec![nested(vec![delete("a", "")], vec![put("a")])],
            vec![nested(vec![put("a")], vec![]), nested(vec![delete("a", "")], vec![])],
            vec![delete("m", "p"), delete("a", "c"), delete("x", "z"), put("c"), put("p"), put("w"), put("z")],
        ];
        for ops in fine {
            assert_eq!(branch(&ops), Ok(()), "{ops:?}");
        }
        let refused: [Vec<pb::RequestOp>; 13] = [
            vec![put("a"), put("b"), put("a")],
            vec![delete("a", ""), put("a")],
            vec![put("a"), delete("a", "")],
            vec![put("ab"), delete("a", "b")],
            vec![delete("a", "c"), delete("b", "e"), put("d")],
            vec![delete("b", "e"), delete("a", "c"), put("d")],
            vec![delete("a", "z"), delete("b", "c"), put("y")],
            vec![delete("b", ""), delete("c", ""), delete("a", "d"), put("c")],
            vec![put("a"), nested(vec![put("a")], vec![])],
            vec![nested(vec![], vec![put("a")]), put("a")],
            vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])],
            vec![nested(vec![], vec![delete("a", "c")]), nested(vec![put("b")], vec![])],
            vec![nested(vec![nested(vec![put("a"), put("a")], vec![])], vec![])],
        ];
        for ops in refused {
            assert_eq!(branch(&ops), Err(Error::DuplicateKey), "{ops:?}");
        }
    }

    proptest::proptest! {
        /// The joined ranges against the plain list of them.
        #[test]
        fn joined_deletions_cover_what_each_of_them_covers(
            ranges in proptest::collection::vec(("[a-d]{1,3}", "[a-d]{0,3}"), 0..12),
            keys in proptest::collection::vec("[a-d]{1,4}", 1..40),
        ) {
            let mut joined = Deletes::default();
            for (start, end) in &ranges {
                let end = if end.is_empty() { End::After(start.as_bytes()) } else { End::Before(end.as_bytes()) };
                joined.insert(start.as_bytes(), end);
            }
            for key in &keys {
                let plain = ranges.iter().any(|(start, end)| {
                    if end.is_empty() { key == start } else { start <= key && key < end }
                });
                proptest::prop_assert_eq!(joined.covers(key.as_bytes()), plain, "{} in {:?}", key, ranges);
            }
        }
    }
}
