//! The condemned chunks, in memory and in a file. `docs/formats/gc.md` is the page of the file.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::time::Duration;

use causeway_base::ChunkId;
use causeway_storage::disk::Disk;

use super::files::{read, replace};

/// Most chunks that are condemned at once: 96 MB of memory. At 64 KiB a chunk they are 128 GiB; the rest waits for later epochs.
pub(super) const CONDEMNED_MAX: usize = 2 << 20;

const MAGIC: [u8; 4] = *b"CWGC";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 40;

/// Chunks that a mark did not reach, and when that was.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Of the last mark that was completed.
    pub(super) epoch: u64,
    /// With the epoch that condemned them.
    pub(super) condemned: HashMap<ChunkId, u64>,
    /// Of the epochs in `condemned`.
    pub(super) epochs: BTreeMap<u64, Condemnation>,
    /// Told here again since they were condemned; since the last mark.
    pub(super) revived: u64,
}

/// The end of a phase 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condemnation {
    /// Its place in the order of leases.
    pub(super) order: u64,
    /// When, since the store was opened.
    pub(super) at: Duration,
}

impl Marks {
    /// Forgets epochs without chunks.
    pub(super) fn tidy(&mut self) {
        let used: std::collections::BTreeSet<u64> = self.condemned.values().copied().collect();
        self.epochs.retain(|epoch, _| used.contains(epoch));
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut entries: Vec<(&ChunkId, &u64)> = self.condemned.iter().collect();
        entries.sort_unstable();
        let mut out = Vec::with_capacity(HEADER_BYTES + entries.len() * ENTRY_BYTES + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&(entries.len() as u64).to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        for (id, epoch) in entries {
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(&epoch.to_le_bytes());
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// `None` if the bytes are not marks. All that was condemned counts as condemned at `now`.
    pub(super) fn decode(bytes: &[u8], now: Condemnation) -> Option<Self> {
        let (covered, sum) = bytes.split_last_chunk::<4>()?;
        let header = covered.first_chunk::<HEADER_BYTES>()?;
        let long = |at: usize| header[at..at + 8].iter().rev().fold(0_u64, |long, byte| long << 8 | u64::from(*byte));
        let good = header[..4] == MAGIC && header[4..6] == VERSION.to_le_bytes();
        let entries = &covered[HEADER_BYTES..];
        let expected = usize::try_from(long(16)).ok()?.checked_mul(ENTRY_BYTES)?;
        if !good || entries.len() != expected || crc32c::crc32c(covered) != u32::from_le_bytes(*sum) {
            return None;
        }
        let mut marks = Self { epoch: long(8), ..Self::default() };
        for entry in entries.chunks_exact(ENTRY_BYTES) {
            let epoch = entry[32..].iter().rev().fold(0_u64, |long, byte| long << 8 | u64::from(*byte));
            marks.condemned.insert(ChunkId::from_slice(&entry[..32])?, epoch);
            marks.epochs.insert(epoch, now);
        }
        Some(marks)
    }

    /// Replaces the file; durable on return.
    pub(super) fn store(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        replace(disk, dir, FILE, &self.encode())
    }

    pub(super) fn load(disk: &dyn Disk, dir: &Path, now: Condemnation) -> Option<Self> {
        let most = HEADER_BYTES + CONDEMNED_MAX * ENTRY_BYTES + 4;
        match read(disk, &dir.join(FILE), most as u64) {
            Ok(bytes) => {
                let marks = Self::decode(&bytes, now);
                if marks.is_none() {
                    tracing::warn!(dir = %dir.display(), "the marks of the garbage collection cannot be read; it begins anew");
                }
                marks
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "the marks of the garbage collection cannot be read; it begins anew");
                None
            }
        }
    }
}

const FILE: &str = "gc.marks";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_survive_and_any_flipped_bit_shows(ids in prop::collection::btree_map(any::<[u8; 32]>(), 1..9_u64, 0..20), epoch in any::<u64>(), at in any::<prop::sample::Index>(), bit in 0_u32..8, cut in any::<prop::sample::Index>()) {
            let mut marks = Marks { epoch, ..Marks::default() };
            marks.condemned.extend(ids.into_iter().map(|(id, epoch)| (ChunkId(id), epoch)));
            let now = Condemnation { order: 4, at: Duration::from_secs(9) };
            let mut bytes = marks.encode();
            let read = Marks::decode(&bytes, now).unwrap();
            prop_assert_eq!((read.epoch, &read.condemned), (marks.epoch, &marks.condemned));
            prop_assert!(read.condemned.values().all(|epoch| read.epochs[epoch].order == 4));
            prop_assert!(Marks::decode(&bytes[..cut.index(bytes.len())], now).is_none());
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Marks::decode(&bytes, now).is_none());
        }
    }
}
