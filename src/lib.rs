//! kelson: a replicated key-value store that speaks etcd's v3 API, as a library. The program is a thin shell around it.
//!
//! A [`Server`] is one member. Tests and programs that embed it start as many as they like; they share nothing and
//! never meet. [`Config::for_test`] keeps everything in memory, takes a free port and leaves nothing behind:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use kelson::proto::etcdserverpb::{PutRequest, kv_client::KvClient};
//! use tonic::transport::Endpoint;
//!
//! let server = kelson::Server::start(kelson::Config::for_test()).await?;
//! let channel = Endpoint::from_shared(server.client_endpoint())?.connect().await?;
//! let put = PutRequest { key: "greeting".into(), value: "hello".into(), ..PutRequest::default() };
//! let answer = KvClient::new(channel).put(put).await?.into_inner();
//! assert_eq!(answer.header.map(|header| header.revision), Some(2));
//! server.shutdown().await;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! [`testing::Cluster`] starts several that do meet, and puts faults between them.
//!
//! The modules form a river: each uses only those below it ([`testing`], `server`, then [`rpc`] and [`http`], [`lessor`],
//! [`compactor`] and [`corrupt`], [`raft`], [`watch`], [`state`], [`storage`], [`metrics`], [`tls`], [`clock`], [`config`], [`proto`], [`mutants`]). The
//! way of a Put: `rpc::kv` checks it, `raft::batch` joins it to a log entry, `storage::log` makes it durable, `raft::apply` gives
//! it to [`state::Store`], whose events go to [`watch::Hub`]; then it is answered. ARCHITECTURE.md walks the rest.

#![forbid(unsafe_code)]

mod blocking;
pub mod clock;
pub mod compactor;
pub mod config;
pub mod corrupt;
pub mod http;
pub mod lessor;
pub mod metrics;
pub mod mutants;
pub mod proto;
pub mod raft;
pub mod rpc;
mod server;
pub mod state;
pub mod storage;
pub mod testing;
pub mod tls;
pub mod watch;

pub use config::Config;
pub use server::{Error, Server, restore};
#[cfg(feature = "simulation")]
pub use server::{Opened, open_simulated};
