//! A member's directory: who may open it, what stands where, which format it has.
//!
//! ```text
//! <data-dir>/lock            locked by the process that uses the directory; holds its pid, for people
//! <data-dir>/version         format number and a line end; written last when a member is made
//! <data-dir>/member/identity the ids of member and cluster, which are fixed when the member is made
//! <data-dir>/member/log/     the Raft log, unless it has a directory of its own (--wal-dir, locked likewise)
//! <data-dir>/member/state/   the checkpoint behind it
//! ```
//!
//! The server opens it first and keeps it until everything in it is closed. What the log and the state write into
//! their directories is not known here.

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::fs::{self, Disk, Kind, Lock, Open};

/// Version of the whole directory's layout.
pub const FORMAT: u32 = 1;

const VERSION_FILE: &str = "version";
const LOCK_FILE: &str = "lock";
/// How often a lock that is this process's own is tried, and how far apart.
const OWN_LOCK_TRIES: u32 = 40;
const OWN_LOCK_PAUSE: Duration = Duration::from_millis(50);
const IDENTITY_FILE: &str = "member/identity";
/// What an etcd member has and ours never.
const ETCD_PATHS: [&str; 2] = ["member/snap/db", "member/wal"];

/// Why a directory cannot be used. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path names something else.
    #[error("{} is not a directory: choose another --data-dir", .0.display())]
    NotADirectory(PathBuf),
    /// No permission, or a file system mounted read-only.
    #[error(
        "{} cannot be written ({source}): check its owner and permissions, and that its file system is not mounted \
         read-only",
        .dir.display()
    )]
    NotWritable {
        /// The directory.
        dir: PathBuf,
        /// The disk's answer.
        source: io::Error,
    },
    /// Another process has it open.
    #[error(
        "{} is in use by another process{}: stop that one, or choose another directory",
        .dir.display(), .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Of the other process, if it said so.
        pid: Option<u32>,
    },
    /// An etcd member lives there.
    #[error(
        "{dir} is an etcd data directory, which kelson does not open. To move its data: \
         `etcdctl snapshot save FILE` while etcd runs (or take {dir}/member/snap/db when it is stopped), then \
         `kelson snapshot restore FILE --data-dir NEW_DIRECTORY`",
        dir = .0.display()
    )]
    Etcd(PathBuf),
    /// A later version wrote it.
    #[error(
        "{} has format {found}, this version reads up to {FORMAT}: start the version that wrote it, or save a \
         snapshot with that one and restore it with `kelson snapshot restore`",
        .dir.display()
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The version file holds no number.
    #[error(
        "{} does not hold a format number: if the rest of the directory is intact, write \"{FORMAT}\" into it; else \
         restore a snapshot into a new directory",
        .0.display()
    )]
    BadVersion(PathBuf),
    /// The member exists, its log does not.
    #[error(
        "{data_dir} has a member whose log should be in {log_dir}, where there is no directory: check --wal-dir, or \
         that its file system is mounted",
        data_dir = .data_dir.display(), log_dir = .log_dir.display()
    )]
    NoLog {
        /// The member's directory.
        data_dir: PathBuf,
        /// Where the log was looked for.
        log_dir: PathBuf,
    },
    /// The disk refused otherwise.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The disk's answer.
        source: io::Error,
    },
}

/// An opened and locked directory; dropping it gives the lock back.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    log: PathBuf,
    is_new: bool,
    /// Of the directory, and of the log's if that is elsewhere.
    _locks: Vec<Box<dyn Lock>>,
}

impl DataDir {
    /// Opens `data_dir`, making what is absent; the log is in `wal_dir` if given. Everything made is durable.
    pub fn open(disk: Arc<dyn Disk>, data_dir: &Path, wal_dir: Option<&Path>) -> Result<Self, Error> {
        refuse_etcd(&*disk, data_dir)?;
        create(&*disk, data_dir)?;
        let mut locks = vec![lock(&*disk, data_dir)?];
        let is_new = read_version(&*disk, data_dir)?.is_none();
        let member = data_dir.join("member");
        let log = wal_dir.map_or_else(|| member.join("log"), Path::to_owned);
        if !is_new && kind(&*disk, &log)? != Some(Kind::Dir) {
            return Err(Error::NoLog { data_dir: data_dir.to_owned(), log_dir: log });
        }
        create(&*disk, &log)?;
        if wal_dir.is_some() {
            create(&*disk, &member)?;
            locks.push(lock(&*disk, &log)?);
        }
        create(&*disk, &member.join("state"))?;
        // A process killed while it made them has left names that are there, but not durable.
        for parent in [data_dir, &member] {
            disk.sync_dir(parent).map_err(at("sync", parent))?;
        }
        Ok(Self { disk, root: data_dir.to_owned(), log, is_new, _locks: locks })
    }

    /// Whether no member was ever sealed here: only then may the log be started anew
    /// ([`super::log::LogOptions::must_exist`]).
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Says that the member's log and state are made and durable; from then on their absence is a loss. Call it on a
    /// new directory once both are open.
    pub fn seal(&mut self) -> Result<(), Error> {
        if self.is_new {
            let path = self.root.join(VERSION_FILE);
            fs::replace(&*self.disk, &path, format!("{FORMAT}\n").as_bytes()).map_err(at("write", &path))?;
            self.is_new = false;
        }
        Ok(())
    }

    /// What [`DataDir::set_identity`] wrote; `None` in a directory of a version that did not, or before.
    pub fn identity(&self) -> Result<Option<Vec<u8>>, Error> {
        let path = self.root.join(IDENTITY_FILE);
        if kind(&*self.disk, &path)?.is_none() {
            return Ok(None);
        }
        fs::read(&*self.disk, &path).map(Some).map_err(at("read", &path))
    }

    /// Writes down who the member is, durably; its meaning is not known here.
    pub fn set_identity(&self, identity: &[u8]) -> Result<(), Error> {
        let path = self.root.join(IDENTITY_FILE);
        fs::replace(&*self.disk, &path, identity).map_err(at("write", &path))
    }

    /// The directory itself, as given.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the Raft log is.
    pub fn log_dir(&self) -> &Path {
        &self.log
    }

    /// Where the checkpoint and the member's own snapshot are.
    pub fn state_dir(&self) -> PathBuf {
        self.root.join("member/state")
    }

    /// Where the member's own snapshot is.
    pub fn snapshot_dir(&self) -> PathBuf {
        self.state_dir().join("snapshot")
    }

    /// The disk it is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }
}

fn at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::NotWritable { dir: path.to_owned(), source }
        }
        io::ErrorKind::NotADirectory => Error::NotADirectory(path.to_owned()),
        _ => Error::Io { what, path: path.to_owned(), source },
    }
}

fn kind(disk: &dyn Disk, path: &Path) -> Result<Option<Kind>, Error> {
    disk.kind(path).map_err(at("open", path))
}

fn refuse_etcd(disk: &dyn Disk, data_dir: &Path) -> Result<(), Error> {
    for inside in ETCD_PATHS {
        if kind(disk, &data_dir.join(inside)).is_ok_and(|kind| kind.is_some()) {
            return Err(Error::Etcd(data_dir.to_owned()));
        }
    }
    Ok(())
}

fn create(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    match kind(disk, dir)? {
        Some(Kind::File) => Err(Error::NotADirectory(dir.to_owned())),
        Some(Kind::Dir) => Ok(()),
        None => disk.create_dir_all(dir).map_err(at("create", dir)),
    }
}

/// Locks a directory and leaves the pid there. A lock file without a living process behind it does not count. One that
/// this process itself has let go may be held a moment longer: a child that it just forked for another program has a
/// copy of every open file until that program runs.
fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Lock>, Error> {
    let path = dir.join(LOCK_FILE);
    let mut tries = 1;
    let lock = loop {
        if let Some(lock) = disk.lock(&path).map_err(at("lock", dir))? {
            break lock;
        }
        let pid = fs::read(disk, &path).ok().and_then(|bytes| std::str::from_utf8(&bytes).ok()?.trim().parse().ok());
        if pid != Some(std::process::id()) || tries == OWN_LOCK_TRIES {
            return Err(Error::InUse { dir: dir.to_owned(), pid });
        }
        tries += 1;
        std::thread::sleep(OWN_LOCK_PAUSE);
    };
    let file = disk.open(&path, Open::Write).map_err(at("open", &path))?;
    let pid = format!("{}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_at(0, pid.as_bytes())).map_err(at("write", &path))?;
    Ok(lock)
}

fn read_version(disk: &dyn Disk, dir: &Path) -> Result<Option<u32>, Error> {
    let path = dir.join(VERSION_FILE);
    if kind(disk, &path)?.is_none() {
        return Ok(None);
    }
    let bytes = fs::read(disk, &path).map_err(at("read", &path))?;
    let found = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
    match found {
        Some(found) if found > FORMAT => Err(Error::Newer { dir: dir.to_owned(), found }),
        Some(found) if found > 0 => Ok(Some(found)),
        _ => Err(Error::BadVersion(path)),
    }
}
