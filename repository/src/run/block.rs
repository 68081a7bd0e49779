//! A block: some records, compressed together, with a checksum.
//!
//! ```text
//! 0       1          4         8        12
//! | codec | reserved | raw len | crc32c | payload ... |
//! ```
//! The CRC-32C covers the eight bytes before it and the payload. Plain form: for each record the key's length and the
//! value's as LEB128, then key and value. Keys rise strictly.

use bytes::Bytes;

use super::format::{FormatError, put_varint, take_varint, u32_at};

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 8192;
/// Longest value in bytes.
pub const VALUE_BYTES_MAX: usize = 8 << 20;

/// A block is closed when its plain form is this long: a point read costs one such block, compression suffers below.
pub(crate) const BLOCK_RAW_BYTES: usize = 64 << 10;
/// Longest plain form that is read: a closed block and one largest record.
const BLOCK_RAW_BYTES_MAX: usize = BLOCK_RAW_BYTES + KEY_BYTES_MAX + VALUE_BYTES_MAX + 16;
/// Longest stored block: zstd never grows one by more than this, since the raw form is taken then.
pub(crate) const BLOCK_STORED_BYTES_MAX: usize = BLOCK_HEADER_LEN + BLOCK_RAW_BYTES_MAX;

pub(crate) const BLOCK_HEADER_LEN: usize = 12;
const RAW: u8 = 0;
const ZSTD: u8 = 1;
/// 1 is a third faster and 6 a few percent smaller; metadata is written once and read over a WAN.
const ZSTD_LEVEL: i32 = 3;

/// Decoded records, in key order.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) records: Vec<(Bytes, Bytes)>,
    /// Memory held, about.
    pub(crate) memory: usize,
}

impl Block {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        let at = self.records.binary_search_by(|(k, _)| k[..].cmp(key)).ok()?;
        Some(&self.records[at].1)
    }
}

/// Appends a record to a plain block.
pub(crate) fn push(plain: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    put_varint(plain, key.len() as u64);
    put_varint(plain, value.len() as u64);
    plain.extend_from_slice(key);
    plain.extend_from_slice(value);
}

/// Appends the stored form of a plain block.
pub(crate) fn seal(plain: &[u8], out: &mut Vec<u8>) {
    let packed = zstd::bulk::compress(plain, ZSTD_LEVEL).ok().filter(|packed| packed.len() < plain.len());
    let (codec, payload) = packed.as_deref().map_or((RAW, plain), |packed| (ZSTD, packed));
    let start = out.len();
    out.extend_from_slice(&[codec, 0, 0, 0]);
    // A plain block is at most BLOCK_RAW_BYTES_MAX, far below 4 GiB.
    out.extend_from_slice(&u32::try_from(plain.len()).unwrap_or(u32::MAX).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out[start..]), payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
}

/// Checks and decodes a stored block that lies at `offset` of its segment. Memory is bounded by the block's stated plain
/// length, which is bounded itself.
pub(crate) fn open(stored: &[u8], offset: u64) -> Result<Block, FormatError> {
    let damaged = || FormatError::Checksum { part: "block", offset };
    let (header, payload) = stored.split_at_checked(BLOCK_HEADER_LEN).ok_or_else(damaged)?;
    if u32_at(header, 8) != crc32c::crc32c_append(crc32c::crc32c(&header[..8]), payload) {
        return Err(damaged());
    }
    let raw_len = u32_at(header, 4) as usize;
    if raw_len > BLOCK_RAW_BYTES_MAX {
        return Err(FormatError::Inconsistent("a block is too large"));
    }
    let plain = match header[0] {
        RAW if payload.len() == raw_len => payload.to_vec(),
        ZSTD => zstd::bulk::decompress(payload, raw_len)
            .ok()
            .filter(|plain| plain.len() == raw_len)
            .ok_or(FormatError::Inconsistent("a block does not decompress to its length"))?,
        _ => return Err(FormatError::Inconsistent("a block's codec or length")),
    };
    parse(Bytes::from(plain))
}

fn parse(plain: Bytes) -> Result<Block, FormatError> {
    let mut records: Vec<(Bytes, Bytes)> = Vec::new();
    let mut at = 0;
    while at < plain.len() {
        let record =
            take_record(&plain, &mut at).ok_or(FormatError::Inconsistent("a record passes its block's end"))?;
        if records.last().is_some_and(|(last, _)| last >= &record.0) {
            return Err(FormatError::Inconsistent("keys do not rise"));
        }
        records.push(record);
    }
    if records.is_empty() {
        return Err(FormatError::Inconsistent("an empty block"));
    }
    let memory = plain.len() + records.capacity() * size_of::<(Bytes, Bytes)>();
    Ok(Block { records, memory })
}

fn take_record(plain: &Bytes, at: &mut usize) -> Option<(Bytes, Bytes)> {
    let key_len = take_varint(plain, at)? as usize;
    let value_len = take_varint(plain, at)? as usize;
    let key_end = at.checked_add(key_len)?;
    let end = key_end.checked_add(value_len)?;
    if end > plain.len() {
        return None;
    }
    let record = (plain.slice(*at..key_end), plain.slice(key_end..end));
    *at = end;
    Some(record)
}
