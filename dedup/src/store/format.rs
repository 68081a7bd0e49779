//! Bytes of a pack file: header, records, footer, trailer. See `docs/formats/pack.md`.

use causeway_base::ChunkId;

use super::Damage;
use super::block::{BLOCK_PAYLOAD_MAX, BLOCK_PLAIN_BYTES_MAX};
use crate::delta::{BASES_MAX, DEPTH_MAX};
use crate::{CHUNK_BYTES_MAX, Codec};

/// Version written. The first one, without deltas, is read too and not written to any more.
pub(super) const VERSION: u16 = 2;
const VERSIONS: std::ops::RangeInclusive<u16> = 1..=VERSION;

/// Bytes of the header of a pack.
pub(super) const PACK_HEADER_BYTES: usize = 64;
const PACK_MAGIC: [u8; 8] = *b"CWPACK\r\n";

/// Bytes of the header of a record.
pub(super) const RECORD_HEADER_BYTES: usize = 60;
/// First bytes of each record: what the search behind a bad one looks for.
pub(super) const RECORD_MARKER: [u8; 4] = *b"CWrc";

/// Bytes of an entry of the footer; a delta has one more for each chunk of its base.
pub(super) const FOOTER_ENTRY_BYTES: usize = 48;

/// Bytes of the trailer of a sealed pack.
pub(super) const TRAILER_BYTES: usize = 40;
const TRAILER_MAGIC: [u8; 8] = *b"CWPKEND\n";

pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

/// The first bytes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackHeader {
    pub(super) pack: u32,
    /// Goes into each record's checksum, so that a stored copy of a pack is not taken for records of this one.
    pub(super) salt: u64,
    /// What may be in it: no deltas before version 2.
    pub(super) version: u16,
}

impl PackHeader {
    pub(super) fn encode(self) -> [u8; PACK_HEADER_BYTES] {
        let mut out = [0; PACK_HEADER_BYTES];
        out[..8].copy_from_slice(&PACK_MAGIC);
        out[8..10].copy_from_slice(&self.version.to_le_bytes());
        out[12..16].copy_from_slice(&self.pack.to_le_bytes());
        out[16..24].copy_from_slice(&self.salt.to_le_bytes());
        let sum = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8; PACK_HEADER_BYTES]) -> Result<Self, Damage> {
        if bytes[..8] != PACK_MAGIC {
            return Err(Damage::Marker);
        }
        if crc32c::crc32c(&bytes[..60]) != word(bytes, 60) {
            return Err(Damage::HeaderChecksum);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if !VERSIONS.contains(&version) {
            return Err(Damage::Version(version));
        }
        Ok(Self { pack: word(bytes, 12), salt: long(bytes, 16), version })
    }
}

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One chunk.
    Chunk,
    /// Several chunks, compressed together.
    Block,
    /// One chunk as its difference from others.
    Delta,
    /// The list of the pack's records; the last record of a sealed pack.
    Footer,
}

impl Kind {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Chunk => 1,
            Self::Block => 2,
            Self::Delta => 3,
            Self::Footer => 15,
        }
    }
}

/// The bytes before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: Kind,
    pub(super) codec: Codec,
    pub(super) payload_len: u32,
    /// Plain length of the chunk or of all chunks of a block; number of entries of a footer.
    pub(super) raw_len: u32,
    /// All of this pack before this offset was durable when the record was written. So a bad record before the largest such
    /// offset is a loss, one behind it may never have been acknowledged.
    pub(super) synced_to: u32,
    /// Of the chunk; a block has [`super::block::directory_mark`] here, a footer zeros.
    pub(super) id: ChunkId,
    pub(super) payload_crc: u32,
}

impl RecordHeader {
    pub(super) fn encode(&self, salt: u64) -> [u8; RECORD_HEADER_BYTES] {
        let mut out = [0; RECORD_HEADER_BYTES];
        out[..4].copy_from_slice(&RECORD_MARKER);
        out[4] = self.kind.to_byte();
        out[5] = self.codec.to_byte();
        out[8..12].copy_from_slice(&self.payload_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.raw_len.to_le_bytes());
        out[16..20].copy_from_slice(&self.synced_to.to_le_bytes());
        out[20..52].copy_from_slice(self.id.as_bytes());
        out[52..56].copy_from_slice(&self.payload_crc.to_le_bytes());
        let sum = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &out[..56]);
        out[56..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8; RECORD_HEADER_BYTES], salt: u64) -> Result<Self, Damage> {
        if bytes[..4] != RECORD_MARKER {
            return Err(Damage::Marker);
        }
        if crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &bytes[..56]) != word(bytes, 56) {
            return Err(Damage::HeaderChecksum);
        }
        let kind = match bytes[4] {
            1 => Kind::Chunk,
            2 => Kind::Block,
            3 => Kind::Delta,
            15 => Kind::Footer,
            other => return Err(Damage::Kind(other)),
        };
        let codec = Codec::from_byte(bytes[5]).map_err(|_| Damage::Kind(bytes[5]))?;
        if codec.is_delta() != (kind == Kind::Delta) {
            return Err(Damage::Kind(bytes[5]));
        }
        let mut id = ChunkId([0; 32]);
        id.0.copy_from_slice(&bytes[20..52]);
        let header = Self {
            kind,
            codec,
            payload_len: word(bytes, 8),
            raw_len: word(bytes, 12),
            synced_to: word(bytes, 16),
            id,
            payload_crc: word(bytes, 52),
        };
        let good = match kind {
            Kind::Chunk | Kind::Delta => {
                let lens = 1..=CHUNK_BYTES_MAX;
                lens.contains(&header.payload_len) && lens.contains(&header.raw_len)
            }
            Kind::Block => {
                (1..=BLOCK_PAYLOAD_MAX).contains(&header.payload_len)
                    && (1..=BLOCK_PLAIN_BYTES_MAX).contains(&header.raw_len)
            }
            Kind::Footer => u64::from(header.raw_len) * FOOTER_ENTRY_BYTES as u64 == u64::from(header.payload_len),
        };
        if good { Ok(header) } else { Err(Damage::Length) }
    }

    /// Bytes of the whole record.
    pub(super) const fn record_len(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + self.payload_len as u64
    }
}

/// A chunk as the footer lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FooterEntry {
    pub(super) id: ChunkId,
    /// Of the first byte of the record that holds it.
    pub(super) offset: u32,
    /// Of that record.
    pub(super) payload_len: u32,
    /// Of the chunk.
    pub(super) raw_len: u32,
    pub(super) codec: Codec,
    /// Its number in a block; `None` for a record of its own.
    pub(super) member: Option<u8>,
    /// Links of the chain that ends with this delta; 0 for a chunk that stands alone.
    pub(super) depth: u8,
    /// What a delta is the difference from; empty for a chunk that stands alone.
    pub(super) bases: Vec<ChunkId>,
}

impl FooterEntry {
    /// End of the record.
    pub(super) const fn end(&self) -> u64 {
        self.offset as u64 + RECORD_HEADER_BYTES as u64 + self.payload_len as u64
    }

    /// Whether it is the first of its record, which is counted with it.
    pub(super) const fn is_first(&self) -> bool {
        matches!(self.member, None | Some(0))
    }

    /// A delta of which no base was named.
    const fn lacks_base(&self) -> bool {
        self.depth > 0 && self.bases.is_empty()
    }

    /// Whether it is the chunk behind `before` in the same block.
    fn goes_on(&self, before: &Self) -> bool {
        self.offset == before.offset
            && self.payload_len == before.payload_len
            && self.codec == before.codec
            && self.member.is_some()
            && self.member == before.member.and_then(|number| number.checked_add(1))
    }
}

pub(super) fn encode_footer(entries: &[FooterEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * FOOTER_ENTRY_BYTES);
    for entry in entries {
        out.extend_from_slice(entry.id.as_bytes());
        out.extend_from_slice(&entry.offset.to_le_bytes());
        out.extend_from_slice(&entry.payload_len.to_le_bytes());
        out.extend_from_slice(&entry.raw_len.to_le_bytes());
        let (kind, number) = match entry.member {
            Some(number) => (Kind::Block, number),
            None if entry.depth > 0 => (Kind::Delta, entry.depth),
            None => (Kind::Chunk, 0),
        };
        out.extend_from_slice(&[kind.to_byte(), entry.codec.to_byte(), number, 0]);
        for base in &entry.bases {
            out.extend_from_slice(base.as_bytes());
            out.extend_from_slice(&[0; 12]);
            out.extend_from_slice(&[BASE_KIND, 0, 0, 0]);
        }
    }
    out
}

/// Entries of the footer for so many chunks.
pub(super) fn footer_len(entries: &[FooterEntry]) -> usize {
    entries.iter().map(|entry| 1 + entry.bases.len()).sum()
}

/// In the place of a kind: the entry names a chunk of the base of the delta before it.
const BASE_KIND: u8 = 4;

/// Reads a footer's payload, whose checksum held: records must lie in order, apart, and before the footer, the chunks of a
/// block in their order, and the bases of a delta behind it.
pub(super) fn decode_footer(payload: &[u8], footer_offset: u32) -> Result<Vec<FooterEntry>, Damage> {
    if !payload.len().is_multiple_of(FOOTER_ENTRY_BYTES) {
        return Err(Damage::Length);
    }
    let mut end = PACK_HEADER_BYTES as u64;
    let mut entries: Vec<FooterEntry> = Vec::with_capacity(payload.len() / FOOTER_ENTRY_BYTES);
    for bytes in payload.chunks_exact(FOOTER_ENTRY_BYTES) {
        let mut id = ChunkId([0; 32]);
        id.0.copy_from_slice(&bytes[..32]);
        if bytes[44] == BASE_KIND {
            let delta = entries.last_mut().filter(|entry| entry.depth > 0 && entry.bases.len() < BASES_MAX);
            delta.ok_or(Damage::Length)?.bases.push(id);
            continue;
        }
        if entries.last().is_some_and(FooterEntry::lacks_base) {
            return Err(Damage::Length);
        }
        let codec = Codec::from_byte(bytes[45]).map_err(|_| Damage::Kind(bytes[45]))?;
        let (member, depth) = match bytes[44] {
            1 => (None, 0),
            2 => (Some(bytes[46]), 0),
            3 if (1..=DEPTH_MAX).contains(&bytes[46]) => (None, bytes[46]),
            other => return Err(Damage::Kind(other)),
        };
        let (offset, payload_len, raw_len) = (word(bytes, 32), word(bytes, 36), word(bytes, 40));
        let entry = FooterEntry { id, offset, payload_len, raw_len, codec, member, depth, bases: Vec::new() };
        let placed = if entry.is_first() {
            u64::from(entry.offset) >= end && entry.end() <= u64::from(footer_offset)
        } else {
            entries.last().is_some_and(|before| entry.goes_on(before))
        };
        let payload_max = if entry.member.is_some() { BLOCK_PAYLOAD_MAX } else { CHUNK_BYTES_MAX };
        let lens = (1..=payload_max).contains(&entry.payload_len) && (1..=CHUNK_BYTES_MAX).contains(&entry.raw_len);
        if !placed || !lens || codec.is_delta() != (depth > 0) {
            return Err(Damage::Length);
        }
        end = entry.end();
        entries.push(entry);
    }
    if entries.last().is_some_and(FooterEntry::lacks_base) { Err(Damage::Length) } else { Ok(entries) }
}

/// The last bytes of a sealed pack: where its footer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) pack: u32,
    pub(super) footer_offset: u32,
    pub(super) entries: u32,
    pub(super) salt: u64,
}

impl Trailer {
    pub(super) fn encode(self) -> [u8; TRAILER_BYTES] {
        let mut out = [0; TRAILER_BYTES];
        out[..8].copy_from_slice(&TRAILER_MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.pack.to_le_bytes());
        out[16..20].copy_from_slice(&self.footer_offset.to_le_bytes());
        out[20..24].copy_from_slice(&self.entries.to_le_bytes());
        out[24..32].copy_from_slice(&self.salt.to_le_bytes());
        let sum = crc32c::crc32c(&out[..36]);
        out[36..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8; TRAILER_BYTES]) -> Option<Self> {
        let good = bytes[..8] == TRAILER_MAGIC
            && crc32c::crc32c(&bytes[..36]) == word(bytes, 36)
            && VERSIONS.contains(&u16::from_le_bytes([bytes[8], bytes[9]]));
        good.then(|| Self {
            pack: word(bytes, 12),
            footer_offset: word(bytes, 16),
            entries: word(bytes, 20),
            salt: long(bytes, 24),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = RecordHeader> {
        (any::<[u8; 32]>(), 1..=CHUNK_BYTES_MAX, 1..=CHUNK_BYTES_MAX, any::<u32>(), any::<u32>(), 0..4_u8).prop_map(
            |(id, payload_len, raw_len, synced_to, payload_crc, codec)| RecordHeader {
                kind: if codec < 2 { Kind::Chunk } else { Kind::Delta },
                codec: Codec::from_byte(codec).unwrap(),
                payload_len,
                raw_len,
                synced_to,
                id: ChunkId(id),
                payload_crc,
            },
        )
    }

    proptest! {
        #[test]
        fn records_survive_and_any_flipped_bit_shows(header in header(), salt in any::<u64>(), at in 0..RECORD_HEADER_BYTES, bit in 0_u32..8) {
            let mut bytes = header.encode(salt);
            prop_assert_eq!(RecordHeader::decode(&bytes, salt).unwrap(), header);
            prop_assert!(RecordHeader::decode(&bytes, salt ^ 1).is_err(), "another pack's record");
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(RecordHeader::decode(&bytes, salt).is_err());
        }

        #[test]
        fn pack_headers_and_trailers_survive(pack in any::<u32>(), salt in any::<u64>(), footer_offset in any::<u32>(), entries in any::<u32>(), at in 0..TRAILER_BYTES, bit in 0_u32..8) {
            let header = PackHeader { pack, salt, version: VERSION };
            let mut bytes = header.encode();
            prop_assert_eq!(PackHeader::decode(&bytes).unwrap(), header);
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(PackHeader::decode(&bytes).is_err());
            let trailer = Trailer { pack, footer_offset, entries, salt };
            let mut bytes = trailer.encode();
            prop_assert_eq!(Trailer::decode(&bytes), Some(trailer));
            bytes[at] ^= 1_u8 << bit;
            prop_assert_eq!(Trailer::decode(&bytes), None);
        }

        #[test]
        fn footers_survive_and_noise_is_survived(headers in prop::collection::vec(header(), 0..20), noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut offset = PACK_HEADER_BYTES as u32;
            let mut entries = Vec::new();
            for header in headers {
                let depth = if header.codec.is_delta() { 1 + header.id.0[0] % DEPTH_MAX } else { 0 };
                let bases = if depth > 0 { vec![ChunkId([7; 32]); 1 + usize::from(header.id.0[1]) % BASES_MAX] } else { Vec::new() };
                entries.push(FooterEntry { id: header.id, offset, payload_len: header.payload_len, raw_len: header.raw_len, codec: header.codec, member: None, depth, bases });
                offset += header.record_len() as u32;
            }
            let payload = encode_footer(&entries);
            prop_assert_eq!(decode_footer(&payload, offset).unwrap(), entries.clone());
            if !entries.is_empty() {
                prop_assert!(decode_footer(&payload, offset - 1).is_err());
                let lacks = FooterEntry { depth: 1, codec: Codec::Planes, bases: Vec::new(), ..entries[0].clone() };
                prop_assert!(decode_footer(&encode_footer(&[lacks]), offset).is_err(), "a delta without a base");
                let many = FooterEntry { depth: 1, codec: Codec::Planes, bases: vec![ChunkId([1; 32]); BASES_MAX + 1], ..entries[0].clone() };
                prop_assert!(decode_footer(&encode_footer(&[many]), offset).is_err(), "too many");
            }
            if !noise.is_empty() {
                prop_assert!(decode_footer(&noise, u32::MAX).is_err());
            }
        }
    }
}
