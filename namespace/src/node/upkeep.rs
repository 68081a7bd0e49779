//! The upkeep of chunk stores: of this node's, or of another's by asking it.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::{GcReport, NodeId, ScrubReport, VolumeId};
use causeway_namespace_core::listing::{Listed, ManifestPage};
use causeway_namespace_core::root::VolumeRecord;
use causeway_proto::peer::v1::{ManifestsRequest, ManifestsResponse};
use causeway_proto::v1;
use tokio::time::Instant;
use tonic::Streaming;

use super::Namespace;
use crate::error::Error;
use crate::read::Consistency;
use crate::rpc;
use crate::upkeep::{GcAsk, Run, ScrubAsk, StoreKeeper};
use crate::wire::Wire;
use causeway_namespace_raft::StateView;

/// What is left of a deadline for the way back.
pub(super) const MARGIN: Duration = Duration::from_millis(250);
/// Longest wait for a page of a listing: the first may take a look at all that changed.
const PAGE_MAX: Duration = Duration::from_secs(120);

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
        let message = v1::StoreScrubRequest { node: 0, ticket: ask.ticket, now: ask.now, deep: ask.deep };
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

/// A listing that another node makes.
#[derive(Debug)]
pub struct RemoteListing {
    node: NodeId,
    pages: Streaming<ManifestsResponse>,
}

impl RemoteListing {
    /// The next page; whether it is the last one stands in it. A minute or two may pass before the first.
    ///
    /// # Errors
    /// [`Error`] if it does not come. Not cancel safe: a page may be lost.
    pub async fn next(&mut self) -> Result<ManifestPage, Error> {
        let node = self.node;
        let bad = |why: String| Error::Invalid(format!("the list of {node} was cut off: {why}"));
        let page = tokio::time::timeout(PAGE_MAX, self.pages.message()).await;
        let page = page.map_err(|_| bad(format!("no page for {} s", PAGE_MAX.as_secs())))?;
        let page = page.map_err(|status| bad(rpc::message_of(&status)))?;
        let page = page.ok_or_else(|| bad("it ended before its last page".to_owned()))?;
        ManifestPage::from_wire(page).map_err(|error| bad(format!("its answer does not decode: {error}")))
    }
}

impl Namespace {
    /// What a volume without a replica here names: listed by a node that has one, in a state with everything that was
    /// acknowledged before the call. Nodes of this site are asked first, then the voters.
    ///
    /// # Errors
    /// [`Error`] if none can. Cancel safe.
    pub async fn remote_manifests(
        &self,
        volume: VolumeId,
        since: Option<Listed>,
        deadline: Duration,
    ) -> Result<RemoteListing, Error> {
        let started = Instant::now();
        let record = self.find_volume(volume, deadline).await?;
        let catalog = self.catalog();
        let site = |node: &NodeId| catalog.nodes.get(node).is_some_and(|node| node.site == self.node.site);
        let mut nodes: Vec<NodeId> = record.members.iter().copied().filter(|node| *node != self.id()).collect();
        nodes.sort_by_key(|node| (!site(node), !record.spec.voters.contains(node), *node));
        let mut why = "no other node has a replica".to_owned();
        for (at, node) in nodes.iter().copied().enumerate() {
            // One that does not answer must leave time for the others.
            let left = deadline.saturating_sub(started.elapsed()) / u32::try_from(nodes.len() - at).unwrap_or(u32::MAX);
            let message = ManifestsRequest { volume: volume.0, since: since.map(Wire::into_wire) };
            let request = self.peers.request(message, Some(left));
            let asked = match self.peers.control(node) {
                Ok(mut stub) => stub.manifests(request).await.map_err(|status| rpc::message_of(&status)),
                Err(error) => Err(error.to_string()),
            };
            match asked {
                Ok(answer) => return Ok(RemoteListing { node, pages: answer.into_inner() }),
                Err(error) => why = format!("{node}: {error}"),
            }
        }
        Err(Error::Invalid(format!("no node lists what volume {volume} names; {why}")))
    }
}

pub(super) fn not_reached(node: NodeId, status: &tonic::Status) -> Error {
    Error::Invalid(format!("{node} was not reached: {}", rpc::message_of(status)))
}
