//! Proof that the harness bites: targets with a known bug must be found, and good ones must be valid under the same plans.
//!
//! A case is a target with its environment, a plan, and the checkers that are expected to find it. It is run with one seed
//! after the other until it is found. What the harness fails at by itself, or a fault without effect, proves nothing: such
//! a try counts, and says neither *found* nor *valid*. A server that does not come up is *found* only where that is what
//! the bug does.

pub mod cases;
mod plans;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use self::cases::{Case, Target};
pub use self::plans::Plan;
use self::plans::Shape;
use super::{chaos, crash, faults, load};
use crate::chaosfs::Directories;
use crate::cluster::space;
use crate::nemesis::schedule;
use crate::report::{RunDir, Verdict};
use crate::target::Template;

/// A good target that proved nothing, as a fault had no effect, is tried so often.
const GOOD_TRIES: u64 = 3;
/// A crashed server answers again within this; the machine may be busy.
const START_MAX: Duration = Duration::from_secs(30);
/// What a build with mutants says of itself, see kelson's `mutants`.
const PLANTED: &str = "; planted: ";
/// Of what a checker found, characters shown.
const SHOWN_CHARS: usize = 160;

/// What to prove, with what.
pub struct Options {
    /// Only cases whose names begin with one of these; empty = all.
    pub only: Vec<String>,
    /// kelson, built with the feature `mutants`.
    pub binary: PathBuf,
    /// etcd 3.7.3.
    pub etcd: Option<PathBuf>,
    /// etcd 3.5.0.
    pub etcd_3_5_0: Option<PathBuf>,
    /// etcd 3.5.1.
    pub etcd_3_5_1: Option<PathBuf>,
    /// Only good targets, or only bad ones; `None` = both.
    pub good: Option<bool>,
    /// Where the runs' directories go.
    pub out: Option<PathBuf>,
}

impl Options {
    fn binary_of(&self, target: Target) -> Option<&Path> {
        match target {
            Target::Mutant(_) | Target::Kelson => Some(&self.binary),
            Target::Etcd => self.etcd.as_deref(),
            Target::Etcd350 => self.etcd_3_5_0.as_deref(),
            Target::Etcd351 => self.etcd_3_5_1.as_deref(),
        }
    }

    /// The cases that can be run and are asked for.
    pub fn cases(&self) -> Vec<Case> {
        let asked = |case: &Case| self.only.is_empty() || self.only.iter().any(|name| case.name.starts_with(name));
        let can = |case: &Case| self.binary_of(case.target).is_some();
        let kind = |case: &Case| self.good.is_none_or(|good| good == case.found_by.is_empty());
        cases::all().into_iter().filter(|case| asked(case) && can(case) && kind(case)).collect()
    }
}

/// What one run said.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Its verdict.
    pub verdict: Verdict,
    /// Checkers that found something, as `checker/anomaly`, with the first words of it.
    pub by: Vec<(String, String)>,
    /// Why it is inconclusive.
    pub why: String,
}

/// What came of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The case's name.
    pub name: String,
    /// As it had to be.
    pub proven: bool,
    /// A good target.
    pub is_good: bool,
    /// The plan.
    pub plan: &'static str,
    /// The seed of the last try,
    pub seed: u64,
    /// how many there were,
    pub tries: u64,
    /// and how long the last one took.
    pub seconds: u64,
    /// All tries.
    pub seconds_altogether: u64,
    /// What the last try said.
    pub seen: Seen,
}

/// Runs all cases; valid when every bad target was found and every good one is valid.
pub async fn run(options: Options) -> anyhow::Result<Verdict> {
    let cases = options.cases();
    anyhow::ensure!(!cases.is_empty(), "no case of these names, or no binary for it");
    if space::moved() {
        // Single members listen on 127.0.0.1 here, too.
        space::tool("ip", &["link", "set", "lo", "up"], "")?;
    }
    let dir = RunDir::create(options.out.as_deref(), "prove", 0)?;
    let mut rows = Vec::new();
    for case in &cases {
        let binary = options.binary_of(case.target).context("no binary for this case")?;
        let row = prove(case, binary, &dir).await?;
        println!("{}", table::line(&row));
        rows.push(row);
        dir.write_json("prove.json", &rows)?;
        std::fs::write(dir.join("prove.md"), table::markdown(&rows))?;
    }
    println!("\n{}", rows.iter().map(table::line).collect::<Vec<_>>().join("\n"));
    println!("{}\n{}", table::totals(&rows), dir.join("prove.md").display());
    Ok(if rows.iter().all(|row| row.proven) { Verdict::Valid } else { Verdict::Invalid })
}

/// One case, until it is found or out of tries.
async fn prove(case: &Case, binary: &Path, dir: &RunDir) -> anyhow::Result<Row> {
    let is_good = case.found_by.is_empty();
    let tries = if is_good { GOOD_TRIES } else { case.tries };
    let template = template(case, binary)?;
    let begun = Instant::now();
    let mut row = None;
    for number in 0..tries {
        let (seed, started) = (case.seed + number, Instant::now());
        let out = dir.join(&format!("{}-{seed}", case.name.replace('/', "-")));
        println!("-- {} (plan {}, seed {seed})", case.name, case.plan.name);
        let seen = match attempt(case, template.clone(), seed, &out).await {
            Ok(verdict) => read(&out, verdict).context("reading a run's verdict")?,
            // It never counts, whatever the target did.
            Err(error) => {
                Seen { verdict: Verdict::Inconclusive, by: Vec::new(), why: format!("the harness failed: {error:#}") }
            }
        };
        let proven = if is_good { seen.verdict == Verdict::Valid } else { is_expected(&seen, case.found_by) };
        let over = proven || (is_good && seen.verdict == Verdict::Invalid);
        row = Some(Row {
            name: case.name.clone(),
            proven,
            is_good,
            plan: case.plan.name,
            seed,
            tries: number + 1,
            seconds: started.elapsed().as_secs(),
            seconds_altogether: begun.elapsed().as_secs(),
            seen,
        });
        if over {
            break;
        }
    }
    row.context("a case has at least one try")
}

/// Whether one of the checkers that were expected to found it.
fn is_expected(seen: &Seen, found_by: &[&str]) -> bool {
    seen.by.iter().any(|(checker, _)| found_by.iter().any(|expected| checker.starts_with(expected)))
}

/// The server of a case. A mutant that the binary does not know would be a good target: the binary has to say it.
fn template(case: &Case, binary: &Path) -> anyhow::Result<Template> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut arguments = words(case.plan.arguments);
    arguments.extend(words(case.arguments));
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut template = Template::new(&binary.display().to_string(), arguments)?;
    template.environment = case.plan.environment.iter().map(own).collect();
    let planted = match case.target {
        Target::Mutant(name) => name,
        Target::Kelson => "none",
        Target::Etcd | Target::Etcd350 | Target::Etcd351 => return Ok(template),
    };
    if let Target::Mutant(name) = case.target {
        template.environment.push((cases::variable(name), "1".into()));
    }
    let environment = template.environment.iter().map(|(name, value)| (name, value));
    let output = Command::new(&template.binary).arg("--version").envs(environment).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let says = text.split_once(PLANTED).map(|(_, rest)| rest.trim());
    anyhow::ensure!(
        says == Some(planted),
        "{}: it has {} planted, not {planted}; build it with --features mutants",
        binary.display(),
        says.unwrap_or("no mutants")
    );
    Ok(template)
}

async fn attempt(case: &Case, template: Template, seed: u64, out: &Path) -> anyhow::Result<Verdict> {
    let is_etcd = !matches!(case.target, Target::Mutant(_) | Target::Kelson);
    let directories = if is_etcd { Directories::Journal } else { Directories::Strict };
    // Ports are looked for again, as some time has gone.
    let template = template.on_other_ports()?;
    let out = Some(out.to_owned());
    match &case.plan.shape {
        Shape::Crash { power, cuts, load_ms_max } => {
            let power = power.then_some(directories);
            crash::run(crash::Options {
                template,
                plan: crate::plan::Plan::new(seed, *cuts, 0, *load_ms_max),
                power,
                lying_sync: false,
                clients: 8,
                rate: 1000,
                start_limit: START_MAX,
                out,
                keep_history: false,
            })
            .await
        }
        Shape::Faults(situations) => faults::run(template, situations, out).await,
        Shape::Load(shape) => {
            let load = load::Options {
                kind: shape.workload,
                endpoints: Vec::new(),
                credentials: None,
                target: String::new(),
                seed,
                time: Duration::from_secs(shape.seconds),
                clients: shape.clients,
                rate: shape.rate,
                readers: 30,
                deadline: Duration::from_millis(shape.deadline_ms),
                serializable: shape.serializable,
                keys: None,
                version: String::new(),
                sha256: String::new(),
                nemeses: Vec::new(),
                kinds: Vec::new(),
                arguments: Vec::new(),
                out,
            };
            let schedule = Some(schedule::in_lanes(&shape.steps(seed)));
            let (members, kinds) = (shape.members, shape.kinds());
            chaos::run(chaos::Options { template, members, kinds, schedule, directories, load }).await
        }
    }
}

/// What a run's `verdict.json` says: findings of checkers, violations after a crash, or rows of disk situations.
fn read(out: &Path, verdict: Verdict) -> anyhow::Result<Seen> {
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("verdict.json"))?)?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let mut by: Vec<(String, String)> = Vec::new();
    for finding in list(&value["findings"]) {
        for anomaly in list(&finding["anomalies"]) {
            by.push((format!("{}/{}", text(&finding["checker"]), text(&anomaly["name"])), text(&anomaly["text"])));
        }
    }
    for violation in list(&value["violations"]) {
        by.push((format!("durability/{}", text(&violation["kind"])), text(&violation["text"])));
    }
    for row in list(&value).iter().filter(|row| row["verdict"] == "invalid") {
        by.push((format!("faults/{}", text(&row["situation"])), text(&row["observed"])));
    }
    for (_, text) in &mut by {
        *text = text.chars().take(SHOWN_CHARS).map(|c| if c.is_control() || c == '|' { ' ' } else { c }).collect();
    }
    let mut why = text(&value["reason"]);
    for finding in list(&value["findings"]) {
        list(&finding["undecided"]).iter().for_each(|undecided| why += &text(undecided));
    }
    Ok(Seen { verdict, by, why: why.chars().take(SHOWN_CHARS).collect() })
}
