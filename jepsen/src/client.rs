//! A thin etcd client: one endpoint, one connection, a deadline on every call, never a retry.
//!
//! A retry would turn an unknown outcome into a false one. The crash runs use
//! [`Client::perform`], all other workloads [`Client::call`] and [`Client::watch`]; observers use the reads.

mod admin;
pub mod call;
mod watch;

use std::time::Duration;

use bytes::Bytes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

pub use self::admin::{Listed, Standing};
pub use self::watch::{Watcher, create_of, message_of};
use crate::history::{Action, Answer, Doom, Key, Kv, Outcome, Value};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::mvccpb;
use crate::tls::Credentials;

/// Answers may be as large as a whole observed state.
const ANSWER_BYTES_MAX: usize = 1 << 30;
/// A connection whose other end is silent for so long is asked whether it is there (etcd refuses questions that come
/// more often than every five seconds) …
const PING_EVERY: Duration = Duration::from_secs(6);
/// … and given up when it does not say so.
const PING_DEADLINE: Duration = Duration::from_secs(3);
/// Keys in one page of a full read.
const PAGE_KEYS: i64 = 2000;
/// A lease id that nobody grants.
const LEASE_NOBODY_HAS: i64 = 0x7fff_0000_dead_beef;

/// Why a read of an observer failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's answer.
    #[error("{0}")]
    Status(#[from] Status),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[from] tonic::transport::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// An answer that etcd's contract does not allow.
    #[error("unexpected answer: {0}")]
    Contract(String),
}

/// One connection to one server.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    deadline: Duration,
}

/// One change out of a watch stream.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Event {
    /// The key-value after the change; of a deletion only key and mod revision.
    pub kv: Kv,
    /// A deletion.
    pub deleted: bool,
}

/// What a watch from an old revision brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Every event of `start..=up_to`, in order of arrival.
    Events(Vec<Event>),
    /// The start is compacted; this is the oldest revision there is.
    Compacted(i64),
}

/// The answer of `HashKV`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Hash {
    /// The hash of all key-values up to this revision.
    pub revision: i64,
    /// The compaction it was computed under; hashes under different ones cannot be compared.
    pub compact_revision: i64,
    /// The hash.
    pub hash: u32,
}

impl Client {
    /// Connects to `http://host:port`, or to `https://host:port` with these credentials. `deadline` holds for connecting
    /// and for each call.
    pub async fn connect(url: &str, credentials: Option<&Credentials>, deadline: Duration) -> Result<Self, Error> {
        Ok(Self { channel: Self::endpoint(url, credentials, deadline)?.connect().await?, deadline })
    }

    /// The same, but the connection is made when it is first needed: the server may be down.
    pub fn connect_later(url: &str, credentials: Option<&Credentials>, deadline: Duration) -> Result<Self, Error> {
        Ok(Self { channel: Self::endpoint(url, credentials, deadline)?.connect_lazy(), deadline })
    }

    fn endpoint(url: &str, credentials: Option<&Credentials>, deadline: Duration) -> Result<Endpoint, Error> {
        let mut endpoint = Endpoint::from_shared(url.to_owned())?.connect_timeout(deadline).tcp_nodelay(true);
        if let Some(credentials) = credentials {
            endpoint = endpoint.tls_config(credentials.config(deadline))?;
        }
        // A connection through a partition would otherwise wait for TCP's ever longer pauses after it is healed.
        Ok(endpoint.http2_keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_DEADLINE))
    }

    /// The same connection with another deadline for each call.
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Error> {
        match tokio::time::timeout(self.deadline, call).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Error::Deadline(self.deadline)),
        }
    }

    /// Sends one request, once.
    pub async fn perform(&self, action: &Action) -> Outcome {
        match self.within(self.send(action)).await {
            Ok(answer) => Outcome::Acknowledged(answer),
            Err(Error::Status(status)) if is_definite(status.code()) => Outcome::Refused(describe(&status)),
            Err(Error::Status(status)) => Outcome::Unknown(describe(&status)),
            Err(error) => Outcome::Unknown(error.to_string()),
        }
    }

    async fn send(&self, action: &Action) -> Result<Answer, Status> {
        match action {
            Action::Put { key, value, lease } => {
                let answer = self.kv().put(put(key, *value, *lease)).await?.into_inner();
                Ok(Answer { revision: revision(answer.header), ..Answer::default() })
            }
            Action::Delete { key, end } => {
                let answer = self.kv().delete_range(delete(key, end.as_deref())).await?.into_inner();
                Ok(Answer { revision: revision(answer.header), deleted: answer.deleted, ..Answer::default() })
            }
            Action::Get { key, serializable } => {
                let request = pb::RangeRequest { serializable: *serializable, ..get(key) };
                let answer = self.kv().range(request).await?.into_inner();
                let read = answer.kvs.into_iter().next().map(kv_from);
                Ok(Answer { revision: revision(answer.header), read, ..Answer::default() })
            }
            Action::Cas { .. } | Action::Many { .. } => {
                let answer = self.kv().txn(transaction(action)).await?.into_inner();
                Ok(answer_of_txn(answer))
            }
            Action::Doomed { how, key, value } => {
                let header = self.send_doomed(*how, key, *value).await?;
                Ok(Answer { revision: revision(header), ..Answer::default() })
            }
            Action::Grant { id, ttl } => {
                let request = pb::LeaseGrantRequest { id: *id, ttl: *ttl };
                let answer = LeaseClient::new(self.channel.clone()).lease_grant(request).await?.into_inner();
                Ok(Answer { revision: revision(answer.header), ttl: answer.ttl, ..Answer::default() })
            }
            Action::Revoke { id } => {
                let request = pb::LeaseRevokeRequest { id: *id };
                let answer = LeaseClient::new(self.channel.clone()).lease_revoke(request).await?.into_inner();
                Ok(Answer { revision: revision(answer.header), ..Answer::default() })
            }
            Action::Compact { revision: at } => {
                let request = pb::CompactionRequest { revision: *at, physical: false };
                let answer = self.kv().compact(request).await?.into_inner();
                Ok(Answer { revision: revision(answer.header), ..Answer::default() })
            }
        }
    }

    async fn send_doomed(&self, how: Doom, key: &str, value: Value) -> Result<Option<pb::ResponseHeader>, Status> {
        let other = Value { part: value.part + 1, ..value };
        let second = match how {
            Doom::UnknownLease => {
                return Ok(self.kv().put(put(key, value, LEASE_NOBODY_HAS)).await?.into_inner().header);
            }
            Doom::DuplicateKey => put(key, other, 0),
            Doom::HalfGood => put(&format!("{key}/second"), other, LEASE_NOBODY_HAS),
        };
        let success = vec![
            op(pb::request_op::Request::RequestPut(put(key, value, 0))),
            op(pb::request_op::Request::RequestPut(second)),
        ];
        Ok(self.kv().txn(pb::TxnRequest { success, ..Default::default() }).await?.into_inner().header)
    }

    /// The current revision, by a linearizable read of a key that does not exist.
    pub async fn head(&self) -> Result<i64, Error> {
        let answer = self.within(async { self.kv().range(get("\u{1}")).await }).await?.into_inner();
        Ok(revision(answer.header))
    }

    /// Everything at one revision, in pages.
    pub async fn everything_at(&self, at: i64) -> Result<Vec<Kv>, Error> {
        let mut all = Vec::new();
        let mut from: Bytes = Bytes::from_static(b"\0");
        loop {
            let request = pb::RangeRequest {
                key: from.clone(),
                range_end: Bytes::from_static(b"\0"),
                limit: PAGE_KEYS,
                revision: at,
                ..Default::default()
            };
            let answer = self.within(async { self.kv().range(request).await }).await?.into_inner();
            let Some(last) = answer.kvs.last() else {
                return if answer.more { Err(Error::Contract("an empty page with more".into())) } else { Ok(all) };
            };
            let mut next = last.key.to_vec();
            next.push(0);
            from = next.into();
            let more = answer.more;
            all.extend(answer.kvs.into_iter().map(kv_from));
            if !more {
                return Ok(all);
            }
        }
    }

    /// Whether a read at this old revision is refused because of a compaction.
    pub async fn is_compacted(&self, at: i64) -> Result<bool, Error> {
        let request = pb::RangeRequest { revision: at, ..get("\u{1}") };
        match self.within(async { self.kv().range(request).await }).await {
            Ok(_) => Ok(false),
            Err(Error::Status(status)) if status.code() == Code::OutOfRange => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// All events of `start..=up_to`, by one watch on every key; the deadline holds between two answers.
    pub async fn events(&self, start: i64, up_to: i64) -> Result<Watched, Error> {
        if start > up_to {
            return Ok(Watched::Events(Vec::new()));
        }
        let every = Bytes::from_static(b"\0");
        let create = pb::WatchCreateRequest {
            key: every.clone(),
            range_end: every,
            start_revision: start,
            fragment: true,
            ..Default::default()
        };
        let request = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        // The sender stays until the end: a closed request stream could end the watch.
        if sender.try_send(request).is_err() {
            return Err(Error::Contract("a fresh channel was full".into()));
        }
        let mut watch = WatchClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut answers = self.within(watch.watch(requests)).await?.into_inner();
        let mut events = Vec::new();
        loop {
            let Some(answer) = self.within(answers.message()).await? else {
                return Err(Error::Contract("the watch stream ended".into()));
            };
            if answer.canceled {
                return match answer.compact_revision {
                    0 => Err(Error::Contract(format!("watch cancelled: {}", answer.cancel_reason))),
                    oldest => Ok(Watched::Compacted(oldest)),
                };
            }
            events.extend(answer.events.into_iter().map(event_from));
            let reached = events.last().is_some_and(|event| event.kv.mod_revision >= up_to);
            if reached && !answer.fragment {
                events.retain(|event| event.kv.mod_revision <= up_to);
                return Ok(Watched::Events(events));
            }
        }
    }

    /// The ids of all leases.
    pub async fn leases(&self) -> Result<Vec<i64>, Error> {
        let mut client = LeaseClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = self.within(client.lease_leases(pb::LeaseLeasesRequest {})).await?.into_inner();
        Ok(answer.leases.into_iter().map(|lease| lease.id).collect())
    }

    /// The TTL as granted (in seconds) and the keys of a lease; `None` when it does not exist.
    pub async fn lease(&self, id: i64) -> Result<Option<(i64, Vec<Key>)>, Error> {
        let mut client = LeaseClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        let answer = self.within(client.lease_time_to_live(request)).await?.into_inner();
        let mut keys: Vec<Key> = answer.keys.iter().map(|key| text(key)).collect();
        keys.sort();
        Ok((answer.ttl >= 0).then_some((answer.granted_ttl, keys)))
    }

    /// `HashKV` at a revision; `None` when the server refuses (compacted, or not offered).
    pub async fn hash_at(&self, revision: i64) -> Result<Option<Hash>, Error> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        match self.within(client.hash_kv(pb::HashKvRequest { revision })).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                Ok(Some(Hash { revision, compact_revision: answer.compact_revision, hash: answer.hash }))
            }
            Err(Error::Status(status)) if matches!(status.code(), Code::OutOfRange | Code::Unimplemented) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Codes by which a server says that nothing happened. `Unavailable`, `DeadlineExceeded`, `Cancelled`, `Unknown`,
/// `Internal`, `Aborted` say nothing.
fn is_definite(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated
    )
}

fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: bytes_of(key), ..Default::default() }
}

fn put(key: &str, value: Value, lease: i64) -> pb::PutRequest {
    pb::PutRequest { key: bytes_of(key), value: value.encode().into(), lease, ..Default::default() }
}

fn delete(key: &str, end: Option<&str>) -> pb::DeleteRangeRequest {
    let range_end = end.map(bytes_of).unwrap_or_default();
    pb::DeleteRangeRequest { key: bytes_of(key), range_end, ..Default::default() }
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn transaction(action: &Action) -> pb::TxnRequest {
    use pb::request_op::Request;
    match action {
        Action::Cas { key, expected, value } => pb::TxnRequest {
            compare: vec![pb::Compare {
                result: pb::compare::CompareResult::Equal.into(),
                target: pb::compare::CompareTarget::Mod.into(),
                key: bytes_of(key),
                target_union: Some(pb::compare::TargetUnion::ModRevision(*expected)),
                ..Default::default()
            }],
            success: vec![op(Request::RequestPut(put(key, *value, 0)))],
            failure: vec![op(Request::RequestRange(get(key)))],
        },
        Action::Many { puts, deletes } => {
            let puts = puts.iter().map(|(key, value)| op(Request::RequestPut(put(key, *value, 0))));
            let deletes = deletes.iter().map(|key| op(Request::RequestDeleteRange(delete(key, None))));
            pb::TxnRequest { success: puts.chain(deletes).collect(), ..Default::default() }
        }
        _ => pb::TxnRequest::default(),
    }
}

fn answer_of_txn(answer: pb::TxnResponse) -> Answer {
    use pb::response_op::Response;
    let mut result = Answer { revision: revision(answer.header), succeeded: answer.succeeded, ..Answer::default() };
    for response in answer.responses {
        match response.response {
            Some(Response::ResponseRange(range)) => result.read = range.kvs.into_iter().next().map(kv_from),
            Some(Response::ResponseDeleteRange(deleted)) => result.deleted += deleted.deleted,
            _ => {}
        }
    }
    result
}

fn kv_from(kv: mvccpb::KeyValue) -> Kv {
    Kv {
        key: text(&kv.key),
        value: Value::decode(&kv.value),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

fn event_from(event: mvccpb::Event) -> Event {
    Event { deleted: event.r#type() == mvccpb::event::EventType::Delete, kv: kv_from(event.kv.unwrap_or_default()) }
}

fn text(key: &[u8]) -> Key {
    String::from_utf8_lossy(key).into_owned()
}

fn bytes_of(key: &str) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}
