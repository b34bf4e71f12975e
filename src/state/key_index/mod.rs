//! The ordered index of all keys with all their versions: a persistent B+tree.
//!
//! Cloning it is one reference count and pins its state; the writer then copies only the nodes it changes. So a reader
//! walks a clone without any lock. It knows revisions, but neither leases nor requests. Called by `apply`, `view`,
//! `compaction`, `restore`.

mod branch;
mod fetch;
mod leaf;
mod list;
mod node;
mod search;
mod separators;
mod stats;
mod versions;

use std::ops::ControlFlow;

use branch::BRANCH_MAX;
pub use fetch::{FETCH, fetch};
use leaf::LEAF_MAX;
use list::{Dated, List};
use node::Subtree;
pub use search::{HEAD_BYTES, head};
use stats::{Bounds, Stats};
pub use versions::{Entry, Garbage, Version};

use crate::proto::Record;

/// Main revision that stands for the newest state.
pub const NEWEST: i64 = i64::MAX;

/// Nodes built from sorted entries are filled to three quarters, so that the first inserts do not split them all.
const FILL: usize = 3;

/// Looking through one leaf costs about as much as this many steps in the log of creations and removals (measured).
const RESHAPINGS_PER_LEAF: usize = 8;

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
    /// Every creation and removal since the compaction mark.
    reshapings: List<Reshaping>,
}

/// A key that came or went.
#[derive(Clone, Debug)]
struct Reshaping {
    /// Holds the key.
    record: Record,
    main: i64,
    created: bool,
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

    fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => *one == key,
            Self::Span { start, end } => *start <= key && end.is_none_or(|end| key < end),
        }
    }

    /// `None` when the range is empty whatever is stored.
    fn bounds(start: &'a [u8], end: Option<&'a [u8]>) -> Option<Bounds<'a>> {
        end.is_none_or(|end| start < end).then_some(Bounds { lower: Some(start), upper: end })
    }
}

/// Makes an index of sorted entries, bottom up.
#[derive(Debug, Default)]
pub struct Builder {
    leaves: Vec<Subtree>,
    /// The leaf being filled.
    entries: Vec<Entry>,
    reshaped: i64,
}

impl Builder {
    /// Adds the entry of a key that follows all those before; its key was not created or removed after `reshaped`.
    pub fn push(&mut self, entry: Entry, reshaped: i64) {
        if self.entries.len() == LEAF_MAX / 4 * FILL {
            self.end_leaf();
        }
        if self.entries.is_empty() {
            self.entries.reserve_exact(LEAF_MAX / 4 * FILL);
        }
        self.entries.push(entry);
        self.reshaped = self.reshaped.max(reshaped);
    }

    /// The index.
    pub fn finish(mut self) -> KeyIndex {
        self.end_leaf();
        let mut level = self.leaves;
        while level.len() > 1 {
            let mut children = level.into_iter().peekable();
            level = Vec::new();
            while children.peek().is_some() {
                level.push(Subtree::branch(children.by_ref().take(BRANCH_MAX / 4 * FILL).collect()));
            }
        }
        KeyIndex { root: level.pop().unwrap_or_else(Subtree::empty), reshapings: List::default() }
    }

    fn end_leaf(&mut self) {
        if !self.entries.is_empty() {
            self.leaves.push(Subtree::leaf(std::mem::take(&mut self.entries), self.reshaped));
            self.reshaped = 0;
        }
    }
}

impl Reshaping {
    fn of(version: &Version) -> Self {
        let main = version.revision().main;
        Self { record: version.record().clone(), main, created: !version.is_tombstone() }
    }
}

impl Dated for Reshaping {
    fn main(&self) -> i64 {
        self.main
    }
}

impl Default for KeyIndex {
    fn default() -> Self {
        Self { root: Subtree::empty(), reshapings: List::default() }
    }
}

impl KeyIndex {
    /// Keys that exist at the newest revision.
    pub fn live(&self) -> u64 {
        self.root.stats.live
    }

    /// The entry of a key, which may be a removed one.
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.root.get(key)
    }

    /// Keys in `range` that existed at main revision `at`. At the newest revision O(log n). At an older one it walks the
    /// leaves in which keys were created or removed since, or follows the log of that, whichever is less.
    pub fn count(&self, range: KeyRange<'_>, at: i64) -> u64 {
        let bounds = match range {
            KeyRange::One(key) => return u64::from(self.get(key).is_some_and(|entry| entry.live_at(at).is_some())),
            KeyRange::Span { start, end } => KeyRange::bounds(start, end),
        };
        let Some(bounds) = bounds else { return 0 };
        if self.root.stats.reshaped <= at {
            return self.root.count(bounds);
        }
        let since = self.reshapings.newer_than(at);
        let mut leaves_max = since / RESHAPINGS_PER_LEAF + 1;
        if let Some(count) = self.root.count_at(bounds, at, &mut leaves_max) {
            return count;
        }
        let ours = self.reshapings.iter().take(since).filter(|reshaping| range.contains(reshaping.record.key()));
        let delta = ours.map(|reshaping| if reshaping.created { -1 } else { 1 }).sum();
        self.root.count(bounds).strict_add_signed(delta)
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
        let Self { root, reshapings } = self;
        let split = root.write(key, |entry| {
            let version = make(entry);
            if entry.is_some_and(|entry| entry.live().is_some()) == version.is_tombstone() {
                reshapings.push(Reshaping::of(&version));
            }
            version
        });
        if let Some(split) = split {
            *root = std::mem::replace(root, Subtree::empty()).grow(split);
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
                let Some(bounds) = KeyRange::bounds(start, end) else { return };
                let Self { root, reshapings } = self;
                root.retire(bounds, &mut |entry| {
                    let tombstone = make(entry);
                    reshapings.push(Reshaping::of(&tombstone));
                    tombstone
                });
            }
        }
    }

    /// Says of an index made by a [`Builder`] that `version` created or removed its key; to be called in
    /// revision order for all that did since the compaction mark.
    pub fn note_reshaping(&mut self, version: &Version) {
        self.reshapings.push(Reshaping::of(version));
    }

    /// Forgets creations and removals up to main revision `at`; counts at older revisions are no longer asked for. The
    /// result is to be dropped outside any lock.
    #[must_use]
    pub fn forget_reshapings(&mut self, at: i64) -> impl Sized + use<> {
        self.reshapings.cut(at, |_| false)
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
