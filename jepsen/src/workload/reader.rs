//! What watches a run has beside its clients: where they start, what they ask for, and how often they are torn down.

use super::{Kind, kubernetes, watched};
use crate::history::op::prefix_end;
use crate::history::stream::Watch;
use crate::rng::Rng;

/// A reader that begins at what is compacted does so again and again, after so many milliseconds.
const DROPPED_MS: u64 = 700;

/// Where a reader's first stream starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the next change.
    Now,
    /// This many revisions before the newest.
    Past(i64),
    /// This many revisions behind it.
    Future(i64),
    /// At a revision that is surely compacted, once one is.
    Compacted,
    /// Behind a list: a reflector.
    List,
}

/// One reader. It opens its next stream where the last one ended.
#[derive(Clone, Debug)]
pub struct Reader {
    /// What it watches; its start is decided when it is opened.
    pub watch: Watch,
    /// Where it starts.
    pub from: From,
    /// Milliseconds after which it drops its stream and resumes; 0 = never.
    pub drop_after_ms: u64,
    /// Milliseconds between two questions for progress; 0 = it asks only at the end.
    pub ask_every_ms: u64,
    /// Milliseconds that it sleeps between two messages: a slow reader.
    pub slow_ms: u64,
}

/// The readers of a workload.
pub fn readers(kind: Kind, rng: &mut Rng, count: usize) -> Vec<Reader> {
    match kind {
        Kind::Watch => (0..count).map(|n| any(n, rng)).collect(),
        Kind::Kubernetes => (0..count.min(12)).map(|n| reflector(n, rng)).collect(),
        _ => Vec::new(),
    }
}

fn any(n: usize, rng: &mut Rng) -> Reader {
    let group = *rng.pick(&watched::GROUPS);
    let prefix = format!("{}{group}/", watched::PREFIX);
    let (key, end) = match n % 4 {
        0 => (watched::PREFIX.to_owned(), Some(prefix_end(watched::PREFIX))),
        1 => (prefix.clone(), Some(prefix_end(&prefix))),
        2 => (format!("{prefix}03"), Some(format!("{prefix}09"))),
        _ => (format!("{prefix}{:02}", rng.below(4)), None),
    };
    let watch = Watch {
        key,
        end,
        start_revision: 0,
        prev_kv: rng.chance(0.5),
        fragment: rng.chance(0.5),
        progress_notify: rng.chance(0.3),
        no_put: n % 10 == 8,
        no_delete: n % 10 == 9,
    };
    let from = match n % 6 {
        0 => From::Now,
        1 | 2 => From::Past(rng.between(0, 50) as i64),
        3 => From::Future(rng.between(2, 60) as i64),
        4 => From::Compacted,
        _ => From::Past(0),
    };
    let dropped_ms = if rng.chance(0.5) { rng.between(300, 3000) } else { 0 };
    Reader {
        watch,
        from,
        drop_after_ms: if from == From::Compacted && dropped_ms == 0 { DROPPED_MS } else { dropped_ms },
        ask_every_ms: if rng.chance(0.6) { rng.between(50, 500) } else { 0 },
        slow_ms: if n % 9 == 5 { rng.between(5, 40) } else { 0 },
    }
}

fn reflector(n: usize, rng: &mut Rng) -> Reader {
    let prefix = match n % 3 {
        0 => kubernetes::PREFIX.to_owned(),
        which => format!("{}ns-{which}/", kubernetes::PREFIX),
    };
    let watch =
        Watch { end: Some(prefix_end(&prefix)), key: prefix, prev_kv: true, progress_notify: true, ..Watch::default() };
    let drop_after_ms = if rng.chance(0.6) { rng.between(200, 4000) } else { 0 };
    Reader { watch, from: From::List, drop_after_ms, ask_every_ms: 100, slow_ms: if n % 5 == 4 { 30 } else { 0 } }
}
