//! The wire types: what `build.rs` generates from `proto/`, and [`Record`], our stand-in for `mvccpb.KeyValue`.
//!
//! Nothing here knows what a field means; `rpc` does. Everybody above may use this module.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use prost::DecodeError;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_varint, encoded_len_varint, skip_field,
};

/// etcd's package `mvccpb`; its `KeyValue` is [`Record`].
pub mod mvccpb {
    pub use super::Record as KeyValue;
    tonic::include_proto!("mvccpb");
}
/// etcd's package `authpb`.
pub mod authpb {
    tonic::include_proto!("authpb");
}
/// etcd's package `leasepb`.
pub mod leasepb {
    tonic::include_proto!("leasepb");
}
/// etcd's package `etcdserverpb`.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
/// etcd's package `v3lockpb`.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}
/// etcd's package `v3electionpb`.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}
/// What members say to each other; ours.
pub mod peer {
    tonic::include_proto!("kelson_peer");
}

/// The encoded `FileDescriptorSet` of `proto/`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// One encoded `mvccpb.KeyValue`, shared and immutable.
///
/// A key's state is written once, when the change is applied; index, history, watch events, range answers, checkpoint
/// and snapshot file all use these same bytes. Cloning is a reference count.
///
/// Invariant: the bytes are a valid KeyValue in canonical form (fields in order, zero values absent), because only
/// [`Record::put`], [`Record::tombstone`], [`Record::from_bytes`] and decoding (which re-encodes) make one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Record(Arc<[u8]>);

/// A record taken apart; `value` is a range into the record's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Where the key lies.
    pub key: Range<usize>,
    /// Revision that made the key.
    pub create_revision: i64,
    /// Revision of the last change.
    pub mod_revision: i64,
    /// 1 when created, one more with each put.
    pub version: i64,
    /// Where the value lies.
    pub value: Range<usize>,
    /// Lease the key is attached to; 0 = none.
    pub lease: i64,
    /// Whether each field stood once, in the order of their numbers.
    ascending: bool,
}

const KEY: u32 = 1;
const CREATE_REVISION: u32 = 2;
const MOD_REVISION: u32 = 3;
const VERSION: u32 = 4;
const VALUE: u32 = 5;
const LEASE: u32 = 6;

/// The values of a record to make; see [`Record::put`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Put<'a> {
    /// The key; may be empty only in records imported from etcd's `--bump-revision`.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// Revision that made the key.
    pub create_revision: i64,
    /// Revision of this change.
    pub mod_revision: i64,
    /// 1 when created.
    pub version: i64,
    /// 0 = none.
    pub lease: i64,
}

impl Put<'_> {
    fn encoded_len(&self) -> usize {
        bytes_len(self.key)
            + int_len(self.create_revision)
            + int_len(self.mod_revision)
            + int_len(self.version)
            + bytes_len(self.value)
            + int_len(self.lease)
    }
}

fn put_of<'a>(bytes: &'a [u8], fields: &Fields) -> Put<'a> {
    Put {
        key: &bytes[fields.key.clone()],
        value: &bytes[fields.value.clone()],
        create_revision: fields.create_revision,
        mod_revision: fields.mod_revision,
        version: fields.version,
        lease: fields.lease,
    }
}

impl Record {
    /// Encodes a record.
    pub fn put(put: Put<'_>) -> Self {
        // Written where it stays: a vector would be copied.
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, put.encoded_len()).collect();
        let mut out = Arc::get_mut(&mut bytes).expect("nobody else has it yet");
        put_bytes(KEY, put.key, &mut out);
        put_int(CREATE_REVISION, put.create_revision, &mut out);
        put_int(MOD_REVISION, put.mod_revision, &mut out);
        put_int(VERSION, put.version, &mut out);
        put_bytes(VALUE, put.value, &mut out);
        put_int(LEASE, put.lease, &mut out);
        debug_assert!(out.is_empty(), "record length");
        Self(bytes)
    }

    /// What a DELETE event carries: the key and the revision that deleted it.
    pub fn tombstone(key: &[u8], mod_revision: i64) -> Self {
        Self::put(Put { key, mod_revision, ..Put::default() })
    }

    /// Takes bytes from a checkpoint, snapshot file or peer.
    ///
    /// # Errors
    /// When they are not an encoded KeyValue. Bytes in another field order are accepted and re-encoded.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        // What we or etcd wrote is canonical and taken as it is; canonical means that encoding it again changes nothing.
        let fields = Fields::parse(bytes)?;
        let put = put_of(bytes, &fields);
        if put.encoded_len() == bytes.len() && fields.ascending {
            return Ok(Self(bytes.into()));
        }
        Ok(Self::put(put))
    }

    /// The same record without its value, as `keys_only` answers it.
    pub fn without_value(&self) -> Self {
        let fields = self.fields();
        if fields.value.is_empty() {
            return self.clone();
        }
        Self::put(Put { value: &[], ..self.as_put(&fields) })
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key.
    #[inline]
    pub fn key(&self) -> &[u8] {
        // The key is the first field, and keys are short: the usual case is two bytes before it.
        match self.0.first() {
            Some(&0x0a) => {
                let len = self.0[1];
                if len < 0x80 { &self.0[2..2 + usize::from(len)] } else { &self.0[self.fields().key] }
            }
            _ => &[],
        }
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        &self.0[self.fields().value]
    }

    /// Revision that made the key.
    pub fn create_revision(&self) -> i64 {
        self.fields().create_revision
    }

    /// Revision of the last change.
    pub fn mod_revision(&self) -> i64 {
        self.fields().mod_revision
    }

    /// 1 when created, one more with each put; 0 in a tombstone.
    pub fn version(&self) -> i64 {
        self.fields().version
    }

    /// Lease id; 0 = none.
    pub fn lease(&self) -> i64 {
        self.fields().lease
    }

    /// The record taken apart, in one pass over its few field tags.
    pub fn fields(&self) -> Fields {
        Fields::parse(&self.0).expect("a record holds a valid KeyValue")
    }

    fn as_put<'a>(&'a self, fields: &Fields) -> Put<'a> {
        put_of(&self.0, fields)
    }
}

impl Fields {
    fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut rest = bytes;
        let mut fields =
            Self { key: 0..0, create_revision: 0, mod_revision: 0, version: 0, value: 0..0, lease: 0, ascending: true };
        let mut before = 0;
        while !rest.is_empty() {
            let (tag, wire_type) = decode_key(&mut rest)?;
            fields.ascending &= tag > before;
            before = tag;
            match (tag, wire_type) {
                (KEY | VALUE, WireType::LengthDelimited) => {
                    let len = usize::try_from(decode_varint(&mut rest)?).map_err(|_| truncated())?;
                    if len > rest.len() {
                        return Err(truncated());
                    }
                    let start = bytes.len() - rest.len();
                    rest.advance(len);
                    let range = start..start + len;
                    if tag == KEY { fields.key = range } else { fields.value = range }
                }
                (CREATE_REVISION, WireType::Varint) => fields.create_revision = decode_varint(&mut rest)? as i64,
                (MOD_REVISION, WireType::Varint) => fields.mod_revision = decode_varint(&mut rest)? as i64,
                (VERSION, WireType::Varint) => fields.version = decode_varint(&mut rest)? as i64,
                (LEASE, WireType::Varint) => fields.lease = decode_varint(&mut rest)? as i64,
                _ => skip_field(wire_type, tag, &mut rest, DecodeContext::default())?,
            }
        }
        Ok(fields)
    }
}

impl Default for Record {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.fields();
        f.debug_struct("Record")
            .field("key", &self.key().escape_ascii().to_string())
            .field("create_revision", &fields.create_revision)
            .field("mod_revision", &fields.mod_revision)
            .field("version", &fields.version)
            .field("value_bytes", &fields.value.len())
            .field("lease", &fields.lease)
            .finish()
    }
}

impl prost::Message for Record {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        let fields = self.fields();
        let mut put = self.as_put(&fields);
        let mut owned = Vec::new();
        match tag {
            KEY | VALUE => {
                prost::encoding::bytes::merge(wire_type, &mut owned, buf, ctx)?;
                if tag == KEY { put.key = &owned } else { put.value = &owned }
            }
            CREATE_REVISION => prost::encoding::int64::merge(wire_type, &mut put.create_revision, buf, ctx)?,
            MOD_REVISION => prost::encoding::int64::merge(wire_type, &mut put.mod_revision, buf, ctx)?,
            VERSION => prost::encoding::int64::merge(wire_type, &mut put.version, buf, ctx)?,
            LEASE => prost::encoding::int64::merge(wire_type, &mut put.lease, buf, ctx)?,
            _ => return skip_field(wire_type, tag, buf, ctx),
        }
        *self = Self::put(put);
        Ok(())
    }
}

fn truncated() -> DecodeError {
    // prost keeps the constructor of its error to itself; decoding a truncated varint makes the same kind.
    decode_varint(&mut &[0x80u8][..]).expect_err("a lone continuation byte is no varint")
}

fn bytes_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { 1 + encoded_len_varint(bytes.len() as u64) + bytes.len() }
}

fn int_len(int: i64) -> usize {
    if int == 0 { 0 } else { 1 + encoded_len_varint(int as u64) }
}

fn put_bytes(tag: u32, bytes: &[u8], out: &mut impl BufMut) {
    if !bytes.is_empty() {
        prost::encoding::encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(bytes.len() as u64, out);
        out.put_slice(bytes);
    }
}

fn put_int(tag: u32, int: i64, out: &mut impl BufMut) {
    if int != 0 {
        prost::encoding::encode_key(tag, WireType::Varint, out);
        encode_varint(int as u64, out);
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    /// A KeyValue as prost itself would generate it.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Plain {
        #[prost(bytes = "vec", tag = "1")]
        key: Vec<u8>,
        #[prost(int64, tag = "2")]
        create_revision: i64,
        #[prost(int64, tag = "3")]
        mod_revision: i64,
        #[prost(int64, tag = "4")]
        version: i64,
        #[prost(bytes = "vec", tag = "5")]
        value: Vec<u8>,
        #[prost(int64, tag = "6")]
        lease: i64,
    }

    proptest::proptest! {
        #[test]
        fn a_record_is_the_bytes_prost_would_write(
            key in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            value in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            ints in proptest::array::uniform4(proptest::prelude::any::<i64>()),
        ) {
            let [create_revision, mod_revision, version, lease] = ints;
            let plain = Plain { key: key.clone(), create_revision, mod_revision, version, value: value.clone(), lease };
            let record = Record::put(Put { key: &key, value: &value, create_revision, mod_revision, version, lease });
            proptest::prop_assert_eq!(record.as_bytes(), plain.encode_to_vec());
            proptest::prop_assert_eq!(record.key(), &key[..]);
            proptest::prop_assert_eq!(record.value(), &value[..]);
            proptest::prop_assert_eq!(record.lease(), lease);
            proptest::prop_assert_eq!(&Record::decode(&plain.encode_to_vec()[..]).unwrap(), &record);
            proptest::prop_assert_eq!(&Record::from_bytes(record.as_bytes()).unwrap(), &record);
            // The same fields, the value first: not canonical, and read all the same.
            let mut turned = Vec::new();
            put_bytes(VALUE, &value, &mut turned);
            turned.extend(Plain { value: Vec::new(), ..plain.clone() }.encode_to_vec());
            proptest::prop_assert_eq!(&Record::from_bytes(&turned).unwrap(), &record);
            let bare = record.without_value();
            proptest::prop_assert_eq!(bare.key(), &key[..]);
            proptest::prop_assert!(bare.value().is_empty());
        }

        #[test]
        fn bytes_that_are_no_record_are_refused_or_read_without_panic(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
        ) {
            if let Ok(record) = Record::from_bytes(&bytes) {
                let _fields = record.fields();
            }
        }
    }
}
