//! The seam to an ordered key-value store.
//!
//! Keys and values are bytes; keys sort as bytes. A [`Space`] is a separate key range with its own name. A [`Batch`] is
//! applied whole or not at all, across spaces, also after a crash. What survives a power cut is what was written before
//! the last [`Kv::persist`] that returned, and it is a prefix of the batches in the order of their [`Kv::write`].

pub mod conformance;
mod fjall;
mod headroom;
mod lost;
mod memory;
mod sled;
mod watched;

use std::collections::HashSet;
use std::fmt::Debug;
use std::ops::Bound;

use bytes::Bytes;

pub use self::fjall::{FjallKv, FjallOptions};
pub use self::sled::{SledKv, SledOptions};
pub use lost::LostKv;
pub use memory::MemoryKv;
pub use watched::WatchedKv;

/// A named key range of a store, fixed when the store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space(pub &'static str);

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 4096;
/// Longest value in bytes.
pub const VALUE_BYTES_MAX: usize = 8 << 20;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// The disk is full; nothing of the batch was applied, reads go on.
    #[error("no space left for the {engine} store")]
    Full {
        /// The engine's name.
        engine: &'static str,
    },
    /// A failed write or sync, or a failed checksum. The store takes no writes any more. Whether the batch that met the
    /// failure took place (whole) is known only after the store is opened again.
    #[error("the {engine} store is damaged or its disk fails: {reason}")]
    Damaged {
        /// The engine's name.
        engine: &'static str,
        /// What the engine says.
        reason: String,
    },
    /// A space that was not named when the store was opened, or a key or value over its bound.
    #[error("bad use of the {engine} store: {reason}")]
    Usage {
        /// The engine's name.
        engine: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Any other failure; nothing of the batch was applied.
    #[error("the {engine} store: {reason}")]
    Other {
        /// The engine's name.
        engine: &'static str,
        /// What the engine says.
        reason: String,
    },
}

/// Range of keys, as two bounds.
pub type KeyRange = (Bound<Bytes>, Bound<Bytes>);

/// The range of all keys that start with `prefix`.
#[must_use]
pub fn prefix_range(prefix: &[u8]) -> KeyRange {
    let start = Bound::Included(Bytes::copy_from_slice(prefix));
    let end = match prefix.iter().rposition(|byte| *byte != 0xff) {
        None => Bound::Unbounded,
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bound::Excluded(end.into())
        }
    };
    (start, end)
}

/// Whether no key can be in a range: its bounds cross or touch without both being included.
#[must_use]
pub fn range_is_empty(range: &KeyRange) -> bool {
    match range {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
    }
}

/// Key and value of a scan.
pub type Entry = (Bytes, Bytes);

/// A scan: lazy, in key order (or its reverse); ends after the first error.
pub type Scan<'a> = Box<dyn Iterator<Item = Result<Entry, KvError>> + Send + 'a>;

/// What can be read, of the newest state or of a snapshot.
pub trait KvRead: Send + Sync + Debug {
    /// The value of a key.
    ///
    /// # Errors
    /// [`KvError::Damaged`], [`KvError::Usage`] for an unknown space.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError>;

    /// The entries of a range in key order, or the reverse of it.
    fn scan(&self, space: Space, range: KeyRange, reverse: bool) -> Scan<'_>;
}

/// An ordered store.
pub trait Kv: KvRead {
    /// Applies a batch atomically. Visible to reads when it returns; durable after the next [`Kv::persist`].
    ///
    /// # Errors
    /// Any [`KvError`]; see the variants for what is known afterwards.
    fn write(&self, batch: Batch) -> Result<(), KvError>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// [`KvError::Damaged`] if the sync failed: the store takes no writes any more.
    fn persist(&self) -> Result<(), KvError>;

    /// A consistent view of this moment; cheap, and unaffected by later writes. Old data is kept while it lives.
    fn snapshot(&self) -> Box<dyn KvRead>;

    /// Bytes on disk, as far as the engine knows.
    fn disk_bytes(&self) -> u64;
}

/// Puts and deletes that are applied together, in order (a later one wins).
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) ops: Vec<(Space, Bytes, Option<Bytes>)>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a put.
    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.ops.push((space, key.into(), Some(value.into())));
    }

    /// Adds a delete; deleting what is not there is fine.
    pub fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        self.ops.push((space, key.into(), None));
    }

    /// Number of operations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there are no operations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let sizes = self.ops.iter().map(|(_, key, value)| key.len() + value.as_ref().map_or(0, Bytes::len));
        sizes.sum::<usize>() as u64
    }

    /// The operations that count, in no stated order: the last one of each key. For engines that give all operations
    /// of a batch the same version and leave the order among equal keys open.
    pub(crate) fn last_of_each_key(self) -> Vec<(Space, Bytes, Option<Bytes>)> {
        let mut ops = self.ops;
        let mut seen: HashSet<(Space, &[u8])> = HashSet::with_capacity(ops.len());
        let counts: Vec<bool> = ops.iter().rev().map(|(space, key, _)| seen.insert((*space, key))).collect();
        let mut counts = counts.into_iter().rev();
        ops.retain(|_| counts.next().unwrap_or(true));
        ops
    }

    /// Checks spaces and sizes; engines call it before they touch anything.
    pub(crate) fn validate(&self, engine: &'static str, spaces: &[Space]) -> Result<(), KvError> {
        for (space, key, value) in &self.ops {
            let reason = if !spaces.contains(space) {
                format!("no space {:?}", space.0)
            } else if key.is_empty() || key.len() > KEY_BYTES_MAX {
                format!("a key of {} bytes (1 to {KEY_BYTES_MAX} are allowed)", key.len())
            } else if value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX) {
                format!("a value over {VALUE_BYTES_MAX} bytes")
            } else {
                continue;
            };
            return Err(KvError::Usage { engine, reason });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_range_ends_after_the_last_byte_that_can_grow() {
        assert_eq!(prefix_range(b"ab").1, Bound::Excluded(Bytes::from_static(b"ac")));
        assert_eq!(prefix_range(b"a\xff").1, Bound::Excluded(Bytes::from_static(b"b")));
        assert_eq!(prefix_range(b"\xff\xff").1, Bound::Unbounded);
        assert_eq!(prefix_range(b"").1, Bound::Unbounded);
    }
}
