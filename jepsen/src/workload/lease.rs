//! Leases with keys: granted, kept alive for a while, then revoked or left to run out, and looked at in between.

use super::script::{MILLISECOND, SECOND, Script, Step, put_leased};
use crate::history::op::{Op, Request};
use crate::rng::Rng;

/// TTLs in seconds; etcd gives no less than two.
const TTL: (u64, u64) = (2, 4);
/// Keys of one lease, at most.
const KEYS_MAX: u64 = 3;
/// Keep-alives of one lease, at most.
const RENEWALS_MAX: u64 = 5;
/// Keys begin so.
pub const PREFIX: &str = "leased/";

/// One client: one lease after the other.
pub struct Lease {
    process: u32,
    rng: Rng,
    plan: Vec<Step>,
}

impl Lease {
    /// The script of one client.
    pub fn new(process: u32, rng: Rng) -> Self {
        Self { process, rng, plan: Vec::new() }
    }

    /// One lease's life, the last step first.
    fn life(&mut self, id: u64) -> Vec<Step> {
        // The operation's id makes it unique, the factor keeps it apart from small ids that others may choose.
        let lease = id as i64 * 1009 + 7;
        let ttl = self.rng.between(TTL.0, TTL.1);
        let mut steps = vec![Step::Send(Request::Grant(lease, ttl as i64))];
        for n in 0..self.rng.between(1, KEYS_MAX) {
            steps.push(Step::Send(put_leased(&format!("{PREFIX}{}/{n}", self.process), id.to_string(), lease)));
        }
        for _ in 0..self.rng.below(RENEWALS_MAX + 1) {
            steps.push(Step::Wait(ttl * SECOND / 3));
            steps.push(Step::Send(Request::KeepAlive(lease)));
            steps.push(Step::Send(Request::TimeToLive(lease)));
        }
        if self.rng.chance(0.4) {
            steps.push(Step::Send(Request::Revoke(lease)));
        } else {
            for _ in 0..8 {
                steps.push(Step::Wait(ttl * SECOND / 5 + 100 * MILLISECOND));
                steps.push(Step::Send(Request::TimeToLive(lease)));
            }
        }
        steps.push(Step::Send(Request::list(&format!("{PREFIX}{}/", self.process))));
        steps.reverse();
        steps
    }
}

impl Script for Lease {
    fn next(&mut self, id: u64, _: u64) -> Step {
        if self.plan.is_empty() {
            self.plan = self.life(id);
        }
        self.plan.pop().expect("a life has steps")
    }

    fn learn(&mut self, op: &Op) {
        // Without its lease the rest of a life would be refused.
        if matches!(op.request, Request::Grant(..)) && op.reply().is_none() {
            self.plan.clear();
        }
    }
}
