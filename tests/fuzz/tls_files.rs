//! The operator's TLS files: certificate, key, authorities, revoked certificates. An input is all four of them; what is in
//! their PEM is changed, too. The corpus holds files that were made once, for keys are made by chance.

use std::fs;

use bytes::{Buf, BufMut};
use kelson::clock::Clock;
use kelson::config::TlsConfig;
use kelson::tls::Transports;
use kelson::{Config, config};
use rustls::pki_types::pem::{PemObject, SectionKind};
use tempfile::TempDir;

use super::authority::Authority;
use super::engine::{self, Target, Verdict};
use super::mutate;
use super::random::Random;
use super::snapshot_file::in_memory;

const FILES: [&str; 4] = ["cert", "key", "ca", "crl"];
const LINE_LETTERS: usize = 64;

pub struct TlsFiles {
    directory: TempDir,
}

impl TlsFiles {
    pub fn new() -> Self {
        Self { directory: in_memory() }
    }
}

fn encode(files: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for file in files {
        out.put_u16_le(file.len() as u16);
        out.extend_from_slice(file);
    }
    out
}

fn decode(input: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = input;
    let file = |_| {
        let len = usize::from(rest.try_get_u16_le().unwrap_or(0));
        let (file, later) = rest.split_at(len.min(rest.len()));
        rest = later;
        file.to_vec()
    };
    FILES.map(file).to_vec()
}

impl Target for TlsFiles {
    const NAME: &'static str = "tls_files";
    const ITERATIONS: u64 = 1_000;

    fn seeds(&mut self) -> Vec<Vec<u8>> {
        if !engine::corpus(Self::NAME).is_empty() {
            return Vec::new();
        }
        let authority = Authority::new("fuzz");
        let leaf = authority.issue("member", &["localhost", "127.0.0.1"]);
        let (pem, der) = authority.revoke(&[&authority.issue("gone", &[])]);
        let with = |crl: &[u8]| {
            let files =
                [leaf.cert.as_bytes(), leaf.key.as_bytes(), authority.pem().as_bytes(), crl].map(<[u8]>::to_vec);
            encode(&files)
        };
        vec![with(pem.as_bytes()), with(&der), with(&[])]
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        let (mut files, others) = (decode(input), decode(other));
        let at = random.below(FILES.len());
        match random.below(10) {
            0 => files[at].clone_from(&others[random.below(FILES.len())]),
            1 => {
                let with = random.below(FILES.len());
                files.swap(at, with);
            }
            2 => {
                let more = files[at].clone();
                files[at].extend(more);
            }
            3..=6 if files[at].starts_with(b"-----BEGIN") => change_within(&mut files[at], random),
            _ => mutate::bytes(&mut files[at], &others[at], random),
        }
        files.iter_mut().for_each(|file| file.truncate(4096));
        *input = encode(&files);
    }

    fn run(&mut self, input: &[u8]) -> Verdict {
        let files = decode(input);
        let path = |name: &str| self.directory.path().join(name);
        for (name, file) in FILES.iter().zip(&files) {
            fs::write(path(name), file).unwrap();
        }
        let tls = TlsConfig {
            cert_file: Some(path("cert")),
            key_file: Some(path("key")),
            trusted_ca_file: Some(path("ca")),
            crl_file: Some(path("crl")).filter(|_| !files[3].is_empty()),
            client_cert_auth: true,
            ..TlsConfig::default()
        };
        let https = config::Url::parse("https://127.0.0.1:0").unwrap();
        let config = Config {
            client_tls: tls.clone(),
            peer_tls: tls,
            listen_client_urls: vec![https.clone()],
            listen_peer_urls: vec![https],
            ..Config::for_test()
        };
        Verdict::of(Transports::open(&config, &Clock::system()))
    }
}

/// Changes the bytes that the first block of a PEM file holds.
fn change_within(file: &mut Vec<u8>, random: &mut Random) {
    let text = String::from_utf8_lossy(file).into_owned();
    let label = text.lines().next().unwrap_or_default().trim_start_matches("-----BEGIN ").trim_end_matches('-');
    let Ok((_, mut der)) = <(SectionKind, Vec<u8>)>::from_pem_slice(file) else { return };
    mutate::bytes(&mut der, &[], random);
    let letters = base64(&der);
    let lines = letters.as_bytes().chunks(LINE_LETTERS).map(|line| String::from_utf8_lossy(line).into_owned() + "\n");
    *file = format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", lines.collect::<String>()).into_bytes();
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for part in bytes.chunks(3) {
        let bits = part.iter().chain(&[0, 0]).take(3).fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        for letter in 0..4 {
            let at = (bits >> (18 - 6 * letter) & 63) as usize;
            out.push(if letter <= part.len() { char::from(LETTERS[at]) } else { '=' });
        }
    }
    out
}
