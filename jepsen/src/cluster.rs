//! A cluster of real processes: started, broken, mended and ended here. Nemeses decide what happens to it, and when.
//!
//! Every process is a child of ours and known by its pid; network namespaces have no names and go with their processes.
//! Dropping the cluster ends everything.

pub mod place;
pub mod proxy;
pub mod space;
pub mod traffic;

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;
use rustix::process::Signal;

use crate::chaosfs::{ChaosFs, Cut, Directories};
use crate::client::{Client, Standing};
use crate::report::RunDir;
use crate::target::{Launch, Server, Template};
use crate::tls::{self, Credentials, Files};

pub use place::Place;
pub use traffic::{Dropped, Party, Traffic};

/// Between two questions whether somebody answers.
const POLL: Duration = Duration::from_millis(100);
/// A question about who leads is given up after this.
const ASK_DEADLINE: Duration = Duration::from_millis(1500);

/// What to start.
pub struct Options {
    /// The server.
    pub template: Template,
    /// How many members.
    pub members: u32,
    /// On chaosfs with these directory rules; `None` = on real directories.
    pub disks: Option<Directories>,
    /// Clocks can be moved.
    pub clocks: bool,
    /// The run's directory: logs go there.
    pub dir: RunDir,
}

/// One member's process and disk.
struct Body {
    // Dropped in this order: the process before its mount, the mount before the directory below it.
    server: Option<Server>,
    fs: Option<ChaosFs>,
    dir: tempfile::TempDir,
    /// It joins a cluster that is there.
    joins: bool,
    /// What goes wrong on its disk may end it.
    may_end: bool,
}

/// The members and what lies between them.
pub struct Cluster {
    template: Template,
    /// Each is locked alone and shortly, never across an await.
    bodies: Vec<Mutex<Body>>,
    place: Place,
    run_dir: RunDir,
    clocks: bool,
    /// Certificates of all members, and what our clients show; `None` = in the clear.
    tls: Option<(Vec<Files>, Credentials)>,
}

impl Cluster {
    /// Makes disks and network; starts nothing yet. This process must be where the members' addresses are.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let mut bodies = Vec::new();
        for _ in 0..options.members {
            let dir = tempfile::Builder::new().prefix("jepsen-").tempdir()?;
            let fs = match options.disks {
                Some(directories) => Some(ChaosFs::mount(dir.path(), directories).context("mounting chaosfs")?),
                None => None,
            };
            std::fs::create_dir(dir.path().join("data"))?;
            std::fs::File::open(dir.path())?.sync_all()?;
            bodies.push(Mutex::new(Body { server: None, fs, dir, joins: false, may_end: false }));
        }
        let place = Place::new(options.members).context("making the cluster's network")?;
        let (template, run_dir, clocks) = (options.template, options.dir, options.clocks);
        let addresses: Vec<_> = (0..options.members).map(|member| place.addresses(member)).collect();
        let make = || tls::make(&run_dir.join(tls::DIRECTORY), &addresses).context("making certificates");
        let tls = template.tls.then(make).transpose()?;
        Ok(Self { template, bodies, place, run_dir, clocks, tls })
    }

    /// How many members.
    pub fn size(&self) -> u32 {
        self.bodies.len() as u32
    }

    /// The network between them.
    pub fn traffic(&self) -> Traffic {
        self.place.traffic()
    }

    /// Where clients reach a member.
    pub fn url(&self, member: u32) -> String {
        self.with_scheme(&self.place.for_clients(member))
    }

    /// Where peers reach it.
    pub fn peer_url(&self, member: u32) -> String {
        self.with_scheme(&self.place.for_peers(member))
    }

    fn with_scheme(&self, address: &str) -> String {
        format!("{}://{address}", if self.tls.is_some() { "https" } else { "http" })
    }

    /// What clients of members need to know and to show.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.tls.as_ref().map(|(_, credentials)| credentials)
    }

    /// Where a member's output goes.
    pub fn log(&self, member: u32) -> PathBuf {
        self.run_dir.join(&format!("member-{member}.log"))
    }

    /// Where a member's clock is told how far it is off.
    pub fn clock_file(&self, member: u32) -> PathBuf {
        self.run_dir.join(&format!("clock-{member}"))
    }

    fn launch(&self, member: u32, joins: bool) -> Launch {
        let name = |member: u32| format!("m{member}");
        let named = |one| format!("{}={}", name(one), self.peer_url(one));
        let mut environment = Vec::new();
        if self.clocks
            && let Ok(library) = crate::doctor::faketime()
        {
            let file = self.clock_file(member).display().to_string();
            let set = [("LD_PRELOAD", library), ("FAKETIME_TIMESTAMP_FILE", file), ("FAKETIME_NO_CACHE", "1".into())];
            environment.extend(set.map(|(name, value)| (name.to_owned(), value)));
            environment.push(("DONT_FAKE_MONOTONIC".into(), "1".into()));
        }
        Launch {
            name: name(member),
            client_url: self.url(member),
            peer_url: self.peer_url(member),
            listen_urls: self
                .place
                .listens(member)
                .map(|(clients, peers)| (self.with_scheme(&clients), self.with_scheme(&peers))),
            initial_cluster: (0..self.size()).map(named).collect::<Vec<_>>().join(","),
            joins,
            inside: self.place.inside(member),
            environment,
            tls: self.tls.as_ref().map(|(files, _)| files[member as usize].clone()),
        }
    }

    /// Starts one member on what its disk holds; one that runs is left alone. Call it on the main thread, see
    /// [`Template::start_as`].
    pub fn start(&self, member: u32) -> io::Result<()> {
        let mut body = self.body(member).lock();
        if body.server.is_none() {
            let data = body.dir.path().join("data");
            if self.clocks && !self.clock_file(member).exists() {
                std::fs::write(self.clock_file(member), "+0\n")?;
            }
            let server = self.template.start_as(&self.launch(member, body.joins), &data, &self.log(member))?;
            self.place.runs(member, server.pid());
            body.server = Some(server);
        }
        Ok(())
    }

    fn body(&self, member: u32) -> &Mutex<Body> {
        &self.bodies[member as usize]
    }

    /// Starts all of them and waits until each answers.
    pub async fn start_all(&self, limit: Duration) -> anyhow::Result<()> {
        for member in 0..self.size() {
            self.start(member)?;
        }
        let started = Instant::now();
        for member in 0..self.size() {
            while !self.answers(member).await {
                if let Some((member, status, log)) = self.ended().into_iter().next() {
                    anyhow::bail!("member {member} ended ({status}): {log}");
                }
                anyhow::ensure!(started.elapsed() < limit, "member {member} does not answer: {}", self.tail(member));
            }
        }
        Ok(())
    }

    /// The last lines of a member's log.
    pub fn tail(&self, member: u32) -> String {
        self.body(member).lock().server.as_ref().map(Server::log_tail).unwrap_or_default()
    }

    /// Its process, while it has one.
    pub fn pid(&self, member: u32) -> Option<u32> {
        self.body(member).lock().server.as_ref().map(Server::pid)
    }

    /// SIGKILL; returns the pid that is gone.
    pub fn kill(&self, member: u32) -> io::Result<Option<u32>> {
        let body = &mut *self.body(member).lock();
        let Some(mut server) = body.server.take() else { return Ok(None) };
        server.kill(|| {
            if let Some(fs) = &body.fs {
                fs.drop_held_syncs();
            }
        })?;
        Ok(Some(server.pid()))
    }

    /// Sends a signal to a member that runs; returns its pid.
    pub fn signal(&self, member: u32, signal: Signal) -> io::Result<Option<u32>> {
        let body = self.body(member).lock();
        let Some(server) = &body.server else { return Ok(None) };
        server.signal(signal)?;
        Ok(Some(server.pid()))
    }

    /// Waits until a member that was told to end has ended.
    pub async fn wait_end(&self, member: u32, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let started = Instant::now();
        while started.elapsed() < limit {
            {
                let body = &mut *self.body(member).lock();
                let Some(server) = &mut body.server else { return Ok(None) };
                if let Some(status) = server.ended()? {
                    body.server = None;
                    return Ok(Some(status));
                }
            }
            tokio::time::sleep(POLL / 5).await;
        }
        Ok(None)
    }

    /// SIGKILL, then the power goes.
    pub fn power_cut(&self, member: u32, keep: f64, seed: u64) -> io::Result<Cut> {
        self.kill(member)?;
        match &mut self.body(member).lock().fs {
            Some(fs) => fs.power_cut(keep, seed),
            None => Err(io::Error::other("this member is not on chaosfs")),
        }
    }

    /// Asks a member's disk something, or changes what goes wrong on it.
    pub fn disk<T>(&self, member: u32, act: impl FnOnce(&ChaosFs) -> T) -> Option<T> {
        self.body(member).lock().fs.as_ref().map(act)
    }

    /// From now on its end is no surprise, or is one again.
    pub fn may_end(&self, member: u32, may: bool) {
        self.body(member).lock().may_end = may;
    }

    /// Kills a member and forgets its data; its next start joins the cluster.
    pub fn wipe(&self, member: u32) -> io::Result<()> {
        self.kill(member)?;
        let mut body = self.body(member).lock();
        let data = body.dir.path().join("data");
        std::fs::remove_dir_all(&data)?;
        std::fs::create_dir(&data)?;
        std::fs::File::open(body.dir.path())?.sync_all()?;
        body.joins = true;
        Ok(())
    }

    /// Members that ended by themselves since the last call, unless that was to be expected: who, how, last words.
    pub fn ended(&self) -> Vec<(u32, String, String)> {
        let mut all = Vec::new();
        for member in 0..self.size() {
            let mut body = self.body(member).lock();
            let may_end = body.may_end;
            let Some(server) = &mut body.server else { continue };
            if let Ok(Some(status)) = server.ended()
                && !may_end
            {
                all.push((member, status.to_string(), server.log_tail()));
                body.server = None;
            }
        }
        all
    }

    /// Takes note of a member that ended as expected; says how.
    pub fn take_ended(&self, member: u32) -> Option<String> {
        let mut body = self.body(member).lock();
        let status = body.server.as_mut()?.ended().ok()??;
        body.server = None;
        Some(status.to_string())
    }

    /// What a member knows about itself.
    pub async fn standing(&self, member: u32) -> Option<Standing> {
        let client = self.client(member, ASK_DEADLINE).ok()?;
        client.standing().await.ok()
    }

    /// The leader's place among the members, as those who answer see it in the newest term.
    pub async fn leader(&self) -> Option<(u32, Standing)> {
        let mut asked = tokio::task::JoinSet::new();
        for member in 0..self.size() {
            if let Ok(client) = self.client(member, ASK_DEADLINE) {
                asked.spawn(async move { (member, client.standing().await.ok()) });
            }
        }
        let mut known: Vec<(u32, Standing)> = Vec::new();
        while let Some(Ok((member, standing))) = asked.join_next().await {
            known.extend(standing.map(|standing| (member, standing)));
        }
        let newest = known.iter().map(|(_, standing)| standing.term).max()?;
        known.into_iter().find(|(_, one)| one.term == newest && one.leader == one.member && one.leader != 0)
    }

    /// Whether a member answers a linearizable read.
    pub async fn answers(&self, member: u32) -> bool {
        let answered = match self.client(member, ASK_DEADLINE) {
            Ok(client) => client.head().await.is_ok(),
            Err(_) => false,
        };
        if !answered {
            tokio::time::sleep(POLL).await;
        }
        answered
    }

    /// Waits until any member answers a linearizable read; how long that took, or `None`.
    pub async fn answers_again(&self, limit: Duration) -> Option<Duration> {
        let started = Instant::now();
        while started.elapsed() < limit {
            for member in 0..self.size() {
                if self.pid(member).is_some() && self.answers(member).await {
                    return Some(started.elapsed());
                }
            }
            tokio::time::sleep(POLL).await;
        }
        None
    }

    /// A client of a member, with a deadline for each call.
    pub fn client(&self, member: u32, deadline: Duration) -> anyhow::Result<Client> {
        Ok(Client::connect_later(&self.url(member), self.credentials(), deadline)?)
    }
}
