//! One operation of any workload: a request of etcd's API, when it was sent and what came back.
//!
//! A history is a file of these, one JSON object a line: `{i,p,node,t0,t1,f,in,ty,out|err}`. `ty` is `ok` (answered),
//! `fail` (it certainly did not happen) or `info` (it happened, or not). What a workload means by its requests (a list
//! append, a transfer) follows from keys and values; checkers lift it out.

use serde::{Deserialize, Serialize};

use super::Key;

/// A key-value as a server shows it. Everything the harness writes is text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kv {
    /// The key.
    pub key: Key,
    /// The value; empty where it was not asked for, and in deletions.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Revision that made the key.
    #[serde(rename = "create", skip_serializing_if = "zero")]
    pub create_revision: i64,
    /// Revision of the last change.
    #[serde(rename = "mod")]
    pub mod_revision: i64,
    /// Puts since it was made.
    #[serde(skip_serializing_if = "zero")]
    pub version: i64,
    /// 0 = none.
    #[serde(skip_serializing_if = "zero")]
    pub lease: i64,
}

/// How a range is sorted before its limit is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SortBy {
    /// By key.
    Key,
    /// By version.
    Version,
    /// By create revision.
    Create,
    /// By mod revision.
    Mod,
    /// By value, bytewise.
    Value,
}

/// A read of one key or a range, with every option that etcd has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Range {
    /// The key, or the first one.
    pub key: Key,
    /// The first key behind the range; `None` = one key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Key>,
    /// 0 = the newest.
    #[serde(skip_serializing_if = "zero")]
    pub revision: i64,
    /// 0 = none.
    #[serde(skip_serializing_if = "zero")]
    pub limit: i64,
    /// May be answered from an old state.
    #[serde(skip_serializing_if = "no")]
    pub serializable: bool,
    /// No values.
    #[serde(skip_serializing_if = "no")]
    pub keys_only: bool,
    /// Only how many.
    #[serde(skip_serializing_if = "no")]
    pub count_only: bool,
    /// By what, and whether descending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<(SortBy, bool)>,
    /// Bounds of mod and create revisions, 0 = none: min mod, max mod, min create, max create.
    #[serde(skip_serializing_if = "no_bounds")]
    pub bounds: [i64; 4],
}

/// A write of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Put {
    /// The key.
    pub key: Key,
    /// Its new value.
    pub value: String,
    /// 0 = none.
    #[serde(skip_serializing_if = "zero")]
    pub lease: i64,
    /// Answer with what was there.
    #[serde(skip_serializing_if = "no")]
    pub prev_kv: bool,
}

/// A deletion of one key or a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Delete {
    /// The key, or the first one.
    pub key: Key,
    /// The first key behind the range; `None` = one key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Key>,
    /// Answer with what was there.
    #[serde(skip_serializing_if = "no")]
    pub prev_kv: bool,
}

/// What a comparison looks at, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// The version; 0 = the key is not there.
    Version(i64),
    /// The create revision.
    Create(i64),
    /// The mod revision.
    Mod(i64),
    /// The value; of a missing key no comparison of values holds.
    Value(String),
    /// The lease.
    Lease(i64),
}

/// An equality that a transaction depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// Of this key.
    pub key: Key,
    /// Must be this.
    pub is: Expected,
}

/// One transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Txn {
    /// All of these must hold.
    pub compare: Vec<Compare>,
    /// Then these, in order,
    pub success: Vec<Request>,
    /// else these.
    pub failure: Vec<Request>,
}

/// One request. As JSON: its name in `f`, the rest in `in`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", content = "in", rename_all = "snake_case")]
pub enum Request {
    /// KV.Range.
    Range(Range),
    /// KV.Put.
    Put(Put),
    /// KV.DeleteRange.
    Delete(Delete),
    /// KV.Txn.
    Txn(Txn),
    /// KV.Compact.
    Compact(i64),
    /// Lease.LeaseGrant with an id of ours and a TTL in seconds.
    Grant(i64, i64),
    /// Lease.LeaseRevoke.
    Revoke(i64),
    /// Lease.LeaseKeepAlive, once.
    KeepAlive(i64),
    /// Lease.LeaseTimeToLive with keys.
    TimeToLive(i64),
    /// Maintenance.Status.
    Status,
    /// Maintenance.HashKV; 0 = the newest revision.
    HashKv(i64),
    /// Not a request: for this long a client believed that it held the lock (or was the leader) of this name, by the
    /// key whose create revision is its fence. Its times are those of the belief.
    Hold(Key, Key, i64),
}

/// What Maintenance says of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// The member's id, as text: it has 64 bits.
    pub member: String,
    /// The leader's id; "0" = none.
    pub leader: String,
    /// Raft's term.
    pub term: u64,
    /// Raft's applied index.
    pub applied: u64,
    /// A hash of all key-values,
    pub hash: u32,
    /// up to this revision,
    pub hash_revision: i64,
    /// under this compaction.
    pub compact_revision: i64,
}

/// An answer, as far as the request has it. Flat, so that reading one does not depend on the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reply {
    /// The header's revision.
    pub rev: i64,
    /// What was read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kvs: Vec<Kv>,
    /// Keys in the range, whatever the limit.
    #[serde(skip_serializing_if = "zero")]
    pub count: i64,
    /// The limit cut something off.
    #[serde(skip_serializing_if = "no")]
    pub more: bool,
    /// Keys deleted.
    #[serde(skip_serializing_if = "zero")]
    pub deleted: i64,
    /// What was there before a put or deletion that asked for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prev: Vec<Kv>,
    /// Whether all comparisons held.
    #[serde(skip_serializing_if = "no")]
    pub succeeded: bool,
    /// Answers of a transaction's requests, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replies: Vec<Reply>,
    /// Seconds: as granted, or left. Not found is 0 for a keep-alive and -1 for a time to live.
    #[serde(skip_serializing_if = "zero")]
    pub ttl: i64,
    /// Seconds as granted, where `ttl` is what is left.
    #[serde(skip_serializing_if = "zero")]
    pub granted: i64,
    /// Keys of a lease, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Key>,
    /// Of a status or hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<Box<Member>>,
}

/// Why there is no answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// gRPC's name of the code, or `deadline`, `connection`.
    pub code: String,
    /// The text.
    pub msg: String,
    /// It certainly did not happen.
    pub definite: bool,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ty", rename_all = "snake_case")]
pub enum Outcome {
    /// It was answered.
    Ok {
        /// The answer.
        out: Reply,
    },
    /// It certainly did not happen.
    Fail {
        /// Why.
        err: Failure,
    },
    /// Timed out, or the connection went: it happened, or not.
    Info {
        /// Why.
        err: Failure,
    },
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// Unique in a history.
    #[serde(rename = "i")]
    pub id: u64,
    /// The client; one operation at a time.
    #[serde(rename = "p")]
    pub process: u32,
    /// The member it was sent to, from 0.
    pub node: u32,
    /// Nanoseconds since the run began, just before sending.
    #[serde(rename = "t0")]
    pub start: u64,
    /// The same, just after the answer, or after giving up.
    #[serde(rename = "t1")]
    pub end: u64,
    /// What was asked.
    #[serde(flatten)]
    pub request: Request,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Op {
    /// The answer, when there was one.
    pub fn reply(&self) -> Option<&Reply> {
        match &self.outcome {
            Outcome::Ok { out } => Some(out),
            Outcome::Fail { .. } | Outcome::Info { .. } => None,
        }
    }

    /// Whether it may have happened without an answer.
    pub fn is_unknown(&self) -> bool {
        matches!(self.outcome, Outcome::Info { .. })
    }

    /// Whether it certainly did not happen.
    pub fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::Fail { .. })
    }
}

impl Request {
    /// The name, as in `f`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Range(_) => "range",
            Self::Put(_) => "put",
            Self::Delete(_) => "delete",
            Self::Txn(_) => "txn",
            Self::Compact(_) => "compact",
            Self::Grant(..) => "grant",
            Self::Revoke(_) => "revoke",
            Self::KeepAlive(_) => "keep_alive",
            Self::TimeToLive(_) => "time_to_live",
            Self::Status => "status",
            Self::HashKv(_) => "hash_kv",
            Self::Hold(..) => "hold",
        }
    }

    /// A linearizable read of one key.
    pub fn get(key: impl Into<Key>) -> Self {
        Self::Range(Range { key: key.into(), ..Range::default() })
    }

    /// A linearizable read of all keys that begin so.
    pub fn list(prefix: &str) -> Self {
        Self::Range(Range { key: prefix.into(), end: Some(prefix_end(prefix)), ..Range::default() })
    }

    /// A put without a lease.
    pub fn put(key: impl Into<Key>, value: impl Into<String>) -> Self {
        Self::Put(Put { key: key.into(), value: value.into(), ..Put::default() })
    }

    /// Whether it could change a key, if everything went its way.
    pub fn may_write(&self) -> bool {
        match self {
            Self::Put(_) | Self::Delete(_) | Self::Revoke(_) => true,
            Self::Txn(txn) => txn.success.iter().chain(&txn.failure).any(Self::may_write),
            _ => false,
        }
    }

    /// Whether the contract lets it see an old state: a range that asks for it, or a transaction of nothing else. etcd
    /// answers a transaction without any request locally as well.
    pub fn may_be_old(&self) -> bool {
        match self {
            Self::Range(range) => range.serializable,
            Self::Txn(txn) => txn.success.iter().chain(&txn.failure).all(|request| match request {
                Self::Range(range) => range.serializable,
                _ => false,
            }),
            _ => false,
        }
    }
}

/// The first key behind all keys that begin with an ASCII prefix.
pub fn prefix_end(prefix: &str) -> Key {
    let mut bytes = prefix.as_bytes().to_vec();
    match bytes.last_mut() {
        Some(last) => *last += 1,
        None => bytes.push(0x7f),
    }
    String::from_utf8(bytes).expect("ASCII below DEL stays ASCII")
}

fn zero(number: &i64) -> bool {
    *number == 0
}

fn no(flag: &bool) -> bool {
    !flag
}

fn no_bounds(bounds: &[i64; 4]) -> bool {
    bounds.iter().all(|bound| *bound == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(op: &Op) -> String {
        let line = serde_json::to_string(op).unwrap();
        assert_eq!(&serde_json::from_str::<Op>(&line).unwrap(), op, "{line}");
        line
    }

    #[test]
    fn a_line_has_the_names_that_are_promised_and_reads_back() {
        let put = Put { key: "k".into(), value: "v".into(), lease: 7, prev_kv: true };
        let out =
            Reply { rev: 9, prev: vec![Kv { key: "k".into(), mod_revision: 3, ..Kv::default() }], ..Reply::default() };
        let op = Op {
            id: 1,
            process: 2,
            node: 0,
            start: 5,
            end: 6,
            request: Request::Put(put.clone()),
            outcome: Outcome::Ok { out },
        };
        let line = round_trip(&op);
        assert!(line.starts_with(r#"{"i":1,"p":2,"node":0,"t0":5,"t1":6,"f":"put","in":{"key":"k""#), "{line}");
        assert!(line.contains(r#""ty":"ok","out":{"rev":9"#), "{line}");
        let err = Failure { code: "deadline".into(), msg: "3 s".into(), definite: false };
        let compare = vec![Compare { key: "k".into(), is: Expected::Value("old".into()) }];
        let txn = Txn { compare, success: vec![Request::Put(put)], failure: vec![Request::get("k")] };
        for request in
            [Request::Txn(txn), Request::Status, Request::Grant(1, 2), Request::Hold("l".into(), "k".into(), 4)]
        {
            let line = round_trip(&Op { request, outcome: Outcome::Info { err: err.clone() }, ..op.clone() });
            assert!(line.contains(r#""ty":"info","err":{"code":"deadline""#), "{line}");
        }
    }

    #[test]
    fn a_prefix_ends_behind_its_last_key() {
        assert_eq!(prefix_end("a/"), "a0");
        assert!(prefix_end("a/").as_str() > "a/zzz");
    }
}
