//! A writer and several readers at the same time, as in the server: whatever the interleaving, each watcher is told
//! all, once, in order, and no progress is told ahead of events.

use std::thread;

use super::*;
use crate::watch::range_index::KeyRange;

const ROUNDS: u64 = 6;
const REVISIONS: i64 = 4000;
const KEYS: [&str; 4] = ["a", "b", "ba", "c"];

/// Wakes a thread that polls.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What one watch was told.
struct Told {
    range: KeyRange,
    start: i64,
    created: bool,
    revisions: Vec<i64>,
    progress: i64,
}

fn next(client: &mut Client) -> pb::WatchResponse {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match Pin::new(&mut client.stream).poll_next(&mut Context::from_waker(&waker)) {
            Poll::Ready(response) => return response.unwrap().unwrap(),
            Poll::Pending => thread::park(),
        }
    }
}

/// Opens watches while the writer works, and reads until progress says that the last revision is in.
fn read(hub: &Arc<Hub>, seed: u64) -> Vec<Told> {
    let mut client = Client::new(hub);
    let mut watches = Vec::new();
    let mut pace = seed;
    let mut done = false;
    while !done {
        pace = pace.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if watches.len() < 12 && pace >> 60 == 0 || watches.is_empty() {
            // The first is told of every revision, so that the reader never sleeps for good.
            let kind = if watches.is_empty() { 2 } else { (pace >> 33) as usize % 4 };
            let (key, range_end) = [("a", ""), ("b", "c"), ("a", "\0"), ("ba", "")][kind];
            let start = if pace & (1 << 40) > 0 { 0 } else { (hub.published() - (pace >> 50 & 127) as i64).max(1) };
            client.watch(from(start, range(key, range_end)));
            let range = KeyRange::new(key.as_bytes(), range_end.as_bytes()).unwrap();
            watches.push(Told { range, start, created: false, revisions: Vec::new(), progress: 0 });
        }
        if pace >> 59 == 1 {
            thread::yield_now();
        }
        if pace >> 58 == 2 || hub.history.revision() == REVISIONS {
            client.ask_progress();
        }
        let response = next(&mut client);
        let at = response.header.unwrap().revision;
        if response.watch_id == -1 {
            let created = watches.iter_mut().filter(|watch: &&mut Told| watch.created);
            created.for_each(|watch| watch.progress = at);
            done = at == REVISIONS && watches.len() >= 12 && watches.iter().all(|watch| watch.created);
            continue;
        }
        let watch = &mut watches[response.watch_id as usize];
        if response.created {
            watch.created = true;
            watch.start = if watch.start == 0 { at + 1 } else { watch.start };
        }
        for event in &response.events {
            let revision = event.kv.as_ref().unwrap().mod_revision();
            assert!(revision > watch.progress, "{revision} after progress {}", watch.progress);
            watch.revisions.push(revision);
        }
    }
    watches
}

#[test]
fn readers_on_other_threads_miss_nothing() {
    (0..ROUNDS).for_each(round);
}

fn round(round: u64) {
    let options = Options { window_bytes_max: 20_000, slice_bytes_max: 2000, ..Options::default() };
    let (shelf, hub) = hub(options);
    let readers: Vec<_> = (1..5)
        .map(|reader| {
            let hub = hub.clone();
            thread::spawn(move || read(&hub, round * 10 + reader))
        })
        .collect();
    for revision in 2..=REVISIONS {
        write(&shelf, &hub, &[(KEYS[revision as usize * 7 % KEYS.len()], Some("value"))]);
        if revision % 64 == 0 {
            thread::yield_now();
        }
    }
    let batches = shelf.0.lock().batches.clone();
    for watch in readers.into_iter().flat_map(|reader| reader.join().unwrap()) {
        let wanted =
            batches.range(watch.start..).filter(|(_, batch)| watch.range.contains(batch.changes[0].record.key()));
        let wanted: Vec<i64> = wanted.map(|(&revision, _)| revision).collect();
        let wrong = wanted.iter().zip(&watch.revisions).find(|(wanted, told)| wanted != told);
        assert_eq!(wrong, None, "wanted and told, from {} in round {round}", watch.start);
        assert_eq!(watch.revisions.len(), wanted.len());
    }
    assert_eq!((hub.watchers(), hub.unsynced_watchers(), hub.pending_batches()), (0, 0, 0));
}
