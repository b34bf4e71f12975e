//! A [`Config`] in the making: the fields that flags fill one by one, and the rules that hold between them.
//!
//! The texts of etcd's own rules are etcd's, because operators search for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::flag::{parse_urls, split_list};
use super::gates::Gate;
use super::number::{parse_duration, parse_int};
use super::tls::{self, TlsVersion};
use super::{
    AutoCompaction, ClusterState, Config, LogFormat, LogLevel, LogOutput, MetricsLevel, QUOTA_BYTES_DEFAULT, Url,
};

/// Longest election timeout, in milliseconds, as etcd.
const ELECTION_TIMEOUT_MS_MAX: u64 = 50_000;
/// Least number of heartbeats in an election timeout, as etcd.
const HEARTBEATS_PER_ELECTION_MIN: u64 = 5;

/// A configuration in the making.
pub struct Draft {
    /// What is known so far; the defaults at first.
    pub config: Config,
    /// `--auto-compaction-mode`, which gives the retention its meaning.
    pub compaction_mode: String,
    /// `--auto-compaction-retention`.
    pub compaction_retention: String,
    /// `--cipher-suites`.
    pub cipher_suites: Vec<String>,
    /// `--tls-min-version`; empty is the default.
    pub tls_min_version: String,
    /// `--tls-max-version`; empty is no limit.
    pub tls_max_version: String,
    /// Flags that were given, in whatever way.
    given: BTreeSet<&'static str>,
    warnings: Vec<String>,
    refusals: Vec<String>,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            config: Config::default(),
            compaction_mode: "periodic".into(),
            compaction_retention: "0".into(),
            cipher_suites: Vec::new(),
            tls_min_version: String::new(),
            tls_max_version: String::new(),
            given: BTreeSet::new(),
            warnings: Vec::new(),
            refusals: Vec::new(),
        }
    }
}

impl Draft {
    /// Notes that a flag was given; `false` if it was already.
    pub fn note_given(&mut self, name: &'static str) -> bool {
        self.given.insert(name)
    }

    /// Whether a flag was given.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains(name)
    }

    /// All flags that were given.
    pub fn given(&self) -> &BTreeSet<&'static str> {
        &self.given
    }

    /// Notes something to tell the operator once the log is open.
    pub fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Notes something that must stop the start.
    pub fn refuse(&mut self, refusal: String) {
        self.refusals.push(refusal);
    }

    /// `--data-dir`; empty is the default, which follows the name.
    pub fn set_data_dir(&mut self, text: &str) -> Result<(), String> {
        self.config.data_dir = (!text.is_empty()).then(|| text.into());
        Ok(())
    }

    /// `--wal-dir`; empty is below the data directory.
    pub fn set_wal_dir(&mut self, text: &str) -> Result<(), String> {
        self.config.wal_dir = (!text.is_empty()).then(|| text.into());
        Ok(())
    }

    /// `--quota-backend-bytes`: 0 is the default, negative no limit.
    pub fn set_quota(&mut self, text: &str) -> Result<(), String> {
        self.config.quota_backend_bytes = match parse_int(text)? {
            0 => Some(QUOTA_BYTES_DEFAULT),
            bytes => u64::try_from(bytes).ok(),
        };
        Ok(())
    }

    /// `--feature-gates`; a gate that changes nothing here is told.
    pub fn set_feature_gates(&mut self, text: &str) -> Result<(), String> {
        self.config.feature_gates.set(text)?;
        let is_vain = |gate: &Gate, on: bool| on != gate.default && !gate.is_honoured;
        let changed: Vec<_> = self.config.feature_gates.iter().filter(|(gate, on)| is_vain(gate, *on)).collect();
        for (gate, on) in changed {
            self.warn(format!("the feature gate {}={on} has no effect: {}", gate.name, gate.here));
        }
        Ok(())
    }

    /// `--initial-cluster`: `name=url`, a name once for each of its URLs.
    pub fn set_initial_cluster(&mut self, text: &str) -> Result<(), String> {
        let mut members = BTreeMap::<String, Vec<Url>>::new();
        for part in split_list(text) {
            let (name, url) = part
                .split_once('=')
                .filter(|(name, url)| !name.is_empty() && !url.is_empty())
                .ok_or_else(|| format!("expected name=url instead of {part}"))?;
            members.entry(name.to_owned()).or_default().extend(parse_urls(url)?);
        }
        for urls in members.values_mut() {
            urls.sort();
            urls.dedup();
        }
        self.config.initial_cluster = members;
        Ok(())
    }

    /// `--initial-cluster-state`.
    pub fn set_initial_cluster_state(&mut self, text: &str) -> Result<(), String> {
        self.config.initial_cluster_state = match text {
            "new" => ClusterState::New,
            "existing" => ClusterState::Existing,
            _ => return Err("invalid value".into()),
        };
        Ok(())
    }

    /// `--metrics`.
    pub fn set_metrics(&mut self, text: &str) -> Result<(), String> {
        self.config.metrics = match text {
            "basic" => MetricsLevel::Basic,
            "extensive" => MetricsLevel::Extensive,
            _ => return Err("expected basic or extensive".into()),
        };
        Ok(())
    }

    /// `--logger`.
    pub fn set_logger(&mut self, text: &str) -> Result<(), String> {
        if text == "zap" { Ok(()) } else { Err(format!("unknown logger option \"{text}\"")) }
    }

    /// `--log-outputs`.
    pub fn set_log_outputs(&mut self, text: &str) -> Result<(), String> {
        let names = split_list(text);
        if names.is_empty() {
            return Err("expected at least one output".into());
        }
        if names.len() > 1 && names.iter().any(|name| name == "default") {
            return Err("multi logoutput for \"default\" is not supported yet".into());
        }
        self.config.log.outputs = names
            .into_iter()
            .map(|name| match name.as_str() {
                "default" | "stderr" => LogOutput::Stderr,
                "stdout" => LogOutput::Stdout,
                _ => LogOutput::File(name.into()),
            })
            .collect();
        Ok(())
    }

    /// `--log-level`.
    pub fn set_log_level(&mut self, text: &str) -> Result<(), String> {
        self.config.log.level = match text.to_ascii_lowercase().as_str() {
            "debug" => LogLevel::Debug,
            "info" => LogLevel::Info,
            "warn" => LogLevel::Warn,
            "error" => LogLevel::Error,
            "panic" | "dpanic" => LogLevel::Panic,
            "fatal" => LogLevel::Fatal,
            _ => return Err(format!("unrecognized level: \"{text}\"")),
        };
        Ok(())
    }

    /// `--log-format`.
    pub fn set_log_format(&mut self, text: &str) -> Result<(), String> {
        self.config.log.format = Some(match text {
            "json" => LogFormat::Json,
            "console" => LogFormat::Console,
            _ => return Err(format!("unknown log format: {text}, supported values json, console")),
        });
        Ok(())
    }

    /// Fills what follows from other fields and checks the rules between fields. Gives the configuration and what to
    /// warn of.
    pub fn finish(mut self) -> Result<(Config, Vec<String>), String> {
        self.follow_up();
        if self.is_given("enable-grpc-gateway") && self.config.enable_grpc_gateway {
            self.warn("--enable-grpc-gateway has no effect: this release does not serve the API as JSON yet".into());
        }
        self.check_urls()?;
        self.check_tls()?;
        self.check_cluster()?;
        self.check_timing()?;
        self.config.auto_compaction = parse_retention(&self.compaction_mode, &self.compaction_retention)?;
        if !self.refusals.is_empty() {
            return Err(self.refusals.join("\n"));
        }
        Ok((self.config, self.warnings))
    }

    /// What was not given follows the name.
    fn follow_up(&mut self) {
        let config = &mut self.config;
        if config.name.is_empty() {
            config.name = Config::default().name;
        }
        if !self.given.contains("data-dir") || config.data_dir.is_none() {
            config.data_dir = Some(format!("{}.etcd", config.name).into());
        }
        if !self.given.contains("initial-cluster") {
            let urls = config.initial_advertise_peer_urls.clone();
            config.initial_cluster = BTreeMap::from([(config.name.clone(), urls)]);
        }
    }

    fn check_urls(&self) -> Result<(), String> {
        if self.is_given("listen-client-urls") && !self.is_given("advertise-client-urls") {
            return Err("--advertise-client-urls is required when --listen-client-urls is set explicitly".into());
        }
        let config = &self.config;
        let listen = [
            ("listen-peer-urls", &config.listen_peer_urls),
            ("listen-client-urls", &config.listen_client_urls),
            ("listen-client-http-urls", &config.listen_client_http_urls),
            ("listen-metrics-urls", &config.listen_metrics_urls),
        ];
        for url in listen.iter().flat_map(|(_, urls)| urls.iter()) {
            url.listen_address()?;
        }
        let advertised = [
            ("initial-advertise-peer-urls", &config.initial_advertise_peer_urls),
            ("advertise-client-urls", &config.advertise_client_urls),
        ];
        for url in advertised.iter().flat_map(|(_, urls)| urls.iter()) {
            if url.host().is_empty() {
                return Err(format!("unexpected empty host ({url})"));
            }
        }
        Ok(())
    }

    fn check_tls(&mut self) -> Result<(), String> {
        if !self.tls_min_version.is_empty() {
            self.config.tls_min_version =
                TlsVersion::parse(&self.tls_min_version).map_err(|error| format!("--tls-min-version: {error}"))?;
        }
        if !self.tls_max_version.is_empty() {
            let version = TlsVersion::parse(&self.tls_max_version);
            self.config.tls_max_version = Some(version.map_err(|error| format!("--tls-max-version: {error}"))?);
        }
        self.config.cipher_suites = tls::parse_suites(&self.cipher_suites)?;
        for warning in tls::check(&self.config)? {
            self.warn(warning);
        }
        Ok(())
    }

    fn check_cluster(&mut self) -> Result<(), String> {
        let config = &self.config;
        let Some(urls) = config.initial_cluster.get(&config.name) else {
            return Err(format!("couldn't find local name \"{}\" in the initial cluster configuration", config.name));
        };
        let advertised = &config.initial_advertise_peer_urls;
        if !is_same_hosts(urls, advertised) {
            return Err(format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}",
                urls.iter().map(|url| format!("{}={url}", config.name)).collect::<Vec<_>>().join(","),
                advertised.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            ));
        }
        Ok(())
    }

    fn check_timing(&self) -> Result<(), String> {
        if self.config.compact_hash_check_time.is_zero() {
            return Err("--compact-hash-check-time must be >0 (set to 0s)".into());
        }
        let (heartbeat, election) = (self.config.heartbeat_interval_ms, self.config.election_timeout_ms);
        if heartbeat == 0 {
            return Err("--heartbeat-interval must be >0 (set to 0ms)".into());
        }
        if election == 0 {
            return Err("--election-timeout must be >0 (set to 0ms)".into());
        }
        if heartbeat.saturating_mul(HEARTBEATS_PER_ELECTION_MIN) > election {
            return Err(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
            ));
        }
        if election > ELECTION_TIMEOUT_MS_MAX {
            return Err(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_TIMEOUT_MS_MAX}ms"
            ));
        }
        Ok(())
    }
}

/// Whether two lists name the same places. As etcd looks names up, `localhost` and 127.0.0.1 are one; other names are
/// compared as they are written.
fn is_same_hosts(left: &[Url], right: &[Url]) -> bool {
    let places = |urls: &[Url]| -> BTreeSet<String> {
        urls.iter().map(|url| url.to_string().replace("://localhost:", "://127.0.0.1:")).collect()
    };
    places(left) == places(right)
}

/// The meaning of mode and retention: a bare number is hours, or revisions.
fn parse_retention(mode: &str, retention: &str) -> Result<AutoCompaction, String> {
    const SECONDS_PER_HOUR: u64 = 3600;
    let wrong = |error: String| format!("error parsing CompactionRetention: \"{retention}\": {error}");
    match mode {
        "revision" => match parse_int(retention).map_err(wrong)? {
            0 => Ok(AutoCompaction::Off),
            revisions if revisions > 0 => Ok(AutoCompaction::Revision(revisions)),
            _ => Err(wrong("negative".into())),
        },
        "periodic" => {
            let period = match retention.parse::<u64>() {
                Ok(hours) => Duration::from_secs(hours.saturating_mul(SECONDS_PER_HOUR)),
                Err(_) => parse_duration(retention).map_err(wrong)?,
            };
            Ok(if period.is_zero() { AutoCompaction::Off } else { AutoCompaction::Periodic(period) })
        }
        "" => Err("undefined auto-compaction-mode".into()),
        _ => Err(format!("unknown auto-compaction-mode \"{mode}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_counts_hours_time_or_revisions() {
        let hours = |hours: u64| AutoCompaction::Periodic(Duration::from_secs(hours * 3600));
        for (mode, retention, expected) in [
            ("periodic", "0", AutoCompaction::Off),
            ("periodic", "8", hours(8)),
            ("periodic", "90m", AutoCompaction::Periodic(Duration::from_secs(5400))),
            ("revision", "0", AutoCompaction::Off),
            ("revision", "1000", AutoCompaction::Revision(1000)),
        ] {
            assert_eq!(parse_retention(mode, retention), Ok(expected), "{mode} {retention}");
        }
        assert_eq!(parse_retention("foo", "1"), Err("unknown auto-compaction-mode \"foo\"".into()));
        for (mode, retention) in [("periodic", "x"), ("revision", "5m"), ("revision", "-1"), ("periodic", "-1")] {
            assert!(parse_retention(mode, retention).is_err(), "{mode} {retention}");
        }
    }

    #[test]
    fn a_negative_quota_is_none_and_zero_is_two_gibibytes() {
        let mut draft = Draft::default();
        draft.set_quota("-1").unwrap();
        assert_eq!(draft.config.quota_backend_bytes, None);
        draft.set_quota("0").unwrap();
        assert_eq!(draft.config.quota_backend_bytes, Some(2 << 30));
    }
}
