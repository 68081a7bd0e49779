//! The edited file as a sequence of parts, in order: what of an edit's plan and the old manifest comes next.

use causeway_base::ChunkId;

use super::plan::{Piece, Plan};
use super::{Old, RechunkError, Rechunker};
use crate::Extent;
use crate::manifest::ManifestError;
use crate::manifest::cursor::{Cursor, Following};
use crate::sparse::HOLE_BYTES_MIN;

/// A file system gives and takes space in blocks: a hole that an edit makes starts and ends at a multiple of this.
const BLOCK_BYTES: u64 = 4096;
/// If so much of a hole is left as it was, it stays a hole, whatever happens to its end.
const HOLE_MARGIN_BYTES: u64 = HOLE_BYTES_MIN + BLOCK_BYTES;
/// New bytes in one part.
const NEW_BYTES_MAX: u64 = 256 << 10;

/// A part of the edited file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Bytes `from..to` of a chunk of the old file.
    Chunk {
        id: ChunkId,
        len: u32,
        from: u32,
        to: u32,
        /// A full pass would cut exactly this chunk if it cut at its start.
        kept: bool,
    },
    /// New bytes from a position on.
    New { from: u64, len: u64 },
    /// Zeros that are to be chunked.
    Zeros { len: u64 },
    /// Zeros that are not; the only part that ends a run.
    Hole { len: u64 },
}

impl Part {
    pub(super) const fn len(&self) -> u64 {
        match *self {
            Self::Chunk { from, to, .. } => (to - from) as u64,
            Self::New { len, .. } | Self::Zeros { len } | Self::Hole { len } => len,
        }
    }

    /// The part without its first bytes.
    pub(super) fn behind(self, bytes: u64) -> Self {
        match self {
            // Less than the part's length, which is a chunk's at most.
            Self::Chunk { id, len, from, to, .. } => {
                Self::Chunk { id, len, from: from + bytes as u32, to, kept: false }
            }
            Self::New { from, len } => Self::New { from: from + bytes, len: len - bytes },
            Self::Zeros { len } => Self::Zeros { len: len - bytes },
            Self::Hole { len } => Self::Hole { len: len - bytes },
        }
    }
}

/// A part with what tells whether an edge of a hole is an old one.
#[derive(Clone, Copy, Debug)]
struct Raw {
    part: Part,
    /// Where it lay in the old file: from, to.
    old: Option<(u64, u64)>,
}

/// Where the next part comes from.
#[derive(Debug)]
pub(super) struct Ahead {
    plan: Plan,
    cursor: Cursor,
    /// Found behind a hole, and not given yet.
    found: Option<Raw>,
    /// Where all that was given ends, in the edited file.
    at: u64,
    /// Where the part given last ended in the old file, if it was of that.
    old_end: Option<u64>,
}

impl Ahead {
    pub(super) fn new(plan: Plan, cursor: Cursor) -> Self {
        Self { plan, cursor, found: None, at: 0, old_end: None }
    }
}

impl<H: Old> Rechunker<'_, H> {
    /// Puts the next parts at the end of `parts`; `false` at the end of the file.
    pub(super) fn pull(&mut self) -> Result<bool, RechunkError<H::Error>> {
        let Some(raw) = self.next_raw()? else { return Ok(false) };
        if let Part::Hole { len } = raw.part {
            self.pull_hole(raw, len)?;
        } else {
            self.give(raw);
        }
        Ok(true)
    }

    fn give(&mut self, raw: Raw) {
        self.ahead.at += raw.part.len();
        self.ahead.old_end = raw.old.map(|(_, end)| end);
        self.parts.push_back(raw.part);
    }

    /// Holes that meet are one, which starts and ends at blocks where an edit made it, and is data if it is short then.
    fn pull_hole(&mut self, first: Raw, len: u64) -> Result<(), RechunkError<H::Error>> {
        let (mut last, mut len) = (first, len);
        let behind = loop {
            match self.next_raw()? {
                Some(raw @ Raw { part: Part::Hole { len: more }, .. }) => {
                    last = raw;
                    len += more;
                }
                behind => break behind,
            }
        };
        let (start, end) = (self.ahead.at, self.ahead.at + len);
        let old_start = first.old.is_some_and(|(from, _)| self.ahead.old_end == Some(from));
        let old_end = last.old.is_some_and(|(_, to)| behind.is_some_and(|raw| raw.old.is_some_and(|old| old.0 == to)));
        let hole_start = if start == 0 || old_start { start } else { start.next_multiple_of(BLOCK_BYTES) };
        let hole_end = if behind.is_none() || old_end { end } else { end - end % BLOCK_BYTES };
        if hole_end.saturating_sub(hole_start) < HOLE_BYTES_MIN {
            self.give(Raw { part: Part::Zeros { len }, old: last.old });
        } else {
            let before = Part::Zeros { len: hole_start - start };
            let after = Part::Zeros { len: end - hole_end };
            for part in [before, Part::Hole { len: hole_end - hole_start }, after] {
                if part.len() > 0 {
                    self.give(Raw { part, old: last.old });
                }
            }
        }
        self.ahead.found = behind;
        Ok(())
    }

    fn next_raw(&mut self) -> Result<Option<Raw>, RechunkError<H::Error>> {
        if let Some(found) = self.ahead.found.take() {
            return Ok(Some(found));
        }
        let ahead = &mut self.ahead;
        let Some(piece) = ahead.plan.pieces.front_mut() else { return Ok(None) };
        let raw = match piece {
            Piece::Hole { len } => Raw { part: Part::Hole { len: *len }, old: None },
            Piece::New { from, to } => {
                let (at, len) = (*from, (*to - *from).min(NEW_BYTES_MAX));
                *from += len;
                if from < to {
                    return Ok(Some(Raw { part: Part::New { from: at, len }, old: None }));
                }
                Raw { part: Part::New { from: at, len }, old: None }
            }
            Piece::Old { from, to } => {
                let (at, end) = (*from, *to);
                let raw = self.old(at, end)?;
                let next = at + raw.part.len();
                if next < end {
                    if let Some(Piece::Old { from, .. }) = self.ahead.plan.pieces.front_mut() {
                        *from = next;
                    }
                    return Ok(Some(raw));
                }
                raw
            }
        };
        self.ahead.plan.pieces.pop_front();
        Ok(Some(raw))
    }

    /// The part at `at` of the old file, which is unchanged from there to `end`.
    fn old(&mut self, at: u64, end: u64) -> Result<Raw, RechunkError<H::Error>> {
        let placed = loop {
            self.ahead.cursor.seek(at);
            match self.ahead.cursor.extent() {
                Some(placed) => break placed,
                None if self.ahead.cursor.node().is_some() => self.open_node()?,
                None => {
                    let found = self.ahead.cursor.offset();
                    return Err(ManifestError::Size { claimed: end, found }.into());
                }
            }
        };
        let to = placed.end().min(end);
        let old = Some((at, to));
        let part = match placed.extent {
            Extent::Hole { .. } => Part::Hole { len: to - at },
            Extent::Chunk { id, len } => {
                let kept = at == placed.offset && self.kept(placed.end(), end);
                // Both are within a chunk, whose length has 32 bits.
                Part::Chunk { id, len, from: (at - placed.offset) as u32, to: (to - placed.offset) as u32, kept }
            }
        };
        Ok(Raw { part, old })
    }

    /// Whether the chunk that ends at `chunk_end` ends there in the edited file too, if it is cut at its start; the old file
    /// is unchanged up to `end`.
    ///
    /// Whether a chunk ends depends on the byte behind it, and on whether the run has another one behind that (the scan takes
    /// two bytes a step); the last chunk of a run depends on the run's end.
    fn kept(&self, chunk_end: u64, end: u64) -> bool {
        if self.to_the_end(end) {
            return true;
        }
        let margin = match self.ahead.cursor.following() {
            Following::Chunk => 2,
            Following::Hole => HOLE_MARGIN_BYTES,
            Following::Unopened => 2 + HOLE_MARGIN_BYTES,
            Following::End => return false,
        };
        chunk_end + margin <= end
    }

    /// Whether what is unchanged up to `end` is so up to the end of both files.
    fn to_the_end(&self, end: u64) -> bool {
        self.ahead.plan.pieces.len() == 1 && end == self.ahead.plan.old_size
    }

    /// Takes over the node that starts where the file stands now, if it is certain that a full pass would make the same.
    /// Only when `parts` is empty.
    pub(super) fn take_node(&mut self) -> Result<bool, RechunkError<H::Error>> {
        if self.ahead.found.is_some() {
            return Ok(false);
        }
        let Some(Piece::Old { from, to }) = self.ahead.plan.pieces.front().copied() else { return Ok(false) };
        loop {
            self.ahead.cursor.seek(from);
            if self.ahead.cursor.offset() != from {
                return Ok(false);
            }
            let Some(node) = self.ahead.cursor.node() else { return Ok(false) };
            let node_end = from.saturating_add(node.span);
            let unchanged = node_end.saturating_add(2 + HOLE_MARGIN_BYTES) <= to || self.to_the_end(to);
            if node_end <= to && unchanged && self.builder.takes_node(node.level) {
                let emitted = &mut self.emitted;
                self.builder.push_node(&node, |id, plain| emitted.push((id, plain)))?;
                self.ahead.cursor.skip_node();
                self.ahead.at += node.span;
                self.ahead.old_end = Some(node_end);
                self.stats.nodes_kept += 1;
                match self.ahead.plan.pieces.front_mut() {
                    Some(Piece::Old { from, to }) if node_end < *to => *from = node_end,
                    _ => drop(self.ahead.plan.pieces.pop_front()),
                }
                return Ok(true);
            }
            if node.level == 0 {
                return Ok(false);
            }
            self.open_node()?;
        }
    }

    /// Opens the node at the cursor.
    fn open_node(&mut self) -> Result<(), RechunkError<H::Error>> {
        let Some(node) = self.ahead.cursor.node() else { return Ok(()) };
        let plain = self.old.chunk(node.id).map_err(RechunkError::Old)?;
        self.stats.nodes_read += 1;
        self.stats.node_bytes_read += plain.len() as u64;
        Ok(self.ahead.cursor.open_node(&plain)?)
    }
}
