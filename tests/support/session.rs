//! A conversation with one server: takes [`Step`]s, sends them, and gives the answers in a form in which the answers of
//! two servers can be compared: ids and terms replaced, what has no order sorted.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Client, Duplex};
use super::step::{OWN_MEMBER, Step};
use super::watch::WatchStream;

/// How long a stream may take to answer.
pub const STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// The conversation.
pub struct Session {
    client: Client,
    member_id: u64,
    keep_alive: Option<Duplex>,
    watches: BTreeMap<u64, WatchStream>,
}

impl Session {
    /// Begins with asking the server for its member id.
    pub async fn begin(mut client: Client) -> Result<Self, String> {
        let answer = client.call("Maintenance/Status", &json!({})).await;
        let member_id = answer["ok"]["header"]["member_id"].as_u64();
        let member_id = member_id.ok_or_else(|| format!("no member id in the server's status: {answer}"))?;
        Ok(Self { client, member_id, keep_alive: None, watches: BTreeMap::new() })
    }

    /// Takes one step and returns its answer.
    pub async fn take(&mut self, step: &Step) -> Value {
        let mut answer = match step {
            Step::Call { method, message } => {
                let mut message = message.clone();
                if message.get("memberID").is_some_and(|id| id == OWN_MEMBER) {
                    message["memberID"] = Value::from(self.member_id);
                }
                self.client.call(method, &message).await
            }
            Step::RangeStream(message) => concatenated(self.client.list("KV/RangeStream", message).await),
            Step::KeepAlive(id) => self.keep_alive(*id).await,
            Step::GrantAndRevoke(message) => self.grant_and_revoke(message).await,
            Step::WatchOpen(stream) => {
                self.watches.insert(*stream, WatchStream::open(&self.client));
                Value::Null
            }
            Step::WatchClose(stream) => {
                self.watches.remove(stream);
                Value::Null
            }
            Step::WatchCreate { stream, message } => self.watch(*stream).create(message).await,
            Step::WatchCancel { stream, watch_id } => self.watch(*stream).cancel(*watch_id).await,
            Step::WatchSync { stream, revision } => self.watch(*stream).sync(*revision).await,
        };
        self.normalize("", &mut answer);
        answer
    }

    fn watch(&mut self, stream: u64) -> &mut WatchStream {
        self.watches.get_mut(&stream).expect("a watch stream is opened before it is used")
    }

    async fn keep_alive(&mut self, id: i64) -> Value {
        let client = &self.client;
        let stream = self.keep_alive.get_or_insert_with(|| client.duplex("Lease/LeaseKeepAlive"));
        stream.send(&json!({"ID": id})).await;
        let answer = match tokio::time::timeout(STREAM_TIMEOUT, stream.next()).await {
            Ok(Ok(answer)) => return json!({"ok": answer}),
            Ok(Err(error)) => error,
            Err(_) => json!({"error": "no answer on the keep-alive stream"}),
        };
        self.keep_alive = None;
        answer
    }

    async fn grant_and_revoke(&mut self, message: &Value) -> Value {
        let mut granted = self.client.call("Lease/LeaseGrant", message).await;
        let id = granted["ok"]["ID"].clone();
        if id.is_null() {
            return json!([granted]);
        }
        let revoked = self.client.call("Lease/LeaseRevoke", &json!({"ID": id})).await;
        if message.get("ID").is_none() {
            granted["ok"]["ID"] = Value::from(if id.as_i64() > Some(0) { "chosen" } else { "bad choice" });
        }
        json!([granted, revoked])
    }

    /// Replaces what may differ from server to server and from run to run, and sorts what has no order. `name` is the
    /// name of the field that holds the value.
    fn normalize(&self, name: &str, value: &mut Value) {
        match (name, &mut *value) {
            (
                "cluster_id" | "member_id" | "raft_term" | "raftTerm" | "raftIndex" | "raftAppliedIndex",
                Value::Number(_),
            )
            | ("dbSize" | "dbSizeInUse", Value::Number(_)) => *value = Value::from("set"),
            ("memberID" | "leader", Value::Number(id)) if id.as_u64() == Some(self.member_id) => {
                *value = Value::from(OWN_MEMBER);
            }
            ("peerURLs" | "clientURLs", Value::Array(urls)) => urls.fill(Value::from("url")),
            ("version", Value::String(version)) if is_release(version) => *value = Value::from("release"),
            ("errors", Value::Array(errors)) => {
                for error in errors {
                    // etcd varies the blanks of such texts from build to build.
                    let words: Vec<&str> = error.as_str().unwrap_or_default().split_whitespace().collect();
                    *error = Value::from(words.join(" ").replace(&self.member_id.to_string(), OWN_MEMBER));
                }
            }
            ("members", Value::Array(members)) => {
                for member in members {
                    if member["ID"].as_u64() == Some(self.member_id) {
                        member["ID"] = Value::from(OWN_MEMBER);
                    }
                    self.normalize("member", member);
                }
            }
            ("keys", Value::Array(keys)) => keys.sort_by_key(ToString::to_string),
            ("leases", Value::Array(leases)) => leases.sort_by_key(|lease| lease["ID"].as_i64()),
            (_, Value::Array(list)) => list.iter_mut().for_each(|value| self.normalize(name, value)),
            (_, Value::Object(object)) => object.iter_mut().for_each(|(name, value)| self.normalize(name, value)),
            _ => {}
        }
    }
}

/// The messages of a `RangeStream` as if they were one `RangeResponse`.
fn concatenated(answer: Value) -> Value {
    let Some(messages) = answer["ok"].as_array() else {
        return answer;
    };
    let mut whole = serde_json::Map::new();
    let mut kvs = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let Some(part) = message["range_response"].as_object() else {
            return json!({"violation": "a message without range_response", "messages": messages});
        };
        if index + 1 < messages.len() && part.keys().any(|name| name != "kvs") {
            return json!({"violation": "more than kvs before the last message", "messages": messages});
        }
        kvs.extend(part.get("kvs").and_then(Value::as_array).into_iter().flatten().cloned());
        whole.extend(part.clone());
    }
    whole.remove("kvs");
    if !kvs.is_empty() {
        whole.insert("kvs".to_owned(), Value::from(kvs));
    }
    json!({"ok": whole})
}

/// Whether a version is a plain `major.minor.patch`, which clients parse.
fn is_release(version: &str) -> bool {
    let parts: Vec<&str> = version.split('.').collect();
    parts.len() == 3 && parts.iter().all(|part| part.parse::<u32>().is_ok())
}
