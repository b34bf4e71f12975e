//! Bytes on disk. Knows no keys, revisions or Raft types: those above give it opaque bytes.

pub mod data_dir;
pub mod fs;
pub mod log;
pub mod record;
