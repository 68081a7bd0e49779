//! Giving up old versions, but for what snapshots need.
//!
//! A version of a record is needed by a snapshot if the snapshot's seq lies in the interval in which the version was valid.
//! When a list of changes is given up, each of its keys belongs to the newest snapshot before it: the first change of a key
//! after that snapshot replaced exactly the version that the snapshot sees, so this version stays and `KEPT` names it under
//! the snapshot; any later one is seen by no snapshot and goes. When a snapshot is deleted, what is listed under it passes
//! to the snapshot before it if that sees the same version, else it goes. So every step costs in proportion to what changed,
//! and exactly what a snapshot sees is kept.

use std::collections::BTreeSet;

use bytes::Bytes;

use causeway_base::{Seq, Timestamp};
use causeway_namespace_core::manage::RetentionRecord;
use causeway_namespace_core::query;
use causeway_storage::kv::Batch;

use super::layout::{
    ChangedKey, Kept, changes_key, changes_range, changes_seq, decode_changes, decode_kept_version,
    encode_kept_version, encode_meta, kept_key, kept_range, kept_record_key, meta_key, old_key, read_kept, write_kept,
};
use super::{CHANGES, GroupStore, KEPT, META, OLD, StateView, StoreError, ViewError, lock};

/// Keys of a deleted snapshot handled for each changed seq that a call may prune.
const KEYS_PER_SEQ: usize = 16;

impl GroupStore {
    /// The oldest seq that the volume's retention (or `default`, where it has none) wants to be readable at `now`; less than
    /// a sixty-fourth above what is readable it is that, so that not every single seq is given up by itself.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn retained_from(&self, default: RetentionRecord, now: Timestamp) -> Result<Seq, StoreError> {
        let view = self.view()?;
        let read = |source| StoreError::Read { group: self.id, source };
        let keep = query::retention(&view).map_err(read)?.unwrap_or(default);
        let meta = view.meta();
        let by_seqs = Seq(meta.seq().0.saturating_sub(keep.seqs));
        let since = i64::try_from(keep.seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        let by_time = match view.seq_at(Timestamp(now.0.saturating_sub(since))) {
            Ok(seq) => seq,
            Err(ViewError::TooEarly { oldest, .. }) => oldest,
            Err(ViewError::Read(source)) => return Err(read(source)),
            Err(error) => return Err(self.damaged(error.to_string())),
        };
        // What either asks for is kept; a time of zero asks for nothing.
        let floor = if keep.seconds == 0 { by_seqs } else { by_seqs.min(by_time) };
        Ok(if floor.0 <= meta.oldest.0.saturating_add(keep.seqs / 64) { meta.oldest } else { floor })
    }

    /// Gives up versions that no view from `floor` on and no snapshot can see, and changes up to it. Does at most `seqs_max`
    /// changed seqs, so that applying hardly waits; whether there is more to do.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn prune(&self, floor: Seq, seqs_max: usize) -> Result<bool, StoreError> {
        let mut meta = lock(&self.meta);
        let floor = floor.min(meta.seq());
        let mut kept = read_kept(self.kv.as_ref(), self.id)?;
        if floor <= meta.oldest && kept.is_empty() {
            return Ok(false);
        }
        let named = self.named_seqs()?;
        if let Some(index) = kept.iter().position(|kept| !named.contains(&kept.seq)) {
            self.drop_kept(&mut kept, index, seqs_max.saturating_mul(KEYS_PER_SEQ))?;
            self.forget_view();
            return Ok(true);
        }
        if floor <= meta.oldest {
            return Ok(false);
        }
        // A snapshot below the oldest seq that is not kept is not here: the cluster was restored without it.
        let mut pins: BTreeSet<Seq> = named.range(meta.oldest..).copied().collect();
        pins.extend(kept.iter().map(|kept| kept.seq));
        let mut work = Work { store: self, batch: Batch::new(), listed: BTreeSet::new() };
        let (mut pruned, mut count) = (meta.clone(), 0);
        pruned.oldest = floor;
        for entry in self.kv.scan(CHANGES, changes_range(self.id, meta.oldest, floor), false) {
            let (key, stored) = entry.map_err(|source| self.kv_error(source))?;
            let decoded = changes_seq(&key).zip(decode_changes(stored));
            let (seq, changes) = decoded.ok_or_else(|| self.damaged("its list of changes does not decode"))?;
            if count == seqs_max {
                // Everything before this seq is done.
                pruned.oldest = Seq(seq.0.saturating_sub(1));
                break;
            }
            count += 1;
            pruned.oldest_time = changes.time;
            let pin = pins.range(..seq).next_back().copied();
            for changed in changes.keys {
                work.give_up(pin, &changed)?;
            }
            work.batch.delete(CHANGES, changes_key(self.id, seq));
        }
        let mut batch = work.batch;
        let new = named.range(meta.oldest..pruned.oldest).map(|seq| Kept { seq: *seq, listed: true, gone: false });
        let before = kept.len();
        kept.extend(new);
        kept.sort_unstable_by_key(|kept| kept.seq);
        kept.dedup_by_key(|kept| kept.seq);
        if kept.len() != before {
            write_kept(&mut batch, self.id, &kept)?;
        }
        batch.put(META, meta_key(self.id), encode_meta(self.id, &pruned)?);
        self.kv.write(batch).map_err(|source| self.kv_error(source))?;
        let more = pruned.oldest < floor;
        self.publish(&mut meta, pruned);
        self.forget_view();
        Ok(more)
    }

    /// The next view knows what it can see.
    fn forget_view(&self) {
        *lock(&self.view) = None;
    }

    /// The seqs of the snapshots that there are.
    fn named_seqs(&self) -> Result<BTreeSet<Seq>, StoreError> {
        let view = StateView::newest(std::sync::Arc::new(super::ViewState::take(self.kv.as_ref(), self.id)?));
        let read = |source| StoreError::Read { group: self.id, source };
        Ok(query::snapshots(&view).map_err(read)?.into_iter().map(|(_, snapshot)| snapshot.seq).collect())
    }

    /// Gives up what only a deleted snapshot sees, at most `keys_max` keys of it.
    fn drop_kept(&self, kept: &mut Vec<Kept>, index: usize, keys_max: usize) -> Result<(), StoreError> {
        let gone = kept[index];
        // Snapshots before it that were deleted too are already given up.
        let before = index.checked_sub(1).map(|index| kept[index].seq);
        let mut batch = Batch::new();
        let mut count = 0;
        for entry in self.kv.scan(KEPT, kept_range(self.id, gone.seq), false).take(keys_max) {
            let (stored_key, stored) = entry.map_err(|source| self.kv_error(source))?;
            count += 1;
            let key = kept_record_key(&stored_key);
            let decoded = decode_kept_version(stored);
            let (written, name) =
                decoded.ok_or_else(|| self.damaged("what it keeps for a snapshot does not decode"))?;
            batch.delete(KEPT, stored_key);
            let seen = before.filter(|before| written.is_none_or(|written| written <= *before));
            if seen.is_none()
                && let Some(written) = written
            {
                batch.delete(OLD, old_key(self.id, &key, written));
            }
            let Some(before) = before else { continue };
            let place = kept_key(self.id, before, &key);
            let listed = self.kv.get(KEPT, &place).map_err(|source| self.kv_error(source))?.is_some();
            if !listed {
                batch.put(KEPT, place, encode_kept_version(written.filter(|_| seen.is_some()), name.as_ref()));
            }
        }
        if count < keys_max {
            kept.remove(index);
            if let Some(before) = index.checked_sub(1) {
                kept[before].listed &= gone.listed;
            }
        } else {
            // From the first key on its state is not whole.
            kept[index].gone = true;
        }
        write_kept(&mut batch, self.id, kept)?;
        self.kv.write(batch).map_err(|source| self.kv_error(source))
    }
}

/// A batch in the making.
struct Work<'a> {
    store: &'a GroupStore,
    batch: Batch,
    /// What the batch adds to `KEPT`.
    listed: BTreeSet<Bytes>,
}

impl Work<'_> {
    /// A change is given up whose newest snapshot before it is `pin`.
    fn give_up(&mut self, pin: Option<Seq>, changed: &ChangedKey) -> Result<(), StoreError> {
        let ChangedKey { key, replaced, name } = changed;
        let group = self.store.id;
        let mut seen = None;
        if let Some(pin) = pin {
            let place = kept_key(group, pin, key);
            let stored = || self.store.kv.get(KEPT, &place).map_err(|source| self.store.kv_error(source));
            if !self.listed.contains(&place) && stored()?.is_none() {
                seen = replaced.filter(|written| *written <= pin);
                self.batch.put(KEPT, place.clone(), encode_kept_version(seen, name.as_ref()));
                self.listed.insert(place);
            }
        }
        if let Some(written) = replaced.filter(|_| seen.is_none()) {
            self.batch.delete(OLD, old_key(group, key, written));
        }
        Ok(())
    }
}
