//! Serial numbers of revoked certificates, from the file of `--client-crl-file` or `--peer-crl-file`.

use std::collections::HashSet;

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// Revoked serial numbers. As with etcd, whoever issued the certificate: the operator who names a list means it.
#[derive(Debug, Default)]
pub struct Revoked {
    /// Big-endian, without leading zeros.
    serials: HashSet<Vec<u8>>,
}

impl Revoked {
    /// Reads lists, DER as etcd or PEM.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let is_pem = bytes.trim_ascii_start().starts_with(b"-----BEGIN");
        let lists: Vec<CertificateRevocationListDer<'_>> = match is_pem {
            true => CertificateRevocationListDer::pem_slice_iter(bytes)
                .collect::<Result<_, _>>()
                .map_err(|error| format!("is not PEM: {error}"))?,
            false => vec![bytes.into()],
        };
        if lists.is_empty() {
            return Err(
                "has no list of revoked certificates: it must hold a block that begins with BEGIN X509 CRL".into()
            );
        }
        let mut serials = HashSet::new();
        for list in &lists {
            let (_, list) = CertificateRevocationList::from_der(list)
                .map_err(|error| format!("is no list of revoked certificates: {error}"))?;
            serials.extend(list.iter_revoked_certificates().map(|revoked| trimmed(revoked.raw_serial())));
        }
        Ok(Self { serials })
    }

    /// Whether a certificate is revoked; one that cannot be read counts as such once there is a list.
    pub fn has(&self, certificate: &[u8]) -> bool {
        if self.serials.is_empty() {
            return false;
        }
        X509Certificate::from_der(certificate)
            .map_or(true, |(_, certificate)| self.serials.contains(&trimmed(certificate.raw_serial())))
    }
}

fn trimmed(serial: &[u8]) -> Vec<u8> {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial[zeros..].to_vec()
}
