//! Reads a bbolt image page by page, whatever its length, without trusting a byte of it: every offset is checked, and a
//! bucket is left after as many pages as the file has, so that pages pointing at each other end.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layout::{
    BRANCH, BUCKET, BUCKET_HEADER, ELEMENT, HASH_BYTES, LEAF, META_BYTES, Meta, PAGE_HEADER, u16_at, u32_at, u64_at,
};
use super::write::sha256;
use super::{Error, io};
use crate::storage::fs::{Disk, File, Open, Stream};

/// Longest page with its overflow that is read into memory; values in etcd are limited far below.
const NODE_BYTES_MAX: u64 = 1 << 30;
/// Levels of a tree; a real one of 2^64 pages has fewer.
const DEPTH_MAX: usize = 64;
/// Page sizes that exist on machines.
const PAGE_BYTES_MIN: u64 = 512;
const PAGE_BYTES_MAX: u64 = 1 << 16;
/// etcd's own test for a hash behind the image.
const SECTOR: u64 = 512;

/// See the module.
#[derive(Debug)]
pub struct BoltFile {
    file: Arc<dyn File>,
    path: PathBuf,
    meta: Meta,
    image_bytes: u64,
    has_hash: bool,
}

impl BoltFile {
    /// Opens an image, with or without etcd's hash behind it, by the later of its valid meta pages.
    ///
    /// # Errors
    /// [`Error`]
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self, Error> {
        let file = disk.open(path, Open::Read).map_err(io("open", path))?;
        let bytes = file.len().map_err(io("stat", path))?;
        let has_hash = bytes % SECTOR == HASH_BYTES as u64;
        let image_bytes = if has_hash { bytes - HASH_BYTES as u64 } else { bytes };
        let metas = meta_offsets().filter_map(|at| {
            let mut body = [0; META_BYTES];
            let read = file.read_at(at + PAGE_HEADER as u64, &mut body).ok()?;
            Meta::decode(&body)
                .filter(|_| read == META_BYTES)
                .filter(|meta| at == 0 || at == u64::from(meta.page_bytes))
        });
        let Some(meta) = metas.max_by_key(|meta| meta.transaction) else {
            return Err(Error::corrupt(path, "no valid meta page; this is no bbolt file of version 2"));
        };
        let page_bytes = u64::from(meta.page_bytes);
        if !page_bytes.is_power_of_two() || !(PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes) {
            return Err(Error::corrupt(path, format!("a page size of {page_bytes}")));
        }
        if meta.pages.checked_mul(page_bytes).is_none_or(|used| used > image_bytes) {
            let reason = format!("cut: {} pages of {page_bytes} in {image_bytes} bytes", meta.pages);
            return Err(Error::corrupt(path, reason));
        }
        Ok(Self { file, path: path.to_owned(), meta, image_bytes, has_hash })
    }

    /// Whether there is a hash behind the image, by etcd's test.
    pub fn has_hash(&self) -> bool {
        self.has_hash
    }

    /// Bytes up to the last page ever used.
    pub fn used_bytes(&self) -> u64 {
        self.meta.pages * u64::from(self.meta.page_bytes)
    }

    /// Compares the image with the hash behind it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] also when there is no hash.
    pub fn verify_hash(&self) -> Result<[u8; HASH_BYTES], Error> {
        if !self.has_hash {
            return Err(self.corrupt("there is no hash behind the image"));
        }
        let mut image = Stream::new(self.file.clone(), 0, self.image_bytes);
        let found = sha256(&mut image).map_err(io("read", &self.path))?;
        let mut promised = [0; HASH_BYTES];
        self.read_at(&mut promised, self.image_bytes)?;
        if found != promised { Err(self.corrupt("the SHA-256 does not match")) } else { Ok(found) }
    }

    /// Names of the buckets, ascending.
    ///
    /// # Errors
    /// [`Error`]
    pub fn buckets(&self) -> Result<Vec<Vec<u8>>, Error> {
        let mut names = Vec::new();
        let mut cursor = self.root()?;
        while cursor.step()? {
            names.push(cursor.current().0.to_vec());
        }
        Ok(names)
    }

    /// Entries of a bucket; `None` when there is no such bucket.
    ///
    /// # Errors
    /// [`Error`]
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Cursor<'_>>, Error> {
        let mut root = self.root()?;
        while root.step()? {
            let (key, header) = root.current();
            if key != name {
                continue;
            }
            let page = u64_at(header, 0).filter(|_| header.len() >= BUCKET_HEADER);
            return match page {
                Some(0) => {
                    let leaf = Node::new(header[BUCKET_HEADER..].to_vec());
                    let leaf = leaf.filter(|leaf| leaf.is_leaf).ok_or_else(|| self.corrupt("inline bucket"))?;
                    Ok(Some(Cursor::new(self, leaf, 0)))
                }
                Some(page) => Cursor::at_page(self, page, 0).map(Some),
                None => Err(self.corrupt("bucket header")),
            };
        }
        Ok(None)
    }

    fn root(&self) -> Result<Cursor<'_>, Error> {
        Cursor::at_page(self, self.meta.root, BUCKET)
    }

    fn node(&self, page: u64) -> Result<Node, Error> {
        let corrupt = |reason: &str| self.corrupt(format!("page {page}: {reason}"));
        let page_bytes = u64::from(self.meta.page_bytes);
        if page < 2 || page >= self.meta.pages {
            return Err(corrupt("outside of the file"));
        }
        let mut bytes = vec![0; self.meta.page_bytes as usize];
        self.read_at(&mut bytes, page * page_bytes)?;
        if u64_at(&bytes, 0) != Some(page) {
            return Err(corrupt("bears another number"));
        }
        let overflow = u64::from(u32_at(&bytes, 12).ok_or_else(|| corrupt("header"))?);
        if overflow >= self.meta.pages - page {
            return Err(corrupt("overflows the file"));
        }
        if overflow > 0 {
            let whole = (1 + overflow) * page_bytes;
            let whole = usize::try_from(whole.min(NODE_BYTES_MAX + 1)).map_err(|_| corrupt("too long"))?;
            if whole as u64 > NODE_BYTES_MAX {
                return Err(corrupt("too long"));
            }
            bytes.resize(whole, 0);
            self.read_at(&mut bytes[page_bytes as usize..], (page + 1) * page_bytes)?;
        }
        Node::new(bytes).ok_or_else(|| corrupt("neither leaf nor branch"))
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<(), Error> {
        let read = self.file.read_at(at, buffer).map_err(io("read", &self.path))?;
        if read == buffer.len() { Ok(()) } else { Err(self.corrupt("cut while it was read")) }
    }

    fn corrupt(&self, reason: impl Into<String>) -> Error {
        Error::corrupt(&self.path, reason)
    }
}

/// Meta page 0 is at the start; meta page 1 at the page size, which may be known from nowhere else.
fn meta_offsets() -> impl Iterator<Item = u64> {
    let sizes = PAGE_BYTES_MIN.trailing_zeros()..=PAGE_BYTES_MAX.trailing_zeros();
    std::iter::once(0).chain(sizes.map(|bits| 1 << bits))
}

/// A page with its overflow, or an inline leaf.
#[derive(Debug)]
struct Node {
    bytes: Vec<u8>,
    is_leaf: bool,
    count: usize,
}

impl Node {
    fn new(bytes: Vec<u8>) -> Option<Self> {
        let is_leaf = match u16_at(&bytes, 8)? {
            LEAF => true,
            BRANCH => false,
            _ => return None,
        };
        let count = usize::from(u16_at(&bytes, 10)?);
        (bytes.len() >= PAGE_HEADER + count * ELEMENT).then_some(Self { bytes, is_leaf, count })
    }

    /// Flags, key and value of a leaf's element.
    fn entry(&self, index: usize) -> Option<(u32, &[u8], &[u8])> {
        let at = PAGE_HEADER + index * ELEMENT;
        let field = |number: usize| u32_at(&self.bytes, at + 4 * number);
        let (key_bytes, value_bytes) = (field(2)? as usize, field(3)? as usize);
        let start = at.checked_add(field(1)? as usize)?;
        let middle = start.checked_add(key_bytes)?;
        let key = self.bytes.get(start..middle)?;
        let value = self.bytes.get(middle..middle.checked_add(value_bytes)?)?;
        Some((field(0)?, key, value))
    }

    /// The page a branch's element points to.
    fn child(&self, index: usize) -> Option<u64> {
        u64_at(&self.bytes, PAGE_HEADER + index * ELEMENT + 8)
    }
}

/// A key and its value, as long as the cursor stays.
pub type Entry<'a> = (&'a [u8], &'a [u8]);

/// Walks the entries of one bucket in order.
#[derive(Debug)]
pub struct Cursor<'a> {
    file: &'a BoltFile,
    /// From the root down: node and the element to look at next.
    path: Vec<(Node, usize)>,
    /// Every element must have these: [`BUCKET`] in the bucket of buckets, none elsewhere.
    flags: u32,
    last_key: Option<Vec<u8>>,
    pages_left: u64,
}

impl<'a> Cursor<'a> {
    fn new(file: &'a BoltFile, root: Node, flags: u32) -> Self {
        Self { file, path: vec![(root, 0)], flags, last_key: None, pages_left: file.meta.pages }
    }

    fn at_page(file: &'a BoltFile, page: u64, flags: u32) -> Result<Self, Error> {
        Ok(Self::new(file, file.node(page)?, flags))
    }

    /// The next key and value; `None` at the end.
    ///
    /// # Errors
    /// [`Error`]; the cursor must not be used any more.
    pub fn advance(&mut self) -> Result<Option<Entry<'_>>, Error> {
        Ok(if self.step()? { Some(self.current()) } else { None })
    }

    /// Moves to the next entry; whether there is one.
    fn step(&mut self) -> Result<bool, Error> {
        loop {
            let depth = self.path.len();
            let Some((node, next)) = self.path.last_mut() else { return Ok(false) };
            if *next == node.count {
                self.path.pop();
                continue;
            }
            let index = *next;
            *next += 1;
            if node.is_leaf {
                return self.check(index).map(|()| true);
            }
            let child = node.child(index).ok_or_else(|| self.file.corrupt("branch element"))?;
            if depth == DEPTH_MAX || self.pages_left == 0 {
                return Err(self.file.corrupt(format!("the pages above page {child} form a circle")));
            }
            self.pages_left -= 1;
            self.path.push((self.file.node(child)?, 0));
        }
    }

    /// Checks the element that the cursor has come to.
    fn check(&mut self, index: usize) -> Result<(), Error> {
        let leaf = &self.path.last().expect("step has found a leaf").0;
        let Some((flags, key, _)) = leaf.entry(index) else {
            return Err(self.file.corrupt("an element points outside of its page"));
        };
        if flags != self.flags {
            return Err(self.file.corrupt(format!("an element with flags {flags}")));
        }
        match &mut self.last_key {
            Some(last) if last[..].cmp(key) != Ordering::Less => {
                return Err(self.file.corrupt(format!("{} follows {}", key.escape_ascii(), last.escape_ascii())));
            }
            Some(last) => {
                last.clear();
                last.extend_from_slice(key);
            }
            last => *last = Some(key.to_vec()),
        }
        Ok(())
    }

    /// The entry that [`Cursor::step`] has checked.
    fn current(&self) -> Entry<'_> {
        let (leaf, next) = self.path.last().expect("step has found an entry");
        let (_, key, value) = leaf.entry(next - 1).expect("step has checked the entry");
        (key, value)
    }
}
