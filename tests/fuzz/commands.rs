//! Batches of commands, as they come from the log and from other members. Whatever can be decoded must be applied without
//! a panic, to the same effect everywhere, and so that the state can be rebuilt from its records.

use bytes::{Buf, Bytes, BytesMut};
use kelson::proto::etcdserverpb as pb;
use kelson::state::{Command, Store};
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;

use super::engine::{Target, Verdict};
use super::mutate;
use super::random::Random;

pub struct Commands;

fn put(key: &'static str, value: &'static str, lease: i64) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), lease, ..Default::default() }
}

fn delete(key: &'static str, end: &'static str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: true }
}

fn range(key: &'static str, end: &'static str, revision: i64) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), range_end: end.into(), revision, limit: 3, ..Default::default() }
}

/// A transaction with one of everything, and one within it.
pub fn txn() -> pb::TxnRequest {
    let op = |request| pb::RequestOp { request: Some(request) };
    let compare = pb::Compare {
        result: CompareResult::Greater as i32,
        target: CompareTarget::Version as i32,
        key: "a".into(),
        range_end: "c".into(),
        target_union: Some(TargetUnion::Version(1)),
    };
    let by_value = pb::Compare {
        target: CompareTarget::Value as i32,
        key: "b".into(),
        target_union: Some(TargetUnion::Value("2".into())),
        ..Default::default()
    };
    let nested = pb::TxnRequest {
        compare: vec![by_value],
        success: vec![op(Request::RequestPut(put("n", "1", 0)))],
        failure: vec![op(Request::RequestDeleteRange(delete("n", ""))), op(Request::RequestRange(range("a", "\0", 0)))],
    };
    pb::TxnRequest {
        compare: vec![compare],
        success: vec![op(Request::RequestPut(put("t", "x", 7))), op(Request::RequestTxn(nested))],
        failure: vec![
            op(Request::RequestRange(range("a", "z", 2))),
            op(Request::RequestDeleteRange(delete("a", "b"))),
            op(Request::RequestPut(pb::PutRequest { ignore_value: true, ..put("b", "", 0) })),
        ],
    }
}

/// One of every kind of command, after which there is something to work on.
pub fn every_kind() -> Vec<Command> {
    let member = pb::Member { id: 3, name: "m".into(), client_ur_ls: vec!["http://m:1".into()], ..Default::default() };
    let alarm = |action| pb::AlarmRequest { action, member_id: 1, alarm: pb::AlarmType::Nospace as i32 };
    vec![
        Command::LeaseGrant(pb::LeaseGrantRequest { id: 7, ttl: 60 }),
        Command::Put(put("a", "1", 7)),
        Command::Put(put("b", "2", 0)),
        Command::Put(pb::PutRequest { prev_kv: true, ignore_lease: true, ..put("a", "3", 0) }),
        Command::Txn(txn()),
        Command::DeleteRange(delete("b", "c")),
        Command::Compact(pb::CompactionRequest { revision: 3, physical: true }),
        Command::Alarm(alarm(pb::alarm_request::AlarmAction::Activate as i32)),
        Command::Alarm(alarm(pb::alarm_request::AlarmAction::Deactivate as i32)),
        Command::Publish(member),
        Command::LeaseRevoke(pb::LeaseRevokeRequest { id: 7 }),
        Command::Put(put("c", "4", 0)),
    ]
}

fn batch(commands: &[Command]) -> Vec<u8> {
    let mut out = BytesMut::new();
    Command::begin_batch(&mut out);
    for command in commands {
        command.encode(&mut out);
    }
    out.to_vec()
}

/// A batch taken apart: kinds and payloads.
fn frames(batch: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
    let mut rest = batch.get(1..)?;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let len = rest.try_get_u32_le().ok()? as usize;
        let kind = rest.try_get_u8().ok()?;
        frames.push((kind, rest.split_off(..len)?.to_vec()));
    }
    Some(frames)
}

fn join(format: u8, frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![format];
    for (kind, payload) in frames {
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.push(*kind);
        out.extend_from_slice(payload);
    }
    out
}

impl Target for Commands {
    const NAME: &'static str = "commands";
    const ITERATIONS: u64 = 2_000;

    fn seeds(&mut self) -> Vec<Vec<u8>> {
        let all = every_kind();
        let mut seeds = vec![batch(&all), batch(&[])];
        seeds.extend(all.chunks(2).map(batch));
        seeds
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        let Some(mut frames) = frames(input).filter(|frames| !frames.is_empty() && random.percent(95)) else {
            return mutate::bytes(input, other, random);
        };
        let others = self::frames(other).unwrap_or_default();
        let at = random.below(frames.len());
        match random.below(10) {
            0 => drop(frames.remove(at)),
            1 => frames.insert(at, frames[at].clone()),
            2 if !others.is_empty() => frames.insert(at, random.pick(&others)),
            3 => frames[at].0 = random.below(10) as u8,
            _ => {
                let payload = if others.is_empty() { Vec::new() } else { random.pick(&others).1 };
                mutate::message(&mut frames[at].1, &payload, random);
            }
        }
        *input = join(input[0], &frames);
    }

    fn run(&mut self, input: &[u8]) -> Verdict {
        let commands = match Command::decode_batch(Bytes::copy_from_slice(input)) {
            Ok(commands) => commands,
            Err(error) => return Verdict::Refused(error.to_string()),
        };
        let (one, other) = (Store::new(), Store::new());
        let mut answers = String::new();
        for command in every_kind().iter().take(6).chain(&commands) {
            let (applied, effects) = one.apply(command);
            let (applied_there, effects_there) = other.apply(command);
            assert_eq!(applied, applied_there, "{command:?}");
            assert_eq!((effects.events, effects.lease), (effects_there.events, effects_there.lease));
            answers = format!("{:?}", applied.response.err());
        }
        assert_same(&one, &other, "two members");
        let records = one.view().records().into_iter().map(Ok::<_, std::convert::Infallible>);
        let rebuilt = Store::restore(one.meta(), records).unwrap();
        assert_same(&one, &rebuilt, "before and after a restart");
        while !one.compact_slice(i64::MAX, 10).done {}
        assert_eq!(one.hash_kv(0), other.hash_kv(0), "compaction frees what nobody sees");
        for (at, command) in commands.iter().enumerate() {
            if let Command::Txn(txn) = command {
                drop(one.view().txn(txn));
                answers.push_str(if at == 0 { " read" } else { "" });
            }
        }
        Verdict::Accepted(answers)
    }
}

fn assert_same(one: &Store, other: &Store, who: &str) {
    assert_eq!(one.hash_kv(0), other.hash_kv(0), "{who}");
    assert_eq!(one.meta(), other.meta(), "{who}");
    assert_eq!(one.view().records(), other.view().records(), "{who}");
    for (id, _) in one.leases() {
        assert_eq!(one.lease(id), other.lease(id), "{who}");
    }
}
