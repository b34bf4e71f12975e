//! The program: from flags to a running member, from a signal to an orderly end. Everything else is in the library.

#![forbid(unsafe_code)]

#[path = "main/dev.rs"]
mod dev;
#[path = "main/notify.rs"]
mod notify;
#[path = "main/parent.rs"]
mod parent;
#[path = "main/snapshot.rs"]
mod snapshot;
#[path = "main/stop.rs"]
mod stop;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use kelson::Config;
use kelson::config::{self, Parsed, help, logging};

/// One allocator for many threads; glibc's gives large buffers back to the kernel after every page of answers.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the first words ask for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    /// A member with its data on disk.
    Server,
    /// Members in memory for as long as the parent lives.
    Dev,
    /// Work on snapshot files.
    Snapshot,
}

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    let program = if args.is_empty() { OsString::new() } else { args.remove(0) };
    match take_command(&program, &mut args) {
        Ok(Command::Server) => serve(args),
        Ok(Command::Dev) => dev::run(args),
        Ok(Command::Snapshot) => snapshot::run(args),
        Err(unknown) => end_with(&config::Error::Usage(format!("unknown command: {}", unknown.display()))),
    }
}

/// Takes the command from the front of the arguments; without one, flags are the server's. Under the name `etcd` there
/// are no commands, as scripts written for etcd expect.
fn take_command(program: &OsStr, args: &mut Vec<OsString>) -> Result<Command, OsString> {
    let is_etcd = Path::new(program).file_name() == Some(OsStr::new("etcd"));
    let first = args.first().filter(|first| !is_etcd && !first.as_encoded_bytes().starts_with(b"-"));
    let command = match first.map(|first| first.to_str()) {
        None => return Ok(Command::Server),
        Some(Some("server")) => Command::Server,
        Some(Some("dev")) => Command::Dev,
        Some(Some("snapshot")) => Command::Snapshot,
        Some(Some("help")) => {
            args[0] = "--help".into();
            return Ok(Command::Server);
        }
        Some(_) => return Err(args.remove(0)),
    };
    args.remove(0);
    Ok(command)
}

/// `kelson [server] [flags]`.
fn serve(args: Vec<OsString>) -> ExitCode {
    let shown: Vec<_> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let (config, warnings) = match Config::from_args(args, std::env::vars_os()) {
        Ok(Parsed::Run { config, warnings, .. }) => (config, warnings),
        Ok(Parsed::Print(text)) => return print(&text),
        Err(error) => return end_with(&error),
    };
    if let Err(error) = logging::init(&config.log) {
        return complain(&error.to_string());
    }
    tracing::info!(args = shown.join(" "), version = env!("CARGO_PKG_VERSION"), "starting");
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if let Some(warning) = kelson::mutants::warning() {
        tracing::error!("{warning}");
    }
    warn_of_danger(&config);
    block_on(async {
        let ready = |endpoint: &str| {
            tracing::info!(endpoint, "ready to serve client requests");
            tell_manager("READY=1");
        };
        run(*config, ready, stop::asked()).await
    })
}

/// Runs a member until `asked` says why to stop, or until it fails.
async fn run(
    config: Config,
    ready: impl FnOnce(&str),
    asked: impl Future<Output = &'static str>,
) -> Result<(), String> {
    let server = kelson::Server::start(config).await.map_err(|error| error.to_string())?;
    ready(&server.client_endpoint());
    tokio::select! {
        reason = asked => {
            tracing::info!(reason, "stopping");
            tell_manager("STOPPING=1");
            server.shutdown().await;
            Ok(())
        }
        // Nothing more is written, answered or flushed: what was acknowledged is in the log, the rest is unknown.
        reason = server.failed() => {
            tracing::error!(reason, "the member failed and ends at once");
            std::process::exit(1);
        }
    }
}

/// Settings that an operator should not be able to forget.
fn warn_of_danger(config: &Config) {
    if config.unsafe_no_fsync {
        tracing::warn!("--unsafe-no-fsync: acknowledged writes are lost when the machine stops");
    }
}

fn block_on(member: impl Future<Output = Result<(), String>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("cannot start the runtime: {error}")),
    };
    match runtime.block_on(member) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the member failed");
            ExitCode::FAILURE
        }
    }
}

fn tell_manager(state: &str) {
    if let Err(error) = notify::send(state) {
        tracing::warn!(%error, state, "the service manager could not be told");
    }
}

/// Ends because of flags: unreadable ones are shown above the usage, forbidden ones are logged, as etcd does.
fn end_with(error: &config::Error) -> ExitCode {
    match error {
        config::Error::Usage(text) => {
            let code = complain(&format!("{text}\n{}", help::USAGE.trim_end()));
            if code == ExitCode::FAILURE { ExitCode::from(error.exit_code()) } else { code }
        }
        config::Error::Invalid(text) => match logging::init(&Config::default().log) {
            Ok(()) => {
                tracing::error!(error = text, "failed to verify flags");
                ExitCode::from(error.exit_code())
            }
            Err(_) => complain(text),
        },
    }
}

/// Writes to standard error before there is a log.
fn complain(text: &str) -> ExitCode {
    // If even this cannot be written, the exit code has to say it.
    match writeln!(io::stderr(), "{text}") {
        Ok(()) | Err(_) => ExitCode::FAILURE,
    }
}

fn print(text: &str) -> ExitCode {
    match write_out(text) {
        Ok(()) => ExitCode::SUCCESS,
        // `kelson --help | head` closes early, and has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(program: &str, args: &[&str]) -> (Result<Command, OsString>, Vec<OsString>) {
        let mut args: Vec<_> = args.iter().map(OsString::from).collect();
        (take_command(OsStr::new(program), &mut args), args)
    }

    #[test]
    fn flags_come_first_or_after_a_command() {
        let name = || vec![OsString::from("--name=a")];
        assert_eq!(take("/bin/kelson", &["--name=a"]), (Ok(Command::Server), name()));
        assert_eq!(take("kelson", &["server", "--name=a"]), (Ok(Command::Server), name()));
        assert_eq!(take("kelson", &["dev", "--name=a"]), (Ok(Command::Dev), name()));
        assert_eq!(take("kelson", &["snapshot", "status", "f"]).0, Ok(Command::Snapshot));
        assert_eq!(take("kelson", &["help"]), (Ok(Command::Server), vec!["--help".into()]));
        assert_eq!(take("kelson", &["nope"]).0, Err("nope".into()));
    }

    #[test]
    fn under_the_name_of_etcd_there_are_no_commands() {
        let left = vec![OsString::from("dev")];
        assert_eq!(take("/usr/local/bin/etcd", &["dev"]), (Ok(Command::Server), left));
    }
}
