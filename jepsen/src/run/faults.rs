//! The list of disk situations, one check each, against one member: `jepsen faults`.
//!
//! Each check writes, does one thing to the disk, and says what was expected and what was seen. What is left afterwards
//! is judged by the same ledger as after a crash.

mod damage;
mod device;
mod stage;

use std::path::PathBuf;

use serde::Serialize;

use crate::report::{RunDir, Verdict};
use crate::target::Template;

/// What came of one check.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// As expected?
    pub verdict: Verdict,
    /// What happened.
    pub observed: String,
}

impl Finding {
    fn valid(observed: impl Into<String>) -> Self {
        Self { verdict: Verdict::Valid, observed: observed.into() }
    }

    fn invalid(observed: impl Into<String>) -> Self {
        Self { verdict: Verdict::Invalid, observed: observed.into() }
    }

    fn inconclusive(observed: impl Into<String>) -> Self {
        Self { verdict: Verdict::Inconclusive, observed: observed.into() }
    }
}

/// The situations, in the order they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Situation {
    /// `ENOSPC` while writing.
    FullDisk,
    /// One sync fails with `EIO`.
    OneFailedSync,
    /// Every sync fails with `EIO`.
    AllSyncsFail,
    /// One write fails with `EIO`.
    OneFailedWrite,
    /// Syncs take 300 ms.
    SlowSync,
    /// A read-only file system at start.
    ReadOnly,
    /// The last sector of the last record was never written.
    TornTail,
    /// A log file ends in the middle of acknowledged records.
    TruncatedSegment,
    /// One bit of an acknowledged record is wrong.
    FlippedBit,
    /// One bit wrong anywhere in the data directory, many times.
    BitRot,
    /// A second process on the directory of a running one.
    SecondProcess,
}

impl Situation {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::FullDisk,
        Self::OneFailedSync,
        Self::AllSyncsFail,
        Self::OneFailedWrite,
        Self::SlowSync,
        Self::ReadOnly,
        Self::TornTail,
        Self::TruncatedSegment,
        Self::FlippedBit,
        Self::BitRot,
        Self::SecondProcess,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::FullDisk => "full-disk",
            Self::OneFailedSync => "one-failed-sync",
            Self::AllSyncsFail => "all-syncs-fail",
            Self::OneFailedWrite => "one-failed-write",
            Self::SlowSync => "slow-sync",
            Self::ReadOnly => "read-only",
            Self::TornTail => "torn-tail",
            Self::TruncatedSegment => "truncated-segment",
            Self::FlippedBit => "flipped-bit",
            Self::BitRot => "bit-rot",
            Self::SecondProcess => "second-process",
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::FullDisk => "writes are refused or the process ends; after more space and a restart all is there",
            Self::OneFailedSync | Self::AllSyncsFail => {
                "the process ends, nothing is answered after the failure; after a power cut all answered is there"
            }
            Self::OneFailedWrite => "the process ends or refuses; after a power cut all answered is there",
            Self::SlowSync => "writes are slow, none is answered before its sync, all is there after a power cut",
            Self::ReadOnly => "the process ends with an error and never answers",
            Self::TornTail => "it starts; all but the torn write is there, whole",
            Self::TruncatedSegment => "it refuses to start and names the file",
            Self::FlippedBit => "it refuses to start and names the file and the offset",
            Self::BitRot => "it refuses to start, or shows everything as it was answered",
            Self::SecondProcess => "the second never answers, the first goes on",
        }
    }

    async fn check(self, template: &Template, dir: &RunDir) -> anyhow::Result<Finding> {
        let log = dir.join(&format!("{}.log", self.name()));
        match self {
            Self::FullDisk => device::full_disk(template, log).await,
            Self::OneFailedSync => device::failed_sync(template, log, false).await,
            Self::AllSyncsFail => device::failed_sync(template, log, true).await,
            Self::OneFailedWrite => device::failed_write(template, log).await,
            Self::SlowSync => device::slow_sync(template, log).await,
            Self::ReadOnly => device::read_only(template, log).await,
            Self::TornTail => damage::torn_tail(template, log).await,
            Self::TruncatedSegment => damage::truncated_segment(template, log).await,
            Self::FlippedBit => damage::flipped_bit(template, log).await,
            Self::BitRot => damage::bit_rot(template, log).await,
            Self::SecondProcess => damage::second_process(template, log).await,
        }
    }
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Row {
    situation: &'static str,
    expected: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

/// Tries these situations one after the other. Invalid if one is, else inconclusive if one is.
pub async fn run(template: Template, situations: &[Situation], out: Option<PathBuf>) -> anyhow::Result<Verdict> {
    let dir = RunDir::create(out.as_deref(), "faults", 0)?;
    println!("disk situations for {}: {}", template.binary.display(), dir.path().display());
    let mut rows = Vec::new();
    for situation in situations {
        let finding = match situation.check(&template, &dir).await {
            Ok(finding) => finding,
            Err(error) => Finding::inconclusive(format!("the harness failed: {error:#}")),
        };
        println!(
            "{:?}: {}\n    expected: {}\n    observed: {}",
            finding.verdict,
            situation.name(),
            situation.expected(),
            finding.observed
        );
        rows.push(Row { situation: situation.name(), expected: situation.expected(), finding });
    }
    dir.write_json("verdict.json", &rows)?;
    let any = |verdict| rows.iter().any(|row| row.finding.verdict == verdict);
    Ok(if any(Verdict::Invalid) {
        Verdict::Invalid
    } else if any(Verdict::Inconclusive) {
        Verdict::Inconclusive
    } else {
        Verdict::Valid
    })
}
