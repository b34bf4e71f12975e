//! Bugs put in on purpose, which the engine must find: a fuzzer that finds nothing may be a broken one. Each is hunted in a
//! process of its own, as it fails there.

use std::process::Command;

use kelson::proto::Record;

use super::engine::{Target, Verdict, fuzz};
use super::key_values::KeyValues;
use super::mutate;
use super::random::Random;

const VARIABLE: &str = "KELSON_FUZZ_PLANTED";

/// What is wrong, and words of the finding.
const BUGS: [(&str, &str); 3] =
    [("slice", "out of range for slice"), ("memory", "MiB of memory"), ("meaning", "assertion `left == right` failed")];

struct Planted(String);

/// Hunts the bug that the environment names, or without one sees to it that each is found.
pub fn run() {
    if let Ok(bug) = std::env::var(VARIABLE) {
        return fuzz(Planted(bug));
    }
    for (bug, words) in BUGS {
        let mut hunt = Command::new(std::env::current_exe().unwrap());
        let output = hunt.args(["planted_bugs_are_found", "--exact"]).env(VARIABLE, bug).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{bug} is not found");
        assert!(text.contains(words) && text.contains("KELSON_FUZZ_INPUT="), "{bug}: {text}");
    }
}

impl Target for Planted {
    const NAME: &'static str = "planted";
    const ITERATIONS: u64 = 3_000;

    fn seeds(&mut self) -> Vec<Vec<u8>> {
        KeyValues.seeds()
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        mutate::message(input, other, random);
    }

    fn run(&mut self, input: &[u8]) -> Verdict {
        // The key's length is believed.
        if self.0 == "slice" && input.first() == Some(&0x0a) && input.len() > 1 {
            std::hint::black_box(&input[2..2 + usize::from(input[1])]);
        }
        let Ok(record) = Record::from_bytes(input) else { return Verdict::Refused("no record".into()) };
        match self.0.as_str() {
            // The version announces how much will come.
            "memory" => {
                let announced = usize::try_from(record.version()).unwrap_or(0).min(1 << 30);
                std::hint::black_box(vec![0_u8; announced]);
            }
            // The first of two values counts, instead of the last.
            "meaning" if input.iter().filter(|byte| **byte == 0x2a).count() > 1 => {
                let at = input.windows(6).position(|part| part[0] == 0x2a && part[1] == 4);
                if let Some(at) = at {
                    assert_eq!(record.value(), &input[at + 2..at + 6]);
                }
            }
            _ => {}
        }
        Verdict::Accepted(String::new())
    }
}
