//! A file's bytes, sparse, by pages; sectors are what a disk writes whole.

use std::collections::BTreeMap;

pub(super) const PAGE: u64 = 4096;
/// What a power cut cannot tear.
pub(super) const SECTOR: u64 = 512;

/// Contents of a file. Holes read as zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Pages {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that the file takes up.
    pub(super) fn allocated(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// Bytes that a write there would add to what the file takes up.
    pub(super) fn allocation_of(&self, offset: u64, len: u64) -> u64 {
        pages_of(offset, len).filter(|page| !self.pages.contains_key(page)).count() as u64 * PAGE
    }

    /// Fills `buffer` with what is at `offset`, zeros beyond the end.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) {
        buffer.fill(0);
        for_parts(offset, buffer.len(), |page, within, range| {
            if let Some(bytes) = self.pages.get(&page) {
                let len = range.len();
                buffer[range].copy_from_slice(&bytes[within..within + len]);
            }
        });
    }

    /// Writes and grows.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.put(offset, bytes);
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    /// Writes without growing: what is beyond the end is kept for when the length follows.
    pub(super) fn put(&mut self, offset: u64, bytes: &[u8]) {
        for_parts(offset, bytes.len(), |page, within, range| {
            let target = self.pages.entry(page).or_insert_with(|| vec![0; PAGE as usize].into_boxed_slice());
            target[within..within + range.len()].copy_from_slice(&bytes[range]);
        });
    }

    /// Cuts or extends; what was cut reads as zeros if the file grows again.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.clear_from(len);
        }
        self.len = len;
    }

    /// Changes the length alone.
    pub(super) fn force_len(&mut self, len: u64) {
        self.len = len;
    }

    /// Zeros from `offset` on, and gives the pages back.
    pub(super) fn clear_from(&mut self, offset: u64) {
        self.pages.split_off(&offset.div_ceil(PAGE));
        if let Some(page) = self.pages.get_mut(&(offset / PAGE)) {
            page[(offset % PAGE) as usize..].fill(0);
        }
    }

    /// Makes one sector what it is in `other`.
    pub(super) fn copy_sector(&mut self, other: &Self, sector: u64) {
        let mut bytes = [0; SECTOR as usize];
        other.read(sector * SECTOR, &mut bytes);
        let present = self.pages.contains_key(&(sector * SECTOR / PAGE));
        if present || bytes.iter().any(|byte| *byte != 0) {
            self.put(sector * SECTOR, &bytes);
        }
    }

    /// The last sector that may hold something, plus one.
    pub(super) fn sectors(&self) -> u64 {
        let kept = self.pages.last_key_value().map_or(0, |(page, _)| (page + 1) * (PAGE / SECTOR));
        kept.max(self.len.div_ceil(SECTOR))
    }
}

fn pages_of(offset: u64, len: u64) -> std::ops::Range<u64> {
    if len == 0 { 0..0 } else { offset / PAGE..(offset + len).div_ceil(PAGE) }
}

/// Calls `part` with page, offset within it, and the range of the buffer, for each page that a buffer spans.
fn for_parts(offset: u64, len: usize, mut part: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let within = (at % PAGE) as usize;
        let size = (PAGE as usize - within).min(len - done);
        part(at / PAGE, within, done..done + size);
        done += size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_across_pages_and_holes_are_zero() {
        let mut pages = Pages::default();
        let bytes: Vec<u8> = (0..10_000).map(|i| (i % 251 + 1) as u8).collect();
        pages.write(5_000, &bytes);
        assert_eq!(pages.len(), 15_000);
        let mut read = vec![9; 16_000];
        pages.read(0, &mut read);
        assert!(read[..5_000].iter().all(|byte| *byte == 0));
        assert_eq!(read[5_000..15_000], bytes);
        pages.set_len(6_000);
        pages.set_len(7_000);
        pages.read(0, &mut read);
        assert_eq!(read[5_000..6_000], bytes[..1_000]);
        assert!(read[6_000..].iter().all(|byte| *byte == 0), "what was cut came back");
        assert_eq!(pages.allocated(), PAGE);
    }
}
