//! The upkeep of chunk stores: of this node's, or of another's by asking it.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::{GcReport, NodeId, ScrubReport, VolumeId};
use causeway_namespace_core::root::VolumeRecord;
use causeway_proto::v1;

use super::Namespace;
use crate::error::Error;
use crate::read::Consistency;
use crate::rpc;
use crate::upkeep::{GcAsk, Run, ScrubAsk, StoreKeeper};
use crate::wire::Wire;
use causeway_namespace_raft::StateView;

/// What is left of a deadline for the way back.
const MARGIN: Duration = Duration::from_millis(250);

impl Namespace {
    /// Says who keeps this node's chunk store. Only the first call counts.
    pub fn attach_keeper(&self, keeper: Arc<dyn StoreKeeper>) {
        let _ = self.keeper.set(keeper);
    }

    pub(crate) fn keeper(&self) -> Option<&Arc<dyn StoreKeeper>> {
        self.keeper.get()
    }

    fn own_keeper(&self) -> Result<&Arc<dyn StoreKeeper>, Error> {
        self.keeper().ok_or_else(|| Error::Invalid(format!("{} keeps no chunks", self.id())))
    }

    /// Begins or waits for a collection on a node (`None`: this one).
    ///
    /// # Errors
    /// [`Error`] if the node cannot be asked. Cancel safe: the run goes on.
    pub async fn store_gc(&self, node: Option<NodeId>, ask: GcAsk, deadline: Duration) -> Result<Run<GcReport>, Error> {
        let wait = deadline.saturating_sub(MARGIN);
        let Some(other) = node.filter(|node| *node != self.id()) else {
            let run = self.own_keeper()?.gc(ask, wait).await;
            return Ok(Run { node: self.id(), ..run });
        };
        let mut stub = self.peers.admin(other).map_err(|error| Error::Invalid(error.to_string()))?;
        let message = v1::StoreGcRequest {
            node: 0,
            ticket: ask.ticket,
            dry_run: ask.dry_run,
            grace_millis: ask.grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)),
        };
        let answer = stub.store_gc(self.peers.request(message, Some(wait))).await;
        let answer = answer.map_err(|status| not_reached(other, &status))?;
        Run::from_wire(answer.into_inner()).map_err(|error| Error::Invalid(format!("{other} answered badly: {error}")))
    }

    /// As [`Namespace::store_gc`], a scrub.
    ///
    /// # Errors
    /// As there.
    pub async fn store_scrub(
        &self,
        node: Option<NodeId>,
        ask: ScrubAsk,
        deadline: Duration,
    ) -> Result<Run<ScrubReport>, Error> {
        let wait = deadline.saturating_sub(MARGIN);
        let Some(other) = node.filter(|node| *node != self.id()) else {
            let run = self.own_keeper()?.scrub(ask, wait).await;
            return Ok(Run { node: self.id(), ..run });
        };
        let mut stub = self.peers.admin(other).map_err(|error| Error::Invalid(error.to_string()))?;
        let message = v1::StoreScrubRequest { node: 0, ticket: ask.ticket, now: ask.now };
        let answer = stub.store_scrub(self.peers.request(message, Some(wait))).await;
        let answer = answer.map_err(|status| not_reached(other, &status))?;
        Run::from_wire(answer.into_inner()).map_err(|error| Error::Invalid(format!("{other} answered badly: {error}")))
    }

    /// Every volume, as of this call or later: never a table that is behind.
    ///
    /// # Errors
    /// [`Error`] if no leader of the root group is in reach. Cancel safe.
    pub async fn all_volumes(&self, deadline: Duration) -> Result<Vec<VolumeRecord>, Error> {
        let root = self.snapshot(VolumeId::ROOT, Consistency::Linearizable, deadline).await?;
        Ok(causeway_namespace_core::query::volumes(&root.view)?)
    }

    /// The state of a volume's replica on this node, with everything that was acknowledged before the call.
    ///
    /// # Errors
    /// [`Error`] if there is no replica here, or no leader is in reach. Cancel safe.
    pub async fn caught_up(&self, volume: VolumeId, deadline: Duration) -> Result<StateView, Error> {
        Ok(self.snapshot(volume, Consistency::Linearizable, deadline).await?.view)
    }
}

fn not_reached(node: NodeId, status: &tonic::Status) -> Error {
    Error::Invalid(format!("{node} was not reached: {}", rpc::message_of(status)))
}
