//! Power cuts at every write boundary: what was acknowledged is there, and what is there is a prefix of what was asked.

use proptest::prelude::*;

use super::*;
use crate::storage::fs::Faults;

/// What an owner does to its log.
#[derive(Clone, Debug)]
enum Step {
    /// So many entries of so many bytes.
    Append(u64, usize),
    Vote,
    Hint,
    /// Void so many of the last entries.
    Truncate(u64),
    /// Keep at most so many entries.
    Purge(u64),
    /// Purge past the end, as after installing a snapshot.
    Jump(u64),
    /// The next steps, without waiting between them.
    Together(Vec<Step>),
    Reopen,
}

/// A log's content as the model has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    first: u64,
    entries: Vec<LogEntry>,
    purged: Option<Bytes>,
    vote: Option<Bytes>,
}

/// Every content that the log passed through, and which of them was acknowledged last.
#[derive(Default)]
struct History {
    states: Vec<Model>,
    acked: usize,
    hints: Vec<Bytes>,
    term: u64,
}

impl Model {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

impl History {
    fn new() -> Self {
        Self { states: vec![Model::default()], hints: vec![Bytes::new()], ..Self::default() }
    }

    fn last(&self) -> &Model {
        self.states.last().unwrap()
    }

    fn push(&mut self, change: impl FnOnce(&mut Model)) {
        let mut next = self.last().clone();
        change(&mut next);
        self.states.push(next);
    }

    /// Does one step in the model, entry by entry, and gives what to ask the log.
    fn plan(&mut self, step: &Step) -> Option<Request> {
        self.term += 1;
        let term = self.term;
        match step {
            Step::Append(count, bytes) => {
                let next = self.last().next();
                let entries: Vec<_> = (next..next + count).map(|index| entry(index, term, *bytes)).collect();
                for entry in &entries {
                    self.push(|model| model.entries.push(entry.clone()));
                }
                Some(Request::Append(entries, 0))
            }
            Step::Vote => {
                let vote = Bytes::from(format!("vote {term}"));
                self.push(|model| model.vote = Some(vote.clone()));
                Some(Request::Vote(vote))
            }
            Step::Truncate(count) => {
                let from = self.last().next().saturating_sub(*count).max(self.last().first);
                self.push(|model| model.entries.truncate((from - model.first) as usize));
                Some(Request::Truncate(from))
            }
            Step::Purge(keep) => {
                let first = self.last().next().saturating_sub(*keep);
                (first > self.last().first).then(|| self.purge_before(first))
            }
            Step::Jump(ahead) => Some(self.purge_before(self.last().next() + ahead + 1)),
            Step::Hint | Step::Together(_) | Step::Reopen => None,
        }
    }

    fn purge_before(&mut self, first: u64) -> Request {
        let id = Bytes::from(format!("purged {}", first - 1));
        self.push(|model| {
            model.entries.drain(..((first - model.first) as usize).min(model.entries.len()));
            model.first = first;
            model.purged = Some(id.clone());
        });
        Request::Purge(first - 1, id)
    }

    /// Opens the disk and compares; the error is what a user would have lost. Gives the state found, by number.
    fn check(&self, disk: &SimDisk, options: &LogOptions) -> Result<(Log, usize), String> {
        let (log, recovered) = open_with(disk, options.clone()).map_err(|error| error.to_string())?;
        let found = Model {
            first: recovered.first_index,
            entries: all_entries(&log),
            purged: recovered.purged.clone(),
            vote: recovered.vote.clone(),
        };
        if found.entries.last().map(|last| (last.index, last.term)) != recovered.last {
            return Err(format!("{:?} is not the last of {found:?}", recovered.last));
        }
        let Some(state) = self.states[self.acked..].iter().rposition(|state| *state == found) else {
            return Err(format!("acknowledged was {:?}\nfound is {found:?}", self.states[self.acked]));
        };
        match &recovered.committed {
            Some(hint) if !self.hints.contains(hint) => Err(format!("nobody gave the hint {hint:?}")),
            _ => Ok((log, self.acked + state)),
        }
    }
}

/// Runs steps until one fails; counts what was acknowledged.
fn run(disk: &SimDisk, options: &LogOptions, steps: &[Step], history: &mut History) {
    let Ok((mut log, _)) = open_with(disk, options.clone()) else { return };
    for step in steps {
        match step {
            Step::Reopen => {
                drop(log);
                let Ok((again, _)) = open_with(disk, options.clone()) else { return };
                log = again;
            }
            Step::Hint => {
                let hint = Bytes::from(format!("hint {}", history.states.len()));
                history.hints.push(hint.clone());
                log.save_committed(hint);
            }
            step => {
                let steps = if let Step::Together(steps) = step { steps } else { std::slice::from_ref(step) };
                let (sender, receiver) = sync_channel(steps.len());
                for step in steps {
                    if let Some(request) = history.plan(step) {
                        let (sender, reached) = (sender.clone(), history.states.len() - 1);
                        submit(&log, request, Box::new(move |result| sender.send(result.map(|()| reached)).unwrap()));
                    }
                }
                drop(sender);
                for result in receiver {
                    match result {
                        Ok(reached) => history.acked = reached,
                        Err(_) => return,
                    }
                }
            }
        }
    }
}

fn submit(log: &Log, request: Request, done: Done) {
    match request {
        Request::Append(entries, _) => log.append(entries, done),
        Request::Vote(vote) => log.save_vote(vote, done),
        Request::Truncate(from) => log.truncate_after(from.checked_sub(1), done),
        Request::Purge(index, id) => log.purge(index, id, done),
    }
}

/// One power cut, and life after it.
fn cut(steps: &[Step], options: &LogOptions, faults: Faults, keep: f64, seed: u64) -> Result<bool, String> {
    let disk = new_disk();
    let mut history = History::new();
    let before = disk.boundaries();
    let power_off_after = faults.power_off_after.unwrap_or(u64::MAX);
    disk.set_faults(faults.clone());
    run(&disk, options, steps, &mut history);
    let reached = disk.boundaries() - before > power_off_after;
    disk.crash(keep, seed);
    disk.set_faults(Faults { lying_sync: faults.lying_sync, ..Faults::default() });
    let (log, found) = history.check(&disk, options)?;
    // What was found is now promised, and the log goes on.
    history.states.truncate(found + 1);
    history.acked = found;
    drop(log);
    run(&disk, options, &[Step::Append(3, 700), Step::Vote, Step::Reopen, Step::Append(20, 700)], &mut history);
    disk.crash(keep, seed);
    history.check(&disk, options)?;
    Ok(reached)
}

/// Rolls over a dozen segments, recycles some, votes, truncates, purges, reopens.
fn script() -> Vec<Step> {
    use Step::*;
    vec![
        Vote,
        Append(1, 10),
        Append(5, 1_000),
        Hint,
        Append(8, 1_500),
        Together(vec![Append(2, 100), Vote, Append(3, 2_000), Truncate(4), Append(2, 50)]),
        Reopen,
        Append(20, 900),
        Purge(5),
        Hint,
        Together(vec![Append(9, 1_200), Truncate(3), Append(9, 1_300), Purge(8), Vote]),
        Append(1, 9_000),
        Append(2, 30_000),
        Truncate(1),
        Purge(0),
        Append(15, 1_100),
        Jump(7),
        Append(15, 1_100),
        Reopen,
        Vote,
        Append(1, 1),
    ]
}

/// Cuts the power at each boundary of the script until it runs through.
fn cut_everywhere(options: &LogOptions, every: usize, keeps: &[(f64, u64)]) {
    for boundary in (0..).step_by(every) {
        let mut reached = false;
        for (keep, seeds) in keeps {
            for seed in 0..*seeds {
                let seed = seed * 1_000 + boundary;
                let faults = Faults { power_off_after: Some(boundary), ..Faults::default() };
                match cut(&script(), options, faults, *keep, seed) {
                    Ok(this) => reached |= this,
                    Err(loss) => panic!("boundary {boundary}, keep {keep}, seed {seed}: {loss}"),
                }
            }
        }
        if !reached {
            assert!(boundary > 60, "the script is too short to prove anything: {boundary}");
            return;
        }
    }
}

const KEEPS: [(f64, u64); 4] = [(0.0, 1), (1.0, 1), (0.5, 3), (0.9, 1)];

#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut_at_any_boundary() {
    cut_everywhere(&options(), 1, &KEEPS);
}

#[test]
fn nor_with_segments_prepared_ahead_and_marks() {
    let options = LogOptions { prepare_ahead: true, idle_mark: Duration::ZERO, ..options() };
    cut_everywhere(&options, 2, &KEEPS);
}

#[test]
fn without_fsync_a_power_cut_loses_entries_but_the_log_still_opens() {
    let options = LogOptions { unsafe_no_fsync: true, ..options() };
    for boundary in 0..80 {
        let disk = new_disk();
        disk.set_faults(Faults { power_off_after: Some(boundary), ..Faults::default() });
        let mut history = History::new();
        run(&disk, &options, &script(), &mut history);
        disk.crash(0.5, boundary);
        history.acked = 0;
        if let Err(loss) = history.check(&disk, &options) {
            panic!("boundary {boundary}: {loss}");
        }
    }
}

#[test]
fn a_disk_that_lies_about_syncs_is_found_out() {
    let losses = (10..60).filter(|boundary| {
        let faults = Faults { power_off_after: Some(*boundary), lying_sync: true, ..Faults::default() };
        cut(&script(), &options(), faults, 0.5, *boundary).is_err()
    });
    assert!(losses.count() > 20, "these tests do not see acknowledged entries that are lost");
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        4 => (1..12_u64, 1..3_000_usize).prop_map(|(count, bytes)| Step::Append(count, bytes)),
        1 => (1..3_u64, 5_000..40_000_usize).prop_map(|(count, bytes)| Step::Append(count, bytes)),
        2 => Just(Step::Vote),
        1 => Just(Step::Hint),
        2 => (0..9_u64).prop_map(Step::Truncate),
        2 => (0..20_u64).prop_map(Step::Purge),
        1 => (0..5_u64).prop_map(Step::Jump),
    ];
    let together = proptest::collection::vec(one.clone(), 1..6).prop_map(|steps| {
        let queued = |step: &Step| !matches!(step, Step::Hint);
        Step::Together(steps.into_iter().filter(queued).collect())
    });
    proptest::collection::vec(prop_oneof![5 => one, 2 => together, 1 => Just(Step::Reopen)], 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_script_agrees_with_the_model(steps in steps()) {
        let (disk, mut history) = (new_disk(), History::new());
        run(&disk, &options(), &steps, &mut history);
        prop_assert_eq!(history.acked, history.states.len() - 1);
        prop_assert!(history.check(&disk, &options()).is_ok());
    }

    #[test]
    fn any_script_survives_a_power_cut(steps in steps(), boundary in 0..120_u64, keep in 0.0..1.0, seed: u64) {
        let faults = Faults { power_off_after: Some(boundary), ..Faults::default() };
        if let Err(loss) = cut(&steps, &options(), faults, keep, seed) {
            prop_assert!(false, "{}", loss);
        }
    }

    #[test]
    fn any_script_survives_a_failed_sync_or_write(steps in steps(), fail in 0..60_u64, sync: bool, keep in 0.0..1.0, seed: u64) {
        let fail = Some(fail);
        let faults = if sync {
            Faults { fail_sync_after: fail, ..Faults::default() }
        } else {
            Faults { fail_write_after: fail, ..Faults::default() }
        };
        if let Err(loss) = cut(&steps, &options(), faults, keep, seed) {
            prop_assert!(false, "{}", loss);
        }
    }
}
