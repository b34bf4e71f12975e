//! Leases and what is attached to them. No clocks: `lessor` knows how long a lease still lives.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::meta::LeaseMeta;
use crate::proto::Record;

/// A lease as the state knows it; how long it still lives is the lessor's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The lease.
    pub id: i64,
    /// Granted, in seconds.
    pub ttl: i64,
    /// Seconds at the last checkpoint of the lease; 0 = never checkpointed.
    pub remaining_ttl: i64,
    /// Attached keys, sorted.
    pub keys: Vec<Bytes>,
}

/// All leases. Invariant: a key is attached to a lease if and only if its newest record is live and names a lease that
/// exists.
#[derive(Debug, Default)]
pub struct Leases {
    leases: BTreeMap<i64, Lease>,
}

#[derive(Debug)]
struct Lease {
    ttl: i64,
    remaining_ttl: i64,
    keys: BTreeSet<Box<[u8]>>,
}

/// A key that changed its lease.
#[derive(Debug)]
pub struct LeaseMove {
    /// Holds the key.
    pub record: Record,
    /// The lease it had; 0 = none.
    pub from: i64,
    /// The lease it has; 0 = none.
    pub to: i64,
}

impl Leases {
    /// Leases without keys, as [`super::Meta`] has them.
    pub fn new(leases: &[LeaseMeta]) -> Self {
        let leases = leases.iter().map(|lease| {
            let LeaseMeta { id, ttl, remaining_ttl } = *lease;
            (id, Lease { ttl, remaining_ttl, keys: BTreeSet::new() })
        });
        Self { leases: leases.collect() }
    }

    /// Whether there is no lease.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Whether the lease exists.
    pub fn contains(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// Adds a lease without keys.
    pub fn grant(&mut self, id: i64, ttl: i64) {
        self.leases.insert(id, Lease { ttl, remaining_ttl: 0, keys: BTreeSet::new() });
    }

    /// Forgets a lease; its keys are the caller's to remove.
    pub fn revoke(&mut self, id: i64) {
        self.leases.remove(&id);
    }

    /// Follows what a command did to keys, in order.
    pub fn follow(&mut self, moves: &[LeaseMove]) {
        for LeaseMove { record, from, to } in moves {
            if let Some(lease) = self.leases.get_mut(from) {
                lease.keys.remove(record.key());
            }
            self.attach(*to, record.key());
        }
    }

    /// Attaches a key, if the lease exists.
    pub fn attach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key.into());
        }
    }

    /// The keys attached, sorted; empty when there is no such lease.
    pub fn keys(&self, id: i64) -> impl Iterator<Item = &[u8]> {
        self.leases.get(&id).into_iter().flat_map(|lease| lease.keys.iter().map(|key| &**key))
    }

    /// A lease with its keys.
    pub fn info(&self, id: i64) -> Option<LeaseInfo> {
        let lease = self.leases.get(&id)?;
        let keys = lease.keys.iter().map(|key| Bytes::copy_from_slice(key)).collect();
        Some(LeaseInfo { id, ttl: lease.ttl, remaining_ttl: lease.remaining_ttl, keys })
    }

    /// All of them without their keys, by id.
    pub fn meta(&self) -> Vec<LeaseMeta> {
        let metas =
            self.leases.iter().map(|(&id, lease)| LeaseMeta { id, ttl: lease.ttl, remaining_ttl: lease.remaining_ttl });
        metas.collect()
    }
}
