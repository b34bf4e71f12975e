//! The cases: which target, under which plan, found by whom.

use std::fmt;

use super::plans::{self, Plan};

/// Tries of a bad target unless it needs others.
const TRIES: u64 = 5;

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// kelson with this bug planted.
    Mutant(&'static str),
    /// The same binary with none.
    Kelson,
    /// etcd 3.7.3.
    Etcd,
    /// etcd 3.5.0.
    Etcd350,
    /// etcd 3.5.1.
    Etcd351,
}

/// One case.
#[derive(Clone)]
pub struct Case {
    /// Its name; of a mutant, the mutant's.
    pub name: String,
    /// What runs,
    pub target: Target,
    /// with these arguments besides the plan's,
    pub arguments: &'static [&'static str],
    /// under this plan.
    pub plan: &'static Plan,
    /// The first seed; each further try has the next one.
    pub seed: u64,
    /// How many tries.
    pub tries: u64,
    /// Checkers, or `checker/anomaly`s, one of which must find it; none = a good target, in which nothing may be found.
    pub found_by: &'static [&'static str],
}

impl fmt::Display for Case {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:<26} plan {:<16}", self.name, self.plan.name)?;
        match self.found_by {
            [] => write!(to, " must be valid"),
            found_by => write!(to, " found by {}", found_by.join(" or ")),
        }
    }
}

/// The variable that plants a mutant, as kelson's `mutants` has it.
pub fn variable(name: &str) -> String {
    format!("KELSON_MUTANT_{}", name.to_uppercase().replace('-', "_"))
}

fn mutant(name: &'static str, plan: &'static Plan, found_by: &'static [&'static str]) -> Case {
    Case { name: name.into(), target: Target::Mutant(name), arguments: &[], plan, seed: 1, tries: TRIES, found_by }
}

fn other(name: &str, target: Target, plan: &'static Plan, found_by: &'static [&'static str]) -> Case {
    Case { name: name.into(), target, arguments: &[], plan, seed: 1, tries: TRIES, found_by }
}

const LOST: &[&str] = &[
    "durability/lost_write",
    "durability/revision_went_back",
    "durability/wrong_revision",
    "durability/history_changed",
    "durability/hole",
];
const KV: &[&str] = &["revisions", "search", "order", "members/hash-differs", "set-full"];

/// Raft notices by itself what this breaks, and ends the member: that is found, too.
const KV_OR_BROKEN: &[&str] =
    &["revisions", "search", "order", "members/hash-differs", "liveness/broken", "liveness/no-progress"];

/// All cases: mutants, other bad targets, good targets.
pub fn all() -> Vec<Case> {
    let mut all = mutants();
    all.extend(others());
    all.extend(plans::SOUND.iter().map(|plan| other(&format!("kelson/{}", plan.name), Target::Kelson, plan, &[])));
    let for_etcd = plans::SOUND.iter().filter(|plan| plan.for_etcd);
    all.extend(for_etcd.map(|plan| other(&format!("etcd/{}", plan.name), Target::Etcd, plan, &[])));
    all
}

fn mutants() -> Vec<Case> {
    vec![
        mutant("no-log-sync", &plans::POWER, LOST),
        mutant("ack-before-sync", &plans::POWER, LOST),
        mutant("torn-tail-fatal", &plans::TORN_TAIL, &["faults/torn-tail"]),
        mutant("sync-error-ignored", &plans::FAILED_SYNC, &["faults/one-failed-sync", "faults/all-syncs-fail"]),
        mutant("crc-unchecked", &plans::FLIPPED_BIT, &["faults/flipped-bit"]),
        mutant("mark-apart", &plans::KILL, &["durability"]),
        mutant("hash-of-later", &plans::KILL, &["durability/hash_changed"]),
        mutant("read-without-index", &plans::REGISTER, &["revisions", "search"]),
        mutant("header-off-by-one", &plans::REGISTER, &["revisions"]),
        mutant("compare-before-propose", &plans::APPEND, &["revisions", "append"]),
        mutant("page-moves", &plans::WATCH, &["revisions/wrong-read"]),
        mutant("duplicate-event", &plans::WATCH, &["watch/duplicate-event"]),
        mutant("wrong-prev", &plans::WATCH, &["watch/wrong-prev"]),
        mutant("early-progress", &plans::WATCH, &["watch/false-progress"]),
        mutant("compaction-too-much", &plans::WATCH, &["revisions", "members/hash-differs"]),
        mutant("compaction-at-mark", &plans::WATCH, &["watch/skipped-event", "watch/missing-event"]),
        mutant("filter-forgotten", &plans::WATCH, &["watch/unwanted-event", "watch/wrong-event"]),
        mutant("version-goes-on", &plans::WATCH, &["revisions/wrong-fields"]),
        mutant("lease-leaves-key", &plans::LEASE, &["lease/revoke"]),
        mutant("renew-forgotten", &plans::LEASE, &["lease/early-end"]),
        mutant(
            "lease-by-wall-clock",
            &plans::LEASE_CLOCK,
            &["lease/early-end", "lease/ttl-too-low", "lease/wrong-ttl"],
        ),
        mutant("gone-by-clock", &plans::LEASE_LEADER, &["lease/came-back", "lease/early-end"]),
        mutant("read-index-unconfirmed", &plans::SLEEPING_LEADER, &["revisions", "search"]),
        mutant("vote-not-kept", &plans::KILL_ALL, &["members/went-back", "members/two-leaders", "revisions"]),
        mutant("truncation-not-kept", &plans::OVERRULED, &["liveness/broken: ended by itself"]),
        mutant("leader-restored", &plans::POWER_CLUSTER, KV),
        mutant("ack-on-receipt", &plans::LOST_LEADER, KV_OR_BROKEN),
        mutant("batch-twice", &plans::LOST_LEADER, KV),
        mutant("install-replays", &plans::INSTALL_WATCH, &["watch"]),
        mutant("slow-skips", &plans::INSTALL_WATCH, &["watch/skipped-event", "watch/missing-event"]),
        mutant(
            "snapshot-without-leases",
            &plans::INSTALL_LEASE,
            &["order", "members/hash-differs", "lease", "revisions"],
        ),
        mutant("removed-returns", &plans::GHOST, &["liveness/broken: removed and back"]),
    ]
}

fn others() -> Vec<Case> {
    let no_sync = &["--unsafe-no-fsync"];
    // It commits what it has applied in the middle of a transaction; without this it does so more seldom.
    let often = &["--backend-batch-interval=1ms"];
    vec![
        other("kelson-serializable", Target::Kelson, &plans::SERIALIZABLE, &["revisions", "search"]),
        other("etcd-serializable", Target::Etcd, &plans::SERIALIZABLE, &["revisions", "search"]),
        Case { arguments: no_sync, ..other("etcd-no-sync", Target::Etcd, &plans::POWER, &["durability"]) },
        other("etcd-3.5.1-power", Target::Etcd351, &plans::POWER, LOST),
        Case { arguments: often, ..other("etcd-3.5.0-kill", Target::Etcd350, &plans::WIDE, KV) },
        Case { arguments: often, ..other("etcd-3.5.1-kill", Target::Etcd351, &plans::WIDE, KV) },
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The table of kelson's mutants, as text: the two are not built together.
    const MUTANTS: &str = include_str!("../../../../src/mutants.rs");

    fn planted() -> BTreeSet<&'static str> {
        let table = MUTANTS.split_once("\nmutants! {").and_then(|(_, rest)| rest.split_once("\n}")).unwrap().0;
        table.lines().filter_map(|line| line.split_once(" = \"")?.1.strip_suffix("\",")).collect()
    }

    #[test]
    fn every_mutant_has_a_case_and_every_case_a_mutant() {
        let of = |case: &Case| match case.target {
            Target::Mutant(name) => Some(name),
            _ => None,
        };
        let cases = all();
        let cases: Vec<&str> = cases.iter().filter_map(of).collect();
        assert_eq!(cases.iter().copied().collect::<BTreeSet<_>>(), planted());
        assert!(cases.len() >= 24);
    }

    #[test]
    fn names_are_unique_and_every_bad_target_has_somebody_to_find_it() {
        let all = all();
        let names: BTreeSet<&str> = all.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        let is_good = |case: &Case| case.name.starts_with("kelson/") || case.name.starts_with("etcd/");
        assert!(all.iter().all(|case| case.found_by.is_empty() == is_good(case) && case.tries > 0));
    }

    #[test]
    fn every_plan_of_a_mutant_is_one_that_good_targets_pass() {
        for case in mutants() {
            assert!(plans::SOUND.iter().any(|plan| plan.name == case.plan.name), "{}", case.name);
        }
    }

    #[test]
    fn every_plan_with_faults_has_steps() {
        for plan in plans::SOUND {
            if let plans::Shape::Load(load) = &plan.shape {
                assert_eq!(load.steps(1).is_empty(), load.faults.is_empty(), "{}", plan.name);
                assert!(load.seconds <= 60, "{}", plan.name);
            }
        }
    }

    #[test]
    fn variables_are_those_that_kelson_reads() {
        assert_eq!(variable("no-log-sync"), "KELSON_MUTANT_NO_LOG_SYNC");
        assert!(MUTANTS.contains("\"KELSON_MUTANT_{}\""));
    }
}
