//! Whole clusters of kelson in one process, under a simulated network, simulated disks and simulated time, all of which a
//! seed drives. See the section of jepsen's README.

pub mod clients;
pub mod cluster;
pub mod copies;
pub mod determinism;
pub mod disk;
pub mod invariant;
pub mod many;
pub mod member;
pub mod nemesis;
pub mod network;
pub mod plan;
pub mod run;
pub mod trace;
pub mod witness;
