//! Builds a manifest's tree in one pass, in memory that does not grow with the file.

use bytes::Bytes;

use causeway_base::ChunkId;

use super::root::{LEVELS_MAX, NODE_TAG, ROOT_ENTRY_BYTES_MAX};
use super::{Extent, FILE_BYTES_MAX, ManifestError, ManifestRoot, NodeRef, codec};
use crate::Realm;

/// A node ends after an entry whose id's first 32 bits are a multiple of this, so it has about as many entries (4.5 KiB):
/// small, since an edit makes a new one; large enough that nodes are one chunk in a hundred.
const NODE_ENTRIES_AVG: u32 = 128;
/// But not before so many entries.
const NODE_ENTRIES_MIN: usize = 32;
/// And at the latest after so many.
pub(super) const NODE_ENTRIES_MAX: usize = 512;

/// Builds a manifest of any length, extent by extent: a 10 TiB file takes as much memory as a 10 MiB one.
#[derive(Debug)]
pub struct ManifestBuilder {
    realm: Realm,
    levels: Vec<Level>,
    size: u64,
    /// Not yet in a level, because the next extent may be a hole too.
    hole: u64,
}

/// Entries of one level that are not in a node yet.
#[derive(Debug, Default)]
struct Level {
    entries: Vec<u8>,
    /// Ends of finished nodes in `entries`, kept back while everything may still fit into the root.
    ends: Vec<NodeEnd>,
    /// Of the node that is not finished.
    count: usize,
    span: u64,
    /// The level is too long for a root: its nodes are emitted as they finish.
    spilled: bool,
}

#[derive(Debug)]
struct NodeEnd {
    at: usize,
    span: u64,
}

impl ManifestBuilder {
    /// A builder of an empty file.
    #[must_use]
    pub fn new(realm: Realm) -> Self {
        Self { realm, levels: vec![Level::default()], size: 0, hole: 0 }
    }

    /// Length so far in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends an extent; finished metadata chunks go to `emit`.
    ///
    /// # Errors
    /// [`ManifestError::Extent`], [`ManifestError::FileTooLarge`]; nothing is appended then.
    pub fn push(&mut self, extent: Extent, mut emit: impl FnMut(ChunkId, Bytes)) -> Result<(), ManifestError> {
        codec::check(&extent)?;
        let size = self.size.checked_add(extent.len()).filter(|size| *size <= FILE_BYTES_MAX);
        self.size = size.ok_or(ManifestError::FileTooLarge)?;
        match extent {
            Extent::Hole { len } => self.hole += len,
            Extent::Chunk { id, .. } => {
                self.flush_hole(&mut emit)?;
                codec::put_extent(&mut self.levels[0].entries, &extent);
                self.levels[0].count(extent.len(), Some(id));
                self.spill(&mut emit)?;
            }
        }
        Ok(())
    }

    /// Whether [`ManifestBuilder::push_node`] takes a node of this level now: a node would start here at this and every
    /// level below, and it is certain that they are nodes and not entries of the root.
    #[must_use]
    pub fn takes_node(&self, level: u8) -> bool {
        let level = usize::from(level);
        self.hole == 0
            && level + 1 < self.levels.len()
            && self.levels[..=level].iter().all(|level| level.spilled && level.count == 0)
    }

    /// Appends all that a node of another manifest of this realm covers, without opening it. The result is the same as if
    /// its extents were appended, provided that what follows is what followed there, up to a chunk at least, or the end.
    ///
    /// # Errors
    /// [`ManifestError::Node`] unless [`ManifestBuilder::takes_node`]; [`ManifestError::FileTooLarge`]. Nothing is
    /// appended then.
    pub fn push_node(&mut self, node: &NodeRef, mut emit: impl FnMut(ChunkId, Bytes)) -> Result<(), ManifestError> {
        if node.span == 0 || !self.takes_node(node.level) {
            return Err(ManifestError::Node("none starts here"));
        }
        let size = self.size.checked_add(node.span).filter(|size| *size <= FILE_BYTES_MAX);
        self.size = size.ok_or(ManifestError::FileTooLarge)?;
        let above = &mut self.levels[usize::from(node.level) + 1];
        codec::put_child(&mut above.entries, node.id, node.span);
        above.count(node.span, Some(node.id));
        self.spill(&mut emit)
    }

    fn flush_hole(&mut self, emit: &mut impl FnMut(ChunkId, Bytes)) -> Result<(), ManifestError> {
        if self.hole > 0 {
            let extent = Extent::Hole { len: std::mem::take(&mut self.hole) };
            codec::put_extent(&mut self.levels[0].entries, &extent);
            self.levels[0].count(extent.len(), None);
            self.spill(emit)?;
        }
        Ok(())
    }

    /// The root, after the last metadata chunks went to `emit`.
    ///
    /// # Errors
    /// None that [`ManifestBuilder::push`] did not give before.
    pub fn finish(mut self, mut emit: impl FnMut(ChunkId, Bytes)) -> Result<ManifestRoot, ManifestError> {
        self.flush_hole(&mut emit)?;
        let mut number = 0;
        while self.levels[number].spilled {
            self.levels[number].end_node();
            self.emit_finished(number, &mut emit)?;
            self.spill(&mut emit)?;
            number += 1;
        }
        let level = u8::try_from(number).map_err(|_| ManifestError::FileTooLarge)?;
        Ok(ManifestRoot::seal(level, self.size, &self.levels[number].entries))
    }

    /// Emits nodes of each level that is too long for a root.
    fn spill(&mut self, emit: &mut impl FnMut(ChunkId, Bytes)) -> Result<(), ManifestError> {
        for number in 0.. {
            let Some(level) = self.levels.get_mut(number) else { break };
            level.spilled |= level.entries.len() > ROOT_ENTRY_BYTES_MAX;
            if !level.spilled {
                break;
            }
            self.emit_finished(number, emit)?;
        }
        Ok(())
    }

    fn emit_finished(&mut self, number: usize, emit: &mut impl FnMut(ChunkId, Bytes)) -> Result<(), ManifestError> {
        if number >= usize::from(LEVELS_MAX) {
            return Err(ManifestError::FileTooLarge);
        }
        if self.levels.len() == number + 1 {
            self.levels.push(Level::default());
        }
        let ends = std::mem::take(&mut self.levels[number].ends);
        let mut start = 0;
        for end in &ends {
            let entries = &self.levels[number].entries[start..end.at];
            let mut plain = Vec::with_capacity(super::root::NODE_HEADER_BYTES + entries.len());
            plain.extend_from_slice(&[NODE_TAG, number as u8]);
            plain.extend_from_slice(entries);
            start = end.at;
            let id = self.realm.chunk_id(&plain);
            emit(id, plain.into());
            let above = &mut self.levels[number + 1];
            codec::put_child(&mut above.entries, id, end.span);
            above.count(end.span, Some(id));
        }
        self.levels[number].entries.drain(..start);
        Ok(())
    }
}

impl Level {
    /// Counts an entry that was just added, and ends the node where its id says so. A hole never ends one: two files
    /// with the same chunks around other holes still share nodes soon.
    fn count(&mut self, span: u64, id: Option<ChunkId>) {
        self.count += 1;
        self.span += span;
        let ends = id.is_some_and(|ChunkId([a, b, c, d, ..])| u32::from_le_bytes([a, b, c, d]) % NODE_ENTRIES_AVG == 0);
        if (ends && self.count >= NODE_ENTRIES_MIN) || self.count >= NODE_ENTRIES_MAX {
            self.end_node();
        }
    }

    fn end_node(&mut self) {
        if self.count > 0 {
            self.ends.push(NodeEnd { at: self.entries.len(), span: self.span });
            self.count = 0;
            self.span = 0;
        }
    }
}
