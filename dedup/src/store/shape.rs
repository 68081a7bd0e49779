//! The form in which chunks go into packs: alone, or several to a block.

use bytes::Bytes;

use super::block::{BLOCK_MEMBERS_MAX, BLOCK_PLAIN_BYTES_MAX, Member, directory_mark, encode_directory};
use super::format::Kind;
use super::{StoreError, StoreOptions};
use crate::chunk::codec;
use crate::{Codec, EncodedChunk};

/// A record to append, complete but for its header.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) codec: Codec,
    /// Plain bytes of all its chunks.
    pub(super) raw_len: u32,
    /// In front of `body`; empty for a chunk alone.
    pub(super) directory: Vec<u8>,
    pub(super) body: Bytes,
    pub(super) payload_crc: u32,
    pub(super) members: Vec<Member>,
}

impl Item {
    fn alone(chunk: &EncodedChunk) -> Self {
        Self {
            kind: Kind::Chunk,
            codec: chunk.codec,
            raw_len: chunk.raw_len,
            directory: Vec::new(),
            body: chunk.payload.clone(),
            payload_crc: crc32c::crc32c(&chunk.payload),
            members: vec![Member { id: chunk.id, raw_len: chunk.raw_len }],
        }
    }

    /// What the record's header has in the place of the id.
    pub(super) fn mark(&self) -> causeway_base::ChunkId {
        match self.kind {
            Kind::Block => directory_mark(&self.directory),
            Kind::Chunk | Kind::Footer => self.members[0].id,
        }
    }

    pub(super) fn payload_len(&self) -> usize {
        self.directory.len() + self.body.len()
    }
}

/// Brings chunks into the form in which they rest, in their order: those that compress share blocks, the others are
/// records of their own. The work of the compressor is done here, by the caller's thread and under no lock.
pub(super) fn shape(chunks: &[&EncodedChunk], options: &StoreOptions) -> Result<Vec<Item>, StoreError> {
    let mut items = Vec::new();
    let mut gathered = Gathered::default();
    for chunk in chunks {
        let shrinks = match chunk.codec {
            Codec::Raw => codec::may_shrink(&chunk.payload),
            _ => true,
        };
        if !shrinks || chunk.raw_len >= options.block_bytes {
            // Nothing to gain from neighbours; the order of the others is not disturbed by it.
            items.push(alone(chunk, shrinks, options.level));
            continue;
        }
        if gathered.plain_len + chunk.raw_len > options.block_bytes || gathered.chunks.len() == BLOCK_MEMBERS_MAX {
            items.extend(gathered.finish(options)?);
        }
        gathered.plain_len += chunk.raw_len;
        gathered.chunks.push((*chunk).clone());
    }
    items.extend(gathered.finish(options)?);
    Ok(items)
}

fn alone(chunk: &EncodedChunk, shrinks: bool, level: i32) -> Item {
    match chunk.codec {
        Codec::Raw if shrinks => Item::alone(&EncodedChunk::encode(chunk.id, chunk.payload.clone(), level)),
        _ => Item::alone(chunk),
    }
}

#[derive(Default)]
struct Gathered {
    chunks: Vec<EncodedChunk>,
    plain_len: u32,
}

impl Gathered {
    /// The block of what was gathered, which is forgotten; no block for one chunk.
    fn finish(&mut self, options: &StoreOptions) -> Result<Option<Item>, StoreError> {
        let chunks = std::mem::take(&mut self.chunks);
        let raw_len = std::mem::take(&mut self.plain_len);
        debug_assert!(raw_len <= BLOCK_PLAIN_BYTES_MAX);
        if let [chunk] = chunks.as_slice() {
            return Ok(Some(alone(chunk, true, options.level)));
        }
        if chunks.is_empty() {
            return Ok(None);
        }
        let mut plain = Vec::with_capacity(raw_len as usize);
        for chunk in &chunks {
            match chunk.codec {
                Codec::Raw => plain.extend_from_slice(&chunk.payload),
                _ => plain.extend_from_slice(&chunk.decode_unverified()?),
            }
        }
        let members: Vec<Member> = chunks.iter().map(|chunk| Member { id: chunk.id, raw_len: chunk.raw_len }).collect();
        let directory = encode_directory(&members);
        let (codec, body) = match codec::compress_all(&plain, options.level) {
            Some(body) => (Codec::Zstd, body),
            None => (Codec::Raw, plain.into()),
        };
        let payload_crc = crc32c::crc32c_append(crc32c::crc32c(&directory), &body);
        Ok(Some(Item { kind: Kind::Block, codec, raw_len, directory, body, payload_crc, members }))
    }
}
