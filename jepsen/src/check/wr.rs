//! Strict serializability of transactions of blind writes and reads: mod revisions give the order of each key's versions.
//!
//! The graph is that of [`append`](super::append). Values are the operation's number, so each names its writer.

use std::collections::{BTreeMap, HashMap};

use super::finding::Finding;
use super::graph::{Graph, Node, RW, WR, WW};
use crate::history::op::{Op, Reply, Request};

/// Judges all transactions and single requests on keys that begin with `prefix`, deletions aside.
pub fn check(ops: &[Op], prefix: &str) -> Finding {
    let mut finding = Finding::new("wr");
    let mut run = Run::default();
    for op in ops {
        run.add(op, prefix);
    }
    finding.checked = run.nodes.len() as u64;
    run.judge(&mut finding);
    finding
}

#[derive(Default)]
struct Run<'a> {
    nodes: Vec<Node>,
    keys: Vec<&'a str>,
    numbers: HashMap<&'a str, usize>,
    /// Key and value → the transaction that writes it, and whether it certainly did not happen.
    writers: HashMap<(usize, &'a str), (usize, bool)>,
    /// Key and mod revision → value.
    versions: HashMap<usize, BTreeMap<i64, &'a str>>,
    conflicts: Vec<(String, u64)>,
    /// Key, mod revision (0 = the key was not there), transaction.
    reads: Vec<(usize, i64, usize)>,
}

impl<'a> Run<'a> {
    fn add(&mut self, op: &'a Op, prefix: &str) {
        let reply = op.reply();
        let (requests, replies): (&[Request], &[Reply]) = match &op.request {
            Request::Txn(txn) if txn.compare.is_empty() => (&txn.success, reply.map_or(&[], |reply| &reply.replies)),
            Request::Put(_) => (std::slice::from_ref(&op.request), &[]),
            Request::Range(range) if !range.serializable && range.revision == 0 => {
                (std::slice::from_ref(&op.request), reply.map_or(&[], std::slice::from_ref))
            }
            _ => return,
        };
        let at = self.nodes.len();
        self.nodes.push(Node { id: op.id, start: op.start, end: reply.map(|_| op.end) });
        let mut own: HashMap<usize, &str> = HashMap::new();
        for (step, request) in requests.iter().enumerate() {
            match request {
                Request::Put(put) if put.key.starts_with(prefix) => {
                    let key = self.number(&put.key);
                    own.insert(key, &put.value);
                    self.writers.insert((key, &put.value), (at, op.is_refused()));
                    if let Some(reply) = reply {
                        self.saw(key, reply.rev, &put.value, op.id);
                    }
                }
                Request::Range(range) if range.key.starts_with(prefix) => {
                    let Some(answer) = replies.get(step) else { continue };
                    if range.end.is_none() && answer.kvs.is_empty() {
                        let key = self.number(&range.key);
                        self.reads.push((key, 0, at));
                    }
                    for kv in &answer.kvs {
                        let key = self.number(&kv.key);
                        self.saw(key, kv.mod_revision, &kv.value, op.id);
                        // What it wrote itself says nothing of the others.
                        if own.get(&key) != Some(&kv.value.as_str()) {
                            self.reads.push((key, kv.mod_revision, at));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn number(&mut self, key: &'a str) -> usize {
        *self.numbers.entry(key).or_insert_with(|| {
            self.keys.push(key);
            self.keys.len() - 1
        })
    }

    fn saw(&mut self, key: usize, revision: i64, value: &'a str, id: u64) {
        let known = *self.versions.entry(key).or_default().entry(revision).or_insert(value);
        if known != value {
            let text = format!("{} is {known} and {value} at revision {revision}", self.keys[key]);
            self.conflicts.push((text, id));
        }
    }

    fn judge(&self, finding: &mut Finding) {
        for (text, id) in &self.conflicts {
            finding.wrong("version-conflict", text.clone(), [*id]);
        }
        let mut graph = Graph::new(self.nodes.clone());
        let writer = |key: usize, value: &str| self.writers.get(&(key, value)).copied();
        for (key, versions) in &self.versions {
            let mut before: Option<(usize, &str)> = None;
            for (revision, value) in versions {
                let Some((at, refused)) = writer(*key, value) else {
                    let text = format!("nobody wrote {value} to {} (revision {revision})", self.keys[*key]);
                    finding.wrong("phantom", text, []);
                    continue;
                };
                if refused {
                    let text = format!("{} has {value} of a transaction that did not happen", self.keys[*key]);
                    finding.wrong("G1a", text, [self.nodes[at].id]);
                }
                match before {
                    Some((_, other)) if other == *value => {
                        let text = format!("{value} is at two revisions of {}, the later {revision}", self.keys[*key]);
                        finding.wrong("duplicate", text, [self.nodes[at].id]);
                    }
                    Some((from, _)) => graph.add(from, at, WW, *key),
                    None => {}
                }
                before = Some((at, value));
            }
        }
        for &(key, revision, at) in &self.reads {
            let Some(versions) = self.versions.get(&key) else { continue };
            if let Some((from, _)) = versions.get(&revision).and_then(|value| writer(key, value)) {
                graph.add(from, at, WR, key);
            }
            if let Some((to, _)) = versions.range(revision + 1..).next().and_then(|(_, value)| writer(key, value)) {
                graph.add(at, to, RW, key);
            }
        }
        graph.check(finding, |key| self.keys[key as usize].to_owned());
    }
}
