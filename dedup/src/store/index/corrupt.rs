//! The list of corrupt chunks, apart from its index: the one thing that packs do not tell without being read whole.

use bytes::Bytes;
use causeway_storage::kv::{Batch, Kv, KvError, prefix_range};

use super::CORRUPT;

/// The chunks that an index knows to be corrupt, to be carried over to the one that replaces it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CorruptList(Vec<(Bytes, Bytes)>);

impl CorruptList {
    /// The list of the index in `kv`, opened with [`super::INDEX_SPACES`].
    ///
    /// # Errors
    /// [`KvError`], from the engine.
    pub fn read(kv: &dyn Kv) -> Result<Self, KvError> {
        kv.scan(CORRUPT, prefix_range(b""), false).collect::<Result<_, _>>().map(Self)
    }

    /// Puts the list into an index that no store has opened yet; durable on return.
    ///
    /// # Errors
    /// [`KvError`], from the engine.
    pub fn write(&self, kv: &dyn Kv) -> Result<(), KvError> {
        let mut batch = Batch::new();
        for (id, location) in &self.0 {
            batch.put(CORRUPT, id.clone(), location.clone());
        }
        kv.write(batch)?;
        kv.persist()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
