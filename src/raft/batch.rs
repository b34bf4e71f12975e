//! The open batch: where commands wait while the log's disk is busy, and who is told when they are applied.
//!
//! One log entry is one batch. The first command on an idle log goes at once; what arrives while its entry is being
//! written fills the next batch. Admission is by bytes, so a flood is refused instead of queued without end.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::error::Error;
use super::types::{PROPOSAL_HEADER_BYTES, Proposal};
use crate::state::{Applied, Command};

/// A batch is closed when it has grown past this; one larger command makes a batch of its own.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Commands of one batch; bounds the time that one apply call takes.
const BATCH_COMMANDS_MAX: usize = 4096;
/// Bytes that may wait, proposed or not, before [`Error::TooManyRequests`].
const WAITING_BYTES_MAX: usize = 256 << 20;
/// Commands that may wait.
const WAITING_COMMANDS_MAX: usize = 1 << 20;

/// Batches on their way, above which those that nobody waits for any more are looked for and forgotten.
const PENDING_SWEEP: usize = 64;

/// Where the result of one command goes.
pub type Reply = oneshot::Sender<Result<Applied, Error>>;

/// What became of a batch.
#[derive(Debug)]
pub enum Delivered {
    /// It is in the log of a quorum; this member answers when it has applied it itself.
    Committed,
    /// It will not be answered by apply; the error says whether it may have been done all the same.
    Failed(Error),
}

/// Collects commands into proposals and keeps the replies until apply takes them.
pub struct Batcher {
    origin: u64,
    // Guards the batch being filled; held for the copy of one command.
    open: Mutex<Open>,
    // Guards the replies of batches on their way; taken once a batch by the proposer and once by apply.
    pending: Mutex<HashMap<u64, Pending>>,
    waiting_bytes: AtomicUsize,
    waiting_commands: AtomicUsize,
    work: Notify,
}

struct Open {
    batches: VecDeque<Batch>,
    sequence: u64,
    closed: bool,
}

struct Batch {
    payload: BytesMut,
    replies: Vec<Reply>,
}

/// A batch on its way.
struct Pending {
    payload_bytes: usize,
    replies: Vec<Reply>,
}

impl Pending {
    fn is_wanted(&self) -> bool {
        self.replies.iter().any(|reply| !reply.is_closed())
    }
}

impl Batcher {
    /// An empty batcher; `origin` must differ from every earlier life of this member.
    pub fn new(origin: u64) -> Self {
        Self {
            origin,
            open: Mutex::new(Open { batches: VecDeque::new(), sequence: 0, closed: false }),
            pending: Mutex::new(HashMap::new()),
            waiting_bytes: AtomicUsize::new(0),
            waiting_commands: AtomicUsize::new(0),
            work: Notify::new(),
        }
    }

    /// Adds a command; its result arrives on the receiver once it is durable and applied.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] or [`Error::Stopped`]; then nothing was proposed.
    pub fn add(&self, command: &Command) -> Result<oneshot::Receiver<Result<Applied, Error>>, Error> {
        if self.waiting_bytes.load(Ordering::Relaxed) > WAITING_BYTES_MAX
            || self.waiting_commands.load(Ordering::Relaxed) > WAITING_COMMANDS_MAX
        {
            return Err(Error::TooManyRequests);
        }
        let (reply, result) = oneshot::channel();
        let wake = {
            let mut open = self.open.lock();
            if open.closed {
                return Err(Error::Stopped);
            }
            let wake = open.batches.is_empty();
            let batch = open.batch(self.origin);
            let bytes = command.encode(&mut batch.payload);
            batch.replies.push(reply);
            self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.waiting_commands.fetch_add(1, Ordering::Relaxed);
            wake
        };
        if wake {
            self.work.notify_one();
        }
        Ok(result)
    }

    /// Whether it was told to end.
    pub fn is_closed(&self) -> bool {
        self.open.lock().closed
    }

    /// Commands waiting or on their way.
    pub fn waiting(&self) -> usize {
        self.waiting_commands.load(Ordering::Relaxed)
    }

    /// The replies of a batch that apply has reached, in the order of its commands; `None` for another process's
    /// batch or one that was given up.
    pub fn take(&self, origin: u64, sequence: u64) -> Option<Vec<Reply>> {
        if origin != self.origin {
            return None;
        }
        self.remove(sequence)
    }

    fn remove(&self, sequence: u64) -> Option<Vec<Reply>> {
        let pending = self.pending.lock().remove(&sequence)?;
        self.done(&pending);
        Some(pending.replies)
    }

    /// Tells whoever waits for a batch on its way that its outcome is unknown: a snapshot from the leader has taken the
    /// place of entries, these batches may have been among them, and apply will never see those.
    ///
    /// Nothing is said that could turn out wrong. One that is in the snapshot was applied, one that never reached the
    /// log was not, and one whose entry is still to come is applied later, when [`Batcher::take`] no longer finds it;
    /// unknown is true of all three. Batches that are still open wait on: they were never proposed.
    pub fn give_up_pending(&self) {
        let given_up = std::mem::take(&mut *self.pending.lock());
        for pending in given_up.into_values() {
            self.done(&pending);
            for reply in pending.replies {
                drop(reply.send(Err(Error::LeaderChanged)));
            }
        }
    }

    /// Whether anybody still waits for a batch; what nobody waits for need not be proposed.
    pub fn is_wanted(&self, sequence: u64) -> bool {
        self.pending.lock().get(&sequence).is_some_and(Pending::is_wanted)
    }

    /// Refuses everything from now on and tells whoever waits.
    pub fn close(&self) {
        let batches = {
            let mut open = self.open.lock();
            open.closed = true;
            std::mem::take(&mut open.batches)
        };
        let pending = std::mem::take(&mut *self.pending.lock());
        let pending = pending.into_values().flat_map(|pending| pending.replies);
        for reply in batches.into_iter().flat_map(|batch| batch.replies).chain(pending) {
            drop(reply.send(Err(Error::Stopped)));
        }
        self.work.notify_one();
    }

    /// Hands batches to `deliver` until [`Batcher::close`]; one of these runs per batcher. Several batches are never under
    /// way at once: the next one fills while the log writes this one.
    pub async fn run<F: Future<Output = Delivered>>(&self, deliver: impl Fn(u64, Proposal) -> F) {
        while let Some((sequence, proposal)) = self.next().await {
            match deliver(sequence, proposal).await {
                Delivered::Committed => self.sweep(),
                Delivered::Failed(error) => {
                    for reply in self.remove(sequence).into_iter().flatten() {
                        drop(reply.send(Err(error.clone())));
                    }
                }
            }
        }
    }

    /// Forgets batches that nobody waits for any more: they are committed, but this member, cut off, has not heard of it.
    fn sweep(&self) {
        let mut pending = self.pending.lock();
        if pending.len() > PENDING_SWEEP {
            let unwanted: Vec<u64> =
                pending.iter().filter(|(_, batch)| !batch.is_wanted()).map(|(&sequence, _)| sequence).collect();
            for sequence in unwanted {
                if let Some(unwanted) = pending.remove(&sequence) {
                    self.done(&unwanted);
                }
            }
        }
    }

    pub(super) async fn next(&self) -> Option<(u64, Proposal)> {
        loop {
            {
                let mut open = self.open.lock();
                if let Some(batch) = open.batches.pop_front() {
                    open.sequence += 1;
                    let sequence = open.sequence;
                    drop(open);
                    let pending = Pending { payload_bytes: batch.payload.len(), replies: batch.replies };
                    self.pending.lock().insert(sequence, pending);
                    return Some((sequence, Proposal::finish(batch.payload, sequence)));
                }
                if open.closed {
                    return None;
                }
            }
            self.work.notified().await;
        }
    }

    fn done(&self, pending: &Pending) {
        // The header and the format byte of a payload were never counted.
        let bytes = pending.payload_bytes.saturating_sub(PROPOSAL_HEADER_BYTES + 1);
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.waiting_commands.fetch_sub(pending.replies.len(), Ordering::Relaxed);
    }
}

impl Open {
    fn batch(&mut self, origin: u64) -> &mut Batch {
        let full = self
            .batches
            .back()
            .is_none_or(|batch| batch.payload.len() > BATCH_BYTES_MAX || batch.replies.len() >= BATCH_COMMANDS_MAX);
        if full {
            let mut payload = BytesMut::with_capacity(4096);
            Proposal::begin(origin, &mut payload);
            Command::begin_batch(&mut payload);
            self.batches.push_back(Batch { payload, replies: Vec::new() });
        }
        self.batches.back_mut().expect("a batch was just made sure of")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb as pb;

    fn put() -> Command {
        Command::Put(pb::PutRequest { key: "a".into(), ..pb::PutRequest::default() })
    }

    #[tokio::test]
    async fn what_a_snapshot_may_have_covered_is_answered_as_unknown_and_nothing_else_is() {
        let batcher = Batcher::new(1);
        let mut on_its_way = batcher.add(&put()).unwrap();
        let (sequence, proposal) = batcher.next().await.unwrap();
        let mut open = batcher.add(&put()).unwrap();
        batcher.give_up_pending();
        assert_eq!(on_its_way.try_recv().unwrap(), Err(Error::LeaderChanged));
        assert!(open.try_recv().is_err(), "never proposed, so it waits on");
        assert_eq!(batcher.waiting(), 1);

        let (origin, same, _) = proposal.parts();
        assert!(sequence == same && batcher.take(origin, sequence).is_none(), "applied later all the same");
        let (sequence, _) = batcher.next().await.unwrap();
        assert_eq!(batcher.take(origin, sequence).unwrap().len(), 1);
        assert_eq!((batcher.waiting(), batcher.waiting_bytes.load(Ordering::Relaxed)), (0, 0));
    }
}
