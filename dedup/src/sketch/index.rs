//! From a super-feature to the chunk that had it last.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use causeway_base::ChunkId;
use causeway_storage::kv::{Batch, Kv, KvError, Space, prefix_range};

use super::{SUPER_FEATURES, Sketch};
use crate::filter::{Filter, Found, Probe, mix};

/// The space that the index takes in a store, unless it is given another.
pub const SIMILARITY_SPACE: Space = Space("similarity");
/// Slots of a table by default: 16 M, enough for the features of 1 TiB of unlike chunks at 64 KiB.
pub const SLOTS_LOG2_DEFAULT: u8 = 24;
/// Most slots of a table.
pub const SLOTS_LOG2_MAX: u8 = 32;

/// Deleted in one batch when the index is cleared.
const CLEARED_AT_ONCE: usize = 4096;
const KEY_BYTES: usize = 5;
const VALUE_BYTES: usize = 4 + ChunkId::LEN;

/// Shards of the filter: so many ranges of slots in each table.
const RANGES_LOG2: u8 = 10;
/// 2.5 % of the look-ups of absent features go to the store when a shard is full; 12 bits would cost half more memory.
const FILTER_BITS_PER_FEATURE: usize = 8;

/// Finds stored chunks that resemble a new one.
///
/// A super-feature names a slot in its place's table; a slot holds the newest chunk whose feature fell there. So the index
/// is bounded by construction: at most 3 × 2^`slots_log2` entries of 41 bytes (123 bytes a chunk before the store's own
/// overhead), the oldest being overwritten, and chunks that resemble each other share entries instead of adding some.
/// An entry is a hint: the chunk may be gone, so the caller looks it up and [removes] it then.
/// The index can be rebuilt from any walk over chunks; losing it loses savings only, so nothing here is persisted eagerly.
///
/// Most chunks resemble no other, so a filter in memory, 1 to 2.5 bytes an entry, answers for features that are absent. It
/// knows what went through this index and its clones: do not make two of them over one space.
///
/// [removes]: SimilarityIndex::remove
#[derive(Clone, Debug)]
pub struct SimilarityIndex {
    kv: Arc<dyn Kv>,
    space: Space,
    slots_log2: u8,
    filter: Arc<Filter>,
}

/// Where a super-feature goes.
struct Slot {
    key: [u8; KEY_BYTES],
    /// The half of the feature that the slot does not tell.
    tag: [u8; 4],
    probe: Probe,
}

impl SimilarityIndex {
    /// The index in `space` of a store, with 2^`slots_log2` slots a table ([`SLOTS_LOG2_MAX`] at most). Another number of
    /// slots than before finds less until it is rebuilt.
    #[must_use]
    pub fn new(kv: Arc<dyn Kv>, space: Space, slots_log2: u8) -> Self {
        let slots_log2 = slots_log2.min(SLOTS_LOG2_MAX);
        let engine = Arc::clone(&kv);
        let features = move |shard, found: &mut Found<'_>| scan_shard(&*engine, space, slots_log2, shard, found);
        let filter = Filter::new(SUPER_FEATURES << RANGES_LOG2, FILTER_BITS_PER_FEATURE, features);
        Self { kv, space, slots_log2, filter: Arc::new(filter) }
    }

    /// Enters a chunk: it is the newest with these features.
    ///
    /// # Errors
    /// [`KvError`], from the store.
    pub fn insert(&self, id: ChunkId, sketch: &Sketch) -> Result<(), KvError> {
        self.insert_all([(id, *sketch)])
    }

    /// Enters chunks in one batch, the last being the newest.
    ///
    /// # Errors
    /// [`KvError`], from the store.
    pub fn insert_all(&self, chunks: impl IntoIterator<Item = (ChunkId, Sketch)>) -> Result<(), KvError> {
        let (mut batch, mut probes) = (Batch::new(), Vec::new());
        for (id, sketch) in chunks {
            for Slot { key, tag, probe } in self.slots(&sketch) {
                let mut value = [0; VALUE_BYTES];
                value[..4].copy_from_slice(&tag);
                value[4..].copy_from_slice(id.as_bytes());
                batch.put(self.space, Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value));
                probes.push(probe);
            }
        }
        if batch.is_empty() { Ok(()) } else { self.filter.add(&probes, || self.kv.write(batch)) }
    }

    /// Forgets a chunk, where it is the newest.
    ///
    /// # Errors
    /// [`KvError`], from the store.
    pub fn remove(&self, id: &ChunkId, sketch: &Sketch) -> Result<(), KvError> {
        let mut batch = Batch::new();
        for slot in self.slots(sketch) {
            if self.find(&slot)? == Some(*id) {
                batch.delete(self.space, Bytes::copy_from_slice(&slot.key));
                self.filter.removed(slot.probe);
            }
        }
        if batch.is_empty() { Ok(()) } else { self.kv.write(batch) }
    }

    /// Up to `limit` chunks that share super-features with `sketch` (there are at most three), those that share most first.
    ///
    /// # Errors
    /// [`KvError`], from the store.
    pub fn candidates(&self, sketch: &Sketch, limit: usize) -> Result<Vec<ChunkId>, KvError> {
        let mut found: Vec<(ChunkId, usize)> = Vec::new();
        for slot in self.slots(sketch) {
            let Some(id) = self.find(&slot)? else { continue };
            match found.iter_mut().find(|(other, _)| *other == id) {
                Some((_, shared)) => *shared += 1,
                None => found.push((id, 1)),
            }
        }
        found.sort_by_key(|(_, shared)| std::cmp::Reverse(*shared)); // stable: ties in the order of the tables
        found.truncate(limit);
        Ok(found.into_iter().map(|(id, _)| id).collect())
    }

    /// Empties the index, to rebuild it.
    ///
    /// # Errors
    /// [`KvError`], from the store.
    pub fn clear(&self) -> Result<(), KvError> {
        self.filter.clear(|| {
            loop {
                let mut batch = Batch::new();
                for entry in self.kv.scan(self.space, prefix_range(&[]), false).take(CLEARED_AT_ONCE) {
                    batch.delete(self.space, entry?.0);
                }
                if batch.is_empty() {
                    return Ok(());
                }
                self.kv.write(batch)?;
            }
        })
    }

    fn slots(&self, sketch: &Sketch) -> [Slot; SUPER_FEATURES] {
        let mask = (1_u64 << self.slots_log2) - 1;
        std::array::from_fn(|table| {
            let (slot, tag) = ((sketch.0[table] & mask) as u32, (sketch.0[table] >> 32) as u32);
            let [a, b, c, d] = slot.to_be_bytes();
            let probe = probe(self.slots_log2, table as u8, slot, tag);
            Slot { key: [table as u8, a, b, c, d], tag: tag.to_be_bytes(), probe }
        })
    }

    /// The newest chunk with the feature. An entry that is no entry counts as none: it will be overwritten.
    fn find(&self, slot: &Slot) -> Result<Option<ChunkId>, KvError> {
        self.filter.find(slot.probe, || {
            let value = self.kv.get(self.space, &slot.key)?;
            Ok(value.and_then(|value| ChunkId::from_slice(value.strip_prefix(&slot.tag)?)))
        })
    }
}

/// Bits of a slot that are not its range's.
const fn range_bits(slots_log2: u8) -> u8 {
    slots_log2.saturating_sub(RANGES_LOG2)
}

fn probe(slots_log2: u8, table: u8, slot: u32, tag: u32) -> Probe {
    let range = (u64::from(slot) >> range_bits(slots_log2)) as usize; // below 2^RANGES_LOG2, as slots are below 2^slots_log2
    let feature = u64::from(tag) << 32 | u64::from(slot);
    let (block, bits) = (mix(feature), mix(!feature));
    Probe { shard: usize::from(table) << RANGES_LOG2 | range, block, bits }
}

/// Tells the features whose slots are in a range of a table.
fn scan_shard(kv: &dyn Kv, space: Space, slots_log2: u8, shard: usize, found: &mut Found<'_>) -> Result<(), KvError> {
    let table = (shard >> RANGES_LOG2) as u8;
    let range = (shard as u64) & ((1 << RANGES_LOG2) - 1);
    let bound = |slot: u64| {
        let [a, b, c, d] = (slot as u32).to_be_bytes();
        Bytes::copy_from_slice(&[table, a, b, c, d])
    };
    let (first, after) = (range << range_bits(slots_log2), (range + 1) << range_bits(slots_log2));
    for entry in kv.scan(space, (Bound::Included(bound(first)), Bound::Included(bound(after - 1))), false) {
        let (key, value) = entry?;
        if let (Some((_, slot)), Some(tag)) = (key.split_first_chunk::<1>(), value.first_chunk())
            && let Ok(slot) = slot.try_into().map(u32::from_be_bytes)
            && !found(probe(slots_log2, table, slot, u32::from_be_bytes(*tag)))
        {
            break;
        }
    }
    Ok(())
}
