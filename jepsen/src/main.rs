//! The command line. Exit codes: 0 valid, 1 invalid, 2 inconclusive or interrupted.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jepsen::chaosfs::Directories;
use jepsen::doctor;
use jepsen::plan::Plan;
use jepsen::report::Verdict;
use jepsen::run::faults::Situation;
use jepsen::run::{crash, faults};
use jepsen::target::Template;

/// Faults, workloads and checkers for servers of etcd's v3 API.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Power cuts under load: SIGKILL on a file system that forgets what was not synced, then a check of everything
    PowerCut {
        #[command(flatten)]
        crash: CrashArgs,
        /// How many crashes
        #[arg(long, default_value_t = 200)]
        cuts: usize,
        /// What makes a directory entry durable
        #[arg(long, value_enum, default_value = "strict")]
        dirs: Dirs,
        /// The disk answers syncs without writing: every server must come out invalid
        #[arg(long)]
        lying_sync: bool,
    },
    /// kill -9 under load on a real directory, then a check of everything
    Kill {
        #[command(flatten)]
        crash: CrashArgs,
        /// How many crashes
        #[arg(long, default_value_t = 50)]
        kills: usize,
    },
    /// Disk situations, one check each: full, failing, slow, read-only, torn, truncated, flipped, used twice
    Faults {
        #[command(flatten)]
        target: TargetArgs,
        /// Only this one; may be repeated
        #[arg(long, value_parser = situation)]
        only: Vec<Situation>,
        /// The run's directory instead of runs/…
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// What this machine can do, and what stands in where it cannot
    Doctor,
}

#[derive(Args)]
struct TargetArgs {
    /// `kelson`, `etcd`, or the path of a binary with etcd's flags
    #[arg(long, default_value = "kelson")]
    target: String,
    /// One more argument for the server; may be repeated
    #[arg(long = "etcd-args", allow_hyphen_values = true)]
    arguments: Vec<String>,
}

fn situation(name: &str) -> Result<Situation, String> {
    let names = || Situation::ALL.map(Situation::name).join(", ");
    Situation::ALL.into_iter().find(|one| one.name() == name).ok_or_else(|| format!("one of {}", names()))
}

#[derive(Args)]
struct CrashArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Milliseconds of load before a crash, at most; what a server does every few seconds needs more than the default
    #[arg(long, default_value_t = 3000)]
    load_ms_max: u64,
    /// Crashes of the very first start, before the first one under load
    #[arg(long, default_value_t = 3)]
    creation_cuts: usize,
    /// Fixes faults and requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What the clients do
    #[arg(long, value_enum, default_value = "mix")]
    workload: Workload,
    /// Concurrent clients
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Requests per second, all clients together
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Seconds until a started server must answer
    #[arg(long, default_value_t = 30)]
    start_limit: u64,
    /// The run's directory instead of runs/…
    #[arg(long)]
    out: Option<PathBuf>,
    /// Keep the histories of all crashes, not of the last three
    #[arg(long)]
    keep_history: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dirs {
    /// Only a sync of the directory (POSIX)
    Strict,
    /// Any sync (ext4, xfs)
    Journal,
}

#[derive(Clone, Copy, ValueEnum)]
enum Workload {
    /// Sets, registers, compare-and-set, wide transactions, deletes, leases, refused requests, compactions
    Mix,
}

impl CrashArgs {
    fn options(self, crashes: usize, power: Option<Directories>) -> anyhow::Result<crash::Options> {
        let Workload::Mix = self.workload;
        Ok(crash::Options {
            template: Template::new(&self.target.target, self.target.arguments)?,
            plan: Plan::new(self.seed, crashes, self.creation_cuts, self.load_ms_max),
            power,
            lying_sync: false,
            clients: self.clients.max(1),
            rate: self.rate,
            start_limit: Duration::from_secs(self.start_limit),
            out: self.out,
            keep_history: self.keep_history,
        })
    }
}

async fn run(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::PowerCut { crash, cuts, dirs, lying_sync } => {
            let directories = match dirs {
                Dirs::Strict => Directories::Strict,
                Dirs::Journal => Directories::Journal,
            };
            crash::run(crash::Options { lying_sync, ..crash.options(cuts, Some(directories))? }).await
        }
        Command::Kill { crash, kills } => crash::run(crash.options(kills, None)?).await,
        Command::Faults { target, only, out } => {
            let template = Template::new(&target.target, target.arguments)?;
            let situations = if only.is_empty() { Situation::ALL.to_vec() } else { only };
            faults::run(template, &situations, out).await
        }
        Command::Doctor => Ok(doctor::run()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    let mut terminate = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            eprintln!("jepsen: {error}");
            return ExitCode::from(2);
        }
    };
    // Whichever ends first: dropping the run kills its servers and unmounts its file systems.
    let result = tokio::select! {
        result = run(command) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
    };
    match result {
        Ok(verdict) => ExitCode::from(verdict.exit_code()),
        Err(error) => {
            eprintln!("jepsen: {error:#}");
            ExitCode::from(Verdict::Inconclusive.exit_code())
        }
    }
}
