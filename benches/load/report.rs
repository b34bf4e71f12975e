//! What a run found out, for people and as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::histogram::Histogram;
use super::measure::Totals;
use super::options::Options;
use super::process::CpuTime;

/// The result of one run. All times in µs unless named otherwise.
#[derive(Serialize)]
pub struct Report {
    workload: String,
    clients: usize,
    conns: usize,
    keys: u64,
    value_bytes: usize,
    seconds: f64,
    operations: u64,
    operations_per_second: f64,
    errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_error: Option<String>,
    latency: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliveries: Option<Deliveries>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<Server>,
    client_cpu_per_operation: f64,
}

/// A histogram's usual figures.
#[derive(Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
    mean: f64,
}

/// Events that reached watchers.
#[derive(Serialize)]
struct Deliveries {
    count: u64,
    latency: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_cpu_per_delivery: Option<f64>,
}

/// The processes given by `--pid`.
#[derive(Serialize)]
struct Server {
    cpu_per_operation: f64,
    user_per_operation: f64,
    system_per_operation: f64,
    memory_bytes: u64,
    memory_peak_bytes: u64,
}

/// What was measured around the stage.
pub struct Measured {
    /// Length of the stage, from its first operation to the last answer.
    pub time: Duration,
    /// CPU time of the server's processes in it, and their memory (now, highest) after it.
    pub server: Option<(CpuTime, (u64, u64))>,
    /// CPU time of this process in it.
    pub client: CpuTime,
}

impl Report {
    /// Puts the counts and the measurements together.
    pub fn new(options: &Options, totals: Totals, measured: &Measured) -> Self {
        let per = |time: Duration, count: u64| time.as_secs_f64() * 1e6 / count.max(1) as f64;
        let operations = totals.operations;
        let server = measured.server.map(|(cpu, (memory_bytes, memory_peak_bytes))| Server {
            cpu_per_operation: per(cpu.total(), operations),
            user_per_operation: per(cpu.user, operations),
            system_per_operation: per(cpu.system, operations),
            memory_bytes,
            memory_peak_bytes,
        });
        let deliveries = (totals.deliveries.len() > 0).then(|| Deliveries {
            count: totals.deliveries.len(),
            latency: Latency::of(&totals.deliveries),
            server_cpu_per_delivery: measured.server.map(|(cpu, _)| per(cpu.total(), totals.deliveries.len())),
        });
        Self {
            workload: options.name.clone(),
            clients: options.clients,
            conns: options.conns,
            keys: options.keys,
            value_bytes: options.value_bytes,
            seconds: measured.time.as_secs_f64(),
            operations,
            operations_per_second: operations as f64 / measured.time.as_secs_f64(),
            errors: totals.errors,
            first_error: totals.first_error,
            latency: Latency::of(&totals.latency),
            deliveries,
            server,
            client_cpu_per_operation: per(measured.client.total(), operations),
        }
    }

    /// Whether anything failed, or nothing happened.
    pub fn is_failed(&self) -> bool {
        self.errors > 0 || self.operations == 0
    }
}

impl Latency {
    fn of(histogram: &Histogram) -> Self {
        let round = |micros: f64| (micros * 10.0).round() / 10.0;
        Self {
            p50: round(histogram.quantile_micros(0.5)),
            p99: round(histogram.quantile_micros(0.99)),
            p99_9: round(histogram.quantile_micros(0.999)),
            max: round(histogram.max_micros()),
            mean: round(histogram.mean_micros()),
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, p99_9, max, .. } = self;
        write!(f, "p50 {p50:.0} µs, p99 {p99:.0} µs, p99.9 {p99_9:.0} µs, max {max:.0} µs")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, clients, conns, operations, seconds, operations_per_second, errors, .. } = self;
        writeln!(f, "{workload}: {clients} clients on {conns} connections")?;
        writeln!(
            f,
            "  {operations} operations in {seconds:.2} s: {operations_per_second:.0} a second, {errors} errors"
        )?;
        if let Some(error) = &self.first_error {
            writeln!(f, "  first error: {error}")?;
        }
        writeln!(f, "  latency: {}", self.latency)?;
        if let Some(Deliveries { count, latency, server_cpu_per_delivery }) = &self.deliveries {
            writeln!(f, "  {count} deliveries: {latency}")?;
            if let Some(cpu) = server_cpu_per_delivery {
                writeln!(f, "  server CPU per delivery: {cpu:.2} µs")?;
            }
        }
        if let Some(server) = &self.server {
            writeln!(
                f,
                "  server CPU per operation: {:.1} µs (user {:.1}, system {:.1}); memory {:.1} MB, at most {:.1} MB",
                server.cpu_per_operation,
                server.user_per_operation,
                server.system_per_operation,
                server.memory_bytes as f64 / 1e6,
                server.memory_peak_bytes as f64 / 1e6,
            )?;
        }
        write!(f, "  client CPU per operation: {:.1} µs", self.client_cpu_per_operation)
    }
}
