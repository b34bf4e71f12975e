//! What etcd 3.7.3 answered to a recorded conversation, and what an embedded kelson answers to the same; no etcd needed.
//!
//! The fixture has one step and its answer a line. To record it anew:
//!
//! ```text
//! KELSON_DIFFERENTIAL=1 cargo test --test differential -- --control --requests 700 --seed 42 \
//!     --record tests/fixtures/etcd-3.7.3-answers.jsonl
//! ```

#[path = "differential/allowed.rs"]
mod allowed;
#[path = "support/client.rs"]
mod client;
#[path = "differential/diff.rs"]
mod diff;
#[path = "support/schema.rs"]
mod schema;
#[path = "support/session.rs"]
mod session;
#[path = "support/step.rs"]
mod step;
#[path = "support/watch.rs"]
mod watch;

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Value, json};

use client::Client;
use schema::Schema;
use session::Session;
use step::Step;

const RECORDED: &str = include_str!("fixtures/etcd-3.7.3-answers.jsonl");
/// How much longer or shorter than the recording this test may take.
const LEASE_TTL_TOLERANCE_SECONDS: u64 = 300;
/// Differences after which the test stops; later ones mostly follow from the first.
const DIFFERENCES_MAX: usize = 5;
const STEPS_SHOWN: usize = 6;

#[test]
fn recorded_requests_are_encoded_as_they_were() {
    let schema = Schema::load();
    for line in RECORDED.lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        if let Step::Call { method, message } = serde_json::from_value(line["step"].take()).unwrap()
            && message["memberID"] != step::OWN_MEMBER
        {
            assert_eq!(schema.request_json(&method, &schema.request_bytes(&method, &message)), message);
        }
    }
}

#[tokio::test]
async fn every_answer_is_the_one_that_etcd_gave() {
    let config = kelson::Config { name: "one".to_owned(), ..kelson::Config::for_test() };
    let server = kelson::Server::start(config).await.unwrap();
    let endpoint = server.client_endpoint();
    let client = Client::connect(endpoint.trim_start_matches("http://"), Arc::new(Schema::load())).await.unwrap();
    let mut session = Session::begin(client).await.unwrap();
    let mut recent = VecDeque::new();
    let mut told = Vec::new();
    for (line, recorded) in RECORDED.lines().enumerate() {
        let mut recorded: Value = serde_json::from_str(recorded).unwrap();
        let step: Step = serde_json::from_value(recorded["step"].take()).unwrap();
        recent.push_back(format!("  {} {}", line + 1, diff::shown(&json!(step))));
        if recent.len() > STEPS_SHOWN {
            recent.pop_front();
        }
        let (mut etcd, mut kelson) = (recorded["answer"].take(), session.take(&step).await);
        settle_lease_ttl(&step, &etcd, &mut kelson);
        allowed::settle(&step, &mut etcd, &mut kelson);
        let found = diff::differences(&etcd, &kelson);
        if !found.is_empty() {
            let steps = recent.iter().cloned().collect::<Vec<_>>().join("\n");
            told.push(format!("at line {}:\n{steps}\n    {}", line + 1, found.join("\n    ")));
        }
        if told.len() == DIFFERENCES_MAX {
            break;
        }
    }
    server.shutdown().await;
    assert!(told.is_empty(), "answers differ from etcd's:\n{}", told.join("\n"));
}

/// The remaining seconds count from the grant, which was then and is now.
fn settle_lease_ttl(step: &Step, etcd: &Value, kelson: &mut Value) {
    let (one, two) = (etcd["ok"]["TTL"].as_i64(), kelson["ok"]["TTL"].as_i64());
    if let (Some(one), Some(two), "Lease/LeaseTimeToLive") = (one, two, step.method())
        && one >= 0
        && two >= 0
        && one.abs_diff(two) <= LEASE_TTL_TOLERANCE_SECONDS
    {
        kelson["ok"]["TTL"] = json!(one);
    }
}
