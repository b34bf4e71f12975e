//! Linearizability of registers by search, without a look at revisions: a second opinion on the checker by revisions.
//!
//! Wing and Gong's search with Lowe's memory of what was tried: operations are taken in an order that real time allows
//! as long as the register agrees, else taken back. Key by key, because linearizability is local. Operations without an
//! outcome may be taken at any time after their start, or never.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::finding::{Anomaly, Finding, Judgement};
use crate::history::op::{Expected, Op, Request};
use crate::shrink::greedy;

/// Steps of one key's search beyond which it is undecided.
const STEPS_MAX: u64 = 3_000_000;
/// Questions in search of a key's smallest failing piece,
const QUESTIONS_MAX: usize = 2000;
/// each of at most so many steps: small pieces need few.
const PIECE_STEPS_MAX: u64 = 100_000;

/// What an operation does to a register; values are numbers, 0 = there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read this.
    Read(u64),
    /// Wrote this; 0 deleted it.
    Write(u64),
    /// Replaced the first by the second.
    Swap(u64, u64),
    /// Did not replace the first, but read the second.
    NoSwap(u64, u64),
}

/// One operation on one register.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The operation.
    pub id: u64,
    /// When it began.
    pub start: u64,
    /// When it was answered; `None` = it happened, or not.
    pub end: Option<u64>,
    /// What it did.
    pub action: Action,
}

/// Registers out of a history: single keys, compare-and-set by value. Serializable reads promise less and are left out.
pub fn lift(ops: &[Op]) -> BTreeMap<String, Vec<Access>> {
    let mut registers: BTreeMap<String, Vec<Access>> = BTreeMap::new();
    let mut numbers: HashMap<String, u64> = HashMap::new();
    let mut number = |value: &str| {
        let next = numbers.len() as u64 + 1;
        *numbers.entry(value.to_owned()).or_insert(next)
    };
    for op in ops.iter().filter(|op| !op.is_refused()) {
        let reply = op.reply();
        let (key, action) = match (&op.request, reply) {
            (Request::Range(range), Some(reply))
                if range.end.is_none() && !range.serializable && range.revision == 0 =>
            {
                (&range.key, Action::Read(reply.kvs.first().map_or(0, |kv| number(&kv.value))))
            }
            (Request::Put(put), _) => (&put.key, Action::Write(number(&put.value))),
            (Request::Delete(delete), _) if delete.end.is_none() => (&delete.key, Action::Write(0)),
            (Request::Txn(txn), reply) => {
                let ([compare], [Request::Put(put)]) = (&txn.compare[..], &txn.success[..]) else { continue };
                let Expected::Value(expected) = &compare.is else { continue };
                let (old, new) = (number(expected), number(&put.value));
                let action = match reply {
                    Some(reply) if !reply.succeeded => {
                        let read = reply.replies.first().and_then(|one| one.kvs.first());
                        Action::NoSwap(old, read.map_or(0, |kv| number(&kv.value)))
                    }
                    _ => Action::Swap(old, new),
                };
                (&put.key, action)
            }
            _ => continue,
        };
        let access = Access { id: op.id, start: op.start, end: reply.map(|_| op.end), action };
        registers.entry(key.clone()).or_default().push(access);
    }
    registers
}

/// Judges every register of a history.
pub fn check(ops: &[Op]) -> Finding {
    let mut finding = Finding::new("search");
    for (key, accesses) in lift(ops) {
        finding.checked += accesses.len() as u64;
        match register(&accesses) {
            Judgement::Valid => {}
            Judgement::Unknown => {
                finding.undecided(format!("{key}: more than {STEPS_MAX} steps for {} operations", accesses.len()))
            }
            Judgement::Invalid => {
                let piece = smallest(&accesses);
                let text = format!("{key}: no order of its operations agrees with their answers and with time");
                let (name, operations) = ("not-linearizable".into(), piece.clone());
                finding.add(Anomaly { name, text, operations, piece, ..Anomaly::default() });
            }
        }
    }
    finding
}

/// Of the shortest beginning that cannot be ordered what is left when operations are removed while the rest cannot be
/// ordered either.
fn smallest(accesses: &[Access]) -> Vec<u64> {
    let mut ends: Vec<u64> = accesses.iter().filter_map(|access| access.end).collect();
    ends.sort_unstable();
    let until = |moment: u64| -> Vec<Access> {
        let begun = accesses.iter().filter(|access| access.start <= moment);
        begun.map(|access| Access { end: access.end.filter(|end| *end <= moment), ..*access }).collect()
    };
    // A beginning of a linearizable history is linearizable, so the failing ones are a tail of all.
    let first = ends.partition_point(|end| register(&until(*end)) != Judgement::Invalid);
    let moment = ends.get(first).copied().unwrap_or(u64::MAX);
    let beginning = until(moment);
    let piece = greedy(&beginning, QUESTIONS_MAX, |part| {
        is_closed(part, &beginning) && register_within(part, PIECE_STEPS_MAX) == Judgement::Invalid
    });
    let mut ids: Vec<u64> = piece.iter().map(|access| access.id).collect();
    ids.sort_unstable();
    ids
}

/// Whether a part has all writers of the values that it needs: those it reads or compares with. Then it can be ordered
/// when the whole can, by leaving the others out of the whole's order; so it proves something when it cannot.
fn is_closed(part: &[Access], all: &[Access]) -> bool {
    let needed: HashSet<u64> = part
        .iter()
        .filter_map(|access| match access.action {
            Action::Read(value) | Action::NoSwap(_, value) | Action::Swap(value, _) => Some(value),
            Action::Write(_) => None,
        })
        .collect();
    let there: HashSet<u64> = part.iter().map(|access| access.id).collect();
    all.iter().all(|access| match access.action {
        Action::Write(value) | Action::Swap(_, value) => !needed.contains(&value) || there.contains(&access.id),
        _ => true,
    })
}

/// A place in the list of calls and returns that are not yet taken.
#[derive(Clone, Copy)]
struct Place {
    access: usize,
    is_return: bool,
    before: usize,
    after: usize,
}

/// Searches for an order of one register's operations.
pub fn register(accesses: &[Access]) -> Judgement {
    register_within(accesses, STEPS_MAX)
}

fn register_within(accesses: &[Access], steps_max: u64) -> Judgement {
    let mut sorted: Vec<&Access> = accesses
        .iter()
        .filter(|access| access.end.is_some() || !matches!(access.action, Action::Read(_) | Action::NoSwap(..)))
        .collect();
    sorted.sort_by_key(|access| (access.start, access.id));
    Search::new(&sorted).run(steps_max)
}

struct Search<'a> {
    accesses: &'a [&'a Access],
    places: Vec<Place>,
    returns: Vec<Option<usize>>,
    taken: Vec<u64>,
    tried: HashSet<(usize, Vec<u64>, u64)>,
    returns_left: usize,
}

/// The list's head; the first place behind it is 1.
const HEAD: usize = 0;

impl<'a> Search<'a> {
    fn new(accesses: &'a [&'a Access]) -> Self {
        let mut moments: Vec<(u64, bool, usize)> = Vec::new();
        for (at, access) in accesses.iter().enumerate() {
            moments.push((access.start, false, at));
            moments.extend(access.end.map(|end| (end, true, at)));
        }
        moments.sort_unstable();
        let mut places = vec![Place { access: usize::MAX, is_return: false, before: HEAD, after: 1 }];
        let mut returns = vec![None; accesses.len()];
        for (index, (_, is_return, access)) in moments.iter().enumerate() {
            let at = index + 1;
            places.push(Place { access: *access, is_return: *is_return, before: index, after: at + 1 });
            if *is_return {
                returns[*access] = Some(at);
            }
        }
        let last = places.len() - 1;
        places[last].after = HEAD;
        let returns_left = returns.iter().flatten().count();
        Self { accesses, places, returns, taken: vec![0; accesses.len() / 64 + 1], tried: HashSet::new(), returns_left }
    }

    fn unlink(&mut self, at: usize) {
        let Place { before, after, .. } = self.places[at];
        self.places[before].after = after;
        self.places[after].before = before;
    }

    fn link(&mut self, at: usize) {
        let Place { before, after, .. } = self.places[at];
        self.places[before].after = at;
        self.places[after].before = at;
    }

    /// What was taken, without the part that everything was taken of, and the value after it.
    fn key(&self, value: u64) -> (usize, Vec<u64>, u64) {
        let full = self.taken.iter().take_while(|word| **word == u64::MAX).count();
        let last = self.taken.iter().rposition(|word| *word != 0).map_or(full, |last| last + 1).max(full);
        (full, self.taken[full..last].to_vec(), value)
    }

    fn run(mut self, steps_max: u64) -> Judgement {
        let mut stack: Vec<(usize, u64)> = Vec::new();
        let (mut value, mut at, mut steps) = (0u64, self.places[HEAD].after, 0u64);
        while self.returns_left > 0 {
            steps += 1;
            if steps > steps_max {
                return Judgement::Unknown;
            }
            if at != HEAD && !self.places[at].is_return {
                let access = self.places[at].access;
                let after = step(value, self.accesses[access].action);
                if let Some(after) = after {
                    self.taken[access / 64] |= 1 << (access % 64);
                    let key = self.key(after);
                    if self.tried.insert(key) {
                        stack.push((at, value));
                        value = after;
                        self.unlink(at);
                        if let Some(end) = self.returns[access] {
                            self.unlink(end);
                            self.returns_left -= 1;
                        }
                        at = self.places[HEAD].after;
                        continue;
                    }
                    self.taken[access / 64] &= !(1 << (access % 64));
                }
                at = self.places[at].after;
                continue;
            }
            // A return whose call was not taken: the last choice was wrong.
            let Some((back, before)) = stack.pop() else { return Judgement::Invalid };
            let access = self.places[back].access;
            if let Some(end) = self.returns[access] {
                self.link(end);
                self.returns_left += 1;
            }
            self.link(back);
            self.taken[access / 64] &= !(1 << (access % 64));
            value = before;
            at = self.places[back].after;
        }
        Judgement::Valid
    }
}

/// The value after an action, if its answer agrees with the value before.
fn step(value: u64, action: Action) -> Option<u64> {
    match action {
        Action::Read(read) => (read == value).then_some(value),
        Action::Write(new) => Some(new),
        Action::Swap(old, new) => (old == value && value != 0).then_some(new),
        Action::NoSwap(old, read) => (old != value && read == value).then_some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(id: u64, start: u64, end: impl Into<Option<u64>>, action: Action) -> Access {
        Access { id, start, end: end.into(), action }
    }

    #[test]
    fn concurrent_operations_find_an_order_and_later_ones_keep_theirs() {
        let history = [
            access(1, 0, 10, Action::Write(1)),
            access(2, 1, 9, Action::Write(2)),
            access(3, 2, 8, Action::Read(1)),
            access(4, 11, 12, Action::Read(2)),
        ];
        assert_eq!(register(&history), Judgement::Valid);
        let stale =
            [access(1, 0, 5, Action::Write(1)), access(2, 6, 7, Action::Write(2)), access(3, 8, 9, Action::Read(1))];
        assert_eq!(register(&stale), Judgement::Invalid);
        assert_eq!(smallest(&stale), [1, 2, 3]);
    }

    #[test]
    fn the_smallest_piece_keeps_who_wrote_what_is_read_and_nothing_else() {
        // Sound reads and writes before, beside and after a read of what was overwritten.
        let mut history: Vec<Access> = Vec::new();
        for n in 0..20 {
            history.push(access(10 + n, 40 * n, 40 * n + 9, Action::Write(100 + n)));
            history.push(access(50 + n, 40 * n + 10, 40 * n + 19, Action::Read(100 + n)));
        }
        assert_eq!(register(&history), Judgement::Valid);
        history.push(access(1, 801, 802, Action::Read(117)));
        history.push(access(2, 803, 804, Action::Read(119)));
        let piece = smallest(&history);
        assert!(piece.contains(&1) && piece.contains(&27), "a stale read and its writer: {piece:?}");
        // One later write, or a read of it with its writer, shows that it is stale.
        assert!(piece.len() <= 4, "{piece:?}");
        assert_eq!(history.len(), 42);
    }

    #[test]
    fn an_unknown_write_may_happen_late_or_never_but_not_early() {
        let unknown = access(1, 5, None, Action::Write(1));
        assert_eq!(
            register(&[unknown, access(2, 6, 7, Action::Read(0)), access(3, 8, 9, Action::Read(1))]),
            Judgement::Valid
        );
        assert_eq!(register(&[unknown, access(2, 6, 7, Action::Read(0))]), Judgement::Valid);
        assert_eq!(register(&[unknown, access(2, 0, 4, Action::Read(1))]), Judgement::Invalid);
        let flicker = [unknown, access(2, 6, 7, Action::Read(1)), access(3, 8, 9, Action::Read(0))];
        assert_eq!(register(&flicker), Judgement::Invalid);
    }

    #[test]
    fn compare_and_set_depends_on_the_value() {
        let write = access(1, 0, 1, Action::Write(1));
        assert_eq!(
            register(&[write, access(2, 2, 3, Action::Swap(1, 2)), access(3, 4, 5, Action::Read(2))]),
            Judgement::Valid
        );
        assert_eq!(register(&[write, access(2, 2, 3, Action::Swap(3, 2))]), Judgement::Invalid);
        assert_eq!(register(&[write, access(2, 2, 3, Action::NoSwap(1, 1))]), Judgement::Invalid);
        assert_eq!(register(&[write, access(2, 2, 3, Action::NoSwap(3, 1))]), Judgement::Valid);
    }
}
