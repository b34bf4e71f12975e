//! The keys between the children of a branch. Immutable and shared, so that copying a branch for a pinned view does not
//! copy them.

use super::search::{find, head, shared_prefix};

/// Sorted separators in one block of bytes; child `i` of a branch holds the keys `separator(i - 1) <= key < separator(i)`.
#[derive(Debug, Default)]
pub struct Separators {
    skip: usize,
    heads: Box<[u64]>,
    /// Where each separator ends in `bytes`.
    ends: Box<[usize]>,
    bytes: Box<[u8]>,
}

impl Separators {
    /// From sorted keys.
    pub fn new<'a>(keys: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let first = keys.clone().next().unwrap_or_default();
        let last = keys.clone().last().unwrap_or_default();
        let skip = shared_prefix(first, last);
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for key in keys.clone() {
            bytes.extend_from_slice(key);
            ends.push(bytes.len());
        }
        Self { skip, heads: keys.map(|key| head(key, skip)).collect(), ends: ends.into(), bytes: bytes.into() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The separator before child `at + 1`.
    #[inline]
    pub fn get(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        (0..self.len()).map(|at| self.get(at))
    }

    /// The child that holds `key`.
    #[inline]
    pub fn child_of(&self, key: &[u8]) -> usize {
        match find(&self.heads, self.skip, |at| self.get(at), key) {
            Ok(at) => at + 1,
            Err(at) => at,
        }
    }

    /// With one more, before what is at `at` now.
    pub fn with(&self, at: usize, key: &[u8]) -> Self {
        let before = (0..at).map(|i| self.get(i));
        Self::new(before.chain(std::iter::once(key)).chain((at..self.len()).map(|i| self.get(i))))
    }

    /// Those in `range`.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        Self::new(range.map(|at| self.get(at)))
    }
}

/// A short key `s` with `left < s <= right`.
pub fn separator<'a>(left: &[u8], right: &'a [u8]) -> &'a [u8] {
    &right[..(shared_prefix(left, right) + 1).min(right.len())]
}
