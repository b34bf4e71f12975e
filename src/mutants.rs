//! Bugs planted on purpose, for the proof that the harness in `jepsen/` finds them. Not for any other build: without the
//! feature `mutants` every question here is answered `false` at compile time.
//!
//! With the feature a bug is there while its variable, such as `KELSON_MUTANT_NO_LOG_SYNC`, is `1` at the first question.
//! Each is asked for where a real one of its kind would be, in one `if`; `jepsen prove` has a case for each.

/// Makes the enum, the list and the names of one table.
macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $mutant:ident = $name:literal,)+) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[doc = $doc])+ $mutant,)+
        }

        impl Mutant {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$mutant,)+];

            /// Its name for people; `jepsen prove` calls it so, too.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$mutant => $name,)+
                }
            }
        }
    };
}

mutants! {
    /// The log is written, but not synced.
    NoLogSync = "no-log-sync",
    /// A follower acknowledges entries that have arrived, before its log takes them, or refuses them.
    AckOnReceipt = "ack-on-receipt",
    /// A vote is kept in memory only.
    VoteNotKept = "vote-not-kept",
    /// A log that was cut is not cut on the disk.
    TruncationNotKept = "truncation-not-kept",
    /// A linearizable read asks nobody.
    ReadWithoutIndex = "read-without-index",
    /// A leader gives read indexes on its own word: it asks no quorum and needs none to have answered lately.
    ReadIndexUnconfirmed = "read-index-unconfirmed",
    /// The checkpoint's mark is written apart from the records it stands for.
    MarkApart = "mark-apart",
    /// Entries count as durable before they are synced.
    AckBeforeSync = "ack-before-sync",
    /// A failed sync is passed over.
    SyncErrorIgnored = "sync-error-ignored",
    /// The log's checksums are not compared.
    CrcUnchecked = "crc-unchecked",
    /// A torn tail is taken for damage.
    TornTailFatal = "torn-tail-fatal",
    /// A snapshot has no leases.
    SnapshotWithoutLeases = "snapshot-without-leases",
    /// Watchers are given old events again when a snapshot is installed.
    InstallReplays = "install-replays",
    /// A watcher whose history was compacted goes on behind it, as if nothing were missing.
    SlowSkips = "slow-skips",
    /// Compaction drops the events of its own revision, deletions among them.
    CompactionAtMark = "compaction-at-mark",
    /// A transaction's comparisons are made before it is proposed.
    CompareBeforePropose = "compare-before-propose",
    /// The header of a range names the revision before.
    HeaderOffByOne = "header-off-by-one",
    /// A range at an old revision reads the newest.
    PageMoves = "page-moves",
    /// Leases run by the wall clock.
    LeaseByWallClock = "lease-by-wall-clock",
    /// A removed member is let in again.
    RemovedReturns = "removed-returns",
    /// A watcher is given the last event of its first slice of history twice.
    DuplicateEvent = "duplicate-event",
    /// A leader that was killed leads on in its old term.
    LeaderRestored = "leader-restored",
    /// A batch that was sent twice is applied twice.
    BatchTwice = "batch-twice",
    /// The end of a lease leaves one of its keys.
    LeaseLeavesKey = "lease-leaves-key",
    /// A keep-alive is answered and forgotten.
    RenewForgotten = "renew-forgotten",
    /// A leader says by its own clock alone that a lease is gone.
    GoneByClock = "gone-by-clock",
    /// An event's previous value is its own.
    WrongPrev = "wrong-prev",
    /// Progress is told while a watcher on the stream is behind.
    EarlyProgress = "early-progress",
    /// Compaction drops the version that is still to be read at its revision.
    CompactionTooMuch = "compaction-too-much",
    /// A watch's filters are forgotten.
    FilterForgotten = "filter-forgotten",
    /// A hash at an old revision has newer ones in it.
    HashOfLater = "hash-of-later",
    /// A key that was deleted and comes back goes on counting versions.
    VersionGoesOn = "version-goes-on",
}

impl Mutant {
    /// The environment variable that plants it.
    pub fn variable(self) -> String {
        format!("KELSON_MUTANT_{}", self.name().to_uppercase().replace('-', "_"))
    }
}

/// Whether this bug is planted.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn planted(_: Mutant) -> bool {
    false
}

/// Whether this bug is planted.
#[cfg(feature = "mutants")]
pub fn planted(mutant: Mutant) -> bool {
    use std::sync::LazyLock;
    static PLANTED: LazyLock<Vec<bool>> = LazyLock::new(|| {
        let is_set = |mutant: &Mutant| std::env::var_os(mutant.variable()).is_some_and(|value| value == "1");
        Mutant::ALL.iter().map(is_set).collect()
    });
    PLANTED[mutant as usize]
}

/// Log bytes at which a snapshot is due, where a build with mutants is told so by `KELSON_SNAPSHOT_LOG_BYTES`: what
/// happens after hours then happens in seconds.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn snapshot_log_bytes() -> Option<u64> {
    None
}

/// Log bytes at which a snapshot is due, where a build with mutants is told so by `KELSON_SNAPSHOT_LOG_BYTES`: what
/// happens after hours then happens in seconds.
#[cfg(feature = "mutants")]
pub fn snapshot_log_bytes() -> Option<u64> {
    use std::sync::LazyLock;
    static BYTES: LazyLock<Option<u64>> =
        LazyLock::new(|| std::env::var("KELSON_SNAPSHOT_LOG_BYTES").ok().and_then(|text| text.parse().ok()));
    *BYTES
}

/// What a build with mutants says of itself, at its start and as a part of its version; `None` for every other one.
pub fn warning() -> Option<String> {
    cfg!(feature = "mutants").then(|| {
        let names: Vec<_> = Mutant::ALL.iter().filter(|mutant| planted(**mutant)).map(|mutant| mutant.name()).collect();
        let planted = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        format!("BUILT WITH BUGS TO PLANT, for tests only; planted: {planted}")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_mutant_has_a_name_and_a_variable_of_its_own() {
        let variables: BTreeSet<String> = Mutant::ALL.iter().map(|mutant| mutant.variable()).collect();
        assert_eq!(variables.len(), Mutant::ALL.len());
        assert_eq!(Mutant::NoLogSync.variable(), "KELSON_MUTANT_NO_LOG_SYNC");
        assert!(Mutant::ALL.iter().enumerate().all(|(number, mutant)| *mutant as usize == number));
    }

    #[test]
    fn nothing_is_planted_unasked() {
        assert!(Mutant::ALL.iter().all(|mutant| !planted(*mutant)));
        assert_eq!(warning().is_some(), cfg!(feature = "mutants"));
    }
}
