//! What the simulated disk forgets and keeps, and that it agrees with the real one.

use super::*;

fn written(disk: &SimDisk, path: &Path, bytes: &[u8]) -> Arc<dyn File> {
    let file = disk.open(path, Open::Create).unwrap();
    file.write_at(0, bytes).unwrap();
    file
}

fn durable_file(disk: &SimDisk, path: &Path, bytes: &[u8]) -> Arc<dyn File> {
    let file = written(disk, path, bytes);
    file.sync_all().unwrap();
    disk.sync_dir(parent_of(path)).unwrap();
    file
}

#[test]
fn pages_are_whole_begin_at_a_page_and_end_in_zeroes() {
    let mut pages = Pages::default();
    let long = vec![7; 3 * PAGE_BYTES];
    for (parts, len) in [(vec![], 0), (vec![&b"a"[..], b"", b"bc"], PAGE_BYTES), (vec![&long[..]], 3 * PAGE_BYTES)] {
        let whole = pages.of(&parts);
        assert_eq!((whole.len(), whole.as_ptr().addr() % PAGE_BYTES), (len, 0));
        let given = parts.concat();
        assert_eq!(whole[..given.len()], given);
        assert!(whole[given.len()..].iter().all(|byte| *byte == 0), "nothing of what was there before");
    }
    pages.shrink_to(PAGE_BYTES);
    assert_eq!(pages.bytes.capacity(), 0);
}

#[test]
fn what_was_not_synced_is_lost_or_kept_as_the_crash_says() {
    let disk = SimDisk::new();
    let path = Path::new("f");
    let file = durable_file(&disk, path, b"old");
    file.write_at(0, b"new").unwrap();
    assert_eq!(read(&disk, path).unwrap(), b"new");
    disk.crash(0.0, 1);
    assert_eq!(read(&disk, path).unwrap(), b"old");
    let file = disk.open(path, Open::Write).unwrap();
    file.write_at(0, b"new").unwrap();
    disk.crash(1.0, 1);
    assert_eq!(read(&disk, path).unwrap(), b"new");
    assert!(file.write_at(0, b"x").is_err(), "a handle from before the crash must be dead");
}

#[test]
fn names_need_a_sync_of_their_directory() {
    let disk = SimDisk::new();
    let (dir, path) = (Path::new("d"), Path::new("d/f"));
    disk.create_dir_all(dir).unwrap();
    written(&disk, path, b"x").sync_all().unwrap();
    disk.crash(0.0, 1);
    assert!(disk.exists(dir).unwrap());
    assert!(!disk.exists(path).unwrap());
    durable_file(&disk, path, b"x");
    disk.rename(path, Path::new("d/g")).unwrap();
    disk.crash(0.0, 1);
    assert_eq!(disk.read_dir(dir).unwrap(), ["f"]);
    disk.rename(path, Path::new("d/g")).unwrap();
    disk.crash(1.0, 1);
    assert_eq!(disk.read_dir(dir).unwrap(), ["g"]);
}

#[test]
fn pages_are_torn_at_sectors() {
    let disk = SimDisk::new();
    let path = Path::new("f");
    let torn = (0..50).any(|seed| {
        durable_file(&disk, path, &[1; PAGE_BYTES]);
        disk.open(path, Open::Write).unwrap().write_at(0, &[2; PAGE_BYTES]).unwrap();
        disk.crash(0.5, seed);
        let bytes = read(&disk, path).unwrap();
        assert!(bytes.chunks(512).all(|sector| sector == [1; 512] || sector == [2; 512]));
        bytes.contains(&1) && bytes.contains(&2)
    });
    assert!(torn);
}

#[test]
fn after_a_failed_sync_the_next_one_does_not_bring_the_bytes_back() {
    let disk = SimDisk::new();
    let path = Path::new("f");
    let file = durable_file(&disk, path, b"old");
    file.write_at(0, b"new").unwrap();
    disk.set_faults(Faults { fail_sync_after: Some(0), ..Faults::default() });
    assert!(file.sync_data().is_err());
    assert_eq!(read(&disk, path).unwrap(), b"new");
    file.sync_data().unwrap();
    disk.crash(1.0, 1);
    assert_eq!(read(&disk, path).unwrap(), b"old");
}

#[test]
fn space_is_counted_and_given_back() {
    let disk = SimDisk::new();
    disk.set_faults(Faults { capacity_bytes: Some(10_000), ..Faults::default() });
    let file = disk.open(Path::new("f"), Open::Create).unwrap();
    file.preallocate(8_000).unwrap();
    file.write_at(7_000, &[1; 1_000]).unwrap();
    let full = file.write_at(7_500, &[1; 5_000]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    file.set_len(100).unwrap();
    assert_eq!(disk.used_bytes(), 100);
    disk.remove(Path::new("f")).unwrap();
    disk.sync_dir(Path::new(".")).unwrap();
    drop(file);
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn power_off_stops_everything_until_the_crash() {
    let disk = SimDisk::new();
    let path = Path::new("f");
    let file = durable_file(&disk, path, b"old");
    disk.set_faults(Faults { power_off_after: Some(1), ..Faults::default() });
    file.write_at(0, b"new").unwrap();
    assert!(file.sync_data().is_err());
    assert!(file.read_at(0, &mut [0]).is_err());
    assert!(disk.open(path, Open::Read).is_err());
    disk.crash(0.0, 1);
    assert_eq!(read(&disk, path).unwrap(), b"old");
}

#[test]
fn both_disks_agree_on_reads_lengths_and_locks() {
    let dir = tempfile::tempdir().unwrap();
    let disks: [(&dyn Disk, &Path); 2] = [(&RealDisk, dir.path()), (&SimDisk::new(), Path::new("/base"))];
    for (disk, base) in disks {
        let inner = base.join("a/b");
        disk.create_dir_all(&inner).unwrap();
        let path = inner.join("f");
        replace(disk, &path, b"hello").unwrap();
        assert_eq!(disk.read_dir(&inner).unwrap(), ["f"]);
        assert_eq!(disk.read_dir(base).unwrap(), ["a"]);
        let file = disk.open(&path, Open::Write).unwrap();
        let mut buffer = [9; 8];
        assert_eq!(file.read_at(3, &mut buffer).unwrap(), 2);
        file.preallocate(6_000).unwrap();
        file.preallocate(100).unwrap();
        assert_eq!(file.len().unwrap(), 6_000);
        assert_eq!(file.read_at(3, &mut buffer).unwrap(), 8);
        assert_eq!(&buffer, b"lo\0\0\0\0\0\0");
        file.set_len(4).unwrap();
        file.sync_all().unwrap();
        assert_eq!(read(disk, &path).unwrap(), b"hell");
        assert_eq!(disk.open(&inner.join("g"), Open::Write).err().unwrap().kind(), io::ErrorKind::NotFound);
        let lock = disk.lock(&inner.join("lock")).unwrap();
        assert!(lock.is_some());
        assert!(disk.lock(&inner.join("lock")).unwrap().is_none());
        drop(lock);
        assert!(disk.lock(&inner.join("lock")).unwrap().is_some());
        disk.remove(&path).unwrap();
        assert_eq!(disk.kind(&path).unwrap(), None);
    }
}
