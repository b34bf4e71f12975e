//! `kelson dev`: members in memory for tests and trials, which end with the process that started them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::process::ExitCode;

use kelson::Config;
use kelson::config::{self, LogLevel, Parsed, logging};
use kelson::testing::Cluster;

use crate::{block_on, complain, end_with, parent, print, run as run_member, stop, write_out};

/// As many members as a cluster for use has at most.
const MEMBERS_MAX: usize = 7;

/// Flags that a cluster decides for its members.
const OF_CLUSTERS: [&str; 6] = [
    "name",
    "advertise-client-urls",
    "listen-peer-urls",
    "initial-advertise-peer-urls",
    "initial-cluster",
    "initial-cluster-state",
];

/// `kelson dev [--members N] [flags]`: nothing is kept, the ports are free unless one is given, the environment is not
/// read, and when the parent ends, so do the members. Standard output gets one line, for programs: where they listen.
pub fn run(mut args: Vec<OsString>) -> ExitCode {
    let size = match take_members(&mut args) {
        Ok(size) => size,
        Err(error) => return end_with(&error),
    };
    let (config, given) = match Config::from_args(args, []) {
        Ok(Parsed::Run { config, given, .. }) => (config, given),
        Ok(Parsed::Print(text)) => return print(&text),
        Err(error) => return end_with(&error),
    };
    let config = match in_memory(*config, &given, size) {
        Ok(config) => config,
        Err(error) => return end_with(&error),
    };
    if let Err(error) = logging::init(&config.log) {
        return complain(&error.to_string());
    }
    block_on(async {
        let (told, orphaned) = (stop::asked(), parent::ended());
        let asked = async {
            tokio::select! {
                reason = told => reason,
                () = orphaned => "the parent ended",
            }
        };
        if size == 1 {
            return run_member(config, |endpoint| say(&[endpoint.to_owned()]), asked).await;
        }
        run_cluster(config, size, asked).await
    })
}

/// Runs a cluster until `asked` says why to stop, or until a member fails.
async fn run_cluster(config: Config, size: usize, asked: impl Future<Output = &'static str>) -> Result<(), String> {
    let cluster = Cluster::builder().members(size).config(|template| *template = config).start();
    let cluster = cluster.await.map_err(|error| error.to_string())?;
    say(&cluster.endpoints());
    tokio::select! {
        reason = asked => {
            tracing::info!(reason, "stopping");
            cluster.shutdown().await;
            Ok(())
        }
        reason = cluster.failed() => Err(reason),
    }
}

fn say(endpoints: &[String]) {
    let line = serde_json::json!({
        "endpoint": endpoints.first(),
        "endpoints": endpoints,
        "pid": std::process::id(),
    });
    if let Err(error) = write_out(&format!("{line}\n")) {
        tracing::warn!(%error, "nobody reads where the members listen");
    }
}

/// Takes `--members N` or `--members=N` out of the arguments; the other flags are the server's.
fn take_members(args: &mut Vec<OsString>) -> Result<usize, config::Error> {
    let mut size = 1;
    let mut at = 0;
    while at < args.len() {
        let text = args[at].to_string_lossy().into_owned();
        let flag = text.strip_prefix("--").or_else(|| text.strip_prefix('-')).unwrap_or_default();
        let value = match flag.split_once('=') {
            Some(("members", value)) => value.to_owned(),
            None if flag == "members" && at + 1 < args.len() => args.remove(at + 1).to_string_lossy().into_owned(),
            None if flag == "members" => String::new(),
            Some(_) | None => {
                at += 1;
                continue;
            }
        };
        args.remove(at);
        size = value.parse().ok().filter(|size| (1..=MEMBERS_MAX).contains(size)).ok_or_else(|| {
            config::Error::Usage(format!("--members takes a number from 1 to {MEMBERS_MAX}, not {value:?}"))
        })?;
    }
    Ok(size)
}

/// Turns a configuration into one for `kelson dev`.
fn in_memory(config: Config, given: &BTreeSet<&str>, size: usize) -> Result<Config, config::Error> {
    if let Some(flag) = ["data-dir", "wal-dir"].iter().find(|flag| given.contains(*flag)) {
        let text = format!("kelson dev keeps nothing, so --{flag} has no meaning: leave it out, or run kelson server");
        return Err(config::Error::Usage(text));
    }
    if let Some(flag) = OF_CLUSTERS.iter().find(|flag| size > 1 && given.contains(*flag)) {
        let text = format!("kelson dev --members decides --{flag} itself: leave it out, or run each kelson server");
        return Err(config::Error::Usage(text));
    }
    let test = Config::for_test();
    let mut config = Config { data_dir: None, listen_peer_urls: test.listen_peer_urls, ..config };
    if !given.contains("listen-client-urls") {
        config.listen_client_urls = test.listen_client_urls;
    }
    if !given.contains("log-level") {
        config.log.level = LogLevel::Warn;
    }
    if size > 1 && config.io_threads == 0 {
        // The members share the machine.
        config.io_threads = test.io_threads;
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dev_member_keeps_nothing_and_takes_a_given_port() {
        let config = Config::default();
        let dev = in_memory(config.clone(), &BTreeSet::new(), 1).unwrap();
        assert_eq!((dev.data_dir, dev.listen_client_urls[0].to_string()), (None, "http://127.0.0.1:0".into()));
        let dev = in_memory(config.clone(), &BTreeSet::from(["listen-client-urls"]), 3).unwrap();
        assert_eq!(dev.listen_client_urls, config.listen_client_urls);
        assert!(in_memory(config.clone(), &BTreeSet::from(["name"]), 1).is_ok());
        assert!(in_memory(config.clone(), &BTreeSet::from(["name"]), 3).is_err());
        assert!(in_memory(config, &BTreeSet::from(["data-dir"]), 1).is_err());
    }

    #[test]
    fn the_number_of_members_is_taken_out_of_the_arguments() {
        let take = |args: &[&str]| {
            let mut args: Vec<_> = args.iter().map(OsString::from).collect();
            (take_members(&mut args).ok(), args)
        };
        let rest = || vec![OsString::from("--log-level=info")];
        assert_eq!(take(&["--log-level=info"]), (Some(1), rest()));
        assert_eq!(take(&["--members", "3", "--log-level=info"]), (Some(3), rest()));
        assert_eq!(take(&["--log-level=info", "-members=7"]), (Some(7), rest()));
        for wrong in [&["--members"][..], &["--members=0"], &["--members", "8"], &["--members=x"]] {
            assert_eq!(take(wrong).0, None, "{wrong:?}");
        }
    }
}
