//! Fixed lists of runs on clusters, one after the other, and their sums: `smoke` takes less than ten minutes, `nightly`
//! some hours.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::{chaos, load};
use crate::chaosfs::Directories;
use crate::nemesis::schedule::{Kind as Nemesis, Schedule, swarm};
use crate::report::campaign::{self, Run};
use crate::report::tally::Tally;
use crate::report::{RunDir, Verdict, overview};
use crate::target::Template;
use crate::workload::Kind;

/// Clients of a run,
const CLIENTS: u32 = 10;
/// their requests per second,
const RATE: u64 = 500;
/// and watches beside them.
const READERS: usize = 30;

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
    /// How many clients,
    pub clients: u32,
    /// their requests per second, all together, at most,
    pub rate: u64,
    /// and watches beside them, where the workload has some.
    pub readers: usize,
    /// Keys in use at one time; `None` = the workload's own number.
    pub keys: Option<u64>,
    /// When and whom faults hit; `None` = as the seed chooses.
    pub schedule: Option<Schedule>,
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
    /// How long each run loads instead of what the list says.
    pub each: Option<Duration>,
    /// Where the runs' directories go.
    pub out: Option<PathBuf>,
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
            clients: CLIENTS,
            rate: RATE,
            readers: READERS,
            keys: None,
            schedule: None,
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
                        all.push(Entry {
                            kinds: swarm(possible, number),
                            ..entry(workload, members, &[], 90, number - seed)
                        });
                    }
                }
                all
            }
        }
    }
}

/// What a list must come to beside valid runs: it proves little when its faults did not reach far enough.
#[derive(Clone, Copy, Debug)]
struct Criteria {
    /// Of each kind of fault that the list has and the machine can have, with an effect.
    each_kind: u64,
    /// Operations.
    operations: u64,
    /// Events on watches.
    watch_events: u64,
    /// Changes of leader.
    leader_changes: u64,
    /// Power cuts that lost pages, where there are power cuts.
    cuts_with_loss: u64,
}

impl Suite {
    fn criteria(self) -> Criteria {
        match self {
            Self::Smoke => Criteria {
                each_kind: 1,
                operations: 5_000,
                watch_events: 1_000,
                leader_changes: 3,
                // The few cuts of so short a list may all come when nothing is unsynced.
                cuts_with_loss: 0,
            },
            Self::Nightly => Criteria {
                each_kind: 10,
                operations: 500_000,
                watch_events: 500_000,
                leader_changes: 100,
                cuts_with_loss: 20,
            },
        }
    }
}

impl Criteria {
    /// What is missing.
    fn missing(&self, sum: &campaign::Totals, kinds: &BTreeSet<Nemesis>) -> Vec<String> {
        let mut wanted = vec![
            ("operations".to_owned(), sum.operations, self.operations),
            ("watch events".to_owned(), sum.watch_events, self.watch_events),
            ("changes of leader".to_owned(), sum.leader_changes, self.leader_changes),
        ];
        if kinds.contains(&Nemesis::PowerCut) {
            wanted.push(("power cuts that lost pages".to_owned(), sum.cuts_with_loss, self.cuts_with_loss));
        }
        for kind in kinds {
            let count = sum.faults.get(kind.name()).copied().unwrap_or(0);
            wanted.push((kind.name().to_owned(), count, self.each_kind));
        }
        let short = wanted.into_iter().filter(|(_, had, wanted)| had < wanted);
        short.map(|(what, had, wanted)| format!("{what}: {had} of at least {wanted}")).collect()
    }
}

/// Runs the whole list; the worst verdict. A run that fails by itself is inconclusive and does not stop the others.
pub async fn run(options: Options) -> anyhow::Result<Verdict> {
    let name = format!("suite-{:?}", options.suite).to_lowercase();
    let dir = RunDir::create(options.out.as_deref(), &name, options.seed)?;
    let mut entries = options.suite.entries(options.seed, &options.possible);
    entries.iter_mut().for_each(|entry| entry.time = options.each.unwrap_or(entry.time));
    let count = entries.len();
    let kinds: BTreeSet<Nemesis> = entries.iter().flat_map(|entry| entry.kinds.iter().copied()).collect();
    for (number, entry) in (1..).zip(entries) {
        let out = dir.join(&format!("{number:02}-{}-{}", entry.workload.name(), entry.members));
        println!("\n{number} of {count}");
        one(&options.template, options.directories, &entry, out).await?;
    }
    let verdict = conclude(&dir)?;
    let runs = campaign::read(&[dir.path().to_owned()])?;
    let missing = options.suite.criteria().missing(&campaign::totals(&runs), &kinds);
    missing.iter().for_each(|what| println!("not enough {what}"));
    println!("{}", if missing.is_empty() { "the suite's criteria are met" } else { "the suite proves too little" });
    Ok(if missing.is_empty() { verdict } else { verdict.worse(Verdict::Inconclusive) })
}

/// Prints and writes what all runs in a directory come to.
pub(super) fn conclude(dir: &RunDir) -> anyhow::Result<Verdict> {
    let runs = campaign::read(&[dir.path().to_owned()])?;
    println!("\n{}", campaign::text(&runs));
    store(dir, &runs)?;
    println!("{}", dir.path().display());
    Ok(campaign::verdict(&runs))
}

/// Writes `totals.json` and `report.html` beside the runs.
pub(super) fn store(dir: &RunDir, runs: &[Run]) -> anyhow::Result<()> {
    dir.write_json("totals.json", &campaign::json(runs))?;
    Ok(std::fs::write(dir.join("report.html"), overview::render(runs))?)
}

/// One run into this directory. When the harness fails, that is the run's verdict: inconclusive, with the reason.
pub(super) async fn one(
    template: &Template,
    directories: Directories,
    entry: &Entry,
    out: PathBuf,
) -> anyhow::Result<Run> {
    let load = load::Options {
        kind: entry.workload,
        endpoints: Vec::new(),
        credentials: None,
        target: String::new(),
        version: String::new(),
        sha256: String::new(),
        seed: entry.seed,
        time: entry.time,
        clients: entry.clients,
        rate: entry.rate,
        readers: entry.readers,
        keys: entry.keys,
        deadline: load::DEADLINE,
        serializable: false,
        nemeses: Vec::new(),
        kinds: Vec::new(),
        arguments: Vec::new(),
        out: Some(out.clone()),
    };
    let (members, kinds, schedule) = (entry.members, entry.kinds.clone(), entry.schedule.clone());
    if let Err(error) =
        chaos::run(chaos::Options { template: template.clone(), members, kinds, schedule, directories, load }).await
    {
        let failure = format!("{error:#}");
        eprintln!("jepsen: {} failed: {failure}", out.display());
        let tally = Tally {
            workload: entry.workload.name().into(),
            members,
            seed: entry.seed,
            target: template.binary.display().to_string(),
            nemeses: entry.kinds.iter().map(|kind| kind.name().to_owned()).collect(),
            ..Tally::default()
        };
        let dir = RunDir::create(Some(&out), "", entry.seed)?;
        dir.write_json("verdict.json", &Failed { verdict: Verdict::Inconclusive, failure, tally })?;
    }
    Run::read(&out)?.with_context(|| format!("{}: the run left nothing", out.display()))
}

/// The verdict of a run that the harness did not bring to its end.
#[derive(Serialize)]
struct Failed {
    verdict: Verdict,
    failure: String,
    tally: Tally,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_leaves_out_what_the_machine_cannot_do_and_asks_only_for_the_rest() {
        let without: Vec<Nemesis> = Nemesis::ALL.into_iter().filter(|kind| !kind.needs_chaosfs()).collect();
        let kinds = |possible: &[Nemesis]| -> BTreeSet<Nemesis> {
            Suite::Smoke.entries(1, possible).into_iter().flat_map(|entry| entry.kinds).collect()
        };
        assert!(kinds(&Nemesis::ALL).contains(&Nemesis::PowerCut));
        assert!(!kinds(&without).contains(&Nemesis::PowerCut) && !kinds(&without).is_empty());
        let mut sum =
            campaign::Totals { operations: 9_000, watch_events: 5_000, leader_changes: 9, ..Default::default() };
        for kind in kinds(&without) {
            sum.faults.insert(kind.name().into(), 1);
        }
        assert!(Suite::Smoke.criteria().missing(&sum, &kinds(&without)).is_empty());
        assert_eq!(Suite::Smoke.criteria().missing(&sum, &kinds(&Nemesis::ALL)), ["power-cut: 0 of at least 1"]);
    }

    #[test]
    fn a_night_has_every_workload_on_both_sizes_with_every_kind() {
        let entries = Suite::Nightly.entries(1, &Nemesis::ALL);
        let met: BTreeSet<(&str, u32)> = entries.iter().map(|entry| (entry.workload.name(), entry.members)).collect();
        assert_eq!((entries.len(), met.len()), (60, 24));
        let kinds: BTreeSet<Nemesis> = entries.iter().flat_map(|entry| entry.kinds.iter().copied()).collect();
        assert_eq!(kinds.len(), Nemesis::ALL.len());
    }
}
