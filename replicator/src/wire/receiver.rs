//! Takes the frames of an answer and gives verified chunks.

use std::io;

use bytes::Bytes;
use causeway_base::ChunkId;
use causeway_dedup::delta::DeltaRecord;
use causeway_dedup::{Codec, EncodedChunk, Realm, delta};

use super::bases::Bases;
use super::frame::{BASE_NAMED, EndCounts, Frame, Refusal};
use super::stream::StreamDecoder;

/// A source that sent so many wrong chunks in one answer is not listened to any more.
pub const CORRUPT_MAX: usize = 16;

/// What became of one wanted chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Its bytes are those that its id names.
    Chunk {
        /// Its place in the request.
        index: usize,
        /// Its verified bytes.
        plain: Bytes,
        /// The form it came in, if it came by itself.
        encoded: Option<EncodedChunk>,
    },
    /// The source does not have it.
    Missing {
        /// Its place in the request.
        index: usize,
    },
    /// The source sent other bytes for it.
    Corrupt {
        /// Its place in the request.
        index: usize,
    },
    /// The source sent a delta, and its base is not to be had here: that the request offered it was a while ago, or the source
    /// chose it. Ask for it whole.
    Baseless {
        /// Its place in the request.
        index: usize,
    },
}

/// Gives the plain bytes of chunks that the request offers as bases, verified and joined; `None` if they are not to be had.
pub type ReadBase = Box<dyn FnMut(&[ChunkId]) -> Option<Vec<u8>> + Send>;

/// What deltas are decoded against.
struct Offered {
    bases: Bases,
    /// Whether others are taken too, by name.
    any_base: bool,
    read: ReadBase,
}

impl std::fmt::Debug for Offered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offered").field("held", &self.bases.held().len()).finish_non_exhaustive()
    }
}

/// Why an answer was given up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiverError {
    /// The source said so.
    #[error("refused: {0}")]
    Refused(#[source] Refusal),
    /// The source broke the protocol: a chunk that was not asked for, or came twice, or a wrong length or kind.
    #[error("the answer is malformed: {0}")]
    Malformed(String),
    /// The compressed stream is damaged, or asks for too much memory.
    #[error("the answer does not decode: {0}")]
    Stream(#[from] io::Error),
    /// [`CORRUPT_MAX`] chunks were wrong.
    #[error("{CORRUPT_MAX} chunks were not what their ids say")]
    Corrupt,
}

/// Checks one answer. Work is done where it is called: hashing and decompression of what each frame holds.
#[derive(Debug)]
pub struct Receiver {
    realm: Realm,
    wanted: Wanted,
    offered: Option<Offered>,
    decoder: Option<StreamDecoder>,
    corrupt: usize,
    counts: EndCounts,
}

#[derive(Debug)]
struct Wanted {
    /// Ids and plain lengths, where known.
    chunks: Vec<(ChunkId, Option<u32>)>,
    answered: Vec<bool>,
}

impl Wanted {
    /// Whether a chunk may come now, by its place and length.
    fn check(&self, index: u32, len: usize) -> Result<usize, ReceiverError> {
        let index = index as usize;
        match (self.answered.get(index), self.chunks.get(index)) {
            (Some(false), Some((_, known))) if known.is_none_or(|known| known as usize == len) => Ok(index),
            (Some(false), Some((id, Some(known)))) => {
                Err(ReceiverError::Malformed(format!("{len} bytes for chunk {id}, which has {known}")))
            }
            (Some(true), _) => Err(ReceiverError::Malformed(format!("chunk {index} comes twice"))),
            _ => Err(ReceiverError::Malformed(format!("chunk {index} was not asked for"))),
        }
    }
}

impl Receiver {
    /// Expects an answer to a request for `chunks` (id, and plain length if known).
    #[must_use]
    pub fn new(realm: Realm, chunks: Vec<(ChunkId, Option<u32>)>) -> Self {
        let answered = vec![false; chunks.len()];
        let wanted = Wanted { chunks, answered };
        Self { realm, wanted, offered: None, decoder: None, corrupt: 0, counts: EndCounts::default() }
    }

    /// Accepts deltas against the bases that the request offers, and if `any_base` such as name theirs. Without this, a delta
    /// ends the answer.
    #[must_use]
    pub fn with_bases(self, bases: Bases, any_base: bool, read: ReadBase) -> Self {
        Self { offered: Some(Offered { bases, any_base, read }), ..self }
    }

    /// Takes a frame; gives what it settles to `out`. `Some` when the answer is complete.
    ///
    /// # Errors
    /// Any [`ReceiverError`]; what was given to `out` before is good all the same.
    pub fn frame(&mut self, frame: Frame, mut out: impl FnMut(Received)) -> Result<Option<EndCounts>, ReceiverError> {
        match frame {
            Frame::Stream(piece) => self.stream(&piece, &mut out)?,
            Frame::Chunk { index, codec, base, raw_len, payload } if codec.is_delta() => {
                let index = self.wanted.check(index, raw_len as usize)?;
                match base {
                    BASE_NAMED => self.named(index, codec, raw_len, &payload, &mut out)?,
                    base => self.delta(index, (codec, base), raw_len, &payload, &mut out)?,
                }
            }
            Frame::Chunk { index, codec, raw_len, payload, .. } => {
                let index = self.wanted.check(index, raw_len as usize)?;
                let encoded = EncodedChunk { id: self.wanted.chunks[index].0, raw_len, codec, payload };
                self.wanted.answered[index] = true;
                match encoded.decode(&self.realm) {
                    Ok(plain) => {
                        count(&mut self.counts, plain.len());
                        out(Received::Chunk { index, plain, encoded: Some(encoded) });
                    }
                    Err(_) => self.wrong(index, &mut out)?,
                }
            }
            Frame::Missing(indexes) => {
                for index in indexes {
                    let place = index as usize;
                    match self.wanted.answered.get_mut(place) {
                        Some(answered) if !*answered => *answered = true,
                        _ => return Err(ReceiverError::Malformed(format!("chunk {index} cannot be missing"))),
                    }
                    self.counts.missing += 1;
                    out(Received::Missing { index: place });
                }
            }
            Frame::End(_) if self.decoder.as_ref().is_some_and(|decoder| !decoder.is_between_records()) => {
                return Err(ReceiverError::Malformed("the stream ends within a chunk".to_owned()));
            }
            Frame::End(_) => return Ok(Some(self.counts)),
            Frame::Refused(refusal) => return Err(ReceiverError::Refused(refusal)),
            Frame::Put(_) | Frame::Sync(_) | Frame::Ack(_) | Frame::Bitmap(_) => {
                return Err(ReceiverError::Malformed("a frame of another service".to_owned()));
            }
        }
        Ok(None)
    }

    fn stream(&mut self, piece: &[u8], out: &mut impl FnMut(Received)) -> Result<(), ReceiverError> {
        let mut decoder = match self.decoder.take() {
            Some(decoder) => decoder,
            None => StreamDecoder::new()?,
        };
        let (wanted, counts, corrupt) =
            (std::cell::RefCell::new(&mut self.wanted), &mut self.counts, &mut self.corrupt);
        let begin = |index: u32, len: usize| wanted.borrow().check(index, len).map(|_| ());
        let done = |index: u32, plain: Bytes| {
            let mut wanted = wanted.borrow_mut();
            let index = wanted.check(index, plain.len())?;
            wanted.answered[index] = true;
            if self.realm.chunk_id(&plain) == wanted.chunks[index].0 {
                count(counts, plain.len());
                out(Received::Chunk { index, plain, encoded: None });
                return Ok(());
            }
            *corrupt += 1;
            out(Received::Corrupt { index });
            if *corrupt >= CORRUPT_MAX { Err(ReceiverError::Corrupt) } else { Ok(()) }
        };
        decoder.feed::<ReceiverError>(piece, begin, done)?;
        self.decoder = Some(decoder);
        Ok(())
    }

    fn delta(
        &mut self,
        index: usize,
        (codec, base): (Codec, u8),
        raw_len: u32,
        body: &[u8],
        out: &mut impl FnMut(Received),
    ) -> Result<(), ReceiverError> {
        let unasked = || ReceiverError::Malformed(format!("chunk {index} comes against a base that was not offered"));
        let offered = self.offered.as_mut().ok_or_else(unasked)?;
        let place = u32::try_from(index).unwrap_or(u32::MAX);
        let (chunks, _) = offered.bases.of(place).nth(usize::from(base)).ok_or_else(unasked)?;
        self.wanted.answered[index] = true;
        let Some(base) = (offered.read)(chunks) else {
            out(Received::Baseless { index });
            return Ok(());
        };
        self.decode(index, (codec, &base), raw_len, body, out)
    }

    /// A delta as the source has it at rest.
    fn named(
        &mut self,
        index: usize,
        codec: Codec,
        raw_len: u32,
        payload: &Bytes,
        out: &mut impl FnMut(Received),
    ) -> Result<(), ReceiverError> {
        let offered = self.offered.as_mut().filter(|offered| offered.any_base).ok_or_else(|| {
            ReceiverError::Malformed(format!("chunk {index} comes against a base of the source's choice"))
        })?;
        self.wanted.answered[index] = true;
        let Ok(delta) = DeltaRecord::from_payload(payload) else { return self.wrong(index, out) };
        match (offered.read)(&delta.base.chunks) {
            None => out(Received::Baseless { index }),
            Some(base) if base.len() == delta.base.len as usize => {
                return self.decode(index, (codec, &base), raw_len, &delta.body, out);
            }
            Some(_) => return self.wrong(index, out),
        }
        Ok(())
    }

    fn decode(
        &mut self,
        index: usize,
        (codec, base): (Codec, &[u8]),
        raw_len: u32,
        body: &[u8],
        out: &mut impl FnMut(Received),
    ) -> Result<(), ReceiverError> {
        // The base was verified here, so what comes out wrong is the source's doing.
        match delta::decode(codec, body, base, raw_len) {
            Ok(plain) if self.realm.chunk_id(&plain) == self.wanted.chunks[index].0 => {
                count(&mut self.counts, plain.len());
                out(Received::Chunk { index, plain, encoded: None });
                Ok(())
            }
            Ok(_) | Err(_) => self.wrong(index, out),
        }
    }

    fn wrong(&mut self, index: usize, out: &mut impl FnMut(Received)) -> Result<(), ReceiverError> {
        self.corrupt += 1;
        out(Received::Corrupt { index });
        if self.corrupt >= CORRUPT_MAX { Err(ReceiverError::Corrupt) } else { Ok(()) }
    }
}

fn count(counts: &mut EndCounts, plain_len: usize) {
    counts.chunks += 1;
    counts.plain_bytes += plain_len as u64;
}

/// Whether a chunk is better sent by itself than in the compressed stream: it is long enough for a sample, which does not
/// compress.
#[must_use]
pub(crate) fn is_incompressible(chunk: &EncodedChunk) -> bool {
    chunk.raw_len >= 16 << 10 && !chunk.may_shrink()
}

#[cfg(test)]
mod tests {
    use causeway_base::RetryClass;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::StreamEncoder;

    fn realm() -> Realm {
        Realm::new("test", [3; 32])
    }

    fn plain(seed: u8, len: usize) -> Bytes {
        (0..len).map(|at| seed.wrapping_mul(31).wrapping_add((at / 3) as u8)).collect::<Vec<u8>>().into()
    }

    /// What a good source answers to a request for `plains`: every third by itself, the rest in the stream.
    fn answer(plains: &[Bytes], piece: usize) -> Vec<Frame> {
        let mut encoder = StreamEncoder::new(1, 17).unwrap();
        let mut frames = Vec::new();
        let mut bytes = Vec::new();
        for (index, plain) in (0..).zip(plains) {
            if index % 3 == 0 {
                let chunk = EncodedChunk::encode(realm().chunk_id(plain), plain.clone(), 3);
                let EncodedChunk { codec, raw_len, payload, .. } = chunk;
                frames.push(Frame::Chunk { index, codec, base: 0, raw_len, payload });
            } else {
                bytes.extend_from_slice(&encoder.push(index, plain).unwrap().unwrap_or_default());
            }
        }
        bytes.extend_from_slice(&encoder.finish().unwrap());
        frames.extend(bytes.chunks(piece).map(|piece| Frame::Stream(Bytes::copy_from_slice(piece))));
        frames.push(Frame::End(EndCounts::default()));
        frames
    }

    fn take(plains: &[Bytes], frames: Vec<Frame>) -> (Vec<Received>, Result<bool, ReceiverError>) {
        let wanted = plains.iter().map(|plain| (realm().chunk_id(plain), None)).collect();
        let mut receiver = Receiver::new(realm(), wanted);
        let mut got = Vec::new();
        for frame in frames {
            match receiver.frame(frame, |received| got.push(received)) {
                Ok(None) => {}
                Ok(Some(_)) => return (got, Ok(true)),
                Err(error) => return (got, Err(error)),
            }
        }
        (got, Ok(false))
    }

    proptest! {
        #[test]
        fn an_answer_comes_whole_however_it_is_cut(lens in prop::collection::vec(1_usize..5000, 1..20), piece in 1_usize..3000) {
            let plains: Vec<Bytes> = (0..).zip(&lens).map(|(seed, len)| plain(seed, *len)).collect();
            let (got, ended) = take(&plains, answer(&plains, piece));
            prop_assert!(ended.unwrap());
            let mut indexes = Vec::new();
            for received in got {
                let Received::Chunk { index, plain, .. } = received else { panic!("{received:?}") };
                prop_assert_eq!(&plain, &plains[index]);
                indexes.push(index);
            }
            indexes.sort_unstable();
            prop_assert_eq!(indexes, (0..plains.len()).collect::<Vec<_>>());
        }

        #[test]
        fn a_damaged_answer_gives_no_wrong_byte(
            lens in prop::collection::vec(1_usize..2000, 1..12),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_u8..8), 1..6),
        ) {
            let plains: Vec<Bytes> = (0..).zip(&lens).map(|(seed, len)| plain(seed, *len)).collect();
            let mut raw: Vec<Vec<u8>> = answer(&plains, 700).iter().map(|frame| frame.pieces().concat()).collect();
            for (frame, at, bit) in flips {
                let frame = frame.index(raw.len());
                let at = at.index(raw[frame].len());
                raw[frame][at] ^= 1 << bit;
            }
            let frames = raw.into_iter().map_while(|bytes| Frame::parse(bytes.into()).ok()).collect();
            let (got, _) = take(&plains, frames);
            for received in got {
                if let Received::Chunk { index, plain, .. } = received {
                    prop_assert_eq!(&plain, &plains[index]);
                }
            }
        }
    }

    /// A receiver of one chunk, which offers `base` for it.
    fn offering(plain: &Bytes, base: Option<Vec<u8>>) -> Receiver {
        let mut bases = Bases::default();
        assert!(bases.push(0, &[ChunkId([1; 32]), ChunkId([2; 32])], 0));
        let read = Box::new(move |chunks: &[ChunkId]| {
            assert_eq!(chunks, [ChunkId([1; 32]), ChunkId([2; 32])]);
            base.clone()
        });
        Receiver::new(realm(), vec![(realm().chunk_id(plain), None)]).with_bases(bases, false, read)
    }

    #[test]
    fn a_delta_that_names_its_base_is_taken_by_who_asked_for_such() {
        let base = plain(3, 40_000);
        let mut new = base.to_vec();
        new[20_000] ^= 1;
        let new = Bytes::from(new);
        let id = ChunkId([9; 32]);
        let made = delta::encode(&new, &[delta::Base::like(&base)], new.len(), 3).unwrap();
        let record = |len: usize| {
            let named = delta::BaseRef { chunks: vec![id], len: len as u32 };
            DeltaRecord::chunk(realm().chunk_id(&new), new.len() as u32, named, made.clone())
        };
        let frame = |payload: Bytes| Frame::Chunk {
            index: 0,
            codec: made.codec,
            base: BASE_NAMED,
            raw_len: new.len() as u32,
            payload,
        };
        let take = |any_base: bool, held: Option<Vec<u8>>, frame: Frame| {
            let read = Box::new(move |chunks: &[ChunkId]| {
                assert_eq!(chunks, [ChunkId([9; 32])]);
                held.clone()
            });
            let wanted = vec![(realm().chunk_id(&new), None)];
            let mut receiver = Receiver::new(realm(), wanted).with_bases(Bases::default(), any_base, read);
            let mut got = Vec::new();
            let ended = receiver.frame(frame, |received| got.push(received));
            (got, ended.map(|_| ()))
        };
        let good = frame(record(base.len()).payload);
        let (got, ended) = take(true, Some(base.to_vec()), good.clone());
        assert!(ended.is_ok());
        assert_eq!(got, [Received::Chunk { index: 0, plain: new.clone(), encoded: None }]);
        assert_eq!(take(true, None, good.clone()).0, [Received::Baseless { index: 0 }]);
        let (got, ended) = take(false, Some(base.to_vec()), good);
        assert!(got.is_empty() && ended.unwrap_err().to_string().contains("of the source's choice"));
        // Another length of the base than it has, a payload that is none, another's body.
        let mut cut = record(base.len()).payload.to_vec();
        cut.truncate(20);
        let other = delta::encode(&base, &[delta::Base::like(&new)], new.len(), 3).unwrap();
        let named = delta::BaseRef { chunks: vec![id], len: base.len() as u32 };
        let swapped = DeltaRecord::chunk(realm().chunk_id(&new), new.len() as u32, named, other).payload;
        for payload in [record(base.len() - 1).payload, cut.into(), swapped] {
            assert_eq!(take(true, Some(base.to_vec()), frame(payload)).0, [Received::Corrupt { index: 0 }]);
        }
    }

    #[test]
    fn a_delta_is_taken_against_what_was_offered_and_nothing_else() {
        let base = plain(3, 40_000);
        let mut new = base.to_vec();
        new[20_000] ^= 1;
        let new = Bytes::from(new);
        let made = delta::encode(&new, &[delta::Base::like(&base)], new.len(), 3).unwrap();
        let frame = |codec, base, raw_len: usize, payload: &Bytes| Frame::Chunk {
            index: 0,
            codec,
            base,
            raw_len: raw_len as u32,
            payload: payload.clone(),
        };
        let good = frame(made.codec, 0, new.len(), &made.body);
        let take = |receiver: &mut Receiver, frame: &Frame| {
            let mut got = Vec::new();
            let ended = receiver.frame(frame.clone(), |received| got.push(received));
            (got, ended.map(|_| ()))
        };
        let held = || Some(base.to_vec());

        let mut receiver = offering(&new, held());
        let (got, ended) = take(&mut receiver, &good);
        assert!(ended.is_ok());
        assert_eq!(got, [Received::Chunk { index: 0, plain: new.clone(), encoded: None }]);
        let (got, ended) = take(&mut receiver, &good);
        assert!(got.is_empty() && ended.unwrap_err().to_string().contains("comes twice"));

        let (got, ended) = take(&mut offering(&new, held()), &frame(made.codec, 1, new.len(), &made.body));
        assert!(got.is_empty() && ended.unwrap_err().to_string().contains("not offered"));
        let (got, ended) = take(&mut offering(&new, None), &good);
        assert!(ended.is_ok());
        assert_eq!(got, [Received::Baseless { index: 0 }]);

        // Wrong bytes, another length, noise, a bomb: the source's doing.
        let other = delta::encode(&base, &[delta::Base::like(&new)], new.len(), 3).unwrap();
        let bomb = Bytes::from(zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap());
        for frame in [
            frame(other.codec, 0, new.len(), &other.body),
            frame(made.codec, 0, 39_999, &made.body),
            frame(Codec::ZstdPrefix, 0, new.len(), &Bytes::from_static(b"noise")),
            frame(Codec::Planes, 0, new.len(), &Bytes::from_static(b"noise")),
            frame(Codec::ZstdPrefix, 0, 1 << 20, &bomb),
        ] {
            let (got, ended) = take(&mut offering(&new, held()), &frame);
            assert!(ended.is_ok());
            assert_eq!(got, [Received::Corrupt { index: 0 }], "{frame:?}");
        }
    }

    #[test]
    fn a_refusal_ends_the_answer_with_its_reason() {
        let refusal = Refusal { class: RetryClass::Transient, message: "busy".to_owned() };
        let (_, ended) = take(&[plain(1, 5)], vec![Frame::Refused(refusal)]);
        assert_eq!(ended.unwrap_err().to_string(), "refused: busy");
    }
}
