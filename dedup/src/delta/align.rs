//! Which bytes of a file's previous version lie where a new chunk does.

use std::collections::HashMap;
use std::ops::Range;

use causeway_base::ChunkId;

use super::BASE_BYTES_MAX;
use crate::manifest::{NodeRef, Placed};

/// Ranges given for a chunk: one aligned with what precedes the change, one with what follows it, and a wide one.
pub const RANGES_MAX: usize = 3;
/// Most pieces of a range: a wide one at the smallest average, 16 KiB.
pub const RANGE_PIECES_MAX: usize = 128;
/// Of two ranges that together have no more bytes, one is made.
const NEAR_BYTES_MAX: u64 = 512 << 10;
/// A range for chunks that may have come from further away is made as long as this.
const WIDE_BYTES_MAX: u64 = 2 << 20;
/// So many chunks in a gap make it likely that something moved. Fewer are mostly edits, for which a wide range only makes the
/// request longer.
const WIDE_FROM: usize = 2;

/// A piece of a version of a file: an extent, or what a manifest node covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its chunk; `None` for a hole.
    pub id: Option<ChunkId>,
    /// Where in the file it starts.
    pub offset: u64,
    /// Bytes of the file that it covers, at least 1.
    pub len: u64,
}

impl Piece {
    /// Where it ends.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// A manifest node that begins at `offset`.
    #[must_use]
    pub const fn node(node: &NodeRef, offset: u64) -> Self {
        Self { id: Some(node.id), offset, len: node.span }
    }
}

impl From<&Placed> for Piece {
    fn from(placed: &Placed) -> Self {
        Self { id: placed.extent.chunk_id(), offset: placed.offset, len: placed.extent.len() }
    }
}

/// Neighbouring chunks of the old version: a base for a new chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseRange {
    /// Which old pieces; each is a chunk, and begins where the one before ends.
    pub pieces: Range<usize>,
    /// Where in them the new chunk's first byte would be; see [`Base::align`](super::Base::align).
    pub align: i64,
}

/// For each new piece that is in no place of the old version, the old ranges where it may have been: at most
/// [`RANGES_MAX`], the likeliest first, none if there was nothing. `old` and `new` are whole versions in file order; for parts
/// of versions see [`align_between`].
///
/// Chunks that both versions have once, and in the same order, are anchors. Between two anchors the new version may have
/// more or fewer bytes than the old one; a chunk there is looked for at its distance from the anchor before, and from the one
/// after. Where more than an edit was made, the last range is a wide one, in which what moved is found. Pure; time `n log n` of the pieces, memory about 100 bytes a piece. A range has at most [`RANGE_PIECES_MAX`]
/// pieces and [`BASE_BYTES_MAX`] bytes.
#[must_use]
pub fn align(old: &[Piece], new: &[Piece]) -> Vec<(usize, Vec<BaseRange>)> {
    let end = |pieces: &[Piece]| pieces.last().map_or(0, |last| last.end() as i64);
    align_between(old, new, (0, end(old).saturating_sub(end(new))))
}

/// [`align`] for parts of two versions, which may leave others out between them. `shifts` say how much further on in the old
/// version the bytes lie that are before the new part, and those that are after it.
#[must_use]
pub fn align_between(old: &[Piece], new: &[Piece], shifts: (i64, i64)) -> Vec<(usize, Vec<BaseRange>)> {
    let places = places(old);
    let mut found = Vec::new();
    let (mut new_from, mut old_from) = (0, 0);
    let ends = std::iter::once((new.len(), old.len()));
    for (new_to, old_to) in anchors(old, new, &places).into_iter().chain(ends) {
        gap(old, new, &places, trim(old, new, old_from..old_to, new_from..new_to), shifts, &mut found);
        (new_from, old_from) = (new_to + 1, old_to + 1);
    }
    found
}

/// Where each old chunk is; `None` if at several places.
type Places = HashMap<ChunkId, Option<usize>>;

fn places(pieces: &[Piece]) -> Places {
    let mut places = Places::with_capacity(pieces.len());
    for (place, id) in pieces.iter().enumerate().filter_map(|(place, piece)| Some((place, piece.id?))) {
        places.entry(id).and_modify(|place| *place = None).or_insert(Some(place));
    }
    places
}

/// Pairs (new, old) of the same chunk, both rising: the longest such list of chunks that are unique in both versions.
fn anchors(old: &[Piece], new: &[Piece], old_places: &Places) -> Vec<(usize, usize)> {
    let new_places = places(new);
    let unique = |(place, piece): (usize, &Piece)| {
        let id = piece.id?;
        let old_place = (*old_places.get(&id)?)?;
        (new_places.get(&id) == Some(&Some(place)) && old[old_place].len == piece.len).then_some((place, old_place))
    };
    let pairs: Vec<(usize, usize)> = new.iter().enumerate().filter_map(unique).collect();
    // `tails[n]` ends the rising list of n + 1 pairs whose last old place is lowest; `before` links each list's pairs.
    let mut tails: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(pairs.len());
    for (place, (_, old_place)) in pairs.iter().enumerate() {
        let len = tails.partition_point(|tail| pairs[*tail].1 < *old_place);
        before.push(len.checked_sub(1).map(|last| tails[last]));
        if len == tails.len() { tails.push(place) } else { tails[len] = place }
    }
    let mut anchors = Vec::with_capacity(tails.len());
    let mut at = tails.last().copied();
    while let Some(place) = at {
        anchors.push(pairs[place]);
        at = before[place];
    }
    anchors.reverse();
    anchors
}

/// A gap without the chunks at its start and its end that are the same (but not unique, so no anchors).
fn trim(old: &[Piece], new: &[Piece], mut in_old: Range<usize>, mut in_new: Range<usize>) -> Gap {
    let same = |one: usize, two: usize| old[one].id == new[two].id && old[one].len == new[two].len;
    while !in_old.is_empty() && !in_new.is_empty() && same(in_old.start, in_new.start) {
        in_old.start += 1;
        in_new.start += 1;
    }
    while !in_old.is_empty() && !in_new.is_empty() && same(in_old.end - 1, in_new.end - 1) {
        in_old.end -= 1;
        in_new.end -= 1;
    }
    Gap { old: in_old, new: in_new }
}

/// What differs between two anchors.
struct Gap {
    old: Range<usize>,
    new: Range<usize>,
}

fn gap(
    old: &[Piece],
    new: &[Piece],
    places: &Places,
    gap: Gap,
    shifts: (i64, i64),
    found: &mut Vec<(usize, Vec<BaseRange>)>,
) {
    let before = gap.old.start.checked_sub(1).zip(gap.new.start.checked_sub(1));
    let by_start = before.map_or(shifts.0, |(one, two)| (old[one].end() as i64).saturating_sub(new[two].end() as i64));
    let after = old.get(gap.old.end).zip(new.get(gap.new.end));
    let by_end = after.map_or(shifts.1, |(one, two)| (one.offset as i64).saturating_sub(two.offset as i64));
    let gap_len = gap.new.len();
    for place in gap.new {
        let piece = &new[place];
        if piece.id.is_none_or(|id| places.contains_key(&id)) {
            continue;
        }
        let shifts = [by_start, by_end];
        let under = shifts.map(|shift| beneath(old, gap.old.clone(), piece, shift));
        let near = match &under {
            [Some(one), Some(two)] => {
                let both = one.start.min(two.start)..one.end.max(two.end);
                whole(old, &both).filter(|bytes| *bytes <= NEAR_BYTES_MAX).map(|_| both)
            }
            _ => None,
        };
        let range = |pieces: Range<usize>, shift: i64| {
            let align = (piece.offset as i64).saturating_add(shift).saturating_sub(old[pieces.start].offset as i64);
            BaseRange { pieces, align }
        };
        let mut ranges = Vec::with_capacity(RANGES_MAX);
        for (under, shift) in under.into_iter().zip(shifts) {
            let Some(under) = under else { continue };
            let range = range(near.clone().unwrap_or(under), shift);
            if !ranges.contains(&range) {
                ranges.push(range);
            }
        }
        // In a gap of one chunk: if much was taken out, or put in.
        let moved = gap_len >= WIDE_FROM || by_start.abs_diff(by_end) > piece.len / 2;
        // Around what is near, or where something was put in.
        let put_in = gap.old.start.min(old.len().saturating_sub(1));
        let around = ranges.first().map_or(put_in..put_in + 1, |range| range.pieces.clone());
        if moved && let Some(wide) = wide(old, around) {
            ranges.push(range(wide, by_end));
        }
        found.push((place, ranges));
    }
}

/// A range with as much before as after it; `None` if nothing can be added.
fn wide(old: &[Piece], mut range: Range<usize>) -> Option<Range<usize>> {
    let fits = |range: &Range<usize>| whole(old, range).is_some_and(|bytes| bytes <= WIDE_BYTES_MAX);
    let mut grown = false;
    loop {
        let before = range.start.checked_sub(1).map(|start| start..range.end).filter(fits);
        range = before.clone().unwrap_or(range);
        let after = Some(range.start..range.end + 1).filter(fits);
        range = after.clone().unwrap_or(range);
        if before.is_none() && after.is_none() {
            return grown.then_some(range);
        }
        grown = true;
    }
}

/// The bytes of these pieces if they are a range: chunks that follow each other, not too many and not too long.
fn whole(old: &[Piece], range: &Range<usize>) -> Option<u64> {
    let pieces = old.get(range.clone())?;
    let bytes = pieces.last()?.end() - pieces.first()?.offset;
    let follow = pieces.windows(2).all(|two| two[0].end() == two[1].offset);
    let fits = pieces.len() <= RANGE_PIECES_MAX && bytes <= BASE_BYTES_MAX as u64;
    (fits && follow && pieces.iter().all(|piece| piece.id.is_some())).then_some(bytes)
}

/// The old chunks under a new piece that is moved by `shift`: of those in the gap the run, without holes and parts that were
/// left out, that lies under most of it.
fn beneath(old: &[Piece], gap: Range<usize>, piece: &Piece, shift: i64) -> Option<Range<usize>> {
    let from = (piece.offset as i64).saturating_add(shift);
    let to = from.saturating_add(piece.len as i64);
    let under = |at: usize| (old[at].end() as i64).min(to) - (old[at].offset as i64).max(from);
    let first = gap.start + old[gap.clone()].partition_point(|piece| piece.end() as i64 <= from);
    let mut best: Option<(i64, Range<usize>)> = None;
    let mut run: Option<(i64, Range<usize>)> = None;
    for at in (first..gap.end).take_while(|at| (old[*at].offset as i64) < to) {
        let continues =
            |range: &Range<usize>| old[range.end - 1].end() == old[at].offset && range.len() < RANGE_PIECES_MAX;
        let fits = |range: &Range<usize>| old[at].end() - old[range.start].offset <= BASE_BYTES_MAX as u64;
        run = match run.take() {
            _ if old[at].id.is_none() => None,
            Some((bytes, range)) if continues(&range) && fits(&range) => Some((bytes + under(at), range.start..at + 1)),
            _ => Some((under(at), at..at + 1)),
        };
        if let Some((bytes, range)) = &run
            && best.as_ref().is_none_or(|(most, _)| bytes > most)
        {
            best = Some((*bytes, range.clone()));
        }
    }
    best.map(|(_, pieces)| pieces)
}
