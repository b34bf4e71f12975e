//! One record of the log, or one segment header, with and without a fitting CRC.

use bytes::Bytes;
use kelson::storage::record::{Kind, Position, RECORD_HEADER_BYTES, Record, SegmentHeader, StreamState};

use super::engine::{Target, Verdict};
use super::mutate::{self, Script};
use super::random::Random;

/// The first byte of an input.
const HEADER: u8 = 1;
const MENDED: u8 = 2;

pub struct LogRecords;

impl Target for LogRecords {
    const NAME: &'static str = "log_records";
    const ITERATIONS: u64 = 8_000;

    fn seeds(&mut self) -> Vec<Vec<u8>> {
        let state = StreamState {
            previous_end: Position::new(3, 5000),
            next_index: 17,
            purged: Some((12, Bytes::from_static(b"id"))),
            vote: Some(Bytes::from_static(b"vote")),
            committed: None,
        };
        let state = state.encode();
        let records = [
            Record { kind: Kind::Start, tag: 0, index: 17, term: 0, payload: &state },
            Record { kind: Kind::Entry, tag: 1, index: 18, term: 3, payload: b"payload" },
            Record::plain(Kind::Vote, b"vote"),
            Record { kind: Kind::Truncate, tag: 0, index: 4, term: 0, payload: &[] },
            Record { kind: Kind::Purge, tag: 0, index: 9, term: 0, payload: b"id" },
            Record::plain(Kind::Mark, &[]),
        ];
        let mut seeds: Vec<Vec<u8>> = Vec::new();
        for record in &records {
            let mut bytes = Vec::new();
            record.encode(2, Position::new(4, 4096), &mut bytes);
            seeds.extend([0, MENDED].map(|how| [&[how], &bytes[..]].concat()));
        }
        let header = SegmentHeader { segment: 4, epoch: 2, bytes: 1 << 24 }.encode();
        seeds.extend([HEADER, HEADER | MENDED].map(|how| [&[how], &header[..64]].concat()));
        seeds
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        mutate::bytes(input, other, random);
        if random.percent(60)
            && let Some(how) = input.first_mut()
        {
            *how |= MENDED;
        }
    }

    fn run(&mut self, input: &[u8]) -> Verdict {
        let mut script = Script(input);
        let how = script.byte();
        let mut bytes = script.0.to_vec();
        if how & HEADER != 0 {
            if how & MENDED != 0 && bytes.len() >= 40 {
                let crc = crc32fast::hash(&bytes[12..40]);
                bytes[8..12].copy_from_slice(&crc.to_le_bytes());
            }
            let read = SegmentHeader::decode(&bytes);
            if let Ok(header) = read {
                assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
            }
            return Verdict::of(read);
        }
        if how & MENDED != 0 {
            mend_record(&mut bytes);
        }
        let epoch = if bytes.len() >= RECORD_HEADER_BYTES { Record::epoch_of(&bytes) } else { 0 };
        let Some((record, durable)) = Record::decode(&bytes, epoch) else { return Verdict::Refused("record".into()) };
        let mut again = Vec::new();
        record.encode(epoch, durable, &mut again);
        assert_eq!(Record::decode(&again, epoch), Some((record, durable)));
        match (record.kind, StreamState::decode(&record)) {
            (Kind::Start, Some(state)) => {
                let payload = state.encode();
                let record = Record { payload: &payload, ..record };
                assert_eq!(StreamState::decode(&record), Some(state));
                Verdict::Accepted("start".into())
            }
            (Kind::Start, None) => Verdict::Refused("start".into()),
            (kind, _) => Verdict::Accepted(format!("{kind:?}")),
        }
    }
}

/// Gives the record at the start of `bytes` the CRC that it should have, if it is there whole.
pub fn mend_record(bytes: &mut [u8]) {
    let Some(length) = bytes.get(4..8) else { return };
    let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
    if let Some(covered) = bytes.get(4..RECORD_HEADER_BYTES.saturating_add(length)) {
        let crc = crc32fast::hash(covered);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
    }
}
