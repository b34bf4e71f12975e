//! TLS towards clients as they meet it: whom a member lets in, what it shows, and what happens when files change.

#[path = "common/authority.rs"]
mod authority;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use authority::{Authority, Leaf};
use hyper_util::rt::TokioIo;
use kelson::config::{TlsConfig, TlsVersion, Url};
use kelson::proto::etcdserverpb as pb;
use kelson::{Config, Server};
use pb::kv_client::KvClient;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// Longer than anything here takes on a busy machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// An authority and a member's files.
struct Files {
    directory: TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap(), authority: Authority::new("ours") };
        files.write("ca.crt", files.authority.pem());
        files.show(&files.authority.issue("member", &["127.0.0.1", "localhost"]));
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// What the member shows from now on.
    fn show(&self, leaf: &Leaf) {
        leaf.write(self.directory.path(), "server");
    }

    /// A certificate, and nothing demanded of clients.
    fn open(&self) -> TlsConfig {
        TlsConfig {
            cert_file: Some(self.path("server.crt")),
            key_file: Some(self.path("server.key")),
            ..TlsConfig::default()
        }
    }

    /// A certificate, and one demanded of clients.
    fn closed(&self) -> TlsConfig {
        TlsConfig { trusted_ca_file: Some(self.path("ca.crt")), client_cert_auth: true, ..self.open() }
    }

    fn client(&self, leaf: Option<&Leaf>) -> Client {
        Client::new(Some(&self.authority), leaf, rustls::ALL_VERSIONS)
    }
}

fn config(tls: TlsConfig) -> Config {
    Config { listen_client_urls: urls("https://127.0.0.1:0"), client_tls: tls, ..Config::for_test() }
}

fn urls(text: &str) -> Vec<Url> {
    Url::parse_list(text).unwrap()
}

async fn start(tls: TlsConfig) -> Server {
    Server::start(config(tls)).await.unwrap()
}

/// The address in a URL.
fn address(url: &str) -> String {
    url.split_once("://").unwrap().1.to_owned()
}

/// Somebody with TLS.
#[derive(Clone)]
struct Client(Arc<ClientConfig>);

impl Client {
    /// Believes `authority`, or anybody, and shows `leaf`.
    fn new(authority: Option<&Authority>, leaf: Option<&Leaf>, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
        let builder = match authority {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
                builder.with_root_certificates(roots)
            }
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Credulous(provider))),
        };
        let mut config = match leaf {
            Some(leaf) => {
                let chain = CertificateDer::pem_slice_iter(leaf.cert.as_bytes()).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self(Arc::new(config))
    }

    async fn connect(&self, address: &str) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(self.0.clone()).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await
    }

    /// A channel for gRPC to a URL, as the member gives them.
    async fn channel(&self, url: &str) -> Result<Channel, tonic::transport::Error> {
        let (client, address) = (self.clone(), address(url));
        let connector = tower::service_fn(move |_| {
            let (client, address) = (client.clone(), address.clone());
            async move { client.connect(&address).await.map(TokioIo::new) }
        });
        // The connector does what https means; the channel itself sees what comes out of that.
        let endpoint = Endpoint::from_shared(url.replace("https://", "http://")).unwrap();
        tokio::time::timeout(PATIENCE, endpoint.connect_with_connector(connector)).await.expect("an end in time")
    }

    /// Writes a key over a new connection. A client of TLS 1.3 learns that it is refused only from the answer.
    async fn put(&self, url: &str, key: &str) -> Result<(), String> {
        let channel = self.channel(url).await.map_err(|error| format!("{error:?}"))?;
        let put = pb::PutRequest { key: key.to_owned().into(), value: "v".into(), ..pb::PutRequest::default() };
        let answer = tokio::time::timeout(PATIENCE, KvClient::new(channel).put(put)).await.expect("an answer in time");
        answer.map(drop).map_err(|status| format!("{status:?}"))
    }

    /// A page over HTTP/1.1.
    async fn get(&self, url: &str, path: &str) -> io::Result<String> {
        let mut config = (*self.0).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        read_page(Self(Arc::new(config)).connect(&address(url)).await?, path).await
    }

    /// The certificate that a member shows.
    async fn shown(&self, url: &str) -> CertificateDer<'static> {
        let stream = self.connect(&address(url)).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

async fn read_page(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, path: &str) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: elsewhere.example.com\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}

/// Believes anybody, as `--insecure-skip-tls-verify`.
#[derive(Debug)]
struct Credulous(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn grpc_and_pages_are_served_over_tls_and_nothing_in_clear() {
    let files = Files::new();
    let server = start(files.open()).await;
    let url = server.client_endpoint();
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let client = files.client(None);
    client.put(&url, "a").await.unwrap();
    let page = client.get(&url, "/health").await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK") && page.ends_with("{\"health\":\"true\",\"reason\":\"\"}"), "{page}");
    let in_clear = read_page(TcpStream::connect(address(&url)).await.unwrap(), "/health").await.unwrap();
    assert_eq!(in_clear, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n");
    let endpoint = Endpoint::from_shared(url.replace("https://", "http://")).unwrap();
    let refused = match endpoint.connect().await {
        Ok(channel) => KvClient::new(channel).range(pb::RangeRequest::default()).await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "gRPC in clear");
    server.shutdown().await;
}

#[tokio::test]
async fn an_answer_of_megabytes_arrives_whole() {
    let files = Files::new();
    let server = start(files.open()).await;
    let channel = files.client(None).channel(&server.client_endpoint()).await.unwrap();
    let mut kv = KvClient::new(channel).max_decoding_message_size(usize::MAX);
    for n in 0..8u8 {
        let value = vec![n; 1 << 20].into();
        kv.put(pb::PutRequest { key: vec![b'k', n].into(), value, ..pb::PutRequest::default() }).await.unwrap();
    }
    let all = pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..pb::RangeRequest::default() };
    let answer = kv.range(all).await.unwrap().into_inner();
    assert_eq!(answer.kvs.len(), 8);
    assert!(answer.kvs.iter().enumerate().all(|(n, kv)| kv.value() == vec![n as u8; 1 << 20]));
    server.shutdown().await;
}

#[tokio::test]
async fn with_client_cert_auth_only_whom_the_ca_vouches_for_is_served() {
    let files = Files::new();
    let server = start(files.closed()).await;
    let url = server.client_endpoint();
    let known = files.authority.issue("root", &[]);
    files.client(Some(&known)).put(&url, "a").await.unwrap();
    assert!(files.client(Some(&known)).get(&url, "/health").await.unwrap().contains("200 OK"));
    let stranger = Authority::new("theirs").issue("root", &[]);
    let expired = files.authority.issue_expired("root", &[]);
    for (refused, leaf) in [("none", None), ("a stranger's", Some(&stranger)), ("an expired one", Some(&expired))] {
        assert!(files.client(leaf).put(&url, "b").await.is_err(), "{refused}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn names_decide_who_is_let_in() {
    let files = Files::new();
    let (named, other) = (files.authority.issue("root", &["app.example.com"]), files.authority.issue("guest", &[]));
    let by_name = TlsConfig { allowed_cns: vec!["root".into()], ..files.closed() };
    let by_host = TlsConfig { allowed_hostnames: vec!["app.example.com".into()], ..files.closed() };
    for tls in [by_name, by_host] {
        let server = start(tls).await;
        files.client(Some(&named)).put(&server.client_endpoint(), "a").await.unwrap();
        assert!(files.client(Some(&other)).put(&server.client_endpoint(), "a").await.is_err());
        server.shutdown().await;
    }
}

/// etcd once forgot the list on the gRPC listener when HTTP had one of its own (GHSA-3wh4-j44w-pg92).
#[tokio::test]
async fn a_revoked_client_is_refused_on_every_listener_from_the_next_connection_on() {
    let files = Files::new();
    let client = files.authority.issue("root", &[]);
    files.write("crl", files.authority.revoke(&[]).1);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let http = format!("https://127.0.0.1:{port}");
    let tls = TlsConfig { crl_file: Some(files.path("crl")), ..files.closed() };
    let server = Server::start(Config { listen_client_http_urls: urls(&http), ..config(tls) }).await.unwrap();
    let grpc = server.client_endpoint();
    files.client(Some(&client)).put(&grpc, "a").await.unwrap();
    assert!(files.client(Some(&client)).get(&http, "/health").await.unwrap().contains("200 OK"));
    assert!(files.client(Some(&client)).get(&grpc, "/health").await.unwrap().contains("404 Not Found"));
    files.write("crl", files.authority.revoke(&[&client]).0);
    assert!(files.client(Some(&client)).put(&grpc, "a").await.is_err());
    assert!(files.client(Some(&client)).get(&http, "/health").await.is_err());
    server.shutdown().await;
}

#[tokio::test]
async fn files_are_replaced_under_traffic_without_a_failed_connection() {
    let files = Files::new();
    let server = start(files.open()).await;
    let url = server.client_endpoint();
    let done = Arc::new(AtomicBool::new(false));
    let traffic = {
        let (client, url, done) = (files.client(None), url.clone(), done.clone());
        tokio::spawn(async move {
            let mut served = 0;
            while !done.load(Ordering::Relaxed) || served < 20 {
                client.put(&url, "a").await.unwrap();
                served += 1;
            }
        })
    };
    let client = files.client(None);
    for _ in 0..10 {
        let before = client.shown(&url).await;
        let next = files.authority.issue("member", &["127.0.0.1"]);
        files.write("server.crt", &next.cert);
        // Between the two files connections go on.
        assert_eq!(client.shown(&url).await, before);
        files.write("server.key", &next.key);
        assert_eq!(client.shown(&url).await, CertificateDer::from_pem_slice(next.cert.as_bytes()).unwrap());
    }
    done.store(true, Ordering::Relaxed);
    traffic.await.unwrap();
    server.shutdown().await;
}

#[tokio::test]
async fn a_file_that_is_missing_fails_handshakes_until_it_is_back() {
    let files = Files::new();
    let server = start(files.open()).await;
    let url = server.client_endpoint();
    let client = files.client(None);
    let open = client.channel(&url).await.unwrap();
    std::fs::remove_file(files.path("server.key")).unwrap();
    assert!(client.put(&url, "a").await.is_err());
    KvClient::new(open).range(pb::RangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
    files.show(&files.authority.issue("member", &["127.0.0.1"]));
    client.put(&url, "a").await.unwrap();
    server.shutdown().await;
}

#[tokio::test]
async fn an_older_version_than_the_least_is_refused() {
    let files = Files::new();
    let config = Config { tls_min_version: TlsVersion::Tls13, ..config(files.open()) };
    let server = Server::start(config).await.unwrap();
    let url = server.client_endpoint();
    let client = |version| Client::new(Some(&files.authority), None, &[version]);
    client(&rustls::version::TLS13).put(&url, "a").await.unwrap();
    assert!(client(&rustls::version::TLS12).put(&url, "a").await.is_err());
    server.shutdown().await;
}

#[tokio::test]
async fn a_made_certificate_is_kept_over_a_restart() {
    let files = Files::new();
    let config = || Config {
        data_dir: Some(files.path("data")),
        ..config(TlsConfig { auto_tls: true, ..TlsConfig::default() })
    };
    let client = Client::new(None, None, rustls::ALL_VERSIONS);
    let server = Server::start(config()).await.unwrap();
    client.put(&server.client_endpoint(), "a").await.unwrap();
    let shown = client.shown(&server.client_endpoint()).await;
    server.shutdown().await;
    let server = Server::start(config()).await.unwrap();
    assert_eq!(client.shown(&server.client_endpoint()).await, shown);
    assert!(files.path("data/fixtures/client/cert.pem").exists());
    server.shutdown().await;
}

#[tokio::test]
async fn metrics_are_served_in_clear_beside_a_closed_port() {
    let files = Files::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let metrics = urls(&format!("http://127.0.0.1:{port}"));
    let config = Config { listen_metrics_urls: metrics, ..config(files.closed()) };
    let server = Server::start(config).await.unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert!(read_page(stream, "/metrics").await.unwrap().contains("etcd_server_has_leader 1"));
    server.shutdown().await;
}

#[tokio::test]
async fn a_host_name_over_tls_needs_no_whitelist() {
    let files = Files::new();
    let both = urls("http://127.0.0.1:0,https://127.0.0.1:0");
    let whitelist = vec!["127.0.0.1".to_owned()];
    let config = Config { listen_client_urls: both, host_whitelist: whitelist, ..config(files.open()) };
    let server = Server::start(config).await.unwrap();
    let [plain, encrypted] = server.client_endpoints() else { panic!("two listeners") };
    let page = read_page(TcpStream::connect(address(plain)).await.unwrap(), "/health").await.unwrap();
    assert!(page.starts_with("HTTP/1.1 421 "), "{page}");
    let page = files.client(None).get(encrypted, "/health").await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK"), "{page}");
    server.shutdown().await;
}

/// etcd once shook hands with one client at a time (GHSA-6vch-q96h-7gc3).
#[tokio::test]
async fn clients_that_stop_in_the_middle_of_a_handshake_hold_up_nobody() {
    let files = Files::new();
    let server = start(files.closed()).await;
    let url = server.client_endpoint();
    let mut silent = Vec::new();
    for n in 0..64 {
        let mut stream = TcpStream::connect(address(&url)).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
        }
        silent.push(stream);
    }
    let known = files.authority.issue("root", &[]);
    files.client(Some(&known)).put(&url, "a").await.unwrap();
    server.shutdown().await;
}

#[tokio::test]
async fn a_member_does_not_start_with_files_that_cannot_work() {
    let files = Files::new();
    let refusal = async |tls| Server::start(config(tls)).await.map(drop).unwrap_err().to_string();
    let absent = TlsConfig { cert_file: Some("/no/such/file".into()), ..files.open() };
    assert!(refusal(absent).await.starts_with("--cert-file: cannot read /no/such/file"));
    assert!(refusal(TlsConfig::default()).await.starts_with("TLS key/cert (--cert-file, --key-file) must be provided"));
    files.write("server.key", files.authority.issue("other", &[]).key);
    assert!(refusal(files.open()).await.contains("does not belong to the certificate"));
}
