//! The differences from etcd 3.7.3 that are allowed, each with its reason. Nothing else may differ.
//!
//! Some differences cannot show here, because the requests are never sent, would kill etcd, or need more than one member:
//! - `Maintenance.Alarm` with an unknown action, and raising an unknown alarm: etcd crashes, we refuse.
//! - `Cluster.MemberUpdate` with a bad URL: etcd crashes, we refuse.
//! - A transaction that deletes a range without an end and puts a key in it: etcd refuses that for ranges with an end, but
//!   overlooks it here, and then crashes in the put (with `ignore_value` or `ignore_lease`, again at each restart) or in
//!   a later read of that revision.
//! - A compare-only transaction is linearizable: etcd answers it from the member's own state.
//! - Without a quorum a write answers Unavailable; a voter is added as a learner first.
//! - A manual progress request is answered late, where etcd drops it: the watch steps repeat it until it is answered.
//! - `Defragment` never stops the member; gRPC reflection is on.

use serde_json::{Value, json};

use crate::step::Step;

/// A difference that may be.
struct Allowed {
    reason: &'static str,
    /// Makes both answers equal where only this difference is between them; says whether it applied.
    settle: fn(&Step, etcd: &mut Value, kelson: &mut Value) -> bool,
}

/// How far apart the remaining seconds of a lease may be: the two grants are not simultaneous.
const LEASE_TTL_TOLERANCE_SECONDS: i64 = 1;
/// Up to so many keys etcd's RangeStream has but one chunk.
const CHUNK_KEYS: usize = 10;
/// `RangeRequest.SortTarget`.
const KEY: i64 = 0;
const VALUE: i64 = 4;
const TARGETS: [&str; 5] = ["key", "version", "create_revision", "mod_revision", "value"];

const ALLOWED: [Allowed; 7] = [
    Allowed {
        reason: "keys_only: etcd 3.7 lost the lease, because it answers from its index; its API says only the value is left out",
        settle: keys_only_lease,
    },
    Allowed {
        reason: "keys with equal sort values come in any order, and a limit may cut among them: etcd's sort is not stable",
        settle: equal_sort_values,
    },
    Allowed { reason: "a lease's remaining seconds depend on when it was granted and asked for", settle: lease_ttl },
    Allowed {
        reason: "Compact(<= 0) on a store that was never compacted: etcd accepts it once and then has compact revision 0 or -1",
        settle: compact_nothing,
    },
    Allowed {
        reason: "RangeStream also sorts by key, descending; etcd refuses every sort order",
        settle: range_stream_order,
    },
    Allowed {
        reason: "RangeStream by another target than KEY: etcd sorts each chunk and goes on after its last key, so keys come twice or never",
        settle: range_stream_target,
    },
    Allowed {
        reason: "HashKV at the compaction's own revision: etcd answers what it hashed before it removed anything, and the compaction before",
        settle: hash_of_compaction,
    },
];

/// Settles all allowed differences; returns the reasons of those that applied.
pub fn settle(step: &Step, etcd: &mut Value, kelson: &mut Value) -> Vec<&'static str> {
    if etcd == kelson {
        return Vec::new();
    }
    let mut reasons = Vec::new();
    for allowed in &ALLOWED {
        if (allowed.settle)(step, etcd, kelson) {
            reasons.push(allowed.reason);
        }
        if etcd == kelson {
            return reasons;
        }
    }
    reasons
}

/// Settles one range: its request, and the two answers to it.
type SettleRange = fn(range: &Value, etcd: &mut Value, kelson: &mut Value) -> bool;

/// Calls `settle` for every range of the step, those within transactions included.
fn ranges(step: &Step, etcd: &mut Value, kelson: &mut Value, settle: SettleRange) -> bool {
    let (Some(etcd), Some(kelson)) = (etcd.get_mut("ok"), kelson.get_mut("ok")) else {
        return false;
    };
    match step {
        Step::Call { method, message } if method == "KV/Range" => settle(message, etcd, kelson),
        Step::Call { method, message } if method == "KV/Txn" => txn_ranges(message, etcd, kelson, settle),
        Step::RangeStream(message) => settle(message, etcd, kelson),
        _ => false,
    }
}

fn txn_ranges(request: &Value, etcd: &mut Value, kelson: &mut Value, settle: SettleRange) -> bool {
    let branch = if etcd["succeeded"] == true { "success" } else { "failure" };
    let operations = request[branch].as_array().map_or(&[][..], |list| &list[..]);
    let answers = (etcd.get_mut("responses"), kelson.get_mut("responses"));
    let (Some(Value::Array(one)), Some(Value::Array(two))) = answers else {
        return false;
    };
    let mut applied = false;
    for (operation, (one, two)) in operations.iter().zip(one.iter_mut().zip(two)) {
        if let (Some(one), Some(two)) = (one.get_mut("response_range"), two.get_mut("response_range")) {
            applied |= settle(&operation["request_range"], one, two);
        } else if let (Some(one), Some(two)) = (one.get_mut("response_txn"), two.get_mut("response_txn")) {
            applied |= txn_ranges(&operation["request_txn"], one, two, settle);
        }
    }
    applied
}

fn keys_only_lease(step: &Step, etcd: &mut Value, kelson: &mut Value) -> bool {
    ranges(step, etcd, kelson, |range, _, kelson| {
        // To sort by value etcd has to read the records, and then it has the lease.
        let lost = range["keys_only"] == true && range["sort_target"] != VALUE;
        let mut applied = false;
        for kv in kvs(kelson).into_iter().flatten().filter(|_| lost) {
            applied |= kv.as_object_mut().is_some_and(|kv| kv.remove("lease").is_some());
        }
        applied
    })
}

fn equal_sort_values(step: &Step, etcd: &mut Value, kelson: &mut Value) -> bool {
    ranges(step, etcd, kelson, |range, etcd, kelson| {
        let target = range["sort_target"].as_i64().unwrap_or(KEY);
        let Some(field) = usize::try_from(target).ok().and_then(|target| TARGETS.get(target)) else {
            return false;
        };
        let cut = etcd["more"] == true;
        let (Some(one), Some(two)) = (kvs(etcd), kvs(kelson)) else {
            return false;
        };
        // Without the values their order cannot be seen: then all keys are as good as equal.
        let unseen = range["keys_only"] == true && *field == "value";
        let sort_value = |kv: &Value| if unseen { Value::Null } else { kv[*field].clone() };
        if target == KEY || one == two || !one.iter().map(sort_value).eq(two.iter().map(sort_value)) {
            return false;
        }
        let mut start = 0;
        while start < one.len() {
            let value = sort_value(&one[start]);
            let end = (start..one.len()).find(|at| sort_value(&one[*at]) != value).unwrap_or(one.len());
            one[start..end].sort_by_key(|kv| kv["key"].to_string());
            two[start..end].sort_by_key(|kv| kv["key"].to_string());
            if cut && end == one.len() && same_where_both(&one[start..], &two[start..]) {
                // The limit cut within this group: which of its keys are left is open, their number is not.
                two[start..].clone_from_slice(&one[start..]);
            }
            start = end;
        }
        true
    })
}

/// Whether keys that are in both lists have the same records.
fn same_where_both(one: &[Value], two: &[Value]) -> bool {
    two.iter().all(|kv| one.iter().find(|other| other["key"] == kv["key"]).is_none_or(|other| other == kv))
}

fn kvs(range: &mut Value) -> Option<&mut Vec<Value>> {
    range.get_mut("kvs").and_then(Value::as_array_mut)
}

fn lease_ttl(step: &Step, etcd: &mut Value, kelson: &mut Value) -> bool {
    if step.method() != "Lease/LeaseTimeToLive" {
        return false;
    }
    let (Some(one), Some(two)) = (etcd["ok"]["TTL"].as_i64(), kelson["ok"]["TTL"].as_i64()) else {
        return false;
    };
    let near = one >= 0 && two >= 0 && one.abs_diff(two) <= LEASE_TTL_TOLERANCE_SECONDS as u64;
    if near {
        kelson["ok"]["TTL"] = json!(one);
    }
    near
}

fn compact_nothing(step: &Step, etcd: &mut Value, kelson: &mut Value) -> bool {
    let Step::Call { method, message } = step else {
        return false;
    };
    let nothing = method == "KV/Compact" && message["revision"].as_i64().unwrap_or(0) <= 0;
    if !nothing || etcd.get("ok").is_none() || kelson["error"]["code"] != "OutOfRange" {
        return false;
    }
    *kelson = etcd.clone();
    true
}

fn range_stream_order(step: &Step, etcd: &mut Value, kelson: &mut Value) -> bool {
    let Step::RangeStream(message) = step else {
        return false;
    };
    let by_key = message["sort_target"].as_i64().unwrap_or(KEY) == KEY;
    // Whatever we answer instead: the keys, or what else is wrong with the request.
    if !by_key || etcd["error"]["message"] != "RangeStream does not support custom sort orders" {
        return false;
    }
    *kelson = etcd.clone();
    true
}

fn range_stream_target(step: &Step, etcd: &mut Value, kelson: &mut Value) -> bool {
    let Step::RangeStream(message) = step else {
        return false;
    };
    let by_key = message["sort_target"].as_i64().unwrap_or(KEY) == KEY;
    let chunks = etcd["ok"]["kvs"].as_array().is_some_and(|kvs| kvs.len() > CHUNK_KEYS);
    let limited = message["limit"].as_i64().unwrap_or(0) > 0;
    if by_key || !(chunks || limited) || kelson.get("ok").is_none() {
        return false;
    }
    *kelson = etcd.clone();
    true
}

fn hash_of_compaction(step: &Step, etcd: &mut Value, kelson: &mut Value) -> bool {
    if step.method() != "Maintenance/HashKV" {
        return false;
    }
    let (one, two) = (&etcd["ok"], &mut kelson["ok"]);
    let (before, now) = (one["compact_revision"].as_i64().unwrap_or(0), two["compact_revision"].as_i64());
    if two["hash_revision"].as_i64() != now || Some(before) >= now {
        return false;
    }
    for name in ["hash", "compact_revision"] {
        two[name] = one[name].clone();
    }
    true
}
