//! The command line.

use std::path::PathBuf;

use clap::{Arg, ArgAction, Command, value_parser};

use crate::process::etcd_binary;

/// What can be set.
pub struct Options {
    /// Steps to take.
    pub requests: u64,
    /// Start of the random choices.
    pub seed: u64,
    /// Spoil one answer in so many.
    pub plant: Option<u64>,
    /// Compare the hash of both stores after every step.
    pub hash: bool,
    /// Where to write steps and answers.
    pub record: Option<PathBuf>,
    /// Differences after which the run stops.
    pub differences_max: usize,
    /// The server that is right.
    pub etcd: PathBuf,
    /// The server compared with it, and its name.
    pub candidate: (String, PathBuf),
}

impl Options {
    /// Reads the process's arguments; `None` when only help was asked for.
    pub fn from_args() -> Result<Option<Self>, String> {
        let number = |id: &'static str, help: &'static str| {
            Arg::new(id).long(id).value_name("N").value_parser(value_parser!(u64)).help(help)
        };
        let mut command = Command::new("differential")
            .about("Sends the same random requests to etcd 3.7.3 and to kelson, and compares the answers")
            .after_help(
                "KELSON_PEERS names the directory of the etcd binary, KELSON_BIN a kelson other than the one just built.",
            )
            .arg(number("requests", "Steps to take").default_value("20000"))
            .arg(number("seed", "Start of the random choices; chosen and printed unless given"))
            .arg(number("plant", "Spoil one answer in so many; each must be found"))
            .arg(number("differences", "Stop after so many differences").default_value("10"))
            .arg(Arg::new("hash").long("hash").action(ArgAction::SetTrue).help("Compare hashes of the stores after every step"))
            .arg(Arg::new("control").long("control").action(ArgAction::SetTrue).help("Compare etcd with itself"))
            .arg(
                Arg::new("record")
                    .long("record")
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .help("Write steps and answers for tests/recorded.rs"),
            );
        let matches = match command.try_get_matches_from_mut(std::env::args_os()) {
            Ok(matches) => matches,
            Err(error) if error.use_stderr() => return Err(error.to_string()),
            Err(help) => {
                println!("{help}");
                return Ok(None);
            }
        };
        let number = |id: &str| matches.get_one::<u64>(id).copied();
        let etcd = etcd_binary()?;
        let candidate = if matches.get_flag("control") {
            ("etcd again".to_owned(), etcd.clone())
        } else {
            let built = || PathBuf::from(env!("CARGO_BIN_EXE_kelson"));
            ("kelson".to_owned(), std::env::var_os("KELSON_BIN").map_or_else(built, PathBuf::from))
        };
        let seed = match number("seed") {
            Some(seed) => seed,
            None => u64::from(getrandom::u32().map_err(|error| format!("no random seed: {error}"))?),
        };
        Ok(Some(Self {
            requests: number("requests").unwrap_or_default(),
            seed,
            plant: number("plant").filter(|plant| *plant > 0),
            hash: matches.get_flag("hash"),
            record: matches.get_one("record").cloned(),
            differences_max: number("differences").unwrap_or(1).max(1) as usize,
            etcd,
            candidate,
        }))
    }
}
