//! What goes wrong on a [`Disk`](super::disk::Disk) besides power cuts. Plain settings; the disk asks before it acts.

use std::time::Duration;

/// Faults that are in force from now on. The default is none.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The disk is full at this many bytes of allocated pages: `ENOSPC`.
    pub capacity_bytes: Option<u64>,
    /// The nth sync from now fails once with `EIO` (1 = the next); its pages are marked clean and are lost.
    pub fail_sync_in: Option<u64>,
    /// Every sync fails with `EIO`.
    pub fail_all_syncs: bool,
    /// The nth write from now fails once with `EIO` (1 = the next).
    pub fail_write_in: Option<u64>,
    /// The nth read from now fails once with `EIO` (1 = the next). Reads from the kernel's cache are not counted.
    pub fail_read_in: Option<u64>,
    /// Syncs answer success and write nothing: a disk that lies.
    pub lying_sync: bool,
    /// Every change is refused with `EROFS`.
    pub read_only: bool,
    /// Syncs and synchronous writes take this long before they happen.
    pub slow_sync: Option<Duration>,
}

impl Faults {
    pub(super) fn sync_fails(&mut self) -> bool {
        count_down(&mut self.fail_sync_in) || self.fail_all_syncs
    }

    pub(super) fn write_fails(&mut self) -> bool {
        count_down(&mut self.fail_write_in)
    }

    pub(super) fn read_fails(&mut self) -> bool {
        count_down(&mut self.fail_read_in)
    }
}

/// Counts one event; true when it is the one.
fn count_down(left: &mut Option<u64>) -> bool {
    match left {
        Some(0 | 1) => {
            *left = None;
            true
        }
        Some(more) => {
            *more -= 1;
            false
        }
        None => false,
    }
}
