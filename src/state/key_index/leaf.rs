//! A leaf: entries in key order, found by their heads.

use super::fetch::fetch;
use super::search::{find, head, shared_prefix};
use super::separators::separator;
use super::stats::{Bounds, Delta, Stats};
use super::versions::{Entry, Garbage, Version};

/// Entries of a leaf at most. Tests take small nodes, so that a few keys make a high tree.
pub const LEAF_MAX: usize = if cfg!(test) { 8 } else { 64 };
const _: () = assert!(LEAF_MAX <= u64::BITS as usize, "a leaf has one bit for each entry");

/// Neighbours are merged when together they fill no more than three quarters of a leaf, so that the next insert does not
/// split it again.
pub const MERGED_LEAF_MAX: usize = LEAF_MAX / 4 * 3;

/// Entries by which a leaf's memory grows.
const GROWTH: usize = 16;

/// The right half of a node that was split, after the separator before it.
pub type Half<N> = (Box<[u8]>, N);

/// Entries in key order.
#[derive(Debug, Default)]
pub struct Leaf {
    /// Bytes that all keys share.
    pub skip: usize,
    /// `heads[i]` belongs to `entries[i]`.
    pub heads: Vec<u64>,
    /// By key.
    pub entries: Vec<Entry>,
    /// Bit `i` says whether `entries[i]` exists at the newest revision, so that counting need not look at entries.
    pub live: u64,
}

impl Leaf {
    /// Of sorted entries.
    pub fn new(entries: Vec<Entry>) -> Self {
        let skip = match (entries.first(), entries.last()) {
            (Some(first), Some(last)) => shared_prefix(first.key(), last.key()),
            _ => 0,
        };
        let heads = entries.iter().map(|entry| head(entry.key(), skip)).collect();
        let live = live_bits(&entries);
        Self { skip, heads, entries, live }
    }

    /// `Ok` with the place of a key, or `Err` with the place it would take.
    #[inline]
    pub fn find(&self, key: &[u8]) -> Result<usize, usize> {
        find(&self.heads, self.skip, |at| self.entries[at].key(), key)
    }

    /// Its last key.
    pub fn last_key(&self) -> Option<&[u8]> {
        self.entries.last().map(Entry::key)
    }

    /// Places of the entries in `bounds`.
    pub fn within(&self, bounds: Bounds<'_>) -> std::ops::Range<usize> {
        let place = |key| self.find(key).unwrap_or_else(|place| place);
        let start = bounds.lower.map_or(0, place);
        let end = bounds.upper.map_or(self.entries.len(), place);
        start..end.max(start)
    }

    /// Exact, but for `reshaped`, which entries do not tell.
    pub fn stats(&self) -> Stats {
        Stats {
            live: u64::from(self.live.count_ones()),
            stale: self.entries.iter().filter(|entry| entry.is_stale()).count() as u64,
            reshaped: 0,
        }
    }

    /// Gives a key the version that `make` makes of its entry so far; may split the leaf.
    pub fn write(&mut self, key: &[u8], make: impl FnOnce(Option<&Entry>) -> Version) -> (Delta, Option<Half<Self>>) {
        match self.find(key) {
            Ok(at) => {
                let entry = &mut self.entries[at];
                let before = (entry.live().is_some(), entry.is_stale());
                let version = make(Some(entry));
                entry.push(version);
                let delta = Delta::between(Some(before), entry);
                self.live = self.live & !(1 << at) | u64::from(entry.live().is_some()) << at;
                (delta, None)
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
        let below = mask(0..at);
        self.live = self.live & below | (self.live & !below) << 1 | u64::from(entry.live().is_some()) << at;
        self.heads.insert(at, head(entry.key(), shared));
        self.entries.insert(at, entry);
    }

    /// Inserts into a full leaf; moves the right half out. Keys that come in order leave full leaves behind them.
    fn insert_and_split(&mut self, at: usize, entry: Entry) -> Half<Self> {
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
        (separator, right)
    }

    /// Compacts every entry; see [`Entry::compact`].
    pub fn compact(&mut self, at: i64, garbage: &mut Garbage) {
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
            garbage.add_removed(entry);
        }
        self.live = live_bits(&self.entries);
    }
}

/// Copied only while a view holds it.
impl Clone for Leaf {
    fn clone(&self) -> Self {
        fetch(self.entries.iter().map(|entry| entry.newest().record()));
        Self { skip: self.skip, heads: self.heads.clone(), entries: self.entries.clone(), live: self.live }
    }
}

/// The bits of `range`.
pub fn mask(range: std::ops::Range<usize>) -> u64 {
    let below = |end: usize| if end >= 64 { u64::MAX } else { (1 << end) - 1 };
    below(range.end) & !below(range.start)
}

/// Which of the entries exist at the newest revision.
pub fn live_bits(entries: &[Entry]) -> u64 {
    entries.iter().rev().fold(0, |bits, entry| bits << 1 | u64::from(entry.live().is_some()))
}
