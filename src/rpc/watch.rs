//! etcd's Watch service. The stream itself, with all of its answers, is `watch::WatchStream`; here are only the metadata.

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};

use super::check;
use crate::proto::etcdserverpb as pb;
use crate::watch::{Hub, StreamOptions, WatchStream};

/// Serves watches from a hub.
#[derive(Clone, Debug)]
pub struct WatchService {
    hub: Arc<Hub>,
}

impl WatchService {
    /// A service over `hub`.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }
}

#[tonic::async_trait]
impl pb::watch_server::Watch for WatchService {
    type WatchStream = WatchStream<Streaming<pb::WatchRequest>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let options = StreamOptions { require_leader: check::requires_leader(request.metadata().as_ref()) };
        Ok(Response::new(self.hub.stream(request.into_inner(), options)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{StreamExt, stream};
    use hyper::server::conn::http2;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::service::TowerToHyperService;
    use parking_lot::Mutex;
    use tokio::net::TcpListener;
    use tonic::transport::Endpoint;

    use super::*;
    use crate::proto::{Put, Record};
    use crate::state::{Change, ChangeKind, EventBatch};
    use crate::watch::{CompactedAt, History, Options};
    use pb::watch_client::WatchClient;
    use pb::watch_request::RequestUnion;
    use pb::watch_server::WatchServer;

    /// Every batch there was; the first has revision 2.
    #[derive(Default)]
    struct Batches(Mutex<Vec<Arc<EventBatch>>>);

    impl History for Batches {
        fn revision(&self) -> i64 {
            self.0.lock().len() as i64 + 1
        }

        fn compact_revision(&self) -> i64 {
            0
        }

        fn history(&self, after: i64, up_to: i64, max: usize, _: usize) -> Result<Vec<Arc<EventBatch>>, CompactedAt> {
            let wanted = |batch: &&Arc<EventBatch>| (after + 1..=up_to).contains(&batch.revision);
            Ok(self.0.lock().iter().filter(wanted).take(max.min(100)).cloned().collect())
        }
    }

    fn put(batches: &Batches, hub: &Hub, value: &[u8]) {
        let mod_revision = batches.revision() + 1;
        let put = Put { key: b"a", value, create_revision: 2, mod_revision, version: mod_revision - 1, lease: 0 };
        let change = Change { kind: ChangeKind::Put, record: Record::put(put), previous: None };
        let batch = Arc::new(EventBatch { revision: mod_revision, changes: vec![change] });
        batches.0.lock().push(batch.clone());
        hub.publish(&[batch], mod_revision);
    }

    /// A server on a port of its own, and a client whose stream may have `window` bytes on their way.
    async fn serve(options: Options, window: u32) -> (Arc<Batches>, Arc<Hub>, WatchClient<tonic::transport::Channel>) {
        let batches = Arc::new(Batches::default());
        let header = |revision| pb::ResponseHeader { cluster_id: 7, member_id: 8, revision, raft_term: 2 };
        let hub = Arc::new(Hub::new(batches.clone(), header, options));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let service = TowerToHyperService::new(WatchServer::new(WatchService::new(hub.clone())));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let connection = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(connection.serve_connection(TokioIo::new(socket), service.clone()));
            }
        });
        let endpoint = Endpoint::from_shared(address).unwrap().initial_stream_window_size(window);
        (batches, hub, WatchClient::new(endpoint.connect().await.unwrap()))
    }

    fn watch(key: &'static str) -> pb::WatchRequest {
        let request = pb::WatchCreateRequest { key: key.into(), ..Default::default() };
        pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) }
    }

    #[tokio::test]
    async fn a_half_closed_stream_is_served_until_the_client_goes() {
        let (batches, hub, mut client) = serve(Options::default(), 65_535).await;
        let mut responses = client.watch(stream::iter([watch("a")])).await.unwrap().into_inner();
        assert!(responses.message().await.unwrap().unwrap().created);
        for n in 2..5 {
            put(&batches, &hub, b"value");
            let response = responses.message().await.unwrap().unwrap();
            assert_eq!(response.header.unwrap().revision, n);
            assert_eq!(response.events[0].kv.as_ref().unwrap().value(), b"value");
        }
        drop((responses, client));
        while hub.streams() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(hub.watchers(), 0);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_holds_little_and_misses_nothing() {
        const WRITES: usize = 3000;
        let options = Options { window_bytes_max: 200_000, slice_bytes_max: 50_000, ..Options::default() };
        let (batches, hub, mut client) = serve(options, 65_535).await;
        let mut responses = client.watch(stream::iter([watch("a")])).await.unwrap().into_inner();
        assert!(responses.message().await.unwrap().unwrap().created);
        for _ in 0..WRITES {
            put(&batches, &hub, &[b'x'; 1000]);
            tokio::task::yield_now().await;
            assert!(hub.pending_batches() <= 200);
        }
        assert!(hub.events_sent() < WRITES, "flow control holds the stream back");
        let mut next = 2;
        while next < 2 + WRITES as i64 {
            for event in responses.message().await.unwrap().unwrap().events {
                assert_eq!(event.kv.unwrap().mod_revision(), next);
                next += 1;
            }
        }
        assert_eq!(hub.unsynced_watchers(), 0);
    }

    #[tokio::test]
    async fn a_stream_with_hasleader_ends_without_a_leader() {
        let (_, hub, mut client) = serve(Options::default(), 65_535).await;
        let mut open = async |hasleader: bool| {
            let mut request = Request::new(stream::iter([watch("a")]).chain(stream::pending()));
            if hasleader {
                request.metadata_mut().insert("hasleader", "true".parse().unwrap());
            }
            let mut responses = client.watch(request).await.unwrap().into_inner();
            assert!(responses.message().await.unwrap().unwrap().created);
            responses
        };
        let (mut with, mut without) = (open(true).await, open(false).await);
        hub.leader_lost();
        let status = with.message().await.unwrap_err();
        assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "etcdserver: no leader"));
        hub.close(Status::unavailable("etcdserver: server stopped"));
        assert_eq!(without.message().await.unwrap_err().message(), "etcdserver: server stopped");
    }
}
