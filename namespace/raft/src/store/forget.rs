//! Giving up, for good, the state that a node has of a line that it left.
//!
//! The mark is durable first; then the records go, batch by batch. A crash in between leaves the mark, and the next start goes on.
//! The mark stays: what was given up must not be taken for what was never there.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use causeway_base::envelope::{self, Kind};
use causeway_base::{Timestamp, VolumeId};
use causeway_namespace_core::lineage::Lineage;
use causeway_storage::kv::{Batch, Kv, KvError, Space, prefix_range};

use super::layout::{forgotten_key, group_of, group_range};
use super::{CHANGES, CURRENT, KEPT, META, OLD, StateStore, StoreError, lock};

const KIND: Kind = Kind { magic: *b"CWSF", version: 1, payload_bytes_max: 4096 };
/// Records deleted in one batch.
const BATCH: usize = 4096;

/// A line of which this node gave up log and state, because a person said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgottenLine {
    /// Of which group.
    pub group: VolumeId,
    /// Which line.
    pub lineage: Lineage,
    /// When, by this node's clock.
    pub at: Timestamp,
}

/// The marks in a store.
pub(super) fn read(kv: &dyn Kv) -> Result<BTreeSet<(VolumeId, Lineage)>, StoreError> {
    let mut forgotten = BTreeSet::new();
    for entry in kv.scan(META, prefix_range(b""), false) {
        let (key, sealed) = entry.map_err(|source| StoreError::Kv { group: VolumeId::ROOT, source })?;
        let Some(group) = group_of(&key).filter(|id| forgotten_key(*id) == key) else { continue };
        let mark: ForgottenLine = envelope::open_value(KIND, &sealed).map_err(|error| StoreError::Damaged {
            group,
            reason: format!("the mark of a line that was given up: {error}"),
        })?;
        forgotten.insert((mark.group, mark.lineage));
    }
    Ok(forgotten)
}

impl StateStore {
    /// Whether what this node had of a line was given up.
    #[must_use]
    pub fn is_forgotten(&self, group: VolumeId, lineage: Lineage) -> bool {
        lock(&self.forgotten).contains(&(group, lineage))
    }

    /// All lines that were given up.
    #[must_use]
    pub fn forgotten(&self) -> Vec<(VolumeId, Lineage)> {
        lock(&self.forgotten).iter().copied().collect()
    }

    /// Gives up what is here of a line, for good; no group of it may run. From the first moment on it is decided, also over a
    /// crash; on return it is done. The same again is fine. Views that were taken before stay as they are. Blocks the thread.
    ///
    /// # Errors
    /// Any [`StoreError`]; it may be decided then.
    pub fn forget(&self, line: ForgottenLine) -> Result<(), StoreError> {
        let group = line.group;
        let kv = |source| StoreError::Kv { group, source };
        if !self.is_forgotten(group, line.lineage) {
            let sealed = envelope::seal_value(KIND, &line)
                .map_err(|error| StoreError::Damaged { group, reason: error.to_string() })?;
            let mut batch = Batch::new();
            batch.put(META, forgotten_key(line.lineage.storage(group)), Bytes::from(sealed));
            self.kv.write(batch).and_then(|()| self.kv.persist()).map_err(kv)?;
            lock(&self.forgotten).insert((group, line.lineage));
        }
        self.clear_forgotten(group, line.lineage)
    }

    /// Removes what is left of a line that is marked.
    pub(super) fn clear_forgotten(&self, group: VolumeId, lineage: Lineage) -> Result<(), StoreError> {
        let storage = lineage.storage(group);
        // Whoever asks from now on finds it blank.
        lock(&self.groups).remove(&storage);
        let kv = |source| StoreError::Kv { group, source };
        let mut removed = false;
        // What says that there is a state goes first.
        for space in [META, CURRENT, OLD, CHANGES, KEPT] {
            removed |= self.clear(space, storage).map_err(kv)?;
        }
        if removed {
            self.kv.persist().map_err(kv)?;
        }
        lock(&self.groups).remove(&storage);
        Ok(())
    }

    fn clear(&self, space: Space, storage: VolumeId) -> Result<bool, KvError> {
        let (mark, mut removed) = (forgotten_key(storage), false);
        loop {
            let mut batch = Batch::new();
            for entry in self.kv.scan(space, group_range(storage), false).take(BATCH) {
                let (key, _) = entry?;
                if space != META || key != mark {
                    batch.delete(space, key);
                }
            }
            if batch.is_empty() {
                return Ok(removed);
            }
            removed = true;
            self.kv.write(batch)?;
        }
    }
}
