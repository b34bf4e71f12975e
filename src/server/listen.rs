//! Listening sockets and the connections on them: HTTP/2 for gRPC and HTTP/1.1 for pages, told apart by their first
//! bytes, on one port, in clear or over TLS.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch as channel;
use tonic::body::Body;

use super::gather::{Gathered, Traffic};
use super::workers::Workers;
use crate::tls::{self, ClientIdentity, Encrypted};

/// Connections waiting to be accepted, as Go's default.
const BACKLOG: i32 = 4096;
/// Flow-control windows: a stream may have this much under way, a connection so much in all. Large enough that a page
/// or a snapshot does not wait for the client's window at every 64 KiB.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Bytes of answers that HTTP/2 may buffer for one stream beyond its window.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Bytes of a request's headers.
const HEADER_BYTES_MAX: u32 = 64 << 10;
/// Pause after an accept that failed for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Handles one request; cloned per connection.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers.
    fn call(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send + use<Self>;
}

/// How connections are served.
#[derive(Clone)]
pub struct Options {
    /// `--max-concurrent-streams`.
    pub max_concurrent_streams: u32,
    /// `--grpc-keepalive-interval`; zero is never.
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`.
    pub keepalive_timeout: Duration,
    /// `--socket-reuse-port`.
    pub reuse_port: bool,
    /// Counts the bytes of the connections.
    pub traffic: Option<Traffic>,
    /// Speaks TLS with whoever connects; `None` is in clear.
    pub tls: Option<Arc<tls::Acceptor>>,
}

/// Binds a listener.
///
/// # Errors
/// The system's, with the address.
pub fn bind(address: SocketAddr, options: &Options) -> io::Result<std::net::TcpListener> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("listen on {address}: {error}"));
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).map_err(named)?;
    // As Go does for every listener, whatever --socket-reuse-address says: a restart need not wait for the old
    // connections to time out.
    socket.set_reuse_address(true).map_err(named)?;
    if options.reuse_port {
        socket.set_reuse_port(true).map_err(named)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false).map_err(named)?;
    }
    socket.bind(&address.into()).map_err(named)?;
    socket.listen(BACKLOG).map_err(named)?;
    socket.set_nonblocking(true).map_err(named)?;
    Ok(socket.into())
}

/// Accepts connections until `draining` turns true, and serves each on the worker whose turn it is.
///
/// # Errors
/// When the listener cannot be given to the runtime.
pub async fn accept<H: Handler>(
    listener: std::net::TcpListener,
    workers: Arc<Workers>,
    handler: H,
    options: Options,
    mut draining: channel::Receiver<bool>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = draining.wait_for(|&draining| draining) => return Ok(()),
        };
        match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => {
                let (handler, options, draining) = (handler.clone(), options.clone(), draining.clone());
                let open = workers.opened();
                workers.next().spawn(async move {
                    let _open = open;
                    match TcpStream::from_std(stream) {
                        Ok(stream) => connected(stream, handler, &options, draining).await,
                        Err(error) => tracing::warn!(%error, "connection could not be taken over"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connected<H: Handler>(
    stream: TcpStream,
    handler: H,
    options: &Options,
    mut draining: channel::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let Some(acceptor) = &options.tls else { return serve(stream, None, handler, options, draining).await };
    let address = stream.peer_addr().map_or_else(|_| "unknown".to_owned(), |address| address.to_string());
    let accepted = tokio::select! {
        accepted = acceptor.accept(stream) => accepted,
        _ = draining.wait_for(|&draining| draining) => return,
    };
    match accepted {
        Ok(stream) => {
            let identity = ClientIdentity::of(&stream);
            serve(stream, Some(identity), handler, options, draining).await;
        }
        Err(error) if error.is_hangup() => tracing::debug!(%error, remote_addr = address, "connection ended"),
        Err(error) => tracing::warn!(%error, remote_addr = address, "rejected connection"),
    }
}

/// Serves a connection; `encrypted` is given over TLS, with who is at the other end if that was asked.
async fn serve<S, H>(
    stream: S,
    encrypted: Option<Option<ClientIdentity>>,
    handler: H,
    options: &Options,
    mut draining: channel::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(options.max_concurrent_streams)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_timeout(options.keepalive_timeout);
    if !options.keepalive_interval.is_zero() {
        builder.http2().keep_alive_interval(options.keepalive_interval);
    }
    builder.http1().timer(TokioTimer::new());
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        if let Some(identity) = &encrypted {
            request.extensions_mut().insert(Encrypted);
            if let Some(identity) = identity {
                request.extensions_mut().insert(identity.clone());
            }
        }
        let answer = handler.call(request);
        answer.map(Ok::<_, Infallible>)
    });
    let socket = Gathered::new(stream, options.traffic.clone());
    let connection = builder.serve_connection(socket.clone(), service);
    tokio::pin!(connection);
    let drain = async move { draining.wait_for(|&draining| draining).await.is_ok() };
    tokio::pin!(drain);
    let mut is_draining = false;
    let turn = std::future::poll_fn(|cx| {
        if !is_draining && drain.as_mut().poll(cx).is_ready() {
            is_draining = true;
            connection.as_mut().graceful_shutdown();
        }
        let turn = connection.as_mut().poll(cx);
        // The end of the turn: what it wrote goes to the kernel. A full socket wakes this task when it is not.
        match socket.drain(cx) {
            Poll::Ready(Err(error)) if turn.is_pending() => Poll::Ready(Err(error.into())),
            Poll::Ready(_) | Poll::Pending => turn,
        }
    });
    if let Err(error) = turn.await {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests;
