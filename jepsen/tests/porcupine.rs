//! The search checker against porcupine, on a few hundred simulated histories with and without planted bugs.
//!
//! Needs `go` and its module; where one of them is missing the test says that it was skipped.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use jepsen::check::finding::Judgement;
use jepsen::check::search;
use jepsen::export::porcupine;
use jepsen::simulate::{Bug, Options, simulate};
use jepsen::workload::Kind;

/// Histories of each sort.
const HISTORIES: u64 = 60;

/// Builds the program; `None` = it cannot be had here.
fn build(to: &Path) -> Option<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("porcupine");
    let built = Command::new("go").args(["build", "-o"]).arg(to).arg(".").current_dir(source).output();
    match built {
        Ok(output) if output.status.success() => Some(()),
        Ok(output) => {
            println!("SKIPPED: porcupine cannot be built: {}", String::from_utf8_lossy(&output.stderr));
            None
        }
        Err(error) => {
            println!("SKIPPED: no go: {error}");
            None
        }
    }
}

#[test]
fn the_search_agrees_with_porcupine() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("porcupine");
    if build(&program).is_none() {
        return;
    }
    let bugs = [None, Some(Bug::StaleRead), Some(Bug::LostWrite), Some(Bug::WrongRead), Some(Bug::IgnoredGuard)];
    let (mut lines, mut ours) = (Vec::new(), Vec::new());
    for (at, bug) in bugs.into_iter().enumerate() {
        for seed in 0..HISTORIES {
            let options = Options { bug, clients: 5, unknown_per_mille: 20, ..Options::new(Kind::Register, seed, 150) };
            let (history, _) = simulate(options);
            let number = at as u64 * HISTORIES + seed;
            for line in porcupine(number, &history.ops) {
                lines.extend(serde_json::to_vec(&line).unwrap());
                lines.push(b'\n');
            }
            ours.push(match search::check(&history.ops).judgement {
                Judgement::Valid => format!("{number} Ok"),
                Judgement::Invalid => format!("{number} Illegal"),
                Judgement::Unknown => format!("{number} Unknown"),
            });
        }
    }
    let mut child = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(&lines));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let theirs: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let illegal = ours.iter().filter(|line| line.ends_with("Illegal")).count();
    println!("{} histories, {illegal} of them not linearizable", ours.len());
    assert!(illegal > ours.len() / 3, "only {illegal} are bad");
    assert_eq!(ours, theirs);
}
