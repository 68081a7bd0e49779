//! The mark of a replica that is known to be wrong: it is not read any more, until its state is replaced.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use causeway_base::envelope::{self, Kind};
use causeway_base::{Seq, Timestamp};
use causeway_storage::kv::{Batch, Kv};

use super::layout::encode_meta;
use super::ring::Ring;
use super::{AddedUp, GroupStore, META, StateView, StoreError, layout, lock};

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

const TRUST_KIND: Kind = Kind { magic: *b"CWST", version: 1, payload_bytes_max: 4096 };

/// That a person took the mark of a wrong replica back. Kept on the disk: what others have is no ground to mark it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustMark {
    /// The seq at which that was.
    pub seq: Seq,
    /// When.
    pub at: Timestamp,
}

pub(super) fn read_trust(kv: &dyn Kv, group: causeway_base::VolumeId) -> Result<Option<TrustMark>, StoreError> {
    let sealed = kv.get(META, &layout::trusted_key(group)).map_err(|source| StoreError::Kv { group, source })?;
    let Some(sealed) = sealed else { return Ok(None) };
    let opened = envelope::open_value(TRUST_KIND, &sealed);
    opened.map(Some).map_err(|error| StoreError::Damaged { group, reason: format!("the mark of trust: {error}") })
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
        batch.delete(META, layout::trusted_key(self.id));
        *lock(&self.trusted) = None;
        self.kv.write(batch).and_then(|()| self.kv.persist()).map_err(|source| self.kv_error(source))?;
        // Whoever asks for a view gets one that shows the mark.
        *lock(&self.view) = None;
        drop(state);
        Ok(true)
    }

    /// Takes the mark of a wrong replica back, durably: its records, as they are, are what it is from now on, and it is read
    /// again. All of them are added up first; if they did not come to the digest, the digest is made theirs. What was read of
    /// it before counts for nothing ([`GroupStore::generation`]). Blocks the thread for one look at all records.
    ///
    /// # Errors
    /// It has no mark, a record cannot be read, or the store failed: it stays marked.
    pub fn trust(&self, at: Timestamp) -> Result<AddedUp, StoreError> {
        let generation = self.generation();
        let unmarked = || self.damaged("it is not marked as wrong");
        self.diverged().ok_or_else(unmarked)?;
        let view = self.fresh_view()?;
        let read = |source| StoreError::Read { group: self.id, source };
        let (sum, digest) = view.sum_up(|_| true).map_err(read)?.ok_or_else(|| self.damaged("not all was read"))?;
        let mut state = lock(&self.meta);
        if self.generation() != generation || self.diverged().is_none() {
            return Err(StoreError::Replaced(self.id));
        }
        // What was applied since the view changed both sums alike.
        let mut meta = state.clone();
        meta.digest = meta.digest.plus(&digest).minus(&view.meta().digest);
        meta.records = meta.records.wrapping_add(sum.records).wrapping_sub(view.meta().records);
        let mark = TrustMark { seq: meta.seq(), at };
        let sealed = envelope::seal_value(TRUST_KIND, &mark).map_err(|error| self.damaged(error.to_string()))?;
        let mut batch = Batch::new();
        batch.put(META, layout::meta_key(self.id), encode_meta(self.id, &meta)?);
        batch.put(META, layout::trusted_key(self.id), Bytes::from(sealed));
        batch.delete(META, layout::diverged_key(self.id));
        self.kv.write(batch).and_then(|()| self.kv.persist()).map_err(|source| self.kv_error(source))?;
        *lock(&self.ring) = Ring::of(&meta);
        *lock(&self.view) = None;
        *lock(&self.trusted) = Some(mark);
        *lock(&self.diverged) = None;
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.publish(&mut state, meta);
        self.applied.send_modify(|_| {});
        Ok(sum)
    }

    /// Whether a person took its mark back, and it was not the same as all others since.
    #[must_use]
    pub fn trusted(&self) -> Option<TrustMark> {
        *lock(&self.trusted)
    }

    /// It is the same as all others: the next difference is judged like any.
    ///
    /// # Errors
    /// The store failed; try again.
    pub fn end_trust(&self) -> Result<(), StoreError> {
        let mut trusted = lock(&self.trusted);
        let mut batch = Batch::new();
        batch.delete(META, layout::trusted_key(self.id));
        self.kv.write(batch).map_err(|source| self.kv_error(source))?;
        *trusted = None;
        Ok(())
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
