//! The log against a model, on a disk that loses power, fills up, fails and lies.

mod crash;
mod damage;
mod running;

use std::sync::mpsc::sync_channel;

use super::*;
use crate::storage::fs::{Disk, SimDisk};

/// Two segments' worth of records is little, so that every test rolls and recycles.
const SMALL_SEGMENT_BYTES: u64 = 16 << 10;
const NEVER: Duration = Duration::from_secs(3_600);

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: SMALL_SEGMENT_BYTES,
        tail_bytes_max: 4 << 10,
        prepare_ahead: false,
        idle_mark: NEVER,
        ..LogOptions::new(Clock::system())
    }
}

fn dir() -> &'static Path {
    Path::new("log")
}

fn new_disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(dir()).unwrap();
    disk
}

fn open_with(disk: &SimDisk, options: LogOptions) -> Result<(Log, Recovered), Error> {
    Log::open(Arc::new(disk.clone()), dir(), options)
}

fn open(disk: &SimDisk) -> (Log, Recovered) {
    open_with(disk, options()).unwrap()
}

fn refusal(disk: &SimDisk) -> Error {
    match open_with(disk, options()) {
        Ok((_, recovered)) => panic!("opened, with {recovered:?}"),
        Err(error) => error,
    }
}

/// Waits for one request.
fn wait(request: impl FnOnce(Done)) -> io::Result<()> {
    let (sender, receiver) = sync_channel(1);
    request(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap()
}

/// An entry whose payload tells it from every other.
fn entry(index: u64, term: u64, payload_bytes: usize) -> LogEntry {
    let mut payload = format!("{index}/{term}/").into_bytes();
    let filler = (index * 31 + term * 7) as u8 | 1;
    payload.resize(payload_bytes.max(payload.len()), filler);
    LogEntry { index, term, kind: (index % 5) as u8, payload: payload.into() }
}

fn append(log: &Log, entries: Vec<LogEntry>) -> io::Result<()> {
    wait(|done| log.append(entries, done))
}

fn all_entries(log: &Log) -> Vec<LogEntry> {
    let first = log.state().first_index;
    log.read(first, u64::MAX, usize::MAX).unwrap()
}

fn segment_path(number: u32) -> PathBuf {
    segment::path(dir(), number, segment::LOG)
}
