//! Histories for other people's checkers: EDN for Elle and Knossos, JSON lines for porcupine.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::check::append::{self, Step};
use crate::check::search::{Access, Action, lift};
use crate::check::set;
use crate::history::files::History;
use crate::history::op::{Op, Reply, Request};
use crate::workload::Kind;

/// An operation that is told twice: when it is sent and when it ends.
struct Told {
    id: u64,
    name: &'static str,
    asked: String,
    answered: String,
    failed: bool,
}

/// The history as Jepsen writes it: one map a line. Of the workloads `register` (Knossos: independent keys),
/// `append` (Elle: list-append), `wr` (Elle: rw-register) and `set`.
pub fn edn(history: &History) -> anyhow::Result<String> {
    let told: Vec<Told> = match Kind::of(&history.plan.workload) {
        Some(Kind::Register) => registers(&history.ops),
        Some(Kind::Append) => lists(&history.ops),
        Some(Kind::Wr | Kind::Wide) => history.ops.iter().filter_map(blind).collect(),
        Some(Kind::Set) => sets(&history.ops),
        _ => anyhow::bail!("{}: Jepsen's checkers have no model of it", history.plan.workload),
    };
    let ops: HashMap<u64, &Op> = history.ops.iter().map(|op| (op.id, op)).collect();
    let mut moments: Vec<(u64, bool, &Told, &Op)> = Vec::new();
    for one in &told {
        let op = ops[&one.id];
        moments.push((op.start, false, one, op));
        moments.push((op.end, true, one, op));
    }
    moments.sort_by_key(|(time, ends, _, op)| (*time, *ends, op.id));
    // An operation without an outcome may still be running, so its process is not used again.
    let mut process: HashMap<u32, u64> = HashMap::new();
    let mut next = 1 + u64::from(history.ops.iter().map(|op| op.process).max().unwrap_or(0));
    let mut text = String::new();
    for (index, (time, ends, one, op)) in moments.into_iter().enumerate() {
        let me = *process.entry(op.process).or_insert(u64::from(op.process));
        let (ty, value) = match ends {
            false => (":invoke", &one.asked),
            true if op.is_unknown() => (":info", &one.asked),
            true if one.failed => (":fail", &one.asked),
            true => (":ok", &one.answered),
        };
        if ends && op.is_unknown() {
            process.insert(op.process, next);
            next += 1;
        }
        writeln!(text, "{{:index {index}, :time {time}, :type {ty}, :process {me}, :f {}, :value {value}}}", one.name)?;
    }
    Ok(text)
}

fn registers(ops: &[Op]) -> Vec<Told> {
    let show = |value: u64| if value == 0 { "nil".to_owned() } else { value.to_string() };
    let mut told = Vec::new();
    for (number, (_, accesses)) in lift(ops).into_iter().enumerate() {
        for Access { id, action, .. } in accesses {
            let (name, asked, answered, failed) = match action {
                Action::Read(value) => (":read", "nil".into(), show(value), false),
                Action::Write(value) => (":write", show(value), show(value), false),
                Action::Swap(old, new) => (":cas", format!("[{old} {new}]"), format!("[{old} {new}]"), false),
                Action::NoSwap(old, read) => (":cas", format!("[{old} {old}]"), show(read), true),
            };
            let value = |value: String| format!("[{number} {value}]");
            told.push(Told { id, name, asked: value(asked), answered: value(answered), failed });
        }
    }
    told
}

fn lists(ops: &[Op]) -> Vec<Told> {
    let mut keys: HashMap<String, usize> = HashMap::new();
    let mut number = |key: &str| {
        let next = keys.len();
        *keys.entry(key.to_owned()).or_insert(next)
    };
    let mut told = Vec::new();
    for transaction in append::lift(ops) {
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        for step in &transaction.steps {
            let (ask, answer) = match step {
                Step::Append(key, element) => {
                    let text = format!("[:append {} {element}]", number(key));
                    (text.clone(), text)
                }
                Step::Read(key, list) => {
                    let list = list.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
                    (format!("[:r {} nil]", number(key)), format!("[:r {} [{list}]]", number(key)))
                }
            };
            asked.push(ask);
            answered.push(answer);
        }
        let all = |steps: Vec<String>| format!("[{}]", steps.join(" "));
        let (id, failed) = (transaction.id, transaction.failed);
        told.push(Told { id, name: ":txn", asked: all(asked), answered: all(answered), failed });
    }
    told
}

fn blind(op: &Op) -> Option<Told> {
    let Request::Txn(txn) = &op.request else { return None };
    let none = Reply::default();
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    for (at, request) in txn.success.iter().enumerate() {
        let reply = op.reply().and_then(|reply| reply.replies.get(at)).unwrap_or(&none);
        match request {
            Request::Put(put) => {
                let text = format!("[:w \"{}\" {}]", put.key, put.value);
                asked.push(text.clone());
                answered.push(text);
            }
            Request::Range(range) => {
                let value = reply.kvs.first().map_or("nil", |kv| &kv.value);
                asked.push(format!("[:r \"{}\" nil]", range.key));
                answered.push(format!("[:r \"{}\" {value}]", range.key));
            }
            _ => return None,
        }
    }
    let all = |steps: Vec<String>| format!("[{}]", steps.join(" "));
    Some(Told { id: op.id, name: ":txn", asked: all(asked), answered: all(answered), failed: op.is_refused() })
}

fn sets(ops: &[Op]) -> Vec<Told> {
    let (adds, reads) = set::lift_keys(ops, crate::workload::set::KEYS);
    let number = |element: &str| element.trim_start_matches('0').to_owned();
    let add = |add: set::Add| {
        let value = number(&add.element);
        Told { id: add.id, name: ":add", asked: value.clone(), answered: value, failed: add.failed }
    };
    let read = |read: set::Read| {
        let elements: Vec<String> = read.elements.iter().map(|element| number(element)).collect();
        let answered = format!("#{{{}}}", elements.join(" "));
        Told { id: read.id, name: ":read", asked: "nil".into(), answered, failed: false }
    };
    adds.into_iter().map(add).chain(reads.into_iter().map(read)).collect()
}

/// One line for porcupine: an access of a register.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Which history; all of them are judged on their own.
    pub history: u64,
    /// The register.
    pub key: String,
    /// Nanoseconds.
    pub call: u64,
    /// Nanoseconds; the largest number there is = it never ended.
    #[serde(rename = "return")]
    pub end: u64,
    /// `read`, `write`, `swap` or `noswap`.
    pub kind: String,
    /// The value read or written, or expected; 0 = none.
    pub a: u64,
    /// The new value of a swap, the value read by a failed one.
    pub b: u64,
}

/// The registers of one history as lines for porcupine.
pub fn porcupine(number: u64, ops: &[Op]) -> Vec<Line> {
    let line = |key: &String, access: Access| {
        let (kind, a, b) = match access.action {
            Action::Read(value) => ("read", value, 0),
            Action::Write(value) => ("write", value, 0),
            Action::Swap(old, new) => ("swap", old, new),
            Action::NoSwap(old, read) => ("noswap", old, read),
        };
        let end = access.end.unwrap_or(i64::MAX as u64);
        Line { history: number, key: key.clone(), call: access.start, end, kind: kind.into(), a, b }
    };
    let lifted = lift(ops);
    lifted.iter().flat_map(|(key, accesses)| accesses.iter().map(move |access| line(key, *access))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::{Options, simulate};

    #[test]
    fn every_model_of_jepsen_gets_its_lines() {
        for (kind, has) in [
            (Kind::Register, ":f :cas, :value [0 ["),
            (Kind::Append, ":f :txn, :value [[:append 0 "),
            (Kind::Wr, ":f :txn, :value [[:w \"wr/"),
            (Kind::Set, ":f :read, :value #{"),
        ] {
            let (history, _) = simulate(Options::new(kind, 1, 400));
            let text = edn(&history).unwrap();
            assert!(text.contains(has), "{kind:?}: {}", &text[..300]);
            let count = |ty: &str| text.matches(ty).count();
            assert_eq!(count(":type :invoke"), count(":type :ok") + count(":type :fail") + count(":type :info"));
        }
        assert!(edn(&simulate(Options::new(Kind::Lease, 1, 50)).0).is_err());
    }
}
