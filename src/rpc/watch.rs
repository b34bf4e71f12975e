//! etcd's Watch service. The stream itself, with all of its answers, is `watch::WatchStream`; here are only the metadata.

use std::sync::Arc;

use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

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
        let options = StreamOptions { require_leader: requires_leader(request.metadata()) };
        Ok(Response::new(self.hub.stream(request.into_inner(), options)))
    }
}

/// Whether the client wants its stream to end while the member has no leader, as clientv3's `WithRequireLeader`.
fn requires_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}
