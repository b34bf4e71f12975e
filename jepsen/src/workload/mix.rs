//! The mix for crashes of one member: unique keys ("set"), shared versions ("register"), compare-and-set, wide
//! transactions, deletes, leases with keys, requests that must be refused, compactions of what is verified.
//!
//! Each client has keys of its own for everything whose unknown outcome must be told by key; registers are shared.

use std::collections::{BTreeMap, VecDeque};

use crate::history::{Action, Doom, Key, Operation, Outcome, Value};
use crate::rng::Rng;

/// Registers that all clients share.
const REGISTERS: u64 = 16;
/// Keys that one client puts and deletes.
const DELETED_KEYS: u64 = 8;
/// Groups of keys that one client's wide transactions write.
const GROUPS: u64 = 4;
/// Keys of a wide transaction, fewest and most; etcd's limit is 128.
const WIDE: (u64, u64) = (10, 40);
/// Set elements of one client beyond which its oldest verified ones are deleted, in one range.
const SET_KEYS_MAX: u64 = 500;
/// TTLs in seconds: leases that outlive every run, and ones that run out meanwhile.
const LONG_TTL: i64 = 86_400;
const SHORT_TTL: (u64, u64) = (2, 6);
/// Leases that one client keeps before it revokes the oldest.
const LEASES_MAX: usize = 12;
/// Most values are small; one in this many is of several pages.
const LARGE_ONE_IN: u64 = 60;
const SMALL_BYTES: (u64, u64) = (30, 400);
const LARGE_BYTES: (u64, u64) = (4_000, 40_000);

/// What one client does next, and what it remembers for it. It lives through all restarts of a run.
#[derive(Debug)]
pub struct Mix {
    process: u32,
    rng: Rng,
    registers: BTreeMap<Key, i64>,
    set_next: u64,
    set_verified: u64,
    set_swept: u64,
    leases: VecDeque<i64>,
}

impl Mix {
    /// The workload of one client.
    pub fn new(process: u32, rng: Rng) -> Self {
        let (registers, leases) = (BTreeMap::new(), VecDeque::new());
        Self { process, rng, registers, set_next: 0, set_verified: 0, set_swept: 0, leases }
    }

    /// The client.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// A new epoch begins: everything sent so far is verified or known not to have happened.
    pub fn verified(&mut self) {
        self.set_verified = self.set_next;
        self.registers.clear();
    }

    /// The next request. `id` becomes the operation's; `compactable` is the newest revision that may be compacted.
    pub fn next(&mut self, id: u64, compactable: i64) -> Action {
        let process = self.process;
        match self.rng.below(100) {
            0..25 => self.add(id),
            25..40 => {
                let (key, value, lease) = (self.register(), self.value(id, 0), 0);
                Action::Put { key, value, lease }
            }
            40..52 => self.compare_and_set(id),
            52..60 => {
                let serializable = self.rng.chance(0.3);
                Action::Get { key: self.register(), serializable }
            }
            60..72 => self.wide(id),
            72..78 => {
                let key = format!("del/{process}/{}", self.rng.below(DELETED_KEYS));
                Action::Put { key, value: self.value(id, 0), lease: 0 }
            }
            78..85 => self.delete(),
            85..94 => self.lease(id),
            94..97 => {
                let how = *self.rng.pick(&[Doom::UnknownLease, Doom::DuplicateKey, Doom::HalfGood]);
                Action::Doomed { how, key: format!("doomed/{process}/{id}"), value: self.value(id, 0) }
            }
            97..100 if process == 0 && compactable > 1 => {
                // Sometimes everything, mostly half of it: old revisions must stay readable, too.
                let revision = if self.rng.chance(0.3) { compactable } else { compactable - compactable / 4 };
                Action::Compact { revision }
            }
            _ => self.add(id),
        }
    }

    /// Learns from an outcome.
    pub fn learn(&mut self, operation: &Operation) {
        match (&operation.action, &operation.outcome) {
            (Action::Grant { id, .. }, Outcome::Acknowledged(_)) => self.leases.push_back(*id),
            (Action::Put { lease, .. }, Outcome::Refused(_)) if *lease != 0 => self.leases.retain(|id| id != lease),
            (Action::Put { key, .. }, Outcome::Acknowledged(answer)) => self.saw(key, answer.revision),
            (Action::Cas { key, .. }, Outcome::Acknowledged(answer)) if answer.succeeded => {
                self.saw(key, answer.revision);
            }
            (Action::Cas { key, .. } | Action::Get { key, .. }, Outcome::Acknowledged(answer)) => {
                self.saw(key, answer.read.as_ref().map_or(0, |kv| kv.mod_revision));
            }
            _ => {}
        }
    }

    fn saw(&mut self, key: &Key, mod_revision: i64) {
        if key.starts_with("reg/") {
            self.registers.insert(key.clone(), mod_revision);
        }
    }

    fn value(&mut self, operation: u64, part: u32) -> Value {
        let (low, high) = if self.rng.below(LARGE_ONE_IN) == 0 { LARGE_BYTES } else { SMALL_BYTES };
        Value { operation, part, length: self.rng.between(low, high) as u32 }
    }

    fn register(&mut self) -> Key {
        format!("reg/{}", self.rng.below(REGISTERS))
    }

    fn add(&mut self, id: u64) -> Action {
        let key = self.set_key(self.set_next);
        self.set_next += 1;
        Action::Put { key, value: self.value(id, 0), lease: 0 }
    }

    fn set_key(&self, element: u64) -> Key {
        format!("set/{}/{element:010}", self.process)
    }

    fn compare_and_set(&mut self, id: u64) -> Action {
        let key = self.register();
        let expected = self.registers.get(&key).copied().unwrap_or(0);
        Action::Cas { key, expected, value: self.value(id, 0) }
    }

    /// One group written whole; in one of four transactions another group's keys go in the same revision.
    fn wide(&mut self, id: u64) -> Action {
        let process = self.process;
        let count = self.rng.between(WIDE.0, WIDE.1);
        let group = self.rng.below(GROUPS);
        let puts = (0..count).map(|n| (format!("wide/{process}/{group}/{n:03}"), self.value(id, n as u32))).collect();
        let deletes = if self.rng.chance(0.25) {
            let other = (group + 1) % GROUPS;
            (0..WIDE.1 / 2).map(|n| format!("wide/{process}/{other}/{n:03}")).collect()
        } else {
            Vec::new()
        };
        Action::Many { puts, deletes }
    }

    fn delete(&mut self) -> Action {
        if self.set_verified.saturating_sub(self.set_swept) > SET_KEYS_MAX {
            let (from, to) = (self.set_swept, self.set_verified - SET_KEYS_MAX / 2);
            self.set_swept = to;
            return Action::Delete { key: self.set_key(from), end: Some(self.set_key(to)) };
        }
        Action::Delete { key: format!("del/{}/{}", self.process, self.rng.below(DELETED_KEYS)), end: None }
    }

    fn lease(&mut self, id: u64) -> Action {
        if self.leases.len() > LEASES_MAX && self.rng.chance(0.5) {
            let id = self.leases.pop_front().expect("it is longer than LEASES_MAX");
            return Action::Revoke { id };
        }
        if self.leases.is_empty() || self.rng.chance(0.3) {
            let short = self.rng.chance(0.3);
            let ttl = if short { self.rng.between(SHORT_TTL.0, SHORT_TTL.1) as i64 } else { LONG_TTL };
            // The operation's id makes it unique, the factor keeps it apart from small ids that others may choose.
            return Action::Grant { id: id as i64 * 1009 + 7, ttl };
        }
        let lease = self.leases[self.rng.below(self.leases.len() as u64) as usize];
        let key = format!("leased/{}/{}", self.process, self.rng.below(64));
        Action::Put { key, value: self.value(id, 0), lease }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_asks_the_same_and_every_kind_is_asked() {
        let draw = |seed| {
            let mut mix = Mix::new(0, Rng::new(seed));
            (0..2000).map(|id| mix.next(id, 100)).collect::<Vec<Action>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let actions = draw(1);
        assert!(actions.iter().any(|action| matches!(action, Action::Compact { .. })));
        assert!(actions.iter().any(|action| matches!(action, Action::Many { puts, .. } if puts.len() >= 10)));
        assert!(actions.iter().any(|action| matches!(action, Action::Cas { .. })));
        assert!(actions.iter().any(|action| matches!(action, Action::Grant { .. })));
        assert!(actions.iter().any(|action| matches!(action, Action::Doomed { .. })));
    }

    #[test]
    fn a_sweep_deletes_only_verified_elements() {
        let mut mix = Mix::new(0, Rng::new(1));
        (0..10 * SET_KEYS_MAX).for_each(|id| drop(mix.add(id)));
        assert!(matches!(mix.delete(), Action::Delete { end: None, .. }));
        mix.verified();
        mix.add(0);
        let Action::Delete { end: Some(end), .. } = mix.delete() else { panic!("no sweep") };
        assert!(end < mix.set_key(10 * SET_KEYS_MAX));
    }
}
