//! Rules about the source that no compiler knows: who may use whom, what the state machine may not name, how files
//! begin.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules, highest first. A module uses only modules below it.
const ORDER: [&[&str]; 15] = [
    &["main"],
    &["testing"],
    &["server"],
    &["rpc", "http"],
    &["lessor", "compactor", "corrupt"],
    &["raft"],
    &["watch"],
    &["state"],
    &["storage"],
    &["metrics"],
    &["tls"],
    &["clock", "blocking"],
    &["config"],
    &["proto"],
    &["mutants"],
];

/// What would make two members that apply the same log differ, or make applying wait.
const NONDETERMINISTIC: [&str; 8] =
    ["std::time", "tokio", "rand::", "getrandom", "HashMap", "HashSet", "std::thread", "std::fs"];

struct Source {
    /// Below `src/`, with slashes.
    path: String,
    text: String,
}

impl Source {
    /// The top module: `raft/log_store.rs` and `raft.rs` are `raft`.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// Lines of code outside tests and comments, with their numbers. The test module is last in its file.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = if self.is_test() { Some(0) } else { self.text.find("#[cfg(test)]\nmod tests {") };
        let code = &self.text[..end.unwrap_or(self.text.len())];
        let is_comment = |line: &str| line.trim_start().starts_with("//");
        code.lines().enumerate().filter(move |(_, line)| !is_comment(line)).map(|(at, line)| (at + 1, line))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    let read = |path: PathBuf| Source {
        path: path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/"),
        text: fs::read_to_string(&path).unwrap(),
    };
    paths.into_iter().map(read).collect()
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Fails with all findings at once.
fn expect_none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|level| level.contains(&module))
}

/// The modules that a line names after `crate::` or `kelson::`, also in `crate::{a, b::c}`.
fn named_modules(line: &str) -> Vec<&str> {
    let mut modules = Vec::new();
    for root in ["crate::", "kelson::"] {
        for (at, _) in line.match_indices(root) {
            let rest = &line[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(list) => modules.extend(list.split(',').map(|part| part.trim_matches([' ', '}', ';']))),
                None => modules.push(rest),
            }
        }
    }
    let first_word = |path: &'_ str| path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    modules.into_iter().map(|path| &path[..first_word(path)]).collect()
}

#[test]
fn a_module_uses_only_modules_below_it() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.path != "lib.rs") {
        let module = source.module();
        let Some(own) = rank(module) else {
            findings.push(format!("src/{} is in no module of the order", source.path));
            continue;
        };
        for (at, line) in source.code() {
            let upward = |used: &&str| *used != module && rank(used).is_some_and(|used| used <= own);
            for used in named_modules(line).into_iter().filter(upward) {
                findings.push(format!("src/{}:{at} uses {used}, which is not below {module}", source.path));
            }
        }
    }
    expect_none(findings);
}

#[test]
fn the_state_machine_names_nothing_that_differs_between_members() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.module() == "state") {
        for (at, line) in source.code() {
            for word in NONDETERMINISTIC.iter().filter(|word| line.contains(*word)) {
                findings.push(format!("src/{}:{at} names {word}", source.path));
            }
        }
    }
    expect_none(findings);
}

#[test]
fn every_file_says_what_it_is() {
    let silent =
        sources().into_iter().filter(|source| !source.text.starts_with("//!") && !source.text.starts_with("#![doc"));
    expect_none(silent.map(|source| format!("src/{} does not open with //!", source.path)).collect());
}

#[test]
fn nothing_unfinished_is_kept_and_only_tests_unwrap() {
    let mut findings = Vec::new();
    for source in sources() {
        for (at, line) in source.code() {
            for word in [".unwrap()", "todo!(", "unimplemented!(", "dbg!(", "#[ignore"] {
                if line.contains(word) {
                    findings.push(format!("src/{}:{at} has {word}", source.path));
                }
            }
        }
    }
    expect_none(findings);
}

#[test]
fn upward_names_are_found_in_every_form_of_use() {
    assert_eq!(named_modules("use crate::state::Store;"), ["state"]);
    assert_eq!(named_modules("use crate::{clock, raft::Node};"), ["clock", "raft"]);
    assert_eq!(named_modules("let a = crate::watch::hub() + kelson::server::x();"), ["watch", "server"]);
}
