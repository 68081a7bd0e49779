//! The form in which chunks go into packs: alone, or several to a block.

use std::collections::HashMap;

use bytes::Bytes;

use causeway_base::ChunkId;

use super::block::{BLOCK_MEMBERS_MAX, BLOCK_PLAIN_BYTES_MAX, Member, directory_mark, encode_directory};
use super::format::{FOOTER_ENTRY_BYTES, Kind, RECORD_HEADER_BYTES};
use super::like::Choice;
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
    /// Links of the chain that ends with this delta; 0 for what stands alone.
    pub(super) depth: u8,
    /// What a delta stands on.
    pub(super) bases: Vec<ChunkId>,
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
            depth: 0,
            bases: Vec::new(),
        }
    }

    /// A delta as it is stored: with a codec that is one, and a payload that names these bases.
    pub(super) fn delta(chunk: &EncodedChunk, depth: u8, bases: Vec<ChunkId>) -> Self {
        debug_assert!(chunk.codec.is_delta() && depth > 0 && !bases.is_empty());
        Self { kind: Kind::Delta, depth, bases, ..Self::alone(chunk) }
    }

    /// What the record's header has in the place of the id.
    pub(super) fn mark(&self) -> ChunkId {
        match self.kind {
            Kind::Block => directory_mark(&self.directory),
            Kind::Chunk | Kind::Delta | Kind::Footer => self.members[0].id,
        }
    }

    /// Bytes on disk, with its entries in the footer.
    fn cost(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload_len() + FOOTER_ENTRY_BYTES * (self.members.len() + self.bases.len())
    }

    pub(super) fn payload_len(&self) -> usize {
        self.directory.len() + self.body.len()
    }
}

/// Brings chunks into the form in which they rest, in their order: those that compress share blocks, the others are
/// records of their own. The work of the compressor is done here, by the caller's thread and under no lock.
///
/// A chunk for which there is a delta becomes one where that costs at most [`DELTA_PERCENT_MAX`] percent of what it would take
/// without; for a block that is what all its deltas cost, against what the block is smaller without their chunks. So a delta is
/// never larger than what it replaces.
pub(super) fn shape(
    chunks: &[&EncodedChunk],
    deltas: &HashMap<ChunkId, Choice>,
    options: &StoreOptions,
) -> Result<Shaped, StoreError> {
    let mut shaped = Shaped::default();
    let mut gathered = Gathered::default();
    for chunk in chunks {
        let shrinks = match chunk.codec {
            Codec::Raw => codec::may_shrink(&chunk.payload),
            _ => true,
        };
        if !shrinks || chunk.raw_len >= options.block_bytes {
            // Nothing to gain from neighbours; the order of the others is not disturbed by it.
            let whole = alone(chunk, shrinks, options.level);
            if !shaped.push_smaller(&whole, None, deltas.get(&chunk.id).as_slice()) {
                shaped.items.push(whole);
            }
            continue;
        }
        if gathered.plain_len + chunk.raw_len > options.block_bytes || gathered.chunks.len() == BLOCK_MEMBERS_MAX {
            gathered.finish(deltas, options, &mut shaped)?;
        }
        gathered.plain_len += chunk.raw_len;
        gathered.chunks.push((*chunk).clone());
    }
    gathered.finish(deltas, options, &mut shaped)?;
    Ok(shaped)
}

/// Of what a chunk would take otherwise, a delta may cost so much. Each costs a read and a decode more when it is read, and keeps
/// its base from being collected: for less than a quarter that is not worth it.
pub(super) const DELTA_PERCENT_MAX: usize = 75;

/// In a block a chunk takes about half of what it takes alone; a delta that is so many times smaller than it alone is smaller.
const SURELY_SMALLER: usize = 4;

/// Records to append, and what deltas among them save.
#[derive(Debug, Default)]
pub(super) struct Shaped {
    pub(super) items: Vec<Item>,
    /// Bytes on disk.
    pub(super) saved: u64,
}

impl Shaped {
    /// Takes these deltas, and `rest` beside them, if they are clearly smaller than `whole`, which is all of it.
    fn push_smaller(&mut self, whole: &Item, rest: Option<Item>, deltas: &[&Choice]) -> bool {
        let share = whole.cost().saturating_sub(rest.as_ref().map_or(0, Item::cost));
        let taken: usize = deltas.iter().map(|delta| delta.cost()).sum();
        if deltas.is_empty() || taken * 100 > share * DELTA_PERCENT_MAX {
            return false;
        }
        self.saved += (share - taken) as u64;
        self.items.extend(rest);
        self.items.extend(deltas.iter().map(|delta| Item::delta(&delta.chunk, delta.depth, delta.bases.clone())));
        true
    }
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
    /// Brings what was gathered into form, and forgets it.
    fn finish(
        &mut self,
        deltas: &HashMap<ChunkId, Choice>,
        options: &StoreOptions,
        shaped: &mut Shaped,
    ) -> Result<(), StoreError> {
        let chunks = std::mem::take(&mut self.chunks);
        self.plain_len = 0;
        let Some(whole) = block(&chunks, options)? else { return Ok(()) };
        // All deltas, or if they come to too much only those that are small beyond doubt.
        let mut tried = usize::MAX;
        for small in [1, SURELY_SMALLER] {
            let taken =
                |chunk: &EncodedChunk| deltas.get(&chunk.id).filter(|delta| delta.cost() * small <= delta.alone);
            let chosen: Vec<&Choice> = chunks.iter().filter_map(taken).collect();
            if chosen.is_empty() || chosen.len() == tried {
                break;
            }
            tried = chosen.len();
            let rest: Vec<EncodedChunk> = chunks.iter().filter(|chunk| taken(chunk).is_none()).cloned().collect();
            if shaped.push_smaller(&whole, block(&rest, options)?, &chosen) {
                return Ok(());
            }
        }
        shaped.items.push(whole);
        Ok(())
    }
}

/// The block of these chunks; one chunk is no block, and none is nothing.
fn block(chunks: &[EncodedChunk], options: &StoreOptions) -> Result<Option<Item>, StoreError> {
    if let [chunk] = chunks {
        return Ok(Some(alone(chunk, true, options.level)));
    }
    if chunks.is_empty() {
        return Ok(None);
    }
    let raw_len: u32 = chunks.iter().map(|chunk| chunk.raw_len).sum(); // of what was gathered, so bounded
    debug_assert!(raw_len <= BLOCK_PLAIN_BYTES_MAX);
    let mut plain = Vec::with_capacity(raw_len as usize);
    for chunk in chunks {
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
    let kind = Kind::Block;
    Ok(Some(Item { kind, codec, raw_len, directory, body, payload_crc, members, depth: 0, bases: Vec::new() }))
}
