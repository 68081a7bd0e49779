//! The running sites of the demo, a session at each, and what crosses between them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use causeway_base::{NodeId, Seq, SiteName, VolumeId};
use causeway_namespace::{Consistency, SyncTarget};

use super::local_cluster;
use super::report::Wire;
use crate::cli::session::Session;
use crate::cluster::LocalCluster;
use crate::config::Config;

/// How long one request of the demo may take.
const REQUEST: Duration = Duration::from_secs(60);
/// How long the demo waits for a site or the repository to hold everything.
const SYNC: Duration = Duration::from_secs(1800);
/// How long it waits for replicas to be equal.
const EQUAL: Duration = Duration::from_secs(120);

pub(super) struct Sites {
    pub(super) cluster: LocalCluster,
    config: Config,
    sessions: BTreeMap<SiteName, Session>,
}

impl Sites {
    pub(super) fn new(config: Config) -> anyhow::Result<Self> {
        Ok(Self { cluster: local_cluster(&config)?, config, sessions: BTreeMap::new() })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) async fn start_all(&mut self) -> anyhow::Result<()> {
        let ids: Vec<_> = self.config.nodes().map(|node| node.node_id()).collect();
        self.cluster.start(ids).await
    }

    /// A session whose requests go to the nodes of a site first.
    pub(super) async fn session(&mut self, site: &SiteName) -> anyhow::Result<&Session> {
        if !self.sessions.contains_key(site) {
            let session = Session::with(self.config.clone(), Some(site), REQUEST).await?;
            self.sessions.insert(site.clone(), session);
        }
        self.sessions.get(site).context("no session")
    }

    /// Forgets sessions, so that the next ones connect anew.
    pub(super) fn disconnect(&mut self) {
        self.sessions.clear();
    }

    pub(super) fn node_of(&self, site: &SiteName) -> anyhow::Result<NodeId> {
        let node = self.config.nodes().find(|node| node.site == *site);
        Ok(node.with_context(|| format!("no node at {site}"))?.node_id())
    }

    /// Bytes that the node of a site has received from other nodes since it started, asked by way of `via`.
    pub(super) async fn received(&mut self, site: &SiteName, via: &SiteName) -> anyhow::Result<Wire> {
        let node = self.node_of(site)?;
        let status = self.session(via).await?.vfs.names().status().await?;
        let own = format!("site/{site}/node/{}", node.get());
        let mut wire = Wire::default();
        let mut seen = false;
        for report in &status.nodes {
            // A node that is down has sent nothing lately.
            let Ok(status) = &report.status else { continue };
            let is_own = report.node.id == node;
            seen |= is_own;
            for bytes in &status.wire {
                match bytes.protocol.as_str() {
                    // A QUIC endpoint counts both directions of all its connections.
                    "quic" if is_own && bytes.peer.starts_with("site/") => wire.data += bytes.received,
                    // gRPC connections are counted by the node that made them.
                    "grpc" if is_own => wire.metadata += bytes.received,
                    "grpc" if bytes.peer == own => wire.metadata += bytes.sent,
                    _ => {}
                }
            }
        }
        anyhow::ensure!(seen, "the node of {site} was not reached");
        Ok(wire)
    }

    pub(super) async fn sync(&mut self, site: &SiteName, via: &SiteName, volume: VolumeId) -> anyhow::Result<Seq> {
        self.wait(via, volume, SyncTarget::Site(site.clone()), None).await
    }

    pub(super) async fn archived(&mut self, via: &SiteName, volume: VolumeId) -> anyhow::Result<Seq> {
        self.wait(via, volume, SyncTarget::Archive, None).await
    }

    /// Waits until the target holds every byte up to `seq` (or what is newest now).
    pub(super) async fn wait(
        &mut self,
        via: &SiteName,
        volume: VolumeId,
        target: SyncTarget,
        seq: Option<Seq>,
    ) -> anyhow::Result<Seq> {
        let session = self.session(via).await?;
        let waited = session.vfs.names().sync_wait(volume, target.clone(), seq, SYNC).await?;
        anyhow::ensure!(
            waited.reached,
            "{target:?} holds everything up to seq {} only, {} was waited for",
            waited.watermark,
            waited.seq
        );
        Ok(waited.seq)
    }

    /// Waits until all nodes hold the same state of a volume: equal digests at one seq. Returns it.
    pub(super) async fn equal(&mut self, via: &SiteName, volume: VolumeId) -> anyhow::Result<(Seq, String)> {
        let nodes = self.config.nodes().count();
        let until = tokio::time::Instant::now() + EQUAL;
        loop {
            let status = self.session(via).await?.vfs.names().status().await?;
            let states: Vec<_> = status
                .nodes
                .iter()
                .filter_map(|report| report.status.as_ref().ok()?.group(volume))
                .map(|group| (group.applied, group.digest.clone()))
                .collect();
            let first = states.first().cloned();
            if let Some((seq, digest)) = first
                && states.len() == nodes
                && states.iter().all(|(other, _)| *other == seq)
            {
                anyhow::ensure!(
                    states.iter().all(|(_, other)| *other == digest),
                    "replicas differ at seq {seq}: {states:?}"
                );
                return Ok((seq, digest));
            }
            anyhow::ensure!(tokio::time::Instant::now() < until, "the nodes did not come to one seq: {states:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The node that leads a volume.
    pub(super) async fn leader(&mut self, via: &SiteName, volume: VolumeId) -> anyhow::Result<Option<NodeId>> {
        let report = self.session(via).await?.vfs.names().volume_by_id(volume, Consistency::Local).await?;
        Ok(report.leader)
    }
}
