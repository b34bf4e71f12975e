//! Encoded key-values, as they come from checkpoints, snapshot files and peers: read as prost would read them.

use kelson::proto::{Put, Record};
use prost::Message;

use super::engine::{Target, Verdict};
use super::mutate;
use super::random::Random;

pub struct KeyValues;

/// The same message as prost itself generates it.
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

fn plain(record: &Record) -> Plain {
    let fields = record.fields();
    Plain {
        key: record.key().to_vec(),
        create_revision: fields.create_revision,
        mod_revision: fields.mod_revision,
        version: fields.version,
        value: record.value().to_vec(),
        lease: fields.lease,
    }
}

impl Target for KeyValues {
    const NAME: &'static str = "key_values";
    const ITERATIONS: u64 = 8_000;

    fn seeds(&mut self) -> Vec<Vec<u8>> {
        let put = |key: &[u8], value: &[u8], lease| {
            let put = Put { key, value, create_revision: 3, mod_revision: 1 << 40, version: 2, lease };
            Record::put(put).as_bytes().to_vec()
        };
        let deleted = Record::tombstone(b"gone", 9).as_bytes().to_vec();
        vec![put(b"key", b"value", 0), put(&[0xff; 200], &[1; 300], i64::MIN), put(b"", b"", 7), deleted, Vec::new()]
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        mutate::message(input, other, random);
    }

    fn run(&mut self, input: &[u8]) -> Verdict {
        let expected = Plain::decode(input);
        let merged = Record::decode(input);
        assert_eq!(merged.is_ok(), expected.is_ok(), "{merged:?}, where prost has {expected:?}");
        let read = Record::from_bytes(input);
        let Ok(record) = read else {
            // Both read what the other reads, but for fields of another type, which are passed over here.
            assert!(expected.is_err(), "refused, where prost has {expected:?}");
            return Verdict::of(read);
        };
        if let (Ok(expected), Ok(merged)) = (expected, merged) {
            assert_eq!(plain(&record), expected);
            assert_eq!(merged, record);
        }
        assert_eq!(Record::from_bytes(record.as_bytes()).as_ref(), Ok(&record), "canonical bytes stay");
        assert_eq!(record.as_bytes(), plain(&record).encode_to_vec(), "as prost writes it");
        let bare = record.without_value();
        assert_eq!((bare.key(), bare.value(), bare.lease()), (record.key(), &[][..], record.lease()));
        Verdict::Accepted(format!("{}", input == record.as_bytes()))
    }
}
