//! Bytes on disk. Knows no keys, revisions or Raft types: those above give it opaque bytes.

pub mod fs;
