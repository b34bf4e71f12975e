//! Which watched ranges a key falls into.
//!
//! Single keys are one hash lookup; ranges stand in an interval tree, so that a change costs
//! O(log ranges + hits) whatever is watched elsewhere. Knows nothing of watchers: a value is the number of a group.
//! Called by the hub only, under its lock.

use std::cmp::Ordering;
use std::collections::HashMap;

use bytes::Bytes;
use slab::Slab;

/// Where a range of keys ends. Ordered: [`End::Unbounded`] is the greatest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// Before this key.
    Before(Bytes),
    /// Never.
    Unbounded,
}

impl End {
    fn is_behind(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < &end[..],
            Self::Unbounded => true,
        }
    }
}

/// The keys of a watch: one key, or all from `start` on up to `end`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    start: Bytes,
    /// `None`: `start` alone.
    end: Option<End>,
}

/// The range holds no key, because it ends where it starts or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptyRange;

impl KeyRange {
    /// Reads `key` and `range_end` of a watch request as etcd does: an empty key is the smallest one, an empty end
    /// means that key alone, an end of one zero byte means no end. Copies, for a request's bytes are slices of a much
    /// larger receive buffer.
    ///
    /// # Errors
    /// [`EmptyRange`] when the end is not behind the key.
    pub fn new(key: &[u8], range_end: &[u8]) -> Result<Self, EmptyRange> {
        let start = if key.is_empty() { Bytes::from_static(b"\0") } else { Bytes::copy_from_slice(key) };
        let end = match range_end {
            [] => None,
            [0] => Some(End::Unbounded),
            end if *end <= start[..] => return Err(EmptyRange),
            end => Some(End::Before(Bytes::copy_from_slice(end))),
        };
        Ok(Self { start, end })
    }

    /// Whether `key` is one of them.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            None => key == self.start,
            Some(end) => key >= &self.start[..] && end.is_behind(key),
        }
    }
}

/// Maps ranges to numbers, and finds the numbers of all ranges that hold a key.
#[derive(Debug, Default)]
pub struct RangeIndex {
    keys: HashMap<Bytes, usize>,
    ranges: IntervalTree,
}

impl RangeIndex {
    /// The number of exactly this range.
    pub fn get(&self, range: &KeyRange) -> Option<usize> {
        match &range.end {
            None => self.keys.get(&range.start).copied(),
            Some(end) => self.ranges.get(&range.start, end),
        }
    }

    /// Adds a range that is not there yet.
    pub fn insert(&mut self, range: &KeyRange, value: usize) {
        match &range.end {
            None => {
                let before = self.keys.insert(range.start.clone(), value);
                assert!(before.is_none(), "watched key {:?} entered twice", range.start);
            }
            Some(end) => self.ranges.insert(range.start.clone(), end.clone(), value),
        }
    }

    /// Takes a range out; nothing when it is not there.
    pub fn remove(&mut self, range: &KeyRange) {
        match &range.end {
            None => drop(self.keys.remove(&range.start)),
            Some(end) => self.ranges.remove(&range.start, end),
        }
    }

    /// Calls `found` once with the number of each range that holds `key`.
    pub fn matches(&self, key: &[u8], mut found: impl FnMut(usize)) {
        if !self.keys.is_empty()
            && let Some(&value) = self.keys.get(key)
        {
            found(value);
        }
        self.ranges.stab(key, &mut found);
    }

    /// Whether no range is watched.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.root == NIL
    }
}

/// No child.
const NIL: usize = usize::MAX;

/// An AVL tree ordered by (start, end); each node knows the greatest end below it. Balanced by rule and not by chance,
/// because clients choose the ranges: no order of requests makes it deep.
#[derive(Debug)]
struct IntervalTree {
    nodes: Slab<Node>,
    root: usize,
}

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: End,
    value: usize,
    /// The greatest end in this node's subtree, itself included.
    end_max: End,
    /// 1 in a leaf. Invariant: the heights of the children differ by one at most.
    height: u8,
    left: usize,
    right: usize,
}

impl Default for IntervalTree {
    fn default() -> Self {
        Self { nodes: Slab::new(), root: NIL }
    }
}

impl IntervalTree {
    fn get(&self, start: &[u8], end: &End) -> Option<usize> {
        let mut at = self.root;
        while at != NIL {
            let node = &self.nodes[at];
            match self.order(start, end, at) {
                Ordering::Less => at = node.left,
                Ordering::Greater => at = node.right,
                Ordering::Equal => return Some(node.value),
            }
        }
        None
    }

    fn insert(&mut self, start: Bytes, end: End, value: usize) {
        let end_max = end.clone();
        let new = self.nodes.insert(Node { start, end, value, end_max, height: 1, left: NIL, right: NIL });
        self.root = self.insert_below(self.root, new);
    }

    fn remove(&mut self, start: &[u8], end: &End) {
        self.root = self.remove_below(self.root, start, end);
    }

    /// Visits every range with start ≤ key < end: a subtree that ends at or before the key is not entered.
    fn stab(&self, key: &[u8], found: &mut impl FnMut(usize)) {
        self.stab_below(self.root, key, found);
    }

    fn stab_below(&self, at: usize, key: &[u8], found: &mut impl FnMut(usize)) {
        let mut at = at;
        while at != NIL {
            let node = &self.nodes[at];
            if !node.end_max.is_behind(key) {
                return;
            }
            self.stab_below(node.left, key, found);
            if key < &node.start[..] {
                return;
            }
            if node.end.is_behind(key) {
                found(node.value);
            }
            at = node.right;
        }
    }

    fn order(&self, start: &[u8], end: &End, at: usize) -> Ordering {
        let node = &self.nodes[at];
        start.cmp(&node.start[..]).then_with(|| end.cmp(&node.end))
    }

    fn insert_below(&mut self, at: usize, new: usize) -> usize {
        if at == NIL {
            return new;
        }
        let order = {
            let node = &self.nodes[new];
            self.order(&node.start, &node.end, at)
        };
        match order {
            Ordering::Less => self.nodes[at].left = self.insert_below(self.nodes[at].left, new),
            Ordering::Greater => self.nodes[at].right = self.insert_below(self.nodes[at].right, new),
            Ordering::Equal => panic!("watched range {:?} entered twice", self.nodes[new]),
        }
        self.balance(at)
    }

    fn remove_below(&mut self, at: usize, start: &[u8], end: &End) -> usize {
        if at == NIL {
            return NIL;
        }
        match self.order(start, end, at) {
            Ordering::Less => self.nodes[at].left = self.remove_below(self.nodes[at].left, start, end),
            Ordering::Greater => self.nodes[at].right = self.remove_below(self.nodes[at].right, start, end),
            Ordering::Equal => {
                let Node { left, right, .. } = self.nodes.remove(at);
                if right == NIL {
                    return left;
                }
                let (rest, successor) = self.remove_first(right);
                self.nodes[successor].left = left;
                self.nodes[successor].right = rest;
                return self.balance(successor);
            }
        }
        self.balance(at)
    }

    /// Takes the leftmost node out of a subtree; gives back what remains, and that node.
    fn remove_first(&mut self, at: usize) -> (usize, usize) {
        let left = self.nodes[at].left;
        if left == NIL {
            return (self.nodes[at].right, at);
        }
        let (rest, first) = self.remove_first(left);
        self.nodes[at].left = rest;
        (self.balance(at), first)
    }

    /// Restores height and end of a node whose children changed, and the balance below it; gives back its new top.
    fn balance(&mut self, at: usize) -> usize {
        let Node { left, right, .. } = self.nodes[at];
        let top = if self.height(left) > self.height(right) + 1 {
            if self.height(self.nodes[left].left) < self.height(self.nodes[left].right) {
                self.nodes[at].left = self.rotate_left(left);
            }
            self.rotate_right(at)
        } else if self.height(right) > self.height(left) + 1 {
            if self.height(self.nodes[right].right) < self.height(self.nodes[right].left) {
                self.nodes[at].right = self.rotate_right(right);
            }
            self.rotate_left(at)
        } else {
            at
        };
        self.refresh(top);
        top
    }

    fn rotate_left(&mut self, at: usize) -> usize {
        let top = self.nodes[at].right;
        self.nodes[at].right = self.nodes[top].left;
        self.nodes[top].left = at;
        self.refresh(at);
        self.refresh(top);
        top
    }

    fn rotate_right(&mut self, at: usize) -> usize {
        let top = self.nodes[at].left;
        self.nodes[at].left = self.nodes[top].right;
        self.nodes[top].right = at;
        self.refresh(at);
        self.refresh(top);
        top
    }

    fn refresh(&mut self, at: usize) {
        let node = &self.nodes[at];
        let height = 1 + self.height(node.left).max(self.height(node.right));
        let mut end_max = &node.end;
        for child in [node.left, node.right] {
            if child != NIL {
                end_max = end_max.max(&self.nodes[child].end_max);
            }
        }
        let end_max = end_max.clone();
        let node = &mut self.nodes[at];
        node.height = height;
        node.end_max = end_max;
    }

    fn height(&self, at: usize) -> u8 {
        if at == NIL { 0 } else { self.nodes[at].height }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn found(index: &RangeIndex, key: &[u8]) -> Vec<usize> {
        let mut found = Vec::new();
        index.matches(key, |value| found.push(value));
        found.sort_unstable();
        found
    }

    /// Checks order, heights and ends of a subtree; gives back its height.
    fn check(tree: &IntervalTree, at: usize) -> u8 {
        if at == NIL {
            return 0;
        }
        let node = &tree.nodes[at];
        let (left, right) = (check(tree, node.left), check(tree, node.right));
        assert!(left.abs_diff(right) <= 1, "balanced");
        assert_eq!(node.height, 1 + left.max(right));
        let mut end_max = node.end.clone();
        for (child, side) in [(node.left, Ordering::Less), (node.right, Ordering::Greater)] {
            if child != NIL {
                let child = &tree.nodes[child];
                assert_eq!((&child.start, &child.end).cmp(&(&node.start, &node.end)), side);
                end_max = end_max.max(child.end_max.clone());
            }
        }
        assert_eq!(node.end_max, end_max);
        node.height
    }

    #[test]
    fn request_bounds_are_read_as_etcd_reads_them() {
        let range = |key: &[u8], end: &[u8]| KeyRange::new(key, end);
        assert!(range(b"a", b"").unwrap().contains(b"a"));
        assert!(!range(b"a", b"").unwrap().contains(b"aa"));
        assert!(range(b"a", b"c").unwrap().contains(b"bzz"));
        assert!(!range(b"a", b"c").unwrap().contains(b"c"));
        assert!(range(b"a", b"\0").unwrap().contains(b"\xff\xff"));
        assert!(!range(b"b", b"\0").unwrap().contains(b"a"));
        assert_eq!(range(b"", b""), range(b"\0", b""), "an empty key is the smallest");
        assert!(range(b"", b"\0").unwrap().contains(b"\0"));
        assert_eq!(range(b"b", b"a"), Err(EmptyRange));
        assert_eq!(range(b"a", b"a"), Err(EmptyRange));
    }

    #[test]
    fn ranges_entered_in_order_do_not_make_a_deep_tree() {
        let mut index = RangeIndex::default();
        for n in 0..10_000_u32 {
            index.insert(&KeyRange::new(&n.to_be_bytes(), &(n + 1).to_be_bytes()).unwrap(), n as usize);
        }
        assert!(check(&index.ranges, index.ranges.root) <= 18);
        assert_eq!(found(&index, &77_u32.to_be_bytes()), [77]);
    }

    proptest! {
        #[test]
        fn matches_are_those_of_a_plain_list(
            steps in prop::collection::vec((any::<bool>(), prop::collection::vec(0_u8..4, 0..3), prop::collection::vec(0_u8..4, 0..3)), 1..120),
        ) {
            let mut index = RangeIndex::default();
            let mut list: Vec<(KeyRange, usize)> = Vec::new();
            for (number, (add, key, end)) in steps.into_iter().enumerate() {
                let Ok(range) = KeyRange::new(&key, &end) else { continue };
                let known = list.iter().position(|(other, _)| *other == range);
                prop_assert_eq!(index.get(&range), known.map(|at| list[at].1));
                match known {
                    None if add => {
                        index.insert(&range, number);
                        list.push((range, number));
                    }
                    Some(at) if !add => {
                        index.remove(&range);
                        list.remove(at);
                    }
                    _ => index.remove(&KeyRange::new(b"never entered", b"").unwrap()),
                }
                check(&index.ranges, index.ranges.root);
                prop_assert_eq!(index.is_empty(), list.is_empty());
                let expected: BTreeSet<usize> = list.iter().filter(|(range, _)| range.contains(&key)).map(|(_, n)| *n).collect();
                prop_assert_eq!(found(&index, &key), expected.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
