//! From a seed to a plan with nothing left to chance: it is written out before the run and can be read.
//!
//! Real processes are not deterministic, so a seed fixes the faults and the requests, not the outcome.

use serde::Serialize;

use crate::rng::Rng;

/// How long clients work before a cut at least, in milliseconds.
const LOAD_MS_MIN: u64 = 200;
/// How long syncs hang before the power goes, in milliseconds; in half of the cuts they do not.
const HOLD_MS: (u64, u64) = (5, 80);
/// One cut in this many is followed by another one while the server starts.
const INTERRUPTED_START_ONE_IN: u64 = 6;
/// How far a start gets before that, in milliseconds: squares of these, because most happens early.
const INTERRUPTED_START_ROOT_MS: (u64, u64) = (0, 20);

/// Parts of a plan that draw numbers of their own.
const CUTS: u64 = 1;
const CREATION: u64 = 2;
const CLIENTS: u64 = 1000;

/// One crash.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PlannedCut {
    /// Milliseconds of load before it.
    pub load_ms: u64,
    /// Milliseconds that syncs hang before it, so that a server that answers early is caught.
    pub hold_ms: u64,
    /// The probability that a page which was not synced survives.
    pub keep: f64,
    /// Decides which pages do.
    pub seed: u64,
    /// After this many milliseconds the next start is cut, too.
    pub interrupt_start_ms: Option<u64>,
}

/// Everything a run of crashes does.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Crashes of the very first start, one after the other on what is left: only `keep`, `seed` and
    /// `interrupt_start_ms` matter.
    pub creation_cuts: Vec<PlannedCut>,
    /// The crashes in order.
    pub cuts: Vec<PlannedCut>,
}

impl Plan {
    /// Expands a seed. More cuts leave the first ones as they were. `load_ms_max`: clients work at most this long.
    pub fn new(seed: u64, cuts: usize, creation_cuts: usize, load_ms_max: u64) -> Self {
        let mut rng = Rng::new(seed).fork(CUTS);
        let cut = |_| PlannedCut {
            load_ms: rng.between(LOAD_MS_MIN, load_ms_max.max(LOAD_MS_MIN)),
            hold_ms: if rng.chance(0.5) { rng.between(HOLD_MS.0, HOLD_MS.1) } else { 0 },
            keep: *rng.pick(&[0.0, 0.5, 0.9]),
            seed: rng.bits(),
            interrupt_start_ms: (rng.below(INTERRUPTED_START_ONE_IN) == 0).then(|| interrupted_start_ms(&mut rng)),
        };
        let cuts = (0..cuts).map(cut).collect();
        let mut rng = Rng::new(seed).fork(CREATION);
        let creation = |_| PlannedCut {
            load_ms: 0,
            hold_ms: 0,
            keep: *rng.pick(&[0.0, 0.5, 0.9]),
            seed: rng.bits(),
            interrupt_start_ms: Some(interrupted_start_ms(&mut rng)),
        };
        Self { seed, creation_cuts: (0..creation_cuts).map(creation).collect(), cuts }
    }

    /// The numbers of one client.
    pub fn client(&self, process: u32) -> Rng {
        Rng::new(self.seed).fork(CLIENTS + u64::from(process))
    }
}

fn interrupted_start_ms(rng: &mut Rng) -> u64 {
    rng.between(INTERRUPTED_START_ROOT_MS.0, INTERRUPTED_START_ROOT_MS.1).pow(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_plan_begins_like_a_shorter_one() {
        let (short, long) = (Plan::new(5, 10, 0, 3000), Plan::new(5, 20, 2, 3000));
        assert_eq!(short.cuts, long.cuts[..10]);
        assert_ne!(short.cuts, Plan::new(6, 10, 0, 3000).cuts);
    }
}
