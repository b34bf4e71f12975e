//! What is known of a subtree without looking at it, and the bounds of a walk.

use super::versions::Entry;

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

/// How a write changed the statistics of everything above it.
#[derive(Clone, Copy, Default)]
pub struct Delta {
    /// Keys gained or lost.
    pub live: i64,
    /// Entries that became stale.
    pub stale: i64,
    /// When a key was created or removed; 0 when none was.
    pub reshaped: i64,
}

/// Bounds of a walk: `lower <= key < upper`; `None` = unbounded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds<'a> {
    /// First key that may be met.
    pub lower: Option<&'a [u8]>,
    /// First key that may not.
    pub upper: Option<&'a [u8]>,
}

impl Stats {
    /// Whether no key existed here at `at`, nor since.
    pub fn is_dead_at(&self, at: i64) -> bool {
        self.live == 0 && self.reshaped <= at
    }

    /// After a write.
    pub fn add(&mut self, delta: Delta) {
        self.live = self.live.strict_add_signed(delta.live);
        self.stale = self.stale.strict_add_signed(delta.stale);
        self.reshaped = self.reshaped.max(delta.reshaped);
    }

    /// Of two subtrees together.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            live: self.live + other.live,
            stale: self.stale + other.stale,
            reshaped: self.reshaped.max(other.reshaped),
        }
    }
}

impl Delta {
    /// `before`: whether the entry was live and stale, `None` when there was none.
    pub fn between(before: Option<(bool, bool)>, entry: &Entry) -> Self {
        let (was_live, was_stale) = before.unwrap_or_default();
        let (is_live, is_stale) = (entry.live().is_some(), entry.is_stale());
        Self {
            live: i64::from(is_live) - i64::from(was_live),
            stale: i64::from(is_stale) - i64::from(was_stale),
            reshaped: if is_live == was_live { 0 } else { entry.newest().revision().main },
        }
    }
}

impl Bounds<'_> {
    /// Whether every key lies within.
    pub fn is_open(&self) -> bool {
        self.lower.is_none() && self.upper.is_none()
    }
}
