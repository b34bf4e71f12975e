//! Asking everybody for a hash at one revision. Hashes of large states take long, here and at the others: they are
//! computed on threads of their own, and there is a limit to everything.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tonic::Code;

use super::{Answer, Error, Survey};
use crate::proto::peer::HashKvRequest;
use crate::raft::peers::{Failure, Peer};
use crate::raft::{self, Node};
use crate::state::{self, HashKv, Store};

/// How long a member may take for one hash.
const HASH_DEADLINE: Duration = Duration::from_secs(60);
/// How often a member that is behind is asked again, for it hears of the last commit only with the next message; and
/// the pause before.
const BEHIND_ATTEMPTS: u32 = 5;
const BEHIND_PAUSE: Duration = Duration::from_millis(100);
/// How often everybody is asked: once more when a compaction came in between, and once more where the last is.
const ROUNDS_MAX: u32 = 3;

/// Asks at the revision that `at` chooses, 0 = the newest, and again, where it can, until everybody is comparable. What
/// this gives is the last round, whoever was comparable in it.
///
/// # Errors
/// [`Error::Hash`]: there is no own hash at the revision.
pub async fn survey(node: &Node, at: impl Fn(&Store) -> i64) -> Result<Survey, Error> {
    let mut last: Option<Survey> = None;
    let mut lowest = None;
    for _ in 0..ROUNDS_MAX {
        let own = match own_hash(node, lowest.take().unwrap_or_else(|| at(node.store()))).await {
            Ok(own) => own,
            // Compacted meanwhile: what was heard before counts, or what there is now.
            Err(Error::Hash(state::Error::Compacted)) if last.is_some() => break,
            Err(Error::Hash(state::Error::Compacted)) => continue,
            Err(error) => return Err(error),
        };
        let round = Survey { me: node.status().member_id, own, others: ask_all(node, own.revision).await };
        lowest = lowest_of_those_behind(node, &round).await;
        let is_overtaken = round.others.iter().any(|(_, answer)| match answer {
            Answer::Hash(hash, _) => hash.compact_revision > own.compact_revision,
            Answer::Compacted => true,
            Answer::Behind | Answer::Silent(_) => false,
        });
        last = Some(round);
        if lowest.is_none() && !is_overtaken {
            break;
        }
    }
    last.ok_or(Error::Hash(state::Error::Compacted))
}

/// The newest revision of whoever lags most, when somebody does: there they can all be compared.
async fn lowest_of_those_behind(node: &Node, round: &Survey) -> Option<i64> {
    let behind = round.others.iter().filter(|(_, answer)| *answer == Answer::Behind);
    let asked = join_all(behind.map(|(id, _)| ask(node, *id, 0))).await;
    let newest = asked.into_iter().filter_map(|answer| match answer {
        Answer::Hash(hash, _) => Some(hash.revision),
        Answer::Behind | Answer::Compacted | Answer::Silent(_) => None,
    });
    newest.min().map(|newest| newest.min(round.own.revision))
}

async fn own_hash(node: &Node, revision: i64) -> Result<HashKv, Error> {
    let (store, meter) = (Arc::clone(node.store()), node.meter());
    let started = meter.clock.now();
    let hash = match crate::blocking::spawn(move || store.hash_kv(revision)).await {
        Ok(hash) => hash?,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        // The runtime is going down.
        Err(_) => return Err(raft::Error::Stopped.into()),
    };
    meter.metrics.mvcc.hash_rev_seconds.observe(meter.since(started).as_secs_f64());
    Ok(hash)
}

async fn ask_all(node: &Node, revision: i64) -> Vec<(u64, Answer)> {
    let me = node.status().member_id;
    let others = node.members().into_iter().map(|member| member.id).filter(|id| *id != me);
    join_all(others.map(async |id| (id, ask(node, id, revision).await))).await
}

async fn ask(node: &Node, id: u64, revision: i64) -> Answer {
    let Some(peer) = node.peers().get(id) else { return Answer::Silent("is not known yet".to_owned()) };
    for _ in 1..BEHIND_ATTEMPTS {
        match ask_once(&peer, revision).await {
            Answer::Behind => tokio::time::sleep(BEHIND_PAUSE).await,
            answer => return answer,
        }
    }
    ask_once(&peer, revision).await
}

async fn ask_once(peer: &Peer, revision: i64) -> Answer {
    let request = HashKvRequest { envelope: peer.envelope(), revision };
    match peer.control(HASH_DEADLINE, |mut client| async move { client.hash_kv(request).await }).await {
        Ok(answer) => {
            let newest = answer.header.map_or(0, |header| header.revision);
            let hash =
                HashKv { hash: answer.hash, compact_revision: answer.compact_revision, revision: answer.hash_revision };
            Answer::Hash(hash, newest)
        }
        // The two refusals of a hash, in the words of `rpc::status`.
        Err(Failure::Unknown(status)) if status.code() == Code::OutOfRange => {
            if status.message().ends_with("future revision") { Answer::Behind } else { Answer::Compacted }
        }
        Err(failure) => Answer::Silent(failure.to_string()),
    }
}
