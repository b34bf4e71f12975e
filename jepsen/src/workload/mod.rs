//! What clients do. A workload chooses requests from a seed and from what its client was told; it sends nothing itself.

pub mod append;
pub mod bank;
pub mod kubernetes;
pub mod lease;
pub mod lock;
pub mod mix;
pub mod reader;
pub mod register;
pub mod script;
pub mod set;
pub mod watched;
pub mod wr;

use crate::history::op::Request;
use crate::rng::Rng;
use script::Script;

/// The workloads of `jepsen run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Single keys: reads, writes, compare-and-set, deletes.
    Register,
    /// Transactions that read and append lists.
    Append,
    /// Transactions of blind writes and reads.
    Wr,
    /// Elements added to sets.
    Set,
    /// Transfers between accounts.
    Bank,
    /// A counter.
    Counter,
    /// Many watches over a busy store.
    Watch,
    /// Leases with keys.
    Lease,
    /// A lock with fencing.
    Lock,
    /// An election with fencing.
    Election,
    /// Lists, watches and guarded updates.
    Kubernetes,
    /// Transactions of a hundred blind writes.
    Wide,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Register,
        Self::Append,
        Self::Wr,
        Self::Set,
        Self::Bank,
        Self::Counter,
        Self::Watch,
        Self::Lease,
        Self::Lock,
        Self::Election,
        Self::Kubernetes,
        Self::Wide,
    ];

    /// As on the command line and in `plan.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Append => "append",
            Self::Wr => "wr",
            Self::Set => "set",
            Self::Bank => "bank",
            Self::Counter => "counter",
            Self::Watch => "watch",
            Self::Lease => "lease",
            Self::Lock => "lock",
            Self::Election => "election",
            Self::Kubernetes => "kubernetes",
            Self::Wide => "wide",
        }
    }

    /// The workload of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The script of one client.
    pub fn script(self, process: u32, rng: Rng) -> Box<dyn Script> {
        self.script_on(process, rng, None)
    }

    /// How many keys a client uses at one time, where that can be chosen.
    pub fn keys(self) -> Option<u64> {
        match self {
            Self::Register => Some(register::KEYS),
            Self::Append => Some(append::KEYS),
            Self::Wr => Some(wr::KEYS),
            _ => None,
        }
    }

    /// The script of one client on at most so many keys at one time.
    pub fn script_on(self, process: u32, rng: Rng, keys: Option<u64>) -> Box<dyn Script> {
        let at_most = |own: u64| keys.map_or(own, |keys| keys.clamp(1, own));
        match self {
            Self::Register => Box::new(register::Register::new(rng).on(at_most(register::KEYS))),
            Self::Append => Box::new(append::Append::new(rng).on(at_most(append::KEYS))),
            Self::Wr => Box::new(wr::Wr::new(rng).on(at_most(wr::KEYS))),
            Self::Wide => Box::new(wr::Wr::wide(rng)),
            Self::Set => Box::new(set::Set::new(rng)),
            Self::Bank => Box::new(bank::Bank::new(rng)),
            Self::Counter => Box::new(bank::Counter::new(rng)),
            Self::Watch => Box::new(watched::Watched::new(process, rng)),
            Self::Lease => Box::new(lease::Lease::new(process, rng)),
            Self::Lock => Box::new(lock::Lock::new("lock/", rng)),
            Self::Election => Box::new(lock::Lock::new("election/", rng)),
            Self::Kubernetes => Box::new(kubernetes::Kubernetes::new(process, rng)),
        }
    }

    /// What every member is asked once the load is over: each kind of key as it is in the end.
    pub fn final_reads(self) -> Vec<Request> {
        match self {
            Self::Register => vec![Request::list(register::PREFIX)],
            Self::Append => vec![Request::list(append::PREFIX)],
            Self::Wr | Self::Wide => vec![Request::list(wr::PREFIX)],
            Self::Set => vec![Request::list(set::KEYS), Request::get(set::LIST)],
            Self::Bank => vec![Request::list(bank::ACCOUNTS)],
            Self::Counter => vec![Request::get(bank::COUNTER)],
            Self::Watch => vec![Request::list(watched::PREFIX)],
            Self::Lease => vec![Request::list(lease::PREFIX)],
            Self::Lock | Self::Election => vec![Request::list(lock::ELEMENTS)],
            Self::Kubernetes => vec![Request::list(kubernetes::PREFIX)],
        }
    }
}
