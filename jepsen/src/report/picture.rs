//! The pictures of a page: curves per second, timelines, lanes and cycles, as SVG.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::page::{escape, seconds};
use crate::check::finding::Anomaly;
use crate::history::files::History;
use crate::history::op::{Op, Request};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 60.0;
/// Client numbers from here on are samplers and final reads.
const CLIENTS_BELOW: u32 = 10_000;
/// Before and after the first anomaly, at least, in nanoseconds.
const AROUND: u64 = 20_000_000;
/// Operations drawn in a timeline.
const DRAWN_MAX: usize = 600;

fn end_of(history: &History) -> u64 {
    history.ops.iter().map(|op| op.end).max().unwrap_or(0).max(1)
}

fn svg(height: f64, inside: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">{inside}</svg>")
}

fn x_of(time: u64, end: u64) -> f64 {
    LEFT + (WIDTH - LEFT - 10.0) * (time.min(end) as f64 / end as f64)
}

/// Bands behind a picture for the time that faults were in force.
fn bands(history: &History, end: u64, height: f64) -> String {
    let band = |fault: &crate::history::files::Fault| {
        let (from, to) = (x_of(fault.start, end), x_of(fault.end, end));
        format!(
            "<rect x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{height}\" fill=\"#ffd8b5\" opacity=\".6\"><title>{}</title></rect>",
            (to - from).max(1.0),
            escape(&fault.name)
        )
    };
    history.faults.iter().map(band).collect()
}

/// Curves over seconds, on one scale.
fn curves(history: &History, unit: &str, curves: &[(&str, &str, Vec<f64>)]) -> String {
    const HEIGHT: f64 = 160.0;
    let end = end_of(history);
    let top = curves.iter().flat_map(|(_, _, values)| values).copied().fold(0.0, f64::max).max(1e-9);
    let y_of = |value: f64| HEIGHT - 25.0 - (HEIGHT - 40.0) * value / top;
    let mut inside = bands(history, end, HEIGHT - 25.0);
    for (at, part) in [0.0, 0.5, 1.0].into_iter().enumerate() {
        let y = y_of(top * part);
        write!(inside, "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#d8dee4\"/>", WIDTH - 10.0)
            .expect("a string");
        let label = if at == 2 { format!("{:.1} {unit}", top) } else { format!("{:.1}", top * part) };
        write!(inside, "<text x=\"2\" y=\"{:.1}\">{label}</text>", y + 4.0).expect("a string");
    }
    for (number, (name, color, values)) in curves.iter().enumerate() {
        let points = values.iter().enumerate().map(|(second, value)| {
            let middle = (second as u64 * 1_000_000_000 + 500_000_000).min(end);
            format!("{:.1},{:.1}", x_of(middle, end), y_of(*value))
        });
        let points = points.collect::<Vec<_>>().join(" ");
        let x = LEFT + 10.0 + 110.0 * number as f64;
        write!(
            inside,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\
             <text x=\"{x}\" y=\"{}\" style=\"fill:{color}\">{name}</text>",
            HEIGHT - 6.0
        )
        .expect("a string");
    }
    write!(inside, "<text x=\"{}\" y=\"{}\">{:.0} s</text>", WIDTH - 45.0, HEIGHT - 6.0, seconds(end))
        .expect("a string");
    svg(HEIGHT, &inside)
}

/// Of each second the operations of clients that ended in it.
fn per_second(history: &History) -> Vec<Vec<&Op>> {
    let mut buckets: Vec<Vec<&Op>> = vec![Vec::new(); (end_of(history) / 1_000_000_000 + 1) as usize];
    for op in history.ops.iter().filter(|op| op.process < CLIENTS_BELOW && !matches!(op.request, Request::Hold(..))) {
        buckets[(op.end / 1_000_000_000) as usize].push(op);
    }
    buckets
}

/// How many operations were answered, refused and left without an outcome, per second.
pub fn rate(history: &History) -> String {
    let buckets = per_second(history);
    let count = |of: fn(&Op) -> bool| buckets.iter().map(|ops| ops.iter().filter(|op| of(op)).count() as f64).collect();
    let answered = ("answered", "#1a7f37", count(|op| op.reply().is_some()));
    curves(
        history,
        "/s",
        &[answered, ("refused", "#9a6700", count(Op::is_refused)), ("unknown", "#c0262d", count(Op::is_unknown))],
    )
}

/// Median and 99th percentile of answered operations, per second.
pub fn latency(history: &History) -> String {
    let buckets = per_second(history);
    let of = |part: f64| -> Vec<f64> {
        let one = |ops: &Vec<&Op>| {
            let mut took: Vec<u64> = ops.iter().filter(|op| op.reply().is_some()).map(|op| op.end - op.start).collect();
            took.sort_unstable();
            let at = ((took.len() as f64 * part) as usize).min(took.len().saturating_sub(1));
            took.get(at).map_or(0.0, |nanoseconds| *nanoseconds as f64 / 1e6)
        };
        buckets.iter().map(one).collect()
    };
    curves(history, "ms", &[("median", "#0969da", of(0.5)), ("99 %", "#8250df", of(0.99))])
}

/// A lane for each member: its term over time, and who led.
pub fn lanes(history: &History) -> String {
    let end = end_of(history);
    let mut samples: BTreeMap<u32, Vec<(u64, u64, bool)>> = BTreeMap::new();
    for op in history.ops.iter().filter(|op| matches!(op.request, Request::Status)) {
        let Some(member) = op.reply().and_then(|reply| reply.member.as_ref()) else { continue };
        samples.entry(op.node).or_default().push((op.end, member.term, member.member == member.leader));
    }
    let height = 26.0 * samples.len().max(1) as f64 + 10.0;
    let mut inside = bands(history, end, height);
    for (lane, (node, samples)) in samples.iter().enumerate() {
        let y = 6.0 + 26.0 * lane as f64;
        write!(inside, "<text x=\"2\" y=\"{}\">node {node}</text>", y + 14.0).expect("a string");
        let mut runs: Vec<(u64, u64, u64, bool)> = Vec::new();
        for (time, term, leads) in samples {
            match runs.last_mut() {
                Some((_, to, known, led)) if known == term && led == leads => *to = *time,
                _ => runs.push((*time, *time, *term, *leads)),
            }
        }
        for (from, to, term, leads) in runs {
            let (from, to) = (x_of(from, end), x_of(to, end));
            let color = if leads { "#1a7f37" } else { "#b6c2cf" };
            write!(
                inside,
                "<rect x=\"{from:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"20\" fill=\"{color}\"/>\
                 <text x=\"{:.1}\" y=\"{}\" style=\"fill:{}\">term {term}</text>",
                (to - from).max(2.0),
                from + 3.0,
                y + 14.0,
                if leads { "#fff" } else { "#1b1f24" }
            )
            .expect("a string");
        }
    }
    format!("{}<p>Green: it leads.</p>", svg(height, &inside))
}

/// What every client did round the operations of an anomaly.
pub fn timeline(history: &History, involved: &BTreeSet<u64>) -> String {
    let marked: Vec<&Op> = history.ops.iter().filter(|op| involved.contains(&op.id)).collect();
    let (Some(from), Some(to)) = (marked.iter().map(|op| op.start).min(), marked.iter().map(|op| op.end).max()) else {
        return String::new();
    };
    let margin = AROUND.max((to - from) / 5);
    let (from, to) = (from.saturating_sub(margin), to + margin);
    let drawn = history.ops.iter().filter(|op| op.end >= from && op.start <= to);
    let drawn: Vec<&Op> =
        drawn.filter(|op| !matches!(op.request, Request::Status)).take(DRAWN_MAX).chain(marked).collect();
    let processes: BTreeSet<u32> = drawn.iter().map(|op| op.process).collect();
    let place =
        |time: u64| LEFT + (WIDTH - LEFT - 10.0) * (time.clamp(from, to) - from) as f64 / (to - from).max(1) as f64;
    let mut inside = String::new();
    for (lane, process) in processes.iter().enumerate() {
        let y = 4.0 + 20.0 * lane as f64;
        write!(inside, "<text x=\"2\" y=\"{}\">{process}</text>", y + 12.0).expect("a string");
        for op in drawn.iter().filter(|op| op.process == *process) {
            let (start, end) = (place(op.start), place(op.end));
            let color = match (involved.contains(&op.id), op.is_unknown(), op.is_refused()) {
                (true, ..) => "#c0262d",
                (_, true, _) => "#d4a72c",
                (_, _, true) => "#b6c2cf",
                _ => "#80ccff",
            };
            let rev = op.reply().map_or(0, |reply| reply.rev);
            write!(
                inside,
                "<rect x=\"{start:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"15\" fill=\"{color}\" stroke=\"#fff\" stroke-width=\".5\">\
                 <title>op {}: {} at revision {rev}</title></rect>",
                (end - start).max(1.5),
                op.id,
                op.request.name()
            )
            .expect("a string");
            if involved.contains(&op.id) {
                write!(inside, "<text x=\"{:.1}\" y=\"{}\">{}</text>", start + 2.0, y + 12.0, op.id).expect("a string");
            }
        }
    }
    let height = 20.0 * processes.len() as f64 + 26.0;
    let label =
        format!("{:.4} s to {:.4} s; red: involved, yellow: no outcome, grey: refused", seconds(from), seconds(to));
    write!(inside, "<text x=\"{LEFT}\" y=\"{}\">{label}</text>", height - 6.0).expect("a string");
    svg(height, &inside)
}

/// A cycle as a ring of operations with named edges.
pub fn cycle(anomaly: &Anomaly) -> String {
    let count = anomaly.cycle.len().max(1) as f64;
    let (radius, middle_x, middle_y) = (110.0, 250.0, 150.0);
    let at = |number: usize| {
        let angle = std::f64::consts::TAU * number as f64 / count - std::f64::consts::FRAC_PI_2;
        (middle_x + radius * angle.cos(), middle_y + radius * angle.sin())
    };
    let mut inside = String::from(
        "<defs><marker id=\"arrow\" viewBox=\"0 0 10 10\" refX=\"24\" refY=\"5\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path d=\"M0 0L10 5L0 10z\" fill=\"#57606a\"/></marker></defs>",
    );
    for (number, link) in anomaly.cycle.iter().enumerate() {
        let ((x1, y1), (x2, y2)) = (at(number), at((number + 1) % anomaly.cycle.len()));
        // Bent to the right, so that two edges between the same two operations stay apart.
        let (bend_x, bend_y) = ((x1 + x2) / 2.0 + (y1 - y2) * 0.2, (y1 + y2) / 2.0 + (x2 - x1) * 0.2);
        let color = match link.kind {
            "ww" => "#8250df",
            "wr" => "#0969da",
            "rw" => "#c0262d",
            _ => "#57606a",
        };
        write!(
            inside,
            "<path d=\"M{x1:.1} {y1:.1}Q{bend_x:.1} {bend_y:.1} {x2:.1} {y2:.1}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" marker-end=\"url(#arrow)\"/>\
             <text x=\"{bend_x:.1}\" y=\"{bend_y:.1}\" style=\"fill:{color};font-weight:bold\">{}</text>\
             <text x=\"480\" y=\"{}\">{}: {}</text>",
            link.kind,
            24 + 18 * number,
            link.kind,
            escape(&link.why)
        )
        .expect("a string");
    }
    for (number, link) in anomaly.cycle.iter().enumerate() {
        let (x, y) = at(number);
        write!(
            inside,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"18\" fill=\"#fff\" stroke=\"#1b1f24\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            y + 4.0,
            link.from
        )
        .expect("a string");
    }
    svg(300.0, &inside)
}
