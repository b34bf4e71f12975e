//! [`Engine`] on sled 1.0 alpha: the long memory behind the log.
//!
//! sled is an alpha that nobody maintains, so this file trusts it with nothing. What its source showed, and what is done:
//!
//! | sled | here |
//! |---|---|
//! | its flusher thread aborts the process on any error | no flusher; [`Engine::flush`] is the only flush |
//! | after a failed flush the next one, also that of a drop, waits for ever | after any error the store is left alone, never dropped |
//! | every iterator flushes when dropped, and hides the error | a scan flushes what is pending itself, before |
//! | it does not sync its `durability_cookie` nor directories it made | `SyncPass` after each flush |
//! | a damaged metadata log makes it older, silently | `Seal` in each batch and in the `MANIFEST`, counted again at open |
//! | damaged pages make it panic, or spin for ever | opened and counted on a thread, with a deadline |
//! | such a thread would go on removing files by their paths | the store that takes its place has other paths: a generation |
//! | opened with a snapshot and no log it deletes the snapshot | an empty log is put there before |
//! | freshly written pages stay in memory whatever the cache's size | [`SledEngine::reopen_if_over`] |
//! | a leaf of 128 entries is written as a whole | long values are cut in pieces; meta keys have a leaf of their own |
//!
//! ```text
//! <dir>/MANIFEST               what must be there, see `manifest`
//! <dir>/sled-<generation>/...  sled's own files, format of its version 1.0.0-alpha.124
//!
//! entry  := key  ->  00 value  |  01 value_bytes:u64le            (the latter: in pieces)
//! piece  := RESERVED 'c' key number:u32be  ->  up to PIECE_BYTES of the value
//! seal   := MAIN_ZERO  ->  Seal of all other entries
//! filler := RESERVED 'f' number:u8  ->  empty                     (see `SledEngine::create`)
//! ```

use std::any::Any;
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::fs;
use std::io::ErrorKind;
use std::mem;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use self::manifest::{Manifest, Seal};
use self::sync::{SyncPass, bytes_below, io, sync_dir};
use super::engine::{Engine, Error, MAIN_ZERO, RESERVED, Visitor, WriteBatch, assert_key, is_reserved};

mod manifest;
mod sync;
#[cfg(test)]
mod tests;

/// Entries of a sled leaf. Cannot change for a store that exists.
const FANOUT: usize = 128;
/// Longest part of a value within one entry: a leaf stays below 128 times this.
const PIECE_BYTES: usize = 16 << 10;
/// Bytes put since it was opened after which sled is opened anew, for it holds them all in memory until then.
const HELD_BYTES_MAX: u64 = 64 << 20;
/// sled's own choice, 3, takes twice the time for a tenth less.
const ZSTD_LEVEL: i32 = 1;
const SLED_DIR: &str = "sled";
const FIRST_GENERATION: u32 = 1;
const WHOLE: u8 = 0;
const PIECES: u8 = 1;
/// Directories set aside that may stand beside the store; more are a sign that somebody must look.
const SET_ASIDE_MAX: u32 = 100;
/// How often opening is tried when the store is locked: the threads of one just closed let go a moment later.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

type Db = sled::Db<FANOUT>;

/// What a batch does to sled's entries, by key.
type Plan = BTreeMap<Vec<u8>, Change>;

/// One of sled's entries, before and after.
struct Change {
    old: Option<sled::InlineArray>,
    new: Option<Vec<u8>>,
}

/// Where the store is and what it may use.
#[derive(Clone, Debug)]
pub struct SledConfig {
    /// Its directory, which is nobody else's.
    pub dir: PathBuf,
    /// Pages read are kept up to this; pages written are not counted by sled, see [`SledEngine::reopen_if_over`].
    pub cache_bytes: usize,
    /// Opening and checking must be done within this, else the store is set aside.
    pub open_deadline: Duration,
}

/// A store that was moved out of the way: its owner rebuilds from snapshot and log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Why.
    pub reason: String,
    /// Where it is now.
    pub path: PathBuf,
}

/// See the module.
pub struct SledEngine {
    config: SledConfig,
    /// How many stores stood in this directory before, and one; part of the path of sled's files.
    generation: u32,
    /// `None` only while reopening.
    db: Option<Db>,
    seal: Seal,
    /// The greatest key ever put; keys above it need not be looked up before a write.
    greatest: Vec<u8>,
    synced: SyncPass,
    /// Whether sled holds batches that were not flushed.
    pending: Cell<bool>,
    /// The seal in the manifest.
    promised: Option<Seal>,
    /// Whether a call failed; then nothing is called any more.
    failed: Cell<bool>,
    /// Bytes put since sled was opened; it keeps them all in memory.
    bytes_put: u64,
}

impl SledEngine {
    /// Opens the store, or makes an empty one where there is none; counts its entries and compares them with the seal
    /// and the manifest. In the caller's thread, which a damaged store may hold for ever:
    /// [`SledEngine::open_or_set_aside`] is for servers.
    ///
    /// Opening runs the program `sync` twice, because sled does; it waits for all dirty pages of the machine. Where no
    /// such program is on the `PATH` (an image with nothing but our binary), sled goes on without.
    ///
    /// # Errors
    /// [`Error`]
    pub fn open(config: SledConfig) -> Result<Self, Error> {
        if is_absent(&config.dir)? {
            return Self::create(config, FIRST_GENERATION);
        }
        let promised = manifest::read(&config.dir)?;
        mend_metadata(&sled_dir(&config, promised.generation))?;
        let mut engine = Self::new(config, promised.generation)?;
        engine.count(&promised.seal)?;
        engine.synced.run(&engine.sled_dir())?;
        Ok(engine)
    }

    /// Opens the store on a thread of its own and lets `check` look at it there. If that fails, panics or takes too
    /// long, the directory is renamed to `<dir>.bad-<n>` and an empty store takes its place.
    ///
    /// `check` says what does not fit, for instance that the applied mark is behind the log's start.
    ///
    /// # Errors
    /// When the machine is at fault and not the store (no permission, no space, a lock held by another process), when
    /// the directory cannot be renamed, or when the empty store cannot be made.
    pub fn open_or_set_aside(
        config: SledConfig,
        check: impl FnOnce(&Self) -> Result<(), String> + Send + 'static,
    ) -> Result<(Self, Option<SetAside>), Error> {
        let reason = match Self::open_on_thread(config.clone(), check)? {
            Ok(engine) => return Ok((engine, None)),
            Err(reason) => reason,
        };
        let (path, generation) = set_aside(&config.dir)?;
        tracing::error!(
            dir = %config.dir.display(), moved_to = %path.display(), %reason,
            "checkpoint store set aside; it is rebuilt from the snapshot file and the log"
        );
        Ok((Self::create(config, generation)?, Some(SetAside { reason, path })))
    }

    /// The engine, or why it is unusable; an error when the machine is at fault.
    fn open_on_thread(
        config: SledConfig,
        check: impl FnOnce(&Self) -> Result<(), String> + Send + 'static,
    ) -> Result<Result<Self, String>, Error> {
        let (dir, deadline) = (config.dir.clone(), config.open_deadline);
        let (done, opened) = sync_channel(1);
        let opener = thread::Builder::new().name("sled-open".to_owned()).spawn(move || {
            let result = Self::open(config).and_then(|engine| {
                let verdict = guard("be checked", || Ok(check(&engine)))?;
                Ok(verdict.map(|()| engine))
            });
            // Nobody waits any more after the deadline; the engine is then dropped here.
            drop(done.send(result));
        });
        opener.map_err(io("start a thread for", &dir))?;
        match opened.recv_timeout(deadline) {
            Ok(Ok(verdict)) => Ok(verdict),
            Ok(Err(error)) if is_machines_fault(&error) => Err(error),
            Ok(Err(error)) => Ok(Err(error.to_string())),
            Err(RecvTimeoutError::Timeout) => {
                Ok(Err(Error::Deadline { path: dir, seconds: deadline.as_secs() }.to_string()))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(Err("the opening thread panicked".to_owned())),
        }
    }

    /// Makes an empty store, durably.
    ///
    /// The fillers make sled split its first leaf so that the seal and all meta keys lie left of the split: each flush
    /// rewrites that small leaf and the one at the right edge, not the oldest revisions too.
    fn create(config: SledConfig, generation: u32) -> Result<Self, Error> {
        let sled_dir = sled_dir(&config, generation);
        let made_from = sled_dir.ancestors().find(|dir| dir.is_dir()).map(Path::to_owned);
        fs::create_dir_all(&sled_dir).map_err(io("create", &sled_dir))?;
        let mut engine = Self::new(config, generation)?;
        let filler = |number: usize| [&RESERVED[..], b"f", &[number as u8]].concat();
        let put = |number| (filler(number), Change { old: None, new: Some(Vec::new()) });
        let remove = |number| (filler(number), Change { old: Some(sled::InlineArray::default()), new: None });
        engine.apply((0..FANOUT).map(put).collect())?;
        engine.apply((1..FANOUT).map(remove).collect())?;
        engine.flush()?;
        // The flush has synced what is in the directory; its own name is in its parent, and the parent's may be new too.
        for dir in engine.config.dir.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()) {
            sync_dir(dir)?;
            if Some(dir) == made_from.as_deref() {
                break;
            }
        }
        Ok(engine)
    }

    fn new(config: SledConfig, generation: u32) -> Result<Self, Error> {
        let db = guard("open", || open_db(&sled_dir(&config, generation), config.cache_bytes))?;
        Ok(Self {
            config,
            generation,
            db: Some(db),
            seal: Seal::default(),
            greatest: Vec::new(),
            synced: SyncPass::default(),
            pending: Cell::new(false),
            promised: None,
            failed: Cell::new(false),
            bytes_put: 0,
        })
    }

    fn sled_dir(&self) -> PathBuf {
        sled_dir(&self.config, self.generation)
    }

    /// Bytes put since the store was opened, about what sled holds in memory beyond its cache.
    pub fn bytes_put(&self) -> u64 {
        self.bytes_put
    }

    /// Closes and opens the store when more than `bytes` were put since it was opened, for sled gives written pages
    /// back only then. Takes some hundred milliseconds; not for a request's path. Returns whether it did.
    ///
    /// # Errors
    /// [`Error`]; the store must then be opened anew with [`SledEngine::open_or_set_aside`].
    pub fn reopen_if_over(&mut self, bytes: u64) -> Result<bool, Error> {
        if self.bytes_put <= bytes {
            return Ok(false);
        }
        // What is flushed here need not be flushed by the drop, which could not say that it failed.
        self.flush()?;
        let db = self.db.take();
        let reopened = guard("reopen", || {
            drop(db);
            open_db(&self.sled_dir(), self.config.cache_bytes)
        });
        let db = reopened.inspect_err(|_| self.failed.set(true))?;
        let found = guard("read", || self.stored(&db, &MAIN_ZERO)).inspect_err(|_| self.failed.set(true))?;
        if found.as_deref() != Some(&self.seal.encode()[..]) {
            self.failed.set(true);
            mem::forget(db);
            return Err(self.corrupt("the seal changed while the store was reopened".to_owned()));
        }
        self.db = Some(db);
        self.bytes_put = 0;
        self.synced.run(&self.sled_dir())?;
        Ok(true)
    }

    /// Runs a call into sled; whatever it fails with is the last thing this engine does.
    fn call<T>(&self, what: &'static str, run: impl FnOnce(&Db) -> Result<T, Error>) -> Result<T, Error> {
        let Some(db) = self.db.as_ref().filter(|_| !self.failed.get()) else {
            return Err(Error::Failed);
        };
        guard(what, || run(db)).inspect_err(|error| self.failed.set(!matches!(error, Error::Visitor(_))))
    }

    /// Compares what is there with the seal, and the seal with the manifest.
    fn count(&mut self, promised: &Seal) -> Result<(), Error> {
        let mut counted = Seal::default();
        let mut greatest = Vec::new();
        let seal = self.call("count", |db| {
            let mut seal = None;
            self.each(db, b"", None, &mut |key, value| {
                if key == MAIN_ZERO {
                    seal = Seal::decode(value);
                } else {
                    counted.add(key, value);
                    greatest.clear();
                    greatest.extend_from_slice(key);
                }
                Ok(ControlFlow::Continue(()))
            })?;
            Ok(seal)
        })?;
        let refuse = |reason: String| {
            self.failed.set(true);
            Err(self.corrupt(reason))
        };
        let Some(seal) = seal else { return refuse("there is no seal".to_owned()) };
        counted.batches = seal.batches;
        if counted != seal {
            return refuse(format!("the entries are {counted:?}, the seal says {seal:?}"));
        }
        if seal.batches < promised.batches || (seal.batches == promised.batches && seal != *promised) {
            return refuse(format!("the store is at {seal:?}, the manifest promises {promised:?}"));
        }
        self.seal = seal;
        self.promised = Some(*promised);
        self.greatest = greatest;
        Ok(())
    }

    fn corrupt(&self, reason: String) -> Error {
        Error::Corrupt { path: self.config.dir.clone(), reason }
    }

    fn stored(&self, db: &Db, key: &[u8]) -> Result<Option<sled::InlineArray>, Error> {
        db.get(key).map_err(io("read", &self.config.dir))
    }

    /// Visits sled's entries from a key on, up to another if there is one.
    fn each(&self, db: &Db, from: &[u8], to: Option<&[u8]>, visit: &mut Visitor<'_>) -> Result<(), Error> {
        let entries = match to {
            Some(to) if from >= to => return Ok(()),
            Some(to) => db.range(from..to),
            None => db.range(from..),
        };
        for entry in entries {
            let (key, value) = entry.map_err(io("read", &self.config.dir))?;
            if let ControlFlow::Break(()) = visit(&key, &value)? {
                break;
            }
        }
        Ok(())
    }

    /// The value of an entry.
    fn join<'a>(&self, db: &Db, key: &[u8], entry: &'a [u8]) -> Result<Cow<'a, [u8]>, Error> {
        let pieces = pieces_of(entry).map_err(|reason| self.corrupt(reason))?;
        if pieces == 0 {
            return Ok(entry[1..].into());
        }
        let mut value = Vec::new();
        for number in 0..pieces {
            let piece = self.stored(db, &piece_key(key, number))?;
            let missing = || self.corrupt(format!("piece {number} of a value is missing"));
            value.extend_from_slice(&piece.ok_or_else(missing)?);
        }
        Ok(value.into())
    }

    /// Adds a change of one of sled's entries to a plan, with what is there now.
    fn plan(&self, db: &Db, plan: &mut Plan, key: Vec<u8>, new: Option<Vec<u8>>) -> Result<(), Error> {
        match plan.entry(key) {
            MapEntry::Occupied(mut planned) => planned.get_mut().new = new,
            MapEntry::Vacant(unplanned) => {
                let old = if *unplanned.key() > self.greatest { None } else { self.stored(db, unplanned.key())? };
                unplanned.insert(Change { old, new });
            }
        }
        Ok(())
    }

    /// Writes a plan and the seal that counts its entries, as one.
    fn apply(&mut self, plan: Plan) -> Result<(), Error> {
        let mut seal = self.seal;
        let mut bytes = 0;
        let mut batch = sled::Batch::default();
        for (key, change) in &plan {
            if let Some(old) = &change.old {
                seal.remove(key, old);
            }
            match &change.new {
                Some(new) => {
                    seal.add(key, new);
                    bytes += (key.len() + new.len()) as u64;
                    batch.insert(&key[..], &new[..]);
                }
                None if change.old.is_some() => batch.remove(&key[..]),
                None => {}
            }
        }
        seal.batches += 1;
        batch.insert(&MAIN_ZERO[..], &seal.encode()[..]);
        self.pending.set(true);
        self.call("write", |db| db.apply_batch(batch).map_err(io("write", &self.config.dir)))?;
        self.seal = seal;
        self.bytes_put += bytes;
        let last_put = plan.into_iter().rev().find(|(_, change)| change.new.is_some());
        if let Some((key, _)) = last_put.filter(|(key, _)| *key > self.greatest) {
            self.greatest = key;
        }
        Ok(())
    }

    /// Hands what is pending to the disk, without the manifest.
    fn flush_sled(&self) -> Result<(), Error> {
        self.call("flush", |db| match self.pending.get() {
            true => db.flush().map(drop).map_err(io("flush", &self.config.dir)),
            false => Ok(()),
        })?;
        self.pending.set(false);
        Ok(())
    }
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        if is_reserved(key) {
            return Ok(None);
        }
        self.call("read", |db| {
            let Some(entry) = self.stored(db, key)? else { return Ok(None) };
            self.join(db, key, &entry).map(|value| Some(value.into_owned()))
        })
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visitor<'_>) -> Result<(), Error> {
        // sled flushes at the end of an iteration and keeps the error to itself; so there must be nothing to flush.
        self.flush_sled()?;
        self.call("scan", |db| {
            self.each(db, from, Some(to), &mut |key, entry| {
                if is_reserved(key) {
                    return Ok(ControlFlow::Continue(()));
                }
                visit(key, &self.join(db, key, entry)?)
            })?;
            db.check_error().map_err(io("scan", &self.config.dir))
        })
    }

    fn write(&mut self, batch: &WriteBatch) -> Result<(), Error> {
        let changes = batch.changes();
        changes.iter().for_each(|(key, _)| assert_key(key));
        let plan = self.call("write", |db| {
            let mut plan = Plan::new();
            for (key, value) in changes {
                self.plan(db, &mut plan, key.to_vec(), value.map(entry_of))?;
                let old = plan.get(key).and_then(|change| change.old.as_deref());
                let old_pieces = old.map_or(Ok(0), pieces_of).map_err(|reason| self.corrupt(reason))?;
                for number in 0..old_pieces {
                    self.plan(db, &mut plan, piece_key(key, number), None)?;
                }
                for (piece, number) in value.into_iter().flat_map(pieces).zip(0..) {
                    self.plan(db, &mut plan, piece_key(key, number), Some(piece.to_vec()))?;
                }
            }
            Ok(plan)
        })?;
        self.apply(plan)
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.flush_sled()?;
        if self.promised == Some(self.seal) {
            return Ok(());
        }
        let manifest = Manifest { generation: self.generation, seal: self.seal };
        let written = self.synced.run(&self.sled_dir()).and_then(|()| manifest::write(&self.config.dir, &manifest));
        // After a failed fsync nothing written before it can be trusted.
        written.inspect_err(|_| self.failed.set(true))?;
        self.promised = Some(self.seal);
        Ok(())
    }

    fn relieve(&mut self) -> Result<(), Error> {
        self.reopen_if_over(HELD_BYTES_MAX).map(drop)
    }

    fn size_on_disk(&self) -> Result<u64, Error> {
        bytes_below(&self.config.dir)
    }
}

impl Drop for SledEngine {
    fn drop(&mut self) {
        let Some(db) = self.db.take() else { return };
        if self.failed.get() {
            // Dropping it would flush, and after a failure that waits for ever.
            mem::forget(db);
        } else if let Err(error) = guard("close", || {
            drop(db);
            Ok(())
        }) {
            tracing::warn!(dir = %self.config.dir.display(), %error, "checkpoint store did not close");
        }
    }
}

fn sled_dir(config: &SledConfig, generation: u32) -> PathBuf {
    config.dir.join(format!("{SLED_DIR}-{generation}"))
}

fn open_db(sled_dir: &Path, cache_bytes: usize) -> Result<Db, Error> {
    let options = sled::Config::new()
        .path(sled_dir)
        .flush_every_ms(None)
        .cache_capacity_bytes(cache_bytes)
        .zstd_compression_level(ZSTD_LEVEL);
    let mut tries = 1;
    loop {
        match options.open() {
            Err(error) if error.kind() == ErrorKind::WouldBlock && tries < LOCK_TRIES => {
                tries += 1;
                thread::sleep(LOCK_PAUSE);
            }
            other => return other.map_err(io("open", sled_dir)),
        }
    }
}

/// Turns a panic into an error, as the library below panics on what it does not expect.
fn guard<T>(what: &'static str, run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let panicked = |payload: Box<dyn Any + Send>| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        Error::Panicked { what, message }
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| Err(panicked(payload)))
}

fn piece_key(key: &[u8], number: u32) -> Vec<u8> {
    [&RESERVED[..], b"c", key, &number.to_be_bytes()].concat()
}

/// The entry of a value: the value, or how long it is in pieces.
fn entry_of(value: &[u8]) -> Vec<u8> {
    let mut entry = Vec::with_capacity(1 + value.len().min(PIECE_BYTES));
    if value.len() <= PIECE_BYTES {
        entry.push(WHOLE);
        entry.extend_from_slice(value);
    } else {
        entry.push(PIECES);
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    }
    entry
}

/// The pieces of a value; none of one that is kept whole.
fn pieces(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.chunks(PIECE_BYTES).filter(|_| value.len() > PIECE_BYTES)
}

/// How many pieces an entry's value has.
fn pieces_of(entry: &[u8]) -> Result<u32, String> {
    let bytes = match entry {
        [WHOLE, ..] => return Ok(0),
        [PIECES, bytes @ ..] => <[u8; 8]>::try_from(bytes).ok().map(u64::from_le_bytes),
        _ => None,
    };
    let pieces = bytes.and_then(|bytes| u32::try_from(bytes.div_ceil(PIECE_BYTES as u64)).ok());
    pieces.ok_or_else(|| "an entry that is neither whole nor in pieces".to_owned())
}

/// Whether there is no store yet: no directory, or an empty one.
fn is_absent(dir: &Path) -> Result<bool, Error> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(source) => Err(Error::Io { what: "list", path: dir.to_owned(), source }),
    }
}

/// The greatest generation that has files in the directory; 0 when none has.
fn last_generation(dir: &Path) -> Result<u32, Error> {
    let mut last = 0;
    for entry in fs::read_dir(dir).map_err(io("list", dir))? {
        let name = entry.map_err(io("list", dir))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(SLED_DIR)?.strip_prefix('-')?.parse().ok());
        last = last.max(number.unwrap_or(0));
    }
    Ok(last)
}

/// A store whose process died between writing the metadata snapshot and making the next log has a snapshot and no log.
/// sled then writes the snapshot again, under the same name, and deletes it as the old one. An empty log prevents it.
fn mend_metadata(sled_dir: &Path) -> Result<(), Error> {
    let dir = sled_dir.join("metadata");
    let (mut snapshot, mut log) = (None, None);
    for entry in fs::read_dir(&dir).map_err(io("list", &dir))? {
        let name = entry.map_err(io("list", &dir))?.file_name();
        let number = |prefix: &str| {
            let hex = name.to_str()?.strip_prefix(prefix)?;
            u64::from_str_radix(hex, 16).ok()
        };
        snapshot = snapshot.max(number("snapshot_"));
        log = log.max(number("log_"));
    }
    if let Some(number) = snapshot.filter(|_| log <= snapshot) {
        let path = dir.join(format!("log_{:016x}", number + 1));
        fs::File::create(&path).map_err(io("create", &path))?;
        sync_dir(&dir)?;
    }
    Ok(())
}

/// Whether an error says nothing about the store's bytes.
fn is_machines_fault(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => matches!(
            source.kind(),
            ErrorKind::PermissionDenied
                | ErrorKind::WouldBlock
                | ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::OutOfMemory
        ),
        Error::Corrupt { .. } | Error::Panicked { .. } | Error::Deadline { .. } | Error::Failed | Error::Visitor(_) => {
            false
        }
    }
}

/// Renames the directory to the first free `<dir>.bad-<n>`; also returns the next store's generation.
fn set_aside(dir: &Path) -> Result<(PathBuf, u32), Error> {
    let generation = last_generation(dir)? + 1;
    for number in 1..=SET_ASIDE_MAX {
        let mut name = dir.as_os_str().to_owned();
        name.push(format!(".bad-{number}"));
        let target = PathBuf::from(name);
        if !target.try_exists().map_err(io("stat", &target))? {
            fs::rename(dir, &target).map_err(io("rename", dir))?;
            if let Some(parent) = target.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                sync_dir(parent)?;
            }
            return Ok((target, generation));
        }
    }
    let reason = format!("{SET_ASIDE_MAX} stores were set aside beside it");
    Err(Error::Corrupt { path: dir.to_owned(), reason })
}
