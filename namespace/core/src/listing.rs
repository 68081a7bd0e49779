//! Pages of the manifests that a volume names, in its newest state and in all versions that are kept: what must not be
//! collected as garbage. The types are here since nodes hand them to each other.

use causeway_base::{Ino, Seq};

use crate::inode::ManifestRef;
use crate::lineage::Lineage;

/// How far a listing is: of each inode below a number the version was listed that was the newest at a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The seq.
    pub seq: Seq,
    /// The number; [`Listed::ALL`] for every inode.
    pub below: Ino,
    /// The line of the volume's history that the seq is of: after a promotion the same seqs come again, with other changes.
    pub line: Lineage,
}

impl Listed {
    /// Above every inode.
    pub const ALL: Ino = Ino(u64::MAX);
}

/// A part of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestPage {
    /// Files, each with one of its versions; a file may come many times.
    pub manifests: Vec<(Ino, ManifestRef)>,
    /// How far the listing is with them.
    pub listed: Listed,
    /// The last page. A listing that ends without one is not whole.
    pub end: bool,
}
