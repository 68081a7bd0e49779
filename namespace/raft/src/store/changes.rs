//! What changed between two seqs, and giving up old versions.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use causeway_base::{Seq, VolumeId};
use causeway_namespace_core::records::ReadError;
use causeway_storage::kv::Batch;

use super::layout::{changes_key, changes_range, changes_seq, decode_changes, encode_meta, meta_key, old_key};
use super::view::{corrupt, read_error};
use super::{CHANGES, GroupStore, META, OLD, StoreError, ViewError, chain, lock};

/// Entries read at once.
const READ: usize = 256;

/// What a seq changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The seq.
    pub seq: Seq,
    /// The keys of the records that it wrote or removed, sorted.
    pub keys: Vec<Bytes>,
}

/// The changes between two seqs, in order; seqs that changed nothing are left out. Reads as it goes; what it has not read
/// yet may be pruned away, which ends it with [`ViewError::TooOld`].
#[derive(Debug)]
pub struct Changes {
    store: Arc<GroupStore>,
    after: Seq,
    until: Seq,
    read: VecDeque<Changed>,
    ended: bool,
}

impl Iterator for Changes {
    type Item = Result<Changed, ViewError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.read.is_empty() && !self.ended {
            match self.store.read_changes(self.after, self.until) {
                Ok(read) => {
                    self.ended = read.len() < READ;
                    self.read = read;
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        let changed = self.read.pop_front()?;
        self.after = changed.seq;
        Some(Ok(changed))
    }
}

impl GroupStore {
    /// What changed after one seq and up to another (or the newest, if that is earlier).
    ///
    /// # Errors
    /// [`ViewError::TooOld`]: the reader fell off and must start from a whole state.
    pub fn changes(self: &Arc<Self>, after: Seq, until: Seq) -> Result<Changes, ViewError> {
        self.check_kept(after)?;
        let until = until.min(self.applied());
        Ok(Changes { store: Arc::clone(self), after, until, read: VecDeque::new(), ended: after >= until })
    }

    fn check_kept(&self, after: Seq) -> Result<(), ViewError> {
        let oldest = lock(&self.published).oldest;
        if after < oldest { Err(ViewError::TooOld { wanted: after, oldest }) } else { Ok(()) }
    }

    fn read_changes(&self, after: Seq, until: Seq) -> Result<VecDeque<Changed>, ViewError> {
        let scan = self.kv.scan(CHANGES, changes_range(self.id, after, until), false);
        let mut read = VecDeque::new();
        for entry in scan.take(READ) {
            let (key, stored) = entry.map_err(read_error)?;
            let decoded = changes_seq(&key).zip(decode_changes(stored));
            let (seq, keys) = decoded.ok_or_else(|| corrupt(&key))?;
            read.push_back(Changed { seq, keys: keys.into_iter().map(|(key, _)| key).collect() });
        }
        // Checked after reading: what was pruned meanwhile is noticed, never skipped.
        self.check_kept(after)?;
        Ok(read)
    }

    /// Gives up versions that no view from `floor` on can see, and changes up to it. Does at most `seqs_max` changed seqs,
    /// so that applying hardly waits; whether there is more to do.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn prune(&self, floor: Seq, seqs_max: usize) -> Result<bool, StoreError> {
        let mut meta = lock(&self.meta);
        let floor = floor.min(meta.seq());
        if floor <= meta.oldest {
            return Ok(false);
        }
        let mut batch = Batch::new();
        let (mut reached, mut count) = (floor, 0);
        for entry in self.kv.scan(CHANGES, changes_range(self.id, meta.oldest, floor), false) {
            let (key, stored) = entry.map_err(|source| self.kv_error(source))?;
            let decoded = changes_seq(&key).zip(decode_changes(stored));
            let (seq, keys) = decoded.ok_or_else(|| self.damaged("its list of changes does not decode"))?;
            if count == seqs_max {
                // Everything before this seq is done.
                reached = Seq(seq.0.saturating_sub(1));
                break;
            }
            count += 1;
            for (key, replaced) in keys {
                if let Some(written) = replaced {
                    batch.delete(OLD, old_key(self.id, &key, written));
                }
            }
            batch.delete(CHANGES, changes_key(self.id, seq));
        }
        let mut pruned = meta.clone();
        pruned.oldest = reached;
        batch.put(META, meta_key(self.id), encode_meta(self.id, &pruned)?);
        self.kv.write(batch).map_err(|source| self.kv_error(source))?;
        self.publish(&mut meta, pruned);
        // The next view knows that it cannot see as far.
        *lock(&self.view) = None;
        Ok(reached < floor)
    }
}

impl super::StateStore {
    /// As [`GroupStore::changes`].
    ///
    /// # Errors
    /// As [`GroupStore::changes`].
    pub fn changes(&self, group: VolumeId, after: Seq, until: Seq) -> Result<Changes, ViewError> {
        let group = self.group(group).map_err(|error| ReadError::Store(chain(&error)))?;
        group.changes(after, until)
    }
}
