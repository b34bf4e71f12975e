//! Runs a handful of seeds, as whoever uses the program does: they are valid, the same seed is the same run, and a bug that
//! is put in is found.

use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().unwrap()
}

fn shown(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_handful_of_seeds_is_valid() {
    let output = sim(&["--seeds", "1..21"]);
    assert!(output.status.success(), "{}", shown(&output));
}

#[test]
fn the_same_seed_gives_the_same_run_in_another_process() {
    let output = sim(&["--seeds", "100..104", "--twice"]);
    assert!(output.status.success(), "{}", shown(&output));
    assert!(shown(&output).contains("4 of them twice"), "{}", shown(&output));
}

#[test]
fn members_that_lose_what_they_acknowledged_are_found() {
    for mutant in ["--mutant=no-sync", "--mutant=lying-sync"] {
        let output = sim(&["--seeds", "1..13", "--only=power-cut,blackout", mutant]);
        assert_eq!(output.status.code(), Some(1), "{mutant}: {}", shown(&output));
    }
}

#[test]
fn a_batch_that_is_done_again_when_it_comes_again_is_found() {
    let output = sim(&["--seeds", "1..13", "--only=duplicate", "--mutant=batch-twice"]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
}
