//! A bank, whose accounts always hold the same total, and a counter that is raised under a guard.

use super::script::{Script, Step, guarded, unchanged};
use crate::history::op::{Kv, Op, Request};
use crate::rng::Rng;

/// Accounts begin so.
pub const ACCOUNTS: &str = "bank/";
/// How many there are.
pub const ACCOUNT_COUNT: u64 = 6;
/// What each holds at first.
pub const OPENING: i64 = 20;
/// The counter's key.
pub const COUNTER: &str = "counter";

/// One client of the bank.
pub struct Bank {
    rng: Rng,
    accounts: Vec<Kv>,
    opened: bool,
    next: Option<Request>,
}

impl Bank {
    /// The script of one client.
    pub fn new(rng: Rng) -> Self {
        Self { rng, accounts: Vec::new(), opened: false, next: None }
    }
}

impl Script for Bank {
    fn next(&mut self, _: u64, _: u64) -> Step {
        if let Some(next) = self.next.take() {
            return Step::Send(next);
        }
        if self.accounts.len() as u64 == ACCOUNT_COUNT && self.rng.chance(0.7) {
            let from = self.rng.below(ACCOUNT_COUNT) as usize;
            let to = (from + 1 + self.rng.below(ACCOUNT_COUNT - 1) as usize) % ACCOUNT_COUNT as usize;
            let (from, to) = (self.accounts[from].clone(), self.accounts[to].clone());
            let balance = |kv: &Kv| kv.value.parse::<i64>().unwrap_or(0);
            let amount = self.rng.between(1, 5) as i64;
            self.accounts.clear();
            if balance(&from) >= amount {
                let compare = [&from, &to].map(|kv| unchanged(&kv.key, kv.mod_revision)).to_vec();
                let puts = vec![
                    Request::put(from.key.clone(), (balance(&from) - amount).to_string()),
                    Request::put(to.key.clone(), (balance(&to) + amount).to_string()),
                ];
                return Step::Send(guarded(compare, puts));
            }
        }
        Step::Send(Request::list(ACCOUNTS))
    }

    fn learn(&mut self, op: &Op) {
        let (Request::Range(_), Some(reply)) = (&op.request, op.reply()) else { return };
        if reply.kvs.is_empty() && !self.opened {
            let account = |n: u64| format!("{ACCOUNTS}{n}");
            let compare = (0..ACCOUNT_COUNT).map(|n| unchanged(&account(n), 0)).collect();
            let puts = (0..ACCOUNT_COUNT).map(|n| Request::put(account(n), OPENING.to_string())).collect();
            self.next = Some(guarded(compare, puts));
        }
        self.opened |= !reply.kvs.is_empty();
        self.accounts = reply.kvs.clone();
    }
}

/// One client of the counter.
pub struct Counter {
    rng: Rng,
    seen: Option<(i64, i64)>,
}

impl Counter {
    /// The script of one client.
    pub fn new(rng: Rng) -> Self {
        Self { rng, seen: None }
    }
}

impl Script for Counter {
    fn next(&mut self, _: u64, _: u64) -> Step {
        match self.seen.take().filter(|_| self.rng.chance(0.8)) {
            Some((revision, value)) => {
                let put = Request::put(COUNTER, (value + 1).to_string());
                Step::Send(guarded(vec![unchanged(COUNTER, revision)], vec![put]))
            }
            None => Step::Send(Request::get(COUNTER)),
        }
    }

    fn learn(&mut self, op: &Op) {
        let (Request::Range(_), Some(reply)) = (&op.request, op.reply()) else { return };
        self.seen = Some(reply.kvs.first().map_or((0, 0), |kv| (kv.mod_revision, kv.value.parse().unwrap_or(0))));
    }
}
