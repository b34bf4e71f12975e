//! How records lie in the engine: small ones of neighbouring revisions share an entry, a *page*, because an entry costs
//! much more than its bytes. Others have an entry each.
//!
//! ```text
//! page := item*                                  of PAGE_REVISIONS main revisions, items ascending
//! item := place:u8  bytes:u16le  record          place := tombstone:1 0:1 main modulo PAGE_REVISIONS:4 sub:2
//! ```

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::io;

use crate::proto::Record;
use crate::state::Revision;
use crate::storage::engine::{self, EncodedKey, Engine, PAGE_REVISIONS, PageKey, RevisionKey, WriteBatch};

/// Longest record of a page …
const RECORD_BYTES_MAX: usize = 1 << 10;
/// … and how many of one main revision it may hold, so that the largest page stays small.
const SUBS_MAX: i64 = 4;

const TOMBSTONE: u8 = 1 << 7;
const MAIN_BITS: u32 = PAGE_REVISIONS.trailing_zeros();
const HEAD_BYTES: usize = 3;

/// A record at its place in MVCC time; the flag says whether it is a tombstone.
pub(super) type Placed<'a> = (Revision, bool, &'a Record);

fn is_paged(revision: Revision, record: &[u8]) -> bool {
    revision.sub < SUBS_MAX && record.len() <= RECORD_BYTES_MAX
}

/// Orders by sub within a main revision; the tombstone's bit says nothing about order.
fn place(revision: Revision, tombstone: bool) -> u8 {
    let main = (revision.main % PAGE_REVISIONS) as u8;
    (if tombstone { TOMBSTONE } else { 0 }) | main << 2 | revision.sub as u8
}

fn order(place: u8) -> u8 {
    place & !TOMBSTONE
}

fn revision_key(revision: Revision, tombstone: bool) -> RevisionKey {
    RevisionKey { main: revision.main, sub: revision.sub, tombstone }
}

fn push(page: &mut Vec<u8>, place: u8, record: &[u8]) {
    page.push(place);
    page.extend_from_slice(&(record.len() as u16).to_le_bytes());
    page.extend_from_slice(record);
}

/// The items of a page; ends with `None` in place of an item that is cut short.
fn items(mut page: &[u8]) -> impl Iterator<Item = Option<(u8, &[u8])>> {
    std::iter::from_fn(move || {
        let (&place, rest) = page.split_first()?;
        let item = rest
            .split_first_chunk::<2>()
            .and_then(|(len, rest)| rest.split_at_checked(usize::from(u16::from_le_bytes(*len))));
        page = item.map_or(&[], |(_, rest)| rest);
        Some(item.map(|(record, _)| (place, record)))
    })
}

/// Reads an entry of the engine, which holds one record or a page of them.
pub(super) fn read(key: &[u8], value: &[u8], records: &mut Vec<(Revision, bool, Record)>) -> io::Result<()> {
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, format!("checkpoint: {reason}"));
    let mut take = |revision, tombstone, bytes: &[u8]| {
        let record = Record::from_bytes(bytes).map_err(io::Error::other)?;
        records.push((revision, tombstone, record));
        io::Result::Ok(())
    };
    if let Some(RevisionKey { main, sub, tombstone }) = RevisionKey::decode(key) {
        return take(Revision { main, sub }, tombstone, value);
    }
    let page = PageKey::decode(key).ok_or_else(|| invalid("a key is neither a revision nor a page"))?;
    for item in items(value) {
        let (place, bytes) = item.ok_or_else(|| invalid("a page is cut short"))?;
        let main = page.first() + i64::from(order(place) >> 2);
        if main < 1 || order(place) >> 2 >> MAIN_BITS != 0 {
            return Err(invalid("a place in a page is none"));
        }
        take(Revision { main, sub: i64::from(place & 3) }, place & TOMBSTONE != 0, bytes)?;
    }
    Ok(())
}

/// Pages that a batch changes, until they are put into it.
#[derive(Default)]
pub(super) struct Pages {
    touched: BTreeMap<PageKey, Page>,
    bytes: usize,
}

/// The items of a page, and the order of the last.
#[derive(Default)]
struct Page {
    bytes: Vec<u8>,
    last: Option<u8>,
}

impl Page {
    /// `None` when the bytes are not those of a page.
    fn read(bytes: Vec<u8>) -> Option<Self> {
        let last = items(&bytes).try_fold(None, |_, item| item.map(|(place, _)| Some(order(place))))?;
        Some(Self { bytes, last })
    }

    fn holds(&self, place: u8) -> bool {
        items(&self.bytes).flatten().any(|(there, _)| there == place)
    }

    /// Puts an item at its place, or leaves none there.
    fn set(&mut self, place: u8, record: Option<&[u8]>) {
        if let Some(record) = record.filter(|_| self.last.is_none_or(|last| last < order(place))) {
            if self.bytes.capacity() - self.bytes.len() < HEAD_BYTES + record.len() && !self.bytes.is_empty() {
                // Neighbours are mostly alike; but where records come by key, a page may get this one only.
                self.bytes.reserve(PAGE_REVISIONS as usize * (HEAD_BYTES + record.len()));
            }
            push(&mut self.bytes, place, record);
            self.last = Some(order(place));
            return;
        }
        let before = std::mem::take(self);
        let others = |is_before: bool| {
            let side =
                move |there: u8| if is_before { order(there) < order(place) } else { order(there) > order(place) };
            items(&before.bytes).flatten().filter(move |(there, _)| side(*there))
        };
        for (place, record) in others(true).chain(record.map(|record| (place, record))).chain(others(false)) {
            push(&mut self.bytes, place, record);
            self.last = Some(order(place));
        }
    }
}

impl Pages {
    /// Forgets what was changed.
    pub(super) fn clear(&mut self) {
        self.touched.clear();
        self.bytes = 0;
    }

    /// About how much [`Pages::put_into`] will put.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a record, in place of what the engine has there.
    pub(super) fn add(
        &mut self,
        engine: &dyn Engine,
        batch: &mut WriteBatch,
        record: Placed<'_>,
    ) -> Result<(), engine::Error> {
        let (revision, tombstone, record) = record;
        let bytes = record.as_bytes();
        if !is_paged(revision, bytes) {
            batch.put(&revision_key(revision, tombstone).encode(), bytes);
            return Ok(());
        }
        let place = place(revision, tombstone);
        self.bytes += HEAD_BYTES + bytes.len();
        self.page(engine, revision)?.set(place, Some(bytes));
        Ok(())
    }

    /// Removes a record, wherever it lies.
    pub(super) fn remove(
        &mut self,
        engine: &dyn Engine,
        batch: &mut WriteBatch,
        (revision, tombstone): (Revision, bool),
    ) -> Result<(), engine::Error> {
        if revision.sub < SUBS_MAX {
            let place = place(revision, tombstone);
            let page = self.page(engine, revision)?;
            if page.holds(place) {
                page.set(place, None);
                return Ok(());
            }
        }
        batch.delete(&revision_key(revision, tombstone).encode());
        Ok(())
    }

    /// Puts the changed pages into a batch.
    pub(super) fn put_into(&mut self, batch: &mut WriteBatch) {
        for (key, page) in &self.touched {
            match page.bytes.is_empty() {
                true => batch.delete(&key.encode()),
                false => batch.put(&key.encode(), &page.bytes),
            }
        }
        self.clear();
    }

    fn page(&mut self, engine: &dyn Engine, revision: Revision) -> Result<&mut Page, engine::Error> {
        let key = PageKey::of(revision.main);
        match self.touched.entry(key) {
            MapEntry::Occupied(page) => Ok(page.into_mut()),
            MapEntry::Vacant(unread) => {
                let bytes = engine.get(&key.encode())?.unwrap_or_default();
                self.bytes += bytes.len();
                let cut_short =
                    || engine::Error::Corrupt { path: "checkpoint".into(), reason: format!("{key:?} is cut short") };
                Ok(unread.insert(Page::read(bytes).ok_or_else(cut_short)?))
            }
        }
    }
}

/// An entry as the engine should have it: its key and the records, by their places in a list, that its value is made of.
pub(super) struct Entry {
    key: EncodedKey,
    records: Vec<u32>,
}

impl Entry {
    /// Its key.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Writes its value behind what the buffer holds.
    pub(super) fn value(&self, records: &[(Revision, bool, Record)], value: &mut Vec<u8>) {
        let is_page = PageKey::decode(&self.key).is_some();
        for (revision, tombstone, record) in self.records.iter().map(|&at| &records[at as usize]) {
            match is_page {
                true => push(value, place(*revision, *tombstone), record.as_bytes()),
                false => value.extend_from_slice(record.as_bytes()),
            }
        }
    }
}

/// The entries of records that ascend, in the order of their keys.
pub(super) fn entries(records: &[(Revision, bool, Record)]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut page: Option<Entry> = None;
    for ((revision, tombstone, record), at) in records.iter().zip(0..) {
        if !is_paged(*revision, record.as_bytes()) {
            entries.push(Entry { key: revision_key(*revision, *tombstone).encode(), records: vec![at] });
            continue;
        }
        let key = PageKey::of(revision.main).encode();
        match &mut page {
            Some(page) if page.key == key => page.records.push(at),
            _ => entries.extend(page.replace(Entry { key, records: vec![at] })),
        }
    }
    entries.extend(page);
    entries.sort_by(|a, b| a.key().cmp(b.key()));
    entries
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::Put;
    use crate::storage::memory::MemoryEngine;

    fn record(revision: Revision, value_bytes: usize) -> Record {
        let value = vec![b'v'; value_bytes];
        Record::put(Put { key: b"key", value: &value, mod_revision: revision.main, ..Put::default() })
    }

    fn read_all(engine: &MemoryEngine) -> Vec<(Revision, bool, Record)> {
        let mut records = Vec::new();
        engine
            .scan(engine::REVISIONS_START, engine::REVISIONS_END, &mut |key, value| {
                read(key, value, &mut records).unwrap();
                Ok(std::ops::ControlFlow::Continue(()))
            })
            .unwrap();
        records.sort_by_key(|(revision, ..)| (revision.main, revision.sub));
        records
    }

    /// main, sub, tombstone, bytes of the value; `None` removes what is there.
    fn change() -> impl Strategy<Value = (i64, i64, bool, Option<usize>)> {
        let bytes = prop_oneof![Just(None), Just(Some(0)), Just(Some(100)), Just(Some(RECORD_BYTES_MAX))];
        (1..60i64, 0..6i64, any::<bool>(), bytes)
    }

    proptest! {
        #[test]
        fn batches_of_changes_leave_what_was_added_last_and_not_removed(
            batches in proptest::collection::vec(proptest::collection::vec(change(), 0..12), 0..12),
        ) {
            let (mut engine, mut pages) = (MemoryEngine::default(), Pages::default());
            let mut expected = BTreeMap::new();
            for changes in batches {
                let mut batch = WriteBatch::default();
                for (main, sub, tombstone, bytes) in changes {
                    let revision = Revision { main, sub };
                    let there = expected.get(&(main, sub)).map(|(tombstone, _)| *tombstone);
                    match bytes {
                        // A revision's change is what it is for ever, so that a record only ever replaces itself.
                        Some(bytes) if there.is_none() => {
                            let record = record(revision, bytes);
                            pages.add(&engine, &mut batch, (revision, tombstone, &record)).unwrap();
                            expected.insert((main, sub), (tombstone, record));
                        }
                        Some(_) => {
                            let (tombstone, record) = &expected[&(main, sub)];
                            pages.add(&engine, &mut batch, (revision, *tombstone, record)).unwrap();
                        }
                        None => {
                            pages.remove(&engine, &mut batch, (revision, there.unwrap_or(tombstone))).unwrap();
                            expected.remove(&(main, sub));
                        }
                    }
                }
                pages.put_into(&mut batch);
                engine.write(&batch).unwrap();
            }
            let found = read_all(&engine);
            let expected: Vec<_> = expected
                .into_iter()
                .map(|((main, sub), (tombstone, record))| (Revision { main, sub }, tombstone, record))
                .collect();
            prop_assert_eq!(&found, &expected);
            let mut laid_out = Vec::new();
            engine.scan(engine::REVISIONS_START, engine::REVISIONS_END, &mut |key, value| {
                laid_out.push((key.to_vec(), value.to_vec()));
                Ok(std::ops::ControlFlow::Continue(()))
            }).unwrap();
            let entries: Vec<_> = entries(&expected)
                .iter()
                .map(|entry| {
                    let mut value = Vec::new();
                    entry.value(&expected, &mut value);
                    (entry.key().to_vec(), value)
                })
                .collect();
            prop_assert_eq!(laid_out, entries, "changed step by step or laid out at once, it is the same");
        }
    }

    #[test]
    fn a_record_that_has_an_entry_of_its_own_though_it_is_small_is_read_and_removed() {
        let (mut engine, mut pages, mut batch) = (MemoryEngine::default(), Pages::default(), WriteBatch::default());
        let revision = Revision { main: 17, sub: 0 };
        let record = record(revision, 5);
        batch.put(&revision_key(revision, false).encode(), record.as_bytes());
        engine.write(&batch).unwrap();
        assert_eq!(read_all(&engine), vec![(revision, false, record)]);
        batch.clear();
        pages.remove(&engine, &mut batch, (revision, false)).unwrap();
        pages.put_into(&mut batch);
        engine.write(&batch).unwrap();
        assert_eq!(read_all(&engine), vec![]);
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let key = PageKey::of(20).encode();
        let mut page = Vec::new();
        push(
            &mut page,
            place(Revision { main: 20, sub: 1 }, false),
            record(Revision { main: 20, sub: 1 }, 9).as_bytes(),
        );
        let mut records = Vec::new();
        read(&key, &page, &mut records).unwrap();
        assert_eq!((records[0].0, records[0].1), (Revision { main: 20, sub: 1 }, false));
        for cut in 1..page.len() {
            assert!(read(&key, &page[..cut], &mut records).is_err(), "{cut} bytes of {}", page.len());
            assert!(Page::read(page[..cut].to_vec()).is_none());
        }
        page[0] |= 1 << 6;
        assert!(read(&key, &page, &mut records).is_err(), "a place beyond the page");
        assert!(read(&key[..8], &page, &mut records).is_err(), "no key");
    }
}
