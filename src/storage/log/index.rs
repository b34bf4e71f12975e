//! Where each entry of the log stands, and the newest entries themselves.
//!
//! Pure memory, shared by recovery (which fills it) and the running log (which answers reads from it).

use std::collections::VecDeque;

use super::LogEntry;
use crate::storage::record::Position;

/// Offset 0 of a segment is its header, so no record is ever there.
const UNWRITTEN: Position = Position(0);

/// What an entry in memory takes besides its payload, about.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// One entry's place on disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub index: u64,
    pub term: u64,
    pub position: Position,
    pub payload_bytes: u32,
    /// Truncations before the entry was appended; tells it from a later entry of the same index.
    pub cut: u32,
}

impl Place {
    fn memory_bytes(&self) -> usize {
        self.payload_bytes as usize + ENTRY_OVERHEAD_BYTES
    }
}

/// Entries `first .. next`, without gaps; the last ones also in memory.
///
/// Invariant: an entry that is not yet written is in the tail.
#[derive(Debug, Default)]
pub(super) struct Index {
    first: u64,
    places: VecDeque<Place>,
    /// The last `tail.len()` entries.
    tail: VecDeque<LogEntry>,
    tail_bytes: usize,
    tail_bytes_max: usize,
    payload_bytes: u64,
    cut: u32,
}

impl Index {
    /// Nothing yet; the first entry must have index `first`.
    pub fn new(first: u64, tail_bytes_max: usize) -> Self {
        Self { first, tail_bytes_max, ..Self::default() }
    }

    /// Index of the oldest entry, or of the next one if there is none.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Index that the next entry must have.
    pub fn next(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// Index and term of the newest entry.
    pub fn last(&self) -> Option<(u64, u64)> {
        self.places.back().map(|place| (place.index, place.term))
    }

    /// Truncations so far.
    pub fn cut(&self) -> u32 {
        self.cut
    }

    /// Bytes of payload of all entries, and what those in memory take.
    pub fn bytes(&self) -> (u64, usize) {
        (self.payload_bytes, self.tail_bytes)
    }

    /// Bytes of payload of the entries behind `index`.
    pub fn bytes_behind(&self, index: u64) -> u64 {
        let skipped = (index + 1).saturating_sub(self.first) as usize;
        self.places.iter().skip(skipped).map(|place| u64::from(place.payload_bytes)).sum()
    }

    /// The least index behind which the entries have no more than `bytes` of payload.
    pub fn least_with_behind(&self, bytes: u64) -> u64 {
        let mut behind = 0;
        let newest_first = self.places.iter().rev().take_while(|place| {
            behind += u64::from(place.payload_bytes);
            behind <= bytes
        });
        (self.next() - newest_first.count() as u64).saturating_sub(1)
    }

    /// Adds an entry that is not yet written.
    pub fn append(&mut self, entry: LogEntry) {
        self.append_at(entry, UNWRITTEN);
    }

    /// Adds an entry that stands at `position`.
    pub fn append_at(&mut self, entry: LogEntry, position: Position) {
        assert_eq!(entry.index, self.next(), "entries come without gaps");
        let payload_bytes = entry.payload.len() as u32;
        let place = Place { index: entry.index, term: entry.term, position, payload_bytes, cut: self.cut };
        self.places.push_back(place);
        self.payload_bytes += u64::from(payload_bytes);
        self.tail_bytes += place.memory_bytes();
        self.tail.push_back(entry);
        self.evict();
    }

    /// Notes where an entry was written, unless it was truncated or purged since.
    pub fn written(&mut self, index: u64, cut: u32, position: Position) {
        let Some(offset) = index.checked_sub(self.first) else { return };
        if let Some(place) = self.places.get_mut(offset as usize)
            && place.cut == cut
        {
            place.position = position;
        }
    }

    /// Drops written entries from memory, oldest first, down to the budget.
    pub fn evict(&mut self) {
        while self.tail_bytes > self.tail_bytes_max {
            let oldest = &self.places[self.places.len() - self.tail.len()];
            if oldest.position == UNWRITTEN {
                break;
            }
            self.tail_bytes -= oldest.memory_bytes();
            self.tail.pop_front();
        }
    }

    /// Removes the entries from `from` on.
    pub fn truncate_from(&mut self, from: u64) {
        self.cut += 1;
        while self.places.len() as u64 > from.saturating_sub(self.first) {
            let place = self.places.pop_back().expect("the loop's condition");
            self.payload_bytes -= u64::from(place.payload_bytes);
            if self.tail.pop_back().is_some() {
                self.tail_bytes -= place.memory_bytes();
            }
        }
        self.first = self.first.min(from);
    }

    /// Forgets the entries before `first`; if that is past the end, the next entry is `first`.
    pub fn purge_before(&mut self, first: u64) {
        while self.first < first {
            self.first += 1;
            let in_memory = self.tail.len() == self.places.len();
            let Some(place) = self.places.pop_front() else {
                self.first = first;
                return;
            };
            self.payload_bytes -= u64::from(place.payload_bytes);
            if in_memory {
                self.tail.pop_front();
                self.tail_bytes -= place.memory_bytes();
            }
        }
    }

    /// Entries of `start .. end`, at most `bytes_max` bytes of payload but at least one: the places of those that are
    /// only on disk, then those in memory.
    pub fn select(&self, start: u64, end: u64, bytes_max: usize) -> (Vec<Place>, Vec<LogEntry>) {
        let (mut places, mut entries) = (Vec::new(), Vec::new());
        let in_memory_from = self.places.len() - self.tail.len();
        let mut bytes = 0;
        for index in start..end.min(self.next()) {
            let offset = (index - self.first) as usize;
            let place = self.places[offset];
            bytes += place.payload_bytes as usize;
            if bytes > bytes_max && index > start {
                break;
            }
            match offset.checked_sub(in_memory_from) {
                Some(offset) => entries.push(self.tail[offset].clone()),
                None => places.push(place),
            }
        }
        (places, entries)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn bytes_are_counted_behind_an_entry_and_from_the_end() {
        let mut index = Index::new(10, 0);
        for (number, bytes) in (10..15).zip([5, 1, 2, 3, 4]) {
            index.append(LogEntry { index: number, term: 1, kind: 0, payload: Bytes::from(vec![0; bytes]) });
        }
        assert_eq!([0, 9, 10, 13, 14, 99].map(|behind| index.bytes_behind(behind)), [15, 15, 10, 4, 0, 0]);
        assert_eq!([0, 3, 4, 9, 10, 15, 99].map(|bytes| index.least_with_behind(bytes)), [14, 14, 13, 11, 10, 9, 9]);
        index.purge_before(13);
        assert_eq!((index.bytes_behind(0), index.least_with_behind(99)), (7, 12));
        index.purge_before(20);
        assert_eq!((index.bytes_behind(0), index.least_with_behind(99)), (0, 19));
        assert_eq!(Index::new(0, 0).least_with_behind(99), 0);
    }
}
