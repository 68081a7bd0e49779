//! Blocks: chunks that came together, compressed together. See `docs/formats/pack.md`.
//!
//! A chunk alone is too little for a compressor to learn from: source code as single chunks takes almost twice the space
//! that it takes as one stream. A block is short enough to be read for the sake of one chunk.

use bytes::Bytes;

use causeway_base::ChunkId;

use super::Damage;
use super::format::{RecordHeader, word};
use crate::CHUNK_BYTES_MAX;
use crate::chunk::codec;
use crate::{Codec, EncodedChunk};

/// Most plain bytes of a block: what reading one chunk costs at worst (about 0.4 ms to decode).
pub(super) const BLOCK_PLAIN_BYTES_MAX: u32 = CHUNK_BYTES_MAX;
/// Most chunks of a block: their number is one byte in the index.
pub(super) const BLOCK_MEMBERS_MAX: usize = 256;
/// Bytes of the directory for each chunk.
const MEMBER_BYTES: usize = 36;
/// Largest payload: the directory, and plain bytes that did not shrink.
pub(super) const BLOCK_PAYLOAD_MAX: u32 = BLOCK_PLAIN_BYTES_MAX + (BLOCK_MEMBERS_MAX * MEMBER_BYTES) as u32;

/// A chunk of a block, in the order of the plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) id: ChunkId,
    pub(super) raw_len: u32,
}

/// What stands in a block's header in the place of a chunk's id: the number of chunks and the directory's checksum.
pub(super) fn directory_mark(directory: &[u8]) -> ChunkId {
    let mut mark = ChunkId([0; 32]);
    mark.0[..4].copy_from_slice(&((directory.len() / MEMBER_BYTES) as u32).to_le_bytes());
    mark.0[4..8].copy_from_slice(&crc32c::crc32c(directory).to_le_bytes());
    mark
}

/// Bytes of the directory of the block with this header; `None` if there is no such block.
pub(super) fn directory_len(header: &RecordHeader) -> Option<usize> {
    let count = word(&header.id.0, 0) as usize;
    let len = count * MEMBER_BYTES;
    let good = (1..=BLOCK_MEMBERS_MAX).contains(&count) && len < header.payload_len as usize;
    good.then_some(len)
}

pub(super) fn encode_directory(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::with_capacity(members.len() * MEMBER_BYTES);
    for member in members {
        out.extend_from_slice(member.id.as_bytes());
        out.extend_from_slice(&member.raw_len.to_le_bytes());
    }
    out
}

/// Reads the directory of the block with this header.
pub(super) fn decode_directory(header: &RecordHeader, directory: &[u8]) -> Result<Vec<Member>, Damage> {
    if directory_len(header) != Some(directory.len()) {
        return Err(Damage::Length);
    }
    if crc32c::crc32c(directory) != word(&header.id.0, 4) {
        return Err(Damage::PayloadChecksum);
    }
    let mut members = Vec::with_capacity(directory.len() / MEMBER_BYTES);
    let mut total = 0_u64;
    for bytes in directory.chunks_exact(MEMBER_BYTES) {
        let mut id = ChunkId([0; 32]);
        id.0.copy_from_slice(&bytes[..32]);
        let raw_len = word(bytes, 32);
        if raw_len == 0 {
            return Err(Damage::Length);
        }
        total += u64::from(raw_len);
        members.push(Member { id, raw_len });
    }
    if total == u64::from(header.raw_len) { Ok(members) } else { Err(Damage::Length) }
}

/// A block in memory.
#[derive(Clone, Debug)]
pub(super) struct Block {
    members: Vec<Member>,
    plain: Bytes,
}

impl Block {
    /// Decodes the payload of the record with this header, whose checksums held. Allocates at most
    /// [`BLOCK_PLAIN_BYTES_MAX`].
    pub(super) fn decode(header: &RecordHeader, payload: &Bytes) -> Result<Self, Damage> {
        let directory = directory_len(header).ok_or(Damage::Length)?;
        let members = decode_directory(header, payload.get(..directory).ok_or(Damage::CutOff)?)?;
        let body = payload.slice(directory..);
        let raw_len = header.raw_len as usize; // bounded when the header was read
        let plain = match header.codec {
            Codec::Raw if body.len() == raw_len => body,
            Codec::Zstd => codec::decompress(&body, raw_len).map_err(|_| Damage::Undecodable)?,
            _ => return Err(Damage::Length),
        };
        Ok(Self { members, plain })
    }

    /// One chunk, copied, so that it does not keep the whole block in memory.
    pub(super) fn chunk(&self, number: u8, id: &ChunkId, raw_len: u32) -> Result<EncodedChunk, Damage> {
        let number = usize::from(number);
        let member = self.members.get(number).ok_or(Damage::OtherChunk)?;
        if member.id != *id || member.raw_len != raw_len {
            return Err(Damage::OtherChunk);
        }
        let start: usize = self.members[..number].iter().map(|member| member.raw_len as usize).sum();
        let plain = Bytes::copy_from_slice(&self.plain[start..start + raw_len as usize]);
        Ok(EncodedChunk { id: *id, raw_len, codec: Codec::Raw, payload: plain })
    }

    fn bytes(&self) -> usize {
        self.plain.len() + self.members.len() * MEMBER_BYTES
    }
}

/// The blocks decoded last, within a bound of bytes: who reads on, reads the next chunks of the same block.
#[derive(Debug, Default)]
pub(super) struct BlockCache {
    /// The one used last is at the end. Few, so that looking through them costs nothing beside a decode.
    blocks: Vec<((u32, u32), Block)>,
    bytes: usize,
}

impl BlockCache {
    /// The chunk, if its block is here and lists it.
    pub(super) fn chunk(&mut self, at: (u32, u32), number: u8, id: &ChunkId, raw_len: u32) -> Option<EncodedChunk> {
        let position = self.blocks.iter().rposition(|(place, _)| *place == at)?;
        let last = self.blocks.len() - 1;
        self.blocks[position..=last].rotate_left(1);
        self.blocks[last].1.chunk(number, id, raw_len).ok()
    }

    /// Forgets the blocks of a pack, so that the next read is of the disk.
    pub(super) fn forget_pack(&mut self, pack: u32) {
        let bytes = &mut self.bytes;
        self.blocks.retain(|((of, _), block)| {
            let keep = *of != pack;
            if !keep {
                *bytes -= block.bytes();
            }
            keep
        });
    }

    #[cfg(test)]
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn insert(&mut self, at: (u32, u32), block: Block, bytes_max: usize) {
        if self.blocks.iter().any(|(place, _)| *place == at) {
            return;
        }
        self.bytes += block.bytes();
        self.blocks.push((at, block));
        let mut gone = 0;
        while self.bytes > bytes_max && gone < self.blocks.len() {
            self.bytes -= self.blocks[gone].1.bytes();
            gone += 1;
        }
        self.blocks.drain(..gone);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::format::Kind;
    use super::*;

    fn header(mark: ChunkId, codec: Codec, payload_len: usize, raw_len: u32) -> RecordHeader {
        let payload_len = payload_len as u32;
        RecordHeader { kind: Kind::Block, codec, payload_len, raw_len, synced_to: 0, id: mark, payload_crc: 0 }
    }

    #[test]
    fn a_bomb_is_refused_without_its_memory() {
        let members = [Member { id: ChunkId([1; 32]), raw_len: 1_000 }];
        let directory = encode_directory(&members);
        let bomb = codec::compress_all(&vec![0; 8 << 20], 3).unwrap();
        let payload: Bytes = [directory.as_slice(), &bomb].concat().into();
        let header = header(directory_mark(&directory), Codec::Zstd, payload.len(), 1_000);
        assert_eq!(Block::decode(&header, &payload).unwrap_err(), Damage::Undecodable);
    }

    proptest! {
        #[test]
        fn blocks_survive_and_a_wrong_byte_of_the_directory_shows(
            lens in prop::collection::vec(1_u32..5_000, 1..BLOCK_MEMBERS_MAX),
            at in any::<prop::sample::Index>(),
            bit in 0_u32..8,
        ) {
            let members: Vec<Member> = lens.iter().enumerate().map(|(number, len)| Member { id: ChunkId([number as u8; 32]), raw_len: *len }).collect();
            let total: u32 = lens.iter().sum();
            prop_assume!(total <= BLOCK_PLAIN_BYTES_MAX);
            let plain: Vec<u8> = (0..total).map(|at| (at / 3) as u8).collect();
            let directory = encode_directory(&members);
            let mut payload = directory.clone();
            payload.extend_from_slice(&plain);
            let header = header(directory_mark(&directory), Codec::Raw, payload.len(), total);
            let block = Block::decode(&header, &payload.clone().into()).unwrap();
            let mut start = 0;
            for (number, member) in members.iter().enumerate() {
                let chunk = block.chunk(number as u8, &member.id, member.raw_len).unwrap();
                prop_assert_eq!(&chunk.payload[..], &plain[start..][..member.raw_len as usize]);
                prop_assert!(block.chunk(number as u8, &member.id, member.raw_len + 1).is_err());
                start += member.raw_len as usize;
            }
            payload[at.index(directory.len())] ^= 1_u8 << bit;
            prop_assert!(Block::decode(&header, &payload.into()).is_err());
        }

        #[test]
        fn noise_is_survived(mark in any::<[u8; 32]>(), raw_len in 1..=BLOCK_PLAIN_BYTES_MAX, payload in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let mut mark = ChunkId(mark);
            mark.0[1..4].fill(0); // so that the number of chunks is often possible
            let header = header(mark, Codec::Zstd, payload.len(), raw_len);
            prop_assert!(Block::decode(&header, &payload.into()).is_err());
        }
    }
}
