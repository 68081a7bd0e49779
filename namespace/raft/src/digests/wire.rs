//! What nodes say to each other about digests. The page is `docs/formats/digests.md`.

use serde::{Deserialize, Serialize};

use causeway_base::{Seq, VolumeId};
use causeway_namespace_core::lineage::Lineage;

use crate::store::{DigestMark, MARKS_MAX};

/// Most groups in one message.
pub const ASKS_MAX: usize = 1024;
/// Largest message of this module in bytes, either way; what is larger is refused before it is decoded.
pub(super) const BYTES_MAX: usize = 1 << 20;

/// How another replica of a group is asked whether it is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestAsk {
    /// The group.
    pub group: VolumeId,
    /// The line of its history that the asker's replica is of: replicas of different lines are not compared.
    pub lineage: Lineage,
    /// The asker's digests, the newest first: at most [`MARKS_MAX`]. The first that the other knows too is compared.
    pub marks: Vec<DigestMark>,
}

impl DigestAsk {
    pub(super) fn is_valid(&self) -> bool {
        self.marks.len() <= MARKS_MAX
    }
}

/// What another replica answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestAnswer {
    /// The group.
    pub group: VolumeId,
    /// The comparison.
    pub compared: Compared,
    /// It knows itself to be diverged: it is no evidence, and no source of a repair.
    pub diverged: bool,
}

/// What a comparison came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compared {
    /// That line of the group does not run there, or the asker is no member of it.
    NotHere,
    /// None of the seqs is known there: they are not applied yet, or it was long ago.
    Unknown {
        /// Applied there.
        applied: Seq,
    },
    /// The same.
    Equal {
        /// At this seq.
        at: Seq,
    },
    /// Not the same.
    Differs {
        /// The other's digest at one of the asker's seqs.
        theirs: DigestMark,
    },
}
