//! The bytes of a bbolt file, version 2, as far as etcd's snapshots use them. All numbers are little-endian.
//!
//! ```text
//! page    := id:u64  flags:u16  count:u16  overflow:u32  body         (1 + overflow) * page_bytes long
//! meta    := page(flags=4) magic:u32 version:u32 page_bytes:u32 flags:u32 root:u64 sequence:u64
//!            freelist:u64 pages:u64 transaction:u64 checksum:u64      pages 0 and 1; the later transaction counts
//! leaf    := page(flags=2) { flags:u32 offset:u32 key_bytes:u32 value_bytes:u32 }*count  { key value }*
//! branch  := page(flags=1) { offset:u32 key_bytes:u32 page:u64 }*count  key*
//! bucket  := root:u64 sequence:u64 [leaf]          value of a leaf element with flags=1; the leaf follows if root=0
//! ```
//! Offsets count from the start of their element. The checksum is FNV-1a of the 56 bytes before it. `freelist` is all
//! ones: etcd never writes one, and readers find the free pages themselves.

/// Bytes before a page's elements.
pub const PAGE_HEADER: usize = 16;
/// Bytes of one element of a leaf or a branch.
pub const ELEMENT: usize = 16;
/// Page flag: elements point to pages.
pub const BRANCH: u16 = 1;
/// Page flag: elements hold values.
pub const LEAF: u16 = 2;
/// Page flag: one of the first two pages.
pub const META: u16 = 4;
/// Element flag: the value is a bucket.
pub const BUCKET: u32 = 1;
/// Bytes of a bucket's value before an inline leaf.
pub const BUCKET_HEADER: usize = 16;
/// Bytes of a meta page's body.
pub const META_BYTES: usize = 64;
/// Bytes of the SHA-256 that etcd puts behind the image.
pub const HASH_BYTES: usize = 32;

const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;
const NO_FREELIST: u64 = u64::MAX;

/// What a meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Page of the bucket of buckets.
    pub root: u64,
    /// Pages in use, counted from the start of the file.
    pub pages: u64,
    /// The later of the two meta pages counts; its number is this modulo 2.
    pub transaction: u64,
}

impl Meta {
    /// The body of a meta page.
    pub fn encode(&self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.page_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.root.to_le_bytes());
        bytes[32..40].copy_from_slice(&NO_FREELIST.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.pages.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.transaction.to_le_bytes());
        let checksum = fnv1a(&bytes[..56]);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the body of a meta page; `None` when it is none of this version or its checksum does not match.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let good =
            u32_at(bytes, 0)? == MAGIC && u32_at(bytes, 4)? == VERSION && u64_at(bytes, 56)? == fnv1a(bytes.get(..56)?);
        let meta = Self {
            page_bytes: u32_at(bytes, 8)?,
            root: u64_at(bytes, 16)?,
            pages: u64_at(bytes, 40)?,
            transaction: u64_at(bytes, 48)?,
        };
        good.then_some(meta)
    }
}

/// A number at an offset, if the bytes reach so far.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A number at an offset, if the bytes reach so far.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A number at an offset, if the bytes reach so far.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
