//! Placeholder of the final module, for its signatures only.

use std::sync::Arc;

use crate::proto::etcdserverpb as pb;
use crate::state::{Applied, Command, Store};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no leader")]
    NoLeader,
    #[error("not leader")]
    NotLeader,
    #[error("leader changed")]
    LeaderChanged,
    #[error("request timed out")]
    Timeout,
    #[error("too many requests")]
    TooManyRequests,
    #[error("request of {bytes} bytes is larger than {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("server stopped")]
    Stopped,
    #[error("{0}")]
    Fatal(String),
}

#[derive(Clone, Debug)]
pub struct Status {
    pub member_id: u64,
    pub cluster_id: u64,
    pub leader: Option<u64>,
    pub term: u64,
    pub committed_index: u64,
    pub applied_index: u64,
    pub is_learner: bool,
}

pub struct Node(Arc<Store>);

impl Node {
    pub async fn propose(&self, _command: Command) -> Result<Applied, Error> {
        panic!("placeholder")
    }
    pub async fn read_barrier(&self) -> Result<(), Error> {
        panic!("placeholder")
    }
    pub async fn compaction_done(&self, _revision: i64) {
        panic!("placeholder")
    }
    pub fn status(&self) -> Status {
        panic!("placeholder")
    }
    pub fn store(&self) -> &Arc<Store> {
        &self.0
    }
    pub fn header(&self, _revision: i64) -> pb::ResponseHeader {
        panic!("placeholder")
    }
    pub fn members(&self) -> Vec<pb::Member> {
        panic!("placeholder")
    }
}
