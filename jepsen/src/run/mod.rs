//! Runs: a plan carried out against a target, judged and reported.

pub mod chaos;
pub mod crash;
pub mod endurance;
pub mod faults;
pub mod load;
pub mod prove;
mod reading;
pub mod shrink;
pub mod suite;
