//! The command line: one seed, or many, each in a process of its own.

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use sim::plan::{Kind, Mutant, Plan};
use sim::run::{Outcome, note_panics, run};
use sim::{determinism, many};

/// A cluster of kelson in one process, with simulated network, disks and time.
#[derive(Parser)]
struct Args {
    /// Run this seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run all of these, such as 1..300 (without the last), each in a process of its own.
    #[arg(long, value_parser = range, required_unless_present = "seed")]
    seeds: Option<Range<u64>>,
    /// So many processes at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Run each seed twice and compare the traces.
    #[arg(long)]
    twice: bool,
    /// Write a summary as JSON to this file.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print every event.
    #[arg(long)]
    trace: bool,
    /// Print what members log, as RUST_LOG says, with this default.
    #[arg(long, num_args = 0..=1, default_missing_value = "info")]
    log: Option<String>,
    /// Leave these kinds of faults out.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Only these kinds of faults.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Put a bug in: no-sync, lying-sync, batch-twice.
    #[arg(long)]
    mutant: Option<String>,
    /// Print the outcome as JSON and nothing else.
    #[arg(long)]
    json: bool,
}

fn kinds(names: &[String]) -> anyhow::Result<Vec<Kind>> {
    names.iter().map(|name| Kind::of(name).ok_or_else(|| anyhow::anyhow!("no kind {name}"))).collect()
}

fn plan_of(args: &Args, seed: u64) -> anyhow::Result<Plan> {
    let mut plan = Plan::new(seed);
    let (without, only) = (kinds(&args.without)?, kinds(&args.only)?);
    plan.kinds.retain(|kind| !without.contains(kind));
    if !only.is_empty() {
        plan.kinds = only;
    }
    if let Some(name) = &args.mutant {
        plan.mutant = Some(Mutant::of(name).ok_or_else(|| anyhow::anyhow!("no mutant {name}"))?);
    }
    Ok(plan)
}

fn one(args: &Args, seed: u64) -> anyhow::Result<ExitCode> {
    let plan = plan_of(args, seed)?;
    if let Some(level) = &args.log {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).init();
    }
    if !args.json {
        println!("{plan}");
    }
    let prints = args.trace;
    note_panics();
    determinism::begin(seed);
    // What a thread draws at random it draws when it is new.
    let running =
        std::thread::Builder::new().name("world".into()).stack_size(16 << 20).spawn(move || run(plan, prints))?;
    let (outcome, list) = running.join().map_err(|_| anyhow::anyhow!("the run panicked"))?;
    if args.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        print(&outcome, &list);
    }
    Ok(verdict(&outcome))
}

fn verdict(outcome: &Outcome) -> ExitCode {
    if !outcome.failures.is_empty() {
        ExitCode::from(1)
    } else if !outcome.inconclusive.is_empty() {
        ExitCode::from(2)
    } else {
        ExitCode::SUCCESS
    }
}

fn print(outcome: &Outcome, list: &[(Duration, String)]) {
    for (at, what) in list {
        println!("{:>10.3} s  {what}", at.as_secs_f64());
    }
    println!(
        "{} steps, {:.1} s, recovered in {:.1} s; {} operations, {} answered, {} unknown; {} entries, {} terms, {} installs, \
         {} watch messages, {} crashes, {} copies",
        outcome.steps,
        outcome.simulated_seconds,
        outcome.recovery_seconds,
        outcome.operations,
        outcome.answered,
        outcome.unknown,
        outcome.entries,
        outcome.terms,
        outcome.installs,
        outcome.messages,
        outcome.crashes,
        outcome.copies
    );
    println!("trace {} of {} events", outcome.trace_hash, outcome.events);
    outcome.failures.iter().for_each(|failure| println!("FAILED {failure}"));
    outcome.inconclusive.iter().for_each(|why| println!("inconclusive: {why}"));
    println!("{}", if outcome.failures.is_empty() { "valid" } else { "INVALID" });
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("a range is FROM..TO")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
    Ok(number(from)?..number(to)?)
}

/// What each run is given besides its seed.
fn passed_on(args: &Args) -> Vec<String> {
    let mut passed = Vec::new();
    for (flag, values) in [("--without", &args.without), ("--only", &args.only)] {
        if !values.is_empty() {
            passed.push(format!("{flag}={}", values.join(",")));
        }
    }
    passed.extend(args.mutant.iter().map(|mutant| format!("--mutant={mutant}")));
    passed
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    match (args.seed, &args.seeds) {
        (Some(seed), _) => one(&args, seed),
        (None, Some(seeds)) => {
            let options =
                many::Options { seeds: seeds.clone(), jobs: args.jobs, twice: args.twice, arguments: passed_on(&args) };
            let summary = many::run(&options)?;
            println!("{}", summary.line());
            if let Some(path) = &args.out {
                std::fs::write(path, serde_json::to_string_pretty(&summary)?)?;
            }
            Ok(ExitCode::from(summary.exit_code()))
        }
        (None, None) => anyhow::bail!("--seed or --seeds is needed"),
    }
}
