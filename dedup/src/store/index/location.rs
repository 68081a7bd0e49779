//! An entry of the index: where a chunk lies.

use bytes::Bytes;
use causeway_base::ChunkId;

use crate::Codec;
use crate::delta::{BASES_MAX, DEPTH_MAX};
use crate::store::format::{FooterEntry, RECORD_HEADER_BYTES};

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Location {
    pub(in crate::store) pack: u32,
    pub(in crate::store) offset: u32,
    pub(in crate::store) payload_len: u32,
    pub(in crate::store) raw_len: u32,
    pub(in crate::store) codec: Codec,
    /// Its number in a block; `None` for a record of its own.
    pub(in crate::store) member: Option<u8>,
    /// Links of the chain that ends with this delta; 0 for a chunk that stands alone.
    pub(in crate::store) depth: u8,
}

/// What is put into the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Entry {
    pub(in crate::store) id: ChunkId,
    pub(in crate::store) location: Location,
    /// What a delta stands on; empty for a chunk that stands alone.
    pub(in crate::store) bases: Vec<ChunkId>,
}

impl Entry {
    pub(in crate::store) fn of(pack: u32, entry: &FooterEntry) -> Self {
        Self { id: entry.id, location: Location::of(pack, entry), bases: entry.bases.clone() }
    }
}

/// In the byte of the codec: a block, and the chunk's number in it follows.
const IN_BLOCK: u8 = 0x10;
/// In the byte of the codec: a delta; its depth follows, and in the index the chunks of its base.
const IS_DELTA: u8 = 0x20;

impl Location {
    pub(in crate::store) const fn of(pack: u32, entry: &FooterEntry) -> Self {
        let FooterEntry { id: _, offset, payload_len, raw_len, codec, member, depth, bases: _ } = *entry;
        Self { pack, offset, payload_len, raw_len, codec, member, depth }
    }

    /// What the chunk takes in its pack: its record, or of a block it shares at most its plain length.
    pub(in crate::store) fn share(&self) -> u64 {
        let record = self.record_len() as u64;
        if self.member.is_some() { record.min(u64::from(self.raw_len)) } else { record }
    }

    /// Bytes of the record.
    pub(in crate::store) const fn record_len(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload_len as usize
    }

    /// 15 bytes, 16 in a block, 16 and the bases for a delta: at 100 M chunks each one counts. Lengths are below 2^24.
    pub(super) fn encode(self, bases: &[ChunkId]) -> Bytes {
        let mut out = [0; 16];
        out[..4].copy_from_slice(&self.pack.to_le_bytes());
        out[4..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..11].copy_from_slice(&self.payload_len.to_le_bytes()[..3]);
        out[11..14].copy_from_slice(&self.raw_len.to_le_bytes()[..3]);
        out[14] = self.codec.to_byte();
        if self.depth > 0 {
            out[14] |= IS_DELTA;
            out[15] = self.depth;
            let bases = bases.iter().flat_map(|base| base.0);
            return out.into_iter().chain(bases).collect();
        }
        let Some(number) = self.member else { return Bytes::copy_from_slice(&out[..15]) };
        out[14] |= IN_BLOCK;
        out[15] = number;
        Bytes::copy_from_slice(&out)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let in_block = bytes.get(14)? & IN_BLOCK != 0;
        let depth = if bytes[14] & IS_DELTA != 0 { *bytes.get(15)? } else { 0 };
        let rest = bytes.len().checked_sub(15 + usize::from(in_block || depth > 0))?;
        let bases = rest / ChunkId::LEN;
        let right = if depth > 0 {
            // An entry of what is corrupt names no bases.
            depth <= DEPTH_MAX && !in_block && bases <= BASES_MAX && rest.is_multiple_of(ChunkId::LEN)
        } else {
            rest == 0
        };
        if !right {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let short = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], 0]);
        let codec = Codec::from_byte(bytes[14] & !(IN_BLOCK | IS_DELTA)).ok()?;
        let member = in_block.then(|| bytes[15]);
        let (payload_len, raw_len) = (short(8), short(11));
        let location = Self { pack: word(0), offset: word(4), payload_len, raw_len, codec, member, depth };
        (codec.is_delta() == (depth > 0)).then_some(location)
    }

    /// The bases in an entry that decodes.
    pub(super) fn bases(self, bytes: &[u8]) -> Vec<ChunkId> {
        let bases = if self.depth > 0 { bytes.get(16..).unwrap_or_default() } else { &[] };
        bases.chunks_exact(ChunkId::LEN).filter_map(ChunkId::from_slice).collect()
    }
}
