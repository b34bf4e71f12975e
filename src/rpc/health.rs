//! The standard gRPC health service, as Kubernetes' probes and clients' balancers ask it. Only the whole server (the
//! empty name) is known, as in etcd.

use std::pin::Pin;

use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response, health_server};

/// What `Check` answers for a name that is not known (grpc-go's text).
const UNKNOWN_SERVICE: &str = "unknown service";

/// `grpc.health.v1.Health`.
#[derive(Clone)]
pub struct Health {
    serving: watch::Receiver<bool>,
}

impl Health {
    /// Reports whether the server is serving, as the sender's owner says.
    pub fn new(serving: watch::Receiver<bool>) -> Self {
        Self { serving }
    }
}

fn answer(serving: bool) -> HealthCheckResponse {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    let status: health_check_response::ServingStatus = status.into();
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if request.get_ref().service.is_empty() {
            Ok(Response::new(answer(*self.serving.borrow())))
        } else {
            Err(Status::not_found(UNKNOWN_SERVICE))
        }
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if request.get_ref().service.is_empty() {
            let changes = WatchStream::new(self.serving.clone()).map(|serving| Ok(answer(serving)));
            return Ok(Response::new(Box::pin(changes)));
        }
        // The protocol keeps such a stream open, in case the name becomes known; here it never does.
        let unknown = HealthCheckResponse { status: health_check_response::ServingStatus::ServiceUnknown.into() };
        let open = tokio_stream::once(Ok(unknown)).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(open)))
    }
}

#[cfg(test)]
mod tests {
    use health_server::Health as _;

    use super::*;

    fn request(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.into() })
    }

    #[tokio::test]
    async fn only_the_whole_server_has_a_status_and_it_follows_the_server() {
        let (set, serving) = watch::channel(true);
        let health = Health::new(serving);
        assert_eq!(health.check(request("")).await.unwrap().get_ref(), &answer(true));
        let unknown = health.check(request("etcdserverpb.KV")).await.unwrap_err();
        assert_eq!((unknown.code(), unknown.message()), (tonic::Code::NotFound, "unknown service"));

        let mut changes = health.watch(request("")).await.unwrap().into_inner();
        assert_eq!(changes.next().await.unwrap().unwrap(), answer(true));
        set.send(false).unwrap();
        assert_eq!(changes.next().await.unwrap().unwrap(), answer(false));
        let mut unknown = health.watch(request("x")).await.unwrap().into_inner();
        assert_eq!(unknown.next().await.unwrap().unwrap().status, 3);
    }
}
