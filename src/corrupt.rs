//! The same bytes everywhere: members that applied the same log have the same hash, and where they have not, somebody's
//! data is corrupt. etcd's rules (`etcdserver/corrupt.go`): hashes are compared at one revision and one compaction mark,
//! a majority decides who is corrupt, and the CORRUPT alarm stops all writes.
//!
//! There are three checks: [`before_serving`] when a member starts, [`run_periodic`] over everything that is kept, and
//! [`run_compaction`] at compaction marks. `survey` asks the members, this file judges what they say. `server` starts all
//! of it.

mod check;
mod survey;

use std::collections::BTreeMap;

pub use check::{before_serving, run_compaction, run_periodic};

use crate::raft;
use crate::state::{self, HashKv};

/// Why a check was not passed, or could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Other members have other data: this member must not serve.
    #[error(
        "member {me:x} found data inconsistency with peers: at revision {revision}, compacted at {compact_revision}, its \
         hash is not that of {}; find out which of them is wrong (etcdctl endpoint hashkv), then remove that member from \
         the cluster and add it anew, or start without --feature-gates=InitialCorruptCheck=true to look at its data",
        names(differing)
    )]
    Inconsistent {
        /// This member.
        me: u64,
        /// The members with another hash.
        differing: Vec<u64>,
        /// Where hashes were compared.
        revision: i64,
        /// The compaction mark of all of them, -1 = never compacted.
        compact_revision: i64,
    },
    /// The cluster could not confirm how far the data must be.
    #[error(transparent)]
    Raft(#[from] raft::Error),
    /// There is no own hash at the revision.
    #[error("hash: {0}")]
    Hash(#[from] state::Error),
}

/// Ids as etcd prints them.
fn names(ids: &[u64]) -> String {
    let names: Vec<String> = ids.iter().map(|id| format!("{id:x}")).collect();
    names.join(", ")
}

/// What a member says when it is asked for its hash at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// This, with its newest revision.
    Hash(HashKv, i64),
    /// It has not come so far.
    Behind,
    /// It has forgotten the revision.
    Compacted,
    /// Nothing, for this reason.
    Silent(String),
}

/// Everybody's hash at one revision, as far as they could tell.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Survey {
    me: u64,
    own: HashKv,
    /// All other members.
    others: Vec<(u64, Answer)>,
}

/// Who is corrupt.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nobody that was heard.
    Same,
    /// These, for a majority of all members agrees against them.
    Corrupt(Vec<u64>),
    /// Somebody, and no majority says who.
    Undecided,
}

impl Verdict {
    /// Whom the alarm is raised for; as with etcd 0 when nobody knows.
    fn alarmed(self) -> Vec<u64> {
        match self {
            Self::Same => Vec::new(),
            Self::Corrupt(members) => members,
            Self::Undecided => vec![0],
        }
    }
}

impl Survey {
    /// The hash of a member that can be compared with this one's: only at the same revision and compaction mark does
    /// another hash mean other data.
    fn comparable(&self, answer: &Answer) -> Option<u32> {
        match answer {
            Answer::Hash(hash, _) if (hash.revision, hash.compact_revision) == self.place() => Some(hash.hash),
            Answer::Hash(..) | Answer::Behind | Answer::Compacted | Answer::Silent(_) => None,
        }
    }

    fn place(&self) -> (i64, i64) {
        (self.own.revision, self.own.compact_revision)
    }

    /// Whether everybody could be compared.
    fn is_complete(&self) -> bool {
        self.others.iter().all(|(_, answer)| self.comparable(answer).is_some())
    }

    /// The members whose data is not this one's.
    fn differing(&self) -> Vec<u64> {
        let differs = |answer: &Answer| self.comparable(answer).is_some_and(|hash| hash != self.own.hash);
        self.others.iter().filter(|(_, answer)| differs(answer)).map(|(id, _)| *id).collect()
    }

    /// The members that could not be compared, and why.
    fn skipped(&self) -> impl Iterator<Item = (u64, String)> {
        self.others.iter().filter(|(_, answer)| self.comparable(answer).is_none()).map(|(id, answer)| {
            let reason = match answer {
                Answer::Hash(hash, _) => {
                    format!("hashed revision {} compacted at {}", hash.revision, hash.compact_revision)
                }
                Answer::Behind => "is behind".to_owned(),
                Answer::Compacted => "has compacted the revision".to_owned(),
                Answer::Silent(reason) => reason.clone(),
            };
            (*id, reason)
        })
    }

    /// The members by their hash.
    fn by_hash(&self) -> BTreeMap<u32, Vec<u64>> {
        let mut by_hash = BTreeMap::from([(self.own.hash, vec![self.me])]);
        for (id, answer) in &self.others {
            if let Some(hash) = self.comparable(answer) {
                by_hash.entry(hash).or_default().push(*id);
            }
        }
        by_hash
    }

    /// A majority, counted over all members whether they answered or not.
    fn quorum(&self) -> usize {
        let members = self.others.len() + 1;
        members / 2 + 1
    }

    /// Who is corrupt by the hashes.
    fn by_hashes(&self) -> Verdict {
        let by_hash = self.by_hash();
        if by_hash.len() == 1 {
            return Verdict::Same;
        }
        let Some(right) = by_hash.iter().find(|(_, members)| members.len() >= self.quorum()).map(|(hash, _)| *hash)
        else {
            return Verdict::Undecided;
        };
        Verdict::Corrupt(
            by_hash.into_iter().filter(|(hash, _)| *hash != right).flat_map(|(_, members)| members).collect(),
        )
    }

    /// Who is corrupt, given how far this member was after it heard the others and had then applied all that was
    /// committed: whoever was further had applied what nobody committed. When most were, it is this one that has not
    /// applied what it should have.
    fn verdict(&self, revision: i64, compact_revision: i64) -> Verdict {
        let is_ahead = |answer: &Answer| match answer {
            Answer::Hash(hash, newest) => *newest > revision || hash.compact_revision > compact_revision,
            Answer::Behind | Answer::Compacted | Answer::Silent(_) => false,
        };
        let mut ahead: Vec<u64> =
            self.others.iter().filter(|(_, answer)| is_ahead(answer)).map(|(id, _)| *id).collect();
        if ahead.len() >= self.quorum() {
            ahead = vec![self.me];
        }
        match self.by_hashes() {
            Verdict::Same if ahead.is_empty() => Verdict::Same,
            Verdict::Same => Verdict::Corrupt(ahead),
            Verdict::Corrupt(members) => {
                ahead.retain(|id| !members.contains(id));
                Verdict::Corrupt([members, ahead].concat())
            }
            Verdict::Undecided => Verdict::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(hash: u32, compact_revision: i64) -> HashKv {
        HashKv { hash, compact_revision, revision: 10 }
    }

    fn says(number: u32) -> Answer {
        Answer::Hash(hash(number, 5), 10)
    }

    /// Member 1 has hash 7 at revision 10, compacted at 5; the others are 2, 3, ….
    fn survey(answers: &[Answer]) -> Survey {
        Survey { me: 1, own: hash(7, 5), others: (2..).zip(answers.iter().cloned()).collect() }
    }

    fn verdict(answers: &[Answer]) -> Verdict {
        survey(answers).verdict(10, 5)
    }

    fn silent() -> Answer {
        Answer::Silent("gone".to_owned())
    }

    #[test]
    fn a_majority_decides_who_is_corrupt() {
        assert_eq!(verdict(&[says(7), says(7)]), Verdict::Same);
        assert_eq!(verdict(&[says(7), says(8)]), Verdict::Corrupt(vec![3]));
        assert_eq!(verdict(&[says(8), says(8)]), Verdict::Corrupt(vec![1]));
        assert_eq!(verdict(&[says(7), says(8), says(7), says(9)]), Verdict::Corrupt(vec![3, 5]));
    }

    #[test]
    fn without_a_majority_of_all_members_nobody_is_named() {
        assert_eq!(verdict(&[says(8)]), Verdict::Undecided);
        assert_eq!(verdict(&[says(8), silent()]), Verdict::Undecided);
        assert_eq!(verdict(&[says(8), says(9)]), Verdict::Undecided);
        assert_eq!(verdict(&[says(7), says(8), says(8)]), Verdict::Undecided);
        assert_eq!(verdict(&[says(8)]).alarmed(), [0]);
    }

    #[test]
    fn three_of_four_and_two_of_three_are_majorities() {
        for (others, quorum) in [(0, 1), (1, 2), (2, 2), (3, 3), (4, 3), (5, 4), (6, 4)] {
            assert_eq!(survey(&vec![silent(); others]).quorum(), quorum, "{others}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_no_corruption_and_is_named() {
        let elsewhere = Answer::Hash(hash(8, 4), 10);
        let survey = survey(&[elsewhere, Answer::Behind, Answer::Compacted, silent(), says(7)]);
        assert_eq!(survey.verdict(10, 5), Verdict::Same);
        assert!(!survey.is_complete() && survey.differing().is_empty());
        let skipped: Vec<_> = survey.skipped().map(|(id, reason)| format!("{id} {reason}")).collect();
        let expected = ["2 hashed revision 10 compacted at 4", "3 is behind", "4 has compacted the revision", "5 gone"];
        assert_eq!(skipped, expected);
    }

    #[test]
    fn whoever_has_more_than_was_committed_is_corrupt() {
        let ahead = || Answer::Hash(hash(7, 5), 11);
        let compacted = || Answer::Hash(hash(7, 6), 10);
        assert_eq!(verdict(&[ahead(), says(7)]), Verdict::Corrupt(vec![2]));
        assert_eq!(verdict(&[says(7), compacted()]), Verdict::Corrupt(vec![3]));
        assert_eq!(verdict(&[ahead(), ahead()]), Verdict::Corrupt(vec![1]), "this member has less than it should");
        assert_eq!(survey(&[ahead(), says(7)]).verdict(11, 5), Verdict::Same, "it had come there meanwhile");
    }

    #[test]
    fn a_refusal_to_start_names_members_and_revision() {
        let error = Error::Inconsistent { me: 0xa, differing: vec![0xb, 0xc], revision: 7, compact_revision: -1 };
        let text = error.to_string();
        let start = "member a found data inconsistency with peers: at revision 7, compacted at -1, its hash is not that of \
                     b, c;";
        assert!(text.starts_with(start), "{text}");
    }
}
