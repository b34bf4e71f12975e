//! Has the next segment ready before the log thread needs it, and takes purged ones back.
//!
//! In the background a thread writes the next file with zeroes; without (a server in memory, tests of an exact order)
//! a file is made when it is needed, with its space only reserved.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::segment::{self, Hurry, Maker, Segment};
use crate::storage::fs::{Disk, Open, PAGE_BYTES};
use crate::storage::record::SegmentHeader;

/// What a [`Preparer`] starts with.
pub(super) struct Stock {
    pub dir: PathBuf,
    pub segment_bytes: u64,
    /// Purged files kept for reuse; more are removed.
    pub spares_max: usize,
    /// Purged files there are.
    pub spares: Vec<PathBuf>,
    /// Greater than the epoch of any header on disk.
    pub next_epoch: u64,
    /// A segment that was prepared before and never used.
    pub ready: Option<Segment>,
}

/// Makes and recycles segments; owned by the log thread.
pub(super) struct Preparer {
    shop: Arc<Shop>,
    thread: Option<JoinHandle<()>>,
}

struct Shop {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    spares_max: usize,
    /// Held only for moments, never while a file is written.
    shelf: Mutex<Shelf>,
    /// Signalled when there is a job, and when one is done.
    changed: Condvar,
}

struct Shelf {
    jobs: VecDeque<Job>,
    preparing: bool,
    /// The log thread waits for what is being prepared.
    wanted: bool,
    ready: Option<Segment>,
    spares: Vec<PathBuf>,
    next_epoch: u64,
    closing: bool,
}

enum Job {
    Prepare(u32),
    Retire(Vec<PathBuf>),
}

impl Preparer {
    /// Starts the thread if `background`.
    pub fn start(disk: Arc<dyn Disk>, stock: Stock, background: bool) -> io::Result<Self> {
        let shelf = Shelf {
            jobs: VecDeque::new(),
            preparing: false,
            wanted: false,
            ready: stock.ready,
            spares: stock.spares,
            next_epoch: stock.next_epoch,
            closing: false,
        };
        let Stock { dir, segment_bytes, spares_max, .. } = stock;
        let shop =
            Arc::new(Shop { disk, dir, segment_bytes, spares_max, shelf: shelf.into(), changed: Condvar::new() });
        let worker = shop.clone();
        let spawn = || std::thread::Builder::new().name("log-prepare".to_owned()).spawn(move || worker.run());
        let thread = background.then(spawn).transpose()?;
        Ok(Self { shop, thread })
    }

    /// Asks for segment `number` to be ready soon. Does nothing without a thread, or if it is.
    pub fn request(&self, number: u32) {
        let mut shelf = self.shop.shelf.lock();
        if self.thread.is_some() && !shelf.preparing && shelf.ready.is_none() {
            shelf.preparing = true;
            shelf.jobs.push_back(Job::Prepare(number));
            self.shop.changed.notify_all();
        }
    }

    /// Segment `number`, with at least `bytes_min` bytes: the prepared one, or one made now.
    pub fn take(&self, number: u32, bytes_min: u64) -> io::Result<Segment> {
        let ready = {
            let mut shelf = self.shop.shelf.lock();
            shelf.wanted = true;
            while shelf.preparing {
                self.shop.changed.wait(&mut shelf);
            }
            shelf.wanted = false;
            shelf.ready.take()
        };
        match ready {
            Some(ready) if ready.number == number && ready.bytes >= bytes_min => Ok(ready),
            // Too small for a giant entry: the new file replaces it under the same name.
            _ => self.shop.make(number, bytes_min, None),
        }
    }

    /// Takes files that hold nothing needed any more; they must be gone from the log's own list.
    pub fn retire(&self, paths: Vec<PathBuf>) {
        if self.thread.is_none() {
            return self.shop.retire(paths);
        }
        self.shop.shelf.lock().jobs.push_back(Job::Retire(paths));
        self.shop.changed.notify_all();
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.shop.shelf.lock().closing = true;
        self.shop.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that prepares log segments panicked");
        }
    }
}

impl Shop {
    fn run(&self) {
        loop {
            let job = {
                let mut shelf = self.shelf.lock();
                loop {
                    if let Some(job) = shelf.jobs.pop_front() {
                        break job;
                    }
                    if shelf.closing {
                        return;
                    }
                    self.changed.wait(&mut shelf);
                }
            };
            match job {
                Job::Retire(paths) => self.retire(paths),
                Job::Prepare(number) => self.prepare(number),
            }
        }
    }

    /// Failing here is no error yet: the log thread tries again when it needs the segment, and reports.
    fn prepare(&self, number: u32) {
        let hurry = || match *self.shelf.lock() {
            Shelf { closing: true, .. } => Hurry::GiveUp,
            Shelf { wanted: true, .. } => Hurry::Skip,
            _ => Hurry::No,
        };
        let made = self.make(number, self.segment_bytes, Some(&hurry));
        let mut shelf = self.shelf.lock();
        shelf.preparing = false;
        match made {
            Ok(segment) => shelf.ready = Some(segment),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => tracing::warn!(%error, number, "log segment not prepared ahead"),
        }
        drop(shelf);
        self.changed.notify_all();
    }

    /// Makes a segment from a spare or anew; with `fill` given, anew means written with zeroes.
    fn make(&self, number: u32, bytes_min: u64, fill: Option<&dyn Fn() -> Hurry>) -> io::Result<Segment> {
        let bytes = self.segment_bytes.max(bytes_min.next_multiple_of(PAGE_BYTES as u64));
        let (epoch, spare) = {
            let mut shelf = self.shelf.lock();
            let epoch = shelf.next_epoch;
            shelf.next_epoch += 1;
            (epoch, if bytes == self.segment_bytes { shelf.spares.pop() } else { None })
        };
        let header = SegmentHeader { segment: number, epoch, bytes };
        let maker = Maker { disk: &*self.disk, dir: &self.dir, header };
        match (spare, fill) {
            (Some(spare), _) => maker.recycle(&spare),
            (None, Some(hurry)) => maker.fill(hurry),
            (None, None) => maker.reserve(None),
        }
    }

    /// Failing here costs space, not safety: recovery sees that such files are behind the purge and removes them.
    fn retire(&self, paths: Vec<PathBuf>) {
        for path in paths {
            if let Err(error) = self.retire_one(&path) {
                tracing::warn!(%error, file = %path.display(), "purged log segment not removed");
            }
        }
    }

    fn retire_one(&self, path: &Path) -> io::Result<()> {
        let size = self.disk.open(path, Open::Read)?.len()?;
        if size != self.segment_bytes || self.shelf.lock().spares.len() >= self.spares_max {
            self.disk.remove(path)?;
            return self.disk.sync_dir(&self.dir);
        }
        // The new name is durable before the file is handed out: nothing may overwrite what still looks like a
        // segment in use.
        let spare = path.with_extension(segment::SPARE);
        self.disk.rename(path, &spare)?;
        self.disk.sync_dir(&self.dir)?;
        self.shelf.lock().spares.push(spare);
        Ok(())
    }
}
