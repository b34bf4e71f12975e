//! Sets: every acknowledged element is in every later read, no element twice, none that nobody added ("set-full").

use std::collections::{HashMap, HashSet};

use super::finding::Finding;
use crate::history::op::{Op, Request};
use crate::workload::{lock, set};

/// An attempt to add an element.
#[derive(Clone, Debug)]
pub struct Add {
    /// The operation.
    pub id: u64,
    /// The element.
    pub element: String,
    /// When it was answered; `None` = it was not.
    pub end: Option<u64>,
    /// It certainly did not happen.
    pub failed: bool,
}

/// A read of the whole set.
#[derive(Clone, Debug)]
pub struct Read {
    /// The operation.
    pub id: u64,
    /// When it began.
    pub start: u64,
    /// When it ended.
    pub end: u64,
    /// It may be old.
    pub may_be_old: bool,
    /// What it showed.
    pub elements: Vec<String>,
}

/// A set out of a history: elements that are keys below a prefix.
pub fn lift_keys(ops: &[Op], prefix: &str) -> (Vec<Add>, Vec<Read>) {
    let added = |request: &Request| match request {
        Request::Put(put) => put.key.strip_prefix(prefix).map(str::to_owned),
        _ => None,
    };
    let read = |op: &Op| match (&op.request, op.reply()) {
        (Request::Range(range), Some(reply)) if range.key == prefix && range.revision == 0 && !reply.more => {
            Some(reply.kvs.iter().map(|kv| kv.key[prefix.len()..].to_owned()).collect())
        }
        _ => None,
    };
    lift(ops, added, read)
}

/// A set out of a history: the words in the value of one key; a put adds the last one.
pub fn lift_list(ops: &[Op], key: &str) -> (Vec<Add>, Vec<Read>) {
    let added = |request: &Request| match request {
        Request::Put(put) if put.key == key => put.value.rsplit(' ').next().map(str::to_owned),
        _ => None,
    };
    let read = |op: &Op| match (&op.request, op.reply()) {
        (Request::Range(range), Some(reply)) if range.key == key && range.end.is_none() && range.revision == 0 => {
            let value = reply.kvs.first().map_or("", |kv| kv.value.as_str());
            Some(value.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect())
        }
        _ => None,
    };
    lift(ops, added, read)
}

fn lift(
    ops: &[Op],
    added: impl Fn(&Request) -> Option<String>,
    read: impl Fn(&Op) -> Option<Vec<String>>,
) -> (Vec<Add>, Vec<Read>) {
    let (mut adds, mut reads) = (Vec::new(), Vec::new());
    for op in ops {
        let (element, held) = match &op.request {
            Request::Txn(txn) => (txn.success.iter().find_map(&added), op.reply().is_none_or(|reply| reply.succeeded)),
            request => (added(request), true),
        };
        if let Some(element) = element {
            let failed = op.is_refused() || !held;
            adds.push(Add { id: op.id, element, end: op.reply().map(|_| op.end), failed });
        }
        if let Some(elements) = read(op) {
            let may_be_old = op.request.may_be_old();
            reads.push(Read { id: op.id, start: op.start, end: op.end, may_be_old, elements });
        }
    }
    (adds, reads)
}

/// Judges the sets of the `set` workload.
pub fn check(ops: &[Op]) -> Finding {
    let mut finding = Finding::new("set-full");
    for (adds, reads) in [lift_keys(ops, set::KEYS), lift_list(ops, set::LIST)] {
        judge(&adds, &reads, &mut finding);
    }
    finding
}

/// Judges the set that is added to under a lock.
pub fn check_fenced(ops: &[Op]) -> Finding {
    let mut finding = Finding::new("fenced-set");
    let (adds, reads) = lift_keys(ops, lock::ELEMENTS);
    judge(&adds, &reads, &mut finding);
    finding
}

/// Judges one set.
pub fn judge(adds: &[Add], reads: &[Read], finding: &mut Finding) {
    finding.checked += (adds.len() + reads.len()) as u64;
    let by_element: HashMap<&str, &Add> = adds.iter().map(|add| (add.element.as_str(), add)).collect();
    let mut shown: Vec<HashSet<&str>> = Vec::with_capacity(reads.len());
    // When an element was there for certain: answered, or seen by a read that ended.
    let mut known: HashMap<&str, u64> =
        adds.iter().filter(|add| !add.failed).filter_map(|add| Some((add.element.as_str(), add.end?))).collect();
    for read in reads {
        let mut elements = HashSet::with_capacity(read.elements.len());
        for element in &read.elements {
            if !elements.insert(element.as_str()) {
                finding.wrong("duplicate", format!("{element} is in one read twice"), [read.id]);
            }
            match by_element.get(element.as_str()) {
                None => finding.wrong("phantom", format!("nobody added {element}"), [read.id]),
                Some(add) if add.failed => {
                    finding.wrong("phantom", format!("{element} was not added, but is there"), [add.id, read.id]);
                }
                Some(_) => {
                    let at = known.entry(element).or_insert(read.end);
                    *at = (*at).min(read.end);
                }
            }
        }
        shown.push(elements);
    }
    let no_reads = reads.is_empty() && !known.is_empty();
    if no_reads {
        finding.undecided("the set was never read");
    }
    let mut elements: Vec<(&&str, &u64)> = known.iter().collect();
    elements.sort_unstable();
    for (element, at) in elements {
        let later = reads.iter().zip(&shown).filter(|(read, _)| read.start > *at && !read.may_be_old);
        let Some((missing, _)) = later.clone().find(|(_, shown)| !shown.contains(element)) else { continue };
        let again = later.filter(|(_, shown)| shown.contains(element)).any(|(read, _)| read.start > missing.start);
        let name = if again { "stale" } else { "lost" };
        let add = by_element.get(element).map(|add| add.id);
        finding.wrong(
            name,
            format!("{element} was there, but a later read misses it"),
            add.into_iter().chain([missing.id]),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(adds: &[(&str, Option<u64>, bool)], reads: &[(u64, &[&str])]) -> Vec<String> {
        let adds: Vec<Add> = (0..)
            .zip(adds)
            .map(|(id, (element, end, failed))| Add { id, element: (*element).into(), end: *end, failed: *failed })
            .collect();
        let reads: Vec<Read> = (100..)
            .zip(reads)
            .map(|(id, (start, elements))| Read {
                id,
                start: *start,
                end: start + 1,
                may_be_old: false,
                elements: elements.iter().map(|element| (*element).into()).collect(),
            })
            .collect();
        let mut finding = Finding::new("set");
        judge(&adds, &reads, &mut finding);
        finding.anomalies.into_iter().map(|anomaly| anomaly.name).collect()
    }

    #[test]
    fn lost_stale_duplicated_and_phantom_elements_are_told_apart() {
        let acked = [("a", Some(5), false)];
        assert_eq!(verdict(&acked, &[(6, &["a"])]), Vec::<String>::new());
        assert_eq!(verdict(&acked, &[(4, &[]), (6, &["a"])]), Vec::<String>::new());
        assert_eq!(verdict(&acked, &[(6, &["a"]), (9, &[])]), ["lost"]);
        assert_eq!(verdict(&acked, &[(6, &[]), (9, &["a"])]), ["stale"]);
        assert_eq!(verdict(&acked, &[(6, &["a", "a"])]), ["duplicate"]);
        assert_eq!(verdict(&[], &[(6, &["b"])]), ["phantom"]);
        assert_eq!(verdict(&[("b", None, true)], &[(6, &["b"])]), ["phantom"]);
        let unknown = [("c", None, false)];
        assert_eq!(verdict(&unknown, &[(6, &[]), (9, &["c"])]), Vec::<String>::new());
        assert_eq!(verdict(&unknown, &[(6, &["c"]), (9, &[])]), ["lost"]);
    }
}
