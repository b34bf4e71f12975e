//! What the kernel knows of the process, read from `/proc` when somebody asks. Where there is no `/proc`, the figures
//! stay at zero.

use std::fs;

use prometheus::{Counter, Gauge, IntGauge};

use super::Maker;

/// Figures of the process.
pub(super) struct Process {
    cpu_seconds: Counter,
    resident_bytes: IntGauge,
    virtual_bytes: IntGauge,
    virtual_max_bytes: Gauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    threads: IntGauge,
    start_time_seconds: Gauge,
    /// etcd's own names for the two figures about files.
    os_fd_used: IntGauge,
    os_fd_limit: IntGauge,
}

impl Process {
    pub(super) fn new(maker: &Maker) -> Self {
        let float = |name, help| maker.register(Gauge::new(name, help));
        Self {
            cpu_seconds: maker.register(Counter::new("process_cpu_seconds_total", "CPU time spent, in seconds.")),
            resident_bytes: maker.gauge("process_resident_memory_bytes", "Resident memory."),
            virtual_bytes: maker.gauge("process_virtual_memory_bytes", "Virtual memory."),
            virtual_max_bytes: float("process_virtual_memory_max_bytes", "Most virtual memory allowed."),
            open_fds: maker.gauge("process_open_fds", "Open file descriptors."),
            max_fds: maker.gauge("process_max_fds", "Most open file descriptors allowed."),
            threads: maker.gauge("process_threads", "Threads."),
            start_time_seconds: float("process_start_time_seconds", "Unix time of the start."),
            os_fd_used: maker.gauge("os_fd_used", "Open file descriptors."),
            os_fd_limit: maker.gauge("os_fd_limit", "Most open file descriptors allowed."),
        }
    }

    /// Reads everything anew. What cannot be read keeps its value.
    pub(super) fn refresh(&self) {
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(parse_stat) {
            let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
            let spent = stat.cpu_ticks as f64 / ticks_per_second;
            self.cpu_seconds.inc_by((spent - self.cpu_seconds.get()).max(0.0));
            self.virtual_bytes.set(stat.virtual_bytes);
            self.resident_bytes.set(stat.resident_pages * rustix::param::page_size() as i64);
            self.threads.set(stat.threads);
            if let Some(boot) = boot_time_seconds() {
                self.start_time_seconds.set(boot + stat.start_ticks as f64 / ticks_per_second);
            }
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // One of them reads the directory.
            let count = entries.count().saturating_sub(1) as i64;
            self.open_fds.set(count);
            self.os_fd_used.set(count);
        }
        let limit = |resource| rustix::process::getrlimit(resource).current;
        let files = limit(rustix::process::Resource::Nofile).map_or(i64::MAX, |files| files as i64);
        self.max_fds.set(files);
        self.os_fd_limit.set(files);
        self.virtual_max_bytes.set(limit(rustix::process::Resource::As).unwrap_or(u64::MAX) as f64);
    }
}

/// The fields of `/proc/self/stat` that are shown.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: i64,
    start_ticks: u64,
    virtual_bytes: i64,
    resident_pages: i64,
}

/// The program's name stands in brackets and may hold anything, so fields are counted after the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, after_name) = text.rsplit_once(')')?;
    let fields: Vec<_> = after_name.split_whitespace().collect();
    // The kernel counts from 1 and the first field here is its third.
    let field = |number: usize| fields.get(number - 3);
    let ticks = |number| field(number)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: ticks(14)? + ticks(15)?,
        threads: field(20)?.parse().ok()?,
        start_ticks: ticks(22)?,
        virtual_bytes: field(23)?.parse().ok()?,
        resident_pages: field(24)?.parse().ok()?,
    })
}

fn boot_time_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_brackets_does_not_shift_the_fields() {
        let text =
            "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 30 12 0 0 20 0 5 0 900 1000000 250 18446744073709551615";
        let expected =
            Stat { cpu_ticks: 42, threads: 5, start_ticks: 900, virtual_bytes: 1_000_000, resident_pages: 250 };
        assert_eq!(parse_stat(text), Some(expected));
    }

    #[test]
    fn a_cut_line_is_no_stat() {
        assert_eq!(parse_stat("7 (a) S 1 7"), None);
    }
}
