//! The watchers of the watch workloads: their streams, and what they have received.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kelson::clock::Clock;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::client::{TIMESTAMP_BYTES, key};
use super::grpc::{Channel, Error, Method, Receiver, Sender};
use super::measure::Counter;
use super::options::{Options, Workload};
use super::wire::{Fields, Message, Value, prefix_end};

/// After this long without one delivery the missing ones are given up and counted as errors.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(20);
/// Watchers created on a stream before the answers are read.
const CREATES_IN_FLIGHT_MAX: u64 = 1_000;

/// A handle to all watchers; clones share them.
#[derive(Clone)]
pub struct Watchers(Arc<Shared>);

struct Shared {
    workload: Workload,
    watchers: u64,
    keys: u64,
    /// Deliveries that the puts so far will cause.
    expected: AtomicU64,
    /// Deliveries so far.
    delivered: AtomicU64,
    /// Told after every message that arrives.
    arrived: Notify,
    counter: Counter,
}

/// The tasks that read the streams; dropping it does not end them, [`Readers::stop`] does.
pub struct Readers(Vec<(Sender, JoinHandle<()>)>);

impl Readers {
    /// Ends the streams.
    pub fn stop(self) {
        self.0.into_iter().for_each(|(_, reader)| reader.abort());
    }
}

impl Watchers {
    /// Opens `--streams` streams over the channels and creates `--watchers` watchers on them.
    ///
    /// # Errors
    /// When a stream breaks or a watcher is refused.
    pub async fn create(
        options: &Arc<Options>,
        clock: &Clock,
        channels: &[Channel],
        counter: &Counter,
    ) -> Result<(Self, Readers), Error> {
        let fan_out = options.workload == Workload::WatchFanOut;
        let watchers = Self(Arc::new(Shared {
            workload: options.workload,
            watchers: options.watchers,
            keys: if fan_out { options.keys } else { options.watchers },
            expected: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            arrived: Notify::new(),
            counter: counter.clone(),
        }));
        let mut readers = Vec::new();
        for stream in 0..options.streams as u64 {
            let mut channel = channels[stream as usize % channels.len()].clone();
            let (mut sender, mut receiver) = channel.stream(Method::Watch).await?;
            let own: Vec<u64> = (stream..options.watchers).step_by(options.streams).collect();
            for some in own.chunks(CREATES_IN_FLIGHT_MAX as usize) {
                for watcher in some {
                    sender.send(create_request(options, *watcher).frame())?;
                }
                for _ in some {
                    let answer = receiver.next().await?;
                    if Fields::int(&answer, 3) != 1 || Fields::int(&answer, 4) != 0 {
                        return Err(Error::Malformed("a watcher was not created"));
                    }
                }
            }
            let reader = tokio::spawn(watchers.clone().read(clock.clone(), receiver));
            readers.push((sender, reader));
        }
        Ok((watchers, Readers(readers)))
    }

    /// Number of keys to put.
    pub fn keys(&self) -> u64 {
        self.0.keys
    }

    /// Says that a put is about to be sent; returns the number of deliveries after which all its events have arrived.
    pub fn expect_event(&self) -> u64 {
        self.0.expected.fetch_add(self.per_put(), Ordering::Relaxed) + self.per_put()
    }

    /// Takes [`Watchers::expect_event`] back: the put failed.
    pub fn expect_no_event(&self) {
        self.0.expected.fetch_sub(self.per_put(), Ordering::Relaxed);
    }

    /// Waits until `target` deliveries have arrived.
    pub async fn delivered(&self, target: u64) {
        loop {
            let arrived = self.0.arrived.notified();
            if self.0.delivered.load(Ordering::Relaxed) >= target {
                return;
            }
            if within(arrived, DELIVERY_TIMEOUT).await.is_none() {
                let missing = target.saturating_sub(self.0.delivered.load(Ordering::Relaxed));
                self.0.delivered.fetch_add(missing, Ordering::Relaxed);
                self.0.counter.failed(&Error::Malformed("deliveries are missing"));
                return;
            }
        }
    }

    /// Waits for everything that the puts so far cause.
    pub async fn all_delivered(&self) {
        self.delivered(self.0.expected.load(Ordering::Relaxed)).await;
    }

    fn per_put(&self) -> u64 {
        if self.0.workload == Workload::WatchFanOut { self.0.watchers } else { 1 }
    }

    async fn read(self, clock: Clock, mut receiver: Receiver) {
        loop {
            match receiver.next().await {
                Ok(message) => self.count(&clock, &message),
                Err(error) => return self.0.counter.failed(&error),
            }
        }
    }

    fn count(&self, clock: &Clock, message: &[u8]) {
        let now = clock.now();
        let mut events = 0;
        let mut totals = self.0.counter.lock();
        for (field, value) in Fields::of(message) {
            if let (11, Value::Bytes(event)) = (field, value) {
                events += 1;
                totals.deliveries.record(now.saturating_sub(sent_at(event).unwrap_or(now)));
            }
        }
        drop(totals);
        if events == 0 {
            let reason = "a watcher sent something that is no event";
            return self.0.counter.failed(&Error::Malformed(reason));
        }
        self.0.delivered.fetch_add(events, Ordering::Relaxed);
        self.0.arrived.notify_waiters();
    }
}

fn create_request(options: &Options, watcher: u64) -> Message {
    let own = key(options, watcher);
    let (key, range_end) = match options.workload {
        Workload::WatchFanOut => (options.prefix.clone().into_bytes(), prefix_end(options.prefix.as_bytes())),
        Workload::WatchPrefixes => {
            let prefix = [&own[..], b"/"].concat();
            let end = prefix_end(&prefix);
            (prefix, end)
        }
        _ => (own, Vec::new()),
    };
    let create = Message::with_capacity(128).bytes(1, &key).bytes(2, &range_end).int(6, i64::from(options.prev_kv));
    Message::with_capacity(160).message(1, &create)
}

/// The time in an event's value.
fn sent_at(event: &[u8]) -> Option<Duration> {
    let value = Fields::bytes(Fields::bytes(event, 2)?, 5)?;
    let nanos = u64::from_le_bytes(value.get(..TIMESTAMP_BYTES)?.try_into().ok()?);
    Some(Duration::from_nanos(nanos))
}

async fn within<T>(future: impl Future<Output = T>, time: Duration) -> Option<T> {
    tokio::time::timeout(time, future).await.ok()
}
