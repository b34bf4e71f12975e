//! The pages as text: a request in, the whole answer out. Expected answers were recorded from etcd 3.7.3 with curl,
//! without `Date`; there the order of checks is random.

use super::*;
use http::header::{HOST, ORIGIN};
use http_body_util::BodyExt;
use parking_lot::Mutex;

/// A member whose answers a test can turn.
#[derive(Default)]
struct Member {
    alarms: Mutex<Vec<pb::AlarmMember>>,
    leaderless: bool,
    learner: bool,
    linearizable_error: Option<&'static str>,
}

impl Probe for Member {
    fn has_leader(&self) -> bool {
        !self.leaderless
    }
    fn is_learner(&self) -> bool {
        self.learner
    }
    fn alarms(&self) -> Vec<pb::AlarmMember> {
        self.alarms.lock().clone()
    }
    fn linearizable_read(&self) -> Check<'_> {
        let result = self.linearizable_error.map_or(Ok(()), |error| Err(error.to_owned()));
        Box::pin(std::future::ready(result))
    }
    fn serializable_read(&self) -> Check<'_> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn raft(&self) -> RaftStatus {
        RaftStatus { id: 10, term: 2, leader: 10, committed_index: 4, applied_index: 4 }
    }
}

fn alarmed(kinds: &[pb::AlarmType]) -> Member {
    let alarms = kinds.iter().map(|kind| pb::AlarmMember { member_id: 5, alarm: *kind as i32 }).collect();
    Member { alarms: Mutex::new(alarms), ..Member::default() }
}

fn pages(member: Member) -> Pages {
    let config = Config::for_test();
    Pages::for_clients(&config, Arc::new(member), Arc::new(Metrics::new(&config)))
}

/// Status, headers by name, blank line, body.
async fn exchange(pages: &Pages, request: Request<()>) -> String {
    let response = pages.handle(request).await;
    let mut lines = vec![response.status().as_u16().to_string()];
    let mut headers: Vec<_> =
        response.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    headers.sort();
    lines.extend(headers);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    format!("{}\n\n{}", lines.join("\n"), std::str::from_utf8(&body).unwrap())
}

fn request(method: &str, uri: &str) -> Request<()> {
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

/// What `GET uri` answers, without the headers for CORS, which all answers have.
async fn get(pages: &Pages, uri: &str) -> String {
    without_cors(&exchange(pages, request("GET", uri)).await)
}

fn without_cors(answer: &str) -> String {
    const CORS: &str = "access-control-allow-headers: accept, content-type, authorization\n\
         access-control-allow-methods: POST, GET, OPTIONS, PUT, DELETE\naccess-control-allow-origin: *\n";
    assert!(answer.contains(CORS), "{answer}");
    answer.replace(CORS, "")
}

const TEXT: &str = "content-type: text/plain; charset=utf-8";
const NO_SNIFF: &str = "x-content-type-options: nosniff";

#[tokio::test]
async fn a_well_member_says_so_everywhere() {
    let pages = pages(Member::default());
    let well = format!("200\n{TEXT}\n\n{{\"health\":\"true\",\"reason\":\"\"}}");
    for uri in ["/health", "/health?serializable=true", "/health?exclude=NOSPACE", "/health?exclude="] {
        assert_eq!(get(&pages, uri).await, well, "{uri}");
    }
    let ok = |lines: &str| format!("200\n{TEXT}\n{NO_SNIFF}\n\n{lines}ok\n");
    for (uri, lines) in [
        ("/livez", ""),
        ("/livez?verbose", "[+]serializable_read ok\n"),
        ("/livez/serializable_read", ""),
        ("/readyz", ""),
        ("/readyz/linearizable_read?verbose", "[+]linearizable_read ok\n"),
        (
            "/readyz?verbose=false",
            "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\n",
        ),
        (
            "/readyz?verbose&exclude=linearizable_read&exclude=foo",
            "[+]data_corruption ok\n[+]serializable_read ok\n[+]non_learner ok\n",
        ),
    ] {
        assert_eq!(get(&pages, uri).await, ok(lines), "{uri}");
    }
    let version = r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#;
    assert_eq!(get(&pages, "/version").await, format!("200\ncontent-type: application/json\n\n{version}"));
}

#[tokio::test]
async fn unknown_pages_and_methods_are_refused_as_go_does() {
    let pages = pages(Member::default());
    let missing = format!("404\n{TEXT}\n{NO_SNIFF}\n\n404 page not found\n");
    for uri in ["/", "/nope", "/health/", "/livez/", "/livez/linearizable_read", "/readyz/nope", "/livezz", "/v2/keys"]
    {
        assert_eq!(get(&pages, uri).await, missing, "{uri}");
    }
    let refused = format!("405\nallow: GET\n{TEXT}\n{NO_SNIFF}\n\nMethod Not Allowed\n");
    for (method, uri) in [("POST", "/health"), ("HEAD", "/health"), ("POST", "/livez"), ("PUT", "/version")] {
        assert_eq!(without_cors(&exchange(&pages, request(method, uri)).await), refused, "{method} {uri}");
    }
}

#[tokio::test]
async fn alarms_make_a_member_unwell_unless_excluded() {
    let full = pages(alarmed(&[pb::AlarmType::Nospace]));
    let unwell =
        |reason: &str| format!("503\n{TEXT}\n{NO_SNIFF}\n\n{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
    assert_eq!(get(&full, "/health").await, unwell("ALARM NOSPACE"));
    assert!(get(&full, "/health?exclude=NOSPACE").await.starts_with("200"));
    assert!(get(&full, "/readyz").await.starts_with("200"), "a full store is ready for reads");

    let corrupt = pages(alarmed(&[pb::AlarmType::Nospace, pb::AlarmType::Corrupt]));
    assert_eq!(get(&corrupt, "/health?exclude=NOSPACE").await, unwell("ALARM CORRUPT"));
    assert!(get(&corrupt, "/health?exclude=NOSPACE&exclude=CORRUPT").await.starts_with("200"));
    assert_eq!(
        get(&corrupt, "/readyz/data_corruption").await,
        format!("503\n{TEXT}\n{NO_SNIFF}\n\n[-]data_corruption failed: alarm activated: CORRUPT\n\n")
    );
    assert!(get(&corrupt, "/readyz?exclude=data_corruption").await.starts_with("200"));
    assert!(get(&corrupt, "/livez").await.starts_with("200"));
}

#[tokio::test]
async fn without_a_quorum_a_member_lives_but_is_not_ready() {
    let error = Some("etcdserver: request timed out");
    let lost = pages(Member { leaderless: true, linearizable_error: error, ..Member::default() });
    assert!(get(&lost, "/health").await.ends_with("{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n"));
    assert!(get(&lost, "/health?serializable=true").await.starts_with("200"));
    assert!(get(&lost, "/livez").await.starts_with("200"));
    let lines = "[+]data_corruption ok\n[+]serializable_read ok\n[-]linearizable_read failed: etcdserver: request \
                 timed out\n[+]non_learner ok\n";
    assert_eq!(get(&lost, "/readyz").await, format!("503\n{TEXT}\n{NO_SNIFF}\n\n{lines}\n"));

    let late = pages(Member { linearizable_error: Some("context deadline exceeded"), ..Member::default() });
    assert!(get(&late, "/health").await.ends_with("\"reason\":\"RANGE ERROR:context deadline exceeded\"}\n"));
    let learner = pages(Member { learner: true, ..Member::default() });
    assert!(get(&learner, "/readyz").await.contains("[-]non_learner failed: not supported for learner\n"));
}

#[tokio::test]
async fn checks_are_counted() {
    let pages = pages(alarmed(&[pb::AlarmType::Corrupt]));
    for uri in ["/readyz", "/livez", "/health", "/health?exclude=CORRUPT"] {
        get(&pages, uri).await;
    }
    let answer = get(&pages, "/metrics").await;
    assert!(answer.starts_with("200\ncontent-type: text/plain; version=0.0.4; charset=utf-8; escaping=underscores\n"));
    for line in [
        "etcd_server_healthcheck{name=\"data_corruption\",type=\"readyz\"} 0",
        "etcd_server_healthcheck{name=\"serializable_read\",type=\"livez\"} 1",
        "etcd_server_healthchecks_total{name=\"data_corruption\",status=\"error\",type=\"readyz\"} 1",
        "etcd_server_health_success 1",
        "etcd_server_health_failures 1",
    ] {
        assert!(answer.lines().any(|known| known == line), "missing {line}");
    }
}

#[tokio::test]
async fn origins_and_hosts_are_checked_on_the_clients_port() {
    let config = Config {
        cors: vec!["http://good:80".into()],
        host_whitelist: vec!["127.0.0.1".into(), "foo.com".into()],
        ..Config::for_test()
    };
    let metrics = Arc::new(Metrics::new(&config));
    let pages = Pages::for_clients(&config, Arc::new(Member::default()), metrics.clone());
    let ask = |method: &str, host: &str, origin: &str| {
        let mut request = request(method, "/version");
        request.headers_mut().insert(HOST, host.parse().unwrap());
        request.headers_mut().insert(ORIGIN, origin.parse().unwrap());
        request
    };
    let allowed = exchange(&pages, ask("GET", "foo.com:99", "http://good:80")).await;
    assert!(allowed.starts_with("200\n") && allowed.contains("\naccess-control-allow-origin: http://good:80\n"));
    let stranger = exchange(&pages, ask("GET", "127.0.0.1:2379", "http://bad")).await;
    assert!(stranger.starts_with("200\n") && !stranger.contains("access-control"));
    for method in ["GET", "OPTIONS"] {
        let misdirected = exchange(&pages, ask(method, "bar.com", "http://good:80")).await;
        assert!(misdirected.starts_with(&format!("421\n{TEXT}\n{NO_SNIFF}\n\nthe host \"bar.com\"")), "{misdirected}");
    }
    let options = exchange(&pages, ask("OPTIONS", "foo.com", "http://good:80")).await;
    assert!(options.starts_with("200\naccess-control-allow-headers") && options.ends_with("\n\n"));
    let open = Pages::for_metrics(Arc::new(Member::default()), metrics);
    assert!(exchange(&open, ask("GET", "bar.com", "http://bad")).await.starts_with("404\n"), "no version page there");
    let health = exchange(&open, request("GET", "/health")).await;
    assert_eq!(health, format!("200\n{TEXT}\n\n{{\"health\":\"true\",\"reason\":\"\"}}"));
}

#[tokio::test]
async fn debug_variables_tell_where_raft_stands() {
    let answer = get(&pages(Member::default()), "/debug/vars").await;
    let (head, body) = answer.split_once("\n\n").unwrap();
    assert_eq!(head, "200\ncontent-type: application/json; charset=utf-8");
    let variables: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        variables["raft.status"],
        json!({"id": "a", "term": 2, "commit": 4, "lead": "a", "raftState": "StateLeader", "applied": 4})
    );
    assert!(variables["cmdline"].is_array() && variables["file_descriptor_limit"].is_number());
}

#[tokio::test]
async fn the_peers_port_tells_the_version_and_nothing_else() {
    let metrics = Arc::new(Metrics::new(&Config::for_test()));
    let pages = Pages::for_peers(Arc::new(Member::default()), metrics);
    let version = exchange(&pages, request("GET", "/version")).await;
    assert!(version.ends_with(r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#), "{version}");
    for path in ["/", "/health", "/readyz", "/metrics", "/debug/vars"] {
        assert!(exchange(&pages, request("GET", path)).await.starts_with("404\n"), "{path}");
    }
}
