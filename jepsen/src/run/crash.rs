//! Crashes of one member under load: `power-cut` on chaosfs, `kill` on a real directory.
//!
//! Each round: start, read everything and judge it, load, crash. The first violation ends the run; evidence stays in the
//! run's directory.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;

use crate::chaosfs::{ChaosFs, Cut, Directories};
use crate::check::durability::Ledger;
use crate::check::{Kind, Violation};
use crate::client::{Client, Error};
use crate::history::Operation;
use crate::history::op::Op;
use crate::observe::observe;
use crate::plan::{Plan, PlannedCut};
use crate::report::{CutReport, RunDir, Summary, Verdict, command_line};
use crate::rng::Rng;
use crate::target::{NotReady, Server, Template};
use crate::workload::mix::Mix;

/// A request without an answer after this long has an unknown outcome.
const REQUEST_DEADLINE: Duration = Duration::from_secs(3);
/// An observer waits longer: it reads everything.
const OBSERVER_DEADLINE: Duration = Duration::from_secs(30);
/// After an unknown outcome a client waits before it goes on, as its server may be gone.
const AFTER_UNKNOWN: Duration = Duration::from_millis(20);
/// Histories of older epochs are removed unless they are to be kept.
const EPOCHS_KEPT: usize = 3;
/// A run with fewer answered writes per crash proves nothing.
const WRITES_PER_CRASH_MIN: u64 = 5;
/// Violations printed; the verdict file has more.
const VIOLATIONS_SHOWN: usize = 12;
/// Of each, characters printed.
const SHOWN_CHARS: usize = 300;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server.
    pub template: Template,
    /// Faults and requests.
    pub plan: Plan,
    /// Power cuts with these directory rules; `None` = kill -9 on a real directory.
    pub power: Option<Directories>,
    /// The disk answers syncs and does nothing: no server can pass, a harness that says otherwise is broken.
    pub lying_sync: bool,
    /// Concurrent clients.
    pub clients: u32,
    /// Requests per second of all clients together, at most.
    pub rate: u64,
    /// A server that takes longer to answer after a start is broken.
    pub start_limit: Duration,
    /// Where the run's directory goes.
    pub out: Option<PathBuf>,
    /// Keep every epoch's history.
    pub keep_history: bool,
}

/// Where the server's data lies.
enum Medium {
    /// The mount, and below it the directory that goes after it.
    Power(ChaosFs, #[expect(dead_code, reason = "it is there to be dropped")] tempfile::TempDir),
    Real(tempfile::TempDir),
}

impl Medium {
    fn new(power: Option<Directories>) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("jepsen-").tempdir()?;
        let medium = match power {
            Some(directories) => Self::Power(ChaosFs::mount(dir.path(), directories).context("mounting chaosfs")?, dir),
            None => Self::Real(dir),
        };
        // The data directory is there and durable before the server is: that is the operator's work.
        std::fs::create_dir(medium.data_dir())?;
        std::fs::File::open(medium.root())?.sync_all()?;
        Ok(medium)
    }

    fn root(&self) -> &Path {
        match self {
            Self::Power(fs, _) => fs.path(),
            Self::Real(dir) => dir.path(),
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.root().join("data")
    }

    fn power(&self) -> Option<&ChaosFs> {
        match self {
            Self::Power(fs, _) => Some(fs),
            Self::Real(_) => None,
        }
    }

    /// Kills the server, and cuts the power where there is one to cut.
    fn crash(&mut self, server: &mut Server, cut: &PlannedCut, seed: u64) -> anyhow::Result<Cut> {
        server.kill(|| {
            if let Some(fs) = self.power() {
                fs.drop_held_syncs();
            }
        })?;
        match self {
            Self::Power(fs, _) => Ok(fs.power_cut(cut.keep, seed)?),
            Self::Real(_) => Ok(Cut::default()),
        }
    }

    fn export(&self, to: &Path) -> anyhow::Result<()> {
        match self {
            Self::Power(fs, _) => fs.export(to)?,
            Self::Real(dir) => {
                let copied = std::process::Command::new("cp").arg("-a").arg(dir.path()).arg(to).status()?;
                anyhow::ensure!(copied.success(), "copying the data directory: {copied}");
            }
        }
        Ok(())
    }
}

/// One run in progress.
struct Run {
    options: Options,
    dir: RunDir,
    ledger: Ledger,
    mixes: Vec<Mix>,
    ids: Arc<AtomicU64>,
    started: Instant,
    /// The cuts of the first start, summed up.
    creation: CutReport,
    reports: Vec<CutReport>,
    violations: Vec<Violation>,
    compacted: i64,
}

/// Runs a plan to its end or to the first violation. Errors are the harness' own failures.
pub async fn run(options: Options) -> anyhow::Result<Verdict> {
    let name = if options.power.is_some() { "power-cut" } else { "kill" };
    let dir = RunDir::create(options.out.as_deref(), name, options.plan.seed)?;
    dir.write_json("plan.json", &(&options.template, &options.plan))?;
    println!(
        "{name} of {} with seed {}: {}",
        options.template.binary.display(),
        options.plan.seed,
        dir.path().display()
    );
    let mixes = (0..options.clients).map(|process| Mix::new(process, options.plan.client(process))).collect();
    let mut run = Run {
        dir,
        ledger: Ledger::new(),
        mixes,
        ids: Arc::new(AtomicU64::new(1)),
        started: Instant::now(),
        creation: CutReport::default(),
        reports: Vec::new(),
        violations: Vec::new(),
        compacted: 0,
        options,
    };
    let failure = run.rounds().await.err();
    let summary = run.summary(failure.as_ref().map(|error| format!("{error:#}")));
    run.dir.write_json("verdict.json", &summary)?;
    print_summary(&summary, &run.dir);
    Ok(summary.verdict)
}

impl Run {
    async fn rounds(&mut self) -> anyhow::Result<()> {
        let mut medium = Medium::new(self.options.power)?;
        if let Some(fs) = medium.power() {
            fs.faults(|faults| faults.lying_sync = self.options.lying_sync);
        }
        for cut in &self.options.plan.creation_cuts.clone() {
            let lost = self.interrupt_start(&mut medium, cut, cut.seed).await?;
            add(&mut self.creation, lost);
        }
        let mut epoch: Vec<Operation> = Vec::new();
        let cuts = self.options.plan.cuts.clone();
        for number in 0..=cuts.len() {
            let started = Instant::now();
            let mut server = self.options.template.start(&medium.data_dir(), &self.dir.join("server.log"))?;
            let client = match server.ready(self.options.start_limit).await {
                Ok(client) => client,
                Err(error) => {
                    self.ledger.count(&epoch);
                    self.keep_history(number, &epoch)?;
                    return self.not_ready(&medium, &server, &error);
                }
            };
            let start_ms = millis(started);
            self.judge(&client, &mut server, &epoch, start_ms).await?;
            self.keep_history(number, &epoch)?;
            if !self.violations.is_empty() {
                self.keep_evidence(&medium)?;
                return Ok(());
            }
            let Some(cut) = cuts.get(number) else { break };
            let died;
            (epoch, died) = self.load(&mut server, medium.power(), cut).await?;
            if let Some(status) = died {
                let text = format!("it ended by itself under load ({status}): {}", server.log_tail());
                self.violations.push(Violation::new(Kind::Died, text));
                self.keep_history(number + 1, &epoch)?;
                self.keep_evidence(&medium)?;
                return Ok(());
            }
            self.crash(&mut medium, server, number, cut, &epoch).await?;
        }
        Ok(())
    }

    fn not_ready(&mut self, medium: &Medium, server: &Server, error: &NotReady) -> anyhow::Result<()> {
        let log = server.log_tail();
        if log.to_lowercase().contains("address already in use") {
            anyhow::bail!("somebody else took port {}", self.options.template.port);
        }
        self.violations.push(Violation::new(Kind::Unbootable, format!("{error}; its log ends with: {log}")));
        self.keep_evidence(medium)
    }

    /// Reads everything from the quiet server and judges the epoch before the crash.
    async fn judge(
        &mut self,
        client: &Client,
        server: &mut Server,
        epoch: &[Operation],
        start_ms: u64,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        let compacted = epoch.iter().filter(|operation| operation.answer().is_some()).filter_map(compaction).max();
        self.compacted = self.compacted.max(compacted.unwrap_or(0));
        let client = client.clone().with_deadline(OBSERVER_DEADLINE);
        let epoch_started = self.started;
        let clock = move || epoch_started.elapsed().as_nanos() as u64;
        match observe(&client, &self.ledger, self.compacted, clock).await {
            Ok(seen) => {
                self.violations = self.ledger.judge(epoch, &seen);
                if !self.violations.is_empty() {
                    self.dir.write_json("state.json", &seen.state)?;
                    self.dir.write_lines("events.jsonl", &seen.events)?;
                }
            }
            Err(error) => {
                // A server that starts and then cannot be read has lost what it held.
                let kind = if server.ended()?.is_some() { Kind::Died } else { Kind::StateDiffers };
                let text =
                    format!("reading everything after the restart: {error}; its log ends with: {}", server.log_tail());
                self.violations.push(Violation::new(kind, text));
            }
        }
        self.mixes.iter_mut().for_each(Mix::verified);
        if let Some(report) = self.reports.last_mut() {
            report.start_ms = start_ms;
            report.check_ms = millis(started);
            report.head = self.ledger.head();
            let line = progress(report, self.options.plan.cuts.len(), &self.ledger, self.violations.len());
            println!("{line}");
        }
        Ok(())
    }

    /// Lets all clients work, then kills the server; returns what they did, and how the server had ended by itself.
    async fn load(
        &mut self,
        server: &mut Server,
        fs: Option<&ChaosFs>,
        cut: &PlannedCut,
    ) -> anyhow::Result<(Vec<Operation>, Option<ExitStatus>)> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        let interval = Duration::from_nanos(1_000_000_000 * u64::from(self.options.clients) / self.options.rate.max(1));
        for mix in std::mem::take(&mut self.mixes) {
            let driver = Driver {
                client: connect(server, REQUEST_DEADLINE).await?,
                ids: self.ids.clone(),
                stop: stop.clone(),
                run_started: self.started,
                compactable: self.ledger.head(),
                interval,
            };
            clients.spawn(driver.drive(mix));
        }
        tokio::time::sleep(Duration::from_millis(cut.load_ms)).await;
        if let Some(fs) = fs.filter(|_| cut.hold_ms > 0) {
            fs.hold_syncs();
            tokio::time::sleep(Duration::from_millis(cut.hold_ms)).await;
        }
        let ended = server.ended()?;
        if ended.is_none() {
            server.kill(|| {
                if let Some(fs) = fs {
                    fs.drop_held_syncs();
                }
            })?;
        }
        stop.store(true, Ordering::Relaxed);
        let mut operations = Vec::new();
        while let Some(done) = clients.join_next().await {
            let (mix, did) = done.context("a client panicked")?;
            self.mixes.push(mix);
            operations.extend(did);
        }
        self.mixes.sort_by_key(Mix::process);
        operations.sort_by_key(|operation| operation.id);
        Ok((operations, ended))
    }

    /// Cuts the power (the process is dead already), and once more during the next start if the plan says so.
    async fn crash(
        &mut self,
        medium: &mut Medium,
        mut server: Server,
        number: usize,
        cut: &PlannedCut,
        epoch: &[Operation],
    ) -> anyhow::Result<()> {
        let mut report = CutReport {
            number: number + 1,
            load_ms: cut.load_ms,
            hold_ms: cut.hold_ms,
            keep: self.options.power.map(|_| cut.keep),
            acknowledged: epoch.iter().filter(|operation| operation.answer().is_some()).count() as u64,
            unknown: epoch.iter().filter(|operation| operation.is_unknown()).count() as u64,
            ..CutReport::default()
        };
        add(&mut report, medium.crash(&mut server, cut, cut.seed)?);
        drop(server);
        if cut.interrupt_start_ms.is_some() {
            add(&mut report, self.interrupt_start(medium, cut, Rng::new(cut.seed).bits()).await?);
        }
        self.reports.push(report);
        Ok(())
    }

    /// Starts the server and crashes it on its way up.
    async fn interrupt_start(&self, medium: &mut Medium, cut: &PlannedCut, seed: u64) -> anyhow::Result<Cut> {
        let mut server = self.options.template.start(&medium.data_dir(), &self.dir.join("server.log"))?;
        tokio::time::sleep(Duration::from_millis(cut.interrupt_start_ms.unwrap_or(0))).await;
        medium.crash(&mut server, cut, seed)
    }

    fn keep_history(&self, epoch: usize, operations: &[Operation]) -> anyhow::Result<()> {
        let lines: Vec<Op> = operations.iter().map(Op::from).collect();
        self.dir.write_lines(&history_name(epoch), &lines)?;
        if !self.options.keep_history && epoch >= EPOCHS_KEPT {
            self.dir.remove(&history_name(epoch - EPOCHS_KEPT))?;
        }
        Ok(())
    }

    fn keep_evidence(&self, medium: &Medium) -> anyhow::Result<()> {
        self.dir.write_json("violations.json", &self.violations)?;
        medium.export(&self.dir.join("disk"))
    }

    fn summary(&self, failure: Option<String>) -> Summary {
        let sum = |of: fn(&CutReport) -> u64| self.reports.iter().chain([&self.creation]).map(of).sum::<u64>();
        let totals = self.ledger.totals();
        let pages_lost = sum(|report| report.pages_lost);
        let (verdict, reason) = match &failure {
            _ if !self.violations.is_empty() => (Verdict::Invalid, self.violations[0].to_string()),
            Some(failure) => (Verdict::Inconclusive, format!("the harness failed: {failure}")),
            None if self.options.power.is_some() && pages_lost == 0 => {
                (Verdict::Inconclusive, "no power cut lost a page".into())
            }
            None if totals.writes_acknowledged < WRITES_PER_CRASH_MIN * self.reports.len() as u64 => {
                (Verdict::Inconclusive, format!("only {} writes were answered", totals.writes_acknowledged))
            }
            None => (Verdict::Valid, String::new()),
        };
        Summary {
            verdict,
            reason,
            command: command_line(),
            seed: self.options.plan.seed,
            binary: self.options.template.binary.clone(),
            crashes_planned: self.options.plan.cuts.len(),
            crashes: self.reports.len(),
            power_cuts: if self.options.power.is_some() { sum(|report| u64::from(report.cuts)) } else { 0 },
            cuts_with_loss: sum(|report| u64::from(report.pages_lost > 0)),
            pages_dirty: sum(|report| report.pages_dirty),
            pages_lost,
            pages_torn: sum(|report| report.pages_torn),
            entries_lost: sum(|report| report.entries_lost),
            start_ms_max: self.reports.iter().map(|report| report.start_ms).max().unwrap_or(0),
            totals,
            violations: self.violations.clone(),
            took_seconds: self.started.elapsed().as_secs(),
        }
    }
}

/// One client at work.
struct Driver {
    client: Client,
    ids: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    run_started: Instant,
    compactable: i64,
    interval: Duration,
}

impl Driver {
    async fn drive(self, mut mix: Mix) -> (Mix, Vec<Operation>) {
        let mut operations = Vec::new();
        let mut next = tokio::time::Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let id = self.ids.fetch_add(1, Ordering::Relaxed);
            let action = mix.next(id, self.compactable);
            let start = self.run_started.elapsed().as_nanos() as u64;
            let outcome = self.client.perform(&action).await;
            let end = self.run_started.elapsed().as_nanos() as u64;
            let operation = Operation { id, process: mix.process(), start, end, action, outcome };
            mix.learn(&operation);
            let unknown = operation.is_unknown();
            operations.push(operation);
            if unknown {
                tokio::time::sleep(AFTER_UNKNOWN).await;
            }
            next = (next + self.interval).max(tokio::time::Instant::now() - self.interval);
            tokio::time::sleep_until(next).await;
        }
        (mix, operations)
    }
}

async fn connect(server: &Server, deadline: Duration) -> Result<Client, Error> {
    server.connect(deadline).await
}

fn compaction(operation: &Operation) -> Option<i64> {
    match operation.action {
        crate::history::Action::Compact { revision } => Some(revision),
        _ => None,
    }
}

fn add(report: &mut CutReport, cut: Cut) {
    report.cuts += 1;
    report.pages_dirty += cut.pages_dirty;
    report.pages_lost += cut.pages_lost;
    report.pages_torn += cut.pages_torn;
    report.entries_lost += cut.entries_lost;
}

fn history_name(epoch: usize) -> String {
    format!("history-{epoch:05}.jsonl")
}

fn millis(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}

fn progress(report: &CutReport, planned: usize, ledger: &Ledger, violations: usize) -> String {
    let totals = ledger.totals();
    let disk = report.keep.map_or(String::new(), |keep| {
        format!(
            " keep {keep:<3} hold {:>2} ms, pages dirty {} lost {} torn {}, entries lost {},",
            report.hold_ms, report.pages_dirty, report.pages_lost, report.pages_torn, report.entries_lost
        )
    });
    format!(
        "{:>4}/{planned}: load {:>4} ms,{disk} acked {} ({} so far), unknown {}, head {}, start {} ms, check {} ms, lost {}{}",
        report.number,
        report.load_ms,
        report.acknowledged,
        totals.acknowledged,
        report.unknown,
        report.head,
        report.start_ms,
        report.check_ms,
        totals.lost,
        if violations > 0 { format!(", VIOLATIONS {violations}") } else { String::new() }
    )
}

fn print_summary(summary: &Summary, dir: &RunDir) {
    for violation in summary.violations.iter().take(VIOLATIONS_SHOWN) {
        println!("  {}", shorten(&violation.to_string()));
    }
    println!(
        "{:?}: {} crashes ({} power cuts), {} of {} unsynced pages lost, {} writes answered, {} unknown ({} happened), \
         {} changes checked, {} hashes compared, {} lost, {} s{}",
        summary.verdict,
        summary.crashes,
        summary.power_cuts,
        summary.pages_lost,
        summary.pages_dirty,
        summary.totals.writes_acknowledged,
        summary.totals.unknown,
        summary.totals.unknown_applied,
        summary.totals.events_checked,
        summary.totals.hashes_compared,
        summary.totals.lost,
        summary.took_seconds,
        if summary.reason.is_empty() { String::new() } else { format!("; {}", shorten(&summary.reason)) }
    );
    println!("{}", dir.join("verdict.json").display());
}

/// One line for the terminal; the verdict file has all of it.
fn shorten(text: &str) -> String {
    let line: String = text.chars().map(|c| if c == '\n' { ' ' } else { c }).take(SHOWN_CHARS).collect();
    if line.len() < text.len() { format!("{line} …") } else { line }
}
