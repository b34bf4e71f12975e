//! Bytes on disk. Knows no clients, no Raft and no meaning of what it keeps; `state` and `raft` use it.

pub mod data_dir;
pub mod engine;
pub mod etcd_file;
pub mod fs;
pub mod log;
pub mod memory;
pub mod record;
pub mod sled;
