//! Puts the extents of one file in order as they come.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use causeway_base::ChunkId;

use crate::manifest::ManifestError;
use crate::{Extent, ManifestBuilder, ManifestRoot, Realm};

/// A file on its way. Holds only extents that came before their turn: as many as are under way.
#[derive(Debug)]
pub(super) struct Assembly {
    position: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Taken when the file is whole or is not a file any more.
    builder: Option<ManifestBuilder>,
    early: BTreeMap<u64, Extent>,
    next: u64,
    /// Number of extents, once it is known.
    count: Option<u64>,
    /// Steps whose metadata is being stored.
    storing: usize,
    /// The root, until the last of them is done.
    root: Option<Result<ManifestRoot, ManifestError>>,
}

/// What an extent led to.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Metadata chunks to be stored now; then [`Assembly::stored`] is to be called.
    pub(super) metadata: Vec<(ChunkId, Bytes)>,
    /// The file is whole and all its metadata is stored, or it is larger than files may be.
    pub(super) root: Option<Result<ManifestRoot, ManifestError>>,
}

impl Assembly {
    pub(super) fn new(position: usize, realm: Realm) -> Self {
        let builder = Some(ManifestBuilder::new(realm));
        Self {
            position,
            state: Mutex::new(State { builder, early: BTreeMap::new(), next: 0, count: None, storing: 0, root: None }),
        }
    }

    pub(super) const fn position(&self) -> usize {
        self.position
    }

    fn with(&self, change: impl FnOnce(&mut State)) -> Step {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.drain()
    }

    /// Adds an extent whose chunk is stored.
    pub(super) fn add(&self, number: u64, extent: Extent) -> Step {
        self.with(|state| {
            state.early.insert(number, extent);
        })
    }

    /// The metadata of a step is stored; gives the root if that was the last to wait for.
    pub(super) fn stored(&self) -> Option<Result<ManifestRoot, ManifestError>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.storing -= 1;
        if state.storing == 0 { state.root.take() } else { None }
    }

    /// Adds a hole, found while the file is still being cut; what it leads to comes with a later step.
    pub(super) fn add_early(&self, number: u64, extent: Extent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.early.insert(number, extent);
    }

    /// There are `count` extents.
    pub(super) fn end(&self, count: u64) -> Step {
        self.with(|state| state.count = Some(count))
    }
}

impl State {
    fn drain(&mut self) -> Step {
        let mut step = Step::default();
        while let Some(builder) = &mut self.builder
            && let Some(extent) = self.early.remove(&self.next)
        {
            self.next += 1;
            if let Err(error) = builder.push(extent, |id, plain| step.metadata.push((id, plain))) {
                self.builder = None;
                self.root = Some(Err(error));
                break;
            }
        }
        if self.count == Some(self.next)
            && let Some(builder) = self.builder.take()
        {
            self.root = Some(builder.finish(|id, plain| step.metadata.push((id, plain))));
        }
        if !step.metadata.is_empty() {
            self.storing += 1;
        } else if self.storing == 0 {
            step.root = self.root.take();
        }
        step
    }
}
