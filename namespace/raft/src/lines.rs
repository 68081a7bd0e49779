//! Following one line of each group's history, and leaving lesser ones for ever.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use causeway_base::{NodeId, VolumeId};
use causeway_namespace_core::lineage::Lineage;

use crate::consensus::network::Heard;
use crate::error::{HandleError, StartError};
use crate::fence::{Fence, Founding};
use crate::group::Group;
use crate::groups::Groups;
use crate::store::chain;

/// Words of greater lines that wait to be written down; what does not fit is heard again.
pub(crate) const HEARD_MAX: usize = 64;

impl Groups {
    /// The running group of exactly this line.
    pub(crate) async fn of_line(
        &self,
        from: NodeId,
        id: VolumeId,
        lineage: Lineage,
    ) -> Result<Arc<Group>, HandleError> {
        self.check_line(from, id, lineage).await?;
        self.get(id).filter(|group| group.lineage == lineage).ok_or(HandleError::UnknownGroup(id))
    }

    /// Compares the line of a group that a peer's message is of with the one that this node follows. A greater one ends this
    /// node's before this returns.
    ///
    /// Cancel safety: dropped, the group may be stopped.
    ///
    /// # Errors
    /// [`HandleError::Fenced`]: the peer's has ended. [`HandleError::Stopped`]: the fence could not be written.
    pub async fn check_line(&self, from: NodeId, id: VolumeId, lineage: Lineage) -> Result<(), HandleError> {
        let followed = self.fences.lineage(id);
        if lineage < followed {
            return Err(HandleError::Fenced { group: id, lineage: followed });
        }
        // Of what this node never had there is nothing to fence.
        if lineage > followed && (self.get(id).is_some() || self.wal.groups().contains(&followed.storage(id))) {
            let fenced = self.fence(id, lineage, from).await;
            fenced.map_err(|error| HandleError::Stopped(chain(&error)))?;
        }
        Ok(())
    }

    /// Ends every lesser line of a group on this node, for ever: nothing of it is acknowledged from now on, the mark is durable
    /// on return, and the group does not run. `by` is the node that says so.
    ///
    /// Cancel safety: dropped, the group acknowledges nothing more until the node is started again; call it again.
    ///
    /// # Errors
    /// [`StartError::Fence`]: the mark may not be durable.
    pub async fn fence(&self, id: VolumeId, lineage: Lineage, by: NodeId) -> Result<(), StartError> {
        self.acknowledge_no_more(id, lineage);
        let _one = self.starting.lock().await;
        self.leave(id, lineage, by, None).await
    }

    /// As [`Groups::fence`], by a line that this node founds; what it begins with is remembered with the mark.
    ///
    /// Cancel safety: as [`Groups::fence`].
    ///
    /// # Errors
    /// As [`Groups::fence`]; [`StartError::Fenced`] if this node follows that line, or a greater one, already.
    pub async fn fence_founding(&self, id: VolumeId, lineage: Lineage, founding: Founding) -> Result<(), StartError> {
        let _one = self.starting.lock().await;
        let followed = self.fences.lineage(id);
        if lineage <= followed {
            return Err(StartError::Fenced { group: id, asked: lineage, followed });
        }
        self.leave(id, lineage, self.config.node, Some(founding)).await
    }

    fn acknowledge_no_more(&self, id: VolumeId, lineage: Lineage) {
        if let Some(group) = self.get(id).filter(|group| group.lineage < lineage) {
            group.fenced.store(true, Ordering::SeqCst);
        }
    }

    /// Under the lock of starts.
    pub(crate) async fn leave(
        &self,
        id: VolumeId,
        lineage: Lineage,
        by: NodeId,
        founding: Option<Founding>,
    ) -> Result<(), StartError> {
        self.acknowledge_no_more(id, lineage);
        let (fences, changes, now) = (Arc::clone(&self.fences), self.fence_changes.clone(), self.config.clock.now());
        // Told from there, so that a caller that goes away meanwhile leaves nothing that nobody finishes.
        let raise = move || {
            let raised = fences.raise(id, lineage, by, now, founding)?;
            if raised {
                tracing::warn!(group = %id, %lineage, %by, "the group was promoted: what this node had of it is fenced");
                changes.send_modify(|count| *count += 1);
            }
            Ok::<_, StartError>(())
        };
        self.blocking.run(raise).await?;
        let running = {
            let mut groups = self.lock();
            let ended = groups.get(&id).is_some_and(|group| group.lineage < lineage);
            if ended { groups.remove(&id) } else { None }
        };
        if let Some(group) = running
            && let Err(error) = group.raft.shutdown().await
        {
            tracing::warn!(group = %id, %error, "a fenced group did not stop in order");
        }
        Ok(())
    }

    /// Writes down what the senders of messages hear.
    pub(crate) async fn listen(
        groups: std::sync::Weak<Self>,
        mut heard: mpsc::Receiver<Heard>,
        stop: CancellationToken,
    ) {
        loop {
            let Heard { group, lineage, from } = tokio::select! {
                heard = heard.recv() => match heard {
                    Some(heard) => heard,
                    None => return,
                },
                () = stop.cancelled() => return,
            };
            let Some(groups) = groups.upgrade() else { return };
            if let Err(error) = groups.fence(group, lineage, from).await {
                tracing::error!(%group, error = chain(&error), "a fence was not written");
            }
        }
    }

    /// What this node remembers of a group's lines; `None` if it was never promoted, as far as it heard.
    #[must_use]
    pub fn fence_of(&self, id: VolumeId) -> Option<Fence> {
        self.fences.get(id)
    }

    /// The line of a group that this node follows.
    #[must_use]
    pub fn lineage(&self, id: VolumeId) -> Lineage {
        self.fences.lineage(id)
    }

    /// Tells that a greater line of some group was heard of.
    #[must_use]
    pub fn watch_fences(&self) -> watch::Receiver<u64> {
        self.fence_changes.subscribe()
    }
}
