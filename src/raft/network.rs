//! openraft's calls to other members, over [`Peers`].
//!
//! Log entries go as one stream with many requests under way, bounded in bytes, so that a follower's disk and the way to
//! it are both kept busy and a slow one holds back nobody else. A request without entries goes by the control connection
//! instead: a heartbeat must not wait behind a megabyte of entries.

use std::collections::VecDeque;
use std::future::{Future, poll_fn, ready};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::peers::{Failure, Peer, Peers};
use super::snapshot::SnapshotFile;
use super::types::{MemberInfo, TypeConfig, Vote};
use super::wire::{self, Malformed};
use crate::proto::peer;
use crate::storage::fs::File;

/// Bytes of entries sent to one follower and not answered yet; a larger request goes alone.
const UNANSWERED_BYTES_MAX: usize = 16 << 20;
/// Requests sent to one follower and not answered yet.
const UNANSWERED_REQUESTS_MAX: usize = 64;
/// A follower that answers nothing for so long, with requests under way, is taken to be out of reach.
const APPEND_DEADLINE: Duration = Duration::from_secs(5);
/// A snapshot goes in pieces of this size …
const CHUNK_BYTES: usize = 256 << 10;
/// … of which so many wait for the network …
const CHUNKS_WAITING_MAX: usize = 4;
/// … and not faster than this, so that the log's disk and the network keep room for writes.
const SNAPSHOT_BYTES_PER_SECOND: u64 = 128 << 20;
/// How long a file may take beyond what its size explains, with its installation.
const INSTALL_DEADLINE: Duration = Duration::from_secs(600);

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

/// Makes a [`Connection`] for each other member.
pub struct Network(pub Arc<Peers>);

/// openraft's way to one other member; it makes several for one.
pub struct Connection(Arc<Peer>);

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &MemberInfo) -> Connection {
        Connection(self.0.peer(target, node))
    }
}

fn unreachable(reason: &dyn std::fmt::Display) -> Unreachable<TypeConfig> {
    Unreachable::from_string(reason.to_string())
}

fn failed(failure: Failure) -> RPCError<TypeConfig> {
    RPCError::Unreachable(unreachable(&failure))
}

fn malformed(error: Malformed) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&AnyError::new(&error)))
}

/// Requests under way to one follower, by size.
#[derive(Default)]
struct Unanswered {
    // Guards the sizes; held to add or take one.
    sizes: Mutex<(VecDeque<usize>, usize)>,
    answered: Notify,
}

impl Unanswered {
    fn has_room(&self) -> bool {
        let sizes = self.sizes.lock();
        sizes.0.is_empty() || (sizes.1 < UNANSWERED_BYTES_MAX && sizes.0.len() < UNANSWERED_REQUESTS_MAX)
    }

    async fn room(&self) {
        while !self.has_room() {
            let answered = self.answered.notified();
            if self.has_room() {
                return;
            }
            answered.await;
        }
    }

    fn sent(&self, bytes: usize) {
        let mut sizes = self.sizes.lock();
        sizes.0.push_back(bytes);
        sizes.1 += bytes;
    }

    fn received(&self) {
        let mut sizes = self.sizes.lock();
        if let Some(bytes) = sizes.0.pop_front() {
            sizes.1 -= bytes;
        }
        drop(sizes);
        self.answered.notify_one();
    }

    fn is_empty(&self) -> bool {
        self.sizes.lock().0.is_empty()
    }
}

async fn heartbeat(
    peer: &Peer,
    request: AppendEntriesRequest<TypeConfig>,
    deadline: Duration,
) -> Rpc<StreamAppendResult<TypeConfig>> {
    let (request, started) = (wire::append(peer.envelope(), request), peer.now());
    match peer.control(deadline, |mut client| async move { client.heartbeat(request).await }).await {
        Ok(answer) => {
            peer.went_round(started);
            wire::to_appended(answer).map_err(malformed)
        }
        Err(failure) => {
            peer.missed_heartbeat();
            Err(failed(failure))
        }
    }
}

/// Turns that a stream which has waited for a request lets pass before it takes one: so many tasks run one after the other,
/// on this thread, from the one that commits a batch to the one that has written the next.
const TURNS_PASSED: u32 = 6;

/// The next request of openraft's. It gives the news of a commit as soon as there are any, in a request of their own, and
/// the next batch, which has been waiting for that commit, a moment later in another; both go as one when it is asked last.
async fn next_unhurried<T>(input: &mut (impl Stream<Item = T> + Unpin)) -> Option<T> {
    let mut turns_left = 0;
    poll_fn(|context| {
        if turns_left > 0 {
            turns_left -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        turns_left = TURNS_PASSED;
        input.poll_next_unpin(context)
    })
    .await
}

type Appended<'s> = BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>;

/// Opens a stream that carries all of `input`.
async fn append<S>(peer: Arc<Peer>, mut input: S) -> Rpc<Appended<'static>>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
    let unanswered = Arc::new(Unanswered::default());
    let requests = {
        let (peer, unanswered) = (peer.clone(), unanswered.clone());
        let input = stream::once(ready(first)).chain(input);
        stream::unfold((input, true), move |(mut input, is_first)| {
            let (peer, unanswered) = (peer.clone(), unanswered.clone());
            async move {
                unanswered.room().await;
                let request = next_unhurried(&mut input).await?;
                if !peer.reaches() {
                    return None;
                }
                let request = wire::append(peer.envelope().filter(|_| is_first), request);
                unanswered.sent(wire::payload_bytes(&request));
                Some((request, (input, false)))
            }
        })
    };
    let answers = peer.entries(APPEND_DEADLINE, |mut client| async move { client.append(requests).await });
    let answers = answers.await.map_err(failed)?;
    let results = stream::unfold(Some((answers, peer, unanswered)), |state| async {
        let (mut answers, peer, unanswered) = state?;
        let result = next_answer(&mut answers, &peer, &unanswered).await?;
        let goes_on = matches!(result, Ok(Ok(_)));
        Some((result, goes_on.then_some((answers, peer, unanswered))))
    });
    Ok(results.boxed())
}

async fn next_answer(
    answers: &mut tonic::Streaming<peer::AppendResponse>,
    peer: &Peer,
    unanswered: &Unanswered,
) -> Option<Rpc<StreamAppendResult<TypeConfig>>> {
    loop {
        let waited_for = !unanswered.is_empty();
        let answer = match tokio::time::timeout(APPEND_DEADLINE, answers.next()).await {
            Ok(answer) => answer?,
            Err(_) if waited_for => {
                peer.metrics.sent_failures.inc();
                return Some(Err(RPCError::Unreachable(unreachable(&format!(
                    "member {:x} answered nothing for {APPEND_DEADLINE:?}",
                    peer.id
                )))));
            }
            Err(_) => continue,
        };
        if !peer.hears() {
            return Some(Err(RPCError::Unreachable(unreachable(&"the answers are cut off"))));
        }
        return Some(match answer {
            Ok(answer) => {
                unanswered.received();
                peer.answered();
                wire::to_appended(answer).map_err(malformed)
            }
            Err(status) => {
                peer.metrics.sent_failures.inc();
                Err(failed(Failure::Unknown(status)))
            }
        });
    }
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let result = heartbeat(&self.0, rpc, option.soft_ttl()).await?;
        Ok(match result {
            Ok(_) => AppendEntriesResponse::Success,
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> futures_util::future::BoxFuture<'s, Rpc<Appended<'s>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let peer = self.0.clone();
        Box::pin(async move {
            let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
            if !first.entries.is_empty() {
                return append(peer, stream::once(ready(first)).chain(input)).await;
            }
            let result = heartbeat(&peer, first, option.hard_ttl()).await?;
            let goes_on = result.is_ok();
            let head = stream::once(ready(Ok(result)));
            if !goes_on {
                return Ok(head.boxed());
            }
            // Opened when openraft asks for more, which for a heartbeat is never.
            let rest = stream::once(append(peer, input)).flat_map(|opened| match opened {
                Ok(answers) => answers,
                Err(error) => stream::once(ready(Err(error))).boxed(),
            });
            Ok(head.chain(rest).boxed())
        })
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.ballot(rpc, false, option.soft_ttl()).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.ballot(rpc, true, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let request = wire::transfer(self.0.envelope(), &request);
        let call = self.0.control(option.soft_ttl(), |mut client| async move { client.transfer_leader(request).await });
        let answer = call.await.map_err(failed)?;
        if answer.refusal.is_empty() {
            return Ok(Ok(()));
        }
        Err(RPCError::Network(NetworkError::from_string(answer.refusal)))
    }
}

impl Connection {
    async fn ballot(
        &self,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
        deadline: Duration,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let request = wire::vote_request(self.0.envelope(), request, pre_vote);
        let answer = self.0.control(deadline, |mut client| async move { client.vote(request).await }).await;
        wire::to_vote_response(answer.map_err(failed)?).map_err(malformed)
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let unreadable = |error: io::Error| {
            StreamingError::Unreachable(unreachable(&format!("{}: {error}", snapshot.snapshot.path().display())))
        };
        let file = snapshot.snapshot.open().map_err(unreadable)?;
        let bytes = file.len().map_err(unreadable)?;
        let head = peer::SnapshotHead {
            envelope: self.0.envelope(),
            vote: Some(wire::vote(&vote)),
            last: snapshot.meta.last_log_id.map(wire::id),
            bytes,
        };
        tracing::info!(to = format!("{:x}", self.0.id), bytes, "sending a snapshot");
        let (transfer, started) = (self.0.metrics.snapshots_sent.begin(), self.0.now());
        let head = peer::SnapshotRequest { head: Some(head), chunk: Bytes::new() };
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
        #[cfg(not(feature = "simulation"))]
        let reading = tokio::task::spawn_blocking(move || read_chunks(&*file, &sender));
        #[cfg(feature = "simulation")]
        let reading = tokio::spawn(async move { read_chunks(&*file, &sender).await });
        let requests = stream::once(ready(head)).chain(throttled(ReceiverStream::new(chunks)));
        let deadline = INSTALL_DEADLINE + Duration::from_secs(bytes / (SNAPSHOT_BYTES_PER_SECOND / 16));
        let answer = self.0.files(deadline, |mut client| async move { client.snapshot(requests).await }).await;
        // Ends with the stream, whichever way that ended; an unreadable file cut the stream short.
        reading.await.map_err(io::Error::other).and_then(|read| read).map_err(unreadable)?;
        let answer = answer.map_err(|failure| StreamingError::Unreachable(unreachable(&failure)))?;
        let vote = wire::to_vote(answer.vote)
            .map_err(|error| StreamingError::Network(NetworkError::new(&AnyError::new(&error))))?;
        transfer.succeeded(self.0.now().saturating_sub(started).as_secs_f64());
        tracing::info!(to = format!("{:x}", self.0.id), bytes, "snapshot sent");
        Ok(SnapshotResponse::new(vote))
    }
}

/// Reads a file to its end, or until nobody wants it any more.
#[cfg(not(feature = "simulation"))]
fn read_chunks(file: &dyn File, chunks: &mpsc::Sender<peer::SnapshotRequest>) -> io::Result<()> {
    let mut offset = 0;
    while let Some(chunk) = read_chunk(file, &mut offset)? {
        if chunks.blocking_send(chunk).is_err() {
            break;
        }
    }
    Ok(())
}

/// The same as a task.
#[cfg(feature = "simulation")]
async fn read_chunks(file: &dyn File, chunks: &mpsc::Sender<peer::SnapshotRequest>) -> io::Result<()> {
    let mut offset = 0;
    while let Some(chunk) = read_chunk(file, &mut offset)? {
        if chunks.send(chunk).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn read_chunk(file: &dyn File, offset: &mut u64) -> io::Result<Option<peer::SnapshotRequest>> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let read = file.read_at(*offset, &mut chunk)?;
    chunk.truncate(read);
    *offset += read as u64;
    Ok((read > 0).then(|| peer::SnapshotRequest { head: None, chunk: chunk.into() }))
}

/// A pause behind each chunk, as long as the chunk may take.
fn throttled(
    chunks: impl Stream<Item = peer::SnapshotRequest> + Send + 'static,
) -> impl Stream<Item = peer::SnapshotRequest> + Send + 'static {
    chunks.then(|chunk| async {
        let nanos = chunk.chunk.len() as u64 * 1_000_000_000 / SNAPSHOT_BYTES_PER_SECOND;
        tokio::time::sleep(Duration::from_nanos(nanos)).await;
        chunk
    })
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tokio_stream::wrappers::WatchStream;

    use super::*;

    #[tokio::test]
    async fn news_that_come_a_few_turns_apart_are_taken_as_one() {
        let (commit, news) = watch::channel(0);
        let mut requests = WatchStream::from_changes(news);
        let teller = tokio::spawn(async move {
            for index in 1..=3 {
                commit.send_replace(index);
                tokio::task::yield_now().await;
            }
            commit
        });
        assert_eq!(next_unhurried(&mut requests).await, Some(3));
        let commit = teller.await.unwrap();
        commit.send_replace(4);
        assert_eq!(next_unhurried(&mut requests).await, Some(4), "what is there already is taken at once");
        drop(commit);
        assert_eq!(next_unhurried(&mut requests).await, None);
    }
}
