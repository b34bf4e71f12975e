//! Reading many records at once instead of one after the other.

use crate::proto::Record;

/// Records to fetch together: enough to keep memory busy, few enough to still be in the cache when they are used.
pub const FETCH: usize = 16;

/// Reads a byte of each record. Records lie all over the heap; met one by one, with a reference counted between, each
/// costs a whole trip to memory, but asked for together they arrive together.
pub fn fetch<'a>(records: impl Iterator<Item = &'a Record>) {
    let read = records.fold(0_u8, |read, record| read ^ record.as_bytes().first().unwrap_or(&0));
    std::hint::black_box(read);
}
