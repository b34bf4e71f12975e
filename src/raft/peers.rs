//! The way to the other members: one set of connections to each, made when first needed and again when they break.
//!
//! A member is reached over three connections, so that nothing small waits behind something large: `control` for
//! heartbeats, votes and confirmations, `entries` for log entries and forwarded proposals, `files` for snapshots. Every
//! call has a deadline. What goes over them is in `proto/kelson/peer.proto`; `network` speaks it for openraft, `forward`
//! and `read_index` for this member's own requests.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper_util::rt::TokioIo;
use parking_lot::RwLock;
use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::Identity;
use super::types::{MemberInfo, Membership};
use crate::clock::Clock;
use crate::config::Url;
use crate::metrics::{self, Metrics};
use crate::proto::peer::peer_client::PeerClient;
use crate::proto::peer::{self, Envelope};

/// The Raft group that every message names; there is one.
pub const GROUP: u32 = 0;
/// A connection that is not there after this counts as refused.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// Silence after which a connection is tried for life, and how long the other end may take to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Flow-control windows, so that a batch of entries need not wait for the receiver's window at every 64 KiB.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// The largest message; one entry may be a little more than a client's largest request, and a read of the log returns
/// 8 MiB and one entry.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A byte stream to a peer.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What [`Dial::dial`] gives.
pub type Dialled<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>>;

/// Opens byte streams to peers, encrypted or not.
pub trait Dial: Send + Sync + 'static {
    /// A stream to a peer URL.
    fn dial<'a>(&'a self, url: &'a Url) -> Dialled<'a>;
}

/// Plain TCP, whatever the URL's scheme.
pub struct Tcp;

impl Dial for Tcp {
    fn dial<'a>(&'a self, url: &'a Url) -> Dialled<'a> {
        Box::pin(async move { Ok(Box::new(connect(url).await?) as Box<dyn Io>) })
    }
}

/// A TCP connection to a URL's host and port.
///
/// # Errors
/// The network's.
pub async fn connect(url: &Url) -> io::Result<TcpStream> {
    let port = url.port().unwrap_or(0);
    let stream = TcpStream::connect((url.host(), port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Which ways between the members of one process are cut, for tests; each direction by itself.
#[derive(Clone, Debug, Default)]
pub struct Links(Arc<RwLock<BTreeSet<(u64, u64)>>>);

impl Links {
    /// Nothing gets from one member to the other any more.
    pub fn cut(&self, from: u64, to: u64) {
        self.0.write().insert((from, to));
    }

    /// Everything gets through again.
    pub fn heal(&self) {
        self.0.write().clear();
    }

    /// Whether messages of `from` reach `to`.
    pub fn is_open(&self, from: u64, to: u64) -> bool {
        !self.0.read().contains(&(from, to))
    }
}

/// Why a call to a peer has no answer.
#[derive(Debug)]
pub enum Failure {
    /// No connection could be made: nothing was sent.
    NotSent(String),
    /// Sent, perhaps, and not answered, or answered with an error.
    Unknown(Status),
}

impl Failure {
    /// Whether the message got lost, or its answer; otherwise it was understood and refused.
    fn is_the_ways(&self) -> bool {
        const REFUSALS: [Code; 4] =
            [Code::OutOfRange, Code::FailedPrecondition, Code::PermissionDenied, Code::InvalidArgument];
        match self {
            Self::NotSent(_) => true,
            Self::Unknown(status) => !REFUSALS.contains(&status.code()),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSent(reason) => f.write_str(reason),
            Self::Unknown(status) => write!(f, "{:?}: {}", status.code(), status.message()),
        }
    }
}

/// The connections to all other members.
pub struct Peers {
    identity: Arc<Identity>,
    dial: Arc<dyn Dial>,
    links: Option<Links>,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// Whether a member has said that this one was removed.
    expelled: Arc<AtomicBool>,
    // Guards the list, which changes with the membership; read once a call.
    peers: RwLock<BTreeMap<u64, Arc<Peer>>>,
}

impl Peers {
    /// Nobody yet; [`Peers::update`] makes them known.
    pub fn new(
        identity: Arc<Identity>,
        dial: Arc<dyn Dial>,
        links: Option<Links>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Self {
        Self { identity, dial, links, metrics, clock, expelled: Arc::default(), peers: RwLock::default() }
    }

    /// Whether a member has said that this one was removed from the cluster.
    pub fn have_expelled(&self) -> bool {
        self.expelled.load(Ordering::Acquire)
    }

    /// Asks every member whether this one still belongs to the cluster; for when it hears of no leader.
    pub async fn ask_for_belonging(&self) {
        for peer in self.all() {
            let request = peer::ConfirmRequest { envelope: peer.envelope() };
            let call = peer.control(CONNECT_DEADLINE, |mut client| async move { client.confirm(request).await });
            if let Err(failure) = call.await {
                tracing::debug!(%failure, "no word from a peer");
            }
        }
    }

    /// Asks every member something that it answers from memory, so that each knows how far away the others are, as
    /// etcd's prober.
    pub async fn probe(&self) {
        let probes = self.all().into_iter().map(async |peer| {
            let (request, started) = (peer::ConfirmRequest { envelope: peer.envelope() }, self.clock.now());
            let call = peer.control(CONNECT_DEADLINE, |mut client| async move { client.confirm(request).await });
            match call.await {
                Ok(_) => peer.went_round(started),
                Err(failure) => tracing::debug!(%failure, "no answer to a probe"),
            }
        });
        futures_util::future::join_all(probes).await;
    }

    /// The way to a member at `info`'s URLs. Must be called on the runtime that is to drive the connections.
    pub fn peer(&self, id: u64, info: &MemberInfo) -> Arc<Peer> {
        if let Some(peer) = self.peers.read().get(&id) {
            peer.set_urls(&info.peer_urls);
            return peer.clone();
        }
        let made = || Arc::new(Peer::new(self, id, &info.peer_urls));
        self.peers.write().entry(id).or_insert_with(made).clone()
    }

    /// The way to a member that is known.
    pub fn get(&self, id: u64) -> Option<Arc<Peer>> {
        self.peers.read().get(&id).cloned()
    }

    /// All that are known.
    pub fn all(&self) -> Vec<Arc<Peer>> {
        self.peers.read().values().cloned().collect()
    }

    /// Follows the membership: makes new members known, forgets those that are gone, takes over changed URLs. Must be
    /// called on the runtime that is to drive the connections.
    ///
    /// A membership without anybody is that of a new cluster which has not begun, and says nothing. One that is applied
    /// may lag behind the one that Raft goes by, so that whom Raft still, or already, holds a way to is kept: there must
    /// not be two ways to one member, of which only one hears of its answers and of its new URLs.
    pub fn update(&self, membership: &Membership) {
        let me = self.identity.member_id;
        for (&id, info) in membership.nodes().filter(|(id, _)| **id != me) {
            self.peer(id, info);
        }
        if membership.nodes().next().is_some() {
            self.peers.write().retain(|id, peer| {
                let is_member = membership.get_node(id).is_some();
                if !is_member {
                    peer.metrics.known.set(0);
                }
                is_member || Arc::strong_count(peer) > 1
            });
        }
    }
}

/// The way to one other member.
pub struct Peer {
    /// Its id.
    pub id: u64,
    /// What is counted of it.
    pub metrics: Arc<metrics::peers::Peer>,
    /// Of all peers together.
    heartbeats_missed: IntCounter,
    from: u64,
    cluster_id: u64,
    urls: Arc<ArcSwap<Vec<String>>>,
    links: Option<Links>,
    clock: Clock,
    expelled: Arc<AtomicBool>,
    control: Line,
    entries: Line,
    files: Line,
    /// When it last answered, milliseconds of the clock, plus one; 0 = never.
    answered_ms: AtomicU64,
}

/// All open connections to a peer, and what they carry, before it is encrypted.
struct Wires {
    open: AtomicU64,
    metrics: Arc<metrics::peers::Peer>,
}

impl Wires {
    fn opened(&self) {
        if self.open.fetch_add(1, Ordering::AcqRel) == 0 {
            self.metrics.active.set(1);
        }
    }

    fn closed(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.metrics.active.set(0);
            self.metrics.disconnected.inc();
        }
    }
}

/// One connection, made anew when it breaks.
struct Line {
    client: PeerClient<Channel>,
    /// How many there have been, and how many there are.
    made: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
}

impl Peer {
    fn new(peers: &Peers, id: u64, urls: &[String]) -> Self {
        let urls = Arc::new(ArcSwap::from_pointee(urls.to_vec()));
        let metrics = Arc::new(peers.metrics.peers.peer(peers.identity.member_id, id));
        metrics.known.set(1);
        let wires = Arc::new(Wires { open: AtomicU64::new(0), metrics: metrics.clone() });
        let line = || Line::new(peers.dial.clone(), urls.clone(), Some(wires.clone()));
        Self {
            id,
            metrics,
            heartbeats_missed: peers.metrics.server.heartbeat_send_failures.clone(),
            from: peers.identity.member_id,
            cluster_id: peers.identity.cluster_id,
            control: line(),
            entries: line(),
            files: line(),
            urls,
            links: peers.links.clone(),
            clock: peers.clock.clone(),
            expelled: peers.expelled.clone(),
            answered_ms: AtomicU64::new(0),
        }
    }

    fn set_urls(&self, urls: &[String]) {
        if **self.urls.load() != urls {
            self.urls.store(Arc::new(urls.to_vec()));
        }
    }

    /// Where it is reached.
    pub fn urls(&self) -> Arc<Vec<String>> {
        self.urls.load_full()
    }

    /// What every message begins with.
    pub fn envelope(&self) -> Option<Envelope> {
        Some(Envelope { cluster_id: self.cluster_id, from: self.from, to: self.id, group: GROUP })
    }

    /// How long ago it last answered anything; `None` = never.
    pub fn silence(&self) -> Option<Duration> {
        let answered = self.answered_ms.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.clock.now().saturating_sub(Duration::from_millis(answered)))
    }

    /// Notes that it answered.
    pub fn answered(&self) {
        self.answered_ms.store(self.clock.now().as_millis() as u64 + 1, Ordering::Relaxed);
    }

    /// Notes how long it took to answer what was sent at `started`.
    pub fn went_round(&self, started: Duration) {
        let took = self.clock.now().saturating_sub(started);
        self.metrics.round_trip_seconds.observe(took.as_secs_f64());
    }

    /// Notes a heartbeat that it did not answer in time.
    pub fn missed_heartbeat(&self) {
        self.heartbeats_missed.inc();
    }

    /// The time, for [`Peer::went_round`].
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Whether messages reach it, as far as tests have their say.
    pub fn reaches(&self) -> bool {
        self.links.as_ref().is_none_or(|links| links.is_open(self.from, self.id))
    }

    /// Whether its answers come back, as far as tests have their say.
    pub fn hears(&self) -> bool {
        self.links.as_ref().is_none_or(|links| links.is_open(self.id, self.from))
    }

    /// A small call, answered from memory or after one write to the disk.
    pub async fn control<T, F>(
        &self,
        deadline: Duration,
        call: impl FnOnce(PeerClient<Channel>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.call(&self.control, deadline, call).await
    }

    /// A call that carries commands.
    pub async fn entries<T, F>(
        &self,
        deadline: Duration,
        call: impl FnOnce(PeerClient<Channel>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.call(&self.entries, deadline, call).await
    }

    /// A call that carries a file.
    pub async fn files<T, F>(
        &self,
        deadline: Duration,
        call: impl FnOnce(PeerClient<Channel>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.call(&self.files, deadline, call).await
    }

    async fn call<T, F>(
        &self,
        line: &Line,
        deadline: Duration,
        call: impl FnOnce(PeerClient<Channel>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let answer = self.attempt(line, deadline, call).await;
        if answer.as_ref().is_err_and(Failure::is_the_ways) {
            self.metrics.sent_failures.inc();
        }
        answer
    }

    async fn attempt<T, F>(
        &self,
        line: &Line,
        deadline: Duration,
        call: impl FnOnce(PeerClient<Channel>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        if !self.reaches() {
            return Err(Failure::NotSent(format!("the link to member {:x} is cut", self.id)));
        }
        let (made, open) = (line.made.load(Ordering::Acquire), line.open.load(Ordering::Acquire));
        let answer = tokio::time::timeout(deadline, call(line.client.clone())).await;
        // What left after a connection was there may have arrived.
        let never_connected = open == 0 && line.made.load(Ordering::Acquire) == made;
        match answer {
            Ok(Ok(_)) if !self.hears() => Err(Failure::Unknown(Status::deadline_exceeded("the answer is cut off"))),
            Ok(Ok(answer)) => {
                self.answered();
                Ok(answer.into_inner())
            }
            Ok(Err(status)) if never_connected && status.code() == Code::Unavailable => {
                Err(Failure::NotSent(format!("member {:x} at {} cannot be reached", self.id, self.urls().join(","))))
            }
            Ok(Err(status)) => {
                if status.code() == Code::PermissionDenied {
                    self.expelled.store(true, Ordering::Release);
                }
                Err(Failure::Unknown(status))
            }
            Err(_) => Err(Failure::Unknown(Status::deadline_exceeded(format!(
                "member {:x} did not answer within {deadline:?}",
                self.id
            )))),
        }
    }
}

impl Line {
    fn new(dial: Arc<dyn Dial>, urls: Arc<ArcSwap<Vec<String>>>, wires: Option<Arc<Wires>>) -> Self {
        let (made, open) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let connector = {
            let (made, open) = (made.clone(), open.clone());
            tower::service_fn(move |_: http::Uri| {
                let (dial, urls) = (dial.clone(), urls.load_full());
                let (made, open, wires) = (made.clone(), open.clone(), wires.clone());
                async move {
                    let io = dial_any(&*dial, &urls).await?;
                    made.fetch_add(1, Ordering::AcqRel);
                    open.fetch_add(1, Ordering::AcqRel);
                    if let Some(wires) = &wires {
                        wires.opened();
                    }
                    Ok::<_, io::Error>(TokioIo::new(Counted { io, open, wires }))
                }
            })
        };
        let channel = Endpoint::from_static("http://peer")
            .connect_timeout(CONNECT_DEADLINE)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector);
        let client = PeerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { client, made, open }
    }
}

/// Who is in the cluster that one of `urls` belongs to; for a member that knows nothing else of it. A linearizable answer
/// takes an election timeout when there is no leader.
///
/// # Errors
/// Nobody answers there, or what answers is no member.
pub async fn ask_members(
    dial: Arc<dyn Dial>,
    urls: Vec<String>,
    linearizable: bool,
    deadline: Duration,
) -> Result<peer::MembersResponse, Failure> {
    let line = Line::new(dial, Arc::new(ArcSwap::from_pointee(urls)), None);
    let mut client = line.client.clone();
    let request =
        peer::MembersRequest { envelope: Some(Envelope { group: GROUP, ..Envelope::default() }), linearizable };
    match tokio::time::timeout(deadline, client.members(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Failure::Unknown(status)),
        Err(_) => Err(Failure::Unknown(Status::deadline_exceeded(format!("no answer within {deadline:?}")))),
    }
}

/// The first of a member's URLs that can be reached.
async fn dial_any(dial: &dyn Dial, urls: &[String]) -> io::Result<Box<dyn Io>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the member has no peer URL");
    for text in urls {
        let dialled = match Url::parse(text) {
            Ok(url) => tokio::time::timeout(CONNECT_DEADLINE, dial.dial(&url)).await,
            Err(error) => Ok(Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{text}: {error}")))),
        };
        match dialled {
            Ok(Ok(io)) => return Ok(io),
            Ok(Err(error)) => last = io::Error::new(error.kind(), format!("{text}: {error}")),
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{text}: no connection in time")),
        }
    }
    tracing::debug!(error = %last, "no connection to a peer");
    Err(last)
}

/// A connection that is counted while it is open, with the bytes on it if it is to somebody known.
struct Counted {
    io: Box<dyn Io>,
    open: Arc<AtomicU64>,
    wires: Option<Arc<Wires>>,
}

impl Counted {
    fn sent(&self, bytes: usize) {
        if let Some(wires) = &self.wires {
            wires.metrics.sent_bytes.inc_by(bytes as u64);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        if let Some(wires) = &self.wires {
            wires.closed();
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if let Some(wires) = &self.wires {
            wires.metrics.received_bytes.inc_by((buffer.filled().len() - before) as u64);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        self.sent(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(ids: &[u64]) -> Membership {
        let voters: BTreeSet<u64> = ids.iter().copied().collect();
        let nodes: BTreeMap<u64, MemberInfo> = ids.iter().map(|id| (*id, MemberInfo::default())).collect();
        Membership::new(vec![voters], nodes).unwrap()
    }

    #[tokio::test]
    async fn there_is_one_way_to_a_member_for_as_long_as_anybody_holds_it() {
        let peers = Peers::new(
            Arc::new(Identity::new(1, 1)),
            Arc::new(Tcp),
            None,
            Arc::new(Metrics::new(&crate::config::Config::for_test())),
            Clock::system(),
        );
        let held = peers.peer(2, &MemberInfo::default());
        drop(peers.peer(3, &MemberInfo::default()));
        peers.update(&Membership::default());
        assert_eq!(peers.all().len(), 2, "the cluster has not begun");
        peers.update(&membership(&[1]));
        assert!(peers.get(3).is_none() && peers.get(2).is_some_and(|peer| Arc::ptr_eq(&peer, &held)));
        let info = MemberInfo { peer_urls: vec!["http://127.0.0.1:1".into()], ..MemberInfo::default() };
        peers.peer(2, &info);
        assert_eq!(*held.urls(), info.peer_urls, "whoever holds it hears of its URLs");
        drop(held);
        peers.update(&membership(&[1]));
        assert!(peers.get(2).is_none());
    }
}
