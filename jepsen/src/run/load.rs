//! One workload against running servers: clients, readers, collectors, faults; the history; the judgement.
//!
//! It ends by itself: load for a fixed time, then a bounded wait until everything is read.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;

use super::reading::{collect, read};
use crate::check::finding::{Finding, Judgement};
use crate::check::judge::{explain, judge, worst};
use crate::check::liveness;
use crate::client::Client;
use crate::history::files::{History, Plan};
use crate::history::op::{Op, Outcome, Range, Reply, Request};
use crate::nemesis::{Nemesis, Windows};
use crate::report::tally::Tally;
use crate::report::{RunDir, Verdict};
use crate::rng::Rng;
use crate::tls::Credentials;
use crate::workload::script::{Script, Step};
use crate::workload::{Kind, reader};

/// A request without an answer after this long has an unknown outcome.
pub const DEADLINE: Duration = Duration::from_secs(3);
/// Final reads wait longer.
const FINAL_DEADLINE: Duration = Duration::from_secs(15);
/// Without an answer a client waits before it goes on, as its server may be gone.
const AFTER_UNKNOWN: Duration = Duration::from_millis(20);
/// Between two questions for a member's status.
const STATUS_EVERY: Duration = Duration::from_millis(500);
/// A run with fewer answered operations proves nothing.
const ANSWERED_MIN: usize = 20;
/// Clients' numbers of those who ask members for their status begin here,
const SAMPLERS_FROM: u32 = 10_000;
/// and of the final reads.
const FINALS_FROM: u32 = 30_000;
/// After all faults, how long members are asked whether they answer, and whether they agree.
const RECOVER_MAX: Duration = Duration::from_secs(40);
/// How often the harness looks whether it is woken in time,
const PULSE: Duration = Duration::from_millis(10);
/// and how late that is a second too busy: the heartbeat of leaders with default flags.
const LATE: Duration = Duration::from_millis(100);
/// A key that nobody writes.
const RECOVERED: &str = "\u{1}";
/// Readers are opened one after the other, so that some of them start behind a compaction.
const READER_STAGGER: Duration = Duration::from_millis(100);

/// What to run.
pub struct Options {
    /// The workload.
    pub kind: Kind,
    /// Members, as `http://host:port` or `https://host:port`.
    pub endpoints: Vec<String>,
    /// What clients show and believe, where members speak TLS.
    pub credentials: Option<Credentials>,
    /// What was started, for the report.
    pub target: String,
    /// What it says to `--version`, and the SHA-256 of its file; empty = not known.
    pub version: String,
    /// See above.
    pub sha256: String,
    /// Fixes the requests.
    pub seed: u64,
    /// How long clients work.
    pub time: Duration,
    /// How many clients.
    pub clients: u32,
    /// Requests per second, all clients together, at most.
    pub rate: u64,
    /// Watches beside them, where the workload has some.
    pub readers: usize,
    /// A client's request without an answer after this long has an unknown outcome; see [`DEADLINE`].
    pub deadline: Duration,
    /// Clients send reads as serializable ones, and they are judged as linearizable: nobody can pass.
    pub serializable: bool,
    /// Keys in use at one time, where the workload lets that be chosen; `None` = its own number.
    pub keys: Option<u64>,
    /// Who breaks things meanwhile.
    pub nemeses: Vec<Box<dyn Nemesis>>,
    /// Kinds of faults that each must have an effect, or the run proves nothing.
    pub kinds: Vec<String>,
    /// The command's arguments, to run it again.
    pub arguments: Vec<String>,
    /// The run's directory.
    pub out: Option<PathBuf>,
}

/// What all parts of a run share.
#[derive(Clone)]
pub struct Shared {
    started: Instant,
    ids: Arc<AtomicU64>,
    /// Numbers of streams.
    pub streams: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    stopped_at: Arc<AtomicU64>,
    /// The revision up to which everything must be shown in the end; 0 = not known yet.
    settled: Arc<AtomicI64>,
    /// The newest revision that an answer named.
    pub head: Arc<AtomicI64>,
    /// The newest revision up to which a collector has seen everything.
    pub collected: Arc<AtomicI64>,
    /// The revision before the run.
    pub base: i64,
    serializable: bool,
}

impl Shared {
    /// Nanoseconds since the run began.
    pub fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Whether the load is over.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The revision up to which everything must be shown, once the load is over and it is known.
    pub fn settled_at(&self) -> Option<i64> {
        Some(self.settled.load(Ordering::Relaxed)).filter(|head| *head > 0)
    }

    /// Whether the load is over for longer than this.
    pub fn overdue(&self, limit: Duration) -> bool {
        let stopped = self.stopped_at.load(Ordering::Relaxed);
        stopped > 0 && self.now() > stopped + limit.as_nanos() as u64
    }

    async fn send(&self, client: &Client, process: u32, node: u32, request: Request) -> Op {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        self.send_as(id, client, process, node, request).await
    }

    async fn send_as(&self, id: u64, client: &Client, process: u32, node: u32, request: Request) -> Op {
        let start = self.now();
        let outcome = match &request {
            Request::Range(range) if self.serializable && process < SAMPLERS_FROM => {
                client.call(&Request::Range(Range { serializable: true, ..range.clone() })).await
            }
            request => client.call(request).await,
        };
        let op = Op { id, process, node, start, end: self.now(), request, outcome };
        self.head.fetch_max(op.reply().map_or(0, |reply| reply.rev), Ordering::Relaxed);
        op
    }
}

/// Runs a workload, stores and judges its history.
pub async fn run(options: Options) -> anyhow::Result<Verdict> {
    let dir = RunDir::create(options.out.as_deref(), options.kind.name(), options.seed)?;
    let history = record(options).await?;
    history.write(dir.path())?;
    let verdict = conclude(&history, &dir)?;
    println!("{}", dir.path().display());
    Ok(verdict)
}

/// Judges a history and writes what came of it into its directory.
pub fn conclude(history: &History, dir: &RunDir) -> anyhow::Result<Verdict> {
    let mut findings = judge(history);
    explain(&mut findings, history);
    let answered = history.ops.iter().filter(|op| op.reply().is_some()).count();
    let verdict = match worst(&findings) {
        Judgement::Invalid => Verdict::Invalid,
        Judgement::Unknown => Verdict::Inconclusive,
        Judgement::Valid if answered < ANSWERED_MIN => Verdict::Inconclusive,
        Judgement::Valid => Verdict::Valid,
    };
    let tally = Tally::of(history, &findings);
    println!("{} with seed {}: {verdict:?}; {tally}", history.plan.workload, history.plan.seed);
    findings.iter().for_each(|finding| println!("  {finding}"));
    dir.write_json("verdict.json", &Outcomes { verdict, tally: &tally, findings: &findings })?;
    std::fs::write(dir.join("report.html"), crate::report::page::render(history, verdict, &findings))?;
    Ok(verdict)
}

#[derive(serde::Serialize)]
struct Outcomes<'a> {
    verdict: Verdict,
    tally: &'a Tally,
    findings: &'a [Finding],
}

/// Runs a workload and returns everything that was seen.
pub async fn record(options: Options) -> anyhow::Result<History> {
    let (mut clients, credentials) = (Vec::new(), options.credentials.as_ref());
    for endpoint in &options.endpoints {
        clients.push(Client::connect(endpoint, credentials, DEADLINE).await.with_context(|| endpoint.clone())?);
    }
    let base = clients[0].head().await?;
    let left = clients[0].everything_at(base).await?;
    anyhow::ensure!(left.is_empty(), "the store has {} keys; a run needs an empty one", left.len());
    let shared = Shared {
        started: Instant::now(),
        ids: Arc::new(AtomicU64::new(1)),
        streams: Arc::new(AtomicU64::new(1)),
        stop: Arc::default(),
        stopped_at: Arc::default(),
        settled: Arc::default(),
        head: Arc::new(AtomicI64::new(base)),
        collected: Arc::new(AtomicI64::new(base)),
        base,
        serializable: options.serializable,
    };
    let windows = Windows::new(shared.started, shared.collected.clone());
    let rng = Rng::new(options.seed);
    let nodes = clients.len() as u32;
    let own = async |node: u32| Client::connect(&options.endpoints[node as usize], credentials, DEADLINE).await;

    let pulse = tokio::spawn(pulse(shared.clone()));
    let mut collectors = JoinSet::new();
    let mut samplers = JoinSet::new();
    for node in 0..nodes {
        collectors.spawn(collect(own(node).await?, node, shared.clone()));
        samplers.spawn(sample(own(node).await?, node, shared.clone()));
    }
    let mut readers = JoinSet::new();
    let plans = reader::readers(options.kind, &mut rng.fork(2), options.readers);
    for (number, plan) in (0..).zip(plans) {
        let (client, node, shared) = (own(number % nodes).await?, number % nodes, shared.clone());
        readers.spawn(async move {
            tokio::time::sleep(READER_STAGGER * number).await;
            read(client, node, number, plan, shared).await
        });
    }
    let (stop_nemeses, stop) = tokio::sync::watch::channel(false);
    let mut nemeses = JoinSet::new();
    for nemesis in options.nemeses {
        nemeses.spawn(nemesis.run(windows.clone(), stop.clone()));
    }
    let broken = !nemeses.is_empty();
    let interval = Duration::from_nanos(1_000_000_000 * u64::from(options.clients.max(1)) / options.rate.max(1));
    let mut drivers = JoinSet::new();
    for process in 0..options.clients.max(1) {
        let script = options.kind.script_on(process, rng.fork(1000 + u64::from(process)), options.keys);
        let node = process % nodes;
        let client = own(node).await?.with_deadline(options.deadline);
        drivers.spawn(drive(script, client, process, node, interval, shared.clone()));
    }

    tokio::time::sleep(options.time).await;
    stop_nemeses.send_replace(true);
    while let Some(done) = nemeses.join_next().await {
        done.context("a nemesis panicked")?;
    }
    if let Some(why) = windows.failure() {
        anyhow::bail!("the harness failed: {why}");
    }
    let mut ops = Vec::new();
    let healed = if broken { shared.now() } else { 0 };
    if broken {
        ops.extend(recover(&clients, &shared).await);
    }
    shared.stop.store(true, Ordering::Relaxed);
    while let Some(done) = drivers.join_next().await {
        ops.extend(done.context("a client panicked")?);
    }
    while let Some(done) = samplers.join_next().await {
        ops.extend(done.context("a sampler panicked")?);
    }
    let finals = final_reads(&clients, options.kind, &shared, healed).await?;
    // What was answered beyond what members say in the end is not there: nobody waits for it, and checkers find it.
    let shown = finals.iter().filter(|op| matches!(op.request, Request::Range(_))).filter_map(Op::reply);
    let head = shown.map(|reply| reply.rev).max().unwrap_or(shared.head.load(Ordering::Relaxed));
    ops.extend(finals);
    shared.stopped_at.store(shared.now(), Ordering::Relaxed);
    shared.settled.store(head, Ordering::Relaxed);
    let busy = pulse.await.context("the pulse panicked")?;
    let (mut entries, mut streams, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(done) = collectors.join_next().await {
        let (collected, why) = done.context("a collector panicked")?;
        entries.extend(collected);
        missing.extend(why);
    }
    while let Some(done) = readers.join_next().await {
        streams.extend(done.context("a reader panicked")?);
    }
    // Without the whole order nothing can be judged; what only some members showed is only not compared.
    let gap = crate::history::stream::first_gap(base, head, &entries);
    if let Some(gap) = gap.filter(|_| !missing.is_empty()) {
        anyhow::bail!("the order of changes is incomplete from revision {gap} on: {}", missing.join("; "));
    }
    missing.iter().for_each(|why| eprintln!("jepsen: not compared: {why}"));
    ops.extend(windows.requests());
    ops.sort_by_key(|op| (op.end, op.id));
    streams.sort_by_key(|stream| stream.id);
    let plan = Plan {
        workload: options.kind.name().into(),
        seed: options.seed,
        nodes,
        clients: options.clients,
        rate: options.rate,
        seconds: options.time.as_secs(),
        target: options.target,
        command: format!("jepsen {}", options.arguments.join(" ")),
        base,
        nemeses: options.kinds,
        healed,
        arguments: options.arguments,
        version: options.version,
        sha256: options.sha256,
        busy,
    };
    Ok(History { plan, ops, streams, entries, faults: windows.faults() })
}

/// One client.
async fn drive(
    mut script: Box<dyn Script>,
    client: Client,
    process: u32,
    node: u32,
    interval: Duration,
    shared: Shared,
) -> Vec<Op> {
    let mut ops = Vec::new();
    let mut next = tokio::time::Instant::now();
    while !shared.stopped() {
        let id = shared.ids.fetch_add(1, Ordering::Relaxed);
        match script.next(id, shared.now()) {
            Step::Wait(nanoseconds) => tokio::time::sleep(Duration::from_nanos(nanoseconds)).await,
            Step::Note(request, start) => {
                let outcome = Outcome::Ok { out: Reply::default() };
                ops.push(Op { id, process, node, start, end: shared.now(), request, outcome });
            }
            Step::Send(request) => {
                let op = shared.send_as(id, &client, process, node, request).await;
                script.learn(&op);
                let failed = op.is_unknown() || op.is_refused();
                ops.push(op);
                if failed {
                    tokio::time::sleep(AFTER_UNKNOWN).await;
                }
                next = (next + interval).max(tokio::time::Instant::now() - interval);
                tokio::time::sleep_until(next).await;
            }
        }
    }
    ops
}

/// The seconds in which this machine was too busy.
async fn pulse(shared: Shared) -> Vec<u64> {
    const SECOND: u64 = 1_000_000_000;
    let mut busy = BTreeSet::new();
    while shared.settled_at().is_none() {
        let before = shared.now();
        tokio::time::sleep(PULSE).await;
        let now = shared.now();
        if now - before > (PULSE + LATE).as_nanos() as u64 {
            busy.extend(before / SECOND..=now / SECOND);
        }
    }
    busy.into_iter().collect()
}

async fn sample(client: Client, node: u32, shared: Shared) -> Vec<Op> {
    let mut ops = Vec::new();
    while !shared.stopped() {
        ops.push(shared.send(&client, SAMPLERS_FROM + node, node, Request::Status).await);
        tokio::time::sleep(STATUS_EVERY).await;
    }
    ops
}

/// Once everything is mended: asks each member until it answers a linearizable read. The clients go on meanwhile.
async fn recover(clients: &[Client], shared: &Shared) -> Vec<Op> {
    let mut ops = Vec::new();
    let started = Instant::now();
    for (node, client) in (0..).zip(clients) {
        loop {
            let op = shared.send(client, FINALS_FROM + node, node, Request::get(RECOVERED)).await;
            let answered = op.reply().is_some();
            ops.push(op);
            if answered || started.elapsed() > RECOVER_MAX {
                break;
            }
            tokio::time::sleep(STATUS_EVERY / 5).await;
        }
    }
    ops
}

/// Reads everything from every member, linearizably, and asks each for the hash of the newest revision: after faults
/// again and again, until all are equal. A member that does not answer is a failure of the harness, but after faults one
/// of the server, which `liveness` finds.
async fn final_reads(clients: &[Client], kind: Kind, shared: &Shared, healed: u64) -> anyhow::Result<Vec<Op>> {
    let mut ops = Vec::new();
    for (node, client) in (0..).zip(clients) {
        let client = client.clone().with_deadline(FINAL_DEADLINE);
        for request in kind.final_reads() {
            let op = shared.send(&client, FINALS_FROM + node, node, request).await;
            let answered = op.reply().is_some();
            anyhow::ensure!(answered || healed > 0, "node {node} does not answer in the end: {:?}", op.outcome);
            ops.push(op);
        }
    }
    let head = shared.head.load(Ordering::Relaxed);
    let asked_from = shared.now();
    loop {
        let before = ops.len();
        for (node, client) in (0..).zip(clients) {
            ops.push(shared.send(client, FINALS_FROM + node, node, Request::HashKv(head)).await);
        }
        let late = shared.now() > asked_from + RECOVER_MAX.as_nanos() as u64;
        let (round, members) = (&ops[before..], clients.len());
        let settled = liveness::equal_hashes(round, members) || liveness::hashes_never_equal(round);
        if healed == 0 || late || settled {
            return Ok(ops);
        }
        tokio::time::sleep(STATUS_EVERY).await;
    }
}
