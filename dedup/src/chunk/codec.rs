//! The codecs, with zstd state kept per thread.

use std::cell::RefCell;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

use super::ChunkError;

/// How a payload was made from the plain bytes.
///
/// The byte is part of the pack and wire formats. A delta's payload names its base at rest, and not on the wire, where the
/// request does; see `docs/formats/delta.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// The plain bytes themselves.
    Raw,
    /// One zstd frame.
    Zstd,
    /// One zstd frame with a base as prefix.
    ZstdPrefix,
    /// Byte planes of the difference from a base.
    Planes,
}

impl Codec {
    /// The codec's byte.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
            Self::ZstdPrefix => 2,
            Self::Planes => 3,
        }
    }

    /// The codec of a byte.
    ///
    /// # Errors
    /// [`ChunkError::Codec`].
    pub const fn from_byte(byte: u8) -> Result<Self, ChunkError> {
        match byte {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            2 => Ok(Self::ZstdPrefix),
            3 => Ok(Self::Planes),
            other => Err(ChunkError::Codec(other)),
        }
    }

    /// Whether the payload decodes only together with a base.
    #[must_use]
    pub const fn is_delta(self) -> bool {
        matches!(self, Self::ZstdPrefix | Self::Planes)
    }
}

/// Chunks up to this size are compressed without asking a sample first: the sample would be most of the work.
const SAMPLED_ABOVE_BYTES: usize = 16 << 10;
/// A sample is this many pieces, spread evenly.
const SAMPLE_PIECES: usize = 4;
/// Bytes of a piece of the sample: 4 × 2 KiB show the skew of the byte values and short repeats, at an eighth of the cost of
/// an average chunk.
const SAMPLE_PIECE_BYTES: usize = 2 << 10;
const SAMPLE_BYTES: usize = SAMPLE_PIECES * SAMPLE_PIECE_BYTES;
/// Level for the sample.
const SAMPLE_LEVEL: i32 = 1;
/// Bytes of each piece whose values are counted before anything is compressed.
const COUNTED_PIECE_BYTES: usize = 512;
/// Bits a byte below which the values alone save a fifth. What a count of 2 KiB of noise comes to is 7.9.
const CLEARLY_SKEWED_BITS: f32 = 6.4;

/// A zstd context and where it writes.
struct Encoder {
    zstd: Compressor<'static>,
    /// Level set last; setting it again would reset the context's tables.
    level: i32,
    output: Vec<u8>,
}

thread_local! {
    static ENCODER: RefCell<Option<Encoder>> = const { RefCell::new(None) };
    /// A context of its own: changing levels back and forth costs more than the sample.
    static SAMPLER: RefCell<Option<Encoder>> = const { RefCell::new(None) };
    static DECODER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The zstd frame of `plain`, or `None` if that saves less than one part in 128: decoding is not worth it.
pub(super) fn compress(plain: &[u8], level: i32) -> Option<Bytes> {
    if may_shrink(plain) { compress_all(plain, level) } else { None }
}

/// Whether compressing is worth a try: bytes too short for a sample, or a sample that shrinks.
pub(crate) fn may_shrink(plain: &[u8]) -> bool {
    plain.len() <= SAMPLED_ABOVE_BYTES || sample_shrinks(plain)
}

/// As [`compress`], without asking a sample.
pub(crate) fn compress_all(plain: &[u8], level: i32) -> Option<Bytes> {
    ENCODER.with_borrow_mut(|slot| {
        let encoder = Encoder::in_slot(slot, level)?;
        let len = encoder.compress(plain)?;
        (len < plain.len() - plain.len() / 128).then(|| Bytes::copy_from_slice(&encoder.output[..len]))
    })
}

/// Whether compressing a sample saves at least one part in 64. Text and code show it in their byte values already, for a tenth of
/// what compressing the sample takes, which was an eighth of an import's time.
fn sample_shrinks(plain: &[u8]) -> bool {
    counted_bits(plain) < CLEARLY_SKEWED_BITS
        || sample_len(plain).is_some_and(|len| len < SAMPLE_BYTES - SAMPLE_BYTES / 64)
}

/// Shannon's entropy of some byte values of more than [`SAMPLED_ABOVE_BYTES`], in bits a byte.
fn counted_bits(plain: &[u8]) -> f32 {
    const COUNTED: f32 = (SAMPLE_PIECES * COUNTED_PIECE_BYTES) as f32;
    let mut counts = [0_u16; 256];
    let step = (plain.len() - COUNTED_PIECE_BYTES) / (SAMPLE_PIECES - 1);
    for piece in 0..SAMPLE_PIECES {
        for byte in &plain[piece * step..][..COUNTED_PIECE_BYTES] {
            counts[usize::from(*byte)] += 1;
        }
    }
    let bits = |count: &u16| f32::from(*count) * (COUNTED / f32::from(*count)).log2();
    counts.iter().filter(|count| **count > 0).map(bits).sum::<f32>() / COUNTED
}

/// About what `plain` takes compressed, from a sample; 0 if it is too short for one.
pub(crate) fn sampled_len(plain: &[u8]) -> usize {
    if plain.len() <= SAMPLED_ABOVE_BYTES {
        return 0;
    }
    sample_len(plain).map_or(0, |len| len.min(SAMPLE_BYTES) * plain.len() / SAMPLE_BYTES)
}

/// What a sample of more than [`SAMPLED_ABOVE_BYTES`] compresses to.
fn sample_len(plain: &[u8]) -> Option<usize> {
    let mut sample = [0; SAMPLE_BYTES];
    let step = (plain.len() - SAMPLE_PIECE_BYTES) / (SAMPLE_PIECES - 1);
    for (piece, into) in sample.chunks_exact_mut(SAMPLE_PIECE_BYTES).enumerate() {
        into.copy_from_slice(&plain[piece * step..][..SAMPLE_PIECE_BYTES]);
    }
    SAMPLER.with_borrow_mut(|slot| Encoder::in_slot(slot, SAMPLE_LEVEL)?.compress(&sample))
}

impl Encoder {
    /// The thread's encoder, set to `level`. `None` if zstd fails, which only a lack of memory causes.
    fn in_slot(slot: &mut Option<Self>, level: i32) -> Option<&mut Self> {
        if slot.as_ref().is_none_or(|encoder| encoder.level != level) {
            *slot = Some(Self { zstd: Compressor::new(level).ok()?, level, output: Vec::new() });
        }
        slot.as_mut()
    }

    /// Compresses into `output` and gives the length.
    fn compress(&mut self, plain: &[u8]) -> Option<usize> {
        self.output.clear();
        self.output.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.zstd.compress_to_buffer(plain, &mut self.output).ok()
    }
}

/// Decodes one frame to exactly `raw_len` bytes; allocates no more than that.
pub(crate) fn decompress(payload: &[u8], raw_len: usize) -> Result<Bytes, String> {
    DECODER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(Decompressor::new().map_err(|error| error.to_string())?);
        }
        let Some(decoder) = slot.as_mut() else { return Err("no decoder".into()) };
        let mut plain = Vec::with_capacity(raw_len);
        decoder.decompress_to_buffer(payload, &mut plain).map_err(|error| error.to_string())?;
        if plain.len() == raw_len { Ok(plain.into()) } else { Err(format!("{} bytes", plain.len())) }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn noise_is_not_skewed_and_what_repeats_far_away_is_found_by_the_sample() {
        let plain = noise(100_000);
        assert!(counted_bits(&plain) > 7.8, "{}", counted_bits(&plain));
        assert!(!may_shrink(&plain));
        let repeats = noise(1_000).repeat(100);
        assert!(counted_bits(&repeats) > 7.0, "{}", counted_bits(&repeats));
        assert!(may_shrink(&repeats));
    }

    proptest! {
        #[test]
        fn what_is_clearly_skewed_shrinks(values in 1_u16..=256, lean in 0_u32..6, len in SAMPLED_ABOVE_BYTES + 1..100_000) {
            // From few values to all, and from even to lopsided.
            let value = |(at, byte): (usize, u8)| {
                let byte = if (at as u32).is_multiple_of(lean + 1) { byte } else { byte & 0x1f };
                (u16::from(byte) % values) as u8
            };
            let plain: Vec<u8> = noise(len).into_iter().enumerate().map(value).collect();
            prop_assume!(counted_bits(&plain) < CLEARLY_SKEWED_BITS);
            prop_assert!(compress_all(&plain, 1).is_some_and(|bytes| bytes.len() < len - len / 64));
        }
    }
}
