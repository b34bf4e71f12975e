//! What must hold at every moment. Each is a plain book that is told of events and says what contradicts it; none knows
//! where the events come from, so that each can be shown a trace that breaks it.

pub mod applied;
pub mod leader;
pub mod lease;
pub mod log;
pub mod state;
pub mod watch;

/// A broken promise, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which invariant.
    pub invariant: &'static str,
    /// What was expected and what was seen.
    pub text: String,
}

/// Whether an event is as it must be.
pub type Held = Result<(), Broken>;
