//! Many runs as one page that needs nothing else: totals, matrix, service, and every run in a line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::campaign::{self, Matrix, Run, Standing, Totals};
use super::page::{STYLE, escape, head, row};

/// Rows in the table of all runs.
const ROWS_MAX: usize = 2000;
const WIDTH: f64 = 960.0;
const LEFT: f64 = 60.0;

/// The page.
pub fn render(runs: &[Run]) -> String {
    let sum = campaign::totals(runs);
    let (class, word) = match campaign::verdict(runs) {
        super::Verdict::Valid => ("valid", "valid"),
        super::Verdict::Invalid => ("invalid", "INVALID"),
        super::Verdict::Inconclusive => ("inconclusive", "nothing wrong, but not all of it proves something"),
    };
    let title = format!("{} runs: {word}", sum.runs);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{0}</title><style>{STYLE}td.none{{color:#8c959f}}</style></head><body><h1 class=\"{class}\">{0}</h1>",
        escape(&title)
    );
    page.push_str(&totals(&sum));
    page.push_str(&targets(runs));
    page.push_str(&grid(&campaign::matrix(runs)));
    page.push_str(&compared(runs));
    write!(page, "<h2>Service while things were broken, run by run</h2>{}", service(runs)).expect("a string");
    write!(page, "<h2>Time without an answer after a leader was taken away</h2>{}", recoveries(runs))
        .expect("a string");
    page.push_str(&all(runs));
    page.push_str("</body></html>\n");
    page
}

fn totals(sum: &Totals) -> String {
    let mut rows = String::new();
    campaign::lines(sum).iter().for_each(|(name, value)| row(&mut rows, &[name, &escape(value)]));
    format!("<h2>Totals</h2><table>{rows}</table>")
}

/// What was tested: binaries with their hashes.
fn targets(runs: &[Run]) -> String {
    let mut binaries: BTreeMap<(String, &str, &str), usize> = BTreeMap::new();
    for run in runs.iter().filter(|run| !run.tally.workload.is_empty()) {
        *binaries.entry((run.label(), &run.tally.version, &run.tally.sha256)).or_default() += 1;
    }
    let mut rows = String::new();
    for ((label, version, sha256), count) in binaries {
        row(&mut rows, &[&escape(&label), &escape(version), &escape(sha256), &count.to_string()]);
    }
    format!("<h2>Targets</h2><table>{}{rows}</table>", head(&["target", "version", "SHA-256", "runs"]))
}

fn grid(matrix: &Matrix) -> String {
    let kinds: BTreeSet<&String> = matrix.values().flat_map(BTreeMap::keys).collect();
    let mut names = vec!["workload"];
    names.extend(kinds.iter().map(|kind| kind.as_str()));
    let mut rows = String::new();
    for (workload, cells) in matrix {
        write!(rows, "<tr><th>{}</th>", escape(workload)).expect("a string");
        for kind in &kinds {
            match cells.get(*kind) {
                Some(cell) => {
                    let class = if cell.invalid > 0 { " class=\"invalid\"" } else { "" };
                    let title =
                        format!("{} faults in {} runs, {} of them invalid", cell.faults, cell.runs, cell.invalid);
                    write!(rows, "<td{class} title=\"{title}\">{} <small>({})</small></td>", cell.faults, cell.runs)
                }
                None => write!(rows, "<td class=\"none\">·</td>"),
            }
            .expect("a string");
        }
        rows.push_str("</tr>");
    }
    format!(
        "<h2>Faults with an effect, by workload and kind (in brackets: runs)</h2><div class=\"scroll\"><table>{}{rows}</table></div>",
        head(&names)
    )
}

fn compared(runs: &[Run]) -> String {
    let targets = campaign::side_by_side(runs);
    if targets.is_empty() {
        return String::new();
    }
    let columns: Vec<Vec<(&str, String)>> =
        targets.values().map(|runs| campaign::lines(&campaign::totals(runs.iter().copied()))).collect();
    let mut names = vec![""];
    names.extend(targets.keys().map(String::as_str));
    let mut rows = String::new();
    for (number, (name, _)) in columns[0].iter().enumerate() {
        let mut cells = vec![(*name).to_owned()];
        cells.extend(columns.iter().map(|column| escape(&column[number].1)));
        row(&mut rows, &cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
    format!("<h2>Side by side, under the plans that all targets ran</h2><table>{}{rows}</table>", head(&names))
}

/// A bar for each run: the share of seconds with an answer; its colour is the verdict's.
fn service(runs: &[Run]) -> String {
    const HEIGHT: f64 = 140.0;
    let loaded: Vec<&Run> = runs.iter().filter(|run| run.tally.seconds_loaded > 0).collect();
    let wide = (WIDTH - LEFT - 10.0) / loaded.len().max(1) as f64;
    let mut inside = String::new();
    for (part, label) in [(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")] {
        let y = HEIGHT - 10.0 - (HEIGHT - 20.0) * part;
        write!(
            inside,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#d8dee4\"/><text x=\"2\" y=\"{}\">{label}</text>",
            WIDTH - 10.0,
            y + 4.0
        )
        .expect("a string");
    }
    for (number, run) in loaded.iter().enumerate() {
        let tally = &run.tally;
        let silent = tally.seconds_without_service.min(tally.seconds_loaded);
        let share = 1.0 - silent as f64 / tally.seconds_loaded as f64;
        let high = (HEIGHT - 20.0) * share;
        write!(
            inside,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{high:.1}\" fill=\"{}\"><title>{}: {silent} s of {} s without \
             an answer</title></rect>",
            LEFT + wide * number as f64,
            HEIGHT - 10.0 - high,
            (wide - 1.0).max(0.5),
            color(run.standing),
            escape(&run.name()),
            tally.seconds_loaded
        )
        .expect("a string");
    }
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">{inside}</svg>")
}

/// A dot for each time, a lane for each kind of fault; filled where nothing else was broken.
fn recoveries(runs: &[Run]) -> String {
    let all: Vec<_> = runs.iter().flat_map(|run| run.tally.recoveries.iter().map(move |one| (run, one))).collect();
    let kinds: BTreeSet<&str> = all.iter().map(|(_, one)| one.fault.as_str()).collect();
    let longest = all.iter().map(|(_, one)| one.ms).max().unwrap_or(0).max(1000) as f64;
    let height = 34.0 * kinds.len().max(1) as f64 + 24.0;
    let x_of = |ms: f64| 90.0 + (WIDTH - 110.0) * ms / longest;
    let mut inside = String::new();
    for second in 0..=(longest / 1000.0) as u64 {
        let step = ((longest / 10_000.0) as u64).max(1);
        if second.is_multiple_of(step) {
            let x = x_of(second as f64 * 1000.0);
            write!(
                inside,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{}\" stroke=\"#d8dee4\"/><text x=\"{x:.1}\" y=\"{}\">{second} s</text>",
                height - 20.0,
                height - 6.0
            )
            .expect("a string");
        }
    }
    for (lane, kind) in kinds.iter().enumerate() {
        let y = 17.0 + 34.0 * lane as f64;
        write!(inside, "<text x=\"2\" y=\"{}\">{}</text>", y + 4.0, escape(kind)).expect("a string");
        for (number, (run, one)) in all.iter().filter(|(_, one)| one.fault == **kind).enumerate() {
            // Spread a little, so that equal times are seen as many.
            let spread = (number % 7) as f64 * 3.0 - 9.0;
            let fill = if one.alone { "#0969da" } else { "none" };
            write!(
                inside,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{fill}\" stroke=\"#0969da\"><title>{}: {} ms</title></circle>",
                x_of(one.ms as f64),
                y + spread,
                escape(&run.name()),
                one.ms
            )
            .expect("a string");
        }
    }
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">{inside}</svg>")
}

fn color(standing: Standing) -> &'static str {
    match standing {
        Standing::Valid => "#1a7f37",
        Standing::Invalid => "#c0262d",
        Standing::Unknown | Standing::Inconclusive | Standing::Unfinished => "#9a6700",
    }
}

fn all(runs: &[Run]) -> String {
    let mut rows = String::new();
    // What is not valid comes first.
    let (valid, other): (Vec<&Run>, Vec<&Run>) = runs.iter().partition(|run| run.standing == Standing::Valid);
    for run in other.into_iter().chain(valid).take(ROWS_MAX) {
        let tally = &run.tally;
        let faults = tally.faults.iter().map(|(kind, count)| format!("{} {kind}", count.with_effect));
        let standing = format!("{:?}", run.standing).to_lowercase();
        row(
            &mut rows,
            &[
                &escape(&run.name()),
                &escape(&run.label()),
                &format!("<b style=\"color:{}\">{standing}</b> {}", color(run.standing), escape(&run.reason)),
                &tally.operations.to_string(),
                &tally.watch_events.to_string(),
                &escape(&faults.collect::<Vec<_>>().join(", ")),
                &tally.forgotten.pages_lost.to_string(),
                &format!("{} of {} s", tally.seconds_without_service, tally.seconds_loaded),
            ],
        );
    }
    format!(
        "<h2>All runs</h2><div class=\"scroll\"><table>{}{rows}</table></div>",
        head(&["run", "target", "verdict", "operations", "watch events", "faults", "pages lost", "without service"])
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tally::{Count, Recovery, Tally};

    #[test]
    fn a_page_of_runs_shows_all_of_them_and_needs_nothing_else() {
        let tally = |seconds_without_service| Tally {
            workload: "wr".into(),
            seconds_loaded: 60,
            seconds_without_service,
            faults: BTreeMap::from([("kill".to_owned(), Count { with_effect: 4, without: 0, effect: 4 })]),
            recoveries: vec![Recovery { fault: "kill".into(), ms: 1200, alone: true }],
            ..Tally::default()
        };
        let run = |dir: &str, standing, silent| Run {
            dir: dir.into(),
            standing,
            reason: "<lost>".into(),
            tally: tally(silent),
        };
        let page = render(&[run("good", Standing::Valid, 0), run("bad", Standing::Invalid, 30)]);
        for part in
            ["2 runs: INVALID", "good", "bad", "&lt;lost&gt;", "1200 ms", "8 <small>(2)</small>", "30 s of 60 s"]
        {
            assert!(page.contains(part), "no {part}");
        }
        for part in ["<script", "src=", "href=", "@import"] {
            assert!(!page.contains(part), "{part}");
        }
        assert!(render(&[]).ends_with("</html>\n"));
    }
}
