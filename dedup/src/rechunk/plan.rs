//! What a file is to be after an edit, in terms of what it was.

use std::collections::VecDeque;

use crate::manifest::FILE_BYTES_MAX;

/// A part of the edited file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Bytes of the file as it was.
    Old { from: u64, to: u64 },
    /// New bytes, by their position among all new bytes.
    New { from: u64, to: u64 },
    /// Zeros that nothing was written to.
    Hole { len: u64 },
}

impl Piece {
    const fn len(self) -> u64 {
        match self {
            Self::Old { from, to } | Self::New { from, to } => to - from,
            Self::Hole { len } => len,
        }
    }

    const fn split(self, at: u64) -> (Self, Self) {
        match self {
            Self::Old { from, to } => (Self::Old { from, to: from + at }, Self::Old { from: from + at, to }),
            Self::New { from, to } => (Self::New { from, to: from + at }, Self::New { from: from + at, to }),
            Self::Hole { len } => (Self::Hole { len: at }, Self::Hole { len: len - at }),
        }
    }
}

/// Why an edit cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The edit starts behind the end of the file.
    #[error("offset {offset} is behind the end of the file, which has {size} bytes")]
    BehindEnd {
        /// Where the edit starts.
        offset: u64,
        /// The file's size.
        size: u64,
    },
    /// More bytes than a file may have.
    #[error("a file of more than {FILE_BYTES_MAX} bytes")]
    FileTooLarge,
}

/// Edits of one file. Each one sees the file as the ones before left it.
///
/// New bytes are named by their position among all new bytes, wherever the caller keeps them; the plan never holds any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(super) old_size: u64,
    pub(super) pieces: VecDeque<Piece>,
    size: u64,
}

impl Plan {
    /// A file of `size` bytes, unchanged.
    #[must_use]
    pub fn new(size: u64) -> Self {
        let pieces = if size == 0 { VecDeque::new() } else { [Piece::Old { from: 0, to: size }].into() };
        Self { old_size: size, pieces, size }
    }

    /// Length of the file after the edits so far, in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Writes `len` new bytes, from position `from` of the new bytes on, over what is at `offset`. A gap behind the end
    /// becomes a hole; an empty write changes nothing.
    ///
    /// # Errors
    /// [`PlanError::FileTooLarge`]; nothing is changed then.
    pub fn write(&mut self, offset: u64, from: u64, len: u64) -> Result<(), PlanError> {
        if len == 0 {
            return Ok(());
        }
        let end = offset.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX).ok_or(PlanError::FileTooLarge)?;
        let to = from.checked_add(len).ok_or(PlanError::FileTooLarge)?;
        if offset > self.size {
            self.truncate(offset)?;
        }
        let removed = end.min(self.size) - offset;
        self.splice(offset, removed, Piece::New { from, to });
        Ok(())
    }

    /// Puts `len` new bytes, from position `from` of the new bytes on, before what is at `offset`.
    ///
    /// # Errors
    /// [`PlanError`]; nothing is changed then.
    pub fn insert(&mut self, offset: u64, from: u64, len: u64) -> Result<(), PlanError> {
        if offset > self.size {
            return Err(PlanError::BehindEnd { offset, size: self.size });
        }
        self.size.checked_add(len).filter(|size| *size <= FILE_BYTES_MAX).ok_or(PlanError::FileTooLarge)?;
        let to = from.checked_add(len).ok_or(PlanError::FileTooLarge)?;
        self.splice(offset, 0, Piece::New { from, to });
        Ok(())
    }

    /// Takes `len` bytes out, or as many as there are.
    pub fn remove(&mut self, offset: u64, len: u64) {
        let offset = offset.min(self.size);
        self.splice(offset, len.min(self.size - offset), Piece::Hole { len: 0 });
    }

    /// Makes the file `size` bytes long: cuts it, or lengthens it by a hole.
    ///
    /// # Errors
    /// [`PlanError::FileTooLarge`]; nothing is changed then.
    pub fn truncate(&mut self, size: u64) -> Result<(), PlanError> {
        if size > FILE_BYTES_MAX {
            return Err(PlanError::FileTooLarge);
        }
        if size < self.size {
            self.remove(size, self.size - size);
        } else {
            self.splice(self.size, 0, Piece::Hole { len: size - self.size });
        }
        Ok(())
    }

    /// Replaces `removed` bytes at `offset`, both within the file.
    fn splice(&mut self, offset: u64, removed: u64, with: Piece) {
        let (start, end) = (self.boundary(offset), self.boundary(offset + removed));
        let tail = self.pieces.split_off(end);
        self.pieces.truncate(start);
        self.push(with);
        for piece in tail {
            self.push(piece);
        }
        self.size = self.size - removed + with.len();
    }

    /// The number of the piece that starts at `offset`, after cutting one in two if need be.
    fn boundary(&mut self, offset: u64) -> usize {
        let mut at = 0;
        for index in 0..self.pieces.len() {
            let piece = self.pieces[index];
            if at == offset {
                return index;
            }
            if offset < at + piece.len() {
                let (before, after) = piece.split(offset - at);
                self.pieces[index] = before;
                self.pieces.insert(index + 1, after);
                return index + 1;
            }
            at += piece.len();
        }
        self.pieces.len()
    }

    /// Appends a piece, as a part of the last one if it continues that.
    fn push(&mut self, piece: Piece) {
        if piece.len() == 0 {
            return;
        }
        match (self.pieces.back_mut(), piece) {
            (Some(Piece::Old { to, .. }), Piece::Old { from, to: end }) if *to == from => *to = end,
            (Some(Piece::New { to, .. }), Piece::New { from, to: end }) if *to == from => *to = end,
            (Some(Piece::Hole { len }), Piece::Hole { len: more }) => *len += more,
            _ => self.pieces.push_back(piece),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(plan: &Plan) -> Vec<Piece> {
        let sum: u64 = plan.pieces.iter().map(|piece| piece.len()).sum();
        assert_eq!(sum, plan.size());
        plan.pieces.iter().copied().collect()
    }

    #[test]
    fn edits_are_seen_by_those_after() {
        let mut plan = Plan::new(100);
        plan.write(10, 0, 5).unwrap();
        plan.write(12, 5, 100).unwrap();
        assert_eq!(
            pieces(&plan),
            [Piece::Old { from: 0, to: 10 }, Piece::New { from: 0, to: 2 }, Piece::New { from: 5, to: 105 }]
        );
        plan.truncate(11).unwrap();
        plan.insert(0, 200, 3).unwrap();
        assert_eq!(
            pieces(&plan),
            [Piece::New { from: 200, to: 203 }, Piece::Old { from: 0, to: 10 }, Piece::New { from: 0, to: 1 }]
        );
        plan.remove(0, 3);
        plan.remove(10, u64::MAX);
        assert_eq!(pieces(&plan), [Piece::Old { from: 0, to: 10 }]);
    }

    #[test]
    fn gaps_are_holes_and_bounds_hold() {
        let mut plan = Plan::new(0);
        plan.write(50, 0, 1).unwrap();
        plan.truncate(60).unwrap();
        plan.truncate(70).unwrap();
        assert_eq!(pieces(&plan), [Piece::Hole { len: 50 }, Piece::New { from: 0, to: 1 }, Piece::Hole { len: 19 }]);
        assert_eq!(plan.insert(71, 0, 1), Err(PlanError::BehindEnd { offset: 71, size: 70 }));
        assert_eq!(plan.write(FILE_BYTES_MAX, 0, 1), Err(PlanError::FileTooLarge));
        assert_eq!(plan.truncate(u64::MAX), Err(PlanError::FileTooLarge));
        assert_eq!(plan.insert(0, 0, FILE_BYTES_MAX), Err(PlanError::FileTooLarge));
        plan.write(5, 9, 0).unwrap();
        assert_eq!(plan.size(), 70);
        let mut whole = Plan::new(10);
        whole.remove(0, 10);
        assert_eq!((whole.size(), pieces(&whole)), (0, vec![]));
    }
}
