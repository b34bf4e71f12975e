//! Those who watch during a run: a collector of all changes on each member, and the workload's readers.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::load::Shared;
use crate::client::{Client, Watcher};
use crate::history::op::{Kv, Outcome, Range, Request};
use crate::history::stream::{Ended, Entry, Listing, Message, Stream, Watch};
use crate::workload::reader::{From, Reader};

/// After the load, how long a stream may take to show everything.
const SETTLE_MAX: Duration = Duration::from_secs(15);
/// Between two looks at the run's state while a stream is silent.
const TICK: Duration = Duration::from_millis(40);
/// After a stream broke or a list failed.
const BACKOFF: Duration = Duration::from_millis(100);
/// Objects in a page of a list.
const PAGE: i64 = 11;
/// Clients' numbers of readers begin here.
const READERS_FROM: u32 = 20_000;

/// Collects all changes that one member shows, from the run's first revision to its last. Says why, when it could not:
/// what is compacted before a member showed it is passed over, as others may have shown it.
pub async fn collect(client: Client, node: u32, shared: Shared) -> (Vec<Entry>, Option<String>) {
    let mut entries: BTreeMap<i64, Entry> = BTreeMap::new();
    let mut last = shared.base;
    let mut missing: Option<String> = None;
    let all = "\0".to_owned();
    loop {
        let watch = Watch {
            key: all.clone(),
            end: Some(all.clone()),
            start_revision: last + 1,
            fragment: true,
            ..Watch::default()
        };
        let mut gone = match client.watch(&watch, false).await {
            Ok(mut watcher) => {
                let mut response = Vec::new();
                loop {
                    if shared.settled_at().is_some_and(|head| last >= head) {
                        return (entries.into_values().collect(), missing);
                    }
                    match tokio::time::timeout(TICK, watcher.next()).await {
                        Err(_) if shared.overdue(SETTLE_MAX) => {
                            break format!("node {node}: only up to revision {last}");
                        }
                        Err(_) => continue,
                        Ok(Ok(Some(message))) if message.compact_revision > 0 => {
                            let oldest = message.compact_revision;
                            let why = format!("node {node}: {}..{oldest} compacted", last + 1);
                            missing = Some(missing.map_or(why.clone(), |others| format!("{others}, {why}")));
                            last = last.max(oldest - 1);
                            break "compacted".into();
                        }
                        Ok(Ok(Some(message))) if message.canceled => break message.reason,
                        Ok(Ok(Some(message))) => {
                            response.extend(message.events);
                            if message.fragment {
                                continue;
                            }
                            let t = shared.now();
                            for event in response.drain(..) {
                                last = last.max(event.kv.mod_revision);
                                let rev = event.kv.mod_revision;
                                let empty = || Entry { node, rev, t, events: Vec::new() };
                                entries.entry(rev).or_insert_with(empty).events.push(event);
                            }
                            shared.collected.fetch_max(last, Ordering::Relaxed);
                        }
                        Ok(Ok(None)) => break "the stream ended".into(),
                        Ok(Err(error)) => break error.to_string(),
                    }
                }
            }
            Err(error) => error.to_string(),
        };
        if shared.overdue(SETTLE_MAX) {
            gone = format!("node {node}: {gone}");
            return (entries.into_values().collect(), Some(gone));
        }
        tokio::time::sleep(BACKOFF).await;
    }
}

/// Runs one reader to the end of the run; returns its streams.
pub async fn read(client: Client, node: u32, number: u32, reader: Reader, shared: Shared) -> Vec<Stream> {
    let mut streams: Vec<Stream> = Vec::new();
    let mut next: Option<(i64, Option<u64>)> = None;
    while !shared.stopped() || streams.is_empty() {
        let mut listing = None;
        let (start_revision, resumes) = match (next.take(), reader.from) {
            (Some(next), _) => next,
            (None, From::List) => {
                let Some(list) = list(&client, &reader.watch).await else {
                    if shared.stopped() {
                        break;
                    }
                    tokio::time::sleep(BACKOFF).await;
                    continue;
                };
                let start = list.rev + 1;
                listing = Some(list);
                (start, None)
            }
            (None, from) => (first(from, &shared), None),
        };
        let watch = Watch { start_revision, ..reader.watch.clone() };
        let id = shared.streams.fetch_add(1, Ordering::Relaxed);
        let process = READERS_FROM + number;
        let mut stream =
            Stream { id, process, node, opened: shared.now(), watch, resumes, listing, ..Stream::default() };
        match client.watch(&stream.watch, reader.ask_every_ms > 0).await {
            Ok(watcher) => follow(watcher, &reader, &mut stream, &shared).await,
            Err(error) => stream.ended = Ended::Broken(error.to_string()),
        }
        let canceled = stream.messages.iter().find(|message| message.canceled);
        let compacted = canceled.map_or(0, |message| message.compact_revision);
        next = match (compacted, reader.from) {
            // A cache begins again with a list; a plain watch with the oldest revision there is.
            (1.., From::List) => None,
            (1.., _) => Some((compacted, None)),
            // It begins again at what is compacted, and then at the oldest revision there is, which may change any time.
            (_, From::Compacted) => None,
            _ => Some((stream.shown().max(begun(&stream) - 1) + 1, Some(stream.id))),
        };
        let broken = matches!(stream.ended, Ended::Broken(_));
        let done = stream.settled.is_some() || shared.overdue(SETTLE_MAX);
        streams.push(stream);
        if done {
            break;
        }
        if broken {
            tokio::time::sleep(BACKOFF).await;
        }
    }
    streams
}

/// The revision that a stream starts at, if it is known.
fn begun(stream: &Stream) -> i64 {
    match (stream.watch.start_revision, stream.messages.first()) {
        (0, Some(message)) if message.created => message.rev + 1,
        (start, _) => start,
    }
}

fn first(from: From, shared: &Shared) -> i64 {
    let head = shared.head.load(Ordering::Relaxed);
    match from {
        From::Now | From::List => 0,
        From::Past(revisions) => (head - revisions).max(shared.base + 1),
        From::Future(revisions) => head + revisions,
        From::Compacted => shared.base + 1,
    }
}

/// A list in pages at one revision, as kube-apiserver reads it.
async fn list(client: &Client, watch: &Watch) -> Option<Listing> {
    let mut listing = Listing::default();
    let mut key = watch.key.clone();
    loop {
        let range = Range { key, end: watch.end.clone(), limit: PAGE, revision: listing.rev, ..Range::default() };
        let Outcome::Ok { out } = client.call(&Request::Range(range)).await else { return None };
        if listing.rev == 0 {
            listing.rev = out.rev;
        }
        let last = out.kvs.last().map(|kv: &Kv| format!("{}\0", kv.key));
        listing.kvs.extend(out.kvs);
        match last.filter(|_| out.more) {
            Some(behind) => key = behind,
            None => return Some(listing),
        }
    }
}

/// Writes down what a stream sends until it ends, is dropped, or has shown everything.
async fn follow(mut watcher: Watcher, reader: &Reader, stream: &mut Stream, shared: &Shared) {
    let opened = tokio::time::Instant::now();
    let mut asked = opened;
    loop {
        if let Some(head) = shared.settled_at() {
            if stream.shown() >= head {
                stream.settled = Some(head);
                return;
            }
            if begun(stream) > head {
                // Nothing of this run is for it.
                return;
            }
        }
        if shared.overdue(SETTLE_MAX) {
            stream.ended = Ended::Broken(format!("behind: shown {}", stream.shown()));
            return;
        }
        let dropped = reader.drop_after_ms > 0 && opened.elapsed() > Duration::from_millis(reader.drop_after_ms);
        if dropped && !shared.stopped() {
            return;
        }
        let every = if shared.stopped() { 100 } else { reader.ask_every_ms };
        if every > 0 && asked.elapsed() > Duration::from_millis(every) {
            watcher.ask_progress();
            asked = tokio::time::Instant::now();
        }
        match tokio::time::timeout(TICK, watcher.next()).await {
            Err(_) => {}
            Ok(Ok(Some(message))) => {
                let canceled = message.canceled;
                stream.messages.push(Message { t: shared.now(), ..message });
                if canceled {
                    stream.ended = Ended::Canceled;
                    return;
                }
            }
            Ok(Ok(None)) => {
                stream.ended = Ended::Broken("the stream ended".into());
                return;
            }
            Ok(Err(error)) => {
                stream.ended = Ended::Broken(error.to_string());
                return;
            }
        }
        if reader.slow_ms > 0 && !shared.stopped() {
            tokio::time::sleep(Duration::from_millis(reader.slow_ms)).await;
        }
    }
}
