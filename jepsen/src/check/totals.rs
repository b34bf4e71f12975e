//! Totals: accounts that always hold the same sum, at every revision; a counter that shows every increment once.

use super::finding::Finding;
use crate::history::op::{Op, Request};
use crate::history::stream::Log;
use crate::model::Store;
use crate::workload::bank::{ACCOUNT_COUNT, ACCOUNTS, COUNTER, OPENING};

/// The sum that the accounts hold.
const TOTAL: i64 = ACCOUNT_COUNT as i64 * OPENING;

/// Judges every read of all accounts, and the state at every revision.
pub fn bank(ops: &[Op], log: &Log) -> Finding {
    let mut finding = Finding::new("bank");
    for op in ops {
        let (Request::Range(range), Some(reply)) = (&op.request, op.reply()) else { continue };
        if range.key == ACCOUNTS && !reply.kvs.is_empty() {
            finding.checked += 1;
            let balances: Vec<i64> = reply.kvs.iter().map(|kv| balance(&kv.value)).collect();
            if let Some(text) = wrong_sum(&balances) {
                finding.wrong("wrong-total", text, [op.id]);
            }
        }
    }
    let mut store = Store::new(log.base);
    let end = crate::history::op::prefix_end(ACCOUNTS);
    for entry in log.entries.values() {
        store.commit(entry.rev, &entry.events);
        let balances: Vec<i64> =
            store.range(ACCOUNTS, Some(&end), entry.rev).iter().map(|kv| balance(&kv.value)).collect();
        finding.checked += 1;
        if let Some(text) = wrong_sum(&balances).filter(|_| !balances.is_empty()) {
            finding.wrong("wrong-total", format!("revision {}: {text}", entry.rev), []);
        }
    }
    finding
}

fn balance(value: &str) -> i64 {
    value.parse().unwrap_or(i64::MIN / 1000)
}

fn wrong_sum(balances: &[i64]) -> Option<String> {
    let sum: i64 = balances.iter().sum();
    let right = sum == TOTAL && balances.len() as u64 == ACCOUNT_COUNT && balances.iter().all(|one| *one >= 0);
    (!right).then(|| format!("{balances:?} sum up to {sum}, not {TOTAL}"))
}

/// Judges every read of the counter: no increment that was answered before is missing, none counts twice.
pub fn counter(ops: &[Op]) -> Finding {
    let mut finding = Finding::new("counter");
    let (mut begun, mut ended): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
    let mut reads: Vec<(u64, u64, i64, u64)> = Vec::new();
    for op in ops {
        match (&op.request, op.reply()) {
            (Request::Txn(txn), reply) => {
                let raises = txn.success.iter().any(|one| matches!(one, Request::Put(put) if put.key == COUNTER));
                let may = !op.is_refused() && reply.is_none_or(|reply| reply.succeeded);
                if raises && may {
                    begun.push(op.start);
                    ended.extend(reply.map(|_| op.end));
                }
            }
            (Request::Range(range), Some(reply)) if range.key == COUNTER && !range.serializable => {
                reads.push((op.start, op.end, reply.kvs.first().map_or(0, |kv| balance(&kv.value)), op.id));
            }
            _ => {}
        }
    }
    begun.sort_unstable();
    ended.sort_unstable();
    for (start, end, value, id) in reads {
        finding.checked += 1;
        let least = ended.partition_point(|moment| *moment < start) as i64;
        let most = begun.partition_point(|moment| *moment <= end) as i64;
        if value < least || value > most {
            finding.wrong("wrong-count", format!("{value} was read, {least} to {most} are possible"), [id]);
        }
    }
    finding
}
