//! Chooses the next step from what the answers so far say: a mixture in which reads, writes and watches meet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use kelson::proto::etcdserverpb as pb;
use serde_json::{Value, json};

use crate::random::Random;
use crate::requests::{COLD, LEASES, Now, Requests, cold};
use crate::schema::Schema;
use crate::step::{OWN_MEMBER, Step};

/// Watch streams open at the same time.
const STREAMS: u64 = 3;
/// The stream of watchers that begin before the compaction. etcd cancels such a watcher but keeps it on the stream: the
/// stream then answers no more progress requests, and the watcher's id is not free, until the client cancels it too.
const STREAM_OF_COMPACTED: u64 = STREAMS;
/// Watchers on a stream beyond which no more are made.
const WATCHERS_MAX: usize = 8;
/// Steps after which a stream's watchers are compared at the latest.
const SYNC_EVERY: u64 = 60;
/// An alarm is taken back after so many steps.
const ALARM_STEPS: u64 = 12;
/// A lease's time to live: none may run out within a run.
const LEASE_TTL_SECONDS: i64 = 100_000;
/// Longest time to live that etcd grants.
const LEASE_TTL_MAX_SECONDS: i64 = 9_000_000_000;
/// Above `--max-request-bytes`, and above what the gRPC server receives at all.
const TOO_LARGE_BYTES: [usize; 2] = [1_572_864, 2_097_152];
/// Below these by so many bytes: on both sides of the limits, but not where etcd's own answer depends on how long the
/// number is that it gives to the request (a put's other fields take some 26 bytes).
const TOO_LARGE_BELOW: [usize; 6] = [0, 8, 16, 40, 50, 60];

/// The generator.
pub struct Generator {
    schema: Arc<Schema>,
    requests: Requests,
    streams: BTreeMap<u64, Stream>,
    /// Steps that must come next.
    queue: VecDeque<Step>,
    /// Alarms that are active, and the step at which they are to be taken back.
    alarms: Vec<(Value, u64)>,
    taken: u64,
    /// Whether requests above the limits are made.
    with_large: bool,
}

/// What the generator knows of a watch stream.
#[derive(Default)]
struct Stream {
    watchers: BTreeSet<i64>,
    /// The highest start revision: the stream makes no progress before it.
    start_max: i64,
    synced_at: u64,
}

impl Generator {
    /// The first steps fill the store, so that there is something to find.
    pub fn new(schema: Arc<Schema>, seed: u64, with_large: bool) -> Self {
        let requests = Requests { random: Random::new(seed), now: Now { revision: 1, compacted: 0 } };
        let mut generator = Self {
            schema,
            requests,
            streams: BTreeMap::new(),
            queue: VecDeque::new(),
            alarms: Vec::new(),
            taken: 0,
            with_large,
        };
        for index in (0..COLD).step_by(2) {
            let put = pb::PutRequest { key: cold(index), value: cold(index), ..Default::default() };
            generator.push("KV/Put", &put);
        }
        for id in &LEASES[..4] {
            generator.push("Lease/LeaseGrant", &pb::LeaseGrantRequest { ttl: LEASE_TTL_SECONDS, id: *id });
        }
        // On a fresh store etcd accepts a compaction to 0 once; see the allowed differences.
        generator.push("KV/Compact", &pb::CompactionRequest { revision: 5, physical: true });
        for stream in 0..STREAMS {
            generator.open(stream);
        }
        generator
    }

    /// The next step.
    pub fn next(&mut self) -> Step {
        self.taken += 1;
        if let Some(step) = self.queue.pop_front() {
            return step;
        }
        self.housekeeping();
        if self.queue.is_empty() {
            self.choose();
        }
        self.queue.pop_front().expect("a choice queues at least one step")
    }

    /// Learns from the answer to a step.
    pub fn learn(&mut self, step: &Step, answer: &Value) {
        if let Some(revision) = answer["ok"]["header"]["revision"].as_i64() {
            self.requests.now.revision = self.requests.now.revision.max(revision);
        }
        match step {
            Step::Call { method, message } if method == "KV/Compact" && answer.get("ok").is_some() => {
                let compacted = message["revision"].as_i64().unwrap_or(0);
                self.requests.now.compacted = self.requests.now.compacted.max(compacted);
            }
            Step::WatchCreate { stream, message } if *stream < STREAMS && answer["canceled"] != true => {
                let stream = self.streams.entry(*stream).or_default();
                stream.watchers.insert(answer["watch_id"].as_i64().unwrap_or(0));
                stream.start_max = stream.start_max.max(message["start_revision"].as_i64().unwrap_or(0));
            }
            Step::WatchCancel { stream, watch_id } => {
                self.streams.entry(*stream).or_default().watchers.remove(watch_id);
            }
            Step::WatchSync { stream, .. } if *stream < STREAMS => {
                self.streams.entry(*stream).or_default().synced_at = self.taken;
            }
            _ => {}
        }
    }

    /// The steps that end a run: everything that watchers received is compared.
    pub fn finish(&mut self) -> Vec<Step> {
        self.queue.clear();
        while let Some((alarm, _)) = self.alarms.pop() {
            self.queue.push_back(deactivate(alarm));
        }
        (0..STREAMS).for_each(|stream| self.sync(stream));
        self.push("Maintenance/HashKV", &pb::HashKvRequest { revision: 0 });
        self.queue.drain(..).collect()
    }

    fn push(&mut self, method: &str, message: &impl prost::Message) {
        let message = self.schema.request_json(method, &message.encode_to_vec());
        self.queue.push_back(Step::Call { method: method.to_owned(), message });
    }

    /// What is due: alarms to take back, streams to compare.
    fn housekeeping(&mut self) {
        if let Some(at) = self.alarms.iter().position(|(_, until)| *until <= self.taken) {
            let (alarm, _) = self.alarms.remove(at);
            self.queue.push_back(deactivate(alarm));
            return;
        }
        let due = self.streams.iter().find(|(_, stream)| stream.synced_at + SYNC_EVERY <= self.taken);
        // While an alarm stops writes the revision cannot reach a start in the future.
        if let (Some((stream, _)), true) = (due, self.alarms.is_empty()) {
            self.sync(*stream);
        }
    }

    fn choose(&mut self) {
        let requests = &mut self.requests;
        match requests.random.below(1_000) {
            0..=249 => {
                let put = requests.put();
                self.push("KV/Put", &put);
            }
            250..=309 => {
                let delete = requests.delete();
                self.push("KV/DeleteRange", &delete);
            }
            310..=569 => {
                let range = requests.range();
                self.push("KV/Range", &range);
            }
            570..=609 => {
                let range = requests.range_stream();
                let message = self.schema.request_json("KV/RangeStream", &prost::Message::encode_to_vec(&range));
                self.queue.push_back(Step::RangeStream(message));
            }
            610..=829 => {
                let txn = requests.txn();
                self.push("KV/Txn", &txn);
            }
            830..=834 => self.compact(),
            835..=899 => self.lease(),
            900..=969 => self.watch(),
            970..=984 => {
                let revision = requests.revision();
                self.push("Maintenance/HashKV", &pb::HashKvRequest { revision });
            }
            985..=994 => self.cluster(),
            995..=997 => self.alarm(),
            _ if self.with_large => self.too_large(),
            _ => self.cluster(),
        }
    }

    /// Watchers are compared first: whether an event carries its previous value depends on when it was sent.
    fn compact(&mut self) {
        if !self.alarms.is_empty() {
            return self.push("Lease/LeaseLeases", &pb::LeaseLeasesRequest {});
        }
        (0..STREAMS).for_each(|stream| self.sync(stream));
        let Now { revision, compacted } = self.requests.now;
        let behind = (revision - compacted) as usize;
        let revision = match self.requests.random.below(20) {
            0 => 0,
            1 => -1,
            2 => compacted,
            3 => revision + 1,
            4 => i64::MAX,
            5 => revision,
            _ => compacted + self.requests.random.below(behind + 1) as i64,
        };
        let physical = self.requests.random.percent(50);
        self.push("KV/Compact", &pb::CompactionRequest { revision, physical });
    }

    fn lease(&mut self) {
        let random = &mut self.requests.random;
        let id = random
            .pick(&[LEASES[0], LEASES[1], LEASES[2], LEASES[3], LEASES[4], LEASES[5], LEASES[6], LEASES[7], 0, 4]);
        match random.below(10) {
            0 | 1 => {
                let ttl = random.pick(&[
                    LEASE_TTL_SECONDS,
                    LEASE_TTL_SECONDS * 2,
                    LEASE_TTL_MAX_SECONDS,
                    LEASE_TTL_MAX_SECONDS + 1,
                    i64::MAX,
                ]);
                let id = if id == 0 { 4 } else { id };
                self.push("Lease/LeaseGrant", &pb::LeaseGrantRequest { ttl, id });
            }
            2 => {
                let ttl = random.pick(&[0, 1, -1, i64::MIN, 2, 3, LEASE_TTL_MAX_SECONDS + 1]);
                let id = random.pick(&[0, 5, -9]);
                let grant = pb::LeaseGrantRequest { ttl, id };
                let message = self.schema.request_json("Lease/LeaseGrant", &prost::Message::encode_to_vec(&grant));
                self.queue.push_back(Step::GrantAndRevoke(message));
            }
            3 | 4 => self.push("Lease/LeaseRevoke", &pb::LeaseRevokeRequest { id }),
            5..=7 => {
                let keys = random.percent(70);
                self.push("Lease/LeaseTimeToLive", &pb::LeaseTimeToLiveRequest { id, keys });
            }
            8 => self.push("Lease/LeaseLeases", &pb::LeaseLeasesRequest {}),
            _ => self.queue.push_back(Step::KeepAlive(id)),
        }
    }

    fn watch(&mut self) {
        let stream = self.requests.random.below(STREAMS as usize) as u64;
        let watchers: Vec<i64> = self.streams.entry(stream).or_default().watchers.iter().copied().collect();
        let choice = self.requests.random.below(100);
        if choice < 60 && watchers.len() < WATCHERS_MAX {
            let create = self.requests.watch();
            let message = self.schema.request_json("Watch/Watch", &watch_request(create));
            let message = message["create_request"].clone();
            let Now { revision, compacted } = self.requests.now;
            if (1..compacted).contains(&message["start_revision"].as_i64().unwrap_or(0)) {
                let stream = STREAM_OF_COMPACTED;
                self.queue.push_back(Step::WatchOpen(stream));
                self.queue.push_back(Step::WatchCreate { stream, message });
                self.queue.push_back(Step::WatchSync { stream, revision });
                self.queue.push_back(Step::WatchClose(stream));
            } else {
                self.queue.push_back(Step::WatchCreate { stream, message });
            }
        } else if choice < 94 {
            let known = self.requests.random.percent(85) && !watchers.is_empty();
            let watch_id = if known { self.requests.random.pick(&watchers) } else { 1_000 };
            if self.alarms.is_empty() {
                self.sync(stream);
                self.queue.push_back(Step::WatchCancel { stream, watch_id });
            } else {
                self.push("KV/Range", &pb::RangeRequest { key: Bytes::from_static(b"a"), ..Default::default() });
            }
        } else if self.alarms.is_empty() {
            self.sync(stream);
            self.queue.push_back(Step::WatchClose(stream));
            self.open(stream);
        } else {
            self.push("Maintenance/Status", &pb::StatusRequest {});
        }
    }

    fn open(&mut self, stream: u64) {
        let synced_at = self.taken;
        self.streams.insert(stream, Stream { synced_at, ..Stream::default() });
        self.queue.push_back(Step::WatchOpen(stream));
    }

    /// Puts until no watcher of the stream waits for a future revision, then compares.
    fn sync(&mut self, stream: u64) {
        let start_max = self.streams.entry(stream).or_default().start_max;
        for _ in self.requests.now.revision..start_max {
            let put = pb::PutRequest { key: Bytes::from_static(b"~sync"), ..Default::default() };
            self.push("KV/Put", &put);
        }
        let revision = self.requests.now.revision.max(start_max);
        self.queue.push_back(Step::WatchSync { stream, revision });
    }

    /// Members: what a single member answers, and what it refuses.
    fn cluster(&mut self) {
        let random = &mut self.requests.random;
        let id = random.pick(&[1u64, 12_345, u64::MAX]);
        match random.below(10) {
            0..=2 => {
                let linearizable = random.percent(50);
                self.push("Cluster/MemberList", &pb::MemberListRequest { linearizable });
            }
            3..=5 => self.push("Maintenance/Status", &pb::StatusRequest {}),
            6 => self.push("Cluster/MemberRemove", &pb::MemberRemoveRequest { id }),
            7 => self.push("Cluster/MemberPromote", &pb::MemberPromoteRequest { id }),
            // A bad URL in MemberUpdate, or one in an Alarm's unknown action, would kill etcd.
            8 => {
                let peer_ur_ls = vec!["http://127.0.0.1:1".to_owned()];
                self.push("Cluster/MemberUpdate", &pb::MemberUpdateRequest { id, peer_ur_ls });
            }
            _ => {
                let urls: Vec<String> = random.pick(&[
                    vec![],
                    vec!["garbage".to_owned()],
                    vec!["http://".to_owned()],
                    vec!["http://127.0.0.1".to_owned()],
                    vec!["http://127.0.0.1:1/path".to_owned()],
                ]);
                let is_learner = random.percent(50);
                self.push("Cluster/MemberAdd", &pb::MemberAddRequest { peer_ur_ls: urls, is_learner });
            }
        }
    }

    /// Alarms: asked for, taken back, and raised for some steps. An unknown action, or raising an unknown alarm, would
    /// kill etcd.
    fn alarm(&mut self) {
        let random = &mut self.requests.random;
        let member = random.pick(&[json!(OWN_MEMBER), json!(OWN_MEMBER), json!(12_345), json!(0)]);
        let (action, alarm) = match random.below(6) {
            0 => (0, random.pick(&[0, 1, 2, 7])),
            1 => (2, random.pick(&[0, 1, 2, 7])),
            2 => (1, 0),
            _ => (1, random.pick(&[1, 1, 2])),
        };
        let message = json!({"action": action, "memberID": member, "alarm": alarm});
        if action == 1 && alarm != 0 {
            self.alarms.push((message.clone(), self.taken + ALARM_STEPS));
        }
        let step = Step::Call { method: "Maintenance/Alarm".to_owned(), message };
        self.queue.push_back(step);
        self.push("Maintenance/Alarm", &pb::AlarmRequest::default());
    }

    fn too_large(&mut self) {
        let random = &mut self.requests.random;
        let len = random.pick(&TOO_LARGE_BYTES) - random.pick(&TOO_LARGE_BELOW);
        let put =
            pb::PutRequest { key: Bytes::from_static(b"big"), value: vec![b'v'; len].into(), ..Default::default() };
        // Such a value is only put to be refused, or to be gone at once.
        self.push("KV/Put", &put);
        self.push("KV/DeleteRange", &pb::DeleteRangeRequest { key: put.key, ..Default::default() });
    }
}

fn deactivate(mut alarm: Value) -> Step {
    alarm["action"] = json!(2);
    Step::Call { method: "Maintenance/Alarm".to_owned(), message: alarm }
}

fn watch_request(create: pb::WatchCreateRequest) -> Vec<u8> {
    let request_union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
    prost::Message::encode_to_vec(&pb::WatchRequest { request_union })
}
