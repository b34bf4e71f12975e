//! Who is at the other end of an encrypted connection, as services and pages find it in a request's extensions.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

/// In the extensions of every request that came encrypted. The URL of a request is no sign of that: the client writes
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encrypted;

/// The verified certificate of the client, in the extensions of its requests; absent when none was demanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The subject's common name, empty if it has none; with several the last, as Go takes it.
    pub common_name: Arc<str>,
}

impl ClientIdentity {
    /// Who is at the other end; `None` if it was not asked for a certificate. A certificate that is here was verified,
    /// for the handshake does not end otherwise.
    pub fn of(stream: &TlsStream<TcpStream>) -> Option<Self> {
        let (_, connection) = stream.get_ref();
        let certificate = connection.peer_certificates()?.first()?;
        Some(Self { common_name: common_name(certificate).unwrap_or_default().into() })
    }
}

/// The common name of a certificate's subject; `None` if it has none, or none that is text.
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let last = certificate.subject().iter_common_name().last()?;
    last.as_str().ok().map(str::to_owned)
}
