//! Disaster recovery: makes the only member of a cluster out of one that has lost the others, before Raft starts.
//!
//! Everything in this member's log counts, also what it does not know to be committed: an entry may have been
//! acknowledged by a leader that is gone, and dropping it would be worse than keeping one that was not. The state at the
//! log's end is written to a snapshot file whose membership is this member alone, and the log begins anew behind it. Killed
//! in between, the member is as it was, with a snapshot that the next attempt replaces.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use openraft::EntryPayload;

use super::apply::Mark;
use super::log_store::{LogStore, begin_behind, from_log};
use super::snapshot::{Image, Snapshots};
use super::types::{MemberInfo, Membership, StoredMembership, log_id};
use crate::state::{Command, Store};
use crate::storage::log::{Log, Recovered};

/// Bytes of entries read at a time.
const READ_BYTES: usize = 8 << 20;

/// What was found.
pub enum Outcome {
    /// The member was the only one already; nothing was changed.
    WasAlone,
    /// It is now; these were with it.
    IsAlone(Vec<u64>),
}

/// Makes the member `me` the only one of its cluster; blocks. Everything must be opened anew afterwards.
///
/// # Errors
/// The disk's; an entry that cannot be read.
pub fn make_alone(
    me: u64,
    peer_urls: Vec<String>,
    log: &Arc<Log>,
    recovered: &Recovered,
    store: &Store,
    mut mark: Mark,
    snapshots: &Snapshots,
) -> io::Result<Outcome> {
    replay(log, store, &mut mark)?;
    let others: Vec<u64> = mark.membership.nodes().map(|(id, _)| *id).filter(|id| *id != me).collect();
    if others.is_empty() {
        return Ok(Outcome::WasAlone);
    }
    let log_store = LogStore::new(log.clone(), recovered)?;
    let voted = log_store.vote().map_or(0, |vote| vote.leader_id.term);
    let (last_term, last_index) = mark.log_id.map_or((0, 0), |id| (id.leader_id.term, id.index));
    // As if this member, leading a new term, had removed the others with one more entry.
    let removal = log_id(voted.max(last_term) + 1, last_index + 1);
    // Its own URLs are those that the cluster knew, if it did.
    let peer_urls = mark.membership.get_node(&me).map_or(peer_urls, |info| info.peer_urls.clone());
    let alone = BTreeMap::from([(me, MemberInfo { peer_urls, becomes_voter: false })]);
    let membership = Membership::new(vec![BTreeSet::from([me])], alone).map_err(io::Error::other)?;
    mark.follow(StoredMembership::new(Some(removal), membership));
    mark.removed.remove(&me);
    mark.log_id = Some(removal);
    snapshots.save(&Image { mark, meta: store.meta(), view: store.view() })?;
    begin_behind(log, me, removal)?;
    Ok(Outcome::IsAlone(others))
}

/// Applies everything that the log holds behind the mark.
fn replay(log: &Log, store: &Store, mark: &mut Mark) -> io::Result<()> {
    loop {
        let next = mark.log_id.map_or(0, |id| id.index + 1).max(log.state().first_index);
        let entries = log.read(next, u64::MAX, READ_BYTES).map_err(io::Error::other)?;
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            let entry = from_log(entry)?;
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(proposal) => {
                    let (origin, sequence, batch) = proposal.parts();
                    if !mark.is_news(origin, sequence, entry.log_id.index) {
                        mark.log_id = Some(entry.log_id);
                        continue;
                    }
                    for command in Command::decode_batch(batch).map_err(io::Error::other)? {
                        // The answers belong to clients that are long gone.
                        store.apply(&command);
                    }
                }
                EntryPayload::Membership(membership) => {
                    mark.follow(StoredMembership::new(Some(entry.log_id), membership));
                }
            }
            mark.log_id = Some(entry.log_id);
        }
    }
}
