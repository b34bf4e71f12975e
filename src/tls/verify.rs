//! Who is let in: the library's check of the chain, then ours of names and revoked serial numbers.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme};

use super::Error;
use super::identity::common_name;
use super::revoked::Revoked;
use crate::config::TlsConfig;
use crate::config::tls::Side;

/// In etcd's words.
#[derive(Debug, thiserror::Error)]
#[error("client certificate authentication failed: the certificate of \"{0}\" has none of the names that are let in")]
struct NotAllowed(String);

/// The names that are let in; none is all.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    common_names: Vec<String>,
    host_names: Vec<ServerName<'static>>,
}

impl Allowed {
    /// Those of a configuration.
    ///
    /// # Errors
    /// When a host name is none.
    pub fn new(side: Side, tls: &TlsConfig) -> Result<Self, Error> {
        let host_name = |name: &String| {
            ServerName::try_from(name.clone()).map_err(|error| {
                let flag = side.flag("allowed-hostname");
                Error::Settings(format!("{flag}: {name:?} is neither a host name nor an IP address ({error})"))
            })
        };
        Ok(Self {
            common_names: tls.allowed_cns.clone(),
            host_names: tls.allowed_hostnames.iter().map(host_name).collect::<Result<_, _>>()?,
        })
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if self.common_names.is_empty() && self.host_names.is_empty() {
            return Ok(());
        }
        let name = common_name(certificate);
        let parsed = ParsedCertificate::try_from(certificate)?;
        let is_named = name.as_ref().is_some_and(|name| self.common_names.contains(name));
        if is_named || self.host_names.iter().any(|host| verify_server_name(&parsed, host).is_ok()) {
            return Ok(());
        }
        let refusal = OtherError(Arc::new(NotAllowed(name.unwrap_or_default())));
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(refusal)))
    }
}

/// What is checked beyond the chain.
#[derive(Debug)]
pub struct Policy {
    /// Names that are let in.
    pub allowed: Allowed,
    /// Serial numbers that are not.
    pub revoked: Revoked,
}

impl Policy {
    fn check(&self, certificate: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if std::iter::once(certificate).chain(rest).any(|certificate| self.revoked.has(certificate)) {
            return Err(rustls::Error::InvalidCertificate(CertificateError::Revoked));
        }
        self.allowed.check(certificate)
    }
}

/// Demands a certificate of whoever connects.
#[derive(Debug)]
pub struct Connecting {
    chain: Arc<dyn ClientCertVerifier>,
    policy: Policy,
}

impl Connecting {
    /// Lets in whom `roots` vouch for and `policy` does not refuse.
    ///
    /// # Errors
    /// When there are no roots.
    pub fn new(roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>, policy: Policy) -> Result<Self, Error> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
        Ok(Self { chain: chain.map_err(|error| Error::Settings(error.to_string()))?, policy })
    }
}

impl ClientCertVerifier for Connecting {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.policy.check(end_entity, intermediates)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Checks whom this member connects to. As with etcd the names that may connect are the names that may be connected to;
/// revoked ones are refused here as well, which etcd leaves out.
#[derive(Debug)]
pub struct Connected {
    chain: Arc<WebPkiServerVerifier>,
    policy: Policy,
}

impl Connected {
    /// Believes whom `roots` vouch for and `policy` does not refuse.
    ///
    /// # Errors
    /// When there are no roots.
    pub fn new(roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>, policy: Policy) -> Result<Self, Error> {
        let chain = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        Ok(Self { chain: chain.map_err(|error| Error::Settings(error.to_string()))?, policy })
    }
}

impl ServerCertVerifier for Connected {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        self.policy.check(end_entity, intermediates)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Believes whoever answers, as `--peer-auto-tls` means it: nobody on the way reads along, but who is at the other end
/// is not known.
#[derive(Debug)]
pub struct Anybody(pub Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
