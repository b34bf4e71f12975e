//! What a checker says of a history.

use serde::Serialize;

use crate::history::stream::Stream;

/// Anomalies kept by one checker; more tell nothing new.
const ANOMALIES_MAX: usize = 50;

/// A checker's judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// Everything that was looked at is as it must be.
    Valid,
    /// Something could not be decided: a limit of the search, or evidence that is missing.
    Unknown,
    /// A promise was broken.
    Invalid,
}

/// A dependency between two operations of a cycle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The operation that must come first,
    pub from: u64,
    /// the one that must come later,
    pub to: u64,
    /// `ww`, `wr`, `rw` or `rt`,
    pub kind: &'static str,
    /// and why, in words.
    pub why: String,
}

/// One broken promise with the smallest piece of history that shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Anomaly {
    /// Its kind, such as `stale-read` or `G-single`.
    pub name: String,
    /// What was expected and what was seen, for a person.
    pub text: String,
    /// The operations involved.
    pub operations: Vec<u64>,
    /// The watch streams involved.
    pub streams: Vec<u64>,
    /// The cycle, if it is one.
    pub cycle: Vec<Link>,
    /// The smallest piece of the history in which the checker finds the same: see [`piece`](super::piece). Empty where it
    /// was not looked for.
    pub piece: Vec<u64>,
    /// The same of watches: what is left of the streams, without the events and messages that are not needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub watched: Vec<Stream>,
}

/// The result of one checker.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Which checker.
    pub checker: &'static str,
    /// What it says.
    pub judgement: Judgement,
    /// How many operations, events or answers it looked at.
    pub checked: u64,
    /// What it could not decide, in words.
    pub undecided: Vec<String>,
    /// What is wrong, at most a few dozen.
    pub anomalies: Vec<Anomaly>,
    /// How many there are altogether.
    pub anomaly_count: u64,
}

impl Finding {
    /// Nothing looked at yet: valid.
    pub fn new(checker: &'static str) -> Self {
        let (undecided, anomalies) = (Vec::new(), Vec::new());
        Self { checker, judgement: Judgement::Valid, checked: 0, undecided, anomalies, anomaly_count: 0 }
    }

    /// Something is wrong in these operations.
    pub fn wrong(&mut self, name: &str, text: impl Into<String>, operations: impl IntoIterator<Item = u64>) {
        let operations = operations.into_iter().collect();
        self.add(Anomaly { name: name.into(), text: text.into(), operations, ..Anomaly::default() });
    }

    /// Something is wrong on this stream.
    pub fn wrong_stream(&mut self, name: &str, text: impl Into<String>, stream: u64) {
        self.add(Anomaly { name: name.into(), text: text.into(), streams: vec![stream], ..Anomaly::default() });
    }

    /// Something is wrong.
    pub fn add(&mut self, anomaly: Anomaly) {
        self.judgement = Judgement::Invalid;
        self.anomaly_count += 1;
        if self.anomalies.len() < ANOMALIES_MAX {
            self.anomalies.push(anomaly);
        }
    }

    /// Something cannot be decided.
    pub fn undecided(&mut self, why: impl Into<String>) {
        self.judgement = self.judgement.max(Judgement::Unknown);
        if self.undecided.len() < ANOMALIES_MAX {
            self.undecided.push(why.into());
        }
    }

    /// Whether it found an anomaly of this kind.
    pub fn has(&self, name: &str) -> bool {
        self.anomalies.iter().any(|anomaly| anomaly.name == name)
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{:<10} {:?}, {} checked", self.checker, self.judgement, self.checked)?;
        for anomaly in self.anomalies.iter().take(3) {
            write!(to, "\n    {} {:?}: {}", anomaly.name, anomaly.operations, anomaly.text)?;
        }
        for why in self.undecided.iter().take(3) {
            write!(to, "\n    undecided: {why}")?;
        }
        Ok(())
    }
}
