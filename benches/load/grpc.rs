//! gRPC on the `h2` crate alone: a connection, unary calls, and streams of messages.
//!
//! Not a general client: plaintext only, no deadlines, no retries. What it saves against a full client is CPU time on
//! the machine that also runs the server. `Gather` collects everything that one turn of the event loop produced on a
//! connection into one write.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Version, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::wire::FRAME_HEADER_BYTES;

/// Flow-control windows, so large that the client never holds up a server that sends a whole range at once.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// When this much waits to be written, the connection is told to wait.
const GATHER_BYTES_MAX: usize = 1 << 20;

/// Why a call or a stream failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection could not be made.
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    /// The connection or the stream broke.
    #[error("http/2: {0}")]
    Http2(#[from] h2::Error),
    /// The server answered with an error.
    #[error("grpc status {code}: {message}")]
    Status {
        /// gRPC's code as it was sent.
        code: String,
        /// Its text, still percent-encoded.
        message: String,
    },
    /// The answer was not gRPC.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
}

impl Error {
    /// Whether later calls on the same connection may still work.
    pub fn is_status(&self) -> bool {
        matches!(self, Self::Status { .. })
    }
}

/// The methods used here.
#[derive(Clone, Copy, Debug)]
pub enum Method {
    /// `KV/Range`
    Range,
    /// `KV/Put`
    Put,
    /// `KV/Txn`
    Txn,
    /// `Watch/Watch`
    Watch,
    /// `Lease/LeaseGrant`
    LeaseGrant,
    /// `Lease/LeaseRevoke`
    LeaseRevoke,
    /// `Lease/LeaseKeepAlive`
    LeaseKeepAlive,
}

const METHODS: [&str; 7] =
    ["KV/Range", "KV/Put", "KV/Txn", "Watch/Watch", "Lease/LeaseGrant", "Lease/LeaseRevoke", "Lease/LeaseKeepAlive"];

/// One HTTP/2 connection; clones share it.
#[derive(Clone)]
pub struct Channel {
    send: SendRequest<Bytes>,
    /// The request head of each method, ready to be cloned.
    heads: Arc<[Request<()>]>,
}

impl Channel {
    /// Connects, and spawns the task that drives the connection until all its users are gone.
    ///
    /// # Errors
    /// When the server does not accept the connection or does not speak HTTP/2.
    pub async fn connect(server: SocketAddr) -> Result<Self, Error> {
        let tcp = TcpStream::connect(server).await?;
        tcp.set_nodelay(true)?;
        let gather = Gather(Arc::new(Mutex::new(GatherState { tcp, waiting: BytesMut::new() })));
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .enable_push(false)
            .handshake(gather.clone())
            .await?;
        tokio::spawn(poll_fn(move |context| {
            let driven = Pin::new(&mut connection).poll(context);
            // Nothing can be stranded: whatever was gathered is written before this task sleeps, or its waker is
            // with the socket.
            let written = gather.lock().poll_drain(context);
            match (driven, written) {
                (Poll::Pending, Poll::Pending | Poll::Ready(Ok(()))) => Poll::Pending,
                // Callers learn of a broken connection from their own futures.
                _ => Poll::Ready(()),
            }
        }));
        let heads = METHODS.iter().map(|method| head(server, method)).collect();
        Ok(Self { send, heads })
    }

    /// One unary call; `frame` is a whole gRPC frame. Returns the answer's message.
    ///
    /// # Errors
    /// A broken connection, or the server's status.
    pub async fn unary(&mut self, method: Method, frame: Bytes) -> Result<Bytes, Error> {
        let (response, mut send) = self.start(method).await?;
        send.send_data(frame, true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut first = Bytes::new();
        let mut rest: Option<BytesMut> = None;
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            match &mut rest {
                _ if first.is_empty() => first = chunk,
                Some(rest) => rest.extend_from_slice(&chunk),
                None => {
                    let mut joined = BytesMut::with_capacity(frame_len(&first).unwrap_or(0).max(first.len()));
                    joined.extend_from_slice(&first);
                    joined.extend_from_slice(&chunk);
                    rest = Some(joined);
                }
            }
        }
        match body.trailers().await? {
            Some(trailers) => check_status(&trailers)?,
            None => check_status(&head.headers)?,
        }
        let mut whole = rest.map_or(first, BytesMut::freeze);
        if frame_len(&whole) != Some(whole.len()) {
            return Err(Error::Malformed("not exactly one message"));
        }
        whole.advance(FRAME_HEADER_BYTES);
        Ok(whole)
    }

    /// Opens a stream of messages in both directions.
    ///
    /// # Errors
    /// A broken connection.
    pub async fn stream(&mut self, method: Method) -> Result<(Sender, Receiver), Error> {
        let (response, send) = self.start(method).await?;
        Ok((Sender(send), Receiver { body: Body::Waiting(response), buffer: BytesMut::new() }))
    }

    async fn start(&mut self, method: Method) -> Result<(ResponseFuture, SendStream<Bytes>), Error> {
        poll_fn(|context| self.send.poll_ready(context)).await?;
        Ok(self.send.send_request(self.heads[method as usize].clone(), false)?)
    }
}

/// The client's half of a stream.
pub struct Sender(SendStream<Bytes>);

impl Sender {
    /// Sends one gRPC frame.
    ///
    /// # Errors
    /// When the stream is closed.
    pub fn send(&mut self, frame: Bytes) -> Result<(), Error> {
        Ok(self.0.send_data(frame, false)?)
    }
}

/// The server's half of a stream.
pub struct Receiver {
    body: Body,
    /// Bytes of messages that are not complete yet.
    buffer: BytesMut,
}

enum Body {
    /// The server has sent nothing yet; etcd sends its headers with the first message.
    Waiting(ResponseFuture),
    Open(RecvStream),
}

impl Receiver {
    /// The next message, without its frame. Dropping this future loses nothing.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn next(&mut self) -> Result<Bytes, Error> {
        loop {
            if let Some(len) = frame_len(&self.buffer)
                && self.buffer.len() >= len
            {
                let mut frame = self.buffer.split_to(len);
                frame.advance(FRAME_HEADER_BYTES);
                return Ok(frame.freeze());
            }
            match &mut self.body {
                Body::Waiting(response) => {
                    let (head, body) = response.await?.into_parts();
                    if head.headers.contains_key("grpc-status") {
                        check_status(&head.headers)?;
                    }
                    self.body = Body::Open(body);
                }
                Body::Open(body) => match body.data().await {
                    Some(chunk) => {
                        let chunk = chunk?;
                        body.flow_control().release_capacity(chunk.len())?;
                        self.buffer.extend_from_slice(&chunk);
                    }
                    None => {
                        if let Some(trailers) = body.trailers().await? {
                            check_status(&trailers)?;
                        }
                        return Err(Error::Malformed("the server ended the stream"));
                    }
                },
            }
        }
    }
}

fn head(server: SocketAddr, method: &str) -> Request<()> {
    Request::post(format!("http://{server}/etcdserverpb.{method}"))
        .version(Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(())
        .expect("these parts are valid")
}

/// Length of the first gRPC frame with its header, once that header is there.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    let len = bytes.get(1..FRAME_HEADER_BYTES)?;
    Some(FRAME_HEADER_BYTES + u32::from_be_bytes(len.try_into().ok()?) as usize)
}

fn check_status(headers: &HeaderMap) -> Result<(), Error> {
    let code = headers.get("grpc-status").ok_or(Error::Malformed("no grpc-status"))?;
    if code.as_bytes() == b"0" {
        return Ok(());
    }
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Err(Error::Status {
        code: text("grpc-status").unwrap_or_default(),
        message: text("grpc-message").unwrap_or_default(),
    })
}

/// A socket that keeps what is written until its connection's task asks for it to be sent.
#[derive(Clone)]
struct Gather(Arc<Mutex<GatherState>>);

struct GatherState {
    tcp: TcpStream,
    waiting: BytesMut,
}

impl Gather {
    fn lock(&self) -> MutexGuard<'_, GatherState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GatherState {
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.tcp).poll_write(context, &self.waiting))?;
            self.waiting.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.len() < GATHER_BYTES_MAX { Poll::Ready(Ok(())) } else { self.poll_drain(context) }
    }
}

impl AsyncRead for Gather {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().tcp).poll_read(context, buf)
    }
}

impl AsyncWrite for Gather {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        ready!(state.poll_room(context))?;
        state.waiting.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        ready!(state.poll_room(context))?;
        slices.iter().for_each(|slice| state.waiting.extend_from_slice(slice));
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        ready!(state.poll_drain(context))?;
        Pin::new(&mut state.tcp).poll_shutdown(context)
    }
}
