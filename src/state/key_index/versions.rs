//! The versions of one key: the newest in the index entry itself, older ones in a list.

use super::list::{Cut, Dated, List};
use crate::mutants::{Mutant, planted};
use crate::proto::Record;
use crate::state::event::Revision;

/// One version of a key.
#[derive(Clone, Debug)]
pub struct Version {
    /// Key and value; for a tombstone the key.
    record: Record,
    main: i64,
    sub: u32,
    tombstone: bool,
}

/// A key with its versions. The key's bytes are those in its newest record.
#[derive(Clone, Debug)]
pub struct Entry {
    newest: Version,
    older: List<Version>,
}

/// What compaction took out of the index, to be counted and freed outside any lock.
#[derive(Debug, Default)]
pub struct Garbage {
    removed: Vec<Version>,
    cuts: Vec<Cut<Version>>,
}

impl Version {
    /// A version written at `revision`; its sub-revision must fit 32 bits.
    pub fn new(record: Record, revision: Revision, tombstone: bool) -> Self {
        let sub = u32::try_from(revision.sub).expect("one command changes less than 2^32 keys");
        Self { record, main: revision.main, sub, tombstone }
    }

    /// Its record. All access to a version's bytes goes through here, so that a record may later lie on disk.
    #[inline]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// When it was written.
    #[inline]
    pub fn revision(&self) -> Revision {
        Revision { main: self.main, sub: i64::from(self.sub) }
    }

    /// Whether it says that the key was removed.
    #[inline]
    pub fn is_tombstone(&self) -> bool {
        self.tombstone
    }

    /// A tombstone from before `at`. One at `at` itself counts as younger, because a watcher may start there.
    fn is_past_tombstone(&self, at: i64) -> bool {
        self.tombstone && self.main < at
    }
}

impl Dated for Version {
    #[inline]
    fn main(&self) -> i64 {
        self.main
    }
}

impl Entry {
    /// A key with one version.
    pub fn new(newest: Version) -> Self {
        Self { newest, older: List::default() }
    }

    /// The key.
    #[inline]
    pub fn key(&self) -> &[u8] {
        self.newest.record.key()
    }

    /// The newest version.
    #[inline]
    pub fn newest(&self) -> &Version {
        &self.newest
    }

    /// The newest record, if the key exists.
    #[inline]
    pub fn live(&self) -> Option<&Record> {
        (!self.newest.tombstone).then_some(&self.newest.record)
    }

    /// The record at main revision `at`, if the key existed then.
    #[inline]
    pub fn live_at(&self, at: i64) -> Option<&Record> {
        if self.newest.main <= at {
            return self.live();
        }
        self.older.newest_at(at).filter(|version| !version.tombstone).map(|version| &version.record)
    }

    /// Whether compaction may have something to do here.
    pub fn is_stale(&self) -> bool {
        self.newest.tombstone || !self.older.is_empty()
    }

    /// All versions, newest first.
    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        std::iter::once(&self.newest).chain(self.older.iter())
    }

    /// Makes `version` the newest.
    pub fn push(&mut self, version: Version) {
        debug_assert!(version.revision() > self.newest.revision(), "{version:?} follows {:?}", self.newest);
        self.older.push(std::mem::replace(&mut self.newest, version));
    }

    /// Whether [`Entry::compact`] would drop anything.
    pub fn has_garbage(&self, at: i64) -> bool {
        if self.newest.main <= at {
            return !self.older.is_empty() || self.newest.is_past_tombstone(at);
        }
        // The newest version at or before `at` stays, unless it is a past tombstone; what is older goes.
        let Some(keeper) = self.older.newest_at(at) else { return false };
        let oldest = self.older.oldest().unwrap_or(keeper);
        keeper.is_past_tombstone(at) || oldest.revision() < keeper.revision()
    }

    /// Drops what nobody may ask for when nothing before `at` may be read: all but the newest version at or before
    /// `at`, and that one too if it is a tombstone from before `at`; a tombstone at `at` itself stays until the next
    /// compaction. Returns whether the whole entry is to be removed; then only its newest version is left.
    pub fn compact(&mut self, at: i64, garbage: &mut Garbage) -> bool {
        if self.newest.main <= at {
            garbage.add(Cut::all(std::mem::take(&mut self.older)));
            return self.newest.is_past_tombstone(at);
        }
        garbage.add(self.older.cut(at, |keeper| !keeper.is_past_tombstone(at) && !planted(Mutant::CompactionTooMuch)));
        false
    }
}

impl Garbage {
    /// Adds the newest version of an entry that was removed.
    pub fn add_removed(&mut self, entry: Entry) {
        self.removed.push(entry.newest);
    }

    /// Everything dropped.
    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        self.removed.iter().chain(self.cuts.iter().flat_map(Cut::iter))
    }

    fn add(&mut self, cut: Cut<Version>) {
        if !cut.is_empty() {
            self.cuts.push(cut);
        }
    }
}
