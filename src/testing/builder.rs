//! What a cluster for tests is made of.

use super::{Cluster, Error};
use crate::Config;

/// Settings of a cluster; [`Cluster::builder`] begins one.
#[derive(Clone, Debug)]
pub struct Builder {
    pub(super) size: usize,
    pub(super) on_disk: bool,
    pub(super) seed: u64,
    pub(super) config: Config,
}

impl Default for Builder {
    /// Three members in memory, a heartbeat every 50 ms, an election after 500: quick, and calm on a busy machine.
    fn default() -> Self {
        let config = Config { heartbeat_interval_ms: 50, election_timeout_ms: 500, ..Config::for_test() };
        Self { size: 3, on_disk: false, seed: 0, config }
    }
}

impl Builder {
    /// How many members the cluster begins with.
    #[must_use]
    pub fn members(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// How often the leader says that it leads, and after how much silence another is elected; milliseconds.
    #[must_use]
    pub fn timing(mut self, heartbeat_interval_ms: u64, election_timeout_ms: u64) -> Self {
        self.config.heartbeat_interval_ms = heartbeat_interval_ms;
        self.config.election_timeout_ms = election_timeout_ms;
        self
    }

    /// Keeps the members' data in a directory of the machine's disk, which is removed with the cluster. A member that is
    /// killed then loses nothing that it had handed to the kernel.
    #[must_use]
    pub fn on_disk(mut self) -> Self {
        self.on_disk = true;
        self
    }

    /// What chance decides by: which unsynced bytes outlast a kill.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Changes the configuration of every member. Names, URLs of peers, the list of members and the data directory are
    /// the cluster's to choose; `listen_client_urls` with a port are those of the first member, while the others take free
    /// ports.
    #[must_use]
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Starts the members, all at once; they have a leader and answer.
    ///
    /// # Errors
    /// [`Error`]; nothing is left running.
    pub async fn start(self) -> Result<Cluster, Error> {
        Cluster::start_built(self).await
    }
}
