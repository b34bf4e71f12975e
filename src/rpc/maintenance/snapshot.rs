//! The answer to `Snapshot`: a copy of the data in etcd's file format, in blobs, and at its end the SHA-256 of it all,
//! by which etcd's tools check the file that they make of it.
//!
//! Making and reading the copy is work for another thread; a short queue lets it run only as fast as the client takes.

use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

use super::Error;
use crate::config::ETCD_CLUSTER_VERSION;
use crate::proto::etcdserverpb as pb;

/// A blob's bytes, as etcd's.
const BLOB_BYTES: usize = 32 * 1024;
/// Blobs that wait for the client.
const QUEUE_BLOBS: usize = 8;

/// A copy of the data: etcd's database file without the checksum at its end.
pub struct Copy {
    /// How long it is.
    pub bytes: u64,
    /// Its bytes.
    pub reader: Box<dyn Read + Send>,
}

/// Makes a [`struct@Copy`]; called on a thread that may block. The text of an error is for the client.
pub type SnapshotSource = Arc<dyn Fn() -> Result<Copy, String> + Send + Sync>;

/// The stream of a copy's blobs.
pub struct Blobs {
    queue: mpsc::Receiver<Result<pb::SnapshotResponse, Status>>,
}

impl Blobs {
    /// Starts the copying, which ends with the stream: with its last blob, or when it is dropped.
    pub(super) fn start(source: SnapshotSource) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE_BLOBS);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = copy(&source, &sender) {
                tracing::warn!(%error, "snapshot not sent");
                // Nobody is told when the client has gone, which is the other way to end here.
                drop(sender.blocking_send(Err(error.into())));
            }
        });
        Self { queue }
    }
}

impl Stream for Blobs {
    type Item = Result<pb::SnapshotResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_recv(context)
    }
}

/// Sends the whole copy and its checksum; `Ok` also when the client went away.
fn copy(source: &SnapshotSource, sender: &mpsc::Sender<Result<pb::SnapshotResponse, Status>>) -> Result<(), Error> {
    let Copy { bytes, mut reader } = source().map_err(Error::Snapshot)?;
    let mut checksum = Sha256::new();
    let mut remaining_bytes = bytes;
    while remaining_bytes > 0 {
        let len = BLOB_BYTES.min(usize::try_from(remaining_bytes).unwrap_or(BLOB_BYTES));
        let mut blob = BytesMut::zeroed(len);
        reader.read_exact(&mut blob).map_err(|error| Error::Snapshot(error.to_string()))?;
        checksum.update(&blob);
        remaining_bytes -= len as u64;
        if sender.blocking_send(Ok(response(remaining_bytes, blob.freeze()))).is_err() {
            return Ok(());
        }
    }
    let checksum = Bytes::copy_from_slice(&checksum.finalize());
    drop(sender.blocking_send(Ok(response(0, checksum))));
    Ok(())
}

fn response(remaining_bytes: u64, blob: Bytes) -> pb::SnapshotResponse {
    pb::SnapshotResponse { header: None, remaining_bytes, blob, version: ETCD_CLUSTER_VERSION.into() }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    fn source(bytes: u64, content: Vec<u8>) -> SnapshotSource {
        Arc::new(move || Ok(Copy { bytes, reader: Box::new(std::io::Cursor::new(content.clone())) }))
    }

    #[tokio::test]
    async fn a_copy_comes_in_blobs_and_ends_with_its_checksum() {
        let content: Vec<u8> = (0..100_000_u32).map(|i| i as u8).collect();
        let messages: Vec<_> = Blobs::start(source(100_000, content.clone())).map(Result::unwrap).collect().await;
        let shape: Vec<_> = messages.iter().map(|message| (message.blob.len(), message.remaining_bytes)).collect();
        assert_eq!(shape, [(32_768, 67_232), (32_768, 34_464), (32_768, 1_696), (1_696, 0), (32, 0)]);
        let (checksum, blobs) = messages.split_last().unwrap();
        assert_eq!(blobs.iter().flat_map(|message| message.blob.to_vec()).collect::<Vec<_>>(), content);
        assert_eq!(checksum.blob, Sha256::digest(&content).to_vec());
        assert!(messages.iter().all(|message| message.version == "3.7.0" && message.header.is_none()));
    }

    #[tokio::test]
    async fn a_copy_that_breaks_off_is_an_error_and_not_a_shorter_file() {
        let messages: Vec<_> = Blobs::start(source(100_000, vec![0; 40_000])).collect().await;
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[1].as_ref().unwrap_err().code(), tonic::Code::Internal);
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_the_copying() {
        let (dropped, waits) = tokio::sync::oneshot::channel::<()>();
        struct Endless(Option<tokio::sync::oneshot::Sender<()>>);
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                Ok(buffer.len())
            }
        }
        impl Drop for Endless {
            fn drop(&mut self) {
                drop(self.0.take());
            }
        }
        let reader = parking_lot::Mutex::new(Some(Endless(Some(dropped))));
        let source: SnapshotSource = Arc::new(move || {
            let reader = reader.lock().take().expect("asked once");
            Ok(Copy { bytes: u64::MAX, reader: Box::new(reader) })
        });
        let mut blobs = Blobs::start(source);
        blobs.next().await.unwrap().unwrap();
        drop(blobs);
        assert!(waits.await.is_err(), "the reader is dropped");
    }
}
