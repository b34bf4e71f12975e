//! Disks that fail, fill up, or change what was written: refuse what was promised and is gone, cut what never was.

use super::*;
use crate::storage::fs::{Faults, Open};
use crate::storage::record::Position;

/// A cleanly closed log of a few segments.
fn written() -> (SimDisk, Recovered, Vec<LogEntry>) {
    let disk = new_disk();
    let (log, _) = open(&disk);
    for index in 0..12 {
        append(&log, vec![entry(2 * index, 1, 2_500), entry(2 * index + 1, 1, 30)]).unwrap();
        wait(|done| log.save_vote(format!("vote {index}").into(), done)).unwrap();
    }
    let (state, entries) = (log.state(), all_entries(&log));
    drop(log);
    (disk, state, entries)
}

/// Where the valid records of a segment are, by kind.
fn records(disk: &SimDisk, number: u32) -> Vec<(Kind, std::ops::Range<u64>)> {
    let bytes = crate::storage::fs::read(disk, &segment_path(number)).unwrap();
    let epoch = crate::storage::record::SegmentHeader::decode(&bytes).unwrap().epoch;
    let mut offset = segment::FIRST_OFFSET as usize;
    let mut found = Vec::new();
    while let Some((record, _)) = Record::decode(&bytes[offset..], epoch) {
        let end = offset + record::RECORD_HEADER_BYTES + record.payload.len();
        found.push((record.kind, offset as u64..end as u64));
        offset += record.bytes();
    }
    found
}

fn assert_damaged(error: &Error, number: u32, within: std::ops::RangeInclusive<u64>) {
    match error {
        Error::Damaged { file, offset, .. } if *file == segment_path(number) && within.contains(offset) => {}
        other => panic!("expected damage of segment {number} within {within:?}, got: {other}"),
    }
    let text = error.to_string();
    assert!(text.contains(&segment_path(number).display().to_string()) && text.contains("snapshot restore"), "{text}");
}

#[test]
fn a_flipped_bit_in_any_acknowledged_record_is_refused_with_its_place() {
    let (disk, state, entries) = written();
    let mut refused = 0;
    for number in 1..=3 {
        let records = records(&disk, number);
        assert!(records.len() > 4);
        for (kind, range) in &records {
            // The last record is the mark of the close: nothing is lost with it.
            let last_words = number == 3 && *range == records.last().unwrap().1;
            for offset in range.clone().step_by(if *kind == Kind::Entry { 23 } else { 5 }) {
                let bit = (offset % 8) as u8;
                disk.flip_bit(&segment_path(number), offset, bit).unwrap();
                if !last_words {
                    assert_damaged(&refusal(&disk), number, range.start..=range.start);
                    refused += 1;
                }
                disk.flip_bit(&segment_path(number), offset, bit).unwrap();
            }
        }
    }
    assert!(refused > 500);
    let (log, recovered) = open(&disk);
    assert_eq!((recovered, all_entries(&log)), (state, entries));
}

#[test]
fn a_flipped_bit_in_the_last_mark_loses_nothing() {
    let (disk, state, entries) = written();
    let (kind, range) = records(&disk, 3).last().unwrap().clone();
    assert_eq!(kind, Kind::Mark);
    disk.flip_bit(&segment_path(3), range.start + 20, 3).unwrap();
    let (log, recovered) = open(&disk);
    assert_eq!((recovered, all_entries(&log)), (state, entries));
    append(&log, vec![entry(24, 1, 10)]).unwrap();
    drop(log);
    assert_eq!(open(&disk).1.last, Some((24, 1)));
}

#[test]
fn the_last_batch_is_protected_by_the_mark_of_an_idle_log() {
    let disk = new_disk();
    let (log, _) = open_with(&disk, LogOptions { idle_mark: Duration::from_millis(1), ..options() }).unwrap();
    append(&log, vec![entry(0, 1, 100)]).unwrap();
    while records(&disk, 1).last().unwrap().0 != Kind::Mark {
        std::thread::sleep(Duration::from_millis(1));
    }
    // The process is killed, the machine goes on: what was written is there.
    disk.crash(1.0, 0);
    let range = records(&disk, 1)[1].1.clone();
    disk.flip_bit(&segment_path(1), range.end - 1, 0).unwrap();
    assert_damaged(&refusal(&disk), 1, range.start..=range.start);
}

#[test]
fn a_damaged_segment_header_is_refused_and_so_is_a_newer_format() {
    let (disk, ..) = written();
    for number in 1..=3 {
        disk.flip_bit(&segment_path(number), 17, 0).unwrap();
        assert_damaged(&refusal(&disk), number, 0..=0);
        disk.flip_bit(&segment_path(number), 17, 0).unwrap();
    }
    let file = disk.open(&segment_path(1), Open::Write).unwrap();
    let mut page = [0; 40];
    file.read_at(0, &mut page).unwrap();
    page[12] = 9;
    let crc = crc32fast::hash(&page[12..]);
    page[8..12].copy_from_slice(&crc.to_le_bytes());
    file.write_at(0, &page).unwrap();
    assert!(matches!(refusal(&disk), Error::Format { found: 9, .. }));
}

#[test]
fn a_shortened_or_missing_segment_is_refused() {
    for number in 1..=3 {
        for len in [0, 5_000, SMALL_SEGMENT_BYTES - 1] {
            let (disk, ..) = written();
            disk.open(&segment_path(number), Open::Write).unwrap().set_len(len).unwrap();
            assert_damaged(&refusal(&disk), number, 0..=len);
        }
    }
    for number in 1..=2 {
        let (disk, ..) = written();
        disk.remove(&segment_path(number)).unwrap();
        assert_damaged(&refusal(&disk), number, 0..=0);
    }
}

#[test]
fn a_lost_page_in_the_middle_is_refused() {
    let (disk, ..) = written();
    let file = disk.open(&segment_path(2), Open::Write).unwrap();
    file.write_at(8_192, &[0; 4_096]).unwrap();
    assert_damaged(&refusal(&disk), 2, 4_096..=12_288);
}

#[test]
fn segments_under_each_others_names_are_refused() {
    let (disk, ..) = written();
    let aside = Path::new("aside");
    disk.rename(&segment_path(1), aside).unwrap();
    disk.rename(&segment_path(2), &segment_path(1)).unwrap();
    disk.rename(aside, &segment_path(2)).unwrap();
    assert_damaged(&refusal(&disk), 1, 0..=0);
}

/// Writes a batch whose sync fails, so that it stands on disk unacknowledged; then the process ends, not the machine.
fn with_unacknowledged_batch() -> (SimDisk, u64) {
    let disk = new_disk();
    let (log, _) = open(&disk);
    append(&log, vec![entry(0, 1, 300)]).unwrap();
    disk.set_faults(Faults { fail_sync_after: Some(0), ..Faults::default() });
    append(&log, (1..4).map(|index| entry(index, 1, 300)).collect()).unwrap_err();
    drop(log);
    let start = records(&disk, 1)[2].1.start;
    (disk, start)
}

#[test]
fn an_unacknowledged_tail_is_cut_where_it_is_torn_and_cannot_come_back() {
    for torn in [0, 1, 2_u64] {
        let (disk, start) = with_unacknowledged_batch();
        let record_bytes = record::record_bytes(300) as u64;
        disk.flip_bit(&segment_path(1), start + torn * record_bytes + 100, 1).unwrap();
        let (log, recovered) = open(&disk);
        assert_eq!(recovered.last, Some((torn, 1)));
        // A record of the same size goes where the bad one was: those behind it must not fit on.
        append(&log, vec![entry(torn + 1, 2, 300)]).unwrap();
        drop(log);
        assert_eq!(open(&disk).1.last, Some((torn + 1, 2)));
    }
}

#[test]
fn a_whole_record_behind_the_cut_does_not_follow_the_next_one() {
    let disk = new_disk();
    let (log, _) = open(&disk);
    // Records that fill a page each: no padding of a later write covers what stands behind it.
    let page = PAGE_BYTES as u64;
    let payload_bytes = PAGE_BYTES - record::RECORD_HEADER_BYTES;
    let start_bytes = records(&disk, 1)[0].1.clone().count().next_multiple_of(record::RECORD_ALIGN);
    append(&log, vec![entry(0, 1, payload_bytes - start_bytes)]).unwrap();
    disk.set_faults(Faults { fail_sync_after: Some(0), ..Faults::default() });
    append(&log, vec![entry(1, 1, payload_bytes), entry(2, 1, payload_bytes)]).unwrap_err();
    drop(log);
    assert_eq!(records(&disk, 1)[3].1, 3 * page..4 * page);
    disk.flip_bit(&segment_path(1), 2 * page + 100, 0).unwrap();
    let (log, recovered) = open(&disk);
    assert_eq!(recovered.last, Some((0, 1)));
    append(&log, vec![entry(1, 2, payload_bytes)]).unwrap();
    disk.crash(1.0, 0);
    drop(log);
    assert_eq!(open(&disk).1.last, Some((1, 2)));
}

#[test]
fn what_a_failed_sync_left_readable_is_durable_after_the_next_start() {
    let (disk, _) = with_unacknowledged_batch();
    let (log, recovered) = open(&disk);
    assert_eq!(recovered.last, Some((3, 1)));
    disk.crash(0.0, 0);
    drop(log);
    assert_eq!(open(&disk).1.last, Some((3, 1)));
}

#[test]
fn after_a_failure_every_call_says_so_and_the_owner_is_told() {
    for faults in [
        Faults { fail_sync_after: Some(0), ..Faults::default() },
        Faults { fail_write_after: Some(0), ..Faults::default() },
    ] {
        let disk = new_disk();
        let (log, _) = open(&disk);
        append(&log, vec![entry(0, 1, 10)]).unwrap();
        assert_eq!(log.failure(), None);
        disk.set_faults(faults);
        assert!(append(&log, vec![entry(1, 1, 10)]).unwrap_err().to_string().contains("0000000001.log"));
        assert!(log.failure().unwrap().contains("0000000001.log"));
        assert!(append(&log, vec![entry(2, 1, 10)]).is_err());
        assert!(wait(|done| log.save_vote("v".into(), done)).is_err());
        assert!(wait(|done| log.truncate_after(Some(0), done)).is_err());
        assert!(wait(|done| log.purge(0, "p".into(), done)).is_err());
        assert!(matches!(log.read(0, 1, 10), Err(Error::Failed(_))));
        let syncs = disk.boundaries();
        drop(log);
        assert_eq!(disk.boundaries(), syncs, "nothing is written after a failure");
    }
}

#[test]
fn a_full_disk_fails_the_log_but_keeps_what_was_acknowledged() {
    for prepare_ahead in [false, true] {
        let disk = new_disk();
        let options = LogOptions { prepare_ahead, ..options() };
        let (log, _) = open_with(&disk, options.clone()).unwrap();
        let capacity_bytes = Some(SMALL_SEGMENT_BYTES * 5 / 2);
        disk.set_faults(Faults { capacity_bytes, ..Faults::default() });
        let failed = (0..100).map(|index| (index, append(&log, vec![entry(index, 1, 900)]))).find(|(_, r)| r.is_err());
        let (failed, result) = failed.unwrap();
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
        drop(log);
        disk.crash(0.0, 0);
        disk.set_faults(Faults { capacity_bytes, ..Faults::default() });
        let (log, recovered) = open_with(&disk, options).unwrap();
        assert_eq!(recovered.last, Some((failed - 1, 1)));
        assert_eq!(all_entries(&log).len() as u64, failed);
    }
}

#[test]
fn a_disk_that_cannot_be_read_or_written_is_an_error_with_the_files_name() {
    let (disk, ..) = written();
    for count in 0..6 {
        disk.set_faults(Faults { fail_read_after: Some(count), ..Faults::default() });
        let error = refusal(&disk);
        assert!(matches!(error, Error::Io { .. }) && error.to_string().contains(".log"), "{error}");
    }
    disk.set_faults(Faults { read_only: true, ..Faults::default() });
    assert!(matches!(refusal(&disk), Error::Io { .. }));
}

#[test]
fn damage_found_by_a_read_is_an_error_and_no_wrong_entry() {
    let disk = new_disk();
    let (log, _) = open(&disk);
    for index in 0..20 {
        append(&log, vec![entry(index, 1, 1_000)]).unwrap();
    }
    let range = records(&disk, 1)[3].1.clone();
    disk.flip_bit(&segment_path(1), range.start + 500, 0).unwrap();
    assert_eq!(log.read(0, 2, 10_000).unwrap().len(), 2);
    assert_damaged(&log.read(0, 5, 10_000).unwrap_err(), 1, range.start..=range.start);
}

#[test]
fn files_left_by_an_interrupted_preparation_or_removal_do_no_harm() {
    let (disk, state, entries) = written();
    let made =
        |name: &str, bytes: &[u8]| disk.open(&dir().join(name), Open::Create).unwrap().write_at(0, bytes).unwrap();
    made("0000000009.new", &[7; 5_000]);
    made("0000000002.spare", &[7; 5_000]);
    made("lock", b"1");
    let (log, recovered) = open(&disk);
    assert_eq!((recovered, all_entries(&log)), (state, entries));
    drop(log);
    assert!(!disk.exists(&dir().join("0000000009.new")).unwrap());
    assert!(!disk.exists(&dir().join("0000000002.spare")).unwrap());
}

#[test]
fn old_records_in_a_recycled_file_are_never_taken_for_new_ones() {
    let disk = new_disk();
    let (log, _) = open(&disk);
    append(&log, vec![entry(0, 1, 464)]).unwrap();
    drop(log);
    // Every entry has the same size, so that old ones stand where new ones would be looked for.
    for round in 0..60_u64 {
        let (log, recovered) = open(&disk);
        let next = recovered.last.map_or(recovered.first_index, |(index, _)| index + 1);
        for index in next..next + 3 + round % 5 {
            append(&log, vec![entry(index, round + 2, 464)]).unwrap();
        }
        let (last, expected) = (log.state().last, all_entries(&log));
        wait(|done| log.purge(last.unwrap().0 - 2, "p".into(), done)).unwrap();
        disk.crash(0.0, round);
        drop(log);
        let (log, recovered) = open(&disk);
        assert_eq!(recovered.last, last);
        assert_eq!(all_entries(&log), expected[expected.len() - 2..]);
    }
}

#[test]
fn spares_of_another_size_are_not_used_when_the_size_changes() {
    let disk = new_disk();
    for segment_bytes in [SMALL_SEGMENT_BYTES, 2 * SMALL_SEGMENT_BYTES, SMALL_SEGMENT_BYTES] {
        let options = LogOptions { segment_bytes, ..options() };
        let (log, recovered) = open_with(&disk, options.clone()).unwrap();
        let next = recovered.last.map_or(0, |(index, _)| index + 1);
        for index in next..next + 100 {
            append(&log, vec![entry(index, 1, 900)]).unwrap();
        }
        wait(|done| log.purge(next + 98, "p".into(), done)).unwrap();
        drop(log);
        assert!(disk.read_dir(dir()).unwrap().iter().any(|name| name.ends_with(segment::SPARE)));
        assert_eq!(open_with(&disk, options).unwrap().1.last, Some((next + 99, 1)));
    }
}

/// Changes a part of a segment and gives it a CRC that fits: of its header, or of the record that begins at `start`.
fn forge(disk: &SimDisk, number: u32, start: u64, at: u64, value: u64) -> SimDisk {
    let forged = SimDisk::new();
    forged.create_dir_all(segment_path(number).parent().unwrap()).unwrap();
    for name in disk.read_dir(segment_path(number).parent().unwrap()).unwrap() {
        let path = segment_path(number).with_file_name(name);
        let mut bytes = crate::storage::fs::read(disk, &path).unwrap();
        if path == segment_path(number) {
            let (start, at) = (start as usize, at as usize);
            bytes[start + at..start + at + 8].copy_from_slice(&value.to_le_bytes());
            if start == 0 {
                let crc = crc32fast::hash(&bytes[12..40]);
                bytes[8..12].copy_from_slice(&crc.to_le_bytes());
            } else {
                let length = u32::from_le_bytes(bytes[start + 4..start + 8].try_into().unwrap()) as usize;
                let crc = crc32fast::hash(&bytes[start + 4..start + record::RECORD_HEADER_BYTES + length]);
                bytes[start..start + 4].copy_from_slice(&crc.to_le_bytes());
            }
        }
        let file = forged.open(&path, Open::Create).unwrap();
        file.write_at(0, &bytes).unwrap();
        file.sync_all().unwrap();
    }
    forged.sync_dir(segment_path(number).parent().unwrap()).unwrap();
    forged
}

/// Found by fuzzing: each of these made opening panic, by a slice that ends before it begins or by counting on from the
/// last number there is.
#[test]
fn what_no_log_writes_is_refused_although_its_crc_fits() {
    let disk = new_disk();
    let (log, _) = open(&disk);
    append(&log, vec![entry(0, 1, 100), entry(1, 1, 100)]).unwrap();
    wait(|done| log.purge(0, Bytes::from_static(b"id"), done)).unwrap();
    drop(log);
    let number = 1;
    let records = records(&disk, number);
    let start_of = |kind| records.iter().find(|(found, _)| *found == kind).unwrap().1.start;
    const INDEX: u64 = 24;
    const TERM: u64 = 32;
    const DURABLE: u64 = 40;
    for kind in [Kind::Start, Kind::Entry, Kind::Purge, Kind::Mark] {
        let start = start_of(kind);
        let beyond = forge(&disk, number, start, DURABLE, Position::new(number, 30_000).0);
        assert_damaged(&refusal(&beyond), number, start..=start);
    }
    for (kind, field) in [(Kind::Start, INDEX), (Kind::Purge, INDEX), (Kind::Entry, TERM)] {
        let start = start_of(kind);
        let last = forge(&disk, number, start, field, u64::MAX);
        assert_damaged(&refusal(&last), number, start..=start);
    }
    const EPOCH: u64 = 24;
    const BYTES: u64 = 32;
    assert!(refusal(&forge(&disk, number, 0, EPOCH, u64::MAX)).to_string().contains("last epoch"));
    assert_damaged(&refusal(&forge(&disk, number, 0, BYTES, 1 << 40)), number, 0..=0);
}
