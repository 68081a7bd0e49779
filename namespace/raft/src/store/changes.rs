//! What changed between two seqs, for readers that follow a group.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use causeway_base::{Seq, VolumeId};
use causeway_namespace_core::records::ReadError;

use super::layout::{changes_range, changes_seq, decode_changes};
use super::view::{corrupt, read_error};
use super::{CHANGES, GroupStore, ViewError, chain, lock};

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
            let (seq, changes) = decoded.ok_or_else(|| corrupt(&key))?;
            read.push_back(Changed { seq, keys: changes.keys.into_iter().map(|changed| changed.key).collect() });
        }
        // Checked after reading: what was pruned meanwhile is noticed, never skipped.
        self.check_kept(after)?;
        Ok(read)
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
