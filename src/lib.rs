#![doc = "kelson: a replicated key-value store that speaks etcd's v3 API."]
#![forbid(unsafe_code)]

pub mod clock;
pub mod config;
pub mod http;
pub mod metrics;
pub mod proto;
pub mod state;

pub use config::Config;
