//! No lease ends by itself before its time: at least its TTL after the last renewal that was answered had been sent, as
//! far as the members' clocks run right.

use std::collections::{BTreeMap, BTreeSet};

use super::{Broken, Held};

const SECOND: u64 = 1_000_000_000;

/// What clients know of leases. Times are in nanoseconds.
#[derive(Debug)]
pub struct Leases {
    /// The shortest second of any member's clock, in thousandths of a second.
    second_permille: u64,
    lives: BTreeMap<i64, Life>,
    revoked: BTreeSet<i64>,
}

#[derive(Debug)]
struct Life {
    ttl: i64,
    renewed: u64,
}

impl Leases {
    /// None yet; no clock runs faster than a second in so many milliseconds.
    pub fn new(second_permille: u64) -> Self {
        Self { second_permille, lives: BTreeMap::new(), revoked: BTreeSet::new() }
    }

    /// A grant, sent at `sent`, was answered.
    pub fn granted(&mut self, id: i64, ttl: i64, sent: u64) {
        self.lives.insert(id, Life { ttl, renewed: sent });
    }

    /// A renewal, sent at `sent`, was answered.
    pub fn renewed(&mut self, id: i64, sent: u64) {
        if let Some(life) = self.lives.get_mut(&id) {
            life.renewed = life.renewed.max(sent);
        }
    }

    /// A client asks for its end.
    pub fn asked_to_end(&mut self, id: i64) {
        self.revoked.insert(id);
    }

    /// It was revoked for the first time.
    ///
    /// # Errors
    /// Nobody asked, and its time is not over.
    pub fn ends(&mut self, id: i64, now: u64) -> Held {
        let Some(life) = self.lives.remove(&id).filter(|_| !self.revoked.contains(&id)) else { return Ok(()) };
        let lasted = now.saturating_sub(life.renewed);
        let least = life.ttl.max(0) as u64 * SECOND / 1000 * self.second_permille;
        if lasted >= least {
            return Ok(());
        }
        let text = format!("lease {id:x} of {} s ended {lasted} ns after its last renewal was sent", life.ttl);
        Err(Broken { invariant: "lease", text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_end_is_found_unless_somebody_asked_for_it() {
        let mut leases = Leases::new(900);
        leases.granted(1, 2, SECOND);
        leases.renewed(1, 2 * SECOND);
        assert!(leases.ends(1, 3 * SECOND).is_err());
        leases.granted(2, 2, SECOND);
        assert_eq!(leases.ends(2, SECOND + 1_800_000_000), Ok(()), "a fast clock");
        leases.granted(3, 2, SECOND);
        leases.asked_to_end(3);
        assert_eq!(leases.ends(3, SECOND), Ok(()));
        assert_eq!(leases.ends(4, 0), Ok(()), "whose grant was never answered");
    }
}
