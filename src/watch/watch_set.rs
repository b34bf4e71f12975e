//! The watchers of one stream: who has which id, and which of them share a group.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use slab::Slab;

use super::group::{Group, Inbox};
use super::hub::Hub;
use super::range_index::KeyRange;
use super::watcher::Watcher;

/// The stream's watchers of one range.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Tells it from an earlier one with the same number.
    pub serial: u64,
    pub group: Arc<Group>,
    /// The stream's place in the group.
    pub place: usize,
    /// Entries up to this revision were taken from the group already.
    pub seen: i64,
    pub watchers: Vec<Watcher>,
}

/// Why a watch id cannot be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DuplicateId;

/// All watchers of a stream.
#[derive(Debug)]
pub(super) struct WatchSet {
    hub: Arc<Hub>,
    pub subscriptions: Slab<Subscription>,
    numbers: HashMap<KeyRange, usize>,
    /// From id to (subscription, place among its watchers).
    places: HashMap<i64, (usize, usize)>,
    /// Ids of watchers that compaction ended and their client has not cancelled: still in use, as in etcd.
    ended: HashSet<i64>,
    /// The smallest id never chosen by this side.
    next_id: i64,
    next_serial: u64,
    /// Watchers that are not synced.
    unsynced: usize,
}

impl WatchSet {
    pub fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            subscriptions: Slab::new(),
            numbers: HashMap::new(),
            places: HashMap::new(),
            ended: HashSet::new(),
            next_id: 0,
            next_serial: 0,
            unsynced: 0,
        }
    }

    /// Ids in use.
    pub fn ids(&self) -> usize {
        self.places.len() + self.ended.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Watchers that read history.
    pub fn unsynced(&self) -> usize {
        self.unsynced
    }

    /// Whether no watcher reads history.
    pub fn is_synced(&self) -> bool {
        self.unsynced == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = &Watcher> {
        self.subscriptions.iter().flat_map(|(_, subscription)| &subscription.watchers)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Watcher> {
        self.subscriptions.iter_mut().flat_map(|(_, subscription)| &mut subscription.watchers)
    }

    pub fn get(&self, id: i64) -> Option<&Watcher> {
        let &(number, place) = self.places.get(&id)?;
        Some(&self.subscriptions[number].watchers[place])
    }

    /// Where a watcher is: its subscription and its place there.
    pub fn place(&self, id: i64) -> Option<(usize, usize)> {
        self.places.get(&id).copied()
    }

    /// Gives the id asked for; for 0 the next one that was never given by itself and is not in use, as etcd counts.
    pub fn choose_id(&mut self, asked: i64) -> Result<i64, DuplicateId> {
        let in_use = |id| self.places.contains_key(&id) || self.ended.contains(&id);
        if asked != 0 {
            return if in_use(asked) { Err(DuplicateId) } else { Ok(asked) };
        }
        while in_use(self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Ok(self.next_id - 1)
    }

    /// Enters a watcher that `make` creates from a serial number. It runs after the group was joined: what the state
    /// shows only then will be told.
    pub fn insert(&mut self, range: &KeyRange, inbox: &Arc<Inbox>, make: impl FnOnce(u64) -> Watcher) -> &Watcher {
        self.next_serial += 1;
        let serial = self.next_serial;
        let number = match self.numbers.get(range) {
            Some(&number) => number,
            None => {
                let entry = self.subscriptions.vacant_entry();
                let number = entry.key();
                let (group, place) = self.hub.join(range, inbox, number);
                entry.insert(Subscription { serial, group, place, seen: 0, watchers: Vec::new() });
                self.numbers.insert(range.clone(), number);
                number
            }
        };
        let watcher = make(serial);
        let watchers = &mut self.subscriptions[number].watchers;
        let before = self.places.insert(watcher.id, (number, watchers.len()));
        assert!(before.is_none(), "watch id {} given twice", watcher.id);
        self.hub.counters.watchers.fetch_add(1, Ordering::Relaxed);
        if !watcher.synced {
            self.count_unsynced(1);
        }
        let watchers = &mut self.subscriptions[number].watchers;
        watchers.push(watcher);
        &watchers[watchers.len() - 1]
    }

    /// Takes a watcher out, if it was ever in, and keeps its id in use until the client cancels it.
    pub fn end(&mut self, id: i64) {
        self.remove(id);
        self.ended.insert(id);
    }

    /// Frees an id for the client, who cancelled it; false when it is not in use.
    pub fn cancel(&mut self, id: i64) -> bool {
        self.ended.remove(&id) || self.remove(id)
    }

    /// Takes a watcher out; false when there is none of this id.
    fn remove(&mut self, id: i64) -> bool {
        let Some((number, place)) = self.places.remove(&id) else { return false };
        let subscription = &mut self.subscriptions[number];
        let watcher = subscription.watchers.swap_remove(place);
        if let Some(moved) = subscription.watchers.get(place) {
            self.places.insert(moved.id, (number, place));
        }
        if subscription.watchers.is_empty() {
            let Subscription { group, place, .. } = self.subscriptions.remove(number);
            self.numbers.remove(&group.range);
            self.hub.leave([(group, place)]);
        }
        self.hub.counters.watchers.fetch_sub(1, Ordering::Relaxed);
        if !watcher.synced {
            self.count_synced(1);
        }
        true
    }

    /// Notes that a watcher fell behind what its group keeps.
    pub fn count_unsynced(&mut self, watchers: usize) {
        self.unsynced += watchers;
        self.hub.counters.unsynced.fetch_add(watchers, Ordering::Relaxed);
    }

    /// Notes that a watcher needs no history any more.
    pub fn count_synced(&mut self, watchers: usize) {
        self.unsynced -= watchers;
        self.hub.counters.unsynced.fetch_sub(watchers, Ordering::Relaxed);
    }
}

impl Drop for WatchSet {
    fn drop(&mut self) {
        self.hub.counters.watchers.fetch_sub(self.places.len(), Ordering::Relaxed);
        self.count_synced(self.unsynced);
        self.hub.leave(self.subscriptions.drain().map(|subscription| (subscription.group, subscription.place)));
    }
}
