//! What clients do. They sit beside their member and call the services on its client port directly; every request is
//! sent once and recorded, as is everything that a watch shows.

use std::time::Duration;

use futures_util::StreamExt;
use jepsen::client::{call, create_of, message_of};
use jepsen::history::op::{Compare, Delete, Expected, Kv, Outcome, Put, Range, Reply, Request, Txn};
use jepsen::history::stream::{Ended, Stream, Watch};
use jepsen::rng::Rng;
use kelson::proto::etcdserverpb as pb;
use kelson::watch::StreamOptions;
use parking_lot::Mutex;
use prost::Message;
use tonic::Status;

use crate::member::{Live, World};
use crate::plan::Plan;
use crate::witness::gave_up;

/// How long a client waits for an answer.
const DEADLINE: Duration = Duration::from_secs(4);
/// The number of the operators' client.
pub const PROBE: usize = usize::MAX;
/// A key behind all others.
const LAST_KEY: &str = "\u{7f}";
/// The revision of the first change.
const FIRST_REVISION: i64 = 2;
/// Leases that one client holds.
const LEASES_MAX: usize = 3;

/// What clients remember while their member is gone.
pub struct Clients(Mutex<Memory>);

struct Memory {
    /// By slot and number.
    minds: Vec<Vec<Mind>>,
    processes: u32,
    values: u64,
    stopped: bool,
    /// By slot: what the next watch must show first, and the stream that it continues.
    watched: Vec<(i64, Option<u64>)>,
}

struct Mind {
    rng: Rng,
    process: u32,
    /// Granted and perhaps still there.
    leases: Vec<i64>,
    granted: i64,
    /// The last thing read of each key that was.
    known: Vec<Kv>,
}

impl Clients {
    /// Clients that know nothing yet.
    pub fn new(plan: &Plan) -> Self {
        let rng = Rng::new(plan.seed).fork(2);
        let mut processes = 0;
        let mut mind = |slot: usize, number: usize| {
            processes += 1;
            Mind {
                rng: rng.fork((slot * 100 + number) as u64),
                process: processes,
                leases: Vec::new(),
                granted: 0,
                known: Vec::new(),
            }
        };
        let minds = (0..plan.slots).map(|slot| (0..plan.clients).map(|number| mind(slot, number)).collect()).collect();
        let watched = vec![(FIRST_REVISION, None); plan.slots];
        Self(Mutex::new(Memory { minds, processes, values: 0, stopped: false, watched }))
    }

    /// No more requests.
    pub fn stop(&self) {
        self.0.lock().stopped = true;
    }

    /// A slot's next member is another one: its watch begins anew.
    pub fn reseat(&self, slot: usize) {
        self.0.lock().watched[slot].1 = None;
    }

    fn is_stopped(&self) -> bool {
        self.0.lock().stopped
    }
}

/// One client of one member, until the member ends.
pub async fn run(world: World, slot: usize, number: usize, live: Live) {
    loop {
        let pause = {
            let mut memory = world.clients.0.lock();
            memory.minds[slot][number].rng.below(2 * world.plan.pause_ms + 1)
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if world.clients.is_stopped() {
            return;
        }
        let request = world.clients.0.lock().request(slot, number, &world.plan);
        let outcome = perform(&world, slot, number, &live, request.clone()).await;
        world.clients.0.lock().learn(slot, number, &request, &outcome);
    }
}

/// Sends a request to a member, once, and records what came of it.
pub async fn perform(world: &World, slot: usize, number: usize, live: &Live, request: Request) -> Outcome {
    let process = {
        let mut memory = world.clients.0.lock();
        if number == PROBE {
            memory.processes += 1;
            memory.processes
        } else {
            memory.minds[slot][number].process
        }
    };
    let op = world.witness.sends(process, slot as u32, &request);
    let outcome = match tokio::time::timeout(DEADLINE, send(live, &request)).await {
        Ok(Ok(out)) => Outcome::Ok { out },
        Ok(Err(status)) => call::without_answer(&status),
        Err(_) => gave_up("no answer in time"),
    };
    world.witness.ends(op, outcome.clone());
    outcome
}

/// The same message in the other crate's type.
fn recode<A: Message, B: Message + Default>(message: &A) -> B {
    B::decode(&message.encode_to_vec()[..]).expect("both are made from the same definitions")
}

async fn send(live: &Live, request: &Request) -> Result<Reply, Status> {
    Ok(match request {
        Request::Range(range) => call::of_range(recode(&live.kv.range(recode(&call::range_of(range))).await?)),
        Request::Put(put) => call::of_put(recode(&live.kv.put(recode(&call::put_of(put))).await?)),
        Request::Delete(delete) => {
            call::of_delete(recode(&live.kv.delete_range(recode(&call::delete_of(delete))).await?))
        }
        Request::Txn(txn) => call::of_txn(recode(&live.kv.txn(recode(&call::txn_of(txn))).await?)),
        Request::Compact(revision) => {
            let request = pb::CompactionRequest { revision: *revision, physical: false };
            at(live.kv.compact(request).await?.header)
        }
        Request::Grant(id, ttl) => {
            let answer = live.lease.grant(pb::LeaseGrantRequest { id: *id, ttl: *ttl }).await?;
            Reply { ttl: answer.ttl, ..at(answer.header) }
        }
        Request::Revoke(id) => at(live.lease.revoke(pb::LeaseRevokeRequest { id: *id }).await?.header),
        Request::KeepAlive(id) => {
            let answer = live.lease.keep_alive(pb::LeaseKeepAliveRequest { id: *id }).await?;
            Reply { ttl: answer.ttl, ..at(answer.header) }
        }
        Request::TimeToLive(id) => {
            let request = pb::LeaseTimeToLiveRequest { id: *id, keys: true };
            let answer = live.lease.time_to_live(request).await?;
            let mut keys: Vec<String> =
                answer.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
            keys.sort();
            Reply { ttl: answer.ttl, granted: answer.granted_ttl, keys, ..at(answer.header) }
        }
        Request::Status | Request::HashKv(_) | Request::Hold(..) => {
            return Err(Status::unimplemented("asked for by nobody here"));
        }
    })
}

fn at(header: Option<pb::ResponseHeader>) -> Reply {
    Reply { rev: header.map_or(0, |header| header.revision), ..Reply::default() }
}

impl Memory {
    fn value(&mut self) -> String {
        self.values += 1;
        format!("v{}", self.values)
    }

    fn request(&mut self, slot: usize, number: usize, plan: &Plan) -> Request {
        let value = self.value();
        let lease_base = (slot * 100 + number + 1) as i64 * 10_000;
        let mind = &mut self.minds[slot][number];
        let key = |rng: &mut Rng| format!("k{}", rng.below(plan.keys));
        let rng = &mut mind.rng;
        match rng.below(100) {
            0..30 => Request::put(key(rng), value),
            30..36 => Request::Delete(Delete { key: key(rng), end: None, prev_kv: rng.chance(0.5) }),
            36..38 => Request::Delete(Delete { key: "k".into(), end: Some("k3".into()), prev_kv: false }),
            38..52 => match mind.known.pop() {
                Some(kv) => {
                    let is = if rng.chance(0.5) { Expected::Mod(kv.mod_revision) } else { Expected::Value(kv.value) };
                    Request::Txn(Txn {
                        compare: vec![Compare { key: kv.key.clone(), is }],
                        success: vec![Request::put(kv.key.clone(), value)],
                        failure: vec![Request::get(kv.key)],
                    })
                }
                None => Request::get(key(rng)),
            },
            52..60 => {
                let puts = (0..plan.keys.min(4)).map(|n| Request::put(format!("k{n}"), format!("{value}.{n}")));
                Request::Txn(Txn { success: puts.collect(), ..Txn::default() })
            }
            60..80 => Request::get(key(rng)),
            80..84 => Request::Range(Range { key: key(rng), serializable: true, ..Range::default() }),
            84..88 => Request::list("k"),
            88..91 if mind.leases.len() < LEASES_MAX => {
                mind.granted += 1;
                Request::Grant(lease_base + mind.granted, rng.between(1, 4) as i64)
            }
            88..100 => {
                let lease = if mind.leases.is_empty() { None } else { Some(*rng.pick(&mind.leases)) };
                match (lease, rng.below(4)) {
                    (None, _) => Request::put(key(rng), value),
                    (Some(lease), 0) => Request::Revoke(lease),
                    (Some(lease), 1) => Request::Put(Put { key: key(rng), value, lease, prev_kv: true }),
                    (Some(lease), 2) => Request::TimeToLive(lease),
                    (Some(lease), _) => Request::KeepAlive(lease),
                }
            }
            _ => unreachable!("below 100"),
        }
    }

    fn learn(&mut self, slot: usize, number: usize, request: &Request, outcome: &Outcome) {
        let mind = &mut self.minds[slot][number];
        match outcome {
            Outcome::Ok { out } => {
                mind.known.extend(out.kvs.iter().take(1).cloned());
                mind.known.truncate(4);
                match request {
                    Request::Grant(id, _) => mind.leases.push(*id),
                    Request::Revoke(id) => mind.leases.retain(|lease| lease != id),
                    Request::KeepAlive(id) | Request::TimeToLive(id) if out.ttl <= 0 => {
                        mind.leases.retain(|lease| lease != id);
                    }
                    _ => {}
                }
            }
            Outcome::Fail { .. } => {
                if let Request::Put(Put { lease, .. }) | Request::Revoke(lease) = request {
                    mind.leases.retain(|known| known != lease);
                }
            }
            // A client that does not know goes on as another one.
            Outcome::Info { .. } => {
                self.processes += 1;
                mind.process = self.processes;
            }
        }
    }
}

/// Watches everything from where the slot's last watch ended, until the member ends.
pub async fn watch(world: World, slot: usize, live: Live) {
    loop {
        let (start, resumes) = world.clients.0.lock().watched[slot];
        let watch = Watch {
            key: "\0".into(),
            end: Some(LAST_KEY.into()),
            start_revision: start,
            progress_notify: true,
            ..Watch::default()
        };
        let create: pb::WatchRequest = recode(&create_of(&watch));
        // The client keeps its side open for as long as it reads.
        let requests = futures_util::stream::once(async { Ok(create) }).chain(futures_util::stream::pending());
        let mut answers = live.hub.stream(Box::pin(requests), StreamOptions::default());
        let stream = Stream { process: 10_000 + slot as u32, node: slot as u32, watch, resumes, ..Stream::default() };
        let id = world.witness.opens(stream);
        world.clients.0.lock().watched[slot].1 = Some(id);
        let mut next = start;
        while let Some(answer) = answers.next().await {
            let answer = match answer {
                Ok(answer) => message_of(recode(&answer)),
                Err(status) => {
                    world.witness.stream(id, |stream| stream.ended = Ended::Broken(status.to_string()));
                    break;
                }
            };
            let (canceled, compacted) = (answer.canceled, answer.compact_revision);
            if let Some(event) = answer.events.last() {
                next = next.max(event.kv.mod_revision + 1);
            } else if answer.is_progress() {
                next = next.max(answer.rev + 1);
            }
            world.witness.shows(id, answer);
            let mut memory = world.clients.0.lock();
            memory.watched[slot] = (next, Some(id));
            if canceled {
                // What is lost is lost; a new watch, of what is left.
                memory.watched[slot] = (next.max(compacted), None);
                drop(memory);
                world.witness.stream(id, |stream| stream.ended = Ended::Canceled);
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
