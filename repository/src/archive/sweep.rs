//! Deletes packs that no index names: what crashed or abandoned puts left.

use std::collections::BTreeSet;
use std::time::Duration;

use super::ChunkArchive;
use crate::error::Error;
use crate::names;

/// Time that a put may take from its first pack to its index object; sweeping spares packs for twice as long.
pub(super) const PUT_TIME_MAX: Duration = Duration::from_secs(12 * 3600);

/// What [`ChunkArchive::sweep`] deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Packs deleted.
    pub packs: u64,
    /// Their length together.
    pub bytes: u64,
}

impl ChunkArchive {
    /// Deletes packs that no index object names and that are older than `spare_for`, which counts as 24 hours at least. Safe
    /// beside running writers, and to be interrupted at any step. Reads every index object.
    ///
    /// It deletes no chunk that is indexed, whether a file needs it or not. After a loss of index objects,
    /// [`ChunkArchive::rebuild_index`] first: a pack that only a lost index named would go.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged index (nothing is deleted then); the store's.
    pub async fn sweep(&self, spare_for: Duration) -> Result<Swept, Error> {
        self.sweep_with_floor(spare_for, PUT_TIME_MAX * 2).await
    }

    pub(super) async fn sweep_with_floor(&self, spare_for: Duration, floor: Duration) -> Result<Swept, Error> {
        let store = &self.repository.store;
        let spare_for = spare_for.max(floor);
        // Packs before indexes: one that is put and named in between is in no list.
        let packs = store.list(names::PACKS, usize::MAX).await?;
        self.index.refresh().await?;
        let mut named = BTreeSet::new();
        for part in self.index.parts() {
            // One that was merged away meanwhile: what it names must not be taken for unnamed, so the error ends the sweep.
            named.extend(self.entries(&part).await?.into_iter().map(|(_, place)| place.pack));
        }
        let now = self.repository.clock().now();
        let mut swept = Swept::default();
        for pack in packs {
            let Some(name) = names::number(&pack.name) else { continue };
            if named.contains(&name) || now.since(pack.modified) < spare_for {
                continue;
            }
            store.delete(&names::pack(name)).await?;
            swept.packs += 1;
            swept.bytes += pack.bytes;
        }
        Ok(swept)
    }
}
