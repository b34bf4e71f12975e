//! Bytes on disk. Knows no clients, no Raft and no meaning of what it keeps; `state` and `raft` use it.

pub mod engine;
pub mod fs;
pub mod memory;
pub mod sled;
