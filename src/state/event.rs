//! What a command changed, in the form that history, watchers and the checkpoint share.

use std::sync::Arc;

use crate::proto::Record;

/// A point of MVCC time: `main` is one changing command, `sub` the change's place within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// One more with each changing command; the first is 2.
    pub main: i64,
    /// From 0 within one command.
    pub sub: i64,
}

/// Whether a change wrote or removed its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// The key was written.
    Put,
    /// The key was removed; the record is a tombstone (key and mod_revision only).
    Delete,
}

/// One change of one key. Its sub-revision is its place in [`EventBatch::changes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Write or removal.
    pub kind: ChangeKind,
    /// The record after the change.
    pub record: Record,
    /// The record before it; `None` when the key did not exist.
    pub previous: Option<Record>,
}

/// Everything one revision changed, in order. Never split, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventBatch {
    /// The main revision.
    pub revision: i64,
    /// In sub-revision order.
    pub changes: Vec<Change>,
}

/// A batch as everybody holds it.
pub type SharedBatch = Arc<EventBatch>;
