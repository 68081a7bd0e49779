//! Manifests: the ordered list of a file's chunks and holes, as a tree that is named by its root.
//!
//! A short list stands in the root itself, which the namespace keeps in the inode. A long one is cut into nodes that are
//! chunks themselves; where it is cut depends on the ids in it, so an edit of a large file makes one new leaf and the nodes
//! above it, whatever moved. See `docs/formats/manifest.md`.

mod build;
mod codec;
pub(crate) mod cursor;
mod root;
mod walk;

use bytes::Bytes;

use causeway_base::ChunkId;

pub use build::ManifestBuilder;
pub use root::{ManifestRoot, NodeContent, NodeRef, ROOT_BYTES_MAX};
pub use walk::{LoadError, Placed, Walk};

use crate::Realm;

/// Largest file in bytes, as POSIX has it.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// Most extents that [`ManifestRoot::load`] brings into memory (about 170 MB; a 256 GiB file at 64 KiB a chunk). A longer
/// list is walked instead.
pub const EXTENTS_LOADED_MAX: usize = 1 << 22;

/// Why a manifest is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not a root, a version that this program does not know, or damaged.
    #[error("not a manifest root: {0}")]
    Root(&'static str),
    /// Not a node of the level expected.
    #[error("not a manifest node: {0}")]
    Node(&'static str),
    /// The parts do not add up to the whole.
    #[error("extents of {found} bytes, {claimed} are claimed")]
    Size {
        /// By the root, or by the node above.
        claimed: u64,
        /// Sum of what is there (saturated).
        found: u64,
    },
    /// An empty extent, or a chunk longer than any may be.
    #[error("an extent of {0} bytes")]
    Extent(u64),
    /// More bytes than a file may have.
    #[error("a file of more than {FILE_BYTES_MAX} bytes")]
    FileTooLarge,
    /// More than are loaded at once.
    #[error("more than {EXTENTS_LOADED_MAX} extents: too many to load at once")]
    TooMany,
}

/// A piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Bytes in a chunk; all of it.
    Chunk {
        /// Its name.
        id: ChunkId,
        /// Its plain length in bytes, 1 to [`crate::CHUNK_BYTES_MAX`].
        len: u32,
    },
    /// Zeros that are stored nowhere, and take no space in a copy.
    Hole {
        /// Length in bytes, at least 1.
        len: u64,
    },
}

impl Extent {
    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        match *self {
            Self::Chunk { len, .. } => len as u64,
            Self::Hole { len } => len,
        }
    }

    /// Whether it has no bytes; such an extent is refused everywhere.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The chunk's name, if it is one.
    #[must_use]
    pub const fn chunk_id(&self) -> Option<ChunkId> {
        match *self {
            Self::Chunk { id, .. } => Some(id),
            Self::Hole { .. } => None,
        }
    }
}

/// A whole manifest in memory (40 bytes an extent).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Length of the file in bytes: the sum of the extents.
    pub size: u64,
    /// Chunks and holes in file order.
    pub extents: Vec<Extent>,
}

impl Manifest {
    /// The manifest of these extents. Neighbouring holes are one hole.
    ///
    /// # Errors
    /// [`ManifestError::Extent`], [`ManifestError::FileTooLarge`].
    pub fn new(extents: impl IntoIterator<Item = Extent>) -> Result<Self, ManifestError> {
        let mut manifest = Self::default();
        for extent in extents {
            manifest.push(extent)?;
        }
        Ok(manifest)
    }

    /// Appends an extent.
    ///
    /// # Errors
    /// [`ManifestError::Extent`], [`ManifestError::FileTooLarge`]; nothing is appended then.
    pub fn push(&mut self, extent: Extent) -> Result<(), ManifestError> {
        codec::check(&extent)?;
        let size = self.size.checked_add(extent.len()).filter(|size| *size <= FILE_BYTES_MAX);
        self.size = size.ok_or(ManifestError::FileTooLarge)?;
        match (self.extents.last_mut(), extent) {
            (Some(Extent::Hole { len: last }), Extent::Hole { len }) => *last += len,
            _ => self.extents.push(extent),
        }
        Ok(())
    }

    /// Makes the root, handing each metadata chunk (id and plain bytes) to `emit`, children before parents. The chunks
    /// must be durable before the root is referred to.
    ///
    /// # Errors
    /// As [`Manifest::push`], for fields that were changed by hand.
    pub fn store(&self, realm: &Realm, mut emit: impl FnMut(ChunkId, Bytes)) -> Result<ManifestRoot, ManifestError> {
        let mut builder = ManifestBuilder::new(realm.clone());
        for extent in &self.extents {
            builder.push(*extent, &mut emit)?;
        }
        builder.finish(&mut emit)
    }

    /// The extents that hold any of `len` bytes from `offset` on, with their places. Nothing past the end.
    pub fn range(&self, offset: u64, len: u64) -> impl Iterator<Item = Placed> + '_ {
        let end = offset.saturating_add(len);
        let mut at = 0;
        self.extents
            .iter()
            .map(move |extent| {
                let placed = Placed { offset: at, extent: *extent };
                at += extent.len();
                placed
            })
            .skip_while(move |placed| placed.end() <= offset)
            .take_while(move |placed| placed.offset < end)
    }

    /// The ids of all chunks, in file order, with repeats.
    pub fn chunk_ids(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.extents.iter().filter_map(Extent::chunk_id)
    }
}

#[cfg(test)]
mod tests;
