//! The program as whoever starts it sees it: ready, told to stop, left alone.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

const KELSON: &str = env!("CARGO_BIN_EXE_kelson");

/// Ends a process that a failed test leaves behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, which is what most tests want.
        if self.0.kill().is_ok() {
            self.0.wait().expect("a child can be waited for");
        }
    }
}

fn start(command: &mut Command) -> (Running, BufReader<impl Read + use<>>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (Running(child), stdout)
}

fn first_line(stdout: &mut impl BufRead) -> serde_json::Value {
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

#[test]
fn a_dev_member_says_where_it_listens_and_stops_well_when_asked() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut member, mut stdout) = start(Command::new(KELSON).arg("dev"));
        let line = first_line(&mut stdout);
        assert_eq!(line["pid"], member.0.id());
        assert!(line["endpoint"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{line}");
        assert_eq!(line["endpoints"], serde_json::json!([line["endpoint"]]));
        kill_process(Pid::from_child(&member.0), signal).unwrap();
        assert_eq!(member.0.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_dev_cluster_says_where_its_members_listen_and_stops_well_when_asked() {
    let (mut cluster, mut stdout) = start(Command::new(KELSON).args(["dev", "--members", "3"]));
    let line = first_line(&mut stdout);
    assert_eq!(line["pid"], cluster.0.id());
    let endpoints: Vec<_> = line["endpoints"].as_array().unwrap().iter().map(|url| url.as_str().unwrap()).collect();
    assert_eq!((endpoints.len(), line["endpoint"].as_str()), (3, Some(endpoints[0])));
    for endpoint in endpoints {
        let mut connection = TcpStream::connect(endpoint.strip_prefix("http://").unwrap()).unwrap();
        connection.write_all(b"GET /readyz HTTP/1.1\r\nhost: member\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    kill_process(Pid::from_child(&cluster.0), Signal::TERM).unwrap();
    assert_eq!(cluster.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_dev_cluster_has_one_to_seven_members() {
    for count in ["0", "8", "three", ""] {
        let output = Command::new(KELSON).args(["dev", &format!("--members={count}")]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains("--members"), "{text}");
    }
}

#[test]
fn a_dev_member_ends_with_its_parent() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "\"$0\" dev & wait", KELSON]);
    let (mut parent, mut stdout) = start(&mut shell);
    let line = first_line(&mut stdout);
    assert_ne!(line["pid"], parent.0.id());
    parent.0.kill().unwrap();
    parent.0.wait().unwrap();
    // The member holds the other end: this returns when it has ended.
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn the_service_manager_learns_that_a_member_is_ready_and_that_it_stops() {
    let directory = tempfile::tempdir().unwrap();
    let socket_path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&socket_path).unwrap();
    // Only so that a member that does not start fails the test instead of holding it.
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = Command::new(KELSON);
    command.env_clear().env("NOTIFY_SOCKET", &socket_path).env("ETCD_DATA_DIR", directory.path().join("data")).args([
        "--listen-client-urls=http://127.0.0.1:0",
        "--advertise-client-urls=http://127.0.0.1:1",
        "--listen-peer-urls=http://127.0.0.1:0",
    ]);
    let (mut member, _stdout) = start(&mut command);
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"READY=1");
    kill_process(Pid::from_child(&member.0), Signal::TERM).unwrap();
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"STOPPING=1");
    assert_eq!(member.0.wait().unwrap().code(), Some(0));
}
