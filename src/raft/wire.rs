//! openraft's messages as they are on the wire, `proto::peer`, and back. What a peer sent is not trusted to be whole.

use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::vote::RaftLeaderId as _;

use super::log_store::{from_log, to_log};
use super::types::{Entry, LogId, TypeConfig, Vote, log_id};
use crate::proto::peer;
use crate::storage::log::{INDEX_MAX, LogEntry};

/// A message that lacks a part or holds what nobody writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed peer message: {0}")]
pub struct Malformed(pub String);

pub fn vote(vote: &Vote) -> peer::Ballot {
    let leader = vote.leader_id();
    peer::Ballot { term: leader.term(), member_id: *leader.node_id(), committed: vote.is_committed() }
}

pub fn to_vote(ballot: Option<peer::Ballot>) -> Result<Vote, Malformed> {
    let ballot = ballot.ok_or_else(|| Malformed("no vote".to_owned()))?;
    if ballot.term > INDEX_MAX {
        return Err(Malformed(format!("a vote in term {}", ballot.term)));
    }
    Ok(if ballot.committed {
        Vote::new_committed(ballot.term, ballot.member_id)
    } else {
        Vote::new(ballot.term, ballot.member_id)
    })
}

pub fn id(id: LogId) -> peer::LogId {
    peer::LogId { term: id.leader_id.term, index: id.index }
}

pub fn to_id(id: peer::LogId) -> LogId {
    log_id(id.term, id.index)
}

/// Whether these positions are ones that a log comes to.
fn check_ids(ids: impl IntoIterator<Item = Option<LogId>>) -> Result<(), Malformed> {
    let is_beyond = |id: &LogId| id.index > INDEX_MAX || id.leader_id.term > INDEX_MAX;
    match ids.into_iter().flatten().find(is_beyond) {
        Some(id) => Err(Malformed(format!("a log that has come to {id}"))),
        None => Ok(()),
    }
}

pub fn append(envelope: Option<peer::Envelope>, request: AppendEntriesRequest<TypeConfig>) -> peer::AppendRequest {
    let entries = request.entries.into_iter().map(entry).collect();
    peer::AppendRequest {
        envelope,
        vote: Some(vote(&request.vote)),
        previous: request.prev_log_id.map(id),
        committed: request.leader_commit.map(id),
        entries,
    }
}

fn entry(entry: Entry) -> peer::Entry {
    let LogEntry { index, term, kind, payload } = to_log(entry).expect("memberships are numbers and texts");
    peer::Entry { term, index, kind: u32::from(kind), payload }
}

pub fn to_append(request: peer::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    let entries = request.entries.into_iter().map(to_entry).collect::<Result<Vec<_>, _>>()?;
    let (previous, committed) = (request.previous.map(to_id), request.committed.map(to_id));
    // Entries follow each other, so that the last one is the furthest.
    check_ids([
        previous,
        committed,
        entries.first().map(|entry| entry.log_id),
        entries.last().map(|entry| entry.log_id),
    ])?;
    let follow = entries.windows(2).all(|pair| pair[0].log_id.index.checked_add(1) == Some(pair[1].log_id.index));
    if !follow {
        return Err(Malformed("entries do not follow each other".to_owned()));
    }
    Ok(AppendEntriesRequest { vote: to_vote(request.vote)?, prev_log_id: previous, leader_commit: committed, entries })
}

fn to_entry(entry: peer::Entry) -> Result<Entry, Malformed> {
    let peer::Entry { term, index, kind, payload } = entry;
    let kind = u8::try_from(kind).map_err(|_| Malformed(format!("entry {index} is of kind {kind}")))?;
    from_log(LogEntry { index, term, kind, payload }).map_err(|error| Malformed(error.to_string()))
}

/// Bytes of the payloads of a request, for limits.
pub fn payload_bytes(request: &peer::AppendRequest) -> usize {
    request.entries.iter().map(|entry| entry.payload.len()).sum()
}

pub fn appended(result: StreamAppendResult<TypeConfig>) -> peer::AppendResponse {
    match result {
        Ok(matching) => peer::AppendResponse { matching: matching.map(id), ..Default::default() },
        Err(StreamAppendError::Conflict(at)) => peer::AppendResponse { conflict: Some(id(at)), ..Default::default() },
        Err(StreamAppendError::HigherVote(higher)) => {
            peer::AppendResponse { higher: Some(vote(&higher)), ..Default::default() }
        }
    }
}

pub fn to_appended(response: peer::AppendResponse) -> Result<StreamAppendResult<TypeConfig>, Malformed> {
    Ok(match (response.conflict, response.higher) {
        (Some(at), _) => Err(StreamAppendError::Conflict(to_id(at))),
        (None, higher @ Some(_)) => Err(StreamAppendError::HigherVote(to_vote(higher)?)),
        (None, None) => Ok(response.matching.map(to_id)),
    })
}

pub fn vote_request(
    envelope: Option<peer::Envelope>,
    request: VoteRequest<TypeConfig>,
    pre_vote: bool,
) -> peer::VoteRequest {
    peer::VoteRequest {
        envelope,
        vote: Some(vote(&request.vote)),
        last: request.last_log_id.map(id),
        leadership_transfer: request.leadership_transfer,
        pre_vote,
    }
}

pub fn to_vote_request(request: peer::VoteRequest) -> Result<VoteRequest<TypeConfig>, Malformed> {
    check_ids([request.last.map(to_id)])?;
    let mut vote_request = VoteRequest::new(to_vote(request.vote)?, request.last.map(to_id));
    vote_request.leadership_transfer = request.leadership_transfer;
    Ok(vote_request)
}

pub fn vote_response(response: &VoteResponse<TypeConfig>) -> peer::VoteResponse {
    peer::VoteResponse {
        vote: Some(vote(&response.vote)),
        last: response.last_log_id.map(id),
        granted: response.vote_granted,
    }
}

pub fn to_vote_response(response: peer::VoteResponse) -> Result<VoteResponse<TypeConfig>, Malformed> {
    Ok(VoteResponse::new(to_vote(response.vote)?, response.last.map(to_id), response.granted))
}

pub fn transfer(
    envelope: Option<peer::Envelope>,
    request: &TransferLeaderRequest<TypeConfig>,
) -> peer::TransferLeaderRequest {
    peer::TransferLeaderRequest {
        envelope,
        from_leader: Some(vote(request.from_leader())),
        to_member: *request.to_node_id(),
        last: request.last_log_id().copied().map(id),
    }
}

pub fn to_transfer(request: peer::TransferLeaderRequest) -> Result<TransferLeaderRequest<TypeConfig>, Malformed> {
    let from = to_vote(request.from_leader)?;
    Ok(TransferLeaderRequest::new(from, request.to_member, request.last.map(to_id)))
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use openraft::EntryPayload;

    use super::*;
    use crate::raft::types::Proposal;

    #[test]
    fn an_append_is_the_same_after_the_wire() {
        let mut payload = BytesMut::new();
        Proposal::begin(7, &mut payload);
        payload.extend_from_slice(b"commands");
        let proposal = Proposal::finish(payload, 9);
        let entries = vec![
            Entry { log_id: log_id(3, 11), payload: EntryPayload::Blank },
            Entry { log_id: log_id(3, 12), payload: EntryPayload::Normal(proposal) },
        ];
        let request = AppendEntriesRequest {
            vote: Vote::new_committed(3, 1),
            prev_log_id: Some(log_id(2, 10)),
            leader_commit: None,
            entries,
        };
        let back = to_append(append(None, request.clone())).unwrap();
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
    }

    #[test]
    fn a_malformed_append_is_refused() {
        let vote = Some(peer::Ballot { term: 1, member_id: 2, committed: true });
        let entry = |index, kind| peer::Entry { term: 1, index, kind, payload: Bytes::new() };
        let request = |entries| peer::AppendRequest { vote, entries, ..Default::default() };
        assert!(to_append(request(vec![entry(1, 0), entry(2, 0)])).is_ok());
        assert!(to_append(request(vec![entry(1, 0), entry(3, 0)])).is_err(), "a gap");
        assert!(to_append(request(vec![entry(1, 9)])).is_err(), "an unknown kind");
        assert!(to_append(request(vec![entry(1, 1)])).is_err(), "a proposal without header");
        assert!(to_append(request(vec![entry(1, 1000)])).is_err(), "a kind that is no byte");
        assert!(to_append(peer::AppendRequest::default()).is_err(), "no vote");
        assert!(to_append(request(vec![entry(u64::MAX, 0), entry(0, 0)])).is_err(), "behind the last number");
        assert!(to_append(request(vec![entry(u64::MAX, 0)])).is_err(), "nothing can follow");
        assert!(to_vote(Some(peer::Ballot { term: u64::MAX, member_id: 2, committed: true })).is_err());
        let last = Some(peer::LogId { term: 1, index: u64::MAX });
        assert!(to_vote_request(peer::VoteRequest { vote, last, ..Default::default() }).is_err());
    }

    #[test]
    fn every_answer_to_an_append_is_the_same_after_the_wire() {
        for result in [
            Ok(None),
            Ok(Some(log_id(2, 5))),
            Err(StreamAppendError::Conflict(log_id(1, 4))),
            Err(StreamAppendError::HigherVote(Vote::new(9, 3))),
        ] {
            assert_eq!(to_appended(appended(result.clone())), Ok(result));
        }
    }
}
