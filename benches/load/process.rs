//! What Linux says about a process under load: the CPU time it has used and the memory it holds.

use std::fs;
use std::io;
use std::time::Duration;

/// CPU time of one or several processes since each started, threads that have ended included.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTime {
    /// In user mode.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
}

impl CpuTime {
    /// Sum over `pids`.
    ///
    /// # Errors
    /// When a process is gone or `/proc` cannot be read.
    pub fn of(pids: &[u32]) -> io::Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let (user, system) = ticks(&stat).ok_or_else(|| bad_proc(*pid, "stat"))?;
            sum.user += from_ticks(user);
            sum.system += from_ticks(system);
        }
        Ok(sum)
    }

    /// Used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self { user: self.user.saturating_sub(earlier.user), system: self.system.saturating_sub(earlier.system) }
    }

    /// User and kernel together.
    pub fn total(self) -> Duration {
        self.user + self.system
    }
}

/// Resident memory in bytes, now and at its highest, summed over `pids`.
///
/// # Errors
/// When a process is gone or `/proc` cannot be read.
pub fn memory_bytes(pids: &[u32]) -> io::Result<(u64, u64)> {
    let (mut now, mut peak) = (0, 0);
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        now += status_kib(&status, "VmRSS:").ok_or_else(|| bad_proc(*pid, "status"))? * 1024;
        peak += status_kib(&status, "VmHWM:").ok_or_else(|| bad_proc(*pid, "status"))? * 1024;
    }
    Ok((now, peak))
}

/// `utime` and `stime`: the 14th and 15th fields. The second is a name in brackets that may hold blanks.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_nanos(ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second()))
}

fn status_kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn bad_proc(pid: u32, file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/{file} is not as expected"))
}
