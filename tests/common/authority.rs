//! Certificates for tests: authorities, and what they vouch for and revoke.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};

/// Who vouches.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
pub struct Leaf {
    pub cert: String,
    pub key: String,
    serial: SerialNumber,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Vouches for a common name with these host names and addresses.
    pub fn issue(&self, name: &str, alternatives: &[&str]) -> Leaf {
        self.issue_with(name, alternatives, |_| {})
    }

    /// As [`Self::issue`], with something changed before it is signed.
    pub fn issue_with(&self, name: &str, alternatives: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let alternatives: Vec<_> = alternatives.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(alternatives).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        // Its high bit is off, as a positive number's must be.
        let serial = SerialNumber::from_slice(&[&[1], &key.public_key_raw()[1..9]].concat());
        params.serial_number = Some(serial.clone());
        change(&mut params);
        let cert = params.signed_by(&key, &self.0).unwrap();
        Leaf { cert: cert.pem(), key: key.serialize_pem(), serial }
    }

    /// A certificate whose time is over.
    pub fn issue_expired(&self, name: &str, alternatives: &[&str]) -> Leaf {
        self.issue_with(name, alternatives, |params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    /// A list of revoked certificates, PEM and DER.
    pub fn revoke(&self, leaves: &[&Leaf]) -> (String, Vec<u8>) {
        let revoked = |leaf: &&Leaf| RevokedCertParams {
            serial_number: leaf.serial.clone(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2044, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: leaves.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.0).unwrap();
        (list.pem().unwrap(), list.der().to_vec())
    }
}

impl Leaf {
    /// Writes both files, one after the other, as an operator who copies them does.
    pub fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (cert, key) = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
        std::fs::write(&cert, &self.cert).unwrap();
        std::fs::write(&key, &self.key).unwrap();
        (cert, key)
    }
}
