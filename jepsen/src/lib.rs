//! Faults, workloads and checkers for servers of etcd's v3 API; `main.rs` is the command line over this library.

#![forbid(unsafe_code)]

pub mod chaosfs;
pub mod check;
pub mod client;
pub mod cluster;
pub mod doctor;
pub mod export;
pub mod history;
pub mod model;
pub mod nemesis;
pub mod observe;
pub mod plan;
pub mod proto;
pub mod report;
pub mod rng;
pub mod run;
pub mod shrink;
pub mod simulate;
pub mod target;
pub mod tls;
pub mod workload;
