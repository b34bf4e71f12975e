//! What clients did and what they were told. Plain data: workloads write it, checkers read it, runs store it as JSON.
//!
//! Here: the crash runs' operations, whose values name who wrote them. [`op`], [`stream`] and [`files`]: the format of
//! all histories on disk, and what every other workload and checker works on; [`mixed`] brings the former into it.

pub mod files;
pub mod mixed;
pub mod op;
pub mod stream;

use std::io::{self, Write};

use serde::Serialize;

use crate::rng::Rng;

/// A key. Everything the harness writes is ASCII; a foreign key is shown with replacement characters.
pub type Key = String;

/// A value, told by who wrote it: no two are equal, and each can be written out again to compare all its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Value {
    /// The operation that writes it.
    pub operation: u64,
    /// Which of the operation's values.
    pub part: u32,
    /// Bytes, the header included.
    pub length: u32,
}

impl Value {
    /// The bytes on the wire: `operation.part.length.` and filler up to `length`.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = format!("{}.{}.{}.", self.operation, self.part, self.length).into_bytes();
        let mut rng = Rng::new(self.operation ^ (u64::from(self.part) << 40));
        while bytes.len() < self.length as usize {
            let word = rng.bits().to_le_bytes();
            let room = self.length as usize - bytes.len();
            bytes.extend(word.iter().take(room).map(|byte| b'a' + byte % 26));
        }
        bytes
    }

    /// The value with exactly these bytes, if any operation could have written them.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut parts = bytes.splitn(4, |&byte| byte == b'.');
        let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
        let (operation, part, length) = (number()?, number()?, number()?);
        let value = Self { operation, part: u32::try_from(part).ok()?, length: u32::try_from(length).ok()? };
        (length <= 1 << 24 && value.encode() == bytes).then_some(value)
    }
}

/// A key-value as a server shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kv {
    /// The key.
    pub key: Key,
    /// `None`: bytes that no operation wrote.
    pub value: Option<Value>,
    /// Revision that made the key.
    pub create_revision: i64,
    /// Revision of the last change.
    pub mod_revision: i64,
    /// Puts since it was made.
    pub version: i64,
    /// 0 = none.
    pub lease: i64,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Put with a lease (0 = none).
    Put { key: Key, value: Value, lease: i64 },
    /// Delete of one key, or of `key..end`.
    Delete { key: Key, end: Option<Key> },
    /// Put if the key's mod revision is the expected one, else get.
    Cas { key: Key, expected: i64, value: Value },
    /// One transaction: puts and deletes of different keys.
    Many { puts: Vec<(Key, Value)>, deletes: Vec<Key> },
    /// Read of one key.
    Get { key: Key, serializable: bool },
    /// A request that a server must refuse; nothing of it may ever be seen.
    Doomed { how: Doom, key: Key, value: Value },
    /// Lease with an id of ours, in seconds.
    Grant { id: i64, ttl: i64 },
    /// Revocation: its keys go with it.
    Revoke { id: i64 },
    /// Compaction.
    Compact { revision: i64 },
}

/// Why a request must be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Doom {
    /// Its lease does not exist.
    UnknownLease,
    /// A transaction that puts one key twice.
    DuplicateKey,
    /// A transaction whose second put has a lease that does not exist.
    HalfGood,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The server answered.
    Acknowledged(Answer),
    /// The server says that it did not happen.
    Refused(String),
    /// Timed out, or the connection went: it happened, or not.
    Unknown(String),
}

/// What an answer says, as far as the action has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The header's revision.
    pub revision: i64,
    /// Keys deleted.
    pub deleted: i64,
    /// Whether the comparison held.
    pub succeeded: bool,
    /// What was read: by a get, or by a comparison that did not hold.
    pub read: Option<Kv>,
    /// The TTL as granted, in seconds.
    pub ttl: i64,
}

/// One request of one client and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// Unique in a run; values name it.
    pub id: u64,
    /// The client: one request at a time.
    pub process: u32,
    /// Nanoseconds since the run began, just before sending.
    pub start: u64,
    /// The same, just after the answer; of an unknown outcome, after giving up.
    pub end: u64,
    /// What was asked.
    pub action: Action,
    /// What came of it.
    pub outcome: Outcome,
}

impl Operation {
    /// The answer, when there was one.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Acknowledged(answer) => Some(answer),
            Outcome::Refused(_) | Outcome::Unknown(_) => None,
        }
    }

    /// Whether it may have happened without an answer.
    pub fn is_unknown(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown(_))
    }
}

/// Appends operations to a file, one JSON object a line.
pub fn write_lines<T: Serialize>(to: &mut impl Write, items: &[T]) -> io::Result<()> {
    for item in items {
        serde_json::to_writer(&mut *to, item)?;
        to.write_all(b"\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_wire_and_every_changed_byte_is_noticed() {
        let value = Value { operation: 77, part: 3, length: 120 };
        let bytes = value.encode();
        assert_eq!(bytes.len(), 120);
        assert_eq!(Value::decode(&bytes), Some(value));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_ne!(Value::decode(&changed), Some(value), "byte {at}");
        }
        assert_eq!(Value::decode(&bytes[..119]), None);
    }
}
