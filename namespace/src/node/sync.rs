//! Waiting until a site or the repository holds every byte of a volume up to a seq.

use std::time::Duration;

use causeway_base::{NodeId, Seq, VolumeId};
use causeway_proto::v1::SyncWaitRequest;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::{Namespace, Pause};
use crate::error::Error;
use crate::read::Consistency;
use crate::rpc;
use crate::status::{SyncTarget, SyncWaited};
use crate::wire::Wire;

impl Namespace {
    /// Waits until the target holds every byte of `volume` up to `seq` (`None`: the newest now), at most `deadline`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the site has no node; else [`Error`] if the newest seq cannot be asked. Cancel safe.
    pub async fn sync_wait(
        &self,
        volume: VolumeId,
        target: &SyncTarget,
        seq: Option<Seq>,
        deadline: Duration,
    ) -> Result<SyncWaited, Error> {
        let started = Instant::now();
        self.find_volume(volume, deadline).await?;
        let seq = match seq {
            Some(seq) => seq,
            None => self.snapshot(volume, Consistency::Linearizable, deadline).await?.state.seq,
        };
        let nodes = self.nodes_of(target)?;
        let left = deadline.saturating_sub(started.elapsed());
        let ask = |node| self.node_watermark(node, volume, target, seq, left);
        let mut asked: FuturesUnordered<_> = nodes.into_iter().map(ask).collect();
        let mut seen = Vec::new();
        while let Some(watermark) = asked.next().await {
            seen.push(watermark);
            // One publisher's HEAD is the repository's; of a site every node must have it.
            if *target == SyncTarget::Archive && watermark >= seq {
                break;
            }
        }
        let watermark = match target {
            SyncTarget::Site(_) => seen.into_iter().min(),
            SyncTarget::Archive => seen.into_iter().max(),
        };
        let watermark = watermark.unwrap_or(Seq::ZERO);
        Ok(SyncWaited { reached: watermark >= seq, watermark, seq })
    }

    fn nodes_of(&self, target: &SyncTarget) -> Result<Vec<NodeId>, Error> {
        let catalog = self.catalog();
        let of_target = |site| match target {
            SyncTarget::Site(wanted) => wanted == site,
            SyncTarget::Archive => true,
        };
        let nodes: Vec<NodeId> =
            catalog.nodes.values().filter(|node| of_target(&node.site)).map(|node| node.id).collect();
        match (nodes.is_empty(), target) {
            (true, SyncTarget::Site(site)) => Err(Error::Invalid(format!("site {site} has no node in this cluster"))),
            _ => Ok(nodes),
        }
    }

    /// A node's own watermark when it reaches `seq`, or after `deadline`; zero if it cannot be asked.
    async fn node_watermark(
        &self,
        node: NodeId,
        volume: VolumeId,
        target: &SyncTarget,
        seq: Seq,
        deadline: Duration,
    ) -> Seq {
        if node == self.id() {
            return self.own_watermark(volume, target, seq, deadline).await;
        }
        let started = Instant::now();
        let mut pause = Pause::new();
        let mut watermark = Seq::ZERO;
        loop {
            let left = deadline.saturating_sub(started.elapsed());
            match self.ask_watermark(node, volume, target, seq, left).await {
                Ok(waited) => watermark = waited,
                Err(reason) => tracing::debug!(%node, reason, "cannot ask a node for its watermark"),
            }
            // A node without any watermark answers at once.
            if watermark >= seq || started.elapsed() >= deadline || !pause.wait(&self.stop).await {
                return watermark;
            }
        }
    }

    async fn ask_watermark(
        &self,
        node: NodeId,
        volume: VolumeId,
        target: &SyncTarget,
        seq: Seq,
        deadline: Duration,
    ) -> Result<Seq, String> {
        let target = Some(target.clone().into_wire());
        let message = SyncWaitRequest { volume: volume.0, target, seq: seq.0, own_only: true };
        let mut stub = self.peers.admin(node).map_err(|error| error.to_string())?;
        let answer = stub.sync_wait(self.peers.request(message, Some(deadline))).await;
        let answer = answer.map_err(|status| rpc::message_of(&status))?;
        Ok(Seq(answer.into_inner().watermark))
    }

    /// This node's own watermark (or that of its HEAD) when it reaches `seq`, or after `deadline`. Cancel safe.
    pub(crate) async fn own_watermark(
        &self,
        volume: VolumeId,
        target: &SyncTarget,
        seq: Seq,
        deadline: Duration,
    ) -> Seq {
        let sources = self.sources();
        let mut waits: FuturesUnordered<_> = sources
            .iter()
            .map(|source| match target {
                SyncTarget::Site(_) => source.wait_watermark(volume, seq, deadline),
                SyncTarget::Archive => source.wait_archived(volume, seq, deadline),
            })
            .collect();
        let mut watermark = Seq::ZERO;
        while let Some(waited) = waits.next().await {
            watermark = watermark.max(waited.unwrap_or(Seq::ZERO));
            if watermark >= seq {
                break;
            }
        }
        watermark
    }
}
