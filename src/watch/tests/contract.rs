//! etcd's watch contract, shape by shape.

use futures_util::StreamExt;

use super::*;
use crate::proto::mvccpb::event::EventType;

fn bytes(text: &str) -> bytes::Bytes {
    text.to_owned().into()
}

/// (kind, key, value, revision) of each event, as text.
pub(super) fn told(response: &pb::WatchResponse) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let event = |event: &crate::proto::mvccpb::Event| {
        let record = event.kv.as_ref().unwrap();
        let kind = event.r#type().as_str_name();
        let previous = event.prev_kv.as_ref().map_or(String::new(), |record| format!(" was {}", text(record.value())));
        format!("{kind} {}={} @{}{previous}", text(record.key()), text(record.value()), record.mod_revision())
    };
    response.events.iter().map(event).collect()
}

fn refused(response: &pb::WatchResponse) -> &str {
    assert!(response.created && response.canceled, "{response:?}");
    assert_eq!((response.watch_id, response.compact_revision), (-1, 0));
    &response.cancel_reason
}

#[test]
fn created_comes_first_and_names_the_current_revision() {
    let (shelf, hub) = hub(Options::default());
    write(&shelf, &hub, &[("a", Some("1"))]);
    let mut client = Client::new(&hub);
    client.watch(key("a"));
    client.watch(from(2, key("a")));
    let expected = pb::WatchResponse { header: Some(header(2)), created: true, ..Default::default() };
    assert_eq!(client.next(), expected);
    assert_eq!(client.next(), pb::WatchResponse { watch_id: 1, ..expected });
    let response = client.next();
    assert_eq!((response.watch_id, told(&response)), (1, vec!["PUT a=1 @2".to_owned()]));
    assert!(client.poll().is_pending());
    write(&shelf, &hub, &[("a", Some("2"))]);
    assert!(client.woken(), "news wake a sleeping stream");
    let responses = client.drain();
    assert_eq!(responses.len(), 2);
    for response in responses {
        assert_eq!(told(&response), ["PUT a=2 @3"]);
        assert_eq!(response.header, Some(header(3)));
    }
}

#[test]
fn a_write_the_client_has_seen_is_not_new_to_it() {
    let (shelf, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    let batch = shelf.apply(&[("a", Some("1"))]).unwrap();
    client.watch(key("a"));
    assert_eq!(client.next().header, Some(header(2)), "reads show it before the hub has it");
    hub.publish(&[batch], 2);
    assert!(client.poll().is_pending());
    write(&shelf, &hub, &[("a", Some("2"))]);
    assert_eq!(told(&client.next()), ["PUT a=2 @3"]);
}

#[test]
fn ids_are_counted_up_and_never_given_twice_by_the_server() {
    let (_, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    let id = |client: &mut Client, watch_id| {
        client.watch(pb::WatchCreateRequest { watch_id, ..key("a") });
        let response = client.next();
        if response.canceled { Err(refused(&response).to_owned()) } else { Ok(response.watch_id) }
    };
    let duplicate = Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned());
    assert_eq!(id(&mut client, 0), Ok(0));
    assert_eq!(id(&mut client, 2), Ok(2));
    assert_eq!(id(&mut client, 2), duplicate);
    assert_eq!(id(&mut client, -5), Ok(-5));
    assert_eq!(id(&mut client, 0), Ok(1));
    assert_eq!(id(&mut client, 0), Ok(3), "2 is in use");
    client.cancel(1);
    assert!(client.next().canceled);
    assert_eq!(id(&mut client, 0), Ok(4));
    assert_eq!(id(&mut client, 1), Ok(1), "the client may use it again");
}

#[test]
fn empty_ranges_and_negative_starts_are_refused() {
    let (_, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    client.watch(range("b", "a"));
    assert_eq!(refused(&client.next()), "mvcc: watcher range is empty");
    client.watch(range("b", "b"));
    assert_eq!(refused(&client.next()), "mvcc: watcher range is empty");
    client.watch(from(-1, key("b")));
    assert_eq!(refused(&client.next()), "etcdserver: mvcc: required revision has been compacted");
    client.watch(range("b", "\0"));
    assert_eq!(client.next().watch_id, 0, "a refusal uses no id up");
}

#[test]
fn a_stream_holds_no_more_watchers_than_its_limit() {
    let (_, hub) = hub(Options { watchers_per_stream_max: 1, ..Options::default() });
    let mut client = Client::new(&hub);
    client.watch(key("a"));
    client.watch(key("b"));
    assert!(client.next().cancel_reason.is_empty());
    assert_eq!(refused(&client.next()), "etcdserver: too many watchers on the stream");
}

#[test]
fn an_empty_key_watches_from_the_smallest_on() {
    let (shelf, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    client.watch(range("", "\0"));
    client.watch(key(""));
    client.drain();
    write(&shelf, &hub, &[("\0", Some("1")), ("z", Some("2"))]);
    let mut responses: Vec<_> = client.drain().iter().map(|response| (response.watch_id, told(response))).collect();
    responses.sort();
    let (first, second) = ("PUT \0=1 @2".to_owned(), "PUT z=2 @2".to_owned());
    assert_eq!(responses, [(0, vec![first.clone(), second]), (1, vec![first])]);
}

#[test]
fn cancel_is_answered_once_and_only_for_a_known_id() {
    let (shelf, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    client.watch(key("a"));
    client.drain();
    write(&shelf, &hub, &[("b", Some("1"))]);
    client.cancel(7);
    client.cancel(0);
    client.cancel(0);
    let expected = pb::WatchResponse { header: Some(header(2)), canceled: true, ..Default::default() };
    assert_eq!(client.drain(), [expected]);
    write(&shelf, &hub, &[("a", Some("1"))]);
    assert_eq!(client.drain(), []);
    assert_eq!((hub.watchers(), hub.streams()), (0, 1));
}

#[test]
fn deletes_carry_key_and_revision_and_previous_values_only_where_asked() {
    let (shelf, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    client.watch(key("a"));
    client.watch(pb::WatchCreateRequest { prev_kv: true, ..key("a") });
    client.drain();
    let mut told_to = |ops: &[Op<'_>]| {
        write(&shelf, &hub, ops);
        let mut responses = client.drain();
        responses.sort_by_key(|response| response.watch_id);
        responses.iter().map(|response| told(response).join(", ")).collect::<Vec<_>>()
    };
    assert_eq!(told_to(&[("a", Some("1"))]), ["PUT a=1 @2", "PUT a=1 @2"], "a create has nothing before it");
    assert_eq!(told_to(&[("a", Some("2"))]), ["PUT a=2 @3", "PUT a=2 @3 was 1"]);
    assert_eq!(told_to(&[("a", None)]), ["DELETE a= @4", "DELETE a= @4 was 2"]);
}

#[test]
fn previous_values_are_absent_at_the_compaction_mark() {
    let (shelf, hub) = hub(Options::default());
    for value in ["1", "2", "3"] {
        write(&shelf, &hub, &[("a", Some(value))]);
    }
    shelf.compact(3);
    let mut client = Client::new(&hub);
    client.watch(pb::WatchCreateRequest { prev_kv: true, ..from(3, key("a")) });
    assert!(client.next().created);
    assert_eq!(told(&client.next()), ["PUT a=2 @3", "PUT a=3 @4 was 2"]);
}

#[test]
fn filters_drop_events_and_responses_without_any() {
    let (shelf, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    client.watch(pb::WatchCreateRequest { filters: vec![0], ..range("a", "c") });
    client.watch(pb::WatchCreateRequest { filters: vec![1, 17], ..range("a", "c") });
    client.watch(pb::WatchCreateRequest { filters: vec![0, 1], ..range("a", "c") });
    client.drain();
    write(&shelf, &hub, &[("a", Some("1"))]);
    let response = client.next();
    assert_eq!((response.watch_id, told(&response)), (1, vec!["PUT a=1 @2".to_owned()]));
    assert!(client.poll().is_pending());
    write(&shelf, &hub, &[("a", None), ("b", Some("2"))]);
    let mut responses: Vec<_> = client.drain().iter().map(|response| (response.watch_id, told(response))).collect();
    responses.sort();
    assert_eq!(responses, [(0, vec!["DELETE a= @3".to_owned()]), (1, vec!["PUT b=2 @3".to_owned()])]);
}

#[test]
fn a_future_start_gets_nothing_before_it() {
    let (shelf, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    client.watch(from(4, key("a")));
    assert_eq!(client.next().header, Some(header(1)));
    client.ask_progress();
    for revision in 2..4 {
        assert_eq!(write(&shelf, &hub, &[("a", Some("1"))]), revision);
        assert!(client.poll().is_pending());
    }
    write(&shelf, &hub, &[("b", Some("1"))]);
    assert!(client.woken(), "the progress asked for can be told now");
    let progress = pb::WatchResponse { header: Some(header(4)), watch_id: -1, ..Default::default() };
    assert_eq!(client.drain(), [progress]);
    write(&shelf, &hub, &[("a", Some("2"))]);
    assert_eq!(told(&client.next()), ["PUT a=2 @5"]);
}

#[test]
fn a_compacted_start_is_created_and_then_canceled_without_a_reason() {
    let (shelf, hub) = hub(Options::default());
    for _ in 0..5 {
        write(&shelf, &hub, &[("a", Some("1"))]);
    }
    shelf.compact(4);
    let mut client = Client::new(&hub);
    client.watch(from(3, key("a")));
    client.watch(from(4, key("a")));
    let created = pb::WatchResponse { header: Some(header(6)), created: true, ..Default::default() };
    let canceled =
        pb::WatchResponse { header: Some(header(0)), canceled: true, compact_revision: 4, ..Default::default() };
    assert_eq!([client.next(), client.next()], [created.clone(), canceled]);
    assert_eq!(client.next(), pb::WatchResponse { watch_id: 1, ..created });
    assert_eq!(told(&client.next()), ["PUT a=1 @4", "PUT a=1 @5", "PUT a=1 @6"]);
    assert_eq!(hub.watchers(), 1);
}

#[test]
fn the_id_of_a_compacted_watch_is_free_when_its_client_has_cancelled_it() {
    let (shelf, hub) = hub(Options::default());
    for _ in 0..5 {
        write(&shelf, &hub, &[("a", Some("1"))]);
    }
    shelf.compact(4);
    let mut client = Client::new(&hub);
    let request = pb::WatchCreateRequest { watch_id: 9, ..key("a") };
    client.watch(from(3, request.clone()));
    client.drain();
    client.ask_progress();
    client.watch(request.clone());
    assert_eq!(refused(&client.next()), "mvcc: duplicate watch ID provided on the WatchStream");
    client.cancel(9);
    client.cancel(9);
    let canceled = pb::WatchResponse { header: Some(header(6)), watch_id: 9, canceled: true, ..Default::default() };
    assert_eq!(client.drain(), [canceled]);
    client.watch(request);
    assert_eq!(client.next().cancel_reason, "");
}

#[test]
fn refusals_are_checked_in_etcds_order() {
    let (_, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    client.watch(pb::WatchCreateRequest { watch_id: 5, ..key("b") });
    client.watch(pb::WatchCreateRequest { watch_id: 5, ..from(-1, range("b", "a")) });
    client.watch(pb::WatchCreateRequest { watch_id: 5, ..range("b", "a") });
    assert_eq!(client.next().cancel_reason, "");
    assert_eq!(refused(&client.next()), "etcdserver: mvcc: required revision has been compacted");
    assert_eq!(refused(&client.next()), "mvcc: watcher range is empty");
}

#[test]
fn compaction_cancels_a_watcher_that_it_overtakes() {
    let (shelf, hub) = hub(Options::default());
    shelf.0.lock().answer_max = 2;
    for _ in 0..6 {
        write(&shelf, &hub, &[("a", Some("1"))]);
    }
    let mut client = Client::new(&hub);
    client.watch(from(2, key("a")));
    assert!(client.next().created);
    assert_eq!(told(&client.next()), ["PUT a=1 @2", "PUT a=1 @3"]);
    assert_eq!(hub.unsynced_watchers(), 1);
    shelf.compact(6);
    let canceled =
        pb::WatchResponse { header: Some(header(0)), canceled: true, compact_revision: 6, ..Default::default() };
    assert_eq!(client.drain(), [canceled]);
    assert_eq!((hub.watchers(), hub.unsynced_watchers()), (0, 0));
}

#[test]
fn history_comes_in_responses_of_whole_revisions() {
    let (shelf, hub) = hub(Options::default());
    for _ in 0..2500 {
        write(&shelf, &hub, &[("a", Some("1")), ("b", Some("1"))]);
    }
    let mut client = Client::new(&hub);
    client.watch(from(1, range("a", "\0")));
    assert!(client.next().created);
    let sizes: Vec<usize> = client.drain().iter().map(|response| response.events.len()).collect();
    assert_eq!(sizes, [2000, 2000, 1000], "a thousand revisions at a time");
}

#[test]
fn fragments_stay_below_their_limit_and_only_the_last_is_unmarked() {
    let (shelf, hub) = hub(Options { fragment_bytes: 100, ..Options::default() });
    let mut client = Client::new(&hub);
    client.watch(key("a"));
    client.watch(range("a", "z"));
    client.watch(pb::WatchCreateRequest { fragment: true, ..range("a", "z") });
    client.drain();
    let long = "x".repeat(150);
    write(&shelf, &hub, &[("a", Some("1")), ("b", Some("2")), ("c", Some(&long)), ("d", Some("3"))]);
    let responses = client.drain();
    let of = |id| responses.iter().filter(move |response| response.watch_id == id);
    let shape = |id| of(id).map(|response| (response.events.len(), response.fragment)).collect::<Vec<_>>();
    assert_eq!(shape(0), [(1, false)]);
    assert_eq!(shape(1), [(4, false)]);
    assert_eq!(shape(2), [(2, true), (1, true), (1, false)]);
    assert!(of(2).all(|response| response.header == Some(header(2))));
}

#[test]
fn progress_is_told_when_all_is_delivered_and_once_to_those_who_waited() {
    let (shelf, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    client.ask_progress();
    assert_eq!(client.drain(), [], "nothing is watched");
    for _ in 0..3 {
        write(&shelf, &hub, &[("a", Some("1"))]);
    }
    client.watch(from(2, key("a")));
    client.watch(key("b"));
    client.ask_progress();
    client.ask_progress();
    let responses = client.drain();
    let progress = pb::WatchResponse { header: Some(header(4)), watch_id: -1, ..Default::default() };
    assert_eq!(responses[..2].iter().filter(|response| response.created).count(), 2);
    assert_eq!(told(&responses[2]), ["PUT a=1 @2", "PUT a=1 @3", "PUT a=1 @4"]);
    assert_eq!(responses[3..], std::slice::from_ref(&progress)[..], "those who wait together share an answer");
    client.ask_progress();
    client.ask_progress();
    assert_eq!(client.drain(), [progress.clone(), progress], "nobody has to wait: each has its answer");
}

#[test]
fn progress_asked_of_watches_that_are_gone_is_forgotten() {
    let (_, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    client.watch(from(9, key("a")));
    client.ask_progress();
    client.drain();
    client.cancel(0);
    client.drain();
    client.watch(key("a"));
    assert_eq!(client.drain().len(), 1);
}

#[test]
fn watches_cancelled_while_others_are_told_hide_nobody() {
    let (shelf, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    for _ in 0..60 {
        client.watch(key("a"));
    }
    client.drain();
    write(&shelf, &hub, &[("a", Some("1"))]);
    client.next();
    for id in (0..60).filter(|id| id % 3 > 0) {
        client.cancel(id);
    }
    let mut told_ids = std::collections::BTreeSet::new();
    for response in client.drain().iter().filter(|response| !response.canceled) {
        assert!(told_ids.insert(response.watch_id), "{} twice", response.watch_id);
    }
    assert!((0..59).filter(|id| id % 3 == 0).all(|id| told_ids.contains(&id)), "{told_ids:?}");
}

#[test]
fn progress_asked_for_is_not_older_than_what_reads_show() {
    let (shelf, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    client.watch(key("a"));
    client.drain();
    let batch = shelf.apply(&[("b", Some("1"))]).unwrap();
    client.ask_progress();
    assert!(client.poll().is_pending());
    hub.publish(&[batch], 2);
    assert!(client.woken());
    assert_eq!(client.next().header, Some(header(2)));
}

#[tokio::test]
async fn periodic_progress_comes_by_itself() {
    let (shelf, hub) = hub(Options { progress_interval: std::time::Duration::from_millis(1), ..Options::default() });
    let mut client = Client::new(&hub);
    client.watch(pb::WatchCreateRequest { progress_notify: true, watch_id: 5, ..key("a") });
    assert!(client.stream.next().await.unwrap().unwrap().created);
    let progress = pb::WatchResponse { header: Some(header(1)), watch_id: 5, ..Default::default() };
    assert_eq!(client.stream.next().await.unwrap().unwrap(), progress);
    assert_eq!(client.stream.next().await.unwrap().unwrap(), progress);
    write(&shelf, &hub, &[("b", Some("1"))]);
    assert_eq!(client.stream.next().await.unwrap().unwrap().header, Some(header(2)));
}

#[tokio::test]
async fn periodic_progress_skips_a_watcher_once_that_had_events() {
    let (shelf, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    for key_ in ["a", "b"] {
        client.watch(pb::WatchCreateRequest { progress_notify: true, ..key(key_) });
    }
    client.watch(key("c"));
    client.drain();
    write(&shelf, &hub, &[("a", Some("1"))]);
    assert_eq!(client.drain().len(), 1);
    let mut tick = || {
        client.stream.tick();
        client.drain().iter().map(|response| (response.watch_id, response.header.unwrap().revision)).collect::<Vec<_>>()
    };
    assert_eq!(tick(), [(1, 2)]);
    assert_eq!(tick(), [(0, 2), (1, 2)]);
}

#[test]
fn the_end_of_requests_does_not_end_the_stream() {
    let (shelf, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    client.watch(key("a"));
    client.requests = None;
    assert!(client.next().created);
    assert!(client.poll().is_pending());
    write(&shelf, &hub, &[("a", Some("1"))]);
    assert_eq!(told(&client.next()), ["PUT a=1 @2"]);
}

#[test]
fn unknown_requests_are_ignored_and_broken_ones_end_the_stream() {
    let (_, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    client.requests.as_ref().unwrap().try_send(Ok(pb::WatchRequest::default())).unwrap();
    client.watch(key("a"));
    assert!(client.next().created);
    client.requests.as_ref().unwrap().try_send(Err(Status::internal("broken"))).unwrap();
    assert_eq!(client.end().message(), "broken");
}

#[test]
fn closing_ends_every_stream_and_those_that_come_later() {
    let (_, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    assert!(client.poll().is_pending());
    hub.close(Status::unavailable("etcdserver: server stopped"));
    assert!(client.woken());
    assert_eq!(client.end().message(), "etcdserver: server stopped");
    assert_eq!(Client::new(&hub).end().code(), tonic::Code::Unavailable);
}

#[test]
fn losing_the_leader_ends_the_streams_that_need_one() {
    let (_, hub) = hub(Options::default());
    let mut with = Client::with(&hub, StreamOptions { require_leader: true });
    let mut without = Client::new(&hub);
    assert!(with.poll().is_pending() && without.poll().is_pending());
    hub.leader_lost();
    let status = with.end();
    assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "etcdserver: no leader"));
    assert!(without.poll().is_pending());
    assert_eq!(Client::with(&hub, StreamOptions { require_leader: true }).end().message(), "etcdserver: no leader");
    hub.leader_found();
    assert!(Client::with(&hub, StreamOptions { require_leader: true }).poll().is_pending());
}

#[test]
fn what_a_stuck_client_holds_is_bounded_and_it_misses_nothing() {
    let (shelf, hub) = hub(Options { window_bytes_max: 100_000, slice_bytes_max: 10_000, ..Options::default() });
    let (mut stuck, mut reader) = (Client::new(&hub), Client::new(&hub));
    for client in [&mut stuck, &mut reader] {
        client.watch(range("k", "l"));
        client.watch(key("k7"));
        client.drain();
    }
    let value = "x".repeat(1000);
    for n in 0..1000 {
        write(&shelf, &hub, &[(&format!("k{}", n % 10), Some(&value))]);
        assert!(reader.drain().iter().map(|response| response.events.len()).sum::<usize>() <= 2);
        assert!(hub.pending_batches() <= 110, "{} batches", hub.pending_batches());
    }
    assert_eq!(shelf.reads(), 0, "a client that keeps up never reads history");
    let mut events = [0; 2];
    for response in stuck.drain() {
        events[response.watch_id as usize] += response.events.len();
        assert!(response.events.len() <= 20);
    }
    assert_eq!(events, [1000, 100]);
    assert!(shelf.reads() > 0);
    assert_eq!((hub.pending_batches(), hub.unsynced_watchers()), (0, 0));
}

#[test]
fn watchers_that_start_together_read_the_history_together() {
    let (shelf, hub) = hub(Options::default());
    for _ in 0..1500 {
        write(&shelf, &hub, &[("a", Some("1"))]);
    }
    let mut client = Client::new(&hub);
    for _ in 0..100 {
        client.watch(from(1, key("a")));
    }
    let events: usize = client.drain().iter().map(|response| response.events.len()).sum();
    assert_eq!(events, 150_000);
    assert!(shelf.reads() < 12, "{} reads", shelf.reads());
}

#[test]
fn a_watcher_that_catches_up_is_given_what_its_group_has_told_the_others() {
    let (shelf, hub) = hub(Options::default());
    let mut laggard = Client::new(&hub);
    laggard.watch(key("a"));
    laggard.drain();
    write(&shelf, &hub, &[("a", Some("1"))]);
    let mut client = Client::new(&hub);
    client.watch(key("a"));
    client.watch(from(2, key("a")));
    client.watch(from(2, key("a")));
    while client.next().events.is_empty() {}
    // One of the two has read the history up to 2; before the other is served, the first watcher is told of 3.
    write(&shelf, &hub, &[("a", Some("2"))]);
    let mut times = [0; 3];
    for response in client.drain() {
        times[response.watch_id as usize] += response.events.len();
        let kinds: Vec<_> = response.events.iter().map(|event| event.r#type()).collect();
        assert!(kinds.iter().all(|&kind| kind == EventType::Put));
    }
    assert_eq!(times.iter().sum::<usize>(), 4, "{times:?}");
    assert_eq!(times[0], 1);
}

/// A watcher may become synced while entries newer than those it needs are on their way to the others of its group.
#[test]
fn watchers_that_catch_up_while_others_are_told_miss_nothing() {
    for (others, pause) in (0..8).flat_map(|others| (1..5).map(move |pause| (others, pause))) {
        let (shelf, hub) = hub(Options::default());
        let mut laggard = Client::new(&hub);
        laggard.watch(key("a"));
        laggard.drain();
        for _ in 0..3 {
            write(&shelf, &hub, &[("a", Some("1"))]);
        }
        let mut client = Client::new(&hub);
        client.watch(from(2, key("a")));
        (0..others).for_each(|_| client.watch(from(2, key("b"))));
        client.watch(from(2, key("a")));
        client.watch(key("a"));
        client.watch(key("a"));
        let mut revisions = vec![Vec::new(); others + 4];
        let mut record = |response: pb::WatchResponse| {
            let of_events = response.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision());
            revisions[response.watch_id as usize].extend(of_events);
        };
        for n in 0..40 {
            match client.poll() {
                Poll::Ready(response) => record(response.unwrap().unwrap()),
                Poll::Pending => break,
            }
            if n > others + 3 && n % pause == 0 {
                write(&shelf, &hub, &[("a", Some("1"))]);
            }
        }
        client.drain().into_iter().for_each(&mut record);
        let all: Vec<i64> = (2..=shelf.revision()).collect();
        assert_eq!((&revisions[0], &revisions[others + 1]), (&all, &all), "{others} others, a write every {pause}");
    }
}

#[test]
fn a_jump_of_the_state_is_read_from_the_history() {
    let (shelf, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    client.watch(key("a"));
    client.watch(from(9, key("a")));
    client.drain();
    for _ in 0..3 {
        shelf.apply(&[("a", Some("1"))]);
    }
    hub.publish(&[], 4);
    assert!(client.woken());
    assert_eq!(told(&client.next()), ["PUT a=1 @2", "PUT a=1 @3", "PUT a=1 @4"]);
    assert!(client.poll().is_pending(), "the one that starts at 9 is told nothing");
    write(&shelf, &hub, &[("a", Some("1"))]);
    assert_eq!(told(&client.next()), ["PUT a=1 @5"]);
}

#[test]
fn batches_handed_out_before_are_skipped() {
    let (shelf, hub) = hub(Options::default());
    let mut client = Client::new(&hub);
    client.watch(pb::WatchCreateRequest { key: bytes("a"), ..Default::default() });
    client.drain();
    let batch = shelf.apply(&[("a", Some("1"))]).unwrap();
    hub.publish(std::slice::from_ref(&batch), 2);
    hub.publish(&[batch], 2);
    assert_eq!(client.drain().len(), 1);
    assert_eq!(hub.events_sent(), 1);
}

#[test]
fn watches_opened_and_cancelled_in_turn_do_not_pile_up() {
    let (shelf, hub) = hub(Options::default());
    for _ in 0..5 {
        write(&shelf, &hub, &[("a", Some("1"))]);
    }
    let mut client = Client::new(&hub);
    for id in (1..20).cycle().take(2000) {
        client.watch(pb::WatchCreateRequest { watch_id: id, ..from(1, key("a")) });
        client.cancel(id);
    }
    let mut queued_max = 0;
    while client.poll().is_ready() {
        queued_max = client.stream.catching_up().max(queued_max);
    }
    assert!((1..150).contains(&queued_max), "{queued_max}");
    assert_eq!((hub.watchers(), hub.unsynced_watchers(), client.stream.catching_up()), (0, 0, 0));
}
