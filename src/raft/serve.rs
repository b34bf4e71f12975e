//! What other members ask of this one; `rpc::peer` brings their messages, checked by [`Node::admit`] first.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use openraft::storage::Snapshot;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::error::Error;
use super::membership::{self, from_wire};
use super::peers::GROUP;
use super::types::{Proposal, TypeConfig};
use super::wire::{self, Malformed};
use super::{Leadership, Node};
use crate::mutants::{Mutant, planted};
use crate::proto::peer;

/// Receipts that a planted bug gives before their entries are in the log.
const RECEIPTS_MAX: usize = 64;

/// Why a peer is not listened to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It belongs to another cluster.
    #[error("cluster ID mismatch")]
    Cluster,
    /// It looks for another member here.
    #[error("member {found:x} is here, not {wanted:x}")]
    Member {
        /// Who is here.
        found: u64,
        /// Who was looked for.
        wanted: u64,
    },
    /// It was removed and has not heard of it.
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    /// It speaks of a group that is not here.
    #[error("no Raft group {0}")]
    Group(u32),
    /// It announces a snapshot for which there is no room.
    #[error("a snapshot of {bytes} bytes is announced, and there is room for {room}")]
    Room {
        /// As announced.
        bytes: u64,
        /// What the file system has left for it.
        room: u64,
    },
    /// No sense can be made of it.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// How an answer is not given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The message was not acted upon.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It was, perhaps.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<Malformed> for Unanswered {
    fn from(error: Malformed) -> Self {
        Self::Refused(error.into())
    }
}

impl Node {
    /// Whether a message is for this member, of this cluster, from one that may speak.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn admit(&self, envelope: Option<&peer::Envelope>) -> Result<(), Refused> {
        let envelope = envelope.ok_or_else(|| Malformed("no envelope".to_owned()))?;
        if envelope.group != GROUP {
            return Err(Refused::Group(envelope.group));
        }
        if envelope.cluster_id != self.identity.cluster_id {
            return Err(Refused::Cluster);
        }
        if envelope.to != self.identity.member_id {
            return Err(Refused::Member { found: self.identity.member_id, wanted: envelope.to });
        }
        if self.is_removed(envelope.from) && !planted(Mutant::RemovedReturns) {
            return Err(Refused::Removed);
        }
        Ok(())
    }

    /// Whether a member was removed from the cluster.
    pub fn is_removed(&self, id: u64) -> bool {
        self.shared.mark.lock().removed.contains(&id)
    }

    /// Follows a leader's entries; answers come in order. The first message was admitted.
    pub fn follow(
        &self,
        requests: impl Stream<Item = peer::AppendRequest> + Send + 'static,
    ) -> BoxStream<'static, Result<peer::AppendResponse, Error>> {
        let requests = requests.map(wire::to_append).take_while(|request| {
            if let Err(error) = request {
                tracing::warn!(%error, "a peer's stream of entries ends here");
            }
            std::future::ready(request.is_ok())
        });
        let requests = Box::pin(requests.filter_map(|request| std::future::ready(request.ok())));
        if planted(Mutant::AckOnReceipt) {
            let (receipts, receipt) = mpsc::channel(RECEIPTS_MAX);
            let requests = requests.inspect(move |request| {
                if let Some(last) = request.entries.last() {
                    // One that finds no room is given with the next one.
                    receipts.try_send(last.log_id).ok();
                }
            });
            let early = ReceiverStream::new(receipt).map(|last| Ok(wire::appended(Ok(Some(last)))));
            let late = self.follow_all(Box::pin(requests)).filter(|_| std::future::ready(false));
            return futures_util::stream::select(early, late).boxed();
        }
        self.follow_all(requests)
    }

    fn follow_all(
        &self,
        requests: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    ) -> BoxStream<'static, Result<peer::AppendResponse, Error>> {
        let (heard, clock) = (self.heard_ms.clone(), self.meter().clock.clone());
        let raft = self.raft.clone();
        // The stream borrows nothing of Raft's handle, but its type says so.
        let results = futures_util::stream::once(async move { raft.stream_append(requests).boxed() }).flatten();
        let answers = results.map(move |result| match result {
            Ok(result) => {
                if result.is_ok() {
                    heard.store(clock.now().as_millis() as u64 + 1, Ordering::Release);
                }
                Ok(wire::appended(result))
            }
            Err(error) => Err(Error::Fatal(error.to_string())),
        });
        answers.boxed()
    }

    /// Takes a heartbeat.
    ///
    /// # Errors
    /// Malformed; this member stops.
    pub async fn heartbeat(&self, request: peer::AppendRequest) -> Result<peer::AppendResponse, Unanswered> {
        let request: AppendEntriesRequest<TypeConfig> = wire::to_append(request)?;
        let mut results = Box::pin(self.raft.stream_append(Box::pin(futures_util::stream::iter([request]))));
        let result = results.next().await.ok_or(Error::Stopped)?;
        let result = result.map_err(|error| Error::Fatal(error.to_string()))?;
        if result.is_ok() {
            self.hear();
        }
        Ok(wire::appended(result))
    }

    /// Votes, or says how it would.
    ///
    /// # Errors
    /// Malformed; this member stops.
    pub async fn vote(&self, request: peer::VoteRequest) -> Result<peer::VoteResponse, Unanswered> {
        let pre_vote = request.pre_vote;
        let request = wire::to_vote_request(request)?;
        let voted = if pre_vote { self.raft.pre_vote(request).await } else { self.raft.vote(request).await };
        Ok(wire::vote_response(&voted.map_err(|error| Error::Fatal(error.to_string()))?))
    }

    /// Hears who is to lead next.
    ///
    /// # Errors
    /// Malformed; this member stops.
    pub async fn hear_of_transfer(
        &self,
        request: peer::TransferLeaderRequest,
    ) -> Result<peer::TransferLeaderResponse, Unanswered> {
        let request = wire::to_transfer(request)?;
        let heard = self.raft.handle_transfer_leader(request).await;
        let refusal = match heard.map_err(|error| Error::Fatal(error.to_string()))? {
            Ok(()) => String::new(),
            Err(refusal) => refusal.to_string(),
        };
        Ok(peer::TransferLeaderResponse { refusal })
    }

    /// Takes a snapshot file and lives on from it.
    ///
    /// # Errors
    /// Malformed, too large for the disk, or cut short; the disk's; this member stops.
    pub async fn install(
        &self,
        head: peer::SnapshotHead,
        mut chunks: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
    ) -> Result<peer::SnapshotResponse, Unanswered> {
        let from = head.envelope.as_ref().map_or(0, |envelope| envelope.from);
        let started = self.meter().clock.now();
        let transfer = self.peers.get(from).map(|peer| peer.metrics.snapshots_received.begin());
        let vote = wire::to_vote(head.vote)?;
        tracing::info!(bytes = head.bytes, index = head.last.map(|id| id.index), "receiving a snapshot");
        let failed = |error: io::Error| Error::Fatal(format!("snapshot: {error}"));
        if let Some(room) = self.snapshots.room_bytes().map_err(failed)?.filter(|room| head.bytes > *room) {
            tracing::warn!(
                bytes = head.bytes,
                room,
                "a peer's snapshot is refused, because the disk has no room for it"
            );
            return Err(Refused::Room { bytes: head.bytes, room }.into());
        }
        let mut file = self.snapshots.receiving().map_err(failed)?;
        let mut received = 0;
        while let Some(chunk) = chunks.next().await {
            received += chunk.len() as u64;
            if received > head.bytes {
                break;
            }
            self.hear();
            file = crate::blocking::spawn(move || file.write_all(&chunk).map(|()| file))
                .await
                .map_err(|error| failed(io::Error::other(error)))?
                .map_err(failed)?;
        }
        if received != head.bytes {
            return Err(Malformed(format!("{received} bytes of a snapshot of {}", head.bytes)).into());
        }
        let received = crate::blocking::spawn(move || {
            let snapshot = file.finish()?;
            Ok::<_, io::Error>(Snapshot { meta: snapshot.meta()?, snapshot })
        });
        let snapshot = received.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        let vote = installed.map_err(|error| Error::Fatal(error.to_string()))?.vote;
        if let Some(transfer) = transfer {
            transfer.succeeded(self.meter().since(started).as_secs_f64());
        }
        Ok(peer::SnapshotResponse { vote: Some(wire::vote(&vote)) })
    }

    fn hear(&self) {
        self.heard_ms.store(self.meter().clock.now().as_millis() as u64 + 1, Ordering::Release);
    }

    /// Says whom it has voted for.
    pub fn newest_vote(&self) -> peer::ConfirmResponse {
        peer::ConfirmResponse { vote: self.log_store.vote().as_ref().map(wire::vote) }
    }

    /// Gives the read index of a leader.
    ///
    /// # Errors
    /// It does not lead, or cannot prove it in time.
    pub async fn read_index_for_peer(&self, request: peer::ReadIndexRequest) -> Result<peer::ReadIndexResponse, Error> {
        if !self.is_leader() {
            return Err(Error::NotLeader);
        }
        if let Some(index) = self.index_confirmed_by(&request).await {
            return Ok(peer::ReadIndexResponse { index });
        }
        // Shares a round with this member's own reads.
        let index = tokio::time::timeout(self.leader_deadline(), self.read_index.next()).await;
        Ok(peer::ReadIndexResponse { index: index.map_err(|_| Error::Timeout)?? })
    }

    /// Proposes a batch of another member.
    ///
    /// # Errors
    /// Malformed; its fate is unknown.
    pub async fn propose_for_peer(&self, request: peer::ProposeRequest) -> Result<peer::ProposeResponse, Unanswered> {
        let proposal = Proposal::from_bytes(request.proposal)
            .ok_or_else(|| Malformed("a proposal without its header".to_owned()))?;
        let (_, _, batch) = proposal.parts();
        crate::state::Command::decode_batch(batch).map_err(|error| Malformed(error.to_string()))?;
        Ok(peer::ProposeResponse { accepted: self.accept(proposal).await? })
    }

    /// Changes the membership for another member.
    ///
    /// # Errors
    /// Malformed; its fate is unknown.
    pub async fn change_for_peer(&self, request: peer::ChangeRequest) -> Result<peer::ChangeResponse, Unanswered> {
        let change = request.change.ok_or_else(|| Malformed("no change".to_owned()))?;
        Ok(membership::answer(self.change_as_leader(from_wire(change)).await)?)
    }

    /// Who is in the cluster, for a member that joins it; whether or not a leader can confirm it.
    pub async fn members_for_peer(&self, linearizable: bool) -> peer::MembersResponse {
        let confirmed = linearizable
            && matches!(tokio::time::timeout(self.leader_deadline(), self.read_barrier()).await, Ok(Ok(())));
        let Leadership { leader, .. } = self.leadership();
        peer::MembersResponse {
            cluster_id: self.identity.cluster_id,
            leader: leader.unwrap_or(0),
            member_id: self.identity.member_id,
            members: self.members(),
            confirmed,
        }
    }
}
