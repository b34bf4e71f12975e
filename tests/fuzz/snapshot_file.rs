//! Snapshot files, etcd's and ours, damaged: read as `kelson snapshot status` does, restored as an operator does, and
//! received and installed as from a peer. An input is a script: which file, which checksums are mended, what befalls it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kelson::Config;
use kelson::raft::snapshot::{self, Image, Snapshots};
use kelson::restore::{Source, restore};
use kelson::state::Store;
use kelson::storage::etcd_file::SnapshotReader;
use kelson::storage::fs::{Disk, RealDisk};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::commands::every_kind;
use super::engine::{Target, Verdict};
use super::marks;
use super::mutate::{self, Script};

const DAMAGES_MAX: usize = 6;
const HASH_BYTES: usize = 32;
const PAGE_HEADER: usize = 16;
const META_BYTES: usize = 64;

/// Bits of a script's second byte.
const MEND_META: u8 = 1;
const MEND_HASH: u8 = 2;
const INSTALL: u8 = 4;
/// Two of them, for it takes longest.
const RESTORE: u8 = 8 | 16;

/// A valid file, and where it is not zero: of the rest nothing depends.
struct Base {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

impl Base {
    fn new(bytes: Vec<u8>) -> Self {
        let places = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        Self { bytes, places }
    }
}

pub struct SnapshotFile {
    directory: TempDir,
    bases: Vec<Base>,
    restored: u64,
}

impl SnapshotFile {
    pub fn new() -> Self {
        let directory = in_memory();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/etcd-3.7.3.snapshot");
        let bases = vec![Base::new(own_file(directory.path())), Base::new(fs::read(fixture).unwrap())];
        Self { directory, bases, restored: 0 }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("db")
    }
}

/// A directory whose syncs cost nothing, where the machine has such.
pub fn in_memory() -> TempDir {
    let builder = || tempfile::Builder::new();
    builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir()).unwrap()
}

/// A file of ours, of a state with something of everything.
fn own_file(directory: &Path) -> Vec<u8> {
    let store = Store::new();
    for command in every_kind().iter().chain(&every_kind()[..6]) {
        store.apply(command);
    }
    let image = Image { mark: marks::mark(), meta: store.meta(), view: store.view() };
    let path = directory.join("own");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    image.write(&disk, &path).unwrap();
    fs::read(path).unwrap()
}

impl Target for SnapshotFile {
    const NAME: &'static str = "snapshot_file";
    const ITERATIONS: u64 = 400;

    fn seeds(&mut self) -> Vec<Vec<u8>> {
        let mut seeds = Vec::new();
        for base in 0..2 {
            for how in [0, MEND_HASH | INSTALL, MEND_META | MEND_HASH | RESTORE, MEND_META | MEND_HASH | INSTALL] {
                seeds.push(vec![base, how]);
                seeds.push(vec![base, how, 0, 9, 9, 0, 3]);
                seeds.push(vec![base, how, 0, 60, 1, 7, 255]);
                seeds.push(vec![base, how, 0, 99, 2, 5, 255, 255, 255, 255, 255, 255, 255, 127, 3]);
            }
        }
        seeds
    }

    fn run(&mut self, input: &[u8]) -> Verdict {
        let mut script = Script(input);
        let base = &self.bases[script.below_byte(self.bases.len())];
        let how = script.byte();
        let mut file = base.bytes.clone();
        for _ in 0..DAMAGES_MAX {
            if !script.is_over() {
                mutate::patch(&mut file, &base.places, &mut script);
            }
        }
        if how & MEND_META != 0 {
            mend_metas(&mut file);
        }
        if how & MEND_HASH != 0 {
            mend_hash(&mut file);
        }
        fs::write(self.path(), &file).unwrap();
        let read = read_all(&self.path());
        let loaded = snapshot::load(&RealDisk, &self.path());
        if let Ok(loaded) = &loaded {
            exercise(&loaded.store);
        }
        let installed = if how & INSTALL != 0 { receive(&file) } else { Ok(()) };
        assert!(how & INSTALL == 0 || installed.is_ok() <= loaded.is_ok(), "installed, but cannot be loaded");
        let restored = if how & RESTORE == RESTORE { self.restore(file.len()) } else { Ok(()) };
        // A file of etcd's can be restored, but not loaded.
        let is_taken = loaded.is_ok() || how & RESTORE == RESTORE && restored.is_ok();
        match (is_taken, read, loaded.map(drop), restored) {
            (true, ..) => Verdict::Accepted(format!("{how}")),
            (false, Err(error), ..) => Verdict::Refused(error),
            (false, Ok(()), Err(error), Ok(())) => Verdict::Refused(error.to_string()),
            (false, Ok(()), _, Err(error)) => Verdict::Refused(error),
            (false, Ok(()), Ok(()), Ok(())) => unreachable!("what is loaded is taken"),
        }
    }
}

impl SnapshotFile {
    fn restore(&mut self, bytes: usize) -> Result<(), String> {
        self.restored += 1;
        let data_dir = self.directory.path().join(format!("restored-{}", self.restored));
        let config = Config { data_dir: Some(data_dir.clone()), ..Config::default() };
        let bump_revision = if bytes.is_multiple_of(2) { 0 } else { 1_000_000 };
        let source = Source { file: self.path(), skip_hash_check: true, bump_revision };
        let restored = restore(&config, &source);
        if data_dir.exists() {
            fs::remove_dir_all(data_dir).unwrap();
        }
        restored.map(drop).map_err(|error| error.to_string())
    }
}

/// Everything that the reader gives.
fn read_all(path: &Path) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let file = SnapshotReader::open(path).map_err(|error| text(&error))?;
    let verified = file.verify_hash();
    let _used = file.used_bytes();
    for name in file.buckets().map_err(|error| text(&error))? {
        let Some(mut cursor) = file.bucket_named(&name).map_err(|error| text(&error))? else { continue };
        while cursor.advance().map_err(|error| text(&error))?.is_some() {}
    }
    for record in file.records().map_err(|error| text(&error))? {
        let _fields = record.map_err(|error| text(&error))?.1.fields();
    }
    file.meta().map_err(|error| text(&error))?;
    file.leases().map_err(|error| text(&error))?;
    file.alarms().map_err(|error| text(&error))?;
    file.members().map_err(|error| text(&error))?;
    verified.map(drop).map_err(|error| text(&error))
}

/// A state that came from a file stands what any state does.
fn exercise(store: &Store) {
    let before = store.hash_kv(0);
    let records = store.view().records();
    assert!(records.windows(2).all(|pair| pair[0].0 < pair[1].0));
    for command in every_kind() {
        store.apply(&command);
    }
    while !store.compact_slice(i64::MAX, 10).done {}
    let _hashes = (before, store.hash_kv(0));
}

/// As from a peer that sends it in two parts.
fn receive(file: &[u8]) -> Result<(), String> {
    let directory = in_memory();
    let text = |error: std::io::Error| error.to_string();
    let snapshots = Snapshots::open(Arc::new(RealDisk), directory.path().join("snapshot")).map_err(text)?;
    let mut receiving = snapshots.receiving().map_err(text)?;
    let (head, rest) = file.split_at(file.len() / 2);
    receiving.write_all(head).and_then(|()| receiving.write_all(rest)).map_err(text)?;
    let received = receiving.finish().map_err(text)?;
    let meta = received.meta().map_err(text)?;
    snapshots.install(&meta, &received).map(drop).map_err(text)
}

/// Gives both meta pages the checksum that they should have.
fn mend_metas(file: &mut [u8]) {
    for at in [0, 4096] {
        let Some(meta) = file.get_mut(at + PAGE_HEADER..at + PAGE_HEADER + META_BYTES) else { continue };
        let checksum = meta[..56]
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        meta[56..].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Puts a hash behind the image; the length is that of a file with one.
fn mend_hash(file: &mut Vec<u8>) {
    let image = file.len().saturating_sub(HASH_BYTES).next_multiple_of(512);
    file.resize(image, 0);
    let hash = Sha256::digest(&*file);
    file.extend_from_slice(&hash);
}
