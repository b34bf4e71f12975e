//! Clients as programs have them: they know several endpoints and try the next one when one fails. And writers that
//! remember what was acknowledged, so that a test can ask afterwards whether it is there.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use kelson::proto::etcdserverpb as pb;
use kelson::proto::peer::peer_client::PeerClient;
use kelson::proto::peer::{Envelope, MembersRequest, MembersResponse};
use parking_lot::Mutex;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::authority::{Authority, Leaf};
use crate::common::{PATIENCE, put, range, text, until};
use crate::processes::Member;

/// How long a client waits for one member before it tries the next: longer than an election.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(50);

/// How a member is reached.
#[derive(Clone, Default)]
pub struct Route {
    /// Encrypted, and as whom.
    pub tls: Option<Arc<ClientConfig>>,
    /// From within a network namespace.
    pub namespace: Option<String>,
}

impl Route {
    /// With TLS: believes the authorities, and shows a certificate.
    pub fn tls(authorities: &[&Authority], leaf: Option<&Leaf>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match leaf {
            Some(leaf) => {
                let chain = CertificateDer::pem_slice_iter(leaf.cert.as_bytes()).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { tls: Some(Arc::new(config)), namespace: None }
    }

    /// A channel to a URL, which connects when it is used and again when its connection is lost.
    pub fn channel(&self, url: &str) -> Channel {
        let address = url.split_once("://").unwrap().1.to_owned();
        let route = self.clone();
        let connector = tower::service_fn(move |_| {
            let (route, address) = (route.clone(), address.clone());
            async move { route.connect(&address).await.map(TokioIo::new) }
        });
        // The connector does what https means; the channel itself sees what comes out of that.
        Endpoint::from_static("http://member").connect_with_connector_lazy(connector)
    }

    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let stream = match &self.namespace {
            None => TcpStream::connect(address).await?,
            Some(namespace) => connect_within(namespace.clone(), address.to_owned()).await?,
        };
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(config) => {
                let name = ServerName::try_from("127.0.0.1").unwrap();
                Ok(Box::new(TlsConnector::from(config.clone()).connect(name, stream).await?))
            }
        }
    }
}

/// A byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A socket belongs to the network namespace of the thread that made it, for good.
async fn connect_within(namespace: String, address: String) -> io::Result<TcpStream> {
    let (answer, connected) = tokio::sync::oneshot::channel::<io::Result<std::net::TcpStream>>();
    std::thread::spawn(move || {
        let connect = || {
            let namespace = std::fs::File::open(format!("/var/run/netns/{namespace}"))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let stream = std::net::TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(2))?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        // Whoever waited may have given up.
        drop(answer.send(connect()));
    });
    TcpStream::from_std(connected.await.map_err(io::Error::other)??)
}

/// Whoever knows the members of a cluster.
#[derive(Clone)]
pub struct Client {
    channels: Vec<Channel>,
    /// Where the next attempt goes.
    next: Arc<AtomicUsize>,
}

impl Client {
    /// Knows these members.
    pub fn new<'a>(members: impl IntoIterator<Item = &'a &'a Member>) -> Self {
        let channels = members.into_iter().map(|member| member.route.channel(&member.client_url)).collect();
        Self { channels, next: Arc::default() }
    }

    /// Knows all of these.
    pub fn of(members: &[Member]) -> Self {
        Self::new(&members.iter().collect::<Vec<_>>())
    }

    /// As [`Self::of`], by another route than the members' own.
    pub fn by(route: &Route, members: &[Member]) -> Self {
        let channels = members.iter().map(|member| route.channel(&member.client_url)).collect();
        Self { channels, next: Arc::default() }
    }

    pub fn kv(&self, place: usize) -> KvClient<Channel> {
        KvClient::new(self.channels[place].clone()).max_decoding_message_size(usize::MAX)
    }

    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channels[0].clone())
    }

    pub fn maintenance(&self, place: usize) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channels[place].clone())
    }

    pub async fn status(&self, place: usize) -> Result<pb::StatusResponse, Status> {
        let mut maintenance = self.maintenance(place);
        within(ATTEMPT, maintenance.status(pb::StatusRequest {})).await
    }

    /// Writes a key at the first member that takes it; the revision, and how many attempts it took.
    pub async fn put(&self, key: &str, value: &str) -> (i64, usize) {
        let writing = async {
            let mut attempts = 0;
            loop {
                attempts += 1;
                let place = self.next.load(Ordering::Relaxed) % self.channels.len();
                let failure = match within(ATTEMPT, self.kv(place).put(put(key, value))).await {
                    Ok(answer) => return (answer.header.expect("a header").revision, attempts),
                    Err(status) => status,
                };
                println!("{key}, attempt {attempts}, at member {place}: {failure}");
                self.next.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(PATIENCE, writing).await.unwrap_or_else(|_| panic!("{key} could not be written"))
    }

    /// All keys, linearizably, from the member at a place, and the revision.
    pub async fn all(&self, place: usize) -> Result<(BTreeMap<String, String>, i64), Status> {
        let answer = within(ATTEMPT, self.kv(place).range(range("\0", "\0"))).await?;
        let kvs = answer.kvs.iter().map(|kv| (text(kv.key()), text(kv.value()))).collect();
        Ok((kvs, answer.header.expect("a header").revision))
    }

    /// What is in a key, linearizably.
    pub async fn get(&self, place: usize, key: &str) -> Result<Option<String>, Status> {
        let answer = within(ATTEMPT, self.kv(place).range(range(key, ""))).await?;
        Ok(answer.kvs.first().map(|kv| text(kv.value())))
    }

    /// The members, as the first one knows them.
    pub async fn members(&self) -> Result<Vec<pb::Member>, Status> {
        let mut cluster = self.cluster();
        let answer = within(ATTEMPT, cluster.member_list(pb::MemberListRequest { linearizable: true })).await?;
        Ok(answer.members)
    }
}

/// An answer in time.
pub async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(deadline, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("the client waits no longer")),
    }
}

/// What whoever comes to a peer port is told of the cluster.
pub async fn ask_peer(route: &Route, url: &str) -> Result<MembersResponse, Status> {
    let mut client = PeerClient::new(route.channel(url));
    let request = MembersRequest { envelope: Some(Envelope::default()), linearizable: false };
    within(ATTEMPT, client.members(request)).await
}

/// Writes one key after the other until it is told to stop.
pub struct Writer {
    done: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    task: JoinHandle<Written>,
}

/// What a writer has done.
#[derive(Default)]
pub struct Written {
    /// Every acknowledged key with its value.
    pub acknowledged: BTreeMap<String, String>,
    /// The most attempts that one write took.
    pub attempts_max: usize,
}

impl Writer {
    /// Writes below `prefix`, through a client of its own.
    pub fn start(client: Client, prefix: &str) -> Self {
        let (done, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let task = {
            let (done, acknowledged, prefix) = (done.clone(), acknowledged.clone(), prefix.to_owned());
            tokio::spawn(async move {
                let mut written = Written::default();
                let mut newest = 0;
                while !done.load(Ordering::Relaxed) {
                    let number = written.acknowledged.len();
                    let (key, value) = (format!("{prefix}{number:06}"), format!("{number}"));
                    let (revision, attempts) = client.put(&key, &value).await;
                    assert!(revision > newest, "{key} at {revision}, after {newest}");
                    newest = revision;
                    written.attempts_max = written.attempts_max.max(attempts);
                    written.acknowledged.insert(key, value);
                    acknowledged.store(number + 1, Ordering::Relaxed);
                    // So that it leaves the machine to others, too.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                written
            })
        };
        Self { done, acknowledged, task }
    }

    /// Waits for so many more acknowledged writes.
    pub async fn writes(&self, more: usize) {
        await_more(&self.acknowledged, more, &self.task).await;
    }

    /// Ends it.
    pub async fn stop(self) -> Written {
        self.done.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// All members have all that was acknowledged, and the same of everything.
pub async fn assert_same(members: &[Member], acknowledged: &BTreeMap<String, String>) {
    let client = Client::of(members);
    let mut hashes = Vec::new();
    let mut at = 0;
    for (place, member) in members.iter().enumerate() {
        let (found, revision) = client.all(place).await.unwrap_or_else(|error| panic!("{}: {error}", member.name));
        at = revision;
        for (key, value) in acknowledged {
            assert_eq!(found.get(key), Some(value), "{key}, acknowledged, at {}", member.name);
        }
    }
    for place in 0..members.len() {
        let mut maintenance = client.maintenance(place);
        let hash = within(ATTEMPT, maintenance.hash_kv(pb::HashKvRequest { revision: at })).await.unwrap();
        hashes.push((hash.hash, hash.hash_revision));
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:x?}");
}

/// Writes over a new connection each time, and gets along without a second attempt.
pub struct Renewing {
    route: Arc<Mutex<Route>>,
    done: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    task: JoinHandle<BTreeMap<String, String>>,
}

impl Renewing {
    pub fn start(members: &[Member], route: &Route) -> Self {
        let route = Arc::new(Mutex::new(route.clone()));
        let (done, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let urls: Vec<_> = members.iter().map(|member| member.client_url.clone()).collect();
        let task = {
            let (route, done, acknowledged) = (route.clone(), done.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let mut written = BTreeMap::new();
                for (number, url) in urls.iter().cycle().enumerate() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let channel = route.lock().channel(url);
                    let (key, value) = (format!("renewing/{number:06}"), number.to_string());
                    within(ATTEMPT, KvClient::new(channel).put(put(&key, &value))).await.unwrap();
                    written.insert(key, value);
                    acknowledged.store(number + 1, Ordering::Relaxed);
                }
                written
            })
        };
        Self { route, done, acknowledged, task }
    }

    /// Goes another way from the next write on.
    pub fn turn_to(&self, route: &Route) {
        *self.route.lock() = route.clone();
    }

    /// Waits for so many more writes.
    pub async fn writes(&self, more: usize) {
        await_more(&self.acknowledged, more, &self.task).await;
    }

    /// Ends it: what was written.
    pub async fn stop(self) -> BTreeMap<String, String> {
        self.done.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn await_more<T>(acknowledged: &AtomicUsize, more: usize, task: &JoinHandle<T>) {
    let enough = acknowledged.load(Ordering::Relaxed) + more;
    until("more writes", || async {
        assert!(!task.is_finished(), "the writer failed");
        acknowledged.load(Ordering::Relaxed) >= enough
    })
    .await;
}
