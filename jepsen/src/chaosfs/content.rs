//! One file's bytes on the [`Disk`](super::disk::Disk): live, durable, and which pages differ.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::disk::Cut;
use crate::rng::Rng;

/// The unit of dirtiness, in bytes.
pub const PAGE: usize = 4096;
/// The unit that a disk writes atomically, in bytes; a torn page is old and new in these pieces.
pub const SECTOR: usize = 512;
/// One surviving dirty page in this many is torn.
const TORN_ONE_IN: u64 = 8;

/// Shared by both sides until one of them is written.
pub(super) type Page = Arc<[u8; PAGE]>;

/// The bytes of one side; a page that is not there reads as zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) size: u64,
    pub(super) pages: BTreeMap<u64, Page>,
}

/// Both sides of a file.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) live: Content,
    pub(super) durable: Content,
    /// Pages whose live content is not durable and that the next sync writes.
    pub(super) dirty: BTreeSet<u64>,
    /// Pages that a failed or swallowed sync marked clean: live only, and no later sync writes them.
    pub(super) forgotten: BTreeSet<u64>,
}

impl File {
    /// Marks a page written.
    pub(super) fn touch(&mut self, page: u64) {
        self.forgotten.remove(&page);
        self.dirty.insert(page);
    }

    /// Makes the chosen dirty pages durable, and the size.
    pub(super) fn sync(&mut self, chosen: impl Fn(u64) -> bool) {
        let (live, durable) = (&self.live, &mut self.durable);
        self.dirty.retain(|page| {
            if chosen(*page) {
                match live.pages.get(page) {
                    Some(data) => durable.pages.insert(*page, data.clone()),
                    None => durable.pages.remove(page),
                };
            }
            !chosen(*page)
        });
        durable.size = live.size;
        // A file that was cut and then synced by a write elsewhere must not show old bytes when it grows again.
        durable.zero_from(live.size);
        self.dirty.retain(|page| *page < first_page_from(live.size));
    }

    /// See [`Disk::power_cut`](super::disk::Disk::power_cut).
    pub(super) fn power_cut(&mut self, keep: f64, rng: &mut Rng, cut: &mut Cut) {
        let (live, durable) = (&self.live, &mut self.durable);
        if durable.size != live.size && rng.chance(keep) {
            durable.size = live.size;
        }
        let dirty = std::mem::take(&mut self.dirty);
        cut.pages_dirty += (dirty.len() + self.forgotten.len()) as u64;
        cut.pages_lost += self.forgotten.len() as u64;
        self.forgotten.clear();
        for page in dirty {
            if !rng.chance(keep) {
                cut.pages_lost += 1;
                continue;
            }
            match live.pages.get(&page) {
                Some(new) if rng.below(TORN_ONE_IN) == 0 => {
                    cut.pages_torn += 1;
                    let old = durable.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
                    let old = Arc::make_mut(old);
                    for sector in (0..PAGE).step_by(SECTOR).filter(|_| rng.chance(0.5)) {
                        old[sector..sector + SECTOR].copy_from_slice(&new[sector..sector + SECTOR]);
                    }
                }
                Some(new) => {
                    durable.pages.insert(page, new.clone());
                }
                None => {
                    durable.pages.remove(&page);
                }
            }
        }
        durable.zero_from(durable.size);
        self.live = durable.clone();
    }
}

impl Content {
    /// Drops pages that begin at or after `size` and zeroes the rest of the page it falls into. Returns pages dropped.
    pub(super) fn zero_from(&mut self, size: u64) -> u64 {
        let dropped = self.pages.split_off(&first_page_from(size)).len() as u64;
        let within = (size % PAGE as u64) as usize;
        if within > 0
            && let Some(page) = self.pages.get_mut(&(size / PAGE as u64))
            && page[within..].iter().any(|&byte| byte != 0)
        {
            Arc::make_mut(page)[within..].fill(0);
        }
        dropped
    }
}

/// The part of a request that falls into one page.
pub(super) struct Piece {
    pub(super) page: u64,
    pub(super) within: usize,
    pub(super) data: Range<usize>,
}

/// The pieces of a request, page by page.
pub(super) fn pieces(offset: u64, length: usize) -> impl Iterator<Item = Piece> {
    pages_of(offset, length).map(move |page| {
        let start = (page * PAGE as u64).max(offset);
        let end = ((page + 1) * PAGE as u64).min(offset + length as u64);
        let data = (start - offset) as usize..(end - offset) as usize;
        Piece { page, within: (start % PAGE as u64) as usize, data }
    })
}

/// The pages that a range touches.
pub(super) fn pages_of(offset: u64, length: usize) -> Range<u64> {
    if length == 0 { 0..0 } else { offset / PAGE as u64..(offset + length as u64).div_ceil(PAGE as u64) }
}

/// The first page that begins at or after this size.
pub(super) fn first_page_from(size: u64) -> u64 {
    size.div_ceil(PAGE as u64)
}
