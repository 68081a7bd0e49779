//! Cuts bytes into content-defined chunks (FastCDC 2020, normalization level 1).
//!
//! Cut points are a wire format: two sites that cut the same bytes differently share nothing. They are pinned by golden
//! vectors; see `docs/formats/chunking.md`.

use std::io::{self, Read};

use bytes::Bytes;
use fastcdc::v2020::{Normalization, cut, select_masks};

/// Smallest average chunk size in bytes.
pub const AVG_BYTES_MIN: u32 = 16 << 10;
/// Largest average chunk size in bytes.
pub const AVG_BYTES_MAX: u32 = 256 << 10;

/// The sizes of a volume's chunks.
///
/// Only the average is chosen: a power of two, because FastCDC's masks exist for powers of two only (two averages that
/// round to the same mask would look different and be equal), and even sizes because the scan takes two bytes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSizes {
    min: u32,
    avg: u32,
    max: u32,
}

/// An average chunk size that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an average chunk size: a power of two from {AVG_BYTES_MIN} to {AVG_BYTES_MAX} is expected")]
pub struct ChunkSizesError(u32);

impl ChunkSizes {
    /// Average 64 KiB, what a volume gets unless it says otherwise.
    pub const DEFAULT: Self = Self { min: 16 << 10, avg: 64 << 10, max: 256 << 10 };

    /// Chunks so small that the trees of small files are deep.
    #[cfg(test)]
    pub(crate) const TINY: Self = Self { min: 64, avg: 256, max: 1024 };

    /// Sizes around an average in bytes: a quarter of it at least, four times it at most.
    ///
    /// # Errors
    /// [`ChunkSizesError`] unless `avg` is a power of two from 16 KiB to 256 KiB.
    pub fn from_avg(avg: u32) -> Result<Self, ChunkSizesError> {
        if !avg.is_power_of_two() || !(AVG_BYTES_MIN..=AVG_BYTES_MAX).contains(&avg) {
            return Err(ChunkSizesError(avg));
        }
        Ok(Self { min: avg / 4, avg, max: avg * 4 })
    }

    /// No chunk is smaller, but the last of a run.
    #[must_use]
    pub const fn min(self) -> usize {
        self.min as usize
    }

    /// The average aimed at.
    #[must_use]
    pub const fn avg(self) -> usize {
        self.avg as usize
    }

    /// No chunk is larger.
    #[must_use]
    pub const fn max(self) -> usize {
        self.max as usize
    }
}

impl Default for ChunkSizes {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Finds cut points; holds nothing but the parameters.
#[derive(Clone, Copy, Debug)]
pub struct Cutter {
    sizes: ChunkSizes,
    mask_small: u64,
    mask_large: u64,
}

impl Cutter {
    /// A cutter for these sizes.
    #[must_use]
    pub fn new(sizes: ChunkSizes) -> Self {
        let (mask_small, mask_large) = select_masks(sizes.avg(), Normalization::Level1);
        Self { sizes, mask_small, mask_large }
    }

    /// Length of the first chunk of `bytes`, zero only if there are none. Final only if `bytes` holds at least
    /// [`ChunkSizes::max`] bytes or the end of the run; a chunk depends on no byte before it.
    #[must_use]
    pub fn first(&self, bytes: &[u8]) -> usize {
        let (min, avg, max) = (self.sizes.min(), self.sizes.avg(), self.sizes.max());
        cut(bytes, min, avg, max, self.mask_small, self.mask_large, self.mask_small << 1, self.mask_large << 1).1
    }
}

/// The chunks of bytes in memory, as slices that share them.
pub fn chunks(bytes: Bytes, sizes: ChunkSizes) -> impl Iterator<Item = Bytes> {
    let cutter = Cutter::new(sizes);
    let mut rest = bytes;
    std::iter::from_fn(move || (!rest.is_empty()).then(|| rest.split_to(cutter.first(&rest))))
}

/// Smallest read buffer: large enough that carrying the cut-off rest over (at most one chunk) costs a few percent.
const BUFFER_BYTES: usize = 4 << 20;

/// Cuts what a reader gives, in one pass.
///
/// Chunks are slices of the read buffer, not copies. Memory: one buffer of 4 MiB (or 4 × the largest chunk, or less
/// when the length is known to be less) here, and each buffer lives until its last chunk is dropped.
///
/// The iterator ends after the first error.
#[derive(Debug)]
pub struct Chunker<R> {
    reader: R,
    cutter: Cutter,
    /// Read but not yet handed out; what is left of the buffer.
    rest: Bytes,
    /// Bytes that may still be read.
    left: u64,
    ended: bool,
}

impl<R: Read> Chunker<R> {
    /// Chunks of everything that `reader` gives.
    pub fn new(reader: R, sizes: ChunkSizes) -> Self {
        Self::with_length(reader, sizes, u64::MAX)
    }

    /// Chunks of the first `length` bytes that `reader` gives, or of all if it gives less. A small length takes a small
    /// buffer, and the reader is left behind the last byte read.
    pub fn with_length(reader: R, sizes: ChunkSizes, length: u64) -> Self {
        Self { reader, cutter: Cutter::new(sizes), rest: Bytes::new(), left: length, ended: length == 0 }
    }

    /// Reads on until the buffer is full or the input ends, carrying over what is not handed out.
    fn fill(&mut self) -> io::Result<()> {
        let room = BUFFER_BYTES.max(4 * self.cutter.sizes.max()) - self.rest.len();
        let room = usize::try_from(self.left).map_or(room, |left| left.min(room));
        let mut buffer = Vec::with_capacity(self.rest.len() + room);
        buffer.extend_from_slice(&self.rest);
        let read = self.reader.by_ref().take(room as u64).read_to_end(&mut buffer)?;
        self.left -= read as u64;
        self.ended = read < room || self.left == 0;
        self.rest = buffer.into();
        Ok(())
    }
}

impl<R: Read> Iterator for Chunker<R> {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        while !self.ended && self.rest.len() < self.cutter.sizes.max() {
            if let Err(error) = self.fill() {
                self.ended = true;
                self.rest = Bytes::new();
                return Some(Err(error));
            }
        }
        if self.rest.is_empty() {
            return None;
        }
        let len = self.cutter.first(&self.rest);
        Some(Ok(self.rest.split_to(len)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Realm;

    /// Bytes that never change between versions: keyed BLAKE3 in counter mode.
    pub(crate) fn golden_bytes(seed: &str, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new_derive_key("causeway golden vectors")
            .update(seed.as_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    fn lens(bytes: &[u8], sizes: ChunkSizes) -> Vec<usize> {
        chunks(Bytes::copy_from_slice(bytes), sizes).map(|chunk| chunk.len()).collect()
    }

    /// One number that pins all cuts and all ids of an input.
    fn fingerprint(bytes: &[u8], sizes: ChunkSizes) -> String {
        let realm = Realm::new("golden", *b"causeway golden vectors, key 001");
        let mut all = blake3::Hasher::new();
        let mut count = 0;
        for chunk in chunks(Bytes::copy_from_slice(bytes), sizes) {
            all.update(&(chunk.len() as u64).to_le_bytes());
            all.update(realm.chunk_id(&chunk).as_bytes());
            count += 1;
        }
        format!("{count} {}", &all.finalize().to_hex()[..32])
    }

    #[test]
    fn golden_cut_points() {
        let noise = golden_bytes("noise", 1 << 20);
        assert_eq!(
            lens(&noise, ChunkSizes::DEFAULT),
            [99_740, 75_257, 18_605, 97_106, 100_910, 72_173, 88_063, 74_663, 118_779, 152_326, 67_940, 34_609, 48_405]
        );
        assert_eq!(
            lens(&noise[..300_001], ChunkSizes::from_avg(16 << 10).unwrap()),
            [
                14_402, 21_520, 12_687, 21_141, 29_990, 10_838, 25_327, 16_682, 12_351, 10_059, 18_605, 24_511, 18_023,
                8_806, 9_062, 22_348, 14_356, 9_293
            ]
        );
        assert_eq!(lens(&vec![0; 600_000], ChunkSizes::DEFAULT), [262_144, 262_144, 75_712]);
    }

    #[test]
    fn golden_fingerprints() {
        let noise = golden_bytes("fingerprint", 8 << 20);
        let line = |n: u32| format!("{n} {}\n", n.wrapping_mul(2_654_435_761)).into_bytes();
        let text: Vec<u8> = (0..400_000).flat_map(line).collect();
        let found: Vec<String> = [16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10]
            .into_iter()
            .flat_map(|avg| {
                let sizes = ChunkSizes::from_avg(avg).unwrap();
                [fingerprint(&noise, sizes), fingerprint(&text, sizes)]
            })
            .collect();
        assert_eq!(found, GOLDEN_FINGERPRINTS);
    }

    /// Chunks and hash, of noise and of text, at 16 to 256 KiB.
    const GOLDEN_FINGERPRINTS: [&str; 10] = [
        "417 fbef02dc901864a431fc8ca1b91c3051",
        "351 9e048aa314a88afdf6e1eea5ebd68788",
        "209 dfd777ad4c9cba1fcd500c5b211a674f",
        "170 e12973d84236a5c1c92a8d7d3efd1884",
        "117 133066fdb8f05cc3609f1128949e21b9",
        "86 dd78fc82f11fe6d5c50f9cf89f6e2f34",
        "57 a3bcf90b360f6bf17a5f63648f6ed80e",
        "41 cb3b57985f7c54ba65cdbf16f2d2fd72",
        "30 b16904e56f43a62825d1c1ec42912b8f",
        "20 45ee289936ea56fec88eb604ff206595",
    ];

    #[test]
    fn only_the_stated_averages_are_allowed() {
        for avg in [0, 1, 4096, 8192, 20_000, 65_535, 65_537, 512 << 10, u32::MAX] {
            assert_eq!(ChunkSizes::from_avg(avg), Err(ChunkSizesError(avg)));
        }
        assert_eq!(ChunkSizes::from_avg(65_536), Ok(ChunkSizes::DEFAULT));
    }

    /// Gives its bytes in pieces of changing size, as a pipe would.
    struct Trickle<'a>(&'a [u8], u64);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = self.1.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let len = ((self.1 >> 40) as usize % 70_000 + 1).min(buffer.len()).min(self.0.len());
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_stream_cuts_as_memory_does(seed in any::<u64>(), len in 0_usize..6_000_000, limit in prop_oneof![Just(u64::MAX), 0_u64..7_000_000], zeros in any::<bool>()) {
            let mut bytes = golden_bytes(&seed.to_string(), len);
            if zeros {
                let half = len / 2;
                bytes[half..].fill(0);
            }
            let sizes = ChunkSizes::from_avg(16 << 10 << (seed % 5)).unwrap();
            let mut input = Trickle(&bytes, seed);
            let stream: Vec<Bytes> = Chunker::with_length(&mut input, sizes, limit).collect::<io::Result<_>>().unwrap();
            let unread = input.0.len();
            bytes.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            prop_assert_eq!(unread, len - bytes.len());
            let whole: Vec<Bytes> = chunks(bytes.clone().into(), sizes).collect();
            prop_assert_eq!(&stream, &whole);
            prop_assert_eq!(stream.concat(), bytes);
            let (last, others) = match stream.split_last() { Some((last, others)) => (last.len(), others), None => return Ok(()) };
            prop_assert!(last <= sizes.max());
            prop_assert!(others.iter().all(|chunk| (sizes.min()..=sizes.max()).contains(&chunk.len())));
        }
    }

    #[test]
    fn boundaries_fall_together_after_an_insertion() {
        let mut bytes = golden_bytes("insert", 4 << 20);
        let before: Vec<Bytes> = chunks(bytes.clone().into(), ChunkSizes::DEFAULT).collect();
        bytes.splice(1_000_000..1_000_000, *b"seventeen bytes!!");
        let after: Vec<Bytes> = chunks(bytes.into(), ChunkSizes::DEFAULT).collect();
        let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
        assert!(new <= 3, "{new} new chunks");
    }

    #[test]
    fn a_read_error_is_given_once_and_ends() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 > 3 { Err(io::Error::other("broken")) } else { Ok(buffer.len().min(100_000)) }
            }
        }
        let found: Vec<_> = Chunker::new(Broken(0), ChunkSizes::DEFAULT).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].is_err());
    }
}
