//! Blind transactions: reads and unique writes of several keys without a guard, some of them of a hundred puts.

use super::script::{Script, Step};
use crate::history::op::Op;
use crate::history::op::{Request, Txn};
use crate::rng::Rng;

/// Keys that narrow transactions touch.
pub const KEYS: u64 = 8;
/// One transaction in this many is wide,
const WIDE_ONE_IN: u64 = 25;
/// with this many puts; etcd's limit is 128.
const WIDE: (u64, u64) = (20, 100);
/// Keys begin so.
pub const PREFIX: &str = "wr/";

/// One client.
pub struct Wr {
    rng: Rng,
    wide_one_in: u64,
    keys: u64,
}

impl Wr {
    /// The script of one client.
    pub fn new(rng: Rng) -> Self {
        Self { rng, wide_one_in: WIDE_ONE_IN, keys: KEYS }
    }

    /// The script of one whose transactions are all wide: a crash finds it in the middle of one.
    pub fn wide(rng: Rng) -> Self {
        Self { wide_one_in: 1, ..Self::new(rng) }
    }

    /// On so many keys at one time.
    pub fn on(self, keys: u64) -> Self {
        Self { keys, ..self }
    }
}

impl Script for Wr {
    fn next(&mut self, id: u64, _: u64) -> Step {
        let wide = self.rng.below(self.wide_one_in) == 0;
        let count = if wide { self.rng.between(WIDE.0, WIDE.1) } else { self.rng.between(1, 4) };
        let first = if wide { 0 } else { self.rng.below(self.keys) };
        let only_reads = !wide && self.rng.chance(0.3);
        let one = |n: u64| {
            let key = format!("{PREFIX}{:03}", if wide { n } else { (first + n * 3) % self.keys });
            match only_reads || !wide && self.rng.chance(0.4) {
                true => Request::get(key),
                false => Request::put(key, id.to_string()),
            }
        };
        let success: Vec<Request> = (0..count).map(one).collect();
        Step::Send(Request::Txn(Txn { success, ..Txn::default() }))
    }

    fn learn(&mut self, _: &Op) {}
}
