//! The cluster under test.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use causeway::cluster::LocalCluster;
use causeway::config::Config;
use causeway_base::{NodeId, VolumeId};
use causeway_namespace::{Consistency, SyncTarget};
use causeway_namespace_core::root::VolumeSpec;
use causeway_vfs::Vfs;

use crate::three::{self, sites};

/// The volume written to.
pub(super) const VOLUME: &str = "chaos";
/// How long a request may be tried: longer than a takeover, shorter than a run.
const REQUEST: Duration = Duration::from_secs(30);
/// How long the cluster may take to be whole again.
const SETTLE: Duration = Duration::from_secs(90);

pub(super) struct Cluster {
    nodes: LocalCluster,
    config: Config,
    folder: tempfile::TempDir,
    volume: VolumeId,
}

impl Cluster {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let [home, replica, cache] = sites()?;
        let (nodes, config) = three::start(folder.path()).await?;
        let vfs = causeway::connect(&config, None, REQUEST).await?;
        let spec = VolumeSpec {
            name: VOLUME.into(),
            mount: format!("/{VOLUME}").into(),
            home: home.clone(),
            survive: None,
            residency: Default::default(),
            learners: Vec::new(),
            voters: [1, 2, 3].map(NodeId).into(),
            replicas: vec![home, replica],
            caches: vec![cache],
            archive: true,
            chunk_bytes_avg: 64 << 10,
            inline_bytes_max: 4096,
            realm: "default".into(),
        };
        let volume = vfs.names().create_volume(spec).await?.id;
        std::fs::create_dir(folder.path().join("scratch"))?;
        Ok(Self { nodes, config, folder, volume })
    }

    /// A client that prefers the site of this number.
    pub(super) async fn connect(&self, number: usize) -> anyhow::Result<Vfs> {
        let sites = sites()?;
        causeway::connect(&self.config, Some(&sites[number % sites.len()]), REQUEST).await
    }

    /// Where writers keep local files.
    pub(super) fn scratch(&self) -> PathBuf {
        self.folder.path().join("scratch")
    }

    pub(super) async fn kill(&mut self, node: NodeId) -> anyhow::Result<()> {
        self.nodes.kill(node).await
    }

    pub(super) async fn restart(&mut self, node: NodeId) -> anyhow::Result<()> {
        self.nodes.start([node]).await.with_context(|| format!("restart of node {node} after SIGKILL"))
    }

    /// Waits until replicas are in sync and all nodes hold equal states.
    pub(super) async fn settle(&self) -> anyhow::Result<()> {
        let vfs = self.connect(0).await?;
        for site in &sites()?[..2] {
            let target = SyncTarget::Site(site.clone());
            let waited = vfs.names().sync_wait(self.volume, target, None, SETTLE).await?;
            ensure!(waited.reached, "{site} is not in sync: {waited:?}");
        }
        let until = tokio::time::Instant::now() + SETTLE;
        loop {
            // A read through each site's own replica brings it up to the newest commit.
            for number in 0..3 {
                let vfs = self.connect(number).await?;
                vfs.names().volume_by_id(self.volume, Consistency::Linearizable).await?;
            }
            let status = vfs.names().status().await?;
            let states: Vec<_> = status
                .nodes
                .iter()
                .filter_map(|report| report.status.as_ref().ok()?.group(self.volume))
                .map(|group| (group.applied, group.digest.clone()))
                .collect();
            if states.len() == 3 && states.iter().all(|(seq, _)| *seq == states[0].0) {
                ensure!(states.iter().all(|state| *state == states[0]), "replicas differ at equal seqs: {states:?}");
                return Ok(());
            }
            ensure!(tokio::time::Instant::now() < until, "the nodes did not come to one seq: {states:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) async fn stop(mut self) {
        self.nodes.stop().await;
    }
}
