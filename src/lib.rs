#![doc = "kelson: a replicated key-value store that speaks etcd's v3 API."]
#![forbid(unsafe_code)]

pub mod clock;
pub mod proto;
pub mod rpc;
pub mod state;
pub mod watch;
