//! What clients do. A workload chooses actions from a seed and from what its client was told; it sends nothing itself.

pub mod mix;
