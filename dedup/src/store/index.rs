//! The chunk index: where each durable chunk lies. Holds nothing that the packs do not.
//!
//! Entries of a batch and the packs' marks ("indexed up to here") are written together, and a store loses at most its
//! newest batches in a crash, so the marks always say exactly what is missing.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use causeway_base::ChunkId;
use causeway_storage::kv::{Batch, Kv, KvError, Space, prefix_range};

use super::format::{FooterEntry, RECORD_HEADER_BYTES};
use crate::Codec;
use crate::delta::{BASES_MAX, DEPTH_MAX};
use crate::filter::{Filter, Found, Probe};
use crate::sketch::{SIMILARITY_SPACE, SLOTS_LOG2_DEFAULT, SimilarityIndex};

const CHUNKS: Space = Space("chunk-index");
const PACKS: Space = Space("chunk-packs");
const CORRUPT: Space = Space("chunk-corrupt");
/// Key: a base, then a delta that stands on it, or did; no value. Which of them still do their own entries tell.
const DEPENDENTS: Space = Space("chunk-dependents");

/// The spaces that the index needs; the caller opens its store with them.
pub const INDEX_SPACES: &[Space] = &[CHUNKS, PACKS, CORRUPT, DEPENDENTS, SIMILARITY_SPACE];

/// Ranges of ids that the filter learns apart: at 100 M chunks a scan of 24,000 entries, some 25 ms.
const FILTER_SHARDS: usize = 1 << 12;
/// 0.4 % of the look-ups of absent chunks go to the engine when a shard is full, 0.1 % on average.
const FILTER_BITS_PER_KEY: usize = 12;

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
    /// Links of the chain that ends with this delta; 0 for a chunk that stands alone.
    pub(super) depth: u8,
}

/// What is put into the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: ChunkId,
    pub(super) location: Location,
    /// What a delta stands on; empty for a chunk that stands alone.
    pub(super) bases: Vec<ChunkId>,
}

impl Entry {
    pub(super) fn of(pack: u32, entry: &FooterEntry) -> Self {
        Self { id: entry.id, location: Location::of(pack, entry), bases: entry.bases.clone() }
    }
}

/// In the byte of the codec: a block, and the chunk's number in it follows.
const IN_BLOCK: u8 = 0x10;
/// In the byte of the codec: a delta; its depth follows, and in the index the chunks of its base.
const IS_DELTA: u8 = 0x20;

impl Location {
    pub(super) const fn of(pack: u32, entry: &FooterEntry) -> Self {
        let FooterEntry { id: _, offset, payload_len, raw_len, codec, member, depth, bases: _ } = *entry;
        Self { pack, offset, payload_len, raw_len, codec, member, depth }
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

    /// 15 bytes, 16 in a block, 16 and the bases for a delta: at 100 M chunks each one counts. Lengths are below 2^24.
    fn encode(self, bases: &[ChunkId]) -> Bytes {
        let mut out = [0; 16];
        out[..4].copy_from_slice(&self.pack.to_le_bytes());
        out[4..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..11].copy_from_slice(&self.payload_len.to_le_bytes()[..3]);
        out[11..14].copy_from_slice(&self.raw_len.to_le_bytes()[..3]);
        out[14] = self.codec.to_byte();
        if self.depth > 0 {
            out[14] |= IS_DELTA;
            out[15] = self.depth;
            let bases = bases.iter().flat_map(|base| base.0);
            return out.into_iter().chain(bases).collect();
        }
        let Some(number) = self.member else { return Bytes::copy_from_slice(&out[..15]) };
        out[14] |= IN_BLOCK;
        out[15] = number;
        Bytes::copy_from_slice(&out)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let in_block = bytes.get(14)? & IN_BLOCK != 0;
        let depth = if bytes[14] & IS_DELTA != 0 { *bytes.get(15)? } else { 0 };
        let rest = bytes.len().checked_sub(15 + usize::from(in_block || depth > 0))?;
        let bases = rest / ChunkId::LEN;
        let right = if depth > 0 {
            // An entry of what is corrupt names no bases.
            depth <= DEPTH_MAX && !in_block && bases <= BASES_MAX && rest.is_multiple_of(ChunkId::LEN)
        } else {
            rest == 0
        };
        if !right {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let short = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], 0]);
        let codec = Codec::from_byte(bytes[14] & !(IN_BLOCK | IS_DELTA)).ok()?;
        let member = in_block.then(|| bytes[15]);
        let (payload_len, raw_len) = (short(8), short(11));
        let location = Self { pack: word(0), offset: word(4), payload_len, raw_len, codec, member, depth };
        (codec.is_delta() == (depth > 0)).then_some(location)
    }

    /// The bases in an entry that decodes.
    fn bases(self, bytes: &[u8]) -> Vec<ChunkId> {
        let bases = if self.depth > 0 { bytes.get(16..).unwrap_or_default() } else { &[] };
        bases.chunks_exact(ChunkId::LEN).filter_map(ChunkId::from_slice).collect()
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
    /// Of the chunks, those that are deltas.
    pub(super) deltas: Deltas,
}

/// Chunks that rest as deltas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Deltas {
    pub(super) chunks: u32,
    /// Bytes of the records.
    pub(super) stored_bytes: u64,
    /// Plain bytes of the chunks.
    pub(super) raw_bytes: u64,
}

impl PackMeta {
    pub(super) const EMPTY: Self = Self {
        state: PackState::Open,
        thinned: false,
        indexed_to: 0,
        chunks: 0,
        stored_bytes: 0,
        raw_bytes: 0,
        deltas: Deltas { chunks: 0, stored_bytes: 0, raw_bytes: 0 },
    };

    pub(super) fn count(&mut self, entry: &FooterEntry) {
        self.chunks += 1;
        if entry.is_first() {
            self.stored_bytes += RECORD_HEADER_BYTES as u64 + u64::from(entry.payload_len);
        }
        self.raw_bytes += u64::from(entry.raw_len);
        if entry.depth > 0 {
            self.deltas.chunks += 1;
            self.deltas.stored_bytes += RECORD_HEADER_BYTES as u64 + u64::from(entry.payload_len);
            self.deltas.raw_bytes += u64::from(entry.raw_len);
        }
    }

    fn encode(self) -> [u8; 46] {
        let mut out = [0; 46];
        out[0] = 2; // version
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
        out[18..26].copy_from_slice(&self.raw_bytes.to_le_bytes());
        out[26..30].copy_from_slice(&self.deltas.chunks.to_le_bytes());
        out[30..38].copy_from_slice(&self.deltas.stored_bytes.to_le_bytes());
        out[38..].copy_from_slice(&self.deltas.raw_bytes.to_le_bytes());
        out
    }

    /// Version 1 ends before the deltas, of which it knew none.
    fn decode(bytes: &[u8]) -> Option<Self> {
        if !matches!((bytes.first()?, bytes.len()), (1, 26) | (2, 46)) {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let thinned = bytes[1] & THINNED != 0;
        let state = match bytes[1] & !THINNED {
            0 => PackState::Open,
            1 => PackState::Sealed,
            2 => PackState::Damaged,
            3 => PackState::Dead,
            _ => return None,
        };
        let deltas = match bytes[0] {
            1 => Deltas::default(),
            _ => Deltas { chunks: word(26), stored_bytes: long(30), raw_bytes: long(38) },
        };
        let (stored_bytes, raw_bytes) = (long(10), long(18));
        Some(Self { state, thinned, indexed_to: word(2), chunks: word(6), stored_bytes, raw_bytes, deltas })
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
    /// Answers for chunks that are absent.
    filter: Filter,
}

impl Index {
    pub(super) fn new(kv: Arc<dyn Kv>) -> Self {
        let engine = Arc::clone(&kv);
        let keys = move |shard, found: &mut Found<'_>| scan_shard(&*engine, shard, found);
        Self { kv, filter: Filter::new(FILTER_SHARDS, FILTER_BITS_PER_KEY, keys) }
    }

    pub(super) fn lookup(&self, id: &ChunkId) -> Result<Lookup, KvError> {
        Ok(match self.filter.find(probe(id), || self.kv.get(CHUNKS, id.as_bytes()))? {
            None => Lookup::Absent,
            Some(value) => Location::decode(&value).map_or(Lookup::Undecodable, Lookup::At),
        })
    }

    /// As [`Index::lookup`], with what a delta stands on.
    pub(super) fn find(&self, id: &ChunkId) -> Result<(Lookup, Vec<ChunkId>), KvError> {
        Ok(match self.filter.find(probe(id), || self.kv.get(CHUNKS, id.as_bytes()))? {
            None => (Lookup::Absent, Vec::new()),
            Some(value) => match Location::decode(&value) {
                Some(location) => (Lookup::At(location), location.bases(&value)),
                None => (Lookup::Undecodable, Vec::new()),
            },
        })
    }

    /// Up to `limit` pairs of a base and a delta that stands on it, or did, behind the pair `after`, in order; of one base only
    /// if it is given.
    pub(super) fn dependents(
        &self,
        base: Option<&ChunkId>,
        after: Option<(ChunkId, ChunkId)>,
        limit: usize,
    ) -> Result<Vec<(ChunkId, ChunkId)>, KvError> {
        let mut range = prefix_range(base.map_or(b"", |base| base.as_bytes()));
        if let Some((base, dependent)) = after {
            range.0 = std::ops::Bound::Excluded(dependent_key(&base, &dependent));
        }
        let mut found = Vec::new();
        for entry in self.kv.scan(DEPENDENTS, range, false).take(limit) {
            let (key, _) = entry?;
            let Some((base, dependent)) = key.split_at_checked(ChunkId::LEN) else { continue };
            found.extend(ChunkId::from_slice(base).zip(ChunkId::from_slice(dependent)));
        }
        Ok(found)
    }

    /// The index from sketches to chunks, in the same store: hints, which may be lost.
    pub(super) fn similarity(&self) -> SimilarityIndex {
        SimilarityIndex::new(Arc::clone(&self.kv), SIMILARITY_SPACE, SLOTS_LOG2_DEFAULT)
    }

    /// Writes entries and the marks of their packs at once. What is put again is not corrupt any more.
    pub(super) fn publish(
        &self,
        entries: &[Entry],
        metas: &[(u32, PackMeta)],
        healed: &[ChunkId],
    ) -> Result<(), KvError> {
        let mut batch = Batch::new();
        for Entry { id, location, bases } in entries {
            batch.put(CHUNKS, Bytes::copy_from_slice(id.as_bytes()), location.encode(bases));
            for base in bases {
                batch.put(DEPENDENTS, dependent_key(base, id), Bytes::new());
            }
        }
        for id in healed {
            batch.delete(CORRUPT, Bytes::copy_from_slice(id.as_bytes()));
        }
        for (pack, meta) in metas {
            batch.put(PACKS, Bytes::copy_from_slice(&pack.to_be_bytes()), Bytes::copy_from_slice(&meta.encode()));
        }
        let probes: Vec<Probe> = entries.iter().map(|entry| probe(&entry.id)).collect();
        self.filter.add(&probes, || self.kv.write(batch))
    }

    /// Takes a corrupt chunk out, remembering where it was.
    pub(super) fn quarantine(&self, id: &ChunkId, location: Location) -> Result<(), KvError> {
        let mut batch = Batch::new();
        batch.delete(CHUNKS, Bytes::copy_from_slice(id.as_bytes()));
        batch.put(CORRUPT, Bytes::copy_from_slice(id.as_bytes()), location.encode(&[]));
        self.kv.write(batch)
    }

    /// Removes entries with what they stood on, and writes the marks of the packs that they were in.
    pub(super) fn remove(&self, removed: &[(ChunkId, Vec<ChunkId>)], metas: &[(u32, PackMeta)]) -> Result<(), KvError> {
        let mut batch = Batch::new();
        for (id, bases) in removed {
            batch.delete(CHUNKS, Bytes::copy_from_slice(id.as_bytes()));
            bases.iter().for_each(|base| batch.delete(DEPENDENTS, dependent_key(base, id)));
        }
        for (pack, meta) in metas {
            batch.put(PACKS, Bytes::copy_from_slice(&pack.to_be_bytes()), Bytes::copy_from_slice(&meta.encode()));
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.kv.write(batch)?;
        removed.iter().for_each(|(id, _)| self.filter.removed(probe(id)));
        Ok(())
    }

    /// Forgets pairs of a base and a delta that does not stand on it any more.
    pub(super) fn forget_dependents(&self, pairs: &[(ChunkId, ChunkId)]) -> Result<(), KvError> {
        self.delete(DEPENDENTS, pairs.iter().map(|(base, dependent)| dependent_key(base, dependent)))
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
            range.0 = Bound::Excluded(Bytes::copy_from_slice(&after));
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
        self.filter.clear(|| {
            for space in [PACKS, CHUNKS, DEPENDENTS] {
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
        })
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

fn dependent_key(base: &ChunkId, dependent: &ChunkId) -> Bytes {
    base.0.into_iter().chain(dependent.0).collect()
}

/// The first 12 bits are the shard, so that it is a range of ids; the rest needs no hash, ids are one.
fn probe(id: &ChunkId) -> Probe {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| id.0[at + byte]));
    Probe { shard: usize::from(u16::from_be_bytes([id.0[0], id.0[1]]) >> 4), block: word(8), bits: word(16) }
}

/// Tells the ids of a shard that have entries, whatever is in these.
fn scan_shard(kv: &dyn Kv, shard: usize, found: &mut Found<'_>) -> Result<(), KvError> {
    let bound = |shard: usize| Bytes::copy_from_slice(&((shard << 4) as u16).to_be_bytes());
    let end = if shard + 1 < FILTER_SHARDS { Bound::Excluded(bound(shard + 1)) } else { Bound::Unbounded };
    for entry in kv.scan(CHUNKS, (Bound::Included(bound(shard)), end), false) {
        if let Some(id) = ChunkId::from_slice(&entry?.0)
            && !found(probe(&id))
        {
            break;
        }
    }
    Ok(())
}
