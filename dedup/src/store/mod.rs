//! The pack store of a node: chunks of all realms, in append-only packs with checksummed records.
//!
//! - **Put** appends to the active pack and returns when the operating system has the bytes; **sync** makes everything put
//!   before durable, one fsync for all callers that wait. What is durable, and only that, is then entered in the index.
//! - **Form**: chunks of one put that compress share blocks, since a chunk alone is too little for a compressor to learn
//!   from. So chunks are best put plain and many at once; the store compresses, on the caller's thread.
//! - **Crash**: what was not synced may be lost. Opening reads the packs from where the index knows them; a torn tail is
//!   cut, bad bytes before good ones are reported and never cut.
//! - **Failed write or fsync**: nobody knows what is on disk, so the store takes no more writes and says so. **Full disk**: a
//!   put is refused before the disk is full, and works again when there is space.
//! - **Corrupt record**: found by its checksum on read (and by BLAKE3 when the caller decodes). The chunk then counts as
//!   missing, so that it is fetched and put again.
//!
//! Which locks there are: `gate` (shared by all calls, exclusive while the index is built anew), `writer` (one appender),
//! `sync` (who syncs), `pending` (chunks that are not in the index yet). They are taken in this order.

mod block;
mod error;
mod files;
mod format;
pub mod gc;
mod index;
mod like;
mod options;
mod pack;
mod presence;
mod read;
mod recent;
mod recover;
mod scrub;
mod shape;
mod sync;
mod verify;
mod writer;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use causeway_base::ChunkId;
use causeway_storage::disk::Disk;
use causeway_storage::kv::Kv;

pub use error::{Damage, StoreError};
#[doc(hidden)]
pub use index::bare::BareIndex;
pub use index::{CorruptList, FILTERED_SPACES, INDEX_SPACES};
pub use like::{LikelyBase, PutHints};
pub use options::{
    DamagedRange, Deltas, PutOutcome, RebuildReason, RecoveryReport, StoreOptions, StoreState, StoreStats, TailCut,
};

pub use scrub::{ScrubPosition, Scrubbed};
pub use verify::Verified;

use files::PackFiles;
use index::{Entry, Index, Location};
use shape::{Item, shape};
use writer::{AppendError, Writer};

use crate::sketch::SimilarityIndex;
use crate::{CHUNK_BYTES_MAX, ChunkError, EncodedChunk};

/// The chunks of a node. All calls block and may come from many threads.
#[derive(Debug)]
pub struct ChunkStore {
    options: StoreOptions,
    files: PackFiles,
    index: Index,
    gate: RwLock<()>,
    writer: Mutex<Writer>,
    sync: Mutex<sync::SyncState>,
    synced: Condvar,
    /// Chunks that were appended and are not in the index yet.
    pending: RwLock<HashMap<ChunkId, Entry>>,
    /// What deltas stand on that are not in the index yet.
    pins: presence::Pins,
    /// From sketches to chunks.
    similar: SimilarityIndex,
    /// Bytes that deltas saved since the store was opened.
    saved: AtomicU64,
    /// Counts moves from `pending` to the index.
    published: AtomicU64,
    /// Chunks found corrupt, and where.
    corrupt: Mutex<BTreeMap<ChunkId, Location>>,
    /// Deltas that did not decode, and where: they or what they stand on are wrong, which only their names tell. They count as
    /// missing until they are put again or the store is opened anew.
    doubtful: Mutex<BTreeMap<ChunkId, Location>>,
    /// Decoded blocks.
    blocks: Mutex<block::BlockCache>,
    /// What was read lately, if that is noted.
    recent: Option<Mutex<recent::Recent>>,
    full: AtomicBool,
    gc: gc::Gc,
    read_only: Mutex<Option<String>>,
    /// Building the index anew failed, or is under way: what it does not name may be in the packs all the same.
    partial: AtomicBool,
}

/// What an append came to.
enum Appended {
    Done {
        /// Bytes of the store that are not durable.
        unsynced: u64,
        new: HashSet<ChunkId>,
    },
    /// Nothing was appended.
    Stale {
        /// Those that are still unknown.
        fresh: HashSet<ChunkId>,
        /// Those that cannot be deltas any more.
        whole: HashSet<ChunkId>,
    },
}

/// No value behind a lock of this module is ever left half changed by a panic: updates are single inserts or assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ChunkStore {
    /// Opens the store in `dir`, creating it if needed, with its index in `kv` (opened with [`INDEX_SPACES`]; an empty one is
    /// filled from the packs).
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Index`]. After the latter with `Damaged`: delete the index and open it anew.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: impl Into<PathBuf>,
        kv: Arc<dyn Kv>,
        options: StoreOptions,
    ) -> Result<(Self, RecoveryReport), StoreError> {
        Self::open_watched(disk, dir, kv, options, |_| {})
    }

    /// As [`ChunkStore::open`]; `progress` is told the report so far after each pack that had to be read.
    ///
    /// # Errors
    /// As [`ChunkStore::open`].
    pub fn open_watched(
        disk: Arc<dyn Disk>,
        dir: impl Into<PathBuf>,
        kv: Arc<dyn Kv>,
        options: StoreOptions,
        mut progress: impl FnMut(&RecoveryReport),
    ) -> Result<(Self, RecoveryReport), StoreError> {
        let options = options.bounded();
        let files = PackFiles::new(disk, dir.into(), options.open_files_max);
        let index = Index::new(kv);
        let (writer, report) = recover::open(&files, &index, &options, &mut progress)?;
        let corrupt = index.corrupt()?.into_iter().collect();
        let gc = gc::Gc::open(files.disk(), files.dir());
        let similar = index.similarity();
        let store = Self {
            options,
            files,
            index,
            gate: RwLock::default(),
            writer: Mutex::new(writer),
            sync: Mutex::default(),
            synced: Condvar::new(),
            pending: RwLock::default(),
            pins: presence::Pins::default(),
            similar,
            saved: AtomicU64::new(0),
            published: AtomicU64::new(0),
            corrupt: Mutex::new(corrupt),
            doubtful: Mutex::default(),
            recent: None,
            blocks: Mutex::default(),
            full: AtomicBool::new(false),
            gc,
            read_only: Mutex::default(),
            partial: AtomicBool::new(false),
        };
        Ok((store, report))
    }

    /// The folder of the packs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.files.dir()
    }

    /// Stores one chunk; see [`ChunkStore::put_many`].
    ///
    /// # Errors
    /// As [`ChunkStore::put_many`].
    pub fn put(&self, chunk: &EncodedChunk) -> Result<PutOutcome, StoreError> {
        Ok(self.put_many(std::slice::from_ref(chunk))?[0])
    }

    /// Stores chunks whose bytes the caller has verified (by [`EncodedChunk::decode`], or by having encoded them). Readable
    /// when this returns, durable after the next [`ChunkStore::sync`]. A chunk that is there already is not written again.
    ///
    /// Those that compress are compressed together, whatever form they come in: plain ([`EncodedChunk::plain`]) is best for
    /// a caller that has the bytes anyway.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::ReadOnly`], [`StoreError::Io`], [`StoreError::Index`], [`StoreError::Chunk`] for
    /// lengths out of bounds and for deltas. Chunks before the failing one may have been stored, which harms nothing.
    pub fn put_many(&self, chunks: &[EncodedChunk]) -> Result<Vec<PutOutcome>, StoreError> {
        self.put_with(chunks, None)
    }

    /// As [`ChunkStore::put_many`], with what the caller knows of the chunks. One that resembles another, or what was in its
    /// place before, is kept as its difference from that, if the difference costs at most three quarters of what the chunk would
    /// take otherwise, its part of a block included. ([`StoreOptions::deltas`] turns that off.)
    ///
    /// # Errors
    /// As [`ChunkStore::put_many`].
    pub fn put_with(
        &self,
        chunks: &[EncodedChunk],
        hints: Option<&PutHints<'_>>,
    ) -> Result<Vec<PutOutcome>, StoreError> {
        for chunk in chunks {
            if chunk.codec.is_delta() {
                return Err(ChunkError::Codec(chunk.codec.to_byte()).into()); // nobody has said against which base
            }
            for len in [chunk.payload.len() as u64, u64::from(chunk.raw_len)] {
                if len == 0 || len > u64::from(CHUNK_BYTES_MAX) {
                    return Err(ChunkError::Length { id: chunk.id, len }.into());
                }
            }
        }
        self.ensure_writable()?;
        let (unsynced, outcomes) = {
            let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            self.gc.revive(chunks.iter().map(|chunk| &chunk.id));
            let seen = self.published.load(Ordering::Acquire);
            let mut taken = HashSet::with_capacity(chunks.len());
            let mut unknown = Vec::new();
            for chunk in chunks {
                if taken.insert(chunk.id) && self.locate(&chunk.id)?.is_none() {
                    unknown.push(chunk);
                }
            }
            if unknown.is_empty() {
                return Ok(vec![PutOutcome::Known; chunks.len()]);
            }
            let mut choices = self.choose(&unknown, hints)?;
            let (unsynced, mut new) = loop {
                let shaped = shape(&unknown, &choices.deltas, &self.options)?;
                match self.append(shaped.items, seen)? {
                    Appended::Done { unsynced, new } => {
                        self.saved.fetch_add(shaped.saved, Ordering::Relaxed);
                        break (unsynced, new);
                    }
                    // Compressing took a while: a block holds what somebody else has stored meanwhile. Fewer are left.
                    Appended::Stale { fresh, whole } => {
                        unknown.retain(|chunk| fresh.contains(&chunk.id));
                        choices.deltas.retain(|id, _| !whole.contains(id));
                    }
                }
            };
            let sketches = choices.sketches.iter().filter(|(id, _)| new.contains(id)).copied();
            if let Err(error) = self.similar.insert_all(sketches) {
                tracing::debug!(%error, "these chunks will not be found as bases");
            }
            // The first of equal chunks is the new one.
            let outcome =
                |chunk: &EncodedChunk| if new.remove(&chunk.id) { PutOutcome::New } else { PutOutcome::Known };
            (unsynced, chunks.iter().map(outcome).collect())
        };
        if unsynced > self.options.unsynced_bytes_max {
            self.sync()?;
        }
        Ok(outcomes)
    }

    /// Appends the records of chunks that are still unknown under the writer's lock; nothing if a block holds one that is
    /// known by now beside others, or if a delta could not be read: a base may have gone bad since it was chosen.
    fn append(&self, mut items: Vec<Item>, seen: u64) -> Result<Appended, StoreError> {
        let mut writer = lock(&self.writer);
        // Another put may have been faster. In this order: what is not pending any more was published before.
        let moved = || self.published.load(Ordering::Acquire) != seen;
        let mut fresh = HashSet::new();
        for member in items.iter().flat_map(|item| &item.members) {
            let unchanged = !self.is_pending(&member.id) && !moved();
            // One that is pending may stand on what went bad since: it does not count as here.
            if unchanged || self.locate(&member.id)?.is_none() {
                fresh.insert(member.id);
            }
        }
        let fresh_in = |item: &Item| item.members.iter().filter(|member| fresh.contains(&member.id)).count();
        items.retain(|item| fresh_in(item) > 0);
        let mut whole = HashSet::new();
        for delta in items.iter().filter(|item| item.depth > 0) {
            // What stood on it when it was chosen was looked at there.
            let id = delta.mark();
            if self.pins.holds(&id) || (moved() && self.has_dependents(&id)?) || !self.bears(&delta.bases)? {
                whole.insert(id);
            }
        }
        if !whole.is_empty() || items.iter().any(|item| fresh_in(item) < item.members.len()) {
            return Ok(Appended::Stale { fresh, whole });
        }
        let result = writer.append(&self.files, &self.options, &items, |entry| self.pend(entry));
        match result {
            Ok(()) => self.full.store(false, Ordering::Relaxed),
            Err(AppendError::Full { free }) => {
                self.full.store(true, Ordering::Relaxed);
                return Err(StoreError::Full { free, reserve: self.options.reserve_bytes });
            }
            Err(AppendError::Failed(error)) => {
                self.stop_writing(&error);
                return Err(error);
            }
        }
        Ok(Appended::Done { unsynced: writer.appended.saturating_sub(lock(&self.sync).synced), new: fresh })
    }

    /// Whether the chunk can be read here. It need not be durable: see [`ChunkStore::durable_and_present`].
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn contains(&self, id: &ChunkId) -> Result<bool, StoreError> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.gc.revive(std::iter::once(id));
        Ok(self.locate(id)?.is_some())
    }

    /// Those of `ids` that are not here, in the order given. What was put and is not durable yet counts as here: a sender
    /// need not send it again, and the sync before an acknowledgement covers it.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, StoreError> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.gc.revive(ids.iter());
        let mut missing = Vec::new();
        for id in ids {
            if self.locate(id)?.is_none() {
                missing.push(*id);
            }
        }
        Ok(missing)
    }

    /// Those of `ids` that a power cut at this moment could take, or that are not here.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn not_durable(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, StoreError> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.gc.revive(ids.iter());
        let mut found = Vec::new();
        for id in ids {
            // The index names nothing that is not synced.
            if self.readable(id, false)?.is_none() {
                found.push(*id);
            }
        }
        Ok(found)
    }

    /// Whether all of `ids` are here and survive a power cut at this moment.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn durable_and_present(&self, ids: &[ChunkId]) -> Result<bool, StoreError> {
        Ok(self.not_durable(ids)?.is_empty())
    }

    /// It was appended: it can be read from now on, and its bases stay until the index names them.
    fn pend(&self, entry: &Entry) {
        self.pins.pin(&entry.bases);
        self.pending.write().unwrap_or_else(PoisonError::into_inner).insert(entry.id, entry.clone());
    }

    /// The ids of all chunks: first what is not durable yet, then the rest in order of the ids. Not a snapshot: what is put
    /// or lost while this runs may or may not come, and a chunk may come twice. Deltas come though a chunk that they stand on be
    /// corrupt.
    pub fn iter_ids(&self) -> impl Iterator<Item = Result<ChunkId, StoreError>> + '_ {
        let mut pending: Vec<ChunkId> =
            self.pending.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        pending.sort_unstable();
        let mut page = Vec::new().into_iter();
        let mut after = None;
        let mut ended = false;
        let indexed = std::iter::from_fn(move || {
            loop {
                if let Some((id, _)) = page.next() {
                    after = Some(id);
                    return Some(Ok(id));
                }
                if ended {
                    return None;
                }
                let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
                match self.index.page(after, 4096) {
                    Ok(found) => {
                        ended = found.is_empty();
                        page = found.into_iter();
                    }
                    Err(error) => {
                        ended = true;
                        return Some(Err(error.into()));
                    }
                }
            }
        });
        pending.into_iter().map(Ok).chain(indexed)
    }

    /// Notes from now on what is read, so that a collection can tell what is worth keeping. Memory: about 1.1 bytes a chunk.
    #[must_use]
    pub fn noting_reads(self) -> Self {
        let recent = recent::Recent::new(self.stats().chunks, self.options.seed);
        Self { recent: Some(Mutex::new(recent)), ..self }
    }

    /// Whether a chunk was read again lately; no, if reads are not noted ([`ChunkStore::noting_reads`]).
    #[must_use]
    pub fn is_hot(&self, id: &ChunkId) -> bool {
        self.recent.as_ref().is_some_and(|recent| lock(recent).is_hot(id))
    }

    /// Figures of this moment.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let writer = lock(&self.writer);
        let synced = lock(&self.sync).synced;
        let metas = writer.metas.values();
        let state = match &*lock(&self.read_only) {
            Some(reason) => StoreState::ReadOnly(reason.clone()),
            None if self.full.load(Ordering::Relaxed) => StoreState::Full,
            None => StoreState::Ok,
        };
        StoreStats {
            chunks: metas.clone().map(|meta| u64::from(meta.chunks)).sum(),
            stored_bytes: metas.clone().map(|meta| meta.stored_bytes).sum(),
            raw_bytes: metas.clone().map(|meta| meta.raw_bytes).sum(),
            delta_chunks: metas.clone().map(|meta| u64::from(meta.deltas.chunks)).sum(),
            delta_stored_bytes: metas.clone().map(|meta| meta.deltas.stored_bytes).sum(),
            delta_raw_bytes: metas.clone().map(|meta| meta.deltas.raw_bytes).sum(),
            delta_saved_bytes: self.saved.load(Ordering::Relaxed),
            packs: writer.metas.len() as u64,
            damaged_packs: metas.filter(|meta| meta.state == index::PackState::Damaged).count() as u64,
            corrupt_chunks: lock(&self.corrupt).len() as u64,
            unsynced_bytes: writer.appended.saturating_sub(synced),
            index_bytes: self.index.disk_bytes(),
            state,
        }
    }

    /// Builds the index anew from the packs alone: the footers of sealed ones, all records of others. Other calls wait.
    /// `progress` is told the report so far after each pack.
    ///
    /// # Errors
    /// As [`ChunkStore::sync`], which comes first; [`StoreError::Io`], [`StoreError::Index`]: then nothing is written any more,
    /// and nothing removed before a later call succeeds or the store is opened anew.
    pub fn rebuild_index(&self, progress: impl FnMut(&RecoveryReport)) -> Result<RecoveryReport, StoreError> {
        self.rebuild(RebuildReason::Asked, progress)
    }

    fn rebuild(
        &self,
        reason: RebuildReason,
        progress: impl FnMut(&RecoveryReport),
    ) -> Result<RecoveryReport, StoreError> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.sync_gated()?;
        let mut writer = lock(&self.writer);
        let corrupt = lock(&self.corrupt).clone();
        self.partial.store(true, Ordering::Release);
        let built = recover::reindex(&self.files, &self.index, &mut writer, &corrupt, progress)
            .and_then(|report| Ok((report, self.index.corrupt()?)));
        match built {
            Ok((mut report, corrupt)) => {
                *lock(&self.corrupt) = corrupt.into_iter().collect();
                self.partial.store(false, Ordering::Release);
                report.rebuilt = Some(reason);
                Ok(report)
            }
            Err(error) => {
                // Chunks that are here seem to be missing: nobody may act on that.
                self.stop_writing(&error);
                Err(error)
            }
        }
    }

    /// Refuses to remove anything while the index does not name all that is in the packs. Asked under the gate.
    fn ensure_whole_index(&self) -> Result<(), StoreError> {
        if self.partial.load(Ordering::Acquire) {
            let reason = "building the chunk index anew did not end well: nothing is removed until it does".to_owned();
            return Err(StoreError::ReadOnly { reason });
        }
        Ok(())
    }

    fn ensure_writable(&self) -> Result<(), StoreError> {
        match &*lock(&self.read_only) {
            Some(reason) => Err(StoreError::ReadOnly { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    fn stop_writing(&self, why: &StoreError) {
        let reason = match std::error::Error::source(why) {
            Some(source) => format!("{why}: {source}"),
            None => why.to_string(),
        };
        tracing::error!(reason, dir = %self.files.dir().display(), "the chunk store takes no more writes");
        lock(&self.read_only).get_or_insert(reason);
    }
}

#[cfg(test)]
mod tests;
