//! The plug for faults: whoever breaks a cluster during a run, and the windows it writes down.
//!
//! [`schedule`] expands a seed; [`lane`] carries out one of its lanes on a cluster; [`guard`] looks after members that end
//! by themselves.

pub mod guard;
pub mod lane;
mod membership;
mod network;
mod operator;
mod process;
pub mod schedule;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::client::Client;
use crate::history::files::{Fault, Forgotten};
use crate::history::op::{Op, Outcome, Request};

/// Numbers of nemeses' own requests begin here, far above those of clients,
const REQUESTS_FROM: u64 = 1 << 40;
/// and they all have this number of a client.
const PROCESS: u32 = 40_000;
/// How the names of windows begin that no nemesis made, see [`Windows::broken`].
pub const BROKEN: &str = "broken: ";
/// What begins the name of a window in which the harness failed at a fault: what follows says nothing of the server.
pub const HARNESS: &str = "harness failed: ";

/// Breaks things until it is told to stop.
///
/// Contract: [`Nemesis::run`] opens a window before the first step of a fault and closes it after the fault is undone,
/// with what shows that it took effect. When `stop` turns true it undoes everything, at once, and returns. It draws all
/// chance from a seed that it was made with.
pub trait Nemesis: Send {
    /// What it is called in reports.
    fn name(&self) -> String;

    /// Runs to its end.
    fn run(self: Box<Self>, windows: Windows, stop: watch::Receiver<bool>) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Fault windows of a run, open and closed.
#[derive(Clone, Debug)]
pub struct Windows {
    started: Instant,
    faults: Arc<Mutex<Vec<Fault>>>,
    requests: Arc<Mutex<Vec<Op>>>,
    collected: Arc<AtomicI64>,
    failure: Arc<Mutex<Option<String>>>,
}

impl Windows {
    /// No faults yet, on this clock. `collected`: up to which revision the run's collectors have seen everything.
    pub fn new(started: Instant, collected: Arc<AtomicI64>) -> Self {
        Self { started, faults: Arc::default(), requests: Arc::default(), collected, failure: Arc::default() }
    }

    /// Up to this revision all changes are written down already: what is compacted below it is lost to no checker.
    pub fn collected(&self) -> i64 {
        self.collected.load(Ordering::Relaxed)
    }

    /// Sends a request that belongs into the history, because it changes what clients may see.
    pub async fn send(&self, client: &Client, node: u32, request: Request) -> Outcome {
        let start = self.now();
        let outcome = client.call(&request).await;
        let mut requests = self.requests.lock();
        let id = REQUESTS_FROM + requests.len() as u64;
        requests.push(Op { id, process: PROCESS, node, start, end: self.now(), request, outcome: outcome.clone() });
        outcome
    }

    /// Requests of nemeses so far.
    pub fn requests(&self) -> Vec<Op> {
        self.requests.lock().clone()
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// A fault begins; the number is for [`Windows::close`]. Until then it lasts for ever.
    pub fn open(&self, name: impl Into<String>, nodes: &[u32]) -> usize {
        let fault =
            Fault { name: name.into(), nodes: nodes.to_vec(), start: self.now(), end: u64::MAX, ..Fault::default() };
        let mut faults = self.faults.lock();
        faults.push(fault);
        faults.len() - 1
    }

    /// It is undone. `evidence` says what shows that it took effect.
    pub fn close(&self, number: usize, evidence: impl Into<String>) {
        self.close_with(number, evidence, 1);
    }

    /// It is undone, and had this much effect.
    pub fn close_with(&self, number: usize, evidence: impl Into<String>, effect: u64) {
        let now = self.now();
        if let Some(fault) = self.faults.lock().get_mut(number) {
            (fault.end, fault.evidence, fault.effect) = (now, evidence.into(), effect);
        }
    }

    /// Power cuts in it made disks forget this.
    pub fn forgot(&self, number: usize, what: Forgotten) {
        if let Some(fault) = self.faults.lock().get_mut(number) {
            fault.forgotten.add(&what);
        }
    }

    /// It turned out which members it is aimed at.
    pub fn aim(&self, number: usize, nodes: &[u32]) {
        if let Some(fault) = self.faults.lock().get_mut(number) {
            fault.nodes = nodes.to_vec();
        }
    }

    /// It did not come to it, such as a request of an operator that was refused: nothing was broken.
    pub fn abandon(&self, number: usize) {
        if let Some(fault) = self.faults.lock().get_mut(number) {
            fault.name.clear();
        }
    }

    /// Something that the server did wrong beside all histories: it ended by itself, or did not end when told to.
    pub fn broken(&self, what: &str, node: u32, text: impl Into<String>) {
        let number = self.open(format!("{BROKEN}{what}"), &[node]);
        self.close(number, text);
    }

    /// The harness cannot mend what it broke, such as a disk that it cannot mount again: whatever comes after says nothing
    /// about the server. The first reason counts.
    pub fn fail(&self, why: impl Into<String>) {
        self.failure.lock().get_or_insert_with(|| why.into());
    }

    /// Why the run proves nothing, if the harness failed.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// All windows so far, but the abandoned ones.
    pub fn faults(&self) -> Vec<Fault> {
        self.faults.lock().iter().filter(|fault| !fault.name.is_empty()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_lasts_until_it_is_closed() {
        let windows = Windows::new(Instant::now(), Arc::default());
        let number = windows.open("pause", &[1]);
        assert_eq!(windows.faults()[0].end, u64::MAX);
        windows.close(number, "stopped for 2 s");
        let fault = &windows.faults()[0];
        assert!(fault.end >= fault.start && fault.evidence == "stopped for 2 s");
    }

    #[test]
    fn the_first_failure_of_the_harness_counts() {
        let windows = Windows::new(Instant::now(), Arc::default());
        assert_eq!(windows.failure(), None);
        windows.clone().fail("a disk is still in use");
        windows.fail("and another one");
        assert_eq!(windows.failure().as_deref(), Some("a disk is still in use"));
    }
}
