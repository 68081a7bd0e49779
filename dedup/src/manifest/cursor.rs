//! A place in a manifest that only moves forward, and can step over whole nodes.

use super::{Extent, ManifestError, ManifestRoot, NodeContent, NodeRef, Placed};

/// What stands behind the extent at a cursor, as far as that is known without opening another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Following {
    Chunk,
    Hole,
    /// The end of the file.
    End,
    /// In another node.
    Unopened,
}

#[derive(Debug)]
pub(crate) struct Cursor {
    /// Nodes still to be entered, the next one last.
    nodes: Vec<NodeRef>,
    /// Of the leaf that is open, reversed.
    extents: Vec<Extent>,
    at: u64,
}

impl Cursor {
    pub(crate) fn new(root: &ManifestRoot) -> Result<Self, ManifestError> {
        let mut cursor = Self { nodes: Vec::new(), extents: Vec::new(), at: 0 };
        cursor.enter(root.content()?);
        Ok(cursor)
    }

    /// Where the extent or node at the cursor starts.
    pub(crate) const fn offset(&self) -> u64 {
        self.at
    }

    /// The unopened node that starts here, if no leaf is open.
    pub(crate) fn node(&self) -> Option<NodeRef> {
        if self.extents.is_empty() { self.nodes.last().copied() } else { None }
    }

    /// Steps over the node at the cursor.
    pub(crate) fn skip_node(&mut self) {
        if let Some(node) = self.nodes.pop() {
            self.at += node.span;
        }
    }

    /// Puts what the node at the cursor holds in its place.
    pub(crate) fn open_node(&mut self, plain: &[u8]) -> Result<(), ManifestError> {
        if let Some(node) = self.nodes.last() {
            let content = node.open(plain)?;
            self.nodes.pop();
            self.enter(content);
        }
        Ok(())
    }

    fn enter(&mut self, content: NodeContent) {
        match content {
            NodeContent::Extents(extents) => {
                self.extents = extents;
                self.extents.reverse();
            }
            NodeContent::Nodes(nodes) => self.nodes.extend(nodes.into_iter().rev()),
        }
    }

    /// Moves over extents of the open leaf and over nodes that end at or before `offset`.
    pub(crate) fn seek(&mut self, offset: u64) {
        while let Some(extent) = self.extents.last()
            && self.at + extent.len() <= offset
        {
            self.at += extent.len();
            self.extents.pop();
        }
        while let Some(node) = self.node()
            && self.at + node.span <= offset
        {
            self.skip_node();
        }
    }

    /// The extent at the cursor, if its leaf is open.
    pub(crate) fn extent(&self) -> Option<Placed> {
        self.extents.last().map(|extent| Placed { offset: self.at, extent: *extent })
    }

    /// What stands behind the extent at the cursor.
    pub(crate) fn following(&self) -> Following {
        let behind = self.extents.len().checked_sub(2).and_then(|index| self.extents.get(index));
        match behind {
            Some(Extent::Chunk { .. }) => Following::Chunk,
            Some(Extent::Hole { .. }) => Following::Hole,
            None if self.nodes.is_empty() => Following::End,
            None => Following::Unopened,
        }
    }
}
