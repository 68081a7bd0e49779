//! The mark of a replica that is known to be wrong: it is not read any more, until its state is replaced.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use causeway_base::envelope::{self, Kind};
use causeway_base::{Seq, Timestamp};
use causeway_storage::kv::{Batch, Kv};

use super::{GroupStore, META, StateView, StoreError, layout, lock};

const KIND: Kind = Kind { magic: *b"CWSD", version: 1, payload_bytes_max: 4096 };
/// Longest reason in bytes.
const WHY_MAX: usize = 1024;

/// That a replica is wrong. Kept on the disk, so that a restart does not forget it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DivergedMark {
    /// The seq at which it was found.
    pub seq: Seq,
    /// When.
    pub at: Timestamp,
    /// How it is known, for people.
    pub why: String,
}

pub(super) fn read(kv: &dyn Kv, group: causeway_base::VolumeId) -> Result<Option<DivergedMark>, StoreError> {
    let sealed = kv.get(META, &layout::diverged_key(group)).map_err(|source| StoreError::Kv { group, source })?;
    let Some(sealed) = sealed else { return Ok(None) };
    // That the mark is there counts; a damaged one is no reason to read the replica again.
    let mark = envelope::open_value(KIND, &sealed).unwrap_or_else(|error| DivergedMark {
        seq: Seq::ZERO,
        at: Timestamp(0),
        why: format!("the mark itself does not decode: {error}"),
    });
    Ok(Some(mark))
}

impl StateView {
    /// Whether the replica was marked as wrong when the view was taken, or is now unreadable.
    pub(crate) fn is_diverged(&self) -> bool {
        !matches!(self.kv().get(META, &layout::diverged_key(self.group())), Ok(None))
    }
}

impl GroupStore {
    /// Marks the replica as wrong, durably: views of it are refused from now on. `generation` is that of the state that was
    /// judged ([`GroupStore::generation`]): if it was replaced since, nothing is marked, and the answer is `false`.
    ///
    /// # Errors
    /// The store failed; the replica is marked in memory all the same.
    pub fn mark_diverged(&self, generation: u64, mut mark: DivergedMark) -> Result<bool, StoreError> {
        let end = mark.why.floor_char_boundary(WHY_MAX.min(mark.why.len()));
        mark.why.truncate(end);
        let sealed = envelope::seal_value(KIND, &mark).map_err(|error| self.damaged(error.to_string()))?;
        let state = lock(&self.meta);
        if self.generation() != generation {
            return Ok(false);
        }
        *lock(&self.diverged) = Some(mark);
        self.generation.fetch_add(1, Ordering::AcqRel);
        // Those who follow look up.
        self.applied.send_modify(|_| {});
        let mut batch = Batch::new();
        batch.put(META, layout::diverged_key(self.id), Bytes::from(sealed));
        self.kv.write(batch).and_then(|()| self.kv.persist()).map_err(|source| self.kv_error(source))?;
        // Whoever asks for a view gets one that shows the mark.
        *lock(&self.view) = None;
        drop(state);
        Ok(true)
    }

    /// The mark, if the replica has one.
    #[must_use]
    pub fn diverged(&self) -> Option<DivergedMark> {
        lock(&self.diverged).clone()
    }

    /// Another number than before: what was read of this replica until then may have been wrong. Not zero after a start:
    /// it was marked before.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// That it may be read.
    ///
    /// # Errors
    /// [`StoreError::Diverged`].
    pub fn check_sound(&self) -> Result<(), StoreError> {
        match &*lock(&self.diverged) {
            None => Ok(()),
            Some(mark) => Err(StoreError::Diverged { group: self.id, seq: mark.seq }),
        }
    }
}
