//! What a server must still show after a crash: the ledger of everything acknowledged so far.
//!
//! One [`Ledger`] lives through a run. After each restart it gets the operations since the last one and an
//! [`Observation`] of the quiet server, decides what became of the unknown ones, and says what is wrong. Acknowledged
//! means: there, at its revision, with its effect, for ever. Unknown means: whole or not at all, decided once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::order::{self, Placed};
use super::{Kind, Violation};
use crate::client::{Event, Hash};
use crate::history::{Action, Key, Kv, Operation, Outcome, Value};

/// A report of more than this many violations tells nothing new.
const VIOLATIONS_MAX: usize = 200;
const SECOND: u64 = 1_000_000_000;

/// What a quiet server shows after a restart.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Nanoseconds on the histories' clock, when the observation ended.
    pub time: u64,
    /// The current revision.
    pub head: i64,
    /// Changes up to and including this revision cannot be read any more, 0 = none.
    pub compacted: i64,
    /// Whether a read just below the newest acknowledged compaction was refused.
    pub compaction_holds: bool,
    /// All changes of `compacted + 1..=head`.
    pub events: Vec<Event>,
    /// Every key-value at `head`.
    pub state: Vec<Kv>,
    /// Every lease: TTL as granted and keys.
    pub leases: BTreeMap<i64, (i64, Vec<Key>)>,
    /// The hash at `head`.
    pub hash: Option<Hash>,
    /// The hash at the head of the previous observation, asked again.
    pub hash_before: Option<Hash>,
}

/// Counts of a run, for its report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Requests sent.
    pub operations: u64,
    /// Acknowledged requests that changed something.
    pub writes_acknowledged: u64,
    /// Acknowledged requests of all kinds.
    pub acknowledged: u64,
    /// Requests refused.
    pub refused: u64,
    /// Requests without an outcome.
    pub unknown: u64,
    /// Of those, the ones that turned out to have happened.
    pub unknown_applied: u64,
    /// Acknowledged writes that were gone.
    pub lost: u64,
    /// Changes read back and compared.
    pub events_checked: u64,
    /// Hashes compared with the ones before the crash.
    pub hashes_compared: u64,
}

/// What is known of a lease.
#[derive(Clone, Copy, Debug)]
struct LeaseFacts {
    ttl: i64,
    granted_after: u64,
    /// Its grant was acknowledged or it was seen.
    certain: bool,
    /// A revocation may have happened.
    revoking: bool,
    /// It is gone for certain: revoked, or expired, or never granted.
    gone: bool,
}

/// Everything that must be there.
#[derive(Debug, Default)]
pub struct Ledger {
    head: i64,
    compacted: i64,
    state: BTreeMap<Key, Kv>,
    log: BTreeMap<i64, Vec<Event>>,
    leases: BTreeMap<i64, LeaseFacts>,
    hash: Option<Hash>,
    totals: Totals,
}

/// The replay of one epoch's changes, while it is judged.
struct Replay<'a> {
    operations: &'a [Operation],
    by_id: HashMap<u64, usize>,
    by_revision: HashMap<i64, usize>,
    /// Where each operation was found in the log.
    found: HashMap<usize, i64>,
    /// Older versions of the keys that changed, for reads.
    history: BTreeMap<Key, Vec<(i64, Option<Kv>)>>,
    base: i64,
    violations: Vec<Violation>,
}

impl Ledger {
    /// A ledger of an empty server, whose revision is 1.
    pub fn new() -> Self {
        Self { head: 1, ..Self::default() }
    }

    /// The revision up to which everything is verified; compactions beyond it would hide evidence.
    pub fn head(&self) -> i64 {
        self.head
    }

    /// The newest compaction that is known to have happened.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// The verified state, for workloads that want to know what there is.
    pub fn state(&self) -> &BTreeMap<Key, Kv> {
        &self.state
    }

    /// The hash at [`Ledger::head`], to be asked for again after the next crash.
    pub fn hash(&self) -> Option<Hash> {
        self.hash
    }

    /// Counts so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Judges one epoch: `operations` since the last observation, then a crash, then `seen`.
    pub fn judge(&mut self, operations: &[Operation], seen: &Observation) -> Vec<Violation> {
        let mut replay = Replay::new(operations, self.head);
        self.count(operations);
        self.check_head(operations, seen, &mut replay.violations);
        self.note_leases(operations);
        if let Some(pair) = seen.events.windows(2).find(|pair| pair[0].kv.mod_revision > pair[1].kv.mod_revision) {
            let text =
                format!("the watch sent revision {} before {}", pair[0].kv.mod_revision, pair[1].kv.mod_revision);
            replay.report(Kind::WrongOrder, text);
        }
        let revisions = by_revision(&seen.events);
        self.check_old_log(seen, &revisions, &mut replay.violations);
        for revision in self.head + 1..=seen.head {
            match revisions.get(&revision) {
                Some(events) => self.replay_revision(&mut replay, revision, events, seen.time),
                None if revision > seen.compacted => {
                    replay.report(Kind::Hole, format!("nothing changed at revision {revision}"));
                }
                None => {}
            }
        }
        self.check_acknowledged(&mut replay, seen);
        replay.violations.extend(order::check(&replay.placed()));
        self.check_state(seen, &mut replay.violations);
        self.check_leases(seen, &mut replay.violations);
        self.check_compaction(operations, seen, &mut replay.violations);
        self.check_hash(seen, &mut replay.violations);
        self.totals.events_checked += seen.events.len() as u64;
        self.head = seen.head.max(self.head);
        self.log.extend(revisions);
        self.compacted = self.compacted.max(seen.compacted);
        self.log = self.log.split_off(&(self.compacted + 1));
        self.hash = seen.hash;
        replay.violations.truncate(VIOLATIONS_MAX);
        replay.violations
    }

    /// Counts requests; [`Ledger::judge`] does, others only for what can no longer be judged.
    pub fn count(&mut self, operations: &[Operation]) {
        self.totals.operations += operations.len() as u64;
        for operation in operations {
            match &operation.outcome {
                Outcome::Acknowledged(_) => {
                    self.totals.acknowledged += 1;
                    self.totals.writes_acknowledged += u64::from(changes_revision(operation));
                }
                Outcome::Refused(_) => self.totals.refused += 1,
                Outcome::Unknown(_) => self.totals.unknown += 1,
            }
        }
    }

    fn check_head(&self, operations: &[Operation], seen: &Observation, violations: &mut Vec<Violation>) {
        let newest = operations.iter().filter_map(|operation| operation.answer()).map(|answer| answer.revision).max();
        let newest = newest.unwrap_or(0).max(self.head);
        if seen.head < newest {
            let text = format!("the current revision is {}, but {newest} had been answered", seen.head);
            violations.push(Violation::new(Kind::RevisionWentBack, text));
        }
    }

    /// What was verified before must still read the same, as far as it is not compacted.
    fn check_old_log(
        &self,
        seen: &Observation,
        revisions: &BTreeMap<i64, Vec<Event>>,
        violations: &mut Vec<Violation>,
    ) {
        for (revision, known) in self.log.range(seen.compacted + 1..) {
            let now = revisions.get(revision);
            if now != Some(known) {
                let text =
                    format!("revision {revision} was {}, is {}", show(known), now.map_or("gone".into(), |e| show(e)));
                violations.push(Violation::new(Kind::HistoryChanged, text));
            }
        }
    }

    fn note_leases(&mut self, operations: &[Operation]) {
        for operation in operations {
            match operation.action {
                Action::Grant { id, ttl } if !matches!(operation.outcome, Outcome::Refused(_)) => {
                    let certain = operation.answer().is_some();
                    let ttl = operation.answer().map_or(ttl, |answer| answer.ttl);
                    let facts =
                        LeaseFacts { ttl, granted_after: operation.start, certain, revoking: false, gone: false };
                    self.leases.insert(id, facts);
                }
                Action::Revoke { id } => {
                    if let Some(facts) = self.leases.get_mut(&id) {
                        facts.gone |= operation.answer().is_some();
                        facts.revoking |= operation.is_unknown();
                    }
                }
                _ => {}
            }
        }
    }

    /// Finds the operation behind one new revision, compares effects and applies them.
    fn replay_revision(&mut self, replay: &mut Replay<'_>, revision: i64, events: &[Event], now: u64) {
        let owner = match self.owner(replay, revision, events, now) {
            Ok(owner) => owner,
            Err(text) => {
                let kind = if is_part(&text) { Kind::HalfTransaction } else { Kind::Unexplained };
                replay.report(kind, text);
                self.apply(replay, revision, events);
                return;
            }
        };
        if let Some(index) = owner {
            let operation = &replay.operations[index];
            if let Some(earlier) = replay.found.insert(index, revision) {
                let text = format!("operation {} is there twice: revisions {earlier} and {revision}", operation.id);
                replay.report(Kind::WrongRevision, text);
            }
            match &operation.outcome {
                Outcome::Refused(why) => {
                    let text = format!("operation {} was refused ({why}), but is at revision {revision}", operation.id);
                    replay.report(Kind::RefusedButApplied, text);
                }
                Outcome::Acknowledged(answer) if answer.revision != revision && !is_revoke(operation) => {
                    let text = format!(
                        "operation {} was answered at revision {}, but is at {revision}",
                        operation.id, answer.revision
                    );
                    replay.report(Kind::WrongRevision, text);
                }
                Outcome::Acknowledged(_) => {}
                Outcome::Unknown(_) => self.totals.unknown_applied += 1,
            }
            let expected = self.effect(&operation.action);
            let actual = effect_of(events);
            if expected != actual {
                let text = format!(
                    "operation {} at revision {revision} should have changed {}, but changed {}",
                    operation.id,
                    show_effect(&expected),
                    show_effect(&actual)
                );
                replay.report(Kind::HalfTransaction, text);
            }
            self.check_fields(replay, operation, revision, events);
        }
        self.apply(replay, revision, events);
    }

    /// The operation whose effect these events are: `Ok(None)` is a lease that ran out.
    fn owner(&self, replay: &Replay<'_>, revision: i64, events: &[Event], now: u64) -> Result<Option<usize>, String> {
        if let Some(put) = events.iter().find(|event| !event.deleted) {
            let Some(value) = put.kv.value else {
                return Err(format!("revision {revision}: {} has a value that nobody wrote", put.kv.key));
            };
            let index = replay.by_id.get(&value.operation).copied();
            return index.map(Some).ok_or_else(|| {
                format!(
                    "revision {revision}: {} was written by operation {}, which is long over",
                    put.kv.key, value.operation
                )
            });
        }
        if let Some(&index) = replay.by_revision.get(&revision) {
            return Ok(Some(index));
        }
        let actual = effect_of(events);
        let open = |index: &usize| {
            let operation = &replay.operations[*index];
            let deletes = matches!(operation.action, Action::Delete { .. } | Action::Revoke { .. });
            let open = operation.is_unknown() || is_revoke(operation) && operation.answer().is_some();
            deletes && open && !replay.found.contains_key(index)
        };
        let candidates: Vec<usize> = (0..replay.operations.len()).filter(open).collect();
        if let Some(&index) = candidates.iter().find(|&&index| self.effect(&replay.operations[index].action) == actual)
        {
            return Ok(Some(index));
        }
        let lease = events.first().and_then(|event| self.state.get(&event.kv.key)).map_or(0, |kv| kv.lease);
        if self.leases.get(&lease).is_some_and(|facts| expired(facts, now)) && self.lease_effect(lease) == actual {
            return Ok(None);
        }
        let keys: Vec<&str> = events.iter().map(|event| event.kv.key.as_str()).collect();
        match candidates.iter().find(|&&index| {
            let effect = self.effect(&replay.operations[index].action);
            keys.iter().any(|key| effect.contains_key(*key))
        }) {
            Some(&index) => Err(format!(
                "{PART} operation {}: only {} went at revision {revision}",
                replay.operations[index].id,
                keys.join(", ")
            )),
            None => Err(format!("revision {revision}: nobody deleted {}", keys.join(", "))),
        }
    }

    /// What an action changes in the present state: key → new value, or `None` for a deletion.
    fn effect(&self, action: &Action) -> BTreeMap<Key, Option<Value>> {
        match action {
            Action::Put { key, value, .. } | Action::Cas { key, value, .. } => {
                BTreeMap::from([(key.clone(), Some(*value))])
            }
            Action::Delete { key, end: None } => {
                self.state.get(key).map(|kv| (kv.key.clone(), None)).into_iter().collect()
            }
            Action::Delete { key, end: Some(end) } => {
                self.state.range(key.clone()..end.clone()).map(|(key, _)| (key.clone(), None)).collect()
            }
            Action::Many { puts, deletes } => {
                let puts = puts.iter().map(|(key, value)| (key.clone(), Some(*value)));
                let deletes = deletes.iter().filter(|key| self.state.contains_key(*key)).map(|key| (key.clone(), None));
                puts.chain(deletes).collect()
            }
            Action::Revoke { id } => self.lease_effect(*id),
            Action::Get { .. } | Action::Doomed { .. } | Action::Grant { .. } | Action::Compact { .. } => {
                BTreeMap::new()
            }
        }
    }

    fn lease_effect(&self, id: i64) -> BTreeMap<Key, Option<Value>> {
        if id == 0 {
            return BTreeMap::new();
        }
        self.state.values().filter(|kv| kv.lease == id).map(|kv| (kv.key.clone(), None)).collect()
    }

    /// Create revision, version and lease must follow from the state before; a CAS must have held.
    fn check_fields(&self, replay: &mut Replay<'_>, operation: &Operation, revision: i64, events: &[Event]) {
        if let Action::Cas { key, expected, .. } = &operation.action {
            let before = self.state.get(key).map_or(0, |kv| kv.mod_revision);
            if before != *expected {
                let text = format!(
                    "operation {} at revision {revision} expected {key} at {expected}, it was at {before}",
                    operation.id
                );
                replay.report(Kind::HalfTransaction, text);
            }
        }
        let lease = if let Action::Put { lease, .. } = operation.action { lease } else { 0 };
        for event in events.iter().filter(|event| !event.deleted) {
            let before = self.state.get(&event.kv.key);
            let expected = Kv {
                create_revision: before.map_or(revision, |kv| kv.create_revision),
                version: before.map_or(1, |kv| kv.version + 1),
                mod_revision: revision,
                lease,
                ..event.kv.clone()
            };
            if event.kv != expected {
                replay.report(Kind::WrongFields, format!("expected {}, is {}", show_kv(&expected), show_kv(&event.kv)));
            }
        }
    }

    fn apply(&mut self, replay: &mut Replay<'_>, revision: i64, events: &[Event]) {
        for event in events {
            let key = &event.kv.key;
            let versions =
                replay.history.entry(key.clone()).or_insert_with(|| vec![(replay.base, self.state.get(key).cloned())]);
            versions.push((revision, (!event.deleted).then(|| event.kv.clone())));
            if event.deleted {
                self.state.remove(key);
            } else {
                self.state.insert(key.clone(), event.kv.clone());
            }
        }
    }

    /// Every acknowledged operation: found, or a read that was right.
    fn check_acknowledged(&mut self, replay: &mut Replay<'_>, seen: &Observation) {
        for (index, operation) in replay.operations.iter().enumerate() {
            let Some(answer) = operation.answer() else { continue };
            if let Action::Doomed { how, .. } = &operation.action {
                replay.report(Kind::AcceptedDoomed, format!("operation {} ({how:?}) was acknowledged", operation.id));
            } else if changes_revision(operation) {
                if !replay.found.contains_key(&index) && answer.revision > seen.compacted {
                    self.totals.lost += 1;
                    let text = format!(
                        "operation {} was answered at revision {}, but is not there: {}",
                        operation.id,
                        answer.revision,
                        show_action(&operation.action)
                    );
                    replay.report(Kind::LostWrite, text);
                }
            } else {
                self.check_read(replay, operation);
            }
        }
    }

    fn check_read(&self, replay: &mut Replay<'_>, operation: &Operation) {
        let Some(answer) = operation.answer() else { return };
        let at = answer.revision;
        let read = |key: &Key| match replay.history.get(key) {
            Some(versions) => {
                versions.iter().rev().find(|(revision, _)| *revision <= at).and_then(|(_, kv)| kv.as_ref())
            }
            None => self.state.get(key),
        };
        let wrong = match &operation.action {
            Action::Get { key, .. } => (read(key) != answer.read.as_ref()).then(|| (read(key), answer.read.as_ref())),
            Action::Cas { key, expected, .. } => {
                let differs = read(key) != answer.read.as_ref();
                let held = read(key).map_or(0, |kv| kv.mod_revision) == *expected;
                (differs || held).then(|| (read(key), answer.read.as_ref()))
            }
            Action::Delete { key, end: None } => read(key).map(|kv| (Some(kv), None)),
            _ => None,
        };
        if let Some((expected, actual)) = wrong {
            let text = format!(
                "operation {} read {} at revision {at}, the state there is {}",
                operation.id,
                actual.map_or("nothing".into(), show_kv),
                expected.map_or("nothing".into(), show_kv)
            );
            replay.report(Kind::WrongRead, text);
        }
    }

    fn check_state(&self, seen: &Observation, violations: &mut Vec<Violation>) {
        let shown: BTreeMap<&Key, &Kv> = seen.state.iter().map(|kv| (&kv.key, kv)).collect();
        if shown.len() != seen.state.len() {
            violations.push(Violation::new(Kind::StateDiffers, "the full read shows a key twice"));
        }
        for (key, kv) in &self.state {
            if shown.get(key) != Some(&kv) {
                let shown = shown.get(key).map_or("missing".into(), |kv| show_kv(kv));
                violations
                    .push(Violation::new(Kind::StateDiffers, format!("{} is {shown} in the full read", show_kv(kv))));
            }
        }
        for kv in &seen.state {
            if !self.state.contains_key(&kv.key) {
                let text = format!("{} is in the full read, but was deleted or never written", show_kv(kv));
                violations.push(Violation::new(Kind::StateDiffers, text));
            }
        }
    }

    fn check_leases(&mut self, seen: &Observation, violations: &mut Vec<Violation>) {
        let mut report = |text: String| violations.push(Violation::new(Kind::Lease, text));
        let mut attached: BTreeMap<i64, Vec<&Key>> = BTreeMap::new();
        for kv in self.state.values().filter(|kv| kv.lease != 0) {
            attached.entry(kv.lease).or_default().push(&kv.key);
        }
        for (id, facts) in &mut self.leases {
            let there = seen.leases.get(id);
            let may_be_gone = expired(facts, seen.time) || facts.revoking || !facts.certain;
            match there {
                Some(_) if facts.gone => report(format!("lease {id} was revoked or had run out, and is there again")),
                Some((ttl, keys)) => {
                    let expected = attached.get(id).cloned().unwrap_or_default();
                    if *ttl != facts.ttl {
                        report(format!("lease {id} was granted for {} s, is one of {ttl} s", facts.ttl));
                    }
                    if !expired(facts, seen.time) && keys.iter().collect::<Vec<_>>() != expected {
                        report(format!("lease {id} should have {expected:?}, has {keys:?}"));
                    }
                    facts.certain = true;
                    facts.revoking = false;
                }
                None if facts.gone || may_be_gone => facts.gone = true,
                None => report(format!("lease {id} was granted for {} s and is gone", facts.ttl)),
            }
            // A lease that may run out during the observation shows its keys until then.
            if facts.gone && !expired(facts, seen.time) && attached.contains_key(id) {
                report(format!("lease {id} is gone, its keys {:?} are not", attached[id]));
            }
        }
        for id in seen.leases.keys().filter(|id| !self.leases.contains_key(id)) {
            report(format!("lease {id} was never granted"));
        }
        for (id, keys) in attached.iter().filter(|(id, _)| !self.leases.contains_key(id)) {
            report(format!("{keys:?} have lease {id}, which was never granted"));
        }
    }

    fn check_compaction(&self, operations: &[Operation], seen: &Observation, violations: &mut Vec<Violation>) {
        let asked = |operation: &Operation| match operation.action {
            Action::Compact { revision } if !matches!(operation.outcome, Outcome::Refused(_)) => Some(revision),
            _ => None,
        };
        let allowed: BTreeSet<i64> = operations.iter().filter_map(asked).chain([self.compacted]).collect();
        if !seen.compaction_holds {
            violations.push(Violation::new(Kind::Compaction, "a compaction that was acknowledged is forgotten"));
        }
        if !allowed.contains(&seen.compacted) {
            let text = format!("compacted up to {}, asked for {allowed:?}", seen.compacted);
            violations.push(Violation::new(Kind::Compaction, text));
        }
    }

    fn check_hash(&mut self, seen: &Observation, violations: &mut Vec<Violation>) {
        let (Some(before), Some(now)) = (self.hash, seen.hash_before) else { return };
        if before.revision == now.revision && before.compact_revision == now.compact_revision {
            self.totals.hashes_compared += 1;
            if before.hash != now.hash {
                let text = format!("at revision {} it was {}, is {}", now.revision, before.hash, now.hash);
                violations.push(Violation::new(Kind::HashChanged, text));
            }
        }
    }
}

impl<'a> Replay<'a> {
    fn new(operations: &'a [Operation], base: i64) -> Self {
        let by_id = operations.iter().enumerate().map(|(index, operation)| (operation.id, index)).collect();
        let acknowledged = operations.iter().enumerate().filter(|(_, operation)| changes_revision(operation));
        let by_revision =
            acknowledged.filter_map(|(index, operation)| Some((operation.answer()?.revision, index))).collect();
        let (found, history) = (HashMap::new(), BTreeMap::new());
        Self { operations, by_id, by_revision, found, history, base, violations: Vec::new() }
    }

    fn report(&mut self, kind: Kind, text: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation::new(kind, text));
        }
    }

    /// Where operations stand in time and in the order of revisions.
    fn placed(&self) -> Vec<Placed> {
        let place = |(index, operation): (usize, &Operation)| {
            let answer = operation.answer();
            let changed = self.found.get(&index).copied();
            let read = match operation.action {
                Action::Get { .. } | Action::Cas { .. } | Action::Delete { .. } => answer.map(|answer| answer.revision),
                _ => None,
            };
            Some(Placed {
                id: operation.id,
                start: operation.start,
                end: answer.map(|_| operation.end),
                revision: changed.or(read)?,
                changes: changed.is_some(),
                may_be_old: matches!(operation.action, Action::Get { serializable: true, .. }),
            })
        };
        self.operations.iter().enumerate().filter_map(place).collect()
    }
}

/// Marks the text of an owner search that found a part of an effect.
const PART: &str = "a part of";

fn is_part(text: &str) -> bool {
    text.starts_with(PART)
}

/// Whether an acknowledged operation has a revision of its own. A revocation's is found by its keys.
fn changes_revision(operation: &Operation) -> bool {
    let Some(answer) = operation.answer() else { return false };
    match &operation.action {
        Action::Put { .. } | Action::Many { .. } => true,
        Action::Cas { .. } => answer.succeeded,
        Action::Delete { .. } => answer.deleted > 0,
        Action::Get { .. }
        | Action::Doomed { .. }
        | Action::Grant { .. }
        | Action::Revoke { .. }
        | Action::Compact { .. } => false,
    }
}

fn is_revoke(operation: &Operation) -> bool {
    matches!(operation.action, Action::Revoke { .. })
}

fn expired(facts: &LeaseFacts, now: u64) -> bool {
    facts.ttl >= 0 && now.saturating_sub(facts.granted_after) >= facts.ttl.unsigned_abs() * SECOND
}

fn by_revision(events: &[Event]) -> BTreeMap<i64, Vec<Event>> {
    let mut revisions: BTreeMap<i64, Vec<Event>> = BTreeMap::new();
    for event in events {
        revisions.entry(event.kv.mod_revision).or_default().push(event.clone());
    }
    revisions
}

fn effect_of(events: &[Event]) -> BTreeMap<Key, Option<Value>> {
    events.iter().map(|event| (event.kv.key.clone(), if event.deleted { None } else { event.kv.value })).collect()
}

/// Long lists are cut: a person reads this.
const SHOWN_MAX: usize = 6;

fn show(events: &[Event]) -> String {
    show_effect(&effect_of(events))
}

fn show_effect(effect: &BTreeMap<Key, Option<Value>>) -> String {
    let show = |(key, value): (&Key, &Option<Value>)| match value {
        Some(value) => format!("{key}={}.{}", value.operation, value.part),
        None => format!("{key} deleted"),
    };
    let mut shown: Vec<String> = effect.iter().take(SHOWN_MAX).map(show).collect();
    if effect.len() > SHOWN_MAX {
        shown.push(format!("… {} in all", effect.len()));
    }
    format!("[{}]", shown.join(", "))
}

fn show_kv(kv: &Kv) -> String {
    let value = kv.value.map_or("foreign bytes".into(), |value| format!("{}.{}", value.operation, value.part));
    format!(
        "{} = {value} (create {}, mod {}, version {}, lease {})",
        kv.key, kv.create_revision, kv.mod_revision, kv.version, kv.lease
    )
}

fn show_action(action: &Action) -> String {
    match action {
        Action::Many { puts, deletes } => {
            format!("{} puts and {} deletes in one transaction", puts.len(), deletes.len())
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests;
