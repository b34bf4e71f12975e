//! The ordered index of all keys with all their versions: a persistent B+tree.
//!
//! Cloning it is one reference count and pins its state; the writer then copies only the nodes it changes. So a reader
//! walks a clone without any lock. It knows revisions, but neither leases nor requests. Called by `apply`, `view`,
//! `compaction`, `restore`.

mod node;
mod search;
mod separators;
mod versions;

use std::ops::ControlFlow;

use node::{BRANCH_MAX, Bounds, LEAF_MAX, Stats, Subtree};
pub use versions::{Entry, Garbage, Version};

/// Main revision that stands for the newest state.
pub const NEWEST: i64 = i64::MAX;

/// Nodes built from sorted entries are filled to three quarters, so that the first inserts do not split them all.
const FILL: usize = 3;

/// The keys a request is about.
#[derive(Clone, Copy, Debug)]
pub enum KeyRange<'a> {
    /// One key.
    One(&'a [u8]),
    /// `start <= key < end`; no end = all that follow. Empty when `start >= end`.
    Span {
        /// First key.
        start: &'a [u8],
        /// First key behind the range.
        end: Option<&'a [u8]>,
    },
}

/// All keys by order, each with its versions.
#[derive(Clone, Debug)]
pub struct KeyIndex {
    root: Subtree,
}

impl<'a> KeyRange<'a> {
    /// By the API's convention: no `range_end` = one key, a zero byte = all from `key` on.
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => Self::One(key),
            [0] => Self::Span { start: key, end: None },
            end => Self::Span { start: key, end: Some(end) },
        }
    }

    /// `None` when the range is empty whatever is stored.
    fn bounds(start: &'a [u8], end: Option<&'a [u8]>) -> Option<Bounds<'a>> {
        end.is_none_or(|end| start < end).then_some(Bounds { lower: Some(start), upper: end })
    }
}

impl Default for KeyIndex {
    fn default() -> Self {
        Self { root: Subtree::empty() }
    }
}

impl KeyIndex {
    /// From entries sorted by key, each with the main revision at which its key was last created or removed.
    pub fn from_sorted(entries: impl Iterator<Item = (Entry, i64)>) -> Self {
        let mut entries = entries.peekable();
        let mut level = Vec::new();
        while entries.peek().is_some() {
            let mut leaf = Vec::with_capacity(LEAF_MAX / 4 * FILL);
            let mut reshaped = 0;
            for (entry, at) in entries.by_ref().take(LEAF_MAX / 4 * FILL) {
                leaf.push(entry);
                reshaped = reshaped.max(at);
            }
            level.push(Subtree::leaf(leaf, reshaped));
        }
        while level.len() > 1 {
            let mut children = level.into_iter().peekable();
            level = Vec::new();
            while children.peek().is_some() {
                level.push(Subtree::branch(children.by_ref().take(BRANCH_MAX / 4 * FILL).collect()));
            }
        }
        Self { root: level.pop().unwrap_or_else(Subtree::empty) }
    }

    /// Keys that exist at the newest revision.
    pub fn live(&self) -> u64 {
        self.root.stats.live
    }

    /// The entry of a key, which may be a removed one.
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.root.get(key)
    }

    /// Keys in `range` that existed at main revision `at`. At the newest revision O(log n); at an older one it walks
    /// only the leaves in which keys were created or removed since.
    pub fn count(&self, range: KeyRange<'_>, at: i64) -> u64 {
        match range {
            KeyRange::One(key) => u64::from(self.get(key).is_some_and(|entry| entry.live_at(at).is_some())),
            KeyRange::Span { start, end } => {
                KeyRange::bounds(start, end).map_or(0, |bounds| self.root.count(bounds, at))
            }
        }
    }

    /// Visits the entries in `range` in key order, at least all that existed at main revision `at`.
    pub fn scan<'a, B>(
        &'a self,
        range: KeyRange<'_>,
        at: i64,
        mut visit: impl FnMut(&'a Entry) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match range {
            KeyRange::One(key) => self.get(key).map_or(ControlFlow::Continue(()), visit),
            KeyRange::Span { start, end } => match KeyRange::bounds(start, end) {
                Some(bounds) => self.root.scan(bounds, &|stats: &Stats| stats.is_dead_at(at), &mut visit),
                None => ControlFlow::Continue(()),
            },
        }
    }

    /// As [`KeyIndex::scan`], from the last key to the first.
    pub fn scan_back<'a, B>(
        &'a self,
        range: KeyRange<'_>,
        at: i64,
        mut visit: impl FnMut(&'a Entry) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match range {
            KeyRange::One(key) => self.get(key).map_or(ControlFlow::Continue(()), visit),
            KeyRange::Span { start, end } => match KeyRange::bounds(start, end) {
                Some(bounds) => self.root.scan_back(bounds, &|stats: &Stats| stats.is_dead_at(at), &mut visit),
                None => ControlFlow::Continue(()),
            },
        }
    }

    /// Visits every entry, removed keys included.
    pub fn for_each<'a>(&'a self, mut visit: impl FnMut(&'a Entry)) {
        let everything = self.root.scan(Bounds::default(), &|_: &Stats| false, &mut |entry| {
            visit(entry);
            ControlFlow::<()>::Continue(())
        });
        debug_assert!(everything.is_continue(), "nothing breaks the walk");
    }

    /// Gives `key` the version that `make` makes of its entry so far.
    pub fn write(&mut self, key: &[u8], make: impl FnOnce(Option<&Entry>) -> Version) {
        if let Some(split) = self.root.write(key, make) {
            self.root = std::mem::replace(&mut self.root, Subtree::empty()).grow(split);
        }
    }

    /// Gives every key in `range` that exists the tombstone that `make` makes for it, in key order.
    pub fn retire(&mut self, range: KeyRange<'_>, mut make: impl FnMut(&Entry) -> Version) {
        match range {
            KeyRange::One(key) => {
                if self.get(key).is_some_and(|entry| entry.live().is_some()) {
                    self.write(key, |entry| make(entry.expect("it was found just now")));
                }
            }
            KeyRange::Span { start, end } => {
                if let Some(bounds) = KeyRange::bounds(start, end) {
                    self.root.retire(bounds, &mut make);
                }
            }
        }
    }

    /// Drops versions that nobody may ask for when nothing before `at` may be read, from key `from` on, until about
    /// `keys_max` entries with something to drop, or neighbours of such, were visited. Returns where to go on, `None`
    /// at the end.
    pub fn compact(&mut self, from: Option<&[u8]>, at: i64, keys_max: usize, garbage: &mut Garbage) -> Option<Vec<u8>> {
        let mut budget = keys_max.max(1);
        let next = self.root.compact(from, at, &mut budget, garbage);
        while let Some(child) = self.root.only_child() {
            self.root = child;
        }
        if self.root.is_empty() {
            self.root = Subtree::empty();
        }
        next
    }

    /// Asserts the tree's invariants.
    #[cfg(test)]
    pub fn check(&self) {
        self.root.check(Bounds::default());
    }
}
