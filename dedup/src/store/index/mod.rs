//! The chunk index: where each durable chunk lies. Holds nothing that the packs do not.
//!
//! Entries of a batch and the packs' marks ("indexed up to here") are written together, and a store loses at most its
//! newest batches in a crash, so the marks always say exactly what is missing.

pub(super) mod bare;
mod corrupt;
mod location;
mod meta;

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use causeway_base::ChunkId;
use causeway_storage::kv::{Batch, Kv, KvError, Space, prefix_range};

pub use self::corrupt::CorruptList;
pub(super) use self::location::{Entry, Location};
pub(super) use self::meta::{PackMeta, PackState};
use crate::filter::{Filter, Found, Probe};
use crate::sketch::{SIMILARITY_SPACE, SLOTS_LOG2_DEFAULT, SimilarityIndex};

const CHUNKS: Space = Space("chunk-index");
const PACKS: Space = Space("chunk-packs");
const CORRUPT: Space = Space("chunk-corrupt");
/// Key: a base, then a delta that stands on it, or did; no value. Which of them still do their own entries tell.
const DEPENDENTS: Space = Space("chunk-dependents");

/// The spaces that the index needs; the caller opens its store with them.
pub const INDEX_SPACES: &[Space] = &[CHUNKS, PACKS, CORRUPT, DEPENDENTS, SIMILARITY_SPACE];

/// Those of them that have a filter of their own in front: an engine's own filters would be memory and disk for little.
pub const FILTERED_SPACES: &[Space] = &[CHUNKS, SIMILARITY_SPACE];

/// Ranges of ids that the filter learns apart: at 100 M chunks a scan of 24,000 entries, some 25 ms.
const FILTER_SHARDS: usize = 1 << 12;
/// 0.4 % of the look-ups of absent chunks go to the engine when a shard is full, 0.1 % on average.
const FILTER_BITS_PER_KEY: usize = 12;

/// Written on close, deleted on open: without it the last run did not end well.
const CLEAN_KEY: &[u8] = b"clean";

/// Entries that go into one batch.
pub(super) const BATCH_ENTRIES: usize = 16 << 10;

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
