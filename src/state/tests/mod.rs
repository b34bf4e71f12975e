//! Tests of the state as a whole, by commands and requests alone.

mod features;
mod model;
mod property;

use bytes::Bytes;

use super::*;
use crate::proto::Record;
use crate::proto::etcdserverpb as pb;

/// What the store must answer, in a form that is short to write.
fn put(key: &str, value: &str) -> Command {
    Command::Put(pb::PutRequest { key: bytes(key), value: bytes(value), ..pb::PutRequest::default() })
}

fn put_leased(key: &str, value: &str, lease: i64) -> Command {
    Command::Put(pb::PutRequest { key: bytes(key), value: bytes(value), lease, ..pb::PutRequest::default() })
}

fn delete(key: &str, range_end: &str) -> Command {
    Command::DeleteRange(pb::DeleteRangeRequest { key: bytes(key), range_end: bytes(range_end), prev_kv: false })
}

fn compact(revision: i64) -> Command {
    Command::Compact(pb::CompactionRequest { revision, physical: false })
}

fn grant(id: i64, ttl: i64) -> Command {
    Command::LeaseGrant(pb::LeaseGrantRequest { id, ttl })
}

fn revoke(id: i64) -> Command {
    Command::LeaseRevoke(pb::LeaseRevokeRequest { id })
}

fn range(key: &str, range_end: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: bytes(key), range_end: bytes(range_end), ..pb::RangeRequest::default() }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Applies what must be accepted; returns the revision after it.
fn accept(store: &Store, command: &Command) -> i64 {
    let (applied, _) = store.apply(command);
    assert!(applied.response.is_ok(), "{command:?}: {:?}", applied.response);
    applied.revision
}

/// Compacts physically to the end; returns everything dropped.
fn compact_fully(store: &Store, up_to: i64) -> Vec<(Revision, bool)> {
    let mut dropped = Vec::new();
    loop {
        let slice = store.compact_slice(up_to, 7);
        dropped.extend(slice.dropped);
        if slice.done {
            dropped.sort();
            return dropped;
        }
    }
}

/// The store rebuilt from what a snapshot would hold.
fn restored(store: &Store) -> Store {
    let meta = Meta::decode(&store.meta().encode()).unwrap();
    let records = store.view().records().into_iter().map(Ok::<_, std::convert::Infallible>);
    Store::restore(meta, records).unwrap()
}

/// `key=value@mod_revision` of each record, to compare with.
fn shown(records: &[Record]) -> String {
    let shown = records.iter().map(|record| {
        let fields = record.fields();
        let (key, value) = (record.key().escape_ascii(), record.value().escape_ascii());
        format!("{key}={value}@{}", fields.mod_revision)
    });
    shown.collect::<Vec<_>>().join(" ")
}
