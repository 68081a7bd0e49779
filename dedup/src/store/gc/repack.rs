//! Gives the space of removed chunks back: what lives in a sparse pack moves to a new one, then the file goes.
//!
//! The order, for a few packs at a time: copy what lives, sync it, publish the new places; persist the index; wait until no
//! call is under way that may have looked up an old place; mark the packs as dead, persist that; remove the files. A crash
//! before the mark leaves a pack that lives in part or not at all, and is packed again; after it, a file that opening removes.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::PoisonError;

use causeway_base::ChunkId;

use super::Pace;
use super::collect::Collected;
use crate::EncodedChunk;
use crate::delta::DeltaRecord;
use crate::store::format::FooterEntry;
use crate::store::index::{Location, Lookup, PackMeta, PackState};
use crate::store::pack::{ReadError, read_footer, read_trailer, scan};
use crate::store::shape::{Item, shape};
use crate::store::writer::{AppendError, Writer};
use crate::store::{ChunkStore, Damage, StoreError, StoreOptions, lock};

/// Bytes that are copied at once.
const COPY_BYTES: u64 = 4 << 20;
/// An open pack is not rewritten for less dead plain bytes than these.
const OPEN_DEAD_BYTES_MIN: u64 = 4 << 20;
/// Packs that are removed at once: each removal waits for the calls under way.
const PACKS: usize = 8;

/// Deltas that are written whole at once: 16 MiB at most.
const WHOLE: usize = 16;

/// When a pack is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepackOptions {
    /// Packs of which less than this many percent live (of their plain bytes) are rewritten. At 50 a rewrite copies less than
    /// it frees.
    pub live_percent_min: u8,
}

impl Default for RepackOptions {
    fn default() -> Self {
        Self { live_percent_min: 50 }
    }
}

/// What a repack did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repacked {
    /// Packs that were removed.
    pub packs: u64,
    /// Bytes of their files.
    pub freed_bytes: u64,
    /// Chunks that were copied out of them.
    pub moved: u64,
    /// Bytes of their records, which are written anew.
    pub moved_bytes: u64,
    /// Deltas that were written whole, so that their bases can go.
    pub whole: u64,
    /// Packs that were left because the disk is full.
    pub full: u64,
    /// Packs that were left because records in them are damaged: scrub and heal come first.
    pub damaged: u64,
    /// It was told to stop before the end.
    pub stopped: bool,
}

/// A pack of which all that lives was copied.
struct Emptied {
    pack: u32,
    bytes: u64,
    entries: Vec<FooterEntry>,
}

enum Copied {
    All(Emptied),
    Damaged,
    Full,
    Stopped,
}

impl ChunkStore {
    /// Rewrites sparse packs, those with least first; `collected` says what lived in each when it was counted.
    ///
    /// # Errors
    /// As [`ChunkStore::sync`]. What was not finished is tried again by the next call.
    pub fn repack(
        &self,
        collected: &Collected,
        options: RepackOptions,
        pace: Pace<'_>,
    ) -> Result<Repacked, StoreError> {
        let mut done = self.rewrite(&self.sparse(collected, options), pace)?;
        self.stand_alone(collected, &mut done, pace)?;
        Ok(done)
    }

    /// Writes deltas whole whose bases cost more than the deltas save: later collections find those in use no more.
    fn stand_alone(&self, collected: &Collected, done: &mut Repacked, pace: Pace<'_>) -> Result<(), StoreError> {
        for batch in collected.stand_alone.chunks(WHOLE) {
            if done.stopped {
                return Ok(());
            }
            let before = done.moved_bytes;
            match self.write_whole(batch, Vec::new(), done) {
                Ok(_) => done.whole += batch.len() as u64, // a corrupt one is for scrub and heal
                Err(StoreError::Full { .. }) => return Ok(()), // a later collection tries again
                Err(error) => return Err(error),
            }
            done.stopped |= !pace(2 * (done.moved_bytes - before));
        }
        if collected.stand_alone.is_empty() { Ok(()) } else { self.sync() }
    }

    /// Moves what lives in these packs to others, and removes them. Those that are still written are sealed first. One with a
    /// damaged record that is still owed stays as it is.
    ///
    /// # Errors
    /// As [`ChunkStore::repack`].
    pub fn rewrite(&self, packs: &[u32], pace: Pace<'_>) -> Result<Repacked, StoreError> {
        let mut done = Repacked::default();
        let mut emptied = Vec::new();
        self.ensure_whole_index()?;
        self.end_packs(packs)?;
        for pack in packs.iter().copied() {
            match self.empty(pack, &mut done, pace)? {
                Copied::All(all) => emptied.push(all),
                Copied::Damaged => done.damaged += 1,
                // What was copied so far frees space before more is copied.
                Copied::Full if !emptied.is_empty() => {
                    self.remove_packs(std::mem::take(&mut emptied), &mut done)?;
                    match self.empty(pack, &mut done, pace)? {
                        Copied::All(all) => emptied.push(all),
                        _ => done.full += 1,
                    }
                }
                Copied::Full => done.full += 1,
                Copied::Stopped => {
                    done.stopped = true;
                    break;
                }
            }
            if emptied.len() == PACKS {
                self.remove_packs(std::mem::take(&mut emptied), &mut done)?;
            }
        }
        self.remove_packs(emptied, &mut done)?;
        Ok(done)
    }

    /// Seals the active pack if it is one of these.
    fn end_packs(&self, packs: &[u32]) -> Result<(), StoreError> {
        self.sync()?;
        {
            let mut writer = lock(&self.writer);
            let Writer { active, closing, appended, .. } = &mut *writer;
            match active {
                Some(open) if packs.contains(&open.pack) => closing.extend(active.take()),
                _ if closing.iter().any(|open| packs.contains(&open.pack)) => {}
                _ => return Ok(()),
            }
            // A sync does nothing when nothing was appended; this one is to seal.
            *appended += 1;
        }
        self.sync()
    }

    /// What a repack would do.
    #[must_use]
    pub fn repack_plan(&self, collected: &Collected, options: RepackOptions) -> Repacked {
        let mut plan = Repacked::default();
        for pack in self.sparse(collected, options) {
            let live = collected.live.get(&pack).copied().unwrap_or_default();
            let stored = lock(&self.writer).metas.get(&pack).map_or(0, |meta| u64::from(meta.indexed_to));
            plan.packs += 1;
            plan.freed_bytes += stored;
            plan.moved += live.chunks;
            plan.moved_bytes += live.bytes;
        }
        plan.whole = collected.stand_alone.len() as u64;
        plan
    }

    fn sparse(&self, collected: &Collected, options: RepackOptions) -> Vec<u32> {
        let writer = lock(&self.writer);
        let mut sparse: Vec<(u64, u32)> = writer
            .metas
            .iter()
            .filter_map(|(pack, meta)| {
                // By plain bytes: of a chunk in a block nothing else is known.
                let live = collected.live.get(pack).map_or(0, |live| live.raw_bytes);
                match meta.state {
                    PackState::Sealed => {}
                    // The one that is written now is sealed for it, if that is worth it.
                    PackState::Open if meta.raw_bytes.saturating_sub(live) >= OPEN_DEAD_BYTES_MIN => {}
                    PackState::Open | PackState::Damaged | PackState::Dead => return None,
                }
                let least = u128::from(meta.raw_bytes) * u128::from(options.live_percent_min.min(100)) / 100;
                (u128::from(live) < least || live == 0).then_some((live, *pack))
            })
            .collect();
        sparse.sort_unstable();
        sparse.into_iter().map(|(_, pack)| pack).collect()
    }

    /// Copies what lives in a pack.
    fn empty(&self, pack: u32, done: &mut Repacked, pace: Pace<'_>) -> Result<Copied, StoreError> {
        let entries = match self.entries_of(pack) {
            Ok(entries) => entries,
            Err(ReadError::Damage(_)) => return Ok(Copied::Damaged),
            // Gone already: once nothing is owed of it, it is forgotten.
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(ReadError::Io(error)) => return Err(self.files.error("read", pack, error)),
        };
        if lock(&self.corrupt).values().any(|location| location.pack == pack) {
            return Ok(Copied::Damaged);
        }
        let mut bytes = 0;
        let mut batch = Vec::new();
        for entry in entries.iter().map(Some).chain([None]) {
            if let Some(entry) = entry
                && self.lives(pack, entry)?
            {
                bytes += Location::of(pack, entry).share();
                batch.push(entry.id);
            }
            if bytes < COPY_BYTES && entry.is_some() {
                continue;
            }
            match self.copy(&batch, done) {
                Ok(true) => {}
                Ok(false) => return Ok(Copied::Damaged),
                Err(StoreError::Full { .. }) => return Ok(Copied::Full),
                Err(error) => return Err(error),
            }
            if !pace(bytes * 2) {
                return Ok(Copied::Stopped);
            }
            bytes = 0;
            batch.clear();
        }
        let len = self.files.get(pack).ok().and_then(|opened| opened.file.len().ok()).unwrap_or(0);
        Ok(Copied::All(Emptied { pack, bytes: len, entries }))
    }

    /// The records of a pack that is not written any more: by its footer, or if that is damaged by looking at all of it.
    pub(in crate::store) fn entries_of(&self, pack: u32) -> Result<Vec<FooterEntry>, ReadError> {
        let opened = self.files.get(pack)?;
        let file = opened.file.as_ref();
        let len = file.len()?;
        let footer = read_trailer(file, len).and_then(|trailer| match trailer {
            Some(trailer) => read_footer(file, len, &trailer),
            None => Err(Damage::CutOff.into()),
        });
        match footer {
            Err(ReadError::Damage(_)) => Ok(scan(file, len, opened.salt, 0)?.entries),
            footer => footer,
        }
    }

    /// Whether this record is the one that is served.
    pub(in crate::store) fn lives(&self, pack: u32, entry: &FooterEntry) -> Result<bool, StoreError> {
        Ok(self.placed(&entry.id)? == Some(Location::of(pack, entry)))
    }

    /// Puts chunks that are here once more, at the end of the active pack: deltas as they are. False if one of them is corrupt.
    fn copy(&self, ids: &[ChunkId], done: &mut Repacked) -> Result<bool, StoreError> {
        let (mut alone, mut deltas) = (Vec::new(), Vec::new());
        for id in ids {
            let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            match self.placed(id)? {
                // The mark that it may be wrong is on its place, and would be lost.
                Some(place) if self.is_doubtful(id, place) => return Ok(false),
                Some(place) if place.depth > 0 => match self.stored_at(id, place) {
                    Ok(Some(chunk)) => {
                        let Ok(record) = DeltaRecord::from_payload(&chunk.payload) else { return Ok(false) };
                        deltas.push((Item::delta(&chunk, record.depth, record.base.chunks), place));
                    }
                    Ok(None) => {}
                    Err(StoreError::Corrupt { .. }) => return Ok(false),
                    Err(error) => return Err(error),
                },
                _ => alone.push(*id),
            }
        }
        self.write_whole(&alone, deltas, done)
    }

    /// Puts chunks once more, each standing alone or in a block, and with them deltas that were read at these places. False if
    /// one of them is corrupt.
    ///
    /// A chunk that has another place by the time it would be written was put again, or is gone: it is left as it is.
    pub(in crate::store) fn write_whole(
        &self,
        ids: &[ChunkId],
        mut deltas: Vec<(Item, Location)>,
        done: &mut Repacked,
    ) -> Result<bool, StoreError> {
        // A place is looked up before the chunk is read, and none comes back: what still has it then was read there.
        let mut places = Vec::with_capacity(ids.len());
        for id in ids {
            places.push(self.placed(id)?);
        }
        let mut chunks: Vec<(EncodedChunk, Location)> = match self.read_many(ids) {
            Ok(found) => found.into_iter().zip(places).filter_map(|(chunk, place)| chunk.zip(place)).collect(),
            Err(StoreError::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        // A full disk must be able to get space back: half of the reserve is for that. What is written is soon freed.
        let options = StoreOptions { reserve_bytes: self.options.reserve_bytes / 2, ..self.options.clone() };
        loop {
            self.ensure_writable()?;
            let whole: Vec<&EncodedChunk> = chunks.iter().map(|(chunk, _)| chunk).collect();
            let items = shape(&whole, &HashMap::new(), &self.options)?.items;
            let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            let mut writer = lock(&self.writer);
            let mut moved = HashSet::new();
            let read = chunks.iter().map(|(chunk, place)| (chunk.id, *place));
            for (id, place) in read.chain(deltas.iter().map(|(item, place)| (item.mark(), *place))) {
                if self.placed(&id)? != Some(place) {
                    if lock(&self.corrupt).get(&id) == Some(&place) {
                        return Ok(false);
                    }
                    moved.insert(id);
                }
            }
            deltas.retain(|(item, _)| !moved.contains(&item.mark()));
            if chunks.iter().any(|(chunk, _)| moved.contains(&chunk.id)) {
                chunks.retain(|(chunk, _)| !moved.contains(&chunk.id));
                continue; // it may share a block with others
            }
            let items: Vec<Item> = items.into_iter().chain(deltas.into_iter().map(|(item, _)| item)).collect();
            writer.forget_room();
            let appended = writer.append(&self.files, &options, &items, |entry| {
                done.moved += 1;
                if matches!(entry.location.member, None | Some(0)) {
                    done.moved_bytes += entry.location.record_len() as u64;
                }
                self.pend(entry);
            });
            writer.forget_room();
            return match appended {
                Ok(()) => Ok(true),
                Err(AppendError::Full { free }) => Err(StoreError::Full { free, reserve: options.reserve_bytes }),
                Err(AppendError::Failed(error)) => {
                    self.stop_writing(&error);
                    Err(error)
                }
            };
        }
    }

    /// Removes packs all of whose live chunks are elsewhere too.
    fn remove_packs(&self, emptied: Vec<Emptied>, done: &mut Repacked) -> Result<(), StoreError> {
        if emptied.is_empty() {
            return Ok(());
        }
        self.sync()?;
        self.index.persist()?;
        // Calls that looked up a place in one of the packs are over when this is had, and no new one can.
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.ensure_whole_index()?;
        let mut dead = Vec::with_capacity(emptied.len());
        for candidate in emptied {
            // Whatever happened since (the index was built anew, say): a pack that anything refers to stays.
            let mut used = false;
            for entry in &candidate.entries {
                used |= match self.index.lookup(&entry.id)? {
                    Lookup::At(location) => location.pack == candidate.pack,
                    Lookup::Absent => false,
                    Lookup::Undecodable => true, // it may lead here; whoever reads it has the index built anew
                };
            }
            if !used {
                dead.push(candidate);
            }
        }
        let metas: Vec<(u32, PackMeta)> =
            dead.iter().map(|dead| (dead.pack, PackMeta { state: PackState::Dead, ..PackMeta::EMPTY })).collect();
        self.index.publish(&[], &metas, &[])?;
        self.index.persist()?;
        for Emptied { pack, bytes, .. } in &dead {
            self.files.forget(*pack);
            match self.files.disk().remove(&self.files.path(*pack)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(self.files.error("remove", *pack, source));
                }
                _ => {}
            }
            lock(&self.writer).metas.remove(pack);
            done.packs += 1;
            done.freed_bytes += bytes;
        }
        let dir = self.files.dir();
        if let Err(source) = self.files.disk().sync_dir(dir) {
            let error = self.files.dir_error("sync", source);
            self.stop_writing(&error);
            return Err(error);
        }
        let packs: Vec<u32> = dead.iter().map(|dead| dead.pack).collect();
        Ok(self.index.forget_packs(&packs)?)
    }
}
