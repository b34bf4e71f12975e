//! What one flag is: its name, how its text is read, where the value goes, and how far this server honours it.

use std::path::PathBuf;
use std::time::Duration;

use super::draft::Draft;
use super::number::{PARSE_ERROR, parse_bool, parse_duration, parse_int, parse_uint};
use super::url::Url;

/// One flag. The same row serves the command line, the environment, the file and `--help`.
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// What `--help` shows, and what leaves a flag without effect silent.
    pub default: &'static str,
    /// One or two sentences for `--help`.
    pub help: &'static str,
    /// How the text is read and where the value goes.
    pub kind: Kind,
    /// How far this server honours it.
    pub honour: Honour,
}

/// How a flag's text is read, and the field that gets the value.
pub enum Kind {
    Bool(fn(&mut Draft) -> &mut bool),
    U32(fn(&mut Draft) -> &mut u32),
    U64(fn(&mut Draft) -> &mut u64),
    Usize(fn(&mut Draft) -> &mut usize),
    Duration(fn(&mut Draft) -> &mut Duration),
    Text(fn(&mut Draft) -> &mut String),
    /// A file; empty is none.
    Path(fn(&mut Draft) -> &mut Option<PathBuf>),
    /// Comma-separated.
    List(fn(&mut Draft) -> &mut Vec<String>),
    /// At least one URL, sorted, each once.
    Urls(fn(&mut Draft) -> &mut Vec<Url>),
    /// As `Urls`, or none.
    UrlsOrNone(fn(&mut Draft) -> &mut Vec<Url>),
    /// Read by its own function.
    Custom(fn(&mut Draft, &str) -> Result<(), String>),
    /// Checked and dropped: the flag has no field.
    Unused(Syntax),
}

/// How the text of a flag without a field must look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    Bool,
    Int,
    Duration,
    Text,
}

/// How far this server honours a flag.
pub enum Honour {
    /// It means what etcd means.
    Full,
    /// Accepted; a value other than the default is answered with a warning that gives this reason.
    Without(&'static str),
    /// A value other than the default stops the start: ignoring it would break a promise.
    Refused {
        /// Why.
        reason: &'static str,
        /// What to do instead.
        way_out: &'static str,
    },
}

impl Flag {
    /// A flag that means what etcd means.
    pub const fn new(name: &'static str, default: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { name, default, help, kind, honour: Honour::Full }
    }

    /// A flag that is accepted without effect.
    pub const fn without(mut self, reason: &'static str) -> Self {
        self.honour = Honour::Without(reason);
        self
    }

    /// A flag that is refused.
    pub const fn refused(mut self, reason: &'static str, way_out: &'static str) -> Self {
        self.honour = Honour::Refused { reason, way_out };
        self
    }

    /// Whether the flag may stand without a value.
    pub fn is_bool(&self) -> bool {
        matches!(self.kind, Kind::Bool(_) | Kind::Unused(Syntax::Bool))
    }

    /// Whether the value is a duration, which a file must write as nanoseconds.
    pub fn is_duration(&self) -> bool {
        matches!(self.kind, Kind::Duration(_) | Kind::Unused(Syntax::Duration))
    }

    /// The name of the flag's environment variable.
    pub fn variable(&self) -> String {
        let prefix = if super::flags::is_own(self) { "KELSON_" } else { "ETCD_" };
        format!("{prefix}{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// Puts `text` where it belongs. The error is what is wrong with `text`, without the flag's name.
    pub fn set(&self, draft: &mut Draft, text: &str) -> Result<(), String> {
        match &self.kind {
            Kind::Bool(field) => *field(draft) = parse_bool(text)?,
            Kind::U32(field) => *field(draft) = parse_uint(text)?.try_into().map_err(|_| super::number::RANGE_ERROR)?,
            Kind::U64(field) => *field(draft) = parse_uint(text)?,
            Kind::Usize(field) => {
                *field(draft) = parse_uint(text)?.try_into().map_err(|_| super::number::RANGE_ERROR)?;
            }
            Kind::Duration(field) => *field(draft) = parse_duration(text)?,
            Kind::Text(field) => *field(draft) = text.to_owned(),
            Kind::Path(field) => *field(draft) = (!text.is_empty()).then(|| text.into()),
            Kind::List(field) => *field(draft) = split_list(text),
            Kind::Urls(field) => {
                let urls = parse_urls(text)?;
                if urls.is_empty() {
                    return Err("no valid URLs given".into());
                }
                *field(draft) = urls;
            }
            Kind::UrlsOrNone(field) => *field(draft) = parse_urls(text)?,
            Kind::Custom(read) => read(draft, text)?,
            Kind::Unused(syntax) => syntax.check(text)?,
        }
        self.judge(draft, text)
    }

    /// Notes a warning, or a refusal, for a value that this server does not honour.
    fn judge(&self, draft: &mut Draft, text: &str) -> Result<(), String> {
        if self.is_default(text) {
            return Ok(());
        }
        match self.honour {
            Honour::Full => {}
            Honour::Without(reason) => draft.warn(format!("--{} has no effect: {reason}", self.name)),
            Honour::Refused { reason, way_out } => {
                draft.refuse(format!("--{}={text} is refused: {reason}; {way_out}", self.name));
            }
        }
        Ok(())
    }

    fn is_default(&self, text: &str) -> bool {
        let same_bool = || parse_bool(text).is_ok_and(|on| parse_bool(self.default) == Ok(on));
        let same_duration = || parse_duration(text).is_ok_and(|time| parse_duration(self.default) == Ok(time));
        text == self.default || (self.is_bool() && same_bool()) || (self.is_duration() && same_duration())
    }
}

impl Syntax {
    fn check(self, text: &str) -> Result<(), String> {
        match self {
            Self::Bool => parse_bool(text).map(drop),
            Self::Int => parse_int(text).map(drop),
            // Without effect, a negative duration is as good as any.
            Self::Duration => parse_duration(text.strip_prefix('-').unwrap_or(text)).map(drop),
            Self::Text => Ok(()),
        }
        .map_err(|_| PARSE_ERROR.into())
    }
}

/// Comma-separated parts without surrounding blanks; empty parts are dropped.
pub fn split_list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// As etcd, sorted and each once: what a member reports does not depend on how its operator ordered them.
pub fn parse_urls(text: &str) -> Result<Vec<Url>, String> {
    let mut urls = Url::parse_list(text)?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}
