//! A whole run's evidence, and its files: `history.jsonl` (operations), `streams.jsonl` (watches), `events.jsonl` (what
//! each member showed of the order of changes), `nemesis.jsonl` (faults), `plan.json` (what ran).

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::op::Op;
use super::stream::{Entry, Log, Stream};

/// A window in which a fault was in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Which kind, such as `pause`.
    pub name: String,
    /// The members it was aimed at.
    pub nodes: Vec<u32>,
    /// Nanoseconds since the run began, before the first step of it.
    pub start: u64,
    /// The same, after it was undone.
    pub end: u64,
    /// What shows that it took effect; empty = nothing does.
    pub evidence: String,
    /// How much effect it had, in a unit of its kind: packets dropped, pages lost, processes ended, milliseconds.
    #[serde(default)]
    pub effect: u64,
    /// What the disks of its members forgot, where the power went.
    #[serde(default, skip_serializing_if = "Forgotten::is_nothing")]
    pub forgotten: Forgotten,
}

/// What disks forgot in power cuts: sums over the members that were hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Forgotten {
    /// Members whose power went.
    pub members: u64,
    /// Pages that no sync covered,
    pub pages_unsynced: u64,
    /// those of them that were lost,
    pub pages_lost: u64,
    /// and those that were torn.
    pub pages_torn: u64,
    /// Directory changes that were undone.
    pub entries_lost: u64,
}

impl Forgotten {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Adds another one's numbers.
    pub fn add(&mut self, other: &Self) {
        self.members += other.members;
        self.pages_unsynced += other.pages_unsynced;
        self.pages_lost += other.pages_lost;
        self.pages_torn += other.pages_torn;
        self.entries_lost += other.entries_lost;
    }
}

/// What ran, for whoever reads the files later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// The workload: which checkers judge it.
    pub workload: String,
    /// Its seed.
    pub seed: u64,
    /// How many members.
    pub nodes: u32,
    /// How many clients.
    pub clients: u32,
    /// Requests per second, all clients together.
    pub rate: u64,
    /// Seconds of load.
    pub seconds: u64,
    /// What was tested, such as a binary.
    pub target: String,
    /// The command to run it again.
    pub command: String,
    /// The revision before the first operation. The store was empty then.
    pub base: i64,
    /// Kinds of faults that were to happen.
    pub nemeses: Vec<String>,
    /// When all faults were undone, in nanoseconds since the run began; 0 = there were to be none.
    pub healed: u64,
    /// The command's arguments.
    pub arguments: Vec<String>,
    /// The first lines of what the binary says to `--version`,
    pub version: String,
    /// and the SHA-256 of its file.
    pub sha256: String,
    /// Seconds since the run began in which this machine was too busy: the harness itself was woken so late that members,
    /// too, would miss heartbeats. Limits of time do not count them.
    pub busy: Vec<u64>,
}

/// Everything a run leaves to be judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// What ran.
    pub plan: Plan,
    /// Operations, in order of their end.
    pub ops: Vec<Op>,
    /// Watches.
    pub streams: Vec<Stream>,
    /// What each member showed of the order of changes.
    pub entries: Vec<Entry>,
    /// Faults.
    pub faults: Vec<Fault>,
}

impl History {
    /// The order of all changes, and where members disagree on it.
    pub fn log(&self) -> (Log, Vec<String>) {
        Log::merge(self.plan.base, &self.entries)
    }

    /// Writes all files into a directory that is there.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let mut plan = BufWriter::new(File::create(dir.join("plan.json"))?);
        serde_json::to_writer_pretty(&mut plan, &self.plan)?;
        plan.flush()?;
        write(&dir.join("history.jsonl"), &self.ops)?;
        write(&dir.join("streams.jsonl"), &self.streams)?;
        write(&dir.join("events.jsonl"), &self.entries)?;
        write(&dir.join("nemesis.jsonl"), &self.faults)
    }

    /// Reads `plan.json`, which is all that is needed to run it again.
    pub fn read_plan(dir: &Path) -> anyhow::Result<Plan> {
        let path = dir.join("plan.json");
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        serde_json::from_reader(BufReader::new(file))
            .with_context(|| format!("{}: not a workload's run", path.display()))
    }

    /// Reads what [`History::write`] wrote. Only `plan.json` and `history.jsonl` must be there.
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let plan = Self::read_plan(dir)?;
        anyhow::ensure!(dir.join("history.jsonl").exists(), "{}: no history.jsonl", dir.display());
        Ok(Self {
            plan,
            ops: read(&dir.join("history.jsonl"))?,
            streams: read(&dir.join("streams.jsonl"))?,
            entries: read(&dir.join("events.jsonl"))?,
            faults: read(&dir.join("nemesis.jsonl"))?,
        })
    }
}

fn write<T: Serialize>(path: &Path, items: &[T]) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
    super::write_lines(&mut file, items)?;
    Ok(file.flush()?)
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut items = Vec::new();
    for (number, line) in BufReader::new(File::open(path)?).lines().enumerate() {
        let line = line.with_context(|| path.display().to_string())?;
        let item = serde_json::from_str(&line).with_context(|| format!("{} line {}", path.display(), number + 1))?;
        items.push(item);
    }
    Ok(items)
}
