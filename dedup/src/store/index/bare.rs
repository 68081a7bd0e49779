//! The index without a store, for the bench of it.

use std::sync::Arc;

use causeway_base::ChunkId;
use causeway_storage::kv::{Kv, KvError};

use super::{Entry, Index, Location, Lookup};
use crate::Codec;

/// The index of no packs at all.
#[derive(Debug)]
pub struct BareIndex(Index);

impl BareIndex {
    /// The index in `kv`, opened with [`super::INDEX_SPACES`].
    #[must_use]
    pub fn new(kv: Arc<dyn Kv>) -> Self {
        Self(Index::new(kv))
    }

    /// Empties it, as a store does with a new index.
    ///
    /// # Errors
    /// [`KvError`], from the engine.
    pub fn begin(&self) -> Result<(), KvError> {
        self.0.clear()
    }

    /// Enters chunks as if they lay in a block each: id, pack, offset, plain length, number in the block.
    ///
    /// # Errors
    /// [`KvError`], from the engine.
    pub fn publish(&self, chunks: impl Iterator<Item = (ChunkId, u32, u32, u32, u8)>) -> Result<(), KvError> {
        let entries: Vec<Entry> = chunks
            .map(|(id, pack, offset, raw_len, member)| {
                let member = Some(member);
                let location =
                    Location { pack, offset, payload_len: 160_000, raw_len, codec: Codec::Zstd, member, depth: 0 };
                Entry { id, location, bases: Vec::new() }
            })
            .collect();
        self.0.publish(&entries, &[], &[])
    }

    /// Where the chunk is: pack, offset, plain length.
    ///
    /// # Errors
    /// [`KvError`], from the engine.
    pub fn find(&self, id: &ChunkId) -> Result<Option<(u32, u32, u32)>, KvError> {
        Ok(match self.0.lookup(id)? {
            Lookup::At(location) => Some((location.pack, location.offset, location.raw_len)),
            Lookup::Absent | Lookup::Undecodable => None,
        })
    }

    /// Bytes of the filter in memory.
    #[must_use]
    pub fn filter_bytes(&self) -> u64 {
        self.0.filter.bytes()
    }
}
