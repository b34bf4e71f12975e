//! Whether a peer's certificate names the address that the peer comes from, by etcd's rules: a stolen certificate is of
//! no use elsewhere.
//!
//! An address in the certificate must be the peer's. Host names are looked up: the name of the address must be among
//! them, or one of them must lead to the address. Wildcards count for the name of the address only. A certificate
//! without any passes.

use std::future::Future;
use std::io;
use std::net::IpAddr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Error;

/// Asks DNS, or whatever else the system asks.
pub trait Resolver: Sync {
    /// The name of an address.
    fn name_of(&self, ip: IpAddr) -> impl Future<Output = io::Result<String>> + Send;
    /// The addresses of a name.
    fn addresses_of(&self, name: &str) -> impl Future<Output = io::Result<Vec<IpAddr>>> + Send;
}

/// The system's resolver.
pub struct System;

impl Resolver for System {
    async fn name_of(&self, ip: IpAddr) -> io::Result<String> {
        let asked = tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&ip).map_err(io::Error::from));
        asked.await.map_err(io::Error::other)?
    }

    async fn addresses_of(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// Checks a certificate against the address that it came from.
///
/// # Errors
/// [`Error::Address`] with what was looked for.
pub async fn check(certificate: &[u8], ip: IpAddr, resolver: &impl Resolver) -> Result<(), Error> {
    // A listener for IPv6 sees IPv4 in its guise.
    let ip = ip.to_canonical();
    let (addresses, names) = alternatives(certificate)?;
    if (addresses.is_empty() && names.is_empty()) || addresses.contains(&ip) {
        return Ok(());
    }
    if names.is_empty() {
        return Err(Error::Address(format!("x509: certificate is valid for {addresses:?}, not {ip}")));
    }
    match is_at(ip, &names, resolver).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::Address(format!("tls: \"{ip}\" does not match any of DNSNames {names:?}"))),
        Err(error) => Err(Error::Address(format!("tls: \"{ip}\" does not match any of DNSNames {names:?} ({error})"))),
    }
}

/// The addresses and host names that a certificate carries.
fn alternatives(certificate: &[u8]) -> Result<(Vec<IpAddr>, Vec<String>), Error> {
    let unreadable = |error: String| Error::Address(format!("the certificate cannot be read: {error}"));
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| unreadable(error.to_string()))?;
    let extension = certificate.subject_alternative_name().map_err(|error| unreadable(error.to_string()))?;
    let (mut addresses, mut names) = (Vec::new(), Vec::new());
    for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::IPAddress(bytes) => addresses.extend(read_address(bytes)),
            GeneralName::DNSName(name) => names.push((*name).to_owned()),
            _ => {}
        }
    }
    Ok((addresses, names))
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

async fn is_at(ip: IpAddr, names: &[String], resolver: &impl Resolver) -> io::Result<bool> {
    let mut outcome = Ok(false);
    match resolver.name_of(ip).await {
        Ok(found) => {
            let found = found.trim_end_matches('.');
            // Of "*.example.com" the dot counts too, or evil-example.com would pass.
            let is_named = |name: &String| match name.strip_prefix('*') {
                Some(suffix) if suffix.starts_with('.') => found.ends_with(suffix),
                _ => name == found,
            };
            if names.iter().any(is_named) {
                return Ok(true);
            }
        }
        Err(error) => outcome = Err(error),
    }
    for name in names.iter().filter(|name| !name.starts_with("*.")) {
        match resolver.addresses_of(name).await {
            Ok(addresses) if addresses.iter().any(|address| address.to_canonical() == ip) => return Ok(true),
            Ok(_) => {}
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}
