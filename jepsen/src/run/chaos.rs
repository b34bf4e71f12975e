//! One workload on a cluster of our own that is broken meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::load;
use crate::chaosfs::Directories;
use crate::cluster::{self, Cluster};
use crate::nemesis::Nemesis;
use crate::nemesis::guard::Guard;
use crate::nemesis::lane::Lane;
use crate::nemesis::schedule::{Kind, Schedule, schedule};
use crate::report::{RunDir, Verdict};
use crate::target::Template;

/// All members of a new cluster answer within this.
const START_MAX: Duration = Duration::from_secs(60);
/// The schedule's file in a run's directory.
pub const SCHEDULE: &str = "schedule.json";
/// What a server writes when it panics.
const PANICS: [&str; 5] = ["panicked at", "\"msg\":\"panicked\"", "panic: ", "fatal error: ", "SIGSEGV"];
/// Lines of a log that are shown.
const PANIC_LINES_MAX: usize = 3;

/// What to run.
pub struct Options {
    /// The server.
    pub template: Template,
    /// How many members.
    pub members: u32,
    /// What is broken.
    pub kinds: Vec<Kind>,
    /// When and whom; `None` = as the seed chooses.
    pub schedule: Option<Schedule>,
    /// Directory rules of chaosfs, where it is needed.
    pub directories: Directories,
    /// The load. Its endpoints, nemeses and directory are set here.
    pub load: load::Options,
}

impl Options {
    /// The arguments that run the same again, given the directory of the run.
    fn arguments(&self, dir: &RunDir) -> Vec<String> {
        let kinds = self.kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(",");
        let (load, time) = (&self.load, format!("{}s", self.load.time.as_secs()));
        let rules = match self.directories {
            Directories::Strict => "strict",
            Directories::Journal => "journal",
        };
        let pairs = [
            ("--members", self.members.to_string()),
            ("--workload", load.kind.name().into()),
            ("--time", time),
            ("--seed", load.seed.to_string()),
            ("--clients", load.clients.to_string()),
            ("--rate", load.rate.to_string()),
            ("--readers", load.readers.to_string()),
            ("--deadline-ms", load.deadline.as_millis().to_string()),
            ("--dirs", rules.into()),
            ("--binary", self.template.binary.display().to_string()),
        ];
        let mut words = vec!["run".to_owned()];
        words.extend(pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        if !kinds.is_empty() {
            words.extend(["--nemesis".to_owned(), kinds]);
        }
        if let Some(keys) = load.keys {
            words.extend(["--keys".to_owned(), keys.to_string()]);
        }
        if self.schedule.is_some() {
            words.extend(["--schedule".to_owned(), dir.join(SCHEDULE).display().to_string()]);
        }
        words.extend(self.template.arguments.iter().map(|argument| format!("--etcd-args={argument}")));
        words.extend(self.template.environment.iter().map(|(name, value)| format!("--env={name}={value}")));
        if self.template.tls {
            words.push("--tls".into());
        }
        if load.serializable {
            words.push("--serializable-reads".into());
        }
        words
    }
}

/// Starts a cluster, runs the workload, breaks, mends, judges.
pub async fn run(options: Options) -> anyhow::Result<Verdict> {
    let name = format!("{}-{}", options.load.kind.name(), options.members);
    let dir = RunDir::create(options.load.out.as_deref(), &name, options.load.seed)?;
    let arguments = options.arguments(&dir);
    let Options { template, members, kinds, schedule: given, directories, mut load } = options;
    load.arguments = arguments;
    let schedule = given.unwrap_or_else(|| schedule(&kinds, load.seed, load.time));
    dir.write_json(SCHEDULE, &schedule)?;
    load.target = template.binary.display().to_string();
    (load.version, load.sha256) = (template.version(), template.sha256());
    let disks = kinds.iter().any(|kind| kind.needs_chaosfs()).then_some(directories);
    let clocks = kinds.contains(&Kind::Clock);
    let cluster = Arc::new(Cluster::new(cluster::Options { template, members, disks, clocks, dir: dir.clone() })?);
    cluster.start_all(START_MAX).await?;
    load.credentials = cluster.credentials().cloned();
    load.endpoints = (0..members).map(|member| cluster.url(member)).collect();
    load.kinds = kinds.iter().map(|kind| kind.name().to_owned()).collect();
    let at_work = Arc::new(());
    load.nemeses = vec![Box::new(Guard { cluster: cluster.clone(), at_work: at_work.clone() })];
    for (lane, steps) in schedule {
        let (cluster, at_work) = (cluster.clone(), at_work.clone());
        let nemesis: Box<dyn Nemesis> = Box::new(Lane { cluster, steps, lane, at_work });
        load.nemeses.push(nemesis);
    }
    drop(at_work);
    let mut history = load::record(load).await?;
    for (member, status, log) in cluster.ended() {
        history.faults.push(broken("ended by itself", member, format!("{status}: {log}"), history.plan.healed));
    }
    for member in 0..members {
        if let Some(text) = panics(&cluster.log(member))? {
            history.faults.push(broken("panic", member, text, history.plan.healed));
        }
    }
    history.write(dir.path())?;
    let verdict = load::conclude(&history, &dir)?;
    println!("{}", dir.path().display());
    Ok(verdict)
}

fn broken(what: &str, member: u32, evidence: String, at: u64) -> crate::history::files::Fault {
    let name = format!("{}{what}", crate::nemesis::BROKEN);
    crate::history::files::Fault {
        name,
        nodes: vec![member],
        start: at,
        end: at,
        evidence,
        effect: 1,
        ..Default::default()
    }
}

/// The first lines of a log that tell of a panic.
fn panics(log: &Path) -> std::io::Result<Option<String>> {
    let text = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
    let lines: Vec<&str> =
        text.lines().filter(|line| PANICS.iter().any(|word| line.contains(word))).take(PANIC_LINES_MAX).collect();
    Ok((!lines.is_empty()).then(|| lines.join(" | ")))
}
