//! The chunk index: where each durable chunk lies. Holds nothing that the packs do not.
//!
//! Entries of a batch and the packs' marks ("indexed up to here") are written together, and a store loses at most its
//! newest batches in a crash, so the marks always say exactly what is missing.

use std::sync::Arc;

use bytes::Bytes;

use causeway_base::ChunkId;
use causeway_storage::kv::{Batch, Kv, KvError, Space, prefix_range};

use super::format::{FooterEntry, RECORD_HEADER_BYTES};
use crate::Codec;

const CHUNKS: Space = Space("chunk-index");
const PACKS: Space = Space("chunk-packs");
const CORRUPT: Space = Space("chunk-corrupt");

/// The spaces that the index needs; the caller opens its store with them.
pub const INDEX_SPACES: &[Space] = &[CHUNKS, PACKS, CORRUPT];

/// Written on close, deleted on open: without it the last run did not end well.
const CLEAN_KEY: &[u8] = b"clean";

/// Entries that go into one batch.
pub(super) const BATCH_ENTRIES: usize = 16 << 10;

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) pack: u32,
    pub(super) offset: u32,
    pub(super) payload_len: u32,
    pub(super) raw_len: u32,
    pub(super) codec: Codec,
    /// Its number in a block; `None` for a record of its own.
    pub(super) member: Option<u8>,
}

/// In the byte of the codec: a block, and the chunk's number in it follows.
const IN_BLOCK: u8 = 0x10;

impl Location {
    pub(super) const fn of(pack: u32, entry: &FooterEntry) -> Self {
        let FooterEntry { id: _, offset, payload_len, raw_len, codec, member } = *entry;
        Self { pack, offset, payload_len, raw_len, codec, member }
    }

    /// What the chunk takes in its pack: its record, or of a block it shares at most its plain length.
    pub(super) fn share(&self) -> u64 {
        let record = self.record_len() as u64;
        if self.member.is_some() { record.min(u64::from(self.raw_len)) } else { record }
    }

    /// Bytes of the record.
    pub(super) const fn record_len(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload_len as usize
    }

    /// 15 bytes, 16 in a block: at 100 M chunks each one counts. Lengths are below 2^24.
    fn encode(self) -> Bytes {
        let mut out = [0; 16];
        out[..4].copy_from_slice(&self.pack.to_le_bytes());
        out[4..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..11].copy_from_slice(&self.payload_len.to_le_bytes()[..3]);
        out[11..14].copy_from_slice(&self.raw_len.to_le_bytes()[..3]);
        out[14] = self.codec.to_byte();
        let Some(number) = self.member else { return Bytes::copy_from_slice(&out[..15]) };
        out[14] |= IN_BLOCK;
        out[15] = number;
        Bytes::copy_from_slice(&out)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let in_block = bytes.get(14)? & IN_BLOCK != 0;
        if bytes.len() != 15 + usize::from(in_block) {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let short = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], 0]);
        let codec = Codec::from_byte(bytes[14] & !IN_BLOCK).ok()?;
        let member = in_block.then(|| bytes[15]);
        Some(Self { pack: word(0), offset: word(4), payload_len: short(8), raw_len: short(11), codec, member })
    }
}

/// What a pack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PackState {
    /// Records may follow.
    Open,
    /// It has a footer and never changes.
    Sealed,
    /// It has bad bytes before good ones: kept as it is, and never written.
    Damaged,
    /// Nothing in it is used: the file is being removed.
    Dead,
}

/// Bit beside a pack's state.
const THINNED: u8 = 0x10;

/// What the index knows of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackMeta {
    pub(super) state: PackState,
    /// Chunks of it were collected: the index may lack what the pack has.
    pub(super) thinned: bool,
    /// All records before this offset are in the index.
    pub(super) indexed_to: u32,
    pub(super) chunks: u32,
    /// Bytes of the records.
    pub(super) stored_bytes: u64,
    /// Plain bytes of the chunks.
    pub(super) raw_bytes: u64,
}

impl PackMeta {
    pub(super) const EMPTY: Self =
        Self { state: PackState::Open, thinned: false, indexed_to: 0, chunks: 0, stored_bytes: 0, raw_bytes: 0 };

    pub(super) fn count(&mut self, entry: &FooterEntry) {
        self.chunks += 1;
        if entry.is_first() {
            self.stored_bytes += RECORD_HEADER_BYTES as u64 + u64::from(entry.payload_len);
        }
        self.raw_bytes += u64::from(entry.raw_len);
    }

    fn encode(self) -> [u8; 26] {
        let mut out = [0; 26];
        out[0] = 1; // version
        out[1] = match self.state {
            PackState::Open => 0,
            PackState::Sealed => 1,
            PackState::Damaged => 2,
            PackState::Dead => 3,
        };
        out[1] |= if self.thinned { THINNED } else { 0 };
        out[2..6].copy_from_slice(&self.indexed_to.to_le_bytes());
        out[6..10].copy_from_slice(&self.chunks.to_le_bytes());
        out[10..18].copy_from_slice(&self.stored_bytes.to_le_bytes());
        out[18..].copy_from_slice(&self.raw_bytes.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 26] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let thinned = bytes[1] & THINNED != 0;
        let state = match (bytes[0], bytes[1] & !THINNED) {
            (1, 0) => PackState::Open,
            (1, 1) => PackState::Sealed,
            (1, 2) => PackState::Damaged,
            (1, 3) => PackState::Dead,
            _ => return None,
        };
        Some(Self { state, thinned, indexed_to: word(2), chunks: word(6), stored_bytes: long(10), raw_bytes: long(18) })
    }
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    Absent,
    At(Location),
    /// The entry is not one that this index writes: it has to be built anew.
    Undecodable,
}

/// The index over its key-value store.
#[derive(Debug)]
pub(super) struct Index {
    kv: Arc<dyn Kv>,
}

impl Index {
    pub(super) fn new(kv: Arc<dyn Kv>) -> Self {
        Self { kv }
    }

    pub(super) fn lookup(&self, id: &ChunkId) -> Result<Lookup, KvError> {
        Ok(match self.kv.get(CHUNKS, id.as_bytes())? {
            None => Lookup::Absent,
            Some(value) => Location::decode(&value).map_or(Lookup::Undecodable, Lookup::At),
        })
    }

    /// Writes entries and the marks of their packs at once. What is put again is not corrupt any more.
    pub(super) fn publish(
        &self,
        entries: &[(ChunkId, Location)],
        metas: &[(u32, PackMeta)],
        healed: &[ChunkId],
    ) -> Result<(), KvError> {
        let mut batch = Batch::new();
        for (id, location) in entries {
            batch.put(CHUNKS, Bytes::copy_from_slice(id.as_bytes()), location.encode());
        }
        for id in healed {
            batch.delete(CORRUPT, Bytes::copy_from_slice(id.as_bytes()));
        }
        for (pack, meta) in metas {
            batch.put(PACKS, Bytes::copy_from_slice(&pack.to_be_bytes()), Bytes::copy_from_slice(&meta.encode()));
        }
        self.kv.write(batch)
    }

    /// Takes a corrupt chunk out, remembering where it was.
    pub(super) fn quarantine(&self, id: &ChunkId, location: Location) -> Result<(), KvError> {
        let mut batch = Batch::new();
        batch.delete(CHUNKS, Bytes::copy_from_slice(id.as_bytes()));
        batch.put(CORRUPT, Bytes::copy_from_slice(id.as_bytes()), location.encode());
        self.kv.write(batch)
    }

    /// Removes entries, and writes the marks of the packs that they were in.
    pub(super) fn remove(&self, ids: &[ChunkId], metas: &[(u32, PackMeta)]) -> Result<(), KvError> {
        let mut batch = Batch::new();
        for id in ids {
            batch.delete(CHUNKS, Bytes::copy_from_slice(id.as_bytes()));
        }
        for (pack, meta) in metas {
            batch.put(PACKS, Bytes::copy_from_slice(&pack.to_be_bytes()), Bytes::copy_from_slice(&meta.encode()));
        }
        if batch.is_empty() { Ok(()) } else { self.kv.write(batch) }
    }

    /// Forgets that chunks were corrupt.
    pub(super) fn forget_corrupt(&self, ids: &[ChunkId]) -> Result<(), KvError> {
        self.delete(CORRUPT, ids.iter().map(|id| Bytes::copy_from_slice(id.as_bytes())))
    }

    /// Forgets packs whose files are gone.
    pub(super) fn forget_packs(&self, packs: &[u32]) -> Result<(), KvError> {
        self.delete(PACKS, packs.iter().map(|pack| Bytes::copy_from_slice(&pack.to_be_bytes())))
    }

    fn delete(&self, space: Space, keys: impl Iterator<Item = Bytes>) -> Result<(), KvError> {
        let mut batch = Batch::new();
        keys.for_each(|key| batch.delete(space, key));
        if batch.is_empty() { Ok(()) } else { self.kv.write(batch) }
    }

    /// All quarantined chunks.
    pub(super) fn corrupt(&self) -> Result<Vec<(ChunkId, Location)>, KvError> {
        let mut found = Vec::new();
        for entry in self.kv.scan(CORRUPT, prefix_range(b""), false) {
            let (key, value) = entry?;
            if let (Some(id), Some(location)) = (ChunkId::from_slice(&key), Location::decode(&value)) {
                found.push((id, location));
            }
        }
        Ok(found)
    }

    /// A pack's mark, as it is written.
    pub(super) fn meta(&self, pack: u32) -> Result<Option<PackMeta>, KvError> {
        Ok(self.kv.get(PACKS, &pack.to_be_bytes())?.and_then(|value| PackMeta::decode(&value)))
    }

    /// All packs' marks; `None` if one does not decode.
    pub(super) fn metas(&self) -> Result<Option<Vec<(u32, PackMeta)>>, KvError> {
        let mut found = Vec::new();
        for entry in self.kv.scan(PACKS, prefix_range(b""), false) {
            let (key, value) = entry?;
            if key.as_ref() == CLEAN_KEY {
                continue;
            }
            match (key.as_ref().try_into().map(u32::from_be_bytes), PackMeta::decode(&value)) {
                (Ok(pack), Some(meta)) => found.push((pack, meta)),
                _ => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    /// Up to `limit` entries with ids after `after`. An entry that does not decode is left out.
    pub(super) fn page(&self, after: Option<ChunkId>, limit: usize) -> Result<Vec<(ChunkId, Location)>, KvError> {
        let mut range = prefix_range(b"");
        if let Some(ChunkId(after)) = after {
            range.0 = std::ops::Bound::Excluded(Bytes::copy_from_slice(&after));
        }
        let mut found = Vec::new();
        for entry in self.kv.scan(CHUNKS, range, false).take(limit) {
            let (key, value) = entry?;
            if let (Some(id), Some(location)) = (ChunkId::from_slice(&key), Location::decode(&value)) {
                found.push((id, location));
            }
        }
        Ok(found)
    }

    /// Deletes everything but the list of corrupt chunks. The marks go first: if this is cut short, the packs are indexed
    /// again all the same.
    pub(super) fn clear(&self) -> Result<(), KvError> {
        for space in [PACKS, CHUNKS] {
            let mut batch = Batch::new();
            for entry in self.kv.scan(space, prefix_range(b""), false) {
                batch.delete(space, entry?.0);
                if batch.len() == BATCH_ENTRIES {
                    self.kv.write(std::mem::take(&mut batch))?;
                }
            }
            self.kv.write(batch)?;
            self.kv.persist()?;
        }
        Ok(())
    }

    /// Whether the last run closed the store; forgets it, so that the next open sees a crash unless this run closes too.
    pub(super) fn take_clean(&self) -> Result<bool, KvError> {
        if self.kv.get(PACKS, CLEAN_KEY)?.is_none() {
            return Ok(false);
        }
        let mut batch = Batch::new();
        batch.delete(PACKS, Bytes::from_static(CLEAN_KEY));
        self.kv.write(batch)?;
        self.kv.persist()?;
        Ok(true)
    }

    pub(super) fn mark_clean(&self) -> Result<(), KvError> {
        let mut batch = Batch::new();
        batch.put(PACKS, Bytes::from_static(CLEAN_KEY), Bytes::from_static(b"1"));
        self.kv.write(batch)?;
        self.kv.persist()
    }

    pub(super) fn persist(&self) -> Result<(), KvError> {
        self.kv.persist()
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.kv.disk_bytes()
    }
}
