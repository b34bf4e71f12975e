//! A branch: subtrees with separators between them.

use std::sync::Arc;

use super::leaf::Half;
use super::node::{Split, Subtree};
use super::separators::Separators;
use super::stats::{Bounds, Stats};

/// Children of a branch at most; few in tests, as with leaves.
pub const BRANCH_MAX: usize = if cfg!(test) { 4 } else { 64 };

/// As with leaves, neighbours are merged when together they fill three quarters.
pub const MERGED_BRANCH_MAX: usize = BRANCH_MAX / 4 * 3;

/// Subtrees of one height, in key order, with separators between them.
#[derive(Clone, Debug)]
pub struct Branch {
    /// One less than children.
    pub separators: Arc<Separators>,
    /// At least one, but while entries are being removed.
    pub children: Vec<Subtree>,
}

impl Branch {
    /// The sum of its children's.
    pub fn stats(&self) -> Stats {
        self.children.iter().fold(Stats::default(), |sum, child| sum.plus(&child.stats))
    }

    /// Children that may hold keys in `bounds`, by position, each with what is left of the bounds.
    pub fn positions<'a>(&self, bounds: Bounds<'a>) -> impl DoubleEndedIterator<Item = (usize, Bounds<'a>)> + use<'a> {
        let first = bounds.lower.map_or(0, |key| self.separators.child_of(key));
        let last = bounds.upper.map_or(self.children.len().saturating_sub(1), |key| self.separators.child_of(key));
        let end = if self.children.is_empty() { first } else { last + 1 };
        (first..end).map(move |at| {
            let lower = bounds.lower.filter(|_| at == first);
            let upper = bounds.upper.filter(|_| at == last);
            (at, Bounds { lower, upper })
        })
    }

    /// As [`Branch::positions`], with the children themselves.
    pub fn within<'s, 'b>(
        &'s self,
        bounds: Bounds<'b>,
    ) -> impl DoubleEndedIterator<Item = (&'s Subtree, Bounds<'b>)> + use<'s, 'b> {
        self.positions(bounds).map(|(at, bounds)| (&self.children[at], bounds))
    }

    /// Puts the right half of child `at` beside it; moves the own right half out when there is one child too many.
    pub fn insert(&mut self, at: usize, split: Split) -> Option<Half<Self>> {
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
        Some((separator, right))
    }

    /// Drops empty children and merges small neighbours. May leave no child at all.
    pub fn tidy(&mut self) {
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
