//! From arguments and environment to a [`Config`], by the rules of etcd's command line.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use super::Config;
use super::draft::Draft;
use super::flag::Flag;
use super::{file, flags, gates, help};

/// What the command line asked for.
#[derive(Debug)]
pub enum Parsed {
    /// Run a member.
    Run {
        /// What was chosen.
        config: Box<Config>,
        /// What to tell the operator once the log is open.
        warnings: Vec<String>,
        /// Names of the flags that were given, in whatever way.
        given: BTreeSet<&'static str>,
    },
    /// Print this and end well: `--help` and `--version`.
    Print(String),
}

/// Why there is no [`Config`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A flag is unknown, or its value cannot be read. Printed before the usage.
    #[error("{0}")]
    Usage(String),
    /// The flags are readable, but may not be so. Logged.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// The process's exit code, as etcd's.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Invalid(_) => 1,
        }
    }
}

const CONFIG_FILE: &str = "config-file";
const CONFIG_FILE_VARIABLE: &str = "ETCD_CONFIG_FILE";
/// Variables of etcd that are no flag's; `ETCD_UNSUPPORTED_ARCH` is for machines that we do not tell apart.
const OTHER_VARIABLES: [&str; 2] = [CONFIG_FILE_VARIABLE, "ETCD_UNSUPPORTED_ARCH"];

impl Config {
    /// Reads the arguments after the program's name, and the environment. A given file replaces both.
    pub fn from_args(
        args: impl IntoIterator<Item = OsString>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Parsed, Error> {
        let env: Vec<_> = env.into_iter().filter_map(|(name, value)| own_variable(&name, value)).collect();
        let mut draft = Draft::default();
        let mut config_file = None;
        for given in split_args(args)? {
            match (given.name.as_str(), given.value) {
                ("help" | "h", _) => return Ok(Parsed::Print(help::text())),
                ("version", value) => {
                    if read_switch("version", value)? {
                        return Ok(Parsed::Print(help::version()));
                    }
                }
                (CONFIG_FILE, value) => config_file = Some(value.unwrap_or_default()),
                (name, value) => set_from_args(&mut draft, name, value)?,
            }
        }
        let from_env = || env.iter().find(|(name, _)| name == CONFIG_FILE_VARIABLE).map(|(_, value)| value.clone());
        if let Some(path) = config_file.or_else(from_env).filter(|path| !path.is_empty()) {
            draft = file::read(Path::new(&path)).map_err(Error::Invalid)?;
            draft.warn(format!("flags and environment are ignored, because the file {path} is given"));
        } else {
            set_from_env(&mut draft, &env)?;
        }
        let given = draft.given().clone();
        let (config, warnings) = draft.finish().map_err(Error::Invalid)?;
        Ok(Parsed::Run { config: Box::new(config), warnings, given })
    }
}

/// One argument, taken apart.
struct Given {
    name: String,
    value: Option<String>,
}

/// Takes arguments apart as Go's `flag` package does: one dash or two, `--name=value` or `--name value`, and for
/// flags that are true or false no value, unless after `=`.
fn split_args(args: impl IntoIterator<Item = OsString>) -> Result<Vec<Given>, Error> {
    let mut given = Vec::new();
    let mut args = args.into_iter().map(|arg| {
        arg.into_string().map_err(|arg| Error::Usage(format!("the argument {} is not UTF-8", arg.display())))
    });
    while let Some(arg) = args.next() {
        let arg = arg?;
        let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|name| !name.is_empty())
        else {
            let positional = if arg == "--" { args.next().transpose()?.unwrap_or_default() } else { arg };
            return Err(Error::Invalid(format!("\"{positional}\" is not a valid flag")));
        };
        if name.starts_with(['-', '=']) {
            return Err(Error::Usage(format!("bad flag syntax: {arg}")));
        }
        let (name, mut value) = match name.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (name.to_owned(), None),
        };
        if value.is_none() && needs_value(&name)? {
            value =
                Some(args.next().transpose()?.ok_or_else(|| Error::Usage(format!("flag needs an argument: -{name}")))?);
        }
        given.push(Given { name, value });
    }
    Ok(given)
}

fn needs_value(name: &str) -> Result<bool, Error> {
    match name {
        "help" | "h" | "version" => Ok(false),
        CONFIG_FILE => Ok(true),
        _ if gate_of_old_flag(name).is_some() => Ok(false),
        _ => {
            let flag = find(name)?;
            Ok(!flag.is_bool() && !flags::is_old(flag))
        }
    }
}

fn find(name: &str) -> Result<&'static Flag, Error> {
    flags::find(name).ok_or_else(|| Error::Usage(format!("flag provided but not defined: -{name}")))
}

/// Gates were flags once: `--experimental-initial-corrupt-check` is `--feature-gates=InitialCorruptCheck=true`.
fn gate_of_old_flag(name: &str) -> Option<&'static str> {
    let old = name.strip_prefix("experimental-").filter(|old| !old.is_empty())?;
    gates::GATES.iter().find(|gate| gate.old_flag == old).map(|gate| gate.name)
}

fn read_switch(name: &str, value: Option<String>) -> Result<bool, Error> {
    let value = value.unwrap_or_else(|| "true".into());
    super::number::parse_bool(&value)
        .map_err(|error| Error::Usage(format!("invalid boolean value \"{value}\" for -{name}: {error}")))
}

fn set_from_args(draft: &mut Draft, name: &str, value: Option<String>) -> Result<(), Error> {
    if let Some(gate) = gate_of_old_flag(name) {
        let on = read_switch(name, value)?;
        draft.warn(format!("--{name} is the name of an older release; use --feature-gates={gate}={on}"));
        return draft.set_feature_gates(&format!("{gate}={on}")).map_err(Error::Usage);
    }
    let flag = find(name)?;
    if name != flag.name {
        draft.warn(format!("--{name} is the name of an older release; use --{}", flag.name));
    }
    draft.note_given(flag.name);
    let value = value.unwrap_or_else(|| "true".into());
    flag.set(draft, &value).map_err(|error| {
        Error::Usage(if flag.is_bool() {
            format!("invalid boolean value \"{value}\" for -{name}: {error}")
        } else {
            format!("invalid value \"{value}\" for flag -{name}: {error}")
        })
    })
}

/// The variable, if its name is one for us.
fn own_variable(name: &OsString, value: OsString) -> Option<(String, String)> {
    let name = name.to_str().filter(|name| name.starts_with("ETCD_") || name.starts_with("KELSON_"))?;
    Some((name.to_owned(), value.to_string_lossy().into_owned()))
}

/// Sets what the environment says. A variable and a flag for the same thing stop the start, even if they agree: the
/// operator believes in one of them only. An empty variable is none.
fn set_from_env(draft: &mut Draft, env: &[(String, String)]) -> Result<(), Error> {
    for (name, value) in env.iter().filter(|(name, _)| !OTHER_VARIABLES.contains(&name.as_str())) {
        let Some(flag) = flags::all().find(|flag| flag.variable() == *name) else {
            draft.warn(format!("unrecognized environment variable {name}={value}"));
            continue;
        };
        if value.is_empty() {
            continue;
        }
        if !draft.note_given(flag.name) {
            return Err(Error::Invalid(format!(
                "conflicting environment variable {name} is shadowed by the command-line flag --{}: unset the \
                 variable or leave the flag out",
                flag.name
            )));
        }
        flag.set(draft, value)
            .map_err(|error| Error::Invalid(format!("invalid value \"{value}\" for {name}: {error}")))?;
    }
    Ok(())
}
