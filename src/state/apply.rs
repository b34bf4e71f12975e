//! Applying commands: the only way the state changes. Deterministic and total: whatever was committed gets an answer,
//! the same on every member. Called by `raft`.

use super::command::{Applied, Command, Effects, LeaseChange, Response};
use super::draft::{Draft, Outcome};
use super::error::Error;
use super::key_index::{KeyRange, NEWEST};
use super::store::{Shared, Store};
use super::txn;
use crate::mutants::{Mutant, planted};
use crate::proto::etcdserverpb as pb;
use pb::AlarmType;

/// A command that may remove more keys than this works on a copy of the index and swaps it in, so that readers do not
/// wait for it.
const DELETIONS_IN_PLACE_MAX: u64 = 1000;

/// Which alarms refuse a command.
#[derive(Clone, Copy)]
struct Refusal {
    no_space: bool,
}

impl Store {
    /// Applies a command. Called by one thread, in log order.
    pub fn apply(&self, command: &Command) -> (Applied, Effects) {
        let _writer = self.writer.lock();
        match command {
            Command::Put(request) => self.write(Refusal { no_space: true }, 0, |draft| {
                draft.check_put(request)?;
                Ok(Response::Put(draft.put(request)))
            }),
            Command::DeleteRange(request) => {
                self.write(Refusal { no_space: false }, self.deletions(request), |draft| {
                    Ok(Response::DeleteRange(draft.delete_range(request)))
                })
            }
            Command::Txn(request) => {
                let deletions = txn::deletions(self.shared.read().reader(), request);
                self.write(Refusal { no_space: txn::has_put(request) }, deletions, |draft| {
                    txn::execute(draft, request).map(Response::Txn)
                })
            }
            Command::Compact(request) => self.compact(request),
            Command::LeaseGrant(request) => self.grant(request),
            Command::LeaseRevoke(request) => self.revoke(request),
            Command::Alarm(request) => self.change(|shared| Ok(Response::Alarm(shared.alarms.apply(request)))),
            Command::Publish(member) => self.change(|shared| {
                shared.members.insert(member.id, member.clone());
                Ok(Response::Published)
            }),
        }
    }

    /// Runs a command that may change keys; `deletions` = at most about so many.
    fn write(
        &self,
        refusal: Refusal,
        deletions: u64,
        run: impl FnOnce(&mut Draft<'_>) -> Result<Response, Error>,
    ) -> (Applied, Effects) {
        let (response, outcome, revision) = if deletions <= DELETIONS_IN_PLACE_MAX {
            let mut shared = self.shared.write();
            if let Err(refused) = shared.check(refusal) {
                return (Applied { revision: shared.revision, response: Err(refused) }, Effects::default());
            }
            let (revision, compact_revision) = (shared.revision, shared.compact_revision);
            let mut draft = Draft::new(&mut shared.index, revision, compact_revision, Some(&self.leases));
            let response = run(&mut draft);
            let outcome = draft.finish();
            let revision = shared.publish(&outcome);
            (response, outcome, revision)
        } else {
            // Nobody else changes the index meanwhile: the caller holds the writer's lock.
            let view = {
                let shared = self.shared.read();
                if let Err(refused) = shared.check(refusal) {
                    return (Applied { revision: shared.revision, response: Err(refused) }, Effects::default());
                }
                shared.view()
            };
            let mut index = view.index;
            let mut draft = Draft::new(&mut index, view.revision, view.compact_revision, Some(&self.leases));
            let response = run(&mut draft);
            let outcome = draft.finish();
            let mut shared = self.shared.write();
            std::mem::swap(&mut shared.index, &mut index);
            let revision = shared.publish(&outcome);
            drop(shared);
            // The old index goes here, after the lock.
            drop(index);
            (response, outcome, revision)
        };
        let Outcome { batch: events, moves, operations, .. } = outcome;
        if !moves.is_empty() {
            self.leases.write().follow(&moves);
        }
        (Applied { revision, response }, Effects { events, lease: None, operations })
    }

    /// Runs a command that changes no key.
    fn change(&self, run: impl FnOnce(&mut Shared) -> Result<Response, Error>) -> (Applied, Effects) {
        let mut shared = self.shared.write();
        let response = run(&mut shared);
        (Applied { revision: shared.revision, response }, Effects::default())
    }

    /// Keys that a range deletion will remove; not worth finding out for one key.
    fn deletions(&self, request: &pb::DeleteRangeRequest) -> u64 {
        match KeyRange::new(&request.key, &request.range_end) {
            KeyRange::One(_) => 1,
            range @ KeyRange::Span { .. } => self.shared.read().index.count(range, NEWEST),
        }
    }

    fn compact(&self, request: &pb::CompactionRequest) -> (Applied, Effects) {
        self.change(|shared| {
            shared.check(Refusal { no_space: false })?;
            if request.revision <= shared.compact_revision {
                return Err(Error::Compacted);
            }
            if request.revision > shared.revision {
                return Err(Error::FutureRevision);
            }
            shared.compact_revision = request.revision;
            Ok(Response::Compact)
        })
    }

    fn grant(&self, request: &pb::LeaseGrantRequest) -> (Applied, Effects) {
        let (mut applied, mut effects) = self.change(|shared| {
            shared.check(Refusal { no_space: true })?;
            let pb::LeaseGrantRequest { id, ttl } = *request;
            Ok(Response::LeaseGrant(pb::LeaseGrantResponse { id, ttl, ..pb::LeaseGrantResponse::default() }))
        });
        if applied.response.is_err() {
            return (applied, effects);
        }
        let pb::LeaseGrantRequest { id, ttl } = *request;
        let mut leases = self.leases.write();
        // The proposer replaces 0 by an id of its choice; a lease 0 would mean none in every record.
        if id == 0 {
            applied.response = Err(Error::LeaseNotFound);
        } else if leases.contains(id) {
            applied.response = Err(Error::LeaseExists);
        } else {
            leases.grant(id, ttl);
            effects.lease = Some(LeaseChange::Granted { id, ttl });
        }
        (applied, effects)
    }

    fn revoke(&self, request: &pb::LeaseRevokeRequest) -> (Applied, Effects) {
        let id = request.id;
        let keys: Option<Vec<Box<[u8]>>> = {
            let leases = self.leases.read();
            leases.contains(id).then(|| leases.keys(id).map(Box::from).collect())
        };
        let deletions = keys.as_ref().map_or(0, Vec::len) as u64;
        let (applied, mut effects) = self.write(Refusal { no_space: false }, deletions, |draft| {
            let left = usize::from(planted(Mutant::LeaseLeavesKey));
            for key in keys.as_ref().ok_or(Error::LeaseNotFound)?.iter().skip(left) {
                draft.delete(KeyRange::One(key));
            }
            Ok(Response::LeaseRevoke)
        });
        if applied.response.is_ok() {
            self.leases.write().revoke(id);
            effects.lease = Some(LeaseChange::Revoked { id });
        }
        (applied, effects)
    }
}

impl Shared {
    /// Every changing command is refused while an alarm says that data is corrupt, those that add bytes also while one
    /// says that space is used up.
    fn check(&self, refusal: Refusal) -> Result<(), Error> {
        if self.alarms.is_raised(AlarmType::Corrupt) {
            return Err(Error::Corrupt);
        }
        if refusal.no_space && self.alarms.is_raised(AlarmType::Nospace) {
            return Err(Error::NoSpace);
        }
        Ok(())
    }
}
