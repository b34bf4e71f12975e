//! Makes a member's data directory from a snapshot file, etcd's or ours. The program's `snapshot restore` calls it; a
//! member is then started on the directory as on any other.
//!
//! Only what etcd knows is read, also from files that kelson wrote: etcd carries our bucket along without keeping it
//! up to date, so that after a detour through etcd it would speak of the past.
//!
//! The log is made first and the version file last, so that a directory left by a killed restore is never taken for
//! that of a new member: its log begins behind a state that is not there, and the start says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::identify;
use crate::clock::Clock;
use crate::config::Config;
use crate::proto::Record;
use crate::raft::apply::Mark;
use crate::raft::log_store;
use crate::raft::snapshot::{Image, Snapshots};
use crate::raft::types::{LogId, MemberInfo, Membership, StoredMembership, log_id};
use crate::state::meta::{FORMAT, LeaseMeta, Meta, REVISION_MAX, RestoreError};
use crate::state::{Revision, Store};
use crate::storage::data_dir::{self, DataDir};
use crate::storage::engine::RevisionKey;
use crate::storage::etcd_file::{self, Bucket, SnapshotReader};
use crate::storage::fs::{Disk, Kind, RealDisk};
use crate::storage::log::{self, INDEX_MAX, Log, LogOptions};

/// The file to restore from, and how.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// A snapshot, or with `skip_hash_check` also a bare `member/snap/db` of etcd.
    pub file: PathBuf,
    /// Whether the hash behind the image is left alone, or may be absent.
    pub skip_hash_check: bool,
    /// Revisions added to the newest one, where the compaction mark is then set, so that no client finds a revision that
    /// it saw before the restore; 0 leaves both as they are.
    pub bump_revision: u64,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The directory made.
    pub data_dir: PathBuf,
    /// Newest revision.
    pub revision: i64,
    /// Compaction mark; 0 = never compacted.
    pub compact_revision: i64,
    /// Keys that exist.
    pub keys: i64,
    /// Leases, whose time begins anew.
    pub leases: usize,
    /// Raised alarms.
    pub alarms: usize,
    /// Users and roles in the file that were left out, authentication being off there.
    pub users_and_roles_left_out: usize,
}

/// Why nothing was restored. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read, or is not as it was written.
    #[error("{0}; nothing was restored: take another snapshot, or another copy of this one")]
    File(#[from] etcd_file::Error),
    /// There is no hash to check.
    #[error(
        "{} has no hash behind it, so it was cut short, or is a copy of an etcd member's db file: for a copy of \
         member/snap/db, made while etcd was stopped, add --skip-hash-check; else take another snapshot",
        .0.display()
    )]
    NoHash(PathBuf),
    /// The records contradict each other.
    #[error("{}: {reason}; nothing was restored: take another snapshot", .file.display())]
    Records {
        /// The file.
        file: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Authentication is on in the file.
    #[error(
        "authentication is enabled in {}, and this release has none: restored here, everything would be open to \
         everybody. If that is what you want, run `etcdctl auth disable` on the old cluster and save another snapshot",
        .0.display()
    )]
    AuthEnabled(PathBuf),
    /// The revision cannot be raised so far.
    #[error("--bump-revision {bump} leads from revision {revision} beyond the largest there is: give a smaller number")]
    Bump {
        /// As asked for.
        bump: u64,
        /// The newest in the file.
        revision: i64,
    },
    /// There is something already.
    #[error("{} is not empty: choose a new {flag}, or move away what is there", .dir.display())]
    NotEmpty {
        /// Which flag named it.
        flag: &'static str,
        /// The directory.
        dir: PathBuf,
    },
    /// The configuration keeps nothing on disk, or does not name its own member.
    #[error("{0}")]
    Config(String),
    /// The directory cannot be made.
    #[error(transparent)]
    DataDir(#[from] data_dir::Error),
    /// Making it failed midway.
    #[error("{} could not be filled ({reason}): remove it before you try again", .dir.display())]
    Incomplete {
        /// The directory.
        dir: PathBuf,
        /// The disk's answer.
        reason: String,
    },
}

/// Makes `config.data_dir` from a snapshot for the member that `config` describes; blocks. Everything is durable on
/// return. Of `config` only the directories, the name and the `initial_*` fields count.
///
/// # Errors
/// [`Error`]; nothing was made, unless it is [`Error::Incomplete`].
pub fn restore(config: &Config, source: &Source) -> Result<Restored, Error> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let Some(data_dir) = &config.data_dir else {
        return Err(Error::Config("a member in memory has no directory to restore into".to_owned()));
    };
    refuse_occupied(&*disk, "--data-dir", data_dir)?;
    if let Some(wal_dir) = &config.wal_dir {
        refuse_occupied(&*disk, "--wal-dir", wal_dir)?;
    }
    let file = open(source)?;
    let users_and_roles_left_out = refuse_auth(&file, &source.file)?;
    let (store, applied) = read(&file, source)?;
    let mark = Mark { log_id: Some(applied), membership: membership(config, applied)?, ..Mark::default() };
    let meta = store.meta();
    let restored = Restored {
        data_dir: data_dir.clone(),
        revision: store.revision(),
        compact_revision: store.compact_revision(),
        // From the first key that has a byte: the record that marks a raised revision is no key of anybody.
        keys: store.view().count(&[0], &[0]),
        leases: meta.leases.len(),
        alarms: meta.alarms.len(),
        users_and_roles_left_out,
    };
    let dir = DataDir::open(disk.clone(), data_dir, config.wal_dir.as_deref())?;
    let image = Image { mark, meta, view: store.view() };
    let incomplete = |reason: String| Error::Incomplete { dir: data_dir.clone(), reason };
    identify::keep(&dir, config.member_id(), config.cluster_id()).map_err(|error| incomplete(error.to_string()))?;
    fill(dir, disk, config.member_id(), applied, &image).map_err(incomplete)?;
    Ok(restored)
}

fn refuse_occupied(disk: &dyn Disk, flag: &'static str, dir: &Path) -> Result<(), Error> {
    let at = |source| data_dir::Error::Io { what: "read", path: dir.to_owned(), source };
    match disk.kind(dir).map_err(at)? {
        None => Ok(()),
        Some(Kind::File) => Err(data_dir::Error::NotADirectory(dir.to_owned()).into()),
        Some(Kind::Dir) if disk.read_dir(dir).map_err(at)?.is_empty() => Ok(()),
        Some(Kind::Dir) => Err(Error::NotEmpty { flag, dir: dir.to_owned() }),
    }
}

fn open(source: &Source) -> Result<SnapshotReader, Error> {
    let file = SnapshotReader::open(&source.file)?;
    if !source.skip_hash_check {
        if !file.has_hash() {
            return Err(Error::NoHash(source.file.clone()));
        }
        file.verify_hash()?;
    }
    Ok(file)
}

/// Refuses a file whose data only some may read; returns how many users and roles stay behind.
fn refuse_auth(file: &SnapshotReader, path: &Path) -> Result<usize, Error> {
    let mut people = 0;
    for bucket in [Bucket::Auth, Bucket::AuthUsers, Bucket::AuthRoles] {
        let Some(mut entries) = file.bucket(bucket)? else { continue };
        while let Some((key, value)) = entries.advance()? {
            match bucket {
                Bucket::Auth if key == b"authEnabled" && value != [0] => {
                    return Err(Error::AuthEnabled(path.to_owned()));
                }
                Bucket::Auth => {}
                _ => people += 1,
            }
        }
    }
    Ok(people)
}

/// The state in the file, and the log entry that it is said to end with.
fn read(file: &SnapshotReader, source: &Source) -> Result<(Store, LogId), Error> {
    let found = file.meta()?;
    let compact_revision = [found.scheduled_compact, found.finished_compact];
    let compact_revision = compact_revision.into_iter().flatten().map(|revision| revision.main).max().unwrap_or(0);
    // When everything was removed and compacted, the mark alone knows how far the revisions had come.
    let newest = last_revision(file, &source.file)?.max(compact_revision).max(1);
    let bump = source.bump_revision;
    let revision = i64::try_from(bump)
        .ok()
        .and_then(|more| newest.checked_add(more))
        .filter(|&revision| revision <= REVISION_MAX)
        .ok_or(Error::Bump { bump, revision: newest })?;
    let leases = file.leases()?.into_iter();
    let meta = Meta {
        format: FORMAT,
        revision,
        compact_revision: if bump > 0 { revision } else { compact_revision },
        leases: leases
            .map(|lease| LeaseMeta { id: lease.id, ttl: lease.ttl, remaining_ttl: lease.remaining_ttl })
            .collect(),
        alarms: file.alarms()?,
        // They were members of another cluster.
        members: Vec::new(),
    };
    // etcd marks the raised revision with a record without a key; the hash of the state covers it, so ours must have it.
    let empty = Record::from_bytes(&[]).expect("a KeyValue with only defaults has no bytes");
    let bumped = (bump > 0).then_some(Ok((Revision { main: revision, sub: 0 }, false, empty)));
    let records = file
        .records()?
        .map(|record| record.map(|(key, record)| (Revision { main: key.main, sub: key.sub }, key.tombstone, record)));
    let store = Store::restore(meta, records.chain(bumped)).map_err(|error| match error {
        RestoreError::Source(error) => Error::File(error),
        RestoreError::Order { .. } | RestoreError::Revision(_) => {
            Error::Records { file: source.file.clone(), reason: error.to_string() }
        }
    })?;
    if found.term.max(found.consistent_index) > INDEX_MAX {
        let reason = format!("entry {} of term {}, which no log comes to", found.consistent_index, found.term);
        return Err(Error::Records { file: source.file.clone(), reason });
    }
    // Entry and term go on from those of the file: whoever watches them sees no step back.
    Ok((store, log_id(found.term.max(1), found.consistent_index.max(1))))
}

/// The largest revision of a record; 0 without any.
fn last_revision(file: &SnapshotReader, path: &Path) -> Result<i64, Error> {
    let mut last = 0;
    let Some(mut records) = file.bucket(Bucket::Key)? else { return Ok(last) };
    while let Some((key, _)) = records.advance()? {
        // The state counts the changes of one command in 32 bits.
        let Some(revision) = RevisionKey::decode(key).filter(|revision| u32::try_from(revision.sub).is_ok()) else {
            let reason = format!("{} is no revision", key.escape_ascii());
            return Err(Error::Records { file: path.to_owned(), reason });
        };
        last = revision.main;
    }
    Ok(last)
}

/// The members that `config` names, as if they had become so with the last entry.
fn membership(config: &Config, applied: LogId) -> Result<StoredMembership, Error> {
    let members: BTreeMap<u64, MemberInfo> = super::identify::initial_members(config);
    if !members.contains_key(&config.member_id()) {
        return Err(Error::Config(format!("--initial-cluster does not name this member, \"{}\"", config.name)));
    }
    let voters: BTreeSet<u64> = members.keys().copied().collect();
    let membership = Membership::new(vec![voters], members).map_err(|error| Error::Config(error.to_string()))?;
    Ok(StoredMembership::new(Some(applied), membership))
}

fn fill(mut dir: DataDir, disk: Arc<dyn Disk>, member_id: u64, applied: LogId, image: &Image) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let (log, _) = open_log(&dir, disk.clone()).map_err(|error| text(&error))?;
    log_store::begin_behind(&log, member_id, applied).map_err(|error: io::Error| text(&error))?;
    // The log's thread ends before the directory is said to be whole.
    drop(log);
    let snapshots = Snapshots::open(disk, dir.snapshot_dir()).map_err(|error| text(&error))?;
    snapshots.save(image).map_err(|error| text(&error))?;
    dir.seal().map_err(|error| text(&error))
}

fn open_log(dir: &DataDir, disk: Arc<dyn Disk>) -> Result<(Log, log::Recovered), log::Error> {
    let options = LogOptions { prepare_ahead: false, ..LogOptions::new(Clock::system()) };
    Log::open(disk, dir.log_dir(), options)
}
