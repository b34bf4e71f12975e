//! The same random requests to etcd 3.7.3 and to kelson; every field of every answer must be equal.
//!
//! Needs an etcd binary, so plain `cargo test` only says how to run it:
//!
//! ```text
//! KELSON_DIFFERENTIAL=1 cargo test --test differential -- --requests 20000 --seed 7
//! ```
//!
//! The differences that are allowed stand in `differential/allowed.rs`. A run is repeated by its seed. `--control`
//! compares etcd with itself, `--plant 1000` spoils one answer in a thousand and fails unless each is found, and
//! `--record FILE` writes steps and answers for `recorded.rs`.

#[path = "differential/allowed.rs"]
mod allowed;
#[path = "support/client.rs"]
mod client;
#[path = "differential/diff.rs"]
mod diff;
#[path = "differential/generator.rs"]
mod generator;
#[path = "differential/options.rs"]
mod options;
#[path = "support/process.rs"]
mod process;
#[path = "support/random.rs"]
mod random;
#[path = "differential/requests.rs"]
mod requests;
#[path = "differential/run.rs"]
mod run;
#[path = "support/schema.rs"]
mod schema;
#[path = "support/session.rs"]
mod session;
#[path = "differential/spoil.rs"]
mod spoil;
#[path = "support/step.rs"]
mod step;
#[path = "support/watch.rs"]
mod watch;

use std::process::ExitCode;

use options::Options;

fn main() -> ExitCode {
    if std::env::var_os("KELSON_DIFFERENTIAL").is_none() {
        println!("compares kelson with etcd 3.7.3: KELSON_DIFFERENTIAL=1 cargo test --test differential -- --help");
        return ExitCode::SUCCESS;
    }
    let options = match Options::from_args() {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run::run(&options)),
        Err(error) => Err(error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
