//! What the operator writes: the YAML of `--config-file`, arguments, and variables of the environment.

use std::ffi::OsString;
use std::fs;

use kelson::Config;
use kelson::config::{Parsed, flags, tls};
use tempfile::TempDir;

use super::engine::{Target, Verdict};
use super::mutate;
use super::random::Random;

/// The first byte of an input.
const FILE: u8 = 0;
const ARGUMENTS: u8 = 1;
const ENVIRONMENT: u8 = 2;

pub struct Configuration {
    directory: TempDir,
}

impl Configuration {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }
}

const FILES: [&str; 6] = [
    "name: a\nheartbeat-interval: 500\nelection-timeout: 5000\nlog-outputs: [stderr, /var/log/k]\n\
     watch-progress-notify-interval: 5000000000\nauto-compaction-retention: 1\npre-vote: false\n",
    "client-transport-security: {cert-file: /c, key-file: /k, trusted-ca-file: /ca, allowed-cn: [a, b]}\n\
     peer-transport-security: {auto-tls: true, skip-client-san-verification: true}\ntls-max-version: TLS1.2\n\
     cipher-suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\nlisten-client-urls: https://127.0.0.1:1\n",
    "{\"name\": \"b\", \"snapshot-count\": 5, \"initial-cluster\": \"b=http://10.0.0.1:2380,c=http://10.0.0.2:2380\"}",
    "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nname: *c\n",
    "quota-backend-bytes: -1\nmax-txn-ops: 0x10\nfeature-gates: InitialCorruptCheck=true\n? {a: b}\n: c\n",
    "--- !!map {name: !!str 5, max-request-bytes: 1e3}\n",
];

const ARGUMENT_LISTS: [&str; 5] = [
    "--name\0a\0--listen-client-urls=http://127.0.0.1:1,unix://x\0--advertise-client-urls\0http://127.0.0.1:1",
    "-auto-compaction-mode=periodic\0-auto-compaction-retention=72h30m\0--quota-backend-bytes=8589934592",
    "--initial-cluster=default=http://[::1]:2380\0--initial-advertise-peer-urls=http://[::1]:2380\0--pre-vote=F",
    "--experimental-initial-corrupt-check\0--feature-gates=CompactHashCheck=true\0--corrupt-check-time=1m1.5s",
    "--version\0--help",
];

impl Target for Configuration {
    const NAME: &'static str = "configuration";
    const ITERATIONS: u64 = 1_500;

    fn seeds(&mut self) -> Vec<Vec<u8>> {
        let tagged = |kind: u8, text: &str| [&[kind], text.as_bytes()].concat();
        let mut seeds: Vec<_> = FILES.iter().map(|text| tagged(FILE, text)).collect();
        seeds.extend(ARGUMENT_LISTS.iter().map(|text| tagged(ARGUMENTS, text)));
        seeds.push(tagged(ENVIRONMENT, "ETCD_NAME=a\0KELSON_IO_THREADS=2\0ETCD_SNAPSHOT_COUNT=9\0ETCD_CONFIG_FILE="));
        for flag in flags::all() {
            let name = flag.name;
            seeds.extend(
                ["1", "true", "http://127.0.0.1:1"].map(|value| tagged(ARGUMENTS, &format!("--{name}={value}"))),
            );
            seeds.push(tagged(FILE, &format!("{name}: 1\n")));
        }
        seeds
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n' || **byte == 0).count();
        if random.percent(30) && input.first() == other.first() && lines(other) > 0 {
            // Two of them behind each other.
            let kind = input.first().copied().unwrap_or(FILE);
            input.push(if kind == FILE { b'\n' } else { 0 });
            input.extend_from_slice(&other[1..]);
        } else {
            mutate::bytes(input, other, random);
        }
    }

    fn run(&mut self, input: &[u8]) -> Verdict {
        let Some((kind, bytes)) = input.split_first() else { return Verdict::Refused("nothing".into()) };
        let text = String::from_utf8_lossy(bytes).into_owned();
        let parts = || text.split('\0').map(OsString::from);
        let parsed = match *kind {
            ARGUMENTS => Config::from_args(parts().filter(|part| !names_a_file(part)), []),
            ENVIRONMENT => {
                let pair = |part: &str| part.split_once('=').map(|(name, value)| (name.into(), value.into()));
                let pairs = text.split('\0').filter(|part| !part.contains("CONFIG_FILE")).filter_map(pair);
                Config::from_args([], pairs.collect::<Vec<_>>())
            }
            _ => {
                let path = self.directory.path().join("kelson.yaml");
                fs::write(&path, bytes).unwrap();
                Config::from_args([OsString::from("--config-file"), path.into_os_string()], [])
            }
        };
        if let Ok(Parsed::Run { config, .. }) = &parsed {
            tls::check(config).expect("what the flags accept is checked");
            let _ids = (config.member_id(), config.cluster_id());
            for url in config.listen_client_urls.iter().chain(&config.listen_peer_urls) {
                let _address = url.listen_address();
            }
        }
        // The error begins with the file's name, and goes on with what it quotes.
        let file = self.directory.path().join("kelson.yaml").display().to_string();
        let short =
            |error: kelson::config::Error| error.to_string().replace(&file, "").chars().take(24).collect::<String>();
        Verdict::of(parsed.map_err(short))
    }
}

/// Files of this machine are not read.
fn names_a_file(argument: &OsString) -> bool {
    argument.to_string_lossy().contains("config-file")
}
