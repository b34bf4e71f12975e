//! `/health` for etcd's own tools, `/livez` and `/readyz` for Kubernetes.

use http::StatusCode;

use super::page::{self, Page, Query};
use super::{Pages, Probe};
use crate::proto::etcdserverpb as pb;

/// One check of `/livez` or `/readyz`. Their order is the order of the verbose answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CheckName {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVEZ: &[CheckName] = &[CheckName::SerializableRead];
const READYZ: &[CheckName] =
    &[CheckName::DataCorruption, CheckName::SerializableRead, CheckName::LinearizableRead, CheckName::NonLearner];

/// A path under `/livez` or `/readyz`, and the checks that it stands for.
pub struct Endpoint {
    /// `livez` or `readyz`.
    kind: &'static str,
    checks: Vec<CheckName>,
}

impl Endpoint {
    /// The endpoint at a path, if there is one.
    pub fn of(path: &str) -> Option<Self> {
        for (kind, checks) in [("livez", LIVEZ), ("readyz", READYZ)] {
            let Some(rest) = path.strip_prefix('/').and_then(|path| path.strip_prefix(kind)) else { continue };
            if rest.is_empty() {
                return Some(Self { kind, checks: checks.to_vec() });
            }
            let one = rest.strip_prefix('/').and_then(|name| checks.iter().find(|check| check.name() == name));
            return one.map(|check| Self { kind, checks: vec![*check] });
        }
        None
    }

    /// Runs the checks. A failure always shows all of them, a success only if `verbose` is asked for.
    pub async fn answer(&self, pages: &Pages, query: &Query) -> Page {
        let mut lines = String::new();
        let mut failed = Vec::new();
        for check in self.checks.iter().filter(|check| !query.values("exclude").any(|name| name == check.name())) {
            let result = check.run(pages.probe.as_ref()).await;
            self.count(pages, *check, result.is_ok());
            match result {
                Ok(()) => lines += &format!("[+]{} ok\n", check.name()),
                Err(error) => {
                    lines += &format!("[-]{} failed: {error}\n", check.name());
                    failed.push(check.name());
                }
            }
        }
        if !failed.is_empty() {
            tracing::warn!(endpoint = self.kind, failed = failed.join(","), "health check failed");
            return page::error(StatusCode::SERVICE_UNAVAILABLE, &lines);
        }
        page::no_sniff(page::text(if query.has("verbose") { lines + "ok\n" } else { "ok\n".into() }))
    }

    fn count(&self, pages: &Pages, check: CheckName, is_well: bool) {
        let health = &pages.metrics.health;
        let status = if is_well { "success" } else { "error" };
        health.check.with_label_values(&[self.kind, check.name()]).set(f64::from(u8::from(is_well)));
        health.checks.with_label_values(&[self.kind, check.name(), status]).inc();
    }
}

impl CheckName {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, probe: &dyn Probe) -> Result<(), String> {
        match self {
            Self::DataCorruption => match probe.alarms().iter().find(|alarm| alarm.alarm() == pb::AlarmType::Corrupt) {
                Some(_) => Err("alarm activated: CORRUPT".into()),
                None => Ok(()),
            },
            Self::SerializableRead => probe.serializable_read().await,
            Self::LinearizableRead => probe.linearizable_read().await,
            Self::NonLearner if probe.is_learner() => Err("not supported for learner".into()),
            Self::NonLearner => Ok(()),
        }
    }
}

/// `/health`: no alarm, a leader, a read. With `serializable=true` this member alone is asked; alarms named by
/// `exclude` are passed over.
pub async fn health(pages: &Pages, query: &Query) -> Page {
    let serializable = query.values("serializable").next() == Some("true");
    let excluded: Vec<_> = query.values("exclude").collect();
    let reason = find_reason(pages.probe.as_ref(), serializable, &excluded).await;
    let body = |health: bool, reason: &str| {
        let reason = serde_json::Value::from(reason);
        format!(r#"{{"health":"{health}","reason":{reason}}}"#)
    };
    match reason {
        None => {
            pages.metrics.health.success.inc();
            page::text(body(true, ""))
        }
        Some(reason) => {
            pages.metrics.health.failures.inc();
            tracing::warn!(endpoint = "health", reason, "health check failed");
            page::error(StatusCode::SERVICE_UNAVAILABLE, &body(false, &reason))
        }
    }
}

/// The first reason not to be well.
async fn find_reason(probe: &dyn Probe, serializable: bool, excluded: &[&str]) -> Option<String> {
    let alarms = probe.alarms();
    let mut names = alarms.iter().map(|alarm| alarm.alarm().as_str_name());
    if let Some(name) = names.find(|name| !excluded.contains(name)) {
        return Some(format!("ALARM {name}"));
    }
    if !serializable && !probe.has_leader() {
        return Some("RAFT NO LEADER".into());
    }
    let read = if serializable { probe.serializable_read().await } else { probe.linearizable_read().await };
    read.err().map(|error| format!("RANGE ERROR:{error}"))
}
