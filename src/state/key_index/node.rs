//! The nodes of the index, leaves and branches, behind `Arc`.
//!
//! Whoever changes a node does it through `Arc::make_mut`: in place while nobody else holds the node, else on a copy. A
//! copy shares everything below it. All leaves are equally deep, so recursion goes as deep as the tree is high.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::branch::{Branch, MERGED_BRANCH_MAX};
use super::fetch::{FETCH, fetch};
use super::leaf::{Leaf, MERGED_LEAF_MAX, mask};
use super::separators::{Separators, separator};
use super::stats::{Bounds, Delta, Stats};
use super::versions::{Entry, Garbage, Version};

/// A node with its statistics.
#[derive(Clone, Debug)]
pub struct Subtree {
    /// Of everything below.
    pub stats: Stats,
    node: Arc<Node>,
}

/// The right half of a node that became too large, and the separator before it.
pub struct Split {
    /// At or before all keys on the right, after all on the left.
    pub separator: Box<[u8]>,
    /// What was moved out.
    pub right: Subtree,
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Leaf),
    Branch(Branch),
}

impl Subtree {
    /// No key at all.
    pub fn empty() -> Self {
        Self::of(Node::Leaf(Leaf::default()))
    }

    /// Sorted entries, at most [`super::leaf::LEAF_MAX`]; `reshaped` as in [`Stats`].
    pub fn leaf(entries: Vec<Entry>, reshaped: i64) -> Self {
        let mut subtree = Self::of(Node::Leaf(Leaf::new(entries)));
        subtree.stats.reshaped = reshaped;
        subtree
    }

    /// Sorted subtrees of one height, 1 to [`super::branch::BRANCH_MAX`] of them.
    pub fn branch(children: Vec<Subtree>) -> Self {
        let separators: Vec<Box<[u8]>> = children
            .windows(2)
            .map(|pair| {
                separator(pair[0].last_key().unwrap_or_default(), pair[1].first_key().unwrap_or_default()).into()
            })
            .collect();
        let separators = Arc::new(Separators::new(separators.iter().map(|key| &**key)));
        Self::of(Node::Branch(Branch { separators, children }))
    }

    /// A root over the two halves of the old root.
    pub fn grow(self, split: Split) -> Self {
        let separators = Arc::new(Separators::new(std::iter::once(&*split.separator)));
        Self::of(Node::Branch(Branch { separators, children: vec![self, split.right] }))
    }

    /// The only child, when there is but one: a root that became too high.
    pub fn only_child(&self) -> Option<Self> {
        match &*self.node {
            Node::Branch(branch) if branch.children.len() == 1 => Some(branch.children[0].clone()),
            _ => None,
        }
    }

    fn of(node: Node) -> Self {
        Self { stats: node.stats(), node: Arc::new(node) }
    }

    /// The entry of a key.
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        let mut node = &*self.node;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf.find(key).ok().map(|at| &leaf.entries[at]),
                Node::Branch(branch) => node = &branch.children[branch.separators.child_of(key)].node,
            }
        }
    }

    /// Keys in `bounds` that exist.
    pub fn count(&self, bounds: Bounds<'_>) -> u64 {
        if bounds.is_open() {
            return self.stats.live;
        }
        match &*self.node {
            Node::Leaf(leaf) => u64::from((leaf.live & mask(leaf.within(bounds))).count_ones()),
            Node::Branch(branch) => branch.within(bounds).map(|(child, bounds)| child.count(bounds)).sum(),
        }
    }

    /// Keys in `bounds` that existed at main revision `at`. Walks the leaves where keys were created or removed since;
    /// `None` when these are more than `leaves_max`.
    pub fn count_at(&self, bounds: Bounds<'_>, at: i64, leaves_max: &mut usize) -> Option<u64> {
        if self.stats.reshaped <= at {
            return Some(self.count(bounds));
        }
        match &*self.node {
            Node::Leaf(leaf) => {
                *leaves_max = leaves_max.checked_sub(1)?;
                let entries = &leaf.entries[leaf.within(bounds)];
                Some(entries.iter().filter(|entry| entry.live_at(at).is_some()).count() as u64)
            }
            Node::Branch(branch) => {
                branch.within(bounds).map(|(child, bounds)| child.count_at(bounds, at, leaves_max)).sum()
            }
        }
    }

    /// Visits the entries in `bounds` in key order; subtrees for which `skip` holds are left out.
    pub fn scan<'a, B>(
        &'a self,
        bounds: Bounds<'_>,
        skip: &impl Fn(&Stats) -> bool,
        visit: &mut impl FnMut(&'a Entry) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        if skip(&self.stats) {
            return ControlFlow::Continue(());
        }
        match &*self.node {
            Node::Leaf(leaf) => leaf.entries[leaf.within(bounds)].chunks(FETCH).try_for_each(|entries| {
                fetch(entries.iter().map(|entry| entry.newest().record()));
                entries.iter().try_for_each(&mut *visit)
            }),
            Node::Branch(branch) => {
                branch.within(bounds).try_for_each(|(child, bounds)| child.scan(bounds, skip, visit))
            }
        }
    }

    /// As [`Subtree::scan`], from the last key to the first.
    pub fn scan_back<'a, B>(
        &'a self,
        bounds: Bounds<'_>,
        skip: &impl Fn(&Stats) -> bool,
        visit: &mut impl FnMut(&'a Entry) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        if skip(&self.stats) {
            return ControlFlow::Continue(());
        }
        match &*self.node {
            Node::Leaf(leaf) => leaf.entries[leaf.within(bounds)].rchunks(FETCH).try_for_each(|entries| {
                fetch(entries.iter().map(|entry| entry.newest().record()));
                entries.iter().rev().try_for_each(&mut *visit)
            }),
            Node::Branch(branch) => {
                branch.within(bounds).rev().try_for_each(|(child, bounds)| child.scan_back(bounds, skip, visit))
            }
        }
    }

    /// Gives `key` the version that `make` makes of its entry so far.
    pub fn write(&mut self, key: &[u8], make: impl FnOnce(Option<&Entry>) -> Version) -> Option<Split> {
        self.write_below(key, make).1
    }

    fn write_below(&mut self, key: &[u8], make: impl FnOnce(Option<&Entry>) -> Version) -> (Delta, Option<Split>) {
        let (delta, right) = match Arc::make_mut(&mut self.node) {
            Node::Leaf(leaf) => {
                let (delta, half) = leaf.write(key, make);
                (delta, half.map(|(key, half)| (key, Node::Leaf(half))))
            }
            Node::Branch(branch) => {
                let at = branch.separators.child_of(key);
                let (delta, split) = branch.children[at].write_below(key, make);
                (delta, split.and_then(|split| branch.insert(at, split)).map(|(key, half)| (key, Node::Branch(half))))
            }
        };
        self.stats.add(delta);
        let split = right.map(|(separator, node)| {
            let reshaped = self.stats.reshaped;
            self.stats = Stats { reshaped, ..self.node.stats() };
            let mut right = Self::of(node);
            right.stats.reshaped = reshaped;
            Split { separator, right }
        });
        (delta, split)
    }

    /// Gives every key in `bounds` that exists the tombstone that `make` makes for it, in key order.
    pub fn retire(&mut self, bounds: Bounds<'_>, make: &mut impl FnMut(&Entry) -> Version) {
        if self.count(bounds) == 0 {
            return;
        }
        match Arc::make_mut(&mut self.node) {
            Node::Leaf(leaf) => {
                let range = leaf.within(bounds);
                leaf.live &= !mask(range.clone());
                for entry in leaf.entries[range].iter_mut().filter(|entry| entry.live().is_some()) {
                    let tombstone = make(entry);
                    let before = (true, entry.is_stale());
                    entry.push(tombstone);
                    self.stats.add(Delta::between(Some(before), entry));
                }
            }
            Node::Branch(branch) => {
                for (at, bounds) in branch.positions(bounds) {
                    branch.children[at].retire(bounds, make);
                }
                self.stats = branch.stats();
            }
        }
    }

    /// Compacts entries from `lower` on (see [`Entry::compact`]), whole leaves, until at least `budget` entries were
    /// visited. Returns the key to go on from, `None` at the end.
    pub fn compact(
        &mut self,
        lower: Option<&[u8]>,
        at: i64,
        budget: &mut usize,
        garbage: &mut Garbage,
    ) -> Option<Vec<u8>> {
        if self.stats.stale == 0 {
            return None;
        }
        if matches!(*self.node, Node::Leaf(_)) {
            return self.compact_leaf(lower, at, budget, garbage);
        }
        // A branch is not copied for a view's sake before something below it has to change; but by then most have.
        let Node::Branch(branch) = Arc::make_mut(&mut self.node) else { return None };
        let mut next = None;
        for (position, bounds) in branch.positions(Bounds { lower, upper: None }) {
            next = branch.children[position].compact(bounds.lower, at, budget, garbage);
            if next.is_some() {
                break;
            }
        }
        branch.tidy();
        self.stats = branch.stats();
        next
    }

    fn compact_leaf(
        &mut self,
        lower: Option<&[u8]>,
        at: i64,
        budget: &mut usize,
        garbage: &mut Garbage,
    ) -> Option<Vec<u8>> {
        let Node::Leaf(leaf) = &*self.node else { return None };
        let last_key = leaf.last_key().filter(|last| lower.is_none_or(|lower| lower <= *last))?.to_vec();
        *budget = budget.saturating_sub(leaf.entries.len());
        if leaf.entries.iter().any(|entry| entry.has_garbage(at))
            && let Node::Leaf(leaf) = Arc::make_mut(&mut self.node)
        {
            leaf.compact(at, garbage);
            self.stats = Stats { reshaped: self.stats.reshaped, ..leaf.stats() };
        }
        (*budget == 0).then(|| {
            let mut next = last_key;
            next.push(0);
            next
        })
    }

    /// Whether there is no entry at all.
    pub fn is_empty(&self) -> bool {
        match &*self.node {
            Node::Leaf(leaf) => leaf.entries.is_empty(),
            Node::Branch(branch) => branch.children.is_empty(),
        }
    }

    fn width(&self) -> usize {
        match &*self.node {
            Node::Leaf(leaf) => leaf.entries.len(),
            Node::Branch(branch) => branch.children.len(),
        }
    }

    /// Whether it and its right neighbour would leave room in one node.
    pub fn may_merge_with(&self, right: &Self) -> bool {
        let max = if matches!(*self.node, Node::Leaf(_)) { MERGED_LEAF_MAX } else { MERGED_BRANCH_MAX };
        self.width() + right.width() <= max
    }

    /// Takes over what its right neighbour holds; `separator` stood between them.
    pub fn merge(&mut self, separator: &[u8], right: Self) {
        match (Arc::make_mut(&mut self.node), Arc::unwrap_or_clone(right.node)) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                left.entries.extend(right.entries);
                *left = Leaf::new(std::mem::take(&mut left.entries));
            }
            (Node::Branch(left), Node::Branch(right)) => {
                let between = std::iter::once(separator);
                let keys = left.separators.iter().chain(between).chain(right.separators.iter());
                left.separators = Arc::new(Separators::new(keys));
                left.children.extend(right.children);
            }
            _ => unreachable!("neighbours are equally high"),
        }
        self.stats = self.stats.plus(&right.stats);
    }

    fn first_key(&self) -> Option<&[u8]> {
        match &*self.node {
            Node::Leaf(leaf) => leaf.entries.first().map(Entry::key),
            Node::Branch(branch) => branch.children.first()?.first_key(),
        }
    }

    fn last_key(&self) -> Option<&[u8]> {
        match &*self.node {
            Node::Leaf(leaf) => leaf.last_key(),
            Node::Branch(branch) => branch.children.last()?.last_key(),
        }
    }

    /// Asserts everything that holds of a tree; returns its height.
    #[cfg(test)]
    pub fn check(&self, bounds: Bounds<'_>) -> usize {
        let exact = self.node.stats();
        assert_eq!((self.stats.live, self.stats.stale), (exact.live, exact.stale), "statistics");
        assert!(self.stats.reshaped >= exact.reshaped, "reshaped {:?} < {exact:?}", self.stats);
        match &*self.node {
            Node::Leaf(leaf) => {
                assert_eq!(leaf.heads.len(), leaf.entries.len());
                assert_eq!(leaf.live, super::leaf::live_bits(&leaf.entries));
                assert!(leaf.entries.len() <= super::leaf::LEAF_MAX);
                assert!(leaf.entries.is_sorted_by(|a, b| a.key() < b.key()));
                for (entry, found) in leaf.entries.iter().zip(&leaf.heads) {
                    assert_eq!(*found, super::search::head(entry.key(), leaf.skip));
                    assert!(bounds.lower.is_none_or(|lower| lower <= entry.key()));
                    assert!(bounds.upper.is_none_or(|upper| upper > entry.key()));
                    let versions: Vec<_> = entry.versions().map(Version::revision).collect();
                    assert!(versions.is_sorted_by(|a, b| a > b), "versions {versions:?}");
                }
                1
            }
            Node::Branch(branch) => {
                assert!(branch.children.len() <= super::branch::BRANCH_MAX);
                assert_eq!(branch.separators.len() + 1, branch.children.len());
                let last = branch.children.len() - 1;
                let heights = branch.children.iter().enumerate().map(|(at, child)| {
                    child.check(Bounds {
                        lower: if at == 0 { bounds.lower } else { Some(branch.separators.get(at - 1)) },
                        upper: if at == last { bounds.upper } else { Some(branch.separators.get(at)) },
                    })
                });
                let heights: Vec<usize> = heights.collect();
                assert!(heights.iter().all(|height| *height == heights[0]), "leaves are equally deep");
                heights[0] + 1
            }
        }
    }
}

impl Node {
    /// Exact, but for `reshaped` of a leaf, which its entries do not tell.
    fn stats(&self) -> Stats {
        match self {
            Self::Leaf(leaf) => leaf.stats(),
            Self::Branch(branch) => branch.stats(),
        }
    }
}
