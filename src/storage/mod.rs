//! Bytes on disk. Knows no keys, revisions or Raft types: those above give it opaque bytes.

pub mod fs;
pub mod record;
pub mod log;
