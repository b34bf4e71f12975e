//! What every check needs: a data directory, a server on it, one client that writes one thing after the other.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::chaosfs::{ChaosFs, Directories};
use crate::check::durability::Ledger;
use crate::client::Client;
use crate::history::{Action, Operation, Value};
use crate::observe::observe;
use crate::target::{NotReady, Server, Template};

/// A started server answers within this, or does not start.
pub const START_MAX: Duration = Duration::from_secs(20);
const REQUEST_DEADLINE: Duration = Duration::from_secs(3);
const OBSERVER_DEADLINE: Duration = Duration::from_secs(20);

/// One check's place: files, histories, and the server that lives on them.
pub struct Stage {
    // Dropped in this order: the server before the mount, the mount before the directory below it.
    pub server: Option<Server>,
    pub fs: Option<ChaosFs>,
    dir: tempfile::TempDir,
    template: Template,
    log: PathBuf,
    pub operations: Vec<Operation>,
    started: Instant,
}

impl Stage {
    /// On chaosfs (with a journal's directory rules), or on a real directory.
    pub fn new(template: &Template, log: PathBuf, chaos: bool) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("jepsen-").tempdir()?;
        let fs = if chaos { Some(ChaosFs::mount(dir.path(), Directories::Journal)?) } else { None };
        std::fs::create_dir(dir.path().join("data"))?;
        std::fs::File::open(dir.path())?.sync_all()?;
        let (template, started) = (template.clone(), Instant::now());
        Ok(Self { server: None, fs, dir, template, log, operations: Vec::new(), started })
    }

    pub fn fs(&self) -> anyhow::Result<&ChaosFs> {
        self.fs.as_ref().context("this check has no chaosfs")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts the server; an inner error says that it is not ready.
    pub async fn start(&mut self) -> anyhow::Result<Result<Client, NotReady>> {
        let mut server = self.template.start(&self.data_dir(), &self.log)?;
        let ready = server.ready(START_MAX).await;
        self.server = Some(server);
        Ok(ready.map(|client| client.with_deadline(REQUEST_DEADLINE)))
    }

    /// Starts it where nothing is wrong yet.
    pub async fn start_well(&mut self) -> anyhow::Result<Client> {
        let ready = self.start().await?;
        ready.map_err(|error| anyhow::anyhow!("the server did not start on a good disk: {error}"))
    }

    /// A server of its own ports on the same directory.
    pub fn second(&self) -> anyhow::Result<Server> {
        Ok(self.template.on_other_ports()?.start(&self.data_dir(), &self.log.with_extension("second.log"))?)
    }

    pub fn server(&mut self) -> anyhow::Result<&mut Server> {
        self.server.as_mut().context("no server was started")
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let fs = self.fs.as_ref();
        if let Some(server) = &mut self.server {
            server.kill(|| {
                if let Some(fs) = fs {
                    fs.drop_held_syncs();
                }
            })?;
        }
        Ok(())
    }

    /// SIGKILL, then the power goes and every unsynced page with it.
    pub fn power_cut(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        if let Some(fs) = &mut self.fs {
            fs.power_cut(0.0, 1)?;
        }
        Ok(())
    }

    /// One put of a key of its own; returns whether it was answered.
    pub async fn put(&mut self, client: &Client, length: u32) -> bool {
        let id = self.operations.len() as u64 + 1;
        let value = Value { operation: id, part: 0, length };
        let action = Action::Put { key: format!("fault/{id:06}"), value, lease: 0 };
        let start = self.now();
        let outcome = client.perform(&action).await;
        let operation = Operation { id, process: 0, start, end: self.now(), action, outcome };
        let answered = operation.answer().is_some();
        self.operations.push(operation);
        answered
    }

    /// This many puts on a good disk; all must be answered.
    pub async fn put_well(&mut self, client: &Client, count: usize, length: u32) -> anyhow::Result<()> {
        for _ in 0..count {
            anyhow::ensure!(
                self.put(client, length).await,
                "a put on a good disk failed: {:?}",
                self.operations.last()
            );
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Answered requests so far.
    pub fn answered(&self) -> usize {
        self.operations.iter().filter(|operation| operation.answer().is_some()).count()
    }

    /// Judges everything that the running server shows: a line about what is wrong, or `None`.
    pub async fn judge(&self, client: &Client) -> anyhow::Result<Option<String>> {
        let mut ledger = Ledger::new();
        let client = client.clone().with_deadline(OBSERVER_DEADLINE);
        Ok(match observe(&client, &ledger, 0, || self.now()).await {
            Ok(seen) => {
                let violations = ledger.judge(&self.operations, &seen);
                violations
                    .first()
                    .map(|first| format!("{} violations, {} lost: {first}", violations.len(), ledger.totals().lost))
            }
            Err(error) => Some(format!("it cannot be read: {error}")),
        })
    }

    /// Starts it again on what is left and judges; the line says what is wrong.
    pub async fn restart_and_judge(&mut self) -> anyhow::Result<Option<String>> {
        self.kill()?;
        match self.start().await? {
            Ok(client) => self.judge(&client).await,
            Err(error) => Ok(Some(format!("it does not start again: {error}; {}", self.last_words()))),
        }
    }

    /// The last lines of the server's log, in one.
    pub fn last_words(&self) -> String {
        let tail = self.server.as_ref().map(Server::log_tail).unwrap_or_default();
        let lines: Vec<&str> = tail.lines().collect();
        lines[lines.len().saturating_sub(2)..].join(" | ")
    }

    /// The log's files that have content, oldest first, with the length up to the last byte that is not zero.
    pub fn log_files(&self) -> anyhow::Result<Vec<LogFile>> {
        let member = self.data_dir().join("member");
        let dir = ["log", "wal"].map(|name| member.join(name)).into_iter().find(|dir| dir.is_dir());
        let dir = dir.with_context(|| format!("no log below {}", member.display()))?;
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_file() {
                let bytes = std::fs::read(&path)?;
                let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
                files.push(LogFile { path, bytes, used });
            }
        }
        files.retain(|file| file.used > 0);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        anyhow::ensure!(!files.is_empty(), "no log file with content in {}", dir.display());
        Ok(files)
    }
}

/// One file of the server's log.
pub struct LogFile {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    pub used: usize,
}

impl LogFile {
    /// Its name, as a message should have it.
    pub fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Writes its bytes back.
    pub fn write(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(&self.path, &self.bytes)?)
    }
}

/// Whether a text has a number close to this one: a message that names an offset.
pub fn names_offset(text: &str, offset: usize, within: usize) -> bool {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse::<usize>().ok())
        .any(|number| number.abs_diff(offset) <= within)
}

/// The lines of a log that mention a file.
pub fn lines_about(log: &str, name: &str) -> String {
    log.lines().filter(|line| line.contains(name)).collect::<Vec<_>>().join(" | ")
}
