//! Members that have applied the same entries hold the same state.

use std::collections::BTreeMap;

use super::{Broken, Held};

/// The hash of the state after each entry.
#[derive(Debug, Default)]
pub struct States(BTreeMap<u64, (u64, u32)>);

impl States {
    /// A member's state after an entry.
    ///
    /// # Errors
    /// Another member's differs.
    pub fn is(&mut self, node: u32, index: u64, hash: u64) -> Held {
        let (known, by) = *self.0.entry(index).or_insert((hash, node));
        if known == hash {
            return Ok(());
        }
        let text = format!("after entry {index} the state is {hash:016x} on {node}, but {known:016x} on {by}");
        Err(Broken { invariant: "state", text })
    }

    /// Entries behind which a state is known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_differs_is_found() {
        let mut states = States::default();
        assert_eq!(states.is(0, 3, 1), Ok(()));
        assert_eq!(states.is(1, 3, 1), Ok(()));
        assert_eq!(states.is(1, 4, 2), Ok(()));
        assert!(states.is(2, 4, 3).is_err());
    }
}
