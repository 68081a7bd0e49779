//! Finds what a new chunk can be the difference from.
//!
//! A base comes from the caller, who knows what was at this place of the file before, or from the similarity index. Whatever it
//! is, it is pinned before it is looked for, so that no collection takes it before the delta is in the index; and it is read and
//! verified against its id, since a delta is only as good as its base.

use std::collections::HashMap;

use bytes::Bytes;

use causeway_base::ChunkId;

use super::format::{FOOTER_ENTRY_BYTES, RECORD_HEADER_BYTES};
use super::presence::Pins;
use super::shape::DELTA_PERCENT_MAX;
use super::{ChunkStore, Deltas, StoreError};
use crate::chunk::{codec, sampled_len};
use crate::delta::{self, BASE_BYTES_MAX, BASES_MAX, Base, BaseRef, DEPTH_MAX, DeltaRecord};
use crate::sketch::{SKETCHED_BYTES_MIN, Sketch, Sketcher};
use crate::{Codec, EncodedChunk, Realm};

/// Most chunks of the similarity index that are tried.
const SIMILAR_MAX: usize = 2;
/// Most ranges that the caller may name for a chunk; others are not looked at.
const HINTS_MAX: usize = 2;
/// Most chunks of a range that are looked at.
const HINT_CHUNKS_MAX: usize = delta::RANGE_PIECES_MAX;
/// A delta against a named base that is so many times smaller than the chunk is taken without a look for similar chunks.
const GOOD_ENOUGH: usize = 16;
/// What naming a chunk of the base costs in the index: in the delta's entry, and the pair of both.
const INDEX_BYTES: usize = 100;

/// What the caller of a put knows of its chunks.
#[derive(Clone, Debug)]
pub struct PutHints<'a> {
    /// The realm of all of them. Their bases are of the same one.
    pub realm: &'a Realm,
    /// What may have been in the place of a chunk before: see [`LikelyBase`]. The first two are looked at.
    pub bases: HashMap<ChunkId, Vec<LikelyBase>>,
}

impl<'a> PutHints<'a> {
    /// Of the chunks nothing but their realm is known.
    #[must_use]
    pub fn of(realm: &'a Realm) -> Self {
        Self { realm, bases: HashMap::new() }
    }
}

/// Neighbouring chunks of the file's previous version, at the place of a new chunk. They need not be here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LikelyBase {
    /// In the order of the file, without gaps; at most 20.
    pub chunks: Vec<ChunkId>,
    /// Where in their bytes the new chunk begins (may lie outside).
    pub align: i64,
}

/// A chunk as a delta, if that turns out to be smaller than what it takes otherwise.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) chunk: EncodedChunk,
    pub(super) depth: u8,
    pub(super) bases: Vec<ChunkId>,
    /// About what the chunk takes compressed by itself.
    pub(super) alone: usize,
}

impl Choice {
    /// Bytes that it costs on disk.
    pub(super) fn cost(&self) -> usize {
        let entries = FOOTER_ENTRY_BYTES * (1 + self.bases.len());
        RECORD_HEADER_BYTES + self.chunk.payload.len() + entries + INDEX_BYTES * self.bases.len()
    }
}

/// Deltas for some chunks, and the pins on their bases: until they are in the index, or are not used.
#[derive(Debug)]
pub(super) struct Choices<'a> {
    pins: &'a Pins,
    pinned: Vec<ChunkId>,
    pub(super) deltas: HashMap<ChunkId, Choice>,
    /// Of all chunks that have one.
    pub(super) sketches: Vec<(ChunkId, Sketch)>,
}

impl Choices<'_> {
    fn pin(&mut self, ids: &[ChunkId]) {
        self.pins.pin(ids);
        self.pinned.extend_from_slice(ids);
    }
}

impl Drop for Choices<'_> {
    fn drop(&mut self) {
        self.pins.unpin(&self.pinned);
    }
}

/// Plain bytes of a base.
struct Found {
    chunks: Vec<ChunkId>,
    plain: Vec<u8>,
    align: Option<i64>,
    depth: u8,
}

impl ChunkStore {
    /// Makes deltas of those of `chunks` for which a good base is here. The gate is held.
    pub(super) fn choose(
        &self,
        chunks: &[&EncodedChunk],
        hints: Option<&PutHints<'_>>,
    ) -> Result<Choices<'_>, StoreError> {
        let mut choices =
            Choices { pins: &self.pins, pinned: Vec::new(), deltas: HashMap::new(), sketches: Vec::new() };
        let Some(hints) = hints.filter(|_| self.options.deltas != Deltas::Off) else { return Ok(choices) };
        let sketcher = Sketcher::new(hints.realm);
        for chunk in chunks {
            if (chunk.raw_len as usize) < SKETCHED_BYTES_MIN {
                continue;
            }
            let plain = match chunk.codec {
                Codec::Raw => chunk.payload.clone(),
                _ => chunk.decode_unverified()?,
            };
            self.choose_for(chunk.id, plain, hints, &sketcher, &mut choices)?;
        }
        Ok(choices)
    }

    fn choose_for(
        &self,
        id: ChunkId,
        plain: Bytes,
        hints: &PutHints<'_>,
        sketcher: &Sketcher,
        choices: &mut Choices<'_>,
    ) -> Result<(), StoreError> {
        let mut bases = Vec::new();
        for hint in hints.bases.get(&id).into_iter().flatten().take(HINTS_MAX) {
            bases.extend(self.hinted(&id, hint, plain.len(), hints.realm, choices)?);
        }
        let mut choice = self.encode(id, &plain, &bases);
        if self.options.deltas != Deltas::Similar {
            return self.keep(id, choice, choices);
        }
        let sketch = sketcher.sketch(&plain);
        choices.sketches.extend(sketch.map(|sketch| (id, sketch)));
        let good = choice.as_ref().is_some_and(|choice| choice.chunk.payload.len() <= plain.len() / GOOD_ENOUGH);
        if let Some(sketch) = sketch.filter(|_| !good) {
            let mut similar = Vec::new();
            // A hint that cannot be had is no reason to refuse the chunk.
            for candidate in self.similar.candidates(&sketch, SIMILAR_MAX).unwrap_or_default() {
                let named = bases.iter().any(|base| base.chunks == [candidate]);
                if candidate != id && !named {
                    similar.extend(self.similar_to(&candidate, hints.realm, choices)?);
                }
            }
            let other = self.encode(id, &plain, &similar);
            choice = [choice, other].into_iter().flatten().min_by_key(Choice::cost);
        }
        self.keep(id, choice, choices)
    }

    fn keep(&self, id: ChunkId, choice: Option<Choice>, choices: &mut Choices<'_>) -> Result<(), StoreError> {
        if let Some(choice) = choice
            && !self.is_stood_on(&id)?
        {
            choices.deltas.insert(id, choice);
        }
        Ok(())
    }

    /// The part of a named range in which the chunk lies.
    fn hinted(
        &self,
        id: &ChunkId,
        hint: &LikelyBase,
        len: usize,
        realm: &Realm,
        choices: &mut Choices<'_>,
    ) -> Result<Option<Found>, StoreError> {
        let chunks = &hint.chunks[..hint.chunks.len().min(HINT_CHUNKS_MAX)];
        if chunks.contains(id) {
            return Ok(None);
        }
        choices.pin(chunks);
        self.gc.revive(chunks.iter());
        let mut place = 0_i64;
        let (mut within, mut align, mut total) = (Vec::new(), hint.align, 0_usize);
        for chunk in chunks {
            let Some(location) = self.locate(chunk)? else {
                // What is behind a gap is not where it should be.
                if within.is_empty() { return Ok(None) } else { break }
            };
            let end = place + i64::from(location.raw_len);
            let overlaps = end > hint.align && place < hint.align.saturating_add_unsigned(len as u64);
            if overlaps && within.len() < BASES_MAX && total + location.raw_len as usize <= BASE_BYTES_MAX {
                if within.is_empty() {
                    align = hint.align - place;
                }
                within.push(*chunk);
                total += location.raw_len as usize;
            }
            place = end;
        }
        self.base(within, Some(align), realm)
    }

    /// A chunk that resembles the new one; if it is the end of the longest chain, what it stands on.
    fn similar_to(
        &self,
        candidate: &ChunkId,
        realm: &Realm,
        choices: &mut Choices<'_>,
    ) -> Result<Option<Found>, StoreError> {
        choices.pin(&[*candidate]);
        self.gc.revive(std::iter::once(candidate));
        let Some(entry) = self.entry(candidate, true)? else { return Ok(None) };
        if entry.location.depth < DEPTH_MAX {
            return self.base(vec![*candidate], None, realm);
        }
        // These cannot go while the candidate stands on them; and then the pins hold them.
        choices.pin(&entry.bases);
        self.gc.revive(entry.bases.iter());
        self.base(entry.bases, None, realm)
    }

    /// Reads and verifies a base; `None` if it is not here or cannot be one.
    fn base(&self, chunks: Vec<ChunkId>, align: Option<i64>, realm: &Realm) -> Result<Option<Found>, StoreError> {
        // What its reader would refuse is not written: several bases, each on several, are soon more than it reads.
        if chunks.is_empty() || chunks.len() > BASES_MAX || !self.bears(&chunks)? {
            return Ok(None);
        }
        let (mut plain, mut depth) = (Vec::new(), 0);
        for chunk in &chunks {
            let Some(entry) = self.entry(chunk, true)? else { return Ok(None) };
            depth = depth.max(entry.location.depth);
            if depth >= DEPTH_MAX || plain.len() + entry.location.raw_len as usize > BASE_BYTES_MAX {
                return Ok(None);
            }
            let Some(bytes) = self.plain_gated(chunk)? else { return Ok(None) };
            if realm.chunk_id(&bytes) != *chunk {
                return Ok(None); // of another realm, or wrong
            }
            plain.extend_from_slice(&bytes);
        }
        Ok(Some(Found { chunks, plain, align, depth }))
    }

    /// The best delta, if it is clearly less than what the chunk would take alone. The chunk's share of a block may be smaller
    /// than that, which is looked at when the block is made.
    fn encode(&self, id: ChunkId, plain: &Bytes, found: &[Found]) -> Option<Choice> {
        if found.is_empty() {
            return None;
        }
        let alone = match sampled_len(plain) {
            0 => codec::compress_all(plain, self.options.level).map_or(plain.len(), |bytes| bytes.len()),
            sampled => sampled.min(plain.len()),
        };
        let bases: Vec<Base<'_>> =
            found.iter().map(|base| Base { plain: &base.plain, align: base.align, depth: base.depth }).collect();
        let delta = delta::encode(plain, &bases, alone * DELTA_PERCENT_MAX / 100, self.options.level)?;
        let base = found.get(delta.base)?;
        let depth = delta.depth;
        let raw_len = u32::try_from(plain.len()).ok()?;
        let bytes = BaseRef { chunks: base.chunks.clone(), len: u32::try_from(base.plain.len()).ok()? };
        let chunk = DeltaRecord::chunk(id, raw_len, bytes, delta);
        let choice = Choice { chunk, depth, bases: base.chunks.clone(), alone };
        (choice.cost() * 100 <= alone * DELTA_PERCENT_MAX).then_some(choice)
    }
}
