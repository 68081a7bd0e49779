//! The frames of a call, each the content of one transport frame: a kind, fixed fields, then what is variable.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use causeway_base::RetryClass;
use causeway_dedup::{CHUNK_BYTES_MAX, Codec, EncodedChunk};

use super::request::IDS_MAX;

/// Largest frame: a chunk and its fields.
pub const FRAME_BYTES_MAX: u32 = CHUNK_BYTES_MAX + 64;
/// The number of the base of a delta that names its base in its payload; no request names so many for a chunk.
pub const BASE_NAMED: u8 = u8::MAX;
/// Bytes of the compressed stream that go into one frame, about.
pub const PIECE_BYTES: usize = 128 << 10;
/// Longest message of a refusal in bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

const STREAM: u8 = 1;
const CHUNK: u8 = 2;
const MISSING: u8 = 3;
const END: u8 = 4;
const REFUSED: u8 = 5;
const PUT: u8 = 6;
const SYNC: u8 = 7;
const ACK: u8 = 8;
const BITMAP: u8 = 9;

/// What an answer held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndCounts {
    /// Chunks sent.
    pub chunks: u32,
    /// Chunks said to be missing.
    pub missing: u32,
    /// Plain bytes of the chunks sent.
    pub plain_bytes: u64,
}

/// What is durable since the last acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UploadAck {
    /// The number in the sync that this answers.
    pub token: u32,
    /// Chunks that were new to the node.
    pub new: u64,
    /// Chunks that it had.
    pub known: u64,
    /// Plain bytes of the new ones.
    pub plain_bytes: u64,
}

/// Why the other end gave up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What may be done.
    pub class: RetryClass,
    /// For people, at most 1 KiB.
    pub message: String,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The next bytes of the compressed stream.
    Stream(Bytes),
    /// A chunk by itself.
    Chunk {
        /// Its place in the request.
        index: u32,
        /// How its payload was made.
        codec: Codec,
        /// Of a delta: which of the bases that the request names for it, or [`BASE_NAMED`]. 0 otherwise.
        base: u8,
        /// Its plain length.
        raw_len: u32,
        /// Its payload, unverified.
        payload: Bytes,
    },
    /// Places in the request of chunks that are not there.
    Missing(Vec<u32>),
    /// The answer is complete.
    End(EndCounts),
    /// The other end gave up.
    Refused(Refusal),
    /// A chunk to keep, unverified.
    Put(EncodedChunk),
    /// Make everything before durable, and say so with this number.
    Sync(u32),
    /// It is durable.
    Ack(UploadAck),
    /// A bit for each id of the request, lowest first: 1 is missing.
    Bitmap(Bytes),
}

/// A frame that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Not a kind of this protocol.
    #[error("frame kind {0} is not known")]
    Kind(u8),
    /// The frame has the wrong length for its kind.
    #[error("a frame of kind {kind} with {len} bytes")]
    Length {
        /// Its kind.
        kind: u8,
        /// Of its content.
        len: usize,
    },
    /// A field is out of its range.
    #[error("{0}")]
    Field(String),
}

impl Frame {
    /// The frame's bytes in two pieces, so that a payload is not copied.
    #[must_use]
    pub fn pieces(&self) -> [Bytes; 2] {
        let mut head = BytesMut::with_capacity(48);
        let mut body = Bytes::new();
        match self {
            Self::Stream(bytes) => {
                head.put_u8(STREAM);
                body = bytes.clone();
            }
            Self::Chunk { index, codec, base, raw_len, payload } => {
                head.put_slice(&[CHUNK, codec.to_byte(), *base, 0]);
                head.put_u32_le(*index);
                head.put_u32_le(*raw_len);
                body = payload.clone();
            }
            Self::Missing(indexes) => {
                head.put_u8(MISSING);
                indexes.iter().for_each(|index| head.put_u32_le(*index));
            }
            Self::End(counts) => {
                head.put_u8(END);
                head.put_u32_le(counts.chunks);
                head.put_u32_le(counts.missing);
                head.put_u64_le(counts.plain_bytes);
            }
            Self::Refused(refusal) => {
                head.put_slice(&[REFUSED, class_to_byte(refusal.class)]);
                let mut end = refusal.message.len().min(MESSAGE_BYTES_MAX);
                while !refusal.message.is_char_boundary(end) {
                    end -= 1;
                }
                head.put_slice(&refusal.message.as_bytes()[..end]);
            }
            Self::Put(chunk) => {
                head.put_u8(PUT);
                head.put_slice(&chunk.header());
                body = chunk.payload.clone();
            }
            Self::Sync(token) => {
                head.put_u8(SYNC);
                head.put_u32_le(*token);
            }
            Self::Ack(ack) => {
                head.put_u8(ACK);
                head.put_u32_le(ack.token);
                head.put_u64_le(ack.new);
                head.put_u64_le(ack.known);
                head.put_u64_le(ack.plain_bytes);
            }
            Self::Bitmap(bits) => {
                head.put_u8(BITMAP);
                body = bits.clone();
            }
        }
        [head.freeze(), body]
    }

    /// Reads a frame. Payloads are slices of `bytes`; nothing else of size is allocated.
    ///
    /// # Errors
    /// Any [`FrameError`].
    pub fn parse(mut bytes: Bytes) -> Result<Self, FrameError> {
        if bytes.is_empty() {
            return Err(FrameError::Field("an empty frame".to_owned()));
        }
        let kind = bytes.get_u8();
        let wrong = FrameError::Length { kind, len: bytes.len() };
        let fixed = |len: usize| if bytes.len() == len { Ok(()) } else { Err(wrong.clone()) };
        let least = |len: usize| if bytes.len() >= len { Ok(()) } else { Err(wrong.clone()) };
        match kind {
            STREAM => Ok(Self::Stream(bytes)),
            CHUNK => {
                least(11)?;
                let codec = Codec::from_byte(bytes[0]).map_err(|error| FrameError::Field(error.to_string()))?;
                let base = bytes[1];
                bytes.advance(3);
                let (index, raw_len) = (bytes.get_u32_le(), bytes.get_u32_le());
                if raw_len == 0 || raw_len > CHUNK_BYTES_MAX || bytes.len() > CHUNK_BYTES_MAX as usize {
                    return Err(FrameError::Field(format!("a chunk of {raw_len} bytes in {}", bytes.len())));
                }
                Ok(Self::Chunk { index, codec, base, raw_len, payload: bytes })
            }
            MISSING if bytes.len().is_multiple_of(4) && bytes.len() / 4 <= IDS_MAX => {
                Ok(Self::Missing(std::iter::from_fn(|| bytes.has_remaining().then(|| bytes.get_u32_le())).collect()))
            }
            END => {
                fixed(16)?;
                let (chunks, missing) = (bytes.get_u32_le(), bytes.get_u32_le());
                Ok(Self::End(EndCounts { chunks, missing, plain_bytes: bytes.get_u64_le() }))
            }
            REFUSED if bytes.len() <= 1 + MESSAGE_BYTES_MAX => {
                least(1)?;
                let class = class_from_byte(bytes.get_u8());
                Ok(Self::Refused(Refusal { class, message: String::from_utf8_lossy(&bytes).into_owned() }))
            }
            PUT => {
                let (header, _) = bytes.split_first_chunk().ok_or_else(|| wrong.clone())?;
                let (chunk, len) =
                    EncodedChunk::from_header(header).map_err(|error| FrameError::Field(error.to_string()))?;
                bytes.advance(EncodedChunk::HEADER_BYTES);
                if bytes.len() != len {
                    return Err(wrong);
                }
                Ok(Self::Put(EncodedChunk { payload: bytes, ..chunk }))
            }
            SYNC => {
                fixed(4)?;
                Ok(Self::Sync(bytes.get_u32_le()))
            }
            ACK => {
                fixed(28)?;
                let token = bytes.get_u32_le();
                let (new, known) = (bytes.get_u64_le(), bytes.get_u64_le());
                Ok(Self::Ack(UploadAck { token, new, known, plain_bytes: bytes.get_u64_le() }))
            }
            BITMAP if bytes.len() <= IDS_MAX / 8 => Ok(Self::Bitmap(bytes)),
            MISSING | REFUSED | BITMAP => Err(wrong),
            other => Err(FrameError::Kind(other)),
        }
    }
}

const fn class_to_byte(class: RetryClass) -> u8 {
    match class {
        RetryClass::Refused => 0,
        RetryClass::Transient => 1,
        RetryClass::Unknown => 2,
        RetryClass::Damaged => 3,
    }
}

/// What is not known may or may not have happened.
const fn class_from_byte(byte: u8) -> RetryClass {
    match byte {
        0 => RetryClass::Refused,
        1 => RetryClass::Transient,
        3 => RetryClass::Damaged,
        _ => RetryClass::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use causeway_base::ChunkId;
    use proptest::prelude::*;

    use super::*;

    fn joined(frame: &Frame) -> Bytes {
        frame.pieces().concat().into()
    }

    #[test]
    fn frames_survive() {
        let payload = Bytes::from_static(b"payload");
        let put = EncodedChunk { id: ChunkId([9; 32]), raw_len: 7, codec: Codec::Raw, payload: payload.clone() };
        for frame in [
            Frame::Stream(payload.clone()),
            Frame::Chunk { index: 7, codec: Codec::Planes, base: 1, raw_len: 70, payload: payload.clone() },
            Frame::Missing(vec![1, 2, u32::MAX]),
            Frame::End(EndCounts { chunks: 1, missing: 2, plain_bytes: 3 }),
            Frame::Refused(Refusal { class: RetryClass::Damaged, message: "the disk is full".to_owned() }),
            Frame::Put(put),
            Frame::Sync(4),
            Frame::Ack(UploadAck { token: 1, new: 2, known: 3, plain_bytes: 4 }),
            Frame::Bitmap(payload),
        ] {
            assert_eq!(Frame::parse(joined(&frame)), Ok(frame));
        }
    }

    #[test]
    fn lying_lengths_are_refused() {
        let huge =
            Frame::Chunk { index: 0, codec: Codec::Zstd, base: 0, raw_len: CHUNK_BYTES_MAX + 1, payload: Bytes::new() };
        assert!(matches!(Frame::parse(joined(&huge)), Err(FrameError::Field(_))));
        assert!(matches!(Frame::parse(vec![BITMAP; IDS_MAX / 8 + 2].into()), Err(FrameError::Length { .. })));
        assert!(matches!(Frame::parse(vec![MISSING; 4 * IDS_MAX + 5].into()), Err(FrameError::Length { .. })));
        assert!(matches!(Frame::parse(Bytes::from_static(&[200])), Err(FrameError::Kind(200))));
        let long = Refusal { class: RetryClass::Refused, message: "é".repeat(MESSAGE_BYTES_MAX) };
        let Ok(Frame::Refused(cut)) = Frame::parse(joined(&Frame::Refused(long))) else { panic!("does not parse") };
        assert_eq!(cut.message.len(), MESSAGE_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn noise_is_an_error_or_a_frame_that_writes_itself_back(kind in 0_u8..12, rest in prop::collection::vec(any::<u8>(), 0..80)) {
            let bytes = Bytes::from([vec![kind], rest].concat());
            if let Ok(frame) = Frame::parse(bytes) {
                prop_assert_eq!(Frame::parse(joined(&frame)), Ok(frame));
            }
        }
    }
}
