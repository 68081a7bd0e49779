//! Counters that a progress bar reads while a copy runs.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a copy has done so far. Relaxed counters: each is right by itself, together they are a moment's picture.
#[derive(Debug, Default)]
pub struct Progress {
    items: AtomicU64,
    bytes: AtomicU64,
    items_found: AtomicU64,
    bytes_found: AtomicU64,
}

impl Progress {
    /// Files, folders and links finished.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.items.load(Ordering::Relaxed)
    }

    /// Logical bytes of files finished, and of the parts of those under way.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Items found so far: the total, once the walk has ended.
    #[must_use]
    pub fn items_found(&self) -> u64 {
        self.items_found.load(Ordering::Relaxed)
    }

    /// Logical bytes found so far.
    #[must_use]
    pub fn bytes_found(&self) -> u64 {
        self.bytes_found.load(Ordering::Relaxed)
    }

    pub(crate) fn found(&self, items: u64, bytes: u64) {
        self.items_found.fetch_add(items, Ordering::Relaxed);
        self.bytes_found.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn done(&self, items: u64, bytes: u64) {
        self.items.fetch_add(items, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
