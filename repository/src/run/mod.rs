//! Sorted runs: the one format of metadata images and pack indexes. See `docs/formats/repository.md`.
//!
//! A run is one or several *segments*, objects of some 32 MiB with key ranges that do not overlap. A segment is a row of
//! compressed blocks of about 64 KiB, an index of their first keys, and a footer; each block has a CRC-32C, the segment a
//! BLAKE3. Segments are built in memory and put whole: nothing half-written is ever visible, and a failed put is repeated
//! as it is, so no multipart upload is ever left behind.

mod block;
mod builder;
mod cache;
mod chain;
mod format;
mod loaded;
mod reader;
mod write;

#[cfg(test)]
mod run_test;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use block::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
pub use builder::{Built, RunError, SegmentBuilder};
pub use cache::BlockCache;
pub(crate) use chain::{Merged, RunRecords};
pub use format::{FormatError, RunKind};
pub use loaded::{Loaded, LoadedRecords};
pub(crate) use reader::SegmentReader;
pub(crate) use write::write_run;

/// Largest segment object that is read, in bytes: a segment is closed long before, one record may go past.
pub const SEGMENT_BYTES_MAX: u64 = 256 << 20;

/// What is known of a segment before it is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// Its random name.
    pub name: u128,
    /// Its first key.
    pub first: Bytes,
    /// Its last key.
    pub last: Bytes,
    /// Number of records, tombstones included.
    pub records: u64,
    /// Length of the object.
    pub bytes: u64,
    /// BLAKE3 of the object up to its footer.
    pub blake3: [u8; 32],
}

impl SegmentRef {
    /// Whether a key of `from <= key < to` may be in it.
    #[must_use]
    pub fn overlaps(&self, from: &[u8], to: &[u8]) -> bool {
        &self.first[..] < to && from <= &self.last[..]
    }
}
