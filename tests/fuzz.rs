//! Fuzzing of everything that reads bytes from outside, on stable Rust: the disk, peers, clients, the operator's files.
//!
//! ```text
//! cargo test --test fuzz                                    a fixed number of inputs from a fixed seed, as CI does
//! KELSON_FUZZ_SECONDS=3600 cargo test --test fuzz           an hour, shared by all targets; with progress
//! KELSON_FUZZ_SECONDS=600 cargo test --test fuzz requests   ten minutes of one target
//! KELSON_FUZZ_SEED=7 ...                                    other inputs
//! KELSON_FUZZ_INPUT=FILE cargo test --test fuzz TARGET      one input, such as one that a failed run left
//! KELSON_FUZZ_KINDS=1 ... -- --nocapture                    the kinds of answers that inputs got
//! KELSON_FUZZ_KEEP=1 ...                                    adds what got new answers to the corpus
//! ```
//!
//! A target is a file in `fuzz/`; its corpus is `fuzz/corpus/TARGET/`, where the input of every bug that was found stays.
//! A finding is written below `target/tmp/fuzz/`, and the failure says how to run it again. Should the process die
//! without a word, the input that it was reading is `target/tmp/fuzz/TARGET/current`.

#[path = "fuzz/commands.rs"]
mod commands;
#[path = "fuzz/configuration.rs"]
mod configuration;
#[path = "fuzz/engine.rs"]
mod engine;
#[path = "fuzz/key_values.rs"]
mod key_values;
#[path = "fuzz/log_directory.rs"]
mod log_directory;
#[path = "fuzz/log_records.rs"]
mod log_records;
#[path = "fuzz/marks.rs"]
mod marks;
#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/peer_messages.rs"]
mod peer_messages;
#[path = "support/random.rs"]
mod random;
#[path = "fuzz/requests.rs"]
mod requests;
#[path = "fuzz/urls.rs"]
mod urls;

use engine::fuzz;

/// Every target; the names of the tests.
const TARGETS: [&str; 9] = [
    "commands",
    "configuration",
    "key_values",
    "log_directory",
    "log_records",
    "marks",
    "peer_messages",
    "requests",
    "urls",
];

#[test]
fn commands() {
    fuzz(commands::Commands);
}

#[test]
fn configuration() {
    fuzz(configuration::Configuration::new());
}

#[test]
fn key_values() {
    fuzz(key_values::KeyValues);
}

#[test]
fn log_directory() {
    fuzz(log_directory::LogDirectory);
}

#[test]
fn log_records() {
    fuzz(log_records::LogRecords);
}

#[test]
fn marks() {
    fuzz(marks::Marks);
}

#[test]
fn peer_messages() {
    fuzz(peer_messages::PeerMessages::new());
}

#[test]
fn requests() {
    fuzz(requests::Requests::new());
}

#[test]
fn urls() {
    fuzz(urls::Urls);
}
