//! What other members send, decoded and given to a member that leads: every message of `proto/kelson/peer.proto`, also
//! answers.
//!
//! Each message gets the right envelope behind its own bytes, or nothing would get past the first check. Votes in it are
//! made old: whoever leads may replace a log, which is Raft and no finding.

use bytes::Bytes;
use futures_util::StreamExt;
use kelson::proto::etcdserverpb as pb;
use kelson::proto::peer;
use kelson::raft::serve::Unanswered;
use kelson::raft::types::Proposal;
use kelson::raft::{Node, wire};
use kelson::state::Command;
use kelson::testing::Cluster;
use prost::Message;
use tokio::runtime::{Builder, Runtime};

use super::commands::every_kind;
use super::engine::{Target, Verdict};
use super::mutate;
use super::random::Random;

/// Inputs after which the member must still write.
const CHECK_EVERY: u64 = 50;

pub struct PeerMessages {
    runtime: Runtime,
    cluster: Option<Cluster>,
    envelope: peer::Envelope,
    inputs: u64,
}

/// The first byte of an input. The numbers stand in the corpus.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Kind {
    Append,
    Heartbeat,
    Vote,
    Transfer,
    Snapshot,
    Propose,
    Change,
    Members,
    Appended,
    Voted,
    HashKv,
}

const KINDS: [Kind; 11] = [
    Kind::Append,
    Kind::Heartbeat,
    Kind::Vote,
    Kind::Transfer,
    Kind::Snapshot,
    Kind::Propose,
    Kind::Change,
    Kind::Members,
    Kind::Appended,
    Kind::Voted,
    Kind::HashKv,
];

impl PeerMessages {
    pub fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let cluster = runtime.block_on(Cluster::start(1)).unwrap();
        let status = cluster.member(0).server().node().status();
        let envelope = peer::Envelope { cluster_id: status.cluster_id, from: 99, to: status.member_id, group: 0 };
        Self { runtime, cluster: Some(cluster), envelope, inputs: 0 }
    }
}

impl Drop for PeerMessages {
    fn drop(&mut self) {
        if let Some(cluster) = self.cluster.take() {
            self.runtime.block_on(cluster.shutdown());
        }
    }
}

fn proposal(sequence: u64, commands: &[Command]) -> Bytes {
    let mut payload = bytes::BytesMut::new();
    Proposal::begin(77, &mut payload);
    Command::begin_batch(&mut payload);
    for command in commands {
        command.encode(&mut payload);
    }
    Proposal::finish(payload, sequence).bytes().clone()
}

impl Target for PeerMessages {
    const NAME: &'static str = "peer_messages";
    const ITERATIONS: u64 = 1_000;

    fn seeds(&mut self) -> Vec<Vec<u8>> {
        let vote = Some(peer::Ballot { term: 1, member_id: 99, committed: true });
        let id = |index| Some(peer::LogId { term: 1, index });
        let commands = every_kind();
        let entry = |index, kind, payload: Bytes| peer::Entry { term: 1, index, kind, payload };
        let membership = br#"{"configs":[[1]],"nodes":{"1":{"peer_urls":["http://10.0.0.1:2380"]}}}"#;
        let entries = vec![
            entry(6, 0, Bytes::new()),
            entry(7, 1, proposal(1, &commands)),
            entry(8, 2, Bytes::from_static(membership)),
        ];
        let append = peer::AppendRequest { vote, previous: id(5), committed: id(4), entries, ..Default::default() };
        let heartbeat = peer::AppendRequest { entries: Vec::new(), ..append.clone() };
        let asks = peer::VoteRequest { vote, last: id(5), pre_vote: true, ..Default::default() };
        let transfer =
            peer::TransferLeaderRequest { from_leader: vote, to_member: 3, last: id(5), ..Default::default() };
        let head = peer::SnapshotHead { vote, last: id(5), bytes: 40, ..Default::default() };
        let huge = peer::SnapshotHead { bytes: 1 << 60, ..head };
        let huge = peer::SnapshotRequest { head: Some(huge), chunk: Bytes::from_static(b"little") };
        let snapshot = peer::SnapshotRequest { head: Some(head), chunk: Bytes::from(vec![7; 40]) };
        let propose =
            |sequence, commands| peer::ProposeRequest { proposal: proposal(sequence, commands), envelope: None };
        let add = pb::MemberAddRequest { peer_ur_ls: vec!["http://10.0.0.9:2380".into()], is_learner: true };
        let changes = [
            peer::change_request::Change::Add(add),
            peer::change_request::Change::Remove(pb::MemberRemoveRequest { id: 5 }),
            peer::change_request::Change::Promote(pb::MemberPromoteRequest { id: 5 }),
            peer::change_request::Change::MoveLeader(5),
        ];
        let appended = peer::AppendResponse { matching: id(5), conflict: id(4), higher: vote };
        let voted = peer::VoteResponse { vote, last: id(5), granted: true };
        let with = |kind: Kind, message: Vec<u8>| [&[kind as u8], &message[..]].concat();
        let mut seeds = vec![
            with(Kind::Append, append.encode_to_vec()),
            with(Kind::Heartbeat, heartbeat.encode_to_vec()),
            with(Kind::Vote, asks.encode_to_vec()),
            with(Kind::Transfer, transfer.encode_to_vec()),
            with(Kind::Snapshot, snapshot.encode_to_vec()),
            with(Kind::Snapshot, huge.encode_to_vec()),
            with(Kind::Members, peer::MembersRequest::default().encode_to_vec()),
            with(Kind::Appended, appended.encode_to_vec()),
            with(Kind::Voted, voted.encode_to_vec()),
            with(Kind::HashKv, peer::HashKvRequest { revision: 2, envelope: None }.encode_to_vec()),
        ];
        let batches = commands.chunks(2).chain([&commands[..]]).zip(1..);
        seeds.extend(batches.map(|(commands, at)| with(Kind::Propose, propose(at, commands).encode_to_vec())));
        let changes = changes.map(|change| peer::ChangeRequest { change: Some(change), envelope: None });
        seeds.extend(changes.map(|change| with(Kind::Change, change.encode_to_vec())));
        seeds
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        if input.is_empty() {
            return mutate::bytes(input, other, random);
        }
        let mut message = input.split_off(1);
        if random.percent(2) {
            input[0] = random.next() as u8;
        }
        mutate::message(&mut message, other.get(1..).unwrap_or_default(), random);
        input.extend(message);
    }

    fn run(&mut self, input: &[u8]) -> Verdict {
        self.inputs += 1;
        let Some((&kind, message)) = input.split_first() else { return Verdict::Refused("nothing".into()) };
        let kind = KINDS[usize::from(kind) % KINDS.len()];
        let node = self.cluster.as_ref().expect("it runs until the end").member(0).server().node();
        let (envelope, inputs) = (self.envelope, self.inputs);
        let answered = self.runtime.block_on(async {
            let answered = send(node, kind, message, envelope, inputs).await;
            check(node, inputs).await;
            answered
        });
        match answered {
            Ok(()) => Verdict::Accepted(format!("{kind:?}")),
            Err(reason) => Verdict::Refused(reason),
        }
    }
}

/// As a peer's service does, without the wire.
async fn send(node: &Node, kind: Kind, message: &[u8], envelope: peer::Envelope, inputs: u64) -> Result<(), String> {
    let envelope = Some(envelope);
    let old = Some(peer::Ballot { term: 0, member_id: 0, committed: true });
    let admit = |envelope: &Option<peer::Envelope>| node.admit(envelope.as_ref()).map_err(|error| error.to_string());
    match kind {
        Kind::Append => {
            let request: peer::AppendRequest = decode(message)?;
            let request = peer::AppendRequest { envelope, vote: request.vote.and(old), ..request };
            admit(&request.envelope)?;
            let mut answers = node.follow(futures_util::stream::iter([request]));
            let answer = answers.next().await.ok_or("the stream ends")?;
            answer.map(drop).map_err(|error| error.to_string())
        }
        Kind::Heartbeat => {
            let request: peer::AppendRequest = decode(message)?;
            let request = peer::AppendRequest { envelope, vote: request.vote.and(old), ..request };
            unanswered(node.heartbeat(request).await)
        }
        Kind::Vote => {
            let request: peer::VoteRequest = decode(message)?;
            unanswered(node.vote(peer::VoteRequest { envelope, vote: request.vote.and(old), ..request }).await)
        }
        Kind::Transfer => {
            let request: peer::TransferLeaderRequest = decode(message)?;
            let from_leader = request.from_leader.and(old);
            unanswered(node.hear_of_transfer(peer::TransferLeaderRequest { envelope, from_leader, ..request }).await)
        }
        Kind::Snapshot => {
            let peer::SnapshotRequest { head, chunk } = decode(message)?;
            let head = head.ok_or("no head")?;
            let head = peer::SnapshotHead { envelope, vote: head.vote.and(old), ..head };
            let chunks = futures_util::stream::iter([chunk.slice(..chunk.len() / 2), chunk.slice(chunk.len() / 2..)]);
            let is_huge = head.bytes > 1 << 50;
            let answered = unanswered(node.install(head, Box::pin(chunks)).await);
            let is_well_refused =
                answered.as_ref().is_err_and(|error| error.contains("room") || error.contains("malformed"));
            assert!(!is_huge || is_well_refused, "a head that announces {} bytes: {answered:?}", head.bytes);
            answered
        }
        Kind::Propose => {
            let request: peer::ProposeRequest = decode(message)?;
            admit(&request.envelope.or(envelope))?;
            let proposal = newer(request.proposal, inputs);
            unanswered(node.propose_for_peer(peer::ProposeRequest { envelope, proposal }).await)
        }
        Kind::Change => {
            let request: peer::ChangeRequest = decode(message)?;
            let me = envelope.map(|envelope| envelope.to);
            if matches!(&request.change, Some(peer::change_request::Change::Remove(remove)) if Some(remove.id) == me) {
                return Err("not itself".to_owned());
            }
            unanswered(node.change_for_peer(request).await)
        }
        Kind::Members => {
            let request: peer::MembersRequest = decode(message)?;
            drop(node.members_for_peer(request.linearizable).await);
            admit(&request.envelope)
        }
        Kind::Appended => {
            let answer = wire::to_appended(decode(message)?).map_err(|error| error.to_string())?;
            assert_eq!(wire::to_appended(wire::appended(answer.clone())), Ok(answer));
            Ok(())
        }
        Kind::Voted => {
            let answer = wire::to_vote_response(decode(message)?).map_err(|error| error.to_string())?;
            assert_eq!(wire::to_vote_response(wire::vote_response(&answer)), Ok(answer));
            Ok(())
        }
        Kind::HashKv => {
            let request: peer::HashKvRequest = decode(message)?;
            node.store().hash_kv(request.revision).map(drop).map_err(|error| error.to_string())
        }
    }
}

fn decode<T: Message + Default>(message: &[u8]) -> Result<T, String> {
    // Shared, as on the wire: fields are slices of it.
    T::decode(Bytes::copy_from_slice(message)).map_err(|error| error.to_string())
}

fn unanswered<T>(result: Result<T, Unanswered>) -> Result<(), String> {
    match result {
        Ok(_) => Ok(()),
        Err(Unanswered::Refused(refused)) => Err(refused.to_string()),
        Err(Unanswered::Failed(error)) => Err(error.to_string()),
    }
}

/// A proposal that was not seen before, or apply passes it over.
fn newer(proposal: Bytes, inputs: u64) -> Bytes {
    let mut bytes = proposal.to_vec();
    if let Some(sequence) = bytes.get_mut(8..16) {
        sequence.copy_from_slice(&(inputs + 1000).to_le_bytes());
    }
    bytes.into()
}

/// Takes back alarms, which would refuse all that follows; now and then sees to it that the member still writes.
pub async fn check(node: &Node, inputs: u64) {
    for alarm in node.store().alarms() {
        let pb::AlarmMember { member_id, alarm } = alarm;
        let action = pb::alarm_request::AlarmAction::Deactivate as i32;
        node.propose(Command::Alarm(pb::AlarmRequest { action, member_id, alarm })).await.unwrap();
    }
    if inputs.is_multiple_of(CHECK_EVERY) {
        let put = pb::PutRequest { key: "alive".into(), ..Default::default() };
        node.propose(Command::Put(put)).await.unwrap().response.unwrap();
    }
}
