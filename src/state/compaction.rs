//! Physical compaction: dropping, slice by slice, what the compaction mark has put out of reach. Called by `compactor`.

use super::event::Revision;
use super::key_index::Garbage;
use super::store::Store;
use crate::mutants::{Mutant, planted};

/// What one slice of physical compaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactSlice {
    /// Nothing is left to drop for this compaction mark and this `up_to`.
    pub done: bool,
    /// Nothing older than this main revision is kept but what is current at it.
    pub reached: i64,
    /// What is no longer kept, and whether it was a tombstone; for the checkpoint to remove. In no particular order.
    pub dropped: Vec<(Revision, bool)>,
}

/// One walk over the whole index, in slices.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// The last pass that came to its end compacted at this main revision.
    reached: i64,
    /// The index has forgotten creations and removals up to this main revision.
    forgotten: i64,
    /// The pass under way.
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    /// Compacts at this main revision.
    at: i64,
    /// Goes on from this key.
    from: Option<Vec<u8>>,
}

impl Store {
    /// One slice of physical compaction: looks at about `keys_max` keys and history batches and drops nothing newer than
    /// `up_to`, the revision up to which the checkpoint has written everything; `up_to` never falls.
    ///
    /// May run beside `apply`, which waits for one slice at most.
    pub fn compact_slice(&self, up_to: i64, keys_max: usize) -> CompactSlice {
        let mut pass = self.writer.lock();
        let mut garbage = Garbage::default();
        let mut shared = self.shared.write();
        // A watcher may start at the mark itself, so the batch there stays.
        let first_kept = shared.compact_revision + i64::from(planted(Mutant::CompactionAtMark));
        let before = first_kept.min(up_to.saturating_add(1));
        let batches = shared.history.drop_before(before, keys_max.max(1));
        let mark = shared.compact_revision;
        let target = mark.min(up_to);
        let mut forgotten = None;
        if mark > pass.forgotten {
            forgotten = Some(shared.index.forget_reshapings(mark));
            pass.forgotten = mark;
        }
        if pass.current.is_none() && target > pass.reached {
            pass.current = Some(Current { at: target, from: None });
        }
        if let Some(current) = &mut pass.current {
            let at = current.at;
            current.from = shared.index.compact(current.from.as_deref(), at, keys_max, &mut garbage);
            if current.from.is_none() {
                pass.reached = at;
                pass.current = None;
            }
        }
        let replacements = shared.replacements;
        drop(shared);
        let (reached, ended) = (pass.reached, pass.current.is_none());
        drop(pass);
        // What follows, counting and freeing, keeps nobody waiting.
        let done = ended && reached >= target && batches.len() < keys_max.max(1);
        drop((forgotten, batches));
        let mut bytes = 0;
        let mut dropped = Vec::new();
        for version in garbage.versions() {
            bytes += version.record().as_bytes().len() as u64;
            dropped.push((version.revision(), version.is_tombstone()));
        }
        if bytes > 0 {
            let mut shared = self.shared.write();
            // A state that was put here meanwhile never counted them.
            if shared.replacements == replacements {
                shared.sizes.history_bytes = shared.sizes.history_bytes.saturating_sub(bytes);
            }
        }
        CompactSlice { done, reached, dropped }
    }
}
