//! The nodes of the index: leaves of entries, branches of subtrees, all behind `Arc`.
//!
//! Whoever changes a node does it through `Arc::make_mut`: in place while nobody else holds the node, else on a copy. A
//! copy shares everything below it. All leaves are equally deep, so recursion goes as deep as the tree is high.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::search::{find, head, shared_prefix};
use super::separators::{Separators, separator};
use super::versions::{Entry, Garbage, Version};

/// Entries of a leaf at most. Tests take small nodes, so that a few keys make a high tree.
pub const LEAF_MAX: usize = if cfg!(test) { 8 } else { 64 };
/// Children of a branch at most.
pub const BRANCH_MAX: usize = if cfg!(test) { 4 } else { 64 };
/// Neighbours are merged when together they fill no more than three quarters of a node, so that the next insert does
/// not split it again.
const MERGED_LEAF_MAX: usize = LEAF_MAX / 4 * 3;
const MERGED_BRANCH_MAX: usize = BRANCH_MAX / 4 * 3;

/// Entries by which a leaf's memory grows.
const GROWTH: usize = 16;

/// What a subtree holds; kept beside the pointer to it, so that it can be skipped unseen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Keys that exist at the newest revision.
    pub live: u64,
    /// Entries where compaction may have something to do.
    pub stale: u64,
    /// No key was created or removed here after this main revision: `live` is exact from there on. It may be too high
    /// after a split, never too low.
    pub reshaped: i64,
}

/// A node with its statistics.
#[derive(Clone, Debug)]
pub struct Subtree {
    /// Of everything below.
    pub stats: Stats,
    node: Arc<Node>,
}

/// Bounds of a walk: `lower <= key < upper`; `None` = unbounded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds<'a> {
    /// First key that may be met.
    pub lower: Option<&'a [u8]>,
    /// First key that may not.
    pub upper: Option<&'a [u8]>,
}

/// The right half of a node that became too large, and the separator before it.
pub struct Split {
    separator: Box<[u8]>,
    right: Subtree,
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Leaf),
    Branch(Branch),
}

#[derive(Clone, Debug, Default)]
struct Leaf {
    /// Bytes that all keys share.
    skip: usize,
    /// `heads[i]` belongs to `entries[i]`.
    heads: Vec<u64>,
    /// By key.
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Branch {
    /// One less than children.
    separators: Arc<Separators>,
    children: Vec<Subtree>,
}

/// The right half of a node that was split, before it has its statistics.
struct Half {
    separator: Box<[u8]>,
    node: Node,
}

/// How a write changed the statistics of everything above it.
#[derive(Clone, Copy, Default)]
struct Delta {
    live: i64,
    stale: i64,
    reshaped: i64,
}

impl Subtree {
    /// No key at all.
    pub fn empty() -> Self {
        Self::of(Node::Leaf(Leaf::default()))
    }

    /// Sorted entries, at most [`LEAF_MAX`]; `reshaped` as in [`Stats`].
    pub fn leaf(entries: Vec<Entry>, reshaped: i64) -> Self {
        let mut subtree = Self::of(Node::Leaf(Leaf::new(entries)));
        subtree.stats.reshaped = reshaped;
        subtree
    }

    /// Sorted subtrees of one height, 1 to [`BRANCH_MAX`] of them.
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

    /// Keys in `bounds` that existed at main revision `at`.
    pub fn count(&self, bounds: Bounds<'_>, at: i64) -> u64 {
        if bounds.is_open() && self.stats.reshaped <= at {
            return self.stats.live;
        }
        match &*self.node {
            Node::Leaf(leaf) => {
                let entries = &leaf.entries[leaf.within(bounds)];
                entries.iter().filter(|entry| entry.live_at(at).is_some()).count() as u64
            }
            Node::Branch(branch) => {
                let parts = branch.within(bounds).filter(|(child, _)| !child.stats.is_dead_at(at));
                parts.map(|(child, bounds)| child.count(bounds, at)).sum()
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
            Node::Leaf(leaf) => leaf.entries[leaf.within(bounds)].iter().try_for_each(visit),
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
            Node::Leaf(leaf) => leaf.entries[leaf.within(bounds)].iter().rev().try_for_each(visit),
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
            Node::Leaf(leaf) => leaf.write(key, make),
            Node::Branch(branch) => {
                let at = branch.separators.child_of(key);
                let (delta, split) = branch.children[at].write_below(key, make);
                (delta, split.and_then(|split| branch.insert(at, split)))
            }
        };
        self.stats.add(delta);
        let split = right.map(|Half { separator, node }| {
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
        if self.stats.live == 0 || self.count(bounds, i64::MAX) == 0 {
            return;
        }
        match Arc::make_mut(&mut self.node) {
            Node::Leaf(leaf) => {
                let range = leaf.within(bounds);
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

    fn may_merge_with(&self, right: &Self) -> bool {
        let max = if matches!(*self.node, Node::Leaf(_)) { MERGED_LEAF_MAX } else { MERGED_BRANCH_MAX };
        self.width() + right.width() <= max
    }

    /// Takes over what its right neighbour holds; `separator` stood between them.
    fn merge(&mut self, separator: &[u8], right: Self) {
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
                assert!(leaf.entries.len() <= LEAF_MAX);
                assert!(leaf.entries.is_sorted_by(|a, b| a.key() < b.key()));
                for (entry, found) in leaf.entries.iter().zip(&leaf.heads) {
                    assert_eq!(*found, head(entry.key(), leaf.skip));
                    assert!(bounds.lower.is_none_or(|lower| lower <= entry.key()));
                    assert!(bounds.upper.is_none_or(|upper| upper > entry.key()));
                    let versions: Vec<_> = entry.versions().map(Version::revision).collect();
                    assert!(versions.is_sorted_by(|a, b| a > b), "versions {versions:?}");
                }
                1
            }
            Node::Branch(branch) => {
                assert!(branch.children.len() <= BRANCH_MAX);
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

impl Stats {
    /// Whether no key existed here at `at`, nor since.
    pub fn is_dead_at(&self, at: i64) -> bool {
        self.live == 0 && self.reshaped <= at
    }

    fn add(&mut self, delta: Delta) {
        self.live = self.live.strict_add_signed(delta.live);
        self.stale = self.stale.strict_add_signed(delta.stale);
        self.reshaped = self.reshaped.max(delta.reshaped);
    }

    fn plus(&self, other: &Self) -> Self {
        Self {
            live: self.live + other.live,
            stale: self.stale + other.stale,
            reshaped: self.reshaped.max(other.reshaped),
        }
    }
}

impl Bounds<'_> {
    fn is_open(&self) -> bool {
        self.lower.is_none() && self.upper.is_none()
    }
}

impl Delta {
    /// `before`: whether the entry was live and stale, `None` when there was none.
    fn between(before: Option<(bool, bool)>, entry: &Entry) -> Self {
        let (was_live, was_stale) = before.unwrap_or_default();
        let (is_live, is_stale) = (entry.live().is_some(), entry.is_stale());
        Self {
            live: i64::from(is_live) - i64::from(was_live),
            stale: i64::from(is_stale) - i64::from(was_stale),
            reshaped: if is_live == was_live { 0 } else { entry.newest().revision().main },
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

impl Leaf {
    fn new(entries: Vec<Entry>) -> Self {
        let skip = match (entries.first(), entries.last()) {
            (Some(first), Some(last)) => shared_prefix(first.key(), last.key()),
            _ => 0,
        };
        let heads = entries.iter().map(|entry| head(entry.key(), skip)).collect();
        Self { skip, heads, entries }
    }

    #[inline]
    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        find(&self.heads, self.skip, |at| self.entries[at].key(), key)
    }

    fn last_key(&self) -> Option<&[u8]> {
        self.entries.last().map(Entry::key)
    }

    fn within(&self, bounds: Bounds<'_>) -> std::ops::Range<usize> {
        let place = |key| self.find(key).unwrap_or_else(|place| place);
        let start = bounds.lower.map_or(0, place);
        let end = bounds.upper.map_or(self.entries.len(), place);
        start..end.max(start)
    }

    fn stats(&self) -> Stats {
        Stats {
            live: self.entries.iter().filter(|entry| entry.live().is_some()).count() as u64,
            stale: self.entries.iter().filter(|entry| entry.is_stale()).count() as u64,
            reshaped: 0,
        }
    }

    fn write(&mut self, key: &[u8], make: impl FnOnce(Option<&Entry>) -> Version) -> (Delta, Option<Half>) {
        match self.find(key) {
            Ok(at) => {
                let entry = &mut self.entries[at];
                let before = (entry.live().is_some(), entry.is_stale());
                let version = make(Some(entry));
                entry.push(version);
                (Delta::between(Some(before), entry), None)
            }
            Err(at) => {
                let entry = Entry::new(make(None));
                debug_assert_eq!(entry.key(), key, "the version is of the key");
                let delta = Delta::between(None, &entry);
                if self.entries.len() < LEAF_MAX {
                    self.insert(at, entry);
                    return (delta, None);
                }
                (delta, Some(self.insert_and_split(at, entry)))
            }
        }
    }

    fn insert(&mut self, at: usize, entry: Entry) {
        // Between two keys that share the prefix a key shares it too; at the ends it may share less.
        let neighbour = if at == 0 { self.entries.first() } else { self.entries.get(at - 1) };
        let is_at_end = at == 0 || at == self.entries.len();
        let shared = match neighbour {
            None => entry.key().len(),
            Some(neighbour) if is_at_end => shared_prefix(neighbour.key(), entry.key()).min(self.skip),
            Some(_) => self.skip,
        };
        if shared != self.skip {
            self.skip = shared;
            for (head_of, entry) in self.heads.iter_mut().zip(&self.entries) {
                *head_of = head(entry.key(), shared);
            }
        }
        if self.entries.len() == self.entries.capacity() {
            let more = GROWTH.min(LEAF_MAX - self.entries.len());
            self.heads.reserve_exact(more);
            self.entries.reserve_exact(more);
        }
        self.heads.insert(at, head(entry.key(), shared));
        self.entries.insert(at, entry);
    }

    /// Inserts into a full leaf; moves the right half out. Keys that come in order leave full leaves behind them.
    fn insert_and_split(&mut self, at: usize, entry: Entry) -> Half {
        let middle = if at == self.entries.len() { at } else { self.entries.len() / 2 };
        let mut right = Self::new(self.entries.split_off(middle));
        if at < self.entries.len() {
            self.entries.shrink_to(middle + GROWTH);
            *self = Self::new(std::mem::take(&mut self.entries));
            self.insert(at, entry);
        } else {
            if middle < LEAF_MAX {
                *self = Self::new(std::mem::take(&mut self.entries));
            }
            right.insert(at - middle, entry);
        }
        let separator = separator(self.last_key().unwrap_or_default(), right.entries[0].key()).into();
        Half { separator, node: Node::Leaf(right) }
    }

    fn compact(&mut self, at: i64, garbage: &mut Garbage) {
        let mut kept = 0;
        for from in 0..self.entries.len() {
            if self.entries[from].compact(at, garbage) {
                continue;
            }
            self.entries.swap(kept, from);
            self.heads.swap(kept, from);
            kept += 1;
        }
        self.heads.truncate(kept);
        for entry in self.entries.drain(kept..) {
            garbage.add(entry);
        }
    }
}

impl Branch {
    fn stats(&self) -> Stats {
        self.children.iter().fold(Stats::default(), |sum, child| sum.plus(&child.stats))
    }

    /// Children that may hold keys in `bounds`, by position, each with what is left of the bounds.
    fn positions<'a>(&self, bounds: Bounds<'a>) -> impl DoubleEndedIterator<Item = (usize, Bounds<'a>)> + use<'a> {
        let first = bounds.lower.map_or(0, |key| self.separators.child_of(key));
        let last = bounds.upper.map_or(self.children.len().saturating_sub(1), |key| self.separators.child_of(key));
        let end = if self.children.is_empty() { first } else { last + 1 };
        (first..end).map(move |at| {
            let lower = bounds.lower.filter(|_| at == first);
            let upper = bounds.upper.filter(|_| at == last);
            (at, Bounds { lower, upper })
        })
    }

    fn within<'s, 'b>(
        &'s self,
        bounds: Bounds<'b>,
    ) -> impl DoubleEndedIterator<Item = (&'s Subtree, Bounds<'b>)> + use<'s, 'b> {
        self.positions(bounds).map(|(at, bounds)| (&self.children[at], bounds))
    }

    /// Puts the right half of child `at` beside it; moves the own right half out when there is one child too many.
    fn insert(&mut self, at: usize, split: Split) -> Option<Half> {
        self.separators = Arc::new(self.separators.with(at, &split.separator));
        self.children.insert(at + 1, split.right);
        if self.children.len() <= BRANCH_MAX {
            return None;
        }
        let middle = self.children.len() / 2;
        let children = self.children.split_off(middle);
        let separator = self.separators.get(middle - 1).into();
        let right = Self { separators: Arc::new(self.separators.slice(middle..self.separators.len())), children };
        self.separators = Arc::new(self.separators.slice(0..middle - 1));
        Some(Half { separator, node: Node::Branch(right) })
    }

    /// Drops empty children and merges small neighbours. May leave no child at all.
    fn tidy(&mut self) {
        let needs_it = |pair: &[Subtree]| pair[0].may_merge_with(&pair[1]);
        if !self.children.iter().any(Subtree::is_empty) && !self.children.windows(2).any(needs_it) {
            return;
        }
        let separators = Arc::clone(&self.separators);
        let mut kept: Vec<Subtree> = Vec::with_capacity(self.children.len());
        let mut between: Vec<&[u8]> = Vec::with_capacity(self.children.len());
        for (at, child) in self.children.drain(..).enumerate() {
            if child.is_empty() {
                continue;
            }
            // Any separator between two kept children will do; the one just before the right of them is one.
            let separator = if at == 0 { &[][..] } else { separators.get(at - 1) };
            match kept.last_mut() {
                Some(left) if left.may_merge_with(&child) => left.merge(separator, child),
                Some(_) => {
                    between.push(separator);
                    kept.push(child);
                }
                None => kept.push(child),
            }
        }
        self.separators = Arc::new(Separators::new(between.into_iter()));
        self.children = kept;
    }
}
