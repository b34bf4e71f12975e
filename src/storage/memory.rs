//! [`Engine`] in memory: for members that keep nothing on disk, and for tests, which can [`MemoryEngine::crash`] it.
//! What was written but not flushed is known and can be lost, as in a power cut.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use super::engine::{Engine, Error, Visitor, WriteBatch, assert_key};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct MemoryEngine {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// For each key changed since the last flush, what it was then.
    unsynced: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl MemoryEngine {
    /// Forgets every batch since the last flush.
    pub fn crash(&mut self) {
        for (key, old) in std::mem::take(&mut self.unsynced) {
            set(&mut self.entries, &key, old);
        }
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.entries.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visitor<'_>) -> Result<(), Error> {
        if from >= to {
            return Ok(());
        }
        for (key, value) in self.entries.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
            if let ControlFlow::Break(()) = visit(key, value)? {
                break;
            }
        }
        Ok(())
    }

    fn write(&mut self, batch: &WriteBatch) -> Result<(), Error> {
        for (key, value) in batch.changes() {
            assert_key(key);
            let old = set(&mut self.entries, key, value.map(<[u8]>::to_vec));
            self.unsynced.entry(key.to_vec()).or_insert(old);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.unsynced.clear();
        Ok(())
    }

    fn size_on_disk(&self) -> Result<u64, Error> {
        Ok(0)
    }
}

fn set(entries: &mut BTreeMap<Vec<u8>, Vec<u8>>, key: &[u8], value: Option<Vec<u8>>) -> Option<Vec<u8>> {
    match value {
        Some(value) => entries.insert(key.to_vec(), value),
        None => entries.remove(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_takes_what_was_not_flushed_and_nothing_else() {
        let mut engine = MemoryEngine::default();
        let mut batch = WriteBatch::default();
        batch.put(b"kept", b"1");
        batch.put(b"changed", b"1");
        engine.write(&batch).unwrap();
        engine.flush().unwrap();
        batch.clear();
        batch.delete(b"kept");
        batch.put(b"changed", b"2");
        batch.put(b"new", b"2");
        engine.write(&batch).unwrap();
        batch.clear();
        batch.put(b"changed", b"3");
        engine.write(&batch).unwrap();
        engine.crash();
        assert_eq!(engine.get(b"kept").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(engine.get(b"changed").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(engine.get(b"new").unwrap(), None);
    }
}
