//! Placeholder of the final module, for its signatures only.

use bytes::Bytes;

use super::Error;
use crate::proto::{Record, etcdserverpb as pb};

pub struct Store;
#[derive(Clone)]
pub struct View;
pub struct Page {
    pub records: Vec<Record>,
    pub next: Option<Bytes>,
}
pub struct LeaseInfo {
    pub id: i64,
    pub ttl: i64,
    pub remaining_ttl: i64,
    pub keys: Vec<Bytes>,
}
pub struct Sizes {
    pub keys: u64,
    pub live_bytes: u64,
    pub history_bytes: u64,
    pub put_bytes: u64,
}
pub struct HashKv {
    pub hash: u32,
    pub compact_revision: i64,
    pub revision: i64,
}

impl Store {
    pub fn view(&self) -> View {
        panic!("placeholder")
    }
    pub fn revision(&self) -> i64 {
        panic!("placeholder")
    }
    pub fn compact_revision(&self) -> i64 {
        panic!("placeholder")
    }
    pub fn sizes(&self) -> Sizes {
        panic!("placeholder")
    }
    pub fn lease(&self, _id: i64) -> Option<LeaseInfo> {
        panic!("placeholder")
    }
    pub fn leases(&self) -> Vec<(i64, i64)> {
        panic!("placeholder")
    }
    pub fn alarms(&self) -> Vec<pb::AlarmMember> {
        panic!("placeholder")
    }
    pub fn hash_kv(&self, _revision: i64) -> Result<HashKv, Error> {
        panic!("placeholder")
    }
}

impl View {
    pub fn revision(&self) -> i64 {
        panic!("placeholder")
    }
    pub fn compact_revision(&self) -> i64 {
        panic!("placeholder")
    }
    pub fn range(&self, _request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        panic!("placeholder")
    }
    pub fn txn(&self, _request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        panic!("placeholder")
    }
    pub fn count(&self, _key: &[u8], _range_end: &[u8]) -> i64 {
        panic!("placeholder")
    }
    pub fn page(
        &self,
        _key: &[u8],
        _range_end: &[u8],
        _at: i64,
        _keys_max: usize,
        _bytes_max: usize,
        _keys_only: bool,
    ) -> Result<Page, Error> {
        panic!("placeholder")
    }
}
