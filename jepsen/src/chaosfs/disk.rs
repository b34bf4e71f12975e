//! The disk model behind [`ChaosFs`](super::ChaosFs): what processes see (*live*) and what a power cut leaves (*durable*).
//!
//! It knows no FUSE and no mount: unit tests drive it directly. Pages of 4 KiB are shared between both sides by `Arc`
//! and copied on the first write after a sync.
//!
//! * File data: a page is durable after a sync of its file, or of the write itself (`O_DSYNC`). The size goes with it.
//! * Directory entries: creations, renames and removals stand in one ordered journal until they are durable;
//!   [`Directories`] says what makes them so. A rename is never half done, as on every journaling file system.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::io::Errno;

use super::content::{File, PAGE, Page, first_page_from, pages_of, pieces};
use super::faults::Faults;
use crate::rng::Rng;

/// An inode's number. Never used twice, also not across power cuts.
pub type Ino = u64;

/// The root directory.
pub const ROOT: Ino = 1;
/// Directory changes that may wait for a sync; beyond it the oldest become durable, as a journal's commit timer does.
const PENDING_CHANGES_MAX: usize = 20_000;
/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 40;
/// Size of the disk unless [`Faults`] say less, in bytes.
pub const CAPACITY_BYTES: u64 = 16 << 30;

/// What makes a new, renamed or removed directory entry durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directories {
    /// Only a sync of that directory: what POSIX promises and no more.
    Strict,
    /// Any sync commits every change so far, as ext4's and xfs's journals do in practice.
    Journal,
}

/// What a power cut did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Cut {
    /// Pages that no sync had made durable.
    pub pages_dirty: u64,
    /// Of those, the pages whose new content is gone.
    pub pages_lost: u64,
    /// Of those that survived, the pages that are old and new in sectors.
    pub pages_torn: u64,
    /// Directory changes that are undone.
    pub entries_lost: u64,
}

/// What was done to the disk since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Write requests, synchronous ones too.
    pub writes: u64,
    /// Synchronous writes (`O_DSYNC`, `O_SYNC`).
    pub synchronous_writes: u64,
    /// Syncs of files and directories.
    pub syncs: u64,
    /// Faults that took effect: failed syncs, writes, reads, full disk, swallowed syncs.
    pub faults_hit: u64,
}

/// What `stat` tells.
#[derive(Clone, Debug)]
pub struct Attributes {
    /// The inode.
    pub ino: Ino,
    /// File, directory or symlink.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Allocated pages.
    pub pages: u64,
    /// Permission bits.
    pub mode: u16,
    /// Hard links.
    pub links: u32,
    /// Owner.
    pub owner: (u32, u32),
    /// Last modification.
    pub modified: SystemTime,
}

/// The three kinds of inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

#[derive(Debug)]
struct Directory {
    parent: Ino,
    live: BTreeMap<OsString, Ino>,
    durable: BTreeMap<OsString, Ino>,
}

#[derive(Debug)]
enum Body {
    File(File),
    Directory(Directory),
    Symlink(PathBuf),
}

#[derive(Debug)]
struct Inode {
    body: Body,
    mode: u16,
    owner: (u32, u32),
    modified: SystemTime,
    opens: u32,
    live_links: u32,
    durable_links: u32,
    pending_links: u32,
}

/// One atomic change of directory entries: each name of a directory now stands for this inode, or for nothing.
#[derive(Debug)]
struct Change(Vec<(Ino, OsString, Option<Ino>)>);

/// The whole disk.
#[derive(Debug)]
pub struct Disk {
    directories: Directories,
    inodes: BTreeMap<Ino, Inode>,
    next: Ino,
    pending: Vec<Change>,
    pages_used: u64,
    zero: Page,
    /// What goes wrong from now on.
    pub faults: Faults,
    /// What was done so far.
    pub counters: Counters,
}

type Result<T> = std::result::Result<T, Errno>;

impl Disk {
    /// An empty disk with a durable root directory.
    pub fn new(directories: Directories) -> Self {
        let root = Directory { parent: ROOT, live: BTreeMap::new(), durable: BTreeMap::new() };
        let mut root = Inode::new(Body::Directory(root), 0o755);
        root.live_links = 1;
        root.durable_links = 1;
        Self {
            directories,
            inodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            pending: Vec::new(),
            pages_used: 0,
            zero: Arc::new([0; PAGE]),
            faults: Faults::default(),
            counters: Counters::default(),
        }
    }

    // ---- names ----

    /// The inode behind a name. `ENOENT` when there is none.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Ino> {
        self.directory(parent)?.live.get(name).copied().ok_or(Errno::NOENT)
    }

    /// The inode behind a path relative to the root; links are not followed.
    pub fn resolve(&self, path: &Path) -> Result<Ino> {
        path.components().try_fold(ROOT, |at, part| match part {
            Component::Normal(name) => self.lookup(at, name),
            Component::RootDir | Component::CurDir => Ok(at),
            Component::ParentDir | Component::Prefix(_) => Err(Errno::INVAL),
        })
    }

    /// Makes an empty file, directory or symlink (`target`). `EEXIST` when the name is taken.
    pub fn make(&mut self, parent: Ino, name: &OsStr, kind: Kind, mode: u16, target: Option<&Path>) -> Result<Ino> {
        self.check_writable()?;
        self.check_absent(parent, name)?;
        let body = match kind {
            Kind::File => Body::File(File::default()),
            Kind::Directory => Body::Directory(Directory { parent, live: BTreeMap::new(), durable: BTreeMap::new() }),
            Kind::Symlink => Body::Symlink(target.ok_or(Errno::INVAL)?.to_owned()),
        };
        let ino = self.next;
        self.next += 1;
        self.inodes.insert(ino, Inode::new(body, mode));
        self.change(vec![(parent, name.to_owned(), Some(ino))])?;
        Ok(ino)
    }

    /// One more name for a file.
    pub fn link(&mut self, ino: Ino, parent: Ino, name: &OsStr) -> Result<()> {
        self.check_writable()?;
        self.file(ino)?;
        self.check_absent(parent, name)?;
        self.change(vec![(parent, name.to_owned(), Some(ino))])
    }

    /// Removes the name of a file or symlink.
    pub fn unlink(&mut self, parent: Ino, name: &OsStr) -> Result<()> {
        self.check_writable()?;
        let ino = self.lookup(parent, name)?;
        if matches!(self.inode(ino)?.body, Body::Directory(_)) {
            return Err(Errno::ISDIR);
        }
        self.change(vec![(parent, name.to_owned(), None)])
    }

    /// Removes an empty directory.
    pub fn remove_directory(&mut self, parent: Ino, name: &OsStr) -> Result<()> {
        self.check_writable()?;
        let ino = self.lookup(parent, name)?;
        if !self.directory(ino)?.live.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.change(vec![(parent, name.to_owned(), None)])
    }

    /// Moves a name, replacing what stands there unless `keep_existing`. One atomic change.
    pub fn rename(&mut self, from: (Ino, &OsStr), to: (Ino, &OsStr), keep_existing: bool) -> Result<()> {
        self.check_writable()?;
        let ino = self.lookup(from.0, from.1)?;
        if from == to {
            return Ok(());
        }
        match self.lookup(to.0, to.1) {
            Ok(_) if keep_existing => return Err(Errno::EXIST),
            Ok(replaced) if replaced == ino => return Ok(()),
            Ok(replaced) => match (&self.inode(replaced)?.body, &self.inode(ino)?.body) {
                (Body::Directory(old), Body::Directory(_)) if old.live.is_empty() => {}
                (Body::Directory(_), Body::Directory(_)) => return Err(Errno::NOTEMPTY),
                (Body::Directory(_), _) => return Err(Errno::ISDIR),
                (_, Body::Directory(_)) => return Err(Errno::NOTDIR),
                _ => {}
            },
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        self.directory(to.0)?;
        self.change(vec![(from.0, from.1.to_owned(), None), (to.0, to.1.to_owned(), Some(ino))])?;
        if let Body::Directory(moved) = &mut self.inode_mut(ino)?.body {
            moved.parent = to.0;
        }
        Ok(())
    }

    /// The entries of a directory with `.` and `..`, in a stable order.
    pub fn entries(&self, ino: Ino) -> Result<Vec<(OsString, Ino, Kind)>> {
        let directory = self.directory(ino)?;
        let mut entries = vec![(".".into(), ino, Kind::Directory), ("..".into(), directory.parent, Kind::Directory)];
        for (name, &child) in &directory.live {
            entries.push((name.clone(), child, self.inode(child)?.kind()));
        }
        Ok(entries)
    }

    /// Where a symlink points.
    pub fn target(&self, ino: Ino) -> Result<PathBuf> {
        match &self.inode(ino)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::INVAL),
        }
    }

    // ---- attributes ----

    /// What `stat` tells.
    pub fn attributes(&self, ino: Ino) -> Result<Attributes> {
        let inode = self.inode(ino)?;
        let (size, pages) = match &inode.body {
            Body::File(file) => (file.live.size, file.live.pages.len() as u64),
            Body::Directory(_) => (PAGE as u64, 1),
            Body::Symlink(target) => (target.as_os_str().len() as u64, 0),
        };
        let links = if inode.kind() == Kind::Directory { 2 } else { inode.live_links };
        let (mode, owner, modified) = (inode.mode, inode.owner, inode.modified);
        Ok(Attributes { ino, kind: inode.kind(), size, pages, mode, links, owner, modified })
    }

    /// Changes permission bits and owner. They are not part of the power-cut model.
    pub fn set_mode(&mut self, ino: Ino, mode: Option<u16>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.check_writable()?;
        let inode = self.inode_mut(ino)?;
        inode.mode = mode.unwrap_or(inode.mode) & 0o7777;
        inode.owner = (uid.unwrap_or(inode.owner.0), gid.unwrap_or(inode.owner.1));
        Ok(())
    }

    /// Notes that somebody has the inode open: it stays when its last name goes.
    pub fn opened(&mut self, ino: Ino) -> Result<()> {
        self.inode_mut(ino)?.opens += 1;
        Ok(())
    }

    /// The opposite of [`Disk::opened`].
    pub fn closed(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.opens = inode.opens.saturating_sub(1);
        }
        self.reap(ino);
    }

    // ---- data ----

    /// Up to `length` bytes from `offset`; fewer at the end of the file.
    pub fn read(&mut self, ino: Ino, offset: u64, length: usize) -> Result<Vec<u8>> {
        if self.faults.read_fails() {
            self.counters.faults_hit += 1;
            return Err(Errno::IO);
        }
        let content = &self.file(ino)?.live;
        let end = content.size.min(offset.saturating_add(length as u64));
        let mut data = vec![0; end.saturating_sub(offset) as usize];
        for piece in pieces(offset, data.len()) {
            if let Some(page) = content.pages.get(&piece.page) {
                data[piece.data.clone()].copy_from_slice(&page[piece.within..piece.within + piece.data.len()]);
            }
        }
        Ok(data)
    }

    /// Writes into live pages, which are dirty from now on. `ENOSPC` and `EIO` by [`Faults`].
    pub fn write(&mut self, ino: Ino, offset: u64, data: &[u8]) -> Result<()> {
        self.counters.writes += 1;
        self.check_writable()?;
        if self.faults.write_fails() {
            self.counters.faults_hit += 1;
            return Err(Errno::IO);
        }
        let end = offset.checked_add(data.len() as u64).filter(|&end| end <= FILE_BYTES_MAX).ok_or(Errno::FBIG)?;
        self.reserve(ino, offset, data.len() as u64)?;
        let file = self.file_mut(ino)?;
        for piece in pieces(offset, data.len()) {
            let page = file.live.pages.get_mut(&piece.page).expect("reserve put every page of the range there");
            Arc::make_mut(page)[piece.within..piece.within + piece.data.len()].copy_from_slice(&data[piece.data]);
            file.touch(piece.page);
        }
        file.live.size = file.live.size.max(end);
        self.inode_mut(ino)?.modified = SystemTime::now();
        Ok(())
    }

    /// Cuts or extends a file. Bytes beyond the new end are gone; an extension reads as zeros.
    pub fn set_size(&mut self, ino: Ino, size: u64) -> Result<()> {
        self.check_writable()?;
        if size > FILE_BYTES_MAX {
            return Err(Errno::FBIG);
        }
        let file = self.file_mut(ino)?;
        if size < file.live.size {
            let gone = file.live.zero_from(size);
            let cut: Vec<u64> = file.durable.pages.range(first_page_from(size)..).map(|(&page, _)| page).collect();
            file.dirty.extend(cut);
            if !size.is_multiple_of(PAGE as u64) && file.live.pages.contains_key(&(size / PAGE as u64)) {
                file.touch(size / PAGE as u64);
            }
            // Dirty pages beyond the end exist on neither side any more.
            let (dirty, durable) = (&mut file.dirty, &file.durable);
            dirty.retain(|page| *page < first_page_from(size) || durable.pages.contains_key(page));
            file.forgotten.retain(|page| *page < first_page_from(size));
            file.live.size = size;
            self.pages_used -= gone;
        } else {
            file.live.size = size;
        }
        self.inode_mut(ino)?.modified = SystemTime::now();
        Ok(())
    }

    /// Reserves space for a range, as `fallocate` does; zeros where nothing was. Extends the file unless `keep_size`.
    pub fn allocate(&mut self, ino: Ino, offset: u64, length: u64, keep_size: bool) -> Result<()> {
        self.check_writable()?;
        let end = offset.checked_add(length).filter(|&end| end <= FILE_BYTES_MAX).ok_or(Errno::FBIG)?;
        self.reserve(ino, offset, length)?;
        let file = self.file_mut(ino)?;
        if !keep_size {
            file.live.size = file.live.size.max(end);
        }
        Ok(())
    }

    /// Makes a range read as zeros.
    pub fn zero_range(&mut self, ino: Ino, offset: u64, length: u64) -> Result<()> {
        self.check_writable()?;
        let file = self.file_mut(ino)?;
        let end = file.live.size.min(offset.saturating_add(length));
        let zeros = [0; PAGE];
        let mut touched = Vec::new();
        for piece in pieces(offset, end.saturating_sub(offset) as usize) {
            if let Some(page) = file.live.pages.get_mut(&piece.page) {
                Arc::make_mut(page)[piece.within..piece.within + piece.data.len()]
                    .copy_from_slice(&zeros[..piece.data.len()]);
                touched.push(piece.page);
            }
        }
        touched.into_iter().for_each(|page| file.touch(page));
        Ok(())
    }

    // ---- durability ----

    /// Makes the pages of one synchronous write durable, and the file's size; other dirty pages stay dirty.
    pub fn sync_written(&mut self, ino: Ino, offset: u64, length: usize) -> Result<()> {
        self.counters.synchronous_writes += 1;
        self.sync_pages(ino, |page| pages_of(offset, length).contains(&page))
    }

    /// What `fsync` and `fdatasync` do, on a file or a directory.
    pub fn sync(&mut self, ino: Ino) -> Result<()> {
        self.counters.syncs += 1;
        self.sync_pages(ino, |_| true)
    }

    fn sync_pages(&mut self, ino: Ino, chosen: impl Fn(u64) -> bool) -> Result<()> {
        let failed = self.faults.sync_fails();
        if failed || self.faults.lying_sync {
            self.counters.faults_hit += 1;
            if let Body::File(file) = &mut self.inode_mut(ino)?.body {
                // The pages are marked clean though nothing was written, as Linux does after a failed write-back.
                let taken: Vec<u64> = file.dirty.iter().copied().filter(|&page| chosen(page)).collect();
                for page in taken {
                    file.dirty.remove(&page);
                    file.forgotten.insert(page);
                }
            }
            return if failed { Err(Errno::IO) } else { Ok(()) };
        }
        let is_directory = match &mut self.inode_mut(ino)?.body {
            Body::File(file) => {
                file.sync(chosen);
                false
            }
            Body::Directory(_) => true,
            Body::Symlink(_) => false,
        };
        match self.directories {
            Directories::Journal => self.commit_oldest(self.pending.len()),
            Directories::Strict if is_directory => self.commit_directory(ino),
            Directories::Strict => {}
        }
        Ok(())
    }

    /// Bytes of the disk and of those, bytes free.
    pub fn space(&self) -> (u64, u64) {
        let capacity = self.faults.capacity_bytes.unwrap_or(CAPACITY_BYTES);
        (capacity, capacity.saturating_sub(self.pages_used * PAGE as u64))
    }

    /// Pages that a power cut now would lose with `keep` 0.
    pub fn pages_dirty(&self) -> u64 {
        self.files().map(|file| (file.dirty.len() + file.forgotten.len()) as u64).sum()
    }

    /// The power goes: *live* becomes *durable*, but each dirty page survives with probability `keep`, some of them torn,
    /// and so does a prefix of the directory changes. Whoever had files open must be gone.
    pub fn power_cut(&mut self, keep: f64, rng: &mut Rng) -> Cut {
        let mut cut = Cut::default();
        let surviving = (0..self.pending.len()).take_while(|_| rng.chance(keep)).count();
        cut.entries_lost = (self.pending.len() - surviving) as u64;
        self.commit_oldest(surviving);
        self.pending.clear();
        for inode in self.inodes.values_mut() {
            inode.opens = 0;
            inode.pending_links = 0;
            inode.live_links = inode.durable_links;
            match &mut inode.body {
                Body::File(file) => file.power_cut(keep, rng, &mut cut),
                Body::Directory(directory) => directory.live = directory.durable.clone(),
                Body::Symlink(_) => {}
            }
        }
        self.drop_unreachable();
        self.pages_used = self.files().map(|file| file.live.pages.len() as u64).sum();
        cut
    }

    /// Flips one bit of a file, in what is seen and in what is durable. Errors: `ENOENT`, `EINVAL` beyond the end.
    pub fn flip_bit(&mut self, path: &Path, offset: u64, bit: u8) -> Result<()> {
        let ino = self.resolve(path)?;
        let file = self.file_mut(ino)?;
        let (page, within) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
        let mut found = false;
        for content in [&mut file.live, &mut file.durable] {
            if let Some(page) = content.pages.get_mut(&page).filter(|_| offset < content.size) {
                Arc::make_mut(page)[within] ^= 1 << (bit % 8);
                found = true;
            }
        }
        if found { Ok(()) } else { Err(Errno::INVAL) }
    }

    // ---- inside ----

    fn inode(&self, ino: Ino) -> Result<&Inode> {
        self.inodes.get(&ino).ok_or(Errno::NOENT)
    }

    fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or(Errno::NOENT)
    }

    fn file(&self, ino: Ino) -> Result<&File> {
        match &self.inode(ino)?.body {
            Body::File(file) => Ok(file),
            Body::Directory(_) => Err(Errno::ISDIR),
            Body::Symlink(_) => Err(Errno::INVAL),
        }
    }

    fn file_mut(&mut self, ino: Ino) -> Result<&mut File> {
        match &mut self.inode_mut(ino)?.body {
            Body::File(file) => Ok(file),
            Body::Directory(_) => Err(Errno::ISDIR),
            Body::Symlink(_) => Err(Errno::INVAL),
        }
    }

    fn files(&self) -> impl Iterator<Item = &File> {
        self.inodes.values().filter_map(|inode| match &inode.body {
            Body::File(file) => Some(file),
            _ => None,
        })
    }

    fn directory(&self, ino: Ino) -> Result<&Directory> {
        match &self.inode(ino)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn check_writable(&self) -> Result<()> {
        if self.faults.read_only { Err(Errno::ROFS) } else { Ok(()) }
    }

    fn check_absent(&self, parent: Ino, name: &OsStr) -> Result<()> {
        match self.lookup(parent, name) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Puts a page wherever the range has none, or refuses the whole range with `ENOSPC`.
    fn reserve(&mut self, ino: Ino, offset: u64, length: u64) -> Result<()> {
        let used = self.pages_used;
        let capacity = self.faults.capacity_bytes.unwrap_or(CAPACITY_BYTES) / PAGE as u64;
        let zero = self.zero.clone();
        let file = self.file_mut(ino)?;
        let span = pages_of(offset, length as usize);
        let missing = (span.end - span.start) - file.live.pages.range(span.clone()).count() as u64;
        if missing > 0 {
            if used + missing > capacity {
                self.counters.faults_hit += 1;
                return Err(Errno::NOSPC);
            }
            for page in span {
                file.live.pages.entry(page).or_insert_with(|| zero.clone());
            }
            self.pages_used += missing;
        }
        Ok(())
    }

    /// Makes a change of names visible and notes it in the journal.
    fn change(&mut self, sets: Vec<(Ino, OsString, Option<Ino>)>) -> Result<()> {
        let mut unnamed = Vec::new();
        for (parent, name, ino) in &sets {
            if let Some(ino) = ino {
                let inode = self.inode_mut(*ino)?;
                inode.live_links += 1;
                inode.pending_links += 1;
            }
            let Body::Directory(directory) = &mut self.inode_mut(*parent)?.body else { return Err(Errno::NOTDIR) };
            let replaced = match ino {
                Some(ino) => directory.live.insert(name.clone(), *ino),
                None => directory.live.remove(name),
            };
            if let Some(replaced) = replaced {
                self.inode_mut(replaced)?.live_links -= 1;
                unnamed.push(replaced);
            }
        }
        self.pending.push(Change(sets));
        if self.pending.len() > PENDING_CHANGES_MAX {
            self.commit_oldest(PENDING_CHANGES_MAX / 2);
        }
        unnamed.into_iter().for_each(|ino| self.reap(ino));
        Ok(())
    }

    fn commit_oldest(&mut self, count: usize) {
        let committed: Vec<Change> = self.pending.drain(..count).collect();
        committed.into_iter().for_each(|change| self.commit(change));
    }

    /// Commits what touched this directory, and with it every earlier change of the same names.
    fn commit_directory(&mut self, ino: Ino) {
        let mut names: BTreeSet<(Ino, OsString)> = BTreeSet::new();
        let mut chosen = vec![false; self.pending.len()];
        for (index, Change(sets)) in self.pending.iter().enumerate().rev() {
            let needed = sets.iter().any(|(dir, name, _)| *dir == ino || names.contains(&(*dir, name.clone())));
            if needed {
                names.extend(sets.iter().map(|(dir, name, _)| (*dir, name.clone())));
                chosen[index] = true;
            }
        }
        let all = std::mem::take(&mut self.pending);
        for (change, chosen) in all.into_iter().zip(chosen) {
            if chosen { self.commit(change) } else { self.pending.push(change) }
        }
    }

    fn commit(&mut self, Change(sets): Change) {
        let mut unnamed = Vec::new();
        for (parent, name, ino) in sets {
            let replaced = match self.inodes.get_mut(&parent).map(|inode| &mut inode.body) {
                Some(Body::Directory(directory)) => match ino {
                    Some(ino) => directory.durable.insert(name, ino),
                    None => directory.durable.remove(&name),
                },
                _ => None,
            };
            if let Some(inode) = ino.and_then(|ino| self.inodes.get_mut(&ino)) {
                inode.pending_links -= 1;
                inode.durable_links += 1;
            }
            if let Some(inode) = replaced.and_then(|ino| self.inodes.get_mut(&ino)) {
                inode.durable_links -= 1;
            }
            unnamed.extend(replaced);
            unnamed.extend(ino);
        }
        unnamed.into_iter().for_each(|ino| self.reap(ino));
    }

    /// Drops an inode that has no name on either side, none on the way, and that nobody has open.
    fn reap(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get(&ino) else { return };
        if ino == ROOT || inode.opens + inode.live_links + inode.durable_links + inode.pending_links > 0 {
            return;
        }
        if let Some(Inode { body: Body::File(file), .. }) = self.inodes.remove(&ino) {
            self.pages_used = self.pages_used.saturating_sub(file.live.pages.len() as u64);
        }
    }

    /// Drops what the durable tree does not reach, after a power cut; what it reaches learns its parent again.
    fn drop_unreachable(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut queue = vec![ROOT];
        while let Some(parent) = queue.pop() {
            let children: Vec<Ino> =
                self.directory(parent).map(|d| d.live.values().copied().collect()).unwrap_or_default();
            for child in children {
                if let Some(Body::Directory(directory)) = self.inodes.get_mut(&child).map(|inode| &mut inode.body) {
                    directory.parent = parent;
                    queue.push(child);
                }
                reached.insert(child);
            }
        }
        self.inodes.retain(|ino, _| reached.contains(ino));
    }
}

impl Inode {
    fn new(body: Body, mode: u16) -> Self {
        let modified = SystemTime::now();
        let mode = mode & 0o7777;
        Self { body, mode, owner: (0, 0), modified, opens: 0, live_links: 0, durable_links: 0, pending_links: 0 }
    }

    fn kind(&self) -> Kind {
        match self.body {
            Body::File(_) => Kind::File,
            Body::Directory(_) => Kind::Directory,
            Body::Symlink(_) => Kind::Symlink,
        }
    }
}
