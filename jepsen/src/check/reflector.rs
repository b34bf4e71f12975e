//! Caches as kube-apiserver keeps them: a list in pages at one revision, then the watch from the next one on.
//!
//! At every notification of progress, and at the end, the cache must equal the state at that revision.

use std::collections::BTreeMap;

use super::finding::Finding;
use crate::history::op::Kv;
use crate::history::stream::{Log, Stream};
use crate::model::Store;

/// Judges all streams that continue a list.
pub fn check(streams: &[Stream], log: &Log) -> Finding {
    check_on(&Store::of(log), streams)
}

/// The same for whoever asks often: the store is what the log comes to.
pub fn check_on(store: &Store, streams: &[Stream]) -> Finding {
    let mut finding = Finding::new("reflector");
    let by_id: BTreeMap<u64, &Stream> = streams.iter().map(|stream| (stream.id, stream)).collect();
    let mut caches: BTreeMap<u64, BTreeMap<&str, &Kv>> = BTreeMap::new();
    for stream in by_id.values() {
        let Some(mut cache) = beginning(stream, &caches, store, &mut finding) else { continue };
        // A false start makes every later comparison false; it is reported once.
        let mut broken = false;
        for message in &stream.messages {
            for event in &message.events {
                match event.deleted {
                    true => cache.remove(event.kv.key.as_str()),
                    false => cache.insert(&event.kv.key, &event.kv),
                };
            }
            if message.is_progress() && !broken {
                broken = !compare(stream, &cache, message.rev, store, &mut finding);
            }
        }
        if let Some(settled) = stream.settled.filter(|_| !broken) {
            compare(stream, &cache, settled, store, &mut finding);
        }
        caches.insert(stream.id, cache);
    }
    finding
}

/// The list, or the cache of the stream that this one continues.
fn beginning<'a>(
    stream: &'a Stream,
    caches: &BTreeMap<u64, BTreeMap<&'a str, &'a Kv>>,
    store: &Store,
    finding: &mut Finding,
) -> Option<BTreeMap<&'a str, &'a Kv>> {
    if let Some(listing) = &stream.listing {
        let cache: BTreeMap<&str, &Kv> = listing.kvs.iter().map(|kv| (kv.key.as_str(), kv)).collect();
        if cache.len() != listing.kvs.len() {
            finding.wrong_stream("wrong-list", "its pages show a key twice", stream.id);
        }
        if stream.watch.start_revision != listing.rev + 1 {
            finding.undecided(format!("stream {} does not start behind its list", stream.id));
        }
        compare(stream, &cache, listing.rev, store, finding);
        return Some(cache);
    }
    caches.get(&stream.resumes?).cloned()
}

fn compare(stream: &Stream, cache: &BTreeMap<&str, &Kv>, at: i64, store: &Store, finding: &mut Finding) -> bool {
    finding.checked += 1;
    let state = store.range(&stream.watch.key, stream.watch.end.as_deref(), at);
    let missing = state.iter().find(|kv| cache.get(kv.key.as_str()) != Some(kv));
    let extra = cache.keys().find(|key| store.get(key, at).is_none());
    let text = match (missing, extra) {
        (Some(kv), _) => format!("at {at} it has {:?} instead of {kv:?}", cache.get(kv.key.as_str())),
        (None, Some(key)) => format!("at {at} it still has {key}"),
        (None, None) => return true,
    };
    finding.wrong_stream("cache-differs", text, stream.id);
    false
}
