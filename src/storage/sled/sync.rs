//! Our own fsync of sled's files, and the small pieces of file handling that the engine needs.
//!
//! sled syncs what it wrote during a flush, but not its `durability_cookie`, the files' places in their directories at
//! creation, nor the directory's place in its parent: a power cut then leaves a store that never opens again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self as std_io, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::storage::engine::Error;

/// Makes the `map_err` of a file operation.
pub fn io<'a>(what: &'static str, path: &'a Path) -> impl Fn(std_io::Error) -> Error + 'a {
    move |source| Error::Io { what, path: path.to_owned(), source }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// [`Error::Io`]
pub fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("sync", dir))
}

/// Syncs the files of a directory tree that changed since the last pass, and all its directories. Empty files are left
/// alone: sled makes one for each of its 78 page sizes and does not miss them, but syncing them takes a tenth of a second.
#[derive(Debug, Default)]
pub struct SyncPass {
    synced: BTreeMap<PathBuf, (u64, Option<SystemTime>)>,
}

impl SyncPass {
    /// One pass. Files that vanish meanwhile were removed by sled's own housekeeping and are skipped.
    ///
    /// A write within the clock tick of the last pass may leave length and time as they were; such writes are
    /// those of a flush, which sled has synced itself.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing may be trusted to be durable then.
    pub fn run(&mut self, dir: &Path) -> Result<(), Error> {
        let mut present = BTreeMap::new();
        self.walk(dir, &mut present)?;
        self.synced = present;
        Ok(())
    }

    fn walk(&self, dir: &Path, present: &mut BTreeMap<PathBuf, (u64, Option<SystemTime>)>) -> Result<(), Error> {
        for entry in fs::read_dir(dir).map_err(io("list", dir))? {
            let path = entry.map_err(io("list", dir))?.path();
            let Some(meta) = unless_gone(fs::symlink_metadata(&path)).map_err(io("stat", &path))? else { continue };
            if meta.is_dir() {
                self.walk(&path, present)?;
                continue;
            }
            let stamp = (meta.len(), meta.modified().ok());
            if meta.len() > 0 && self.synced.get(&path) != Some(&stamp) {
                let synced = File::open(&path).and_then(|file| file.sync_all());
                if unless_gone(synced).map_err(io("sync", &path))?.is_none() {
                    continue;
                }
            }
            present.insert(path, stamp);
        }
        sync_dir(dir)
    }
}

/// Bytes of all files below a directory.
///
/// # Errors
/// [`Error::Io`]
pub fn bytes_below(dir: &Path) -> Result<u64, Error> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(io("list", dir))? {
        let path = entry.map_err(io("list", dir))?.path();
        match unless_gone(fs::symlink_metadata(&path)).map_err(io("stat", &path))? {
            Some(meta) if meta.is_dir() => bytes += bytes_below(&path)?,
            Some(meta) => bytes += meta.len(),
            None => {}
        }
    }
    Ok(bytes)
}

fn unless_gone<T>(result: std_io::Result<T>) -> std_io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
