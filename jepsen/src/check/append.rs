//! Strict serializability of list-append transactions: the order of each list is the order of its versions.
//!
//! Besides cycles: elements read twice, that nobody wrote, of transactions that did not happen (G1a) or from the middle
//! of one (G1b), lists of which neither is the other's beginning, and acknowledged appends that later reads miss.

use std::collections::{HashMap, HashSet};

use super::finding::Finding;
use super::graph::{Graph, Node, RW, WR, WW};
use crate::history::op::{Op, Reply, Request};
use crate::workload::append::PREFIX;

/// A step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Appends an element to a list.
    Append(String, u64),
    /// Read a list.
    Read(String, Vec<u64>),
}

/// A transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The operation.
    pub id: u64,
    /// When it began.
    pub start: u64,
    /// When it was answered; `None` = it happened, or not.
    pub end: Option<u64>,
    /// It certainly did not happen.
    pub failed: bool,
    /// What it did. Of one without an answer only the appends are known.
    pub steps: Vec<Step>,
}

/// Finds the transactions on lists in a history.
pub fn lift(ops: &[Op]) -> Vec<Transaction> {
    ops.iter().filter_map(transaction).collect()
}

fn transaction(op: &Op) -> Option<Transaction> {
    let reply = op.reply();
    let single = Reply { replies: reply.cloned().into_iter().collect(), ..Reply::default() };
    let mut failed = op.is_refused();
    let (requests, replies): (&[Request], &[Reply]) = match &op.request {
        Request::Txn(txn) => {
            // A guard that did not hold: nothing of it happened.
            failed |= reply.is_some_and(|reply| !reply.succeeded);
            (&txn.success, reply.map_or(&[], |reply| &reply.replies))
        }
        request @ Request::Range(range) if !range.serializable && range.revision == 0 => {
            (std::slice::from_ref(request), &single.replies)
        }
        _ => return None,
    };
    let mut steps = Vec::new();
    for (at, request) in requests.iter().enumerate() {
        match request {
            Request::Put(put) if put.key.starts_with(PREFIX) => {
                steps.push(Step::Append(put.key.clone(), put.value.rsplit(' ').next()?.parse().ok()?));
            }
            Request::Range(range) if range.key.starts_with(PREFIX) && !failed => {
                let Some(reply) = replies.get(at) else { continue };
                if range.end.is_none() && reply.kvs.is_empty() {
                    steps.push(Step::Read(range.key.clone(), Vec::new()));
                }
                steps.extend(reply.kvs.iter().map(|kv| Step::Read(kv.key.clone(), elements(&kv.value))));
            }
            _ => {}
        }
    }
    let end = reply.map(|_| op.end);
    (!steps.is_empty()).then_some(Transaction { id: op.id, start: op.start, end, failed, steps })
}

/// The numbers of a list; what is no number was written by nobody.
fn elements(list: &str) -> Vec<u64> {
    list.split(' ').filter(|word| !word.is_empty()).map(|word| word.parse().unwrap_or(u64::MAX)).collect()
}

#[derive(Clone, Copy)]
struct Writer {
    /// Index of the transaction.
    at: usize,
    /// The transaction appends to this key again.
    intermediate: bool,
}

struct Run<'a> {
    finding: Finding,
    transactions: &'a [Transaction],
    keys: Vec<&'a str>,
    numbers: HashMap<&'a str, usize>,
    writers: HashMap<(usize, u64), Writer>,
    /// Reads without what their own transaction had appended: key, transaction, list.
    reads: Vec<(usize, usize, &'a [u64])>,
}

/// Judges transactions.
pub fn check(transactions: &[Transaction]) -> Finding {
    let mut run = Run {
        finding: Finding::new("append"),
        transactions,
        keys: Vec::new(),
        numbers: HashMap::new(),
        writers: HashMap::new(),
        reads: Vec::new(),
    };
    run.finding.checked = transactions.len() as u64;
    run.index();
    let orders = run.orders();
    run.check_missing(&orders);
    let graph = run.graph(&orders);
    let keys = std::mem::take(&mut run.keys);
    graph.check(&mut run.finding, |key| keys[key as usize].to_owned());
    run.finding
}

impl<'a> Run<'a> {
    fn number(&mut self, key: &'a str) -> usize {
        *self.numbers.entry(key).or_insert_with(|| {
            self.keys.push(key);
            self.keys.len() - 1
        })
    }

    fn index(&mut self) {
        for (at, transaction) in self.transactions.iter().enumerate() {
            let mut own: HashMap<usize, Vec<u64>> = HashMap::new();
            for step in &transaction.steps {
                match step {
                    Step::Append(key, element) => {
                        let key = self.number(key);
                        let mine = own.entry(key).or_default();
                        if let Some(writer) = mine.last().and_then(|last| self.writers.get_mut(&(key, *last))) {
                            writer.intermediate = true;
                        }
                        mine.push(*element);
                        self.writers.insert((key, *element), Writer { at, intermediate: false });
                    }
                    Step::Read(key, list) => {
                        let key = self.number(key);
                        let mine = own.get(&key).map_or(&[][..], |mine| mine);
                        match list.strip_suffix(mine) {
                            Some(before) => self.reads.push((key, at, before)),
                            None => {
                                let text = format!("it appended {mine:?} to {} and then read {list:?}", self.keys[key]);
                                self.finding.wrong("internal", text, [transaction.id]);
                            }
                        }
                    }
                }
            }
        }
    }

    /// The longest read of each key is its order; all others must be its beginnings.
    fn orders(&mut self) -> Vec<&'a [u64]> {
        let mut longest: Vec<(&[u64], usize)> = vec![(&[], 0); self.keys.len()];
        for &(key, at, list) in &self.reads {
            if list.len() > longest[key].0.len() {
                longest[key] = (list, at);
            }
        }
        for &(key, at, list) in &self.reads {
            let (order, other) = longest[key];
            let (mine, theirs) = (self.transactions[at].id, self.transactions[other].id);
            if !order.starts_with(list) {
                let text = format!("{} was read as {list:?} and as {order:?}", self.keys[key]);
                self.finding.wrong("incompatible-order", text, [mine, theirs]);
            }
            if let Some(writer) = list.last().and_then(|last| self.writers.get(&(key, *last)))
                && writer.intermediate
                && writer.at != at
            {
                let text = format!("{} was read in the middle of a transaction", self.keys[key]);
                self.finding.wrong("G1b", text, [self.transactions[writer.at].id, mine]);
            }
        }
        for (key, &(order, at)) in longest.iter().enumerate() {
            let (name, id) = (self.keys[key], self.transactions.get(at).map_or(0, |transaction| transaction.id));
            let mut seen = HashSet::new();
            for element in order {
                if !seen.insert(element) {
                    self.finding.wrong("duplicate", format!("{name} has {element} twice"), [id]);
                }
                match self.writers.get(&(key, *element)) {
                    None => self.finding.wrong("phantom", format!("nobody appended {element} to {name}"), [id]),
                    Some(writer) if self.transactions[writer.at].failed => {
                        let text = format!("{name} has {element} of a transaction that did not happen");
                        self.finding.wrong("G1a", text, [self.transactions[writer.at].id, id]);
                    }
                    Some(_) => {}
                }
            }
        }
        longest.into_iter().map(|(order, _)| order).collect()
    }

    /// An append that was answered before a read began must be in it.
    fn check_missing(&mut self, orders: &[&[u64]]) {
        // Of an element in the order, cycles tell. One in no read has no place there, so it is looked for here.
        let mut latest: Vec<Option<(u64, usize)>> = vec![None; self.keys.len()];
        for &(key, at, _) in &self.reads {
            latest[key] = latest[key].max(Some((self.transactions[at].start, at)));
        }
        let placed: Vec<HashSet<u64>> = orders.iter().map(|order| order.iter().copied().collect()).collect();
        let mut lost: Vec<(usize, u64, usize, usize)> = Vec::new();
        for (&(key, element), writer) in &self.writers {
            let transaction = &self.transactions[writer.at];
            let Some((start, reader)) = latest[key] else { continue };
            let over = transaction.end.is_some_and(|end| !transaction.failed && end < start);
            if over && !placed[key].contains(&element) {
                lost.push((key, element, writer.at, reader));
            }
        }
        lost.sort_unstable();
        for (key, element, writer, reader) in lost {
            let text = format!("{element} was appended to {} and is in no read", self.keys[key]);
            self.finding.wrong("lost-append", text, [self.transactions[writer].id, self.transactions[reader].id]);
        }
    }

    fn graph(&self, orders: &[&[u64]]) -> Graph {
        let node = |one: &Transaction| Node { id: one.id, start: one.start, end: one.end.filter(|_| !one.failed) };
        let mut graph = Graph::new(self.transactions.iter().map(node).collect());
        let writer = |key: usize, element: u64| self.writers.get(&(key, element)).map(|writer| writer.at);
        for (key, order) in orders.iter().enumerate() {
            for pair in order.windows(2) {
                if let (Some(from), Some(to)) = (writer(key, pair[0]), writer(key, pair[1])) {
                    graph.add(from, to, WW, key);
                }
            }
        }
        for &(key, at, list) in &self.reads {
            if let Some(from) = list.last().and_then(|last| writer(key, *last)) {
                graph.add(from, at, WR, key);
            }
            if let Some(to) = orders[key].get(list.len()).and_then(|next| writer(key, *next)) {
                graph.add(at, to, RW, key);
            }
        }
        graph
    }
}

#[cfg(test)]
mod tests {
    use super::Step::{Append, Read};
    use super::*;

    fn transaction(id: u64, times: (u64, u64), steps: &[Step]) -> Transaction {
        Transaction { id, start: times.0, end: Some(times.1), failed: false, steps: steps.to_vec() }
    }

    fn append(key: &str, element: u64) -> Step {
        Append(key.into(), element)
    }

    fn read(key: &str, list: &[u64]) -> Step {
        Read(key.into(), list.to_vec())
    }

    fn names(transactions: &[Transaction]) -> Vec<String> {
        check(transactions).anomalies.into_iter().map(|anomaly| anomaly.name).collect()
    }

    #[test]
    fn a_serial_history_is_valid_and_so_are_concurrent_readers_of_old_lists() {
        let one = transaction(1, (0, 10), &[append("x", 1)]);
        let two = transaction(2, (5, 20), &[read("x", &[1]), append("x", 2)]);
        let three = transaction(3, (15, 30), &[read("x", &[1])]);
        let four = transaction(4, (31, 40), &[read("x", &[1, 2])]);
        assert_eq!(names(&[one, two, three, four]), Vec::<String>::new());
    }

    #[test]
    fn each_cycle_has_its_name_and_its_edges() {
        let ww = [
            transaction(1, (0, 9), &[append("x", 1), append("y", 1)]),
            transaction(2, (0, 9), &[append("x", 2), append("y", 2)]),
            transaction(3, (10, 11), &[read("x", &[1, 2]), read("y", &[2, 1])]),
        ];
        let finding = check(&ww);
        assert!(finding.has("G0"), "{finding}");
        let cycle = &finding.anomalies[0].cycle;
        assert_eq!((cycle.len(), cycle[0].kind, cycle[1].kind), (2, "ww", "ww"));
        let wr = [
            transaction(1, (0, 9), &[append("x", 1), read("y", &[1])]),
            transaction(2, (0, 9), &[append("y", 1), read("x", &[1])]),
        ];
        assert_eq!(names(&wr), ["G1c"]);
        let single = [
            transaction(1, (0, 9), &[append("x", 1), append("y", 1)]),
            transaction(2, (0, 9), &[read("x", &[1]), read("y", &[])]),
            transaction(3, (0, 9), &[read("y", &[1])]),
        ];
        assert_eq!(names(&single), ["G-single"]);
        let skew = [
            transaction(1, (0, 9), &[read("x", &[]), append("y", 1)]),
            transaction(2, (0, 9), &[read("y", &[]), append("x", 1)]),
            transaction(3, (10, 11), &[read("x", &[1]), read("y", &[1])]),
        ];
        assert_eq!(names(&skew), ["G2"]);
        let stale = [
            transaction(1, (0, 5), &[append("x", 1)]),
            transaction(2, (6, 9), &[read("x", &[])]),
            transaction(3, (0, 9), &[read("x", &[1])]),
        ];
        assert_eq!(names(&stale), ["G-single-realtime"]);
    }

    #[test]
    fn reads_of_what_cannot_be_are_named() {
        let failed = Transaction { failed: true, ..transaction(1, (0, 5), &[append("x", 1)]) };
        assert_eq!(names(&[failed, transaction(2, (6, 9), &[read("x", &[1])])]), ["G1a"]);
        let middle = [
            transaction(1, (0, 5), &[append("x", 1), append("x", 2)]),
            transaction(2, (0, 9), &[read("x", &[1])]),
            transaction(3, (0, 9), &[read("x", &[1, 2])]),
        ];
        assert!(names(&middle).contains(&"G1b".into()));
        assert_eq!(names(&[transaction(1, (0, 5), &[read("x", &[7])])]), ["phantom"]);
        let twice = [transaction(1, (0, 5), &[append("x", 1)]), transaction(2, (6, 9), &[read("x", &[1, 1])])];
        assert!(names(&twice).contains(&"duplicate".into()));
        assert_eq!(names(&[transaction(1, (0, 5), &[append("x", 1), read("x", &[])])]), ["internal"]);
        let lost = [transaction(1, (0, 5), &[append("x", 1)]), transaction(2, (6, 9), &[read("x", &[])])];
        assert_eq!(names(&lost), ["lost-append"]);
        let split = [
            transaction(1, (0, 5), &[append("x", 1)]),
            transaction(2, (0, 5), &[append("x", 2)]),
            transaction(3, (6, 9), &[read("x", &[1, 2])]),
            transaction(4, (6, 9), &[read("x", &[2])]),
        ];
        assert!(names(&split).contains(&"incompatible-order".into()));
    }
}
