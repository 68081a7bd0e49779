//! Builds a segment in memory.

use bytes::Bytes;

use super::SegmentRef;
use super::block::{self, BLOCK_RAW_BYTES, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use super::format::{Footer, RunKind, header};

/// Why a record was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A key that is not above the one before.
    #[error("key {key} does not rise above {last}")]
    Order {
        /// In hexadecimal.
        key: String,
        /// In hexadecimal.
        last: String,
    },
    /// A key over [`KEY_BYTES_MAX`] or a value over [`VALUE_BYTES_MAX`].
    #[error("a record with a key of {key_bytes} and a value of {value_bytes} bytes is too large")]
    TooLarge {
        /// Of the key.
        key_bytes: usize,
        /// Of the value.
        value_bytes: usize,
    },
}

/// Takes records in strictly rising key order and gives the bytes of a segment.
#[derive(Debug)]
pub struct SegmentBuilder {
    kind: RunKind,
    out: Vec<u8>,
    plain: Vec<u8>,
    block_first: Vec<u8>,
    first: Vec<u8>,
    last: Vec<u8>,
    index: Vec<u8>,
    blocks: u32,
    records: u64,
    raw_bytes: u64,
}

/// A finished segment: its object's bytes, and what is to be remembered of it.
#[derive(Debug, Clone)]
pub struct Built {
    /// The object.
    pub bytes: Bytes,
    /// How to find and check it.
    pub segment: SegmentRef,
}

impl SegmentBuilder {
    /// An empty one.
    #[must_use]
    pub fn new(kind: RunKind) -> Self {
        Self {
            kind,
            out: header(kind).to_vec(),
            plain: Vec::with_capacity(BLOCK_RAW_BYTES + 4096),
            block_first: Vec::new(),
            first: Vec::new(),
            last: Vec::new(),
            index: Vec::new(),
            blocks: 0,
            records: 0,
            raw_bytes: 0,
        }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`RunError`]; the record was not added.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), RunError> {
        if key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            return Err(RunError::TooLarge { key_bytes: key.len(), value_bytes: value.len() });
        }
        if self.records > 0 && key <= &self.last[..] {
            return Err(RunError::Order { key: hex::encode(key), last: hex::encode(&self.last) });
        }
        if self.records == 0 {
            self.first = key.to_vec();
        }
        if self.plain.is_empty() {
            self.block_first = key.to_vec();
        }
        block::push(&mut self.plain, key, value);
        self.last.clear();
        self.last.extend_from_slice(key);
        self.records += 1;
        self.raw_bytes += (key.len() + value.len()) as u64;
        if self.plain.len() >= BLOCK_RAW_BYTES {
            self.close_block();
        }
        Ok(())
    }

    /// Whether nothing was added.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes of the object so far: when it is past what a segment should be, [`SegmentBuilder::finish`] it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// The object, to be stored under the random `name`.
    #[must_use]
    pub fn finish(mut self, name: u128) -> Built {
        if !self.plain.is_empty() {
            self.close_block();
        }
        let index_offset = self.out.len() as u64;
        if !self.index.is_empty() {
            block::seal(&self.index, &mut self.out);
        }
        let footer = Footer {
            kind: self.kind,
            records: self.records,
            raw_bytes: self.raw_bytes,
            index_offset,
            index_len: u32::try_from(self.out.len() as u64 - index_offset).unwrap_or(u32::MAX),
            blocks: self.blocks,
            blake3: *blake3::hash(&self.out).as_bytes(),
        };
        self.out.extend_from_slice(&footer.encode());
        let segment = SegmentRef {
            name,
            first: self.first.into(),
            last: self.last.into(),
            records: self.records,
            bytes: self.out.len() as u64,
            blake3: footer.blake3,
        };
        Built { bytes: self.out.into(), segment }
    }

    fn close_block(&mut self) {
        let offset = self.out.len() as u64;
        block::seal(&self.plain, &mut self.out);
        let mut place = [0; 12];
        place[..8].copy_from_slice(&offset.to_le_bytes());
        let len = u32::try_from(self.out.len() as u64 - offset).unwrap_or(u32::MAX);
        place[8..].copy_from_slice(&len.to_le_bytes());
        block::push(&mut self.index, &self.block_first, &place);
        self.blocks += 1;
        self.plain.clear();
    }
}
