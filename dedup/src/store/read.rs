//! Reads chunks, checks their records, and takes corrupt ones out of service.

use std::sync::PoisonError;

use bytes::Bytes;

use causeway_base::ChunkId;

use super::block::Block;
use super::format::PACK_HEADER_BYTES;
use super::index::{Location, Lookup};
use super::pack::{ReadError, open_record, read_footer, read_trailer};
use super::{ChunkStore, Damage, RebuildReason, StoreError, lock};
use crate::delta::Resolver;
use crate::{ChunkError, Codec, EncodedChunk};

/// Neighbouring records are read at once, up to so many bytes.
const READ_BYTES_MAX: usize = 1 << 20;

enum Trouble {
    /// To be told to the caller.
    Error(StoreError),
    /// The index leads to a place where no such record is, or ever was.
    IndexWrong,
}

impl<E: Into<StoreError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl ChunkStore {
    /// The chunk, the checksum of its record checked; `None` if it is not here. One that has a record of its own comes as it
    /// is stored, one out of a block or one that rests as a delta comes plain. The caller decodes it, which verifies the bytes against the id.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`]: from then on the chunk is missing. [`StoreError::Io`], [`StoreError::Index`].
    pub fn get(&self, id: &ChunkId) -> Result<Option<EncodedChunk>, StoreError> {
        Ok(self.get_many(std::slice::from_ref(id))?.pop().flatten())
    }

    /// The chunk as it rests, with what it stands on named, if it rests as a delta; `None` if it does not, or is not here. What it
    /// stands on may not be. Cheaper than [`ChunkStore::get`], which reads that too.
    ///
    /// # Errors
    /// As [`ChunkStore::get`].
    pub fn get_delta(&self, id: &ChunkId) -> Result<Option<EncodedChunk>, StoreError> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let place = match self.place(id) {
            Ok(place) => place.filter(|location| location.depth > 0 && !self.is_doubtful(id, *location)),
            Err(Trouble::IndexWrong) => None, // whoever reads it whole has the index built anew
            Err(Trouble::Error(error)) => return Err(error),
        };
        match place {
            Some(location) => Ok(self.stored_at(id, location)?.filter(|chunk| chunk.codec.is_delta())),
            None => Ok(None),
        }
    }

    /// Many chunks, in the order asked; read in the order in which they lie, neighbours at once, each block decoded once. The caller bounds the
    /// memory by the number of ids.
    ///
    /// # Errors
    /// As [`ChunkStore::get`], for the first chunk that fails; the others may be asked for again.
    pub fn get_many(&self, ids: &[ChunkId]) -> Result<Vec<Option<EncodedChunk>>, StoreError> {
        let found = self.read_many(ids)?;
        if let Some(recent) = &self.recent {
            let mut recent = lock(recent);
            // What was missed will be read once it came: that is the first time.
            ids.iter().zip(&found).filter(|(_, found)| found.is_some()).for_each(|(id, _)| recent.touch(id));
        }
        Ok(found)
    }

    /// The same for the store's own ends: nobody has use of the chunks.
    pub(super) fn read_many(&self, ids: &[ChunkId]) -> Result<Vec<Option<EncodedChunk>>, StoreError> {
        match self.try_get_many(ids) {
            Ok(found) => return Ok(found),
            Err(Trouble::Error(error)) => return Err(error),
            Err(Trouble::IndexWrong) => {}
        }
        tracing::warn!(dir = %self.files.dir().display(), "the chunk index is damaged: building it anew from the packs");
        self.rebuild(RebuildReason::Damaged, |_| {})?;
        match self.try_get_many(ids) {
            Ok(found) => Ok(found),
            Err(Trouble::Error(error)) => Err(error),
            Err(Trouble::IndexWrong) => {
                let reason = "the chunk index is wrong though it was just built".to_owned();
                Err(StoreError::ReadOnly { reason })
            }
        }
    }

    fn try_get_many(&self, ids: &[ChunkId]) -> Result<Vec<Option<EncodedChunk>>, Trouble> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = Vec::with_capacity(ids.len());
        for (position, id) in ids.iter().enumerate() {
            wanted.extend(self.place(id)?.map(|location| (location, position)));
        }
        wanted.sort_unstable_by_key(|(location, position)| (location.pack, location.offset, *position));

        let mut found = vec![None; ids.len()];
        let mut rest = wanted.as_slice();
        while let Some((first, position)) = rest.first() {
            if let Some(chunk) = self.cached(&ids[*position], first) {
                found[*position] = Some(chunk);
                rest = &rest[1..];
                continue;
            }
            let run = run_of(rest);
            let (last, _) = rest[run - 1];
            let span = (last.offset - first.offset) as usize + last.record_len();
            let bytes = if run == 1 { None } else { self.read_bytes(*first, span).ok() };
            for (location, position) in &rest[..run] {
                let start = (location.offset - first.offset) as usize;
                let record = bytes.as_ref().map(|bytes| bytes.slice(start..start + location.record_len()));
                found[*position] = Some(self.read_chunk(&ids[*position], *location, record)?);
            }
            rest = &rest[run..];
        }
        for slot in &mut found {
            if let Some(delta) = slot.take_if(|chunk| chunk.codec.is_delta()) {
                *slot = self.resolve(delta)?;
            }
        }
        Ok(found)
    }

    /// Where a chunk's record is, whatever it stands on.
    fn place(&self, id: &ChunkId) -> Result<Option<Location>, Trouble> {
        let pending = self.pending.read().unwrap_or_else(PoisonError::into_inner).get(id).map(|entry| entry.location);
        match pending {
            Some(location) => Ok(Some(location)),
            None => match self.index.lookup(id)? {
                Lookup::At(location) => Ok(Some(location)),
                Lookup::Absent => Ok(None),
                Lookup::Undecodable => Err(Trouble::IndexWrong),
            },
        }
    }

    /// A chunk as it is stored, a delta with its bases named.
    fn stored(&self, id: &ChunkId) -> Result<Option<EncodedChunk>, Trouble> {
        self.place(id)?.map(|location| self.read_chunk(id, location, None)).transpose()
    }

    /// The record at a place that was looked up under the gate, which the caller still holds.
    pub(super) fn stored_at(&self, id: &ChunkId, location: Location) -> Result<Option<EncodedChunk>, StoreError> {
        match self.read_chunk(id, location, None) {
            Ok(found) => Ok(Some(found)),
            Err(Trouble::Error(error)) => Err(error),
            Err(Trouble::IndexWrong) => Ok(None), // whoever reads it has the index built anew
        }
    }

    /// The plain bytes of a chunk that may be a base, unverified; `None` if it cannot be read. The caller holds the gate.
    pub(super) fn plain_gated(&self, id: &ChunkId) -> Result<Option<Bytes>, StoreError> {
        let resolved = match self.stored(id) {
            Ok(Some(chunk)) if chunk.codec.is_delta() => self.resolve(chunk),
            found => found,
        };
        match resolved {
            Ok(Some(chunk)) => Ok(chunk.decode_unverified().ok()),
            Ok(None) | Err(Trouble::IndexWrong | Trouble::Error(StoreError::Corrupt { .. })) => Ok(None),
            Err(Trouble::Error(error)) => Err(error),
        }
    }

    /// A delta as the plain chunk that it stands for: no reader is asked to have its base. `None` if a base is not here, which
    /// makes it a missing chunk.
    fn resolve(&self, delta: EncodedChunk) -> Result<Option<EncodedChunk>, Trouble> {
        let (id, raw_len) = (delta.id, delta.raw_len);
        let error = match Resolver::new(|id: &ChunkId| self.stored(id)).plain(&delta) {
            Ok(plain) => return Ok(Some(EncodedChunk { id, raw_len, codec: Codec::Raw, payload: plain })),
            Err(Trouble::Error(StoreError::Chunk(error))) => error,
            Err(other) => return Err(other),
        };
        let bad = match error {
            ChunkError::Base { .. } => return Ok(None),
            ChunkError::Payload { id, .. } | ChunkError::Length { id, .. } => id,
            ChunkError::Codec(_) | ChunkError::Id { .. } => id,
        };
        // Longer than a chain may be: it is missing, though each part of it may do for others.
        if self.locate(&id)?.is_none() {
            return Ok(None);
        }
        let Some(location) = self.place(&bad)? else { return Ok(None) };
        let damage = Damage::Undecodable;
        if location.depth > 0 {
            // It may be good, and the bytes that it stands on wrong under checksums that hold: see `verify_pack`.
            tracing::error!(id = %bad, pack = location.pack, offset = location.offset, "a delta does not decode");
            lock(&self.doubtful).insert(bad, location);
        } else {
            self.quarantine(&bad, location, damage);
        }
        Err(StoreError::Corrupt { id: bad, pack: location.pack, offset: location.offset, damage }.into())
    }

    fn read_bytes(&self, location: Location, len: usize) -> Result<Bytes, ReadError> {
        let pack = self.files.get(location.pack)?;
        let mut bytes = vec![0; len];
        pack.file.read_exact_at(&mut bytes, u64::from(location.offset))?;
        Ok(bytes.into())
    }

    /// One chunk, out of `record` if that is good, from the disk otherwise.
    fn read_chunk(&self, id: &ChunkId, location: Location, record: Option<Bytes>) -> Result<EncodedChunk, Trouble> {
        if let Some(chunk) = self.cached(id, &location) {
            return Ok(chunk); // a neighbour in its block has just been read
        }
        if let Some(record) = record
            && let Ok(chunk) = self.check(id, location, &record)
        {
            return Ok(chunk);
        }
        let read = || {
            let record = self.read_bytes(location, location.record_len())?;
            self.check(id, location, &record)
        };
        // A second try, since the first may have met a fault on the way and not on the disk.
        let damage = match read().or_else(|_| read()) {
            Ok(chunk) => return Ok(chunk),
            Err(ReadError::Damage(damage)) => damage,
            Err(ReadError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Trouble::IndexWrong);
            }
            Err(ReadError::Io(error)) => return Err(self.files.error("read", location.pack, error).into()),
        };
        if !self.was_written(id, location) {
            return Err(Trouble::IndexWrong);
        }
        self.quarantine(id, location, damage);
        Err(StoreError::Corrupt { id: *id, pack: location.pack, offset: location.offset, damage }.into())
    }

    fn check(&self, id: &ChunkId, location: Location, record: &Bytes) -> Result<EncodedChunk, ReadError> {
        let salt = self.files.get(location.pack)?.salt;
        let Some(number) = location.member else {
            return Ok(self.check_alone(id, location, record, salt)?);
        };
        let (header, payload) = open_record(record, salt, None)?;
        let block = Block::decode(&header, &payload)?;
        let chunk = block.chunk(number, id, location.raw_len)?;
        lock(&self.blocks).insert((location.pack, location.offset), block, self.options.block_cache_bytes);
        Ok(chunk)
    }

    /// The chunk, if it is in a block that was decoded a short while ago.
    fn cached(&self, id: &ChunkId, location: &Location) -> Option<EncodedChunk> {
        let number = location.member?;
        lock(&self.blocks).chunk((location.pack, location.offset), number, id, location.raw_len)
    }

    fn check_alone(&self, id: &ChunkId, location: Location, record: &Bytes, salt: u64) -> Result<EncodedChunk, Damage> {
        let (header, payload) = open_record(record, salt, Some(id))?;
        if (header.raw_len, header.codec) != (location.raw_len, location.codec) {
            return Err(Damage::Length);
        }
        Ok(EncodedChunk { id: *id, raw_len: header.raw_len, codec: header.codec, payload })
    }

    /// Whether the pack itself lists the record where the index has it: then the disk is to blame, else the index. A pack
    /// that cannot be asked counts as listing it.
    fn was_written(&self, id: &ChunkId, location: Location) -> bool {
        let listed =
            |entry: &super::format::FooterEntry| entry.id == *id && Location::of(location.pack, entry) == location;
        if location.offset < PACK_HEADER_BYTES as u32 {
            return false;
        }
        let writer = lock(&self.writer);
        if let Some(open) = writer.active.iter().chain(&writer.closing).find(|open| open.pack == location.pack) {
            return open.entries.iter().any(listed);
        }
        drop(writer);
        let footer = || {
            let file = self.files.get(location.pack)?.file;
            let len = file.len()?;
            match read_trailer(file.as_ref(), len)? {
                Some(trailer) => read_footer(file.as_ref(), len, &trailer).map(Some),
                None => Ok(None),
            }
        };
        match footer() {
            Ok(Some(entries)) => entries.iter().any(listed),
            Ok(None) | Err(ReadError::Io(_) | ReadError::Damage(_)) => true,
        }
    }

    /// From now on the chunk is missing, so that it is fetched and put again.
    pub(super) fn quarantine(&self, id: &ChunkId, location: Location, damage: Damage) {
        tracing::error!(%id, pack = location.pack, offset = location.offset, %damage, "corrupt chunk");
        lock(&self.corrupt).insert(*id, location);
        let mut pending = self.pending.write().unwrap_or_else(PoisonError::into_inner);
        if pending.get(id).is_some_and(|entry| entry.location == location) {
            pending.remove(id);
        }
        drop(pending);
        if let Err(error) = self.index.quarantine(id, location) {
            tracing::warn!(%id, %error, "the corrupt chunk stays in the index");
        }
    }
}

/// How many of the first entries lie next to each other (or in the same record) and are small enough to be read at once.
fn run_of(wanted: &[(Location, usize)]) -> usize {
    let first = wanted[0].0;
    let mut end = first.offset as usize + first.record_len();
    let mut run = 1;
    for (location, _) in &wanted[1..] {
        let next = location.offset as usize + location.record_len();
        let touches = location.pack == first.pack && location.offset as usize <= end;
        if !touches || next - first.offset as usize > READ_BYTES_MAX {
            break;
        }
        end = end.max(next);
        run += 1;
    }
    run
}
