//! One run as a page that needs nothing else: HTML with its pictures in it, no script, no network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Verdict;
use super::picture::{cycle, lanes, latency, rate, timeline};
use crate::check::finding::{Anomaly, Finding, Judgement};
use crate::history::files::History;
use crate::history::op::{Op, Outcome};
use crate::history::stream::Stream;

/// Rows of a table of anomalies or faults.
const ROWS_MAX: usize = 60;
/// Operations in the table round the first anomaly.
const NAMED_MAX: usize = 40;

/// How all pages look.
pub(super) const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1000px;padding:0 1em;color:#1b1f24;background:#fff}\
h1{font-size:1.4em;padding:.6em .8em;border-radius:6px;color:#fff}h2{font-size:1.1em;margin-top:2em}\
.valid{background:#1a7f37}.invalid{background:#c0262d}.inconclusive{background:#9a6700}\
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #d8dee4;padding:.3em .5em;text-align:left;vertical-align:top;\
overflow-wrap:anywhere}pre{background:#f3f5f7;padding:.7em;border-radius:6px;white-space:pre-wrap;overflow-wrap:anywhere}\
svg{display:block;width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#1b1f24}.scroll{overflow-x:auto}";

/// The page.
pub fn render(history: &History, verdict: Verdict, findings: &[Finding]) -> String {
    let plan = &history.plan;
    let (word, class) = match verdict {
        Verdict::Valid => ("valid", "valid"),
        Verdict::Invalid => ("INVALID", "invalid"),
        Verdict::Inconclusive => ("inconclusive", "inconclusive"),
    };
    let title = format!("{} with seed {}: {word}", plan.workload, plan.seed);
    let mut page = String::new();
    let mut add = |part: String| page.push_str(&part);
    add(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{0}</title><style>{STYLE}</style></head><body><h1 class=\"{class}\">{0}</h1>",
        escape(&title)
    ));
    let count = |of: fn(&Op) -> bool| history.ops.iter().filter(|op| of(op)).count();
    add(format!(
        "<p>{} operations ({} answered, {} refused, {} without an outcome) of {} clients on {} members in {} s; {} revisions, \
         {} watch streams, {} faults. Target: {}</p><h2>To run it again</h2><pre>{}</pre>",
        history.ops.len(),
        count(|op| op.reply().is_some()),
        count(Op::is_refused),
        count(Op::is_unknown),
        plan.clients,
        plan.nodes,
        plan.seconds,
        history.entries.iter().map(|entry| entry.rev).collect::<BTreeSet<_>>().len(),
        history.streams.len(),
        history.faults.len(),
        escape(&plan.target),
        escape(&plan.command)
    ));
    add(checked(findings));
    if let Some(anomaly) = findings.iter().flat_map(|finding| &finding.anomalies).next() {
        add(first_anomaly(history, anomaly));
    }
    for anomaly in findings.iter().flat_map(|finding| &finding.anomalies).filter(|one| !one.cycle.is_empty()).take(3) {
        add(format!("<h2>Cycle {}</h2>{}", escape(&anomaly.name), cycle(anomaly)));
    }
    add(anomalies(findings));
    add(format!("<h2>Answers per second</h2>{}", rate(history)));
    add(format!("<h2>Latency: median and 99th percentile</h2>{}", latency(history)));
    add(format!("<h2>Leaders and terms</h2>{}", lanes(history)));
    add(faults(history));
    add("</body></html>\n".into());
    page
}

fn checked(findings: &[Finding]) -> String {
    let mut rows = String::new();
    for finding in findings {
        let word = match finding.judgement {
            Judgement::Valid => "valid",
            Judgement::Invalid => "INVALID",
            Judgement::Unknown => "unknown",
        };
        let notes = finding.undecided.iter().take(3).map(|why| escape(why)).collect::<Vec<_>>().join("<br>");
        row(
            &mut rows,
            &[finding.checker, word, &finding.checked.to_string(), &finding.anomaly_count.to_string(), &notes],
        );
    }
    format!(
        "<h2>What was checked</h2><table>{}{rows}</table>",
        head(&["checker", "verdict", "checked", "anomalies", "undecided"])
    )
}

fn first_anomaly(history: &History, anomaly: &Anomaly) -> String {
    let named: BTreeSet<u64> = anomaly.operations.iter().copied().collect();
    let involved: BTreeSet<u64> = named.iter().chain(&anomaly.piece).copied().collect();
    let mut rows = String::new();
    for op in history.ops.iter().filter(|op| involved.contains(&op.id)).take(NAMED_MAX) {
        let answer = match &op.outcome {
            Outcome::Ok { out } => serde_json::to_string(out),
            Outcome::Fail { err } | Outcome::Info { err } => serde_json::to_string(err),
        };
        let asked = serde_json::to_string(&op.request).unwrap_or_default();
        let time = format!("{:.6} to {:.6} s", seconds(op.start), seconds(op.end));
        let (asked, answer) = (short(&asked), short(&answer.unwrap_or_default()));
        let id = if named.contains(&op.id) { format!("<mark>{}</mark>", op.id) } else { op.id.to_string() };
        row(&mut rows, &[&id, &op.process.to_string(), &time, &escape(&asked), &escape(&answer)]);
    }
    let table = match rows.is_empty() {
        true => String::new(),
        false => format!("<table>{}{rows}</table>", head(&["operation", "client", "time", "request", "answer"])),
    };
    let piece = match anomaly.piece.len() {
        0 => String::new(),
        count => format!(
            "<p>Of {} operations these {count} are enough: without any one of them the checker no longer finds it.</p>",
            history.ops.len()
        ),
    };
    format!(
        "<h2>First anomaly: {}</h2><p>{}</p>{piece}<div class=\"scroll\">{}</div>{table}{}",
        escape(&anomaly.name),
        escape(&short(&anomaly.text)),
        timeline(history, &involved),
        watched(history, anomaly)
    )
}

/// What is left of the streams in which a checker still finds the anomaly.
fn watched(history: &History, anomaly: &Anomaly) -> String {
    let mut rows = String::new();
    for stream in &anomaly.watched {
        let id = stream.id.to_string();
        let asked = serde_json::to_string(&stream.watch).unwrap_or_default();
        let list = stream.listing.as_ref().map(|list| format!(", behind a list at {}", list.rev)).unwrap_or_default();
        let opened = format!("{:.6} s", seconds(stream.opened));
        let node = stream.node.to_string();
        row(&mut rows, &[&id, &node, &opened, &format!("asked for {}{list}", escape(&short(&asked)))]);
        for message in &stream.messages {
            let said = serde_json::to_string(message).unwrap_or_default();
            row(&mut rows, &[&id, &node, &format!("{:.6} s", seconds(message.t)), &escape(&short(&said))]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let messages = |streams: &[Stream]| streams.iter().map(|stream| stream.messages.len()).sum::<usize>();
    format!(
        "<p>Of {} messages on {} streams these {} are enough: without any one of them, or an event in it, the checker no \
         longer finds the same.</p><table>{}{rows}</table>",
        messages(&history.streams),
        history.streams.len(),
        messages(&anomaly.watched),
        head(&["stream", "member", "time", "message"])
    )
}

fn anomalies(findings: &[Finding]) -> String {
    let mut rows = String::new();
    let all =
        findings.iter().flat_map(|finding| finding.anomalies.iter().map(move |anomaly| (finding.checker, anomaly)));
    for (checker, anomaly) in all.take(ROWS_MAX) {
        let named = anomaly.operations.iter().map(|id| format!("op {id}"));
        let named: Vec<String> =
            named.chain(anomaly.streams.iter().map(|id| format!("stream {id}"))).take(12).collect();
        row(&mut rows, &[checker, &escape(&anomaly.name), &escape(&short(&anomaly.text)), &named.join(", ")]);
    }
    match rows.is_empty() {
        true => String::new(),
        false => format!(
            "<h2>All anomalies: lost, stale and others</h2><table>{}{rows}</table>",
            head(&["checker", "kind", "what", "where"])
        ),
    }
}

fn faults(history: &History) -> String {
    if history.faults.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    for fault in history.faults.iter().take(ROWS_MAX) {
        let time = format!("{:.2} to {:.2} s", seconds(fault.start), seconds(fault.end));
        row(&mut rows, &[&escape(&fault.name), &format!("{:?}", fault.nodes), &time, &escape(&fault.evidence)]);
    }
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    history.faults.iter().for_each(|fault| *kinds.entry(&fault.name).or_default() += 1);
    let kinds: Vec<String> = kinds.iter().map(|(name, count)| format!("{count} {}", escape(name))).collect();
    format!(
        "<h2>Faults: {}</h2><table>{}{rows}</table>",
        kinds.join(", "),
        head(&["fault", "members", "time", "evidence"])
    )
}

/// A row of headings.
pub(super) fn head(names: &[&str]) -> String {
    format!("<tr>{}</tr>", names.iter().map(|name| format!("<th>{name}</th>")).collect::<String>())
}

/// A row of cells that are HTML already.
pub(super) fn row(rows: &mut String, cells: &[&str]) {
    let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
    write!(rows, "<tr>{cells}</tr>").expect("a string takes everything");
}

fn short(text: &str) -> String {
    match text.char_indices().nth(600) {
        Some((at, _)) => format!("{} …", &text[..at]),
        None => text.to_owned(),
    }
}

/// Nanoseconds as seconds.
pub(super) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Text that is safe within HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::judge::{explain, judge};
    use crate::history::files::Fault;
    use crate::simulate::{Bug, Options, simulate};
    use crate::workload::Kind;

    #[test]
    fn a_page_of_a_bad_run_names_the_cycle_and_needs_nothing_else() {
        let (mut history, _) = simulate(Options { bug: Some(Bug::StaleRead), ..Options::new(Kind::Append, 1, 600) });
        history.faults.push(Fault { name: "pause <1>".into(), start: 1, end: u64::MAX, ..Fault::default() });
        let page = render(&history, Verdict::Invalid, &explained(&history));
        for part in ["INVALID", "First anomaly", "<svg", "Cycle G", "pause &lt;1&gt;", "are enough", "<mark>"] {
            assert!(page.contains(part), "no {part}");
        }
        for part in ["<script", "src=", "href=", "@import"] {
            assert!(!page.contains(part), "{part}");
        }
    }

    #[test]
    fn a_page_of_a_bad_stream_shows_the_messages_that_are_enough() {
        let (mut history, _) = simulate(Options::new(Kind::Watch, 1, 600));
        let mut events =
            history.streams.iter_mut().flat_map(|stream| &mut stream.messages).flat_map(|one| &mut one.events);
        events.next().unwrap().kv.value.push('<');
        let page = render(&history, Verdict::Invalid, &explained(&history));
        assert!(page.contains("these 2 are enough") && page.contains("&lt;"), "{page}");
    }

    fn explained(history: &History) -> Vec<Finding> {
        let mut findings = judge(history);
        explain(&mut findings, history);
        findings
    }

    #[test]
    fn a_page_of_nothing_is_a_page() {
        assert!(render(&History::default(), Verdict::Inconclusive, &[]).ends_with("</html>\n"));
    }
}
