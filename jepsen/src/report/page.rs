//! One run as a page that needs nothing else.
use super::Verdict;
use crate::check::finding::Finding;
use crate::history::files::History;
/// The page.
pub fn render(history: &History, verdict: Verdict, findings: &[Finding]) -> String {
    format!("{:?} {} {}", verdict, history.ops.len(), findings.len())
}
