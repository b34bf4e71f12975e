//! What a running log answers, without faults of the disk.

use super::*;
use crate::storage::fs::{Faults, RealDisk};

#[test]
fn a_new_log_is_empty_and_stays_so() {
    let disk = new_disk();
    for _ in 0..3 {
        let (log, recovered) = open(&disk);
        assert_eq!(recovered, Recovered::default());
        assert_eq!(log.state(), recovered);
        assert_eq!(log.read(0, 10, 10).unwrap(), []);
    }
    assert_eq!(disk.read_dir(dir()).unwrap(), ["0000000001.log"]);
}

#[test]
fn entries_votes_and_hints_survive_a_clean_close() {
    let disk = new_disk();
    let (log, _) = open(&disk);
    let entries: Vec<_> = (0..5).map(|index| entry(index, 1, 100)).collect();
    append(&log, entries.clone()).unwrap();
    wait(|done| log.save_vote("vote".into(), done)).unwrap();
    log.save_committed("hint".into());
    drop(log);
    let (log, recovered) = open(&disk);
    let expected = Recovered {
        first_index: 0,
        last: Some((4, 1)),
        purged: None,
        vote: Some("vote".into()),
        committed: Some("hint".into()),
    };
    assert_eq!(recovered, expected);
    assert_eq!(all_entries(&log), entries);
}

#[test]
fn a_file_system_that_refuses_pages_past_its_cache_gets_them_through_it() {
    let disk = new_disk();
    disk.set_faults(Faults { refuse_pages: true, ..Faults::default() });
    let (log, _) = open_with(&disk, LogOptions { prepare_ahead: true, ..options() }).unwrap();
    let entries: Vec<_> = (0..200).map(|index| entry(index, 1, 300)).collect();
    entries.iter().for_each(|entry| append(&log, vec![entry.clone()]).unwrap());
    assert!(log.sizes().segments > 2);
    drop(log);
    // And again past it, behind what was written through it.
    disk.set_faults(Faults::default());
    let (log, _) = open(&disk);
    append(&log, vec![entry(200, 1, 300)]).unwrap();
    drop(log);
    disk.crash(0.0, 1);
    let (log, _) = open(&disk);
    assert_eq!(all_entries(&log).len(), 201);
    assert_eq!(all_entries(&log)[..200], entries);
}

#[test]
fn what_was_appended_is_readable_at_once_and_completions_come_in_order() {
    let disk = new_disk();
    let (log, _) = open(&disk);
    let (sender, receiver) = sync_channel(100);
    for index in 0..100 {
        let sender = sender.clone();
        log.append(vec![entry(index, 1, 300)], Box::new(move |result| sender.send((index, result.is_ok())).unwrap()));
        assert_eq!(log.read(index, index + 1, 0).unwrap(), [entry(index, 1, 300)]);
    }
    assert!((0..100).all(|index| receiver.recv().unwrap() == (index, true)));
    assert!(log.sizes().fsyncs <= 110);
    assert!(log.sizes().segments > 2);
}

#[test]
fn reads_come_from_memory_and_disk_alike_and_keep_to_their_limit() {
    let disk = new_disk();
    let (log, _) = open(&disk);
    let entries: Vec<_> = (0..100).map(|index| entry(index, 1 + index / 40, 200)).collect();
    for part in entries.chunks(7) {
        append(&log, part.to_vec()).unwrap();
    }
    assert!(log.sizes().tail_bytes <= 4 << 10);
    for start in [0, 1, 50, 80, 85, 99] {
        for end in [start, start + 1, start + 20, 1_000] {
            let expected = &entries[start as usize..(end as usize).clamp(start as usize, 100)];
            assert_eq!(log.read(start, end, usize::MAX).unwrap(), expected, "{start}..{end}");
        }
        assert_eq!(log.read(start, 1_000, 0).unwrap().len(), 1);
        assert_eq!(log.read(start, 1_000, 700).unwrap().len(), (100 - start as usize).min(3));
    }
    assert_eq!(log.read(100, 200, 10).unwrap(), []);
}

#[test]
fn an_entry_larger_than_a_segment_gets_a_larger_segment() {
    let disk = new_disk();
    let sizes = [10, 100_000, 10, 12_000, 40_000, 1];
    let entries: Vec<_> = (0..).zip(sizes).map(|(index, bytes)| entry(index, 1, bytes)).collect();
    for ahead in [false, true] {
        let (log, _) = open_with(&disk, LogOptions { prepare_ahead: ahead, ..options() }).unwrap();
        let first = log.state().last.map_or(0, |(index, _)| index + 1);
        let renumbered = (first..).zip(sizes).map(|(index, bytes)| entry(index, 1, bytes));
        renumbered.for_each(|entry| append(&log, vec![entry]).unwrap());
    }
    let (log, _) = open(&disk);
    assert_eq!(log.read(0, 6, usize::MAX).unwrap(), entries);
    assert_eq!(log.read(6, u64::MAX, usize::MAX).unwrap().len(), 6);
}

#[test]
fn a_truncated_tail_is_replaced() {
    let disk = new_disk();
    let (log, _) = open(&disk);
    append(&log, (0..10).map(|index| entry(index, 1, 50)).collect()).unwrap();
    log.truncate_after(Some(5), Box::new(|result| result.unwrap()));
    assert_eq!(log.state().last, Some((5, 1)));
    append(&log, (6..8).map(|index| entry(index, 2, 50)).collect()).unwrap();
    let expected = all_entries(&log);
    assert_eq!(expected.last(), Some(&entry(7, 2, 50)));
    drop(log);
    let (log, recovered) = open(&disk);
    assert_eq!(recovered.last, Some((7, 2)));
    assert_eq!(all_entries(&log), expected);
    wait(|done| log.truncate_after(None, done)).unwrap();
    append(&log, vec![entry(0, 3, 50)]).unwrap();
    drop(log);
    assert_eq!(all_entries(&open(&disk).0), [entry(0, 3, 50)]);
}

#[test]
fn a_purge_frees_whole_segments_and_reuses_their_files() {
    for prepare_ahead in [false, true] {
        let disk = new_disk();
        let options = LogOptions { prepare_ahead, ..options() };
        let (log, _) = open_with(&disk, options.clone()).unwrap();
        for index in 0..500 {
            append(&log, vec![entry(index, 1, 500)]).unwrap();
            if index % 20 == 19 {
                wait(|done| log.purge(index - 10, format!("id {}", index - 10).into(), done)).unwrap();
            }
        }
        assert!(log.sizes().segments <= 3, "{:?}", log.sizes());
        assert!(disk.used_bytes() <= 7 * SMALL_SEGMENT_BYTES, "{}", disk.used_bytes());
        assert!(matches!(log.read(489, 500, 10), Err(Error::Purged { first: 490 })));
        drop(log);
        let (log, recovered) = open_with(&disk, options).unwrap();
        assert_eq!((recovered.first_index, recovered.last), (490, Some((499, 1))));
        assert_eq!(recovered.purged, Some("id 489".into()));
        assert_eq!(all_entries(&log), (490..500).map(|index| entry(index, 1, 500)).collect::<Vec<_>>());
    }
}

#[test]
fn a_purge_past_the_end_starts_the_log_anew_behind_it() {
    let disk = new_disk();
    let (log, _) = open(&disk);
    append(&log, (0..60).map(|index| entry(index, 1, 400)).collect()).unwrap();
    wait(|done| log.purge(1_000, "snapshot".into(), done)).unwrap();
    assert_eq!((log.state().first_index, log.state().last), (1_001, None));
    drop(log);
    let (log, recovered) = open(&disk);
    assert_eq!((recovered.first_index, recovered.last), (1_001, None));
    append(&log, vec![entry(1_001, 4, 400)]).unwrap();
    drop(log);
    assert_eq!(open(&disk).1.last, Some((1_001, 4)));
}

#[test]
fn a_hint_is_written_when_the_log_idles_and_so_is_what_is_durable() {
    let disk = new_disk();
    let options = LogOptions { idle_mark: Duration::from_millis(1), ..options() };
    let (log, _) = open_with(&disk, options).unwrap();
    append(&log, vec![entry(0, 1, 10)]).unwrap();
    let wait_past = |bytes: u64| {
        while log.sizes().written_bytes <= bytes {
            std::thread::sleep(Duration::from_millis(1));
        }
        log.sizes().written_bytes
    };
    // Each write is padded to its page's end, so the entry's is less than a page, and the mark's brings it past one.
    let marked = wait_past(PAGE_BYTES as u64);
    log.save_committed("hint".into());
    wait_past(marked);
    disk.crash(1.0, 0);
    assert_eq!(open(&disk).1.committed, Some("hint".into()));
}

#[test]
fn syncs_are_observed_and_counted() {
    let disk = new_disk();
    let seen = Arc::new(AtomicU64::new(0));
    let counter = seen.clone();
    let observe: FsyncObserver = Arc::new(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let (log, _) = open_with(&disk, LogOptions { observe_fsync: Some(observe), ..options() }).unwrap();
    append(&log, vec![entry(0, 1, 10)]).unwrap();
    assert_eq!((seen.load(Ordering::Relaxed), log.sizes().fsyncs), (1, 1));
}

#[test]
fn without_fsync_nothing_is_synced_until_the_close() {
    let disk = new_disk();
    let (log, _) = open_with(&disk, LogOptions { unsafe_no_fsync: true, ..options() }).unwrap();
    append(&log, vec![entry(0, 1, 10)]).unwrap();
    assert_eq!(log.sizes().fsyncs, 0);
    drop(log);
    disk.crash(0.0, 0);
    assert_eq!(open(&disk).1.last, Some((0, 1)));
}

#[test]
fn the_last_handle_may_be_dropped_by_a_completion() {
    let disk = new_disk();
    let (log, _) = open(&disk);
    let (sender, receiver) = sync_channel(1);
    let clone = log.clone();
    let done = Box::new(move |_| {
        drop(clone);
        sender.send(()).unwrap();
    });
    log.append(vec![entry(0, 1, 10)], done);
    drop(log);
    receiver.recv().unwrap();
}

#[test]
fn a_log_that_must_exist_is_not_made() {
    let disk = new_disk();
    let refused = open_with(&disk, LogOptions { must_exist: true, ..options() }).err().unwrap();
    assert!(matches!(refused, Error::Missing { .. }));
    assert_eq!(disk.read_dir(dir()).unwrap(), [""; 0]);
}

#[test]
fn a_real_directory_serves_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { prepare_ahead: true, ..options() };
    let entries: Vec<_> = (0..200).map(|index| entry(index, 1, 500)).collect();
    let (log, _) = Log::open(Arc::new(RealDisk), dir.path(), options.clone()).unwrap();
    for part in entries.chunks(3) {
        append(&log, part.to_vec()).unwrap();
    }
    wait(|done| log.purge(99, "p".into(), done)).unwrap();
    drop(log);
    let (log, recovered) = Log::open(Arc::new(RealDisk), dir.path(), options).unwrap();
    assert_eq!((recovered.first_index, recovered.last), (100, Some((199, 1))));
    assert_eq!(all_entries(&log), entries[100..]);
}

/// A file of format 1, byte for byte: a header, and the records Start, Entry, Vote and Mark. Must open for ever.
#[test]
fn a_log_of_format_1_opens() {
    let header = "6b656c736f6e6c673b0b83ea01000000010000000000000001000000000000000040000000000000";
    let records = concat!(
        "78a589a81c0000000101000000000000010000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000ffffffffffffffffffffffff00000000",
        "9150d0810a00000001020000000000000100000000000000000000000000000001000000000000005010000001000000302f312f070707070707000000000000",
        "2eebf4070400000001030000000000000100000000000000000000000000000000000000000000009010000001000000766f746500000000",
        "c6625599000000000107000000000000010000000000000000000000000000000000000000000000c810000001000000",
    );
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let disk = new_disk();
    let file = disk.open(&segment_path(1), crate::storage::fs::Open::Create).unwrap();
    file.set_len(SMALL_SEGMENT_BYTES).unwrap();
    file.write_at(0, &bytes(header)).unwrap();
    file.write_at(4_096, &bytes(records)).unwrap();
    let (log, recovered) = open(&disk);
    let expected = Recovered { last: Some((0, 1)), vote: Some("vote".into()), ..Recovered::default() };
    assert_eq!(recovered, expected);
    assert_eq!(all_entries(&log), [entry(0, 1, 10)]);
}
