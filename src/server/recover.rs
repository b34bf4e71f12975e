//! What a member finds on its disk at its start: log, checkpoint, snapshot file, and how they fit together.
//!
//! The checkpoint is preferred, being the newest; if it will not open or does not fit the log it is set aside and the
//! snapshot file takes its place; what neither holds is replayed from the log. The log is never thrown away.
//!
//! A member that was sent a snapshot, and ended before its checkpoint had followed, finds a file that is ahead of both
//! checkpoint and log, or a log that begins where the file ends. Nothing is damaged then: the file is taken, the
//! checkpoint is brought up to it, and openraft purges what is left of the old log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::{Error, identify};
use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::raft::apply::Mark;
use crate::raft::checkpoint::{self, Checkpoint, Loaded, Reopen};
use crate::raft::log_store::LogStore;
use crate::raft::snapshot::Snapshots;
use crate::state::Store;
use crate::storage::data_dir::DataDir;
use crate::storage::engine::Engine;
use crate::storage::fs::{Disk, RealDisk, SimDisk};
use crate::storage::log::{Log, LogOptions, Recovered};
use crate::storage::sled::{SledConfig, SledEngine};

/// Pages of the checkpoint that are kept in memory when read.
const CHECKPOINT_CACHE_BYTES: usize = 32 << 20;
/// The checkpoint must open, load and pass its checks within this, else it is rebuilt.
const CHECKPOINT_DEADLINE: Duration = Duration::from_secs(300);

/// Everything a node starts with.
pub struct Opened {
    /// Held until the member has ended; `None` in memory.
    pub data_dir: Option<DataDir>,
    /// The Raft log.
    pub log: Arc<Log>,
    /// What it holds.
    pub recovered: Recovered,
    /// The state at `mark`.
    pub store: Arc<Store>,
    /// How far the log is applied to it.
    pub mark: Mark,
    /// The checkpoint, not yet running.
    pub checkpoint: Checkpoint,
    /// The snapshot files.
    pub snapshots: Snapshots,
}

/// The disk of a member in memory, for tests that end the member and start it again; clones are the same disk.
#[derive(Clone)]
pub struct MemoryDisk {
    /// Holds the log, and can lose power.
    pub log: SimDisk,
    /// A directory for the snapshot files, which are files whatever holds the log.
    pub snapshots: PathBuf,
}

/// Opens a member's files; blocks for as long as that takes. `memory` is the disk of a member without a data directory;
/// if there is none, it has a new one that ends with it.
///
/// # Errors
/// [`Error`] naming the file and the way out.
pub fn open(
    config: &Config,
    memory: Option<&MemoryDisk>,
    metrics: &Arc<Metrics>,
    clock: &Clock,
) -> Result<Opened, Error> {
    match &config.data_dir {
        Some(dir) => {
            let opened = open_dir(config, dir, metrics, clock)?;
            if !config.force_new_cluster || !identify::make_alone(config, &opened)? {
                return Ok(opened);
            }
            drop(opened);
            open_dir(config, dir, metrics, clock)
        }
        None => open_memory(config, memory, metrics, clock),
    }
}

fn log_options(config: &Config, metrics: &Arc<Metrics>, clock: &Clock) -> LogOptions {
    let metrics = metrics.clone();
    let base =
        if config.data_dir.is_some() { LogOptions::new(clock.clone()) } else { LogOptions::in_memory(clock.clone()) };
    LogOptions {
        unsafe_no_fsync: config.unsafe_no_fsync,
        observe_fsync: Some(Arc::new(move |took: Duration| {
            metrics.disk.wal_fsync_seconds.observe(took.as_secs_f64());
        })),
        ..base
    }
}

fn open_memory(
    config: &Config,
    memory: Option<&MemoryDisk>,
    metrics: &Arc<Metrics>,
    clock: &Clock,
) -> Result<Opened, Error> {
    let disk: Arc<dyn Disk> = Arc::new(memory.map_or_else(SimDisk::new, |memory| memory.log.clone()));
    let log_dir = Path::new("/log");
    disk.create_dir_all(log_dir)?;
    let (log, recovered) = Log::open(disk, log_dir, log_options(config, metrics, clock))?;
    let log = Arc::new(log);
    let (snapshots, loaded) = match memory {
        Some(memory) => {
            let snapshots = Snapshots::open(Arc::new(RealDisk), memory.snapshots.clone())?;
            let loaded = from_snapshot(&snapshots, Span::of(&log, &recovered)?)?;
            (snapshots, loaded)
        }
        None => (Snapshots::memory_only(), None),
    };
    let Loaded { store, mark } = loaded.unwrap_or_else(|| Loaded { store: Store::new(), mark: Mark::default() });
    let store = Arc::new(store);
    let checkpoint = Checkpoint::memory_only(&store, clock.clone());
    Ok(Opened { data_dir: None, log, recovered, store, mark, checkpoint, snapshots })
}

fn open_dir(config: &Config, dir: &Path, metrics: &Arc<Metrics>, clock: &Clock) -> Result<Opened, Error> {
    let mut data_dir = DataDir::open(Arc::new(RealDisk), dir, config.wal_dir.as_deref())?;
    let checkpoint_dir = data_dir.state_dir().join("checkpoint");
    let reopen_dir = checkpoint_dir.clone();
    let reopen = Box::new(move || {
        let engine = SledEngine::open(sled_config(&reopen_dir))?;
        Ok(Box::new(engine) as Box<dyn Engine>)
    });
    let options = log_options(config, metrics, clock);
    let opened = open_on(Arc::new(RealDisk), &mut data_dir, options, metrics, reopen, |span, snapshot_index| {
        open_checkpoint(&checkpoint_dir, span, snapshot_index)
    })?;
    Ok(Opened { data_dir: Some(data_dir), ..opened })
}

/// Opens a data directory on any disk, with any engine behind its checkpoint.
fn open_on(
    disk: Arc<dyn Disk>,
    data_dir: &mut DataDir,
    options: LogOptions,
    metrics: &Arc<Metrics>,
    reopen: Reopen,
    open_checkpoint: impl FnOnce(Span, u64) -> Result<(Option<OpenedEngine>, Option<Loaded>), Error>,
) -> Result<Opened, Error> {
    let clock = options.clock.clone();
    let options = LogOptions { must_exist: !data_dir.is_new(), ..options };
    let (log, recovered) = Log::open(disk.clone(), data_dir.log_dir(), options)?;
    let log = Arc::new(log);
    let span = Span::of(&log, &recovered)?;
    let snapshots = Snapshots::open(disk, data_dir.snapshot_dir())?;
    let snapshot_index = snapshots.newest_mark()?.and_then(|mark| mark.log_id).map_or(0, |id| id.index);
    let (engine, loaded) = open_checkpoint(span, snapshot_index)?;
    let loaded = match loaded {
        Some(loaded) => {
            snapshots.recall(&loaded.mark)?;
            Some(loaded)
        }
        None => from_snapshot(&snapshots, span)?,
    };
    data_dir.seal()?;
    let fresh = engine.as_ref().is_none_or(|(_, fresh)| *fresh);
    let Loaded { store, mark } = loaded.unwrap_or_else(|| Loaded { store: Store::new(), mark: Mark::default() });
    if span.purged > mark.log_id.map_or(0, |id| id.index) {
        return Err(Error::Recovery(format!(
            "the log in {} begins behind entry {}, but neither checkpoint nor snapshot reaches that far; restore this \
             member from a backup, or remove it from the cluster and add it anew",
            data_dir.log_dir().display(),
            span.purged
        )));
    }
    tracing::info!(
        revision = store.revision(),
        applied_index = mark.log_id.map_or(0, |id| id.index),
        last_index = span.last,
        "state recovered"
    );
    let store = Arc::new(store);
    let flush_metrics = metrics.clone();
    let checkpoint = Checkpoint::new(
        engine.map(|(engine, _)| engine),
        reopen,
        if fresh { None } else { Some(&mark) },
        &store,
        clock,
        Box::new(move |took| flush_metrics.disk.backend_commit_seconds.observe(took.as_secs_f64())),
    );
    Ok(Opened { data_dir: None, log, recovered, store, mark, checkpoint, snapshots })
}

/// Opens a member of a simulation, whose log and snapshots are on `disk` and whose checkpoint is `engine`, which outlives
/// the member; the same way otherwise.
///
/// # Errors
/// [`Error`]
#[cfg(feature = "simulation")]
pub fn open_simulated(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: LogOptions,
    metrics: &Arc<Metrics>,
    mut engine: impl FnMut() -> Box<dyn Engine> + Send + 'static,
) -> Result<Opened, Error> {
    let mut data_dir = DataDir::open(disk.clone(), dir, None)?;
    let first = engine();
    let reopen = Box::new(move || Ok(engine()));
    let opened = open_on(disk.clone(), &mut data_dir, options, metrics, reopen, |span, snapshot_index| {
        let loaded = load_checkpoint(&*first, span, snapshot_index).map_err(Error::Recovery)?;
        let fresh = loaded.is_none();
        Ok((Some((first, fresh)), loaded))
    })?;
    Ok(Opened { data_dir: Some(data_dir), ..opened })
}

/// The entries that the log speaks of.
#[derive(Clone, Copy)]
struct Span {
    purged: u64,
    last: u64,
}

impl Span {
    fn of(log: &Arc<Log>, recovered: &Recovered) -> Result<Self, Error> {
        // Only for its reading of the marks; the node makes its own.
        let marks = LogStore::new(log.clone(), recovered).map_err(|error| Error::Recovery(error.to_string()))?;
        Ok(Self { purged: marks.purged().map_or(0, |id| id.index), last: marks.last_index() })
    }

    /// Whether a state at `mark` can be continued with this log.
    ///
    /// A member alone applies what its log holds durably, so a log that ends before is not the one it had. One of
    /// several may have applied what only the others held yet, or what came in a snapshot; it goes on behind that.
    fn fits(self, mark: &Mark) -> Result<(), String> {
        let applied = mark.log_id.map_or(0, |id| id.index);
        if applied < self.purged {
            return Err(format!("it ends at entry {applied}, the log begins behind entry {}", self.purged));
        }
        let is_alone = mark.membership.membership().nodes().nth(1).is_none();
        if applied > self.last && is_alone {
            return Err(format!("it has applied entry {applied}, the log ends at entry {}", self.last));
        }
        Ok(())
    }

    /// Whether a snapshot that ends at entry `snapshot` was installed over a state at `mark`: it is ahead, and the log
    /// does not lead from one to the other. If it does, the snapshot is this member's own, and replaying is enough.
    fn is_superseded(self, mark: &Mark, snapshot: u64) -> bool {
        let applied = mark.log_id.map_or(0, |id| id.index);
        snapshot > applied && (applied < self.purged || self.last < snapshot)
    }
}

type OpenedEngine = (Box<dyn Engine>, bool);

fn open_checkpoint(
    dir: &Path,
    span: Span,
    snapshot_index: u64,
) -> Result<(Option<OpenedEngine>, Option<Loaded>), Error> {
    if !dir.exists() {
        // Made by the checkpoint thread: nothing need wait for it.
        return Ok((None, None));
    }
    let (sender, loaded) = sync_channel(1);
    let (engine, aside) = SledEngine::open_or_set_aside(sled_config(dir), move |engine| {
        let loaded = load_checkpoint(engine, span, snapshot_index)?;
        sender.send(loaded).map_err(|error| error.to_string())
    })?;
    let loaded = if aside.is_none() { loaded.recv().ok().flatten() } else { None };
    let fresh = loaded.is_none();
    Ok((Some((Box::new(engine), fresh)), loaded))
}

/// The state in an engine, if it can be continued with the log and no snapshot was installed over it.
fn load_checkpoint(engine: &dyn Engine, span: Span, snapshot_index: u64) -> Result<Option<Loaded>, String> {
    let mut loaded = checkpoint::load(engine).map_err(|error| error.to_string())?;
    if let Some(behind) = loaded.take_if(|loaded| span.is_superseded(&loaded.mark, snapshot_index)) {
        let index = behind.mark.log_id.map_or(0, |id| id.index);
        tracing::info!(index, snapshot_index, "the checkpoint had not followed the snapshot that was installed");
    }
    if let Some(loaded) = &loaded {
        span.fits(&loaded.mark)?;
    }
    Ok(loaded)
}

fn sled_config(dir: &Path) -> SledConfig {
    SledConfig { dir: PathBuf::from(dir), cache_bytes: CHECKPOINT_CACHE_BYTES, open_deadline: CHECKPOINT_DEADLINE }
}

fn from_snapshot(snapshots: &Snapshots, span: Span) -> Result<Option<Loaded>, Error> {
    let Some(loaded) = snapshots.load()? else { return Ok(None) };
    span.fits(&loaded.mark)
        .map_err(|reason| Error::Recovery(format!("the snapshot file does not fit the log: {reason}")))?;
    Ok(Some(loaded))
}

#[cfg(test)]
mod tests;
