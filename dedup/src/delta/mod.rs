//! Deltas: a chunk as its difference from bytes that the reader has.
//!
//! A [`Base`] is a range of plain bytes: one chunk that resembles the new one, or several neighbouring chunks of the file's
//! previous version ([`align`] finds them), so that it does not matter where either version was cut. [`encode`] tries the
//! two codecs against each base and keeps the smallest result, if it beats a given rival:
//!
//! - **zstd with the base as prefix** ([`Codec::ZstdPrefix`]): for insertions, deletions and moves of exact bytes;
//! - **byte planes** ([`Codec::Planes`]): the difference (XOR, or subtraction as integers) of elements of 1, 2, 4 or 8
//!   bytes that lie at the same place, its bytes sorted by significance: for tensors and tables in which most values changed
//!   a little, where hardly an exact byte string is left.
//!
//! What comes out is verified by nobody here: the caller checks the chunk's BLAKE3. [`decode`] allocates no more than the
//! plain length that it is told, which is at most [`CHUNK_BYTES_MAX`]. The bytes are described in
//! `docs/formats/delta.md`.

mod align;
mod planes;
mod prefix;
mod record;
mod switch;

use bytes::Bytes;

pub use align::{BaseRange, Piece, RANGE_PIECES_MAX, RANGES_MAX, align, align_between};
pub(crate) use record::READS_MAX;
pub use record::{BASES_MAX, BaseRef, DeltaRecord, Resolver};
pub use switch::{DeltaSwitch, Step, WideSwitch};

use crate::Codec;
use crate::chunk::CHUNK_BYTES_MAX;

/// Most bytes of a base: the largest chunk, and as much around it on either side.
pub const BASE_BYTES_MAX: usize = 3 * CHUNK_BYTES_MAX as usize;
/// Longest chain of deltas, counted from a chunk that stands alone (depth 0). Each link costs a read and a decode: at three,
/// a cold read of a chunk takes four. More gains little: a store that writes every fourth version of a range alone keeps
/// three quarters of what endless chains would save.
pub const DEPTH_MAX: u8 = 3;
/// zstd level of deltas by default: a search of their own, fast, since most of a base is the same as the chunk.
pub const LEVEL_DEFAULT: i32 = 2;
/// More bases are not tried.
pub const CANDIDATES_MAX: usize = 4;

/// Bytes that the reader of a delta has.
#[derive(Clone, Copy, Debug)]
pub struct Base<'a> {
    /// Plain bytes, at most [`BASE_BYTES_MAX`]; a longer base is not used.
    pub plain: &'a [u8],
    /// Where in `plain` the new chunk's first byte would be if nothing had moved (may lie outside); `None` if that is not
    /// known, as of a chunk that merely resembles the new one.
    pub align: Option<i64>,
    /// Links below the base: 0 if it stands alone. At [`DEPTH_MAX`] it is not used.
    pub depth: u8,
}

impl<'a> Base<'a> {
    /// A chunk that stands alone and resembles the new one.
    #[must_use]
    pub const fn like(plain: &'a [u8]) -> Self {
        Self { plain, align: None, depth: 0 }
    }
}

/// A chunk's difference from one of the bases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Which of the bases.
    pub base: usize,
    /// [`Codec::ZstdPrefix`] or [`Codec::Planes`].
    pub codec: Codec,
    /// Links of the chain, this one included.
    pub depth: u8,
    /// What [`decode`] takes.
    pub body: Bytes,
}

/// Why a delta does not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// A codec that takes no base.
    #[error("{0:?} is no delta codec")]
    Codec(Codec),
    /// A plain length that no chunk has, or a base that is too long.
    #[error("a {what} of {len} bytes")]
    Length {
        /// What is too long, or empty.
        what: &'static str,
        /// Its length.
        len: usize,
    },
    /// The body is not one, or is not one of as many plain bytes, or not for this base.
    #[error("the delta does not decode: {0}")]
    Body(String),
}

/// Encodes `plain` against the best of `bases` (the first [`CANDIDATES_MAX`]). `None` unless the body has fewer than `rival`
/// bytes: pass the length of the whole chunk's encoding, less what naming the base costs. Hence a delta is never larger than
/// what it replaces.
///
/// Cost: zstd with each base as prefix until one [suffices](Delta::suffices), unless a sample of 8 KiB at the known place says
/// that every part changed and the planes win well; the planes only if that sample says that they win.
#[must_use]
pub fn encode(plain: &[u8], bases: &[Base<'_>], rival: usize, level: i32) -> Option<Delta> {
    if plain.is_empty() || plain.len() > CHUNK_BYTES_MAX as usize {
        return None;
    }
    let mut best: Option<Delta> = None;
    for (place, base) in bases.iter().enumerate().take(CANDIDATES_MAX) {
        if base.plain.is_empty() || base.plain.len() > BASE_BYTES_MAX || base.depth >= DEPTH_MAX {
            continue;
        }
        let depth = base.depth + 1;
        let offer = |best: &mut Option<Delta>, codec, body: Option<Bytes>| {
            let limit = best.as_ref().map_or(rival, |delta| delta.body.len());
            if let Some(body) = body.filter(|body| body.len() < limit) {
                *best = Some(Delta { base: place, codec, depth, body });
            }
        };
        // Where a sample is mostly the same, zstd is tried before the sample is looked at for planes: it costs as much.
        let sample = planes::Sample::new(plain, base);
        let early = sample.as_ref().filter(|sample| sample.changed()).and_then(|sample| sample.trial(plain.len()));
        let again = bases[..place].iter().any(|other| std::ptr::eq(other.plain, base.plain));
        let in_vain = early.is_some_and(|trial| trial.beats_prefix(rival));
        if !again && !in_vain {
            offer(&mut best, Codec::ZstdPrefix, prefix::encode(plain, base.plain, level));
        }
        if best.as_ref().is_some_and(|delta| delta.suffices(plain.len(), rival)) {
            break;
        }
        let so_far = best.as_ref().map_or(rival, |delta| delta.body.len());
        let trial = early.or_else(|| sample.filter(|sample| !sample.changed())?.trial(plain.len()));
        if let Some(trial) = trial.filter(|trial| trial.bytes < so_far) {
            offer(&mut best, Codec::Planes, planes::encode(plain, base, &trial));
        }
        if best.as_ref().is_some_and(|delta| delta.suffices(plain.len(), rival)) {
            break;
        }
    }
    best
}

/// A delta this many times smaller than the chunk is taken without a look at what else there is.
const GOOD_ENOUGH: usize = 64;
/// So is one that is this many times smaller than its rival.
const MUCH_SMALLER: usize = 8;

impl Delta {
    /// Whether it is so good that no other base need be looked at: much smaller than the chunk, or than its rival, or clearly
    /// smaller by planes, which do well against the very place only.
    #[must_use]
    pub fn suffices(&self, plain_len: usize, rival: usize) -> bool {
        let len = self.body.len();
        len <= plain_len / GOOD_ENOUGH
            || len <= rival / MUCH_SMALLER
            || (self.codec == Codec::Planes && len <= rival / 4 * 3)
    }
}

/// The plain bytes of a delta's body. **Unverified**: the caller checks them against the chunk's id. Allocates `raw_len`
/// bytes, twice that for planes, after the lengths were checked.
///
/// # Errors
/// [`DeltaError`]; nothing that `body` or `base` hold causes a panic.
pub fn decode(codec: Codec, body: &[u8], base: &[u8], raw_len: u32) -> Result<Bytes, DeltaError> {
    if raw_len == 0 || raw_len > CHUNK_BYTES_MAX {
        return Err(DeltaError::Length { what: "plain length", len: raw_len as usize });
    }
    if base.len() > BASE_BYTES_MAX {
        return Err(DeltaError::Length { what: "base", len: base.len() });
    }
    match codec {
        Codec::ZstdPrefix => prefix::decode(body, base, raw_len as usize).map_err(DeltaError::Body),
        Codec::Planes => planes::decode(body, base, raw_len as usize),
        Codec::Raw | Codec::Zstd => Err(DeltaError::Codec(codec)),
    }
}

#[cfg(test)]
mod tests;
