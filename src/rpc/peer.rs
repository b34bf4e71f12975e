//! The server side of what members say to each other: every message is looked at before it is acted upon, then it is
//! `raft::serve`'s, `lessor`'s or the store's.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use prost::Message;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use crate::lessor::Lessor;
use crate::metrics::peers::Peer as Series;
use crate::proto::etcdserverpb as pb;
use crate::proto::peer::{self, peer_server};
use crate::raft::serve::{Refused, Unanswered};
use crate::raft::{self, Node};

/// The `Peer` service.
#[derive(Clone)]
pub struct Peer {
    node: Arc<Node>,
    lessor: Arc<Lessor>,
    /// One hash at a time: it walks over everything, and whoever asks again does not wait for the first any more.
    hashing: Arc<Semaphore>,
}

/// Log entries being answered.
pub type Appends = Pin<Box<dyn Stream<Item = Result<peer::AppendResponse, Status>> + Send>>;

impl Peer {
    /// Serves the node's peers.
    pub fn new(node: Arc<Node>, lessor: Arc<Lessor>) -> Self {
        Self { node, lessor, hashing: Arc::new(Semaphore::new(1)) }
    }

    /// Looks at a message before it is acted upon, and counts it.
    fn admit(&self, envelope: Option<&peer::Envelope>, message: &impl Message) -> Result<(), Status> {
        let from = self.series(envelope);
        let admitted = self.node.admit(envelope);
        match (&from, &admitted) {
            (Some(from), Ok(())) => from.received_bytes.inc_by(message.encoded_len() as u64),
            (Some(from), Err(_)) => from.received_failures.inc(),
            // Strangers get no series.
            (None, _) => {}
        }
        admitted.map_err(|refused| {
            tracing::debug!(%refused, ?envelope, "a peer's message is refused");
            refusal(&refused)
        })
    }

    /// What is counted of the sender.
    fn series(&self, envelope: Option<&peer::Envelope>) -> Option<Arc<Series>> {
        Some(self.node.peers().get(envelope?.from)?.metrics.clone())
    }
}

fn refusal(refused: &Refused) -> Status {
    match refused {
        Refused::Removed => Status::permission_denied(refused.to_string()),
        Refused::Malformed(_) => Status::invalid_argument(refused.to_string()),
        Refused::Room { .. } => Status::resource_exhausted(refused.to_string()),
        Refused::Cluster | Refused::Member { .. } | Refused::Group(_) => {
            Status::failed_precondition(refused.to_string())
        }
    }
}

fn failure(error: &raft::Error) -> Status {
    Status::unavailable(error.to_string())
}

fn unanswered(error: &Unanswered) -> Status {
    match error {
        Unanswered::Refused(refused) => refusal(refused),
        Unanswered::Failed(error) => failure(error),
    }
}

#[tonic::async_trait]
impl peer_server::Peer for Peer {
    type AppendStream = Appends;

    async fn append(&self, request: Request<Streaming<peer::AppendRequest>>) -> Result<Response<Appends>, Status> {
        let mut requests = request.into_inner();
        let Some(first) = requests.message().await? else {
            return Ok(Response::new(Box::pin(futures_util::stream::empty())));
        };
        self.admit(first.envelope.as_ref(), &first)?;
        let from = first.envelope.as_ref().map_or(0, |envelope| envelope.from);
        // A member removed while its stream is open is not listened to any longer.
        let (node, series) = (self.node.clone(), self.series(first.envelope.as_ref()));
        let rest = requests.take_while(move |request| {
            match (request, &series) {
                (Ok(request), Some(series)) => series.received_bytes.inc_by(request.encoded_len() as u64),
                (Ok(_), None) => {}
                (Err(error), series) => {
                    if let Some(series) = series {
                        series.received_failures.inc();
                    }
                    tracing::debug!(%error, "a peer's stream of entries broke");
                }
            }
            std::future::ready(request.is_ok() && !node.is_removed(from))
        });
        let rest = rest.filter_map(|request| std::future::ready(request.ok()));
        let requests = futures_util::stream::once(std::future::ready(first)).chain(rest);
        let answers = self.node.follow(requests);
        Ok(Response::new(Box::pin(answers.map(|answer| answer.map_err(|error| failure(&error))))))
    }

    async fn heartbeat(&self, request: Request<peer::AppendRequest>) -> Result<Response<peer::AppendResponse>, Status> {
        let request = request.into_inner();
        self.admit(request.envelope.as_ref(), &request)?;
        self.node.heartbeat(request).await.map(Response::new).map_err(|error| unanswered(&error))
    }

    async fn vote(&self, request: Request<peer::VoteRequest>) -> Result<Response<peer::VoteResponse>, Status> {
        let request = request.into_inner();
        self.admit(request.envelope.as_ref(), &request)?;
        self.node.vote(request).await.map(Response::new).map_err(|error| unanswered(&error))
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        self.admit(request.envelope.as_ref(), &request)?;
        self.node.hear_of_transfer(request).await.map(Response::new).map_err(|error| unanswered(&error))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotRequest>>,
    ) -> Result<Response<peer::SnapshotResponse>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|first| first.head);
        let head = first.ok_or_else(|| Status::invalid_argument("a snapshot without its head"))?;
        self.admit(head.envelope.as_ref(), &head)?;
        let series = self.series(head.envelope.as_ref());
        // A stream that breaks off is short of what its head promised, which is found out there.
        let chunks = requests.take_while(|request| std::future::ready(request.is_ok()));
        let chunks = chunks.filter_map(|request| std::future::ready(request.ok().map(|request| request.chunk)));
        let chunks = chunks.inspect(move |chunk| {
            if let Some(series) = &series {
                series.received_bytes.inc_by(chunk.len() as u64);
            }
        });
        let installed = self.node.install(head, Box::pin(chunks)).await;
        installed.map(Response::new).map_err(|error| unanswered(&error))
    }

    async fn confirm(&self, request: Request<peer::ConfirmRequest>) -> Result<Response<peer::ConfirmResponse>, Status> {
        self.admit(request.get_ref().envelope.as_ref(), request.get_ref())?;
        Ok(Response::new(self.node.newest_vote()))
    }

    async fn read_index(
        &self,
        request: Request<peer::ReadIndexRequest>,
    ) -> Result<Response<peer::ReadIndexResponse>, Status> {
        self.admit(request.get_ref().envelope.as_ref(), request.get_ref())?;
        self.node.read_index_for_peer(request.into_inner()).await.map(Response::new).map_err(|error| failure(&error))
    }

    async fn propose(&self, request: Request<peer::ProposeRequest>) -> Result<Response<peer::ProposeResponse>, Status> {
        let request = request.into_inner();
        self.admit(request.envelope.as_ref(), &request)?;
        self.node.propose_for_peer(request).await.map(Response::new).map_err(|error| unanswered(&error))
    }

    async fn renew(&self, request: Request<peer::RenewRequest>) -> Result<Response<peer::RenewResponse>, Status> {
        let request = request.into_inner();
        self.admit(request.envelope.as_ref(), &request)?;
        Ok(Response::new(match self.lessor.renew(request.lease) {
            Ok(ttl) => peer::RenewResponse { leading: true, ttl: ttl.unwrap_or(0) },
            Err(_) => peer::RenewResponse::default(),
        }))
    }

    async fn remaining(
        &self,
        request: Request<peer::RemainingRequest>,
    ) -> Result<Response<peer::RemainingResponse>, Status> {
        let request = request.into_inner();
        self.admit(request.envelope.as_ref(), &request)?;
        Ok(Response::new(match self.lessor.remaining(request.lease) {
            Ok(remaining) => peer::RemainingResponse {
                leading: true,
                found: remaining.is_some(),
                remaining_ms: remaining.map_or(0, |left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            },
            Err(_) => peer::RemainingResponse::default(),
        }))
    }

    async fn change(&self, request: Request<peer::ChangeRequest>) -> Result<Response<peer::ChangeResponse>, Status> {
        let request = request.into_inner();
        self.admit(request.envelope.as_ref(), &request)?;
        self.node.change_for_peer(request).await.map(Response::new).map_err(|error| unanswered(&error))
    }

    async fn members(&self, request: Request<peer::MembersRequest>) -> Result<Response<peer::MembersResponse>, Status> {
        let envelope = request.get_ref().envelope.as_ref();
        // Whoever asks does not know the cluster yet, unless it does.
        if envelope.is_some_and(|envelope| envelope.cluster_id != 0) {
            self.admit(envelope, request.get_ref())?;
        }
        Ok(Response::new(self.node.members_for_peer(request.get_ref().linearizable).await))
    }

    async fn hash_kv(&self, request: Request<peer::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        let request = request.into_inner();
        self.admit(request.envelope.as_ref(), &request)?;
        let permit = Arc::clone(&self.hashing).acquire_owned().await;
        let permit = permit.map_err(|_| Status::unavailable("no hashes any more"))?;
        let store = Arc::clone(self.node.store());
        let hash = super::off_the_io_thread(move || {
            // Held until the hash is there, also when nobody waits for it any more.
            let _one_at_a_time = permit;
            store.hash_kv(request.revision)
        });
        let hash = hash.await?;
        let hash = hash.map_err(super::Error::from)?;
        Ok(Response::new(pb::HashKvResponse {
            header: super::header::now(&self.node),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.revision,
        }))
    }
}
