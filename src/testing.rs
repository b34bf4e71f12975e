//! Clusters for tests: real members in one process, that meet over gRPC on ports of 127.0.0.1, and the faults that
//! befall them. For the tests of kelson and of whatever uses it; what they tell each other and write is what members of
//! processes of their own do.
//!
//! A member keeps everything in memory unless the builder says otherwise, and has a disk all the same: one in memory that
//! loses what was not synced when the member is killed. So a member that is killed and started again has its votes and its
//! log as of the last sync, as after a power cut, and never more.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use kelson::proto::etcdserverpb::{PutRequest, RangeRequest, kv_client::KvClient};
//! use kelson::testing::Cluster;
//!
//! let mut cluster = Cluster::start(3).await?;
//! let leader = cluster.leader().await;
//! let put = PutRequest { key: "greeting".into(), value: "hello".into(), ..PutRequest::default() };
//! KvClient::new(cluster.member(leader).channel()).put(put).await?;
//!
//! cluster.kill(leader).await;
//! let other = cluster.leader().await;
//! let get = RangeRequest { key: "greeting".into(), ..RangeRequest::default() };
//! let answer = KvClient::new(cluster.member(other).channel()).range(get).await?.into_inner();
//! assert_eq!(answer.kvs[0].value(), b"hello");
//!
//! cluster.restart(leader).await?;
//! cluster.await_same_state().await;
//! cluster.shutdown().await;
//! # Ok(())
//! # })
//! # }
//! ```

mod builder;
mod member;
mod port;
#[cfg(test)]
mod tests;

use std::time::Duration;

use futures_util::future::{join_all, select_all, try_join_all};
use tempfile::TempDir;

pub use builder::Builder;
pub use member::Member;

use crate::config::ClusterState;
use crate::proto::etcdserverpb as pb;
use crate::raft::membership::{Change, Fate};
use crate::raft::peers::Links;
use crate::server;

/// How often something that is waited for is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Longer than anything that is waited for takes on a busy machine; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a cluster or a member of it could not start, or the membership not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory or a port could not be had.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A member did not start.
    #[error("{name}: {error}")]
    Member {
        /// Which.
        name: String,
        /// Why not.
        error: server::Error,
    },
    /// The membership was not changed, or perhaps.
    #[error(transparent)]
    Change(#[from] Fate),
}

/// What all members have come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The newest revision.
    pub revision: i64,
    /// `HashKV` of everything up to it.
    pub hash: u32,
}

/// Members of one cluster in this process. They are called by the order in which they were made, from 0; a member that
/// was removed keeps its number. Dropping the cluster ends them all.
pub struct Cluster {
    members: Vec<Member>,
    builder: Builder,
    links: Links,
    /// Enters what survives of unsynced bytes; counts the kills.
    kills: u64,
    // Dropped last: the members' directories are in it.
    directory: TempDir,
}

impl Cluster {
    /// A cluster of `size` members in memory that have a leader and answer. Its elections are faster than etcd's
    /// defaults: see [`Builder`] for other settings.
    ///
    /// # Errors
    /// [`Error`]; nothing is left running.
    pub async fn start(size: usize) -> Result<Self, Error> {
        Self::builder().members(size).start().await
    }

    /// A cluster with other settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    async fn start_built(builder: Builder) -> Result<Self, Error> {
        let directory = tempfile::Builder::new().prefix("kelson-cluster-").tempdir()?;
        let links = Links::default();
        let mut members = Vec::new();
        for number in 0..builder.size {
            members.push(Member::new(&builder, number, directory.path())?);
        }
        let initial_cluster = members.iter().map(Member::as_initial).collect();
        for member in &mut members {
            member.belong_to(&initial_cluster, ClusterState::New);
        }
        try_join_all(members.iter_mut().map(|member| member.start(&links))).await?;
        Ok(Self { members, builder, links, kills: 0, directory })
    }

    /// How many members there have been.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// A member.
    ///
    /// # Panics
    /// When there is none of that number, here and in every call that takes one.
    pub fn member(&self, number: usize) -> &Member {
        &self.members[number]
    }

    /// The numbers of the members that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|&number| self.members[number].is_running()).collect()
    }

    /// Client URLs of all members that were not removed, whether they run or not: a member that is started again has the
    /// ports that it had.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().filter(|member| !member.is_removed()).map(|member| member.endpoint().to_owned()).collect()
    }

    /// Who leads among the members that run and are not paused.
    ///
    /// # Panics
    /// When nobody comes to lead within a minute.
    pub async fn leader(&self) -> usize {
        let all: Vec<usize> = (0..self.members.len()).collect();
        self.leader_among(&all).await
    }

    /// As [`Cluster::leader`], among these; for when some are cut off. An old leader counts until it has noticed, for an
    /// election timeout at most, so that a test names those who can elect a new one.
    ///
    /// # Panics
    /// When none of them comes to lead within a minute.
    pub async fn leader_among(&self, numbers: &[usize]) -> usize {
        let waiting = async {
            loop {
                let leads = numbers.iter().filter_map(|&number| Some((self.members[number].leads_in()?, number)));
                if let Some((_, number)) = leads.max() {
                    return number;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("none of {numbers:?} comes to lead"))
    }

    /// Lets messages pass only between members of the same group. Who is named in none of them reaches nobody.
    pub fn partition(&self, groups: &[&[usize]]) {
        self.links.heal();
        let group_of = |number| groups.iter().position(|group| group.contains(&number));
        for from in 0..self.members.len() {
            for to in (0..self.members.len()).filter(|&to| to != from) {
                if group_of(from).is_none() || group_of(from) != group_of(to) {
                    self.cut(from, to);
                }
            }
        }
    }

    /// Lets no message of one member reach another any more; those of the other way pass, though without an answer to
    /// them, for an answer is a message too.
    pub fn cut(&self, from: usize, to: usize) {
        self.links.cut(self.members[from].id(), self.members[to].id());
    }

    /// Lets every message pass again.
    pub fn heal(&self) {
        self.links.heal();
    }

    /// Ends a member as a power cut does: nothing is flushed, drained or told, and a disk in memory keeps of what was not
    /// synced only what chance leaves there, the same at every run. Nothing to do if it does not run.
    pub async fn kill(&mut self, number: usize) {
        self.kills += 1;
        let seed = self.builder.seed.wrapping_add(self.kills);
        self.members[number].kill(seed).await;
    }

    /// Starts a member that was killed or stopped, on its disk and its ports; one that runs is killed first. Returns when
    /// it answers, which takes a quorum of members that run and reach it.
    ///
    /// # Errors
    /// [`Error::Member`].
    pub async fn restart(&mut self, number: usize) -> Result<(), Error> {
        self.kill(number).await;
        self.members[number].start(&self.links).await
    }

    /// Starts several members at once, for when they are a quorum only together; otherwise as [`Cluster::restart`].
    ///
    /// # Errors
    /// [`Error::Member`].
    pub async fn restart_all(&mut self, numbers: &[usize]) -> Result<(), Error> {
        for &number in numbers {
            self.kill(number).await;
        }
        let links = &self.links;
        let chosen = self.members.iter_mut().enumerate().filter(|(number, _)| numbers.contains(number));
        try_join_all(chosen.map(|(_, member)| member.start(links))).await.map(drop)
    }

    /// Stops a member in an orderly way; [`Cluster::restart`] starts it again. Nothing to do if it does not run.
    pub async fn stop(&mut self, number: usize) {
        self.members[number].stop().await;
    }

    /// Holds a member still as SIGSTOP does: its sockets stay open and it does nothing, until it is resumed, killed or
    /// dropped, or two minutes have passed. Nothing to do if it does not run.
    pub async fn pause(&mut self, number: usize) {
        self.members[number].pause().await;
    }

    /// Lets a paused member go on.
    pub fn resume(&mut self, number: usize) {
        self.members[number].resume();
    }

    /// Turns a member's clock forward, and so shortens the leases if it leads; until it is started again.
    pub fn skew(&self, number: usize, by: Duration) {
        self.members[number].skew(by);
    }

    /// Makes a member write its snapshot file and purge its log behind it, which it otherwise does when the log is long.
    ///
    /// # Panics
    /// When the member does not run or has failed.
    pub async fn snapshot(&self, number: usize) {
        let node = self.members[number].server().node().clone();
        node.snapshot_now().await.expect("a member that runs can be told to write a snapshot");
    }

    /// Adds a member with a vote and starts it; returns its number once it answers.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn add_member(&mut self) -> Result<usize, Error> {
        self.add(false).await
    }

    /// Adds a member without a vote and starts it; returns its number once it answers.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn add_learner(&mut self) -> Result<usize, Error> {
        self.add(true).await
    }

    async fn add(&mut self, is_learner: bool) -> Result<usize, Error> {
        let number = self.members.len();
        let mut member = Member::new(&self.builder, number, self.directory.path())?;
        let leader = self.leader().await;
        let node = self.members[leader].server().node();
        node.change(Change::Add { peer_urls: vec![member.peer_url().to_string()], is_learner }).await?;
        let there = self.members.iter().filter(|member| !member.is_removed());
        let initial_cluster = there.chain([&member]).map(Member::as_initial).collect();
        member.belong_to(&initial_cluster, ClusterState::Existing);
        member.start(&self.links).await?;
        self.members.push(member);
        Ok(number)
    }

    /// Removes a member from the cluster and ends it.
    ///
    /// # Errors
    /// [`Error::Change`]; the member runs on then.
    pub async fn remove_member(&mut self, number: usize) -> Result<(), Error> {
        let others: Vec<usize> = self.running().into_iter().filter(|&other| other != number).collect();
        let by = others.into_iter().find(|&other| !self.members[other].is_paused()).unwrap_or(number);
        self.members[by].server().node().change(Change::Remove(self.members[number].id())).await?;
        self.members[number].remove().await;
        Ok(())
    }

    /// Waits until all members that run hold the same revisions, and says which.
    ///
    /// # Panics
    /// When they do not come to agree within a minute, with what each holds.
    pub async fn await_same_state(&self) -> State {
        let mut last = Vec::new();
        let waiting = async {
            loop {
                let states = join_all(self.members.iter().filter_map(Member::state)).await;
                if let Some(first) = states.first().copied().flatten()
                    && states.iter().all(|state| *state == Some(first))
                {
                    return first;
                }
                last = states;
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(state) => state,
            Err(_) => panic!("the members that run do not come to agree: {last:?}"),
        }
    }

    /// The members as those that run know them; empty if none does.
    pub fn membership(&self) -> Vec<pb::Member> {
        let running = self.members.iter().find(|member| member.is_running());
        running.map(|member| member.server().node().members()).unwrap_or_default()
    }

    /// Returns when a member has failed by itself, with its name and the reason; never if none runs.
    pub async fn failed(&self) -> String {
        let running = self.members.iter().filter(|member| member.is_running());
        let failing: Vec<_> = running
            .map(|member| Box::pin(async move { format!("{}: {}", member.name(), member.server().failed().await) }))
            .collect();
        if failing.is_empty() {
            return std::future::pending().await;
        }
        select_all(failing).await.0
    }

    /// Stops all members in an orderly way.
    pub async fn shutdown(mut self) {
        join_all(self.members.iter_mut().map(Member::stop)).await;
    }
}
