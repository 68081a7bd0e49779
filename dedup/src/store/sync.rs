//! Group fsync: whoever comes first syncs for all that wait.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use causeway_storage::kv::KvError;

use super::index::{BATCH_ENTRIES, Entry, PackMeta, PackState};
use super::writer::{Active, full};
use super::{ChunkStore, StoreError, lock};

/// Who syncs, and how far.
#[derive(Debug, Default)]
pub(super) struct SyncState {
    running: bool,
    /// Bytes, counted as [`super::writer::Writer::appended`], that are durable and in the index.
    pub(super) synced: u64,
}

impl ChunkStore {
    /// Makes everything durable that was put before; callers that wait at the same time share one fsync.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the disk failed and [`StoreError::ReadOnly`] ever after; [`StoreError::Index`] if only the index
    /// failed: with `Full` the next sync tries again, and nothing counts as durable before.
    pub fn sync(&self) -> Result<(), StoreError> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.sync_gated()
    }

    pub(super) fn sync_gated(&self) -> Result<(), StoreError> {
        let target = lock(&self.writer).appended;
        let mut state = lock(&self.sync);
        loop {
            if state.synced >= target {
                return Ok(());
            }
            self.ensure_writable()?;
            if !state.running {
                break;
            }
            state = self.synced.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.running = true;
        drop(state);
        let result = self.sync_now();
        let mut state = lock(&self.sync);
        state.running = false;
        if let Ok(upto) = &result {
            state.synced = state.synced.max(*upto);
        }
        drop(state);
        self.synced.notify_all();
        result.map(drop)
    }

    /// Syncs what is dirty now and publishes it; gives how far that goes. Appends go on meanwhile.
    fn sync_now(&self) -> Result<u64, StoreError> {
        let mut writer = lock(&self.writer);
        let upto = writer.appended;
        let dirty = std::mem::take(&mut writer.dirty);
        let dir_dirty = std::mem::take(&mut writer.dir_dirty);
        let entries = std::mem::take(&mut writer.unpublished);
        let unmarked = std::mem::take(&mut writer.unmarked);
        let closing = std::mem::take(&mut writer.closing);
        let mut metas: Vec<_> =
            unmarked.iter().filter_map(|pack| writer.metas.get(pack).map(|meta| (*pack, *meta))).collect();
        let active = writer.active.as_ref().map(|active| (active.pack, active.offset));
        drop(writer);

        let synced = dirty
            .iter()
            .try_for_each(|(pack, file)| file.sync_data().map_err(|source| self.files.error("sync", *pack, source)));
        let synced = synced.and_then(|()| match dir_dirty {
            true => {
                let dir = self.files.dir();
                self.files.disk().sync_dir(dir).map_err(|source| self.files.dir_error("sync", source))
            }
            false => Ok(()),
        });
        if let Err(error) = synced {
            // What the kernel could not write it may have dropped: a second fsync that succeeds would prove nothing.
            self.stop_writing(&error);
            return Err(error);
        }

        self.seal(closing, &mut metas)?;

        if let Err(error) = self.publish(&entries, &metas) {
            if matches!(error, KvError::Full { .. }) {
                let mut writer = lock(&self.writer);
                let newer = std::mem::replace(&mut writer.unpublished, entries);
                writer.unpublished.extend(newer);
                writer.unmarked.extend(metas.iter().map(|(pack, _)| *pack));
                return Err(error.into());
            }
            let error = error.into();
            self.stop_writing(&error);
            return Err(error);
        }
        if let Some((pack, offset)) = active
            && let Some(active) = &mut lock(&self.writer).active
            && active.pack == pack
        {
            active.synced_to = offset;
        }
        Ok(upto)
    }

    /// Writes the footers of full packs, now that their records are durable. Without space they wait for the next sync.
    fn seal(&self, closing: Vec<Active>, metas: &mut Vec<(u32, PackMeta)>) -> Result<(), StoreError> {
        for pack in closing {
            match pack.seal() {
                Ok(len) => {
                    let mut writer = lock(&self.writer);
                    let Some(meta) = writer.metas.get_mut(&pack.pack) else { continue };
                    meta.state = PackState::Sealed;
                    meta.indexed_to = len;
                    metas.retain(|(number, _)| *number != pack.pack);
                    metas.push((pack.pack, *meta));
                }
                Err(error) if full(&error) => lock(&self.writer).closing.push(pack),
                Err(source) => {
                    let error = self.files.error("seal", pack.pack, source);
                    self.stop_writing(&error);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Enters durable chunks in the index, then takes them from the pending ones.
    fn publish(&self, entries: &[Entry], metas: &[(u32, PackMeta)]) -> Result<(), KvError> {
        let mut healed = Vec::new();
        let mut good = Vec::with_capacity(entries.len());
        {
            let corrupt = lock(&self.corrupt);
            for entry in entries {
                match corrupt.get(&entry.id) {
                    Some(bad) if *bad == entry.location => continue, // it went bad before it was even published
                    Some(_) => healed.push(entry.id),
                    None => {}
                }
                good.push(entry.clone());
            }
        }
        // The marks go with the last batch: before, the index claims less than it has.
        let mut batches = good.chunks(BATCH_ENTRIES).peekable();
        if batches.peek().is_none() {
            self.index.publish(&[], metas, &healed)?;
        }
        while let Some(batch) = batches.next() {
            let last = batches.peek().is_none();
            let (metas, healed) = if last { (metas, healed.as_slice()) } else { (&[][..], &[][..]) };
            self.index.publish(batch, metas, healed)?;
        }
        // Opening after a crash reads what the index lost: not much, if it is kept durable about once a pack.
        if metas.iter().any(|(_, meta)| meta.state == PackState::Sealed) {
            self.index.persist()?;
        }
        self.published.fetch_add(1, Ordering::AcqRel);
        let mut pending = self.pending.write().unwrap_or_else(PoisonError::into_inner);
        for entry in entries {
            if pending.get(&entry.id) == Some(entry) {
                pending.remove(&entry.id);
            }
            self.pins.unpin(&entry.bases); // the index names them now
        }
        drop(pending);
        let mut corrupt = lock(&self.corrupt);
        for id in &healed {
            corrupt.remove(id);
        }
        Ok(())
    }

    /// Syncs, and marks the index as whole. Puts are refused from then on.
    ///
    /// # Errors
    /// As [`ChunkStore::sync`].
    pub fn close(&self) -> Result<(), StoreError> {
        self.sync()?;
        lock(&self.read_only).get_or_insert_with(|| "it was closed".to_owned());
        // A put may have come between the two.
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if lock(&self.writer).unpublished.is_empty() {
            self.index.mark_clean()?;
        }
        Ok(())
    }
}
