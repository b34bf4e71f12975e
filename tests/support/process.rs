//! A server process of a test, with a data directory of its own, on free ports of 127.0.0.1. It ends with the value.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::client::Client;
use super::schema::Schema;

/// Attempts to get a first answer, and the pause between them.
const START_ATTEMPTS: u32 = 300;
const START_PAUSE: Duration = Duration::from_millis(100);
const LOG_LINES_SHOWN: usize = 20;

/// The process.
pub struct Process {
    /// What it is called in reports.
    pub name: String,
    /// Where it listens: `host:port`.
    pub endpoint: String,
    child: Child,
    directory: TempDir,
}

impl Process {
    /// Starts a binary that takes etcd's flags, and waits until it answers.
    pub async fn start(name: &str, binary: &Path, schema: &Arc<Schema>) -> Result<Self, String> {
        let failed = |error: io::Error| format!("cannot start {}: {error}", binary.display());
        let directory = tempfile::tempdir().map_err(failed)?;
        let [client, peer] = free_ports().map_err(failed)?.map(|port| format!("127.0.0.1:{port}"));
        let log = File::create(directory.path().join("log")).map_err(failed)?;
        let child = Command::new(binary)
            .args(["--name", "one", "--log-level", "warn", "--initial-cluster-state", "new"])
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .args(["--listen-client-urls", &format!("http://{client}")])
            .args(["--advertise-client-urls", &format!("http://{client}")])
            .args(["--listen-peer-urls", &format!("http://{peer}")])
            .args(["--initial-advertise-peer-urls", &format!("http://{peer}")])
            .args(["--initial-cluster", &format!("one=http://{peer}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let mut process = Self { name: name.to_owned(), endpoint: client, child, directory };
        for _ in 0..START_ATTEMPTS {
            if process.has_ended() {
                break;
            }
            if process.answers(schema).await {
                return Ok(process);
            }
            tokio::time::sleep(START_PAUSE).await;
        }
        Err(format!("{name} does not answer; its log ends:\n{}", process.log_end()))
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines of what it has logged.
    pub fn log_end(&self) -> String {
        let log = fs::read(self.directory.path().join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    async fn answers(&self, schema: &Arc<Schema>) -> bool {
        match Client::connect(&self.endpoint, Arc::clone(schema)).await {
            Ok(mut client) => client.call("KV/Range", &json!({"key": "a"})).await.get("ok").is_some(),
            Err(_) => false,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = killed {
            eprintln!("cannot end {}: {error}", self.name);
        }
    }
}

/// The etcd to compare with: in `KELSON_PEERS`, or in `~/.cache/kelson-peers`.
pub fn etcd_binary() -> Result<PathBuf, String> {
    let directory = match std::env::var_os("KELSON_PEERS") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/kelson-peers"),
    };
    let binary = directory.join("etcd");
    if binary.is_file() {
        return Ok(binary);
    }
    Err(format!(
        "no etcd in {}: unpack etcd-v3.7.3-linux-amd64.tar.gz from https://github.com/etcd-io/etcd/releases, or build it \
         with `git clone --branch v3.7.3 https://github.com/etcd-io/etcd && make -C etcd build`, put the file `etcd` \
         there, or name its directory in KELSON_PEERS",
        directory.display()
    ))
}

fn free_ports() -> io::Result<[u16; 2]> {
    let (one, two) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok([one.local_addr()?.port(), two.local_addr()?.port()])
}
