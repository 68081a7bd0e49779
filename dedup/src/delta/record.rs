//! A delta at rest: its payload names its base.

use bytes::Bytes;

use causeway_base::ChunkId;

use super::{BASE_BYTES_MAX, DEPTH_MAX, Delta, DeltaError, decode};
use crate::chunk::CHUNK_BYTES_MAX;
use crate::{ChunkError, Codec, EncodedChunk};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 8;
/// Most chunks that a base at rest is made of: each is a read when the delta is read.
pub const BASES_MAX: usize = 4;
/// Most chunks that are read to decode one: a chain of single bases reads three, a base of several chunks each of which is a
/// delta itself more. Beyond, the record is refused.
pub(crate) const READS_MAX: usize = 32;

/// The base of a delta at rest: whole chunks, joined in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseRef {
    /// 1 to [`BASES_MAX`] chunks of the same realm.
    pub chunks: Vec<ChunkId>,
    /// Their plain bytes together; at most [`BASE_BYTES_MAX`].
    pub len: u32,
}

/// The payload of an [`EncodedChunk`] whose codec is a delta's, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaRecord {
    /// What it is the difference from.
    pub base: BaseRef,
    /// Links of the chain, this one included: 1 to [`DEPTH_MAX`]. A hint for the writer of the next one; the reader counts.
    pub depth: u8,
    /// What [`decode`] takes.
    pub body: Bytes,
}

impl BaseRef {
    /// Bytes that naming the base costs in a payload: what to take off the rival's length in [`encode`](super::encode).
    #[must_use]
    pub fn cost(chunks: usize) -> usize {
        HEADER_BYTES + chunks * ChunkId::LEN
    }
}

impl DeltaRecord {
    /// The payload: version, depth, number of chunks, zero, length of the base, ids, body.
    #[must_use]
    pub fn to_payload(&self) -> Bytes {
        let mut payload = Vec::with_capacity(BaseRef::cost(self.base.chunks.len()) + self.body.len());
        payload.extend_from_slice(&[VERSION, self.depth, self.base.chunks.len() as u8, 0]);
        payload.extend_from_slice(&self.base.len.to_le_bytes());
        for id in &self.base.chunks {
            payload.extend_from_slice(id.as_bytes());
        }
        payload.extend_from_slice(&self.body);
        payload.into()
    }

    /// Takes a payload apart; the body shares its bytes. All bounds are checked.
    ///
    /// # Errors
    /// [`DeltaError::Body`], [`DeltaError::Length`].
    pub fn from_payload(payload: &Bytes) -> Result<Self, DeltaError> {
        let wrong = |what: &str| DeltaError::Body(what.into());
        let header = payload.first_chunk::<HEADER_BYTES>().ok_or_else(|| wrong("it is cut off"))?;
        let [version, depth, count, zero, a, b, c, d] = *header;
        if version != VERSION || zero != 0 {
            return Err(wrong("the version is not known"));
        }
        if depth == 0 || depth > DEPTH_MAX {
            return Err(wrong("the depth is out of bounds"));
        }
        let count = usize::from(count);
        if count == 0 || count > BASES_MAX {
            return Err(wrong("the number of bases is out of bounds"));
        }
        let len = u32::from_le_bytes([a, b, c, d]);
        if len == 0 || len as usize > BASE_BYTES_MAX {
            return Err(DeltaError::Length { what: "base", len: len as usize });
        }
        let ids = payload.get(HEADER_BYTES..BaseRef::cost(count)).ok_or_else(|| wrong("it is cut off"))?;
        let chunks = ids.chunks_exact(ChunkId::LEN).filter_map(ChunkId::from_slice).collect();
        let body = payload.slice(BaseRef::cost(count)..);
        Ok(Self { base: BaseRef { chunks, len }, depth, body })
    }

    /// The stored form of a chunk as a delta against `base`.
    #[must_use]
    pub fn chunk(id: ChunkId, raw_len: u32, base: BaseRef, delta: Delta) -> EncodedChunk {
        let record = Self { base, depth: delta.depth, body: delta.body };
        EncodedChunk { id, raw_len, codec: delta.codec, payload: record.to_payload() }
    }
}

/// Decodes stored chunks, deltas among them, asking for the chunks that they stand on.
///
/// Plain bytes are **unverified**: check them against the id before use. A base that is wrong shows as a chunk that is wrong.
#[derive(Debug)]
pub struct Resolver<F> {
    read: F,
}

impl<F> Resolver<F> {
    /// A resolver that reads chunks with `read`, which gives `None` for one that is not there.
    #[must_use]
    pub const fn new(read: F) -> Self {
        Self { read }
    }

    /// The plain bytes of a stored chunk. Memory: the chunk, and at most [`BASE_BYTES_MAX`] for each of [`DEPTH_MAX`] links;
    /// at most 32 reads.
    ///
    /// # Errors
    /// As `read`, or a [`ChunkError`]: a base is missing, a chain too long, a payload wrong.
    pub fn plain<E: From<ChunkError>>(&mut self, chunk: &EncodedChunk) -> Result<Bytes, E>
    where
        F: FnMut(&ChunkId) -> Result<Option<EncodedChunk>, E>,
    {
        self.link(chunk, DEPTH_MAX, &mut 0)
    }

    fn link<E: From<ChunkError>>(&mut self, chunk: &EncodedChunk, links: u8, reads: &mut usize) -> Result<Bytes, E>
    where
        F: FnMut(&ChunkId) -> Result<Option<EncodedChunk>, E>,
    {
        if !chunk.codec.is_delta() {
            return Ok(chunk.decode_unverified()?);
        }
        let wrong = |reason: String| ChunkError::Payload { id: chunk.id, raw_len: chunk.raw_len, reason };
        if chunk.raw_len == 0 || chunk.raw_len > CHUNK_BYTES_MAX {
            return Err(ChunkError::Length { id: chunk.id, len: u64::from(chunk.raw_len) }.into());
        }
        let links = links.checked_sub(1).ok_or_else(|| wrong(format!("a chain of more than {DEPTH_MAX} deltas")))?;
        let record = DeltaRecord::from_payload(&chunk.payload).map_err(|error| wrong(error.to_string()))?;
        let len = record.base.len as usize;
        let mut base = Vec::new();
        for id in &record.base.chunks {
            *reads += 1;
            if *reads > READS_MAX {
                return Err(wrong(format!("more than {READS_MAX} chunks stand below it")).into());
            }
            let below = (self.read)(id)?.ok_or(ChunkError::Base { id: chunk.id, base: *id })?;
            if base.len() + below.raw_len as usize > len {
                return Err(wrong("its base is longer than it says".into()).into());
            }
            base.extend_from_slice(&self.link(&below, links, reads)?);
        }
        if base.len() != len {
            return Err(wrong("its base is shorter than it says".into()).into());
        }
        let plain = decode(chunk.codec, &record.body, &base, chunk.raw_len);
        Ok(plain.map_err(|error| wrong(error.to_string()))?)
    }
}

impl EncodedChunk {
    /// Encodes `plain` for rest: as a delta against the best base if that is smaller than standing alone, else as
    /// [`EncodedChunk::encode`] does. `bases` name the chunks that each base is made of (1 to [`BASES_MAX`]; others are
    /// skipped).
    ///
    /// A chunk of which a delta takes a small part of what a sample says that it would take alone is not compressed alone.
    #[must_use]
    pub fn encode_against(id: ChunkId, plain: Bytes, bases: &[(&[ChunkId], super::Base<'_>)], level: i32) -> Self {
        let usable = bases.iter().filter(|(chunks, _)| (1..=BASES_MAX).contains(&chunks.len()));
        let usable: Vec<_> = usable.take(super::CANDIDATES_MAX).collect();
        if usable.is_empty() {
            return Self::encode(id, plain, level);
        }
        let plain_bases: Vec<super::Base<'_>> = usable.iter().map(|(_, base)| *base).collect();
        let delta = super::encode(&plain, &plain_bases, plain.len(), level);
        let raw_len = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        let delta = delta.and_then(|delta| {
            let (chunks, base) = usable.get(delta.base)?;
            let base = BaseRef { chunks: chunks.to_vec(), len: u32::try_from(base.plain.len()).ok()? };
            Some(DeltaRecord::chunk(id, raw_len, base, delta))
        });
        let Some(delta) = delta else { return Self::encode(id, plain, level) };
        let surely = (crate::chunk::sampled_len(&plain) / SURELY_SMALLER).min(plain.len() / super::GOOD_ENOUGH);
        if delta.payload.len() < surely {
            return delta;
        }
        let alone = Self::encode(id, plain, level);
        if alone.payload.len() <= delta.payload.len() { alone } else { delta }
    }
}

/// A sample may overstate what a chunk takes alone: its pieces are compressed apart from the rest. Not by this much, unless
/// all that the chunk has is far repeats; then it costs some bytes.
const SURELY_SMALLER: usize = 8;

const _: () = assert!(BASES_MAX <= u8::MAX as usize && Codec::Planes.is_delta());
