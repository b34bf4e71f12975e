//! The clients: each has a share of a connection and does one operation after another.

use std::sync::Arc;

use bytes::Bytes;
use kelson::clock::Clock;

use super::grpc::{Channel, Error, Method, Receiver, Sender};
use super::measure::{Counter, Stage, Turn};
use super::options::{Options, Workload};
use super::watchers::Watchers;
use super::wire::{Fields, Message, prefix_end, put};

/// Time to live of a lease that is only granted to be revoked, or kept alive: longer than any run.
const LEASE_TTL_SECONDS: i64 = 3_600;
/// A put's value starts with the time it was sent at, in nanoseconds.
pub const TIMESTAMP_BYTES: usize = 8;

/// Small, fast random numbers (splitmix64); good enough to choose keys.
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// One client.
pub struct Client {
    options: Arc<Options>,
    clock: Clock,
    channel: Channel,
    random: Random,
    /// Position among the clients.
    id: u64,
    value: Vec<u8>,
    /// `txn-cas`: the mod revision that this client believes each of its own keys to have.
    mod_revisions: Vec<i64>,
    /// `keep-alive`: the lease and its stream.
    lease: Option<(i64, Sender, Receiver)>,
    watchers: Option<Watchers>,
}

impl Client {
    /// Client number `id` on a channel; does what has to be done once before its first operation.
    ///
    /// # Errors
    /// When the server refuses that.
    pub async fn prepare(
        options: &Arc<Options>,
        clock: &Clock,
        channel: Channel,
        id: u64,
        watchers: Option<Watchers>,
    ) -> Result<Self, Error> {
        let mut random = Random::new(options.seed.wrapping_mul(0x1_0000).wrapping_add(id));
        let value = (0..options.value_bytes.max(TIMESTAMP_BYTES)).map(|_| random.next() as u8).collect();
        let own_keys = options.keys.div_ceil(options.clients as u64) as usize;
        let mut client = Self {
            options: Arc::clone(options),
            clock: clock.clone(),
            channel,
            random,
            id,
            value,
            mod_revisions: vec![0; if options.workload == Workload::TxnCas { own_keys } else { 0 }],
            lease: None,
            watchers,
        };
        if options.workload == Workload::KeepAlive {
            let lease = client.grant().await?;
            let (sender, receiver) = client.channel.stream(Method::LeaseKeepAlive).await?;
            client.lease = Some((lease, sender, receiver));
        }
        Ok(client)
    }

    /// Takes turns until the stage ends. A refused operation is counted and the client goes on; a broken connection
    /// ends it.
    pub async fn run(mut self, stage: Arc<Stage>, counter: Counter) -> Self {
        while let Some(turn) = stage.turn().await {
            match self.operate(turn).await {
                Ok(operations) => {
                    let latency = self.clock.now().saturating_sub(turn.due);
                    let mut totals = counter.lock();
                    totals.operations += operations;
                    totals.latency.record(latency);
                }
                Err(error) => {
                    counter.failed(&error);
                    if !error.is_status() {
                        break;
                    }
                }
            }
        }
        self
    }

    /// Gives back what `prepare` took.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn close(mut self) -> Result<(), Error> {
        if let Some((lease, _, _)) = self.lease.take() {
            self.revoke(lease).await?;
        }
        Ok(())
    }

    /// One operation; returns how many it counts as.
    async fn operate(&mut self, turn: Turn) -> Result<u64, Error> {
        match self.options.workload {
            Workload::Put | Workload::PutWatched | Workload::WatchPrefixes | Workload::WatchFanOut => {
                self.put(turn).await?;
            }
            Workload::Get => self.get().await?,
            Workload::TxnCas => self.compare_and_swap().await?,
            Workload::Page | Workload::PageNext | Workload::Count | Workload::RangeFull => self.range().await?,
            Workload::LeaseCycle => {
                let lease = self.grant().await?;
                self.revoke(lease).await?;
            }
            Workload::KeepAlive => self.keep_alive().await?,
            Workload::Fill => return self.fill(turn).await,
        }
        Ok(1)
    }

    async fn put(&mut self, turn: Turn) -> Result<(), Error> {
        self.value[..TIMESTAMP_BYTES].copy_from_slice(&(turn.due.as_nanos() as u64).to_le_bytes());
        let index = match &self.watchers {
            Some(watchers) => self.random.below(watchers.keys()),
            None => self.random.below(self.options.keys),
        };
        let mut key = self.key(index);
        if self.options.workload == Workload::WatchPrefixes {
            key.extend_from_slice(b"/object");
        }
        let wait = self.watchers.as_ref().map(Watchers::expect_event);
        let sent = self.channel.unary(Method::Put, put(&key, &self.value).frame()).await;
        match (sent, &self.watchers) {
            (Ok(_), Some(watchers)) if self.options.workload == Workload::WatchFanOut => {
                watchers.delivered(wait.unwrap_or_default()).await;
                Ok(())
            }
            (Ok(_), _) => Ok(()),
            (Err(error), watchers) => {
                if let Some(watchers) = watchers {
                    watchers.expect_no_event();
                }
                Err(error)
            }
        }
    }

    async fn get(&mut self) -> Result<(), Error> {
        let index = self.random.below(self.options.keys);
        let request =
            Message::with_capacity(64).bytes(1, &self.key(index)).int(7, i64::from(self.options.serializable));
        let answer = self.channel.unary(Method::Range, request.frame()).await?;
        if Fields::count(&answer, 2) == 1 {
            Ok(())
        } else {
            Err(Error::Malformed("the key is missing; run fill first"))
        }
    }

    /// `If mod_revision(key) == known Then put Else get`, again with what the get says when it did not hold.
    async fn compare_and_swap(&mut self) -> Result<(), Error> {
        let own = self.random.below(self.mod_revisions.len() as u64);
        let key = self.key(own * self.options.clients as u64 + self.id);
        loop {
            let known = self.mod_revisions[own as usize];
            // Compare {result EQUAL, target MOD, key, mod_revision}; the union's field is sent even when zero, as Go does.
            let compare = Message::with_capacity(64).int(2, 2).bytes(3, &key).int(6, known);
            let then = Message::with_capacity(self.value.len() + 64).message(2, &put(&key, &self.value));
            let otherwise = Message::with_capacity(64).message(1, &Message::with_capacity(64).bytes(1, &key));
            let request = Message::with_capacity(self.value.len() + 256)
                .message(1, &compare)
                .message(2, &then)
                .message(3, &otherwise);
            let answer = self.channel.unary(Method::Txn, request.frame()).await?;
            let malformed = Error::Malformed("a txn's answer lacks its header or its range");
            if Fields::int(&answer, 2) == 1 {
                let header = Fields::bytes(&answer, 1).ok_or(malformed)?;
                self.mod_revisions[own as usize] = Fields::int(header, 3);
                return Ok(());
            }
            let response = Fields::bytes(&answer, 3).ok_or(malformed)?;
            let found = Fields::bytes(response, 1).and_then(|range| Fields::bytes(range, 2));
            let now = found.map_or(0, |kv| Fields::int(kv, 3));
            if now == known {
                return Err(Error::Malformed("a compare failed although it holds"));
            }
            self.mod_revisions[own as usize] = now;
        }
    }

    async fn range(&mut self) -> Result<(), Error> {
        let options = Arc::clone(&self.options);
        let end = prefix_end(options.prefix.as_bytes());
        let (start, limit, count_only) = match options.workload {
            Workload::PageNext => (self.random.below(options.keys), options.limit, false),
            Workload::Page => (0, options.limit, false),
            Workload::Count => (0, 0, true),
            _ => (0, 0, false),
        };
        let key = if start == 0 { options.prefix.clone().into_bytes() } else { self.key(start) };
        let request = Message::with_capacity(128)
            .bytes(1, &key)
            .bytes(2, &end)
            .int(3, limit)
            .int(7, i64::from(options.serializable))
            .int(9, i64::from(count_only));
        let answer = self.channel.unary(Method::Range, request.frame()).await?;
        let in_range = (options.keys - start) as i64;
        let expected = match limit {
            _ if count_only => 0,
            0 => in_range,
            limit => limit.min(in_range),
        };
        if Fields::int(&answer, 4) == in_range && Fields::count(&answer, 2) as i64 == expected {
            Ok(())
        } else {
            Err(Error::Malformed("the range has not --keys keys; run fill first"))
        }
    }

    async fn grant(&mut self) -> Result<i64, Error> {
        let request = Message::with_capacity(16).int(1, LEASE_TTL_SECONDS);
        let answer = self.channel.unary(Method::LeaseGrant, request.frame()).await?;
        Ok(Fields::int(&answer, 2))
    }

    async fn revoke(&mut self, lease: i64) -> Result<(), Error> {
        let request = Message::with_capacity(16).int(1, lease);
        self.channel.unary(Method::LeaseRevoke, request.frame()).await?;
        Ok(())
    }

    async fn keep_alive(&mut self) -> Result<(), Error> {
        let (lease, sender, receiver) = self.lease.as_mut().expect("prepare opened the stream");
        sender.send(Message::with_capacity(16).int(1, *lease).frame())?;
        let answer = receiver.next().await?;
        if Fields::int(&answer, 3) > 0 { Ok(()) } else { Err(Error::Malformed("the lease is gone")) }
    }

    /// Puts the keys `index * batch ..` of the turn, those below `--keys`.
    async fn fill(&mut self, turn: Turn) -> Result<u64, Error> {
        let first = turn.index * self.options.batch;
        let last = self.options.keys.min(first + self.options.batch);
        let mut request = Message::with_capacity((self.value.len() + 64) * self.options.batch as usize);
        for index in first..last {
            self.value[..TIMESTAMP_BYTES].copy_from_slice(&index.to_le_bytes());
            let operation =
                Message::with_capacity(self.value.len() + 64).message(2, &put(&self.key(index), &self.value));
            request = request.message(2, &operation);
        }
        let frame: Bytes = request.frame();
        self.channel.unary(Method::Txn, frame).await?;
        Ok(last.saturating_sub(first))
    }

    fn key(&self, index: u64) -> Vec<u8> {
        key(&self.options, index)
    }
}

/// Key number `index`.
pub fn key(options: &Options, index: u64) -> Vec<u8> {
    format!("{}{index:016}", options.prefix).into_bytes()
}
