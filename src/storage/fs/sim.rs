//! A disk in memory that can lose power.
//!
//! Every file has *live* pages (what a running process reads) and *durable* pages (what a power cut leaves); names in
//! directories have the same two states. [`SimDisk::crash`] makes live := durable, keeping each change that was not
//! synced with a given probability, pages also torn at sectors. Pages are shared until they differ and pages of
//! zeroes take no memory, so that without faults it is cheap enough to be a real server's disk.
//! Process kills prove nothing about durability, because the page cache survives them; this does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

use super::{Disk, File, Kind, Lock, Open, PAGE_BYTES, parent_of};

/// What a disk writes wholly or not at all.
const SECTOR_BYTES: usize = 512;
/// One dirty page in this many is torn into sectors by a crash.
const TORN_ONE_IN: u64 = 3;

type Page = [u8; PAGE_BYTES];

/// What is to go wrong. Counts go down with each call of their kind; 0 means the next one fails.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Write boundaries (writes, changes of length or names, syncs) to let pass; then the power is off and everything
    /// fails until [`SimDisk::crash`].
    pub power_off_after: Option<u64>,
    /// Syncs of files to let pass; the next fails with EIO and, as on Linux, leaves its pages counting as clean.
    pub fail_sync_after: Option<u64>,
    /// Writes to let pass; the next writes about half of its bytes and fails with EIO.
    pub fail_write_after: Option<u64>,
    /// Reads to let pass; the next fails with EIO.
    pub fail_read_after: Option<u64>,
    /// Sum of the files' lengths that fits; growing past it fails with ENOSPC.
    pub capacity_bytes: Option<u64>,
    /// Every change fails with EROFS.
    pub read_only: bool,
    /// Syncs of files say yes and do nothing: the disk that tests must be able to catch.
    pub lying_sync: bool,
    /// Writes past the cache fail with EINVAL, as on a file system that wants them in larger units.
    pub refuse_pages: bool,
}

/// A disk in memory; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Machine>);

struct Machine {
    /// Names, live and durable. A lock of its own: writing to open files does not take it.
    names: Mutex<Names>,
    faults: Mutex<Active>,
    /// Changed only by `crash`; a handle from before it is dead.
    generation: AtomicU64,
    boundaries: AtomicU64,
    /// Sum of the files' lengths; shared with the files so that dropping one gives its bytes back.
    used_bytes: Arc<AtomicU64>,
}

#[derive(Default)]
struct Active {
    faults: Faults,
    powered_off: bool,
}

#[derive(Default)]
struct Names {
    live: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    /// Changes of names not yet synced, oldest first.
    pending: Vec<Change>,
    locks: BTreeSet<PathBuf>,
}

#[derive(Clone)]
enum Node {
    Dir,
    File(Arc<Inode>),
}

enum Change {
    Set(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

struct Inode {
    data: RwLock<Data>,
    used_bytes: Arc<AtomicU64>,
}

#[derive(Default)]
struct Data {
    len: u64,
    durable_len: u64,
    len_dirty: bool,
    slots: Vec<Slot>,
    /// Pages written since the last sync, failed ones included.
    dirty: BTreeSet<usize>,
}

/// One page, live and durable; `None` is a page of zeroes.
#[derive(Clone, Default)]
struct Slot {
    live: Option<Arc<Page>>,
    durable: Option<Arc<Page>>,
}

struct SimFile {
    machine: Arc<Machine>,
    inode: Arc<Inode>,
    generation: u64,
    writable: bool,
    /// Opened past the cache.
    whole_pages: bool,
}

struct SimLock {
    machine: Arc<Machine>,
    path: PathBuf,
    generation: u64,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk without faults. `/`, and `.` for relative paths, exist.
    pub fn new() -> Self {
        Self(Arc::new(Machine {
            names: Mutex::new(Names::default()),
            faults: Mutex::new(Active::default()),
            generation: AtomicU64::new(0),
            boundaries: AtomicU64::new(0),
            used_bytes: Arc::new(AtomicU64::new(0)),
        }))
    }

    /// Replaces what is to go wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.0.faults.lock().faults = faults;
    }

    /// Write boundaries passed so far.
    pub fn boundaries(&self) -> u64 {
        self.0.boundaries.load(Ordering::Relaxed)
    }

    /// Sum of the lengths of all files, removed but still open ones included.
    pub fn used_bytes(&self) -> u64 {
        self.0.used_bytes.load(Ordering::Relaxed)
    }

    /// Cuts the power and starts again: what was not synced is kept with probability `keep` (0 to 1) each, chosen by
    /// `seed`; handles and locks from before are dead; faults are gone.
    pub fn crash(&self, keep: f64, seed: u64) {
        let mut dice = Dice { state: seed, keep };
        let mut names = self.0.names.lock();
        self.0.generation.fetch_add(1, Ordering::SeqCst);
        *self.0.faults.lock() = Active::default();
        for change in std::mem::take(&mut names.pending) {
            if dice.kept() {
                change.apply(&mut names.durable);
            }
        }
        let mut live = BTreeMap::new();
        for (path, node) in &names.durable {
            let reachable = is_root(parent_of(path)) || live.contains_key(parent_of(path));
            if reachable {
                if let Node::File(inode) = node {
                    inode.crash(&mut dice);
                }
                live.insert(path.clone(), node.clone());
            }
        }
        names.durable = live.clone();
        names.live = live;
        names.locks.clear();
    }

    /// Flips one bit of a file, in memory and on disk, as a failing disk would. The offset must be within the file.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let inode = self.0.inode(path)?;
        let mut data = inode.data.write();
        let (page, within) = (offset as usize / PAGE_BYTES, offset as usize % PAGE_BYTES);
        let slot = data.slots.get_mut(page).ok_or_else(not_found)?;
        for page in [&mut slot.live, &mut slot.durable] {
            Arc::make_mut(page.get_or_insert_with(|| Arc::new([0; PAGE_BYTES])))[within] ^= 1 << bit;
        }
        Ok(())
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path == Path::new(".") || path == Path::new("/")
}

impl Machine {
    fn inode(&self, path: &Path) -> io::Result<Arc<Inode>> {
        match self.names.lock().live.get(path) {
            Some(Node::File(inode)) => Ok(inode.clone()),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found()),
        }
    }

    /// Called before every change: counts it and says whether the machine still runs.
    fn boundary(&self) -> io::Result<()> {
        self.boundaries.fetch_add(1, Ordering::Relaxed);
        let mut active = self.faults.lock();
        if let Some(left) = &mut active.faults.power_off_after {
            if *left == 0 {
                active.powered_off = true;
            } else {
                *left -= 1;
            }
        }
        if active.powered_off {
            return Err(Errno::IO.into());
        }
        if active.faults.read_only { Err(Errno::ROFS.into()) } else { Ok(()) }
    }

    fn powered(&self) -> io::Result<()> {
        if self.faults.lock().powered_off { Err(Errno::IO.into()) } else { Ok(()) }
    }

    /// Counts one of `select`'s faults down; true when it is this call's turn to fail.
    fn fails(&self, select: impl Fn(&mut Faults) -> &mut Option<u64>) -> bool {
        let mut active = self.faults.lock();
        let left = select(&mut active.faults);
        match left {
            Some(0) => {
                *left = None;
                true
            }
            Some(more) => {
                *more -= 1;
                false
            }
            None => false,
        }
    }

    fn change_names(&self, change: impl FnOnce(&mut Names) -> io::Result<Change>) -> io::Result<()> {
        self.boundary()?;
        let mut names = self.names.lock();
        let change = change(&mut names)?;
        change.apply(&mut names.live);
        names.pending.push(change);
        Ok(())
    }
}

impl Names {
    fn require_dir(&self, path: &Path) -> io::Result<()> {
        match self.live.get(path) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None if is_root(path) => Ok(()),
            None => Err(not_found()),
        }
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Set(path, node) => {
                names.insert(path.clone(), node.clone());
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), node.clone());
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Set(path, _) | Self::Remove(path) => parent_of(path) == dir,
            Self::Rename(from, to, _) => parent_of(from) == dir || parent_of(to) == dir,
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        self.0.powered()?;
        if how == Open::Create && !self.exists(path)? {
            let used_bytes = self.0.used_bytes.clone();
            self.0.change_names(|names| {
                names.require_dir(parent_of(path))?;
                let inode = Inode { data: RwLock::default(), used_bytes };
                Ok(Change::Set(path.to_owned(), Node::File(Arc::new(inode))))
            })?;
        }
        let generation = self.0.generation.load(Ordering::SeqCst);
        let inode = self.0.inode(path)?;
        let file = SimFile {
            machine: self.0.clone(),
            inode,
            generation,
            writable: how != Open::Read,
            whole_pages: how == Open::WritePages,
        };
        if how == Open::Create && file.len()? > 0 {
            file.set_len(0)?;
        }
        Ok(Arc::new(file))
    }

    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        self.0.powered()?;
        match self.0.names.lock().live.get(path) {
            Some(Node::File(_)) => Ok(Some(Kind::File)),
            Some(Node::Dir) => Ok(Some(Kind::Dir)),
            None => Ok(is_root(path).then_some(Kind::Dir)),
        }
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        self.0.powered()?;
        let names = self.0.names.lock();
        names.require_dir(path)?;
        let inside = names.live.keys().filter(|name| parent_of(name) == path && *name != path);
        Ok(inside.filter_map(|name| Some(name.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.change_names(|names| {
            names.require_dir(parent_of(path))?;
            match names.live.contains_key(path) {
                true => Err(io::ErrorKind::AlreadyExists.into()),
                false => Ok(Change::Set(path.to_owned(), Node::Dir)),
            }
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.change_names(|names| {
            names.require_dir(parent_of(to))?;
            let node = names.live.get(from).cloned().ok_or_else(not_found)?;
            Ok(Change::Rename(from.to_owned(), to.to_owned(), node))
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.change_names(|names| match names.live.get(path) {
            Some(Node::File(_)) => Ok(Change::Remove(path.to_owned())),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found()),
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.boundary()?;
        let mut names = self.0.names.lock();
        names.require_dir(path)?;
        let all = std::mem::take(&mut names.pending);
        let (synced, pending): (Vec<_>, Vec<_>) = all.into_iter().partition(|change| change.is_in(path));
        names.pending = pending;
        for change in synced {
            change.apply(&mut names.durable);
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        if !self.exists(path)? {
            self.open(path, Open::Create)?;
        }
        let generation = self.0.generation.load(Ordering::SeqCst);
        if !self.0.names.lock().locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock { machine: self.0.clone(), path: path.to_owned(), generation })))
    }
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut names = self.machine.names.lock();
        if self.generation == self.machine.generation.load(Ordering::SeqCst) {
            names.locks.remove(&self.path);
        }
    }
}

impl SimFile {
    fn alive(&self) -> io::Result<()> {
        if self.generation != self.machine.generation.load(Ordering::SeqCst) {
            return Err(Errno::IO.into());
        }
        self.machine.powered()
    }

    fn before_change(&self) -> io::Result<()> {
        self.alive()?;
        self.machine.boundary()?;
        if self.writable { Ok(()) } else { Err(Errno::BADF.into()) }
    }

    /// Grows the file if `len` is past its end and the disk has room.
    fn grow(&self, data: &mut Data, len: u64) -> io::Result<()> {
        if len <= data.len {
            return Ok(());
        }
        let capacity = self.machine.faults.lock().faults.capacity_bytes;
        if capacity.is_some_and(|capacity| self.machine.used_bytes.load(Ordering::Relaxed) + len - data.len > capacity)
        {
            return Err(Errno::NOSPC.into());
        }
        self.inode.set_len(data, len);
        Ok(())
    }
}

impl File for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.alive()?;
        if self.machine.fails(|faults| &mut faults.fail_read_after) {
            return Err(Errno::IO.into());
        }
        Ok(self.inode.data.read().read_at(offset, buffer))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.before_change()?;
        if self.whole_pages {
            let numbers = [offset as usize, bytes.len(), bytes.as_ptr().addr()];
            assert!(numbers.iter().all(|number| number.is_multiple_of(PAGE_BYTES)), "whole pages, not {numbers:x?}");
            if self.machine.faults.lock().faults.refuse_pages {
                return Err(Errno::INVAL.into());
            }
        }
        let mut data = self.inode.data.write();
        self.grow(&mut data, offset + bytes.len() as u64)?;
        if self.machine.fails(|faults| &mut faults.fail_write_after) {
            data.write_at(offset, &bytes[..bytes.len() / 2]);
            return Err(Errno::IO.into());
        }
        data.write_at(offset, bytes);
        Ok(())
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.before_change()?;
        self.grow(&mut self.inode.data.write(), len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.before_change()?;
        let mut data = self.inode.data.write();
        self.grow(&mut data, len)?;
        self.inode.set_len(&mut data, len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.before_change()?;
        let failed = self.machine.fails(|faults| &mut faults.fail_sync_after);
        let kept = !failed && !self.machine.faults.lock().faults.lying_sync;
        self.inode.data.write().sync(kept);
        if failed { Err(Errno::IO.into()) } else { Ok(()) }
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.alive()?;
        Ok(self.inode.data.read().len)
    }
}

impl Inode {
    fn set_len(&self, data: &mut Data, len: u64) {
        self.used_bytes.fetch_add(len.wrapping_sub(data.len), Ordering::Relaxed);
        data.set_len(len);
    }

    fn crash(&self, dice: &mut Dice) {
        let mut data = self.data.write();
        let len = if data.len_dirty && dice.kept() { data.len } else { data.durable_len };
        for page in std::mem::take(&mut data.dirty) {
            data.slots[page].durable = dice.page(&data.slots[page]);
        }
        for slot in &mut data.slots {
            slot.live = slot.durable.clone();
        }
        self.set_len(&mut data, len);
        data.sync(true);
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        self.used_bytes.fetch_sub(self.data.get_mut().len, Ordering::Relaxed);
    }
}

impl Data {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let bytes = (self.len.saturating_sub(offset) as usize).min(buffer.len());
        let mut done = 0;
        while done < bytes {
            let (page, within) = ((offset as usize + done) / PAGE_BYTES, (offset as usize + done) % PAGE_BYTES);
            let part = (PAGE_BYTES - within).min(bytes - done);
            match &self.slots[page].live {
                Some(page) => buffer[done..done + part].copy_from_slice(&page[within..within + part]),
                None => buffer[done..done + part].fill(0),
            }
            done += part;
        }
        bytes
    }

    /// Writes within the length.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let (page, within) = ((offset as usize + done) / PAGE_BYTES, (offset as usize + done) % PAGE_BYTES);
            let part = (PAGE_BYTES - within).min(bytes.len() - done);
            self.slots[page].write(within, &bytes[done..done + part]);
            self.dirty.insert(page);
            done += part;
        }
    }

    fn set_len(&mut self, len: u64) {
        if len == self.len {
            return;
        }
        let pages = (len as usize).div_ceil(PAGE_BYTES);
        if len < self.len {
            for page in pages..self.slots.len() {
                self.slots[page].live = None;
                self.dirty.insert(page);
            }
            let within = len as usize % PAGE_BYTES;
            if within > 0 {
                self.slots[pages - 1].write(within, &[0; PAGE_BYTES][within..]);
                self.dirty.insert(pages - 1);
            }
        } else if pages > self.slots.len() {
            self.slots.resize(pages, Slot::default());
        }
        self.len = len;
        self.len_dirty = true;
    }

    /// Everything counts as clean afterwards; it is durable only if `kept`.
    fn sync(&mut self, kept: bool) {
        let dirty = std::mem::take(&mut self.dirty);
        self.len_dirty = false;
        if kept {
            for page in dirty {
                self.slots[page].durable = self.slots[page].live.clone();
            }
            self.durable_len = self.len;
            self.slots.truncate((self.len as usize).div_ceil(PAGE_BYTES));
        }
    }
}

impl Slot {
    fn write(&mut self, within: usize, bytes: &[u8]) {
        let zeroes = bytes.iter().all(|byte| *byte == 0);
        if zeroes && (bytes.len() == PAGE_BYTES || self.live.is_none()) {
            self.live = None;
            return;
        }
        let page = self.live.get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
        Arc::make_mut(page)[within..within + bytes.len()].copy_from_slice(bytes);
    }
}

/// Seeded choices (SplitMix64), so that the same seed gives the same crash.
struct Dice {
    state: u64,
    keep: f64,
}

impl Dice {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn kept(&mut self) -> bool {
        ((self.next() >> 11) as f64 / (1_u64 << 53) as f64) < self.keep
    }

    /// What a power cut leaves of a page that was not synced.
    fn page(&mut self, slot: &Slot) -> Option<Arc<Page>> {
        if !self.next().is_multiple_of(TORN_ONE_IN) {
            return if self.kept() { slot.live.clone() } else { slot.durable.clone() };
        }
        let mut torn: Page = slot.durable.as_deref().copied().unwrap_or([0; PAGE_BYTES]);
        let live: Page = slot.live.as_deref().copied().unwrap_or([0; PAGE_BYTES]);
        for sector in (0..PAGE_BYTES).step_by(SECTOR_BYTES) {
            if self.kept() {
                torn[sector..sector + SECTOR_BYTES].copy_from_slice(&live[sector..sector + SECTOR_BYTES]);
            }
        }
        Some(Arc::new(torn))
    }
}
