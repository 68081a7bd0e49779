//! The bits of a blocked Bloom filter.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Probe;

const WORDS: usize = 8;
const BLOCK_BITS: usize = 64 * WORDS;
/// Bits set for a key: seven times nine bits say which.
const BITS: u32 = 7;

/// A cache line.
#[repr(align(64))]
#[derive(Default)]
struct Block([AtomicU64; WORDS]);

/// The bits of one shard; all bits of a key are in one block (Putze, Sanders, Singler 2007). Without a block it has no key.
#[derive(Default)]
pub(super) struct Bits {
    blocks: Box<[Block]>,
    capacity: u32,
}

impl Bits {
    pub(super) fn new(capacity: usize, bits_per_key: usize) -> Self {
        let blocks = (capacity * bits_per_key).div_ceil(BLOCK_BITS);
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
        Self { blocks: (0..blocks).map(|_| Block::default()).collect(), capacity }
    }

    /// Whether it has no room at all.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Keys that it is meant for.
    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(super) fn bytes(&self) -> u64 {
        size_of_val(&*self.blocks) as u64
    }

    /// False: it was never set.
    pub(super) fn has(&self, probe: Probe) -> bool {
        // Whoever must see a bit has synchronized with who set it: by the lock of the shard, or of the store's pending chunks.
        let Some(Block(words)) = self.block(probe) else { return false };
        places(probe.bits).all(|(word, mask)| words[word].load(Ordering::Relaxed) & mask != 0)
    }

    /// True if a bit was new.
    pub(super) fn set(&self, probe: Probe) -> bool {
        let Some(Block(words)) = self.block(probe) else { return false };
        places(probe.bits)
            .fold(false, |new, (word, mask)| new | (words[word].fetch_or(mask, Ordering::Relaxed) & mask == 0))
    }

    fn block(&self, probe: Probe) -> Option<&Block> {
        let at = (u128::from(probe.block) * self.blocks.len() as u128) >> 64;
        self.blocks.get(at as usize)
    }
}

/// Word and bit of each.
fn places(bits: u64) -> impl Iterator<Item = (usize, u64)> {
    (0..BITS).map(move |at| {
        let place = bits >> (9 * at);
        ((place >> 6) as usize % WORDS, 1 << (place % 64))
    })
}

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bits").field("capacity", &self.capacity).field("blocks", &self.blocks.len()).finish()
    }
}
