//! One member: the product's node on a simulated disk, network and clock, from its start to its end.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kelson::Config;
use kelson::clock::Clock;
use kelson::lessor::{Lessor, ttl_seconds_min};
use kelson::metrics::Metrics;
use kelson::proto::etcdserverpb as pb;
use kelson::raft::membership::Change;
use kelson::raft::types::MemberInfo;
use kelson::raft::{Identity, Node, Options, Parts};
use kelson::rpc::Limits;
use kelson::rpc::kv::Kv;
use kelson::rpc::lease::Lease;
use kelson::rpc::peer::Peer;
use kelson::rpc::quota::Quota;
use kelson::state::Command;
use kelson::storage::fs::Disk;
use kelson::storage::log::LogOptions;
use kelson::watch::{self, Hub};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clients;
use crate::copies::Copies;
use crate::disk::{SharedEngine, TracedDisk};
use crate::network::{SimDial, Wires, host, peer_url, serve};
use crate::plan::{Mutant, Plan};
use crate::witness::{Eye, Witness};

/// Segments small enough that runs fill several.
const SEGMENT_BYTES: u64 = 32 << 10;
/// How often members compare their hashes, as the product does when it is told to.
const CORRUPT_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// How often a watch stream tells its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(700);

/// Who sits in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The member.
    pub member_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
    /// The members of a new cluster; empty for one that joins.
    pub initial_members: BTreeMap<u64, MemberInfo>,
}

/// A running member, for whoever asks it something.
#[derive(Clone)]
pub struct Live {
    /// Its node.
    pub node: Arc<Node>,
    /// The services on its client port.
    pub kv: Arc<Kv>,
    /// The same for leases.
    pub lease: Arc<Lease>,
    /// Its watches.
    pub hub: Arc<Hub>,
}

/// Something that an operator asks of a member.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Another membership.
    Change(Change),
    /// A snapshot.
    Snapshot,
    /// A write, to see that it works.
    Probe(String),
    /// A compaction behind this many revisions.
    Compact(i64),
}

/// What came of a nemesis' request: the id of a member that was added.
type Answer = Result<Option<u64>, String>;

/// A place for a member: what stays when the process ends.
pub struct Slot {
    /// Its number.
    pub number: usize,
    /// Its disk.
    pub disk: Mutex<TracedDisk>,
    /// The store of its checkpoint.
    pub engine: Mutex<SharedEngine>,
    /// Its clock.
    pub clock: Clock,
    /// Who is in it.
    pub seat: Mutex<Option<Seat>>,
    /// Set while the process runs and is ready.
    pub live: Mutex<Option<Live>>,
    /// Its node, ready or not.
    pub node: Mutex<Option<Arc<Node>>>,
    /// Why the process ended by itself.
    pub ended: Mutex<Option<String>>,
    /// Microseconds that a sync takes, at least and at most.
    pub sync_micros: Mutex<(u64, u64)>,
    /// Requests that its process handles twice.
    pub copies: Arc<Copies>,
    asks: Mutex<Vec<(u64, Ask)>>,
    asked: Notify,
    answers: Mutex<Vec<(u64, Answer)>>,
    chance: Mutex<jepsen::rng::Rng>,
}

impl Slot {
    /// An empty place.
    pub fn new(number: usize, plan: &Plan, witness: &Arc<Witness>) -> Arc<Self> {
        Arc::new(Self {
            number,
            disk: Mutex::new(TracedDisk::new(number as u32, witness.trace.clone())),
            engine: Mutex::default(),
            clock: Clock::simulated(),
            seat: Mutex::new(None),
            live: Mutex::new(None),
            node: Mutex::new(None),
            ended: Mutex::new(None),
            sync_micros: Mutex::new(plan.sync_micros),
            copies: Copies::new(number, plan, witness.trace.clone()),
            asks: Mutex::default(),
            asked: Notify::new(),
            answers: Mutex::default(),
            chance: Mutex::new(jepsen::rng::Rng::new(plan.seed).fork(1000 + number as u64)),
        })
    }

    /// Asks the member for something; `id` comes back with the answer, if any comes.
    pub fn ask(&self, id: u64, ask: Ask) {
        self.asks.lock().push((id, ask));
        self.asked.notify_one();
    }

    /// The answers that have come: the id of a member added, or why not.
    pub fn answers(&self) -> Vec<(u64, Result<Option<u64>, String>)> {
        std::mem::take(&mut self.answers.lock())
    }

    /// Lets go of the member, before its process is ended.
    pub fn forget(&self) {
        self.live.lock().take();
        self.node.lock().take();
        self.asks.lock().clear();
    }

    /// How long the next sync takes.
    fn sync_latency(&self) -> Duration {
        let (least, most) = *self.sync_micros.lock();
        Duration::from_micros(self.chance.lock().between(least, most.max(least)))
    }
}

/// What all members share.
#[derive(Clone)]
pub struct World {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Who sees everything.
    pub witness: Arc<Witness>,
    /// All connections.
    pub wires: Arc<Wires>,
    /// What clients go on with when their member is back.
    pub clients: Arc<clients::Clients>,
}

fn config(plan: &Plan) -> Config {
    Config { heartbeat_interval_ms: plan.timing_ms.0, election_timeout_ms: plan.timing_ms.1, ..Config::for_test() }
}

fn options(plan: &Plan, seat: &Seat) -> Options {
    Options {
        initial_members: seat.initial_members.clone(),
        heartbeat_interval_ms: plan.timing_ms.0,
        election_timeout_ms: plan.timing_ms.1,
        snapshot_count: 10_000,
        snapshot_bytes_min: 64 << 10,
        snapshot_catchup_entries: plan.catchup_entries,
        pre_vote: true,
        strict_reconfig_check: true,
        max_learners: 1,
        cluster_token: "sim".to_owned(),
        warning_apply_duration: Duration::MAX,
    }
}

/// Runs the member of a slot until it fails by itself; the reason.
pub async fn run(world: World, slot: Arc<Slot>) -> String {
    match run_until_failure(world, &slot).await {
        Ok(reason) => reason,
        Err(error) => format!("does not start: {error}"),
    }
}

async fn run_until_failure(world: World, slot: &Arc<Slot>) -> Result<String, Box<dyn std::error::Error>> {
    let seat = slot.seat.lock().clone().ok_or("nobody is in the slot")?;
    let (plan, witness, node_number) = (&world.plan, &world.witness, slot.number as u32);
    let acknowledged = witness.acknowledged();
    let metrics = Arc::new(Metrics::new(&config(plan)));
    let disk: Arc<dyn Disk> = Arc::new(slot.disk.lock().clone());
    let latency = slot.clone();
    let options_log = LogOptions {
        segment_bytes: SEGMENT_BYTES,
        tail_bytes_max: SEGMENT_BYTES as usize,
        spares_max: 1,
        unsafe_no_fsync: plan.mutant == Some(Mutant::NoSync),
        sync_latency: Some(Arc::new(move || latency.sync_latency())),
        ..LogOptions::in_memory(slot.clock.clone())
    };
    let engine = slot.engine.lock().clone();
    let opened =
        kelson::open_simulated(&disk, Path::new("/data"), options_log, &metrics, move || Box::new(engine.clone()))?;
    witness.starts(node_number, opened.mark.log_id.map_or(0, |id| id.index), &opened.store);
    let identity = Arc::new(Identity::new(seat.member_id, seat.cluster_id));
    let hub = {
        let identity = identity.clone();
        let options = watch::Options { progress_interval: PROGRESS_INTERVAL, ..watch::Options::default() };
        Arc::new(Hub::new(opened.store.clone(), move |revision| identity.header(revision), options))
    };
    let lessor = Arc::new(Lessor::new(slot.clock.clone(), ttl_seconds_min(&config(plan))));
    let parts = Parts {
        identity,
        log: opened.log,
        recovered: opened.recovered,
        store: opened.store,
        mark: opened.mark,
        hub: hub.clone(),
        checkpoint: opened.checkpoint,
        snapshots: opened.snapshots,
        dial: Arc::new(SimDial { slot: slot.number, wires: world.wires.clone(), trace: witness.trace.clone() }),
        links: None,
        on_lease: {
            let lessor = lessor.clone();
            Box::new(move |change| lessor.on_change(change))
        },
        metrics,
        clock: slot.clock.clone(),
        observer: Some(Arc::new(Eye { node: node_number, witness: witness.clone() })),
    };
    let origin = slot.chance.lock().bits();
    let node = Node::start(options(plan, &seat), origin, parts).await?;
    *slot.node.lock() = Some(node.clone());
    let _data_dir = opened.data_dir;
    let serving = serve(Peer::new(node.clone(), lessor.clone()), slot.copies.clone());
    let grace = node.leader_deadline();
    let working = work(world.clone(), slot.clone(), node.clone(), hub, lessor.clone(), acknowledged);
    let reason = tokio::select! {
        served = serving => match served { Err(error) => error.to_string(), Ok(never) => match never {} },
        reason = node.failed() => reason,
        never = lessor.run(&node, grace) => match never {},
        never = kelson::corrupt::run_periodic(&node, CORRUPT_CHECK_INTERVAL) => match never {},
        error = working => error.to_string(),
    };
    slot.forget();
    Ok(reason)
}

/// Serves clients and operators once the member is ready; for ever.
async fn work(
    world: World,
    slot: Arc<Slot>,
    node: Arc<Node>,
    hub: Arc<Hub>,
    lessor: Arc<Lessor>,
    acknowledged: i64,
) -> io::Error {
    if let Err(error) = node.ready().await {
        return io::Error::other(error);
    }
    world.witness.is_ready(slot.number as u32, node.store().revision(), acknowledged);
    let quota = Arc::new(Quota::new(node.clone(), None));
    let kv = Arc::new(Kv::new(node.clone(), quota.clone(), Limits::from(&config(&world.plan))));
    let lease = Arc::new(Lease::new(node.clone(), lessor, quota));
    let live = Live { node: node.clone(), kv, lease, hub };
    *slot.live.lock() = Some(live.clone());
    for number in 0..world.plan.clients {
        tokio::spawn(clients::run(world.clone(), slot.number, number, live.clone()));
    }
    tokio::spawn(clients::watch(world.clone(), slot.number, live.clone()));
    let name = host(slot.number);
    let member = pb::Member { id: node.status().member_id, name, ..pb::Member::default() };
    while let Err(error) = node.propose(Command::Publish(member.clone())).await {
        tracing::debug!(%error, "not published yet");
    }
    loop {
        slot.asked.notified().await;
        for (id, ask) in std::mem::take(&mut *slot.asks.lock()) {
            let (live, slot, world) = (live.clone(), slot.clone(), world.clone());
            tokio::spawn(async move {
                let answer = answer(&world, &slot, &live, ask).await;
                slot.answers.lock().push((id, answer));
            });
        }
    }
}

async fn answer(world: &World, slot: &Slot, live: &Live, ask: Ask) -> Result<Option<u64>, String> {
    world.witness.trace.note(format_args!("{} is asked for {ask:?}", slot.number));
    match ask {
        Ask::Change(change) => {
            let changed = live.node.change(change).await.map_err(|error| error.to_string())?;
            Ok(changed.added.map(|member| member.id))
        }
        Ask::Snapshot => live.node.snapshot_now().await.map(|()| None).map_err(|error| error.to_string()),
        Ask::Probe(value) => {
            let put = jepsen::history::op::Request::put("probe", value);
            match clients::perform(world, slot.number, clients::PROBE, live, put).await {
                jepsen::history::op::Outcome::Ok { .. } => Ok(None),
                other => Err(format!("{other:?}")),
            }
        }
        Ask::Compact(behind) => {
            let revision = live.node.store().revision() - behind;
            let compact = jepsen::history::op::Request::Compact(revision);
            clients::perform(world, slot.number, clients::PROBE, live, compact).await;
            Ok(None)
        }
    }
}

/// The first members of a cluster, by slot.
pub fn founders(members: usize) -> Vec<Seat> {
    let url = |slot: usize| kelson::config::Url::parse(&peer_url(slot)).expect("made by us");
    let ids: Vec<u64> = (0..members).map(|slot| kelson::config::ids::member_id(&[url(slot)], "sim", None)).collect();
    let cluster_id = kelson::config::ids::cluster_id(&ids);
    let info = |slot: usize| MemberInfo { peer_urls: vec![peer_url(slot)], ..MemberInfo::default() };
    let initial_members: BTreeMap<u64, MemberInfo> =
        ids.iter().enumerate().map(|(slot, id)| (*id, info(slot))).collect();
    ids.iter().map(|id| Seat { member_id: *id, cluster_id, initial_members: initial_members.clone() }).collect()
}
