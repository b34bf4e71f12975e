//! What `--help` and `--version` print, made from the table of flags.

use super::flag::{Flag, Honour};
use super::gates::GATES;
use super::{ETCD_VERSION, flags};
use crate::mutants;

const WIDTH: usize = 100;

/// What stands before the flags, and after what is wrong with one.
pub const USAGE: &str = "Usage:
  kelson [server] [flags]    Run a member.
  kelson dev [--members N]   Run a member, or a cluster of up to 7, in memory, on free ports, for as long as the
                             parent lives; where clients connect is printed as one line of JSON.
  kelson snapshot COMMAND    Save, look at and restore snapshots: see kelson snapshot --help.
  etcd [flags]               The same program under the name etcd takes flags only.

  --help, -h                 All flags with their defaults.
  --version                  The version, in etcd's form.
  --config-file FILE         Read everything from a YAML or JSON file; flags and environment are then ignored.
                             Keys are the flags' names, durations are whole nanoseconds.

Every flag is also an environment variable: --listen-client-urls is ETCD_LISTEN_CLIENT_URLS. Giving both
is an error.

Examples:
  kelson                                                Clients on 127.0.0.1:2379, data in ./default.etcd
  kelson --data-dir /var/lib/kelson --listen-client-urls http://10.0.0.1:2379 \\
         --advertise-client-urls http://10.0.0.1:2379
  ETCD_NAME=a ETCD_AUTO_COMPACTION_RETENTION=8 kelson   Keep eight hours of history
";

/// The whole help.
pub fn text() -> String {
    let mut text = USAGE.to_owned();
    for group in flags::GROUPS {
        text += &format!("\n{}:\n", group.title);
        for flag in group.flags {
            describe(&mut text, flag);
        }
    }
    text
}

/// The four lines of `etcd --version`, which scripts take apart, with what stands behind the compatibility.
pub fn version() -> String {
    let warning = mutants::warning().map(|warning| format!("{warning}\n")).unwrap_or_default();
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: kelson-{}\nGo Version: none (Rust)\nGo OS/Arch: {}/{}\n{warning}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        go_arch(std::env::consts::ARCH),
    )
}

/// Go's name of an architecture.
fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn describe(text: &mut String, flag: &Flag) {
    let default = if flag.default.is_empty() { "''".into() } else { format!("'{}'", flag.default) };
    *text += &format!("  --{} {default}\n", flag.name);
    wrap(text, flag.help);
    match flag.honour {
        Honour::Full => {}
        Honour::Without(reason) => wrap(text, &format!("Accepted without effect: {reason}.")),
        Honour::Refused { reason, way_out } => wrap(text, &format!("Refused: {reason}; {way_out}.")),
    }
    if flag.name == "feature-gates" {
        for gate in &GATES {
            wrap(text, &format!("{}=true|false ({}, {}): {}", gate.name, gate.stage.name(), gate.default, gate.here));
        }
    }
}

/// Breaks a sentence at blanks, four columns in.
fn wrap(text: &mut String, sentence: &str) {
    let mut column = 0;
    for word in sentence.split_whitespace() {
        if column > 0 && column + 1 + word.len() > WIDTH {
            text.push('\n');
            column = 0;
        }
        let gap = if column == 0 { "    " } else { " " };
        *text += gap;
        *text += word;
        column += gap.len() + word.len();
    }
    text.push('\n');
}
