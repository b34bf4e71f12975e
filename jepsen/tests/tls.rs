//! Members with TLS, as `run --tls` starts them and as `run --endpoints` meets them: kelson as the product's tests have
//! built it, or as `KELSON_BINARY` says; where there is none the tests say that they were skipped.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use jepsen::client::Client;
use jepsen::history::files::History;
use jepsen::target::{Launch, Template};
use jepsen::tls::{self, Credentials};

/// Longer than a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn kelson() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/kelson");
    let binary = std::env::var_os("KELSON_BINARY").map_or(built, PathBuf::from);
    let there = binary.exists();
    if !there {
        println!("SKIPPED: no {}", binary.display());
    }
    there.then_some(binary)
}

/// `jepsen run` on 127.0.0.0/8, so that no test needs more than any machine has.
fn run(arguments: &[&str], out: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
    command
        .env("JEPSEN_NETWORK", "loopback")
        .args(["run", "--workload", "register", "--rate", "100", "--out"])
        .arg(out);
    command.args(arguments).output().unwrap()
}

#[test]
fn a_cluster_with_tls_is_broken_and_judged_as_one_without() {
    let Some(binary) = kelson() else { return };
    let out = tempfile::tempdir().unwrap();
    let binary = binary.display().to_string();
    let faults = ["--members", "3", "--tls", "--nemesis", "kill,partition", "--time", "8s", "--binary", &binary];
    let output = run(&faults, out.path());
    // 2: a machine that is too slow for the faults to prove anything.
    assert!(matches!(output.status.code(), Some(0 | 2)), "{output:?}");
    let history = History::read(out.path()).unwrap();
    assert!(history.plan.arguments.contains(&"--tls".to_owned()), "{:?}", history.plan.arguments);
    assert!(history.ops.iter().filter(|op| op.reply().is_some()).count() > 20, "{output:?}");
    assert!(out.path().join(tls::DIRECTORY).join("member-2.key").exists());
}

#[tokio::test]
async fn endpoints_with_tls_are_reached_with_a_certificate_and_not_without() {
    let Some(binary) = kelson() else { return };
    let dir = tempfile::tempdir().unwrap();
    let template = Template::new(&binary.display().to_string(), Vec::new()).unwrap();
    let (files, credentials) = tls::make(&dir.path().join("tls"), &[vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]]).unwrap();
    let (url, peer_url) = (template.url().replace("http", "https"), format!("https://127.0.0.1:{}", template.port + 1));
    let launch = Launch {
        name: "alone".into(),
        client_url: url.clone(),
        initial_cluster: format!("alone={peer_url}"),
        peer_url,
        tls: Some(files[0].clone()),
        ..Launch::default()
    };
    let _server = template.start_as(&launch, &dir.path().join("data"), &dir.path().join("log")).unwrap();
    let started = std::time::Instant::now();
    let knows = Client::connect_later(&url, Some(&credentials), Duration::from_secs(2)).unwrap();
    while let Err(error) = knows.head().await {
        assert!(started.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let nobody = Credentials::read(&files[0].ca, None).unwrap();
    for credentials in [Some(&nobody), None] {
        let client = Client::connect_later(&url, credentials, Duration::from_secs(2)).unwrap();
        assert!(client.head().await.is_err(), "nobody is let in without a certificate");
    }
    let path = |name: &str| dir.path().join("tls").join(name).display().to_string();
    let (ca, cert, key, out) = (path("ca.crt"), path("client.crt"), path("client.key"), dir.path().join("run"));
    let endpoint = url.strip_prefix("https://").unwrap();
    let known = ["--time", "2s", "--endpoints", endpoint, "--cacert", &ca, "--cert", &cert, "--key", &key];
    let output = run(&known, &out);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = run(&["--time", "2s", "--endpoints", &url], &out);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("--cacert"), "{said}");
}
