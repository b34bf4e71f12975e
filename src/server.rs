//! A member: opens storage, recovers the state, starts Raft, the lessor and the services, owns every task, and closes
//! in reverse. `main` runs one; tests and programs that embed kelson start as many as they like, which never meet.

mod dispatch;
mod gather;
mod identify;
mod leaderless;
mod listen;
mod pages;
mod pause;
mod recover;
pub mod restore;
mod services;
mod stopwatch;
mod unary;
mod workers;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch as channel;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::config::{Address, Config, Url};
use crate::corrupt;
use crate::metrics::Metrics;
use crate::proto::etcdserverpb as pb;
use crate::raft::peers::{self, Dial, Io, Links};
use crate::raft::types::MemberInfo;
use crate::raft::{self, Node};
use crate::state::Command;
use crate::storage::data_dir::DataDir;
use crate::tls::{self, Transports};
use crate::watch::{self, Hub};
use dispatch::Dispatch;
use gather::Traffic;
pub(crate) use pause::Pause;
pub(crate) use recover::MemoryDisk;
#[cfg(feature = "simulation")]
pub use recover::{Opened, open_simulated};
use services::Assembly;
use workers::{Worker, Workers};

/// How long open connections may take to end at a shutdown before they are cut.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections of peers: every call of theirs is a stream.
const PEER_STREAMS_MAX: u32 = 1 << 16;
/// Silence after which a peer's connection is tried for life, and how long it may take to answer.
const PEER_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const PEER_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Parts of a member that only tests change.
pub(crate) struct Plumbing {
    /// Which ways to the other members are cut.
    pub links: Option<Links>,
    /// By which the member's leases run.
    pub clock: Clock,
    /// What a member in memory has for a disk, and finds again when it is started on it once more.
    pub disk: Option<MemoryDisk>,
    /// The ids of a member in memory that was there before: its own and its cluster's.
    pub ids: Option<(u64, u64)>,
}

impl Default for Plumbing {
    fn default() -> Self {
        Self { links: None, clock: Clock::system(), disk: None, ids: None }
    }
}

/// Peers behind `https://` are met with TLS.
struct PeerDial(Arc<tls::Dialer>);

impl Dial for PeerDial {
    fn dial<'a>(&'a self, url: &'a Url) -> peers::Dialled<'a> {
        Box::pin(async move {
            let stream = peers::connect(url).await?;
            if !url.is_tls() {
                return Ok(Box::new(stream) as Box<dyn Io>);
            }
            let stream = self.0.connect(url.host(), stream).await.map_err(io::Error::other)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// Why a member could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A thread, socket or runtime could not be had.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] crate::storage::data_dir::Error),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] crate::storage::log::Error),
    /// The checkpoint cannot be used.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] crate::storage::engine::Error),
    /// What is on disk does not fit together.
    #[error("{0}")]
    Recovery(String),
    /// Raft did not come up.
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
    /// The member's data is not that of the others, or could not be compared.
    #[error("corruption check: {0}")]
    Corrupt(#[from] corrupt::Error),
    /// A certificate, key or CA cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// A listen address cannot be resolved.
    #[error("listen on {url}: {reason}")]
    Listen {
        /// As it was given.
        url: String,
        /// Why not.
        reason: String,
    },
}

/// A running member.
pub struct Server {
    endpoints: Vec<String>,
    node: Arc<Node>,
    hub: Arc<Hub>,
    draining: channel::Sender<bool>,
    accepting: Mutex<Vec<JoinHandle<()>>>,
    assembly: Arc<Assembly>,
    // Dropped in this order: first what serves, then what it serves from, last the lock on the directory.
    workers: Arc<Workers>,
    peer_workers: Option<Arc<Workers>>,
    raft: Worker,
    _data_dir: Option<DataDir>,
}

impl Server {
    /// Starts a member and returns once it answers on its client ports.
    ///
    /// # Errors
    /// [`Error`]; nothing is left running.
    pub async fn start(config: Config) -> Result<Self, Error> {
        Self::start_with(config, Plumbing::default()).await
    }

    /// As [`Server::start`], with parts that only tests change.
    ///
    /// # Errors
    /// [`Error`]; nothing is left running.
    pub(crate) async fn start_with(config: Config, plumbing: Plumbing) -> Result<Self, Error> {
        let clock = plumbing.clock.clone();
        let config = Arc::new(config);
        // First, for what is wrong there is wrong at once, and reading the data may take long.
        let transports = Transports::open(&config, &clock)?;
        let metrics = Arc::new(Metrics::new(&config));
        let opened = {
            let (config, metrics, clock) = (config.clone(), metrics.clone(), clock.clone());
            tokio::task::spawn_blocking(move || recover::open(&config, plumbing.disk.as_ref(), &metrics, &clock))
                .await
                .map_err(io::Error::other)??
        };
        let dial: Arc<dyn Dial> = Arc::new(PeerDial(transports.dialer.clone()));
        let identify::Identified { identity, initial_members } =
            identify::identify(&config, &opened, plumbing.ids, &dial).await?;
        let identity = Arc::new(identity);
        metrics.set_member_id(identity.member_id);
        let hub = {
            let identity = identity.clone();
            let options = watch::Options {
                progress_interval: config.watch_progress_notify_interval,
                fragment_bytes: config.max_request_bytes + (512 << 10),
                ..watch::Options::default()
            };
            Arc::new(Hub::new(opened.store.clone(), move |revision| identity.header(revision), options))
        };
        let lessor = Arc::new(crate::lessor::Lessor::new(clock.clone(), crate::lessor::ttl_seconds_min(&config)));
        let parts = raft::Parts {
            identity,
            log: opened.log,
            recovered: opened.recovered,
            store: opened.store,
            mark: opened.mark,
            hub: hub.clone(),
            checkpoint: opened.checkpoint,
            snapshots: opened.snapshots,
            dial,
            links: plumbing.links,
            on_lease: {
                let lessor = lessor.clone();
                Box::new(move |change| lessor.on_change(change))
            },
            metrics: metrics.clone(),
            clock: clock.clone(),
            #[cfg(feature = "simulation")]
            observer: None,
        };
        let raft = Worker::start("raft")?;
        let node = {
            let (options, origin) = (raft_options(&config, initial_members), draw_origin()?);
            raft.run(Node::start(options, origin, parts)).await??
        };
        let workers = Arc::new(Workers::start(io_threads(&config), raft.handle())?);
        let assembly = Arc::new(Assembly::new(&config, &clock, &metrics, &node, &hub, &lessor, raft.handle()));
        let (draining, _) = channel::channel(false);
        let mut server = Self {
            endpoints: Vec::new(),
            node,
            hub,
            draining,
            accepting: Mutex::default(),
            assembly,
            workers,
            peer_workers: None,
            raft,
            _data_dir: opened.data_dir,
        };
        server.listen_for_peers(&config, &transports)?;
        server.listen_for_metrics(&config, &transports)?;
        tokio::select! {
            ready = server.node.ready() => ready?,
            reason = server.node.failed() => return Err(raft::Error::Fatal(reason).into()),
        }
        if config.feature_gates.is_on("InitialCorruptCheck")
            && let Err(error) = corrupt::before_serving(&server.node).await
        {
            // It may lead by now, which is for others to do, and whoever starts it again finds its files closed.
            server.shutdown().await;
            return Err(error.into());
        }
        server.listen(&config, &transports, &metrics)?;
        server.publish(&config).await?;
        Ok(server)
    }

    /// Opens the port for other members, which is served by the thread that runs Raft.
    fn listen_for_peers(&mut self, config: &Config, transports: &Transports) -> Result<(), Error> {
        let options = listen::Options {
            max_concurrent_streams: PEER_STREAMS_MAX,
            keepalive_interval: PEER_KEEPALIVE_INTERVAL,
            keepalive_timeout: PEER_KEEPALIVE_TIMEOUT,
            reuse_port: config.socket_reuse_port,
            traffic: None,
            tls: transports.peer.clone(),
        };
        let on_raft = Arc::new(Workers::start(1, self.raft.handle())?);
        let handler =
            Dispatch { services: Some(self.assembly.peer_services()), pages: Some(self.assembly.peer_pages()) };
        for url in &config.listen_peer_urls {
            let options = listen::Options { tls: options.tls.clone().filter(|_| url.is_tls()), ..options.clone() };
            let listener = listen::bind(address(url)?, &options)?;
            tracing::info!(%url, address = %listener.local_addr()?, "listening for peers");
            self.accept(listener, &on_raft, handler.clone(), options);
        }
        self.peer_workers = Some(on_raft);
        Ok(())
    }

    /// Opens the ports for metrics and probes, which are there before the member is ready.
    fn listen_for_metrics(&mut self, config: &Config, transports: &Transports) -> Result<(), Error> {
        let options = listen::Options {
            max_concurrent_streams: config.max_concurrent_streams,
            keepalive_interval: config.grpc_keepalive_interval,
            keepalive_timeout: config.grpc_keepalive_timeout,
            reuse_port: config.socket_reuse_port,
            traffic: None,
            tls: transports.client.clone(),
        };
        let handler = Dispatch { services: None, pages: Some(self.assembly.metrics_pages()) };
        for url in &config.listen_metrics_urls {
            let options = listen::Options { tls: options.tls.clone().filter(|_| url.is_tls()), ..options.clone() };
            let listener = listen::bind(address(url)?, &options)?;
            tracing::info!(%url, address = %listener.local_addr()?, "listening for probes");
            let workers = self.workers.clone();
            self.accept(listener, &workers, handler.clone(), options);
        }
        Ok(())
    }

    fn accept(
        &self,
        listener: std::net::TcpListener,
        workers: &Arc<Workers>,
        handler: Dispatch,
        options: listen::Options,
    ) {
        let accept = listen::accept(listener, workers.clone(), handler, options, self.draining.subscribe());
        let task = workers.next().spawn(async move {
            if let Err(error) = accept.await {
                tracing::error!(%error, "listener ended");
            }
        });
        self.accepting.lock().push(task);
    }

    fn listen(&mut self, config: &Config, transports: &Transports, metrics: &Metrics) -> Result<(), Error> {
        let network = &metrics.network;
        let (received, sent) = (network.client_received_bytes.clone(), network.client_sent_bytes.clone());
        let options = listen::Options {
            max_concurrent_streams: config.max_concurrent_streams,
            keepalive_interval: config.grpc_keepalive_interval,
            keepalive_timeout: config.grpc_keepalive_timeout,
            reuse_port: config.socket_reuse_port,
            traffic: Some(Traffic { received, sent }),
            tls: transports.client.clone(),
        };
        let uncounted = listen::Options { traffic: None, ..options.clone() };
        let split = !config.listen_client_http_urls.is_empty();
        let pages = self.assembly.client_pages();
        let client = Dispatch { services: Some(self.assembly.services()), pages: (!split).then(|| pages.clone()) };
        let only_pages = Dispatch { services: None, pages: Some(pages) };
        let lists =
            [(&config.listen_client_urls, client, &options), (&config.listen_client_http_urls, only_pages, &uncounted)];
        for (place, (urls, handler, options)) in lists.into_iter().enumerate() {
            for url in urls {
                let tls = options.tls.clone().filter(|_| url.is_tls());
                let options = &listen::Options { tls, ..options.clone() };
                let listener = listen::bind(address(url)?, options)?;
                let bound = listener.local_addr()?;
                tracing::info!(%url, address = %bound, "listening");
                if place == 0 {
                    let scheme = if url.is_tls() { "https" } else { "http" };
                    self.endpoints.push(format!("{scheme}://{bound}"));
                }
                let workers = self.workers.clone();
                self.accept(listener, &workers, handler.clone(), options.clone());
            }
        }
        Ok(())
    }

    /// Tells the cluster this member's name and client URLs, if it does not know them yet.
    async fn publish(&self, config: &Config) -> Result<(), Error> {
        let ports_chosen_here = config.listen_client_urls.iter().any(|url| url.port() == Some(0));
        let client_ur_ls = if ports_chosen_here {
            self.endpoints.clone()
        } else {
            config.advertise_client_urls.iter().map(ToString::to_string).collect()
        };
        let id = self.node.status().member_id;
        let member = pb::Member { id, name: config.name.clone(), client_ur_ls, ..pb::Member::default() };
        let known = self
            .node
            .store()
            .members()
            .iter()
            .any(|known| known.id == id && known.name == member.name && known.client_ur_ls == member.client_ur_ls);
        if known {
            return Ok(());
        }
        // Until it is done, as etcd: without a quorum this waits, and whoever waits for the member with it.
        loop {
            match self.node.propose(Command::Publish(member.clone())).await {
                Ok(_) => return Ok(()),
                Err(error @ (raft::Error::Stopped | raft::Error::Fatal(_))) => return Err(error.into()),
                Err(error) => tracing::warn!(%error, "name and client URLs are not published yet"),
            }
        }
    }

    /// A URL that a client on this machine can use.
    pub fn client_endpoint(&self) -> String {
        self.endpoints.first().cloned().unwrap_or_default()
    }

    /// All client URLs.
    pub fn client_endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// The member's Raft node, for programs that embed it.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Returns when the member has failed by itself, with the reason: a disk that refused, most of all. The process, or
    /// whoever embeds it, must then let go of it; what it acknowledged is safe.
    pub async fn failed(&self) -> String {
        self.node.failed().await
    }

    /// Stops gracefully: hands the leadership over, refuses new connections, ends watches, lets calls finish, brings the
    /// checkpoint up to date.
    pub async fn shutdown(self) {
        let node = self.node.clone();
        if let Err(error) = self.raft.run(async move { node.give_up_leadership().await }).await {
            tracing::warn!(%error, "leadership not handed over");
        }
        self.stop().await;
    }

    /// As [`Server::shutdown`], but there is nobody to lead after this member.
    pub(crate) async fn stop(self) {
        self.draining.send_replace(true);
        self.assembly.stop();
        self.hub.close(tonic::Status::unavailable("etcdserver: server stopped"));
        let accepting = std::mem::take(&mut *self.accepting.lock());
        let drained = async {
            for task in accepting {
                if let Err(error) = task.await {
                    tracing::debug!(%error, "listener did not end cleanly");
                }
            }
            self.workers.idle().await;
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
            tracing::info!("cutting connections that did not end by themselves");
        }
        let node = self.node.clone();
        if let Err(error) = self.raft.run(async move { node.shutdown().await }).await {
            tracing::warn!(%error, "raft did not end cleanly");
        }
        tracing::info!("stopped");
        // Joining threads blocks.
        if tokio::task::spawn_blocking(move || drop(self)).await.is_err() {
            tracing::warn!("a thread panicked at the end");
        }
    }

    /// Lets no thread that runs tasks of this member run any, until what this gives is dropped. For tests.
    pub(crate) async fn pause(&self) -> Pause {
        let mut handles = self.workers.own_handles();
        handles.push(self.raft.handle().clone());
        Pause::of(&handles).await
    }

    /// Ends at once, as a killed process does: nothing is flushed, drained or told. For tests.
    pub fn kill(self) {
        drop(self);
    }
}

fn raft_options(config: &Config, initial_members: BTreeMap<u64, MemberInfo>) -> raft::Options {
    raft::Options {
        initial_members,
        heartbeat_interval_ms: config.heartbeat_interval_ms,
        election_timeout_ms: config.election_timeout_ms,
        snapshot_count: config.snapshot_count,
        snapshot_bytes_min: raft::SNAPSHOT_BYTES_MIN,
        snapshot_catchup_entries: config.snapshot_catchup_entries,
        pre_vote: config.pre_vote,
        strict_reconfig_check: config.strict_reconfig_check,
        max_learners: config.max_learners,
        cluster_token: config.initial_cluster_token.clone(),
        warning_apply_duration: config.warning_apply_duration,
    }
}

fn draw_origin() -> Result<u64, Error> {
    getrandom::u64().map_err(|error| Error::Io(io::Error::other(error.to_string())))
}

/// Threads that serve connections. On two cores one thread for connections, Raft and apply costs a third less CPU per
/// put than a thread for each, for no command changes threads before the log's (figures in benches/README.md); where
/// there are cores to spare, half of them serve.
fn io_threads(config: &Config) -> usize {
    match config.io_threads {
        0 => std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1)),
        threads => threads,
    }
}

/// The socket address of a listen URL.
fn address(url: &Url) -> Result<SocketAddr, Error> {
    let failed = |reason: String| Error::Listen { url: url.to_string(), reason };
    match url.listen_address().map_err(failed)? {
        Address::Tcp(address) => Ok(address),
        Address::Unix(path) => {
            Err(failed(format!("unix sockets ({}) are not served yet; use an IP address", path.display())))
        }
    }
}
