//! Syncs that are answered later: slow ones after their delay, those on hold when the power goes.
//!
//! The FUSE thread hands them over, so that other requests go on meanwhile, as on a disk whose cache flush hangs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fuser::{Errno, FileHandle, ReplyEmpty, ReplyWrite};
use parking_lot::{Condvar, Mutex};

use super::disk::{Disk, Ino};

/// One sync that waits.
pub(super) enum Sync {
    /// `fsync`, `fdatasync` or a sync of a directory.
    Whole(Ino, ReplyEmpty),
    /// The sync half of a synchronous write: offset and length.
    Written(Ino, u64, usize, Caller, ReplyWrite),
}

/// An open file and a thread that uses it.
pub(super) type Caller = (FileHandle, u32);

/// Whose last request was a synchronous write that succeeded. The kernel sends a sync of the whole file behind each of
/// them, though only the range was asked for: that one must not make other pages durable.
pub(super) type BehindWrite = Mutex<BTreeSet<Caller>>;

impl Sync {
    /// Makes it durable and answers.
    pub(super) fn perform(self, disk: &Mutex<Disk>, behind_write: &BehindWrite) {
        match self {
            Self::Whole(ino, reply) => match disk.lock().sync(ino) {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(Errno::from_i32(error.raw_os_error())),
            },
            Self::Written(ino, offset, length, caller, reply) => {
                let result = disk.lock().sync_written(ino, offset, length);
                match result {
                    Ok(()) => {
                        behind_write.lock().insert(caller);
                        reply.written(length as u32);
                    }
                    Err(error) => reply.error(Errno::from_i32(error.raw_os_error())),
                }
            }
        }
    }

    fn fail(self) {
        match self {
            Self::Whole(_, reply) => reply.error(Errno::EIO),
            Self::Written(.., reply) => reply.error(Errno::EIO),
        }
    }
}

#[derive(Default)]
struct State {
    /// With the moment they are due; `None` = when the hold ends. The kernel limits how many there can be.
    waiting: Vec<(Option<Instant>, Sync)>,
    holding: bool,
    stopped: bool,
}

/// The syncs that wait, and the thread that ends them.
#[derive(Default)]
pub(super) struct Held {
    /// Guards the list; never held while the disk is locked.
    state: Mutex<State>,
    changed: Condvar,
}

impl Held {
    /// Takes a sync when syncs are on hold or slow; otherwise gives it back to be performed at once.
    pub(super) fn take(&self, sync: Sync, slow: Option<Duration>) -> Option<Sync> {
        let mut state = self.state.lock();
        let due = match slow {
            _ if state.holding => None,
            Some(delay) => Some(Instant::now() + delay),
            None => return Some(sync),
        };
        state.waiting.push((due, sync));
        self.changed.notify_one();
        None
    }

    pub(super) fn hold(&self) {
        let mut state = self.state.lock();
        state.holding = true;
        state.waiting.iter_mut().for_each(|(due, _)| *due = None);
    }

    pub(super) fn release(&self) {
        self.state.lock().holding = false;
    }

    /// Ends everything that waits with `EIO`.
    pub(super) fn drop_all(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        waiting.into_iter().for_each(|(_, sync)| sync.fail());
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_one();
    }

    /// Performs slow syncs when they are due, until [`Held::stop`].
    pub(super) fn run(&self, disk: &Mutex<Disk>, behind_write: &BehindWrite) {
        let mut state = self.state.lock();
        while !state.stopped {
            let now = Instant::now();
            let due = state.waiting.iter().position(|(due, _)| due.is_some_and(|due| due <= now));
            if let Some(index) = due {
                let (_, sync) = state.waiting.remove(index);
                drop(state);
                sync.perform(disk, behind_write);
                state = self.state.lock();
                continue;
            }
            match state.waiting.iter().filter_map(|(due, _)| *due).min() {
                Some(next) => {
                    self.changed.wait_until(&mut state, next);
                }
                None => self.changed.wait(&mut state),
            }
        }
    }
}
