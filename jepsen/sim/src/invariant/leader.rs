//! At most one member leads in a term.

use std::collections::BTreeMap;

use super::{Broken, Held};

/// Who led in which term.
#[derive(Debug, Default)]
pub struct Leaders(BTreeMap<u64, u64>);

impl Leaders {
    /// A member leads in a term.
    ///
    /// # Errors
    /// Another one did.
    pub fn leads(&mut self, term: u64, member: u64) -> Held {
        let leader = *self.0.entry(term).or_insert(member);
        if leader == member {
            return Ok(());
        }
        Err(Broken { invariant: "leader", text: format!("{leader:x} and {member:x} lead in term {term}") })
    }

    /// Terms that had a leader.
    pub fn terms(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_of_one_term_are_found_and_those_of_two_terms_are_not() {
        let mut leaders = Leaders::default();
        assert_eq!(leaders.leads(1, 7), Ok(()));
        assert_eq!(leaders.leads(2, 8), Ok(()));
        assert_eq!(leaders.leads(1, 7), Ok(()));
        assert!(leaders.leads(2, 7).is_err());
    }
}
