//! Linearizability by revisions: exact, without search.
//!
//! etcd exposes its total order. A change at revision r has position 2r, a read that saw revision r has 2r + 1. A history
//! is linearizable exactly when every operation's position is at least that of every operation that ended before it
//! began (a change's strictly more), and each read equals the state at its revision; the latter is checked elsewhere.

use super::{Kind, Violation};

/// One operation with its place in time and in the total order.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// The operation's id, for the report.
    pub id: u64,
    /// Nanoseconds, before sending.
    pub start: u64,
    /// Nanoseconds, after the answer; `None` when there was no answer.
    pub end: Option<u64>,
    /// The revision of the change, or the revision a read saw.
    pub revision: i64,
    /// A change (or a read).
    pub changes: bool,
    /// Serializable reads may be old; what they saw still happened.
    pub may_be_old: bool,
}

impl Placed {
    fn position(&self) -> i64 {
        self.revision * 2 + i64::from(!self.changes)
    }
}

/// Every operation that comes before one that ended before it began.
pub fn check(operations: &[Placed]) -> Vec<Violation> {
    let text = |(operation, latest): (&Placed, &Placed)| {
        format!(
            "operation {} ({} at revision {}) began after operation {} (revision {}) had ended",
            operation.id,
            if operation.changes { "change" } else { "read" },
            operation.revision,
            latest.id,
            latest.revision
        )
    };
    violations(operations).into_iter().map(|pair| Violation::new(Kind::WrongOrder, text(pair))).collect()
}

/// The same as pairs: the operation, and one that ended before it began although it stands behind it.
pub fn violations(operations: &[Placed]) -> Vec<(&Placed, &Placed)> {
    let mut by_start: Vec<&Placed> = operations.iter().collect();
    by_start.sort_by_key(|operation| operation.start);
    let mut by_end: Vec<(u64, &Placed)> =
        operations.iter().filter_map(|operation| operation.end.map(|end| (end, operation))).collect();
    by_end.sort_by_key(|(end, _)| *end);
    let mut ended = by_end.into_iter().peekable();
    let mut latest: Option<&Placed> = None;
    let mut violations = Vec::new();
    for operation in by_start {
        while let Some((_, earlier)) = ended.next_if(|(end, _)| *end < operation.start) {
            if latest.is_none_or(|latest| latest.position() < earlier.position()) {
                latest = Some(earlier);
            }
        }
        let Some(latest) = latest.filter(|_| !operation.may_be_old) else { continue };
        let (here, before) = (operation.position(), latest.position());
        if here < before || (operation.changes && here == before) {
            violations.push((operation, latest));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(id: u64, start: u64, end: u64, revision: i64, changes: bool) -> Placed {
        Placed { id, start, end: Some(end), revision, changes, may_be_old: false }
    }

    #[test]
    fn concurrent_operations_may_come_in_any_order() {
        assert_eq!(check(&[placed(1, 0, 10, 5, true), placed(2, 1, 9, 4, true), placed(3, 2, 8, 3, false)]), []);
    }

    #[test]
    fn a_read_that_misses_an_ended_write_is_found() {
        assert_eq!(check(&[placed(1, 0, 10, 5, true), placed(2, 11, 12, 5, false)]), []);
        assert_eq!(check(&[placed(1, 0, 10, 5, true), placed(2, 11, 12, 4, false)]).len(), 1);
    }

    #[test]
    fn a_write_below_an_ended_read_is_found() {
        assert_eq!(check(&[placed(1, 0, 10, 5, false), placed(2, 11, 12, 6, true)]), []);
        assert_eq!(check(&[placed(1, 0, 10, 5, false), placed(2, 11, 12, 5, true)]).len(), 1);
    }

    #[test]
    fn an_operation_without_an_answer_never_ends() {
        let unknown = Placed { end: None, ..placed(1, 0, 0, 9, true) };
        assert_eq!(check(&[unknown, placed(2, 11, 12, 4, true)]), []);
    }
}
