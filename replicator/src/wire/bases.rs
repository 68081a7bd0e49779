//! What the asker holds that wanted chunks may be sent against.

use std::collections::HashSet;

use causeway_base::ChunkId;
use causeway_dedup::delta::{RANGE_PIECES_MAX, RANGES_MAX};

use super::RequestError;

/// Most held chunks that a request names: 1 MiB of ids, so that a request fits the transport's 4 MiB with all it may have.
pub const HELD_MAX: usize = 32 << 10;
/// Most hints of a request.
pub const HINTS_MAX: usize = 64 << 10;
/// Bytes of an encoded hint.
const HINT_BYTES: usize = 13;
/// How far back a run of ids is looked for before it is written again.
const LOOK_BACK: usize = 2 * RANGE_PIECES_MAX;

/// A base for one wanted chunk: a run of the held chunks, joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseHint {
    /// The wanted chunk's place in the request.
    pub place: u32,
    /// The run's start among the held chunks.
    pub first: u32,
    /// How many.
    pub count: u8,
    /// Where in the joined bytes the wanted chunk's first byte would be, had nothing moved.
    pub align: i32,
}

/// Chunks that the asker holds, and which wanted chunk each run of them may be a base for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bases {
    held: Vec<ChunkId>,
    hints: Vec<BaseHint>,
}

impl Bases {
    /// Adds a base for the chunk at `place`. Places must not fall; what would break a bound is left out, and false returned.
    pub fn push(&mut self, place: u32, chunks: &[ChunkId], align: i32) -> bool {
        let same = self.hints.iter().rev().take_while(|hint| hint.place == place).count();
        let falls = self.hints.last().is_some_and(|last| last.place > place);
        if falls || same >= RANGES_MAX || chunks.is_empty() || chunks.len() > RANGE_PIECES_MAX {
            return false;
        }
        let first = self.find(chunks);
        let known = self.held.len() - first;
        if first + chunks.len() > HELD_MAX || self.hints.len() == HINTS_MAX {
            return false;
        }
        self.held.extend_from_slice(chunks.get(known..).unwrap_or_default());
        let count = u8::try_from(chunks.len()).unwrap_or(u8::MAX);
        self.hints.push(BaseHint { place, first: u32::try_from(first).unwrap_or(u32::MAX), count, align });
        true
    }

    /// Where the run stands already, or as much of its start as ends the list.
    fn find(&self, chunks: &[ChunkId]) -> usize {
        let from = self.held.len().saturating_sub(LOOK_BACK);
        let matches = |at: &usize| self.held[*at..].iter().zip(chunks).all(|(held, chunk)| held == chunk);
        (from..self.held.len()).find(matches).unwrap_or(self.held.len())
    }

    /// Those that need none of `gone`.
    #[must_use]
    pub fn without(&self, gone: &[ChunkId]) -> Self {
        let gone: HashSet<&ChunkId> = gone.iter().collect();
        let mut kept = Self::default();
        for hint in &self.hints {
            let first = hint.first as usize;
            let run = self.held.get(first..first + usize::from(hint.count)).unwrap_or_default();
            if run.iter().all(|id| !gone.contains(id)) {
                kept.push(hint.place, run, hint.align);
            }
        }
        kept
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hints.is_empty()
    }

    /// The held chunks that are named.
    #[must_use]
    pub fn held(&self) -> &[ChunkId] {
        &self.held
    }

    /// The bases for the chunk at `place`, in the order of their numbers: chunks and alignment.
    pub fn of(&self, place: u32) -> impl Iterator<Item = (&[ChunkId], i32)> {
        let from = self.hints.partition_point(|hint| hint.place < place);
        self.hints[from..].iter().take_while(move |hint| hint.place == place).filter_map(|hint| {
            let first = hint.first as usize;
            Some((self.held.get(first..first + usize::from(hint.count))?, hint.align))
        })
    }

    /// Appends held ids and hints.
    pub(super) fn write(&self, out: &mut impl bytes::BufMut) {
        for id in &self.held {
            out.put_slice(id.as_bytes());
        }
        for hint in &self.hints {
            out.put_u32_le(hint.place);
            out.put_u32_le(hint.first);
            out.put_u8(hint.count);
            out.put_i32_le(hint.align);
        }
    }

    /// Encoded length.
    pub(super) fn encoded_len(&self) -> usize {
        self.held.len() * ChunkId::LEN + self.hints.len() * HINT_BYTES
    }

    /// Reads what [`Bases::write`] wrote: `held` ids, then hints to the end. All bounds are checked.
    pub(super) fn read(bytes: &[u8], held: usize, wanted: usize) -> Result<Self, RequestError> {
        if held > HELD_MAX {
            return Err(RequestError::Field("too many held chunks"));
        }
        let cut_off = || RequestError::Malformed("the bases are cut off".to_owned());
        let (ids, hints) = bytes.split_at_checked(held * ChunkId::LEN).ok_or_else(cut_off)?;
        if !hints.len().is_multiple_of(HINT_BYTES) || hints.len() / HINT_BYTES > (wanted * RANGES_MAX).min(HINTS_MAX) {
            return Err(RequestError::Malformed("the hints have another length".to_owned()));
        }
        let held = ids.chunks_exact(ChunkId::LEN).filter_map(ChunkId::from_slice).collect();
        let word = |at: &[u8]| at.iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let hint = |bytes: &[u8]| BaseHint {
            place: word(&bytes[..4]),
            first: word(&bytes[4..8]),
            count: bytes[8],
            align: word(&bytes[9..13]).cast_signed(),
        };
        let bases = Self { held, hints: hints.chunks_exact(HINT_BYTES).map(hint).collect() };
        bases.check(wanted)?;
        Ok(bases)
    }

    /// Whether it suits a request of so many chunks.
    pub(super) fn check(&self, wanted: usize) -> Result<(), RequestError> {
        if self.held.len() > HELD_MAX || self.hints.len() > HINTS_MAX {
            return Err(RequestError::Field("too many held chunks or hints"));
        }
        let fits = |hint: &BaseHint| {
            let count = usize::from(hint.count);
            (hint.place as usize) < wanted
                && (1..=RANGE_PIECES_MAX).contains(&count)
                && hint.first as usize + count <= self.held.len()
        };
        if !self.hints.iter().all(fits) {
            return Err(RequestError::Field("a base is out of its range"));
        }
        // With RANGES_MAX between them, two of one place would be one too many.
        let apart = self.hints.iter().zip(self.hints.iter().skip(RANGES_MAX)).all(|(one, two)| one.place < two.place);
        if !apart || !self.hints.is_sorted_by_key(|hint| hint.place) {
            return Err(RequestError::Field("the bases are out of order"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u8) -> ChunkId {
        ChunkId([n; 32])
    }

    #[test]
    fn neighbours_share_what_is_held() {
        let mut bases = Bases::default();
        assert!(bases.push(0, &[id(1), id(2)], 0));
        assert!(bases.push(0, &[id(1), id(2)], -5));
        assert!(bases.push(0, &[id(2)], 1), "a third");
        assert!(!bases.push(0, &[id(7)], 0), "a fourth");
        assert!(bases.push(3, &[id(2), id(3)], 7));
        assert!(!bases.push(2, &[id(1)], 0), "places fall");
        assert!(!bases.push(4, &[], 0));
        assert!(!bases.push(4, &[id(9); RANGE_PIECES_MAX + 1], 0));
        assert_eq!(bases.held(), [id(1), id(2), id(3)]);
        assert_eq!(bases.of(3).collect::<Vec<_>>(), [(&[id(2), id(3)][..], 7)]);
        assert_eq!(bases.of(0).map(|(_, align)| align).collect::<Vec<_>>(), [0, -5, 1]);
        assert_eq!(bases.of(1).count(), 0);
        assert_eq!(bases.without(&[id(3)]).hints, bases.hints[..3]);
        assert!(bases.without(&[id(2)]).is_empty());
        let mut bytes = Vec::new();
        bases.write(&mut bytes);
        assert_eq!(bytes.len(), bases.encoded_len());
        assert_eq!(Bases::read(&bytes, 3, 4), Ok(bases));
        assert!(Bases::read(&bytes, 3, 3).is_err(), "place 3 of 3");
        assert!(Bases::read(&bytes, 4, 4).is_err());
        assert!(Bases::read(&bytes, usize::MAX / 64, 4).is_err());
    }

    proptest! {
        #[test]
        fn what_is_pushed_comes_back(runs in prop::collection::vec((0_u32..4, prop::collection::vec(0_u8..6, 1..5), any::<i32>()), 0..40)) {
            let mut bases = Bases::default();
            let (mut place, mut kept) = (0, Vec::new());
            for (step, run, align) in &runs {
                place += step;
                let run: Vec<ChunkId> = run.iter().map(|n| id(*n)).collect();
                if bases.push(place, &run, *align) {
                    kept.push((place, run, *align));
                }
            }
            let mut bytes = Vec::new();
            bases.write(&mut bytes);
            let bases = Bases::read(&bytes, bases.held().len(), place as usize + 1).unwrap();
            let all: Vec<_> = (0..=place).flat_map(|place| bases.of(place).map(move |(run, align)| (place, run.to_vec(), align))).collect();
            prop_assert_eq!(all, kept);
        }

        #[test]
        fn noise_is_an_error_or_in_bounds(bytes in prop::collection::vec(any::<u8>(), 0..200), held in 0_usize..5, wanted in 0_usize..5) {
            if let Ok(bases) = Bases::read(&bytes, held, wanted) {
                for place in 0..5 {
                    prop_assert!(bases.of(place).count() <= RANGES_MAX);
                }
            }
        }
    }
}
