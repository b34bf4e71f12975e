//! How the proof is told: a line for each case, totals, and a table for FOUND.md.

use super::Row;
use crate::report::Verdict;

/// One line.
pub fn line(row: &Row) -> String {
    let word = match (row.is_good, row.proven) {
        (true, true) => "valid",
        (true, false) => "WRONG",
        (false, true) => "found",
        (false, false) => "MISSED",
    };
    format!(
        "{word:<7} {:<26} {:>3} s, try {}, seed {}, plan {}: {}",
        row.name,
        row.seconds,
        row.tries,
        row.seed,
        row.plan,
        said(row)
    )
}

/// What the last try said, in a few words.
fn said(row: &Row) -> String {
    match (row.seen.by.first(), row.seen.verdict) {
        (Some((checker, text)), _) => format!("{}: {text}", by(row).unwrap_or_else(|| checker.clone())),
        (None, Verdict::Valid) => "nothing wrong".into(),
        (None, _) => row.seen.why.clone(),
    }
}

/// All that found it, each once.
fn by(row: &Row) -> Option<String> {
    let mut names: Vec<&str> = row.seen.by.iter().map(|(checker, _)| checker.as_str()).collect();
    names.dedup();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then(|| names.join(", "))
}

/// The sums.
pub fn totals(rows: &[Row]) -> String {
    let count = |is_good: bool, proven: bool| {
        rows.iter().filter(|row| row.is_good == is_good && (row.proven || !proven)).count()
    };
    let seconds: u64 = rows.iter().map(|row| row.seconds_altogether).sum();
    format!(
        "{} of {} bad targets found, {} of {} good ones valid, {} min {} s",
        count(false, true),
        count(false, false),
        count(true, true),
        count(true, false),
        seconds / 60,
        seconds % 60
    )
}

/// A table for FOUND.md.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| target | command | plan | seed | tries | found by | seconds |\n|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let outcome = match (row.is_good, row.proven) {
            (true, true) => "nothing: **valid**".to_owned(),
            (false, true) => by(row).unwrap_or_default(),
            _ => format!("**not as it must be**: {}", said(row)),
        };
        text += &format!(
            "| {} | `jepsen prove --only {}` | {} | {} | {} | {outcome} | {} |\n",
            row.name, row.name, row.plan, row.seed, row.tries, row.seconds
        );
    }
    text + &format!("\n{}.\n", totals(rows))
}
