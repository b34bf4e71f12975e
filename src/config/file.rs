//! The file of `--config-file`: YAML or JSON, with the flags' names as keys and TLS in two blocks, as etcd's.

use std::path::Path;

use serde_yaml_ng::{Mapping, Value};

use super::draft::Draft;
use super::flag::{Flag, Kind, Syntax};
use super::flags;

/// Blocks of TLS settings, and the prefix that makes a key inside the name of a flag.
const TLS_BLOCKS: [(&str, &str); 2] = [("client-transport-security", ""), ("peer-transport-security", "peer-")];

/// Keys of the TLS blocks whose flag is called otherwise: (block, key, flag).
const TLS_NAMES: [(&str, &str, &str); 4] = [
    ("client-transport-security", "allowed-cn", "client-cert-allowed-cn"),
    ("client-transport-security", "allowed-hostname", "client-cert-allowed-hostname"),
    ("peer-transport-security", "allowed-cn", "peer-cert-allowed-cn"),
    ("peer-transport-security", "allowed-hostname", "peer-cert-allowed-hostname"),
];

/// Reads a file. The error names the file and what is wrong with it.
pub fn read(path: &Path) -> Result<Draft, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Reads a file's text. Keys that are no flag's only warn, as etcd ignores them.
fn parse(text: &str) -> Result<Draft, String> {
    let mut draft = Draft::default();
    for (key, value) in read_mapping(serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?)? {
        if let Some((block, prefix)) = TLS_BLOCKS.iter().find(|(block, _)| *block == key) {
            for (inner, value) in read_mapping(value)? {
                let flag = tls_flag(block, prefix, &inner);
                set(&mut draft, flag, &format!("{block}.{inner}"), &value)?;
            }
        } else {
            set(&mut draft, flags::find(&key), &key, &value)?;
        }
    }
    Ok(draft)
}

fn read_mapping(value: Value) -> Result<Vec<(String, Value)>, String> {
    let mapping = match value {
        Value::Null => Mapping::new(),
        Value::Mapping(mapping) => mapping,
        _ => return Err("expected keys and values".into()),
    };
    mapping
        .into_iter()
        .map(|(key, value)| match key {
            Value::String(key) => Ok((key, value)),
            _ => Err("expected the name of a flag as key".into()),
        })
        .collect()
}

fn tls_flag(block: &str, prefix: &str, key: &str) -> Option<&'static Flag> {
    let renamed = TLS_NAMES.iter().find(|(of, name, _)| *of == block && *name == key).map(|(_, _, flag)| *flag);
    let name = renamed.map_or_else(|| format!("{prefix}{key}"), str::to_owned);
    flags::find(&name).or_else(|| flags::FILE_ONLY.iter().find(|flag| flag.name == name))
}

fn set(draft: &mut Draft, flag: Option<&'static Flag>, key: &str, value: &Value) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    let Some(flag) = flag else {
        draft.warn(format!("unrecognized key {key} in the configuration file"));
        return Ok(());
    };
    let text = scalar(flag, value).map_err(|error| format!("{key}: {error}"))?;
    if text.is_empty() {
        return Ok(());
    }
    draft.note_given(flag.name);
    flag.set(draft, &text).map_err(|error| format!("invalid value \"{text}\" for {key}: {error}"))
}

/// The value as the flag's text. Durations are whole nanoseconds in a file; lists may be lists.
fn scalar(flag: &Flag, value: &Value) -> Result<String, String> {
    let is_number = matches!(flag.kind, Kind::U32(_) | Kind::U64(_) | Kind::Usize(_) | Kind::Unused(Syntax::Int));
    match value {
        Value::Number(number) if flag.is_duration() => {
            let nanos = number.as_i64().ok_or("expected a duration in whole nanoseconds")?;
            Ok(format!("{nanos}ns"))
        }
        _ if flag.is_duration() => Err("expected a duration in whole nanoseconds, such as 600000000000 for 10m".into()),
        Value::Bool(on) => Ok(on.to_string()),
        _ if flag.is_bool() => Err("expected true or false".into()),
        Value::Number(number) => Ok(number.to_string()),
        _ if is_number => Err("expected a number".into()),
        Value::String(text) => Ok(text.clone()),
        Value::Sequence(parts) => {
            let parts: Option<Vec<_>> = parts.iter().map(Value::as_str).collect();
            Ok(parts.ok_or("expected a list of texts")?.join(","))
        }
        Value::Null | Value::Mapping(_) | Value::Tagged(_) => Err("expected one value".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn yaml_fills_the_same_fields_as_flags() {
        let draft = parse(
            "name: a\nheartbeat-interval: 500\nelection-timeout: 5000\nlog-outputs: [stderr, /var/log/k]\n\
             watch-progress-notify-interval: 5000000000\nauto-compaction-retention: 1\npre-vote: false\n\
             data-dir: /d\nclient-transport-security:\n  cert-file:\n  client-cert-auth: false\n",
        )
        .unwrap();
        let (config, warnings) = draft.finish().unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!((config.heartbeat_interval_ms, config.election_timeout_ms), (500, 5000));
        assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(5));
        assert_eq!(config.auto_compaction, super::super::AutoCompaction::Periodic(Duration::from_secs(3600)));
        assert_eq!(config.log.outputs.len(), 2);
        assert!(!config.pre_vote && config.initial_cluster.contains_key("a"));
    }

    #[test]
    fn json_is_yaml() {
        let draft = parse(r#"{"name": "b", "snapshot-count": 5}"#).unwrap();
        assert_eq!((draft.config.name.as_str(), draft.config.snapshot_count), ("b", 5));
    }

    #[test]
    fn durations_are_nanoseconds_and_types_must_fit() {
        for (text, part) in [
            ("watch-progress-notify-interval: 10m", "whole nanoseconds"),
            ("pre-vote: maybe", "true or false"),
            ("heartbeat-interval: fast", "expected a number"),
            ("name: {a: b}", "expected one value"),
            ("- a", "expected keys and values"),
            ("a: [", ""),
        ] {
            let error = parse(text).err().unwrap_or_else(|| panic!("{text} was read"));
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_tls_blocks_have_keys_without_flags() {
        let draft = parse(
            "client-transport-security: {cert-file: /c, key-file: /k, trusted-ca-file: /ca, allowed-cn: [a, b]}\n\
             peer-transport-security: {auto-tls: true, skip-client-san-verification: true}\n\
             cipher-suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\ntls-max-version: TLS1.2\n\
             listen-client-urls: https://127.0.0.1:1\nadvertise-client-urls: https://127.0.0.1:1\n\
             listen-peer-urls: https://127.0.0.1:2\n",
        )
        .unwrap();
        let (config, warnings) = draft.finish().unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!((config.client_tls.cert_file, config.client_tls.allowed_cns.len()), (Some("/c".into()), 2));
        assert!(config.peer_tls.auto_tls && config.peer_tls.skip_client_san_verification);
        assert_eq!(config.cipher_suites, ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
        assert_eq!(config.tls_max_version, Some(super::super::TlsVersion::Tls12));
    }

    #[test]
    fn an_unknown_key_warns_and_half_a_pair_is_refused() {
        let (_, warnings) = parse("enable-v3: true").unwrap().finish().unwrap();
        assert_eq!(warnings, ["unrecognized key enable-v3 in the configuration file"]);
        let refusal = parse("peer-transport-security: {cert-file: /c}").unwrap().finish().unwrap_err();
        assert!(refusal.starts_with("--peer-cert-file=/c needs --peer-key-file too"), "{refusal}");
    }
}
