//! etcd's snapshot file: what `etcdctl snapshot save` writes and `etcdutl snapshot restore` reads. It is our snapshot
//! too, for backups, for lagging followers and for coming from etcd or going back to it.
//!
//! Here are the buckets and what is in them; `write` and `read` know the bbolt file under them. The revisions' records
//! are the encoded `mvccpb.KeyValue`s that the state keeps anyway. `raft::snapshot` writes and reads these files.
//!
//! ```text
//! file := bbolt image, SHA-256 of it (32 bytes)
//!
//! bucket           key                        value
//! key              RevisionKey                mvccpb.KeyValue; of a tombstone: only its key
//! meta             consistent_index, term     u64be
//!                  confState                  JSON, see ConfState
//!                  storageVersion             "3.7.0"
//!                  scheduledCompactRev, finishedCompactRev    RevisionKey
//! lease            id:u64be                   leasepb.Lease
//! alarm            etcdserverpb.AlarmMember   empty
//! cluster          clusterVersion             "3.7.0"
//! members          id as 16 hex digits        JSON, see Member
//! members_removed  id as 16 hex digits        "removed"
//! auth             authEnabled, authRevision  00 or 01, u64be
//! authUsers        name                       authpb.User
//! authRoles        name                       authpb.Role
//! kelson           ours                       ours; etcd's tools pass over it
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use serde::{Deserialize, Serialize};

use self::read::BoltFile;
pub use self::read::{Cursor, Entry};
use self::write::BoltWriter;
use super::engine::RevisionKey;
use super::fs::{Disk, Open, RealDisk, parent_of};
use crate::proto::Record;
use crate::proto::etcdserverpb as pb;
use crate::proto::leasepb::Lease;

mod layout;
mod read;
#[cfg(test)]
mod tests;
mod write;

/// The version whose format is written; etcd of another minor version migrates it or refuses.
pub const STORAGE_VERSION: &str = "3.7.0";
/// Suffix of a file that is not finished.
const TMP_SUFFIX: &str = ".tmp";

/// Why a snapshot file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{what} {path}: {source}", path = path.display())]
    Io {
        /// The thing tried, as a verb.
        what: &'static str,
        /// On this file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// The bytes are no snapshot, or a damaged one.
    #[error("{path}: {reason}", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
}

impl Error {
    fn corrupt(path: &Path, reason: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), reason: reason.into() }
    }
}

/// Makes the `map_err` of a file operation.
fn io<'a>(what: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> Error + 'a {
    move |source| Error::Io { what, path: path.to_owned(), source }
}

/// A bucket of the file; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// Raised alarms.
    Alarm,
    /// Whether authentication is on.
    Auth,
    /// Roles.
    AuthRoles,
    /// Users.
    AuthUsers,
    /// The cluster's version.
    Cluster,
    /// Ours.
    Kelson,
    /// Every revision.
    Key,
    /// Leases.
    Lease,
    /// Members.
    Members,
    /// Members that were removed.
    MembersRemoved,
    /// Raft and storage marks.
    Meta,
}

impl Bucket {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Alarm,
        Self::Auth,
        Self::AuthRoles,
        Self::AuthUsers,
        Self::Cluster,
        Self::Kelson,
        Self::Key,
        Self::Lease,
        Self::Members,
        Self::MembersRemoved,
        Self::Meta,
    ];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Auth => "auth",
            Self::AuthRoles => "authRoles",
            Self::AuthUsers => "authUsers",
            Self::Cluster => "cluster",
            Self::Kelson => "kelson",
            Self::Key => "key",
            Self::Lease => "lease",
            Self::Members => "members",
            Self::MembersRemoved => "members_removed",
            Self::Meta => "meta",
        }
    }
}

/// What the bucket `meta` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Index of the last Raft entry in the file.
    pub consistent_index: u64,
    /// Its term.
    pub term: u64,
    /// The voters and learners then; etcd's restore replaces it.
    pub conf_state: ConfState,
    /// Version of the schema; empty in files of etcd 3.5 and older.
    pub storage_version: String,
    /// The compaction mark.
    pub scheduled_compact: Option<RevisionKey>,
    /// The mark up to which old revisions are gone from the file.
    pub finished_compact: Option<RevisionKey>,
}

/// etcd's Raft membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfState {
    /// Ids of voters.
    pub voters: Vec<u64>,
    /// Ids of learners.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learners: Vec<u64>,
    /// Voters of the configuration being left.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub voters_outgoing: Vec<u64>,
    /// Learners once that configuration is left.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learners_next: Vec<u64>,
    /// Whether it is left by itself.
    pub auto_leave: bool,
}

/// A member, as etcd's JSON spells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Where other members reach it.
    #[serde(rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    /// Whether it does not vote.
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Empty until it has started.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it.
    #[serde(rename = "clientURLs", skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

/// What [`SnapshotWriter::finish`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Bytes of the file, hash included.
    pub bytes: u64,
    /// The hash behind the image.
    pub sha256: [u8; 32],
}

/// Writes a snapshot: one bucket after the other in any order, each with ascending keys. The file appears under its
/// name when it is whole and durable, not before; a writer dropped unfinished leaves nothing.
pub struct SnapshotWriter {
    disk: Arc<dyn Disk>,
    /// `None` once finished.
    bolt: Option<BoltWriter>,
    path: PathBuf,
    tmp: PathBuf,
}

impl SnapshotWriter {
    /// Starts the file `<path>.tmp`; one that a killed process left there is replaced.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn create(path: &Path) -> Result<Self, Error> {
        Self::create_on(Arc::new(RealDisk), path)
    }

    /// As [`SnapshotWriter::create`], on another disk than the machine's.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn create_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, Error> {
        let mut tmp = path.as_os_str().to_owned();
        tmp.push(TMP_SUFFIX);
        let tmp = PathBuf::from(tmp);
        let file = disk.open(&tmp, Open::Create).map_err(io("create", &tmp))?;
        let bolt = BoltWriter::new(file, &tmp)?;
        Ok(Self { disk, bolt: Some(bolt), path: path.to_owned(), tmp })
    }

    fn bolt(&mut self) -> &mut BoltWriter {
        self.bolt.as_mut().expect("only finish takes it, and the writer with it")
    }

    /// Ends the bucket before and starts this one.
    ///
    /// # Errors
    /// [`Error::Io`]
    ///
    /// # Panics
    /// When the bucket was started before.
    pub fn start(&mut self, bucket: Bucket) -> Result<(), Error> {
        self.bolt().start(bucket.name().as_bytes())
    }

    /// Adds an entry to the bucket that was started last.
    ///
    /// # Errors
    /// [`Error::Io`]
    ///
    /// # Panics
    /// When no bucket was started, or the key is not greater than the one before.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.bolt().put(key, value)
    }

    /// Adds a revision to [`Bucket::Key`].
    ///
    /// # Errors
    /// [`Error::Io`]
    ///
    /// # Panics
    /// As [`SnapshotWriter::put`].
    pub fn record(&mut self, revision: RevisionKey, record: &[u8]) -> Result<(), Error> {
        self.put(&revision.encode(), record)
    }

    /// Writes the bucket `meta`.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn meta(&mut self, meta: &Meta) -> Result<(), Error> {
        self.start(Bucket::Meta)?;
        self.put(b"confState", &json(&meta.conf_state))?;
        self.put(b"consistent_index", &meta.consistent_index.to_be_bytes())?;
        if let Some(revision) = meta.finished_compact {
            self.put(b"finishedCompactRev", &revision.encode())?;
        }
        if let Some(revision) = meta.scheduled_compact {
            self.put(b"scheduledCompactRev", &revision.encode())?;
        }
        if !meta.storage_version.is_empty() {
            self.put(b"storageVersion", meta.storage_version.as_bytes())?;
        }
        self.put(b"term", &meta.term.to_be_bytes())
    }

    /// Writes the bucket `cluster`.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn cluster_version(&mut self, version: &str) -> Result<(), Error> {
        self.start(Bucket::Cluster)?;
        self.put(b"clusterVersion", version.as_bytes())
    }

    /// Writes the bucket `lease`; in any order, each id once.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn leases(&mut self, leases: impl IntoIterator<Item = Lease>) -> Result<(), Error> {
        let entry = |lease: Lease| (lease.id.to_be_bytes().to_vec(), lease.encode_to_vec());
        self.sorted(Bucket::Lease, leases.into_iter().map(entry).collect())
    }

    /// Writes the bucket `alarm`; in any order, each once.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn alarms(&mut self, alarms: &[pb::AlarmMember]) -> Result<(), Error> {
        self.sorted(Bucket::Alarm, alarms.iter().map(|alarm| (alarm.encode_to_vec(), Vec::new())).collect())
    }

    /// Writes the bucket `members`; in any order, each id once.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn members(&mut self, members: &[Member]) -> Result<(), Error> {
        let entry = |member: &Member| (format!("{:016x}", member.id).into_bytes(), json(member));
        self.sorted(Bucket::Members, members.iter().map(entry).collect())
    }

    fn sorted(&mut self, bucket: Bucket, mut entries: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), Error> {
        entries.sort();
        self.start(bucket)?;
        entries.iter().try_for_each(|(key, value)| self.put(key, value))
    }

    /// Adds the buckets not started as empty ones, then hash, fsync, and the file's name.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn finish(mut self) -> Result<Finished, Error> {
        let mut bolt = self.bolt.take().expect("a writer is finished once");
        for bucket in Bucket::ALL {
            if !bolt.has(bucket.name().as_bytes()) {
                bolt.start(bucket.name().as_bytes())?;
            }
        }
        let finished = bolt.finish();
        let (bytes, sha256) = finished.inspect_err(|_| remove(&*self.disk, &self.tmp))?;
        self.disk.rename(&self.tmp, &self.path).map_err(io("rename", &self.tmp))?;
        let dir = parent_of(&self.path);
        self.disk.sync_dir(dir).map_err(io("sync", dir))?;
        Ok(Finished { bytes, sha256 })
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if self.bolt.is_some() {
            remove(&*self.disk, &self.tmp);
        }
    }
}

/// Removes a file that is worth nothing; if it stays, the next writer replaces it.
fn remove(disk: &dyn Disk, path: &Path) {
    if let Err(error) = disk.remove(path) {
        tracing::warn!(path = %path.display(), %error, "unfinished snapshot file stays");
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("numbers, strings and lists of them have JSON")
}

/// The image in a snapshot file, without the hash behind it: its length and its bytes.
///
/// # Errors
/// The file's.
pub fn open_image(path: &Path) -> std::io::Result<(u64, Box<dyn std::io::Read + Send>)> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len().saturating_sub(32);
    Ok((bytes, Box::new(std::io::Read::take(file, bytes))))
}

/// Reads a snapshot, ours or etcd's, also a bare bbolt file without the hash. Nothing of it is kept in memory.
#[derive(Debug)]
pub struct SnapshotReader {
    bolt: BoltFile,
    path: PathBuf,
}

impl SnapshotReader {
    /// Opens a file and looks at its meta pages. A file that will be relied on: [`SnapshotReader::verify_hash`].
    ///
    /// # Errors
    /// [`Error`]
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_on(&RealDisk, path)
    }

    /// As [`SnapshotReader::open`], on another disk than the machine's.
    ///
    /// # Errors
    /// [`Error`]
    pub fn open_on(disk: &dyn Disk, path: &Path) -> Result<Self, Error> {
        Ok(Self { bolt: BoltFile::open(disk, path)?, path: path.to_owned() })
    }

    /// Reads the whole file and compares its hash.
    ///
    /// # Errors
    /// [`Error`], also when there is no hash.
    pub fn verify_hash(&self) -> Result<[u8; 32], Error> {
        self.bolt.verify_hash()
    }

    /// Whether there is a hash behind the image.
    pub fn has_hash(&self) -> bool {
        self.bolt.has_hash()
    }

    /// Bytes of the pages in use, free ones between them included; what etcd calls the size of the snapshot.
    pub fn used_bytes(&self) -> u64 {
        self.bolt.used_bytes()
    }

    /// Entries of a bucket named by [`SnapshotReader::buckets`], in key order.
    ///
    /// # Errors
    /// [`Error`]
    pub fn bucket_named(&self, name: &[u8]) -> Result<Option<Cursor<'_>>, Error> {
        self.bolt.bucket(name)
    }

    /// Names of all buckets, also of those we do not know.
    ///
    /// # Errors
    /// [`Error`]
    pub fn buckets(&self) -> Result<Vec<Vec<u8>>, Error> {
        self.bolt.buckets()
    }

    /// Entries of a bucket, in key order; `None` when the file lacks it.
    ///
    /// # Errors
    /// [`Error`]
    pub fn bucket(&self, bucket: Bucket) -> Result<Option<Cursor<'_>>, Error> {
        self.bolt.bucket(bucket.name().as_bytes())
    }

    /// Every revision with its record, oldest first.
    ///
    /// # Errors
    /// [`Error`]; later ones come as items.
    pub fn records(&self) -> Result<Records<'_>, Error> {
        let Some(cursor) = self.bucket(Bucket::Key)? else { return Err(self.corrupt("no bucket key")) };
        Ok(Records { reader: self, cursor: Some(cursor) })
    }

    /// The bucket `meta`; what is absent is zero or empty.
    ///
    /// # Errors
    /// [`Error`]
    pub fn meta(&self) -> Result<Meta, Error> {
        let mut meta = Meta::default();
        let bad = |name: &[u8]| self.corrupt(format!("meta/{}", name.escape_ascii()));
        self.each(Bucket::Meta, |key, value| {
            let number = || value.try_into().map(u64::from_be_bytes).map_err(|_| bad(key));
            let revision = || RevisionKey::decode(value).map(Some).ok_or_else(|| bad(key));
            match key {
                b"consistent_index" => meta.consistent_index = number()?,
                b"term" => meta.term = number()?,
                b"confState" => meta.conf_state = serde_json::from_slice(value).map_err(|_| bad(key))?,
                b"storageVersion" => meta.storage_version = String::from_utf8_lossy(value).into_owned(),
                b"scheduledCompactRev" => meta.scheduled_compact = revision()?,
                b"finishedCompactRev" => meta.finished_compact = revision()?,
                // Later versions may add what we need not know.
                _ => {}
            }
            Ok(())
        })?;
        Ok(meta)
    }

    /// Leases, by id.
    ///
    /// # Errors
    /// [`Error`]
    pub fn leases(&self) -> Result<Vec<Lease>, Error> {
        self.list(Bucket::Lease, |_, value| Lease::decode(value).ok())
    }

    /// Raised alarms.
    ///
    /// # Errors
    /// [`Error`]
    pub fn alarms(&self) -> Result<Vec<pb::AlarmMember>, Error> {
        self.list(Bucket::Alarm, |key, _| pb::AlarmMember::decode(key).ok())
    }

    /// Members, by id.
    ///
    /// # Errors
    /// [`Error`]
    pub fn members(&self) -> Result<Vec<Member>, Error> {
        self.list(Bucket::Members, |_, value| serde_json::from_slice(value).ok())
    }

    fn list<T>(&self, bucket: Bucket, decode: impl Fn(&[u8], &[u8]) -> Option<T>) -> Result<Vec<T>, Error> {
        let mut list = Vec::new();
        self.each(bucket, |key, value| {
            let name = bucket.name();
            list.push(decode(key, value).ok_or_else(|| self.corrupt(format!("{name}/{}", key.escape_ascii())))?);
            Ok(())
        })?;
        Ok(list)
    }

    fn each(&self, bucket: Bucket, mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let Some(mut cursor) = self.bucket(bucket)? else { return Ok(()) };
        while let Some((key, value)) = cursor.advance()? {
            visit(key, value)?;
        }
        Ok(())
    }

    fn corrupt(&self, reason: impl Into<String>) -> Error {
        Error::corrupt(&self.path, reason)
    }
}

/// See [`SnapshotReader::records`]; ends after an error.
pub struct Records<'a> {
    reader: &'a SnapshotReader,
    cursor: Option<Cursor<'a>>,
}

impl Iterator for Records<'_> {
    type Item = Result<(RevisionKey, Record), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = match self.cursor.as_mut()?.advance() {
            Ok(None) => None,
            Ok(Some((key, value))) => {
                let revision = RevisionKey::decode(key);
                let bad = || self.reader.corrupt(format!("key/{}", key.escape_ascii()));
                let record = revision.and_then(|revision| Some((revision, Record::from_bytes(value).ok()?)));
                Some(record.ok_or_else(bad))
            }
            Err(error) => Some(Err(error)),
        };
        if !matches!(item, Some(Ok(_))) {
            self.cursor = None;
        }
        item
    }
}
