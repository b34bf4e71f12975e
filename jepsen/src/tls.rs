//! Certificates: those that the harness makes for a cluster of its own, and those by which its clients know a member and
//! are known.
//!
//! One authority signs them all. They last longer than any jump of a clock, and their keys lie open in the run's directory:
//! they guard nothing.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// The directory of the certificates in a run's directory.
pub const DIRECTORY: &str = "tls";
/// The authority's certificate there.
const CA: &str = "ca.crt";
/// The name of the clients' files, and their common name.
const CLIENT: &str = "client";

/// A member's files, for its flags. It shows the same certificate to clients and to peers.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Files {
    /// Whom it believes.
    pub ca: PathBuf,
    /// What it shows,
    pub cert: PathBuf,
    /// and the key to that.
    pub key: PathBuf,
}

/// Whom clients believe, and what they show.
#[derive(Clone, Debug)]
pub struct Credentials(ClientTlsConfig);

impl Credentials {
    /// From PEM files: the members' authority, and the clients' certificate with its key, where members demand one.
    pub fn read(ca: &Path, identity: Option<(&Path, &Path)>) -> anyhow::Result<Self> {
        let pem = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem(ca)?));
        if let Some((cert, key)) = identity {
            config = config.identity(Identity::from_pem(pem(cert)?, pem(key)?));
        }
        Ok(Self(config))
    }

    /// For a connection: the handshake has its own deadline, as a member that is stopped still accepts connections.
    pub(crate) fn config(&self, deadline: Duration) -> ClientTlsConfig {
        self.0.clone().timeout(deadline)
    }
}

/// Makes an authority, a certificate for each member (with its addresses) and one for clients, as PEM files in a new
/// directory. Returns the members' files and the clients' credentials.
pub fn make(directory: &Path, members: &[Vec<IpAddr>]) -> anyhow::Result<(Vec<Files>, Credentials)> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "jepsen");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let ca = directory.join(CA);
    std::fs::write(&ca, authority.pem())?;
    let issue = |name: &str, addresses: &[IpAddr]| -> anyhow::Result<Files> {
        let mut params = CertificateParams::new(addresses.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, name);
        // A member is its peers' client, too.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let (cert_file, key_file) = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
        std::fs::write(&cert_file, params.signed_by(&key, &authority)?.pem())?;
        std::fs::write(&key_file, key.serialize_pem())?;
        Ok(Files { ca: ca.clone(), cert: cert_file, key: key_file })
    };
    let name = |member| format!("member-{member}");
    let files = (0..).zip(members).map(|(member, addresses): (u32, _)| issue(&name(member), addresses));
    let files = files.collect::<anyhow::Result<Vec<_>>>()?;
    let client = issue(CLIENT, &[])?;
    Ok((files, Credentials::read(&ca, Some((&client.cert, &client.key)))?))
}

impl Files {
    /// etcd's flags: TLS to clients and to peers, who must show a certificate of the authority.
    pub fn flags(&self) -> Vec<(&'static str, Option<&Path>)> {
        vec![
            ("--cert-file", Some(&self.cert)),
            ("--key-file", Some(&self.key)),
            ("--trusted-ca-file", Some(&self.ca)),
            ("--client-cert-auth", None),
            ("--peer-cert-file", Some(&self.cert)),
            ("--peer-key-file", Some(&self.key)),
            ("--peer-trusted-ca-file", Some(&self.ca)),
            ("--peer-client-cert-auth", None),
        ]
    }
}
