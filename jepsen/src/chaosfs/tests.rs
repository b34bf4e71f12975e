//! The model without a mount, then the mount itself where `/dev/fuse` is there.

use std::ffi::OsStr;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use super::*;

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

/// A disk with one synced, named, empty file.
fn disk_with_file() -> (Disk, u64) {
    let mut disk = Disk::new(Directories::Strict);
    let ino = disk.make(ROOT, name("f"), Kind::File, 0o644, None).unwrap();
    disk.sync(ROOT).unwrap();
    (disk, ino)
}

fn cut(disk: &mut Disk, keep: f64) -> Cut {
    disk.power_cut(keep, &mut Rng::new(1))
}

fn content(disk: &mut Disk, path: &str) -> Option<Vec<u8>> {
    let ino = disk.resolve(Path::new(path)).ok()?;
    let size = disk.attributes(ino).unwrap().size;
    Some(disk.read(ino, 0, size as usize).unwrap())
}

#[test]
fn a_power_cut_loses_what_was_not_synced() {
    let (mut disk, ino) = disk_with_file();
    disk.write(ino, 0, b"old").unwrap();
    disk.sync(ino).unwrap();
    disk.write(ino, 0, b"new and longer").unwrap();
    assert_eq!(disk.pages_dirty(), 1);
    let cut = cut(&mut disk, 0.0);
    assert_eq!((cut.pages_dirty, cut.pages_lost), (1, 1));
    assert_eq!(content(&mut disk, "f").unwrap(), b"old");
}

#[test]
fn a_power_cut_that_keeps_everything_loses_nothing_but_may_tear() {
    let (mut disk, ino) = disk_with_file();
    let data: Vec<u8> = (0..PAGE * 64).map(|i| (i % 251) as u8 | 1).collect();
    disk.write(ino, 0, &data).unwrap();
    let cut = cut(&mut disk, 1.0);
    assert_eq!((cut.pages_dirty, cut.pages_lost), (64, 0));
    assert!(cut.pages_torn > 0, "one in eight of 64 pages should be torn");
    let after = content(&mut disk, "f").unwrap();
    for (sector, (new, kept)) in data.chunks(SECTOR).zip(after.chunks(SECTOR)).enumerate() {
        assert!(kept == new || kept.iter().all(|&byte| byte == 0), "sector {sector} is neither old nor new");
    }
}

#[test]
fn a_synchronous_write_makes_only_its_own_pages_durable() {
    let (mut disk, ino) = disk_with_file();
    disk.write(ino, 0, &[1; PAGE]).unwrap();
    disk.write(ino, PAGE as u64, &[2; PAGE]).unwrap();
    disk.sync_written(ino, PAGE as u64, PAGE).unwrap();
    assert_eq!(cut(&mut disk, 0.0).pages_lost, 1);
    let after = content(&mut disk, "f").unwrap();
    assert!(after[..PAGE].iter().all(|&byte| byte == 0));
    assert!(after[PAGE..].iter().all(|&byte| byte == 2));
}

#[test]
fn a_new_file_needs_a_sync_of_its_directory() {
    let mut disk = Disk::new(Directories::Strict);
    let ino = disk.make(ROOT, name("f"), Kind::File, 0o644, None).unwrap();
    disk.write(ino, 0, b"data").unwrap();
    disk.sync(ino).unwrap();
    assert_eq!(cut(&mut disk, 0.0).entries_lost, 1);
    assert_eq!(content(&mut disk, "f"), None);
}

#[test]
fn a_journal_commits_names_with_any_sync() {
    let mut disk = Disk::new(Directories::Journal);
    let ino = disk.make(ROOT, name("f"), Kind::File, 0o644, None).unwrap();
    disk.write(ino, 0, b"data").unwrap();
    disk.sync(ino).unwrap();
    cut(&mut disk, 0.0);
    assert_eq!(content(&mut disk, "f").unwrap(), b"data");
}

#[test]
fn a_rename_is_undone_whole_until_its_directory_is_synced() {
    let (mut disk, ino) = disk_with_file();
    disk.write(ino, 0, b"one").unwrap();
    disk.sync(ino).unwrap();
    let other = disk.make(ROOT, name("tmp"), Kind::File, 0o644, None).unwrap();
    disk.write(other, 0, b"two").unwrap();
    disk.sync(other).unwrap();
    disk.rename((ROOT, name("tmp")), (ROOT, name("f")), false).unwrap();
    assert_eq!(content(&mut disk, "f").unwrap(), b"two");
    cut(&mut disk, 0.0);
    assert_eq!(content(&mut disk, "f").unwrap(), b"one");
    assert_eq!(content(&mut disk, "tmp"), None);
}

#[test]
fn a_rename_survives_once_its_directory_is_synced() {
    let (mut disk, ino) = disk_with_file();
    disk.write(ino, 0, b"one").unwrap();
    disk.sync(ino).unwrap();
    let dir = disk.make(ROOT, name("d"), Kind::Directory, 0o755, None).unwrap();
    disk.rename((ROOT, name("f")), (dir, name("g")), false).unwrap();
    disk.sync(ROOT).unwrap();
    cut(&mut disk, 0.0);
    assert_eq!(content(&mut disk, "d/g").unwrap(), b"one");
    assert_eq!(content(&mut disk, "f"), None);
    assert_eq!(disk.entries(disk.resolve(Path::new("d")).unwrap()).unwrap()[1].1, ROOT);
}

#[test]
fn a_removed_file_comes_back_unless_its_directory_is_synced() {
    let (mut disk, ino) = disk_with_file();
    disk.write(ino, 0, b"data").unwrap();
    disk.sync(ino).unwrap();
    disk.unlink(ROOT, name("f")).unwrap();
    assert_eq!(content(&mut disk, "f"), None);
    cut(&mut disk, 0.0);
    assert_eq!(content(&mut disk, "f").unwrap(), b"data");
    disk.unlink(ROOT, name("f")).unwrap();
    disk.sync(ROOT).unwrap();
    cut(&mut disk, 0.0);
    assert_eq!(content(&mut disk, "f"), None);
}

#[test]
fn a_removed_file_that_is_open_can_be_read_and_is_dropped_at_close() {
    let (mut disk, ino) = disk_with_file();
    disk.write(ino, 0, b"data").unwrap();
    disk.opened(ino).unwrap();
    disk.unlink(ROOT, name("f")).unwrap();
    disk.sync(ROOT).unwrap();
    assert_eq!(disk.read(ino, 0, 10).unwrap(), b"data");
    disk.closed(ino);
    assert!(disk.read(ino, 0, 10).is_err());
}

#[test]
fn a_truncated_file_shows_no_old_bytes_when_it_grows_again() {
    let (mut disk, ino) = disk_with_file();
    disk.write(ino, 0, &[7; 3 * PAGE]).unwrap();
    disk.sync(ino).unwrap();
    disk.set_size(ino, 10).unwrap();
    disk.set_size(ino, 2 * PAGE as u64).unwrap();
    disk.sync(ino).unwrap();
    cut(&mut disk, 0.0);
    let after = content(&mut disk, "f").unwrap();
    assert_eq!(after.len(), 2 * PAGE);
    assert!(after[..10].iter().all(|&byte| byte == 7) && after[10..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_truncation_that_was_not_synced_is_undone() {
    let (mut disk, ino) = disk_with_file();
    disk.write(ino, 0, &[7; 2 * PAGE]).unwrap();
    disk.sync(ino).unwrap();
    disk.set_size(ino, 0).unwrap();
    cut(&mut disk, 0.0);
    assert_eq!(content(&mut disk, "f").unwrap(), [7; 2 * PAGE]);
}

#[test]
fn a_failed_sync_marks_pages_clean_and_a_later_sync_does_not_save_them() {
    let (mut disk, ino) = disk_with_file();
    disk.write(ino, 0, b"data").unwrap();
    disk.faults.fail_sync_in = Some(1);
    assert!(disk.sync(ino).is_err());
    disk.sync(ino).unwrap();
    assert_eq!(disk.pages_dirty(), 1);
    assert_eq!(cut(&mut disk, 1.0).pages_lost, 1);
    assert_eq!(content(&mut disk, "f").unwrap().iter().filter(|&&byte| byte != 0).count(), 0);
}

#[test]
fn a_lying_disk_answers_and_loses() {
    let (mut disk, ino) = disk_with_file();
    disk.write(ino, 0, b"data").unwrap();
    disk.faults.lying_sync = true;
    disk.sync(ino).unwrap();
    assert_eq!(cut(&mut disk, 0.0).pages_lost, 1);
    assert_eq!(content(&mut disk, "f").unwrap(), b"");
}

#[test]
fn a_full_disk_refuses_new_pages_but_not_reserved_ones() {
    let (mut disk, ino) = disk_with_file();
    disk.allocate(ino, 0, 2 * PAGE as u64, false).unwrap();
    disk.faults.capacity_bytes = Some(2 * PAGE as u64);
    disk.write(ino, 0, &[1; 2 * PAGE]).unwrap();
    assert!(disk.write(ino, 2 * PAGE as u64, b"x").is_err());
    disk.set_size(ino, 0).unwrap();
    disk.write(ino, 2 * PAGE as u64, b"x").unwrap();
}

#[test]
fn a_flipped_bit_is_seen_now_and_after_a_cut() {
    let (mut disk, ino) = disk_with_file();
    disk.write(ino, 0, &[0; 8]).unwrap();
    disk.sync(ino).unwrap();
    disk.flip_bit(Path::new("f"), 3, 1).unwrap();
    assert_eq!(disk.read(ino, 0, 8).unwrap()[3], 2);
    cut(&mut disk, 0.0);
    assert_eq!(content(&mut disk, "f").unwrap()[3], 2);
    assert!(disk.flip_bit(Path::new("f"), 8, 1).is_err());
}

#[test]
fn the_same_seed_cuts_the_same_way() {
    let run = |seed| {
        let (mut disk, ino) = disk_with_file();
        disk.write(ino, 0, &[9; 40 * PAGE]).unwrap();
        disk.power_cut(0.5, &mut Rng::new(seed));
        content(&mut disk, "f").unwrap()
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[test]
fn through_the_kernel_synced_data_survives_and_the_rest_does_not() {
    if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
        eprintln!("no /dev/fuse or not root: the mount is not tested here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut fs = ChaosFs::mount(dir.path(), Directories::Strict).unwrap();
    let open = |flags: u32| {
        let path = dir.path().join("log");
        std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(flags as i32)
            .open(path)
    };
    let file = open(0).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    file.write_all_at(b"first", 0).unwrap();
    file.sync_all().unwrap();
    std::fs::File::open(dir.path()).unwrap().sync_all().unwrap();
    let synchronous = open(rustix::fs::OFlags::DSYNC.bits()).unwrap();
    synchronous.write_all_at(b"second", 8192).unwrap();
    file.write_all_at(b"third", 65536).unwrap();
    let direct = open((rustix::fs::OFlags::DSYNC | rustix::fs::OFlags::DIRECT).bits()).unwrap();
    let buffer = vec![4; 2 * PAGE];
    let aligned = buffer.as_ptr().align_offset(PAGE);
    direct.write_all_at(&buffer[aligned..aligned + PAGE], 16384).unwrap();
    // Neither path of synchronous writes makes other pages durable, nor swallows the sync that follows it.
    let syncs = fs.counters().syncs;
    direct.sync_data().unwrap();
    assert_eq!(fs.counters().syncs, syncs + 1);
    file.write_all_at(b"third", 65536).unwrap();
    direct.write_all_at(&buffer[aligned..aligned + PAGE], 16384).unwrap();
    synchronous.write_all_at(b"second", 8192).unwrap();
    assert_eq!((fs.counters().syncs, fs.pages_dirty()), (syncs + 1, 1));
    synchronous.sync_data().unwrap();
    assert_eq!((fs.counters().syncs, fs.pages_dirty()), (syncs + 2, 0));
    file.write_all_at(b"fourth", 65536).unwrap();
    drop((file, synchronous, direct));

    let cut = fs.power_cut(0.0, 1).unwrap();
    assert_eq!(cut.pages_lost, 1);
    let mut file = open(0).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    let mut read = |offset: u64, length: usize| {
        let mut data = vec![0; length];
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.read_exact(&mut data).unwrap();
        data
    };
    assert_eq!(read(0, 5), b"first");
    assert_eq!(read(8192, 6), b"second");
    assert_eq!(read(16384, PAGE), [4; PAGE]);
    assert_eq!(read(65536, 6), *b"third\0");

    fs.faults(|faults| faults.read_only = true);
    let mut file = open(0).unwrap();
    assert!(file.write_all(b"x").is_err());
}
