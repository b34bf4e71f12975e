//! The only door to the file system: a [`Disk`] gives out [`File`]s, and everything durable goes through the two.
//!
//! Not a general file API: it holds what the log, the data directory and the snapshots need, and makes the steps
//! that durability needs visible ([`File::sync_data`], [`Disk::sync_dir`]). [`RealDisk`] is the machine's;
//! [`SimDisk`] lives in memory, can lose power at any write, and is also what a server without a data directory uses.

mod real;
mod sim;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use real::RealDisk;
pub use sim::{Faults, SimDisk};

/// The unit in which caches and disks write; writes that cover whole pages need no read first.
pub const PAGE_BYTES: usize = 4096;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// An existing file, to be read.
    Read,
    /// An existing file, to be read and written.
    Write,
    /// As [`Open::Write`], past the system's cache: whoever writes gives whole pages, from [`Pages`], and waits until the
    /// disk has them. Others who have the file open see what was written. `InvalidInput` or `Unsupported` where there is
    /// no such thing; `InvalidInput` from a write, of which nothing was done, where pages are larger.
    WritePages,
    /// To be read and written; made if absent (mode 0600), emptied if present.
    Create,
}

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// Anything else.
    File,
}

/// Holds an exclusive lock until dropped (or until the process ends).
pub trait Lock: Send + Sync {}

/// A file system.
///
/// Contract: a change of names (create, rename, remove, a new directory) may be lost in a power cut until
/// [`Disk::sync_dir`] of the directory that holds the name has returned, and so may be kept. A rename happens wholly
/// or not at all. Any number of threads may call at once.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file. `NotFound` if it, or for [`Open::Create`] its directory, is absent.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;
    /// What the path names, `None` if nothing.
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>>;
    /// Names in a directory, sorted, without their path.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes one directory (mode 0700) in an existing one; not yet durable.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name; the space is free when the last handle is dropped.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes every change of names directly in this directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes an exclusive lock on a file, which is made if absent and keeps its content. `None` if another holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;

    /// Bytes that may still be written to the file system that holds a directory; `None` where nobody can tell.
    fn free_bytes(&self, _dir: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Whether the path names anything.
    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.kind(path)?.is_some())
    }

    /// Makes a directory and those above it, each durable in its parent; nothing to do if it is there.
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || self.kind(path)? == Some(Kind::Dir) {
            return Ok(());
        }
        let parent = parent_of(path);
        self.create_dir_all(parent)?;
        self.create_dir(path)?;
        self.sync_dir(parent)
    }
}

/// An open file, addressed by offset; no cursor, so that readers and the writer do not disturb each other.
///
/// Contract: what is written is seen by every later read at once, and survives a power cut once a sync that began
/// after the write has returned. After a failed sync nothing is known about the writes since the last good one, and
/// syncing again does not bring them back: the pages may count as clean.
pub trait File: Send + Sync {
    /// Reads at `offset` until the buffer is full or the file ends; returns the bytes read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`; after an error any part of them may be there.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes the file at least `len` bytes long with space reserved for them where the file system can; the new bytes
    /// read as zeroes.
    fn preallocate(&self, len: u64) -> io::Result<()>;
    /// Cuts or extends (with zeroes) to exactly `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the written bytes and the length durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// As [`File::sync_data`], with all metadata (`fsync`).
    fn sync_all(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the length is 0.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

impl std::fmt::Debug for dyn File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("File")
    }
}

/// Whole pages that begin at a page's start in memory, too, as [`Open::WritePages`] wants them. Its memory is reused.
#[derive(Debug, Default)]
pub struct Pages {
    bytes: Vec<u8>,
}

impl Pages {
    /// The parts behind each other, and zeroes up to the end of a page.
    pub fn of(&mut self, parts: &[&[u8]]) -> &[u8] {
        let len = parts.iter().map(|part| part.len()).sum::<usize>().next_multiple_of(PAGE_BYTES);
        if self.bytes.len() < len + PAGE_BYTES {
            self.bytes = vec![0; len.next_power_of_two() + PAGE_BYTES];
        }
        let start = self.bytes.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        let pages = &mut self.bytes[start..start + len];
        let mut rest = &mut *pages;
        for part in parts {
            let (to, behind) = rest.split_at_mut(part.len());
            to.copy_from_slice(part);
            rest = behind;
        }
        rest.fill(0);
        pages
    }

    /// Gives memory of more than `bytes_max` back.
    pub fn shrink_to(&mut self, bytes_max: usize) {
        if self.bytes.len() > bytes_max + PAGE_BYTES {
            self.bytes = Vec::new();
        }
    }
}

/// A part of a file as a stream to read, or a file to write from its start on; without a position that others share.
#[derive(Debug)]
pub struct Stream {
    file: Arc<dyn File>,
    at: u64,
    end: u64,
}

impl Stream {
    /// The bytes of `from .. end`.
    pub fn new(file: Arc<dyn File>, from: u64, end: u64) -> Self {
        Self { file, at: from, end }
    }

    /// Back to the file.
    pub fn into_file(self) -> Arc<dyn File> {
        self.file
    }
}

impl io::Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        let read = self.file.read_at(self.at, &mut buffer[..want])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl io::Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(self.at, bytes)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The directory that holds `path`'s name; the current one for a bare name.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ if path.is_absolute() => path,
        _ => Path::new("."),
    }
}

/// The whole content of a small file.
pub fn read(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let mut bytes = vec![0; file.len()? as usize];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a small file's content so that after a power cut either the old or the new content is there, whole, and
/// after the return the new one.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    let file = disk.open(new, Open::Create)?;
    file.write_at(0, bytes)?;
    file.sync_all()?;
    disk.rename(new, path)?;
    disk.sync_dir(parent_of(path))
}
