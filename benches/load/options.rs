//! The command line.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

/// What to do to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Puts of random keys.
    Put,
    /// Gets of random keys.
    Get,
    /// Compare the mod revision, then put, else get: what Kubernetes does to change an object.
    TxnCas,
    /// The first page of a prefix.
    Page,
    /// A page from a random key to the end of a prefix, as a client that follows continue tokens asks for.
    PageNext,
    /// A count of a prefix.
    Count,
    /// A whole prefix with its values.
    RangeFull,
    /// One prefix, many watchers, one writer that waits until all have its event.
    WatchFanOut,
    /// Every watcher has a prefix of its own; each put reaches one of them.
    WatchPrefixes,
    /// Every watcher has a key of its own; each put reaches one of them.
    PutWatched,
    /// Grant a lease and revoke it.
    LeaseCycle,
    /// Keep-alives, one stream a client.
    KeepAlive,
    /// Puts every key once, in large transactions.
    Fill,
}

const WORKLOADS: [(&str, Workload, &str); 14] = [
    ("put", Workload::Put, "puts of random keys"),
    ("put-one-client", Workload::Put, "the same, --clients 1 --conns 1"),
    ("get", Workload::Get, "gets of random keys; needs fill"),
    ("txn-cas", Workload::TxnCas, "if mod_revision then put else get"),
    ("page", Workload::Page, "first page of the prefix; needs fill"),
    ("page-next", Workload::PageNext, "a page from a random key on; needs fill"),
    ("count", Workload::Count, "count_only of the prefix; needs fill"),
    ("range-full", Workload::RangeFull, "the whole prefix in one answer; needs fill"),
    ("watch-fan-out", Workload::WatchFanOut, "every watcher gets every event of one writer"),
    ("watch-prefixes", Workload::WatchPrefixes, "a prefix for each watcher, puts below all of them"),
    ("put-watched", Workload::PutWatched, "a key for each watcher, puts of all of them"),
    ("lease-cycle", Workload::LeaseCycle, "grant and revoke"),
    ("keep-alive", Workload::KeepAlive, "keep-alives, one stream a client"),
    ("fill", Workload::Fill, "puts every key once, --batch to a txn"),
];

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name on the command line.
    pub name: String,
    /// What to do.
    pub workload: Workload,
    /// Where the server listens.
    pub endpoint: SocketAddr,
    /// The server's processes, to be measured.
    pub pids: Vec<u32>,
    /// Operations in flight at most.
    pub clients: usize,
    /// Connections that the clients share.
    pub conns: usize,
    /// Number of keys.
    pub keys: u64,
    /// What every key starts with.
    pub prefix: String,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Length of the measured stage.
    pub time: Duration,
    /// Length of the stage before it.
    pub warm_up: Duration,
    /// Ends the measured stage after so many operations.
    pub requests: Option<u64>,
    /// Open loop: operations started per second.
    pub rate: Option<f64>,
    /// Gets, pages and counts are serializable.
    pub serializable: bool,
    /// Keys in a page.
    pub limit: i64,
    /// Puts in a transaction of `fill`.
    pub batch: u64,
    /// Number of watchers.
    pub watchers: u64,
    /// Watch streams that the watchers share.
    pub streams: usize,
    /// Connections that the watch streams share; the puts have their own.
    pub watch_conns: usize,
    /// Watchers ask for the previous value.
    pub prev_kv: bool,
    /// Start of the random numbers.
    pub seed: u64,
    /// Report as one line of JSON.
    pub json: bool,
}

impl Options {
    /// Reads the process's arguments; `None` without a workload, as when all benches run: then there is nothing to do.
    pub fn from_args() -> Option<Self> {
        let mut command = command();
        let matches = command.get_matches_mut();
        let Some(name) = matches.get_one::<String>("workload") else {
            println!("{}", command.render_help());
            return None;
        };
        let named = WORKLOADS.iter().find(|(known, _, _)| known == name);
        let workload = named.map(|(_, workload, _)| *workload).expect("clap admits the listed names only");
        Some(Self::new(name, workload, &matches))
    }

    fn new(name: &str, workload: Workload, matches: &ArgMatches) -> Self {
        let number = |id: &str| matches.get_one::<u64>(id).copied();
        let seconds = |id: &str| Duration::from_secs_f64(*matches.get_one::<f64>(id).expect("has a default"));
        let (clients, conns, keys) = match (name, workload) {
            ("put-one-client", _) => (1, 1, 10_000),
            (_, Workload::WatchFanOut) => (1, 1, 100),
            (_, Workload::Page | Workload::PageNext | Workload::Count | Workload::RangeFull) => (4, 4, 10_000),
            (_, Workload::TxnCas) => (100, 10, 1_000),
            (_, Workload::Fill) => (8, 2, 10_000),
            _ => (100, 10, 10_000),
        };
        let clients = number("clients").unwrap_or(clients).max(1) as usize;
        let conns = (number("conns").unwrap_or(conns).max(1) as usize).min(clients);
        let default_watchers = if workload == Workload::WatchFanOut { 1_000 } else { 10_000 };
        let watchers = number("watchers").unwrap_or(default_watchers).max(1);
        let streams = number("streams").unwrap_or(10).clamp(1, watchers) as usize;
        Self {
            name: name.to_owned(),
            workload,
            endpoint: *matches.get_one("endpoint").expect("has a default"),
            pids: matches.get_many::<u32>("pid").unwrap_or_default().copied().collect(),
            clients,
            conns,
            keys: number("keys").unwrap_or(keys).max(1),
            prefix: matches.get_one::<String>("prefix").expect("has a default").clone(),
            value_bytes: number("value-bytes").expect("has a default") as usize,
            time: seconds("seconds"),
            warm_up: seconds("warm-up"),
            requests: number("requests"),
            rate: matches.get_one("rate").copied(),
            serializable: matches.get_flag("serializable"),
            limit: number("limit").expect("has a default") as i64,
            batch: number("batch").expect("has a default").max(1),
            watchers,
            streams,
            watch_conns: (number("watch-conns").unwrap_or(10) as usize).clamp(1, streams),
            prev_kv: matches.get_flag("prev-kv"),
            seed: number("seed").expect("has a default"),
            json: matches.get_flag("json"),
        }
    }
}

fn command() -> Command {
    let workloads: Vec<String> = WORKLOADS.iter().map(|(name, _, what)| format!("  {name:<16}{what}")).collect();
    let number = |id: &'static str, help: &'static str| {
        Arg::new(id).long(id).value_name("N").value_parser(value_parser!(u64)).help(help)
    };
    let fraction = |id: &'static str, help: &'static str| {
        Arg::new(id).long(id).value_name("X").value_parser(value_parser!(f64)).help(help)
    };
    let flag = |id: &'static str, help: &'static str| Arg::new(id).long(id).action(ArgAction::SetTrue).help(help);
    Command::new("load")
        .about("Puts load on a server of etcd's v3 API, and measures it")
        .after_help(format!("Workloads:\n{}", workloads.join("\n")))
        .arg(
            Arg::new("workload")
                .value_name("WORKLOAD")
                .value_parser(WORKLOADS.map(|(name, _, _)| name))
                .hide_possible_values(true),
        )
        .arg(
            Arg::new("endpoint")
                .long("endpoint")
                .value_name("ADDRESS:PORT")
                .default_value("127.0.0.1:2379")
                .value_parser(value_parser!(SocketAddr))
                .help("Server under load"),
        )
        .arg(
            Arg::new("pid")
                .long("pid")
                .value_name("PID")
                .value_parser(value_parser!(u32))
                .action(ArgAction::Append)
                .help("Process to measure; may be given several times"),
        )
        .arg(number("clients", "Operations in flight at most"))
        .arg(number("conns", "Connections that they share"))
        .arg(number("keys", "Number of keys"))
        .arg(Arg::new("prefix").long("prefix").value_name("TEXT").default_value("/bench/").help("Start of every key"))
        .arg(number("value-bytes", "Bytes of a value").default_value("256"))
        .arg(fraction("seconds", "Length of the measured stage").default_value("5"))
        .arg(fraction("warm-up", "Seconds of load before it").default_value("0.5"))
        .arg(number("requests", "End the measured stage after so many operations"))
        .arg(fraction("rate", "Start so many operations a second; latency counts from when each should start"))
        .arg(flag("serializable", "Reads need not be linearizable"))
        .arg(number("limit", "Keys in a page").default_value("500"))
        .arg(number("batch", "Puts in a transaction of fill").default_value("100"))
        .arg(number("watchers", "Number of watchers"))
        .arg(number("streams", "Watch streams that they share, 10 unless told"))
        .arg(number("watch-conns", "Connections that the streams share, 10 unless told"))
        .arg(flag("prev-kv", "Watchers ask for the previous value"))
        .arg(number("seed", "Start of the random numbers").default_value("1"))
        .arg(flag("json", "Report as one line of JSON"))
        .arg(flag("bench", "Passed by cargo; means nothing here").hide(true))
}
