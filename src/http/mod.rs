//! The pages that people, probes and Prometheus read: `/health`, `/livez`, `/readyz`, `/version`, `/metrics`,
//! `/debug/vars`. Answers are etcd's to the byte, but for the order of checks and the words of refusals.
//!
//! It opens no port and knows no connection: whoever serves hands over a request and sends the answer back. What it
//! asks about the member goes through [`Probe`].

mod access;
mod health;
mod page;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use serde_json::json;

use crate::config::{Config, ETCD_CLUSTER_VERSION, ETCD_VERSION};
use crate::metrics::Metrics;
use crate::proto::etcdserverpb as pb;
use access::Access;

/// A check under way: `Err` says what is wrong.
pub type Check<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// What the pages ask of a member. Every answer is of now; nothing may block.
pub trait Probe: Send + Sync {
    /// Whether a leader is known and can be one, that is, was heard by a quorum.
    fn has_leader(&self) -> bool;
    /// Whether the member is a learner.
    fn is_learner(&self) -> bool;
    /// Alarms that are on.
    fn alarms(&self) -> Vec<pb::AlarmMember>;
    /// Reads as a client would that must see the newest state. It has a deadline of its own; the error is the text
    /// that the client would get.
    fn linearizable_read(&self) -> Check<'_>;
    /// Reads this member's state, however old.
    fn serializable_read(&self) -> Check<'_>;
    /// Where the member's Raft stands.
    fn raft(&self) -> RaftStatus;
}

/// What `/debug/vars` says of Raft.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// The member's id.
    pub id: u64,
    /// The current term.
    pub term: u64,
    /// The leader's id; 0 if none is known.
    pub leader: u64,
    /// Index of the last committed entry.
    pub committed_index: u64,
    /// Index of the last applied entry.
    pub applied_index: u64,
}

/// The pages of one member on one kind of port.
pub struct Pages {
    probe: Arc<dyn Probe>,
    metrics: Arc<Metrics>,
    port: Port,
}

/// Whom the pages are for.
enum Port {
    Clients(Access),
    /// Anybody may ask, and there are fewer pages.
    Metrics,
    /// Other members need no page; scripts look for the version there.
    Peers,
}

impl Pages {
    /// All pages, for the clients' port.
    pub fn for_clients(config: &Config, probe: Arc<dyn Probe>, metrics: Arc<Metrics>) -> Self {
        Self { probe, metrics, port: Port::Clients(Access::new(config)) }
    }

    /// Metrics and health only, for `--listen-metrics-urls`.
    pub fn for_metrics(probe: Arc<dyn Probe>, metrics: Arc<Metrics>) -> Self {
        Self { probe, metrics, port: Port::Metrics }
    }

    /// `/version` only, for `--listen-peer-urls`.
    pub fn for_peers(probe: Arc<dyn Probe>, metrics: Arc<Metrics>) -> Self {
        Self { probe, metrics, port: Port::Peers }
    }

    /// Answers one request; its body is not read.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let (request, _) = request.into_parts();
        let access = match &self.port {
            Port::Clients(access) => access,
            Port::Peers if request.uri.path() != "/version" => return page::not_found(),
            Port::Metrics | Port::Peers => return self.answer(&request).await,
        };
        if let Some(refusal) = access.refusal(&request) {
            return refusal;
        }
        let mut response = if request.method == Method::OPTIONS { page::empty() } else { self.answer(&request).await };
        access.add_cors(&request, response.headers_mut());
        response
    }

    async fn answer(&self, request: &http::request::Parts) -> Response<Full<Bytes>> {
        let path = request.uri.path();
        let is_get = request.method == Method::GET;
        match path {
            "/metrics" => page::metrics(self.metrics.render()),
            "/health" if is_get => health::health(self, &page::Query::of(request)).await,
            "/health" => page::only_get(),
            "/version" | "/debug/vars" if matches!(self.port, Port::Metrics) => page::not_found(),
            "/version" if is_get => page::json(
                format!(
                    r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{ETCD_CLUSTER_VERSION}","storage":"{ETCD_CLUSTER_VERSION}"}}"#
                ),
                "application/json",
            ),
            "/version" => page::only_get(),
            "/debug/vars" => page::json(self.variables(), "application/json; charset=utf-8"),
            _ => match health::Endpoint::of(path) {
                Some(endpoint) if is_get => endpoint.answer(self, &page::Query::of(request)).await,
                Some(_) => page::only_get(),
                None => page::not_found(),
            },
        }
    }

    /// Go's `expvar` page, without what only a Go program has.
    fn variables(&self) -> String {
        let raft = self.probe.raft();
        let state = match raft.leader {
            0 => "StateCandidate",
            leader if leader == raft.id => "StateLeader",
            _ => "StateFollower",
        };
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let variables = json!({
            "cmdline": std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>(),
            "file_descriptor_limit": limit,
            "raft.status": {
                "id": format!("{:x}", raft.id),
                "term": raft.term,
                "commit": raft.committed_index,
                "lead": format!("{:x}", raft.leader),
                "raftState": state,
                "applied": raft.applied_index,
            },
        });
        format!("{variables:#}\n")
    }
}

#[cfg(test)]
mod tests;
