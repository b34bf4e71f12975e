//! The checkpoint store behind the log: a contract ([`Engine`]), what is written to it ([`WriteBatch`]), and how its
//! keys are laid out ([`RevisionKey`], [`PageKey`], [`meta_key`]).
//!
//! Not on any request's path and never the only copy of anything: what is lost here comes back from a snapshot file
//! and the log. The checkpoint thread of `raft` is the only writer.
//!
//! ```text
//! meta      := 00 00 00 00 00 00 00 00  'm'  name
//! engine's  := 00 00 00 00 00 00 00 00  [ff ...]                  (reserved, see is_reserved)
//! revision  := main:u64be  '_'  sub:u64be  ['t' = tombstone]      main >= 1, as etcd's `mvcc` writes it
//! page      := last:u64be  'p'                                    small records of PAGE_REVISIONS main revisions
//! ```
//! Revisions sort last and grow, so that a tree-shaped engine only ever fills its right edge; the few meta keys, which
//! change with every batch, lie together at the left.

use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

/// Why an engine could not do what it was asked. After any of these but [`Error::Visitor`] the engine refuses
/// everything with [`Error::Failed`]: what it holds is no longer known, and its owner must open it anew or stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{what} {path}: {source}", path = path.display())]
    Io {
        /// The thing tried, as a verb.
        what: &'static str,
        /// On this file or directory.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// The bytes are not what was written.
    #[error("{path}: {reason}", path = path.display())]
    Corrupt {
        /// The file or directory.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The library below panicked.
    #[error("the store panicked while it should {what}: {message}")]
    Panicked {
        /// The thing tried, as a verb.
        what: &'static str,
        /// The panic's text.
        message: String,
    },
    /// It did not answer in time.
    #[error("{path}: no answer within {seconds} s", path = path.display())]
    Deadline {
        /// The directory.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// An earlier call failed.
    #[error("the store failed before and does nothing more")]
    Failed,
    /// The visitor of a scan stopped it with an error of its own; the engine is as good as before.
    #[error("{0}")]
    Visitor(Box<dyn std::error::Error + Send + Sync>),
}

/// What [`Engine::scan`] calls for each entry: key, value; it may stop the scan.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Error> + 'a;

/// A sorted byte-key store with one writer.
///
/// The contract:
/// - **Order.** Keys are compared as bytes. No caller writes a key that [`is_reserved`], nor an empty one.
/// - **Atomic.** After a crash all of a [`WriteBatch`] is there, or none of it; and if batch n is there, so are all
///   before it.
/// - **Durable.** When [`Engine::flush`] returned `Ok`, every batch written before survives a power cut. Without a
///   flush a batch may survive or not; an engine may flush earlier than asked.
/// - **Visible.** A batch is seen by [`Engine::get`] and [`Engine::scan`] as soon as `write` returned.
/// - **Honest.** What was flushed is either read back as written, or the next opening fails: never silently older.
/// - One caller at a time; engines are `Send`, not necessarily `Sync`.
pub trait Engine: Send {
    /// The value of a key.
    ///
    /// # Errors
    /// [`Error`]; a failed read is never an absent key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// Visits `from <= key < to` in ascending order.
    ///
    /// # Errors
    /// [`Error`], also the visitor's own.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visitor<'_>) -> Result<(), Error>;

    /// Applies a batch, atomically, in memory.
    ///
    /// # Errors
    /// [`Error`]; whether the batch will be seen after reopening is then unknown.
    fn write(&mut self, batch: &WriteBatch) -> Result<(), Error>;

    /// Makes every batch written so far durable.
    ///
    /// # Errors
    /// [`Error`]; what is durable is then unknown.
    fn flush(&mut self) -> Result<(), Error>;

    /// Gives memory back that the engine holds beyond its cache, if that is much. May take long.
    ///
    /// # Errors
    /// [`Error`]
    fn relieve(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Bytes that the store's files take now; 0 in memory.
    ///
    /// # Errors
    /// [`Error`]
    fn size_on_disk(&self) -> Result<u64, Error>;
}

/// A list of puts and deletes that an engine applies as one. Keys and values are copied into one buffer, which
/// [`WriteBatch::clear`] keeps for the next batch.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    bytes: Vec<u8>,
    changes: Vec<(Range<usize>, Option<Range<usize>>)>,
}

impl WriteBatch {
    /// Adds a write; a later change of the same key wins.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let key = self.keep(key);
        let value = self.keep(value);
        self.changes.push((key, Some(value)));
    }

    /// Adds a removal; removing what is not there is no error.
    pub fn delete(&mut self, key: &[u8]) {
        let key = self.keep(key);
        self.changes.push((key, None));
    }

    /// How many changes were added.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of keys and values added.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.changes.clear();
    }

    /// What the batch comes to: each key once, in ascending order, with its new value or `None`.
    pub fn changes(&self) -> Vec<(&[u8], Option<&[u8]>)> {
        let slice = |range: &Range<usize>| &self.bytes[range.clone()];
        let mut sorted: Vec<_> =
            self.changes.iter().map(|(key, value)| (slice(key), value.as_ref().map(slice))).collect();
        sorted.sort_by_key(|(key, _)| *key);
        // The sort is stable: the last of equal keys is the latest, and the one to stay.
        sorted.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                *kept = *later;
            }
            same
        });
        sorted
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }
}

/// What lies below every revision key: a main revision of 0, which never happens.
pub(super) const MAIN_ZERO: [u8; 8] = [0; 8];
/// Start of all reserved keys but [`MAIN_ZERO`] itself.
pub(super) const RESERVED: [u8; 9] = [0, 0, 0, 0, 0, 0, 0, 0, 0xff];
const META: u8 = b'm';
const TOMBSTONE: u8 = b't';

/// Whether a key is the engine's own: a batch must not hold it, `get` and `scan` do not show it.
pub fn is_reserved(key: &[u8]) -> bool {
    key == MAIN_ZERO || key.starts_with(&RESERVED)
}

/// First of the meta keys; with [`META_END`] the bounds of a scan over all of them.
pub const META_START: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, META];
/// Behind the last of the meta keys.
pub const META_END: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, META + 1];
/// First of the revision keys; with [`REVISIONS_END`] the bounds of a scan over all of them.
pub const REVISIONS_START: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 1];
/// Behind the last of the revision keys, for a main revision is positive.
pub const REVISIONS_END: &[u8] = &[0x80];

/// Key of a thing that is not a revision, such as the applied mark.
pub fn meta_key(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(MAIN_ZERO.len() + 1 + name.len());
    key.extend_from_slice(&MAIN_ZERO);
    key.push(META);
    key.extend_from_slice(name.as_bytes());
    key
}

/// Place of one change in MVCC time, and whether it removed its key; etcd's revision bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RevisionKey {
    /// Main revision, at least 1.
    pub main: i64,
    /// From 0 within one main revision.
    pub sub: i64,
    /// Whether the change removed its key.
    pub tombstone: bool,
}

impl RevisionKey {
    const SEPARATOR: u8 = b'_';
    /// Bytes of a key that is no tombstone.
    const PUT_BYTES: usize = 17;
    const TOMBSTONE_BYTES: usize = Self::PUT_BYTES + 1;

    /// The bytes; compare as the revisions do.
    pub fn encode(&self) -> EncodedKey {
        debug_assert!(self.main >= 1 && self.sub >= 0, "revision {self:?}");
        let mut bytes = [0; Self::TOMBSTONE_BYTES];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[8] = Self::SEPARATOR;
        bytes[9..17].copy_from_slice(&self.sub.to_be_bytes());
        bytes[17] = TOMBSTONE;
        EncodedKey { bytes, len: if self.tombstone { Self::TOMBSTONE_BYTES } else { Self::PUT_BYTES } }
    }

    /// Reads the bytes; `None` when they are no revision key.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let tombstone = match bytes.len() {
            Self::PUT_BYTES => false,
            Self::TOMBSTONE_BYTES if bytes[17] == TOMBSTONE => true,
            _ => return None,
        };
        let main = i64::from_be_bytes(bytes[..8].try_into().ok()?);
        let sub = i64::from_be_bytes(bytes[9..17].try_into().ok()?);
        (bytes[8] == Self::SEPARATOR && main >= 1 && sub >= 0).then_some(Self { main, sub, tombstone })
    }
}

/// The bytes of a [`RevisionKey`] or [`PageKey`], on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EncodedKey {
    bytes: [u8; RevisionKey::TOMBSTONE_BYTES],
    len: usize,
}

impl std::ops::Deref for EncodedKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Main revisions of one page; a power of two.
pub const PAGE_REVISIONS: i64 = 16;

/// Name of the small records of neighbouring revisions, which share an entry. It sorts behind the last of them, so that it
/// is never below [`REVISIONS_START`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageKey(i64);

impl PageKey {
    const MARK: u8 = b'p';
    const BYTES: usize = 9;

    /// The page of a main revision.
    pub fn of(main: i64) -> Self {
        Self(main | (PAGE_REVISIONS - 1))
    }

    /// The least main revision that may lie in it; 0 in the first page, where no record is.
    pub fn first(&self) -> i64 {
        self.0 & !(PAGE_REVISIONS - 1)
    }

    /// The bytes; compare as the pages do.
    pub fn encode(&self) -> EncodedKey {
        let mut bytes = [0; RevisionKey::TOMBSTONE_BYTES];
        bytes[..8].copy_from_slice(&self.0.to_be_bytes());
        bytes[8] = Self::MARK;
        EncodedKey { bytes, len: Self::BYTES }
    }

    /// Reads the bytes; `None` when they are no page's key.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (last, mark) = bytes.split_first_chunk::<8>()?;
        let last = i64::from_be_bytes(*last);
        (mark == [Self::MARK] && last > 0 && Self::of(last).0 == last).then_some(Self(last))
    }
}

/// Panics when a key is one that no caller may write: a broken invariant of ours.
pub(super) fn assert_key(key: &[u8]) {
    assert!(!key.is_empty() && !is_reserved(key), "the engine's own key {key:?} in a batch");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn revision_keys_sort_as_revisions_do(a in (1i64.., 0i64.., any::<bool>()), b in (1i64.., 0i64.., any::<bool>())) {
            let key = |(main, sub, tombstone)| RevisionKey { main, sub, tombstone };
            prop_assert_eq!(key(a).cmp(&key(b)), key(a).encode().cmp(&key(b).encode()));
            prop_assert_eq!(RevisionKey::decode(&key(a).encode()), Some(key(a)));
            prop_assert!(*key(a).encode() >= *REVISIONS_START && *key(a).encode() < *REVISIONS_END);
        }

        #[test]
        fn page_keys_sort_as_their_revisions_do(a in 1i64.., b in 1i64..) {
            let (one, other) = (PageKey::of(a), PageKey::of(b));
            prop_assert_eq!(one.cmp(&other), one.encode().cmp(&other.encode()));
            prop_assert_eq!(PageKey::decode(&one.encode()), Some(one));
            prop_assert_eq!(RevisionKey::decode(&one.encode()), None);
            prop_assert!(one.first() <= a && a < one.first().saturating_add(PAGE_REVISIONS));
            prop_assert!(*one.encode() >= *REVISIONS_START && *one.encode() < *REVISIONS_END);
        }

        #[test]
        fn other_bytes_are_no_revision_key(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Some(key) = RevisionKey::decode(&bytes) {
                prop_assert_eq!(&*key.encode(), &bytes[..]);
            }
            if let Some(key) = PageKey::decode(&bytes) {
                prop_assert_eq!(&*key.encode(), &bytes[..]);
            }
        }
    }

    #[test]
    fn meta_keys_lie_before_the_engine_own_and_those_before_revisions() {
        let meta = meta_key("applied");
        assert!(&meta[..] > META_START && &meta[..] < META_END);
        assert!(&MAIN_ZERO[..] < META_START && META_END < &RESERVED[..] && &RESERVED[..] < REVISIONS_START);
    }

    #[test]
    fn the_last_change_of_a_key_in_a_batch_wins() {
        let mut batch = WriteBatch::default();
        batch.put(b"b", b"1");
        batch.put(b"a", b"2");
        batch.delete(b"b");
        batch.put(b"c", b"3");
        batch.put(b"b", b"4");
        batch.delete(b"c");
        assert_eq!(batch.changes(), vec![(&b"a"[..], Some(&b"2"[..])), (b"b", Some(b"4")), (b"c", None)]);
    }
}
