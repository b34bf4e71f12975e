//! The server's half: an accepted socket becomes an encrypted one, or an error.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::files::{Material, Reloading, Sources};
use super::provider::{provider, unusable, versions};
use super::verify::{Allowed, Connecting, Policy};
use super::{Error, HANDSHAKE_TIMEOUT, names};
use crate::config::Config;
use crate::config::tls::Side;

/// What may follow the handshake, the better first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// What every handshake begins with.
const HANDSHAKE_RECORD: u8 = 22;
/// Go's answer to a browser or curl that forgot the s.
const PLAINTEXT_ANSWER: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// How long, and for how many bytes, a refused client may go on before it is cut.
const PARTING_TIMEOUT: Duration = Duration::from_secs(1);
const PARTING_BYTES_MAX: u64 = 64 << 10;

/// Makes encrypted connections of accepted ones.
pub struct Acceptor {
    files: Arc<Reloading<ServerConfig>>,
    /// Whether a certificate must name the address that it comes from.
    checks_addresses: bool,
    handshake_timeout: Duration,
}

impl Acceptor {
    /// Reads the files of one side; `None` when it has no certificate to show.
    ///
    /// # Errors
    /// When a file is missing or broken, or the settings leave nothing to speak.
    pub(super) fn new(side: Side, config: &Config, sources: Sources) -> Result<Option<Self>, Error> {
        if sources.pair.is_none() {
            return Ok(None);
        }
        let tls = match side {
            Side::Client => &config.client_tls,
            Side::Peer => &config.peer_tls,
        };
        let (allowed, provider, versions) = (Allowed::new(side, tls)?, provider(config), versions(config));
        let build = {
            let provider = provider.clone();
            move |material| build(material, &allowed, &provider, &versions)
        };
        Ok(Some(Self {
            files: Arc::new(Reloading::open(sources, provider, build)?),
            checks_addresses: side == Side::Peer && !tls.skip_client_san_verification,
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }))
    }

    /// Shakes hands, for [`HANDSHAKE_TIMEOUT`] at most. Handshakes do not wait for each other; whoever accepts gives
    /// each a task of its own.
    ///
    /// # Errors
    /// When the other side is refused, silent or does not speak TLS, or a file is missing or broken.
    pub async fn accept(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
        let handshake = tokio::time::timeout(self.handshake_timeout, self.handshake(stream));
        handshake.await.map_err(|_| Error::Timeout(self.handshake_timeout))?
    }

    async fn handshake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
        let address = stream.peer_addr().map_err(Error::Handshake)?;
        let stream = refuse_plaintext(stream).await?;
        let config = self.files.current().await?;
        let stream = match TlsAcceptor::from(config).accept(stream).into_fallible().await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                part_from(stream).await;
                return Err(Error::Handshake(error));
            }
        };
        let certificates = stream.get_ref().1.peer_certificates();
        if let Some(certificate) = certificates.and_then(<[_]>::first).filter(|_| self.checks_addresses) {
            names::check(certificate, address.ip(), &names::System).await?;
        }
        Ok(stream)
    }

    /// Cuts the patience with silent clients short.
    #[cfg(test)]
    pub(super) fn set_handshake_timeout(&mut self, timeout: Duration) {
        self.handshake_timeout = timeout;
    }
}

fn build(
    material: Material,
    allowed: &Allowed,
    provider: &Arc<CryptoProvider>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|error| unusable(&error))?;
    let builder = match material.roots {
        Some(roots) => {
            let policy = Policy { allowed: allowed.clone(), revoked: material.revoked };
            builder.with_client_cert_verifier(Arc::new(Connecting::new(roots, provider.clone(), policy)?))
        }
        None => builder.with_no_client_auth(),
    };
    let pair = material.pair.expect("an acceptor has a certificate to show");
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    // A session taken up again would skip the check of its certificate, which may have been revoked meanwhile.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Tells whoever speaks without TLS that it should not. HTTP/1 is told in its own words; gRPC would not understand an
/// answer.
async fn refuse_plaintext(mut stream: TcpStream) -> Result<TcpStream, Error> {
    let mut first = [0; 1];
    if stream.peek(&mut first).await.map_err(Error::Handshake)? == 0 {
        return Err(Error::Handshake(std::io::ErrorKind::UnexpectedEof.into()));
    }
    if first[0] == HANDSHAKE_RECORD {
        return Ok(stream);
    }
    let mut request = [0; 1024];
    let length = stream.read(&mut request).await.map_err(Error::Handshake)?;
    if first[0].is_ascii_uppercase() && !request[..length].starts_with(b"PRI ") {
        stream.write_all(PLAINTEXT_ANSWER).await.map_err(Error::Handshake)?;
        part_from(stream).await;
    }
    Err(Error::Plaintext)
}

/// Closes a connection so that the other side can still read why: a socket closed over bytes that were not read is
/// reset, and many a client then reports the reset instead of the reason.
async fn part_from(mut stream: TcpStream) {
    let parting = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(PARTING_BYTES_MAX), &mut tokio::io::sink()).await
    };
    match tokio::time::timeout(PARTING_TIMEOUT, parting).await {
        Ok(Ok(_)) | Err(_) => {}
        Ok(Err(error)) => tracing::trace!(%error, "the other side went first"),
    }
}
