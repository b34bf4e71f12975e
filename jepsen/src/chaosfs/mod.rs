//! An in-memory file system that forgets what was not synced: FUSE on top of the [`disk`] model.
//!
//! It needs `/dev/fuse` and root, nothing else. One server process lives on one mount; the harness kills the process,
//! cuts the power and starts it again on what is left. Locks (`flock`, POSIX) are the kernel's own.
//!
//! Not modelled: `sync_file_range` (FUSE never sees it, so it gives no durability), extended attributes, modes and times
//! across power cuts.

mod content;
pub mod disk;
pub mod faults;
mod fuse;
mod held;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption};
use rustix::mount::UnmountFlags;

pub use content::{PAGE, SECTOR};
pub use disk::{Counters, Cut, Directories};
use disk::{Disk, Kind, ROOT};
pub use faults::Faults;
use fuse::Fuse;
use held::{BehindWrite, Held};
use parking_lot::Mutex;

use crate::rng::Rng;

/// An unmount that takes longer than this has a process on it that was not killed.
const UNMOUNT_MAX: Duration = Duration::from_secs(20);

/// What the mount's threads share.
struct Shared {
    /// Guards the whole model: requests are short, and one at a time is what makes a cut atomic.
    disk: Mutex<Disk>,
    /// Syncs that are slow or on hold.
    held: Held,
    /// See there. Locked alone and shortly.
    behind_write: BehindWrite,
}

/// A mounted file system. Dropping it unmounts; its content is gone then.
pub struct ChaosFs {
    shared: Arc<Shared>,
    mountpoint: PathBuf,
    session: Option<BackgroundSession>,
    timer: Option<std::thread::JoinHandle<()>>,
}

impl ChaosFs {
    /// Mounts an empty disk on an existing directory. Errors: no root, no `/dev/fuse`.
    pub fn mount(mountpoint: &Path, directories: Directories) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            disk: Mutex::new(Disk::new(directories)),
            held: Held::default(),
            behind_write: BehindWrite::default(),
        });
        let timer = std::thread::Builder::new().name("chaosfs-timer".into()).spawn({
            let shared = shared.clone();
            move || shared.held.run(&shared.disk, &shared.behind_write)
        })?;
        let mut mounted = Self { shared, mountpoint: mountpoint.to_owned(), session: None, timer: Some(timer) };
        mounted.attach()?;
        Ok(mounted)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// From now on syncs (and synchronous writes) wait and nothing becomes durable, until the power is cut. A server
    /// that answers before its sync is caught red-handed.
    pub fn hold_syncs(&self) {
        self.shared.held.hold();
    }

    /// Syncs that wait end now with `EIO`, unsynced. Call it once the server is killed: it cannot die before.
    pub fn drop_held_syncs(&self) {
        self.shared.held.drop_all();
    }

    /// Cuts the power, see [`Disk::power_cut`], and mounts what is left. Processes on the mount must be dead.
    pub fn power_cut(&mut self, keep: f64, seed: u64) -> io::Result<Cut> {
        self.shared.held.drop_all();
        self.detach()?;
        let cut = self.shared.disk.lock().power_cut(keep, &mut Rng::new(seed));
        self.shared.held.release();
        self.attach()?;
        Ok(cut)
    }

    /// Changes what goes wrong.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.disk.lock().faults);
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.shared.disk.lock().counters
    }

    /// Bytes of allocated pages.
    pub fn bytes_used(&self) -> u64 {
        let (capacity, free) = self.shared.disk.lock().space();
        capacity - free
    }

    /// Pages that a power cut now would lose with `keep` 0.
    pub fn pages_dirty(&self) -> u64 {
        self.shared.disk.lock().pages_dirty()
    }

    /// Flips one bit of a file given by its path below the mount. Nobody may have it open: the kernel's cache would hide
    /// the flip.
    pub fn flip_bit(&mut self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        self.detach()?;
        self.shared.disk.lock().flip_bit(path, offset, bit)?;
        self.attach()
    }

    /// Copies all files to a real directory, as evidence.
    pub fn export(&self, to: &Path) -> io::Result<()> {
        export(&mut self.shared.disk.lock(), ROOT, to)
    }

    fn attach(&mut self) -> io::Result<()> {
        // File handles begin anew.
        self.shared.behind_write.lock().clear();
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("chaosfs".into()),
            MountOption::Subtype("chaosfs".into()),
            MountOption::DefaultPermissions,
            MountOption::NoAtime,
        ];
        self.session = Some(fuser::spawn_mount(Fuse::new(self.shared.clone()), &self.mountpoint, &config)?);
        Ok(())
    }

    fn detach(&mut self) -> io::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let started = Instant::now();
        rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH)?;
        // The session ends when the last open file is closed; the kernel may take a moment after a kill.
        while !session.guard.is_finished() {
            if started.elapsed() > UNMOUNT_MAX {
                return Err(io::Error::other(format!("{} is still in use", self.mountpoint.display())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // It is unmounted already: only its thread is left to collect.
        session.join()
    }
}

impl Drop for ChaosFs {
    fn drop(&mut self) {
        self.shared.held.drop_all();
        self.shared.held.stop();
        if let Err(error) = self.detach() {
            eprintln!("chaosfs: unmounting {}: {error}", self.mountpoint.display());
        }
        if let Some(timer) = self.timer.take()
            && timer.join().is_err()
        {
            eprintln!("chaosfs: the timer thread panicked");
        }
    }
}

fn export(disk: &mut Disk, from: u64, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for (name, ino, kind) in disk.entries(from)?.into_iter().skip(2) {
        let to = to.join(name);
        match kind {
            Kind::Directory => export(disk, ino, &to)?,
            Kind::Symlink => std::os::unix::fs::symlink(disk.target(ino)?, to)?,
            Kind::File => {
                let size = disk.attributes(ino)?.size;
                std::fs::write(to, disk.read(ino, 0, size as usize)?)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
