//! The digests of recent seqs, in memory: what replicas compare with each other.
//!
//! Two replicas never look at the same moment, so each keeps some seqs back. Beside the last few these are the last few
//! multiples of 16, 256 and 4,096: the same ones on every replica, so that two find a common seq at any rate of commits
//! and any lag up to about a hundred thousand seqs, in a few KiB a group.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use causeway_base::Seq;
use causeway_namespace_core::digest::Digest;

use super::{GroupStore, Meta, Position, lock};

/// A seq is kept on every level whose stride divides it.
const STRIDES: [u64; 4] = [1, 16, 256, 4096];
/// Seqs a level.
const KEPT: usize = 32;

/// Most marks that [`GroupStore::marks`] gives.
pub const MARKS_MAX: usize = STRIDES.len();

/// The digest of the records at a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestMark {
    /// The entry that was applied last. At equal seqs its term is the same on all replicas, unless their histories part.
    pub position: Position,
    /// Of the records then.
    pub digest: Digest,
}

impl DigestMark {
    /// The seq.
    #[must_use]
    pub fn seq(&self) -> Seq {
        Seq(self.position.index)
    }
}

/// The digests of recent seqs of a group.
#[derive(Debug, Default)]
pub(super) struct Ring {
    levels: [VecDeque<DigestMark>; STRIDES.len()],
}

impl Ring {
    /// That knows the newest seq only.
    pub(super) fn of(meta: &Meta) -> Self {
        let mut ring = Self::default();
        if let Some(position) = meta.applied {
            ring.push(DigestMark { position, digest: meta.digest });
        }
        ring
    }

    /// Takes in the next seq; each is above the one before.
    pub(super) fn push(&mut self, mark: DigestMark) {
        for (level, stride) in self.levels.iter_mut().zip(STRIDES) {
            if !mark.position.index.is_multiple_of(stride) {
                break;
            }
            if level.len() == KEPT {
                level.pop_front();
            }
            level.push_back(mark);
        }
    }

    /// The newest of each level, newest first, each once.
    pub(super) fn newest(&self) -> Vec<DigestMark> {
        let mut marks: Vec<DigestMark> = self.levels.iter().filter_map(|level| level.back().copied()).collect();
        marks.dedup();
        marks
    }

    /// What is known of a seq.
    pub(super) fn at(&self, seq: Seq) -> Option<DigestMark> {
        self.levels.iter().find_map(|level| {
            let found = level.binary_search_by_key(&seq, DigestMark::seq).ok()?;
            level.get(found).copied()
        })
    }
}

impl GroupStore {
    /// Digests of recent seqs, to be compared with another replica's: at most [`MARKS_MAX`], the newest seq first.
    #[must_use]
    pub fn marks(&self) -> Vec<DigestMark> {
        lock(&self.ring).newest()
    }

    /// The digest at a recent seq; `None` if it is not applied yet, or long ago.
    #[must_use]
    pub fn mark_at(&self, seq: Seq) -> Option<DigestMark> {
        lock(&self.ring).at(seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(until: u64) -> Ring {
        let mut ring = Ring::default();
        for index in 1..=until {
            ring.push(DigestMark {
                position: Position { term: 1, index },
                digest: Digest::from_bytes([index as u8; 32]),
            });
        }
        ring
    }

    #[test]
    fn two_replicas_find_a_common_seq_at_any_lag() {
        for lag in [0, 1, 31, 32, 100, 1000, 8000, 100_000] {
            let (ahead, behind) = (ring(200_000), ring(200_000 - lag));
            assert!(behind.newest().len() <= MARKS_MAX);
            let common = behind.newest().into_iter().find_map(|mark| Some((mark, ahead.at(mark.seq())?)));
            let (mark, found) = common.unwrap_or_else(|| panic!("nothing in common {lag} seqs behind"));
            assert_eq!(mark, found);
            assert!(mark.position.index > 200_000 - lag - 4096, "{lag}: {mark:?}");
        }
    }

    #[test]
    fn it_is_bounded_and_knows_what_it_was_told() {
        let ring = ring(100_000);
        assert!(ring.levels.iter().all(|level| level.len() <= KEPT));
        assert_eq!(ring.newest().iter().map(|mark| mark.position.index).collect::<Vec<_>>(), [100_000, 99_840, 98_304]);
        assert_eq!(ring.at(Seq(99_999)).unwrap().position.index, 99_999);
        assert_eq!((ring.at(Seq(99_900)), ring.at(Seq(100_001)), ring.at(Seq(0))), (None, None, None));
    }
}
