//! Our reader on etcd's files, our writer against our reader, and both on damage.

use proptest::prelude::*;

use std::fs;

use super::*;
use crate::proto::Put;

/// Written by etcd 3.7.3: three puts, a delete, a leased key, a 9,000-byte value, a compaction at 3, a user, a role.
const ETCDS: &[u8] = include_bytes!("../../../tests/fixtures/etcd-3.7.3.snapshot");

fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn revision(main: i64) -> RevisionKey {
    RevisionKey { main, sub: 0, tombstone: false }
}

/// Bucket, key, value.
type Row = (&'static str, Vec<u8>, Vec<u8>);

/// Everything in a file; the first error ends it.
fn all(path: &Path) -> Result<Vec<Row>, Error> {
    let reader = SnapshotReader::open(path)?;
    let mut all = Vec::new();
    reader.buckets()?;
    for bucket in Bucket::ALL {
        reader.each(bucket, |key, value| {
            all.push((bucket.name(), key.to_vec(), value.to_vec()));
            Ok(())
        })?;
    }
    reader.meta()?;
    reader.leases()?;
    reader.alarms()?;
    reader.members()?;
    for record in reader.records()? {
        record?;
    }
    Ok(all)
}

#[test]
fn a_file_of_etcd_is_read_whole() {
    let (_dir, path) = file(ETCDS);
    let reader = SnapshotReader::open(&path).unwrap();
    reader.verify_hash().unwrap();
    let names: Vec<Vec<u8>> =
        Bucket::ALL.iter().filter(|bucket| **bucket != Bucket::Kelson).map(|b| b.name().into()).collect();
    assert_eq!(reader.buckets().unwrap(), names);
    let meta = reader.meta().unwrap();
    let expected = Meta {
        consistent_index: 17,
        term: 2,
        conf_state: ConfState { voters: vec![0xf492_7a4b_c576_a057], ..ConfState::default() },
        storage_version: STORAGE_VERSION.to_owned(),
        scheduled_compact: Some(revision(3)),
        finished_compact: Some(revision(3)),
    };
    assert_eq!(meta, expected);
    let records: Vec<_> = reader.records().unwrap().map(Result::unwrap).collect();
    let seen: Vec<_> =
        records.iter().map(|(at, record)| (at.main, at.tombstone, record.key(), record.version())).collect();
    let keys: [(i64, bool, &[u8], i64); 5] = [
        (3, false, b"foo", 2),
        (4, false, b"a", 1),
        (5, true, b"a", 0),
        (6, false, b"leased", 1),
        (7, false, b"big", 1),
    ];
    assert_eq!(seen, keys);
    assert_eq!(records[4].1.value(), vec![b'v'; 9000]);
    let leases = reader.leases().unwrap();
    assert_eq!((leases.len(), leases[0].ttl, leases[0].id), (1, 3600, records[3].1.lease()));
    let members = reader.members().unwrap();
    assert_eq!((members[0].name.as_str(), members[0].id), ("default", meta.conf_state.voters[0]));
    assert_eq!(reader.alarms().unwrap(), vec![]);
}

#[test]
fn what_etcd_wrote_comes_back_from_our_writer() {
    let (dir, path) = file(ETCDS);
    let reader = SnapshotReader::open(&path).unwrap();
    let ours = dir.path().join("ours");
    let mut writer = SnapshotWriter::create(&ours).unwrap();
    writer.meta(&reader.meta().unwrap()).unwrap();
    writer.leases(reader.leases().unwrap()).unwrap();
    writer.members(&reader.members().unwrap()).unwrap();
    writer.cluster_version("3.7.0").unwrap();
    for bucket in [Bucket::Auth, Bucket::AuthRoles, Bucket::AuthUsers, Bucket::Key] {
        writer.start(bucket).unwrap();
        reader.each(bucket, |key, value| writer.put(key, value)).unwrap();
    }
    let finished = writer.finish().unwrap();
    assert_eq!(all(&ours).unwrap(), all(&path).unwrap());
    let again = SnapshotReader::open(&ours).unwrap();
    assert_eq!(again.verify_hash().unwrap(), finished.sha256);
    assert_eq!(finished.bytes, fs::metadata(&ours).unwrap().len());
    assert_eq!(again.buckets().unwrap().len(), Bucket::ALL.len());
}

#[test]
fn an_unfinished_file_leaves_nothing_and_does_not_touch_the_old_one() {
    let (dir, path) = file(b"old");
    let mut writer = SnapshotWriter::create(&path).unwrap();
    writer.start(Bucket::Kelson).unwrap();
    writer.put(b"k", b"v").unwrap();
    drop(writer);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
#[should_panic(expected = "keys ascend")]
fn a_key_out_of_order_is_a_broken_invariant() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = SnapshotWriter::create(&dir.path().join("snapshot")).unwrap();
    writer.start(Bucket::Key).unwrap();
    writer.record(revision(3), b"").unwrap();
    writer.record(revision(2), b"").unwrap();
}

#[test]
fn many_revisions_make_branches_over_branches() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot");
    let mut writer = SnapshotWriter::create(&path).unwrap();
    writer.start(Bucket::Key).unwrap();
    // A leaf holds three, a branch 123: this needs two levels of branches.
    let value = [7; 1000];
    for main in 1..=20_000 {
        let record = Record::put(Put { key: b"k", value: &value, mod_revision: main, ..Put::default() });
        writer.record(revision(main), record.as_bytes()).unwrap();
    }
    writer.finish().unwrap();
    let reader = SnapshotReader::open(&path).unwrap();
    let mut next = 1;
    for item in reader.records().unwrap() {
        let (at, record) = item.unwrap();
        assert_eq!((at.main, record.mod_revision()), (next, next));
        next += 1;
    }
    assert_eq!(next, 20_001);
}

#[test]
fn long_keys_make_branches_that_overflow() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot");
    let mut writer = SnapshotWriter::create(&path).unwrap();
    writer.start(Bucket::Kelson).unwrap();
    let key = |number: u32| [&number.to_be_bytes()[..], &[b'k'; 9000]].concat();
    for number in 0..50 {
        writer.put(&key(number), b"v").unwrap();
    }
    writer.finish().unwrap();
    let reader = SnapshotReader::open(&path).unwrap();
    let mut seen = 0;
    reader
        .each(Bucket::Kelson, |found, _| {
            assert_eq!(found, key(seen));
            seen += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, 50);
}

#[test]
fn a_branch_that_points_at_itself_is_an_error() {
    // The root of etcd's bucket `key` is page 12, a branch of two.
    let mut bytes = ETCDS.to_vec();
    let at = 12 * 4096;
    assert_eq!(layout::u16_at(&bytes, at + 8), Some(layout::BRANCH));
    bytes[at + 24..at + 32].copy_from_slice(&12u64.to_le_bytes());
    let (_dir, path) = file(&bytes);
    assert!(matches!(all(&path), Err(Error::Corrupt { .. })));
}

#[test]
fn a_damaged_meta_page_is_replaced_by_the_other() {
    let mut bytes = ETCDS.to_vec();
    bytes[16] ^= 1;
    let (_dir, path) = file(&bytes);
    assert!(SnapshotReader::open(&path).is_ok());
    bytes[4096 + 16] ^= 1;
    let (_dir, path) = file(&bytes);
    assert!(matches!(SnapshotReader::open(&path), Err(Error::Corrupt { .. })));
}

#[test]
fn a_changed_byte_is_noticed_by_the_hash() {
    let mut bytes = ETCDS.to_vec();
    bytes[5 * 4096 + 4000] ^= 1;
    let (_dir, path) = file(&bytes);
    assert!(matches!(SnapshotReader::open(&path).unwrap().verify_hash(), Err(Error::Corrupt { .. })));
    let (_dir, path) = file(&ETCDS[..ETCDS.len() - 32]);
    assert!(SnapshotReader::open(&path).unwrap().verify_hash().is_err(), "there is no hash");
    assert!(all(&path).is_ok(), "a bare image is read all the same");
}

fn entries() -> impl Strategy<Value = std::collections::BTreeMap<Vec<u8>, Vec<u8>>> {
    let value = prop_oneof![
        9 => proptest::collection::vec(any::<u8>(), 0..300),
        1 => (0usize..20_000, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
    ];
    proptest::collection::btree_map(proptest::collection::vec(any::<u8>(), 1..40), value, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(one in entries(), other in entries()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot");
        let mut writer = SnapshotWriter::create(&path).unwrap();
        for (bucket, entries) in [(Bucket::Kelson, &one), (Bucket::AuthUsers, &other)] {
            writer.start(bucket).unwrap();
            entries.iter().for_each(|(key, value)| writer.put(key, value).unwrap());
        }
        writer.finish().unwrap();
        let reader = SnapshotReader::open(&path).unwrap();
        reader.verify_hash().unwrap();
        for (bucket, entries) in [(Bucket::Kelson, &one), (Bucket::AuthUsers, &other)] {
            let mut found = Vec::new();
            reader.each(bucket, |key, value| { found.push((key.to_vec(), value.to_vec())); Ok(()) }).unwrap();
            prop_assert_eq!(found, entries.clone().into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn damaged_files_are_read_or_refused_but_never_panic(
        flips in proptest::collection::vec((0usize..ETCDS.len(), any::<u8>()), 1..40),
        near in proptest::collection::vec((0usize..14, 0usize..200, any::<u8>()), 0..40),
        cut in proptest::option::of(0usize..ETCDS.len()),
    ) {
        let mut bytes = ETCDS.to_vec();
        // Page and element headers are where damage matters most; the meta pages are spared, as their checksums would
        // refuse everything.
        for (page, at, byte) in near {
            bytes[page * 4096 + if page < 2 { 100 } else { 0 } + at] = byte;
        }
        for (at, byte) in flips.into_iter().filter(|(at, _)| *at >= 8192) {
            bytes[at] = byte;
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        let (_dir, path) = file(&bytes);
        match all(&path) {
            Ok(_) | Err(Error::Corrupt { .. }) => {}
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    #[test]
    fn noise_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..10_000)) {
        let (_dir, path) = file(&bytes);
        prop_assert!(matches!(all(&path), Err(Error::Corrupt { .. })), "noise was read");
    }
}
