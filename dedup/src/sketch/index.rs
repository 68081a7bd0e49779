//! From a super-feature to the chunk that had it last.

use std::sync::Arc;

use bytes::Bytes;
use causeway_base::ChunkId;
use causeway_storage::kv::{Batch, Kv, KvError, Space, prefix_range};

use super::{SUPER_FEATURES, Sketch};

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

/// Finds stored chunks that resemble a new one.
///
/// A super-feature names a slot in its place's table; a slot holds the newest chunk whose feature fell there. So the index
/// is bounded by construction: at most 3 × 2^`slots_log2` entries of 41 bytes (123 bytes a chunk before the store's own
/// overhead), the oldest being overwritten, and chunks that resemble each other share entries instead of adding some. No
/// memory beside the store's. An entry is a hint: the chunk may be gone, so the caller looks it up and [removes] it then.
/// The index can be rebuilt from any walk over chunks; losing it loses savings only, so nothing here is persisted eagerly.
///
/// [removes]: SimilarityIndex::remove
#[derive(Clone, Debug)]
pub struct SimilarityIndex {
    kv: Arc<dyn Kv>,
    space: Space,
    slots_log2: u8,
}

impl SimilarityIndex {
    /// The index in `space` of a store, with 2^`slots_log2` slots a table ([`SLOTS_LOG2_MAX`] at most). Another number of
    /// slots than before finds less until it is rebuilt.
    #[must_use]
    pub fn new(kv: Arc<dyn Kv>, space: Space, slots_log2: u8) -> Self {
        Self { kv, space, slots_log2: slots_log2.min(SLOTS_LOG2_MAX) }
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
        let mut batch = Batch::new();
        self.insert_into(&mut batch, chunks);
        if batch.is_empty() { Ok(()) } else { self.kv.write(batch) }
    }

    /// Adds to a batch what [`SimilarityIndex::insert_all`] writes, for a caller that writes more with it.
    pub fn insert_into(&self, batch: &mut Batch, chunks: impl IntoIterator<Item = (ChunkId, Sketch)>) {
        for (id, sketch) in chunks {
            for (key, tag) in self.slots(&sketch) {
                let mut value = [0; VALUE_BYTES];
                value[..4].copy_from_slice(&tag);
                value[4..].copy_from_slice(id.as_bytes());
                batch.put(self.space, Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value));
            }
        }
    }

    /// Forgets a chunk, where it is the newest.
    ///
    /// # Errors
    /// [`KvError`], from the store.
    pub fn remove(&self, id: &ChunkId, sketch: &Sketch) -> Result<(), KvError> {
        let mut batch = Batch::new();
        for (key, tag) in self.slots(sketch) {
            if self.read(&key)? == Some((tag, *id)) {
                batch.delete(self.space, Bytes::copy_from_slice(&key));
            }
        }
        if batch.is_empty() { Ok(()) } else { self.kv.write(batch) }
    }

    /// Up to `limit` chunks that share super-features with `sketch` (there are at most three), those that share most first.
    ///
    /// # Errors
    /// [`KvError`], from the store.
    pub fn candidates(&self, sketch: &Sketch, limit: usize) -> Result<Vec<ChunkId>, KvError> {
        let mut found: Vec<(ChunkId, usize)> = Vec::with_capacity(SUPER_FEATURES);
        for (key, tag) in self.slots(sketch) {
            match self.read(&key)? {
                Some((of, id)) if of == tag => match found.iter_mut().find(|(other, _)| *other == id) {
                    Some((_, shared)) => *shared += 1,
                    None => found.push((id, 1)),
                },
                Some(_) | None => {}
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
    }

    /// Key and tag of each super-feature: the tag is the half of it that the slot does not tell.
    fn slots(&self, sketch: &Sketch) -> [([u8; KEY_BYTES], [u8; 4]); SUPER_FEATURES] {
        let mask = (1_u64 << self.slots_log2) - 1;
        std::array::from_fn(|table| {
            let feature = sketch.0[table];
            let [a, b, c, d] = ((feature & mask) as u32).to_be_bytes();
            ([table as u8, a, b, c, d], ((feature >> 32) as u32).to_be_bytes())
        })
    }

    /// An entry that is no entry counts as none: it will be overwritten.
    fn read(&self, key: &[u8]) -> Result<Option<([u8; 4], ChunkId)>, KvError> {
        let value = self.kv.get(self.space, key)?;
        Ok(value.and_then(|value| {
            let (tag, id) = value.split_first_chunk::<4>()?;
            Some((*tag, ChunkId::from_slice(id)?))
        }))
    }
}
