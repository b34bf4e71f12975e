//! The HTTP pages over a running node: what they ask of it, and the metrics that mirror it.

use std::sync::{Arc, Weak};

use ::http::Request;
use hyper::body::Incoming;
use tonic::body::Body;

use super::dispatch::{Answer, Pages};
use crate::http::{self, Check, Probe, RaftStatus};
use crate::metrics::Metrics;
use crate::proto::etcdserverpb as pb;
use crate::raft::Node;
use crate::watch::Hub;

impl Pages for Arc<http::Pages> {
    fn call(&self, request: Request<Incoming>) -> Answer {
        let pages = self.clone();
        Box::pin(async move { pages.handle(request).await.map(Body::new) })
    }
}

/// Answers the pages' questions from a node.
pub struct NodeProbe(pub Arc<Node>);

impl Probe for NodeProbe {
    fn has_leader(&self) -> bool {
        self.0.status().leader.is_some()
    }

    fn is_learner(&self) -> bool {
        self.0.status().is_learner
    }

    fn alarms(&self) -> Vec<pb::AlarmMember> {
        self.0.store().alarms()
    }

    fn linearizable_read(&self) -> Check<'_> {
        Box::pin(async {
            self.0.read_barrier().await.map_err(|error| format!("etcdserver: {error}"))?;
            self.serializable_read().await
        })
    }

    fn serializable_read(&self) -> Check<'_> {
        let view = self.0.store().view();
        let request = pb::RangeRequest { key: "\0".into(), limit: 1, ..pb::RangeRequest::default() };
        let read = view.range(&request).map(drop).map_err(|error| format!("etcdserver: mvcc: {error}"));
        Box::pin(std::future::ready(read))
    }

    fn raft(&self) -> RaftStatus {
        let status = self.0.status();
        RaftStatus {
            id: status.member_id,
            term: status.term,
            leader: status.leader.unwrap_or(0),
            committed_index: status.committed_index,
            applied_index: status.applied_index,
        }
    }
}

/// Fills in, whenever the metrics are read, those that mirror the node and the hub.
pub fn mirror(metrics: &Metrics, node: &Arc<Node>, hub: &Arc<Hub>) {
    let (node, hub): (Weak<Node>, Weak<Hub>) = (Arc::downgrade(node), Arc::downgrade(hub));
    metrics.set_refresh(move |metrics| {
        if let (Some(node), Some(hub)) = (node.upgrade(), hub.upgrade()) {
            mirror_node(metrics, &node);
            mirror_hub(metrics, &hub);
        }
    });
}

fn mirror_node(metrics: &Metrics, node: &Node) {
    let (status, store) = (node.status(), node.store());
    let server = &metrics.server;
    server.has_leader.set(i64::from(status.leader.is_some()));
    server.is_leader.set(i64::from(node.is_leader()));
    server.is_learner.set(i64::from(status.is_learner));
    server.proposals_committed.set(count(status.committed_index));
    server.proposals_applied.set(count(status.applied_index));
    server.proposals_pending.set(count(node.proposals_pending() as u64));
    let (sizes, db_sizes) = (store.sizes(), node.db_sizes());
    let mvcc = &metrics.mvcc;
    mvcc.keys.set(count(sizes.keys));
    mvcc.current_revision.set(store.revision());
    mvcc.compact_revision.set(store.compact_revision());
    mvcc.total_put_bytes.set(count(sizes.put_bytes));
    mvcc.db_in_use_bytes.set(count(db_sizes.in_use_bytes));
    mvcc.db_total_bytes.set(count(db_sizes.total_bytes));
    metrics.disk.wal_write_bytes.set(count(node.log().sizes().written_bytes));
}

fn mirror_hub(metrics: &Metrics, hub: &Hub) {
    let mvcc = &metrics.mvcc;
    mvcc.watchers.set(count(hub.watchers() as u64));
    mvcc.watch_streams.set(count(hub.streams() as u64));
    mvcc.slow_watchers.set(count(hub.unsynced_watchers() as u64));
    mvcc.pending_events.set(count(hub.pending_batches() as u64));
    mvcc.events.inc_by((hub.events_sent() as u64).saturating_sub(mvcc.events.get()));
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
