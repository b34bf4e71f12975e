//! Opens what a process that ended at any point has left, or says why it must not be used.
//!
//! A power cut loses writes that were not fsynced, in any order and torn at sectors; it never loses acknowledged ones.
//! So the stream is read up to its first bad record, at X. If a later record of the same epoch states that it was
//! written when positions beyond X were durable, then acknowledged bytes are damaged, and opening is refused: a
//! member that forgot what it promised breaks the cluster. Else the rest was never acknowledged and is cut.
//! Entries must follow each other without gaps, segments too, and what is missing at the start must be purged.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::index::Index;
use super::prepare::Stock;
use super::segment::{self, FIRST_OFFSET, LOG, NEW, SPARE, Segment};
use super::{Error, INDEX_MAX, LogEntry, LogOptions, at};
use crate::mutants::{Mutant, planted};
use crate::storage::fs::{Disk, File, Open, PAGE_BYTES};
use crate::storage::record::{
    HeaderError, Kind, Position, RECORD_ALIGN, RECORD_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES, SegmentHeader,
    StreamState,
};

/// A log ready to go on.
pub(super) struct Found {
    /// By number, without gaps; the last one is written next.
    pub segments: BTreeMap<u32, Arc<Segment>>,
    pub index: Index,
    pub tail: Tail,
}

/// Where and how the writer goes on.
pub(super) struct Tail {
    /// The segment written next.
    pub segment: Arc<Segment>,
    /// Of each segment, the index that its first entry has or would have.
    pub starts: VecDeque<(u32, u64)>,
    /// As of the end of the stream.
    pub stream: StreamState,
    /// Where the next record goes; everything before is durable.
    pub end: Position,
    /// The highest `durable` that a record states.
    pub stated: Position,
    /// End of the last record that says something.
    pub content_end: Position,
    pub stock: Stock,
}

/// Reads the log in `dir`; `None` if there is none yet.
pub(super) fn recover(disk: &dyn Disk, dir: &Path, options: &LogOptions) -> Result<Option<Found>, Error> {
    let files = list(disk, dir, options.segment_bytes())?;
    let Some(last) = files.numbers.last().copied() else { return Ok(None) };
    // Removing purged files need not reach the disk in order, so older ones may stand before a gap. What they held
    // is purged, or the entries missing behind the gap are noticed.
    let mut first = last;
    while first > 0 && files.numbers.binary_search(&(first - 1)).is_ok() {
        first -= 1;
    }
    let mut segments = Vec::new();
    let mut unusable = Vec::new();
    for number in first..=last {
        match open_segment(disk, dir, number)? {
            Opened::Segment(segment) => segments.push(Arc::new(segment)),
            Opened::NoHeader(path) if number == last && number > first => unusable.push(path),
            Opened::NoHeader(path) => return Err(damaged(&path, 0, HeaderError::Damaged.to_string())),
        }
    }
    let headers = segments.iter().map(|segment| segment.epoch).chain(files.spare_epochs);
    let next_epoch = headers.max().unwrap_or(0).checked_add(1);
    let next_epoch = next_epoch.ok_or_else(|| damaged(dir, 0, "a segment has the last epoch there is".to_owned()))?;
    let stock = Stock {
        dir: dir.to_owned(),
        segment_bytes: options.segment_bytes(),
        spares_max: options.spares_max,
        spares: files.spares,
        next_epoch,
        ready: None,
    };
    let mut replay = Replay::new(options.tail_bytes_max);
    let used = replay.run(&segments)?;
    let rest = segments.split_off(used);
    let torn = replay.check_tail(&segments, &rest)?;
    let mut found = replay.into_found(segments, stock)?;
    settle_tail(&found.tail, torn)?;
    let older = files.numbers.iter().filter(|number| **number < first);
    unusable.extend(older.map(|number| segment::path(dir, *number, LOG)));
    settle_rest(disk, &mut found.tail, rest, unusable)?;
    Ok(Some(found))
}

pub(super) fn damaged(file: &Path, offset: u64, reason: String) -> Error {
    Error::Damaged { file: file.to_owned(), offset, reason }
}

struct Files {
    /// Of segments, ascending.
    numbers: Vec<u32>,
    spares: Vec<PathBuf>,
    spare_epochs: Vec<u64>,
}

/// Sorts the directory's files, and removes what was never finished.
fn list(disk: &dyn Disk, dir: &Path, segment_bytes: u64) -> Result<Files, Error> {
    let mut files = Files { numbers: Vec::new(), spares: Vec::new(), spare_epochs: Vec::new() };
    for name in disk.read_dir(dir).map_err(at("list", dir))? {
        let path = dir.join(&name);
        match segment::parse_name(&name) {
            Some((number, LOG)) => files.numbers.push(number),
            Some((_, NEW)) => disk.remove(&path).map_err(at("remove", &path))?,
            Some((_, SPARE)) => match spare_epoch(disk, &path, segment_bytes)? {
                Some(epoch) => {
                    files.spares.push(path);
                    files.spare_epochs.push(epoch);
                }
                None => disk.remove(&path).map_err(at("remove", &path))?,
            },
            _ => {}
        }
    }
    Ok(files)
}

/// A spare's epoch; `None` if it cannot be used: of another size, or of unknown epoch, so that its records could come
/// back to life under a new header.
fn spare_epoch(disk: &dyn Disk, path: &Path, segment_bytes: u64) -> Result<Option<u64>, Error> {
    let (file, header) = open_header(disk, path)?;
    let len = file.len().map_err(at("read", path))?;
    Ok(header.ok().filter(|_| len == segment_bytes).map(|header| header.epoch))
}

type OpenedHeader = (Arc<dyn File>, Result<SegmentHeader, HeaderError>);

fn open_header(disk: &dyn Disk, path: &Path) -> Result<OpenedHeader, Error> {
    let file = disk.open(path, Open::Write).map_err(at("open", path))?;
    let mut page = [0; SEGMENT_HEADER_BYTES];
    let read = file.read_at(0, &mut page).map_err(at("read", path))?;
    let header = SegmentHeader::decode(&page[..read]);
    Ok((file, header))
}

enum Opened {
    Segment(Segment),
    /// The header is bad, and no record behind it is known to have been acknowledged.
    NoHeader(PathBuf),
}

fn open_segment(disk: &dyn Disk, dir: &Path, number: u32) -> Result<Opened, Error> {
    let path = segment::path(dir, number, LOG);
    let (file, header) = open_header(disk, &path)?;
    let len = file.len().map_err(at("read", &path))?;
    let header = match header {
        Ok(header) => header,
        Err(HeaderError::Format(found)) => return Err(Error::Format { file: path, found }),
        Err(HeaderError::Damaged) => {
            let bytes = read_whole(&*file, len).map_err(at("read", &path))?;
            // Records of the file's earlier uses state smaller segment numbers.
            let strays = stray_records(&bytes, FIRST_OFFSET as usize, None);
            let promised = strays.iter().any(|stray| stray.durable > Position::new(number, 0));
            if promised || len < SEGMENT_HEADER_BYTES as u64 {
                return Err(damaged(&path, 0, HeaderError::Damaged.to_string()));
            }
            return Ok(Opened::NoHeader(path));
        }
    };
    if header.segment != number {
        return Err(damaged(&path, 0, format!("it is segment {}, under another's name", header.segment)));
    }
    if header.bytes > u64::from(u32::MAX) {
        return Err(damaged(&path, 0, format!("it says that it was made with {} bytes", header.bytes)));
    }
    if len < header.bytes {
        return Err(damaged(&path, len, format!("the file ends there, but was made with {} bytes", header.bytes)));
    }
    Ok(Opened::Segment(Segment { number, epoch: header.epoch, bytes: header.bytes, path, file }))
}

fn read_whole(file: &dyn File, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// A valid record found by trying, not by following the stream.
struct Stray {
    offset: usize,
    bytes: usize,
    durable: Position,
}

/// Every valid record at or behind `from`, wherever it begins; of one epoch or of any.
fn stray_records(bytes: &[u8], from: usize, epoch: Option<u64>) -> Vec<Stray> {
    const ZEROES: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
    let mut found = Vec::new();
    let mut offset = from;
    while offset + RECORD_HEADER_BYTES <= bytes.len() {
        if offset.is_multiple_of(PAGE_BYTES) && bytes.get(offset..offset + PAGE_BYTES) == Some(&ZEROES) {
            offset += PAGE_BYTES;
            continue;
        }
        let epoch = epoch.unwrap_or_else(|| Record::epoch_of(&bytes[offset..]));
        if let Some((record, durable)) = Record::decode(&bytes[offset..], epoch) {
            found.push(Stray { offset, bytes: record.bytes(), durable });
        }
        offset += RECORD_ALIGN;
    }
    found
}

/// Reads the stream in order and keeps what it says.
struct Replay {
    index: Index,
    stream: StreamState,
    starts: VecDeque<(u32, u64)>,
    end: Position,
    stated: Position,
    content_end: Position,
    /// The segment read last that has records: its bytes are needed again when the tail is checked.
    bytes: Vec<u8>,
    tail_bytes_max: usize,
}

/// What stands behind the last good record.
struct Torn {
    /// Bytes of the tail segment.
    bytes: Vec<u8>,
    /// End of what must be overwritten, so that no record there can ever be taken for a newer one.
    wipe_to: usize,
}

impl Replay {
    fn new(tail_bytes_max: usize) -> Self {
        Self {
            index: Index::new(0, tail_bytes_max),
            stream: StreamState::default(),
            starts: VecDeque::new(),
            end: Position::default(),
            stated: Position::default(),
            content_end: Position::default(),
            bytes: Vec::new(),
            tail_bytes_max,
        }
    }

    /// Reads segments up to the one in which the stream ends; returns how many those are.
    fn run(&mut self, segments: &[Arc<Segment>]) -> Result<usize, Error> {
        for (used, segment) in segments.iter().enumerate() {
            let bytes = read_whole(&*segment.file, segment.bytes).map_err(at("read", &segment.path))?;
            let records = bytes.get(FIRST_OFFSET as usize..).unwrap_or_default();
            let first = Record::decode(records, segment.epoch);
            let start = first.and_then(|(record, durable)| Some((StreamState::decode(&record)?, record, durable)));
            match start {
                Some((start, record, durable)) => {
                    let previous = used.checked_sub(1).map(|previous| &*segments[previous]);
                    self.begin(segment, previous, start, (record.bytes(), durable))?;
                }
                None if used == 0 => {
                    let reason = "the first record is bad, and no older segment is there".to_owned();
                    return Err(damaged(&segment.path, u64::from(FIRST_OFFSET), reason));
                }
                None => return Ok(used),
            }
            self.records(segment, &bytes)?;
            self.bytes = bytes;
        }
        Ok(segments.len())
    }

    fn begin(
        &mut self,
        segment: &Segment,
        previous: Option<&Segment>,
        start: StreamState,
        (start_bytes, durable): (usize, Position),
    ) -> Result<(), Error> {
        if let Some(previous) = previous {
            if start.previous_end != self.end {
                let reason =
                    format!("the next segment says that this one has valid records up to {}", start.previous_end);
                return Err(damaged(&previous.path, u64::from(self.end.offset()), reason));
            }
            if start.next_index != self.index.next() {
                let (next, stated) = (self.index.next(), start.next_index);
                let reason = format!("it goes on at entry {stated}, but the segment before ends before {next}");
                return Err(damaged(&segment.path, u64::from(FIRST_OFFSET), reason));
            }
        } else {
            self.index = Index::new(start.next_index, self.tail_bytes_max);
        }
        self.starts.push_back((segment.number, start.next_index));
        let purged = start.purged.as_ref().map_or(0, |(index, _)| *index);
        self.check_index(segment, Position::new(segment.number, FIRST_OFFSET), start.next_index.max(purged))?;
        self.stream = start;
        self.check_stated(segment, Position::new(segment.number, FIRST_OFFSET), durable)?;
        self.end = Position::new(segment.number, FIRST_OFFSET + start_bytes as u32);
        self.content_end = self.end;
        Ok(())
    }

    /// Reads the records behind a segment's first, to the first bad one.
    fn records(&mut self, segment: &Segment, bytes: &[u8]) -> Result<(), Error> {
        while let Some((record, durable)) = Record::decode(&bytes[self.end.offset() as usize..], segment.epoch) {
            self.check_stated(segment, self.end, durable)?;
            self.check_index(segment, self.end, record.index.max(record.term))?;
            self.record(segment, &record)?;
            self.end.0 += record.bytes() as u64;
            if record.kind != Kind::Mark {
                self.content_end = self.end;
            }
        }
        Ok(())
    }

    /// Notes what the record at `position` states as durable, which was written before it.
    fn check_stated(&mut self, segment: &Segment, position: Position, durable: Position) -> Result<(), Error> {
        if durable > position {
            let reason = format!("the record there says that {durable} was reached before it");
            return Err(damaged(&segment.path, u64::from(position.offset()), reason));
        }
        self.stated = self.stated.max(durable);
        Ok(())
    }

    fn check_index(&self, segment: &Segment, position: Position, index: u64) -> Result<(), Error> {
        if index <= INDEX_MAX {
            return Ok(());
        }
        let reason = format!("the record there speaks of entry {index}");
        Err(damaged(&segment.path, u64::from(position.offset()), reason))
    }

    fn record(&mut self, segment: &Segment, record: &Record<'_>) -> Result<(), Error> {
        let payload = || Bytes::copy_from_slice(record.payload);
        match record.kind {
            Kind::Start => {
                let reason = "a segment begins again in its middle".to_owned();
                return Err(damaged(&segment.path, u64::from(self.end.offset()), reason));
            }
            Kind::Entry if record.index != self.index.next() => {
                let reason = format!("entry {} stands where {} must", record.index, self.index.next());
                return Err(damaged(&segment.path, u64::from(self.end.offset()), reason));
            }
            Kind::Entry => {
                let entry = LogEntry { index: record.index, term: record.term, kind: record.tag, payload: payload() };
                self.index.append_at(entry, self.end);
            }
            Kind::Vote => self.stream.vote = Some(payload()),
            Kind::Committed => self.stream.committed = Some(payload()),
            Kind::Truncate => self.index.truncate_from(record.index),
            Kind::Purge => {
                self.stream.purged = Some((record.index, payload()));
                self.index.purge_before(record.index + 1);
            }
            Kind::Mark => {}
        }
        Ok(())
    }

    /// Decides whether what stands behind the end may be cut. `rest` are the segments behind the tail.
    fn check_tail(&mut self, segments: &[Arc<Segment>], rest: &[Arc<Segment>]) -> Result<Torn, Error> {
        let tail = segments.last().expect("the first segment was read");
        let bytes = std::mem::take(&mut self.bytes);
        let from = self.end.offset() as usize;
        let mut wipe_to = from;
        if bytes.len() - from >= RECORD_HEADER_BYTES && Record::epoch_of(&bytes[from..]) == tail.epoch {
            wipe_to += RECORD_HEADER_BYTES;
        }
        for stray in stray_records(&bytes, from, Some(tail.epoch)) {
            self.check_promise(&tail.path, from, stray.durable)?;
            wipe_to = stray.offset + stray.bytes;
        }
        let Some(next) = rest.first() else { return Ok(Torn { bytes, wipe_to }) };
        for segment in rest {
            let bytes = read_whole(&*segment.file, segment.bytes).map_err(at("read", &segment.path))?;
            for stray in stray_records(&bytes, FIRST_OFFSET as usize, Some(segment.epoch)) {
                // Past the next segment's start, it is that start which is bad.
                if stray.durable > Position::new(next.number, FIRST_OFFSET) {
                    self.check_promise(&next.path, FIRST_OFFSET as usize, stray.durable)?;
                }
                self.check_promise(&tail.path, from, stray.durable)?;
            }
        }
        Ok(Torn { bytes, wipe_to })
    }

    fn check_promise(&self, path: &Path, offset: usize, durable: Position) -> Result<(), Error> {
        if durable <= self.end {
            return Ok(());
        }
        let reason =
            format!("no valid record stands there, but a later one says that {durable} was reached and synced");
        Err(damaged(path, offset as u64, reason))
    }

    fn into_found(mut self, segments: Vec<Arc<Segment>>, stock: Stock) -> Result<Found, Error> {
        let needed_from = self.stream.purged.as_ref().map_or(0, |(index, _)| index + 1);
        if self.index.first() > needed_from {
            let oldest = &segments[0];
            let missing = oldest.path.with_file_name(format!("{:010}.{LOG}", oldest.number.saturating_sub(1)));
            let reason = format!("the file is missing, with entries {} to {}", needed_from, self.index.first() - 1);
            return Err(damaged(&missing, 0, reason));
        }
        self.index.purge_before(needed_from);
        self.stream.next_index = self.index.next();
        let tail = Tail {
            segment: segments.last().expect("the first segment was read").clone(),
            starts: self.starts,
            stream: self.stream,
            end: self.end,
            stated: self.stated,
            content_end: self.content_end,
            stock,
        };
        let segments = segments.into_iter().map(|segment| (segment.number, segment)).collect();
        Ok(Found { segments, index: self.index, tail })
    }
}

/// Makes the tail durable, and overwrites the valid records behind it.
///
/// What no record states as durable is written again before it is synced: if the last process ended because an fsync
/// failed, its pages are readable but count as clean, and a sync alone would promise what the disk does not have.
fn settle_tail(found: &Tail, torn: Torn) -> Result<(), Error> {
    let tail = &found.segment;
    let end = found.end.offset() as usize;
    let from = if found.stated.segment() == tail.number { found.stated.offset() } else { FIRST_OFFSET } as usize;
    let mut bytes = torn.bytes;
    if torn.wipe_to > end {
        if planted(Mutant::TornTailFatal) {
            return Err(damaged(&tail.path, end as u64, "no valid record stands there".to_owned()));
        }
        tracing::warn!(file = %tail.path.display(), offset = end, bytes = torn.wipe_to - end, "torn tail of the log cut");
        bytes[end..torn.wipe_to].fill(0);
    }
    let to = torn.wipe_to.max(end).next_multiple_of(PAGE_BYTES).min(bytes.len());
    tail.file.write_at(from as u64, &bytes[from..to]).map_err(at("write", &tail.path))?;
    tail.file.sync_data().map_err(at("sync", &tail.path))
}

/// Takes the segment behind the tail for the next one if it was never used; removes others, whose records were never
/// acknowledged, and those that cannot be used.
fn settle_rest(
    disk: &dyn Disk,
    found: &mut Tail,
    rest: Vec<Arc<Segment>>,
    unusable: Vec<PathBuf>,
) -> Result<(), Error> {
    let next = found.end.segment().checked_add(1);
    let dir = found.stock.dir.clone();
    for segment in rest {
        let bytes = read_whole(&*segment.file, segment.bytes).map_err(at("read", &segment.path))?;
        let used = !stray_records(&bytes, FIRST_OFFSET as usize, Some(segment.epoch)).is_empty();
        if !used && Some(segment.number) == next {
            found.stock.ready = Arc::into_inner(segment);
            continue;
        }
        tracing::warn!(file = %segment.path.display(), "torn tail of the log cut: segment not used");
        disk.remove(&segment.path).map_err(at("remove", &segment.path))?;
    }
    for path in unusable {
        tracing::warn!(file = %path.display(), "log segment removed, its entries are purged or never were");
        disk.remove(&path).map_err(at("remove", &path))?;
    }
    disk.sync_dir(&dir).map_err(at("sync", &dir))
}
