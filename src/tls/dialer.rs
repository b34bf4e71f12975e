//! The client's half: a socket connected to another member becomes an encrypted one, or an error.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::files::{self, File, Material, Reloading, Sources};
use super::provider::{provider, unusable, versions};
use super::verify::{Allowed, Anybody, Connected, Policy};
use super::{Error, HANDSHAKE_TIMEOUT};
use crate::config::Config;
use crate::config::tls::Side;

/// Where systems keep the CAs that they trust, in the order in which Go looks.
const SYSTEM_CAS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Makes encrypted connections of those to other members.
pub struct Dialer {
    files: Arc<Reloading<ClientConfig>>,
}

impl Dialer {
    /// Reads the files of the peers' side. Shown is `--peer-client-cert-file`, else what the listeners show; without
    /// either nothing is. Without `--peer-trusted-ca-file` the system's CAs vouch, and with `--peer-auto-tls` nobody
    /// needs to.
    ///
    /// # Errors
    /// When a file is missing or broken, or the settings leave nothing to speak.
    pub(super) fn new(config: &Config, listening: &Sources) -> Result<Self, Error> {
        let tls = &config.peer_tls;
        let file = |key: &str, path| File::new(Side::Peer, key, path);
        let own =
            files::pair(file("client-cert-file", &tls.client_cert_file), file("client-key-file", &tls.client_key_file));
        let sources = Sources { pair: own.or_else(|| listening.pair.clone()), ..listening.clone() };
        let (allowed, provider, versions) = (Allowed::new(Side::Peer, tls)?, provider(config), versions(config));
        let believes_anybody = tls.makes_certificate();
        let build = {
            let provider = provider.clone();
            move |mut material: Material| {
                let pair = material.pair.take();
                let verifier: Arc<dyn ServerCertVerifier> = match believes_anybody {
                    true => Arc::new(Anybody(provider.clone())),
                    false => Arc::new(believe_known(material, &allowed, &provider)?),
                };
                let builder = ClientConfig::builder_with_provider(provider.clone())
                    .with_protocol_versions(&versions)
                    .map_err(|error| unusable(&error))?
                    .dangerous()
                    .with_custom_certificate_verifier(verifier);
                let mut config = match pair {
                    Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair))),
                    None => builder.with_no_client_auth(),
                };
                config.alpn_protocols = vec![b"h2".to_vec()];
                config.resumption = Resumption::disabled();
                Ok(config)
            }
        };
        // The system's CAs are left alone until somebody is dialed: most members ask nothing of them, and where there
        // are none that is no reason not to start.
        let files = match sources.ca.is_some() || believes_anybody {
            true => Reloading::open(sources, provider, build)?,
            false => Reloading::check(sources, provider, build)?,
        };
        Ok(Self { files: Arc::new(files) })
    }

    /// Shakes hands with the member at `host`, a name or an IP address, which its certificate must carry.
    ///
    /// # Errors
    /// When the other side is not believed, refuses or is silent, or a file is missing or broken.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::Host(host.to_owned()))?;
        let handshake = async {
            let config = self.files.current().await?;
            TlsConnector::from(config).connect(name, stream).await.map_err(Error::Handshake)
        };
        tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(|_| Error::Timeout(HANDSHAKE_TIMEOUT))?
    }
}

fn believe_known(material: Material, allowed: &Allowed, provider: &Arc<CryptoProvider>) -> Result<Connected, Error> {
    let roots = material.roots.unwrap_or_else(|| Arc::new(system_roots()));
    if roots.is_empty() {
        return Err(Error::Settings("no CA vouches for other members: give --peer-trusted-ca-file".into()));
    }
    Connected::new(roots, provider.clone(), Policy { allowed: allowed.clone(), revoked: material.revoked })
}

/// The CAs that the system trusts; none if it has no file of them, and then nobody is believed.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    if let Some(path) = SYSTEM_CAS.iter().find(|path| Path::new(path).exists()) {
        match CertificateDer::pem_file_iter(path) {
            Ok(certificates) => {
                // Such a file holds some hundred, and one that is strange does not spoil the others.
                roots.add_parsable_certificates(certificates.filter_map(Result::ok));
            }
            Err(error) => tracing::warn!(%error, path, "the system's CAs cannot be read"),
        }
    }
    roots
}
