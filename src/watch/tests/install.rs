//! A snapshot is put in the place of the state under open watches: a real store behind the hub, as on a follower.

use super::contract::told;
use super::*;
use crate::state::{Command, Store};

/// A leader's store that the follower's was a copy of once, and the follower's with its hub.
struct Pair {
    ahead: Store,
    behind: Arc<Store>,
    hub: Arc<Hub>,
}

impl Pair {
    fn new() -> Self {
        let behind = Arc::new(Store::new());
        let hub = Arc::new(Hub::new(behind.clone(), header, Options::default()));
        Self { ahead: Store::new(), behind, hub }
    }

    /// A write that both apply.
    fn put(&self, key: &str, value: &str) {
        self.put_ahead(key, value);
        let (_, effects) = self.behind.apply(&put(key, value));
        self.hub.publish(&[effects.events.unwrap()], self.behind.revision());
    }

    /// A write that comes to the follower in a snapshot alone.
    fn put_ahead(&self, key: &str, value: &str) {
        assert!(self.ahead.apply(&put(key, value)).0.response.is_ok());
    }

    fn compact_ahead(&self, revision: i64) {
        let compact = Command::Compact(pb::CompactionRequest { revision, physical: false });
        assert!(self.ahead.apply(&compact).0.response.is_ok());
    }

    /// The state and then the hub, as install does it.
    fn install(&self) {
        self.replace();
        self.hub.publish(&[], self.behind.revision());
    }

    fn replace(&self) {
        let records = self.ahead.view().records().into_iter().map(Ok::<_, std::convert::Infallible>);
        drop(self.behind.replace(Store::restore(self.ahead.meta(), records).unwrap()));
    }
}

fn put(key: &str, value: &str) -> Command {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    Command::Put(pb::PutRequest { key, value, ..pb::PutRequest::default() })
}

fn with_previous(request: pb::WatchCreateRequest) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { prev_kv: true, ..request }
}

/// A client with one watch, whose creation it has seen.
fn watching(pair: &Pair, request: pb::WatchCreateRequest) -> Client {
    let mut client = Client::new(&pair.hub);
    client.watch(request);
    assert!(client.next().created);
    client
}

/// The events of all responses that are there.
fn events(client: &mut Client) -> Vec<String> {
    client.drain().iter().flat_map(told).collect()
}

fn compacted_at(client: &mut Client) -> i64 {
    let response = client.next();
    assert!(response.canceled && response.events.is_empty(), "{response:?}");
    assert_eq!(response.header, Some(header(0)), "as etcd");
    assert!(client.poll().is_pending(), "it is the last of this watch");
    response.compact_revision
}

#[test]
fn a_synced_watcher_is_told_all_between_once_and_what_follows() {
    let pair = Pair::new();
    pair.put("a", "1");
    let mut client = watching(&pair, with_previous(key("a")));
    pair.put("a", "2");
    assert_eq!(events(&mut client), ["PUT a=2 @3 was 1"]);
    pair.put_ahead("a", "3");
    pair.put_ahead("b", "1");
    pair.put_ahead("a", "4");
    pair.install();
    assert!(client.woken());
    assert_eq!(events(&mut client), ["PUT a=3 @4 was 2", "PUT a=4 @6 was 3"]);
    pair.put("a", "5");
    assert_eq!(events(&mut client), ["PUT a=5 @7 was 4"]);
}

#[test]
fn what_a_slow_client_had_not_taken_comes_once() {
    let pair = Pair::new();
    let mut client = watching(&pair, key("a"));
    pair.put("a", "1");
    pair.put("a", "2");
    pair.put_ahead("a", "3");
    pair.install();
    pair.put("a", "4");
    assert_eq!(events(&mut client), ["PUT a=1 @2", "PUT a=2 @3", "PUT a=3 @4", "PUT a=4 @5"]);
}

#[test]
fn a_watcher_that_was_catching_up_goes_on_where_it_was() {
    let pair = Pair::new();
    (0..1500).for_each(|n| pair.put("a", &n.to_string()));
    let mut client = watching(&pair, from(2, key("a")));
    let first = client.next();
    assert_eq!(first.events.len(), 1000, "a slice");
    pair.put_ahead("a", "last");
    pair.compact_ahead(1002);
    pair.install();
    let rest = events(&mut client);
    assert_eq!((rest.len(), &rest[0][..]), (501, "PUT a=1000 @1002"));
    assert_eq!(rest[500], "PUT a=last @1502");
}

#[test]
fn a_watcher_whose_next_revision_is_gone_is_cancelled_with_the_mark() {
    let pair = Pair::new();
    pair.put("a", "1");
    let mut synced = watching(&pair, key("a"));
    let mut slow = watching(&pair, key("a"));
    pair.put("a", "2");
    assert_eq!(events(&mut synced), ["PUT a=2 @3"]);
    let mut awaits = watching(&pair, from(5, key("a")));
    let mut awaits_later = watching(&pair, from(9, key("a")));
    (3..7).for_each(|n| pair.put_ahead("a", &n.to_string()));
    pair.compact_ahead(6);
    pair.install();
    assert_eq!(compacted_at(&mut synced), 6);
    assert_eq!(compacted_at(&mut slow), 6, "also of what it had not taken before");
    assert_eq!(compacted_at(&mut awaits), 6, "a start that lay in the future is now in the past");
    assert!(awaits_later.poll().is_pending());
    pair.put("a", "8");
    pair.put("a", "9");
    assert_eq!(events(&mut awaits_later), ["PUT a=9 @9"]);
    assert_eq!((pair.hub.watchers(), pair.hub.unsynced_watchers()), (1, 0));
}

#[test]
fn a_watcher_that_needs_the_mark_itself_goes_on_without_the_value_before() {
    let pair = Pair::new();
    pair.put("a", "1");
    let mut client = watching(&pair, with_previous(key("a")));
    pair.put_ahead("a", "2");
    pair.put_ahead("a", "3");
    pair.compact_ahead(3);
    pair.install();
    assert_eq!(events(&mut client), ["PUT a=2 @3", "PUT a=3 @4 was 2"], "as etcd, which would read it at the mark");
}

#[test]
fn a_start_that_the_snapshot_reaches_is_served_from_there() {
    let pair = Pair::new();
    let mut client = watching(&pair, with_previous(from(4, key("a"))));
    (1..5).for_each(|n| pair.put_ahead("a", &n.to_string()));
    pair.install();
    assert_eq!(events(&mut client), ["PUT a=3 @4 was 2", "PUT a=4 @5 was 3"]);
}

#[test]
fn progress_is_told_only_of_what_was_sent() {
    let pair = Pair::new();
    let mut client = watching(&pair, key("a"));
    pair.put_ahead("a", "1");
    client.ask_progress();
    assert_eq!(client.next().header, Some(header(1)));
    pair.replace();
    client.ask_progress();
    assert!(client.poll().is_pending(), "the state shows revision 2, the hub has not handed it out");
    pair.hub.publish(&[], pair.behind.revision());
    let responses = client.drain();
    assert_eq!(told(&responses[0]), ["PUT a=1 @2"]);
    assert_eq!((responses.len(), responses[1].header), (2, Some(header(2))));
}

#[test]
fn a_watch_made_between_the_state_and_the_hub_misses_nothing() {
    let pair = Pair::new();
    pair.put_ahead("a", "1");
    pair.replace();
    let mut now = watching(&pair, key("a"));
    let mut earlier = watching(&pair, from(2, key("a")));
    pair.hub.publish(&[], pair.behind.revision());
    assert!(now.poll().is_pending(), "it was created at revision 2");
    assert_eq!(events(&mut earlier), ["PUT a=1 @2"]);
    pair.put("a", "2");
    assert_eq!(events(&mut now), ["PUT a=2 @3"]);
    assert_eq!(events(&mut earlier), ["PUT a=2 @3"]);
}

#[test]
fn a_snapshot_that_changes_no_key_disturbs_nobody() {
    let pair = Pair::new();
    pair.put("a", "1");
    let mut client = watching(&pair, key("a"));
    pair.put("a", "2");
    pair.install();
    pair.put("a", "3");
    assert_eq!(events(&mut client), ["PUT a=2 @3", "PUT a=3 @4"]);
}
