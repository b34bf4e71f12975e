//! The bytes of the Raft log: the segment header and the records behind it.
//!
//! Pure functions on byte slices; `log` decides where the bytes go and what they mean together.
//!
//! ```text
//! segment file  := header (4096)  record*  zeroes or leftovers of an older epoch
//!
//! header, little endian, rest of its page 0; written and fsynced before any record of its epoch
//!   0  magic    8   "kelsonlg"
//!   8  crc      u32 CRC32 of bytes 12..40
//!  12  format   u32 = 1
//!  16  segment  u32 number in the stream, as in the file's name
//!  20  group    u32 = 0
//!  24  epoch    u64 greater than that of any header written before
//!  32  bytes    u64 length of the file
//!
//! record, little endian, aligned to 8
//!   0  crc      u32 CRC32 of bytes 4..48+length
//!   4  length   u32 bytes of payload
//!   8  format   u8  = 1
//!   9  kind     u8  see Kind
//!  10  tag      u8  the entry's own kind, opaque here
//!  11  0        u8
//!  12  group    u32 = 0
//!  16  epoch    u64 that of the segment's header; a recycled file's old records have a smaller one
//!  24  index    u64 Entry: its index; Truncate, Purge: the index after or up to which; Start: the next index; else 0
//!  32  term     u64 Entry: its term; else 0
//!  40  durable  u64 every record before this position was fsynced when this one was written
//!  48  payload, padded with zeroes to a multiple of 8
//! ```
//!
//! A position is `segment << 32 | offset`: ordered along the stream, and it names the file by itself.

use std::fmt;

use bytes::Bytes;

use crate::mutants::{Mutant, planted};

/// Version of both formats above.
pub const FORMAT: u8 = 1;
/// Bytes of a segment's header; a page, so that no record shares one with it.
pub const SEGMENT_HEADER_BYTES: usize = 4096;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 48;
/// Records begin at multiples of this.
pub const RECORD_ALIGN: usize = 8;
/// The only group there is today.
pub const GROUP: u32 = 0;

const MAGIC: &[u8; 8] = b"kelsonlg";
const HEADER_FIELDS_END: usize = 40;

/// What a record says. The numbers are on disk: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// First record of every segment: where the one before ended, and what records in older segments said.
    Start = 1,
    /// A Raft entry.
    Entry = 2,
    /// The vote, opaque.
    Vote = 3,
    /// How far the log is known to be committed, opaque; a hint without an fsync of its own.
    Committed = 4,
    /// Entries behind `index` are void.
    Truncate = 5,
    /// Entries up to `index` are no longer needed; the payload is the owner's id of that entry.
    Purge = 6,
    /// Nothing but `durable`.
    Mark = 7,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Start,
            2 => Self::Entry,
            3 => Self::Vote,
            4 => Self::Committed,
            5 => Self::Truncate,
            6 => Self::Purge,
            7 => Self::Mark,
            _ => return None,
        })
    }
}

/// A place in the stream: segment number, then offset in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub u64);

impl Position {
    /// The place at `offset` of segment number `segment`.
    pub fn new(segment: u32, offset: u32) -> Self {
        Self(u64::from(segment) << 32 | u64::from(offset))
    }

    /// Number of the segment.
    pub fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Offset in the segment's file, in bytes.
    pub fn offset(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.segment(), self.offset())
    }
}

/// What stands before a segment's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Number in the stream.
    pub segment: u32,
    /// Greater than that of any header written before.
    pub epoch: u64,
    /// Length of the file.
    pub bytes: u64,
}

/// Why the first page of a segment is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Other magic, other CRC or too short.
    #[error("it has no valid segment header")]
    Damaged,
    /// Written by a version with another format.
    #[error("it has log format {0}, this version reads {FORMAT}")]
    Format(u32),
}

impl SegmentHeader {
    /// The header's page.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut page = [0; SEGMENT_HEADER_BYTES];
        page[0..8].copy_from_slice(MAGIC);
        page[12..16].copy_from_slice(&u32::from(FORMAT).to_le_bytes());
        page[16..20].copy_from_slice(&self.segment.to_le_bytes());
        page[20..24].copy_from_slice(&GROUP.to_le_bytes());
        page[24..32].copy_from_slice(&self.epoch.to_le_bytes());
        page[32..40].copy_from_slice(&self.bytes.to_le_bytes());
        let crc = crc32fast::hash(&page[12..HEADER_FIELDS_END]);
        page[8..12].copy_from_slice(&crc.to_le_bytes());
        page
    }

    /// Reads a header from the start of a file.
    pub fn decode(page: &[u8]) -> Result<Self, HeaderError> {
        if page.len() < HEADER_FIELDS_END
            || &page[0..8] != MAGIC
            || crc32fast::hash(&page[12..HEADER_FIELDS_END]) != u32_at(page, 8)
        {
            return Err(HeaderError::Damaged);
        }
        let format = u32_at(page, 12);
        if format != u32::from(FORMAT) {
            return Err(HeaderError::Format(format));
        }
        Ok(Self { segment: u32_at(page, 16), epoch: u64_at(page, 24), bytes: u64_at(page, 32) })
    }
}

/// One record; the payload is borrowed from where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it says.
    pub kind: Kind,
    /// The entry's own kind, opaque here; 0 for other records.
    pub tag: u8,
    /// See the drawing.
    pub index: u64,
    /// An entry's term; 0 for other records.
    pub term: u64,
    /// Opaque bytes, or for [`Kind::Start`] an encoded [`StreamState`].
    pub payload: &'a [u8],
}

/// Bytes that a record with `payload` bytes of payload takes in a segment.
pub fn record_bytes(payload: usize) -> usize {
    (RECORD_HEADER_BYTES + payload).next_multiple_of(RECORD_ALIGN)
}

impl<'a> Record<'a> {
    /// A record without index, term and tag.
    pub fn plain(kind: Kind, payload: &'a [u8]) -> Self {
        Self { kind, tag: 0, index: 0, term: 0, payload }
    }

    /// Appends the record's bytes to `out`, whose length must be a multiple of [`RECORD_ALIGN`].
    pub fn encode(&self, epoch: u64, durable: Position, out: &mut Vec<u8>) {
        let start = out.len();
        let length = u32::try_from(self.payload.len()).expect("the log refuses payloads of 4 GiB");
        let mut header = [0; RECORD_HEADER_BYTES];
        header[4..8].copy_from_slice(&length.to_le_bytes());
        header[8] = FORMAT;
        header[9] = self.kind as u8;
        header[10] = self.tag;
        header[12..16].copy_from_slice(&GROUP.to_le_bytes());
        header[16..24].copy_from_slice(&epoch.to_le_bytes());
        header[24..32].copy_from_slice(&self.index.to_le_bytes());
        header[32..40].copy_from_slice(&self.term.to_le_bytes());
        header[40..48].copy_from_slice(&durable.0.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[4..]);
        crc.update(self.payload);
        header[0..4].copy_from_slice(&crc.finalize().to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(self.payload);
        out.resize(start + record_bytes(self.payload.len()), 0);
    }

    /// Reads the record at the start of `bytes`; `None` if none of this epoch and format stands there whole.
    /// Returns what it states to be durable, too.
    pub fn decode(bytes: &'a [u8], epoch: u64) -> Option<(Self, Position)> {
        let header = bytes.get(..RECORD_HEADER_BYTES)?;
        // The cheap checks first: recovery tries every aligned offset behind a bad record.
        if header[8] != FORMAT || u64_at(header, 16) != epoch || u32_at(header, 12) != GROUP {
            return None;
        }
        let kind = Kind::from_number(header[9])?;
        let payload = bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + u32_at(header, 4) as usize)?;
        let crc = crc32fast::hash(&bytes[4..RECORD_HEADER_BYTES + payload.len()]);
        if crc != u32_at(header, 0) && !planted(Mutant::CrcUnchecked) {
            return None;
        }
        let record = Self { kind, tag: header[10], index: u64_at(header, 24), term: u64_at(header, 32), payload };
        Some((record, Position(u64_at(header, 40))))
    }

    /// The epoch that a record at the start of `bytes` has, valid or not. At least a record's header must be there.
    pub fn epoch_of(bytes: &[u8]) -> u64 {
        u64_at(bytes, 16)
    }

    /// Bytes that the record takes in a segment.
    pub fn bytes(&self) -> usize {
        record_bytes(self.payload.len())
    }
}

/// What the records of older segments said, repeated at the start of each segment so that those can be purged.
///
/// ```text
/// previous_end u64  purged_index u64  purged  vote  committed      each of the three: length u32 (all ones: absent)  bytes
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamState {
    /// Where the records of the segment before end; 0 in a new log's first segment.
    pub previous_end: Position,
    /// Index that the next entry must have; stands in the record's `index`.
    pub next_index: u64,
    /// Last index purged, and the owner's id of that entry.
    pub purged: Option<(u64, Bytes)>,
    /// The last vote.
    pub vote: Option<Bytes>,
    /// The last hint of what is committed.
    pub committed: Option<Bytes>,
}

impl StreamState {
    /// The payload of a [`Kind::Start`] record.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.previous_end.0.to_le_bytes());
        out.extend_from_slice(&self.purged.as_ref().map_or(0, |(index, _)| *index).to_le_bytes());
        for part in [self.purged.as_ref().map(|(_, id)| id), self.vote.as_ref(), self.committed.as_ref()] {
            let length = part.map_or(u32::MAX, |part| part.len() as u32);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(part.map_or(&[], |part| part));
        }
        out
    }

    /// Reads a [`Kind::Start`] record; `None` if its payload is not one.
    pub fn decode(record: &Record<'_>) -> Option<Self> {
        let mut rest = record.payload;
        let mut take = |bytes: usize| rest.split_off(..bytes);
        let previous_end = Position(u64_at(take(8)?, 0));
        let purged_index = u64_at(take(8)?, 0);
        let mut part = || {
            let length = u32_at(take(4)?, 0);
            Some(if length == u32::MAX { None } else { Some(Bytes::copy_from_slice(take(length as usize)?)) })
        };
        let purged = part()?.map(|id| (purged_index, id));
        Some(Self { previous_end, next_index: record.index, purged, vote: part()?, committed: part()? })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds() -> impl Strategy<Value = Kind> {
        (1_u8..=7).prop_map(|number| Kind::from_number(number).unwrap())
    }

    fn opaque() -> impl Strategy<Value = Option<Bytes>> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from))
    }

    proptest! {
        #[test]
        fn records_come_back_and_any_flip_is_seen(
            kind in kinds(), tag: u8, index: u64, term: u64, epoch: u64, durable: u64,
            payload in proptest::collection::vec(any::<u8>(), 0..100), flip: prop::sample::Index,
        ) {
            let record = Record { kind, tag, index, term, payload: &payload };
            let mut bytes = Vec::new();
            record.encode(epoch, Position(durable), &mut bytes);
            prop_assert_eq!(bytes.len(), record.bytes());
            prop_assert_eq!(Record::decode(&bytes, epoch), Some((record, Position(durable))));
            prop_assert_eq!(Record::decode(&bytes, epoch ^ 1), None);
            let flip = flip.index((RECORD_HEADER_BYTES + payload.len()) * 8);
            let mut damaged = bytes.clone();
            damaged[flip / 8] ^= 1 << (flip % 8);
            prop_assert_eq!(Record::decode(&damaged, epoch), None);
            prop_assert_eq!(Record::decode(&bytes[..RECORD_HEADER_BYTES + payload.len() - 1], epoch), None);
        }

        #[test]
        fn stream_states_come_back(
            previous_end: u64, next_index: u64, purged_index: u64, purged in opaque(), vote in opaque(), committed in opaque(),
        ) {
            let purged = purged.map(|id| (purged_index, id));
            let state = StreamState { previous_end: Position(previous_end), next_index, purged, vote, committed };
            let payload = state.encode();
            let record = Record { kind: Kind::Start, tag: 0, index: next_index, term: 0, payload: &payload };
            prop_assert_eq!(StreamState::decode(&record), Some(state));
            let short = Record { payload: &payload[..payload.len() - 1], ..record };
            prop_assert_eq!(StreamState::decode(&short), None);
        }
    }

    #[test]
    fn headers_come_back_and_flips_and_newer_formats_are_told_apart() {
        let header = SegmentHeader { segment: 7, epoch: 9, bytes: 1 << 24 };
        let page = header.encode();
        assert_eq!(SegmentHeader::decode(&page), Ok(header));
        for bit in 0..HEADER_FIELDS_END * 8 {
            let mut damaged = page;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&damaged), Err(HeaderError::Damaged), "bit {bit}");
        }
        let mut newer = page;
        newer[12] = 2;
        let crc = crc32fast::hash(&newer[12..HEADER_FIELDS_END]);
        newer[8..12].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&newer), Err(HeaderError::Format(2)));
    }

    #[test]
    fn a_record_has_the_bytes_that_format_1_has() {
        let record = Record { kind: Kind::Entry, tag: 5, index: 3, term: 2, payload: b"abc" };
        let mut bytes = Vec::new();
        record.encode(4, Position::new(1, 4096), &mut bytes);
        let hex: String = bytes[4..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "03000000010205000000000004000000000000000300000000000000020000000000000000100000010000006162630000000000"
        );
    }
}
