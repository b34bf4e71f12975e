//! What a handler learns about the connection that a request came over.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::clock::Clock;
use crate::config::{Config, TlsConfig, Url};
use crate::tls::tests::authority::Authority;

/// Answers with what it knows of the client.
#[derive(Clone)]
struct Mirror;

impl Handler for Mirror {
    fn call(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send + use<> {
        let is_encrypted = request.extensions().get::<Encrypted>().is_some();
        let name = request.extensions().get::<ClientIdentity>().map(|identity| identity.common_name.clone());
        let text = format!("encrypted {is_encrypted}, name {name:?}");
        std::future::ready(Response::new(Body::new(http_body_util::Full::from(text))))
    }
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.rsplit("\r\n").next().unwrap().to_owned()
}

#[tokio::test]
async fn a_request_carries_the_name_in_the_clients_certificate() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
    let (cert, key) = authority.issue("member", &["127.0.0.1"]).write(directory.path(), "server");
    let ca = directory.path().join("ca.crt");
    std::fs::write(&ca, authority.pem()).unwrap();
    let config = Config {
        listen_client_urls: vec![Url::parse("https://127.0.0.1:0").unwrap()],
        client_tls: TlsConfig {
            cert_file: Some(cert),
            key_file: Some(key),
            trusted_ca_file: Some(ca),
            ..TlsConfig::default()
        },
        ..Config::for_test()
    };
    let transports = tls::Transports::open(&config, &Clock::system()).unwrap();
    let encrypted = Options {
        max_concurrent_streams: 1,
        keepalive_interval: Duration::ZERO,
        keepalive_timeout: Duration::ZERO,
        reuse_port: false,
        traffic: None,
        tls: transports.client,
    };
    let plain = Options { tls: None, ..encrypted.clone() };
    let workers = Arc::new(Workers::start(1, &tokio::runtime::Handle::current()).unwrap());
    let (drain, draining) = channel::channel(false);
    let mut addresses = Vec::new();
    let mut accepting = Vec::new();
    for options in [encrypted, plain] {
        let listener = bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        addresses.push(listener.local_addr().unwrap());
        accepting.push(tokio::spawn(accept(listener, workers.clone(), Mirror, options, draining.clone())));
    }

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let leaf = authority.issue("alice", &[]);
    let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(leaf.cert.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap(),
        )
        .unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let stream = TcpStream::connect(addresses[0]).await.unwrap();
    let stream = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
    assert_eq!(ask(stream).await, "encrypted true, name Some(\"alice\")");
    assert_eq!(ask(TcpStream::connect(addresses[1]).await.unwrap()).await, "encrypted false, name None");

    drain.send_replace(true);
    for task in accepting {
        task.await.unwrap().unwrap();
    }
    workers.idle().await;
}
