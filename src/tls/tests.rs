//! Both halves against each other, over real sockets, with certificates made for the occasion.

#[path = "../../tests/common/authority.rs"]
pub mod authority;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{client, server};

use super::names::Resolver;
use super::revoked::Revoked;
use super::*;
use crate::config::tls::CIPHER_SUITES;
use crate::config::{TlsConfig, TlsVersion, Url};
use authority::{Authority, Leaf};

/// A peer's settings over files in a directory of their own.
struct Files {
    directory: TempDir,
    authority: Authority,
    tls: TlsConfig,
}

impl Files {
    fn new() -> Self {
        let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
        let (cert, key) = authority.issue("peer", &["localhost", "127.0.0.1"]).write(directory.path(), "peer");
        let ca = directory.path().join("ca.crt");
        std::fs::write(&ca, authority.pem()).unwrap();
        let tls = TlsConfig {
            cert_file: Some(cert),
            key_file: Some(key),
            trusted_ca_file: Some(ca),
            client_cert_auth: true,
            ..TlsConfig::default()
        };
        Self { directory, authority, tls }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn config(&self) -> Config {
        let url = || vec![Url::parse("https://127.0.0.1:0").unwrap()];
        Config { listen_peer_urls: url(), peer_tls: self.tls.clone(), ..Config::for_test() }
    }

    fn open(&self) -> Transports {
        open(&self.config()).unwrap()
    }
}

fn open(config: &Config) -> Result<Transports, Error> {
    Transports::open(config, &Clock::system())
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (connected, listener.accept().await.unwrap().0)
}

type Ends = (Result<client::TlsStream<TcpStream>, Error>, Result<server::TlsStream<TcpStream>, Error>);

async fn meet(dialer: &Dialer, acceptor: &Acceptor) -> Ends {
    let (connected, accepted) = sockets().await;
    tokio::join!(dialer.connect("127.0.0.1", connected), acceptor.accept(accepted))
}

/// As somebody who is no member: believes `authority` and shows `leaf`.
async fn visit(acceptor: &Acceptor, authority: &Authority, leaf: Option<&Leaf>) -> Result<ClientIdentity, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match leaf {
        Some(leaf) => {
            let chain = CertificateDer::pem_slice_iter(leaf.cert.as_bytes()).map(Result::unwrap).collect();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let (connected, accepted) = sockets().await;
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let connecting = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, connected);
    let (_connected, accepted) = tokio::join!(connecting, acceptor.accept(accepted));
    Ok(ClientIdentity::of(&accepted?).expect("it was asked for its certificate"))
}

#[tokio::test]
async fn peers_that_know_each_other_talk_over_http_2() {
    let files = Files::new();
    let transports = files.open();
    let acceptor = transports.peer.unwrap();
    let (connected, accepted) = meet(&transports.dialer, &acceptor).await;
    let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap());
    assert_eq!(&*ClientIdentity::of(&accepted).unwrap().common_name, "peer");
    assert_eq!(accepted.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    accepted.write_all(b"hello").await.unwrap();
    accepted.flush().await.unwrap();
    let mut got = [0; 5];
    connected.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
}

#[tokio::test]
async fn only_whom_the_authority_vouches_for_is_let_in() {
    let files = Files::new();
    let acceptor = files.open().peer.unwrap();
    let known = files.authority.issue("someone", &[]);
    assert_eq!(&*visit(&acceptor, &files.authority, Some(&known)).await.unwrap().common_name, "someone");
    let stranger = Authority::new("theirs").issue("someone", &[]);
    let expired = files.authority.issue_expired("someone", &[]);
    for (leaf, part) in [(None, "no certificates"), (Some(&stranger), "UnknownIssuer"), (Some(&expired), "expired")] {
        let error = visit(&acceptor, &files.authority, leaf).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_dialer_believes_only_its_authority_and_the_name_it_asked_for() {
    let (files, others) = (Files::new(), Files::new());
    let acceptor = others.open().peer.unwrap();
    let (connected, _) = meet(&files.open().dialer, &acceptor).await;
    let error = connected.map(drop).unwrap_err().to_string();
    assert!(error.starts_with("invalid peer certificate"), "{error}");
    let (connected, accepted) = sockets().await;
    let dialer = others.open().dialer;
    let (connected, _) = tokio::join!(dialer.connect("example.com", connected), acceptor.accept(accepted));
    let error = connected.map(drop).unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
    let (connected, _accepted) = sockets().await;
    assert!(matches!(dialer.connect("no host", connected).await, Err(Error::Host(_))));
}

#[tokio::test]
async fn a_dialer_of_its_own_certificate_shows_that_and_without_a_ca_asks_the_systems() {
    let mut files = Files::new();
    let acceptor = files.open().peer.unwrap();
    let (cert, key) = files.authority.issue("dialer", &[]).write(files.directory.path(), "dialer");
    (files.tls.client_cert_file, files.tls.client_key_file) = (Some(cert), Some(key));
    let (_, accepted) = meet(&files.open().dialer, &acceptor).await;
    assert_eq!(&*ClientIdentity::of(&accepted.unwrap()).unwrap().common_name, "dialer");
    let open = Config { peer_tls: TlsConfig::default(), listen_peer_urls: vec![], ..files.config() };
    let (connected, _) = meet(&self::open(&open).unwrap().dialer, &acceptor).await;
    // Whether the system has CAs or not, ours is none of them.
    let error = connected.map(drop).unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer") || error.starts_with("no CA vouches"), "{error}");
}

#[tokio::test]
async fn names_are_let_in_by_common_name_or_by_host_name() {
    let mut files = Files::new();
    files.tls.allowed_cns = vec!["a".into(), "peer".into()];
    let transports = files.open();
    let acceptor = transports.peer.unwrap();
    meet(&transports.dialer, &acceptor).await.1.unwrap();
    let other = files.authority.issue("other", &[]);
    let error = visit(&acceptor, &files.authority, Some(&other)).await.unwrap_err().to_string();
    assert!(error.starts_with("client certificate authentication failed: the certificate of \"other\""), "{error}");

    (files.tls.allowed_cns, files.tls.allowed_hostnames) = (vec![], vec!["b.example.com".into()]);
    files.tls.skip_client_san_verification = true;
    let acceptor = files.open().peer.unwrap();
    let wild = files.authority.issue("other", &["*.example.com"]);
    visit(&acceptor, &files.authority, Some(&wild)).await.unwrap();
    // A common name is no host name, whatever it looks like.
    let named = files.authority.issue("b.example.com", &["c.example.com"]);
    assert!(visit(&acceptor, &files.authority, Some(&named)).await.is_err());
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_by_both_halves_in_either_encoding() {
    let mut files = Files::new();
    let (other, own) = (files.authority.issue("other", &[]), files.authority.issue("peer", &["127.0.0.1"]));
    own.write(files.directory.path(), "peer");
    let (pem, der) = files.authority.revoke(&[&other]);
    files.tls.crl_file = Some(files.write("crl", &pem));
    let transports = files.open();
    let acceptor = transports.peer.unwrap();
    meet(&transports.dialer, &acceptor).await.1.unwrap();
    for list in [pem.into_bytes(), der] {
        files.write("crl", list);
        let error = visit(&acceptor, &files.authority, Some(&other)).await.unwrap_err().to_string();
        assert!(error.contains("evoked"), "{error}");
    }
    files.write("crl", files.authority.revoke(&[&own]).1);
    let (connected, accepted) = meet(&transports.dialer, &acceptor).await;
    assert!(connected.map(drop).unwrap_err().to_string().contains("evoked") && accepted.is_err());
    // A list that cannot be read may have been anything.
    files.write("crl", "nothing");
    let error = visit(&acceptor, &files.authority, Some(&other)).await.unwrap_err().to_string();
    assert!(error.contains("is no list of revoked certificates"), "{error}");
}

#[test]
fn an_empty_list_revokes_nobody_and_what_is_none_is_refused() {
    let authority = Authority::new("ours");
    let leaf = authority.issue("a", &[]);
    let certificate = CertificateDer::from_pem_slice(leaf.cert.as_bytes()).unwrap();
    assert!(!Revoked::parse(&authority.revoke(&[]).1).unwrap().has(&certificate));
    assert!(Revoked::parse(&authority.revoke(&[&leaf]).1).unwrap().has(&certificate));
    assert!(Revoked::parse(leaf.cert.as_bytes()).is_err());
}

#[tokio::test]
async fn files_that_change_count_for_the_next_connection() {
    let files = Files::new();
    let transports = files.open();
    let acceptor = transports.peer.unwrap();
    let new = Authority::new("new");
    new.issue("peer 2", &["127.0.0.1"]).write(files.directory.path(), "peer");
    files.write("ca.crt", new.pem());
    let (_, accepted) = meet(&transports.dialer, &acceptor).await;
    assert_eq!(&*ClientIdentity::of(&accepted.unwrap()).unwrap().common_name, "peer 2");
    std::fs::remove_file(files.directory.path().join("peer.crt")).unwrap();
    let (mut connected, accepted) = sockets().await;
    connected.write_all(&[22]).await.unwrap();
    assert!(matches!(acceptor.accept(accepted).await, Err(Error::Read { .. })));
    new.issue("peer 3", &["127.0.0.1"]).write(files.directory.path(), "peer");
    let (_, accepted) = meet(&transports.dialer, &acceptor).await;
    assert_eq!(&*ClientIdentity::of(&accepted.unwrap()).unwrap().common_name, "peer 3");
}

#[tokio::test]
async fn between_two_files_of_a_new_pair_the_old_one_serves() {
    let files = Files::new();
    let transports = files.open();
    let acceptor = transports.peer.unwrap();
    let new = files.authority.issue("peer 2", &["127.0.0.1"]);
    let shown = async || {
        let (_, accepted) = meet(&transports.dialer, &acceptor).await;
        ClientIdentity::of(&accepted.unwrap()).unwrap().common_name
    };
    files.write("peer.crt", &new.cert);
    assert_eq!(&*shown().await, "peer");
    files.write("peer.key", &new.key);
    assert_eq!(&*shown().await, "peer 2");
}

#[test]
fn what_is_wrong_with_a_file_is_found_at_the_start_and_names_the_flag() {
    let start = |change: &dyn Fn(&mut Files)| {
        let mut files = Files::new();
        change(&mut files);
        open(&files.config()).map(drop).unwrap_err().to_string()
    };
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (error, parts) in [
        (start(&|files| files.tls.cert_file = Some("/no/c".into())), ["--peer-cert-file: cannot read /no/c", "check"]),
        (start(&|files| drop(files.write("peer.crt", ""))), ["--peer-cert-file: ", "has no certificate"]),
        (start(&|files| drop(files.write("peer.key", encrypted))), ["--peer-key-file: ", "is encrypted"]),
        (start(&|files| drop(files.write("ca.crt", "x"))), ["--peer-trusted-ca-file: ", "has no certificate"]),
        (start(&|files| files.tls.crl_file = Some("/no/r".into())), ["--peer-crl-file: cannot read /no/r", "check"]),
        (
            start(&|files| drop(files.write("peer.key", files.authority.issue("x", &[]).key))),
            ["does not belong to the certificate", "(--peer-cert-file)"],
        ),
        (
            start(&|files| files.tls.allowed_hostnames = vec!["no host".into()]),
            ["--peer-cert-allowed-hostname: \"no host\"", "neither a host name"],
        ),
        (start(&|files| files.tls.key_file = None), ["--peer-cert-file=", "needs --peer-key-file too"]),
    ] {
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[tokio::test]
async fn whoever_is_silent_is_cut_and_whoever_speaks_in_clear_is_told() {
    let files = Files::new();
    let mut acceptor = Arc::into_inner(files.open().peer.unwrap()).unwrap();
    for (request, answer) in
        [("GET / HTTP/1.1\r\n\r\n", "HTTP/1.0 400 Bad Request\r\n\r\nClient sent"), ("PRI * HTTP/2.0", "")]
    {
        let (mut connected, accepted) = sockets().await;
        connected.write_all(request.as_bytes()).await.unwrap();
        assert!(matches!(acceptor.accept(accepted).await, Err(Error::Plaintext)));
        let mut got = String::new();
        connected.read_to_string(&mut got).await.unwrap();
        assert!(got.starts_with(answer) && got.is_empty() == answer.is_empty(), "{got}");
    }
    let (connected, accepted) = sockets().await;
    drop(connected);
    assert!(acceptor.accept(accepted).await.map(drop).unwrap_err().is_hangup());
    acceptor.set_handshake_timeout(Duration::from_millis(20));
    let (mut connected, accepted) = sockets().await;
    connected.write_all(&[22, 3, 1]).await.unwrap();
    assert!(matches!(acceptor.accept(accepted).await, Err(Error::Timeout(_))));
}

#[tokio::test]
async fn versions_and_suites_are_those_that_were_chosen() {
    let files = Files::new();
    let spoken = async |config: Config| {
        let transports = open(&config).unwrap();
        let (_, accepted) = meet(&transports.dialer, &transports.peer.unwrap()).await;
        let (accepted, suite) = (accepted.unwrap(), |suite: rustls::SupportedCipherSuite| suite.suite().as_str());
        let session = accepted.get_ref().1;
        (session.protocol_version().unwrap(), session.negotiated_cipher_suite().and_then(suite).unwrap())
    };
    let newest = spoken(files.config()).await;
    assert_eq!(newest.0, ProtocolVersion::TLSv1_3);
    let chosen = vec![CIPHER_SUITES[5]];
    let old = Config { tls_max_version: Some(TlsVersion::Tls12), cipher_suites: chosen, ..files.config() };
    assert_eq!(spoken(old.clone()).await, (ProtocolVersion::TLSv1_2, CIPHER_SUITES[5]));
    let new = open(&Config { tls_min_version: TlsVersion::Tls13, ..files.config() }).unwrap();
    assert!(meet(&open(&old).unwrap().dialer, &new.peer.unwrap()).await.1.is_err());
    let nothing = Config { cipher_suites: vec![CIPHER_SUITES[0]], ..old };
    assert!(open(&nothing).map(drop).unwrap_err().to_string().contains("--cipher-suites"));
}

#[tokio::test]
async fn a_certificate_made_here_is_kept_and_believed_by_peers_alike() {
    let directory = tempfile::tempdir().unwrap();
    let tls = TlsConfig { auto_tls: true, ..TlsConfig::default() };
    let config = Config {
        data_dir: Some(directory.path().join("data")),
        listen_peer_urls: vec![Url::parse("https://127.0.0.1:0").unwrap()],
        client_tls: tls.clone(),
        peer_tls: tls,
        ..Config::for_test()
    };
    let path = |file: &str| directory.path().join("data/fixtures/peer").join(file);
    let transports = open(&config).unwrap();
    let (connected, accepted) = meet(&transports.dialer, &transports.peer.unwrap()).await;
    assert!(connected.is_ok() && ClientIdentity::of(&accepted.unwrap()).is_none());
    assert!(directory.path().join("data/fixtures/client/cert.pem").exists() && transports.client.is_some());
    let made = std::fs::read(path("cert.pem")).unwrap();
    open(&config).unwrap();
    assert_eq!(std::fs::read(path("cert.pem")).unwrap(), made, "kept over a restart");
    // Half a pair, as after a crash, and one that has expired, are made anew.
    std::fs::remove_file(path("key.pem")).unwrap();
    open(&config).unwrap();
    let expired = Authority::new("made long ago").issue_expired("", &[]);
    std::fs::write(path("cert.pem"), &expired.cert).unwrap();
    std::fs::write(path("key.pem"), &expired.key).unwrap();
    open(&config).unwrap();
    assert_ne!(std::fs::read_to_string(path("cert.pem")).unwrap(), expired.cert);
    // A member in memory writes nothing.
    let transports = open(&Config { data_dir: None, ..config }).unwrap();
    assert!(meet(&transports.dialer, &transports.peer.unwrap()).await.1.is_ok());
}

/// A DNS of one address and one name.
struct Fake {
    name: Option<&'static str>,
    addresses: Vec<IpAddr>,
}

impl Resolver for Fake {
    async fn name_of(&self, _: IpAddr) -> io::Result<String> {
        self.name.map(str::to_owned).ok_or_else(|| io::Error::other("no such address"))
    }

    async fn addresses_of(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if name == "a.example.com" { Ok(self.addresses.clone()) } else { Err(io::Error::other("no such host")) }
    }
}

#[tokio::test]
async fn a_certificate_that_names_places_is_good_only_there() {
    let authority = Authority::new("ours");
    let ip: IpAddr = "10.0.0.1".parse().unwrap();
    let nothing = || Fake { name: None, addresses: vec![] };
    let named = |name| Fake { name: Some(name), addresses: vec![] };
    for (alternatives, resolver, passes) in [
        (&[][..], nothing(), true),
        (&["10.0.0.1"], nothing(), true),
        (&["10.0.0.2"], nothing(), false),
        (&["10.0.0.2", "a.example.com"], Fake { name: None, addresses: vec![ip] }, true),
        (&["a.example.com"], Fake { name: None, addresses: vec!["10.0.0.9".parse().unwrap()] }, false),
        (&["b.example.com"], named("b.example.com."), true),
        (&["*.example.com"], named("b.example.com"), true),
        (&["*.example.com"], named("evil-example.com"), false),
        (&["*.example.com"], Fake { name: None, addresses: vec![ip] }, false),
    ] {
        let leaf = authority.issue("peer", alternatives);
        let certificate = CertificateDer::from_pem_slice(leaf.cert.as_bytes()).unwrap();
        let checked = names::check(&certificate, ip, &resolver).await;
        assert_eq!(checked.is_ok(), passes, "{alternatives:?} {checked:?}");
        let in_guise = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(names::check(&certificate, in_guise, &resolver).await.is_ok(), passes, "{alternatives:?}");
    }
}

#[tokio::test]
async fn a_peer_from_elsewhere_is_refused_unless_that_is_switched_off() {
    let mut files = Files::new();
    let stolen = files.authority.issue("peer", &["10.255.255.1"]);
    let acceptor = files.open().peer.unwrap();
    let error = visit(&acceptor, &files.authority, Some(&stolen)).await.unwrap_err().to_string();
    assert!(error.contains("valid for [10.255.255.1], not 127.0.0.1"), "{error}");
    files.tls.skip_client_san_verification = true;
    visit(&files.open().peer.unwrap(), &files.authority, Some(&stolen)).await.unwrap();
}
