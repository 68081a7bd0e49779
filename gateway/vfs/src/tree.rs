//! What is done to trees beyond single operations.

use bytes::Bytes;
use causeway_namespace::Consistency;
use causeway_namespace_core::command::{Errno, Expect, Op};
use causeway_namespace_core::inode::FileKind;

use crate::error::VfsError;
use crate::{Located, Vfs};

/// Operations sent as one batch.
const BATCH_OPS: usize = 512;

impl Vfs {
    /// Removes everything below `place` and `place` itself: what was there when it began; an entry made meanwhile keeps
    /// its folder, and is reported as not empty. If another volume is mounted below, nothing is removed. Returns the number
    /// of entries removed.
    ///
    /// # Errors
    /// [`VfsError`]; what was removed before stays removed. Cancel safe in that sense.
    pub async fn remove_tree(&self, place: &Located) -> Result<u64, VfsError> {
        let mut walk = self.names.walk(place.volume.id, place.at(), false, Consistency::Linearizable);
        let mut entries: Vec<(Bytes, FileKind)> = Vec::new();
        while let Some(batch) = walk.next().await? {
            let batch = batch.map_err(|code| place.error(code))?;
            entries.extend(batch.entries.into_iter().map(|entry| (entry.name, entry.kind)));
        }
        // Nothing goes if not all of it can.
        if let Some((path, _)) = entries.iter().find(|(_, kind)| *kind == FileKind::Mount) {
            return Err(place.join(path).error(Errno::Busy));
        }
        // What is in a folder comes after it in a walk: the reverse order empties each before it goes.
        let mut removed = 0;
        let mut ops = Vec::with_capacity(BATCH_OPS);
        for (path, kind) in entries.iter().rev() {
            let at = place.join(path).at();
            if at.path.is_empty() {
                // A volume's top stays.
                continue;
            }
            ops.push(match kind {
                FileKind::Directory => Op::Rmdir { at },
                FileKind::Mount => return Err(place.join(path).error(Errno::Busy)),
                FileKind::File | FileKind::Symlink => Op::Unlink { at, expect: Expect::Any },
            });
            removed += 1;
            if ops.len() == BATCH_OPS {
                self.mutate(place, std::mem::take(&mut ops)).await?;
            }
        }
        if !ops.is_empty() {
            self.mutate(place, ops).await?;
        }
        Ok(removed)
    }
}
