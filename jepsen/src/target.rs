//! The server under test: a binary with etcd's flags, alone on 127.0.0.1 or as a member of a cluster.
//!
//! It is started, killed and watched by pid; it dies with the harness where `setpriv` is there.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::Client;
use crate::tls::Files;

/// Ports are taken from here, below the range from which the kernel gives out its own.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// A killed process that is still there after this long hangs in the kernel.
const KILL_MAX: Duration = Duration::from_secs(20);
/// Between two looks at a server that starts.
const POLL: Duration = Duration::from_millis(5);
/// Log lines shown when a server fails.
const TAIL_LINES: usize = 8;
/// They are looked for in this many bytes.
const TAIL_BYTES: u64 = 16_384;

/// How to start the server.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Template {
    /// The binary.
    pub binary: PathBuf,
    /// Flags besides the ones that every run sets.
    pub arguments: Vec<String>,
    /// The port for clients; peers get the next one.
    pub port: u16,
    /// Variables that every start has.
    pub environment: Vec<(String, String)>,
    /// Members of a cluster speak TLS, to clients and to each other; one alone never does.
    pub tls: bool,
}

/// One member's part of the command line.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Launch {
    /// Its name in the cluster.
    pub name: String,
    /// Where clients reach it.
    pub client_url: String,
    /// Where peers reach it: what the cluster writes down.
    pub peer_url: String,
    /// Where it listens for clients and peers, when something of ours stands between; `None` = at the URLs above.
    pub listen_urls: Option<(String, String)>,
    /// `name=url,…` of all members.
    pub initial_cluster: String,
    /// It joins a cluster that is there.
    pub joins: bool,
    /// A command before it that brings it somewhere, such as into a network namespace, and becomes it.
    pub inside: Vec<String>,
    /// Variables.
    pub environment: Vec<(String, String)>,
    /// Its certificates, when the URLs are `https://…`.
    pub tls: Option<Files>,
}

/// Why a server is not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// It ended by itself.
    #[error("ended by itself ({0})")]
    Ended(ExitStatus),
    /// It runs, but does not answer.
    #[error("no answer within {0:?}: {1}")]
    Silent(Duration, String),
}

impl Template {
    /// A template for `kelson`, `etcd` (both where this machine has them) or a path.
    pub fn new(target: &str, arguments: Vec<String>) -> io::Result<Self> {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let binary = match target {
            "etcd" => home.join(".cache/kelson-peers/etcd"),
            "kelson" => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/kelson"),
            path => match path.strip_prefix("~/") {
                Some(rest) => home.join(rest),
                None => PathBuf::from(path),
            },
        };
        let binary = std::fs::canonicalize(&binary)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", binary.display())))?;
        Ok(Self { binary, arguments, port: free_ports()?, environment: Vec::new(), tls: false })
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The same server on ports of its own.
    pub fn on_other_ports(&self) -> io::Result<Self> {
        Ok(Self { port: free_ports()?, ..self.clone() })
    }

    /// The first two lines of what it says to `--version`; empty when it says nothing.
    pub fn version(&self) -> String {
        output_of(Command::new(&self.binary).arg("--version")).lines().take(2).collect::<Vec<_>>().join(", ")
    }

    /// The SHA-256 of its binary, by the tool that every Linux has; empty where it is missing.
    pub fn sha256(&self) -> String {
        let line = output_of(Command::new("sha256sum").arg(&self.binary));
        line.split_whitespace().next().unwrap_or_default().to_owned()
    }

    /// The only member of its cluster, on 127.0.0.1.
    fn alone(&self) -> Launch {
        let peer_url = format!("http://127.0.0.1:{}", self.port + 1);
        Launch {
            name: "default".into(),
            client_url: self.url(),
            initial_cluster: format!("default={peer_url}"),
            peer_url,
            ..Launch::default()
        }
    }

    fn command(&self, launch: &Launch, data_dir: &Path) -> Command {
        let mut words: Vec<OsString> = launch.inside.iter().map(Into::into).collect();
        if Path::new("/usr/bin/setpriv").exists() {
            words.extend(["/usr/bin/setpriv", "--pdeathsig", "KILL", "--"].map(Into::into));
        }
        words.push(self.binary.clone().into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.envs(launch.environment.iter().map(|(name, value)| (name, value)));
        command.args(["--name", &launch.name, "--data-dir"]).arg(data_dir);
        let (client, peer) = match &launch.listen_urls {
            Some((client, peer)) => (client, peer),
            None => (&launch.client_url, &launch.peer_url),
        };
        command.args(["--listen-client-urls", client, "--advertise-client-urls", &launch.client_url]);
        command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", &launch.peer_url]);
        command.args(["--initial-cluster", &launch.initial_cluster]);
        if launch.joins {
            command.args(["--initial-cluster-state", "existing"]);
        }
        for (flag, file) in launch.tls.iter().flat_map(Files::flags) {
            command.arg(flag).args(file);
        }
        command.args(&self.arguments);
        command
    }

    /// Starts it on a data directory; output goes to the end of `log`.
    pub fn start(&self, data_dir: &Path, log: &Path) -> io::Result<Server> {
        self.start_as(&self.alone(), data_dir, log)
    }

    /// Starts it as a member of a cluster. The calling thread must live as long as the server does: the kernel kills the
    /// server when that thread ends.
    pub fn start_as(&self, launch: &Launch, data_dir: &Path, log: &Path) -> io::Result<Server> {
        let mut output = File::options().create(true).append(true).open(log)?;
        writeln!(output, "---- start ----")?;
        let log_from = output.seek(SeekFrom::End(0))?;
        let mut command = self.command(launch, data_dir);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn()?;
        Ok(Server { child, url: launch.client_url.clone(), log: log.to_owned(), log_from })
    }
}

/// A running server; dropping it kills it.
pub struct Server {
    child: Child,
    url: String,
    log: PathBuf,
    log_from: u64,
}

impl Server {
    /// Waits until it answers a linearizable read, without TLS.
    pub async fn ready(&mut self, limit: Duration) -> Result<Client, NotReady> {
        let started = Instant::now();
        let mut last = String::from("not asked yet");
        while started.elapsed() < limit {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(NotReady::Ended(status));
            }
            match Client::connect(&self.url, None, Duration::from_secs(2)).await {
                Ok(client) => match client.head().await {
                    Ok(_) => return Ok(client),
                    Err(error) => last = error.to_string(),
                },
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(POLL).await;
        }
        Err(NotReady::Silent(limit, last))
    }

    /// A connection of its own, with a deadline for each call.
    pub async fn connect(&self, deadline: Duration) -> Result<Client, crate::client::Error> {
        Client::connect(&self.url, None, deadline).await
    }

    /// Its exit status, once it has ended by itself.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for it to end by itself.
    pub async fn wait_end(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let started = Instant::now();
        while started.elapsed() < limit {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(None)
    }

    /// SIGKILL, and waits until it is gone. `meanwhile` is called again and again: a process whose requests hang in a
    /// file system cannot die before they are answered.
    pub fn kill(&mut self, mut meanwhile: impl FnMut()) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        self.child.kill()?;
        let started = Instant::now();
        loop {
            meanwhile();
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            if started.elapsed() > KILL_MAX {
                return Err(io::Error::other(format!("process {} does not die", self.child.id())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asks it to end, as an operator does.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends it a signal. It is our child and not waited for, so its number is nobody else's.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        Ok(kill_process(pid, signal)?)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it wrote since this start.
    pub fn log_tail(&self) -> String {
        let shorten = |log: String| {
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        };
        self.read_log().map(shorten).unwrap_or_else(|error| format!("(its log cannot be read: {error})"))
    }

    fn read_log(&self) -> io::Result<String> {
        let mut file = File::open(&self.log)?;
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(self.log_from.max(end.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Everything that it wrote since this start.
    pub fn log_text(&self) -> io::Result<String> {
        let bytes = std::fs::read(&self.log)?;
        Ok(String::from_utf8_lossy(bytes.get(self.log_from as usize..).unwrap_or_default()).into_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.kill(|| ()) {
            eprintln!("jepsen: {error}");
        }
    }
}

/// What a command prints, if it succeeds.
fn output_of(command: &mut Command) -> String {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => String::new(),
    }
}

/// A port whose successor is free, too. They are given back at once: a small race that a run reports as what it is.
fn free_ports() -> io::Result<u16> {
    let span = u32::from(PORTS.end - PORTS.start) / 2;
    let offset = std::process::id() % span;
    for step in 0..span {
        let port = PORTS.start + ((offset + step * 7) % span * 2) as u16;
        let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + 1) {
            return Ok(port);
        }
    }
    Err(io::Error::other("no free pair of ports"))
}
