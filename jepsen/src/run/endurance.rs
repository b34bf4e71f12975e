//! Run after run until the time is used: all workloads in turn, on clusters of several sizes, each under a part of all
//! faults that its seed chooses. It adds to what a directory already has, so that campaigns grow over days.
//!
//! Disk use stays small: of a valid run only the plan, the schedule, the fault windows and the verdict stay; what is not
//! valid keeps everything.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::suite::{Entry, conclude, one, store};
use crate::chaosfs::Directories;
use crate::nemesis::schedule::{Kind as Nemesis, swarm};
use crate::report::campaign::{self, Run, Standing};
use crate::report::{RunDir, Verdict};
use crate::rng::Rng;
use crate::target::Template;
use crate::workload::Kind;

/// What stays of a valid run.
const KEPT: [&str; 4] = ["plan.json", "schedule.json", "nemesis.jsonl", "verdict.json"];
/// Runs in a row that the harness did not bring to their end: then the machine, not the server, is at fault.
const FAILURES_MAX: usize = 5;
/// Power cuts are added to a swarm without them in this share of runs.
const CUTS_ADDED: f64 = 0.6;
/// Requests per second of workloads whose checkers or answers grow faster than the history.
const SLOWER: [(Kind, u64); 3] = [(Kind::Set, 500), (Kind::Watch, 700), (Kind::Kubernetes, 700)];

/// What to run, on what, for how long.
pub struct Options {
    /// The server.
    pub template: Template,
    /// Fixes workloads, faults and requests of every run by its number.
    pub seed: u64,
    /// Until when new runs are begun.
    pub time: Duration,
    /// How long each loads.
    pub each: Duration,
    /// Sizes of clusters, in turn.
    pub members: Vec<u32>,
    /// Clients of a run,
    pub clients: u32,
    /// their requests per second, at most,
    pub rate: u64,
    /// and watches beside them.
    pub readers: usize,
    /// Directory rules of chaosfs.
    pub directories: Directories,
    /// Faults that this machine and target can have.
    pub possible: Vec<Nemesis>,
    /// The directory of all runs; it may have some.
    pub out: Option<PathBuf>,
}

impl Options {
    /// The run of this number, from 0.
    fn entry(&self, number: u64) -> Entry {
        let round = number / Kind::ALL.len() as u64;
        let mut order = Kind::ALL;
        let mut rng = Rng::new(self.seed).fork(3000 + round);
        (1..order.len()).rev().for_each(|last| order.swap(last, rng.below(last as u64 + 1) as usize));
        let place = number as usize % order.len();
        let workload = order[place];
        // Each workload meets each size, as their place in a round changes.
        let members = self.members[(round as usize + place) % self.members.len()];
        let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(number);
        let mut kinds = swarm(&self.possible, seed);
        let cuts = Rng::new(seed).fork(11).chance(CUTS_ADDED);
        if cuts && self.possible.contains(&Nemesis::PowerCut) && !kinds.contains(&Nemesis::PowerCut) {
            kinds.push(Nemesis::PowerCut);
        }
        let slower = SLOWER.into_iter().find(|(kind, _)| *kind == workload).map_or(u64::MAX, |(_, rate)| rate);
        Entry {
            workload,
            members,
            kinds,
            time: self.each,
            seed,
            clients: self.clients,
            rate: self.rate.min(slower),
            readers: self.readers,
            keys: None,
            schedule: None,
        }
    }
}

/// Runs until the time is used; the worst verdict of all that the directory has then.
pub async fn run(options: Options) -> anyhow::Result<Verdict> {
    anyhow::ensure!(!options.members.is_empty(), "no size of clusters");
    let dir = RunDir::create(options.out.as_deref(), "endurance", options.seed)?;
    let mut runs = campaign::read(&[dir.path().to_owned()])?;
    let mut number = next_number(dir.path())?;
    if !runs.is_empty() {
        println!("goes on behind {} runs in {}", runs.len(), dir.path().display());
    }
    let (started, mut failures) = (Instant::now(), 0);
    while started.elapsed() < options.time {
        let entry = options.entry(number);
        let out = dir.join(&format!("{number:04}-{}-{}", entry.workload.name(), entry.members));
        let run = one(&options.template, options.directories, &entry, out).await?;
        if run.standing == Standing::Valid {
            compact(&run.dir)?;
        }
        // A run without a single operation is one that the harness did not even begin.
        failures = if run.tally.operations == 0 { failures + 1 } else { 0 };
        let (name, standing) = (run.name(), run.standing);
        runs.push(run);
        println!("{}", progress(&name, standing, &runs, started.elapsed(), options.time));
        store(&dir, &runs)?;
        anyhow::ensure!(failures < FAILURES_MAX, "{failures} runs in a row failed by themselves; see {}", name);
        number += 1;
    }
    conclude(&dir)
}

/// Behind the highest number of a run that is there, whatever came of it.
fn next_number(dir: &Path) -> anyhow::Result<u64> {
    let mut next = 0;
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(number) = name.split('-').next().and_then(|number| number.parse::<u64>().ok()) {
            next = next.max(number + 1);
        }
    }
    Ok(next)
}

/// Removes what a report does not need.
fn compact(dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && !KEPT.iter().any(|name| entry.file_name() == *name) {
            std::fs::remove_file(entry.path()).with_context(|| entry.path().display().to_string())?;
        }
    }
    Ok(())
}

fn progress(name: &str, standing: Standing, runs: &[Run], elapsed: Duration, of: Duration) -> String {
    let sum = campaign::totals(runs);
    format!(
        "== {} of {} min: {name} is {}; {} runs ({} valid, {} invalid, {} unknown, {} inconclusive), {} operations, {} watch \
         events, {} faults, {} cuts lost {} pages",
        elapsed.as_secs() / 60,
        of.as_secs() / 60,
        format!("{standing:?}").to_lowercase(),
        sum.runs,
        sum.valid,
        sum.invalid,
        sum.unknown,
        sum.inconclusive,
        sum.operations,
        sum.watch_events,
        sum.faults_with_effect,
        sum.cuts_with_loss,
        sum.forgotten.pages_lost
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn options() -> Options {
        Options {
            template: Template::default(),
            seed: 7,
            time: Duration::ZERO,
            each: Duration::from_secs(60),
            members: vec![3, 5],
            clients: 10,
            rate: 1000,
            readers: 30,
            directories: Directories::Strict,
            possible: Nemesis::ALL.to_vec(),
            out: None,
        }
    }

    #[test]
    fn every_workload_comes_once_a_round_and_meets_every_size() {
        let options = options();
        let of = |number| options.entry(number);
        let round: BTreeSet<&str> = (12..24).map(|number| of(number).workload.name()).collect();
        assert_eq!(round.len(), Kind::ALL.len());
        let met: BTreeSet<(&str, u32)> = (0..240).map(|n| (of(n).workload.name(), of(n).members)).collect();
        assert_eq!(met.len(), 2 * Kind::ALL.len());
        let cut = (0..100).filter(|number| of(*number).kinds.contains(&Nemesis::PowerCut)).count();
        assert!((60..95).contains(&cut), "power cuts in {cut} of 100 runs");
        assert_eq!((of(5).seed, of(5).kinds), (options.entry(5).seed, options.entry(5).kinds));
    }

    #[test]
    fn a_campaign_goes_on_behind_its_last_run_and_keeps_what_a_report_needs() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(next_number(dir.path()).unwrap(), 0);
        let run = dir.path().join("0007-watch-3");
        std::fs::create_dir(&run).unwrap();
        KEPT.iter()
            .chain(&["history.jsonl", "member-0.log"])
            .for_each(|name| std::fs::write(run.join(name), "").unwrap());
        assert_eq!(next_number(dir.path()).unwrap(), 8);
        compact(&run).unwrap();
        assert_eq!(std::fs::read_dir(&run).unwrap().count(), KEPT.len());
    }
}
