//! A timing wheel: ids filed under the tick at which they are to be looked at. It knows no lease and no clock.
//!
//! Slots are kept in an ordered map instead of a ring, so that a lease of a year needs no second hand; there are as
//! many as ticks in use, and filing and removing cost a look-up among those.

use std::collections::BTreeMap;

/// Where an id is filed: the tick, and the place within its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    tick: u64,
    index: usize,
}

/// Ids by tick.
#[derive(Default)]
pub(super) struct Wheel {
    /// Invariant: no slot is empty.
    slots: BTreeMap<u64, Vec<i64>>,
}

impl Wheel {
    /// Files an id, which must not be filed already.
    pub fn file(&mut self, id: i64, tick: u64) -> Place {
        let slot = self.slots.entry(tick).or_default();
        slot.push(id);
        Place { tick, index: slot.len() - 1 }
    }

    /// Takes out the id at a place. Returns the id that stands there now, if another one was moved to fill the gap.
    pub fn remove(&mut self, place: Place) -> Option<i64> {
        let slot = self.slots.get_mut(&place.tick).expect("a place is in a slot that exists");
        slot.swap_remove(place.index);
        let moved = slot.get(place.index).copied();
        if slot.is_empty() {
            self.slots.remove(&place.tick);
        }
        moved
    }

    /// Takes out an id filed at or before `tick`, of the earliest tick first.
    pub fn pop(&mut self, tick: u64) -> Option<i64> {
        let mut slot = self.slots.first_entry().filter(|slot| *slot.key() <= tick)?;
        // The last one, so that no other is moved.
        let id = slot.get_mut().pop();
        if slot.get().is_empty() {
            slot.remove();
        }
        id
    }
}
