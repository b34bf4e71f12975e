//! What a simulation sees of a member from the inside, at the moment when it happens.

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use openraft::vote::RaftLeaderId as _;

use super::Node;
use crate::state::Store;
use crate::storage::log::LogEntry;

/// Told of every step; must not block, nor call the node.
pub trait Observer: Send + Sync {
    /// Entries go to the log.
    fn appended(&self, entries: &[LogEntry]);
    /// An entry was applied; the store is what it made.
    fn applied(&self, entry: &LogEntry, store: &Store);
    /// The state of a snapshot that ends at this entry took the place of the old one.
    fn installed(&self, index: u64, term: u64, store: &Store);
}

/// What Raft itself thinks that this member is, without any proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    /// The term that it is in.
    pub term: u64,
    /// Whether it leads in that term.
    pub leads: bool,
    /// The last entry of its log.
    pub last_index: u64,
}

impl Node {
    /// What this member is to Raft.
    pub fn role(&self) -> Role {
        let server = self.raft.server_metrics().borrow_watched().clone();
        let leads = server.state == ServerState::Leader && server.vote.is_committed();
        Role { term: server.vote.leader_id().term(), leads, last_index: self.log_store.last_index() }
    }
}
