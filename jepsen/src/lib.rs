//! Faults, workloads and checkers for servers of etcd's v3 API; `main.rs` is the command line over this library.

#![forbid(unsafe_code)]

pub mod chaosfs;
pub mod check;
pub mod client;
pub mod history;
pub mod proto;
pub mod rng;
