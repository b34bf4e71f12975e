//! A list of dated items, newest first, unrolled into blocks: pushing is cheap, also while views hold the list, and
//! clones share the blocks.

use std::sync::Arc;

/// Items a block holds at most.
const BLOCK_MAX: usize = 256;

/// A block that a view holds is copied for a push while it is not longer than this; else a new block goes before it.
/// So a push copies little, and the list does not become a chain of single items.
const COPY_MAX: usize = 8;

/// Something that happened at a main revision.
pub trait Dated {
    /// Its main revision.
    fn main(&self) -> i64;
}

/// Items in the order of their main revisions. As small as a pointer, for every key has one.
#[derive(Clone, Debug)]
pub struct List<T> {
    head: Option<Arc<Block<T>>>,
}

/// A run of items; the blocks of a list go from newer to older.
#[derive(Clone, Debug)]
struct Block<T> {
    /// Never empty; oldest first, so that a push goes to the end.
    items: Vec<T>,
    older: Option<Arc<Block<T>>>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { head: None }
    }
}

impl<T: Dated + Clone> List<T> {
    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// All items, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.blocks().flat_map(|block| block.items.iter().rev())
    }

    /// The newest item at or before main revision `at`.
    pub fn newest_at(&self, at: i64) -> Option<&T> {
        let block = self.blocks().find(|block| block.items[0].main() <= at)?;
        block.items.get(block.end(at).checked_sub(1)?)
    }

    /// The oldest item.
    pub fn oldest(&self) -> Option<&T> {
        self.blocks().last().map(|block| &block.items[0])
    }

    /// How many items are newer than main revision `at`; about as costly as one step a block.
    pub fn newer_than(&self, at: i64) -> usize {
        let mut newer = 0;
        for block in self.blocks() {
            if block.items[0].main() <= at {
                return newer + block.items.len() - block.end(at);
            }
            newer += block.items.len();
        }
        newer
    }

    /// Adds the newest item.
    pub fn push(&mut self, item: T) {
        if let Some(head) = &mut self.head {
            if let Some(block) = Arc::get_mut(head)
                && block.items.len() < BLOCK_MAX
            {
                block.items.push(item);
                return;
            }
            if head.items.len() <= COPY_MAX {
                let mut items = Vec::with_capacity(head.items.len() + 1);
                items.extend_from_slice(&head.items);
                items.push(item);
                *head = Arc::new(Block { items, older: head.older.clone() });
                return;
            }
        }
        self.head = Some(Arc::new(Block { items: vec![item], older: self.head.take() }));
    }

    /// Takes out the items at or before main revision `at`, but for the newest of them if `keep` says so.
    pub fn cut(&mut self, at: i64, keep: impl FnOnce(&T) -> bool) -> Cut<T> {
        let mut link = &mut self.head;
        while link.as_ref().is_some_and(|block| block.items[0].main() > at) {
            let block = link.as_mut().expect("the loop's condition saw it");
            link = &mut Arc::make_mut(block).older;
        }
        let mut cut = Cut::default();
        let Some(head) = link else { return cut };
        let end = head.end(at);
        let end = if keep(&head.items[end - 1]) { end - 1 } else { end };
        if end == head.items.len() {
            cut.rest.head = link.take();
        } else if end > 0 || head.older.is_some() {
            let block = Arc::make_mut(head);
            cut.rest.head = block.older.take();
            cut.items = block.items.drain(..end).collect();
            block.items.shrink_to_fit();
        }
        cut
    }

    fn blocks(&self) -> impl Iterator<Item = &Block<T>> {
        std::iter::successors(self.head.as_deref(), |block| block.older.as_deref())
    }
}

/// Items taken out of a list; to be freed outside any lock, for they may be many.
#[derive(Debug)]
pub struct Cut<T> {
    items: Vec<T>,
    rest: List<T>,
}

impl<T> Default for Cut<T> {
    fn default() -> Self {
        Self { items: Vec::new(), rest: List::default() }
    }
}

impl<T: Dated + Clone> Cut<T> {
    /// All of a list.
    pub fn all(list: List<T>) -> Self {
        Self { items: Vec::new(), rest: list }
    }

    /// Whether nothing was taken out.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.rest.is_empty()
    }

    /// What was taken out, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().chain(self.rest.iter())
    }
}

impl<T: Dated> Block<T> {
    /// Where the items newer than `at` begin.
    fn end(&self, at: i64) -> usize {
        self.items.partition_point(|item| item.main() <= at)
    }
}

/// A list of a million items is freed in a loop, not by nested drops.
impl<T> Drop for Block<T> {
    fn drop(&mut self) {
        let mut next = self.older.take();
        while let Some(mut block) = next.and_then(Arc::into_inner) {
            next = block.older.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct At(i64);

    impl Dated for At {
        fn main(&self) -> i64 {
            self.0
        }
    }

    /// A list of 1 to `to`; a clone is held at every `pin`-th push.
    fn list(to: i64, pin: i64) -> List<At> {
        let mut list = List::default();
        let mut pinned = List::default();
        for at in 1..=to {
            list.push(At(at));
            if at % pin == 0 {
                pinned = list.clone();
            }
        }
        assert!(pin > to || pinned.iter().next() == Some(&At(to / pin * pin)), "a clone stays as it was");
        list
    }

    #[test]
    fn items_are_found_by_revision_however_the_list_was_shared() {
        for pin in [1, 2, 7, 300, 100_000] {
            let list = list(1_000, pin);
            assert!(list.iter().map(|item| item.0).eq((1..=1_000).rev()));
            for at in [0, 1, 255, 256, 257, 999, 1_000, 5_000] {
                assert_eq!(list.newest_at(at).map_or(0, |item| item.0), at.min(1_000));
                assert_eq!(list.newer_than(at) as i64, (1_000 - at).max(0));
            }
            assert_eq!(list.oldest(), Some(&At(1)));
        }
    }

    #[test]
    fn cutting_takes_what_is_old_and_keeps_the_newest_of_it_on_request() {
        for (pin, at, keep) in [(1, 500, true), (300, 500, false), (100_000, 256, true), (100_000, 256, false)] {
            let mut list = list(1_000, pin);
            let before = list.clone();
            let cut = list.cut(at, |_| keep);
            let first = if keep { at } else { at + 1 };
            assert!(list.iter().map(|item| item.0).eq((first..=1_000).rev()));
            let mut taken: Vec<i64> = cut.iter().map(|item| item.0).collect();
            taken.sort_unstable();
            assert!(taken.into_iter().eq(1..first));
            assert_eq!(before.iter().count(), 1_000, "a clone stays as it was");
        }
        assert!(list(10, 100).cut(0, |_| true).is_empty());
    }

    #[test]
    fn a_long_chain_is_freed_without_deep_recursion() {
        let mut long = list(1, 2);
        // Every push meets a shared, long block, so that every block holds few items.
        for at in 2..2_000_000 {
            let _pinned = (at % 10 == 0).then(|| long.clone());
            long.push(At(at));
        }
        drop(long);
    }
}
