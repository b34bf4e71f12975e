//! `kelson snapshot status`: what is in a snapshot file, as `etcdutl snapshot status` prints it.

use std::collections::HashSet;
use std::path::Path;

use kelson::proto::Record;
use kelson::storage::engine::RevisionKey;
use kelson::storage::etcd_file::{Bucket, Error, SnapshotReader};

use super::Failure;
use super::flags::{Flag, Given};

/// Before the flags.
pub const HELP: &str =
    "Says what is in a snapshot file, kelson's or etcd's: hash, revision, keys, size, version. The hash is the
one that `etcdutl snapshot status` prints; equal hashes mean equal content. A file with its SHA-256
behind it is also compared with that, which etcdutl leaves to the restore.

Usage:
  kelson snapshot status FILE [-w json|table|simple|fields]

Examples:
  kelson snapshot status backup.db
  kelson snapshot status backup.db -w table
";

/// Its flags.
pub const FLAGS: &[Flag] = &[Flag {
    name: "write-out",
    short: Some('w'),
    value: Some("FORMAT"),
    help: "simple (the five separated by commas), table, json, or fields. Default: simple",
}];

const HEADER: [&str; 5] = ["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"];
/// Decimal, as etcd prints sizes.
const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/// Of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Status {
    /// CRC-32C over the names of the buckets and everything in them.
    hash: u32,
    /// Of the last record.
    revision: i64,
    /// Keys that exist.
    total_key: usize,
    /// Bytes of the pages in use.
    total_size: u64,
    /// Of the storage's schema; empty before etcd 3.6.
    version: String,
}

/// Runs the command.
pub fn run(given: &Given) -> Result<String, Failure> {
    let file = given.file().map_err(Failure::Usage)?;
    let print = match given.value("write-out").unwrap_or("simple") {
        "simple" => simple,
        "table" => table,
        "json" => json,
        "fields" => fields,
        other => return Err(Failure::Usage(format!("cannot write {other}: simple, table, json or fields"))),
    };
    Ok(print(&read(Path::new(file)).map_err(Failure::failed)?))
}

fn read(path: &Path) -> Result<Status, Error> {
    let file = SnapshotReader::open(path)?;
    if file.has_hash() {
        file.verify_hash()?;
    }
    let mut status =
        Status { total_size: file.used_bytes(), version: file.meta()?.storage_version, ..Status::default() };
    let mut keys = HashSet::new();
    for name in file.buckets()? {
        status.hash = crc32c::crc32c_append(status.hash, &name);
        let is_key = name == Bucket::Key.name().as_bytes();
        let Some(mut entries) = file.bucket_named(&name)? else { continue };
        while let Some((key, value)) = entries.advance()? {
            status.hash = crc32c::crc32c_append(crc32c::crc32c_append(status.hash, key), value);
            if !is_key {
                continue;
            }
            let bad = || Error::Corrupt { path: path.to_owned(), reason: format!("key/{}", key.escape_ascii()) };
            let revision = RevisionKey::decode(key).ok_or_else(bad)?;
            let record = Record::from_bytes(value).map_err(|_| bad())?;
            status.revision = revision.main;
            if revision.tombstone {
                keys.remove(record.key());
            } else if !keys.contains(record.key()) {
                keys.insert(record.key().to_vec());
            }
        }
    }
    status.total_key = keys.len();
    Ok(status)
}

fn row(status: &Status) -> [String; 5] {
    let Status { hash, revision, total_key, total_size, version } = status;
    [format!("{hash:x}"), revision.to_string(), total_key.to_string(), size(*total_size), version.clone()]
}

fn simple(status: &Status) -> String {
    row(status).join(", ") + "\n"
}

fn json(status: &Status) -> String {
    let Status { hash, revision, total_key, total_size, version } = status;
    let json = serde_json::json!({
        "hash": hash, "revision": revision, "totalKey": total_key, "totalSize": total_size, "version": version,
    });
    format!("{json}\n")
}

fn fields(status: &Status) -> String {
    let Status { hash, revision, total_key, total_size, version } = status;
    format!(
        "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {total_key}\n\"Size\" : {total_size}\n\
         \"Version\" : {version}\n"
    )
}

/// A frame around the header, centred, and the values, to the right.
fn table(status: &Status) -> String {
    let row = row(status);
    let widths: Vec<usize> = HEADER.iter().zip(&row).map(|(title, value)| title.len().max(value.len())).collect();
    let rule = |left: &str, middle: &str, right: &str| {
        let bars: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", bars.join(middle))
    };
    let titles: String = HEADER.iter().zip(&widths).map(|(title, &width)| format!("│ {title:^width$} ")).collect();
    let values: String = row.iter().zip(&widths).map(|(value, &width)| format!("│ {value:>width$} ")).collect();
    [rule("┌", "┬", "┐"), titles + "│\n", rule("├", "┼", "┤"), values + "│\n", rule("└", "┴", "┘")].concat()
}

/// Bytes for people: one digit behind the point below ten, none from there on.
fn size(bytes: u64) -> String {
    let mut unit = 0;
    let mut scale = 1_u64;
    while unit + 1 < UNITS.len() && bytes / scale >= 1000 {
        scale *= 1000;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let tenths = (bytes as f64 / scale as f64 * 10.0 + 0.5).floor() / 10.0;
    if tenths < 10.0 { format!("{tenths:.1} {}", UNITS[unit]) } else { format!("{tenths:.0} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_etcd_prints_them() {
        let read: Vec<_> = [0, 999, 1000, 9949, 9951, 20480, 810_992, 2_100_000_000].map(size).into();
        assert_eq!(read, ["0 B", "999 B", "1.0 kB", "9.9 kB", "10 kB", "20 kB", "811 kB", "2.1 GB"]);
    }

    #[test]
    fn the_table_is_framed_as_etcdutls() {
        let status = Status { hash: 0xb039281c, revision: 2, total_key: 1, total_size: 57344, version: "3.7.0".into() };
        let expected = "\
┌──────────┬──────────┬────────────┬────────────┬─────────┐
│   HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │
├──────────┼──────────┼────────────┼────────────┼─────────┤
│ b039281c │        2 │          1 │      57 kB │   3.7.0 │
└──────────┴──────────┴────────────┴────────────┴─────────┘
";
        assert_eq!(table(&status), expected);
    }
}
