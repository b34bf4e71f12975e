//! Logs agree: an index and a term name the same bytes on all members, and what was committed at an index stays.

use std::collections::BTreeMap;

use super::{Broken, Held};

/// An entry by its place and its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub index: u64,
    /// The term of the leader that made it.
    pub term: u64,
    /// A sum over its kind and its bytes.
    pub sum: u32,
}

/// All entries that any member ever had, and those that any has applied.
#[derive(Debug, Default)]
pub struct Logs {
    appended: BTreeMap<(u64, u64), (u32, u32)>,
    committed: BTreeMap<u64, (Entry, u32)>,
}

impl Logs {
    /// A member takes an entry into its log.
    ///
    /// # Errors
    /// Another one has other bytes there.
    pub fn appended(&mut self, node: u32, entry: Entry) -> Held {
        let (sum, by) = *self.appended.entry((entry.index, entry.term)).or_insert((entry.sum, node));
        if sum == entry.sum {
            return Ok(());
        }
        let text = format!("{entry:?} on {node}, but {sum:08x} on {by}");
        Err(Broken { invariant: "log", text })
    }

    /// A member applies an entry, which is committed therefore.
    ///
    /// # Errors
    /// Another entry was committed there.
    pub fn applied(&mut self, node: u32, entry: Entry) -> Held {
        self.appended(node, entry)?;
        let (committed, by) = *self.committed.entry(entry.index).or_insert((entry, node));
        if committed == entry {
            return Ok(());
        }
        let text = format!("{node} applies {entry:?}, but {by} applied {committed:?}");
        Err(Broken { invariant: "log", text })
    }

    /// Whether nobody has applied this index yet.
    pub fn is_news(&self, index: u64) -> bool {
        !self.committed.contains_key(&index)
    }

    /// The last index that any member has applied.
    pub fn last_committed(&self) -> u64 {
        self.committed.last_key_value().map_or(0, |(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64, sum: u32) -> Entry {
        Entry { index, term, sum }
    }

    #[test]
    fn other_bytes_under_one_id_are_found() {
        let mut logs = Logs::default();
        assert_eq!(logs.appended(0, entry(5, 1, 9)), Ok(()));
        assert_eq!(logs.appended(1, entry(5, 2, 8)), Ok(()), "of another term, and perhaps void later");
        assert!(logs.appended(1, entry(5, 1, 8)).is_err());
    }

    #[test]
    fn a_committed_entry_that_changes_is_found() {
        let mut logs = Logs::default();
        assert_eq!(logs.applied(0, entry(5, 1, 9)), Ok(()));
        assert_eq!(logs.applied(1, entry(5, 1, 9)), Ok(()));
        assert!(logs.applied(2, entry(5, 2, 9)).is_err());
        assert!(!logs.is_news(5) && logs.is_news(6) && logs.last_committed() == 5);
    }
}
