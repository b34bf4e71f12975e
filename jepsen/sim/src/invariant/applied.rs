//! What a member has applied never goes back: entry by entry while it runs, and over a restart nothing is lost that
//! anybody was told of.

use std::collections::BTreeMap;

use super::{Broken, Held};

/// How far a member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The last entry applied.
    pub index: u64,
    /// The revision of its state.
    pub revision: i64,
}

/// How far each member is, and what clients were told.
#[derive(Debug, Default)]
pub struct Progress {
    members: BTreeMap<u32, Place>,
    acknowledged: i64,
}

fn broken(text: String) -> Broken {
    Broken { invariant: "applied", text }
}

impl Progress {
    /// A member starts with what it found on its disk.
    ///
    /// # Errors
    /// It has what nobody has committed.
    pub fn starts(&mut self, node: u32, place: Place, committed: u64) -> Held {
        self.members.insert(node, place);
        if place.index <= committed {
            return Ok(());
        }
        Err(broken(format!("{node} starts at {place:?}, but only {committed} is committed")))
    }

    /// A member applies the next entry.
    ///
    /// # Errors
    /// It is not the next one, or the revision falls.
    pub fn applies(&mut self, node: u32, to: Place) -> Held {
        let from = self.members.insert(node, to).unwrap_or_default();
        let first = from.index == 0 && to.index <= 1;
        if (first || to.index == from.index + 1) && to.revision >= from.revision {
            return Ok(());
        }
        Err(broken(format!("{node} goes from {from:?} to {to:?}")))
    }

    /// A member's state is replaced by a snapshot's.
    ///
    /// # Errors
    /// It is older.
    pub fn installs(&mut self, node: u32, to: Place) -> Held {
        let from = self.members.insert(node, to).unwrap_or_default();
        if to.index >= from.index && to.revision >= from.revision {
            return Ok(());
        }
        Err(broken(format!("{node} goes back from {from:?} to {to:?} by a snapshot")))
    }

    /// A client was answered at a revision.
    pub fn acknowledges(&mut self, revision: i64) {
        self.acknowledged = self.acknowledged.max(revision);
    }

    /// The newest revision that a client was told of.
    pub fn acknowledged(&self) -> i64 {
        self.acknowledged
    }

    /// A member says that it is ready; `acknowledged` is what clients had been told when it was asked.
    ///
    /// # Errors
    /// It lacks some of that.
    pub fn is_ready(&self, node: u32, revision: i64, acknowledged: i64) -> Held {
        if revision >= acknowledged {
            return Ok(());
        }
        Err(broken(format!("{node} is ready at revision {revision}, but {acknowledged} was acknowledged before")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(index: u64, revision: i64) -> Place {
        Place { index, revision }
    }

    #[test]
    fn steps_back_gaps_and_losses_are_found() {
        let mut progress = Progress::default();
        assert_eq!(progress.starts(0, place(0, 1), 0), Ok(()));
        assert_eq!(progress.applies(0, place(0, 1)), Ok(()));
        assert_eq!(progress.applies(0, place(1, 2)), Ok(()));
        assert!(progress.applies(0, place(1, 2)).is_err(), "twice");
        assert!(progress.applies(0, place(3, 2)).is_err(), "a gap");
        assert!(progress.applies(0, place(4, 1)).is_err(), "the revision falls");
        assert_eq!(progress.installs(0, place(9, 5)), Ok(()));
        assert!(progress.installs(0, place(8, 5)).is_err());
        assert!(progress.starts(1, place(10, 5), 9).is_err(), "from nowhere");
        progress.acknowledges(5);
        assert!(progress.is_ready(1, 4, progress.acknowledged()).is_err());
        assert_eq!(progress.is_ready(1, 5, progress.acknowledged()), Ok(()));
    }
}
