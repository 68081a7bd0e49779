//! Beginning a new line of a group on one node, from the state of the line before: what a promotion does on its founder.
//!
//! The new line has a storage id of its own, so nothing of the line before is touched: its log and state stay as they are,
//! and a crash at any moment leaves either no new line, which the same call makes, or the whole of it. It begins at a seq far
//! above all that the line before can reach, so that no seq means two things.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use causeway_base::{Seq, VolumeId};
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::records::ReadError;

use crate::consensus::types::Members;
use crate::consensus::wire::{self, VoteWire};
use crate::groups::Groups;
use crate::seed::{SeedError, begin_log};
use crate::store::{GroupStore, Position, StateView, StoreError, ViewError, chain};

/// What a new line begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refounding {
    /// The line; this node must follow it already.
    pub lineage: Lineage,
    /// The line whose state it takes over.
    pub before: Lineage,
    /// That state's seq, applied here. If it is kept no more, the line's newest state is taken over.
    pub fork: Seq,
    /// The seq that the state has in the new line.
    pub seq: Seq,
}

/// Records that are other in the new line; `None` removes one.
pub type Rewritten = BTreeMap<Bytes, Option<Bytes>>;

impl Groups {
    /// Begins a line of a group with this node as its only voter; `rewrite` says which records are other than in the state
    /// that it takes over. The same call again is fine, also when the line has moved on. Start the group afterwards.
    ///
    /// Costs a copy of the state. Named snapshots come along; other past states stay in the line before.
    ///
    /// Cancel safety: as a crash.
    ///
    /// # Errors
    /// Any [`SeedError`]; nothing of the line before was changed.
    pub async fn refound(
        &self,
        id: VolumeId,
        plan: Refounding,
        rewrite: impl FnOnce(&StateView) -> Result<Rewritten, ReadError> + Send + 'static,
    ) -> Result<(), SeedError> {
        let _one = self.starting.lock().await;
        if self.fences.lineage(id) != plan.lineage || plan.before >= plan.lineage || plan.seq <= plan.fork {
            return Err(SeedError::Invalid(format!("this node does not follow line {}", plan.lineage)));
        }
        if self.get(id).is_some_and(|group| group.lineage() == plan.lineage) {
            return Ok(());
        }
        let (states, storage) = (Arc::clone(&self.states), plan.lineage.storage(id));
        let source = plan.before.storage(id);
        let stores = self.blocking.run(move || Ok((states.group(source)?, states.group(storage)?))).await;
        let (before, store) = stores.map_err(SeedError::Store)?;
        let log = self.wal.group(storage);
        let term = match self.wal.group(source).vote() {
            Some(vote) => wire::decode::<VoteWire>(&vote).map_err(SeedError::Invalid)?.term + 1,
            None => 1,
        };
        let node = self.config.node;
        let position = Position { term, index: plan.seq.0 };
        match store.meta().applied {
            Some(applied) if applied.index >= plan.seq.0 => {}
            Some(applied) => return Err(SeedError::Exists { group: id, at: Seq(applied.index) }),
            None => {
                let nodes = BTreeSet::from([node.0]);
                let members = Members { at: Some(position), voters: vec![nodes.clone()], nodes };
                let members = wire::encode(&members);
                let copy = move || copy(&before, &store, plan.fork, position, members, rewrite);
                self.blocking.run(copy).await.map_err(SeedError::Store)?;
            }
        }
        begin_log(&log, node, position).await.map_err(SeedError::Wal)
    }

    /// Makes what the groups have applied durable, so that a state that is promised from now on survives a power cut.
    ///
    /// # Errors
    /// The store failed. Cancel safe.
    pub async fn persist_states(&self) -> Result<(), StoreError> {
        let states = Arc::clone(&self.states);
        let persisted = self.blocking.run(move || states.persist()).await;
        persisted.map_err(|source| StoreError::Kv { group: VolumeId::ROOT, source })
    }
}

fn copy(
    from: &GroupStore,
    to: &GroupStore,
    fork: Seq,
    position: Position,
    members: Bytes,
    rewrite: impl FnOnce(&StateView) -> Result<Rewritten, ReadError>,
) -> Result<(), StoreError> {
    let group = from.id();
    let view = match from.view_at(fork) {
        // A snapshot of the line's old leader came in after the promotion was decided, or much was applied. The newest state
        // has all that the one at the fork had.
        Err(ViewError::TooOld { .. }) => {
            let view = from.view()?;
            tracing::warn!(%group, %fork, taken = %view.seq(), "the state at the fork is gone: a newer one is taken, all of it stays");
            view
        }
        view => view.map_err(|error| match error {
            ViewError::Read(source) => StoreError::Read { group, source },
            other => StoreError::Snapshot { group, reason: chain(&other) },
        })?,
    };
    let rewritten = rewrite(&view).map_err(|source| StoreError::Read { group, source })?;
    to.install(&to.snapshot_rebased(&view, position, members, rewritten)?)
}
