//! One file of the log: its names, its making, its recycling.
//!
//! ```text
//! 0000000007.log    in use, or prepared to be used next; its header was durable before it got this name
//! 0000000008.new    being made
//! 0000000003.spare  purged; its old records stay until they are overwritten, under a newer epoch
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::storage::fs::{Disk, File, Open, Pages};
use crate::storage::record::{Position, Record, SEGMENT_HEADER_BYTES, SegmentHeader};

/// Name extensions of the three kinds of files above.
pub(super) const LOG: &str = "log";
pub(super) const NEW: &str = "new";
pub(super) const SPARE: &str = "spare";

/// Offset of a segment's first record.
pub(super) const FIRST_OFFSET: u32 = SEGMENT_HEADER_BYTES as u32;
/// Zeroes written between two syncs while a segment is made, so that the log's own syncs never wait long behind it.
const FILL_BYTES: usize = 1 << 20;

/// Whether somebody waits while a segment is filled with zeroes.
pub(super) enum Hurry {
    No,
    /// The log thread needs the segment now: the rest stays reserved only.
    Skip,
    /// The log is closing.
    GiveUp,
}

/// A file of the log, open for reading and writing.
pub(super) struct Segment {
    pub number: u32,
    pub epoch: u64,
    /// Length of the file.
    pub bytes: u64,
    pub path: PathBuf,
    pub file: Arc<dyn File>,
}

/// A file past the cache, where the disk has that.
pub(super) fn open_pages(disk: &dyn Disk, path: &Path) -> Option<Arc<dyn File>> {
    disk.open(path, Open::WritePages)
        .inspect_err(|error| tracing::debug!(%error, file = %path.display(), "the log is written through the cache"))
        .ok()
}

/// Path of a segment's file.
pub(super) fn path(dir: &Path, number: u32, extension: &str) -> PathBuf {
    dir.join(format!("{number:010}.{extension}"))
}

/// Number and extension in a file name, `None` if it is not one of the log's.
pub(super) fn parse_name(name: &str) -> Option<(u32, &str)> {
    let (number, extension) = name.split_once('.')?;
    let ours = number.len() == 10 && [LOG, NEW, SPARE].contains(&extension);
    Some((number.parse().ok().filter(|_| ours)?, extension))
}

/// Makes segments in one directory.
pub(super) struct Maker<'a> {
    pub disk: &'a dyn Disk,
    pub dir: &'a Path,
    pub header: SegmentHeader,
}

impl Maker<'_> {
    /// A new file with space reserved, and `first` as its first record. Durable under its final name on return.
    pub fn reserve(&self, first: Option<&Record<'_>>) -> io::Result<Segment> {
        self.make(first, |file| file.preallocate(self.header.bytes))
    }

    /// As [`Maker::reserve`], written with zeroes: a sync after a write to such a file changes no metadata and is
    /// faster. Asks `hurry` before each part.
    pub fn fill(&self, hurry: &dyn Fn() -> Hurry) -> io::Result<Segment> {
        self.make(None, |file| {
            file.preallocate(self.header.bytes)?;
            let new = path(self.dir, self.header.segment, NEW);
            // Past the cache these are some system calls; through it each page is copied, to be dropped soon.
            let mut past_cache = open_pages(self.disk, &new);
            let zeroes = vec![0; FILL_BYTES.min(self.header.bytes as usize)];
            let mut pages = Pages::default();
            let zeroes = pages.of(&[&zeroes]);
            let mut offset = 0;
            while offset < self.header.bytes {
                match hurry() {
                    Hurry::No => {}
                    Hurry::Skip => break,
                    Hurry::GiveUp => return Err(io::ErrorKind::Interrupted.into()),
                }
                let part = zeroes.len().min((self.header.bytes - offset) as usize);
                let write = |file: &dyn File| file.write_at(offset, &zeroes[..part]).and_then(|()| file.sync_data());
                match past_cache.as_deref().map(write) {
                    Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                        past_cache = None;
                        write(file)?;
                    }
                    Some(written) => written?,
                    None => write(file)?,
                }
                offset += part as u64;
            }
            Ok(())
        })
    }

    fn make(&self, first: Option<&Record<'_>>, fill: impl FnOnce(&dyn File) -> io::Result<()>) -> io::Result<Segment> {
        let new = path(self.dir, self.header.segment, NEW);
        let file = self.disk.open(&new, Open::Create)?;
        fill(&*file)?;
        let mut bytes = self.header.encode().to_vec();
        if let Some(first) = first {
            first.encode(self.header.epoch, Position::default(), &mut bytes);
        }
        file.write_at(0, &bytes)?;
        self.publish(&new, file)
    }

    /// A purged file used again. Its size must be that of the header.
    pub fn recycle(&self, spare: &Path) -> io::Result<Segment> {
        let file = self.disk.open(spare, Open::Write)?;
        file.write_at(0, &self.header.encode())?;
        self.publish(spare, file)
    }

    /// The header must be durable before the file's name says that it is a segment: recovery relies on it.
    fn publish(&self, from: &Path, file: Arc<dyn File>) -> io::Result<Segment> {
        file.sync_all()?;
        let path = path(self.dir, self.header.segment, LOG);
        self.disk.rename(from, &path)?;
        self.disk.sync_dir(self.dir)?;
        let SegmentHeader { segment: number, epoch, bytes } = self.header;
        Ok(Segment { number, epoch, bytes, path, file })
    }
}
