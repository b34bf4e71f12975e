//! The certificates of `--auto-tls` and `--peer-auto-tls`: signed by themselves, kept over restarts.
//!
//! ```text
//! <data-dir>/fixtures/client/cert.pem, key.pem    for clients
//! <data-dir>/fixtures/peer/cert.pem, key.pem      for peers
//! ```
//!
//! etcd's are on the curve P-521, which the cryptography here does not have; ours are on P-384.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, SanType,
    SerialNumber,
};
use rustls::crypto::CryptoProvider;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Error;
use super::files::{self, File, Pair};
use super::provider::provider;
use crate::clock::Clock;
use crate::config::tls::Side;
use crate::config::{Config, Url};

/// Days in a year of `--self-signed-cert-validity`, as etcd counts.
const DAYS_PER_YEAR: i64 = 365;
/// Certificates write years with four digits.
const END_OF_TIME: OffsetDateTime = time::Date::MAX.midnight().assume_utc();

/// The pair of one side, if its certificate is to be made: the one that is there, or a new one.
///
/// # Errors
/// [`Error::SelfSigned`] when it cannot be made or written.
pub fn pair(side: Side, config: &Config, clock: &Clock) -> Result<Option<Pair>, Error> {
    let (tls, name) = match side {
        Side::Client => (&config.client_tls, "client"),
        Side::Peer => (&config.peer_tls, "peer"),
    };
    if !tls.makes_certificate() {
        return Ok(None);
    }
    let provider = provider(config);
    let flag = side.flag("auto-tls");
    let now = OffsetDateTime::from_unix_timestamp(clock.unix_millis() as i64 / 1000);
    let now = now.map_err(|error| Error::Settings(format!("the machine's clock is off: {error}")))?;
    let Some(data_dir) = &config.data_dir else {
        let failed = |reason: String| Error::SelfSigned { flag: flag.clone(), directory: "memory".into(), reason };
        let (cert, key) = make(side, config, now).map_err(|error| failed(error.to_string()))?;
        let [cert_file, key_file] = ["cert.pem", "key.pem"].map(|file| File { flag: flag.clone(), path: file.into() });
        let made = files::parse_pair(&cert_file, cert.as_bytes(), &key_file, key.as_bytes(), &provider)?;
        return Ok(Some(Pair::Held(made)));
    };
    let directory = data_dir.join("fixtures").join(name);
    let [cert_file, key_file] =
        ["cert.pem", "key.pem"].map(|file| File { flag: flag.clone(), path: directory.join(file) });
    if !is_usable(&cert_file, &key_file, &provider, now) {
        let failed = |reason: String| Error::SelfSigned { flag: flag.clone(), directory: directory.clone(), reason };
        let (cert, key) = make(side, config, now).map_err(|error| failed(error.to_string()))?;
        let write = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            write_file(&key_file.path, &key)?;
            write_file(&cert_file.path, &cert)
        };
        write().map_err(|error: io::Error| failed(error.to_string()))?;
        tracing::info!(certificate = %cert_file.path.display(), "made a certificate signed by itself");
    }
    Ok(Some(Pair::Files { cert: cert_file, key: key_file }))
}

/// Whether there is a pair that still serves. One that does not is nobody's loss: none but this member can have relied
/// on it.
fn is_usable(cert: &File, key: &File, provider: &Arc<CryptoProvider>, now: OffsetDateTime) -> bool {
    let (Ok(chain), Ok(secret)) = (fs::read(&cert.path), fs::read(&key.path)) else { return false };
    match files::parse_pair(cert, &chain, key, &secret, provider) {
        Ok(pair) => pair.cert.first().is_some_and(|certificate| {
            X509Certificate::from_der(certificate)
                .is_ok_and(|(_, certificate)| certificate.validity().not_after.timestamp() > now.unix_timestamp())
        }),
        Err(error) => {
            tracing::warn!(%error, "making another certificate");
            false
        }
    }
}

/// A certificate and its key, PEM. What does not change from etcd's: the organization, the usages, and that a peer may
/// show it when it connects.
fn make(side: Side, config: &Config, now: OffsetDateTime) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    params.subject_alt_names = alternatives(side, config)?;
    params.not_before = now;
    let lasts = Duration::days(DAYS_PER_YEAR * i64::from(config.self_signed_cert_validity_years));
    params.not_after = now.checked_add(lasts).unwrap_or(END_OF_TIME);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    if side == Side::Peer {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// The hosts that the side listens on.
fn alternatives(side: Side, config: &Config) -> Result<Vec<SanType>, rcgen::Error> {
    let urls: Vec<&Url> = match side {
        Side::Client => config.listen_client_urls.iter().chain(&config.listen_client_http_urls).collect(),
        Side::Peer => config.listen_peer_urls.iter().collect(),
    };
    let mut hosts: Vec<_> = urls.iter().filter(|url| url.port().is_some()).map(|url| url.host()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let alternative = |host: &str| match host.parse::<IpAddr>() {
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) => Ok(SanType::DnsName(host.try_into()?)),
    };
    hosts.into_iter().filter(|host| !host.is_empty()).map(alternative).collect()
}

/// Writes a file that only its owner reads, in place of whatever is there. A crash leaves the old one, or half of a new
/// one, which the next start does not take for one.
fn write_file(path: &Path, text: &str) -> io::Result<()> {
    let written = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&written)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&written, path)
}
