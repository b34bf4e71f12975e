//! The kernel's requests, answered from the [`Disk`](super::disk::Disk) model. No policy here.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno as Code;

use super::Shared;
use super::content::PAGE;
use super::disk::{Attributes, Disk, Ino, Kind};
use super::held::Sync;

/// The kernel may keep names and attributes: nobody but it changes them while mounted.
const CACHE_TIME: Duration = Duration::from_secs(60);
/// Largest write of one request, in bytes.
const WRITE_BYTES_MAX: u32 = 1 << 20;
const GENERATION: Generation = Generation(0);

/// One session's view of the shared disk.
pub(super) struct Fuse {
    shared: Arc<Shared>,
    handles: AtomicU64,
}

impl Fuse {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, handles: AtomicU64::new(1) }
    }

    fn handle(&self) -> FileHandle {
        FileHandle(self.handles.fetch_add(1, Ordering::Relaxed))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> Result<T, Code>) -> Result<T, Errno> {
        act(&mut self.shared.disk.lock()).map_err(|code| Errno::from_i32(code.raw_os_error()))
    }

    fn make(&self, parent: INodeNo, name: &OsStr, kind: Kind, mode: u32, target: Option<&Path>, reply: ReplyEntry) {
        let made = self.with(|disk| {
            let ino = disk.make(parent.0, name, kind, mode as u16, target)?;
            disk.attributes(ino)
        });
        match made {
            Ok(attributes) => reply.entry(&CACHE_TIME, &attr(&attributes), GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn sync(&self, sync: Sync) {
        let slow = self.shared.disk.lock().faults.slow_sync;
        if let Some(sync) = self.shared.held.take(sync, slow) {
            sync.perform(&self.shared.disk, &self.shared.behind_write);
        }
    }
}

fn attr(from: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(from.ino),
        size: from.size,
        blocks: from.pages * (PAGE as u64 / 512),
        atime: from.modified,
        mtime: from.modified,
        ctime: from.modified,
        crtime: from.modified,
        kind: file_type(from.kind),
        perm: from.mode,
        nlink: from.links,
        uid: from.owner.0,
        gid: from.owner.1,
        rdev: 0,
        blksize: PAGE as u32,
        flags: 0,
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
    }
}

fn done(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Fuse {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        config
            .set_max_write(WRITE_BYTES_MAX)
            .map_err(|max| std::io::Error::other(format!("largest write is {max}")))?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.with(|disk| {
            let ino = disk.lookup(parent.0, name)?;
            disk.attributes(ino)
        });
        match found {
            Ok(attributes) => reply.entry(&CACHE_TIME, &attr(&attributes), GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.with(|disk| disk.attributes(ino.0)) {
            Ok(attributes) => reply.attr(&CACHE_TIME, &attr(&attributes)),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.with(|disk| {
            if let Some(size) = size {
                disk.set_size(ino.0, size)?;
            }
            if mode.is_some() || uid.is_some() || gid.is_some() {
                disk.set_mode(ino.0, mode.map(|mode| mode as u16), uid, gid)?;
            }
            disk.attributes(ino.0)
        });
        match changed {
            Ok(attributes) => reply.attr(&CACHE_TIME, &attr(&attributes)),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.with(|disk| disk.target(ino.0)) {
            Ok(target) => reply.data(target.as_os_str().as_encoded_bytes()),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: u32, reply: ReplyEntry) {
        const TYPE_BITS: u32 = 0o170_000;
        const REGULAR: u32 = 0o100_000;
        match mode & TYPE_BITS {
            0 | REGULAR => self.make(parent, name, Kind::File, mode, None, reply),
            _ => reply.error(Errno::EPERM),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        self.make(parent, name, Kind::Directory, mode, None, reply);
    }

    fn symlink(&self, _: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.make(parent, name, Kind::Symlink, 0o777, Some(target), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.with(|disk| disk.unlink(parent.0, name)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.with(|disk| disk.remove_directory(parent.0, name)), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !(flags & !RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let keep = flags.contains(RenameFlags::RENAME_NOREPLACE);
        done(self.with(|disk| disk.rename((parent.0, name), (newparent.0, newname), keep)), reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let linked = self.with(|disk| {
            disk.link(ino.0, newparent.0, newname)?;
            disk.attributes(ino.0)
        });
        match linked {
            Ok(attributes) => reply.entry(&CACHE_TIME, &attr(&attributes), GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.with(|disk| disk.opened(ino.0)) {
            Ok(()) => reply.opened(self.handle(), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        let made = self.with(|disk| {
            let ino = disk.make(parent.0, name, Kind::File, mode as u16, None)?;
            disk.opened(ino)?;
            disk.attributes(ino)
        });
        match made {
            Ok(attributes) => {
                reply.created(&CACHE_TIME, &attr(&attributes), GENERATION, self.handle(), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.shared.behind_write.lock().retain(|(open, _)| *open != handle);
        self.shared.disk.lock().closed(ino.0);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Closing a file makes nothing durable.
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.with(|disk| disk.read(ino.0, offset, size as usize)) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if let Err(error) = self.with(|disk| disk.write(ino.0, offset, data)) {
            return reply.error(error);
        }
        // O_SYNC contains the bit of O_DSYNC; the kernel sets it for RWF_DSYNC, too.
        if flags.0 as u32 & OFlags::DSYNC.bits() != 0 {
            self.sync(Sync::Written(ino.0, offset, data.len(), (handle, request.pid()), reply));
        } else {
            reply.written(data.len() as u32);
        }
    }

    fn fsync(&self, request: &Request, ino: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        if self.shared.behind_write.lock().remove(&(handle, request.pid())) {
            return reply.ok();
        }
        self.sync(Sync::Whole(ino.0, reply));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(Sync::Whole(ino.0, reply));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.with(|disk| disk.entries(ino.0)) {
            Ok(entries) => {
                for (index, (name, ino, kind)) in entries.into_iter().enumerate().skip(offset as usize) {
                    if reply.add(INodeNo(ino), index as u64 + 1, file_type(kind), name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (capacity, free) = self.shared.disk.lock().space();
        let (blocks, free) = (capacity / PAGE as u64, free / PAGE as u64);
        reply.statfs(blocks, free, free, 1 << 20, 1 << 20, PAGE as u32, 255, PAGE as u32);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        let keep = mode.contains(FallocateFlags::KEEP_SIZE);
        let result =
            self.with(|disk: &mut Disk| allocate(disk, ino.0, offset, length, mode - FallocateFlags::KEEP_SIZE, keep));
        done(result, reply);
    }
}

fn allocate(disk: &mut Disk, ino: Ino, offset: u64, length: u64, mode: FallocateFlags, keep: bool) -> Result<(), Code> {
    if mode.is_empty() {
        disk.allocate(ino, offset, length, keep)
    } else if mode == FallocateFlags::PUNCH_HOLE {
        disk.zero_range(ino, offset, length)
    } else if mode == FallocateFlags::ZERO_RANGE {
        disk.allocate(ino, offset, length, keep)?;
        disk.zero_range(ino, offset, length)
    } else {
        Err(Code::OPNOTSUPP)
    }
}
