//! Writes a bbolt image in one pass over sorted entries: leaves as they fill, the branches above them as those fill.
//! Only the two meta pages come last, and the hash needs them, so the file is read once more at the end.
//!
//! Bulk writing only: no page is ever changed, none is free.

use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::layout::{BRANCH, BUCKET, BUCKET_HEADER, ELEMENT, HASH_BYTES, LEAF, META, Meta, PAGE_HEADER};
use super::{Error, io};
use crate::storage::fs::{File, Stream};

/// bbolt's usual page size, which etcd's files have on every common machine.
const PAGE_BYTES: usize = 4096;
/// Pages 0 and 1 are the meta pages.
const FIRST_PAGE: u64 = 2;
/// bbolt's own limits.
const KEY_BYTES_MAX: usize = 32768;
const VALUE_BYTES_MAX: usize = (1 << 31) - 2;
const BUFFER_BYTES: usize = 1 << 20;

/// See the module.
pub struct BoltWriter {
    out: BufWriter<Stream>,
    path: PathBuf,
    next_page: u64,
    /// Finished buckets: name and root page.
    buckets: Vec<(Vec<u8>, u64)>,
    open: Option<OpenBucket>,
}

/// A bucket that takes entries.
#[derive(Default)]
struct OpenBucket {
    name: Vec<u8>,
    leaf: Node,
    /// Branches from the leaves up; each collects the pages of the level below.
    branches: Vec<Level>,
    last_key: Option<Vec<u8>>,
}

#[derive(Default)]
struct Level {
    node: Node,
    pages_written: u64,
}

/// A page that fills: its elements, and the bytes they point to.
#[derive(Default)]
struct Node {
    elements: Vec<Element>,
    data: Vec<u8>,
}

struct Element {
    /// Where its key starts in the node's data; the value, if any, follows.
    start: usize,
    key_bytes: usize,
    value_bytes: usize,
    /// Of a leaf's element: its flags; of a branch's: the page it points to.
    flags_or_page: u64,
}

impl Node {
    fn push(&mut self, key: &[u8], value: &[u8], flags_or_page: u64) {
        let start = self.data.len();
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
        self.elements.push(Element { start, key_bytes: key.len(), value_bytes: value.len(), flags_or_page });
    }

    /// Bytes of the page with `more` in a further element.
    fn bytes_with(&self, more: usize) -> usize {
        PAGE_HEADER + (self.elements.len() + 1) * ELEMENT + self.data.len() + more
    }

    fn first_key(&self) -> &[u8] {
        self.elements.first().map_or(&[], |first| &self.data[first.start..first.start + first.key_bytes])
    }

    /// The page's bytes, padded to whole pages; the node is empty afterwards.
    fn take(&mut self, id: u64, flags: u16) -> Vec<u8> {
        let bytes = PAGE_HEADER + self.elements.len() * ELEMENT + self.data.len();
        let pages = bytes.div_ceil(PAGE_BYTES);
        let mut page = Vec::with_capacity(pages * PAGE_BYTES);
        page.extend_from_slice(&id.to_le_bytes());
        page.extend_from_slice(&flags.to_le_bytes());
        page.extend_from_slice(&u16::try_from(self.elements.len()).expect("a page's worth of elements").to_le_bytes());
        page.extend_from_slice(&as_u32(pages - 1).to_le_bytes());
        for (index, element) in self.elements.iter().enumerate() {
            let offset = as_u32((self.elements.len() - index) * ELEMENT + element.start).to_le_bytes();
            if flags == LEAF {
                page.extend_from_slice(&(element.flags_or_page as u32).to_le_bytes());
                page.extend_from_slice(&offset);
                page.extend_from_slice(&as_u32(element.key_bytes).to_le_bytes());
                page.extend_from_slice(&as_u32(element.value_bytes).to_le_bytes());
            } else {
                page.extend_from_slice(&offset);
                page.extend_from_slice(&as_u32(element.key_bytes).to_le_bytes());
                page.extend_from_slice(&element.flags_or_page.to_le_bytes());
            }
        }
        page.extend_from_slice(&self.data);
        page.resize(pages * PAGE_BYTES, 0);
        self.elements.clear();
        self.data.clear();
        page
    }
}

impl BoltWriter {
    /// Starts the file, which must be empty.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn new(file: Arc<dyn File>, path: &Path) -> Result<Self, Error> {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, Stream::new(file, 0, 0));
        let room = [0; FIRST_PAGE as usize * PAGE_BYTES];
        out.write_all(&room).map_err(io("write", path))?;
        Ok(Self { out, path: path.to_owned(), next_page: FIRST_PAGE, buckets: Vec::new(), open: None })
    }

    /// Whether a bucket of this name was started.
    pub fn has(&self, name: &[u8]) -> bool {
        self.buckets.iter().any(|(bucket, _)| bucket == name)
            || self.open.as_ref().is_some_and(|open| open.name == name)
    }

    /// Ends the bucket before and starts one; the order of buckets does not matter.
    ///
    /// # Errors
    /// [`Error::Io`]
    ///
    /// # Panics
    /// When there is a bucket of this name.
    pub fn start(&mut self, name: &[u8]) -> Result<(), Error> {
        assert!(!self.has(name), "bucket {} twice", name.escape_ascii());
        self.end()?;
        self.open = Some(OpenBucket { name: name.to_owned(), ..OpenBucket::default() });
        Ok(())
    }

    /// Adds an entry to the open bucket.
    ///
    /// # Errors
    /// [`Error::Io`]
    ///
    /// # Panics
    /// When no bucket is open, the key is not greater than the one before, or an entry is longer than bbolt allows.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let mut open = self.open.take().expect("a bucket was started");
        assert!(!key.is_empty() && key.len() <= KEY_BYTES_MAX && value.len() <= VALUE_BYTES_MAX, "bbolt's limits");
        match &mut open.last_key {
            Some(last) => {
                assert!(&last[..] < key, "keys ascend: {} after {}", key.escape_ascii(), last.escape_ascii());
                last.clear();
                last.extend_from_slice(key);
            }
            last => *last = Some(key.to_owned()),
        }
        if !open.leaf.elements.is_empty() && open.leaf.bytes_with(key.len() + value.len()) > PAGE_BYTES {
            self.write_leaf(&mut open)?;
        }
        open.leaf.push(key, value, 0);
        self.open = Some(open);
        Ok(())
    }

    /// Ends the image: bucket of buckets, meta pages, SHA-256, fsync. Returns the file's length and the hash.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn finish(mut self) -> Result<(u64, [u8; HASH_BYTES]), Error> {
        self.end()?;
        self.buckets.sort();
        let mut node = Node::default();
        for (name, root) in &self.buckets {
            let mut header = [0; BUCKET_HEADER];
            header[..8].copy_from_slice(&root.to_le_bytes());
            node.push(name, &header, u64::from(BUCKET));
        }
        let root = self.write_node(&mut node, LEAF)?;
        let (pages, path) = (self.next_page, self.path);
        let out = self.out.into_inner().map_err(|error| io("write", &path)(error.into_error()))?;
        let file = out.into_file();
        for (id, transaction) in [(0u64, 2), (1, 1)] {
            let mut page = vec![0; PAGE_HEADER];
            page[..8].copy_from_slice(&id.to_le_bytes());
            page[8..10].copy_from_slice(&META.to_le_bytes());
            page.extend_from_slice(&Meta { page_bytes: PAGE_BYTES as u32, root, pages, transaction }.encode());
            file.write_at(id * PAGE_BYTES as u64, &page).map_err(io("write", &path))?;
        }
        let bytes = pages * PAGE_BYTES as u64;
        let hash = sha256(&mut Stream::new(file.clone(), 0, bytes)).map_err(io("read", &path))?;
        file.write_at(bytes, &hash).map_err(io("write", &path))?;
        file.sync_all().map_err(io("sync", &path))?;
        Ok((bytes + HASH_BYTES as u64, hash))
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if open.last_key.is_none() {
            let root = self.write_node(&mut open.leaf, LEAF)?;
            self.buckets.push((open.name, root));
            return Ok(());
        }
        self.write_leaf(&mut open)?;
        let mut level = 0;
        loop {
            let top = level + 1 == open.branches.len();
            let branch = &mut open.branches[level];
            if let (true, 0, [only]) = (top, branch.pages_written, &branch.node.elements[..]) {
                self.buckets.push((open.name, only.flags_or_page));
                return Ok(());
            }
            if !branch.node.elements.is_empty() {
                self.write_branch(&mut open.branches, level)?;
            }
            level += 1;
        }
    }

    fn write_leaf(&mut self, open: &mut OpenBucket) -> Result<(), Error> {
        let first_key = open.leaf.first_key().to_owned();
        let page = self.write_node(&mut open.leaf, LEAF)?;
        self.push_up(&mut open.branches, 0, &first_key, page)
    }

    fn write_branch(&mut self, branches: &mut Vec<Level>, level: usize) -> Result<(), Error> {
        let first_key = branches[level].node.first_key().to_owned();
        let page = self.write_node(&mut branches[level].node, BRANCH)?;
        branches[level].pages_written += 1;
        self.push_up(branches, level + 1, &first_key, page)
    }

    /// Adds a page to the branch above it, which is written when full. It takes two at least, however long their keys:
    /// with one child each, levels would never come to an end.
    fn push_up(&mut self, branches: &mut Vec<Level>, level: usize, key: &[u8], page: u64) -> Result<(), Error> {
        if branches.len() == level {
            branches.push(Level::default());
        }
        let node = &branches[level].node;
        if node.elements.len() >= 2 && node.bytes_with(key.len()) > PAGE_BYTES {
            self.write_branch(branches, level)?;
        }
        branches[level].node.push(key, &[], page);
        Ok(())
    }

    fn write_node(&mut self, node: &mut Node, flags: u16) -> Result<u64, Error> {
        let id = self.next_page;
        let bytes = node.take(id, flags);
        self.out.write_all(&bytes).map_err(io("write", &self.path))?;
        self.next_page += (bytes.len() / PAGE_BYTES) as u64;
        Ok(id)
    }
}

/// Hashes a stream to its end.
pub fn sha256(from: &mut impl Read) -> std::io::Result<[u8; HASH_BYTES]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            bytes => hasher.update(&buffer[..bytes]),
        }
    }
}

fn as_u32(value: usize) -> u32 {
    u32::try_from(value).expect("entries are below 2 GiB, pages hold one such or less than 4 KiB")
}
