//! Which chunks were read again lately, in bounded memory: they are worth keeping where only copies are kept.

use causeway_base::ChunkId;

use super::gc::Reached;

/// Chunks that a generation remembers at least.
const CHUNKS_MIN: u64 = 1 << 14;
/// A generation remembers as many chunks as this part of the store's.
const PART: u64 = 4;

/// Chunks that were read more than once. One pass over many files, however large, makes nothing of it *hot*: the first read of a
/// chunk is only noted, the second counts (the "doorkeeper" of TinyLFU, Einziger et al., 2017). Two generations of Bloom
/// filters, so that what is not read any more is forgotten. Taken for hot, some chunks stay a while longer than they should.
#[derive(Debug)]
pub(super) struct Recent {
    /// Read once since the generation began.
    seen: Reached,
    /// Read again, in this generation and in the one before.
    hot: [Reached; 2],
    chunks: u64,
    seed: u64,
}

impl Recent {
    /// For a store of so many chunks. Memory: 1.1 bytes for each of them, 192 KiB at least.
    pub(super) fn new(chunks: u64, seed: u64) -> Self {
        let chunks = (chunks / PART).max(CHUNKS_MIN);
        let filter = |number: u64| Reached::new(chunks, seed.wrapping_add(number));
        Self { seen: filter(0), hot: [filter(1), filter(2)], chunks, seed }
    }

    /// A chunk was read.
    pub(super) fn touch(&mut self, id: &ChunkId) {
        if self.seen.add(id) {
            if self.seen.len() >= self.chunks {
                let chunks = self.chunks;
                self.seed = self.seed.wrapping_add(3);
                let new = |number: u64| Reached::new(chunks, self.seed.wrapping_add(number));
                self.seen = new(0);
                self.hot.swap(0, 1);
                self.hot[0] = new(1);
            }
        } else {
            self.hot[0].add(id);
        }
    }

    /// Whether it was read again lately.
    pub(super) fn is_hot(&self, id: &ChunkId) -> bool {
        self.hot.iter().any(|generation| generation.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn a_scan_makes_nothing_hot_and_what_is_read_no_more_is_forgotten() {
        let mut recent = Recent::new(0, 7);
        for _ in 0..2 {
            (0..100).for_each(|number| recent.touch(&id(number)));
        }
        assert!((0..100).all(|number| recent.is_hot(&id(number))));
        let scanned = 1_000..1_000 + CHUNKS_MIN / 2;
        scanned.clone().for_each(|number| recent.touch(&id(number)));
        assert!((0..100).all(|number| recent.is_hot(&id(number))), "what is in use stays");
        let wrong = scanned.filter(|number| recent.is_hot(&id(*number))).count();
        assert!(wrong < CHUNKS_MIN as usize / 50, "{wrong}");
        // Two generations later.
        (100_000..100_000 + 3 * CHUNKS_MIN).for_each(|number| recent.touch(&id(number)));
        let left = (0..100).filter(|number| recent.is_hot(&id(*number))).count();
        assert!(left < 5, "{left}");
    }
}
