//! Compares chunks with their names.
//!
//! The scrub's checksums find what a disk does to a record. They do not find a record that was written wrong, or changed by
//! someone who knows the format: only the chunk's name does, and that is keyed by a realm, which the store does not know.
//! So the caller judges, chunk by chunk.

use std::io;
use std::sync::PoisonError;

use causeway_base::ChunkId;

use super::format::FooterEntry;
use super::gc::Pace;
use super::index::{Entry, Location};
use super::pack::ReadError;
use super::{ChunkStore, Damage, StoreError, lock};
use crate::EncodedChunk;
use crate::delta::DEPTH_MAX;

/// Plain bytes that are read at once, and held in memory.
const BATCH_BYTES: u64 = 4 << 20;

/// What comparing the chunks of a pack with their names found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Chunks that were compared.
    pub chunks: u64,
    /// Their plain bytes.
    pub bytes: u64,
    /// Those that are wrong, or could not be read. They count as missing now.
    pub corrupt: Vec<ChunkId>,
    /// It was told to stop before the end.
    pub stopped: bool,
}

impl ChunkStore {
    /// Reads each chunk that is served from a pack, and asks `is_right` whether its bytes are those that its id names. Wrong
    /// ones are missing from then on. A delta that is wrong only because of what it stands on waits for that to be put again. Nothing is found in a pack that is not there, or whose list of records is damaged:
    /// [`ChunkStore::scrub_pack`] comes first.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Index`].
    pub fn verify_pack(
        &self,
        pack: u32,
        is_right: &mut dyn FnMut(&EncodedChunk) -> bool,
        pace: Pace<'_>,
    ) -> Result<Verified, StoreError> {
        let mut verified = Verified::default();
        let entries = self.records_of(pack)?;
        lock(&self.blocks).forget_pack(pack);
        let mut batch: Vec<(ChunkId, Location)> = Vec::new();
        let mut bytes = 0;
        for entry in entries.iter().map(Some).chain([None]) {
            if let Some(entry) = entry
                && self.lives(pack, entry)?
            {
                bytes += u64::from(entry.raw_len);
                batch.push((entry.id, Location::of(pack, entry)));
            }
            if bytes < BATCH_BYTES && entry.is_some() {
                continue;
            }
            self.verify(&batch, is_right, &mut verified)?;
            batch.clear();
            if !pace(std::mem::take(&mut bytes)) {
                verified.stopped = true;
                break;
            }
        }
        Ok(verified)
    }

    /// The records of a pack, whether it is still written or not.
    fn records_of(&self, pack: u32) -> Result<Vec<FooterEntry>, StoreError> {
        {
            let writer = lock(&self.writer);
            if let Some(open) = writer.active.iter().chain(&writer.closing).find(|open| open.pack == pack) {
                return Ok(open.entries.clone());
            }
        }
        match self.entries_of(pack) {
            Ok(entries) => Ok(entries),
            Err(ReadError::Damage(_)) => Ok(Vec::new()),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(ReadError::Io(error)) => Err(self.files.error("read", pack, error)),
        }
    }

    fn verify(
        &self,
        batch: &[(ChunkId, Location)],
        is_right: &mut dyn FnMut(&EncodedChunk) -> bool,
        verified: &mut Verified,
    ) -> Result<(), StoreError> {
        let ids: Vec<ChunkId> = batch.iter().map(|(id, _)| *id).collect();
        let found = match self.read_many(&ids) {
            Ok(found) => found,
            // One bad chunk must not hide its neighbours.
            Err(StoreError::Corrupt { .. }) => {
                let mut found = Vec::with_capacity(ids.len());
                for id in &ids {
                    found.push(match self.get(id) {
                        Err(StoreError::Corrupt { .. }) => {
                            self.blame(id, DEPTH_MAX, is_right, verified)?;
                            verified.corrupt.push(*id);
                            None
                        }
                        found => found?,
                    });
                }
                found
            }
            Err(error) => return Err(error),
        };
        for ((id, location), chunk) in batch.iter().zip(found) {
            let Some(chunk) = chunk else {
                // Collected or moved meanwhile, or a delta that did not decode before.
                if lock(&self.doubtful).get(id) == Some(location) {
                    self.blame(id, DEPTH_MAX, is_right, verified)?;
                    verified.corrupt.push(*id);
                }
                continue;
            };
            verified.chunks += 1;
            verified.bytes += u64::from(chunk.raw_len);
            if is_right(&chunk) {
                continue;
            }
            if self.placed_gated(id)?.is_some_and(|entry| entry.location == *location) {
                self.blame(id, DEPTH_MAX, is_right, verified)?;
                verified.corrupt.push(*id);
            }
        }
        Ok(())
    }

    fn placed_gated(&self, id: &ChunkId) -> Result<Option<Entry>, StoreError> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.entry(id, true)
    }

    /// Takes out of service what makes a chunk wrong: its record, or of a delta what it stands on, if that is wrong; then the
    /// delta is back when that is. Of a delta whose bases are not all here nothing can be said. What is taken out beside the chunk
    /// is counted.
    pub(super) fn blame(
        &self,
        id: &ChunkId,
        links: u8,
        is_right: &mut dyn FnMut(&EncodedChunk) -> bool,
        verified: &mut Verified,
    ) -> Result<(), StoreError> {
        let Some(Entry { location, bases, .. }) = self.placed_gated(id)? else { return Ok(()) };
        let mut bases_are_right = true;
        for base in bases {
            let right = match self.get(&base) {
                Ok(Some(chunk)) => is_right(&chunk),
                Ok(None) => {
                    bases_are_right = false;
                    continue;
                }
                Err(StoreError::Corrupt { .. }) => false,
                Err(error) => return Err(error),
            };
            if right {
                continue;
            }
            bases_are_right = false;
            if links > 1 && self.placed_gated(&base)?.is_some() {
                self.blame(&base, links - 1, is_right, verified)?;
                if self.placed_gated(&base)?.is_none() {
                    verified.corrupt.push(base);
                }
            }
        }
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        if bases_are_right && self.placed(id)? == Some(location) {
            self.quarantine(id, location, Damage::OtherBytes);
        }
        Ok(())
    }
}
