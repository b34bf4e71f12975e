//! How fast checkers are, on simulated histories: `jepsen bench-checkers`.

use std::hint::black_box;
use std::time::Instant;

use super::finding::Finding;
use super::{append, lease, reflector, revisions, search, set, totals, watch, wr};
use crate::history::files::History;
use crate::history::stream::Log;
use crate::simulate::{Options, simulate};
use crate::workload::Kind;

type Checker = (&'static str, fn(&History, &Log) -> Finding);

/// Prints a line for each checker. Checkers whose work grows faster than the history get smaller ones.
pub fn run(ops: usize) {
    let by_revisions: Checker = ("revisions", |history, log| revisions::check(&history.ops, log));
    let cases: [(Kind, usize, Vec<Checker>); 8] = [
        (Kind::Register, 1, vec![by_revisions, ("search", |history, _| search::check(&history.ops))]),
        (Kind::Append, 1, vec![by_revisions, ("append", |history, _| append::check(&append::lift(&history.ops)))]),
        (Kind::Wr, 4, vec![by_revisions, ("wr", |history, _| wr::check(&history.ops, crate::workload::wr::PREFIX))]),
        (Kind::Bank, 4, vec![("bank", |history, log| totals::bank(&history.ops, log))]),
        (Kind::Set, 100, vec![("set-full", |history, _| set::check(&history.ops))]),
        (Kind::Lease, 100, vec![("lease", |history, log| lease::check(&history.ops, log, &history.faults))]),
        (Kind::Watch, 50, vec![("watch", |history, log| watch::check(&history.streams, &history.ops, log))]),
        (Kind::Kubernetes, 50, vec![("reflector", |history, log| reflector::check(&history.streams, log))]),
    ];
    println!("workload    operations  checker     checked    seconds   checked/s  verdict");
    for (kind, part, checkers) in cases {
        let (history, _) = simulate(Options { clients: 30, ..Options::new(kind, 1, ops / part) });
        let (log, _) = history.log();
        for (name, check) in checkers {
            let started = Instant::now();
            let finding = black_box(check(&history, &log));
            let seconds = started.elapsed().as_secs_f64();
            println!(
                "{:<11} {:>10}  {name:<10} {:>8} {seconds:>10.2} {:>11.0}  {:?}",
                kind.name(),
                history.ops.len(),
                finding.checked,
                finding.checked as f64 / seconds.max(1e-9),
                finding.judgement
            );
        }
    }
}
