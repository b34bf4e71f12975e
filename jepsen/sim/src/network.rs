//! How members reach each other: kelson's own gRPC over turmoil's TCP, whose connections can be reset.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kelson::config::Url;
use kelson::proto::peer::peer_server::PeerServer;
use kelson::raft::peers::{Dial, Dialled, Io, MESSAGE_BYTES_MAX};
use kelson::rpc::peer::Peer;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::Request;
use turmoil::net::{TcpListener, TcpStream};

use crate::copies::Copies;
use crate::trace::Trace;

/// The port of every member.
pub const PORT: u16 = 2380;
/// As the product's server has them.
const WINDOW_BYTES: u32 = 4 << 20;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A slot's name in the network.
pub fn host(slot: usize) -> String {
    format!("n{slot}")
}

/// Where its peers reach it.
pub fn peer_url(slot: usize) -> String {
    format!("http://{}:{PORT}", host(slot))
}

fn slot_of(host: &str) -> usize {
    host.trim_start_matches('n').parse().unwrap_or(usize::MAX)
}

/// All open connections, so that they can be reset.
#[derive(Default)]
pub struct Wires(Mutex<BTreeMap<u64, Open>>);

struct Open {
    ends: (usize, usize),
    cut: Weak<Cut>,
}

#[derive(Default)]
struct Cut {
    is_cut: AtomicBool,
    waker: AtomicWaker,
}

impl Wires {
    /// Resets every connection between two members; how many there were.
    pub fn reset(&self, a: usize, b: usize) -> u64 {
        let mut open = self.0.lock();
        let mut reset = 0;
        open.retain(|_, wire| {
            let Some(cut) = wire.cut.upgrade() else { return false };
            if wire.ends != (a, b) && wire.ends != (b, a) {
                return true;
            }
            cut.is_cut.store(true, Ordering::SeqCst);
            cut.waker.wake();
            reset += 1;
            false
        });
        reset
    }

    fn add(&self, ends: (usize, usize)) -> (u64, Arc<Cut>) {
        let mut open = self.0.lock();
        let number = open.last_key_value().map_or(0, |(number, _)| number + 1);
        let cut = Arc::new(Cut::default());
        open.insert(number, Open { ends, cut: Arc::downgrade(&cut) });
        (number, cut)
    }
}

/// Dials as one member.
pub struct SimDial {
    /// Who dials.
    pub slot: usize,
    /// All connections.
    pub wires: Arc<Wires>,
    /// Where bytes are noted.
    pub trace: Arc<Trace>,
}

impl Dial for SimDial {
    fn dial<'a>(&'a self, url: &'a Url) -> Dialled<'a> {
        Box::pin(async move {
            let to = slot_of(url.host());
            let dialled = TcpStream::connect((url.host(), url.port().unwrap_or(PORT))).await;
            self.trace.note(format_args!("{} dials {to} {}", self.slot, dialled.is_ok()));
            let (number, cut) = self.wires.add((self.slot, to));
            let (slot, trace) = (self.slot, self.trace.clone());
            Ok(Box::new(Wire { io: dialled?, cut, number, slot, to, trace }) as Box<dyn Io>)
        })
    }
}

/// One connection, at the end that dialled.
struct Wire {
    io: TcpStream,
    cut: Arc<Cut>,
    number: u64,
    slot: usize,
    to: usize,
    trace: Arc<Trace>,
}

impl Wire {
    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        self.cut.waker.register(cx.waker());
        if self.cut.is_cut.load(Ordering::SeqCst) { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }

    fn note(&self, way: &str, bytes: &[u8]) {
        let (slot, to, number, len) = (self.slot, self.to, self.number, bytes.len());
        self.trace.note(format_args!("{slot} {way} {to} #{number} {len} {:08x}", crc32c::crc32c(bytes)));
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if matches!(read, Poll::Ready(Ok(()))) {
            self.note("<-", &buffer.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &written {
            self.note("->", &bytes[..*written]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Takes connections for a member's peer service, until the member ends, and has it handle copies of requests.
///
/// # Errors
/// The port is taken.
pub async fn serve(peer: Peer, copies: Arc<Copies>) -> io::Result<Infallible> {
    let service =
        PeerServer::new(peer).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    tokio::select! {
        biased;
        never = copies.clone().run(service.clone()) => match never {},
        accepted = accept(&listener, &service, &copies) => accepted,
    }
}

async fn accept(listener: &TcpListener, service: &PeerServer<Peer>, copies: &Arc<Copies>) -> io::Result<Infallible> {
    loop {
        let (stream, _) = listener.accept().await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(2 * WINDOW_BYTES)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let (service, copies) = (service.clone(), copies.clone());
        let handler = service_fn(move |request: Request<Incoming>| {
            let (mut service, copies) = (service.clone(), copies.clone());
            async move {
                let request = copies.pass(request.map(Body::new)).await;
                service.call(request).await
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), handler);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
}
