//! Header, footer and numbers of a segment.

use serde::{Deserialize, Serialize};

/// Bytes before the first block.
pub(crate) const HEADER_LEN: usize = 16;
/// Bytes after the index.
pub(crate) const FOOTER_LEN: usize = 96;

const HEADER_MAGIC: [u8; 4] = *b"CWRN";
const FOOTER_MAGIC: [u8; 4] = *b"CWRF";
const VERSION: u16 = 1;

/// What the records of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunKind {
    /// Metadata records of a volume, or their absence.
    Image,
    /// Chunk ids and where they lie.
    ChunkIndex,
}

impl RunKind {
    const fn code(self) -> u16 {
        match self {
            Self::Image => 1,
            Self::ChunkIndex => 2,
        }
    }
}

/// Why bytes are no segment, or not that one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Fewer bytes than any segment has.
    #[error("{0} bytes are no segment")]
    Short(u64),
    /// Another format.
    #[error("{part} magic {found:02x?}")]
    Magic {
        /// `header` or `footer`.
        part: &'static str,
        /// Read.
        found: [u8; 4],
    },
    /// A version that this program does not know.
    #[error("version {0}")]
    Version(u16),
    /// A run of another kind.
    #[error("kind {0}")]
    Kind(u16),
    /// A CRC-32C does not hold.
    #[error("checksum of {part} at {offset}")]
    Checksum {
        /// `header`, `footer` or `block`.
        part: &'static str,
        /// Where it starts.
        offset: u64,
    },
    /// The BLAKE3 of the segment does not hold.
    #[error("BLAKE3 of the segment")]
    Hash,
    /// The parts contradict each other; the checksums hold, so a faulty or hostile program wrote it.
    #[error("{0}")]
    Inconsistent(&'static str),
}

/// The footer's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) kind: RunKind,
    pub(crate) records: u64,
    /// Sum of the lengths of keys and values.
    pub(crate) raw_bytes: u64,
    pub(crate) index_offset: u64,
    pub(crate) index_len: u32,
    pub(crate) blocks: u32,
    pub(crate) blake3: [u8; 32],
}

pub(crate) fn header(kind: RunKind) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[..4].copy_from_slice(&HEADER_MAGIC);
    out[4..6].copy_from_slice(&VERSION.to_le_bytes());
    out[6..8].copy_from_slice(&kind.code().to_le_bytes());
    let crc = crc32c::crc32c(&out[..12]);
    out[12..].copy_from_slice(&crc.to_le_bytes());
    out
}

pub(crate) fn check_header(bytes: &[u8], kind: RunKind) -> Result<(), FormatError> {
    let header = bytes.get(..HEADER_LEN).ok_or(FormatError::Short(bytes.len() as u64))?;
    identify("header", header, HEADER_MAGIC, kind)?;
    if u32_at(header, 12) != crc32c::crc32c(&header[..12]) {
        return Err(FormatError::Checksum { part: "header", offset: 0 });
    }
    Ok(())
}

impl Footer {
    pub(crate) fn encode(&self) -> [u8; FOOTER_LEN] {
        let mut out = [0; FOOTER_LEN];
        out[..4].copy_from_slice(&FOOTER_MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&self.kind.code().to_le_bytes());
        out[8..16].copy_from_slice(&self.records.to_le_bytes());
        out[16..24].copy_from_slice(&self.raw_bytes.to_le_bytes());
        out[24..32].copy_from_slice(&self.index_offset.to_le_bytes());
        out[32..36].copy_from_slice(&self.index_len.to_le_bytes());
        out[36..40].copy_from_slice(&self.blocks.to_le_bytes());
        out[40..72].copy_from_slice(&self.blake3);
        let crc = crc32c::crc32c(&out[..92]);
        out[92..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decodes the last [`FOOTER_LEN`] bytes of a segment of `segment_bytes`, and checks that its parts lie within it.
    pub(crate) fn decode(bytes: &[u8], segment_bytes: u64, kind: RunKind) -> Result<Self, FormatError> {
        if bytes.len() != FOOTER_LEN || segment_bytes < (HEADER_LEN + FOOTER_LEN) as u64 {
            return Err(FormatError::Short(segment_bytes));
        }
        identify("footer", bytes, FOOTER_MAGIC, kind)?;
        let offset = segment_bytes - FOOTER_LEN as u64;
        if u32_at(bytes, 92) != crc32c::crc32c(&bytes[..92]) {
            return Err(FormatError::Checksum { part: "footer", offset });
        }
        let mut blake3 = [0; 32];
        blake3.copy_from_slice(&bytes[40..72]);
        let footer = Self {
            kind,
            records: u64_at(bytes, 8),
            raw_bytes: u64_at(bytes, 16),
            index_offset: u64_at(bytes, 24),
            index_len: u32_at(bytes, 32),
            blocks: u32_at(bytes, 36),
            blake3,
        };
        let index_end = footer.index_offset.checked_add(u64::from(footer.index_len));
        if footer.index_offset < HEADER_LEN as u64 || index_end != Some(offset) {
            return Err(FormatError::Inconsistent("the index does not end where the footer begins"));
        }
        Ok(footer)
    }
}

fn identify(part: &'static str, bytes: &[u8], magic: [u8; 4], kind: RunKind) -> Result<(), FormatError> {
    let found = [bytes[0], bytes[1], bytes[2], bytes[3]];
    if found != magic {
        return Err(FormatError::Magic { part, found });
    }
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    let code = u16::from_le_bytes([bytes[6], bytes[7]]);
    if code != kind.code() {
        return Err(FormatError::Kind(code));
    }
    Ok(())
}

/// The little-endian number at `at`; the caller has checked the length.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The little-endian number at `at`; the caller has checked the length.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Appends `value` as LEB128.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[allow(clippy::cast_possible_truncation)] // the low seven bits
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    #[allow(clippy::cast_possible_truncation)] // below 0x80
    out.push(value as u8);
}

/// Reads a LEB128 number of at most 32 bits at `*at` and moves past it.
pub(crate) fn take_varint(bytes: &[u8], at: &mut usize) -> Option<u32> {
    let mut value = 0_u32;
    for shift in [0, 7, 14, 21, 28] {
        let byte = *bytes.get(*at)?;
        *at += 1;
        let low = u32::from(byte & 0x7f);
        value |= low.checked_shl(shift).filter(|v| v >> shift == low)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
