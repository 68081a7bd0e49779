//! Samples a chunk and takes its features.

use std::fmt;

use super::{SUPER_FEATURES, Sketch};
use crate::Realm;

/// Shorter chunks have no sketch: they give fewer than 16 samples on average, of which one edit changes too many, and a
/// delta saves little on them (at rest they are compressed together).
pub const SKETCHED_BYTES_MIN: usize = 2 << 10;
/// Bytes that are hashed at a sampled position. Longer ones notice an edit more often, shorter ones find text that merely
/// has the same words alike.
pub const SHINGLE_BYTES: usize = 16;

/// Sub-features, four to a super-feature.
const FEATURES: usize = 4 * SUPER_FEATURES;
/// With fewer distinct samples (long runs of one byte) there is no sketch either: such chunks compress to next to nothing.
const SAMPLES_MIN: usize = 4;

/// Positions that are looked at together; a block needs three bytes more.
const BLOCK: usize = 64;
/// Of the choice of positions: `low × K0 + high × K1 + K2` of the two words at a position, modulo 2^16, is below
/// [`SAMPLED_BELOW`]. Odd, so that each word alone reaches all values; zeros (`K2`) are not sampled.
const K0: u16 = 0x9E37;
const K1: u16 = 0x85EB;
const K2: u16 = 0x6A09;
const SAMPLED_BELOW: u16 = (65_536 / super::SAMPLED_ONE_IN) as u16;

/// Makes sketches of one realm's chunks. A few hundred bytes; make one and keep it.
#[derive(Clone)]
pub struct Sketcher {
    /// Of each sub-feature: `hash × .0 + .1`, modulo 2^64. The factors are odd.
    transforms: [(u64, u64); FEATURES],
    /// Hashes four sub-features to a super-feature.
    key: [u8; 32],
}

impl fmt::Debug for Sketcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sketcher(…)") // keyed by the realm's secret
    }
}

impl Sketcher {
    /// Sketches that only this realm's resemble.
    #[must_use]
    pub fn new(realm: &Realm) -> Self {
        let mut seeds = blake3::Hasher::new_derive_key("causeway sketch 1").update(&realm.key).finalize_xof();
        let mut word = || {
            let mut bytes = [0; 8];
            seeds.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        };
        let transforms = std::array::from_fn(|_| (word() | 1, word()));
        let mut key = [0; 32];
        seeds.fill(&mut key);
        Self { transforms, key }
    }

    /// The sketch of a chunk's plain bytes; `None` if they are fewer than [`SKETCHED_BYTES_MIN`] or hold hardly anything
    /// but repeats of a few bytes. Pinned by golden vectors: sketches are kept and may travel.
    #[must_use]
    pub fn sketch(&self, plain: &[u8]) -> Option<Sketch> {
        if plain.len() < SKETCHED_BYTES_MIN {
            return None;
        }
        let mut maxima = Maxima::new(&self.transforms);
        let positions = plain.len() - SHINGLE_BYTES + 1;
        let blocks = positions / BLOCK;
        for block in 0..blocks {
            let at = block * BLOCK;
            let mut found = plain[at..].first_chunk().map_or(0, sampled);
            while found != 0 {
                let bit = found.trailing_zeros() as usize;
                maxima.add(plain, at + 2 * (bit % (BLOCK / 2)) + bit / (BLOCK / 2));
                found &= found - 1;
            }
        }
        for at in blocks * BLOCK..positions {
            let word = |at: usize| u16::from_le_bytes([plain[at], plain[at + 1]]);
            if is_sampled(word(at), word(at + 2)) {
                maxima.add(plain, at);
            }
        }
        maxima.values().map(|values| self.super_features(&values))
    }

    fn super_features(&self, features: &[u64; FEATURES]) -> Sketch {
        let mut sketch = Sketch([0; SUPER_FEATURES]);
        for (place, (into, four)) in sketch.0.iter_mut().zip(features.chunks_exact(4)).enumerate() {
            let mut bytes = [0; 33];
            bytes[0] = place as u8;
            for (into, feature) in bytes[1..].chunks_exact_mut(8).zip(four) {
                into.copy_from_slice(&feature.to_le_bytes());
            }
            let hash = blake3::keyed_hash(&self.key, &bytes);
            let mut first = [0; 8];
            first.copy_from_slice(&hash.as_bytes()[..8]);
            *into = u64::from_le_bytes(first);
        }
        sketch
    }
}

/// Samples that are taken into the sub-features together.
const HASHES: usize = 64;

/// The sub-features so far.
struct Maxima<'a> {
    transforms: &'a [(u64, u64); FEATURES],
    values: [u64; FEATURES],
    /// Counted without direct repeats; the last `samples % HASHES` of them stand in `hashes`.
    samples: usize,
    hashes: [u64; HASHES],
    last: Option<u64>,
}

impl<'a> Maxima<'a> {
    const fn new(transforms: &'a [(u64, u64); FEATURES]) -> Self {
        Self { transforms, values: [0; FEATURES], samples: 0, hashes: [0; HASHES], last: None }
    }

    #[inline]
    fn add(&mut self, plain: &[u8], at: usize) {
        let Some(shingle) = plain[at..].first_chunk::<SHINGLE_BYTES>() else { return };
        let [a, b, c, d, e, f, g, h, rest @ ..] = *shingle;
        let (low, high) = (u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes(rest));
        let mut hash =
            (low ^ high.wrapping_mul(0x9FB2_1C65_1E98_DF25).rotate_left(29)).wrapping_mul(0xA24B_AED4_963E_E407);
        hash ^= hash >> 32;
        if self.last == Some(hash) {
            return; // a run of one byte is one sample
        }
        self.last = Some(hash);
        self.hashes[self.samples % HASHES] = hash;
        self.samples += 1;
        if self.samples.is_multiple_of(HASHES) {
            self.take(HASHES);
        }
    }

    /// Takes the first `count` of the hashes in: a feature at a time, so that a loop has nothing but its maximum to carry.
    #[inline(never)]
    fn take(&mut self, count: usize) {
        for (value, (factor, add)) in self.values.iter_mut().zip(self.transforms) {
            let hashes = self.hashes.iter().take(count);
            *value = hashes.fold(*value, |max, hash| max.max(hash.wrapping_mul(*factor).wrapping_add(*add)));
        }
    }

    /// The sub-features; `None` of too few samples.
    fn values(mut self) -> Option<[u64; FEATURES]> {
        self.take(self.samples % HASHES);
        (self.samples >= SAMPLES_MIN).then_some(self.values)
    }
}

const fn is_sampled(low: u16, high: u16) -> bool {
    low.wrapping_mul(K0).wrapping_add(high.wrapping_mul(K1)).wrapping_add(K2) < SAMPLED_BELOW
}

/// Which of a block's positions are sampled: bit `n` is position `2 n`, bit `32 + n` is `2 n + 1`.
///
/// The loop over the even positions, as that over the odd ones, has no branch and no dependence between its steps, so that
/// the compiler makes vector code of it. The flags, bytes of 0 or 1, are then laid over each other as bits of one word.
#[inline]
fn sampled(block: &[u8; BLOCK + 4]) -> u64 {
    let mut found = 0;
    for odd in 0..2 {
        let mut flags = [0_u8; BLOCK / 2];
        for (place, flag) in flags.iter_mut().enumerate() {
            let at = odd + 2 * place;
            let low = u16::from_le_bytes([block[at], block[at + 1]]);
            let high = u16::from_le_bytes([block[at + 2], block[at + 3]]);
            *flag = u8::from(is_sampled(low, high));
        }
        let (eights, _) = flags.as_chunks();
        for (group, flags) in eights.iter().enumerate() {
            found |= u64::from_le_bytes(*flags) << (4 * odd + group);
        }
    }
    // Bit `8 n + group`: into the order in which they are looked at. Most blocks have one or none.
    let mut mask = 0;
    while found != 0 {
        let bit = found.trailing_zeros();
        mask |= 1 << (8 * (bit % 8) + bit / 8);
        found &= found - 1;
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_each_position_that_is_sampled() {
        let (mut seen, mut bytes) = (0, [0; BLOCK + 4]);
        for seed in 0..4_000_u32 {
            blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
            // Of few kinds of bytes some are sampled again and again, so that masks are full.
            bytes.iter_mut().for_each(|byte| *byte %= 1 << (seed % 8 + 1).min(7));
            let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            let bit = |at: usize| u64::from(is_sampled(word(at), word(at + 2))) << (at / 2 + at % 2 * (BLOCK / 2));
            let expected = (0..BLOCK).map(bit).fold(0, |mask, bit| mask | bit);
            assert_eq!(sampled(&bytes), expected, "seed {seed}");
            seen |= expected;
        }
        assert_eq!(seen, u64::MAX);
    }
}
