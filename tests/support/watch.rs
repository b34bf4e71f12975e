//! One watch stream: what each of its watchers received, in order, and the promises that hold for any server: events in
//! revision order, a revision never split, no answer before the creation, nothing older after a progress.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Client, Duplex};
use super::session::STREAM_TIMEOUT;

/// etcd drops a progress request while a watcher is behind; it is sent again after this long.
const PROGRESS_RETRY: Duration = Duration::from_millis(5);
/// The watch id of answers that belong to no watcher.
const NO_WATCHER: i64 = -1;

/// The stream.
pub struct WatchStream {
    duplex: Duplex,
    active: BTreeSet<i64>,
    /// What each watcher received since the last sync.
    received: BTreeMap<i64, Vec<Value>>,
    /// Up to here each watcher has had everything: by an event, or by an answer to a progress request.
    newest: BTreeMap<i64, i64>,
    /// The last answer to a progress request since the last watcher was created.
    progress: i64,
    /// Watchers whose last answer was a fragment: the next one may go on with the same revision.
    in_fragments: BTreeSet<i64>,
    violations: Vec<String>,
    /// Set when the stream has ended.
    ended: Option<Value>,
}

enum Answer {
    Created(Value),
    Canceled(i64),
    Progress(i64),
    Events,
    Ended,
}

impl WatchStream {
    /// Opens it; the server answers nothing to that.
    pub fn open(client: &Client) -> Self {
        Self {
            duplex: client.duplex("Watch/Watch"),
            active: BTreeSet::new(),
            received: BTreeMap::new(),
            newest: BTreeMap::new(),
            progress: 0,
            in_fragments: BTreeSet::new(),
            violations: Vec::new(),
            ended: None,
        }
    }

    /// Sends a `WatchCreateRequest` and waits for its answer.
    pub async fn create(&mut self, message: &Value) -> Value {
        self.duplex.send(&json!({"create_request": message})).await;
        let created = async {
            loop {
                match self.next().await {
                    Answer::Created(created) => return created,
                    Answer::Ended => return json!({"ended": self.ended}),
                    _ => {}
                }
            }
        };
        let timeout = json!({"timeout": "the watcher's creation was not answered"});
        tokio::time::timeout(STREAM_TIMEOUT, created).await.unwrap_or(timeout)
    }

    /// Cancels a watcher and, if it exists, waits for the answer.
    pub async fn cancel(&mut self, watch_id: i64) -> Value {
        let message = if watch_id == 0 { json!({}) } else { json!({"watch_id": watch_id}) };
        self.duplex.send(&json!({"cancel_request": message})).await;
        if !self.active.contains(&watch_id) {
            return json!("no answer expected");
        }
        let canceled = async {
            loop {
                match self.next().await {
                    Answer::Canceled(id) if id == watch_id => return json!("canceled"),
                    Answer::Ended => return json!({"ended": self.ended}),
                    _ => {}
                }
            }
        };
        let timeout = json!({"timeout": "the cancellation was not answered"});
        tokio::time::timeout(STREAM_TIMEOUT, canceled).await.unwrap_or(timeout)
    }

    /// Asks for progress until it covers `revision`, and hands out what has arrived.
    pub async fn sync(&mut self, revision: i64) -> Value {
        let synced = tokio::time::timeout(STREAM_TIMEOUT, self.wait_progress(revision)).await.is_ok();
        let received = std::mem::take(&mut self.received);
        let received: BTreeMap<String, Vec<Value>> =
            received.into_iter().map(|(id, list)| (id.to_string(), list)).collect();
        let mut answer = json!({"received": received});
        if !synced {
            answer["timeout"] = json!(format!("no progress up to {revision}"));
        }
        if !self.violations.is_empty() {
            answer["violations"] = json!(std::mem::take(&mut self.violations));
        }
        if let Some(ended) = &self.ended {
            answer["ended"] = ended.clone();
        }
        answer
    }

    async fn wait_progress(&mut self, revision: i64) {
        while self.ended.is_none() && !self.active.is_empty() && self.progress < revision {
            self.duplex.send(&json!({"progress_request": {}})).await;
            let answered = async {
                while !self.active.is_empty() {
                    if matches!(self.next().await, Answer::Progress(at) if at >= revision) {
                        break;
                    }
                    if self.ended.is_some() {
                        break;
                    }
                }
            };
            // Elapsed: the request was dropped; the loop sends the next.
            tokio::time::timeout(PROGRESS_RETRY, answered).await.unwrap_or(());
        }
    }

    async fn next(&mut self) -> Answer {
        if self.ended.is_some() {
            return Answer::Ended;
        }
        match self.duplex.next().await {
            Ok(message) => self.take(message),
            Err(error) => {
                self.ended = Some(error);
                Answer::Ended
            }
        }
    }

    fn take(&mut self, message: Value) -> Answer {
        let flag = |name: &str| message[name] == true;
        let watch_id = message["watch_id"].as_i64().unwrap_or(0);
        let header = message["header"]["revision"].as_i64().unwrap_or(0);
        if flag("created") {
            if !flag("canceled") {
                self.active.insert(watch_id);
                self.newest.remove(&watch_id);
                self.progress = 0;
            }
            return Answer::Created(message);
        }
        if flag("canceled") {
            if !self.active.remove(&watch_id) {
                self.violations.push(format!("a watcher that does not exist was canceled: {message}"));
            }
            self.received.entry(watch_id).or_default().push(message);
            return Answer::Canceled(watch_id);
        }
        if message.get("events").is_none() {
            if watch_id != NO_WATCHER {
                self.violations.push(format!("neither events nor an answer: {message}"));
            }
            self.progress = self.progress.max(header);
            for watcher in &self.active {
                let newest = self.newest.entry(*watcher).or_default();
                *newest = (*newest).max(header);
            }
            return Answer::Progress(header);
        }
        self.events(watch_id, header, message);
        Answer::Events
    }

    fn events(&mut self, watch_id: i64, header: i64, message: Value) {
        if !self.active.contains(&watch_id) {
            self.violations.push(format!("events for a watcher that does not exist: {message}"));
        }
        let mut newest = self.newest.get(&watch_id).copied().unwrap_or(0);
        let goes_on = self.in_fragments.remove(&watch_id);
        if message["fragment"] == true {
            self.in_fragments.insert(watch_id);
        }
        for (index, event) in message["events"].as_array().into_iter().flatten().enumerate() {
            let revision = event["kv"]["mod_revision"].as_i64().unwrap_or(0);
            if revision < newest || (index == 0 && !goes_on && revision == newest) {
                self.violations
                    .push(format!("revision {revision} comes after {newest} or its progress, or is split: {message}"));
            }
            newest = newest.max(revision);
            self.received.entry(watch_id).or_default().push(event.clone());
        }
        if header < newest {
            self.violations.push(format!("the header is older than the events: {message}"));
        }
        self.newest.insert(watch_id, newest);
    }
}
