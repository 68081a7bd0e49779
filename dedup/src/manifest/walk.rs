//! Walks the extents of a manifest from any place.

use bytes::Bytes;

use causeway_base::ChunkId;

use super::{Extent, ManifestError, ManifestRoot, NodeContent, NodeRef};

/// An extent and where it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where it starts.
    pub offset: u64,
    /// The extent.
    pub extent: Extent,
}

impl Placed {
    /// Where it ends.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset + self.extent.len()
    }
}

/// Why a manifest was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError<E> {
    /// It is not one.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A metadata chunk was not had.
    #[error("fetch metadata chunk {id}")]
    Fetch {
        /// The chunk.
        id: ChunkId,
        /// What the caller's function said.
        source: E,
    },
}

/// A lazy walk over extents; see [`ManifestRoot::walk`]. Ends after the first error.
///
/// The number of extents of an untrusted manifest is bounded only by its size in bytes: a caller that collects must count.
#[derive(Debug)]
pub struct Walk<F> {
    fetch: F,
    /// Nodes still to be entered, the next one last.
    nodes: Vec<NodeRef>,
    extents: std::vec::IntoIter<Extent>,
    /// Where the next extent or node starts.
    at: u64,
    /// Where the walk starts: what ends before is skipped.
    from: u64,
    failed: Option<ManifestError>,
}

impl<F> Walk<F> {
    pub(super) fn new(root: &ManifestRoot, from: u64, fetch: F) -> Self {
        let mut walk = Self { fetch, nodes: Vec::new(), extents: Vec::new().into_iter(), at: 0, from, failed: None };
        match root.content() {
            Ok(content) => walk.enter(content),
            Err(error) => walk.failed = Some(error),
        }
        walk
    }

    fn enter(&mut self, content: NodeContent) {
        match content {
            NodeContent::Extents(extents) => self.extents = extents.into_iter(),
            NodeContent::Nodes(nodes) => self.nodes.extend(nodes.into_iter().rev()),
        }
    }
}

impl<E, F: FnMut(ChunkId) -> Result<Bytes, E>> Iterator for Walk<F> {
    type Item = Result<Placed, LoadError<E>>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error.into()));
        }
        loop {
            for extent in self.extents.by_ref() {
                let placed = Placed { offset: self.at, extent };
                self.at += extent.len();
                if self.at > self.from {
                    return Some(Ok(placed));
                }
            }
            let node = self.nodes.pop()?;
            if self.at + node.span <= self.from {
                self.at += node.span;
                continue;
            }
            let content = match (self.fetch)(node.id) {
                Ok(plain) => node.open(&plain).map_err(LoadError::from),
                Err(source) => Err(LoadError::Fetch { id: node.id, source }),
            };
            match content {
                Ok(content) => self.enter(content),
                Err(error) => {
                    self.nodes.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}
