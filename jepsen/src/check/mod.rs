//! Checkers: pure functions from what clients were told and what a server shows to what is wrong.

pub mod append;
pub mod bench;
pub mod durability;
pub mod finding;
pub mod graph;
pub mod judge;
pub mod lease;
pub mod liveness;
pub mod lock;
pub mod members;
pub mod order;
pub mod piece;
#[cfg(test)]
mod proof;
pub mod reflector;
pub mod revisions;
pub mod search;
pub mod set;
pub mod totals;
pub mod watch;
pub mod wr;

use serde::Serialize;

/// What is wrong, by kind; one kind, one promise of etcd's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An acknowledged write is not there.
    LostWrite,
    /// The current revision is below one that was seen.
    RevisionWentBack,
    /// An acknowledged write is there at another revision, or twice.
    WrongRevision,
    /// A transaction is there in part, or with another effect than its requests have.
    HalfTransaction,
    /// A refused request had an effect.
    RefusedButApplied,
    /// A request that must be refused was acknowledged.
    AcceptedDoomed,
    /// A change that no open request explains, such as one that was already found not to have happened.
    Unexplained,
    /// A revision without any change.
    Hole,
    /// A change that was seen at an earlier restart is different or gone.
    HistoryChanged,
    /// Create revision, mod revision, version or lease of a change do not follow from the changes before it.
    WrongFields,
    /// A read disagrees with the state at its revision.
    WrongRead,
    /// The order of revisions contradicts the order in time.
    WrongOrder,
    /// The full read disagrees with the sum of all changes.
    StateDiffers,
    /// A lease is missing, came back, has other keys or another TTL.
    Lease,
    /// A compaction was forgotten, or nobody asked for it.
    Compaction,
    /// `HashKV` of one revision changed.
    HashChanged,
    /// The server did not start, or did not answer in time after it did.
    Unbootable,
    /// The server ended by itself.
    Died,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which promise.
    pub kind: Kind,
    /// What was expected and what was seen, for a person.
    pub text: String,
}

impl Violation {
    /// A violation with its story.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{:?}: {}", self.kind, self.text)
    }
}
