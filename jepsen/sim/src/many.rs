//! Many seeds, each in a process of its own: what a process has drawn at random once moves on and is never the same again.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;
use serde::Serialize;

use crate::run::Outcome;

/// How often a line tells how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seeds.
    pub seeds: Range<u64>,
    /// Processes at a time.
    pub jobs: usize,
    /// Each seed twice, to compare.
    pub twice: bool,
    /// What each process is given besides its seed.
    pub arguments: Vec<String>,
}

/// A seed that failed.
#[derive(Clone, Debug, Serialize)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// What is wrong.
    pub failures: Vec<String>,
    /// How to see it again.
    pub command: String,
}

/// What all of them came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The first seed and the one behind the last.
    pub seeds: (u64, u64),
    /// Runs that came to an end.
    pub runs: u64,
    /// Runs that were made twice and had the same trace.
    pub repeated: u64,
    /// Simulated time.
    pub simulated_seconds: f64,
    /// CPU time of all runs.
    pub cpu_seconds: f64,
    /// Real time.
    pub wall_seconds: f64,
    /// Events traced.
    pub events: u64,
    /// Operations of clients.
    pub operations: u64,
    /// Those that were answered.
    pub answered: u64,
    /// Those without an outcome.
    pub unknown: u64,
    /// Log entries applied.
    pub entries: u64,
    /// Terms with a leader.
    pub terms: u64,
    /// Snapshots installed by laggards.
    pub installs: u64,
    /// Messages on watches.
    pub messages: u64,
    /// Processes that ended in the middle.
    pub crashes: u64,
    /// Requests between members that were handled a second time.
    pub copies: u64,
    /// The longest time from the mending until everything worked.
    pub recovery_seconds_max: f64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Seeds that failed.
    pub failed: Vec<Failed>,
    /// Seeds that prove nothing.
    pub inconclusive: Vec<u64>,
}

impl Summary {
    fn add(&mut self, outcome: &Outcome, command: String) {
        self.runs += 1;
        self.simulated_seconds += outcome.simulated_seconds;
        self.events += outcome.events;
        self.operations += outcome.operations;
        self.answered += outcome.answered;
        self.unknown += outcome.unknown;
        self.entries += outcome.entries;
        self.terms += outcome.terms;
        self.installs += outcome.installs;
        self.messages += outcome.messages;
        self.crashes += outcome.crashes;
        self.copies += outcome.copies;
        self.recovery_seconds_max = self.recovery_seconds_max.max(outcome.recovery_seconds);
        for (kind, count) in &outcome.faults {
            *self.faults.entry(kind.clone()).or_default() += count;
        }
        if !outcome.failures.is_empty() {
            self.failed.push(Failed { seed: outcome.seed, failures: outcome.failures.clone(), command });
        } else if !outcome.inconclusive.is_empty() {
            self.inconclusive.push(outcome.seed);
        }
    }

    /// All of it in a line.
    pub fn line(&self) -> String {
        let faults: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        format!(
            "{} runs, {} of them twice, {} failed, {} inconclusive; {:.0} simulated s, {:.2} CPU s a run; {} operations, {} \
             answered; {} crashes, {} installs, {} copies; faults: {}",
            self.runs,
            self.repeated,
            self.failed.len(),
            self.inconclusive.len(),
            self.simulated_seconds,
            self.cpu_seconds / (self.runs + self.repeated).max(1) as f64,
            self.operations,
            self.answered,
            self.crashes,
            self.installs,
            self.copies,
            faults.join(", ")
        )
    }

    /// 0 valid, 1 something failed, 2 some prove nothing.
    pub fn exit_code(&self) -> u8 {
        match (self.failed.is_empty(), self.inconclusive.len() as u64 * 20 > self.runs) {
            (false, _) => 1,
            (true, true) => 2,
            (true, false) => 0,
        }
    }
}

/// Runs them all.
///
/// # Errors
/// A process cannot be started or says what no run says.
pub fn run(options: &Options) -> anyhow::Result<Summary> {
    let began = Instant::now();
    let seeds = (options.seeds.start, options.seeds.end);
    let next = Mutex::new(options.seeds.clone());
    let summary = Mutex::new(Summary { seeds, ..Summary::default() });
    let told = Mutex::new(began);
    let errors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let Some(seed) = next.lock().next() else { return };
                    if let Err(error) = one(options, seed, &summary) {
                        errors.lock().push(format!("seed {seed}: {error:#}"));
                        return;
                    }
                    let mut told = told.lock();
                    if told.elapsed() >= PROGRESS_INTERVAL {
                        *told = Instant::now();
                        let summary = summary.lock();
                        // Nobody need read it.
                        drop(writeln!(
                            std::io::stderr(),
                            "{} of {} runs, {} failed",
                            summary.runs,
                            options.seeds.end - options.seeds.start,
                            summary.failed.len()
                        ));
                    }
                }
            });
        }
    });
    let errors = errors.into_inner();
    anyhow::ensure!(errors.is_empty(), "{}", errors.join("; "));
    let mut summary = summary.into_inner();
    summary.failed.sort_by_key(|failed| failed.seed);
    summary.inconclusive.sort_unstable();
    summary.wall_seconds = began.elapsed().as_secs_f64();
    summary.cpu_seconds = cpu_of_children();
    Ok(summary)
}

fn one(options: &Options, seed: u64, summary: &Mutex<Summary>) -> anyhow::Result<()> {
    let command = format!("sim --seed {seed} {}", options.arguments.join(" ")).trim_end().to_owned();
    let mut outcome = once(options, seed)?;
    if options.twice {
        let again = once(options, seed)?;
        if again.trace_hash == outcome.trace_hash {
            summary.lock().repeated += 1;
        } else {
            let what = format!("not the same again: {} and {}", outcome.trace_hash, again.trace_hash);
            outcome.failures.push(what);
        }
    }
    if !outcome.failures.is_empty() {
        println!("seed {seed} failed: {}\n  {command}", outcome.failures.join("; "));
    }
    summary.lock().add(&outcome, command);
    Ok(())
}

fn once(options: &Options, seed: u64) -> anyhow::Result<Outcome> {
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    command.arg(format!("--seed={seed}")).arg("--json").args(&options.arguments);
    let output = command.output().context("cannot start a run")?;
    match serde_json::from_slice(&output.stdout) {
        Ok(outcome) => Ok(outcome),
        Err(_) => {
            let last = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
            let failures = vec![format!("the process ended with {}: {last}", output.status)];
            Ok(Outcome { seed, failures, ..Outcome::default() })
        }
    }
}

/// CPU time of all processes that were waited for, seconds.
fn cpu_of_children() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the call fills the place it is given, or fails and it is not read.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) != 0 {
            return 0.0;
        }
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
