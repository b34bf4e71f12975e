#![doc = "kelson: a replicated key-value store that speaks etcd's v3 API."]
#![forbid(unsafe_code)]

pub mod clock;
pub mod compactor;
pub mod config;
pub mod http;
pub mod lessor;
pub mod metrics;
pub mod proto;
pub mod raft;
pub mod rpc;
mod server;
pub mod state;
pub mod storage;
pub mod watch;

pub use config::Config;
pub use server::{Error, Server, restore};
