//! The engine on sled: as the one in memory when all is well, and set aside when its files are damaged.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::storage::engine::{META_END, META_START, REVISIONS_END, REVISIONS_START, RevisionKey, meta_key};
use crate::storage::memory::MemoryEngine;

fn config(dir: &Path) -> SledConfig {
    SledConfig { dir: dir.join("state"), cache_bytes: 1 << 20, open_deadline: Duration::from_secs(60) }
}

fn open(dir: &Path) -> SledEngine {
    SledEngine::open(config(dir)).unwrap()
}

fn batch(changes: &[(&[u8], Option<&[u8]>)]) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        }
    }
    batch
}

fn entries(engine: &dyn Engine, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = Vec::new();
    let mut keep = |key: &[u8], value: &[u8]| {
        entries.push((key.to_vec(), value.to_vec()));
        Ok(ControlFlow::Continue(()))
    };
    engine.scan(from, to, &mut keep).unwrap();
    entries
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Flush,
    Reopen,
    ReopenInPlace,
    Get(Vec<u8>),
    Scan(Vec<u8>, Vec<u8>),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => (1i64..60, 0i64..3, any::<bool>())
            .prop_map(|(main, sub, tombstone)| RevisionKey { main, sub, tombstone }.encode().to_vec()),
        2 => "[a-c]{1}".prop_map(|name| meta_key(&name)),
        1 => proptest::collection::vec(any::<u8>(), 1..4),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => (0usize..3 * PIECE_BYTES, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
        1 => Just(vec![7; PIECE_BYTES]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec((key(), proptest::option::weighted(0.7, value())), 0..60).prop_map(Step::Write),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::ReopenInPlace),
        1 => key().prop_map(Step::Get),
        1 => (key(), key()).prop_map(|(from, to)| Step::Scan(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn sled_does_what_memory_does(plan in proptest::collection::vec(step(), 1..30)) {
        let dir = tempfile::tempdir().unwrap();
        let mut model = MemoryEngine::default();
        let mut engine = open(dir.path());
        for step in plan {
            match step {
                Step::Write(changes) => {
                    let changes: Vec<_> = changes.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
                    model.write(&batch(&changes)).unwrap();
                    engine.write(&batch(&changes)).unwrap();
                }
                Step::Flush => engine.flush().unwrap(),
                Step::Reopen => {
                    engine.flush().unwrap();
                    drop(engine);
                    engine = open(dir.path());
                }
                Step::ReopenInPlace => {
                    let due = engine.bytes_put() > 0;
                    prop_assert_eq!(engine.reopen_if_over(0).unwrap(), due);
                }
                Step::Get(key) => prop_assert_eq!(engine.get(&key).unwrap(), model.get(&key).unwrap()),
                Step::Scan(from, to) => prop_assert_eq!(entries(&engine, &from, &to), entries(&model, &from, &to)),
            }
        }
        engine.flush().unwrap();
        drop(engine);
        let engine = open(dir.path());
        prop_assert_eq!(entries(&engine, b"\0", b"\xff\xff\xff\xff"), entries(&model, b"\0", b"\xff\xff\xff\xff"));
    }
}

#[test]
fn meta_and_revisions_are_scanned_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = open(dir.path());
    let revision = RevisionKey { main: 2, sub: 0, tombstone: false }.encode();
    engine.write(&batch(&[(&meta_key("applied"), Some(b"9")), (&revision, Some(b"record"))])).unwrap();
    assert_eq!(entries(&engine, META_START, META_END), vec![(meta_key("applied"), b"9".to_vec())]);
    assert_eq!(entries(&engine, REVISIONS_START, REVISIONS_END), vec![(revision.to_vec(), b"record".to_vec())]);
}

#[test]
fn a_scan_stops_when_told_and_passes_on_the_visitor_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = open(dir.path());
    engine.write(&batch(&[(b"a", Some(b"1")), (b"b", Some(b"2"))])).unwrap();
    let mut seen = 0;
    let mut once = |_: &[u8], _: &[u8]| {
        seen += 1;
        Ok(ControlFlow::Break(()))
    };
    engine.scan(b"a", b"z", &mut once).unwrap();
    assert_eq!(seen, 1);
    let refused = engine.scan(b"a", b"z", &mut |_, _| Err(Error::Visitor("enough".into())));
    assert!(matches!(refused, Err(Error::Visitor(_))));
    assert_eq!(engine.get(b"b").unwrap().as_deref(), Some(&b"2"[..]), "the engine is as good as before");
}

#[test]
fn a_fresh_directory_and_a_good_one_open_without_being_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (mut engine, aside) = SledEngine::open_or_set_aside(config(dir.path()), |_| Ok(())).unwrap();
    assert_eq!(aside, None);
    engine.write(&batch(&[(b"k", Some(b"v"))])).unwrap();
    engine.flush().unwrap();
    drop(engine);
    let check = |engine: &SledEngine| match engine.get(b"k") {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    let (engine, aside) = SledEngine::open_or_set_aside(config(dir.path()), check).unwrap();
    assert_eq!(aside, None);
    assert_eq!(engine.get(b"k").unwrap().as_deref(), Some(&b"v"[..]));
}

/// Fills a store, lets `damage` loose on its directory, and expects it to be set aside and an empty one made.
fn is_set_aside(damage: impl FnOnce(&Path)) -> SetAside {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = open(dir.path());
    for main in 1..600 {
        let key = RevisionKey { main, sub: 0, tombstone: false }.encode();
        engine.write(&batch(&[(&key, Some(&main.to_le_bytes()))])).unwrap();
    }
    engine.flush().unwrap();
    drop(engine);
    damage(&dir.path().join("state"));
    let (engine, aside) = SledEngine::open_or_set_aside(config(dir.path()), |_| Ok(())).unwrap();
    let aside = aside.expect("a damaged store is set aside");
    assert_eq!(aside.path, dir.path().join("state.bad-1"));
    assert!(aside.path.join("sled-1").is_dir());
    assert_eq!(entries(&engine, b"\0", b"\xff"), vec![]);
    assert!(dir.path().join("state").join("sled-2").is_dir(), "no path of the old store is used again");
    drop(engine);
    drop(open(dir.path()));
    aside
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let metadata = dir.join("sled-1").join("metadata");
    let names = fs::read_dir(metadata).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log")).collect()
}

#[test]
fn a_lost_metadata_log_is_noticed() {
    is_set_aside(|dir| logs(dir).iter().for_each(|log| fs::remove_file(log).unwrap()));
}

#[test]
fn a_cut_metadata_log_is_noticed() {
    is_set_aside(|dir| {
        for log in logs(dir) {
            let bytes = fs::read(&log).unwrap();
            fs::write(&log, &bytes[..bytes.len() / 2]).unwrap();
        }
    });
}

#[test]
fn an_empty_cookie_is_noticed() {
    is_set_aside(|dir| fs::write(dir.join("sled-1").join("durability_cookie"), b"").unwrap());
}

#[test]
fn flipped_bytes_in_pages_are_noticed() {
    is_set_aside(|dir| {
        for slab in fs::read_dir(dir.join("sled-1").join("slabs")).unwrap() {
            let path = slab.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
            fs::write(&path, bytes).unwrap();
        }
    });
}

#[test]
fn a_missing_manifest_is_noticed() {
    let aside = is_set_aside(|dir| fs::remove_file(dir.join(manifest::MANIFEST)).unwrap());
    assert!(aside.reason.contains("MANIFEST"), "{}", aside.reason);
}

#[test]
fn a_store_older_than_its_manifest_is_noticed() {
    let aside = is_set_aside(|dir| {
        let mut manifest = manifest::read(dir).unwrap();
        manifest.seal.batches += 1;
        manifest::write(dir, &manifest).unwrap();
    });
    assert!(aside.reason.contains("promises"), "{}", aside.reason);
}

#[test]
fn a_check_that_fails_or_panics_or_hangs_sets_the_store_aside() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let aside = |config: SledConfig, check: fn(&SledEngine) -> Result<(), String>| {
        SledEngine::open_or_set_aside(config, check).unwrap().1.unwrap()
    };
    let first = aside(config(dir.path()), |_| Err("behind the log".to_owned()));
    assert_eq!(first, SetAside { reason: "behind the log".to_owned(), path: dir.path().join("state.bad-1") });
    let second = aside(config(dir.path()), |_| panic!("no such mark"));
    assert!(second.reason.contains("no such mark"), "{}", second.reason);
    let hasty = SledConfig { open_deadline: Duration::from_millis(1), ..config(dir.path()) };
    let third = aside(hasty, |_| {
        thread::sleep(Duration::from_secs(1));
        Ok(())
    });
    assert_eq!(third.path, dir.path().join("state.bad-3"));
}

#[test]
fn a_snapshot_without_a_log_survives_two_openings() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = open(dir.path());
    engine.write(&batch(&[(b"k", Some(b"v"))])).unwrap();
    engine.flush().unwrap();
    drop(engine);
    // One more opening folds the log into the snapshot; the empty log it makes is what the crash took away.
    drop(open(dir.path()));
    logs(&dir.path().join("state")).iter().for_each(|log| fs::remove_file(log).unwrap());
    for _ in 0..3 {
        assert_eq!(open(dir.path()).get(b"k").unwrap().as_deref(), Some(&b"v"[..]));
    }
}

#[test]
fn a_store_held_by_another_is_an_error_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let _held = open(dir.path());
    let refused = SledEngine::open_or_set_aside(config(dir.path()), |_| Ok(()));
    assert!(matches!(refused, Err(Error::Io { .. })));
    assert!(!dir.path().join("state.bad-1").exists());
}

#[test]
fn a_store_that_failed_refuses_everything_and_lets_itself_be_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = open(dir.path());
    engine.write(&batch(&[(b"k", Some(b"v"))])).unwrap();
    let panics = AtomicUsize::new(0);
    let broken = engine.scan(b"\0", b"\xff", &mut |_, _| {
        panics.fetch_add(1, Ordering::Relaxed);
        panic!("as sled would")
    });
    assert!(matches!(broken, Err(Error::Panicked { .. })));
    assert_eq!(panics.load(Ordering::Relaxed), 1);
    assert!(matches!(engine.get(b"k"), Err(Error::Failed)));
    assert!(matches!(engine.write(&WriteBatch::default()), Err(Error::Failed)));
    assert!(matches!(engine.flush(), Err(Error::Failed)));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn a_killed_process_leaves_what_was_flushed_whole_batches_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = open(dir.path());
    let (applied, long) = (meta_key("applied"), vec![9; 3 * PIECE_BYTES]);
    for main in 1..40i64 {
        let key = RevisionKey { main, sub: 0, tombstone: false }.encode();
        engine.write(&batch(&[(&key, Some(&long)), (&applied, Some(&main.to_be_bytes()))])).unwrap();
        if main % 13 == 0 {
            engine.flush().unwrap();
        }
        if main % 10 == 0 {
            let killed = dir.path().join(format!("killed-{main}"));
            copy(&dir.path().join("state"), &killed.join("state"));
            let revived = open(&killed);
            let mark = revived.get(&applied).unwrap().map_or(0, |mark| i64::from_be_bytes(mark.try_into().unwrap()));
            assert!(mark >= main / 13 * 13 && mark <= main, "at {main} the copy is at {mark}");
            assert_eq!(entries(&revived, REVISIONS_START, REVISIONS_END).len() as i64, mark);
        }
    }
}
