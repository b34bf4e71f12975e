//! `kelson snapshot restore`: a data directory from a snapshot file, with the flags of `etcdutl snapshot restore`.

use std::ffi::OsString;

use kelson::Config;
use kelson::config::Parsed;
use kelson::restore::{self, Restored, Source};

use super::Failure;
use super::flags::{Flag, Given};

/// Before the flags.
pub const HELP: &str =
    "Makes the data directory of a member of a new cluster from a snapshot file, kelson's or etcd's, with all
keys, revisions, leases (their time begins anew) and alarms. The directory must be new or empty. Start the
member on it with the same --name and --initial-* flags, if any were given here. For several members, restore
each from the same file, with the same --initial-cluster and its own --name.

Usage:
  kelson snapshot restore FILE --data-dir DIR [flags]

Examples:
  kelson snapshot restore backup.db --data-dir /var/lib/kelson
  kelson --data-dir /var/lib/kelson

  Under Kubernetes, so that caches do not take old data for new (as the Kubernetes documentation advises for etcd):
  kelson snapshot restore backup.db --data-dir /var/lib/kelson --bump-revision 1000000000 --mark-compacted

  One of three members:
  kelson snapshot restore backup.db --data-dir /var/lib/kelson --name a \\
      --initial-cluster a=http://10.0.0.1:2380,b=http://10.0.0.2:2380,c=http://10.0.0.3:2380 \\
      --initial-advertise-peer-urls http://10.0.0.1:2380

  From the files of a stopped etcd:
  kelson snapshot restore /var/lib/etcd/member/snap/db --data-dir /var/lib/kelson --skip-hash-check
";

/// Its flags.
pub const FLAGS: &[Flag] = &[
    text("data-dir", "DIR", "The directory to make. Default: the name and \".etcd\""),
    text("wal-dir", "DIR", "A directory for the log, if it is not to be below the data directory."),
    text("name", "NAME", "The member's name. Default: default"),
    text(
        "initial-cluster",
        "NAME=URL,…",
        "The members and their peer URLs. Default: the name with --initial-advertise-peer-urls",
    ),
    text("initial-cluster-token", "TEXT", "Goes into the ids of cluster and member. Default: etcd-cluster"),
    text("initial-advertise-peer-urls", "URLS", "The member's peer URLs. Default: http://localhost:2380"),
    Flag {
        name: "skip-hash-check",
        short: None,
        value: None,
        help: "Do not check the SHA-256 behind the data; needed for a copy of etcd's member/snap/db, which has none.",
    },
    text(BUMP, "N", "Raise the newest revision by N; only with --mark-compacted. Default: 0"),
    Flag {
        name: MARK,
        short: None,
        value: None,
        help: "Count all revisions as compacted, so that watches from before end and clients list anew; only with \
               --bump-revision.",
    },
    text("initial-memory-map-size", "BYTES", "Accepted without effect: nothing is mapped."),
];

const BUMP: &str = "bump-revision";
const MARK: &str = "mark-compacted";
/// Flags that mean here what they mean to the server.
const SERVER_FLAGS: [&str; 6] =
    ["data-dir", "wal-dir", "name", "initial-cluster", "initial-cluster-token", "initial-advertise-peer-urls"];

const fn text(name: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, value: Some(value), help }
}

/// Runs the command.
pub fn run(given: &Given) -> Result<String, Failure> {
    let source = source(given).map_err(Failure::Usage)?;
    let args = SERVER_FLAGS.iter().filter_map(|name| Some(OsString::from(format!("--{name}={}", given.value(name)?))));
    // As etcdutl: what is in the environment is meant for the server.
    let config = match Config::from_args(args, []) {
        Ok(Parsed::Run { config, .. }) => config,
        Ok(Parsed::Print(text)) => return Ok(text),
        Err(error) => return Err(Failure::Usage(error.to_string())),
    };
    let restored = restore::restore(&config, &source).map_err(Failure::failed)?;
    Ok(describe(&restored))
}

fn source(given: &Given) -> Result<Source, String> {
    let bump_revision = match given.value(BUMP) {
        None => 0,
        Some(number) => number.parse().map_err(|_| format!("--{BUMP} is a number of revisions, not \"{number}\""))?,
    };
    if (bump_revision > 0) != given.is_on(MARK)? {
        return Err(format!("--{BUMP} and --{MARK} go together: give both or neither"));
    }
    Ok(Source { file: given.file()?.into(), skip_hash_check: given.is_on("skip-hash-check")?, bump_revision })
}

fn describe(restored: &Restored) -> String {
    let Restored { data_dir, revision, compact_revision, keys, leases, alarms, users_and_roles_left_out } = restored;
    let mut text = format!(
        "Restored into {}: revision {revision}, compacted at {compact_revision}, {keys} keys, {leases} leases, {alarms} \
         alarms\n",
        data_dir.display()
    );
    if *users_and_roles_left_out > 0 {
        text += &format!(
            "{users_and_roles_left_out} users and roles were left out: authentication is disabled in the file, and this \
             release has none\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source_of(args: &[&str]) -> Result<Source, String> {
        source(&Given::parse(args.iter().map(OsString::from).collect(), FLAGS).unwrap().unwrap())
    }

    #[test]
    fn a_raised_revision_and_its_compaction_mark_go_together() {
        assert_eq!(source_of(&["f", "--bump-revision", "5", "--mark-compacted"]).unwrap().bump_revision, 5);
        assert_eq!(source_of(&["f", "--bump-revision=0"]).unwrap().bump_revision, 0);
        for args in [&["f", "--bump-revision=5"][..], &["f", "--mark-compacted"]] {
            assert!(source_of(args).unwrap_err().contains("go together"), "{args:?}");
        }
        assert!(source_of(&["f", "--bump-revision=-1", "--mark-compacted"]).is_err());
    }
}
