//! One request to whoever answers it: gRPC calls to the services, all else to the pages.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::Either;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::{Code, Status};

use super::listen::Handler;

/// A boxed answer, as tonic's generated services give it.
pub type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// The gRPC services of one member.
pub trait Services: Send + Sync + 'static {
    /// The answer of the service that the path names, or that there is none of that name.
    fn call(&self, request: Request<Incoming>) -> Answer;
}

/// The HTTP pages of one member.
pub trait Pages: Send + Sync + 'static {
    /// Answers.
    fn call(&self, request: Request<Incoming>) -> Answer;
}

/// What one listener serves.
#[derive(Clone)]
pub struct Dispatch {
    /// gRPC, unless the listener is for pages only.
    pub services: Option<Arc<dyn Services>>,
    /// Pages, unless the listener is for gRPC only.
    pub pages: Option<Arc<dyn Pages>>,
}

impl Handler for Dispatch {
    fn call(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send + use<> {
        match (is_grpc(&request), &self.services, &self.pages) {
            (true, Some(services), _) => Either::Left(services.call(request)),
            (false, _, Some(pages)) => Either::Left(pages.call(request)),
            (true, None, _) => Either::Right(std::future::ready(unknown_service(request.uri().path()))),
            (false, _, None) => Either::Right(std::future::ready(not_found())),
        }
    }
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    request.version() == http::Version::HTTP_2
        && request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"))
}

/// The service that a path such as `/etcdserverpb.KV/Put` names.
pub fn service_name(path: &str) -> &str {
    path.split('/').nth(1).unwrap_or_default()
}

/// No service of that name, in grpc-go's words.
pub fn unknown_service(path: &str) -> Response<Body> {
    Status::new(Code::Unimplemented, format!("unknown service {}", service_name(path))).into_http()
}

fn not_found() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
