//! The index: which chunk lies where, over all index objects.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use causeway_base::ChunkId;

use super::pack::Place;
use super::{ArchiveStats, IndexMode};
use crate::error::Error;
use crate::names;
use crate::repository::Repository;
use crate::run::{Loaded, RunKind, SEGMENT_BYTES_MAX, SegmentReader, SegmentRef};
use crate::store::Listed;

pub(super) type Located = Place;

/// An index object up to this size is read whole at once, whatever the mode.
const SMALL_BYTES: u64 = 1 << 20;
/// Memory of an entry, about.
const ENTRY_BYTES: u64 = size_of::<(ChunkId, Place)>() as u64;

/// One index object.
#[derive(Debug)]
pub(super) enum Entries {
    /// In memory, sorted.
    Resident(Vec<(ChunkId, Place)>),
    /// Read from the store as needed.
    Remote(Box<SegmentReader>),
}

#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: u128,
    pub(super) bytes: u64,
    entries: Entries,
}

#[derive(Debug)]
pub(super) struct Index {
    repository: Repository,
    mode: IndexMode,
    parts: Mutex<BTreeMap<u128, Arc<Part>>>,
    /// Written here and not seen in a listing yet: a stale one must not make us forget them.
    unlisted: Mutex<Vec<u128>>,
    refreshing: tokio::sync::Mutex<()>,
}

impl Index {
    pub(super) fn new(repository: Repository, mode: IndexMode) -> Self {
        let (parts, unlisted, refreshing) = Default::default();
        Self { repository, mode, parts, unlisted, refreshing }
    }

    pub(super) fn parts(&self) -> Vec<Arc<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn stats(&self) -> ArchiveStats {
        let parts = self.parts();
        ArchiveStats {
            index_objects: parts.len() as u64,
            index_bytes: parts.iter().map(|part| part.bytes).sum(),
            entries_in_memory: parts.iter().map(|part| part.resident()).sum(),
        }
    }

    /// Takes in what was added by others, and lets go what was merged away.
    pub(super) async fn refresh(&self) -> Result<(), Error> {
        let _refreshing = self.refreshing.lock().await;
        let listed = self.repository.store.list(names::INDEX, usize::MAX).await?;
        let listed: BTreeMap<u128, Listed> =
            listed.into_iter().filter_map(|object| Some((names::number(&object.name)?, object))).collect();
        let new: Vec<_> = {
            let mut unlisted = self.unlisted.lock().unwrap_or_else(PoisonError::into_inner);
            unlisted.retain(|name| !listed.contains_key(name));
            let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
            parts.retain(|name, _| listed.contains_key(name) || unlisted.contains(name));
            listed.iter().filter(|(name, _)| !parts.contains_key(*name)).map(|(name, o)| (*name, o.bytes)).collect()
        };
        let concurrency = self.repository.options.concurrency.max(1);
        let mut opened =
            std::pin::pin!(stream::iter(new).map(|(name, bytes)| self.open(name, bytes)).buffer_unordered(concurrency));
        while let Some(part) = opened.try_next().await? {
            // One that was merged away since the listing is not there any more; what it named is in a newer one.
            if let Some(part) = part {
                self.insert(part);
            }
        }
        Ok(())
    }

    async fn open(&self, name: u128, bytes: u64) -> Result<Option<Part>, Error> {
        let path = names::index(name);
        let held: u64 = self.parts().iter().map(|part| part.resident() * ENTRY_BYTES).sum();
        // An entry has 61 bytes in the object: random, so hardly compressed.
        let room = held + bytes <= self.repository.options.index_bytes.bytes();
        if bytes > SMALL_BYTES && (self.mode == IndexMode::Lazy || !room) {
            return Ok(Some(Part { name, bytes, entries: Entries::Remote(Box::new(self.reader(name, bytes))) }));
        }
        if bytes > SEGMENT_BYTES_MAX {
            return Err(Error::Corrupt { path, reason: format!("{bytes} bytes are no index") });
        }
        let Some(object) = self.repository.store.get_range(&path, 0..bytes).await? else { return Ok(None) };
        let task = tokio::task::spawn_blocking(move || {
            let damaged = |reason: String| Error::Corrupt { path: path.clone(), reason };
            let loaded = Loaded::open(object, RunKind::ChunkIndex).map_err(|error| damaged(error.to_string()))?;
            let records = loaded.iter().map(|record| {
                let (key, value) = record.map_err(|error| damaged(error.to_string()))?;
                entry(&key, &value).ok_or_else(|| damaged("an entry does not decode".to_owned()))
            });
            records.collect::<Result<Vec<_>, _>>()
        });
        let entries = task.await.map_err(|error| Error::Task(error.to_string()))??;
        Ok(Some(Part { name, bytes, entries: Entries::Resident(entries) }))
    }

    /// Of an object of which only the length is known: its key range counts as unbounded, its BLAKE3 is not checked, each
    /// block's checksum is.
    fn reader(&self, name: u128, bytes: u64) -> SegmentReader {
        let last = Bytes::from_static(&[0xff; ChunkId::LEN + 1]);
        let segment = SegmentRef { name, first: Bytes::new(), last, records: 0, bytes, blake3: [0; 32] };
        let (store, cache) = (self.repository.store.clone(), Arc::clone(&self.repository.cache));
        SegmentReader::new(store, names::index(name), segment, RunKind::ChunkIndex, cache).without_hash()
    }

    fn insert(&self, part: Part) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(part.name, Arc::new(part));
    }

    /// Takes in an object that was just put.
    pub(super) fn insert_own(&self, segment: &SegmentRef, entries: Vec<(ChunkId, Place)>) {
        self.unlisted.lock().unwrap_or_else(PoisonError::into_inner).push(segment.name);
        let held: u64 = self.parts().iter().map(|part| part.resident() * ENTRY_BYTES).sum();
        let fits = held + segment.bytes <= self.repository.options.index_bytes.bytes();
        let entries = if fits || segment.bytes <= SMALL_BYTES {
            Entries::Resident(entries)
        } else {
            Entries::Remote(Box::new(self.reader(segment.name, segment.bytes)))
        };
        self.insert(Part { name: segment.name, bytes: segment.bytes, entries });
    }

    pub(super) fn forget(&self, names: &[u128]) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|name, _| !names.contains(name));
        self.unlisted.lock().unwrap_or_else(PoisonError::into_inner).retain(|name| !names.contains(name));
    }

    /// Where each chunk lies. A part that another writer merged away meanwhile makes one refresh.
    pub(super) async fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Place>>, Error> {
        match self.locate_once(ids).await {
            Err(Error::Missing { .. }) => {
                self.refresh().await?;
                self.locate_once(ids).await
            }
            other => other,
        }
    }

    async fn locate_once(&self, ids: &[ChunkId]) -> Result<Vec<Option<Place>>, Error> {
        let mut found = vec![None; ids.len()];
        let (resident, remote): (Vec<_>, Vec<_>) =
            self.parts().into_iter().partition(|part| matches!(part.entries, Entries::Resident(_)));
        for part in &resident {
            for (place, id) in found.iter_mut().zip(ids).filter(|(place, _)| place.is_none()) {
                *place = part.find(id);
            }
        }
        // In key order, so that neighbours share blocks.
        let mut open: Vec<usize> = (0..ids.len()).filter(|at| found[*at].is_none()).collect();
        open.sort_unstable_by_key(|at| ids[*at]);
        for part in &remote {
            let Entries::Remote(reader) = &part.entries else { continue };
            for at in &open {
                if found[*at].is_some() {
                    continue;
                }
                if let Some(value) = reader.get(ids[*at].as_bytes()).await? {
                    let place = Place::decode(&value).ok_or_else(|| Error::Corrupt {
                        path: names::index(part.name),
                        reason: "an entry does not decode".to_owned(),
                    })?;
                    found[*at] = Some(place);
                }
            }
        }
        Ok(found)
    }

    /// Whether a chunk is known without asking the store: `None` if that cannot be told.
    pub(super) fn known(&self, id: &ChunkId) -> Option<bool> {
        let mut told = true;
        for part in self.parts.lock().unwrap_or_else(PoisonError::into_inner).values() {
            match &part.entries {
                Entries::Resident(_) if part.find(id).is_some() => return Some(true),
                Entries::Resident(_) => {}
                Entries::Remote(_) => told = false,
            }
        }
        told.then_some(false)
    }
}

impl Part {
    fn resident(&self) -> u64 {
        match &self.entries {
            Entries::Resident(entries) => entries.len() as u64,
            Entries::Remote(_) => 0,
        }
    }

    fn find(&self, id: &ChunkId) -> Option<Place> {
        let Entries::Resident(entries) = &self.entries else { return None };
        let at = entries.binary_search_by_key(id, |(id, _)| *id).ok()?;
        Some(entries[at].1)
    }
}

fn entry(key: &[u8], value: &[u8]) -> Option<(ChunkId, Place)> {
    Some((ChunkId::from_slice(key)?, Place::decode(value)?))
}
