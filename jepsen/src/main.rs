//! The command line. Exit codes: 0 valid, 1 invalid, 2 inconclusive or interrupted.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use jepsen::chaosfs::Directories;
use jepsen::cluster::space;
use jepsen::doctor;
use jepsen::export;
use jepsen::history::files::History;
use jepsen::nemesis::schedule::{self, Kind as Nemesis, Schedule};
use jepsen::plan::Plan;
use jepsen::report::{RunDir, Verdict, campaign, overview};
use jepsen::run::faults::Situation;
use jepsen::run::{chaos, crash, endurance, faults, load, prove, shrink, suite};
use jepsen::target::Template;
use jepsen::tls::Credentials;
use jepsen::workload::Kind;

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
    /// One workload against a healthy server or cluster, and a check of everything it showed
    Run {
        #[command(flatten)]
        run: RunArgs,
    },
    /// Many runs on clusters with faults: `smoke` (under ten minutes), `nightly` (two hours) or `endurance` (as long as told)
    #[command(after_help = SUITE_EXAMPLES)]
    Suite {
        /// Which list
        #[arg(value_enum)]
        suite: SuiteName,
        #[command(flatten)]
        target: TargetArgs,
        /// The binary to start instead of the target's usual one
        #[arg(long)]
        binary: Option<PathBuf>,
        /// All members speak TLS, and demand certificates of clients and of each other
        #[arg(long)]
        tls: bool,
        /// Added to the seeds of all runs
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// What makes a directory entry durable, where members live on chaosfs
        #[arg(long, value_enum, default_value = "strict")]
        dirs: Dirs,
        /// The directory of all runs instead of runs/…
        #[arg(long)]
        out: Option<PathBuf>,
        /// How long each run loads, instead of what the list says
        #[arg(long, value_parser = duration)]
        each: Option<Duration>,
        #[command(flatten)]
        endurance: EnduranceArgs,
    },
    /// Adds up stored runs, of any number of directories: totals, workload by fault, service, targets side by side
    #[command(after_help = REPORT_EXAMPLES)]
    Report {
        /// Runs, or directories with runs below them
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
        /// Prints JSON instead of text
        #[arg(long)]
        json: bool,
        /// Writes a page to this file
        #[arg(long)]
        html: Option<PathBuf>,
    },
    /// Shows that the harness bites: targets with a known bug are found, good ones are valid under the same plans
    #[command(after_help = PROVE_EXAMPLES)]
    Prove {
        /// Only cases whose names begin so
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// kelson with bugs to plant: cargo build --features mutants --target-dir target/mutants
        #[arg(long)]
        binary: Option<PathBuf>,
        /// etcd 3.7.3, for the good cases of etcd and for reads and syncs that it is told to get wrong
        #[arg(long)]
        etcd: Option<PathBuf>,
        /// etcd 3.5.0
        #[arg(long = "etcd-3-5-0")]
        etcd_3_5_0: Option<PathBuf>,
        /// etcd 3.5.1
        #[arg(long = "etcd-3-5-1")]
        etcd_3_5_1: Option<PathBuf>,
        /// Only the good targets
        #[arg(long, conflicts_with = "bad")]
        good: bool,
        /// Only the bad targets
        #[arg(long)]
        bad: bool,
        /// The directory of all runs instead of runs/…
        #[arg(long)]
        out: Option<PathBuf>,
        /// Print the cases and end
        #[arg(long)]
        list: bool,
    },
    /// Runs a stored run's plan again, several times, and says how often it ends alike
    Replay {
        /// The run's directory
        dir: PathBuf,
        /// How often
        #[arg(long, default_value_t = 5)]
        times: usize,
    },
    /// Makes an invalid run smaller while it still fails: time, faults, clients, keys, rate
    #[command(after_help = SHRINK_EXAMPLES)]
    Shrink {
        /// The run's directory
        dir: PathBuf,
        /// Tries of each candidate; it fails when one of them does
        #[arg(long, default_value_t = 3)]
        tries: u32,
        /// After this no new candidate is tried
        #[arg(long, value_parser = duration, default_value = "1h")]
        budget: Duration,
        /// Where the smallest run goes, instead of DIR-shrunk
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Judges a stored run again with the checkers of today, and writes its page again
    Check {
        /// The run's directory
        dir: PathBuf,
    },
    /// Writes a stored run for other checkers
    Export {
        /// The run's directory
        dir: PathBuf,
        /// `history.edn`, for Elle and Knossos
        #[arg(long)]
        edn: bool,
        /// `porcupine.jsonl`, for the program in jepsen/porcupine
        #[arg(long)]
        porcupine: bool,
    },
    /// Simulates histories and prints how fast each checker judges them
    BenchCheckers {
        /// Operations of the largest history
        #[arg(long, default_value_t = 1_000_000)]
        ops: usize,
    },
    /// What this machine can do, and what stands in where it cannot
    Doctor,
}

const PROVE_EXAMPLES: &str = "\
Examples:
  jepsen prove                                          Every mutant, and the same build with none
  jepsen prove --only no-log-sync,vote                  Some of them
  jepsen prove --bad --etcd PATH --etcd-3-5-0 PATH --etcd-3-5-1 PATH
  jepsen prove --good --etcd ~/.cache/kelson-peers/etcd
  jepsen prove --list

Exit code: 0 when every bad target was found and every good one is valid, else 1; 2 when the harness failed.";

const REPORT_EXAMPLES: &str = "Examples:
  jepsen report runs/endurance-1
  jepsen report runs/endurance-1 runs/endurance-2 --html report.html
  jepsen report runs/kelson runs/etcd --json    # side by side, where both ran the same plans";

const SUITE_EXAMPLES: &str = "Examples:
  jepsen suite smoke --binary target/debug/kelson --each 20s
  jepsen suite nightly --target etcd --dirs journal
  jepsen suite endurance --time 90m --members 3,5 --seed 7 --out runs/endurance-7
  jepsen suite endurance --time 8h --out runs/endurance-7      # goes on behind what is there

Exit code: 0 valid, 1 when a run is invalid, 2 when a run proves nothing or the list's criteria are not met.";

const SHRINK_EXAMPLES: &str = "Examples:
  jepsen shrink runs/endurance-1/0042-register-3
  jepsen shrink DIR --tries 5 --budget 20m --out runs/small
  jepsen replay runs/small --times 10            # how often the smallest plan fails

Exit code: 0 when it failed again and was shrunk, 2 when it never failed again.";

/// What only `suite endurance` takes.
#[derive(Args)]
struct EnduranceArgs {
    /// endurance: until when new runs are begun, such as 90m
    #[arg(long, value_parser = duration)]
    time: Option<Duration>,
    /// endurance: sizes of clusters, in turn
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=7), default_values_t = [3, 5])]
    members: Vec<u32>,
    /// endurance: concurrent clients of a run
    #[arg(long, default_value_t = 16)]
    clients: u32,
    /// endurance: requests per second, all clients together
    #[arg(long, default_value_t = 1200)]
    rate: u64,
}

#[derive(Args)]
struct RunArgs {
    /// Which one, or `all`
    #[arg(long, default_value = "all")]
    workload: String,
    /// How long clients work, such as 20s or 2m
    #[arg(long, value_parser = duration, default_value = "20s")]
    time: Duration,
    /// Members that run already, such as 127.0.0.1:2379; their store must be empty
    #[arg(long, value_delimiter = ',')]
    endpoints: Vec<String>,
    /// Endpoints with TLS: the certificate of their authority, PEM
    #[arg(long, requires = "endpoints")]
    cacert: Option<PathBuf>,
    /// Endpoints that demand one: the clients' certificate, PEM
    #[arg(long, requires_all = ["cacert", "key"])]
    cert: Option<PathBuf>,
    /// The key to that
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// Start this: `kelson`, `etcd`, or the path of a binary with etcd's flags
    #[arg(long, default_value = "kelson")]
    target: String,
    /// The binary to start instead of the target's usual one
    #[arg(long)]
    binary: Option<PathBuf>,
    /// One more argument for the server; may be repeated
    #[arg(long = "etcd-args", allow_hyphen_values = true)]
    arguments: Vec<String>,
    /// Members of a cluster that is started in namespaces of its own
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=7))]
    members: Option<u32>,
    /// These members speak TLS, and demand certificates of clients and of each other; all are made for the run
    #[arg(long, requires = "members")]
    tls: bool,
    /// What is broken meanwhile: kinds, `all`, or `swarm` for a part of all that the seed chooses
    #[arg(long, value_delimiter = ',')]
    nemesis: Vec<String>,
    /// What makes a directory entry durable, where members live on chaosfs
    #[arg(long, value_enum, default_value = "strict")]
    dirs: Dirs,
    /// Fixes the requests and the faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Concurrent clients
    #[arg(long, default_value_t = 10)]
    clients: u32,
    /// Requests per second, all clients together
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// Watches, where the workload has some
    #[arg(long, default_value_t = 50)]
    readers: usize,
    /// Milliseconds after which a client gives a request up
    #[arg(long, default_value_t = load::DEADLINE.as_millis() as u64)]
    deadline_ms: u64,
    /// Send reads as serializable ones and judge them as linearizable: everybody must come out invalid
    #[arg(long)]
    serializable_reads: bool,
    /// A variable for the server, NAME=VALUE; may be repeated
    #[arg(long, value_parser = variable)]
    env: Vec<(String, String)>,
    /// Keys that a client uses at one time, at most; register, append and wr only
    #[arg(long)]
    keys: Option<u64>,
    /// A run's schedule.json: these faults, instead of those that the seed chooses
    #[arg(long)]
    schedule: Option<PathBuf>,
    /// The run's directory instead of runs/…; with several workloads, one below it for each
    #[arg(long)]
    out: Option<PathBuf>,
}

impl RunArgs {
    fn template(&self) -> std::io::Result<Template> {
        let target = self.binary.as_ref().map_or(self.target.clone(), |binary| binary.display().to_string());
        let template = Template::new(&target, self.arguments.clone())?;
        Ok(Template { environment: self.env.clone(), tls: self.tls, ..template })
    }

    fn credentials(&self) -> anyhow::Result<Option<Credentials>> {
        let identity = self.cert.as_deref().zip(self.key.as_deref());
        self.cacert.as_ref().map(|ca| Credentials::read(ca, identity)).transpose()
    }

    /// With TLS where there is an authority to believe, unless it says otherwise.
    fn endpoints(&self) -> anyhow::Result<Vec<String>> {
        let scheme = if self.cacert.is_some() { "https" } else { "http" };
        let url = |endpoint: &String| match endpoint.contains("://") {
            true => endpoint.clone(),
            false => format!("{scheme}://{endpoint}"),
        };
        let all: Vec<String> = self.endpoints.iter().map(url).collect();
        let secured = all.iter().any(|endpoint| endpoint.starts_with("https://"));
        anyhow::ensure!(!secured || self.cacert.is_some(), "endpoints with https:// need --cacert");
        Ok(all)
    }

    fn schedule(&self) -> anyhow::Result<Option<Schedule>> {
        let read = |path: &PathBuf| {
            let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
            serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
        };
        self.schedule.as_ref().map(read).transpose()
    }
}

/// The arguments of a stored run, with the schedule that it had.
fn stored(dir: &std::path::Path) -> anyhow::Result<RunArgs> {
    let plan = History::read_plan(dir)?;
    anyhow::ensure!(!plan.arguments.is_empty(), "{}: it does not say how it was run", dir.display());
    let words = std::iter::once("jepsen".to_owned()).chain(plan.arguments);
    let Command::Run { run: mut args } = Cli::try_parse_from(words)?.command else {
        anyhow::bail!("{}: not a run of `jepsen run`", dir.display());
    };
    args.schedule = Some(dir.join(chaos::SCHEDULE)).filter(|path| path.exists());
    Ok(args)
}

async fn shrink_run(
    dir: &std::path::Path,
    tries: u32,
    budget: Duration,
    out: Option<PathBuf>,
) -> anyhow::Result<Verdict> {
    let (args, checkers) = (stored(dir)?, shrink::checkers(dir)?);
    move_into_namespace()?;
    let members = args.members.ok_or_else(|| anyhow::anyhow!("{}: no cluster of ours", dir.display()))?;
    let entry = suite::Entry {
        workload: workload(&args.workload).map_err(anyhow::Error::msg)?,
        members,
        kinds: nemeses(&args.nemesis, args.seed)?,
        time: args.time,
        seed: args.seed,
        clients: args.clients,
        rate: args.rate,
        readers: args.readers,
        keys: args.keys,
        schedule: Some(args.schedule()?.ok_or_else(|| anyhow::anyhow!("{}: no schedule.json", dir.display()))?),
    };
    let out =
        out.unwrap_or_else(|| PathBuf::from(format!("{}-shrunk", dir.display().to_string().trim_end_matches('/'))));
    let (template, directories) = (args.template()?, args.dirs.rules());
    shrink::run(shrink::Options { template, directories, entry, checkers, tries, budget, out }).await
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Starts this program again in a network namespace of its own, unless it is in one, or this machine has none: then
/// proxies on 127.0.0.0/8 stand in.
fn move_into_namespace() -> anyhow::Result<()> {
    let possible = doctor::namespaces();
    if let Err(why) = &possible {
        eprintln!("jepsen: {why}; proxies on 127.0.0.0/8 instead of namespaces");
    }
    if !space::moved() && possible.is_ok() {
        // Returns only when it fails.
        space::enter().map_err(|error| anyhow::anyhow!("no network namespace: {error}"))?;
    }
    Ok(())
}

/// The kinds of faults, of these, that this machine cannot have, and why.
fn impossible(kinds: &[Nemesis]) -> Vec<(Nemesis, String)> {
    let chaosfs = if kinds.iter().any(|kind| kind.needs_chaosfs()) { doctor::chaosfs() } else { Ok(()) };
    let lacks = |kind: Nemesis| match kind {
        Nemesis::Clock => doctor::faketime().err(),
        kind if kind.needs_chaosfs() => chaosfs.clone().err(),
        _ => None,
    };
    kinds.iter().filter_map(|kind| lacks(*kind).map(|why| (*kind, why))).collect()
}

/// The kinds of faults that this machine can have; says which ones it cannot.
fn possible() -> Vec<Nemesis> {
    let lacking = impossible(&Nemesis::ALL);
    for (kind, why) in &lacking {
        eprintln!("jepsen: {} is left out: {why} (see `jepsen doctor`)", kind.name());
    }
    Nemesis::ALL.into_iter().filter(|kind| lacking.iter().all(|(lacks, _)| lacks != kind)).collect()
}

/// Runs the same plan again, into directories beside the stored one.
async fn replay(dir: &std::path::Path, times: usize) -> anyhow::Result<Verdict> {
    stored(dir)?;
    move_into_namespace()?;
    let mut verdicts = Vec::new();
    for time in 1..=times {
        let mut args = stored(dir)?;
        args.out = Some(PathBuf::from(format!("{}-replay-{time}", dir.display().to_string().trim_end_matches('/'))));
        verdicts.push(run_workloads(args).await?);
    }
    let count = |verdict| verdicts.iter().filter(|one| **one == verdict).count();
    let (valid, invalid) = (count(Verdict::Valid), count(Verdict::Invalid));
    println!("{times} times: {valid} valid, {invalid} invalid, {} inconclusive", times - valid - invalid);
    Ok(verdicts.into_iter().fold(Verdict::Valid, Verdict::worse))
}

/// Kinds of faults by name.
fn nemeses(names: &[String], seed: u64) -> anyhow::Result<Vec<Nemesis>> {
    match names {
        [one] if one == "all" => Ok(possible()),
        [one] if one == "swarm" => Ok(schedule::swarm(&possible(), seed)),
        names => {
            let known = || Nemesis::ALL.map(Nemesis::name).join(", ");
            let of = |name: &String| {
                Nemesis::of(name).ok_or_else(|| anyhow::anyhow!("{name}: one of all, swarm, {}", known()))
            };
            let kinds = names.iter().map(of).collect::<anyhow::Result<Vec<_>>>()?;
            // Asked for by name, it is not left out silently.
            if let Some((kind, why)) = impossible(&kinds).first() {
                anyhow::bail!("{} cannot be had here: {why} (see `jepsen doctor`)", kind.name());
            }
            Ok(kinds)
        }
    }
}

fn workload(name: &str) -> Result<Kind, String> {
    let names = || Kind::ALL.map(Kind::name).join(", ");
    Kind::of(name).ok_or_else(|| format!("one of all, {}", names()))
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| "a number and s, m or h".to_owned())?;
    match unit {
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(60 * number)),
        "h" => Ok(Duration::from_secs(3600 * number)),
        _ => Err("a number and s, m or h".into()),
    }
}

/// Seconds until a started server must answer.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Each workload on a server of its own, or all on the endpoints, whose store must be empty: then only one.
async fn run_workloads(args: RunArgs) -> anyhow::Result<Verdict> {
    let kinds = match args.workload.as_str() {
        "all" => Kind::ALL.to_vec(),
        name => vec![workload(name).map_err(anyhow::Error::msg)?],
    };
    anyhow::ensure!(args.endpoints.is_empty() || kinds.len() == 1, "endpoints take one workload");
    anyhow::ensure!(args.nemesis.is_empty() || args.members.is_some(), "faults need a cluster of ours: --members");
    if args.members.is_some() {
        move_into_namespace()?;
    }
    let mut worst = Verdict::Valid;
    for kind in &kinds {
        let several = kinds.len() > 1;
        let out = args.out.as_ref().map(|out| if several { out.join(kind.name()) } else { out.clone() });
        let mut options = load::Options {
            kind: *kind,
            endpoints: args.endpoints()?,
            credentials: args.credentials()?,
            target: args.endpoints.join(","),
            version: String::new(),
            sha256: String::new(),
            seed: args.seed,
            time: args.time,
            clients: args.clients,
            rate: args.rate,
            readers: args.readers,
            deadline: Duration::from_millis(args.deadline_ms),
            serializable: args.serializable_reads,
            keys: args.keys,
            nemeses: Vec::new(),
            kinds: Vec::new(),
            arguments: std::env::args().skip(1).collect(),
            out,
        };
        let verdict = if let Some(members) = args.members {
            let template = args.template()?;
            let (kinds, directories) = (nemeses(&args.nemesis, args.seed)?, args.dirs.rules());
            let schedule = args.schedule()?;
            chaos::run(chaos::Options { template, members, kinds, schedule, directories, load: options }).await?
        } else if args.endpoints.is_empty() {
            let template = args.template()?;
            let data = tempfile::Builder::new().prefix("jepsen-").tempdir()?;
            let log = data.path().join("server.log");
            let mut server = template.start(&data.path().join("data"), &log)?;
            server.ready(START_LIMIT).await.map_err(|error| anyhow::anyhow!("{error}: {}", server.log_tail()))?;
            options.endpoints = vec![template.url()];
            options.target = template.binary.display().to_string();
            (options.version, options.sha256) = (template.version(), template.sha256());
            let verdict = load::run(options).await;
            if let Some(status) = server.ended()? {
                println!("  the server ended by itself ({status}): {}", server.log_tail());
                return Ok(Verdict::Invalid);
            }
            verdict?
        } else {
            load::run(options).await?
        };
        worst = worst.worse(verdict);
    }
    Ok(worst)
}

fn export_run(dir: &std::path::Path, edn: bool, porcupine: bool) -> anyhow::Result<Verdict> {
    anyhow::ensure!(edn || porcupine, "--edn, --porcupine, or both");
    let (history, out) = (History::read(dir)?, RunDir::open(dir)?);
    if edn {
        std::fs::write(out.join("history.edn"), export::edn(&history)?)?;
        println!("{}", out.join("history.edn").display());
    }
    if porcupine {
        out.write_lines("porcupine.jsonl", &export::porcupine(0, &history.ops))?;
        println!("{}", out.join("porcupine.jsonl").display());
    }
    Ok(Verdict::Valid)
}

fn check_again(dir: &std::path::Path) -> anyhow::Result<Verdict> {
    load::conclude(&History::read(dir)?, &RunDir::open(dir)?)
}

/// How long each run of an endurance loads, unless told otherwise,
const ENDURANCE_EACH: Duration = Duration::from_secs(60);
/// and its watches.
const ENDURANCE_READERS: usize = 50;

fn report(dirs: &[PathBuf], json: bool, html: Option<&std::path::Path>) -> anyhow::Result<Verdict> {
    let runs = campaign::read(dirs)?;
    anyhow::ensure!(!runs.is_empty(), "no runs there");
    if let Some(path) = html {
        std::fs::write(path, overview::render(&runs))?;
    }
    match json {
        true => println!("{:#}", campaign::json(&runs)),
        false => print!("{}", campaign::text(&runs)),
    }
    Ok(campaign::verdict(&runs))
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
enum SuiteName {
    /// Nine runs of 40 s
    Smoke,
    /// Every workload five times, 90 s each
    Nightly,
    /// Run after run until `--time` is used, all workloads and faults; goes on where `--out` has runs
    Endurance,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dirs {
    /// Only a sync of the directory (POSIX)
    Strict,
    /// Any sync (ext4, xfs)
    Journal,
}

impl Dirs {
    fn rules(self) -> Directories {
        match self {
            Self::Strict => Directories::Strict,
            Self::Journal => Directories::Journal,
        }
    }
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
            let directories = dirs.rules();
            crash::run(crash::Options { lying_sync, ..crash.options(cuts, Some(directories))? }).await
        }
        Command::Kill { crash, kills } => crash::run(crash.options(kills, None)?).await,
        Command::Faults { target, only, out } => {
            let template = Template::new(&target.target, target.arguments)?;
            let situations = if only.is_empty() { Situation::ALL.to_vec() } else { only };
            faults::run(template, &situations, out).await
        }
        Command::Run { run } => run_workloads(run).await,
        Command::Suite { suite, target, binary, tls, seed, dirs, out, each, endurance } => {
            move_into_namespace()?;
            let target_of = binary.map_or(target.target, |binary| binary.display().to_string());
            let template = Template { tls, ..Template::new(&target_of, target.arguments)? };
            let (directories, possible) = (dirs.rules(), possible());
            let suite = match suite {
                SuiteName::Smoke => suite::Suite::Smoke,
                SuiteName::Nightly => suite::Suite::Nightly,
                SuiteName::Endurance => {
                    let EnduranceArgs { time, members, clients, rate } = endurance;
                    let time = time.ok_or_else(|| anyhow::anyhow!("endurance needs --time"))?;
                    let each = each.unwrap_or(ENDURANCE_EACH);
                    let readers = ENDURANCE_READERS;
                    return endurance::run(endurance::Options {
                        template,
                        seed,
                        time,
                        each,
                        members,
                        clients,
                        rate,
                        readers,
                        directories,
                        possible,
                        out,
                    })
                    .await;
                }
            };
            suite::run(suite::Options { suite, template, seed, directories, possible, each, out }).await
        }
        Command::Prove { only, binary, etcd, etcd_3_5_0, etcd_3_5_1, good, bad, out, list } => {
            let mutants = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/mutants/debug/kelson");
            let binary = binary.unwrap_or_else(mutants);
            let good = if good || bad { Some(good) } else { None };
            let options = prove::Options { only, binary, etcd, etcd_3_5_0, etcd_3_5_1, good, out };
            if list {
                options.cases().iter().for_each(|case| println!("{case}"));
                return Ok(Verdict::Valid);
            }
            move_into_namespace()?;
            prove::run(options).await
        }
        Command::Report { dirs, json, html } => report(&dirs, json, html.as_deref()),
        Command::Replay { dir, times } => replay(&dir, times).await,
        Command::Shrink { dir, tries, budget, out } => shrink_run(&dir, tries, budget, out).await,
        Command::Check { dir } => check_again(&dir),
        Command::Export { dir, edn, porcupine } => export_run(&dir, edn, porcupine),
        Command::BenchCheckers { ops } => {
            jepsen::check::bench::run(ops);
            Ok(Verdict::Valid)
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
