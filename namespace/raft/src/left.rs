//! Lines of a group that this node has left: what of them is still on its disk, to be read and never to be started.

use std::sync::Arc;

use causeway_base::{Seq, VolumeId};
use causeway_namespace_core::command::Command;
use causeway_namespace_core::lineage::Lineage;

use openraft::EntryPayload;

use crate::consensus::wire;
use crate::groups::Groups;
use crate::store::{StateView, StoreError};

/// Bytes of entries read at once.
const READ_BYTES: usize = 4 << 20;

/// An entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftEntry {
    /// Its seq.
    pub seq: Seq,
    /// The requests; `None` if it is no command.
    pub command: Option<Command>,
}

impl Groups {
    /// The newest seq in the log that this node has of a line, committed or not; of its state, if the log holds none.
    ///
    /// # Errors
    /// The store failed. Cancel safe.
    pub async fn line_last(&self, id: VolumeId, lineage: Lineage) -> Result<Seq, StoreError> {
        let storage = lineage.storage(id);
        let last = self.wal.group(storage).range().end.saturating_sub(1);
        Ok(self.line_view(id, lineage).await?.seq().max(Seq(last)))
    }

    /// The newest state that this node has of a line; blank if it has none. Also of lines that it left.
    ///
    /// # Errors
    /// The store failed. Cancel safe.
    pub async fn line_view(&self, id: VolumeId, lineage: Lineage) -> Result<StateView, StoreError> {
        let (states, storage) = (Arc::clone(&self.states), lineage.storage(id));
        self.blocking.run(move || states.view(storage)).await
    }

    /// Entries of a line that stand in this node's log behind a seq, in order, some at once: fewer than there are, but for
    /// none at the end. What the log gave up is not among them; the state has it.
    ///
    /// # Errors
    /// The log cannot be read. Cancel safe.
    pub async fn line_entries(&self, id: VolumeId, lineage: Lineage, after: Seq) -> Result<Vec<LeftEntry>, StoreError> {
        let log = self.wal.group(lineage.storage(id));
        let read = move || {
            let damaged = |reason: String| StoreError::Damaged { group: id, reason };
            let found = log.read(after.0.saturating_add(1)..u64::MAX, READ_BYTES);
            let mut entries = Vec::new();
            for (index, bytes) in found.map_err(|error| damaged(error.to_string()))? {
                let entry = wire::decode_entry(index, bytes).map_err(damaged)?;
                let command = match entry.payload {
                    EntryPayload::Normal(command) => {
                        Some(Command::decode(&command.0).map_err(|error| damaged(error.to_string()))?)
                    }
                    EntryPayload::Blank | EntryPayload::Membership(_) => None,
                };
                entries.push(LeftEntry { seq: Seq(index), command });
            }
            Ok(entries)
        };
        self.blocking.run(read).await
    }
}
