//! The directory of a run, its progress lines and its verdict.

pub mod campaign;
pub mod overview;
pub mod page;
mod picture;
pub mod tally;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::check::Violation;
use crate::check::durability::Totals;

/// What a run says in the end; its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is wrong, and the faults really took effect.
    Valid,
    /// A promise was broken.
    Invalid,
    /// Nothing was found, but the run proves nothing: too few faults, or the harness failed.
    Inconclusive,
}

impl Verdict {
    /// 0, 1 or 2.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Valid => 0,
            Self::Invalid => 1,
            Self::Inconclusive => 2,
        }
    }

    /// The worse of two: invalid, then inconclusive, then valid.
    pub fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Invalid, _) | (_, Self::Invalid) => Self::Invalid,
            (Self::Inconclusive, _) | (_, Self::Inconclusive) => Self::Inconclusive,
            _ => Self::Valid,
        }
    }
}

/// What happened at one crash.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CutReport {
    /// From 1.
    pub number: usize,
    /// Milliseconds of load before it.
    pub load_ms: u64,
    /// The probability that an unsynced page survived; `None` for a kill.
    pub keep: Option<f64>,
    /// Milliseconds that syncs hung before it.
    pub hold_ms: u64,
    /// Power cuts in it: one, or two with an interrupted start.
    pub cuts: u32,
    /// See [`Cut`](crate::chaosfs::Cut); sums over the cuts in it.
    pub pages_dirty: u64,
    /// See there.
    pub pages_lost: u64,
    /// See there.
    pub pages_torn: u64,
    /// See there.
    pub entries_lost: u64,
    /// Requests answered since the crash before.
    pub acknowledged: u64,
    /// Requests without an outcome since then.
    pub unknown: u64,
    /// Milliseconds from the start of the process to its first answer.
    pub start_ms: u64,
    /// Milliseconds to read and check everything.
    pub check_ms: u64,
    /// The revision after the restart.
    pub head: i64,
}

/// The end of a run, as `verdict.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// What it says.
    pub verdict: Verdict,
    /// Why it is not valid, in a line.
    pub reason: String,
    /// The command that ran.
    pub command: String,
    /// The seed of its plan.
    pub seed: u64,
    /// The binary under test.
    pub binary: PathBuf,
    /// Crashes planned and done.
    pub crashes_planned: usize,
    /// Done.
    pub crashes: usize,
    /// Power cuts, those during a start included.
    pub power_cuts: u64,
    /// Crashes that lost at least a page.
    pub cuts_with_loss: u64,
    /// Sums over all of them.
    pub pages_dirty: u64,
    /// Unsynced pages that were lost.
    pub pages_lost: u64,
    /// Unsynced pages that were torn.
    pub pages_torn: u64,
    /// Directory changes that were undone.
    pub entries_lost: u64,
    /// Longest start, in milliseconds.
    pub start_ms_max: u64,
    /// Counts of requests and checks.
    pub totals: Totals,
    /// What is wrong.
    pub violations: Vec<Violation>,
    /// Seconds.
    pub took_seconds: u64,
}

/// The directory that a run leaves.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Makes it: as given, or `runs/<name>-<time>-<seed>` below the harness' directory.
    pub fn create(out: Option<&Path>, name: &str, seed: u64) -> io::Result<Self> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("runs").join(format!("{name}-{seconds}-{seed}"));
        let path = out.map_or_else(default, Path::to_owned);
        let made = std::fs::create_dir_all(&path).and_then(|()| path.canonicalize());
        made.map(Self).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    /// One that is there already.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(path.canonicalize()?))
    }

    /// A file or directory in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a value as JSON, whole.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(self.join(name))?);
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        file.flush()
    }

    /// Writes JSON lines, whole.
    pub fn write_lines<T: Serialize>(&self, name: &str, items: &[T]) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(self.join(name))?);
        crate::history::write_lines(&mut file, items)?;
        file.flush()
    }

    /// Removes a file of an earlier part of the run, if it is there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The command line as it was typed.
pub fn command_line() -> String {
    std::env::args().collect::<Vec<_>>().join(" ")
}
