//! Giving up what a node has of a line that it left, because a person said so.

use std::sync::Arc;

use causeway_base::VolumeId;
use causeway_namespace_core::lineage::Lineage;

use crate::groups::Groups;
use crate::store::{ForgottenLine, StoreError, chain};
use crate::wal::WalError;

/// Why a line was not given up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForgetError {
    /// It is not over here.
    #[error("line {lineage} of group {group} runs on this node")]
    Runs {
        /// Of which group.
        group: VolumeId,
        /// Which line.
        lineage: Lineage,
    },
    /// The line that follows is begun from it, here.
    #[error(
        "line {next} of group {group} begins on this node with what is here of line {lineage}, and has not begun yet"
    )]
    Needed {
        /// Of which group.
        group: VolumeId,
        /// Which line.
        lineage: Lineage,
        /// What follows.
        next: Lineage,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log failed.
    #[error("the log of group {group}")]
    Wal {
        /// Of which group.
        group: VolumeId,
        /// Why.
        #[source]
        source: WalError,
    },
}

impl Groups {
    /// Whether what this node had of a line was given up.
    #[must_use]
    pub fn is_forgotten(&self, id: VolumeId, lineage: Lineage) -> bool {
        self.states.is_forgotten(id, lineage)
    }

    /// Gives up log and state of a line that does not run here, for good: durable on return, and decided before anything goes,
    /// so that a crash half-way is finished by the next start. The fence stays. The same again is fine.
    ///
    /// Cancel safety: as a crash; call it again, or start again.
    ///
    /// # Errors
    /// Any [`ForgetError`]. After [`ForgetError::Store`] and [`ForgetError::Wal`] it may be decided.
    pub async fn forget_line(&self, id: VolumeId, lineage: Lineage) -> Result<(), ForgetError> {
        let _one = self.starting.lock().await;
        self.check_forgettable(id, lineage).await?;
        let (states, at) = (Arc::clone(&self.states), self.config.clock.now());
        self.blocking.run(move || states.forget(ForgottenLine { group: id, lineage, at })).await?;
        self.forget_log(id, lineage).await
    }

    /// Finishes what a crash interrupted: of states that was done when the store was opened.
    pub(crate) async fn forget_logs(&self) -> Result<(), ForgetError> {
        for (id, lineage) in self.states.forgotten() {
            self.forget_log(id, lineage).await?;
        }
        Ok(())
    }

    async fn forget_log(&self, id: VolumeId, lineage: Lineage) -> Result<(), ForgetError> {
        let storage = lineage.storage(id);
        if !self.wal.groups().contains(&storage) {
            return Ok(());
        }
        self.wal.group(storage).remove().await.map_err(|source| ForgetError::Wal { group: id, source })?;
        tracing::warn!(group = %id, %lineage, "what this node had of a line is given up");
        Ok(())
    }

    /// That [`Groups::forget_line`] may do it now.
    ///
    /// # Errors
    /// [`ForgetError::Runs`], [`ForgetError::Needed`], [`ForgetError::Store`]. Cancel safe.
    pub async fn check_forgettable(&self, id: VolumeId, lineage: Lineage) -> Result<(), ForgetError> {
        let next = self.fences.lineage(id);
        if lineage > next || self.get(id).is_some_and(|group| group.lineage == lineage) {
            return Err(ForgetError::Runs { group: id, lineage });
        }
        if lineage < next && next.founder == self.config.node {
            let (states, storage) = (Arc::clone(&self.states), next.storage(id));
            let begun = self.blocking.run(move || Ok::<_, StoreError>(states.group(storage)?.meta().applied)).await?;
            if begun.is_none() || !self.wal.groups().contains(&storage) {
                return Err(ForgetError::Needed { group: id, lineage, next });
            }
        }
        Ok(())
    }
}

impl From<ForgetError> for crate::error::StartError {
    fn from(error: ForgetError) -> Self {
        Self::Config(format!("what was to be given up is not yet: {}", chain(&error)))
    }
}
