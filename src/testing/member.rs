//! One member of a cluster for tests: what outlives its being killed, and what runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::builder::Builder;
use super::port::Port;
use super::{Error, State};
use crate::clock::Clock;
use crate::config::{ClusterState, Config, Url};
use crate::raft::peers::Links;
use crate::server::{MemoryDisk, Pause, Plumbing, Server};
use crate::storage::fs::SimDisk;

/// The share of unsynced changes that chance leaves on a disk in memory.
const KEPT_UNSYNCED: f64 = 0.5;

/// A member, running or not.
pub struct Member {
    // Dropped first: what stands still cannot end.
    pause: Option<Pause>,
    server: Option<Server>,
    config: Config,
    /// Ports of clients and peers; a member that was given its clients' port holds only the other.
    _ports: Vec<Port>,
    endpoint: String,
    clock: Clock,
    /// What a member in memory has for a disk.
    disk: Option<MemoryDisk>,
    /// Its own id and its cluster's, once known.
    ids: Option<(u64, u64)>,
    removed: bool,
}

impl Member {
    pub(super) fn new(builder: &Builder, number: usize, directory: &Path) -> Result<Self, Error> {
        let name = format!("member-{number}");
        let mut config = builder.config.clone();
        let directory = directory.join(&name);
        let disk = if builder.on_disk {
            config.data_dir = Some(directory);
            None
        } else {
            config.data_dir = None;
            Some(MemoryDisk { log: SimDisk::new(), snapshots: directory })
        };
        let peer = Port::reserve()?;
        let mut ports = Vec::new();
        let is_chosen = |url: &Url| url.port().is_some_and(|port| port != 0);
        if number > 0 || !config.listen_client_urls.iter().any(is_chosen) {
            let client = Port::reserve()?;
            let is_tls = config.listen_client_urls.iter().any(Url::is_tls);
            config.listen_client_urls = vec![url(if is_tls { "https" } else { "http" }, client.number())];
            ports.push(client);
        }
        config.name = name;
        config.advertise_client_urls = config.listen_client_urls.clone();
        config.listen_peer_urls = vec![url("http", peer.number())];
        config.initial_advertise_peer_urls = config.listen_peer_urls.clone();
        ports.push(peer);
        Ok(Self {
            pause: None,
            server: None,
            endpoint: config.listen_client_urls.first().map(ToString::to_string).unwrap_or_default(),
            config,
            _ports: ports,
            clock: Clock::system(),
            disk,
            ids: None,
            removed: false,
        })
    }

    /// How `--initial-cluster` names it.
    pub(super) fn as_initial(&self) -> (String, Vec<Url>) {
        (self.config.name.clone(), self.config.initial_advertise_peer_urls.clone())
    }

    pub(super) fn belong_to(&mut self, initial_cluster: &BTreeMap<String, Vec<Url>>, state: ClusterState) {
        self.config.initial_cluster = initial_cluster.clone();
        self.config.initial_cluster_state = state;
    }

    /// Starts it on what it has on its disk.
    pub(super) async fn start(&mut self, links: &Links) -> Result<(), Error> {
        self.clock = Clock::system();
        let plumbing = Plumbing {
            links: Some(links.clone()),
            clock: self.clock.clone(),
            disk: self.disk.clone(),
            ids: self.ids.filter(|_| self.disk.is_some()),
        };
        let started = Server::start_with(self.config.clone(), plumbing).await;
        let server = started.map_err(|error| Error::Member { name: self.config.name.clone(), error })?;
        let status = server.node().status();
        self.ids = Some((status.member_id, status.cluster_id));
        self.server = Some(server);
        Ok(())
    }

    pub(super) async fn kill(&mut self, seed: u64) {
        let Some(server) = self.server.take() else { return };
        // First the disk: whatever the member does until its threads have ended, nothing of it is durable.
        if let Some(disk) = &self.disk {
            disk.log.crash(KEPT_UNSYNCED, seed);
        }
        self.resume();
        off_the_runtime(move || server.kill()).await;
    }

    pub(super) async fn stop(&mut self) {
        self.resume();
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    pub(super) async fn remove(&mut self) {
        self.removed = true;
        self.stop().await;
    }

    pub(super) async fn pause(&mut self) {
        if let Some(server) = self.server.as_ref().filter(|_| self.pause.is_none()) {
            self.pause = Some(server.pause().await);
        }
    }

    pub(super) fn resume(&mut self) {
        self.pause = None;
    }

    pub(super) fn skew(&self, by: Duration) {
        self.clock.skew(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX));
    }

    pub(super) fn peer_url(&self) -> &Url {
        &self.config.listen_peer_urls[0]
    }

    /// In which term it leads, if it does and can.
    pub(super) fn leads_in(&self) -> Option<u64> {
        let server = self.server.as_ref().filter(|_| self.pause.is_none())?;
        let leadership = server.node().leadership();
        leadership.is_leading.then_some(leadership.term)
    }

    /// What it holds, if it runs; the future gives nothing when that cannot be hashed.
    pub(super) fn state(&self) -> Option<impl Future<Output = Option<State>> + use<>> {
        let store = self.server.as_ref()?.node().store().clone();
        Some(async move {
            let hashed = tokio::task::spawn_blocking(move || store.hash_kv(0)).await.ok()?.ok()?;
            Some(State { revision: hashed.revision, hash: hashed.hash })
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its id in the cluster.
    pub fn id(&self) -> u64 {
        self.ids.expect("a member has been started before anybody sees it").0
    }

    /// Where clients reach it, whether it runs or not.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A connection for clients in clear, made when it is first used, and again when it breaks.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(self.endpoint.clone()).expect("an address makes a URL").connect_lazy()
    }

    /// What runs.
    ///
    /// # Panics
    /// When it does not.
    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap_or_else(|| panic!("{} does not run", self.config.name))
    }

    /// Whether it was started and neither killed nor stopped; a paused one runs.
    pub fn is_running(&self) -> bool {
        self.server.is_some()
    }

    /// Whether it stands still.
    pub fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// Whether it was removed from the cluster.
    pub fn is_removed(&self) -> bool {
        self.removed
    }
}

fn url(scheme: &str, port: u16) -> Url {
    Url::parse(&format!("{scheme}://127.0.0.1:{port}")).expect("a valid URL by construction")
}

/// Joining threads blocks.
async fn off_the_runtime(work: impl FnOnce() + Send + 'static) {
    tokio::task::spawn_blocking(work).await.expect("a member's threads end without a panic");
}
