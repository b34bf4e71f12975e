//! Makes a run that came out invalid smaller, by running parts of its plan again and again: less time, fewer faults, then
//! fewer clients, keys and requests. Real processes differ from run to run, so each candidate is tried several times.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::suite::{Entry, one};
use crate::chaosfs::Directories;
use crate::history::files::{History, Plan};
use crate::nemesis::schedule::{LaneOf, Schedule, Step};
use crate::report::campaign::{Run, Standing};
use crate::report::{RunDir, Verdict};
use crate::shrink::{ddmin, lower};
use crate::target::Template;

/// The shortest load that is tried.
const SECONDS_MIN: u64 = 5;
/// The slowest one, in requests per second.
const RATE_MIN: u64 = 20;
/// Load after the last fault.
const TAIL_SECONDS: u64 = 3;
/// Quiet time before a fault that is tried instead of what was drawn, in milliseconds.
const WAIT_MS: u64 = 1000;

/// What to shrink, and how long.
pub struct Options {
    /// The server.
    pub template: Template,
    /// Directory rules of chaosfs.
    pub directories: Directories,
    /// The plan as it ran, with its schedule.
    pub entry: Entry,
    /// Checkers that called it invalid; a candidate fails when one of them does.
    pub checkers: Vec<String>,
    /// Tries of each candidate.
    pub tries: u32,
    /// No more candidates are run after this.
    pub budget: Duration,
    /// Where the smallest run goes.
    pub out: PathBuf,
}

/// A candidate: steps with their lanes, in the order in which they begin.
type Steps = Vec<(LaneOf, Step)>;

/// Runs candidates.
struct Trial {
    options: Options,
    started: Instant,
    candidates: usize,
    runs: usize,
    /// The smallest run that failed, with its plan.
    best: Option<(Entry, PathBuf)>,
}

/// Shrinks; valid when a smaller plan that fails was found (or the whole one at least), inconclusive when it never failed
/// again.
pub async fn run(options: Options) -> anyhow::Result<Verdict> {
    let out = options.out.clone();
    anyhow::ensure!(!out.exists(), "{} is there already", out.display());
    std::fs::create_dir_all(&out)?;
    let entry = options.entry.clone();
    let mut trial = Trial { options, started: Instant::now(), candidates: 0, runs: 0, best: None };
    println!("{}: does it fail again?", describe(&entry));
    if !trial.fails(entry).await? {
        println!("it did not fail again in {} tries", trial.runs);
        std::fs::remove_dir_all(&out)?;
        return Ok(Verdict::Inconclusive);
    }
    trial.shrink().await?;
    trial.keep(&out)
}

impl Trial {
    /// The smallest plan so far.
    fn best(&self) -> Entry {
        self.best.as_ref().map_or_else(|| self.options.entry.clone(), |(entry, _)| entry.clone())
    }

    async fn shrink(&mut self) -> anyhow::Result<()> {
        // Less time first: all that follows is faster then.
        self.shorten().await?;
        let entry = self.best();
        let steps = in_order(entry.schedule.as_ref().context("a schedule")?);
        ddmin(&steps, async |part: &[(LaneOf, Step)]| self.fails(with_steps(&entry, &steps, part)).await).await?;
        let entry = self.best();
        lower(u64::from(entry.clients), 1, async |clients| {
            let best = self.best();
            self.fails(Entry { clients: clients as u32, ..best }).await
        })
        .await?;
        if let Some(keys) = entry.workload.keys() {
            lower(entry.keys.unwrap_or(keys), 1, async |keys| {
                let best = self.best();
                self.fails(Entry { keys: Some(keys), ..best }).await
            })
            .await?;
        }
        lower(entry.rate, RATE_MIN, async |rate| {
            let best = self.best();
            self.fails(Entry { rate, ..best }).await
        })
        .await?;
        let closer = closer(self.best());
        if closer.time < self.best().time {
            self.fails(closer).await?;
        }
        self.shorten().await
    }

    /// Halves the load's time, without the faults that would come later.
    async fn shorten(&mut self) -> anyhow::Result<()> {
        let entry = self.best();
        lower(entry.time.as_secs(), SECONDS_MIN, async |seconds| {
            let best = self.best();
            self.fails(cut_off(&best, seconds)).await
        })
        .await?;
        Ok(())
    }

    /// Whether a candidate fails in one of its tries; then it is the best so far.
    async fn fails(&mut self, entry: Entry) -> anyhow::Result<bool> {
        if self.best.is_some() && self.started.elapsed() > self.options.budget {
            return Ok(false);
        }
        self.candidates += 1;
        for number in 1..=self.options.tries {
            self.runs += 1;
            let out = self.options.out.join(format!("try-{}", self.runs));
            let run = one(&self.options.template, self.options.directories, &entry, out.clone()).await?;
            let failed = run.standing == Standing::Invalid
                && (self.options.checkers.is_empty()
                    || run.tally.invalid.keys().any(|checker| self.options.checkers.contains(checker)));
            println!(
                "-- {} min, candidate {}, try {number}: {}: {}",
                self.started.elapsed().as_secs() / 60,
                self.candidates,
                describe(&entry),
                if failed { "fails" } else { "does not fail" }
            );
            if failed {
                if let Some((_, dir)) = self.best.replace((entry, out)) {
                    std::fs::remove_dir_all(dir)?;
                }
                return Ok(true);
            }
            std::fs::remove_dir_all(out)?;
        }
        Ok(false)
    }

    /// Brings the best run to its place.
    fn keep(self, out: &std::path::Path) -> anyhow::Result<Verdict> {
        let (entry, dir) = self.best.context("nothing failed")?;
        for file in std::fs::read_dir(&dir)? {
            let file = file?;
            std::fs::rename(file.path(), out.join(file.file_name()))?;
        }
        std::fs::remove_dir(&dir)?;
        let out = RunDir::open(out)?;
        // Its command named the schedule where it was.
        let mut plan: Plan = History::read_plan(out.path())?;
        let (before, after) = (dir.display().to_string(), out.path().display().to_string());
        plan.arguments.iter_mut().for_each(|word| *word = word.replace(&before, &after));
        plan.command = plan.command.replace(&before, &after);
        out.write_json("plan.json", &plan)?;
        let before = &self.options.entry;
        println!("\nbefore: {}\nafter:  {}", describe(before), describe(&entry));
        for (lane, step) in in_order(entry.schedule.as_ref().context("a schedule")?) {
            println!(
                "  {lane:?}: after {} ms {} of {:?}, held {} ms",
                step.wait_ms,
                step.kind.name(),
                step.whom,
                step.hold_ms
            );
        }
        println!("{} candidates, {} runs, {} s", self.candidates, self.runs, self.started.elapsed().as_secs());
        println!("jepsen replay {}", out.path().display());
        Ok(Verdict::Valid)
    }
}

/// The plan of a stored run: what it is told to run again, and what called it invalid.
pub fn checkers(dir: &std::path::Path) -> anyhow::Result<Vec<String>> {
    let run = Run::read(dir)?.with_context(|| format!("{}: no run", dir.display()))?;
    anyhow::ensure!(run.standing == Standing::Invalid, "{}: it is not invalid", dir.display());
    Ok(run.tally.invalid.into_keys().collect())
}

fn describe(entry: &Entry) -> String {
    let faults: usize = entry.schedule.iter().flatten().map(|(_, steps)| steps.len()).sum();
    format!(
        "{} on {} members, {faults} faults, {} clients, {} requests/s, {} s{}",
        entry.workload.name(),
        entry.members,
        entry.clients,
        entry.rate,
        entry.time.as_secs(),
        entry.keys.map_or(String::new(), |keys| format!(", {keys} keys"))
    )
}

/// All steps with the moments at which they begin, if nothing else takes time, in that order.
fn timed(schedule: &Schedule) -> Vec<(u64, LaneOf, Step)> {
    let mut all = Vec::new();
    for (lane, steps) in schedule {
        let mut now = 0;
        for step in steps {
            now += step.wait_ms;
            all.push((now, *lane, step.clone()));
            now += step.hold_ms;
        }
    }
    all.sort_by_key(|(time, ..)| *time);
    all
}

fn in_order(schedule: &Schedule) -> Steps {
    timed(schedule).into_iter().map(|(_, lane, step)| (lane, step)).collect()
}

/// The plan with a part of its steps. What is left out leaves its time behind, so that the rest comes when it came before.
fn with_steps(entry: &Entry, all: &Steps, part: &[(LaneOf, Step)]) -> Entry {
    let mut schedule: Schedule = Vec::new();
    for lane in LaneOf::ALL {
        let (mut steps, mut waited) = (Vec::new(), 0);
        for (_, step) in all.iter().filter(|(of, _)| *of == lane) {
            if part.iter().any(|(of, kept)| *of == lane && kept == step) {
                steps.push(Step { wait_ms: step.wait_ms + waited, ..step.clone() });
                waited = 0;
            } else {
                waited += step.wait_ms + step.hold_ms;
            }
        }
        schedule.push((lane, steps));
    }
    with_schedule(entry, schedule)
}

fn with_schedule(entry: &Entry, schedule: Schedule) -> Entry {
    let mut kinds: Vec<_> = schedule.iter().flat_map(|(_, steps)| steps).map(|step| step.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    Entry { kinds, schedule: Some(schedule), ..entry.clone() }
}

/// The plan until this second.
fn cut_off(entry: &Entry, seconds: u64) -> Entry {
    let schedule = entry.schedule.clone().unwrap_or_default();
    let begins = |lane: LaneOf, step: &Step| {
        timed(&schedule).iter().any(|(time, of, other)| *of == lane && other == step && *time < seconds * 1000)
    };
    let lanes = schedule
        .iter()
        .map(|(lane, steps)| (*lane, steps.iter().filter(|step| begins(*lane, step)).cloned().collect::<Vec<_>>()));
    Entry { time: Duration::from_secs(seconds), ..with_schedule(entry, lanes.collect()) }
}

/// The plan with its faults close together, and no more time than they need.
fn closer(entry: Entry) -> Entry {
    let mut schedule = entry.schedule.clone().unwrap_or_default();
    schedule.iter_mut().flat_map(|(_, steps)| steps).for_each(|step| step.wait_ms = step.wait_ms.min(WAIT_MS));
    let last = timed(&schedule).iter().map(|(time, _, step)| time + step.hold_ms).max().unwrap_or(0);
    let seconds = (last.div_ceil(1000) + TAIL_SECONDS).min(entry.time.as_secs());
    Entry { time: Duration::from_secs(seconds), ..with_schedule(&entry, schedule) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::schedule::{Kind as Nemesis, schedule};
    use crate::workload::Kind;

    fn entry() -> Entry {
        let time = Duration::from_secs(60);
        Entry {
            workload: Kind::Register,
            members: 3,
            kinds: Nemesis::ALL.to_vec(),
            time,
            seed: 1,
            clients: 10,
            rate: 500,
            readers: 0,
            keys: None,
            schedule: Some(schedule(&Nemesis::ALL, 1, time)),
        }
    }

    #[test]
    fn a_step_that_stays_comes_when_it_came_before() {
        let entry = entry();
        let all = timed(entry.schedule.as_ref().unwrap());
        let steps = in_order(entry.schedule.as_ref().unwrap());
        let kept: Steps = steps.iter().skip(4).step_by(5).cloned().collect();
        let smaller = with_steps(&entry, &steps, &kept);
        let times =
            |all: &[(u64, LaneOf, Step)]| all.iter().map(|(time, _, step)| (*time, step.seed)).collect::<Vec<_>>();
        let expected: Vec<(u64, u64)> =
            times(&all).into_iter().filter(|(_, seed)| kept.iter().any(|(_, step)| step.seed == *seed)).collect();
        assert_eq!(times(&timed(smaller.schedule.as_ref().unwrap())), expected);
        assert!(smaller.kinds.len() <= kept.len());
        assert!(with_steps(&entry, &steps, &[]).kinds.is_empty());
    }

    #[test]
    fn a_shorter_run_has_only_the_faults_that_begin_in_it() {
        let shorter = cut_off(&entry(), 10);
        let times = timed(shorter.schedule.as_ref().unwrap());
        assert!(!times.is_empty() && times.iter().all(|(time, ..)| *time < 10_000));
        assert_eq!(shorter.time, Duration::from_secs(10));
    }

    #[test]
    fn faults_move_together_and_the_end_with_them() {
        let few = cut_off(&entry(), 20);
        let close = closer(few.clone());
        assert!(close.time <= few.time);
        let last = timed(close.schedule.as_ref().unwrap()).last().unwrap().0;
        assert!(last <= timed(few.schedule.as_ref().unwrap()).last().unwrap().0);
    }
}
