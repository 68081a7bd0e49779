//! Replacing a group's state by a snapshot.
//!
//! The file is complete and durable first; then a mark names it; then the old state goes and the new one comes, batch by
//! batch; the last batch removes the mark. A crash in between leaves the mark, and the next start does it again from the
//! file. Memory is bounded by a batch.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use causeway_base::{Seq, VolumeId};
use causeway_storage::disk::{DiskFile, Open};
use causeway_storage::kv::{Batch, KvError, prefix_range};

use super::layout::{
    Kept, Meta, Position, current_key, decode_install, diverged_key, encode_install, encode_kept_version, encode_meta,
    group_of, group_range, install_key, kept_key, meta_key, old_key, stamped, trusted_key, write_kept,
};
use super::ring::Ring;
use super::snapshot::{Checked, Checker, SnapshotBlocks, SnapshotHeader, Stamped, is_seen};
use super::{
    CHANGES, CURRENT, Era, GroupStore, KEPT, META, OLD, SnapshotFile, StateStore, StateView, StoreError, lock,
};

/// Records deleted or put in one batch.
const BATCH: usize = 4096;
/// Largest block of a file; a larger length is damage.
const BLOCK_BYTES_MAX: u32 = 4 << 20;

impl GroupStore {
    /// Replaces the state by that of the file, which goes afterwards. Views taken before stay as they are. Blocks the thread.
    ///
    /// # Errors
    /// Any [`StoreError`]; after one the state is either the old one or its installation goes on at the next start.
    pub fn install(&self, file: &SnapshotFile) -> Result<(), StoreError> {
        self.install_in(self.era(), file)
    }

    /// Lets one in that applies and installs from now on; those before are out, though they may not know it yet.
    pub(crate) fn enter(&self) -> Era {
        let _idle = lock(&self.meta);
        Era(self.era.fetch_add(1, Ordering::AcqRel) + 1)
    }

    pub(super) fn era(&self) -> Era {
        Era(self.era.load(Ordering::Acquire))
    }

    pub(super) fn check_era(&self, era: Era) -> Result<(), StoreError> {
        if era == self.era() { Ok(()) } else { Err(StoreError::Replaced(self.id)) }
    }

    /// As [`GroupStore::install`], for one that [`GroupStore::enter`] let in.
    ///
    /// # Errors
    /// Also [`StoreError::Replaced`].
    pub(crate) fn install_in(&self, era: Era, file: &SnapshotFile) -> Result<(), StoreError> {
        // What readers get until the new state is whole.
        drop(self.view()?);
        let mut meta = lock(&self.meta);
        self.check_era(era)?;
        // Nothing goes before it is known that what comes is there, and whole.
        let (mut reader, path) = self.reader(&file.name)?;
        while !reader.checker.complete {
            reader.next(self.id, &path)?;
        }
        let mut batch = Batch::new();
        batch.put(META, install_key(self.id), encode_install(self.id, &file.name)?);
        self.kv.write(batch).map_err(|source| self.kv_error(source))?;
        self.kv.persist().map_err(|source| self.kv_error(source))?;
        let installed = self.load(&file.name)?;
        self.settle(&mut meta, installed);
        Ok(())
    }

    /// Finishes an installation that failed half-way, if one did. The group must not start before.
    ///
    /// # Errors
    /// Any [`StoreError`]; try again.
    pub(crate) fn resume_install(&self) -> Result<(), StoreError> {
        let mut meta = lock(&self.meta);
        let sealed = self.kv.get(META, &install_key(self.id)).map_err(|source| self.kv_error(source))?;
        let Some(sealed) = sealed else { return Ok(()) };
        let installed = self.load(&decode_install(self.id, &sealed)?)?;
        self.settle(&mut meta, installed);
        Ok(())
    }

    /// Removes the file of a snapshot that is not installed after all. Blocks the thread.
    pub(crate) fn discard(&self, file: &SnapshotFile) {
        // Best effort: the next start removes it too.
        let _ = self.disk.remove(&self.dir.join(&file.name));
    }

    /// Shows an installed state.
    fn settle(&self, meta: &mut Meta, installed: Meta) {
        let seq = installed.seq();
        *lock(&self.ring) = Ring::of(&installed);
        self.cache.leave(std::mem::replace(&mut *lock(&self.tenant), self.cache.tenant()));
        // The view of before first: it must not be read once the mark is gone.
        *lock(&self.view) = None;
        *lock(&self.diverged) = None;
        *lock(&self.trusted) = None;
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.publish(meta, installed);
        self.persisted.store(seq.0, Ordering::Release);
        self.applied.send_replace(seq);
    }

    fn reader(&self, name: &str) -> Result<(Reader, PathBuf), StoreError> {
        let path = self.dir.join(name);
        let opened = self.disk.open(&path, Open::Read);
        let file = opened.map_err(|source| StoreError::Io { action: "open", path: path.clone(), source })?;
        Ok((Reader { file, offset: 0, checker: Checker::default() }, path))
    }

    /// From the mark on.
    fn load(&self, name: &str) -> Result<Meta, StoreError> {
        let (mut reader, path) = self.reader(name)?;
        for space in [CURRENT, OLD, CHANGES, KEPT] {
            self.clear(space)?;
        }
        let mut batch = Batch::new();
        while !reader.checker.complete {
            let Checked { records, versions } = reader.next(self.id, &path)?;
            for (key, seq, value) in records {
                batch.put(CURRENT, current_key(self.id, &key), stamped(seq, &value));
            }
            let kept = reader.checker.header.as_ref().map_or(&[][..], |header| &header.kept);
            for (key, written, replaced, value) in versions {
                batch.put(OLD, old_key(self.id, &key, written), stamped(replaced, &value));
                if let Some(pin) = is_seen(kept, written, replaced) {
                    batch.put(KEPT, kept_key(self.id, pin, &key), encode_kept_version(Some(written), None));
                }
            }
            if batch.len() >= BATCH {
                self.kv.write(std::mem::take(&mut batch)).map_err(|source| self.kv_error(source))?;
            }
        }
        let records = reader.checker.records;
        let header = reader.checker.header.ok_or_else(|| self.damaged("its snapshot has no header"))?;
        let meta = Meta {
            applied: Some(header.applied),
            membership: header.membership,
            digest: header.digest,
            records,
            oldest: Seq(header.applied.index),
            time: header.time,
            oldest_time: header.time,
        };
        let kept = header.kept.iter().filter(|seq| **seq < meta.oldest);
        let kept: Vec<Kept> = kept.map(|seq| Kept { seq: *seq, listed: false, gone: false }).collect();
        write_kept(&mut batch, self.id, &kept)?;
        batch.put(META, meta_key(self.id), encode_meta(self.id, &meta)?);
        batch.delete(META, install_key(self.id));
        // A replaced state is not the wrong one any more.
        batch.delete(META, diverged_key(self.id));
        batch.delete(META, trusted_key(self.id));
        self.kv.write(batch).map_err(|source| self.kv_error(source))?;
        self.kv.persist().map_err(|source| self.kv_error(source))?;
        // The state is in, whatever becomes of the file: the next start removes it too.
        if let Err(error) = self.disk.remove(&path).and_then(|()| self.disk.sync_dir(&self.dir)) {
            tracing::warn!(group = %self.id, path = %path.display(), %error, "an installed snapshot's file stays for now");
        }
        Ok(meta)
    }

    fn clear(&self, space: causeway_storage::kv::Space) -> Result<(), StoreError> {
        loop {
            let mut batch = Batch::new();
            for entry in self.kv.scan(space, group_range(self.id), false).take(BATCH) {
                let (key, _) = entry.map_err(|source| self.kv_error(source))?;
                batch.delete(space, key);
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.kv.write(batch).map_err(|source| self.kv_error(source))?;
        }
    }

    /// Makes a snapshot file of a view's state under this group's id: at another place of the log, with other members, and
    /// with some records other. Old versions that named snapshots see come along if the view is the newest.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn snapshot_rebased(
        &self,
        view: &StateView,
        applied: Position,
        membership: Bytes,
        rewritten: BTreeMap<Bytes, Option<Bytes>>,
    ) -> Result<SnapshotFile, StoreError> {
        let read = |source| StoreError::Read { group: self.id, source };
        let blocks = SnapshotBlocks::rebased(view, self.id, applied, membership, rewritten).map_err(read)?;
        let mut receiver = self.receive_snapshot()?;
        for block in blocks {
            receiver.push(&block?)?;
        }
        receiver.finish()
    }

    /// Makes a snapshot file of records given in key order, all written by the header's seq at the latest.
    ///
    /// # Errors
    /// [`StoreError::Snapshot`] if they are not what the header says.
    pub fn snapshot_of(
        &self,
        header: SnapshotHeader,
        records: impl Iterator<Item = Result<Stamped, StoreError>> + Send + 'static,
    ) -> Result<SnapshotFile, StoreError> {
        let mut receiver = self.receive_snapshot()?;
        for block in SnapshotBlocks::from_records(header, records) {
            receiver.push(&block?)?;
        }
        receiver.finish()
    }
}

#[derive(Debug)]
struct Reader {
    file: Arc<dyn DiskFile>,
    offset: u64,
    checker: Checker,
}

impl Reader {
    fn next(&mut self, group: VolumeId, path: &Path) -> Result<Checked, StoreError> {
        let io = |source| StoreError::Io { action: "read", path: path.to_owned(), source };
        let damaged = |reason: String| StoreError::Damaged { group, reason: format!("{}: {reason}", path.display()) };
        let mut len = [0; 4];
        self.file.read_exact_at(&mut len, self.offset).map_err(io)?;
        let len = u32::from_le_bytes(len);
        if len > BLOCK_BYTES_MAX {
            return Err(damaged(format!("a block of {len} bytes")));
        }
        let mut block = vec![0; len as usize];
        self.file.read_exact_at(&mut block, self.offset + 4).map_err(io)?;
        self.offset += 4 + u64::from(len);
        self.checker.check(&block).map_err(damaged)
    }
}

impl StateStore {
    /// Finishes what a crash interrupted. A group whose state cannot be finished does not start before it is; the others do.
    /// Returns the names of the files that are still needed.
    pub(super) fn finish_installs(self: &Arc<Self>) -> Result<BTreeSet<String>, StoreError> {
        let kv = |source: KvError| StoreError::Kv { group: VolumeId::ROOT, source };
        let marks: Result<Vec<_>, _> = self
            .kv
            .scan(META, prefix_range(b""), false)
            .filter(|entry| entry.as_ref().map_or(true, |(key, _)| key.get(8..) == Some(b"i")))
            .collect();
        let mut needed = BTreeSet::new();
        for (key, sealed) in marks.map_err(kv)? {
            let Some(id) = group_of(&key) else { continue };
            let name = decode_install(id, &sealed)?;
            tracing::warn!(group = %id, file = name, "a snapshot was being installed: doing it again");
            if let Err(error) = GroupStore::open(self, id).and_then(|group| group.load(&name)) {
                tracing::error!(group = %id, file = name, error = super::chain(&error), "the state of a group is not whole");
                needed.insert(name);
            }
        }
        Ok(needed)
    }

    /// Removes snapshots that no mark names: they were received and not installed.
    pub(super) fn remove_partial_snapshots(&self, needed: &BTreeSet<String>) -> Result<(), StoreError> {
        let dir = self.snapshot_dir();
        let io = |action, path: &Path, source| StoreError::Io { action, path: path.to_owned(), source };
        for name in self.disk.list(dir).map_err(|error| io("list", dir, error))? {
            let is_ours = name.to_str().is_some_and(|name| name.ends_with(".snap") || name.ends_with(".snap.part"));
            if is_ours && name.to_str().is_none_or(|name| !needed.contains(name)) {
                let path = dir.join(&name);
                self.disk.remove(&path).map_err(|error| io("remove", &path, error))?;
            }
        }
        Ok(())
    }
}
