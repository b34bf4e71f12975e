//! `kelson snapshot save`: a running member's data as a file, through `Maintenance.Snapshot`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kelson::proto::etcdserverpb::SnapshotRequest;
use kelson::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kelson::storage::etcd_file::SnapshotReader;
use kelson::storage::fs::parent_of;
use tonic::transport::Endpoint;

use super::Failure;
use super::flags::{Flag, Given};

/// Before the flags.
pub const HELP: &str =
    "Saves the data of a running member, kelson or etcd, to a file. The file appears when it is whole, checked
and on the disk; one of that name is then replaced. It holds everything that the member has applied at
one instant; the member goes on serving meanwhile.

Usage:
  kelson snapshot save FILE [--endpoints URL]

Examples:
  kelson snapshot save /backup/kelson-$(date +%Y%m%d-%H%M%S).db
  kelson snapshot save backup.db --endpoints http://10.0.0.1:2379
";

/// Its flags.
pub const FLAGS: &[Flag] = &[Flag {
    name: "endpoints",
    short: None,
    value: Some("URL"),
    help: "The member to ask: one client URL. Default: 127.0.0.1:2379",
}];

const ENDPOINT_DEFAULT: &str = "127.0.0.1:2379";
/// As long as etcdctl waits for a connection, and for a sign of life on one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(6);
/// Only the owner reads a backup.
const FILE_MODE: u32 = 0o600;
const PART_SUFFIX: &str = ".part";

/// Runs the command.
pub fn run(given: &Given) -> Result<String, Failure> {
    let file = given.file().map_err(Failure::Usage)?;
    let endpoint = url(given.value("endpoints").unwrap_or(ENDPOINT_DEFAULT)).map_err(Failure::Usage)?;
    let part = PathBuf::from(format!("{file}{PART_SUFFIX}"));
    let saved = save(&endpoint, &part, Path::new(file));
    match saved {
        Ok(version) => Ok(format!("Snapshot saved at {file}\nServer version {version}\n")),
        Err(reason) => {
            // It may never have been made; if it stays, the next attempt replaces it.
            match fs::remove_file(&part) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::Failed(format!("{reason}; {} stays: {error}", part.display()))),
            }
            Err(Failure::Failed(reason))
        }
    }
}

/// The one endpoint, with a scheme.
fn url(endpoints: &str) -> Result<String, String> {
    if endpoints.contains(',') {
        return Err(format!("a snapshot is one member's: give one of the endpoints {endpoints}"));
    }
    match endpoints.split_once("://") {
        None => Ok(format!("http://{endpoints}")),
        Some(("http", _)) => Ok(endpoints.to_owned()),
        Some(_) => Err(format!(
            "{endpoints}: this release speaks only http://; over TLS, `etcdctl snapshot save` makes the same file"
        )),
    }
}

/// Fetches into `part`, checks it and gives it its name; returns the version of the data.
fn save(endpoint: &str, part: &Path, file: &Path) -> Result<String, String> {
    let at = |error: io::Error| format!("cannot write {}: {error}", part.display());
    let out = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(part).map_err(at)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start the runtime: {error}"))?;
    let version = runtime.block_on(fetch(endpoint, &out, part))?;
    out.sync_all().map_err(at)?;
    SnapshotReader::open(part)
        .and_then(|saved| saved.verify_hash())
        .map_err(|error| format!("what {endpoint} sent is damaged ({error}): try again"))?;
    fs::rename(part, file).map_err(|error| format!("cannot name {}: {error}", file.display()))?;
    let dir = parent_of(file);
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| format!("cannot sync {}: {error}", dir.display()))?;
    Ok(version)
}

async fn fetch(endpoint: &str, mut out: &File, part: &Path) -> Result<String, String> {
    let unreachable = |error: tonic::transport::Error| {
        format!("cannot reach {endpoint} ({}): is a member running there? --endpoints names another", innermost(&error))
    };
    let channel = Endpoint::from_shared(endpoint.to_owned())
        .map_err(unreachable)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .connect()
        .await
        .map_err(unreachable)?;
    let refused = |status: tonic::Status| format!("{endpoint} sent no snapshot: {}", status.message());
    let mut client = MaintenanceClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut stream = client.snapshot(SnapshotRequest {}).await.map_err(refused)?.into_inner();
    let mut version = String::new();
    while let Some(piece) = stream.message().await.map_err(refused)? {
        // Nothing else runs here that a write could hold up.
        out.write_all(&piece.blob).map_err(|error| format!("cannot write {}: {error}", part.display()))?;
        if !piece.version.is_empty() {
            version = piece.version;
        }
    }
    Ok(version)
}

/// The operating system's words; what is around them says nothing.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_plain_endpoint_is_taken_with_or_without_scheme() {
        assert_eq!(url("127.0.0.1:1"), Ok("http://127.0.0.1:1".to_owned()));
        assert_eq!(url("http://h:1"), Ok("http://h:1".to_owned()));
        assert!(url("a:1,b:1").unwrap_err().contains("one member's"));
        assert!(url("https://h:1").unwrap_err().contains("etcdctl snapshot save"));
    }
}
