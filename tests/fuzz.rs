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

#[path = "common/authority.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod authority;
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
#[path = "fuzz/member_directory.rs"]
mod member_directory;
#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/peer_messages.rs"]
mod peer_messages;
#[path = "fuzz/planted.rs"]
mod planted;
#[path = "support/random.rs"]
mod random;
#[path = "fuzz/requests.rs"]
mod requests;
#[path = "fuzz/snapshot_file.rs"]
mod snapshot_file;
#[path = "fuzz/tls_files.rs"]
mod tls_files;
#[path = "fuzz/urls.rs"]
mod urls;

use engine::fuzz;

/// Every target; the names of the tests.
const TARGETS: [&str; 12] = [
    "commands",
    "configuration",
    "key_values",
    "log_directory",
    "log_records",
    "marks",
    "member_directory",
    "peer_messages",
    "requests",
    "snapshot_file",
    "tls_files",
    "urls",
];

/// So that a clone of the repository stays small.
#[test]
fn the_corpus_is_of_known_targets_and_small() {
    let mut bytes = 0;
    for entry in std::fs::read_dir(engine::corpus_dir("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.contains(&&*name), "{name} is no target");
        bytes += engine::corpus(&name).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    }
    assert!(bytes <= 1 << 20, "{bytes} bytes of corpus");
}

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

/// Only when it is named: each start of a member waits until sled has had all disks of the machine synced.
#[test]
fn member_directory() {
    if engine::is_named("member_directory") {
        fuzz(member_directory::MemberDirectory::new());
    }
}

#[test]
fn peer_messages() {
    fuzz(peer_messages::PeerMessages::new());
}

#[test]
fn planted_bugs_are_found() {
    planted::run();
}

#[test]
fn requests() {
    fuzz(requests::Requests::new());
}

#[test]
fn snapshot_file() {
    fuzz(snapshot_file::SnapshotFile::new());
}

#[test]
fn tls_files() {
    fuzz(tls_files::TlsFiles::new());
}

#[test]
fn urls() {
    fuzz(urls::Urls);
}
