//! What the store must hold at least: the seal of the last flush that returned `Ok`, in a file of our own beside sled's
//! directory. Only this file says what sled should contain; sled itself comes back older without a word when its
//! metadata is damaged.
//!
//! ```text
//! MANIFEST := "KELSONCK"  format:u32le (=1)  generation:u32le  seal  crc32:u32le (of all before)
//! seal     := batches:u64le  entries:u64le  hash:u64le
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::sync::{io, sync_dir};
use crate::storage::engine::Error;

/// File name within the engine's directory.
pub const MANIFEST: &str = "MANIFEST";
const MANIFEST_TMP: &str = "MANIFEST.tmp";
const MAGIC: &[u8; 8] = b"KELSONCK";
const FORMAT: u32 = 1;
const SEAL_BYTES: usize = 24;
const MANIFEST_BYTES: usize = MAGIC.len() + 4 + 4 + SEAL_BYTES + 4;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Which of sled's directories is the store.
    pub generation: u32,
    /// What must be in it.
    pub seal: Seal,
}

/// The sum of a store's entries, kept in the store and changed in the same batch as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    /// Batches ever written.
    pub batches: u64,
    /// Entries there, without the seal's own.
    pub entries: u64,
    /// Sum of the entries' hashes, so that it does not depend on their order.
    pub hash: u64,
}

impl Seal {
    /// Counts an entry in.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.entries += 1;
        self.hash = self.hash.wrapping_add(entry_hash(key, value));
    }

    /// Counts an entry out; it must have been counted in.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.entries = self.entries.wrapping_sub(1);
        self.hash = self.hash.wrapping_sub(entry_hash(key, value));
    }

    /// The bytes drawn above.
    pub fn encode(&self) -> [u8; SEAL_BYTES] {
        let mut bytes = [0; SEAL_BYTES];
        bytes[..8].copy_from_slice(&self.batches.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.entries.to_le_bytes());
        bytes[16..].copy_from_slice(&self.hash.to_le_bytes());
        bytes
    }

    /// Reads them; `None` when the length is another.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SEAL_BYTES] = bytes.try_into().ok()?;
        let int = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?));
        Some(Self { batches: int(0)?, entries: int(8)?, hash: int(16)? })
    }
}

/// Spread over 64 bits, for hashes are summed and a CRC is linear. It guards against loss and rot, not against intent.
fn entry_hash(key: &[u8], value: &[u8]) -> u64 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&(key.len() as u64).to_le_bytes());
    crc.update(key);
    crc.update(value);
    let mut hash = (u64::from(crc.finalize()) << 32 | (value.len() as u64 & 0xffff_ffff)) ^ 0x9e37_79b9_7f4a_7c15;
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

/// Puts the manifest in place, durably.
///
/// # Errors
/// [`Error::Io`]
pub fn write(dir: &Path, manifest: &Manifest) -> Result<(), Error> {
    let mut bytes = Vec::with_capacity(MANIFEST_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&manifest.generation.to_le_bytes());
    bytes.extend_from_slice(&manifest.seal.encode());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    let tmp = dir.join(MANIFEST_TMP);
    let mut file = File::create(&tmp).map_err(io("create", &tmp))?;
    file.write_all(&bytes).map_err(io("write", &tmp))?;
    file.sync_all().map_err(io("sync", &tmp))?;
    fs::rename(&tmp, dir.join(MANIFEST)).map_err(io("rename", &tmp))?;
    sync_dir(dir)
}

/// Reads the manifest.
///
/// # Errors
/// [`Error::Io`], also when there is none; [`Error::Corrupt`].
pub fn read(dir: &Path) -> Result<Manifest, Error> {
    let path = dir.join(MANIFEST);
    let bytes = fs::read(&path).map_err(io("read", &path))?;
    let corrupt = |reason: &str| Error::Corrupt { path: path.clone(), reason: reason.to_owned() };
    let Some((body, crc)) = bytes.split_last_chunk::<4>().filter(|_| bytes.len() == MANIFEST_BYTES) else {
        return Err(corrupt("the length is not a manifest's"));
    };
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(corrupt("the CRC does not match"));
    }
    let rest = body.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(&FORMAT.to_le_bytes()));
    let parts = rest.and_then(|rest| rest.split_first_chunk::<4>());
    let manifest = parts.and_then(|(generation, seal)| {
        Some(Manifest { generation: u32::from_le_bytes(*generation), seal: Seal::decode(seal)? })
    });
    manifest.ok_or_else(|| corrupt("another format"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back_and_any_flipped_byte_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = Manifest { generation: 2, seal: Seal { batches: 7, entries: 3, hash: u64::MAX } };
        write(dir.path(), &manifest).unwrap();
        assert_eq!(read(dir.path()).unwrap(), manifest);
        let path = dir.path().join(MANIFEST);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(matches!(read(dir.path()), Err(Error::Corrupt { .. })), "byte {at}");
        }
    }

    #[test]
    fn a_seal_does_not_depend_on_the_order_and_comes_back_to_nothing() {
        let mut forth = Seal::default();
        forth.add(b"a", b"1");
        forth.add(b"b", b"2");
        let mut back = Seal::default();
        back.add(b"b", b"2");
        back.add(b"a", b"1");
        assert_eq!(forth, back);
        forth.remove(b"a", b"1");
        forth.remove(b"b", b"2");
        assert_eq!(forth, Seal::default());
    }
}
