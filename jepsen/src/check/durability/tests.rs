//! Planted histories: a small right server, then one thing wrong with it, which the ledger must find.

use super::*;
use crate::history::Answer;

/// A server that does everything right, and the history of its only client.
#[derive(Clone)]
struct Server {
    revision: i64,
    state: BTreeMap<Key, Kv>,
    events: Vec<Event>,
    leases: BTreeMap<i64, i64>,
    operations: Vec<Operation>,
    next: u64,
    compacted: i64,
}

impl Server {
    fn new() -> Self {
        let (state, leases) = (BTreeMap::new(), BTreeMap::new());
        Self { revision: 1, state, events: vec![], leases, operations: vec![], next: 1, compacted: 0 }
    }

    fn value(&self, part: u32) -> Value {
        Value { operation: self.next, part, length: 40 }
    }

    fn change(&mut self, effect: BTreeMap<Key, Option<Value>>, lease: i64) {
        if effect.is_empty() {
            return;
        }
        self.revision += 1;
        for (key, value) in effect {
            let before = self.state.get(&key);
            let kv = Kv {
                key: key.clone(),
                value,
                create_revision: before.map_or(self.revision, |kv| kv.create_revision),
                mod_revision: self.revision,
                version: before.map_or(1, |kv| kv.version + 1),
                lease,
            };
            if value.is_some() {
                self.state.insert(key, kv.clone());
                self.events.push(Event { kv, deleted: false });
            } else {
                self.state.remove(&key);
                let kv = Kv { create_revision: 0, version: 0, lease: 0, ..kv };
                self.events.push(Event { kv, deleted: true });
            }
        }
    }

    fn note(&mut self, action: Action, outcome: Outcome) {
        let (id, start) = (self.next, self.next * 10);
        self.operations.push(Operation { id, process: 0, start, end: start + 5, action, outcome });
        self.next += 1;
    }

    fn acknowledge(&mut self, action: Action, answer: Answer) {
        let answer = Answer { revision: self.revision, ..answer };
        self.note(action, Outcome::Acknowledged(answer));
    }

    fn put(&mut self, key: &str) {
        let (value, lease) = (self.value(0), 0);
        self.change(BTreeMap::from([(key.into(), Some(value))]), lease);
        self.acknowledge(Action::Put { key: key.into(), value, lease }, Answer::default());
    }

    fn put_leased(&mut self, key: &str, lease: i64) {
        let value = self.value(0);
        self.change(BTreeMap::from([(key.into(), Some(value))]), lease);
        self.acknowledge(Action::Put { key: key.into(), value, lease }, Answer::default());
    }

    fn delete(&mut self, key: &str) {
        let deleted = i64::from(self.state.contains_key(key));
        if deleted > 0 {
            self.change(BTreeMap::from([(key.into(), None)]), 0);
        }
        self.acknowledge(Action::Delete { key: key.into(), end: None }, Answer { deleted, ..Answer::default() });
    }

    fn many_puts(&self, count: u32) -> Vec<(Key, Value)> {
        (0..count).map(|part| (format!("many/{part}"), self.value(part))).collect()
    }

    fn many(&mut self, count: u32) {
        let puts = self.many_puts(count);
        self.change(puts.iter().map(|(key, value)| (key.clone(), Some(*value))).collect(), 0);
        self.acknowledge(Action::Many { puts, deletes: vec![] }, Answer { succeeded: true, ..Answer::default() });
    }

    fn get(&mut self, key: &str) {
        let read = self.state.get(key).cloned();
        let action = Action::Get { key: key.into(), serializable: false };
        self.acknowledge(action, Answer { read, ..Answer::default() });
    }

    fn grant(&mut self, id: i64, ttl: i64) {
        self.leases.insert(id, ttl);
        self.acknowledge(Action::Grant { id, ttl }, Answer { ttl, ..Answer::default() });
    }

    fn revoke(&mut self, id: i64) {
        self.leases.remove(&id);
        let keys = self.state.values().filter(|kv| kv.lease == id).map(|kv| (kv.key.clone(), None)).collect();
        self.change(keys, 0);
        self.acknowledge(Action::Revoke { id }, Answer::default());
    }

    fn observe(&self) -> Observation {
        let attached = |id: i64| self.state.values().filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect();
        Observation {
            time: self.next * 10,
            head: self.revision,
            compacted: self.compacted,
            compaction_holds: true,
            events: self.events.iter().filter(|event| event.kv.mod_revision > self.compacted).cloned().collect(),
            state: self.state.values().cloned().collect(),
            leases: self.leases.iter().map(|(&id, &ttl)| (id, (ttl, attached(id)))).collect(),
            hash: Some(Hash { revision: self.revision, compact_revision: self.compacted, hash: 7 }),
            hash_before: None,
        }
    }

    /// The last operation never happened, as far as the server goes.
    fn forget_last_revision(&mut self) {
        let gone = self.revision;
        self.revision -= 1;
        self.events.retain(|event| event.kv.mod_revision != gone);
        let events = std::mem::take(&mut self.events);
        self.state.clear();
        for event in &events {
            if event.deleted {
                self.state.remove(&event.kv.key);
            } else {
                self.state.insert(event.kv.key.clone(), event.kv.clone());
            }
        }
        self.events = events;
    }

    fn make_last_unknown(&mut self) {
        self.operations.last_mut().unwrap().outcome = Outcome::Unknown("timed out".into());
    }

    fn busy() -> Self {
        let mut server = Self::new();
        server.put("a");
        server.put("a");
        server.get("a");
        server.many(12);
        server.grant(5, 3600);
        server.put_leased("leased", 5);
        server.put("b");
        server.delete("b");
        server.delete("b");
        server.get("b");
        server
    }

    fn judge(&self) -> Vec<Kind> {
        kinds(Ledger::new().judge(&self.operations, &self.observe()))
    }
}

fn kinds(violations: Vec<Violation>) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = violations.into_iter().map(|violation| violation.kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[test]
fn a_right_server_passes_over_several_crashes() {
    let mut server = Server::busy();
    let mut ledger = Ledger::new();
    assert_eq!(ledger.judge(&server.operations, &server.observe()), []);
    server.operations.clear();
    server.delete("a");
    server.revoke(5);
    server.get("leased");
    let mut seen = server.observe();
    seen.hash_before = ledger.hash();
    assert_eq!(ledger.judge(&server.operations, &seen), []);
    assert_eq!(ledger.totals().hashes_compared, 1);
    assert_eq!(ledger.totals().lost, 0);
}

#[test]
fn a_lost_write_is_found() {
    let mut server = Server::busy();
    server.put("last");
    server.forget_last_revision();
    let mut ledger = Ledger::new();
    let found = kinds(ledger.judge(&server.operations, &server.observe()));
    assert_eq!(found, [Kind::LostWrite, Kind::RevisionWentBack]);
    assert_eq!(ledger.totals().lost, 1);
}

#[test]
fn a_lost_write_whose_revision_was_used_again_is_found() {
    let mut server = Server::busy();
    server.put("last");
    server.forget_last_revision();
    server.put("other");
    assert!(server.judge().contains(&Kind::LostWrite));
}

#[test]
fn an_unknown_write_may_be_there_or_not() {
    let mut server = Server::busy();
    server.put("last");
    server.make_last_unknown();
    assert_eq!(server.judge(), []);
    server.forget_last_revision();
    assert_eq!(server.judge(), []);
}

#[test]
fn an_unknown_delete_and_an_unknown_revocation_are_recognized_by_their_keys() {
    let mut server = Server::busy();
    server.delete("a");
    server.make_last_unknown();
    server.revoke(5);
    server.make_last_unknown();
    assert_eq!(server.judge(), []);
}

#[test]
fn half_a_transaction_is_found_whether_it_was_answered_or_not() {
    for unknown in [false, true] {
        let mut server = Server::new();
        server.many(12);
        if unknown {
            server.make_last_unknown();
        }
        server.events.truncate(7);
        server.state = server.events.iter().map(|event| (event.kv.key.clone(), event.kv.clone())).collect();
        assert_eq!(server.judge(), [Kind::HalfTransaction]);
    }
}

#[test]
fn half_a_revocation_is_found() {
    let mut server = Server::new();
    server.grant(5, 3600);
    server.put_leased("x", 5);
    server.put_leased("y", 5);
    let kept = server.state["y"].clone();
    server.revoke(5);
    server.make_last_unknown();
    server.events.pop();
    server.state.insert("y".into(), kept);
    let found = server.judge();
    assert!(found.contains(&Kind::HalfTransaction), "{found:?}");
    assert!(found.contains(&Kind::Lease), "{found:?}");
}

#[test]
fn a_deleted_key_that_is_back_is_found() {
    let mut server = Server::busy();
    let kept = server.state["a"].clone();
    server.delete("a");
    let mut seen = server.observe();
    seen.state.push(kept);
    assert_eq!(kinds(Ledger::new().judge(&server.operations, &seen)), [Kind::StateDiffers]);
}

#[test]
fn a_lost_delete_is_found() {
    let mut server = Server::busy();
    server.delete("a");
    server.forget_last_revision();
    assert_eq!(server.judge(), [Kind::LostWrite, Kind::RevisionWentBack]);
}

#[test]
fn a_write_decided_not_to_have_happened_may_not_appear_later() {
    let mut server = Server::busy();
    server.put("late");
    server.make_last_unknown();
    let mut before = server.clone();
    before.forget_last_revision();
    let mut ledger = Ledger::new();
    assert_eq!(ledger.judge(&before.operations, &before.observe()), []);
    assert_eq!(kinds(ledger.judge(&[], &server.observe())), [Kind::Unexplained]);
}

#[test]
fn history_that_changes_after_it_was_verified_is_found() {
    let server = Server::busy();
    let mut ledger = Ledger::new();
    assert_eq!(ledger.judge(&server.operations, &server.observe()), []);
    let mut seen = server.observe();
    let older = seen.events[0].kv.value;
    seen.events[1].kv.value = older;
    assert_eq!(kinds(ledger.judge(&[], &seen)), [Kind::HistoryChanged]);
}

#[test]
fn a_refused_write_that_is_there_is_found() {
    let mut server = Server::busy();
    server.put("refused");
    server.operations.last_mut().unwrap().outcome = Outcome::Refused("InvalidArgument".into());
    assert_eq!(server.judge(), [Kind::RefusedButApplied]);
}

#[test]
fn an_acknowledged_impossible_request_is_found() {
    let mut server = Server::busy();
    let (how, key, value) = (crate::history::Doom::UnknownLease, "doomed".to_owned(), server.value(0));
    server.acknowledge(Action::Doomed { how, key, value }, Answer::default());
    assert_eq!(server.judge(), [Kind::AcceptedDoomed]);
}

#[test]
fn a_write_at_another_revision_than_answered_is_found() {
    let mut server = Server::busy();
    server.put("late");
    let Outcome::Acknowledged(answer) = &mut server.operations.last_mut().unwrap().outcome else { panic!() };
    answer.revision -= 1;
    assert!(server.judge().contains(&Kind::WrongRevision));
}

#[test]
fn a_hole_in_the_revisions_is_found() {
    let mut server = Server::busy();
    server.revision += 1;
    server.put("after");
    assert_eq!(server.judge(), [Kind::Hole]);
}

#[test]
fn a_wrong_version_is_found() {
    let mut server = Server::busy();
    server.events[1].kv.version = 1;
    server.state.get_mut("a").unwrap().version = 1;
    let found = server.judge();
    assert!(found.contains(&Kind::WrongFields), "{found:?}");
}

#[test]
fn a_stale_read_is_found() {
    let mut server = Server::new();
    server.put("a");
    let old = server.state["a"].clone();
    server.put("a");
    server.acknowledge(
        Action::Get { key: "a".into(), serializable: false },
        Answer { read: Some(old.clone()), ..Answer::default() },
    );
    assert_eq!(server.judge(), [Kind::WrongRead]);
    // The old value with the old revision is right in itself, but out of order.
    let Outcome::Acknowledged(answer) = &mut server.operations.last_mut().unwrap().outcome else { panic!() };
    answer.revision -= 1;
    assert_eq!(server.judge(), [Kind::WrongOrder]);
}

#[test]
fn a_cas_that_should_not_have_held_is_found() {
    let mut server = Server::busy();
    let (key, value) = ("a".to_owned(), server.value(0));
    server.change(BTreeMap::from([(key.clone(), Some(value))]), 0);
    server.acknowledge(Action::Cas { key, expected: 1, value }, Answer { succeeded: true, ..Answer::default() });
    assert_eq!(server.judge(), [Kind::HalfTransaction]);
}

#[test]
fn a_lost_lease_and_a_lease_that_came_back_are_found() {
    let server = Server::busy();
    let mut seen = server.observe();
    seen.leases.clear();
    assert_eq!(kinds(Ledger::new().judge(&server.operations, &seen)), [Kind::Lease]);

    let mut server = Server::busy();
    server.revoke(5);
    let mut seen = server.observe();
    seen.leases.insert(5, (3600, vec![]));
    assert_eq!(kinds(Ledger::new().judge(&server.operations, &seen)), [Kind::Lease]);
}

#[test]
fn a_lease_may_run_out_but_not_early() {
    let mut server = Server::new();
    server.grant(5, 2);
    server.put_leased("x", 5);
    server.leases.clear();
    server.change(BTreeMap::from([("x".into(), None)]), 0);
    let mut seen = server.observe();
    seen.time = 3 * SECOND;
    assert_eq!(Ledger::new().judge(&server.operations, &seen), []);
    seen.time = SECOND;
    let found = kinds(Ledger::new().judge(&server.operations, &seen));
    assert_eq!(found, [Kind::Unexplained, Kind::Lease]);
}

#[test]
fn a_forgotten_compaction_and_one_nobody_asked_for_are_found() {
    let mut server = Server::busy();
    let mut ledger = Ledger::new();
    assert_eq!(ledger.judge(&server.operations, &server.observe()), []);
    server.operations.clear();
    server.compacted = 4;
    assert_eq!(kinds(ledger.judge(&[], &server.observe())), [Kind::Compaction]);

    let mut seen = Server::busy().observe();
    seen.compaction_holds = false;
    assert_eq!(kinds(Ledger::new().judge(&Server::busy().operations, &seen)), [Kind::Compaction]);
}

#[test]
fn a_changed_hash_is_found() {
    let server = Server::busy();
    let mut ledger = Ledger::new();
    assert_eq!(ledger.judge(&server.operations, &server.observe()), []);
    let mut seen = server.observe();
    seen.hash_before = ledger.hash().map(|hash| Hash { hash: 8, ..hash });
    assert_eq!(kinds(ledger.judge(&[], &seen)), [Kind::HashChanged]);
}

#[test]
fn a_watch_out_of_order_is_found() {
    let server = Server::busy();
    let mut seen = server.observe();
    seen.events.reverse();
    assert_eq!(kinds(Ledger::new().judge(&server.operations, &seen)), [Kind::WrongOrder]);
}
