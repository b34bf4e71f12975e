//! The small state beside the records in checkpoints and snapshot files: the applied mark and the state's meta.

use kelson::proto::etcdserverpb as pb;
use kelson::raft::apply::{LastBatch, Mark};
use kelson::raft::types::{MemberInfo, Membership, StoredMembership, log_id};
use kelson::state::meta::{FORMAT, LeaseMeta, Meta};
use kelson::state::{Command, Store};

use super::engine::{Target, Verdict};
use super::mutate;
use super::random::Random;

/// The first byte of an input.
const MARK: u8 = 0;
const META: u8 = 1;

pub struct Marks;

/// A mark with something of everything.
pub fn mark() -> Mark {
    let info = |port: u16| MemberInfo { peer_urls: vec![format!("http://10.0.0.1:{port}")], becomes_voter: port == 3 };
    let nodes = [(1, info(1)), (2, info(2)), (3, info(3))];
    let membership = Membership::new(vec![[1, 2].into()], std::collections::BTreeMap::from(nodes)).unwrap();
    Mark {
        log_id: Some(log_id(4, 77)),
        membership: StoredMembership::new(Some(log_id(2, 9)), membership),
        removed: [8, u64::MAX].into(),
        batches: [(5, LastBatch { sequence: 6, index: 70 })].into(),
    }
}

/// A meta with something of everything.
pub fn meta() -> Meta {
    let member = |id| pb::Member { id, name: format!("m{id}"), ..pb::Member::default() };
    Meta {
        format: FORMAT,
        revision: 30,
        compact_revision: 12,
        leases: vec![
            LeaseMeta { id: 5, ttl: 60, remaining_ttl: 30 },
            LeaseMeta { id: i64::MAX, ttl: 1, remaining_ttl: 0 },
        ],
        alarms: vec![pb::AlarmMember { member_id: 1, alarm: pb::AlarmType::Nospace as i32 }],
        members: vec![member(1), member(2)],
    }
}

impl Target for Marks {
    const NAME: &'static str = "marks";
    const ITERATIONS: u64 = 4_000;

    fn seeds(&mut self) -> Vec<Vec<u8>> {
        let old = br#"{"log_id":null,"membership":{"log_id":null,"membership":{"configs":[],"nodes":{}}}}"#;
        let as_meta = |meta: &Meta| [&[META], &meta.encode()[..]].concat();
        let empty = Meta { format: FORMAT, ..Meta::default() };
        vec![[&[MARK], &mark().encode()[..]].concat(), [&[MARK], &old[..]].concat(), as_meta(&meta()), as_meta(&empty)]
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        match input.split_first() {
            Some((&META, rest)) => {
                let mut rest = rest.to_vec();
                mutate::message(&mut rest, other.get(1..).unwrap_or_default(), random);
                *input = [&[META], &rest[..]].concat();
            }
            _ => mutate::bytes(input, other, random),
        }
    }

    fn run(&mut self, input: &[u8]) -> Verdict {
        match input.split_first() {
            Some((&META, bytes)) => read_meta(bytes),
            Some((_, bytes)) => read_mark(bytes),
            None => Verdict::Refused("nothing".into()),
        }
    }
}

fn read_mark(bytes: &[u8]) -> Verdict {
    let read = Mark::decode(bytes);
    if let Ok(mark) = &read {
        let again = Mark::decode(&mark.encode()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{mark:?}"));
        let _voters: Vec<u64> = mark.membership.voter_ids().collect();
    }
    Verdict::of(read)
}

/// A state with nothing but such a meta must stand whatever is applied to it.
fn read_meta(bytes: &[u8]) -> Verdict {
    let meta = match Meta::decode(bytes) {
        Ok(meta) => meta,
        Err(error) => return Verdict::Refused(error.to_string()),
    };
    let store = match Store::restore(meta, std::iter::empty::<Result<_, std::convert::Infallible>>()) {
        Ok(store) => store,
        Err(error) => return Verdict::Refused(error.to_string()),
    };
    let put = pb::PutRequest { key: "k".into(), lease: 5, ..pb::PutRequest::default() };
    let (applied, _) = store.apply(&Command::Put(put));
    let _hash = store.hash_kv(0);
    let again = Meta::decode(&store.meta().encode()).unwrap();
    assert_eq!(again, store.meta());
    Verdict::Accepted(format!("{:?}", applied.response.err()))
}
