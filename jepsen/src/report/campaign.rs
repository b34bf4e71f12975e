//! Many stored runs together: who ran, what came of it, and the sums. `jepsen report` and `jepsen suite endurance` print it.
//!
//! It reads only `verdict.json` (and, of a run that left none, `plan.json` or `schedule.json` to know that there was one),
//! so that campaigns can be added up long after their histories are gone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;

use super::Verdict;
use super::tally::{Recovery, Tally};
use crate::history::files::Forgotten;

/// Directories below a directory that are looked into for runs.
const DEPTH_MAX: usize = 3;
/// Runs that are not valid and are named in the text.
const NAMED_MAX: usize = 40;

/// What a run says, with the two ways to be inconclusive told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing is wrong.
    Valid,
    /// A promise was broken.
    Invalid,
    /// A checker could not decide.
    Unknown,
    /// The run proves nothing: a fault without effect, too few answers, or the harness failed.
    Inconclusive,
    /// It left no verdict: interrupted.
    Unfinished,
}

/// One stored run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Its directory.
    pub dir: PathBuf,
    /// What it says.
    pub standing: Standing,
    /// Why it is not valid.
    pub reason: String,
    /// Its numbers.
    pub tally: Tally,
}

/// Sums over runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Runs that left a verdict.
    pub runs: u64,
    /// Of them, by what they say.
    pub valid: u64,
    /// See [`Standing`].
    pub invalid: u64,
    /// See there.
    pub unknown: u64,
    /// See there.
    pub inconclusive: u64,
    /// Runs that left none.
    pub unfinished: u64,
    /// Hours of load and of what follows it, checking left out.
    pub hours: f64,
    /// Operations.
    pub operations: u64,
    /// Operations and changes that `revisions` compared with the state at their revision.
    pub checked: u64,
    /// Answered ones,
    pub answered: u64,
    /// refused ones,
    pub refused: u64,
    /// and those without an outcome.
    pub unknown_outcomes: u64,
    /// Changes in the order of all.
    pub changes: u64,
    /// Watch streams,
    pub streams: u64,
    /// and events on them.
    pub watch_events: u64,
    /// Events that the collectors of all members were sent.
    pub collected_events: u64,
    /// Faults with an effect, by kind,
    pub faults: BTreeMap<String, u64>,
    /// altogether,
    pub faults_with_effect: u64,
    /// and windows without one.
    pub faults_without_effect: u64,
    /// Power cuts that lost at least a page.
    pub cuts_with_loss: u64,
    /// What they took, and from how many members.
    pub forgotten: Forgotten,
    /// Changes of leader.
    pub leader_changes: u64,
    /// Seconds of load,
    pub seconds_loaded: u64,
    /// and those without an answer.
    pub seconds_without_service: u64,
    /// The longest time without an answer, in milliseconds.
    pub gap_ms_max: u64,
    /// Time without service after a leader was taken away, by kind of fault, where no other fault overlapped.
    pub recovery: BTreeMap<String, Quantiles>,
    /// The same, whatever overlapped.
    pub recovery_overlapped: BTreeMap<String, Quantiles>,
}

/// A distribution in a few numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// How many.
    pub count: u64,
    /// The median, in milliseconds,
    pub p50: u64,
    /// what 99 % do not exceed,
    pub p99: u64,
    /// and the longest.
    pub max: u64,
}

impl Quantiles {
    fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let at = |part: f64| {
            let index = (values.len() as f64 * part).ceil() as usize;
            values.get(index.saturating_sub(1)).copied().unwrap_or(0)
        };
        Self { count: values.len() as u64, p50: at(0.5), p99: at(0.99), max: values.last().copied().unwrap_or(0) }
    }
}

/// Faults of one kind beside one workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Runs with both.
    pub runs: u64,
    /// Faults with an effect.
    pub faults: u64,
    /// Runs of them that are invalid.
    pub invalid: u64,
}

/// Workload → kind of fault → counts.
pub type Matrix = BTreeMap<String, BTreeMap<String, Cell>>;

/// Finds all runs in and below these directories.
pub fn read(dirs: &[PathBuf]) -> anyhow::Result<Vec<Run>> {
    let mut runs = Vec::new();
    for dir in dirs {
        anyhow::ensure!(dir.is_dir(), "{}: no directory", dir.display());
        find(dir, 0, &mut runs)?;
    }
    runs.sort_by(|a, b| a.dir.cmp(&b.dir));
    Ok(runs)
}

fn find(dir: &Path, depth: usize, runs: &mut Vec<Run>) -> anyhow::Result<()> {
    if let Some(run) = Run::read(dir)? {
        runs.push(run);
        return Ok(());
    }
    if depth < DEPTH_MAX {
        for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                find(&entry.path(), depth + 1, runs)?;
            }
        }
    }
    Ok(())
}

impl Run {
    /// The run in this directory, if it is one.
    pub fn read(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join("verdict.json");
        if path.exists() {
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            let value: Value = serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
            return Self::of(dir, &value).map(Some).with_context(|| path.display().to_string());
        }
        let began = ["schedule.json", "plan.json"].iter().any(|name| dir.join(name).exists());
        let unfinished = || Self {
            dir: dir.to_owned(),
            standing: Standing::Unfinished,
            reason: "no verdict: interrupted, or not over yet".into(),
            tally: Tally::default(),
        };
        Ok(began.then(unfinished))
    }

    /// From the contents of a `verdict.json`: of a workload, or of power cuts and kills.
    fn of(dir: &Path, value: &Value) -> anyhow::Result<Self> {
        let verdict: Verdict = serde_json::from_value(value["verdict"].clone()).context("no verdict")?;
        let tally = match value.get("tally") {
            Some(tally) => serde_json::from_value(tally.clone())?,
            None => of_crashes(value),
        };
        let failure = value["failure"].as_str().or(value["reason"].as_str()).unwrap_or_default();
        let told =
            tally.invalid.iter().chain(&tally.undecided).map(|(checker, what)| format!("{checker}: {what}")).next();
        let reason = match verdict {
            Verdict::Valid => String::new(),
            _ if !failure.is_empty() => failure.to_owned(),
            _ => told.unwrap_or_else(|| "too few operations were answered".into()),
        };
        let standing = match verdict {
            Verdict::Valid => Standing::Valid,
            Verdict::Invalid => Standing::Invalid,
            Verdict::Inconclusive if tally.is_unknown() => Standing::Unknown,
            Verdict::Inconclusive => Standing::Inconclusive,
        };
        Ok(Self { dir: dir.to_owned(), standing, reason, tally })
    }

    /// Its directory's name.
    pub fn name(&self) -> String {
        self.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// What was tested, shortly: by what the binary says of itself, else by its name.
    pub fn label(&self) -> String {
        let version = &self.tally.version;
        let file = Path::new(&self.tally.target).file_name().map(|name| name.to_string_lossy().into_owned());
        match version.split("etcd Version: ").nth(1).and_then(|rest| rest.split(',').next()) {
            _ if version.contains("kelson") => "kelson".into(),
            Some(number) => format!("etcd {number}"),
            None => file.unwrap_or_default(),
        }
    }

    /// What makes two runs of different targets comparable.
    fn plan(&self) -> (&str, u32, u64, u64, &[String]) {
        let tally = &self.tally;
        (&tally.workload, tally.members, tally.seed, tally.seconds, &tally.nemeses)
    }
}

/// The numbers of a run of `power-cut` or `kill`, under the same names.
fn of_crashes(value: &Value) -> Tally {
    let number = |path: &str| value.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let cuts = number("/power_cuts");
    let (workload, kind, count) = match cuts {
        0 => ("kill", "kill", number("/crashes")),
        cuts => ("power-cut", "power-cut", cuts),
    };
    let forgotten = Forgotten {
        members: cuts,
        pages_unsynced: number("/pages_dirty"),
        pages_lost: number("/pages_lost"),
        pages_torn: number("/pages_torn"),
        entries_lost: number("/entries_lost"),
    };
    let operations = number("/totals/operations");
    let faults = super::tally::Count { with_effect: count, without: 0, effect: count };
    let violation = value.pointer("/violations/0/text").and_then(Value::as_str);
    Tally {
        workload: workload.into(),
        members: 1,
        seed: number("/seed"),
        target: value["binary"].as_str().unwrap_or_default().into(),
        nemeses: vec![kind.into()],
        seconds_observed: number("/took_seconds"),
        operations,
        answered: number("/totals/acknowledged"),
        refused: number("/totals/refused"),
        unknown: number("/totals/unknown"),
        checked: BTreeMap::from([("revisions".to_owned(), operations)]),
        changes: number("/totals/events_checked"),
        cuts_with_loss: number("/cuts_with_loss"),
        faults: BTreeMap::from([(kind.to_owned(), faults)]),
        forgotten,
        invalid: violation.map(|text| ("durability".to_owned(), text.to_owned())).into_iter().collect(),
        ..Tally::default()
    }
}

/// Adds up.
pub fn totals<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Totals {
    let mut sum = Totals::default();
    let mut recoveries: Vec<&Recovery> = Vec::new();
    for run in runs {
        let tally = &run.tally;
        match run.standing {
            Standing::Valid => sum.valid += 1,
            Standing::Invalid => sum.invalid += 1,
            Standing::Unknown => sum.unknown += 1,
            Standing::Inconclusive => sum.inconclusive += 1,
            Standing::Unfinished => sum.unfinished += 1,
        }
        sum.runs += u64::from(run.standing != Standing::Unfinished);
        sum.hours += tally.seconds_observed as f64 / 3600.0;
        sum.operations += tally.operations;
        sum.checked += tally.checked.get("revisions").copied().unwrap_or(0);
        sum.answered += tally.answered;
        sum.refused += tally.refused;
        sum.unknown_outcomes += tally.unknown;
        sum.changes += tally.changes;
        sum.streams += tally.streams;
        sum.watch_events += tally.watch_events;
        sum.collected_events += tally.collected_events;
        for (kind, count) in &tally.faults {
            *sum.faults.entry(kind.clone()).or_default() += count.with_effect;
            sum.faults_with_effect += count.with_effect;
            sum.faults_without_effect += count.without;
        }
        sum.cuts_with_loss += tally.cuts_with_loss;
        sum.forgotten.add(&tally.forgotten);
        sum.leader_changes += tally.leader_changes;
        sum.seconds_loaded += tally.seconds_loaded;
        sum.seconds_without_service += tally.seconds_without_service;
        sum.gap_ms_max = sum.gap_ms_max.max(tally.gap_ms_max);
        recoveries.extend(&tally.recoveries);
    }
    sum.recovery = by_fault(recoveries.iter().copied().filter(|one| one.alone));
    sum.recovery_overlapped = by_fault(recoveries.iter().copied());
    sum
}

fn by_fault<'a>(recoveries: impl Iterator<Item = &'a Recovery>) -> BTreeMap<String, Quantiles> {
    let mut values: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    recoveries.for_each(|one| values.entry(one.fault.clone()).or_default().push(one.ms));
    values.into_iter().map(|(fault, values)| (fault, Quantiles::of(values))).collect()
}

/// Counts faults by workload and kind.
pub fn matrix<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Matrix {
    let mut matrix = Matrix::new();
    for run in runs.into_iter().filter(|run| run.standing != Standing::Unfinished) {
        let row = matrix.entry(run.tally.workload.clone()).or_default();
        for (kind, count) in &run.tally.faults {
            let cell = row.entry(kind.clone()).or_default();
            cell.runs += 1;
            cell.faults += count.with_effect;
            cell.invalid += u64::from(run.standing == Standing::Invalid);
        }
    }
    matrix
}

/// Runs by target, and where there are two or more targets, only those whose plan every one of them ran.
pub fn side_by_side(runs: &[Run]) -> BTreeMap<String, Vec<&Run>> {
    let mut targets: BTreeMap<String, Vec<&Run>> = BTreeMap::new();
    for run in runs.iter().filter(|run| !run.tally.workload.is_empty()) {
        targets.entry(run.label()).or_default().push(run);
    }
    if targets.len() < 2 {
        return BTreeMap::new();
    }
    let everywhere = |run: &Run| targets.values().all(|others| others.iter().any(|other| other.plan() == run.plan()));
    let common: Vec<&Run> = runs.iter().filter(|run| everywhere(run)).collect();
    targets
        .keys()
        .map(|label| (label.clone(), common.iter().copied().filter(|run| run.label() == *label).collect()))
        .collect()
}

/// The worst of all; interrupted runs prove nothing.
pub fn verdict(runs: &[Run]) -> Verdict {
    let of = |run: &Run| match run.standing {
        Standing::Valid => Verdict::Valid,
        Standing::Invalid => Verdict::Invalid,
        Standing::Unknown | Standing::Inconclusive | Standing::Unfinished => Verdict::Inconclusive,
    };
    match runs.is_empty() {
        true => Verdict::Inconclusive,
        false => runs.iter().map(of).fold(Verdict::Valid, Verdict::worse),
    }
}

/// Totals as pairs of a name and a value, for text and page.
pub fn lines(sum: &Totals) -> Vec<(&'static str, String)> {
    let forgotten = &sum.forgotten;
    let service = match sum.seconds_loaded {
        0 => String::from("no load"),
        all => format!(
            "{:.2} % of {all} s; without service {} s, at most {:.1} s in one piece",
            100.0 * (all - sum.seconds_without_service.min(all)) as f64 / all as f64,
            sum.seconds_without_service,
            sum.gap_ms_max as f64 / 1000.0
        ),
    };
    vec![
        (
            "runs",
            format!(
                "{}: {} valid, {} invalid, {} unknown, {} inconclusive; {} unfinished",
                sum.runs, sum.valid, sum.invalid, sum.unknown, sum.inconclusive, sum.unfinished
            ),
        ),
        ("hours", format!("{:.2}", sum.hours)),
        (
            "operations",
            format!(
                "{}, {} checked by revision; {} answered, {} refused, {} unknown",
                sum.operations, sum.checked, sum.answered, sum.refused, sum.unknown_outcomes
            ),
        ),
        (
            "watch events",
            format!(
                "{} on {} streams; {} from all members' collectors, of {} changes",
                sum.watch_events, sum.streams, sum.collected_events, sum.changes
            ),
        ),
        ("faults", format!("{} with an effect, {} without", sum.faults_with_effect, sum.faults_without_effect)),
        ("by kind", sum.faults.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")),
        (
            "power cuts",
            format!(
                "{} that lost pages; {} members cut, {} of {} unsynced pages lost, {} torn, {} directory changes undone",
                sum.cuts_with_loss,
                forgotten.members,
                forgotten.pages_lost,
                forgotten.pages_unsynced,
                forgotten.pages_torn,
                forgotten.entries_lost
            ),
        ),
        ("leader changes", sum.leader_changes.to_string()),
        ("service", service),
        ("leader taken away", recovery(&sum.recovery)),
        ("with other faults", recovery(&sum.recovery_overlapped)),
    ]
}

fn recovery(all: &BTreeMap<String, Quantiles>) -> String {
    let one = |(fault, q): (&String, &Quantiles)| {
        let seconds = |ms: u64| ms as f64 / 1000.0;
        format!(
            "{fault} {} times: answered after {:.1} s (median), {:.1} s (99 %), {:.1} s (longest)",
            q.count,
            seconds(q.p50),
            seconds(q.p99),
            seconds(q.max)
        )
    };
    match all.is_empty() {
        true => "never".into(),
        false => all.iter().map(one).collect::<Vec<_>>().join("; "),
    }
}

/// All of it for a terminal.
pub fn text(runs: &[Run]) -> String {
    let mut text = String::new();
    let mut line = |words: String| writeln!(text, "{words}").expect("a string takes everything");
    lines(&totals(runs)).iter().for_each(|(name, value)| line(format!("{name:<18} {value}")));
    let matrix = matrix(runs);
    let kinds: std::collections::BTreeSet<&String> = matrix.values().flat_map(BTreeMap::keys).collect();
    line(format!("\nfaults with an effect, by workload and kind (in brackets: runs)\n{:<11}{}", "", {
        kinds.iter().map(|kind| format!("{kind:>12}")).collect::<String>()
    }));
    for (workload, row) in &matrix {
        let cell = |kind: &&String| match row.get(*kind) {
            Some(cell) => format!("{:>12}", format!("{} ({})", cell.faults, cell.runs)),
            None => format!("{:>12}", "·"),
        };
        line(format!("{workload:<11}{}", kinds.iter().map(cell).collect::<String>()));
    }
    for (label, runs) in side_by_side(runs) {
        line(format!("\n{label}, plans that all targets ran"));
        lines(&totals(runs)).iter().for_each(|(name, value)| line(format!("  {name:<18} {value}")));
    }
    let bad: Vec<&Run> = runs.iter().filter(|run| run.standing != Standing::Valid).collect();
    if !bad.is_empty() {
        line("\nnot valid".into());
    }
    for run in bad.iter().take(NAMED_MAX) {
        let standing = format!("{:?}", run.standing).to_lowercase();
        line(format!("  {standing:<13} {:<24} {}", run.name(), run.reason.lines().next().unwrap_or_default()));
    }
    if bad.len() > NAMED_MAX {
        line(format!("  … and {} more", bad.len() - NAMED_MAX));
    }
    text
}

/// All of it as data.
pub fn json(runs: &[Run]) -> Value {
    let compared: BTreeMap<String, Totals> =
        side_by_side(runs).into_iter().map(|(label, runs)| (label, totals(runs))).collect();
    serde_json::json!({
        "totals": totals(runs),
        "matrix": matrix(runs),
        "side_by_side": compared,
        "runs": runs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tally::Count;

    fn run(name: &str, standing: Standing, version: &str, seed: u64) -> Run {
        let mut tally = Tally {
            workload: "register".into(),
            version: version.into(),
            seed,
            operations: 100,
            seconds_observed: 1800,
            cuts_with_loss: 1,
            forgotten: Forgotten { members: 2, pages_lost: 5, ..Forgotten::default() },
            ..Tally::default()
        };
        tally.faults.insert("kill".into(), Count { with_effect: 3, without: 1, effect: 4 });
        tally.recoveries.push(Recovery { fault: "kill".into(), ms: 1000 * seed, alone: seed.is_multiple_of(2) });
        Run { dir: name.into(), standing, reason: "why".into(), tally }
    }

    #[test]
    fn runs_add_up_and_nothing_is_hidden() {
        let mut runs: Vec<Run> = (1..=4).map(|seed| run("r", Standing::Valid, "", seed)).collect();
        runs.extend([run("u", Standing::Unknown, "", 5), run("i", Standing::Inconclusive, "", 6)]);
        assert_eq!(verdict(&runs), Verdict::Inconclusive);
        runs.push(run("bad", Standing::Invalid, "", 7));
        runs.push(Run { tally: Tally::default(), ..run("cut", Standing::Unfinished, "", 8) });
        let sum = totals(&runs);
        assert_eq!(
            (sum.runs, sum.valid, sum.invalid, sum.unknown, sum.inconclusive, sum.unfinished),
            (7, 4, 1, 1, 1, 1)
        );
        assert_eq!((sum.operations, sum.faults["kill"], sum.faults_without_effect), (700, 21, 7));
        assert_eq!((sum.cuts_with_loss, sum.forgotten.pages_lost), (7, 35));
        assert!((sum.hours - 3.5).abs() < 1e-9);
        assert_eq!(sum.recovery["kill"], Quantiles { count: 3, p50: 4000, p99: 6000, max: 6000 });
        assert_eq!(sum.recovery_overlapped["kill"].count, 7);
        assert_eq!(verdict(&runs), Verdict::Invalid);
        assert_eq!(matrix(&runs)["register"]["kill"], Cell { runs: 7, faults: 21, invalid: 1 });
        let text = text(&runs);
        for part in ["1 invalid", "unfinished", "bad", "register"] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        assert_eq!(json(&runs)["totals"]["invalid"], 1);
    }

    #[test]
    fn targets_are_compared_under_the_plans_that_both_ran() {
        let version = "etcd Version: 3.7.3, Git SHA: ";
        let ours = format!("{version}kelson-0.1.0");
        let runs = [
            run("a", Standing::Valid, &ours, 1),
            run("b", Standing::Valid, version, 1),
            run("c", Standing::Valid, &ours, 2),
        ];
        let compared = side_by_side(&runs);
        let names = |label: &str| compared[label].iter().map(|run| run.name()).collect::<Vec<_>>();
        assert_eq!((names("kelson"), names("etcd 3.7.3")), (vec!["a".to_owned()], vec!["b".to_owned()]));
        assert!(side_by_side(&runs[..1]).is_empty());
    }

    #[test]
    fn runs_of_both_kinds_are_found_in_directories_below() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, file: &str, text: &str| {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join(file), text).unwrap();
        };
        let crash = r#"{"verdict":"valid","reason":"","seed":3,"binary":"/x/etcd","crashes":5,"power_cuts":6,
            "pages_dirty":9,"pages_lost":7,"cuts_with_loss":4,"took_seconds":60,
            "totals":{"operations":50,"acknowledged":40,"events_checked":30}}"#;
        write("a/crash", "verdict.json", crash);
        write("a/cut-short", "schedule.json", "[]");
        write("b", "verdict.json", r#"{"verdict":"inconclusive","failure":"no bridge","tally":{"workload":"wr"}}"#);
        let runs = read(&[dir.path().to_owned()]).unwrap();
        let standings: Vec<Standing> = runs.iter().map(|run| run.standing).collect();
        assert_eq!(standings, [Standing::Valid, Standing::Unfinished, Standing::Inconclusive]);
        assert_eq!((runs[0].tally.forgotten.pages_lost, runs[0].tally.faults["power-cut"].with_effect), (7, 6));
        assert_eq!(runs[0].label(), "etcd");
        assert_eq!(runs[2].reason, "no bridge");
    }
}
