//! Whole log directories, damaged. An input is a script: first what is done to a log, then what befalls its files.
//!
//! Opening such a log gives an error, or what the log was after some number of its records: never something that it was
//! not, and never less than what an intact record states to have been durable. Records that were forged, with a fitting
//! CRC, need only be read without a panic.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use bytes::Bytes;
use kelson::clock::Clock;
use kelson::storage::fs::{self, Disk, Open, PAGE_BYTES, SimDisk};
use kelson::storage::log::{Done, Log, LogEntry, LogOptions, Recovered};
use kelson::storage::record::{Kind, Position, Record, SEGMENT_HEADER_BYTES, SegmentHeader, StreamState};

use super::engine::{Target, Verdict};
use super::log_records::mend_record;
use super::mutate::{self, Script};

const DIR: &str = "/log";
const SEGMENT_BYTES: u64 = 4 * PAGE_BYTES as u64;
const STEPS_MAX: usize = 24;
const DAMAGES_MAX: usize = 6;

pub struct LogDirectory;

type Files = BTreeMap<String, Vec<u8>>;

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: SEGMENT_BYTES,
        spares_max: 1,
        tail_bytes_max: 4096,
        // Whether the log was idle in between must not depend on how busy the machine is.
        idle_mark: Duration::from_secs(3600),
        ..LogOptions::in_memory(Clock::system())
    }
}

impl Target for LogDirectory {
    const NAME: &'static str = "log_directory";
    const ITERATIONS: u64 = 1_500;

    fn seeds(&mut self) -> Vec<Vec<u8>> {
        // Steps: see `Builder::step`; damages: see `damage`.
        let steps =
            [0, 200, 2, 1, 5, 0, 90, 3, 7, 0, 255, 0, 255, 4, 1, 0, 40, 2, 9, 3, 2, 0, 255, 0, 255, 0, 60, 5, 2, 0, 30];
        let with = |damage: &[u8]| [&[23][..], &steps, damage].concat();
        vec![
            with(&[]),
            with(&[0, 0, 0, 0, 50, 0, 3]),
            with(&[0, 1, 0, 8, 16, 2]),
            with(&[1, 0]),
            with(&[1, 1]),
            with(&[2, 1, 1]),
            with(&[3, 1, 2, 24, 255, 255, 255, 255, 255, 255, 255, 255, 3]),
            with(&[3, 0, 1, 4, 255, 255, 255, 255, 0, 0, 0, 0, 2]),
            with(&[4, 1, 32, 0, 0, 0, 0, 1, 0, 0, 0, 3]),
            vec![3, 0, 10, 0, 255, 2, 1],
        ]
    }

    fn run(&mut self, input: &[u8]) -> Verdict {
        let mut script = Script(input);
        let disk = Arc::new(SimDisk::new());
        disk.create_dir(Path::new(DIR)).unwrap();
        let mut builder = Builder::new(disk.clone());
        let steps = 1 + script.below_byte(STEPS_MAX);
        let half_time = script.below_byte(STEPS_MAX);
        for at in 0..steps {
            builder.step(&mut script);
            if at == half_time {
                builder.early = read_files(&*disk);
            }
        }
        let Builder { log, early, .. } = builder;
        let before = seen(&log);
        drop(log);
        let original = read_files(&*disk);
        let states = replay(&original);
        assert_eq!(states.last(), Some(&before), "the replay of this test is right");

        let mut files = original.clone();
        let mut trusted = true;
        for _ in 0..DAMAGES_MAX {
            if script.is_over() {
                break;
            }
            trusted &= damage(&mut files, &early, &mut script);
        }
        write_files(&*disk, &original, &files);
        let at_least = stated_durable(&original, &files);
        let log = match Log::open(disk.clone(), Path::new(DIR), LogOptions { must_exist: true, ..options() }) {
            Ok((log, _)) => log,
            Err(error) => return Verdict::Refused(error.to_string()),
        };
        let found = seen(&log);
        let first = found.recovered.first_index;
        let follow = found.entries.iter().zip(first..).all(|(entry, index)| entry.index == index);
        assert!(follow, "entries without a gap");
        if trusted {
            let prefix = states.iter().rposition(|state| *state == found);
            let prefix = prefix.unwrap_or_else(|| panic!("the log never was what it is now: {found:?}"));
            assert!(prefix >= at_least, "{at_least} records were durable by what is intact, {prefix} came back");
        }
        goes_on(log, disk, found);
        Verdict::Accepted(if trusted { "damaged" } else { "forged" }.into())
    }
}

/// What is opened can be written, and what is written is there when it is opened again.
fn goes_on(log: Log, disk: Arc<SimDisk>, found: State) {
    let next = found.recovered.last.map_or(found.recovered.first_index, |(index, _)| index + 1);
    let entry = LogEntry { index: next, term: 1 << 40, kind: 1, payload: Bytes::from_static(b"behind") };
    wait(|done| log.append(vec![entry.clone()], done));
    drop(log);
    let (log, recovered) = Log::open(disk, Path::new(DIR), options()).unwrap();
    assert_eq!(recovered.last, Some((next, entry.term)), "{recovered:?}");
    assert_eq!(seen(&log).entries.last(), Some(&entry));
}

fn wait(start: impl FnOnce(Done)) {
    let (done, outcome) = sync_channel(1);
    start(Box::new(move |result| done.send(result).unwrap()));
    outcome.recv().unwrap().unwrap();
}

/// What a log is to its owner.
#[derive(Clone, Debug, PartialEq)]
struct State {
    recovered: Recovered,
    entries: Vec<LogEntry>,
}

fn seen(log: &Log) -> State {
    let recovered = log.state();
    let entries = log.read(recovered.first_index, u64::MAX, usize::MAX).unwrap();
    State { recovered, entries }
}

/// Makes a log, step by step.
struct Builder {
    log: Log,
    disk: Arc<SimDisk>,
    next: u64,
    term: u64,
    /// The files as they once were.
    early: Files,
}

impl Builder {
    fn new(disk: Arc<SimDisk>) -> Self {
        let (log, _) = Log::open(disk.clone(), Path::new(DIR), options()).unwrap();
        Self { log, disk, next: 0, term: 1, early: Files::new() }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let log = &self.log;
        match script.byte() % 6 {
            // One entry, or several.
            kind @ (0 | 1) => {
                let len = usize::from(script.byte()) * 20;
                let count = if kind == 0 { 1 } else { 1 + len as u64 % 5 };
                let entry = |index| LogEntry {
                    index,
                    term: self.term,
                    kind: kind + 1,
                    payload: vec![index as u8 ^ kind; len / count as usize].into(),
                };
                let entries = (self.next..self.next + count).map(entry).collect();
                wait(|done| log.append(entries, done));
                self.next += count;
            }
            2 => {
                self.term += 1;
                let vote = format!("vote {} {}", self.term, script.byte());
                wait(|done| log.save_vote(vote.into(), done));
            }
            3 => log.save_committed(format!("committed {}", script.byte()).into()),
            4 => {
                let first = log.state().first_index;
                let back = u64::from(script.byte() % 8);
                let last = self.next.saturating_sub(1 + back).max(first);
                wait(|done| log.truncate_after(Some(last), done));
                self.next = self.next.min(last + 1);
            }
            _ => {
                let back = u64::from(script.byte() % 8);
                // Now and then past the end, as a snapshot from elsewhere has it.
                let to = if back == 7 { self.next + 3 } else { self.next.saturating_sub(1 + back) };
                if log.state().first_index <= to {
                    wait(|done| log.purge(to, format!("purged {to}").into(), done));
                    self.next = self.next.max(to + 1);
                }
            }
        }
        if self.next > 0 && script.0.first() == Some(&0xee) {
            // Closed and opened again in between.
            let (log, _) = Log::open(Arc::new(SimDisk::new()), Path::new("/"), options()).unwrap();
            drop(std::mem::replace(&mut self.log, log));
            self.log = Log::open(self.disk.clone(), Path::new(DIR), options()).unwrap().0;
        }
    }
}

fn read_files(disk: &dyn Disk) -> Files {
    let names = disk.read_dir(Path::new(DIR)).unwrap();
    let read = |name: String| {
        let bytes = fs::read(disk, &Path::new(DIR).join(&name)).unwrap();
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

fn write_files(disk: &dyn Disk, original: &Files, files: &Files) {
    for name in original.keys().filter(|name| !files.contains_key(*name)) {
        disk.remove(&Path::new(DIR).join(name)).unwrap();
    }
    for (name, bytes) in files.iter().filter(|(name, bytes)| original.get(*name) != Some(*bytes)) {
        let file = disk.open(&Path::new(DIR).join(name), Open::Create).unwrap();
        file.write_at(0, bytes).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        file.sync_all().unwrap();
    }
    disk.sync_dir(Path::new(DIR)).unwrap();
}

/// Does one thing to the files; whether it is of the kind that a disk does, rather than somebody with a pen.
fn damage(files: &mut Files, early: &Files, script: &mut Script<'_>) -> bool {
    let kind = script.byte() % 5;
    let Some(name) = files.keys().nth(script.below_byte(files.len().max(1))).cloned() else { return true };
    let file = files.get_mut(&name).expect("it was just listed");
    match kind {
        // Bits, zeroes, a cut. A part copied to another place of the same file is a write that went astray, which no
        // record's CRC can tell.
        0 => {
            let is_copy = script.0.get(3).is_some_and(|how| how % 8 == 4);
            let places: Vec<usize> = (0..file.len()).filter(|at| file[*at] != 0).collect();
            mutate::patch(file, &places, script);
            !is_copy
        }
        1 => {
            files.remove(&name);
            true
        }
        // A page as it was before: a write that the disk lost.
        2 => {
            let pages = file.len() / PAGE_BYTES;
            let at = script.below_byte(pages.max(1)) * PAGE_BYTES;
            if let Some(old) = early.get(&name).and_then(|old| old.get(at..at + PAGE_BYTES))
                && let Some(page) = file.get_mut(at..at + PAGE_BYTES)
            {
                page.copy_from_slice(old);
            }
            true
        }
        // A field of a record, or of the header, with a fitting CRC.
        3 => {
            let records = records(file).map_or_else(Vec::new, |(_, records)| records);
            let number = script.below_byte(records.len().max(1));
            let field = 4 + script.below_byte(44);
            let value = script.long().to_le_bytes();
            let width = 1 << script.below_byte(4);
            if let Some(&(offset, len)) = records.get(number) {
                let to = (offset + field + width).min(offset + len);
                let from = (offset + field).min(to);
                file[from..to].copy_from_slice(&value[..to - from]);
                mend_record(&mut file[offset..]);
            }
            false
        }
        _ => {
            let field = 12 + script.below_byte(28);
            let value = script.long().to_le_bytes();
            let width = 1 << script.below_byte(4);
            if file.len() >= SEGMENT_HEADER_BYTES {
                let to = (field + width).min(40);
                file[field..to].copy_from_slice(&value[..to - field]);
                let crc = crc32fast::hash(&file[12..40]);
                file[8..12].copy_from_slice(&crc.to_le_bytes());
            }
            false
        }
    }
}

/// A segment's header, and where its records are, with their lengths.
fn records(file: &[u8]) -> Option<(SegmentHeader, Vec<(usize, usize)>)> {
    let header = SegmentHeader::decode(file).ok()?;
    let mut records = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some((record, _)) = file.get(at..).and_then(|bytes| Record::decode(bytes, header.epoch)) {
        records.push((at, record.bytes()));
        at += record.bytes();
    }
    Some((header, records))
}

fn segments(files: &Files) -> impl Iterator<Item = (&String, &Vec<u8>)> {
    files.iter().filter(|(name, _)| name.ends_with(".log"))
}

/// What the log was after each number of records, from the first on: an independent reading of the stream.
fn replay(files: &Files) -> Vec<State> {
    let mut states = Vec::new();
    let mut recovered = Recovered::default();
    let mut entries: VecDeque<LogEntry> = VecDeque::new();
    for (_, bytes) in segments(files) {
        let Some((header, places)) = records(bytes) else { continue };
        for (at, _) in places {
            let (record, _) = Record::decode(&bytes[at..], header.epoch).expect("it was just read");
            let payload = || Bytes::copy_from_slice(record.payload);
            match record.kind {
                // Of the first segment: what older ones said. Of later ones: what is known already.
                Kind::Start if states.is_empty() => {
                    let start = StreamState::decode(&record).expect("a log's own start");
                    recovered.first_index = start.next_index;
                    recovered.purged = start.purged.map(|(_, id)| id);
                    (recovered.vote, recovered.committed) = (start.vote, start.committed);
                }
                Kind::Start | Kind::Mark => {}
                Kind::Entry => {
                    let (index, term, kind) = (record.index, record.term, record.tag);
                    entries.push_back(LogEntry { index, term, kind, payload: payload() });
                }
                Kind::Vote => recovered.vote = Some(payload()),
                Kind::Committed => recovered.committed = Some(payload()),
                Kind::Truncate => entries.retain(|entry| entry.index < record.index),
                Kind::Purge => {
                    entries.retain(|entry| entry.index > record.index);
                    recovered.purged = Some(payload());
                    recovered.first_index = recovered.first_index.max(record.index + 1);
                }
            }
            recovered.last = entries.back().map(|entry| (entry.index, entry.term));
            states.push(State { recovered: recovered.clone(), entries: entries.iter().cloned().collect() });
        }
    }
    // A segment that was not purged in time holds entries that are.
    states
}

/// The place in [`replay`]'s answer that must be reached: a record that is as it was says how far the log was durable.
fn stated_durable(original: &Files, files: &Files) -> usize {
    let mut durable = Position::default();
    let mut positions = Vec::new();
    for (name, bytes) in segments(original) {
        let Some((header, places)) = records(bytes) else { continue };
        for (at, len) in places {
            positions.push(Position::new(header.segment, at as u32));
            let now = files.get(name).and_then(|bytes| bytes.get(at..at + len));
            if now == Some(&bytes[at..at + len])
                && let Some((_, stated)) = Record::decode(&bytes[at..], header.epoch)
            {
                durable = durable.max(stated);
            }
        }
    }
    positions.iter().filter(|position| **position < durable).count().saturating_sub(1)
}
