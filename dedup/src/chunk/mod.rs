//! The form in which a chunk rests in a pack and travels between sites.

pub(crate) mod codec;

use bytes::Bytes;

use causeway_base::ChunkId;

pub use codec::Codec;
pub(crate) use codec::sampled_len;

use crate::Realm;

/// Largest chunk in bytes: the maximum at the largest average size. Nothing larger is decoded.
pub const CHUNK_BYTES_MAX: u32 = 1 << 20;

/// Default zstd level: 550–700 MB/s a core and within a few percent of what higher levels reach on single chunks.
pub const LEVEL_DEFAULT: i32 = 3;

/// Why bytes are not the chunk that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// No chunk has this many bytes.
    #[error("chunk {id}: a length of {len} bytes, 1 to {CHUNK_BYTES_MAX} are allowed")]
    Length {
        /// The chunk.
        id: ChunkId,
        /// Claimed or found.
        len: u64,
    },
    /// A codec that this program does not know.
    #[error("codec {0} is not known")]
    Codec(u8),
    /// The payload does not decode to as many bytes as the header says.
    #[error("chunk {id}: the payload does not decode to {raw_len} bytes: {reason}")]
    Payload {
        /// The chunk.
        id: ChunkId,
        /// Claimed.
        raw_len: u32,
        /// What the codec says.
        reason: String,
    },
    /// A delta whose base is not at hand.
    #[error("chunk {id}: it is a delta, and its base {base} is not here")]
    Base {
        /// The chunk.
        id: ChunkId,
        /// A chunk that it stands on.
        base: ChunkId,
    },
    /// The bytes are not those that the id names.
    #[error("chunk {id}: the bytes are those of {found}")]
    Id {
        /// Asked for.
        id: ChunkId,
        /// Of the bytes.
        found: ChunkId,
    },
}

/// A chunk, possibly compressed. Its bytes are unverified until [`EncodedChunk::decode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedChunk {
    /// Keyed BLAKE3 of the plain bytes.
    pub id: ChunkId,
    /// Length of the plain bytes.
    pub raw_len: u32,
    /// How the payload was made.
    pub codec: Codec,
    /// The encoded bytes; never more than `raw_len` when encoded here.
    pub payload: Bytes,
}

impl EncodedChunk {
    /// Bytes of a header on the wire.
    pub const HEADER_BYTES: usize = 44;

    /// Encodes plain bytes, compressed at zstd `level` if a sample says that it pays, as they are otherwise (then without
    /// a copy). Zstd state is kept per thread.
    ///
    /// `plain` must have 1 to [`CHUNK_BYTES_MAX`] bytes, else the result decodes nowhere.
    #[must_use]
    pub fn encode(id: ChunkId, plain: Bytes, level: i32) -> Self {
        debug_assert!(!plain.is_empty() && plain.len() <= CHUNK_BYTES_MAX as usize);
        let raw_len = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        match codec::compress(&plain, level) {
            Some(payload) => Self { id, raw_len, codec: Codec::Zstd, payload },
            None => Self { id, raw_len, codec: Codec::Raw, payload: plain },
        }
    }

    /// Plain bytes as they are, for a receiver that compresses by itself (or not at all), such as the chunk store.
    ///
    /// `plain` must have 1 to [`CHUNK_BYTES_MAX`] bytes, else the result decodes nowhere.
    #[must_use]
    pub fn plain(id: ChunkId, plain: Bytes) -> Self {
        debug_assert!(!plain.is_empty() && plain.len() <= CHUNK_BYTES_MAX as usize);
        Self { id, raw_len: u32::try_from(plain.len()).unwrap_or(u32::MAX), codec: Codec::Raw, payload: plain }
    }

    /// [`EncodedChunk::encode`] at a level, [`EncodedChunk::plain`] without one.
    #[must_use]
    pub fn encode_at(id: ChunkId, plain: Bytes, level: Option<i32>) -> Self {
        match level {
            Some(level) => Self::encode(id, plain, level),
            None => Self::plain(id, plain),
        }
    }

    /// The same chunk for a place where bytes are dear: plain bytes are compressed if that pays, others stay as they are.
    #[must_use]
    pub fn compacted(self, level: i32) -> Self {
        match self.codec {
            Codec::Raw => Self::encode(self.id, self.payload, level),
            _ => self,
        }
    }

    /// Whether compressing is worth a try, judged by a sample, or was done already. Costs about 10 µs for plain bytes.
    #[must_use]
    pub fn may_shrink(&self) -> bool {
        self.codec != Codec::Raw || codec::may_shrink(&self.payload)
    }

    /// The plain bytes, verified against the id. Allocates at most [`CHUNK_BYTES_MAX`], nothing for a raw chunk.
    ///
    /// # Errors
    /// Any [`ChunkError`]; the bytes of a wrong chunk are never given out.
    pub fn decode(&self, realm: &Realm) -> Result<Bytes, ChunkError> {
        let plain = self.decode_unverified()?;
        let found = realm.chunk_id(&plain);
        if found != self.id {
            return Err(ChunkError::Id { id: self.id, found });
        }
        Ok(plain)
    }

    /// The plain bytes without the check against the id, for a caller that has no key (and so must not use them as
    /// the chunk's).
    pub(crate) fn decode_unverified(&self) -> Result<Bytes, ChunkError> {
        if self.raw_len == 0 || self.raw_len > CHUNK_BYTES_MAX {
            return Err(ChunkError::Length { id: self.id, len: u64::from(self.raw_len) });
        }
        let fail = |reason: String| ChunkError::Payload { id: self.id, raw_len: self.raw_len, reason };
        match self.codec {
            Codec::Raw if self.payload.len() == self.raw_len as usize => Ok(self.payload.clone()),
            Codec::Raw => Err(fail(format!("{} raw bytes", self.payload.len()))),
            Codec::Zstd => codec::decompress(&self.payload, self.raw_len as usize).map_err(fail),
            Codec::ZstdPrefix | Codec::Planes => Err(fail("it is a delta, which takes its base to decode".into())),
        }
    }

    /// The header that precedes the payload on the wire: id, codec, three zeros, plain length, payload length
    /// (little-endian).
    #[must_use]
    pub fn header(&self) -> [u8; Self::HEADER_BYTES] {
        let mut header = [0; Self::HEADER_BYTES];
        header[..32].copy_from_slice(self.id.as_bytes());
        header[32] = self.codec.to_byte();
        header[36..40].copy_from_slice(&self.raw_len.to_le_bytes());
        header[40..].copy_from_slice(&u32::try_from(self.payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        header
    }

    /// Reads a header; the second value is the payload's length, bounded by [`CHUNK_BYTES_MAX`]. The payload is to be
    /// filled in by the caller.
    ///
    /// # Errors
    /// [`ChunkError::Codec`], [`ChunkError::Length`].
    pub fn from_header(header: &[u8; Self::HEADER_BYTES]) -> Result<(Self, usize), ChunkError> {
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let mut id = ChunkId([0; 32]);
        id.0.copy_from_slice(&header[..32]);
        let codec = Codec::from_byte(header[32])?;
        let (raw_len, len) = (word(36), word(40));
        for len in [raw_len, len] {
            if len == 0 || len > CHUNK_BYTES_MAX {
                return Err(ChunkError::Length { id, len: u64::from(len) });
            }
        }
        Ok((Self { id, raw_len, codec, payload: Bytes::new() }, len as usize))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn realm() -> Realm {
        Realm::new("test", [7; 32])
    }

    fn encode(plain: &[u8]) -> EncodedChunk {
        EncodedChunk::encode(realm().chunk_id(plain), Bytes::copy_from_slice(plain), LEVEL_DEFAULT)
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn text_shrinks_and_noise_stays_as_it_is() {
        let text = "a line of text that comes again and again\n".repeat(2000);
        let encoded = encode(text.as_bytes());
        assert_eq!(encoded.codec, Codec::Zstd);
        assert!(encoded.payload.len() < text.len() / 20);
        assert_eq!(encoded.decode(&realm()).unwrap(), text.as_bytes());

        let noise = Bytes::from(noise(100_000));
        let encoded = EncodedChunk::encode(realm().chunk_id(&noise), noise.clone(), LEVEL_DEFAULT);
        assert_eq!(encoded.codec, Codec::Raw);
        assert_eq!(encoded.payload.as_ptr(), noise.as_ptr(), "not copied");
    }

    #[test]
    fn a_skewed_chunk_is_compressed_though_it_has_no_repeats() {
        let skewed: Vec<u8> = noise(65_536).into_iter().map(|byte| if byte < 40 { 0 } else { byte }).collect();
        assert_eq!(encode(&skewed).codec, Codec::Zstd);
    }

    #[test]
    fn a_bomb_and_a_liar_are_refused() {
        let big = vec![0; 4 << 20];
        let payload = Bytes::from(zstd::bulk::compress(&big, 3).unwrap());
        let bomb = EncodedChunk { id: realm().chunk_id(&big), raw_len: 1 << 20, codec: Codec::Zstd, payload };
        assert!(matches!(bomb.decode(&realm()), Err(ChunkError::Payload { .. })));
        let honest_bomb = EncodedChunk { raw_len: 4 << 20, ..bomb };
        assert!(matches!(honest_bomb.decode(&realm()), Err(ChunkError::Length { .. })));

        let good = encode(b"some bytes");
        let other = EncodedChunk { id: realm().chunk_id(b"other"), ..good.clone() };
        assert!(matches!(other.decode(&realm()), Err(ChunkError::Id { .. })));
        let short = EncodedChunk { raw_len: 9, ..good.clone() };
        assert!(matches!(short.decode(&realm()), Err(ChunkError::Payload { .. })));
        assert!(matches!(good.decode(&Realm::new("other", [8; 32])), Err(ChunkError::Id { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_encoded_decodes(len in 1_usize..200_000, alphabet in 1_u8..=255, level in -3_i32..6) {
            let plain: Bytes = noise(len).into_iter().map(|byte| byte % alphabet).collect::<Vec<u8>>().into();
            let encoded = EncodedChunk::encode(realm().chunk_id(&plain), plain.clone(), level);
            prop_assert!(encoded.payload.len() <= plain.len());
            prop_assert_eq!(encoded.decode(&realm()).unwrap(), &plain);
            let (mut read, payload_len) = EncodedChunk::from_header(&encoded.header()).unwrap();
            prop_assert_eq!(payload_len, encoded.payload.len());
            read.payload = encoded.payload.clone();
            prop_assert_eq!(read, encoded);
        }

        #[test]
        fn noise_neither_panics_nor_passes(header in prop::array::uniform32(any::<u8>()), rest in any::<[u8; 12]>(), payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = [0; EncodedChunk::HEADER_BYTES];
            bytes[..32].copy_from_slice(&header);
            bytes[32..].copy_from_slice(&rest);
            bytes[32] %= 5;
            if let Ok((mut chunk, len)) = EncodedChunk::from_header(&bytes) {
                prop_assert!(len <= CHUNK_BYTES_MAX as usize);
                chunk.payload = payload.into();
                prop_assert!(chunk.decode(&realm()).is_err());
            }
        }
    }
}
