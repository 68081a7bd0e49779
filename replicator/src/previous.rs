//! What lay where a piece of a file's new version lies: the bases that this node can offer for chunks that it wants.
//!
//! Both versions are trees of nodes. As the walk opens the new tree, the old nodes that lie beneath each changed new one are
//! opened beside it, and their entries aligned; the rest of the old tree is not touched. All of it is here, since the old
//! version was complete; what is not is done without.

use std::sync::Arc;

use causeway_base::ChunkId;
use causeway_dedup::delta::{BaseRange, Piece, align_between};
use causeway_dedup::manifest::{NodeContent, NodeRef};
use causeway_dedup::{Extent, Realm};

use crate::local::LocalChunks;

/// A base that this node holds: chunks that follow each other in the old version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeedBase {
    /// The chunks.
    pub chunks: Vec<ChunkId>,
    /// Where in them the wanted chunk's first byte would be, had nothing moved.
    pub align: i32,
}

/// Old pieces opened for one new node at most; beyond, it goes without bases.
const PIECES_MAX: usize = 16 << 10;
/// Old nodes that are remembered as lying beneath a new one.
const BENEATH_MAX: usize = 64;

/// Pieces of the old version, all of one height.
#[derive(Debug)]
pub(crate) struct Old {
    /// 0 for extents; for nodes one more than their level.
    height: u8,
    pieces: Vec<Piece>,
    /// The nodes of `pieces`; none at height 0.
    nodes: Vec<NodeRef>,
    /// How much further on in this version the bytes lie that are before and after the new piece.
    shifts: (i64, i64),
}

/// A piece of the new version, and what lay there.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) id: ChunkId,
    /// Plain length of a chunk of the file.
    pub(crate) len: Option<u32>,
    pub(crate) bases: Vec<NeedBase>,
    /// If it is a node: itself, its place in the file, what lay beneath it.
    pub(crate) node: Option<(NodeRef, u64, Option<Arc<Old>>)>,
}

impl Old {
    /// What the root of an old version holds, of so many bytes, where a new one has `new_size`.
    pub(crate) fn of_root(content: &NodeContent, size: u64, new_size: u64) -> Self {
        let grown = i64::try_from(size).unwrap_or(0).saturating_sub(i64::try_from(new_size).unwrap_or(0));
        Self { shifts: (0, grown), ..Self::new(content, 0) }
    }

    /// What a root or node holds that begins at `offset`.
    fn new(content: &NodeContent, offset: u64) -> Self {
        let mut at = offset;
        let mut next = |len: u64| {
            at += len;
            at - len
        };
        match content {
            NodeContent::Extents(extents) => {
                let piece =
                    |extent: &Extent| Piece { id: extent.chunk_id(), offset: next(extent.len()), len: extent.len() };
                Self { height: 0, pieces: extents.iter().map(piece).collect(), nodes: Vec::new(), shifts: (0, 0) }
            }
            NodeContent::Nodes(nodes) => Self {
                height: nodes.first().map_or(1, |node| node.level.saturating_add(1)),
                pieces: nodes.iter().map(|node| Piece::node(node, next(node.span))).collect(),
                nodes: nodes.clone(),
                shifts: (0, 0),
            },
        }
    }

    /// The same, one height lower. Blocks.
    fn opened(&self, local: &dyn LocalChunks, realm: &Realm) -> Option<Self> {
        let mut lower = Self { height: self.height - 1, pieces: Vec::new(), nodes: Vec::new(), shifts: self.shifts };
        for (node, piece) in self.nodes.iter().zip(&self.pieces) {
            let plain = local.get(&node.id).ok()??.decode(realm).ok()?;
            let below = Self::new(&node.open(&plain).ok()?, piece.offset);
            lower.pieces.extend(below.pieces);
            lower.nodes.extend(below.nodes);
            if lower.pieces.len() > PIECES_MAX {
                return None;
            }
        }
        Some(lower)
    }

    fn base(&self, range: &BaseRange) -> Option<NeedBase> {
        let chunks = self.pieces.get(range.pieces.clone())?.iter().map(|piece| piece.id).collect::<Option<Vec<_>>>()?;
        Some(NeedBase { chunks, align: i32::try_from(range.align).ok()? })
    }

    /// The nodes of the ranges found for a new piece, and those between them.
    fn beneath(&self, ranges: &[BaseRange], new: &Piece) -> Option<Arc<Self>> {
        let from = ranges.iter().map(|range| range.pieces.start).min()?;
        let to = ranges.iter().map(|range| range.pieces.end).max()?.min(from + BENEATH_MAX);
        let (pieces, nodes) = (self.pieces.get(from..to)?.to_vec(), self.nodes.get(from..to)?.to_vec());
        let shift = |range: &BaseRange| {
            let start = self.pieces.get(range.pieces.start)?.offset;
            Some(range.align.saturating_add(i64::try_from(start).ok()?).saturating_sub(i64::try_from(new.offset).ok()?))
        };
        let shifts = (ranges.first().and_then(shift)?, ranges.last().and_then(shift)?);
        Some(Arc::new(Self { height: self.height, pieces, nodes, shifts }))
    }
}

/// The pieces of a new root or node that begins at `offset`, with what lay there in `old`. Blocks.
pub(crate) fn children(
    content: &NodeContent,
    offset: u64,
    old: Option<Arc<Old>>,
    local: &dyn LocalChunks,
    realm: &Realm,
) -> Vec<Child> {
    let new = Old::new(content, offset);
    let mut old = old;
    while let Some(higher) = old.as_ref().filter(|old| old.height > new.height) {
        old = higher.opened(local, realm).map(Arc::new);
    }
    let level = old.as_ref().filter(|old| old.height == new.height);
    let aligned = level.map_or_else(Vec::new, |old| align_between(&old.pieces, &new.pieces, old.shifts));
    let mut aligned = aligned.into_iter().peekable();
    let mut children = Vec::with_capacity(new.pieces.len());
    for (place, piece) in new.pieces.iter().enumerate() {
        let ranges = aligned.next_if(|(at, _)| *at == place).map_or_else(Vec::new, |(_, ranges)| ranges);
        let Some(id) = piece.id else { continue };
        let Some(node) = new.nodes.get(place) else {
            let bases = level.map_or_else(Vec::new, |old| ranges.iter().filter_map(|range| old.base(range)).collect());
            children.push(Child { id, len: u32::try_from(piece.len).ok(), bases, node: None });
            continue;
        };
        let (bases, beneath) = match (level, &old) {
            // Of nodes the bytes do not lie where the file's do: no alignment, and one base is enough.
            (Some(level), _) => {
                let base =
                    ranges.first().and_then(|range| level.base(range)).map(|base| NeedBase { align: i32::MIN, ..base });
                (base.into_iter().collect(), level.beneath(&ranges, piece))
            }
            (None, Some(lower)) => (Vec::new(), Some(lower.clone())),
            (None, None) => (Vec::new(), None),
        };
        children.push(Child { id, len: None, bases, node: Some((*node, piece.offset, beneath)) });
    }
    children
}
