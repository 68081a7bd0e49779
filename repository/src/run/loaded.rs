//! A whole segment in memory, verified: for merging, restoring and checking.

use std::vec;

use bytes::Bytes;

use super::block;
use super::format::{FOOTER_LEN, Footer, FormatError, HEADER_LEN, RunKind, check_header, u32_at, u64_at};

/// Where a block lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) first: Bytes,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

/// Decodes and checks the index: blocks follow each other from the header to the index, first keys rise.
pub(crate) fn places(index: &[u8], footer: &Footer) -> Result<Vec<Place>, FormatError> {
    if footer.blocks == 0 && index.is_empty() && footer.index_offset == HEADER_LEN as u64 && footer.records == 0 {
        return Ok(Vec::new());
    }
    let decoded = block::open(index, footer.index_offset)?;
    let mut end = HEADER_LEN as u64;
    let mut places = Vec::with_capacity(decoded.records.len());
    for (first, value) in decoded.records {
        if value.len() != 12 {
            return Err(FormatError::Inconsistent("an index entry's length"));
        }
        let place = Place { first, offset: u64_at(&value, 0), len: u32_at(&value, 8) };
        if place.offset != end || place.len as usize > block::BLOCK_STORED_BYTES_MAX {
            return Err(FormatError::Inconsistent("a block is not where the last one ended"));
        }
        end += u64::from(place.len);
        places.push(place);
    }
    if end != footer.index_offset || places.len() != footer.blocks as usize {
        return Err(FormatError::Inconsistent("the blocks do not end where the index begins"));
    }
    Ok(places)
}

/// The bytes of a segment whose BLAKE3 held.
#[derive(Clone, Debug)]
pub struct Loaded {
    bytes: Bytes,
    places: Vec<Place>,
    footer: Footer,
}

impl Loaded {
    /// Checks everything but the blocks' records, which are checked as they are read.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn open(bytes: Bytes, kind: RunKind) -> Result<Self, FormatError> {
        let short = FormatError::Short(bytes.len() as u64);
        let body = bytes.len().checked_sub(FOOTER_LEN).filter(|len| *len >= HEADER_LEN).ok_or(short)?;
        let footer = Footer::decode(&bytes[body..], bytes.len() as u64, kind)?;
        check_header(&bytes, kind)?;
        if blake3::hash(&bytes[..body]).as_bytes() != &footer.blake3 {
            return Err(FormatError::Hash);
        }
        // Within `body`: the footer's decoder checked it.
        let index_offset = usize::try_from(footer.index_offset).unwrap_or(body);
        let places = places(&bytes[index_offset..body], &footer)?;
        Ok(Self { bytes, places, footer })
    }

    /// BLAKE3 of the object up to its footer.
    #[must_use]
    pub const fn blake3(&self) -> &[u8; 32] {
        &self.footer.blake3
    }

    /// Number of records.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.footer.records
    }

    /// Sum of the lengths of keys and values.
    #[must_use]
    pub const fn raw_bytes(&self) -> u64 {
        self.footer.raw_bytes
    }

    /// Its records in key order; the last item is an error if there are fewer or more than stated.
    #[must_use]
    pub fn iter(&self) -> LoadedRecords {
        LoadedRecords { loaded: self.clone(), next: 0, block: Vec::new().into_iter(), given: 0, failed: false }
    }
}

/// See [`Loaded::iter`].
#[derive(Debug)]
pub struct LoadedRecords {
    loaded: Loaded,
    next: usize,
    block: vec::IntoIter<(Bytes, Bytes)>,
    given: u64,
    failed: bool,
}

impl LoadedRecords {
    fn open_next(&mut self) -> Result<bool, FormatError> {
        let Some(place) = self.loaded.places.get(self.next) else {
            return if self.given == self.loaded.footer.records {
                Ok(false)
            } else {
                Err(FormatError::Inconsistent("the number of records"))
            };
        };
        // In memory, so an offset fits; within bounds, since `places` checked it.
        let at = usize::try_from(place.offset).unwrap_or(usize::MAX);
        let block = block::open(&self.loaded.bytes[at..at + place.len as usize], place.offset)?;
        check_place(&block, &self.loaded.places, self.next)?;
        self.next += 1;
        self.block = block.records.into_iter();
        Ok(true)
    }
}

/// A block holds what the index says: it begins with its first key and ends before the next block's.
pub(crate) fn check_place(block: &block::Block, places: &[Place], number: usize) -> Result<(), FormatError> {
    let first = block.records.first().map(|(key, _)| key);
    let last = block.records.last().map(|(key, _)| key);
    let next = places.get(number + 1).map(|place| &place.first);
    if first != places.get(number).map(|place| &place.first) || next.is_some_and(|next| last >= Some(next)) {
        return Err(FormatError::Inconsistent("a block is not the one that the index names"));
    }
    Ok(())
}

impl Iterator for LoadedRecords {
    type Item = Result<(Bytes, Bytes), FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.failed {
                return None;
            }
            if let Some(record) = self.block.next() {
                self.given += 1;
                return Some(Ok(record));
            }
            match self.open_next() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
