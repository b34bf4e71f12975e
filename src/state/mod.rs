//! The replicated state: a deterministic machine fed by the Raft log. Commands in, [`Applied`] and [`Effects`] out.
//!
//! No clock, no randomness, no tokio, no thread, no hash-map order: the same commands give the same bytes on every
//! member. Time, ids and tokens that matter are chosen by whoever proposes and travel inside the command.

pub mod command;
pub mod error;
pub mod event;
pub mod store;

pub use command::{Applied, Command, Effects, LeaseChange, Response};
pub use error::Error;
pub use event::{Change, ChangeKind, EventBatch, Revision};
pub use store::{HashKv, LeaseInfo, Page, Sizes, Store, View};
