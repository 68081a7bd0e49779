//! Sketches: a few bytes that say which chunks resemble each other.
//!
//! Some positions of a chunk are *sampled*, about one in [`SAMPLED_ONE_IN`], chosen by the four bytes found there, so that
//! an insertion moves them along. Each gives a hash of the [`SHINGLE_BYTES`] bytes from there on. Twelve different maxima
//! over these hashes are the sub-features: two chunks agree in one with the probability with which a shingle of either is
//! one of both (min-wise hashing, Broder 1997). Four sub-features are hashed to one of three super-features; chunks that
//! share one of them [resemble](Sketch::resembles) each other. The sampling follows Odess (Zou et al., 2021), but for how a
//! position is chosen: a Gear hash rolls through one byte after the other, whereas the multiply-add of two words used here
//! is computed for many positions at once, three to four times as fast (`examples/delta_bench.rs`).
//!
//! All hashing is keyed by the realm: sketches of two realms agree in nothing, and say nothing, whatever the bytes.

mod features;
mod index;

pub use features::{SHINGLE_BYTES, SKETCHED_BYTES_MIN, Sketcher};
pub use index::{SIMILARITY_SPACE, SLOTS_LOG2_DEFAULT, SLOTS_LOG2_MAX, SimilarityIndex};

/// One position in so many is sampled, on average.
pub const SAMPLED_ONE_IN: usize = 128;
/// Super-features of a sketch.
pub const SUPER_FEATURES: usize = 3;

/// The sketch of a chunk within a realm: three super-features of eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sketch(pub [u64; SUPER_FEATURES]);

impl Sketch {
    /// Bytes of the encoded form.
    pub const LEN: usize = 8 * SUPER_FEATURES;

    /// The encoded form: the super-features in order, little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (into, feature) in bytes.chunks_exact_mut(8).zip(self.0) {
            into.copy_from_slice(&feature.to_le_bytes());
        }
        bytes
    }

    /// A sketch from its encoded form. Any bytes are one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let mut sketch = Self([0; SUPER_FEATURES]);
        for (into, from) in sketch.0.iter_mut().zip(bytes.chunks_exact(8)) {
            *into = from.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        sketch
    }

    /// How many super-features are the same: 0 to 3.
    #[must_use]
    pub fn shared(&self, other: &Self) -> usize {
        self.0.iter().zip(&other.0).filter(|(one, two)| one == two).count()
    }

    /// Whether at least one super-feature is the same.
    #[must_use]
    pub fn resembles(&self, other: &Self) -> bool {
        self.shared(other) > 0
    }
}

#[cfg(test)]
mod tests;
