//! The few flags of the snapshot commands, by the rules of etcd's tools: anywhere on the line, `--name value` or
//! `--name=value`, the last one wins. The server's flags are `config`'s.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// A flag of one command.
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// One letter that means the same.
    pub short: Option<char>,
    /// What its value is called in the help; `None` for a flag that is on or off.
    pub value: Option<&'static str>,
    /// A sentence.
    pub help: &'static str,
}

/// What was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// What is no flag.
    pub positional: Vec<String>,
    values: BTreeMap<&'static str, String>,
}

impl Given {
    /// Takes the arguments apart; `None` when help is asked for.
    pub fn parse(args: Vec<OsString>, flags: &[Flag]) -> Result<Option<Self>, String> {
        let mut given = Self::default();
        let mut args = args
            .into_iter()
            .map(|arg| arg.into_string().map_err(|arg| format!("the argument {} is not UTF-8", arg.display())));
        while let Some(arg) = args.next() {
            let arg = arg?;
            if arg == "--" {
                given.positional.extend(args.by_ref().collect::<Result<Vec<_>, _>>()?);
                break;
            }
            if arg == "-" || !arg.starts_with('-') {
                given.positional.push(arg);
                continue;
            }
            if arg == "--help" || arg == "-h" {
                return Ok(None);
            }
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (arg.as_str(), None),
            };
            let is_named = |flag: &&Flag| match name.strip_prefix("--") {
                Some(name) => flag.name == name,
                None => flag.short.is_some_and(|short| name[1..].chars().eq([short])),
            };
            let flag = flags.iter().find(is_named).ok_or_else(|| format!("unknown flag: {name}"))?;
            let value = match (value, flag.value) {
                (Some(value), _) => value,
                (None, None) => "true".to_owned(),
                (None, Some(_)) => args.next().transpose()?.ok_or_else(|| format!("flag needs an argument: {name}"))?,
            };
            given.values.insert(flag.name, value);
        }
        Ok(Some(given))
    }

    /// The only argument that is no flag.
    pub fn file(&self) -> Result<&str, String> {
        match &self.positional[..] {
            [file] => Ok(file),
            [] => Err("which file?".to_owned()),
            [_, more @ ..] => Err(format!("one file is enough, what is {}?", more.join(" "))),
        }
    }

    /// A flag's value, if it was given.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether a flag is on.
    pub fn is_on(&self, name: &str) -> Result<bool, String> {
        match self.value(name) {
            None => Ok(false),
            Some(value) => value.parse().map_err(|_| format!("--{name} is true or false, not \"{value}\"")),
        }
    }
}

/// The flags, for the help.
pub fn describe(flags: &[Flag]) -> String {
    let describe = |flag: &Flag| {
        let short = flag.short.map(|short| format!("-{short}, ")).unwrap_or_default();
        let value = flag.value.map(|value| format!(" {value}")).unwrap_or_default();
        format!("  {short}--{}{value}\n      {}\n", flag.name, flag.help)
    };
    flags.iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag { name: "write-out", short: Some('w'), value: Some("FORMAT"), help: "" },
        Flag { name: "fast", short: None, value: None, help: "" },
    ];

    fn parse(args: &[&str]) -> Result<Option<Given>, String> {
        Given::parse(args.iter().map(OsString::from).collect(), FLAGS)
    }

    #[test]
    fn flags_stand_anywhere_and_in_both_forms() {
        for args in [
            &["f", "-w", "json", "--fast"][..],
            &["--write-out=json", "f", "--fast=true"],
            &["--fast", "-w=json", "--", "f"],
        ] {
            let given = parse(args).unwrap().unwrap();
            assert_eq!(
                (given.file(), given.value("write-out"), given.is_on("fast")),
                (Ok("f"), Some("json"), Ok(true)),
                "{args:?}"
            );
        }
        assert_eq!(parse(&["f", "--help"]), Ok(None));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(parse(&["--slow"]).unwrap_err(), "unknown flag: --slow");
        assert_eq!(parse(&["-w"]).unwrap_err(), "flag needs an argument: -w");
        assert_eq!(parse(&["-x"]).unwrap_err(), "unknown flag: -x");
        assert!(parse(&["a", "b"]).unwrap().unwrap().file().unwrap_err().contains("what is b?"));
        assert!(parse(&["--fast=maybe"]).unwrap().unwrap().is_on("fast").is_err());
    }
}
