//! What reads of the tree answer with.

use bytes::Bytes;

use causeway_base::{Ino, NodeId, Seq};
use causeway_namespace_core::command::OpDone;
use causeway_namespace_core::inode::{FileKind, Inode};
use causeway_namespace_core::root::VolumeRecord;

use crate::read::Read;

/// An inode that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub inode: Inode,
}

/// An entry of a listing or walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// In a listing the name; in a walk the path from its start, without a leading `/` (empty for the start itself).
    pub name: Bytes,
    /// Its inode's number.
    pub ino: Ino,
    /// Its kind.
    pub kind: FileKind,
    /// The inode, if it was asked for.
    pub inode: Option<Inode>,
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In the byte order of names.
    pub entries: Vec<Entry>,
    /// There are entries after the last one.
    pub more: bool,
}

/// What an absolute path of the namespace leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into a volume.
    InVolume {
        /// Which.
        volume: Box<VolumeRecord>,
        /// Relative to it, without a leading `/`; empty for its top.
        path: Bytes,
    },
    /// To a directory that exists only because volumes are mounted below it.
    Above {
        /// The names in it, sorted.
        names: Vec<Bytes>,
    },
    /// Neither.
    Nowhere,
}

/// A batch that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutated {
    /// A read with this `seq_min` sees the batch.
    pub seq: Seq,
    /// What each operation touched.
    pub done: Vec<OpDone>,
}

/// Totals of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct VolumeTotals {
    /// Regular files; one with several names counts once.
    pub files: u64,
    /// Directories, the top included.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Sum of the lengths of all files in bytes, saturating.
    pub logical_bytes: u64,
    /// Open sessions.
    pub sessions: u64,
}

/// A volume with its totals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeReport {
    /// As declared.
    pub volume: VolumeRecord,
    /// At one seq.
    pub totals: Read<VolumeTotals>,
    /// Digest of all records at that seq, in hexadecimal.
    pub digest: String,
    /// Its leader, if known.
    pub leader: Option<NodeId>,
}

impl Entry {
    /// About how many bytes it takes in a message.
    pub(crate) fn bytes(&self) -> usize {
        use causeway_namespace_core::inode::{Body, Content};
        let inode = self.inode.as_ref().map_or(0, |inode| {
            let body = match &inode.body {
                Body::File(Content::Inline(bytes)) | Body::Symlink(bytes) => bytes.len(),
                Body::File(Content::Manifest(manifest)) => manifest.root.len() + 64,
                Body::Directory { name, .. } => name.len(),
                Body::Mount { name, volume, .. } => name.len() + volume.len(),
            };
            let xattrs: usize = inode.xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
            64 + body + xattrs
        });
        self.name.len() + 24 + inode
    }
}
