//! A histogram of latencies with a bounded relative error: each power of two is split into [`SUB_BUCKETS`] equal
//! parts, so that any reported value is at most 1/64 above the true one. Fixed memory, no allocation per sample.

use std::time::Duration;

/// Parts per power of two; also the number of exact buckets at the low end.
const SUB_BUCKETS: u64 = 64;
const SUB_BITS: u32 = SUB_BUCKETS.trailing_zeros();
/// Enough powers of two for any `u64` of nanoseconds.
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) * SUB_BUCKETS as usize;

/// Counts of latencies by size.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_nanos: u128,
    max_nanos: u64,
}

impl Histogram {
    /// An empty one.
    pub fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, sum_nanos: 0, max_nanos: 0 }
    }

    /// Adds one latency.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.sum_nanos += u128::from(nanos);
        self.max_nanos = self.max_nanos.max(nanos);
    }

    /// Number of latencies recorded.
    pub fn len(&self) -> u64 {
        self.total
    }

    /// The latency, in µs, that the given share of all latencies does not exceed; 0 when nothing was recorded.
    pub fn quantile_micros(&self, share: f64) -> f64 {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_bound(index).min(self.max_nanos) as f64 / 1e3;
            }
        }
        0.0
    }

    /// Arithmetic mean in µs; 0 when nothing was recorded.
    pub fn mean_micros(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.sum_nanos as f64 / self.total as f64 / 1e3 }
    }

    /// The largest latency in µs, exact.
    pub fn max_micros(&self) -> f64 {
        self.max_nanos as f64 / 1e3
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < SUB_BUCKETS {
        return nanos as usize;
    }
    // The top SUB_BITS + 1 bits name the bucket: the position of the highest one, then the bits behind it.
    let shift = nanos.ilog2() - SUB_BITS;
    (u64::from(shift) * SUB_BUCKETS + (nanos >> shift)) as usize
}

/// The largest value that falls into a bucket.
fn upper_bound(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * SUB_BUCKETS {
        return index;
    }
    let shift = index / SUB_BUCKETS - 1;
    let top = index % SUB_BUCKETS + SUB_BUCKETS;
    ((u128::from(top + 1) << shift) - 1) as u64
}
