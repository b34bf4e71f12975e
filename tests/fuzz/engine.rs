//! The loop of fuzzing: valid inputs and those of the corpus, mutated again and again, given to a target.
//!
//! The same seed and count give the same inputs, so that the run of `cargo test` is the same everywhere. Nothing tells us
//! which code an input reached; what tells inputs apart is the answer: one that got an answer not heard before is kept and
//! mutated further.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use kelson::clock::Clock;

use super::mutate;
use super::random::Random;

/// The seed of a plain `cargo test`.
const SEED: u64 = 1;
/// Mutations of one input.
const MUTATIONS_MAX: usize = 4;
/// Inputs kept for their answers.
const KEPT_MAX: usize = 512;
/// Different findings after which a target is left.
const FINDINGS_MAX: usize = 8;
/// Tries to make a finding shorter.
const SHORTENINGS_MAX: usize = 2000;
/// Address space that one input may add to what the process ever had; a thread's own heap takes 64 MiB of it at once.
const MEMORY_BYTES_MAX: u64 = 384 << 20;
/// Files that one run adds to a corpus.
const CORPUS_FILES_MAX: usize = 40;
/// Inputs among which there must be some that are accepted, and some that are refused. A run by the clock may end before.
const TELLING_INPUTS: u64 = 100;
/// Between two lines of a long run.
const PROGRESS: Duration = Duration::from_secs(20);

/// What a target said to an input. The texts are compared without their numbers and names.
pub enum Verdict {
    /// It was taken, in this manner.
    Accepted(String),
    /// It was refused, in these words.
    Refused(String),
}

impl Verdict {
    /// Accepted, or refused with the error's text.
    pub fn of<T>(result: Result<T, impl std::fmt::Display>) -> Self {
        match result {
            Ok(_) => Self::Accepted(String::new()),
            Err(error) => Self::Refused(error.to_string()),
        }
    }

    fn kind(&self) -> String {
        let (word, text) = match self {
            Self::Accepted(text) => ("accepted", text),
            Self::Refused(text) => ("refused", text),
        };
        // What is between quotes, and after the second colon, is the input's own.
        let own = text.split('"').step_by(2).flat_map(|part| part.split(": ").take(2));
        let letters = own.flat_map(str::chars).filter(|c| c.is_ascii_alphabetic() || *c == ' ').take(60);
        format!("{word} {}", letters.collect::<String>())
    }
}

/// Something that reads bytes from outside. A panic, in whichever thread, and memory out of proportion are findings; what
/// else must hold the target asserts itself.
pub trait Target {
    /// As the test's name, and the directory's of its corpus.
    const NAME: &'static str;
    /// Mutated inputs of a plain `cargo test`.
    const ITERATIONS: u64;
    /// Parts of paths in whose code a panic is expected, because kelson catches it.
    const MAY_PANIC: &'static [&'static str] = &[];

    /// Valid inputs, and such as nobody would find by chance.
    fn seeds(&mut self) -> Vec<Vec<u8>>;

    /// Changes an input a little; `other` is another one.
    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        mutate::bytes(input, other, random);
    }

    /// Reads an input.
    fn run(&mut self, input: &[u8]) -> Verdict;
}

/// How long is fuzzed.
enum Budget {
    Iterations(u64),
    Until(Duration),
}

/// Counts of a run, for its line and its last assertions.
#[derive(Default)]
struct Counts {
    inputs: u64,
    accepted: u64,
    refused: u64,
}

/// Fuzzes a target, as the environment says; see `tests/fuzz.rs`.
pub fn fuzz<T: Target>(target: T) {
    let mut run = Run::new(target);
    let clock = Clock::system();
    if let Some(path) = std::env::var_os("KELSON_FUZZ_INPUT") {
        return run.reproduce(Path::new(&path));
    }
    let seed = number("KELSON_FUZZ_SEED").unwrap_or(SEED);
    let budget = match number("KELSON_FUZZ_SECONDS") {
        Some(seconds) => Budget::Until(Duration::from_secs(seconds) / selected_targets()),
        None => Budget::Iterations(T::ITERATIONS),
    };
    let mut random = Random::new(seed ^ u64::from(crc32fast::hash(T::NAME.as_bytes())));
    run.start();
    let mut said = Duration::ZERO;
    loop {
        let goes_on = match budget {
            Budget::Iterations(count) => run.counts.inputs < count,
            Budget::Until(end) => clock.now() < end,
        };
        if !goes_on || run.findings.len() >= FINDINGS_MAX {
            break;
        }
        run.step(&mut random);
        if matches!(budget, Budget::Until(_)) && clock.now() > said + PROGRESS {
            said = clock.now();
            eprintln!("{} after {} s, seed {seed}", run.line(), said.as_secs());
        }
    }
    println!("{} in {} ms, seed {seed}", run.line(), clock.now().as_millis());
    run.end(seed);
}

/// Whether the command line names a target, for those that are too slow to run with the others.
pub fn is_named(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Between how many targets the seconds are shared: those that the command line's filters leave.
fn selected_targets() -> u32 {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_selected = |name: &&&str| arguments.iter().any(|argument| name.contains(&**argument));
    match super::TARGETS.iter().filter(is_selected).count() {
        // All but the one that runs only when it is named.
        0 => super::TARGETS.len() as u32 - 1,
        selected => selected as u32,
    }
}

/// A target on its way.
struct Run<T> {
    target: T,
    /// Inputs to mutate: seeds and corpus, then what got a new answer.
    pool: Vec<Vec<u8>>,
    /// How many of them are seeds and corpus.
    given: usize,
    kinds: BTreeSet<String>,
    counts: Counts,
    findings: Vec<(String, PathBuf)>,
    /// See [`attempt`].
    current: fs::File,
    peak: u64,
    /// One target at a time, for memory is counted of the whole process, and so are panics of its threads.
    _alone: MutexGuard<'static, ()>,
}

impl<T: Target> Run<T> {
    fn new(mut target: T) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pool = target.seeds();
        pool.extend(corpus(T::NAME).into_iter().map(|path| fs::read(path).unwrap()));
        assert!(!pool.is_empty(), "{} has nothing to begin with", T::NAME);
        let given = pool.len();
        let (kinds, counts, findings) = Default::default();
        note_panics();
        let current = fs::File::create(found_dir(T::NAME).join("current")).unwrap();
        Self { target, pool, given, kinds, counts, findings, current, peak: peak_bytes(), _alone: alone }
    }

    fn start(&mut self) {
        for at in 0..self.given {
            let input = self.pool[at].clone();
            self.judge(&input);
        }
        self.counts = Counts::default();
    }

    fn step(&mut self, random: &mut Random) {
        // What is given keeps its share, however much was found.
        let from = if random.percent(50) { self.given } else { self.pool.len() };
        let mut input = self.pool[random.below(from)].clone();
        let other = self.pool[random.below(self.pool.len())].clone();
        for _ in 0..=random.below(MUTATIONS_MAX) {
            self.target.mutate(&mut input, &other, random);
        }
        if self.judge(&input) && self.pool.len() < self.given + KEPT_MAX {
            self.pool.push(input);
        }
    }

    fn attempt(&mut self, input: &[u8]) -> Result<Verdict, String> {
        attempt(&mut self.target, input, &self.current, &mut self.peak)
    }

    /// Runs an input; whether its answer is a new one.
    fn judge(&mut self, input: &[u8]) -> bool {
        self.counts.inputs += 1;
        match self.attempt(input) {
            Ok(verdict) => {
                match verdict {
                    Verdict::Accepted(_) => self.counts.accepted += 1,
                    Verdict::Refused(_) => self.counts.refused += 1,
                }
                self.kinds.insert(verdict.kind())
            }
            Err(reason) => {
                if self.findings.iter().all(|(known, _)| place(known) != place(&reason)) {
                    let short = self.shorten(input, &reason);
                    let path = keep(T::NAME, &short);
                    self.findings.push((reason, path));
                }
                false
            }
        }
    }

    /// The shortest input found that ends in the same way.
    fn shorten(&mut self, input: &[u8], reason: &str) -> Vec<u8> {
        let mut best = input.to_vec();
        let mut tries = 0;
        let mut part = best.len().next_power_of_two() / 2;
        while part > 0 {
            let mut at = 0;
            while at < best.len() && tries < SHORTENINGS_MAX {
                let mut shorter = best[..at].to_vec();
                shorter.extend_from_slice(&best[(at + part).min(best.len())..]);
                tries += 1;
                match self.attempt(&shorter) {
                    Err(same) if place(&same) == place(reason) => best = shorter,
                    _ => at += part,
                }
            }
            part /= 2;
        }
        best
    }

    fn reproduce(&mut self, path: &Path) {
        match self.attempt(&fs::read(path).unwrap()) {
            Ok(verdict) => println!("{}: {}", T::NAME, verdict.kind()),
            Err(reason) => panic!("{}: {reason}", T::NAME),
        }
    }

    fn line(&self) -> String {
        let Counts { inputs, accepted, refused } = self.counts;
        let kinds = self.kinds.len();
        format!("{}: {inputs} inputs, {accepted} accepted, {refused} refused, {kinds} kinds of answers", T::NAME)
    }

    fn end(self, seed: u64) {
        if std::env::var_os("KELSON_FUZZ_KINDS").is_some() {
            self.kinds.iter().for_each(|kind| println!("  {kind}"));
        }
        if std::env::var_os("KELSON_FUZZ_KEEP").is_some() {
            let dir = corpus_dir(T::NAME);
            fs::create_dir_all(&dir).unwrap();
            // Seeds are in the code, unless they were made by chance and there is no corpus yet.
            let from = if corpus(T::NAME).is_empty() && T::NAME == "tls_files" { 0 } else { self.given };
            for input in self.pool[from..].iter().take(CORPUS_FILES_MAX) {
                fs::write(dir.join(name_of(input)), input).unwrap();
            }
        }
        let mut text = String::new();
        for (reason, path) in &self.findings {
            let name = T::NAME;
            let path = path.display();
            write!(text, "\n{reason}\n  KELSON_FUZZ_INPUT={path} cargo test --test fuzz {name}").unwrap();
        }
        assert!(self.findings.is_empty(), "{}, seed {seed}:{text}", T::NAME);
        if self.counts.inputs < TELLING_INPUTS {
            return println!("{}: too few inputs to tell whether it is any good", T::NAME);
        }
        assert!(self.counts.accepted > 0, "{} never gets past the first check", T::NAME);
        assert!(self.counts.refused > 0, "{} refuses nothing", T::NAME);
    }
}

/// The files of a target's corpus, in the order of their names.
pub fn corpus(name: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(corpus_dir(name)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Where a target's corpus is.
pub fn corpus_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name)
}

/// Where findings go.
fn found_dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz").join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn keep(name: &str, input: &[u8]) -> PathBuf {
    let path = found_dir(name).join(name_of(input));
    fs::write(&path, input).unwrap();
    path
}

fn name_of(input: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(input))
}

/// What tells one finding from another: where it was, or its words without their numbers.
fn place(reason: &str) -> String {
    match reason.split_once(": ") {
        Some((place, _)) if place.contains(".rs") => place.to_owned(),
        _ => reason.chars().filter(|c| !c.is_ascii_digit()).take(60).collect(),
    }
}

/// Panics since the last input began, in any thread.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// Whether panics are noted instead of printed.
static NOTING: AtomicBool = AtomicBool::new(false);

fn panics() -> MutexGuard<'static, Vec<String>> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !NOTING.load(Ordering::Acquire) {
                return print(info);
            }
            let place = info.location().map_or_else(String::new, |at| format!("{}:{}", at.file(), at.line()));
            let text = info.payload_as_str().unwrap_or("not a text");
            panics().push(format!("{place}: {text}"));
        }));
    });
}

/// Gives an input to a target; the error is what went wrong, first where. `current` holds the input meanwhile, for a
/// process that is killed or aborted cannot say in which it was; `peak` is what [`peak_bytes`] said last.
fn attempt<T: Target>(target: &mut T, input: &[u8], current: &fs::File, peak: &mut u64) -> Result<Verdict, String> {
    current.write_all_at(input, 0).unwrap();
    current.set_len(input.len() as u64).unwrap();
    panics().clear();
    NOTING.store(true, Ordering::Release);
    let verdict = catch_unwind(AssertUnwindSafe(|| target.run(input)));
    NOTING.store(false, Ordering::Release);
    let before = std::mem::replace(peak, peak_bytes());
    let grown = peak.saturating_sub(before);
    let is_expected = |panic: &String| T::MAY_PANIC.iter().any(|part| panic.contains(part));
    if let Some(panic) = std::mem::take(&mut *panics()).into_iter().find(|panic| !is_expected(panic)) {
        return Err(panic);
    }
    if grown > MEMORY_BYTES_MAX {
        return Err(format!("{} bytes of input took {} MiB of memory", input.len(), grown >> 20));
    }
    verdict.map_err(|_| "a panic that was not seen".to_owned())
}

/// The most address space that the process ever had, in bytes; 0 where nobody tells.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
