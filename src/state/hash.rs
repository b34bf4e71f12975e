//! etcd's `HashKV`: one number for what is kept, the same on every member and the same as etcd's for the same content.

use super::event::Revision;
use super::key_index::{Entry, FETCH, KeyIndex, Version, fetch};
use crate::mutants::{Mutant, planted};
use crate::proto::Record;

/// CRC-32C over `key` and then, in revision order, each kept revision up to `at`: its key in etcd's bucket and its
/// encoded KeyValue. Of what lies at or before the compaction mark only the versions still current at `at` count, and no
/// tombstones, for etcd's versions differ in whether they keep one at the mark.
pub fn hash_kv(index: &KeyIndex, compact_revision: i64, at: i64) -> u32 {
    let mut versions: Vec<(Revision, bool, &Record)> = Vec::new();
    index.for_each(|entry| {
        let current = current_at(entry, at).map(Version::revision);
        for version in entry.versions() {
            let (revision, tombstone) = (version.revision(), version.is_tombstone());
            let is_kept = revision.main > compact_revision || (Some(revision) == current && !tombstone);
            if (revision.main <= at || planted(Mutant::HashOfLater)) && is_kept {
                versions.push((revision, tombstone, version.record()));
            }
        }
    });
    versions.sort_unstable_by_key(|(revision, ..)| *revision);
    let mut hash = crc32c::crc32c(b"key");
    for versions in versions.chunks(FETCH) {
        fetch(versions.iter().map(|(.., record)| *record));
        for (revision, tombstone, record) in versions {
            hash = add(hash, *revision, *tombstone, record);
        }
    }
    hash
}

fn add(hash: u32, revision: Revision, tombstone: bool, record: &Record) -> u32 {
    let bucket_key = bucket_key(revision, tombstone);
    if tombstone {
        // etcd's own record of a deletion is the bare key.
        let bare = Record::tombstone(record.key(), 0);
        return crc32c::crc32c_append(crc32c::crc32c_append(hash, &bucket_key), bare.as_bytes());
    }
    crc32c::crc32c_append(crc32c::crc32c_append(hash, &bucket_key[..17]), record.as_bytes())
}

/// The versions that compaction at `compact_revision` keeps, up to `at`, in revision order.
pub fn kept(index: &KeyIndex, compact_revision: i64, at: i64) -> Vec<(Revision, bool, Record)> {
    let mut kept = Vec::new();
    index.for_each(|entry| {
        let keeper = current_at(entry, compact_revision)
            .filter(|version| !version.is_tombstone() || version.revision().main == compact_revision)
            .map(Version::revision);
        let versions = entry.versions().filter(|version| {
            let revision = version.revision();
            revision.main <= at && (revision.main > compact_revision || Some(revision) == keeper)
        });
        kept.extend(versions.map(|version| (version.revision(), version.is_tombstone(), version.record().clone())));
    });
    kept.sort_unstable_by_key(|(revision, _, _)| *revision);
    kept
}

/// The newest version of a key at main revision `at`.
fn current_at(entry: &Entry, at: i64) -> Option<&Version> {
    entry.versions().find(|version| version.revision().main <= at)
}

/// A revision as a key of etcd's bucket: main and sub as big-endian numbers with `_` between them, `t` behind a
/// tombstone's.
fn bucket_key(revision: Revision, tombstone: bool) -> [u8; 18] {
    let mut key = [b'_'; 18];
    key[..8].copy_from_slice(&revision.main.to_be_bytes());
    key[9..17].copy_from_slice(&revision.sub.to_be_bytes());
    key[17] = if tombstone { b't' } else { 0 };
    key
}
