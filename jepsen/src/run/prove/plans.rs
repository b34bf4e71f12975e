//! The fixed plans of the proof, each as short as it reliably finds what it is for.

use crate::nemesis::schedule::{Kind as Nemesis, Step, Whom};
use crate::rng::Rng;
use crate::run::faults::Situation;
use crate::workload::Kind;

/// What is done to a target.
pub struct Plan {
    /// Its name.
    pub name: &'static str,
    /// What runs.
    pub shape: Shape,
    /// Arguments for the server, of kelson alone,
    pub arguments: &'static [&'static str],
    /// and variables.
    pub environment: &'static [(&'static str, &'static str)],
    /// It makes sense for etcd, too.
    pub for_etcd: bool,
}

/// What runs.
pub enum Shape {
    /// Crashes of one member: power cuts, or kills.
    Crash {
        /// Power cuts.
        power: bool,
        /// How many.
        cuts: usize,
        /// Milliseconds of load before each, at most.
        load_ms_max: u64,
    },
    /// Disk situations of one member.
    Faults(&'static [Situation]),
    /// A workload on a cluster.
    Load(Load),
}

/// A workload and the faults beside it.
pub struct Load {
    /// What clients do.
    pub workload: Kind,
    /// How many members.
    pub members: u32,
    /// For how long.
    pub seconds: u64,
    /// Faults one after the other, from the first again until the time is over: quiet milliseconds, what, to whom, for
    /// how many milliseconds.
    pub faults: &'static [(u64, Nemesis, Whom, u64)],
    /// Clients.
    pub clients: u32,
    /// Requests a second.
    pub rate: u64,
    /// A request without an answer after this long has an unknown outcome.
    pub deadline_ms: u64,
    /// Reads are sent as serializable ones and judged as linearizable.
    pub serializable: bool,
}

impl Load {
    /// The steps for a seed.
    pub fn steps(&self, seed: u64) -> Vec<Step> {
        let mut rng = Rng::new(seed).fork(30);
        let (mut steps, mut sum) = (Vec::new(), 0);
        for (wait_ms, kind, whom, hold_ms) in self.faults.iter().cycle() {
            sum += wait_ms + hold_ms;
            if sum > self.seconds * 1000 {
                break;
            }
            // A little of chance, so that another seed meets other moments.
            let wait_ms = rng.between(wait_ms / 2, *wait_ms);
            let hold_ms = rng.between(hold_ms * 3 / 4, *hold_ms);
            steps.push(Step { wait_ms, kind: *kind, whom: *whom, hold_ms, seed: rng.bits() });
        }
        steps
    }

    /// Which kinds come.
    pub fn kinds(&self) -> Vec<Nemesis> {
        let mut kinds: Vec<Nemesis> = self.faults.iter().map(|(_, kind, ..)| *kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }
}

const LOAD: Load = Load {
    workload: Kind::Register,
    members: 3,
    seconds: 10,
    faults: &[],
    clients: 10,
    rate: 500,
    deadline_ms: 3000,
    serializable: false,
};

const fn on_kelson_and_etcd(name: &'static str, shape: Shape) -> Plan {
    Plan { name, shape, arguments: &[], environment: &[], for_etcd: true }
}

/// Power cuts of one member.
pub static POWER: Plan = on_kelson_and_etcd("power", Shape::Crash { power: true, cuts: 14, load_ms_max: 1200 });
/// Kills of one member.
pub static KILL: Plan = on_kelson_and_etcd("kill", Shape::Crash { power: false, cuts: 8, load_ms_max: 3000 });
/// A sync that fails.
pub static FAILED_SYNC: Plan = Plan {
    for_etcd: false,
    ..on_kelson_and_etcd("failed-sync", Shape::Faults(&[Situation::OneFailedSync, Situation::AllSyncsFail]))
};
/// A bit that flips.
pub static FLIPPED_BIT: Plan =
    Plan { for_etcd: false, ..on_kelson_and_etcd("flipped-bit", Shape::Faults(&[Situation::FlippedBit])) };
/// A torn tail.
pub static TORN_TAIL: Plan =
    Plan { for_etcd: false, ..on_kelson_and_etcd("torn-tail", Shape::Faults(&[Situation::TornTail])) };
/// Registers without faults.
pub static REGISTER: Plan = on_kelson_and_etcd("register", Shape::Load(LOAD));
/// Lists without faults.
pub static APPEND: Plan = on_kelson_and_etcd("append", Shape::Load(Load { workload: Kind::Append, ..LOAD }));
/// Watches without faults.
pub static WATCH: Plan = on_kelson_and_etcd("watch", Shape::Load(Load { workload: Kind::Watch, seconds: 15, ..LOAD }));
/// Leases without faults.
pub static LEASE: Plan = on_kelson_and_etcd("lease", Shape::Load(Load { workload: Kind::Lease, seconds: 15, ..LOAD }));
/// Leases while wall clocks jump; etcd is linked statically.
pub static LEASE_CLOCK: Plan = Plan {
    for_etcd: false,
    ..on_kelson_and_etcd(
        "lease-clock",
        Shape::Load(Load {
            workload: Kind::Lease,
            seconds: 25,
            faults: &[(3000, Nemesis::Clock, Whom::All, 4000)],
            ..LOAD
        }),
    )
};
/// Leases whose leader comes and goes.
pub static LEASE_LEADER: Plan = on_kelson_and_etcd(
    "lease-leader",
    Shape::Load(Load {
        workload: Kind::Lease,
        seconds: 45,
        clients: 40,
        faults: &[(2500, Nemesis::Isolate, Whom::Leader, 2500)],
        ..LOAD
    }),
);
/// A leader that misses an election, asleep or alone, and clients that give up sooner than it is back.
pub static SLEEPING_LEADER: Plan = on_kelson_and_etcd(
    "sleeping-leader",
    Shape::Load(Load {
        seconds: 40,
        clients: 18,
        deadline_ms: 700,
        faults: &[(1500, Nemesis::Pause, Whom::Leader, 3500), (1500, Nemesis::Isolate, Whom::Leader, 2500)],
        ..LOAD
    }),
);
/// Everybody killed at once, again and again.
pub static KILL_ALL: Plan = on_kelson_and_etcd(
    "kill-all",
    Shape::Load(Load { seconds: 25, faults: &[(3000, Nemesis::Kill, Whom::All, 0)], ..LOAD }),
);
/// A leader that writes on alone, is overruled, and killed.
pub static OVERRULED: Plan = on_kelson_and_etcd(
    "overruled",
    Shape::Load(Load {
        seconds: 45,
        faults: &[(1500, Nemesis::Isolate, Whom::Leader, 3000), (2500, Nemesis::Kill, Whom::All, 0)],
        ..LOAD
    }),
);
/// Power cuts in a cluster.
pub static POWER_CLUSTER: Plan = on_kelson_and_etcd(
    "power-cluster",
    Shape::Load(Load {
        workload: Kind::Set,
        seconds: 45,
        faults: &[
            (1500, Nemesis::PowerCut, Whom::Leader, 0),
            (1500, Nemesis::PowerCut, Whom::All, 0),
            (1500, Nemesis::PowerCut, Whom::Majority, 500),
        ],
        ..LOAD
    }),
);
/// A leader that goes in the middle of forwarded writes.
pub static LOST_LEADER: Plan = on_kelson_and_etcd(
    "lost-leader",
    Shape::Load(Load {
        seconds: 40,
        clients: 18,
        rate: 1000,
        faults: &[
            (1500, Nemesis::Pause, Whom::Leader, 3500),
            (1500, Nemesis::Kill, Whom::Leader, 500),
            (1500, Nemesis::Isolate, Whom::Leader, 2500),
        ],
        ..LOAD
    }),
);
/// A member that sleeps until only a snapshot can wake it, under watches.
pub static INSTALL_WATCH: Plan = Plan {
    arguments: INSTALLS,
    environment: &[("KELSON_SNAPSHOT_LOG_BYTES", "1")],
    for_etcd: true,
    ..on_kelson_and_etcd(
        "install-watch",
        Shape::Load(Load {
            workload: Kind::Watch,
            seconds: 35,
            faults: &[(3000, Nemesis::Pause, Whom::Follower, 6000)],
            ..LOAD
        }),
    )
};
/// The same with leases.
pub static INSTALL_LEASE: Plan = Plan {
    arguments: INSTALLS,
    environment: &[("KELSON_SNAPSHOT_LOG_BYTES", "1")],
    ..on_kelson_and_etcd(
        "install-lease",
        Shape::Load(Load {
            workload: Kind::Lease,
            seconds: 35,
            clients: 40,
            faults: &[(3000, Nemesis::Pause, Whom::Follower, 6000)],
            ..LOAD
        }),
    )
};
/// A snapshot every few entries, and none of the older ones kept.
const INSTALLS: &[&str] = &["--snapshot-count=50", "--snapshot-catchup-entries=10"];
/// A removed member that is started again on what it had.
pub static GHOST: Plan = on_kelson_and_etcd(
    "ghost",
    Shape::Load(Load { seconds: 30, faults: &[(2000, Nemesis::Ghost, Whom::Follower, 500)], ..LOAD }),
);
/// Serializable reads taken for linearizable ones: no cluster can pass.
pub static SERIALIZABLE: Plan = on_kelson_and_etcd(
    "serializable",
    Shape::Load(Load {
        seconds: 15,
        serializable: true,
        faults: &[(1500, Nemesis::Isolate, Whom::Follower, 2500)],
        ..LOAD
    }),
);
/// Wide transactions, and a member killed again and again.
pub static WIDE: Plan = on_kelson_and_etcd(
    "wide",
    Shape::Load(Load {
        workload: Kind::Wide,
        seconds: 40,
        rate: 200,
        clients: 12,
        faults: &[(1500, Nemesis::Kill, Whom::Minority, 0)],
        ..LOAD
    }),
);

/// The plans under which good targets must be valid.
pub static SOUND: &[&Plan] = &[
    &POWER,
    &KILL,
    &FAILED_SYNC,
    &FLIPPED_BIT,
    &TORN_TAIL,
    &REGISTER,
    &APPEND,
    &WATCH,
    &LEASE,
    &LEASE_CLOCK,
    &LEASE_LEADER,
    &SLEEPING_LEADER,
    &KILL_ALL,
    &OVERRULED,
    &POWER_CLUSTER,
    &LOST_LEADER,
    &INSTALL_WATCH,
    &INSTALL_LEASE,
    &GHOST,
    &WIDE,
];
