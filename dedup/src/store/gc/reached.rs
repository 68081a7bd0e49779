//! Which chunks a mark has reached, in bounded memory.

use std::sync::Arc;

use causeway_base::ChunkId;

use crate::filter::mix;

/// Bits a chunk. With [`PROBES`] probes about 1 chunk in 300 that was not reached counts as reached; another epoch has another
/// seed, so that it goes then.
const BITS_PER_CHUNK: u64 = 12;
const PROBES: u64 = 8;
/// The smallest filter, in bits (64 KiB): small stores are exact in practice.
const BITS_MIN: u64 = 1 << 19;
/// The largest one, in bits (512 MiB, good for 350 M chunks). Beyond, more garbage is kept for longer, nothing else.
const BITS_MAX: u64 = 1 << 32;

/// The set of chunks that a mark reached: a Bloom filter, 1.5 bytes a chunk. It may hold chunks that were not reached, never
/// lacks one that was. (Bloom, "Space/time trade-offs in hash coding with allowable errors", 1970; two hashes as of Kirsch
/// and Mitzenmacher, 2006.)
#[derive(Clone, Debug)]
pub struct Reached {
    /// Shared while a copy is written down; see [`Reached::add`].
    words: Arc<Vec<u64>>,
    seed: u64,
    added: u64,
}

impl Reached {
    /// An empty set that is good for about `chunks` chunks.
    #[must_use]
    pub fn new(chunks: u64, seed: u64) -> Self {
        let bits = chunks.saturating_mul(BITS_PER_CHUNK).clamp(BITS_MIN, BITS_MAX);
        let words = usize::try_from(bits / 64).unwrap_or(usize::MAX);
        Self { words: Arc::new(vec![0; words]), seed: mix(seed), added: 0 }
    }

    /// The words of the filter, its seed, and how many were added.
    pub(super) fn parts(&self) -> (&[u64], u64, u64) {
        (&self.words, self.seed, self.added)
    }

    /// A filter of such parts; `None` if no filter has so many words.
    pub(super) fn from_parts(words: Vec<u64>, seed: u64, added: u64) -> Option<Self> {
        let bits = (words.len() as u64).checked_mul(64)?;
        // The size is made of a number of chunks, and rounded down to words.
        (BITS_MIN..=BITS_MAX).contains(&bits).then_some(Self { words: Arc::new(words), seed, added })
    }

    /// Adds a chunk; whether it was surely not there before.
    pub fn add(&mut self, id: &ChunkId) -> bool {
        let mut new = false;
        // Copied first if a clone of this is still there.
        let words = Arc::make_mut(&mut self.words);
        for (word, bit) in probes(id, self.seed, words.len()) {
            new |= words[word] & bit == 0;
            words[word] |= bit;
        }
        self.added += u64::from(new);
        new
    }

    /// Whether the chunk was added, or is taken for one that was.
    #[must_use]
    pub fn contains(&self, id: &ChunkId) -> bool {
        probes(id, self.seed, self.words.len()).all(|(word, bit)| self.words[word] & bit != 0)
    }

    /// Distinct chunks that were added, about.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.added
    }

    /// Whether none was added.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.added == 0
    }
}

fn probes(id: &ChunkId, seed: u64, words: usize) -> impl Iterator<Item = (usize, u64)> + use<> {
    let word = |at: usize| id.0[at..at + 8].iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
    let (first, step) = (mix(word(0) ^ seed), mix(word(8) ^ seed) | 1);
    let bits = (words as u64) * 64;
    (0..PROBES).map(move |probe| {
        // A bit below `bits` by multiplication: the upper half of the product.
        let at = ((u128::from(first.wrapping_add(probe.wrapping_mul(step))) * u128::from(bits)) >> 64) as u64;
        ((at / 64) as usize, 1 << (at % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn nothing_reached_is_ever_lacking_and_little_else_is_there() {
        let chunks = 200_000;
        let mut wrong = Vec::new();
        for seed in 0..2 {
            let mut reached = Reached::new(chunks, seed);
            for number in 0..chunks {
                reached.add(&id(number));
            }
            assert!((0..chunks).all(|number| reached.contains(&id(number))));
            let others = (chunks..2 * chunks).filter(|number| reached.contains(&id(*number)));
            wrong.push(others.collect::<std::collections::BTreeSet<u64>>());
            assert!(reached.len() > chunks * 99 / 100 && reached.len() <= chunks, "{}", reached.len());
        }
        assert!(wrong[0].len() < 1_200, "{} of {chunks}", wrong[0].len());
        // Another seed keeps others.
        let both = wrong[0].intersection(&wrong[1]).count();
        assert!(both < 30, "{both} chunks would be kept twice");
    }

    #[test]
    fn too_small_a_filter_keeps_more_and_loses_nothing() {
        let mut reached = Reached::new(0, 7);
        let chunks = 500_000;
        for number in 0..chunks {
            reached.add(&id(number));
        }
        assert!((0..chunks).all(|number| reached.contains(&id(number))));
    }
}
