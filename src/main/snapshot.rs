//! `kelson snapshot save|status|restore`: what `etcdctl` and `etcdutl` do with snapshots, for kelson's data directory.
//!
//! Here are the command line and what is printed; the work is done in the three files below and in `kelson::restore`.

#[path = "snapshot/flags.rs"]
mod flags;
#[path = "snapshot/restore.rs"]
mod restore;
#[path = "snapshot/save.rs"]
mod save;
#[path = "snapshot/status.rs"]
mod status;

use std::ffi::OsString;
use std::process::ExitCode;

use self::flags::{Flag, Given};

/// Exit code when the command line cannot be read.
const EXIT_USAGE: u8 = 2;

const HELP: &str =
    "Saves, looks at and restores snapshots. The files are etcd's: etcdctl and etcdutl read ours, we read theirs.

Usage:
  kelson snapshot save FILE [--endpoints URL]         Save a running member's data to a file.
  kelson snapshot status FILE [-w json|table|simple]  Say what is in a file.
  kelson snapshot restore FILE --data-dir DIR         Make a member's data directory from a file.

  kelson snapshot COMMAND --help                      All flags of a command.

Examples:
  From etcd to kelson, with the same keys, revisions and leases:
    etcdctl snapshot save backup.db
    kelson snapshot restore backup.db --data-dir /var/lib/kelson
    kelson --data-dir /var/lib/kelson
  And back:
    kelson snapshot save backup.db
    etcdutl snapshot restore backup.db --data-dir /var/lib/etcd
    etcd --data-dir /var/lib/etcd
";

/// One command.
struct Command {
    name: &'static str,
    /// Stands before the flags in its help.
    help: &'static str,
    flags: &'static [Flag],
    /// Does it and returns what to print.
    run: fn(&Given) -> Result<String, Failure>,
}

const COMMANDS: [Command; 3] = [
    Command { name: "save", help: save::HELP, flags: save::FLAGS, run: save::run },
    Command { name: "status", help: status::HELP, flags: status::FLAGS, run: status::run },
    Command { name: "restore", help: restore::HELP, flags: restore::FLAGS, run: restore::run },
];

/// Why a command did nothing.
enum Failure {
    /// It was asked for wrongly.
    Usage(String),
    /// It did not succeed.
    Failed(String),
}

impl Failure {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs the command that the arguments after `snapshot` name.
pub fn run(mut args: Vec<OsString>) -> ExitCode {
    if args.is_empty() {
        return usage(&format!("which command?\n\n{HELP}"));
    }
    let name = args.remove(0);
    if ["help", "--help", "-h"].iter().any(|help| name == *help) {
        return crate::print(HELP);
    }
    let Some(command) = COMMANDS.iter().find(|command| name == *command.name) else {
        return usage(&format!("unknown command: snapshot {}\n\n{HELP}", name.display()));
    };
    let Command { name, help, flags, run } = command;
    let outcome = match Given::parse(args, flags) {
        Ok(None) => return crate::print(&format!("{help}\nFlags:\n{}", flags::describe(flags))),
        Ok(Some(given)) => run(&given),
        Err(reason) => Err(Failure::Usage(reason)),
    };
    match outcome {
        Ok(text) => crate::print(&text),
        Err(Failure::Usage(reason)) => usage(&format!("{reason}\nsee: kelson snapshot {name} --help")),
        Err(Failure::Failed(reason)) => crate::complain(&format!("error: {reason}")),
    }
}

fn usage(text: &str) -> ExitCode {
    crate::complain(text.trim_end());
    ExitCode::from(EXIT_USAGE)
}
