//! Members that are processes of the built program, for tests of what only processes show: signals, exit codes, data
//! directories, ports, and several of them in one cluster.
//!
//! A process is ended by its own pid when its [`Member`] goes; its data and its log go with the directory that the test
//! made.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use kelson::proto::etcdserverpb as pb;
use rustix::process::{Pid, Signal, kill_process};

use crate::clients::{Client, Route};
use crate::common::PATIENCE;

/// The program under test.
pub const KELSON: &str = env!("CARGO_BIN_EXE_kelson");

/// Ports are taken from here on, below those that the system gives to outgoing connections: a member that is down for
/// a while must find its port free when it comes back.
const FIRST_PORT: u16 = 12_000;
const PORTS: u16 = 20_000;

/// One member, running or not.
pub struct Member {
    pub name: String,
    pub client_url: String,
    pub peer_url: String,
    /// Where its data is.
    pub data: PathBuf,
    /// How clients get to it; the process lives in the network namespace, if one is named there.
    pub route: Route,
    log: PathBuf,
    /// Given at every start, beside those that every member has.
    flags: Vec<String>,
    /// `--initial-cluster` and `--initial-cluster-state` of the last start.
    beginning: [String; 2],
    child: Option<Child>,
}

impl Member {
    /// A member that has not been started, on free ports of 127.0.0.1.
    pub fn new(root: &Path, name: &str) -> Self {
        Self::at(root, name, "http", "http")
    }

    /// As [`Self::new`], with the schemes of its client and its peer URL.
    pub fn at(root: &Path, name: &str, client: &str, peer: &str) -> Self {
        let [client_port, peer_port] = [free_port(), free_port()];
        Self {
            name: name.to_owned(),
            client_url: format!("{client}://127.0.0.1:{client_port}"),
            peer_url: format!("{peer}://127.0.0.1:{peer_port}"),
            data: root.join(format!("{name}.data")),
            route: Route::default(),
            log: root.join(format!("{name}.log")),
            flags: Vec::new(),
            beginning: Default::default(),
            child: None,
        }
    }

    /// In a network namespace, at an address of it.
    pub fn within(root: &Path, name: &str, namespace: &str, address: &str) -> Self {
        let mut member = Self::new(root, name);
        member.client_url = "http://127.0.0.1:2379".to_owned();
        member.peer_url = format!("http://{address}:2380");
        member.route.namespace = Some(namespace.to_owned());
        member
    }

    /// Gives it more flags.
    pub fn with(mut self, flags: &[String]) -> Self {
        self.flags.extend_from_slice(flags);
        self
    }

    /// Starts it as a member of a cluster, `new` or `existing`, as `--initial-cluster` names it.
    pub fn start(&mut self, cluster: &str, state: &str) {
        self.beginning = [cluster.to_owned(), state.to_owned()];
        self.restart();
    }

    /// Starts it with the flags of the last start.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "{} runs", self.name);
        let [cluster, state] = &self.beginning;
        let log = File::create(&self.log).unwrap();
        let mut command = match &self.route.namespace {
            None => Command::new(KELSON),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, KELSON]);
                command
            }
        };
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .args(["--name", &self.name, "--data-dir"])
            .arg(&self.data)
            .args(["--listen-client-urls", &self.client_url, "--advertise-client-urls", &self.client_url])
            .args(["--listen-peer-urls", &self.peer_url, "--initial-advertise-peer-urls", &self.peer_url])
            .args(["--initial-cluster", cluster, "--initial-cluster-state", state])
            .args(&self.flags)
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// A client of this member alone.
    pub fn client(&self) -> Client {
        Client::new(&[self])
    }

    /// Waits until it answers.
    pub async fn ready(&mut self) {
        let client = self.client();
        let answers = async {
            while client.status(0).await.is_err() {
                let ended = self.child.as_mut().expect("it was started").try_wait().unwrap();
                assert!(ended.is_none(), "{} ended with {ended:?}:\n{}", self.name, self.log());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let answered = tokio::time::timeout(PATIENCE, answers).await;
        assert!(answered.is_ok(), "{} does not answer:\n{}", self.name, self.log());
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().expect("it runs")), signal).unwrap();
    }

    /// Kills it, as a power cut would, but for what the kernel still has.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(&mut self) {
        self.signal(Signal::TERM);
        let (code, log) = self.ended().await;
        assert_eq!(code, Some(0), "{log}");
    }

    /// Waits until it has ended by itself: its exit code and what it logged.
    pub async fn ended(&mut self) -> (Option<i32>, String) {
        let child = self.child.as_mut().expect("it was started");
        let waiting = async {
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let Ok(code) = tokio::time::timeout(PATIENCE, waiting).await else {
            panic!("{} does not end:\n{}", self.name, self.log());
        };
        self.child = None;
        (code, self.log())
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; a stopped one ends as well.
            if child.kill().is_ok() {
                child.wait().expect("a child can be waited for");
            }
        }
        if std::thread::panicking()
            && let Ok(log) = std::fs::read_to_string(&self.log)
        {
            // The test fails, and its directory is about to go.
            let tail: Vec<_> = log.lines().rev().take(30).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            eprintln!("--- {}:\n{}", self.name, tail.join("\n"));
        }
    }
}

/// What `--initial-cluster` says of these members.
pub fn initial_cluster<'a>(members: impl IntoIterator<Item = &'a Member>) -> String {
    let entries: Vec<_> = members.into_iter().map(|member| format!("{}={}", member.name, member.peer_url)).collect();
    entries.join(",")
}

/// Starts a new cluster of these members, and waits for all of them.
pub async fn start_all(members: &mut [Member]) {
    let cluster = initial_cluster(members.iter());
    for member in members.iter_mut() {
        member.start(&cluster, "new");
    }
    for member in members {
        member.ready().await;
    }
}

/// A cluster of three.
pub async fn start_three(root: &Path) -> Vec<Member> {
    let mut members: Vec<_> = ["a", "b", "c"].iter().map(|name| Member::new(root, name)).collect();
    start_all(&mut members).await;
    members
}

/// The place of the member that leads, once all agree on it.
pub async fn leader(members: &[Member]) -> usize {
    let agreed = async {
        loop {
            let statuses = members.iter().map(async |member| member.client().status(0).await.ok());
            let statuses: Option<Vec<pb::StatusResponse>> =
                futures_util::future::join_all(statuses).await.into_iter().collect();
            let place = statuses.and_then(|statuses| {
                let mut ids = statuses.iter().map(|status| status.header.as_ref().expect("a header").member_id);
                ids.position(|id| statuses.iter().all(|status| status.leader == id))
            });
            match place {
                Some(place) => return place,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, agreed).await.expect("one leader in the end")
}

/// Says that a test is left out, and why.
pub fn skip(reason: &str) {
    println!("left out: {reason}");
}

/// A tool of etcd's, if it is there.
pub fn tool(name: &str) -> Option<PathBuf> {
    let directory = std::env::var_os("KELSON_PEERS").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".cache/kelson-peers"))
    });
    let path = directory?.join(name);
    path.exists().then_some(path)
}

fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % u32::from(PORTS)) as u16;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + (start + step) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
