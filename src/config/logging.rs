//! Sets up logging once a process, from [`Log`]: lines in the shape of etcd's, or for people.
//!
//! A JSON line is `{"level":…,"ts":…,"caller":…,"msg":…}` and the event's fields after that, as log collectors for
//! etcd expect. `main` calls [`init`]; everybody logs with `tracing`'s macros.

use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Mutex;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::{Log, LogFormat, LogLevel, LogOutput};

/// Libraries that tell too much at `info`: they log what happens on every request.
const QUIET: [&str; 6] = ["openraft", "sled", "h2", "hyper", "hyper_util", "tonic"];

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be opened.
    #[error("cannot open the log file {path}: {source}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It was set up before.
    #[error("logging was set up before")]
    Again,
}

/// Starts logging for the whole process. Panics are logged from then on.
pub fn init(log: &Log) -> Result<(), Error> {
    let layers =
        log.outputs.iter().filter_map(|output| layer(log, output).transpose()).collect::<Result<Vec<_>, _>>()?;
    tracing_subscriber::registry().with(layers).try_init().map_err(|_| Error::Again)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

type BoxLayer<S> = Box<dyn Layer<S> + Send + Sync>;

fn layer<S>(log: &Log, output: &LogOutput) -> Result<Option<BoxLayer<S>>, Error>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (writer, is_terminal) = match output {
        LogOutput::Off => return Ok(None),
        LogOutput::Stderr => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
        LogOutput::Stdout => (BoxMakeWriter::new(io::stdout), io::stdout().is_terminal()),
        LogOutput::File(path) => (BoxMakeWriter::new(Mutex::new(open(path)?)), false),
    };
    let default = if is_terminal { LogFormat::Console } else { LogFormat::Json };
    let lines = Lines { format: log.format.unwrap_or(default), colored: is_terminal };
    let layer = tracing_subscriber::fmt::layer().event_format(lines).with_writer(writer).with_filter(filter(log.level));
    Ok(Some(layer.boxed()))
}

fn open(path: &Path) -> Result<std::fs::File, Error> {
    let open = OpenOptions::new().create(true).append(true).open(path);
    open.map_err(|source| Error::Open { path: path.display().to_string(), source })
}

fn filter(level: LogLevel) -> Targets {
    let (level, quiet) = match level {
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::INFO),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Error | LogLevel::Panic | LogLevel::Fatal => (LevelFilter::ERROR, LevelFilter::ERROR),
    };
    Targets::new().with_default(level).with_targets(QUIET.map(|target| (target, quiet)))
}

fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    let reason = panic.payload_as_str().unwrap_or("no reason given");
    tracing::error!(place, thread, reason, "panicked");
}

/// How a line looks.
struct Lines {
    format: LogFormat,
    colored: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        match self.format {
            LogFormat::Json => {
                let caller = caller(metadata.file(), metadata.line(), metadata.target());
                writeln!(writer, "{}", json_line(name(metadata.level()), &time, &caller, &fields))
            }
            LogFormat::Console => {
                let level = if self.colored { colored_name(metadata.level()) } else { name(metadata.level()).into() };
                write!(writer, "{time} {level:<5} {}", fields.message)?;
                for (field, value) in &fields.others {
                    write!(writer, " {field}={value}")?;
                }
                writeln!(writer)
            }
        }
    }
}

/// As zap writes it: fixed keys first, the event's own in their order after.
fn json_line(level: &str, time: &str, caller: &str, fields: &Fields) -> String {
    let mut line = String::from("{");
    let fixed = [("level", level), ("ts", time), ("caller", caller), ("msg", &fields.message)];
    let fixed = fixed.map(|(key, value)| (key.to_owned(), Value::from(value)));
    let others = fields.others.iter().map(|(key, value)| (key.clone(), value.clone()));
    for (at, (key, value)) in fixed.into_iter().chain(others).enumerate() {
        if at > 0 {
            line.push(',');
        }
        write!(line, "{}:{value}", Value::from(key)).expect("a string takes any text");
    }
    line.push('}');
    line
}

/// `raft/log_store.rs:12`, or the target where the file is not known.
fn caller(file: Option<&str>, line: Option<u32>, target: &str) -> String {
    let Some(file) = file else { return target.to_owned() };
    let short = file.rsplit_once("src/").map_or(file, |(_, short)| short);
    line.map_or_else(|| short.to_owned(), |line| format!("{short}:{line}"))
}

fn name(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

fn colored_name(level: &Level) -> String {
    let color = match *level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG | Level::TRACE => 36,
    };
    format!("\x1b[{color}m{:<5}\x1b[0m", name(level))
}

/// The fields of one event, in the order in which they were written.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(String, Value)>,
}

impl Fields {
    fn push(&mut self, field: &Field, value: impl Into<Value>) {
        let value = value.into();
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.others.push((field.name().to_owned(), value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value);
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, value.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;

    /// Shares what is written.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: LogFormat, level: LogLevel, log: impl FnOnce()) -> String {
        let shared = Shared::default();
        let writer = shared.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Lines { format, colored: false })
            .with_writer(move || writer.clone())
            .with_filter(filter(level));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = shared.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_has_zaps_keys_in_zaps_order() {
        let line = written(LogFormat::Json, LogLevel::Info, || {
            tracing::warn!(name = "a\"b", count = 3, on = true, error = %"broken", "it failed");
        });
        let (level, rest) = line.split_once(",\"ts\":\"").unwrap();
        let (time, rest) = rest.split_once("\",\"caller\":\"config/logging.rs:").unwrap();
        assert_eq!(level, "{\"level\":\"warn\"");
        assert!(time.len() == "2026-11-24T13:56:29.549240Z".len() && time.ends_with('Z'), "{time}");
        let (_, rest) = rest.split_once('"').unwrap();
        assert_eq!(rest, ",\"msg\":\"it failed\",\"name\":\"a\\\"b\",\"count\":3,\"on\":true,\"error\":\"broken\"}\n");
    }

    #[test]
    fn a_line_for_people_is_short() {
        let line = written(LogFormat::Console, LogLevel::Info, || tracing::info!(port = 2379, "ready"));
        assert_eq!(line.split_once(' ').unwrap().1, "info  ready port=2379\n");
    }

    #[test]
    fn levels_hold_and_chatty_libraries_are_kept_a_level_lower() {
        let lines = |level| {
            let log = || {
                tracing::debug!("a");
                tracing::info!("b");
                tracing::error!("c");
                tracing::info!(target: "openraft::core", "d");
                tracing::warn!(target: "openraft::core", "e");
            };
            let text = written(LogFormat::Console, level, log);
            text.lines().filter_map(|line| line.rsplit(' ').next()).collect::<String>()
        };
        assert_eq!(lines(LogLevel::Debug), "abcde");
        assert_eq!(lines(LogLevel::Info), "bce");
        assert_eq!(lines(LogLevel::Warn), "ce");
        assert_eq!(lines(LogLevel::Fatal), "c");
    }
}
