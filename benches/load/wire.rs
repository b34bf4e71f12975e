//! Protobuf by hand: requests written straight into their gRPC frame, and the few answer fields that a load needs.
//!
//! The generated types would do the same work with more copies; here the client must stay out of the way of what it
//! measures. Field numbers are those of `proto/etcd/rpc.proto`.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};

/// gRPC's own five bytes before each message: a flag and the length.
pub const FRAME_HEADER_BYTES: usize = 5;

/// A message being written.
pub struct Message(BytesMut);

impl Message {
    /// An empty one with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut bytes = BytesMut::with_capacity(FRAME_HEADER_BYTES + capacity);
        bytes.put_bytes(0, FRAME_HEADER_BYTES);
        Self(bytes)
    }

    /// Adds an integer, boolean or enum; zero is left out, as proto3 does.
    #[must_use]
    pub fn int(mut self, field: u32, value: i64) -> Self {
        if value != 0 {
            encode_varint(u64::from(field << 3), &mut self.0);
            encode_varint(value as u64, &mut self.0);
        }
        self
    }

    /// Adds bytes, even empty ones.
    #[must_use]
    pub fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        encode_varint(u64::from(field << 3 | 2), &mut self.0);
        encode_varint(value.len() as u64, &mut self.0);
        self.0.put_slice(value);
        self
    }

    /// Adds another message.
    #[must_use]
    pub fn message(self, field: u32, inner: &Self) -> Self {
        self.bytes(field, &inner.0[FRAME_HEADER_BYTES..])
    }

    /// The finished gRPC frame.
    pub fn frame(mut self) -> Bytes {
        let len = u32::try_from(self.0.len() - FRAME_HEADER_BYTES).expect("a request is far below 4 GiB");
        self.0[1..FRAME_HEADER_BYTES].copy_from_slice(&len.to_be_bytes());
        self.0.freeze()
    }
}

/// `PutRequest` without its frame.
pub fn put(key: &[u8], value: &[u8]) -> Message {
    Message::with_capacity(key.len() + value.len() + 2 * (1 + encoded_len_varint(u64::MAX)))
        .bytes(1, key)
        .bytes(2, value)
}

/// The key after every key that starts with `prefix`; all keys when there is none.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// One field of a message being read.
pub enum Value<'a> {
    /// Integer, boolean or enum.
    Int(u64),
    /// Bytes, string or message.
    Bytes(&'a [u8]),
}

/// Reads a message field by field; ends early at what it does not understand.
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Over the bytes of one message.
    pub fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// The first field of this number that holds an integer, else 0.
    pub fn int(message: &'a [u8], field: u32) -> i64 {
        let found = Self::of(message).find_map(|(number, value)| match value {
            Value::Int(int) if number == field => Some(int as i64),
            _ => None,
        });
        found.unwrap_or(0)
    }

    /// The first field of this number that holds bytes, else none.
    pub fn bytes(message: &'a [u8], field: u32) -> Option<&'a [u8]> {
        Self::of(message).find_map(|(number, value)| match value {
            Value::Bytes(bytes) if number == field => Some(bytes),
            _ => None,
        })
    }

    /// How often a field of this number occurs.
    pub fn count(message: &'a [u8], field: u32) -> usize {
        Self::of(message).filter(|(number, _)| *number == field).count()
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = varint(&mut self.0)?;
        let number = u32::try_from(key >> 3).ok()?;
        match key & 7 {
            0 => Some((number, Value::Int(varint(&mut self.0)?))),
            2 => {
                let len = usize::try_from(varint(&mut self.0)?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(len)?;
                self.0 = rest;
                Some((number, Value::Bytes(bytes)))
            }
            _ => None,
        }
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
