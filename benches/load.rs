//! A load generator for any server of etcd's v3 API: `cargo bench --bench load -- --help`.
//!
//! It measures what the server spends on an operation, so it must not be what is measured: one thread, HTTP/2 without
//! a gRPC library, requests encoded by hand, answers looked at only as far as needed to know that they are right.
//! `benches/compare.py` runs it against kelson and etcd side by side.

#[path = "load/client.rs"]
mod client;
#[path = "load/grpc.rs"]
mod grpc;
#[path = "load/histogram.rs"]
mod histogram;
#[path = "load/measure.rs"]
mod measure;
#[path = "load/options.rs"]
mod options;
#[path = "load/process.rs"]
mod process;
#[path = "load/report.rs"]
mod report;
#[path = "load/watchers.rs"]
mod watchers;
#[path = "load/wire.rs"]
mod wire;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kelson::clock::Clock;

use client::Client;
use grpc::Channel;
use measure::{Bounds, Counter, Stage};
use options::{Options, Workload};
use process::CpuTime;
use report::{Measured, Report};
use watchers::Watchers;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A run that is bounded by `--requests` alone still ends after this.
const TIME_MAX: Duration = Duration::from_secs(600);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let Some(options) = Options::from_args() else {
        return ExitCode::SUCCESS;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Error::from).and_then(|runtime| runtime.block_on(run(Arc::new(options)))) {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One whole run: connect, prepare, warm up, measure, report. Returns whether anything failed.
async fn run(options: Arc<Options>) -> Result<bool, Error> {
    let clock = Clock::system();
    let counter = Counter::new();
    let mut channels = Vec::new();
    for _ in 0..options.conns {
        channels.push(Channel::connect(options.endpoint).await?);
    }
    let watched = matches!(options.workload, Workload::WatchFanOut | Workload::WatchPrefixes | Workload::PutWatched);
    let (watchers, readers) = if watched {
        let (watchers, readers) = watch(&options, &clock, &counter).await?;
        (Some(watchers), Some(readers))
    } else {
        (None, None)
    };
    let mut clients = Vec::new();
    for id in 0..options.clients {
        let channel = channels[id % channels.len()].clone();
        clients.push(Client::prepare(&options, &clock, channel, id as u64, watchers.clone()).await?);
    }

    let (warm_up, bounds) = bounds(&options);
    if let Some(warm_up) = warm_up {
        clients = stage(clients, &watchers, Stage::start(&clock, warm_up), &counter).await?;
        let warmed = counter.take();
        if warmed.errors > 0 {
            return Err(format!("in the warm-up: {}", warmed.first_error.unwrap_or_default()).into());
        }
    }

    let progress =
        std::io::stderr().is_terminal().then(|| tokio::spawn(progress(options.name.clone(), counter.clone())));
    let this_process = [std::process::id()];
    let (server_before, client_before) = (CpuTime::of(&options.pids)?, CpuTime::of(&this_process)?);
    let started = clock.now();
    clients = stage(clients, &watchers, Stage::start(&clock, bounds), &counter).await?;
    let measured = Measured {
        time: clock.now() - started,
        server: if options.pids.is_empty() {
            None
        } else {
            Some((CpuTime::of(&options.pids)?.since(server_before), process::memory_bytes(&options.pids)?))
        },
        client: CpuTime::of(&this_process)?.since(client_before),
    };
    if let Some(progress) = progress {
        progress.abort();
        eprint!("\r\x1b[K");
    }

    let report = Report::new(&options, counter.take(), &measured);
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    if let Some(readers) = readers {
        readers.stop();
    }
    for client in clients {
        client.close().await?;
    }
    Ok(report.is_failed())
}

/// The watchers have connections of their own.
async fn watch(
    options: &Arc<Options>,
    clock: &Clock,
    counter: &Counter,
) -> Result<(Watchers, watchers::Readers), Error> {
    let mut channels = Vec::new();
    for _ in 0..options.watch_conns {
        channels.push(Channel::connect(options.endpoint).await?);
    }
    Ok(Watchers::create(options, clock, &channels, counter).await?)
}

/// The warm-up, if the workload can be repeated, and the measured stage.
fn bounds(options: &Options) -> (Option<Bounds>, Bounds) {
    if options.workload == Workload::Fill {
        let operations = options.keys.div_ceil(options.batch);
        return (None, Bounds { time: TIME_MAX, operations, rate: options.rate });
    }
    let time = if options.requests.is_some() { TIME_MAX } else { options.time };
    let measured = Bounds { time, operations: options.requests.unwrap_or(u64::MAX), rate: options.rate };
    let warm_up = Bounds { time: options.warm_up, operations: u64::MAX, rate: options.rate };
    ((!options.warm_up.is_zero()).then_some(warm_up), measured)
}

/// Runs all clients through one stage and waits until its last event has been delivered.
async fn stage(
    clients: Vec<Client>,
    watchers: &Option<Watchers>,
    stage: Arc<Stage>,
    counter: &Counter,
) -> Result<Vec<Client>, Error> {
    let running: Vec<_> =
        clients.into_iter().map(|client| tokio::spawn(client.run(Arc::clone(&stage), counter.clone()))).collect();
    let mut done = Vec::with_capacity(running.len());
    for client in running {
        done.push(client.await?);
    }
    if let Some(watchers) = watchers {
        watchers.all_delivered().await;
    }
    Ok(done)
}

/// Shows the counts on a terminal until it is aborted.
async fn progress(name: String, counter: Counter) {
    let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        interval.tick().await;
        let (operations, p50) = {
            let totals = counter.lock();
            (totals.operations, totals.latency.quantile_micros(0.5))
        };
        let line = format!("\r\x1b[K{name}: {operations} operations, p50 {p50:.0} µs");
        if std::io::stderr().write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}
