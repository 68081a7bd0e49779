//! Which chunks are here. A delta is here if all that it stands on is here too: so a base that goes bad takes the deltas on it out
//! of service at once, and they are back when it is put again.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use causeway_base::ChunkId;

use super::index::{Entry, Location, Lookup};
use super::{ChunkStore, StoreError, lock};
use crate::delta::{DEPTH_MAX, READS_MAX};

/// Pairs of a base and a dependent that are read at once.
const PAGE: usize = 1024;
/// Most dependents of corrupt chunks that are named.
const UNREADABLE_MAX: usize = 1 << 16;

/// The bases of deltas that are not in the index yet: being made, or waiting for a sync. They are not collected. (The index names
/// those of the deltas that are in it.)
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<HashMap<ChunkId, u32>>);

impl Pins {
    pub(super) fn pin(&self, ids: &[ChunkId]) {
        let mut pins = lock(&self.0);
        for id in ids {
            *pins.entry(*id).or_default() += 1;
        }
    }

    pub(super) fn unpin(&self, ids: &[ChunkId]) {
        let mut pins = lock(&self.0);
        for id in ids {
            if let Some(count) = pins.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(id);
                }
            }
        }
    }

    pub(super) fn holds(&self, id: &ChunkId) -> bool {
        lock(&self.0).contains_key(id)
    }

    pub(super) fn all(&self) -> Vec<ChunkId> {
        lock(&self.0).keys().copied().collect()
    }
}

impl ChunkStore {
    pub(super) fn is_pending(&self, id: &ChunkId) -> bool {
        self.pending.read().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// Where a chunk is that can be read.
    pub(super) fn locate(&self, id: &ChunkId) -> Result<Option<Location>, StoreError> {
        self.readable(id, true)
    }

    /// Where a chunk's record is, whether or not what it stands on is here.
    pub(super) fn placed(&self, id: &ChunkId) -> Result<Option<Location>, StoreError> {
        Ok(self.entry(id, true)?.map(|entry| entry.location))
    }

    /// As [`ChunkStore::locate`]; without `pending` only if it is durable with all that it stands on.
    pub(super) fn readable(&self, id: &ChunkId, pending: bool) -> Result<Option<Location>, StoreError> {
        let Some(entry) = self.entry(id, pending)? else { return Ok(None) };
        Ok(self.stands(&entry, DEPTH_MAX, &mut 0, pending)?.then_some(entry.location))
    }

    /// Whether all that a chunk stands on is here, within the bounds that hold for reading it.
    fn stands(&self, entry: &Entry, links: u8, reads: &mut usize, pending: bool) -> Result<bool, StoreError> {
        if entry.location.depth == 0 {
            return Ok(true);
        }
        if self.is_doubtful(&entry.id, entry.location) {
            return Ok(false);
        }
        match links.checked_sub(1) {
            Some(links) => self.all_stand(&entry.bases, links, reads, pending),
            None => Ok(false),
        }
    }

    /// Whether the chunk at this place did not decode, so that it or what it stands on is wrong.
    pub(super) fn is_doubtful(&self, id: &ChunkId, location: Location) -> bool {
        lock(&self.doubtful).get(id) == Some(&location)
    }

    /// Whether a delta on these chunks can be read: its whole chain is here, within the bounds that hold for reading it.
    pub(super) fn bears(&self, bases: &[ChunkId]) -> Result<bool, StoreError> {
        self.all_stand(bases, DEPTH_MAX - 1, &mut 0, true)
    }

    /// Each base counts as often as it is named, as it is read as often.
    fn all_stand(&self, bases: &[ChunkId], links: u8, reads: &mut usize, pending: bool) -> Result<bool, StoreError> {
        for base in bases {
            *reads += 1;
            if *reads > READS_MAX {
                return Ok(false);
            }
            let Some(below) = self.entry(base, pending)? else { return Ok(false) };
            if !self.stands(&below, links, reads, pending)? {
                return Ok(false);
            }
        }
        Ok(!bases.is_empty())
    }

    /// What is known of a chunk. `pending` is looked at first: an entry leaves it only after it is in the index.
    pub(super) fn entry(&self, id: &ChunkId, pending: bool) -> Result<Option<Entry>, StoreError> {
        if pending && let Some(entry) = self.pending.read().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Ok(Some(entry.clone()));
        }
        Ok(match self.index.find(id)? {
            (Lookup::At(location), bases) => Some(Entry { id: *id, location, bases }),
            (Lookup::Absent | Lookup::Undecodable, _) => None, // `get` has the index built anew
        })
    }

    /// Whether a delta that is in the index stands on this chunk.
    pub(super) fn has_dependents(&self, base: &ChunkId) -> Result<bool, StoreError> {
        let mut found = false;
        self.each_dependent(base, |_| {
            found = true;
            false
        })?;
        Ok(found)
    }

    /// Whether a delta stands on this chunk, in the index or on its way there. Put again it must stand alone: as a delta it would
    /// make those above it too deep, or stand on one of them.
    ///
    /// The pins come first: they are given back only after the index names the delta.
    pub(super) fn is_stood_on(&self, base: &ChunkId) -> Result<bool, StoreError> {
        Ok(self.pins.holds(base) || self.has_dependents(base)?)
    }

    /// The deltas in the index that stand on this chunk, until `each` has enough.
    pub(super) fn each_dependent(&self, base: &ChunkId, mut each: impl FnMut(Entry) -> bool) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.index.dependents(Some(base), after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (_, dependent) in page {
                if let Some(entry) = self.entry(&dependent, false)?
                    && entry.bases.contains(base)
                    && !each(entry)
                {
                    return Ok(());
                }
            }
        }
    }

    /// The chunks that were found corrupt and were not put again since, and those that cannot be read because they stand on one
    /// of these (at most 65,536).
    #[must_use]
    pub fn corrupt_ids(&self) -> Vec<ChunkId> {
        let mut corrupt: BTreeSet<ChunkId> = self.corrupt_alone().into_iter().collect();
        let doubtful = lock(&self.doubtful).clone();
        let still = |id: &ChunkId, location| matches!(self.placed(id), Ok(Some(place)) if place == location);
        corrupt.extend(doubtful.into_iter().filter(|(id, location)| still(id, *location)).map(|(id, _)| id));
        match self.unreadable(&corrupt) {
            Ok(unreadable) => corrupt.into_iter().chain(unreadable).collect(),
            Err(error) => {
                tracing::warn!(%error, "what stands on corrupt chunks cannot be told");
                corrupt.into_iter().collect()
            }
        }
    }

    /// The chunks whose own records are corrupt.
    pub(super) fn corrupt_alone(&self) -> Vec<ChunkId> {
        lock(&self.corrupt).keys().copied().collect()
    }

    /// What cannot be read because it stands on one of `corrupt`.
    fn unreadable(&self, corrupt: &BTreeSet<ChunkId>) -> Result<BTreeSet<ChunkId>, StoreError> {
        let mut found = BTreeSet::new();
        let mut below: Vec<ChunkId> = corrupt.iter().copied().collect();
        for _ in 0..DEPTH_MAX {
            let mut next = Vec::new();
            for base in below {
                self.each_dependent(&base, |entry| {
                    // One that was put again stands alone, or on others.
                    if !corrupt.contains(&entry.id) && found.insert(entry.id) {
                        next.push(entry.id);
                    }
                    found.len() < UNREADABLE_MAX
                })?;
            }
            below = next;
        }
        found.retain(|id| matches!(self.locate(id), Ok(None)));
        Ok(found)
    }
}
