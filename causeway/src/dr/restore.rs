//! A new cluster at exactly the commit that an image stands for.
//!
//! The folder is made as `init` makes one, with the old cluster's id and realm key and node ids above all that it ever had.
//! Each node's state store is then seeded: volumes with the image's records at exactly their seq; the root group with its
//! records at one seq more, since the new nodes, voters and the raised epoch are one command ([`RootOp::Reseed`]), applied
//! here as any replica would. The raised epoch fences every process of the old cluster.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use causeway_base::{Clock as _, ClusterId, Epoch, NodeId, Seq, SiteName, StoreId, SystemClock, VolumeId};
use causeway_namespace::Incarnation;
use causeway_namespace_core::apply::apply;
use causeway_namespace_core::audit::By;
use causeway_namespace_core::command::{Command, Outcome, Request, RequestBody};
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::memory::MemoryRecords;
use causeway_namespace_core::promotion::restored_epoch;
use causeway_namespace_core::query;
use causeway_namespace_core::records::{ReadError, Record};
use causeway_namespace_core::root::{ClusterRecord, NodeRecord, NodeState, RootOp, RootOutcome, VolumeSpec};
use causeway_namespace_raft::link::{Incoming, Outgoing};
use causeway_namespace_raft::store::StateView;
use causeway_namespace_raft::{Groups, GroupsConfig, LinkError, PeerLink, PeerRequest, STATE_SPACES, Seed};
use causeway_repository::dr::DrVolume;
use causeway_storage::disk::{Disk, RealDisk};
use causeway_storage::kv::{FjallKv, Kv};
use rand::Rng as _;
use serde::Serialize;

use super::image::{Image, blocking};
use crate::cli::args::RestoreArgs;
use crate::cluster::{NewCluster, create};
use crate::config::{Config, NodeSection};
use crate::node::folder::DataFolder;
use crate::node::stores::kv_options;

/// What a restore made.
#[derive(Debug, Serialize)]
pub(crate) struct Restored {
    pub(crate) dir: String,
    pub(crate) config: String,
    pub(crate) epoch: u64,
    pub(crate) volumes: Vec<RestoredVolume>,
    pub(crate) seconds: f64,
}

/// A volume of the new cluster.
#[derive(Debug, Serialize)]
pub(crate) struct RestoredVolume {
    pub(crate) volume: String,
    pub(crate) seq: u64,
    pub(crate) records: u64,
    pub(crate) digest: String,
}

impl Restored {
    /// The new cluster's configuration.
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(Path::new(&self.config))?)
    }
}

/// Writes a new cluster from the repository at `url`. Nothing of it runs yet; bytes are fetched when they are read.
///
/// # Errors
/// The image is damaged or the folder is in use; nothing is left behind then.
pub(crate) async fn restore(url: &str, args: RestoreArgs) -> anyhow::Result<Restored> {
    restore_image(&Image::open(url).await?, url, args).await
}

/// The same, of an image that is open.
pub(super) async fn restore_image(image: &Image, url: &str, args: RestoreArgs) -> anyhow::Result<Restored> {
    let started = Instant::now();
    let archived: Vec<_> =
        image.catalog.volumes.values().filter(|volume| volume.spec.archive).map(|volume| volume.id).collect();
    if archived.len() < image.catalog.volumes.len() {
        let lost: Vec<_> = image
            .catalog
            .volumes
            .values()
            .filter(|volume| !volume.spec.archive)
            .map(|volume| &*volume.spec.name)
            .collect();
        tracing::warn!(volumes = ?lost, "these volumes were kept out of the repository by their policy; they come back empty");
    }
    let sites = if args.sites.is_empty() { sites_of(image) } else { args.sites };
    let root = image.reader.volume_of(image.root.cluster, VolumeId::ROOT).await?;
    let (realm_key, records) = {
        let root = root.clone();
        blocking(move || {
            let key = query::realm_key(&root, "default")?.context("the image has no realm key")?;
            Ok((key.0, memory_of(&root)?))
        })
        .await?
    };
    let last_node = image.catalog.nodes.keys().max().map_or(0, |node| node.get());
    let config = create(&NewCluster {
        dir: args.dir.clone(),
        id: Some(image.root.cluster),
        realm_key: Some(realm_key),
        sites,
        first_node: NodeId(last_node + 1),
        host: args.host,
        base_port: args.base_port,
        repository: absolute(url)?,
        certificate_life: args.certificate_life,
    })?;
    match seed_all(image, &root, records, &archived, &config).await {
        Ok((epoch, volumes)) => Ok(Restored {
            dir: config.base.display().to_string(),
            config: config.path.display().to_string(),
            epoch: epoch.get(),
            volumes,
            seconds: started.elapsed().as_secs_f64(),
        }),
        Err(error) => {
            // Half a cluster would start with half of its volumes: it must not be there.
            if let Err(left) = std::fs::remove_dir_all(&config.base) {
                tracing::error!(error = %left, folder = %config.base.display(), "the unfinished restore could not be removed");
            }
            Err(error)
        }
    }
}

/// A folder's path, so that it means the same from the new cluster's folder; an address as it is.
fn absolute(url: &str) -> anyhow::Result<String> {
    if url.contains("://") {
        return Ok(url.to_owned());
    }
    let path = Path::new(url).canonicalize().with_context(|| format!("find {url}"))?;
    Ok(path.to_string_lossy().into_owned())
}

pub(super) fn sites_of(image: &Image) -> Vec<SiteName> {
    let mut sites: Vec<SiteName> = Vec::new();
    for node in image.catalog.nodes.values() {
        if !sites.contains(&node.site) {
            sites.push(node.site.clone());
        }
    }
    sites
}

/// The records of the root group: small, since a cluster has few nodes and some thousand volumes at most.
fn memory_of(root: &DrVolume) -> anyhow::Result<MemoryRecords> {
    let mut records = MemoryRecords::new();
    for record in root.records() {
        let (key, value) = record?;
        records.put(key, value);
    }
    Ok(records)
}

async fn seed_all(
    image: &Image,
    root: &DrVolume,
    mut records: MemoryRecords,
    archived: &[VolumeId],
    config: &Config,
) -> anyhow::Result<(Epoch, Vec<RestoredVolume>)> {
    let nodes: Vec<NodeRecord> = config.nodes().map(new_record).collect();
    let root_seq = Seq(root.head().seq.get() + 1);
    let mut volumes = Vec::new();
    for id in archived {
        volumes.push(image.reader.volume_of(image.root.cluster, *id).await?);
    }
    // Above all that were published, a volume's promotion that is in no image of the root group too; and of no promotion's numbers.
    let last = volumes.iter().map(|volume| volume.head().epoch).chain([image.root.epoch]).max().unwrap_or_default();
    let epoch = restored_epoch(last).context("epochs are used up")?;
    reseed(image, &mut records, root_seq, epoch, &nodes)?;

    let voters: BTreeSet<NodeId> = nodes.iter().map(|node| node.id).collect();
    let seed = |seq, term, digest| Seed { seq, term: term + 1, voters: voters.clone(), digest };
    let root_seed = seed(root_seq, root.head().term, records.digest());
    let root_records: Vec<_> = records.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut restored: Vec<RestoredVolume> = Vec::new();
    for (node, section) in nodes.iter().zip(config.nodes()) {
        let folder = DataFolder::claim(config.resolve(&section.data))?;
        let groups = SeedTarget::open(node, folder, config).await?;
        let root_records = root_records.clone().into_iter().map(Ok);
        groups.seed(VolumeId::ROOT, root_seed.clone(), root_records).await?;
        restored.clear();
        for volume in &volumes {
            let head = volume.head();
            let counted = Arc::new(AtomicU64::new(0));
            let count = counted.clone();
            let records = volume.records().map(move |record| {
                count.fetch_add(1, Ordering::Relaxed);
                record.map_err(|error| ReadError::Store(format!("{:#}", anyhow::Error::from(error))))
            });
            groups.seed(head.volume, seed(head.seq, head.term, head.digest), records).await?;
            restored.push(RestoredVolume {
                volume: head.name.clone(),
                seq: head.seq.get(),
                records: counted.load(Ordering::Relaxed),
                digest: head.digest.to_string(),
            });
        }
        groups.close(node, config.cluster.id).await?;
    }
    Ok((epoch, restored))
}

pub(super) fn new_record(section: &NodeSection) -> NodeRecord {
    NodeRecord {
        id: section.node_id(),
        site: section.site.clone(),
        // Registered by the node's first start.
        store: None,
        grpc: section.grpc.clone(),
        quic: section.quic.clone(),
        witness: false,
        state: NodeState::Active,
    }
}

/// Applies the one command that makes the old cluster's tables the new one's.
fn reseed(
    image: &Image,
    records: &mut MemoryRecords,
    seq: Seq,
    epoch: Epoch,
    nodes: &[NodeRecord],
) -> anyhow::Result<()> {
    let voters: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
    let here = |site: &SiteName| nodes.iter().any(|node| node.site == *site);
    let first = nodes.first().map(|node| node.site.clone()).context("no node")?;
    let specs = image.catalog.volumes.values().map(|volume| {
        let mut spec: VolumeSpec = volume.spec.clone();
        spec.voters = voters.clone();
        spec.learners.clear();
        if !here(&spec.home) {
            spec.home = first.clone();
        }
        spec.replicas.retain(here);
        spec.caches.retain(here);
        if !spec.replicas.contains(&spec.home) {
            spec.replicas.insert(0, spec.home.clone());
        }
        let replicas = spec.replicas.clone();
        spec.caches.retain(|site| !replicas.contains(site));
        (volume.id, spec)
    });
    let op = RootOp::Reseed {
        cluster: ClusterRecord { id: image.root.cluster, epoch },
        nodes: nodes.to_vec(),
        volumes: specs.collect(),
    };
    let request = Request { at: SystemClock.now(), body: RequestBody::Audited { op, by: local_user() } };
    let applied = apply(records, seq, &Command { requests: vec![request] })?;
    match applied.outcomes.as_slice() {
        [Outcome::Root(RootOutcome::Done)] => {}
        other => anyhow::bail!("the image's tables cannot become a new cluster's: {other:?}"),
    }
    records.take(&applied.changes);
    Ok(())
}

/// Whoever runs this command, for the audit.
fn local_user() -> By {
    let name = std::env::var("USER").ok().filter(|name| !name.is_empty() && name.len() <= 64);
    let who = name.map_or_else(|| "a local user".to_owned(), |name| format!("local user {name}"));
    By { who, node: NodeId(0), reason: String::new() }
}

/// The stores of a node that is not running.
pub(super) struct SeedTarget {
    groups: Arc<Groups>,
    state: Arc<dyn Kv>,
    folder: DataFolder,
}

impl SeedTarget {
    pub(super) async fn open(node: &NodeRecord, folder: DataFolder, config: &Config) -> anyhow::Result<Self> {
        let path = folder.state();
        let options = kv_options(&config.limits, config.limits.metadata_cache);
        let state = blocking(move || {
            FjallKv::open(&path, STATE_SPACES, &options).with_context(|| format!("make {}", path.display()))
        });
        let state: Arc<dyn Kv> = Arc::new(state.await?);
        let groups = Groups::open(GroupsConfig::new(
            node.id,
            node.site.clone(),
            Arc::new(RealDisk),
            folder.namespace(),
            state.clone(),
            Arc::new(NoPeers),
            Arc::new(SystemClock),
            rand::rng().random(),
        ))
        .await?;
        Ok(Self { groups, state, folder })
    }

    /// A volume's state as the node has it.
    pub(super) async fn view(&self, group: VolumeId) -> anyhow::Result<StateView> {
        let view = self.groups.line_view(group, Lineage::default()).await;
        view.with_context(|| format!("read {group} out of the restored store"))
    }

    /// Lets go of the stores; nothing is marked.
    pub(super) async fn abandon(self) {
        self.groups.shutdown().await;
    }

    async fn seed(
        &self,
        group: VolumeId,
        seed: Seed,
        records: impl Iterator<Item = Result<Record, ReadError>> + Send + 'static,
    ) -> anyhow::Result<()> {
        self.groups.seed(group, seed, records).await.with_context(|| format!("restore {group}"))
    }

    /// Makes everything durable, and last marks the folder as one that belongs to the cluster.
    async fn close(self, node: &NodeRecord, cluster: ClusterId) -> anyhow::Result<()> {
        self.groups.shutdown().await;
        // Marked as joined: nobody can be asked whether it may, since all are new, and its state is not blank.
        let incarnation = Incarnation { cluster, node: node.id, store: StoreId(rand::rng().random()), joined: true };
        let Self { state, folder, .. } = self;
        blocking(move || {
            state.persist()?;
            let disk: Arc<dyn Disk> = Arc::new(RealDisk);
            Ok(incarnation.write(&disk, &folder.namespace())?)
        })
        .await
    }
}

/// A node that is being seeded talks to nobody.
#[derive(Debug)]
struct NoPeers;

#[async_trait]
impl PeerLink for NoPeers {
    async fn call(&self, _to: NodeId, _request: PeerRequest, _deadline: Duration) -> Result<Bytes, LinkError> {
        Err(LinkError::Unreachable("this node is being restored".into()))
    }

    async fn open(
        &self,
        _to: NodeId,
        _request: PeerRequest,
        _outgoing: Outgoing,
        _deadline: Duration,
    ) -> Result<Incoming, LinkError> {
        Err(LinkError::Unreachable("this node is being restored".into()))
    }
}
