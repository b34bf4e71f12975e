//! Fixed lists of runs on clusters, one after the other, and their sums: `smoke` takes less than ten minutes, `nightly`
//! some hours.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::{chaos, load};
use crate::chaosfs::Directories;
use crate::history::files::{Fault, History};
use crate::nemesis::BROKEN;
use crate::nemesis::schedule::{Kind as Nemesis, swarm};
use crate::report::{RunDir, Verdict};
use crate::target::Template;
use crate::workload::Kind;

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Nine runs of 40 s.
    Smoke,
    /// Every workload with five seeds, on three and five members, with parts of all faults.
    Nightly,
}

/// One run of a list.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What clients do.
    pub workload: Kind,
    /// How many members.
    pub members: u32,
    /// What is broken.
    pub kinds: Vec<Nemesis>,
    /// For how long.
    pub time: Duration,
    /// Fixes the rest.
    pub seed: u64,
}

/// What to run, on what.
pub struct Options {
    /// The list.
    pub suite: Suite,
    /// The server.
    pub template: Template,
    /// Added to every seed.
    pub seed: u64,
    /// Directory rules of chaosfs.
    pub directories: Directories,
    /// Faults that this machine and target can have.
    pub possible: Vec<Nemesis>,
    /// Where the runs' directories go.
    pub out: Option<PathBuf>,
}

/// What one run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its directory's name.
    pub name: String,
    /// What it says.
    pub verdict: Verdict,
    /// Operations, and those answered.
    pub operations: usize,
    /// Answered ones.
    pub answered: usize,
    /// Faults with an effect, by kind.
    pub faults: std::collections::BTreeMap<String, u64>,
    /// Why it has no verdict of its own.
    pub failure: Option<String>,
}

impl Suite {
    /// Its runs.
    pub fn entries(self, seed: u64, possible: &[Nemesis]) -> Vec<Entry> {
        use Nemesis::{Compact, Defrag, Kill, Loss, Member, MoveLeader, Partition, Pause, PowerCut, Rolling, Snapshot};
        let entry = |workload, members, kinds: &[Nemesis], seconds, number| Entry {
            workload,
            members,
            kinds: kinds.iter().copied().filter(|kind| possible.contains(kind)).collect(),
            time: Duration::from_secs(seconds),
            seed: seed + number,
        };
        match self {
            Self::Smoke => vec![
                entry(Kind::Register, 3, &[Kill, Partition, Pause], 40, 1),
                entry(Kind::Append, 3, &[Pause, Partition, MoveLeader], 40, 2),
                entry(Kind::Set, 3, &[PowerCut, Partition], 40, 3),
                entry(Kind::Watch, 3, &[Kill, Loss, Compact], 40, 4),
                entry(Kind::Lease, 3, &[Pause, Partition, Kill], 40, 5),
                entry(Kind::Kubernetes, 3, &[Rolling, Partition, Defrag, Snapshot], 40, 6),
                entry(Kind::Wr, 5, &[Kill, Partition], 40, 7),
                entry(Kind::Register, 3, &[Member, MoveLeader], 40, 8),
                entry(Kind::Lock, 3, &[Pause, Partition], 40, 9),
            ],
            Self::Nightly => {
                let mut all = Vec::new();
                for round in 0..5 {
                    for (number, workload) in (0..).zip(Kind::ALL) {
                        let (number, members) = (seed + 100 * round + number, if round % 2 == 0 { 3 } else { 5 });
                        let kinds = swarm(possible, number);
                        all.push(Entry { workload, members, kinds, time: Duration::from_secs(90), seed: number });
                    }
                }
                all
            }
        }
    }
}

/// Runs the whole list; the worst verdict. A run that fails by itself is inconclusive and does not stop the others.
pub async fn run(options: Options) -> anyhow::Result<Verdict> {
    let name = format!("suite-{:?}", options.suite).to_lowercase();
    let dir = RunDir::create(options.out.as_deref(), &name, options.seed)?;
    let mut rows: Vec<Row> = Vec::new();
    for (number, entry) in (1..).zip(options.suite.entries(options.seed, &options.possible)) {
        let out = dir.join(&format!("{number:02}-{}-{}", entry.workload.name(), entry.members));
        let row = match one(&options, &entry, out.clone()).await {
            Ok(verdict) => row(&out, verdict).context("reading a run's history")?,
            Err(error) => failed(&out, &error),
        };
        rows.push(row);
        dir.write_json("suite.json", &rows)?;
    }
    print(&rows);
    println!("{}", dir.path().display());
    Ok(rows.iter().map(|row| row.verdict).fold(Verdict::Valid, Verdict::worse))
}

async fn one(options: &Options, entry: &Entry, out: PathBuf) -> anyhow::Result<Verdict> {
    let load = load::Options {
        kind: entry.workload,
        endpoints: Vec::new(),
        target: String::new(),
        seed: entry.seed,
        time: entry.time,
        clients: 10,
        rate: 500,
        readers: 30,
        deadline: load::DEADLINE,
        serializable: false,
        nemeses: Vec::new(),
        kinds: Vec::new(),
        arguments: Vec::new(),
        out: Some(out),
    };
    chaos::run(chaos::Options {
        template: options.template.clone(),
        members: entry.members,
        kinds: entry.kinds.clone(),
        steps: None,
        directories: options.directories,
        load,
    })
    .await
}

fn row(out: &std::path::Path, verdict: Verdict) -> anyhow::Result<Row> {
    let history = History::read(out)?;
    let mut faults = std::collections::BTreeMap::new();
    let counts = |fault: &&Fault| fault.effect > 0 && !fault.name.starts_with(BROKEN);
    history.faults.iter().filter(counts).for_each(|fault| *faults.entry(fault.name.clone()).or_default() += 1);
    let answered = history.ops.iter().filter(|op| op.reply().is_some()).count();
    Ok(Row { name: name(out), verdict, operations: history.ops.len(), answered, faults, failure: None })
}

fn failed(out: &std::path::Path, error: &anyhow::Error) -> Row {
    let failure = Some(format!("{error:#}"));
    let faults = std::collections::BTreeMap::new();
    Row { name: name(out), verdict: Verdict::Inconclusive, operations: 0, answered: 0, faults, failure }
}

fn name(out: &std::path::Path) -> String {
    out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn print(rows: &[Row]) {
    println!("\n{:<20} {:<13} {:>10} {:>9}  faults", "run", "verdict", "operations", "answered");
    for row in rows {
        let faults = row.faults.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ");
        let faults = row.failure.as_ref().unwrap_or(&faults);
        println!(
            "{:<20} {:<13} {:>10} {:>9}  {faults}",
            row.name,
            format!("{:?}", row.verdict),
            row.operations,
            row.answered
        );
    }
    let sum = |of: fn(&Row) -> usize| rows.iter().map(of).sum::<usize>();
    let faults: u64 = rows.iter().flat_map(|row| row.faults.values()).sum();
    println!(
        "{} runs: {} operations, {} answered, {faults} faults",
        rows.len(),
        sum(|row| row.operations),
        sum(|row| row.answered)
    );
}
