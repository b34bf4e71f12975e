//! The run: both servers take each step, the answers are settled and compared, differences are told with what led there.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Client;
use crate::generator::Generator;
use crate::options::Options;
use crate::process::Process;
use crate::random::Random;
use crate::schema::Schema;
use crate::session::Session;
use crate::step::Step;
use crate::{allowed, diff, spoil};

/// Steps shown before a difference.
const STEPS_SHOWN: usize = 12;
const PROGRESS_EVERY: u64 = 500;
/// How long a process that lost its connection may take to end.
const END_PAUSE: Duration = Duration::from_secs(1);

/// One comparison of two servers.
struct Run<'a> {
    options: &'a Options,
    servers: [Process; 2],
    sessions: [Session; 2],
    /// The last steps, with their position.
    recent: VecDeque<(u64, Step)>,
    taken: u64,
    kinds: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    settled: BTreeMap<&'static str, u64>,
    differences: usize,
    /// Set when the two stores are no longer at the same revision; all that follows would differ.
    diverged: bool,
    /// Chooses what to spoil; its own, so that planting does not change the steps.
    planting: Random,
    planted: usize,
    recorded: Vec<String>,
}

/// Runs as the options say; an error is a difference, or that a server failed.
pub async fn run(options: &Options) -> Result<(), String> {
    let schema = Arc::new(Schema::load());
    let (name, binary) = &options.candidate;
    let etcd = Process::start("etcd", &options.etcd, &schema).await?;
    let candidate = Process::start(name, binary, &schema).await?;
    let sessions = [begin(&etcd, &schema).await?, begin(&candidate, &schema).await?];
    println!("comparing {name} with etcd: --requests {} --seed {}", options.requests, options.seed);
    let mut run = Run {
        options,
        servers: [etcd, candidate],
        sessions,
        recent: VecDeque::new(),
        taken: 0,
        kinds: BTreeMap::new(),
        errors: BTreeMap::new(),
        settled: BTreeMap::new(),
        differences: 0,
        diverged: false,
        planting: Random::new(!options.seed),
        planted: 0,
        recorded: Vec::new(),
    };
    // A fixture of megabytes helps nobody.
    let with_large = options.record.is_none();
    let mut generator = Generator::new(schema, options.seed, with_large);
    while run.taken < options.requests && !run.is_over() {
        let step = generator.next();
        let answer = run.take(&step).await?;
        generator.learn(&step, &answer);
        if options.hash && !run.is_over() {
            run.take(&Step::Call { method: "Maintenance/HashKV".to_owned(), message: json!({}) }).await?;
        }
    }
    for step in generator.finish() {
        if !run.is_over() {
            run.take(&step).await?;
        }
    }
    run.finish()
}

async fn begin(server: &Process, schema: &Arc<Schema>) -> Result<Session, String> {
    let client = Client::connect(&server.endpoint, Arc::clone(schema)).await;
    Session::begin(client.map_err(|error| format!("{}: {error}", server.name))?).await
}

impl Run<'_> {
    fn is_over(&self) -> bool {
        self.options.plant.is_none() && (self.diverged || self.differences >= self.options.differences_max)
    }

    /// One step on both servers; returns etcd's answer.
    async fn take(&mut self, step: &Step) -> Result<Value, String> {
        self.taken += 1;
        self.recent.push_back((self.taken, step.clone()));
        if self.recent.len() > STEPS_SHOWN {
            self.recent.pop_front();
        }
        let [one, two] = &mut self.sessions;
        let (mut etcd, mut kelson) = tokio::join!(one.take(step), two.take(step));
        self.check_alive([&etcd, &kelson]).await?;
        self.count(step, &etcd);
        if let Some(broken) =
            ["timeout", "violations", "violation", "ended"].iter().find(|name| etcd.get(name).is_some())
        {
            let told = self.recent.iter().map(told).collect::<Vec<_>>().join("\n");
            return Err(format!(
                "etcd itself does not hold what is expected of any server: {broken} in {etcd}\n{told}"
            ));
        }
        if self.options.record.is_some() {
            self.recorded.push(json!({"step": step, "answer": etcd}).to_string());
        }
        let answer = etcd.clone();
        let spoil = self.options.plant.is_some_and(|plant| self.planting.next().is_multiple_of(plant));
        if spoil {
            self.planted += 1;
            spoil::spoil(&mut kelson, &mut self.planting);
        }
        for reason in allowed::settle(step, &mut etcd, &mut kelson) {
            *self.settled.entry(reason).or_default() += 1;
        }
        let found = diff::differences(&etcd, &kelson);
        if found.is_empty() == spoil {
            self.tell(&found, &etcd, &kelson);
        }
        let revision = |answer: &Value| answer["ok"]["header"]["revision"].as_i64();
        if !found.is_empty() && !spoil && revision(&etcd) != revision(&kelson) {
            self.diverged = true;
            println!("the revisions differ: the run stops here");
        }
        if std::io::stdout().is_terminal() && self.taken.is_multiple_of(PROGRESS_EVERY) {
            print!("\r\x1b[K{} of {}\r", self.taken, self.options.requests);
            std::io::stdout().flush().map_err(|error| error.to_string())?;
        }
        Ok(answer)
    }

    /// A server that has ended is no difference but the end of the run.
    async fn check_alive(&mut self, answers: [&Value; 2]) -> Result<(), String> {
        for (server, answer) in self.servers.iter_mut().zip(answers) {
            if answer["error"]["message"] == "transport error" {
                // The connection breaks before the process is gone.
                tokio::time::sleep(END_PAUSE).await;
            }
            if server.has_ended() {
                let told = self.recent.iter().map(told).collect::<Vec<_>>().join("\n");
                let last = json!(self.recent.back().map(|(_, step)| step));
                let log = server.log_end();
                return Err(format!(
                    "{} ended: {answer}\n{told}\nthe last one in full: {last}\nits log:\n{log}",
                    server.name
                ));
            }
        }
        Ok(())
    }

    fn count(&mut self, step: &Step, answer: &Value) {
        *self.kinds.entry(kind(step).to_owned()).or_default() += 1;
        if let Some(message) = answer["error"]["message"].as_str() {
            *self.errors.entry(message.to_owned()).or_default() += 1;
        }
    }

    /// A difference, or a planted one that was not seen, with the steps that led there.
    fn tell(&mut self, found: &[String], etcd: &Value, kelson: &Value) {
        self.differences += 1;
        println!("\ndifference {} at step {}:", self.differences, self.taken);
        self.recent.iter().for_each(|step| println!("  {}", told(step)));
        println!("  the last one in full: {}", json!(self.recent.back().map(|(_, step)| step)));
        println!("  etcd:   {}", diff::shown(etcd));
        println!("  {}: {}", self.options.candidate.0, diff::shown(kelson));
        found.iter().for_each(|line| println!("    {line}"));
        let full = std::env::temp_dir().join(format!("kelson-differential-{}.json", self.differences));
        if let Err(error) = fs::write(&full, json!({"etcd": etcd, "other": kelson}).to_string()) {
            println!("    {}: {error}", full.display());
        } else {
            println!("    both answers in full: {}", full.display());
        }
        if found.is_empty() {
            println!("    this answer was spoiled on purpose, and nothing was found");
        }
    }

    fn finish(self) -> Result<(), String> {
        println!("{} steps:", self.taken);
        self.kinds.iter().for_each(|(kind, count)| println!("  {count:6} {kind}"));
        println!("errors answered by etcd:");
        self.errors.iter().for_each(|(message, count)| println!("  {count:6} {message}"));
        println!("allowed differences:");
        self.settled.iter().for_each(|(reason, count)| println!("  {count:6} {reason}"));
        if let Some(path) = &self.options.record {
            fs::write(path, self.recorded.join("\n") + "\n").map_err(|error| format!("{}: {error}", path.display()))?;
        }
        if let Some(plant) = self.options.plant {
            println!("{} answers spoiled, one in {plant}: all others are to be equal, and these are not", self.planted);
        }
        if self.differences == 0 {
            println!("{}", if self.options.plant.is_some() { "so it is" } else { "no differences" });
            return Ok(());
        }
        Err(format!(
            "{} differences; repeat with KELSON_DIFFERENTIAL=1 cargo test --test differential -- --requests {} --seed {}",
            self.differences, self.taken, self.options.seed
        ))
    }
}

fn told((position, step): &(u64, Step)) -> String {
    format!("{position:6} {}", diff::shown(&json!(step)))
}

/// What kind of step it is, for the statistics.
fn kind(step: &Step) -> &str {
    match step {
        Step::Call { method, .. } => method,
        Step::RangeStream(_) => "KV/RangeStream",
        Step::KeepAlive(_) => "Lease/LeaseKeepAlive",
        Step::GrantAndRevoke(_) => "Lease/LeaseGrant, revoked at once",
        Step::WatchOpen(_) => "watch: open",
        Step::WatchCreate { .. } => "watch: create",
        Step::WatchCancel { .. } => "watch: cancel",
        Step::WatchSync { .. } => "watch: sync",
        Step::WatchClose(_) => "watch: close",
    }
}
