//! The root of a manifest, and the nodes that it leads to.

use bytes::Bytes;

use causeway_base::ChunkId;

use super::walk::Walk;
use super::{EXTENTS_LOADED_MAX, Extent, FILE_BYTES_MAX, LoadError, Manifest, ManifestError, Placed, codec};

/// Largest encoded root in bytes; what the namespace accepts.
pub const ROOT_BYTES_MAX: usize = 8192;

const MAGIC: [u8; 4] = *b"CWMR";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 16;
/// Most bytes of entries in a root.
pub(super) const ROOT_ENTRY_BYTES_MAX: usize = ROOT_BYTES_MAX - HEADER_BYTES - 4;

/// Most levels of nodes under a root. Four carry 8 EiB at the smallest chunks and the smallest nodes.
pub(super) const LEVELS_MAX: u8 = 6;

/// First byte of a node.
pub(super) const NODE_TAG: u8 = 0xC3;
/// Bytes of a node before its entries: tag and level.
pub(super) const NODE_HEADER_BYTES: usize = 2;
/// Largest node in bytes.
pub(super) const NODE_BYTES_MAX: usize = NODE_HEADER_BYTES + super::build::NODE_ENTRIES_MAX * codec::ENTRY_BYTES_MAX;

/// The root of a manifest, decoded and checked: what the namespace keeps in the inode.
#[derive(Clone, PartialEq, Eq)]
pub struct ManifestRoot {
    encoded: Bytes,
    size: u64,
    level: u8,
}

/// A reference to a node: a metadata chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRef {
    /// The chunk.
    pub id: ChunkId,
    /// Bytes of the file that it covers.
    pub span: u64,
    /// 0 if it lists extents, else one more than the nodes that it lists.
    pub level: u8,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeContent {
    /// Pieces of the file, in order.
    Extents(Vec<Extent>),
    /// Nodes one level lower, in order.
    Nodes(Vec<NodeRef>),
}

impl NodeRef {
    /// Decodes the plain (and verified) bytes of the node: pure, for callers that fetch level by level.
    ///
    /// # Errors
    /// [`ManifestError::Node`], [`ManifestError::Size`], [`ManifestError::Extent`].
    pub fn open(&self, plain: &[u8]) -> Result<NodeContent, ManifestError> {
        if plain.len() > NODE_BYTES_MAX {
            return Err(ManifestError::Node("it is too long"));
        }
        match plain {
            [NODE_TAG, level, entries @ ..] if *level == self.level => content(entries, self.level, self.span),
            [NODE_TAG, ..] => Err(ManifestError::Node("it is of another level")),
            _ => Err(ManifestError::Node("the tag is another")),
        }
    }
}

fn content(entries: &[u8], level: u8, span: u64) -> Result<NodeContent, ManifestError> {
    match level.checked_sub(1) {
        None => Ok(NodeContent::Extents(codec::extents(entries, span)?)),
        Some(below) => Ok(NodeContent::Nodes(codec::children(entries, below, span)?)),
    }
}

impl ManifestRoot {
    /// Entries must be valid and at most [`ROOT_ENTRY_BYTES_MAX`] long.
    pub(super) fn seal(level: u8, size: u64, entries: &[u8]) -> Self {
        debug_assert!(entries.len() <= ROOT_ENTRY_BYTES_MAX && level <= LEVELS_MAX);
        let mut encoded = Vec::with_capacity(HEADER_BYTES + entries.len() + 4);
        encoded.extend_from_slice(&MAGIC);
        encoded.extend_from_slice(&[VERSION, level, 0, 0]);
        encoded.extend_from_slice(&size.to_le_bytes());
        encoded.extend_from_slice(entries);
        encoded.extend_from_slice(&crc32c::crc32c(&encoded).to_le_bytes());
        Self { encoded: encoded.into(), size, level }
    }

    /// Reads a root and checks all that can be checked without its nodes: sizes add up, levels and lengths are in bounds.
    ///
    /// # Errors
    /// Any [`ManifestError`] but [`ManifestError::TooMany`].
    pub fn decode(encoded: &[u8]) -> Result<Self, ManifestError> {
        if encoded.len() > ROOT_BYTES_MAX {
            return Err(ManifestError::Root("it is too long"));
        }
        let cut_off = ManifestError::Root("it is cut off");
        let (covered, stored) = encoded.split_last_chunk::<4>().ok_or_else(|| cut_off.clone())?;
        let header = covered.first_chunk::<HEADER_BYTES>().ok_or(cut_off)?;
        if header[..4] != MAGIC {
            return Err(ManifestError::Root("the magic is another"));
        }
        if header[4] != VERSION {
            return Err(ManifestError::Root("the version is not known"));
        }
        if crc32c::crc32c(covered) != u32::from_le_bytes(*stored) {
            return Err(ManifestError::Root("the checksum does not hold"));
        }
        let level = header[5];
        if level > LEVELS_MAX || header[6..8] != [0, 0] {
            return Err(ManifestError::Root("the level or a reserved byte is out of bounds"));
        }
        let mut size = [0; 8];
        size.copy_from_slice(&header[8..]);
        let size = u64::from_le_bytes(size);
        if size > FILE_BYTES_MAX {
            return Err(ManifestError::FileTooLarge);
        }
        content(&covered[HEADER_BYTES..], level, size)?;
        Ok(Self { encoded: Bytes::copy_from_slice(encoded), size, level })
    }

    /// The encoded form, at most [`ROOT_BYTES_MAX`] bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.encoded
    }

    /// Length of the file in bytes, holes included.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Levels of nodes under the root; 0 if the root lists the extents itself.
    #[must_use]
    pub const fn level(&self) -> u8 {
        self.level
    }

    /// What the root itself holds.
    ///
    /// # Errors
    /// None for a root that was decoded or built: it was checked.
    pub fn content(&self) -> Result<NodeContent, ManifestError> {
        content(&self.encoded[HEADER_BYTES..self.encoded.len() - 4], self.level, self.size)
    }

    /// The metadata chunks that the root names; empty for an inline one. Those may name more, see [`NodeRef::open`].
    #[must_use]
    pub fn meta_chunks(&self) -> Vec<ChunkId> {
        match self.content() {
            Ok(NodeContent::Nodes(nodes)) => nodes.iter().map(|node| node.id).collect(),
            Ok(NodeContent::Extents(_)) | Err(_) => Vec::new(),
        }
    }

    /// Reads the whole manifest; `fetch` gives the plain, verified bytes of a metadata chunk. Memory is bounded by
    /// [`EXTENTS_LOADED_MAX`].
    ///
    /// # Errors
    /// [`LoadError`]: a node is wrong, there are too many extents, or `fetch` failed.
    pub fn load<E>(&self, fetch: impl FnMut(ChunkId) -> Result<Bytes, E>) -> Result<Manifest, LoadError<E>> {
        let mut manifest = Manifest::default();
        for placed in self.walk(0, fetch) {
            if manifest.extents.len() == EXTENTS_LOADED_MAX {
                return Err(ManifestError::TooMany.into());
            }
            manifest.push(placed?.extent)?;
        }
        Ok(manifest)
    }

    /// The extents from `offset` to the end, fetched lazily: at most one node a level is in memory.
    pub fn walk<E, F: FnMut(ChunkId) -> Result<Bytes, E>>(&self, offset: u64, fetch: F) -> Walk<F> {
        Walk::new(self, offset, fetch)
    }

    /// The extents that hold any of `len` bytes from `offset` on; fetches only the nodes on their way.
    ///
    /// # Errors
    /// As [`ManifestRoot::load`].
    pub fn range<E>(
        &self,
        offset: u64,
        len: u64,
        fetch: impl FnMut(ChunkId) -> Result<Bytes, E>,
    ) -> Result<Vec<Placed>, LoadError<E>> {
        let end = offset.saturating_add(len);
        let mut found = Vec::new();
        if len == 0 {
            return Ok(found);
        }
        for placed in self.walk(offset, fetch) {
            let placed = placed?;
            if placed.offset >= end {
                break;
            }
            if found.len() == EXTENTS_LOADED_MAX {
                return Err(ManifestError::TooMany.into());
            }
            let last = placed.end() >= end;
            found.push(placed);
            if last {
                break; // and do not fetch the node of what comes next
            }
        }
        Ok(found)
    }
}

impl std::fmt::Debug for ManifestRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ManifestRoot(size {}, level {}, {} bytes)", self.size, self.level, self.encoded.len())
    }
}
