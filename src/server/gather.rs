//! A socket whose writes are gathered: what HTTP/2 writes in one turn of a connection goes to the kernel at once.
//!
//! h2 writes each DATA frame of 256 bytes or more by itself, and a system call costs more than the frame: with many
//! streams on a connection, gathering halves what an event costs. Bytes are never stranded, because [`Gathered::drain`]
//! is called after every turn of the connection, whatever the turn did, and a turn is taken again when the socket can
//! take more; closing writes everything out first. Over TLS what was gathered is encrypted at once, too, and draining
//! lasts until the kernel has taken what came out of that.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may be gathered; a turn that writes more writes them out in between.
const GATHERED_BYTES_MAX: usize = 64 << 10;
/// A larger buffer is given back after a turn that did not need it, so that an idle connection costs little.
const KEPT_BYTES_MAX: usize = 16 << 10;

/// The socket as HTTP sees it, plain or encrypted. Clones are the same socket.
pub struct Gathered<S>(Arc<Mutex<Inner<S>>>);

impl<S> Clone for Gathered<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

// The lock is never waited for: a connection and all that it does are one task.
struct Inner<S> {
    socket: TokioIo<Counted<S>>,
    waiting: BytesMut,
    /// Bytes gathered since everything was written out.
    turn_bytes: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gathered<S> {
    /// Over a connected socket; what passes is counted in `traffic`, before it is encrypted.
    pub fn new(socket: S, traffic: Option<Traffic>) -> Self {
        let socket = TokioIo::new(Counted { socket, traffic });
        Self(Arc::new(Mutex::new(Inner { socket, waiting: BytesMut::new(), turn_bytes: 0 })))
    }

    /// Writes out what was gathered. When the socket is full the task is woken once it is not.
    pub fn drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_drain(cx)
    }
}

/// Counters of the bytes on sockets, with all that HTTP puts around messages.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Bytes read.
    pub received: IntCounter,
    /// Bytes written.
    pub sent: IntCounter,
}

/// A socket whose bytes are counted.
struct Counted<S> {
    socket: S,
    traffic: Option<Traffic>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        if let Some(traffic) = &self.traffic {
            traffic.received.inc_by((buf.filled().len() - before) as u64);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes))?;
        if let Some(traffic) = &self.traffic {
            traffic.sent.inc_by(written as u64);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.waiting.advance(written),
            }
        }
        // A busy connection keeps its large buffer, for making it anew each turn costs as much as filling it.
        if self.waiting.capacity() > KEPT_BYTES_MAX && self.turn_bytes <= KEPT_BYTES_MAX {
            self.waiting = BytesMut::new();
        }
        self.turn_bytes = 0;
        // TLS keeps what the kernel did not take; for a plain socket there is nothing to do.
        Pin::new(&mut self.socket).poll_flush(cx)
    }
}

impl<S: AsyncRead + Unpin> Read for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().socket).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Write for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        if inner.waiting.len() >= GATHERED_BYTES_MAX {
            ready!(inner.poll_drain(cx))?;
        }
        let mut taken = 0;
        for slice in slices {
            let room = GATHERED_BYTES_MAX.saturating_sub(inner.waiting.len());
            let take = room.min(slice.len());
            inner.waiting.extend_from_slice(&slice[..take]);
            taken += take;
            if take < slice.len() {
                break;
            }
        }
        inner.turn_bytes += taken;
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Says that all is written, for it will be at the end of this turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (Gathered<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (Gathered::new(server, None), client)
    }

    async fn write(socket: &mut Gathered<TcpStream>, bytes: &[u8]) -> usize {
        poll_fn(|cx| Pin::new(&mut *socket).poll_write(cx, bytes)).await.unwrap()
    }

    #[tokio::test]
    async fn a_turn_is_one_message_and_nothing_is_left_behind() {
        let (mut server, mut client) = pair().await;
        for part in [&b"a"[..], b"bc", b"def"] {
            assert_eq!(write(&mut server, part).await, part.len());
        }
        poll_fn(|cx| server.drain(cx)).await.unwrap();
        let mut got = [0; 16];
        assert_eq!(client.read(&mut got).await.unwrap(), 6);
        assert_eq!(&got[..6], b"abcdef");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_holds_back_the_writer_and_loses_nothing() {
        let (mut server, mut client) = pair().await;
        let bytes: Vec<u8> = (0..4_000_000u32).map(|n| n as u8).collect();
        let expected = bytes.clone();
        let writer = tokio::spawn(async move {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let taken = write(&mut server, rest).await;
                assert!(taken <= GATHERED_BYTES_MAX);
                rest = &rest[taken..];
            }
            poll_fn(|cx| Pin::new(&mut server).poll_shutdown(cx)).await.unwrap();
        });
        tokio::task::yield_now().await;
        assert!(!writer.is_finished(), "four megabytes do not fit into a socket");
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        writer.await.unwrap();
        assert!(got == expected, "every byte, in order");
        client.shutdown().await.unwrap();
    }
}
