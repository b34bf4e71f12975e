//! The replicated state: a deterministic machine fed by the Raft log. Commands in, [`Applied`] and [`Effects`] out.
//!
//! No clock, no randomness, no tokio, no thread, no hash-map order: the same commands give the same bytes on every
//! member. Time, ids and tokens that matter are chosen by whoever proposes and travel inside the command.

pub mod command;
pub mod error;
pub mod event;
pub mod meta;
pub mod store;
pub mod view;

mod alarm;
mod apply;
mod compaction;
mod draft;
mod hash;
mod history;
mod key_index;
mod lease;
mod range;
mod restore;
mod txn;

#[cfg(test)]
mod tests;

pub use command::{Applied, Command, Effects, LeaseChange, Response};
pub use compaction::CompactSlice;
pub use draft::OpCounts;
pub use error::Error;
pub use event::{Change, ChangeKind, EventBatch, Revision, SharedBatch};
pub use lease::LeaseInfo;
pub use meta::{LeaseMeta, Meta, MetaError, RestoreError};
pub use store::{CompactedAt, HashKv, Sizes, Store};
pub use view::{Page, View};
