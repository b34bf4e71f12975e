//! What one client of a workload does: a small state machine that is asked for the next request and told what came of it.
//!
//! It sends nothing and knows no clock but the one it is told, so that real servers and the simulator run the same ones.

use crate::history::op::{Compare, Expected, Op, Put, Request, Txn};

/// A second in a script's time.
pub const SECOND: u64 = 1_000_000_000;
/// A millisecond in it.
pub const MILLISECOND: u64 = 1_000_000;

/// What a client does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It sends this.
    Send(Request),
    /// It does nothing for this many nanoseconds.
    Wait(u64),
    /// It writes down a belief that began at this time and ends now; see [`Request::Hold`].
    Note(Request, u64),
}

/// The script of one client. It goes on until it is asked no more.
pub trait Script: Send {
    /// The next step. `id` becomes the operation's; `now` in nanoseconds since the run began.
    fn next(&mut self, id: u64, now: u64) -> Step;

    /// Learns what came of a request; unknown outcomes are never asked for again.
    fn learn(&mut self, op: &Op);
}

/// The comparison of a guard: the key was last changed at this revision (0 = it is not there).
pub fn unchanged(key: &str, mod_revision: i64) -> Compare {
    Compare { key: key.into(), is: Expected::Mod(mod_revision) }
}

/// A transaction of these requests if the guard holds.
pub fn guarded(compare: Vec<Compare>, success: Vec<Request>) -> Request {
    Request::Txn(Txn { compare, success, failure: Vec::new() })
}

/// A put under a lease.
pub fn put_leased(key: &str, value: impl Into<String>, lease: i64) -> Request {
    Request::Put(Put { key: key.into(), value: value.into(), lease, prev_kv: false })
}
