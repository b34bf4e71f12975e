//! Who is in the cluster, and changing it: by etcd's rules, on the leader, one change at a time.
//!
//! A new voter is first a learner that is caught up and then promoted by the leader itself, so that it never stands for
//! a quorum that it cannot hold; to clients it is a voter from the start, as with etcd. A learner that was asked for as
//! one stays one until it is promoted. Removed members never return: their ids are kept with the membership.
//!
//! Who votes is changed in two entries, as Raft has it: a joint membership of the voters before and after, and then that of
//! those after alone. Between the two the leader may lose its leadership, or whoever asked may go away; whoever leads then
//! writes the second entry, for until then nothing is decided without the voters before. Every change starts from a
//! membership that is whole and applied, so that what was checked is what is changed, and a leader that was removed changes
//! nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, Precondition};

use super::error;
use super::peers::Failure;
use super::types::{LogId, MemberInfo, Membership};
use super::{Leadership, Node};
use crate::config::{Url, ids};
use crate::proto::etcdserverpb as pb;
use crate::proto::peer;

/// A member that answered nothing for so long is down, as etcd's `HealthInterval`.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
/// Pause before a change that another one is in the way of is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// How often learners that are to become voters are looked at.
const PROMOTE_INTERVAL: Duration = Duration::from_millis(100);
/// A learner is ready when it holds this share of the leader's log, as etcd's `readyPercentThreshold`.
const READY_PERCENT: u64 = 90;
/// A voter to be is promoted when it lags by fewer entries than this.
const PROMOTE_LAG_MAX: u64 = 64;
/// How long the leadership may take to move, in election timeouts.
const TRANSFER_ELECTIONS: u32 = 3;

/// A change of the membership.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A new member at these URLs.
    Add {
        /// Where peers reach it.
        peer_urls: Vec<String>,
        /// Whether it stays without a vote until promoted.
        is_learner: bool,
    },
    /// A member less.
    Remove(u64),
    /// A member's other URLs.
    Update {
        /// Whose.
        id: u64,
        /// Where peers reach it from now on.
        peer_urls: Vec<String>,
    },
    /// A vote for a learner.
    Promote(u64),
    /// Another leader.
    MoveLeader(u64),
}

/// Why the membership was not changed. Numbers are on the wire and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u32)]
pub enum Error {
    /// No member has this id.
    #[error("member not found")]
    NotFound = 1,
    /// A member has one of these URLs.
    #[error("Peer URLs already exists")]
    UrlExists = 2,
    /// The started members left could not decide anything.
    #[error("re-configuration failed due to not enough started members")]
    NotEnoughStarted = 3,
    /// A voter cannot be reached.
    #[error("unhealthy cluster")]
    Unhealthy = 4,
    /// The member to promote is a voter.
    #[error("can only promote a learner member")]
    NotLearner = 5,
    /// The learner lags too far behind.
    #[error("can only promote a learner member which is in sync with leader")]
    LearnerNotReady = 6,
    /// `--max-learners` are there.
    #[error("too many learner members in cluster")]
    TooManyLearners = 7,
    /// The member to lead is none, or a learner.
    #[error("bad leader transferee")]
    BadTransferee = 8,
}

impl Error {
    fn from_number(number: u32) -> Option<Self> {
        let all = [
            Self::NotFound,
            Self::UrlExists,
            Self::NotEnoughStarted,
            Self::Unhealthy,
            Self::NotLearner,
            Self::LearnerNotReady,
            Self::TooManyLearners,
            Self::BadTransferee,
        ];
        all.into_iter().find(|error| *error as u32 == number)
    }
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fate {
    /// It is against the rules.
    #[error(transparent)]
    Refused(#[from] Error),
    /// The cluster could not make it; see there whether it may have been made.
    #[error(transparent)]
    Raft(#[from] error::Error),
}

/// What a change made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changed {
    /// The member added.
    pub added: Option<pb::Member>,
    /// Log index of the change.
    pub index: u64,
}

impl Node {
    /// Changes the membership, wherever the leader is, and returns when this member has applied the change.
    ///
    /// # Errors
    /// [`Fate`].
    pub async fn change(&self, change: Change) -> Result<Changed, Fate> {
        let done = tokio::time::timeout(self.request_timeout(), self.change_somewhere(&change)).await;
        let changed = done.map_err(|_| error::Error::Timeout)??;
        self.await_applied_index(changed.index).await?;
        Ok(changed)
    }

    async fn change_somewhere(&self, change: &Change) -> Result<Changed, Fate> {
        // Whether it may have been made already, by a leader whose answer was lost.
        let mut is_unknown = false;
        loop {
            let Leadership { leader, .. } = self.leadership();
            let tried = match leader {
                Some(leader) if leader == self.identity.member_id => self.change_as_leader(change.clone()).await,
                Some(leader) => self.forward_change(leader, change).await,
                None => Ok(None),
            };
            match (tried, change) {
                (Ok(Some(changed)), _) => return Ok(changed),
                (Ok(None), _) => {}
                // A member is removed but once, so that asking again does no harm. A leader that removed itself often ends
                // before its answer is on its way.
                (Err(Fate::Raft(error::Error::Timeout)), Change::Remove(_)) => is_unknown = true,
                (Err(Fate::Refused(Error::NotFound)), Change::Remove(_)) if is_unknown => {}
                (Err(fate), _) => return Err(fate),
            }
            if let Change::Remove(id) = *change
                && is_unknown
                && self.is_removed(id)
            {
                return Ok(Changed { added: None, index: self.shared.applied_index() });
            }
            self.await_change(RETRY_INTERVAL).await;
        }
    }

    /// `None`: certainly not done, for that member does not lead or cannot be reached.
    async fn forward_change(&self, leader: u64, change: &Change) -> Result<Option<Changed>, Fate> {
        let Some(peer) = self.peers.get(leader) else { return Ok(None) };
        let request = peer::ChangeRequest { envelope: peer.envelope(), change: Some(to_wire(change.clone())) };
        let call = peer.control(self.request_timeout(), |mut client| async move { client.change(request).await });
        match call.await {
            Ok(answer) if !answer.leading => Ok(None),
            Ok(answer) => match Error::from_number(answer.refusal) {
                Some(refused) => Err(refused.into()),
                None => Ok(Some(Changed { added: answer.added, index: answer.index })),
            },
            Err(Failure::NotSent(_)) => Ok(None),
            Err(Failure::Unknown(_)) => Err(error::Error::Timeout.into()),
        }
    }

    /// On the leader: checks and makes a change. `None` when this member does not lead; nothing was changed then.
    ///
    /// # Errors
    /// [`Fate`].
    pub(super) async fn change_as_leader(&self, change: Change) -> Result<Option<Changed>, Fate> {
        if !self.is_leader() {
            return Ok(None);
        }
        if let Change::MoveLeader(to) = change {
            return self.move_leader(to).await.map(Some);
        }
        let is_promotion = matches!(change, Change::Promote(_));
        let changed = self.change_when_settled(change).await;
        if is_promotion {
            self.count_promotion(&changed);
        }
        changed
    }

    async fn change_when_settled(&self, change: Change) -> Result<Option<Changed>, Fate> {
        let (written, added) = {
            // One at a time, so that the checks hold for what is changed.
            let _alone = self.changing.lock().await;
            let Some(base) = self.settled().await? else { return Ok(None) };
            let (wanted, added) = self.check(change)?;
            (self.write_membership(wanted, base).await?, added)
        };
        let index = match written {
            Written::No => return Ok(None),
            Written::At(index) => index,
            Written::Half(id) => self.await_second_half(id).await,
        };
        self.await_applied_index(index).await?;
        Ok(Some(Changed { added, index }))
    }

    /// As etcd counts them: on the leader, with the texts that clients are given.
    fn count_promotion(&self, changed: &Result<Option<Changed>, Fate>) {
        let server = &self.meter().metrics.server;
        match changed {
            Ok(Some(_)) => server.learner_promote_successes.inc(),
            Ok(None) => {}
            Err(fate) => server.learner_promote_failures.with_label_values(&[&format!("etcdserver: {fate}")]).inc(),
        }
    }

    /// What to do for a change, and the member that comes to be by it.
    fn check(&self, change: Change) -> Result<(ChangeMembers<u64, MemberInfo>, Option<pb::Member>), Error> {
        let members = self.members();
        Ok(match change {
            Change::Add { peer_urls, is_learner } => {
                self.check_add(&members, &peer_urls, is_learner)?;
                let id = self.new_id(&peer_urls);
                let info = MemberInfo { peer_urls: peer_urls.clone(), becomes_voter: !is_learner };
                let member = pb::Member { id, peer_ur_ls: peer_urls, is_learner, ..pb::Member::default() };
                (ChangeMembers::AddNodes(BTreeMap::from([(id, info)])), Some(member))
            }
            Change::Remove(id) => (self.check_remove(&members, id)?, None),
            Change::Update { id, peer_urls } => {
                find(&members, id)?;
                unused(&peer_urls, members.iter().filter(|other| other.id != id))?;
                let becomes_voter = self.becomes_voter(id);
                let info = MemberInfo { peer_urls, becomes_voter };
                (ChangeMembers::SetNodes(BTreeMap::from([(id, info)])), None)
            }
            Change::Promote(id) => {
                self.check_promote(&members, id)?;
                (ChangeMembers::AddVoterIds(BTreeSet::from([id])), None)
            }
            Change::MoveLeader(_) => unreachable!("no change of the membership"),
        })
    }

    /// Where the membership stands from which a change may start: whole, and applied here. One whose second half is missing
    /// is brought to its end first. `None` when this member does not lead, or takes nothing now, or is no member any more:
    /// openraft's leader still takes what it is given then, but in no state in which a membership may be.
    async fn settled(&self) -> Result<Option<LogId>, error::Error> {
        loop {
            let newest = self.raft.with_raft_state(|state| {
                let newest = state.membership_state.effective();
                (*newest.log_id(), is_joint(newest.membership()))
            });
            let (id, is_joint) = newest.await.map_err(|error| error::Error::Fatal(error.to_string()))?;
            let Some(id) = id else { return Ok(None) };
            while self.is_leader() && self.shared.applied_index() < id.index {
                self.await_change(RETRY_INTERVAL).await;
            }
            if !self.is_leader() || self.is_removed(self.identity.member_id) {
                return Ok(None);
            }
            if !is_joint {
                return Ok(Some(id));
            }
            tracing::info!(index = id.index, "the second half of a change of the membership is made up for");
            // Nothing more is wanted than what is under way.
            let Written::At(_) = self.write_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), id).await? else {
                return Ok(None);
            };
        }
    }

    /// Writes a membership into the log, behind the one at `base` and no other.
    async fn write_membership(
        &self,
        wanted: ChangeMembers<u64, MemberInfo>,
        base: LogId,
    ) -> Result<Written, error::Error> {
        let behind_base = Precondition::LastMembershipLogId { last_membership_log_id: Some(base) };
        match self.raft.change_membership_if(wanted.clone(), false, [behind_base]).await {
            Ok(written) => Ok(Written::At(written.log_id.index)),
            Err(RaftError::APIError(
                ClientWriteError::ForwardToLeader(_)
                | ClientWriteError::PreconditionFailed(_)
                | ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)),
            )) => {
                // Which of the two entries was not taken, the error does not say. The first one is applied before the second
                // one is written.
                let mark = self.shared.mark.lock();
                let applied = mark.membership.log_id().filter(|id| *id != base);
                Ok(match applied.filter(|_| is_under_way(mark.membership.membership(), &wanted)) {
                    Some(id) => Written::Half(id),
                    None => Written::No,
                })
            }
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => Err(error::Error::LeaderChanged),
            Err(error) => Err(error::Error::Fatal(error.to_string())),
        }
    }

    /// Waits until a change of which the first half stands at `id` is whole, by whomever; where it is then.
    async fn await_second_half(&self, id: LogId) -> u64 {
        loop {
            {
                let mark = self.shared.mark.lock();
                match mark.membership.log_id() {
                    Some(newest) if *newest != id || !is_joint(mark.membership.membership()) => return newest.index,
                    _ => {}
                }
            }
            self.await_change(RETRY_INTERVAL).await;
        }
    }

    fn check_add(&self, members: &[pb::Member], urls: &[String], is_learner: bool) -> Result<(), Error> {
        unused(urls, members.iter())?;
        if is_learner {
            let learners = members.iter().filter(|member| member.is_learner).count();
            return if learners >= self.options.max_learners { Err(Error::TooManyLearners) } else { Ok(()) };
        }
        if self.options.strict_reconfig_check {
            let voters: Vec<_> = members.iter().filter(|member| !member.is_learner).collect();
            let started = voters.iter().filter(|member| is_started(member)).count();
            // A started member alone may get a second one; everybody else must be able to decide with the new one down.
            let alone = started == 1 && voters.len() == 1;
            if !alone && started < quorum(voters.len() + 1) {
                return Err(Error::NotEnoughStarted);
            }
            if voters.iter().any(|member| !self.is_active(member.id)) {
                return Err(Error::Unhealthy);
            }
        }
        Ok(())
    }

    fn check_remove(&self, members: &[pb::Member], id: u64) -> Result<ChangeMembers<u64, MemberInfo>, Error> {
        let member = find(members, id)?;
        let is_voter = self.voters().contains(&id);
        let others: Vec<_> = members.iter().filter(|other| !other.is_learner && other.id != id).collect();
        if !member.is_learner {
            if others.is_empty() {
                return Err(Error::NotEnoughStarted);
            }
            if self.options.strict_reconfig_check {
                let started = others.iter().filter(|other| is_started(other)).count();
                let quorum = quorum(others.len());
                if started < quorum {
                    return Err(Error::NotEnoughStarted);
                }
                // A member that is down is no part of the quorum there is, so that removing it loses nothing.
                let active = others.iter().filter(|other| self.is_active(other.id)).count();
                if self.is_active(id) && active < quorum {
                    return Err(Error::Unhealthy);
                }
            }
        }
        let ids = BTreeSet::from([id]);
        Ok(if is_voter { ChangeMembers::RemoveVoters(ids) } else { ChangeMembers::RemoveNodes(ids) })
    }

    fn check_promote(&self, members: &[pb::Member], id: u64) -> Result<(), Error> {
        if !find(members, id)?.is_learner {
            return Err(Error::NotLearner);
        }
        let (last, matched) = self.progress(id);
        if matched.is_none_or(|matched| matched * 100 < last * READY_PERCENT) {
            return Err(Error::LearnerNotReady);
        }
        if self.options.strict_reconfig_check {
            let voters: Vec<_> = members.iter().filter(|member| !member.is_learner).collect();
            // The one to promote counts as started: it holds the log.
            let started = voters.iter().filter(|member| is_started(member)).count() + 1;
            if started < quorum(voters.len() + 1) {
                return Err(Error::NotEnoughStarted);
            }
        }
        Ok(())
    }

    /// The leader's last index, and the one up to which a member's log is known to agree.
    fn progress(&self, id: u64) -> (u64, Option<u64>) {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let matched = metrics.replication.and_then(|replication| replication.get(&id).copied().flatten());
        (metrics.last_log_index.unwrap_or(0), matched.map(|matched| matched.index))
    }

    fn is_active(&self, id: u64) -> bool {
        id == self.identity.member_id
            || self
                .peers
                .get(id)
                .and_then(|peer| peer.silence())
                .is_some_and(|silence| silence < HEALTH_INTERVAL.min(self.leader_deadline() * 5))
    }

    fn voters(&self) -> BTreeSet<u64> {
        self.shared.mark.lock().membership.voter_ids().collect()
    }

    fn becomes_voter(&self, id: u64) -> bool {
        self.shared.mark.lock().membership.get_node(&id).is_some_and(|info| info.becomes_voter)
    }

    /// An id as etcd makes it, from the URLs and the time.
    fn new_id(&self, peer_urls: &[String]) -> u64 {
        let urls: Vec<Url> = peer_urls.iter().filter_map(|text| Url::parse(text).ok()).collect();
        let seconds = i64::try_from(self.meter().clock.unix_millis() / 1000).unwrap_or(i64::MAX);
        ids::member_id(&urls, &self.options.cluster_token, Some(seconds))
    }

    /// Makes voters of the learners that were added as voters, once they have caught up, and writes the second half of a
    /// change that was left half done; runs on every member and does something on the leader.
    pub(super) async fn run_promotions(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PROMOTE_INTERVAL).await;
            if !self.is_leader() {
                continue;
            }
            let (is_half_done, waiting) = {
                let mark = self.shared.mark.lock();
                let voters: BTreeSet<u64> = mark.membership.voter_ids().collect();
                let nodes = mark.membership.nodes();
                let waiting = nodes.filter(|(id, info)| info.becomes_voter && !voters.contains(id)).map(|(id, _)| *id);
                (is_joint(mark.membership.membership()), waiting.collect::<Vec<u64>>())
            };
            if is_half_done {
                let _alone = self.changing.lock().await;
                if let Err(error) = self.settled().await {
                    tracing::warn!(%error, "a change of the membership stays half done for now");
                }
            }
            for id in waiting {
                let (last, matched) = self.progress(id);
                if matched.is_none_or(|matched| matched + PROMOTE_LAG_MAX < last) {
                    continue;
                }
                match self.give_vote(id).await {
                    Ok(Written::At(_)) => tracing::info!(member = format!("{id:x}"), "a new member votes from now on"),
                    Ok(Written::Half(_) | Written::No) => {}
                    Err(error) => tracing::warn!(%error, member = format!("{id:x}"), "no vote for a new member yet"),
                }
            }
        }
    }

    /// Makes a voter of a learner, if it still is one.
    async fn give_vote(&self, id: u64) -> Result<Written, error::Error> {
        let _alone = self.changing.lock().await;
        let Some(base) = self.settled().await? else { return Ok(Written::No) };
        if !self.becomes_voter(id) || self.voters().contains(&id) {
            return Ok(Written::No);
        }
        self.write_membership(ChangeMembers::AddVoterIds(BTreeSet::from([id])), base).await
    }

    /// Writes the first half of a removal and no second one, as a leader does that loses the leadership in between.
    #[cfg(test)]
    pub(crate) async fn begin_removal(&self, id: u64) {
        let (before, nodes) = {
            let mark = self.shared.mark.lock();
            let nodes: BTreeMap<u64, MemberInfo> =
                mark.membership.nodes().map(|(id, info)| (*id, info.clone())).collect();
            (mark.membership.voter_ids().collect::<BTreeSet<u64>>(), nodes)
        };
        let after = before.iter().copied().filter(|other| *other != id).collect();
        let joint = Membership::new(vec![before, after], nodes).expect("every voter has its node");
        let payload = openraft::EntryPayload::Blank;
        self.raft.append_membership(joint, payload, []).await.expect("a leader takes it");
    }

    /// Hands the leadership over and returns when the other member has it.
    async fn move_leader(&self, to: u64) -> Result<Changed, Fate> {
        // A voter to Raft, not only to clients: one that is still to get its vote cannot be elected, and openraft's leader
        // takes no writes while it waits for that, which would be for ever.
        if !self.voters().contains(&to) {
            return Err(Error::BadTransferee.into());
        }
        let index = self.shared.applied_index();
        if to == self.identity.member_id {
            return Ok(Changed { added: None, index });
        }
        let moved = async {
            self.raft.trigger().transfer_leader(to).await.map_err(|error| error::Error::Fatal(error.to_string()))?;
            while self.leadership().leader != Some(to) {
                self.await_change(RETRY_INTERVAL).await;
            }
            Ok(Changed { added: None, index })
        };
        let deadline = self.leader_deadline() * TRANSFER_ELECTIONS;
        tokio::time::timeout(deadline, moved).await.unwrap_or(Err(error::Error::Timeout.into()))
    }

    /// Before this member stops: gives the leadership, if it has it, to the voter whose log is most complete.
    pub async fn give_up_leadership(&self) {
        if !self.is_leader() {
            return;
        }
        let voters = self.voters();
        let others = voters.into_iter().filter(|&id| id != self.identity.member_id && self.is_active(id));
        let Some(successor) = others.max_by_key(|&id| self.progress(id).1) else { return };
        match self.move_leader(successor).await {
            Ok(_) => tracing::info!(to = format!("{successor:x}"), "leadership handed over"),
            Err(error) => tracing::warn!(%error, to = format!("{successor:x}"), "leadership not handed over"),
        }
    }
}

/// How far a membership came into the log.
enum Written {
    /// It is there, and applied.
    At(u64),
    /// Its first half is, here, and nobody can do without the second one: whoever leads writes it.
    Half(LogId),
    /// Nothing of it is.
    No,
}

fn is_joint(membership: &Membership) -> bool {
    membership.get_joint_config().len() > 1
}

/// Whether those who vote in the end are those that a change of them asks for.
fn is_under_way(membership: &Membership, wanted: &ChangeMembers<u64, MemberInfo>) -> bool {
    let Some(voters) = membership.get_joint_config().last() else { return false };
    match wanted {
        ChangeMembers::AddVoterIds(ids) => ids.is_subset(voters),
        ChangeMembers::RemoveVoters(ids) => ids.is_disjoint(voters),
        // Others have no two halves.
        _ => false,
    }
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

fn is_started(member: &pb::Member) -> bool {
    !member.name.is_empty()
}

fn find(members: &[pb::Member], id: u64) -> Result<&pb::Member, Error> {
    members.iter().find(|member| member.id == id).ok_or(Error::NotFound)
}

fn unused<'a>(urls: &[String], mut members: impl Iterator<Item = &'a pb::Member>) -> Result<(), Error> {
    let is_used = members.any(|member| member.peer_ur_ls.iter().any(|url| urls.contains(url)));
    if is_used { Err(Error::UrlExists) } else { Ok(()) }
}

fn to_wire(change: Change) -> peer::change_request::Change {
    use peer::change_request::Change as Wire;
    match change {
        Change::Add { peer_urls, is_learner } => Wire::Add(pb::MemberAddRequest { peer_ur_ls: peer_urls, is_learner }),
        Change::Remove(id) => Wire::Remove(pb::MemberRemoveRequest { id }),
        Change::Update { id, peer_urls } => Wire::Update(pb::MemberUpdateRequest { id, peer_ur_ls: peer_urls }),
        Change::Promote(id) => Wire::Promote(pb::MemberPromoteRequest { id }),
        Change::MoveLeader(id) => Wire::MoveLeader(id),
    }
}

/// A change that a peer asks for.
pub fn from_wire(change: peer::change_request::Change) -> Change {
    use peer::change_request::Change as Wire;
    match change {
        Wire::Add(request) => Change::Add { peer_urls: request.peer_ur_ls, is_learner: request.is_learner },
        Wire::Remove(request) => Change::Remove(request.id),
        Wire::Update(request) => Change::Update { id: request.id, peer_urls: request.peer_ur_ls },
        Wire::Promote(request) => Change::Promote(request.id),
        Wire::MoveLeader(id) => Change::MoveLeader(id),
    }
}

/// What a change's fate is on the wire; an error when it is unknown.
///
/// # Errors
/// The fate that the asking member cannot know.
pub fn answer(fate: Result<Option<Changed>, Fate>) -> Result<peer::ChangeResponse, error::Error> {
    match fate {
        Ok(None) => Ok(peer::ChangeResponse::default()),
        Ok(Some(Changed { added, index })) => Ok(peer::ChangeResponse { leading: true, refusal: 0, added, index }),
        Err(Fate::Refused(refused)) => {
            Ok(peer::ChangeResponse { leading: true, refusal: refused as u32, ..Default::default() })
        }
        Err(Fate::Raft(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_number_on_the_wire() {
        for number in 1..=8 {
            let error = Error::from_number(number).unwrap();
            assert_eq!(error as u32, number);
            let answer = answer(Err(error.into())).unwrap();
            assert!(answer.leading && answer.refusal == number);
        }
        assert_eq!(Error::from_number(0), None);
        assert_eq!(Error::from_number(9), None);
    }

    #[test]
    fn every_change_is_the_same_after_the_wire() {
        let urls = || vec!["http://127.0.0.1:2380".to_owned()];
        for change in [
            Change::Add { peer_urls: urls(), is_learner: true },
            Change::Remove(7),
            Change::Update { id: 8, peer_urls: urls() },
            Change::Promote(9),
            Change::MoveLeader(10),
        ] {
            assert_eq!(from_wire(to_wire(change.clone())), change);
        }
    }
}
