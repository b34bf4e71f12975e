//! What members count of each other, under the names and labels of etcd's `rafthttp`. Ids are in hexadecimal.
//!
//! A peer's series are looked up once, when it becomes known, and stand at zero from then on: a rate cannot see a failure
//! that makes its own series.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{Buckets, Maker};

/// All families by peer.
pub struct Peers {
    known: IntGaugeVec,
    active: IntGaugeVec,
    disconnected: IntCounterVec,
    sent_bytes: IntCounterVec,
    received_bytes: IntCounterVec,
    sent_failures: IntCounterVec,
    received_failures: IntCounterVec,
    round_trip_seconds: HistogramVec,
    snapshots_sent: TransferFamilies,
    snapshots_received: TransferFamilies,
}

/// The series of one peer.
pub struct Peer {
    /// 1 while it is a member.
    pub known: IntGauge,
    /// 1 while there is a connection to it.
    pub active: IntGauge,
    /// How often the last connection to it went.
    pub disconnected: IntCounter,
    /// Bytes written to it.
    pub sent_bytes: IntCounter,
    /// Bytes read from it.
    pub received_bytes: IntCounter,
    /// Messages to it that did not arrive or were not answered.
    pub sent_failures: IntCounter,
    /// Messages from it that broke off, or were not for this member.
    pub received_failures: IntCounter,
    /// How long it takes to answer what needs no disk.
    pub round_trip_seconds: Histogram,
    /// Snapshots to it.
    pub snapshots_sent: Transfers,
    /// Snapshots from it.
    pub snapshots_received: Transfers,
}

/// Snapshots in one direction.
#[derive(Clone)]
pub struct Transfers {
    /// Those that went well.
    pub successes: IntCounter,
    /// Those that did not.
    pub failures: IntCounter,
    /// Those under way.
    pub inflight: IntGauge,
    /// How long those that went well took.
    pub seconds: Histogram,
}

struct TransferFamilies {
    successes: IntCounterVec,
    failures: IntCounterVec,
    inflight: IntGaugeVec,
    seconds: HistogramVec,
}

impl Peers {
    pub(super) fn new(maker: &Maker) -> Self {
        Self {
            known: maker.gauges("etcd_network_known_peers", "Members that are known.", &["Local", "Remote"]),
            active: maker.gauges("etcd_network_active_peers", "Members with a connection.", &["Local", "Remote"]),
            disconnected: maker.counters(
                "etcd_network_disconnected_peers_total",
                "Members whose last connection went.",
                &["Local", "Remote"],
            ),
            sent_bytes: maker.counters("etcd_network_peer_sent_bytes_total", "Bytes sent to members.", &["To"]),
            received_bytes: maker.counters(
                "etcd_network_peer_received_bytes_total",
                "Bytes received from members.",
                &["From"],
            ),
            sent_failures: maker.counters(
                "etcd_network_peer_sent_failures_total",
                "Messages to members that failed.",
                &["To"],
            ),
            received_failures: maker.counters(
                "etcd_network_peer_received_failures_total",
                "Messages from members that failed.",
                &["From"],
            ),
            round_trip_seconds: maker.histograms(
                "etcd_network_peer_round_trip_time_seconds",
                "Round trips to members.",
                &["To"],
                Buckets(0.0001, 2.0, 16),
            ),
            snapshots_sent: TransferFamilies {
                successes: maker.counters("etcd_network_snapshot_send_success", "Snapshots sent.", &["To"]),
                failures: maker.counters("etcd_network_snapshot_send_failures", "Snapshots not sent.", &["To"]),
                inflight: maker.gauges("etcd_network_snapshot_send_inflights_total", "Snapshots being sent.", &["To"]),
                seconds: maker.histograms(
                    "etcd_network_snapshot_send_total_duration_seconds",
                    "How long sending a snapshot takes.",
                    &["To"],
                    Buckets(0.1, 2.0, 10),
                ),
            },
            snapshots_received: TransferFamilies {
                successes: maker.counters("etcd_network_snapshot_receive_success", "Snapshots received.", &["From"]),
                failures: maker.counters(
                    "etcd_network_snapshot_receive_failures",
                    "Snapshots not received.",
                    &["From"],
                ),
                inflight: maker.gauges(
                    "etcd_network_snapshot_receive_inflights_total",
                    "Snapshots being received.",
                    &["From"],
                ),
                seconds: maker.histograms(
                    "etcd_network_snapshot_receive_total_duration_seconds",
                    "How long receiving a snapshot takes.",
                    &["From"],
                    Buckets(0.1, 2.0, 10),
                ),
            },
        }
    }

    /// The series of `remote`, at member `local`.
    pub fn peer(&self, local: u64, remote: u64) -> Peer {
        let (local, remote) = (format!("{local:x}"), format!("{remote:x}"));
        let (both, one) = (&[&*local, &*remote], &[&*remote]);
        Peer {
            known: self.known.with_label_values(both),
            active: self.active.with_label_values(both),
            disconnected: self.disconnected.with_label_values(both),
            sent_bytes: self.sent_bytes.with_label_values(one),
            received_bytes: self.received_bytes.with_label_values(one),
            sent_failures: self.sent_failures.with_label_values(one),
            received_failures: self.received_failures.with_label_values(one),
            round_trip_seconds: self.round_trip_seconds.with_label_values(one),
            snapshots_sent: self.snapshots_sent.peer(one),
            snapshots_received: self.snapshots_received.peer(one),
        }
    }
}

impl TransferFamilies {
    fn peer(&self, label: &[&str]) -> Transfers {
        Transfers {
            successes: self.successes.with_label_values(label),
            failures: self.failures.with_label_values(label),
            inflight: self.inflight.with_label_values(label),
            seconds: self.seconds.with_label_values(label),
        }
    }
}

impl Transfers {
    /// Counts one that begins; it has failed unless [`Transfer::succeeded`] is called.
    pub fn begin(&self) -> Transfer {
        self.inflight.inc();
        Transfer { counts: self.clone(), took_seconds: None }
    }
}

/// A snapshot under way.
pub struct Transfer {
    counts: Transfers,
    took_seconds: Option<f64>,
}

impl Transfer {
    /// It went well, in so many seconds.
    pub fn succeeded(mut self, seconds: f64) {
        self.took_seconds = Some(seconds);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.counts.inflight.dec();
        match self.took_seconds {
            Some(seconds) => {
                self.counts.successes.inc();
                self.counts.seconds.observe(seconds);
            }
            None => self.counts.failures.inc(),
        }
    }
}
