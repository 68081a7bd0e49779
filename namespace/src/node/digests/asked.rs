//! Verification and repair as a person asks for them: of this node's replica, or of another's by asking that node.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::{NodeId, VolumeId};
use causeway_proto::v1;

use super::verify;
use crate::digest::{Repaired, VerifyReport};
use crate::error::Error;
use crate::node::Namespace;
use crate::node::upkeep::{MARGIN, not_reached};
use crate::upkeep::Run;
use crate::wire::Wire;

impl Namespace {
    /// Adds up the records of a volume's replica on a node (`None`: this one), at full speed: begins that, or joins or waits
    /// for the run with this ticket.
    ///
    /// # Errors
    /// [`Error`] if the node cannot be asked. Cancel safe: the run goes on.
    pub async fn volume_verify(
        self: &Arc<Self>,
        volume: VolumeId,
        node: Option<NodeId>,
        ticket: u64,
        deadline: Duration,
    ) -> Result<Run<VerifyReport>, Error> {
        let wait = deadline.saturating_sub(MARGIN);
        let Some(other) = node.filter(|node| *node != self.id()) else {
            let this = self.clone();
            let work = || async move { verify::verify(&this, volume, u64::MAX).await };
            let (ticket, outcome) = self.digests.verifies.follow(volume, ticket, wait, &self.tasks, work).await;
            return Ok(Run { node: self.id(), ticket, outcome });
        };
        let mut stub = self.peers.admin(other).map_err(|error| Error::Invalid(error.to_string()))?;
        let message = v1::VolumeVerifyRequest { volume: volume.0, node: 0, ticket };
        let answer = stub.volume_verify(self.peers.request(message, Some(wait))).await;
        let answer = answer.map_err(|status| not_reached(other, &status))?;
        Run::from_wire(answer.into_inner()).map_err(|error| Error::Invalid(format!("{other} answered badly: {error}")))
    }

    /// Declares a volume's replica on a node (`None`: this one) wrong and replaces it: as [`Namespace::volume_verify`].
    ///
    /// # Errors
    /// As there.
    pub async fn volume_repair(
        self: &Arc<Self>,
        volume: VolumeId,
        node: Option<NodeId>,
        ticket: u64,
        deadline: Duration,
    ) -> Result<Run<Repaired>, Error> {
        let wait = deadline.saturating_sub(MARGIN);
        let Some(other) = node.filter(|node| *node != self.id()) else {
            let this = self.clone();
            let work = || this.declare_wrong(volume);
            let (ticket, outcome) = self.digests.repairs.follow(volume, ticket, wait, &self.tasks, work).await;
            return Ok(Run { node: self.id(), ticket, outcome });
        };
        let mut stub = self.peers.admin(other).map_err(|error| Error::Invalid(error.to_string()))?;
        let message = v1::VolumeRepairRequest { volume: volume.0, node: 0, ticket };
        let answer = stub.volume_repair(self.peers.request(message, Some(wait))).await;
        let answer = answer.map_err(|status| not_reached(other, &status))?;
        Run::from_wire(answer.into_inner()).map_err(|error| Error::Invalid(format!("{other} answered badly: {error}")))
    }
}
