//! Requests by what they are: how long each kind takes, and which API versions clients speak.
//!
//! A series appears with its first request, as etcd's do, and is looked up once: from then on counting is a few atomic
//! additions.

use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::RwLock;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::{Buckets, Maker};

/// Versions that get series of their own; more are counted as [`OTHER`], for clients choose the text.
const VERSIONS_MAX: usize = 16;
/// Bytes of such a version; a longer one is counted as [`OTHER`].
const VERSION_BYTES_MAX: usize = 32;
const OTHER: &str = "other";

/// What is asked for, under the names of etcd's labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Op {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    Alarm,
    /// A member publishes its name and URLs.
    ClusterMemberAttrSet,
}

impl Op {
    /// Number of kinds.
    const COUNT: usize = Self::ClusterMemberAttrSet as usize + 1;

    /// As etcd's labels have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Range => "Range",
            Self::Put => "Put",
            Self::DeleteRange => "DeleteRange",
            Self::Txn => "Txn",
            Self::Compaction => "Compaction",
            Self::LeaseGrant => "LeaseGrant",
            Self::LeaseRevoke => "LeaseRevoke",
            Self::Alarm => "Alarm",
            Self::ClusterMemberAttrSet => "ClusterMemberAttrSet",
        }
    }
}

/// How long something takes, by operation and whether it went well.
pub struct Timings {
    family: HistogramVec,
    /// The values of the family's labels.
    labels: fn(Op, &'static str) -> Vec<&'static str>,
    /// By operation; first failures, then successes.
    series: [[OnceLock<Histogram>; 2]; Op::COUNT],
}

impl Timings {
    fn new(family: HistogramVec, labels: fn(Op, &'static str) -> Vec<&'static str>) -> Self {
        Self { family, labels, series: Default::default() }
    }

    /// Of applying commands.
    pub(super) fn applies(maker: &Maker) -> Self {
        let family = maker.histograms(
            "etcd_server_apply_duration_seconds",
            "How long a command takes to apply.",
            &["version", "op", "success"],
            Buckets(0.0001, 2.0, 20),
        );
        Self::new(family, |op, success| vec!["v3", op.name(), success])
    }

    /// Of requests: from the proposal to its result, and of a range as a whole.
    pub(super) fn requests(maker: &Maker) -> Self {
        let family = maker.histograms(
            "etcd_server_request_duration_seconds",
            "How long a request takes.",
            &["type", "success"],
            Buckets::LATENCY,
        );
        Self::new(family, |op, success| vec![op.name(), success])
    }

    /// Of reading ranges from the state, whatever the operation.
    pub(super) fn ranges(maker: &Maker) -> Self {
        let family = maker.histograms(
            "etcd_server_range_duration_seconds",
            "How long a range takes.",
            &["success"],
            Buckets(0.0001, 2.0, 20),
        );
        Self::new(family, |_, success| vec![success])
    }

    /// Counts one that took so long.
    pub fn observe(&self, op: Op, well: bool, took: Duration) {
        let make = || {
            let success = if well { "true" } else { "false" };
            self.family.with_label_values(&(self.labels)(op, success))
        };
        self.series[op as usize][usize::from(well)].get_or_init(make).observe(took.as_secs_f64());
    }
}

/// Calls by the API version that the client names.
pub struct ClientRequests {
    family: IntCounterVec,
    // Written only when a version is met for the first time.
    known: RwLock<Vec<Version>>,
}

struct Version {
    name: Box<str>,
    unary: IntCounter,
    stream: IntCounter,
}

impl Version {
    fn count(&self, streams: bool) {
        if streams { self.stream.inc() } else { self.unary.inc() }
    }
}

impl ClientRequests {
    pub(super) fn new(maker: &Maker) -> Self {
        let family = maker.counters(
            "etcd_server_client_requests_total",
            "Calls by the client's API version.",
            &["type", "client_api_version"],
        );
        Self { family, known: RwLock::default() }
    }

    /// Counts a call of a client that speaks `version`; `streams` says whether the method streams.
    pub fn count(&self, version: &str, streams: bool) {
        if let Some(known) = self.known.read().iter().find(|known| *known.name == *version) {
            return known.count(streams);
        }
        let mut known = self.known.write();
        let is_full = known.len() >= VERSIONS_MAX;
        let name = if is_full || version.len() > VERSION_BYTES_MAX { OTHER } else { version };
        // Another thread may have been first.
        if let Some(known) = known.iter().find(|known| *known.name == *name) {
            return known.count(streams);
        }
        let [unary, stream] = ["unary", "stream"].map(|kind| self.family.with_label_values(&[kind, name]));
        let version = Version { name: name.into(), unary, stream };
        version.count(streams);
        known.push(version);
    }
}
