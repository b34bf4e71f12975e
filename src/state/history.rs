//! The batches since the compaction mark, oldest first, in memory.

use std::collections::VecDeque;

use super::event::{EventBatch, SharedBatch};

/// Batches in one segment. Segments keep growth from ever moving the whole history under the lock.
const SEGMENT: usize = 1024;

/// Batches in revision order.
#[derive(Debug, Default)]
pub struct History {
    /// None is empty.
    segments: VecDeque<VecDeque<SharedBatch>>,
}

impl History {
    /// Adds the newest batch.
    pub fn push(&mut self, batch: SharedBatch) {
        match self.segments.back_mut() {
            Some(segment) if segment.len() < SEGMENT => segment.push_back(batch),
            _ => {
                let mut segment = VecDeque::with_capacity(SEGMENT);
                segment.push_back(batch);
                self.segments.push_back(segment);
            }
        }
    }

    /// Batches with `after < revision <= up_to`, oldest first; at most `revisions_max` and about `bytes_max` bytes, but
    /// at least one when there is one.
    pub fn slice(&self, after: i64, up_to: i64, revisions_max: usize, bytes_max: usize) -> Vec<SharedBatch> {
        let is_before = |segment: &VecDeque<SharedBatch>| segment.back().is_some_and(|last| last.revision <= after);
        let first = self.segments.partition_point(is_before);
        let mut found = Vec::new();
        let mut bytes = 0;
        for segment in self.segments.range(first..) {
            let start = segment.partition_point(|batch| batch.revision <= after);
            for batch in segment.range(start..) {
                if batch.revision > up_to || found.len() == revisions_max || (bytes >= bytes_max && !found.is_empty()) {
                    return found;
                }
                bytes += batch_bytes(batch);
                found.push(batch.clone());
            }
        }
        found
    }

    /// Takes out batches with `revision < before`, at most about `max`.
    pub fn drop_before(&mut self, before: i64, max: usize) -> Vec<SharedBatch> {
        let mut dropped = Vec::new();
        while let Some(segment) = self.segments.front_mut() {
            let end = segment.partition_point(|batch| batch.revision < before).min(max.saturating_sub(dropped.len()));
            if end == 0 {
                break;
            }
            dropped.extend(segment.drain(..end));
            if segment.is_empty() {
                self.segments.pop_front();
            }
        }
        dropped
    }
}

fn batch_bytes(batch: &EventBatch) -> usize {
    batch.changes.iter().map(|change| change.record.as_bytes().len()).sum()
}
