//! Opening a directory: new, cut off by a power loss, in use, or of somebody else.

use super::*;
use crate::clock::Clock;
use crate::storage::fs::{Faults, RealDisk, SimDisk};
use crate::storage::log::{Log, LogOptions};

fn refusal(disk: &SimDisk, wal_dir: Option<&str>) -> String {
    let opened = DataDir::open(Arc::new(disk.clone()), Path::new("/data"), wal_dir.map(Path::new));
    opened.err().expect("must be refused").to_string()
}

fn open(disk: &SimDisk) -> DataDir {
    DataDir::open(Arc::new(disk.clone()), Path::new("/data"), None).unwrap()
}

fn put(disk: &SimDisk, path: &str, bytes: &[u8]) {
    let path = Path::new(path);
    disk.create_dir_all(fs::parent_of(path)).unwrap();
    disk.open(path, Open::Create).unwrap().write_at(0, bytes).unwrap();
}

#[test]
fn a_new_directory_is_private_durable_and_new_until_sealed() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("a/b");
    let mut dir = DataDir::open(Arc::new(RealDisk), &path, None).unwrap();
    assert!(dir.is_new());
    assert_eq!(dir.log_dir(), path.join("member/log"));
    for made in [path.as_path(), &path.join("member"), dir.log_dir(), &dir.state_dir()] {
        let mode = rustix::fs::stat(made).unwrap().st_mode;
        assert_eq!(mode & 0o777, 0o700, "{}", made.display());
    }
    dir.seal().unwrap();
    assert_eq!(fs::read(&RealDisk, &path.join("version")).unwrap(), b"1\n");
    let refused = DataDir::open(Arc::new(RealDisk), &path, None).err().unwrap().to_string();
    assert!(refused.contains(&format!("{} is in use by another process (pid {})", path.display(), std::process::id())));
    drop(dir);
    assert!(!DataDir::open(Arc::new(RealDisk), &path, None).unwrap().is_new());
}

#[test]
fn a_lock_that_this_process_lets_go_a_moment_later_is_waited_for() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = DataDir::open(Arc::new(RealDisk), temporary.path(), None).unwrap();
    std::thread::scope(|scope| {
        let again = scope.spawn(|| DataDir::open(Arc::new(RealDisk), temporary.path(), None).map(drop));
        std::thread::sleep(2 * OWN_LOCK_PAUSE);
        drop(dir);
        again.join().unwrap().unwrap();
    });
}

#[test]
fn a_power_cut_while_it_is_made_leaves_one_that_opens() {
    for boundary in 0..60 {
        for keep in [0.0, 0.5, 1.0] {
            let disk = SimDisk::new();
            disk.set_faults(Faults { power_off_after: Some(boundary), ..Faults::default() });
            let make = || -> Option<DataDir> {
                let mut dir = DataDir::open(Arc::new(disk.clone()), Path::new("/data"), None).ok()?;
                let options = LogOptions { must_exist: !dir.is_new(), ..LogOptions::in_memory(Clock::system()) };
                Log::open(dir.disk().clone(), dir.log_dir(), options).ok()?;
                dir.seal().ok()?;
                Some(dir)
            };
            let sealed = make().is_some();
            disk.crash(keep, boundary);
            let again = make().expect("opens after the cut");
            drop(again);
            disk.crash(0.0, boundary);
            let durable = make().expect("opens after the second cut");
            assert!(!durable.is_new());
            if sealed {
                return;
            }
        }
    }
    panic!("never sealed");
}

#[test]
fn a_second_process_is_refused_for_the_log_directory_too() {
    let disk = SimDisk::new();
    let wal_dir = Path::new("/wal");
    let first = DataDir::open(Arc::new(disk.clone()), Path::new("/other"), Some(wal_dir)).unwrap();
    assert_eq!(first.log_dir(), wal_dir);
    assert!(refusal(&disk, Some("/wal")).starts_with("/wal is in use by another process (pid "));
    drop(first);
    DataDir::open(Arc::new(disk), Path::new("/data"), Some(wal_dir)).unwrap();
}

#[test]
fn an_etcd_directory_is_refused_with_the_way_out() {
    for inside in ["/data/member/snap/db", "/data/member/wal/0.wal"] {
        let disk = SimDisk::new();
        put(&disk, inside, b"etcd");
        let refused = refusal(&disk, None);
        assert!(refused.contains("etcdctl snapshot save") && refused.contains("kelson snapshot restore"), "{refused}");
        assert!(!disk.exists(Path::new("/data/lock")).unwrap(), "nothing is written there");
    }
}

#[test]
fn a_newer_or_unreadable_version_is_refused() {
    let disk = SimDisk::new();
    put(&disk, "/data/version", b"2\n");
    assert!(refusal(&disk, None).starts_with("/data has format 2, this version reads up to 1"));
    for bad in [&b""[..], b"0", b"one", b"\xff"] {
        put(&disk, "/data/version", bad);
        assert!(refusal(&disk, None).starts_with("/data/version does not hold a format number"));
    }
}

#[test]
fn what_is_no_directory_or_cannot_be_written_is_named() {
    let disk = SimDisk::new();
    put(&disk, "/data", b"x");
    assert!(refusal(&disk, None).starts_with("/data is not a directory"));
    let disk = SimDisk::new();
    drop(open(&disk));
    disk.set_faults(Faults { read_only: true, ..Faults::default() });
    assert!(refusal(&disk, None).contains("/data/lock cannot be written"));
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("file");
    RealDisk.open(&file, Open::Create).unwrap();
    for path in [file.clone(), file.join("below")] {
        let refused = DataDir::open(Arc::new(RealDisk), &path, None).err().unwrap();
        assert!(matches!(refused, Error::NotADirectory(_)), "{refused}");
    }
}

#[test]
fn a_sealed_member_without_its_log_directory_is_refused() {
    let disk = SimDisk::new();
    let mut dir = DataDir::open(Arc::new(disk.clone()), Path::new("/data"), Some(Path::new("/wal"))).unwrap();
    dir.seal().unwrap();
    drop(dir);
    assert!(refusal(&disk, Some("/mistyped")).contains("log should be in /mistyped"));
    assert!(!disk.exists(Path::new("/mistyped")).unwrap());
}
