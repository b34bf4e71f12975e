//! Finding a key among sorted keys by eight of its bytes.
//!
//! A node keeps for each key a *head*: the eight bytes after the prefix that all its keys share, as a big-endian number
//! padded with zeros. A binary search over heads touches one short array; the keys themselves lie all over the heap, and
//! only those whose heads are equal are looked at.

use std::cmp::Ordering;

/// Bytes of a key in a head.
pub const HEAD_BYTES: usize = 8;

/// The head of a key in a node whose keys share `skip` bytes.
#[inline]
pub fn head(key: &[u8], skip: usize) -> u64 {
    let rest = key.get(skip..).unwrap_or_default();
    if let Some(bytes) = rest.first_chunk::<HEAD_BYTES>() {
        return u64::from_be_bytes(*bytes);
    }
    let mut bytes = [0; HEAD_BYTES];
    bytes[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(bytes)
}

/// How many bytes two keys share at their start.
pub fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// `Ok` with the place of `key`, or `Err` with the place it would take. `heads[i]` is the head of `key_at(i)`, and all
/// those keys share `skip` bytes.
#[inline]
pub fn find<'a>(heads: &[u64], skip: usize, key_at: impl Fn(usize) -> &'a [u8], key: &[u8]) -> Result<usize, usize> {
    if heads.is_empty() {
        return Err(0);
    }
    let wanted = head(key, skip);
    let first = heads.partition_point(|head| *head < wanted);
    let (mut low, mut high) = (first, first);
    while heads.get(high) == Some(&wanted) {
        high += 1;
    }
    while low < high {
        let middle = low.midpoint(high);
        match key_at(middle).cmp(key) {
            Ordering::Less => low = middle + 1,
            Ordering::Equal => return Ok(middle),
            Ordering::Greater => high = middle,
        }
    }
    if skip == 0 {
        return Err(low);
    }
    // The heads say nothing when the key does not share the prefix: then it lies before or after all of them.
    let prefix = &key_at(first.min(heads.len() - 1))[..skip];
    match key[..skip.min(key.len())].cmp(prefix) {
        Ordering::Less => Err(0),
        Ordering::Equal => Err(low),
        Ordering::Greater => Err(heads.len()),
    }
}
