//! The versions of one key: the newest in the index entry itself, older ones in a list that is cheap to push onto, also
//! while views hold it.

use std::sync::Arc;

use crate::proto::Record;
use crate::state::event::Revision;

/// Versions a block of the list holds at most.
const BLOCK_MAX: usize = 256;

/// A block that a view holds is copied for a push while it is not longer than this; else a new block goes before it.
/// So a push copies little, and the list does not become a chain of single versions.
const COPY_MAX: usize = 8;

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
    older: Option<Arc<Block>>,
}

/// A run of older versions; the blocks of a key go from newer to older.
#[derive(Clone, Debug)]
struct Block {
    /// Never empty; oldest first, so that a push goes to the end.
    versions: Vec<Version>,
    older: Option<Arc<Block>>,
}

/// What compaction took out of the index, to be counted and freed outside any lock.
#[derive(Debug, Default)]
pub struct Garbage {
    versions: Vec<Version>,
    blocks: Vec<Arc<Block>>,
}

impl Version {
    /// A version written at `revision`; its sub-revision must fit 32 bits.
    pub fn new(record: Record, revision: Revision, tombstone: bool) -> Self {
        let sub = u32::try_from(revision.sub).expect("one command changes less than 2^32 keys");
        Self { record, main: revision.main, sub, tombstone }
    }

    /// Its record. All access to a version's bytes goes through here, so that a record may later lie on disk.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// When it was written.
    pub fn revision(&self) -> Revision {
        Revision { main: self.main, sub: i64::from(self.sub) }
    }

    /// Whether it says that the key was removed.
    pub fn is_tombstone(&self) -> bool {
        self.tombstone
    }
}

impl Entry {
    /// A key with one version.
    pub fn new(newest: Version) -> Self {
        Self { newest, older: None }
    }

    /// The key.
    #[inline]
    pub fn key(&self) -> &[u8] {
        self.newest.record.key()
    }

    /// The newest version.
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
        self.older_at(at).filter(|version| !version.tombstone).map(|version| &version.record)
    }

    /// Whether compaction may have something to do here.
    pub fn is_stale(&self) -> bool {
        self.newest.tombstone || self.older.is_some()
    }

    /// All versions, newest first.
    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        std::iter::once(&self.newest).chain(blocks(self.older.as_deref()).flat_map(|block| block.versions.iter().rev()))
    }

    /// Makes `version` the newest.
    pub fn push(&mut self, version: Version) {
        debug_assert!(version.revision() > self.newest.revision(), "{version:?} follows {:?}", self.newest);
        let older = std::mem::replace(&mut self.newest, version);
        if let Some(head) = &mut self.older {
            if let Some(block) = Arc::get_mut(head)
                && block.versions.len() < BLOCK_MAX
            {
                block.versions.push(older);
                return;
            }
            if head.versions.len() <= COPY_MAX {
                let mut versions = Vec::with_capacity(head.versions.len() + 1);
                versions.extend_from_slice(&head.versions);
                versions.push(older);
                *head = Arc::new(Block { versions, older: head.older.clone() });
                return;
            }
        }
        self.older = Some(Arc::new(Block { versions: vec![older], older: self.older.take() }));
    }

    /// Whether [`Entry::compact`] would drop anything.
    pub fn has_garbage(&self, at: i64) -> bool {
        if self.newest.main <= at {
            return self.older.is_some() || is_past_tombstone(&self.newest, at);
        }
        // The newest version at or before `at` stays, unless it is a past tombstone; what is older goes.
        let Some(keeper) = self.older_at(at) else { return false };
        let oldest = blocks(self.older.as_deref()).last().and_then(|block| block.versions.first());
        is_past_tombstone(keeper, at) || oldest.is_some_and(|oldest| oldest.revision() < keeper.revision())
    }

    /// Drops what nobody may ask for when nothing before `at` may be read: all but the newest version at or before
    /// `at`, and that one too if it is a tombstone from before `at`. (One at `at` itself stays until the next
    /// compaction, because a watcher may start there.) Returns whether the whole entry is to be removed; then only its
    /// newest version is left and is a past tombstone.
    pub fn compact(&mut self, at: i64, garbage: &mut Garbage) -> bool {
        if self.newest.main <= at {
            garbage.blocks.extend(self.older.take());
            return is_past_tombstone(&self.newest, at);
        }
        let mut link = &mut self.older;
        while link.as_ref().is_some_and(|block| block.versions[0].main > at) {
            let block = link.as_mut().expect("the loop's condition saw it");
            link = &mut Arc::make_mut(block).older;
        }
        let Some(head) = link else { return false };
        let end = head.versions.partition_point(|version| version.main <= at);
        let cut = if is_past_tombstone(&head.versions[end - 1], at) { end } else { end - 1 };
        if cut == head.versions.len() {
            garbage.blocks.extend(link.take());
        } else if cut > 0 || head.older.is_some() {
            let block = Arc::make_mut(head);
            garbage.blocks.extend(block.older.take());
            garbage.versions.extend(block.versions.drain(..cut));
            block.versions.shrink_to_fit();
        }
        false
    }

    fn older_at(&self, at: i64) -> Option<&Version> {
        let block = blocks(self.older.as_deref()).find(|block| block.versions[0].main <= at)?;
        let end = block.versions.partition_point(|version| version.main <= at);
        block.versions.get(end.checked_sub(1)?)
    }
}

impl Garbage {
    /// Adds the newest version of an entry that was removed.
    pub fn add(&mut self, entry: Entry) {
        self.versions.push(entry.newest);
        self.blocks.extend(entry.older);
    }

    /// Everything dropped.
    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        let blocks = self.blocks.iter().flat_map(|head| blocks(Some(head)));
        self.versions.iter().chain(blocks.flat_map(|block| &block.versions))
    }
}

/// A list of a million versions is freed in a loop, not by a million nested drops.
impl Drop for Block {
    fn drop(&mut self) {
        let mut next = self.older.take();
        while let Some(mut block) = next.and_then(Arc::into_inner) {
            next = block.older.take();
        }
    }
}

fn blocks(head: Option<&Block>) -> impl Iterator<Item = &Block> {
    std::iter::successors(head, |block| block.older.as_deref())
}

fn is_past_tombstone(version: &Version, at: i64) -> bool {
    version.tombstone && version.main < at
}
