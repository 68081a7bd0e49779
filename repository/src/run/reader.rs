//! Reads parts of a segment by range requests.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::block::{self, Block};
use super::format::{FOOTER_LEN, Footer, FormatError, HEADER_LEN, RunKind};
use super::loaded::{Place, check_place, places};
use super::{BlockCache, SEGMENT_BYTES_MAX, SegmentRef};
use crate::error::Error;
use crate::store::Store;

/// Read at first from the end of a segment. A smaller segment comes whole, a larger one with its footer and, as a rule, its
/// index (some 25 KiB for 32 MiB).
const TAIL_BYTES: u64 = 128 << 10;
/// Read at a miss, from the block on: neighbours are likely next, and a request costs more than they do.
const READ_AHEAD_BYTES: u64 = 256 << 10;

/// A segment in the store. Footer and index are read once, at first use; blocks are kept in the shared cache.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    store: Store,
    path: String,
    segment: SegmentRef,
    kind: RunKind,
    cache: Arc<BlockCache>,
    opened: OnceCell<Opened>,
    check_hash: bool,
}

#[derive(Debug)]
struct Opened {
    places: Vec<Place>,
    tail: Bytes,
    tail_offset: u64,
}

impl SegmentReader {
    pub(crate) fn new(store: Store, path: String, segment: SegmentRef, kind: RunKind, cache: Arc<BlockCache>) -> Self {
        Self { store, path, segment, kind, cache, opened: OnceCell::new(), check_hash: true }
    }

    /// For a segment whose BLAKE3 is not known beforehand.
    pub(crate) fn without_hash(self) -> Self {
        Self { check_hash: false, ..self }
    }

    pub(crate) const fn segment(&self) -> &SegmentRef {
        &self.segment
    }

    /// The value of a key.
    pub(crate) async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        if key < &self.segment.first[..] || key > &self.segment.last[..] {
            return Ok(None);
        }
        let opened = self.open().await?;
        let Some(number) = opened.places.partition_point(|place| &place.first[..] <= key).checked_sub(1) else {
            return Ok(None);
        };
        Ok(self.block(opened, number).await?.get(key).cloned())
    }

    /// Records with `from <= key < to` of one block: the first that has any. Empty only if the segment has no more.
    pub(crate) async fn page(&self, from: &[u8], to: &[u8]) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if !self.segment.overlaps(from, to) {
            return Ok(Vec::new());
        }
        let opened = self.open().await?;
        let start = opened.places.partition_point(|place| &place.first[..] <= from).saturating_sub(1);
        for number in start..opened.places.len() {
            if &opened.places[number].first[..] >= to {
                break;
            }
            let block = self.block(opened, number).await?;
            let low = block.records.partition_point(|(key, _)| &key[..] < from);
            let high = block.records.partition_point(|(key, _)| &key[..] < to);
            if low < high {
                return Ok(block.records[low..high].to_vec());
            }
        }
        Ok(Vec::new())
    }

    async fn open(&self) -> Result<&Opened, Error> {
        self.opened.get_or_try_init(|| self.read_index()).await
    }

    async fn read_index(&self) -> Result<Opened, Error> {
        let bytes = self.segment.bytes;
        if bytes < (HEADER_LEN + FOOTER_LEN) as u64 || bytes > SEGMENT_BYTES_MAX {
            return Err(self.damaged(&FormatError::Short(bytes)));
        }
        let tail_offset = bytes.saturating_sub(TAIL_BYTES);
        let tail = self.read(tail_offset..bytes).await?;
        let footer_at = tail.len() - FOOTER_LEN;
        let footer = Footer::decode(&tail[footer_at..], bytes, self.kind).map_err(|error| self.damaged(&error))?;
        if self.check_hash && footer.blake3 != self.segment.blake3 {
            return Err(self.damaged(&FormatError::Hash));
        }
        let index_end = bytes - FOOTER_LEN as u64;
        let index = match footer.index_offset.checked_sub(tail_offset) {
            // Within the tail, so it fits.
            Some(at) => tail.slice(usize::try_from(at).unwrap_or(footer_at)..footer_at),
            None => self.read(footer.index_offset..index_end).await?,
        };
        let places = places(&index, &footer).map_err(|error| self.damaged(&error))?;
        Ok(Opened { places, tail, tail_offset })
    }

    /// A block and, if it has to be fetched, those behind it that come with the same request.
    async fn block(&self, opened: &Opened, number: usize) -> Result<Arc<Block>, Error> {
        if let Some(block) = self.cache.get(self.segment.name, index_of(number)) {
            return Ok(block);
        }
        let place = &opened.places[number];
        if place.offset >= opened.tail_offset {
            let at = usize::try_from(place.offset - opened.tail_offset).unwrap_or(usize::MAX);
            let stored = opened.tail.slice(at..at + place.len as usize);
            return self.decode(opened, number, &stored);
        }
        let mut end = number;
        while let Some(next) = opened.places.get(end + 1) {
            let wanted = next.offset + u64::from(next.len) - place.offset <= READ_AHEAD_BYTES;
            if !wanted || self.cache.get(self.segment.name, index_of(end + 1)).is_some() {
                break;
            }
            end += 1;
        }
        let last = &opened.places[end];
        let fetched = self.read(place.offset..last.offset + u64::from(last.len)).await?;
        let mut wanted = None;
        // Backwards, so that the wanted block is the youngest in the cache.
        for other in (number..=end).rev() {
            let at = usize::try_from(opened.places[other].offset - place.offset).unwrap_or(usize::MAX);
            let stored = fetched.slice(at..at + opened.places[other].len as usize);
            wanted = Some(self.decode(opened, other, &stored)?);
        }
        wanted.ok_or_else(|| self.damaged(&FormatError::Inconsistent("no such block")))
    }

    fn decode(&self, opened: &Opened, number: usize, stored: &[u8]) -> Result<Arc<Block>, Error> {
        let block = block::open(stored, opened.places[number].offset)
            .and_then(|block| check_place(&block, &opened.places, number).map(|()| block))
            .map_err(|error| self.damaged(&error))?;
        let block = Arc::new(block);
        self.cache.insert(self.segment.name, index_of(number), Arc::clone(&block));
        Ok(block)
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, Error> {
        let got = self.store.get_range(&self.path, range).await?;
        got.ok_or_else(|| Error::Missing { path: self.path.clone() })
    }

    fn damaged(&self, error: &FormatError) -> Error {
        Error::Corrupt { path: self.path.clone(), reason: error.to_string() }
    }
}

/// A segment of [`SEGMENT_BYTES_MAX`] has far fewer blocks than `u32::MAX`.
fn index_of(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
