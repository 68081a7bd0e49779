//! The namespace of a node: its groups, the way to their leaders, and what is asked of them.

mod aside;
mod digests;
pub(crate) mod forget;
pub(crate) mod forward;
pub(crate) mod join;
pub(crate) mod manage;
mod mounts;
mod mutate;
mod placement;
mod promote;
mod reads;
pub(crate) mod replica;
mod status;
mod sync;
mod upkeep;
mod volumes;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use causeway_base::{Clock, NodeId, RetryClass, StoreId, VolumeId};
use causeway_namespace_core::root::{NodeRecord, VolumeRecord};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::catalog::Catalog;
use crate::config::{NamespaceConfig, Parts};
use crate::content::ContentCheck;
use crate::error::Error;
use crate::incarnation::{Incarnation, IncarnationError};
use crate::node::digests::Digests;
use crate::node::forward::Forward;
use crate::node::join::{JoinError, Joined};
use crate::node::replica::Replica;
use crate::peers::Peers;
use crate::service;
use crate::status::StatusSource;
use crate::upkeep::StoreKeeper;
use causeway_namespace_raft::wal::WalOptions;
use causeway_namespace_raft::{Group, Groups, GroupsConfig};

pub use self::aside::{Aside, AsideLine, AsideSeq};
pub use self::promote::Promoted;
pub use self::reads::Snapshot;
pub(crate) use self::reads::found as reads_found;
pub use self::upkeep::RemoteListing;

/// Why the namespace of a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data folder is not usable.
    #[error("data folder")]
    Incarnation(#[from] IncarnationError),
    /// Log or state do not open.
    #[error("log and state")]
    Groups(#[source] causeway_namespace_raft::StartError),
    /// The listener cannot be served.
    #[error("gRPC listener")]
    Listen(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The certificate is not this node's.
    #[error("the certificate is that of {found}, this node is {expected}; give it its own")]
    Certificate {
        /// Of the certificate.
        found: String,
        /// As configured.
        expected: String,
    },
}

/// The namespace of a node. Owns every group of it and the gRPC server.
///
/// Tasks: one serves gRPC; one joins the cluster and then follows the root group's tables, starting the volumes that have a
/// replica here; one for each group runs its read rounds; one has
/// ended locks collected; one compares replicas with other nodes'. All end with [`Namespace::shutdown`].
#[derive(Debug)]
pub struct Namespace {
    pub(crate) config: NamespaceConfig,
    pub(crate) node: NodeRecord,
    pub(crate) peers: Arc<Peers>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) forward: Forward,
    pub(crate) clock: Arc<dyn Clock>,
    content: Arc<dyn ContentCheck>,
    catalog: watch::Sender<Arc<Catalog>>,
    replicas: Mutex<BTreeMap<VolumeId, Arc<Replica>>>,
    /// Counts the starts of replicas, for those that wait for one.
    started_replicas: watch::Sender<u64>,
    sources: RwLock<Vec<Arc<dyn StatusSource>>>,
    keeper: OnceLock<Arc<dyn StoreKeeper>>,
    pub(crate) digests: Digests,
    joined: watch::Sender<Joined>,
    /// Its data folder took part in the cluster before this start.
    joined_before: bool,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    started: Instant,
}

impl Namespace {
    /// Opens log and state, serves gRPC on `listener`, and begins to join the cluster: [`Namespace::ready`] tells when that
    /// is done, or why it cannot be.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(config: NamespaceConfig, parts: Parts, listener: TcpListener) -> Result<Arc<Self>, StartError> {
        check_certificate(&config, &parts)?;
        let opened = parts.clone();
        let (cluster, id, fresh) = (config.cluster, config.node.id, config.fresh_store);
        let open = move || Incarnation::open(&opened.disk, &opened.dir, cluster, id, fresh);
        let incarnation = blocking(open).await?;
        let node = NodeRecord { store: Some(incarnation.store), ..config.node.clone() };
        let peers = Peers::new(id, cluster, incarnation.store, parts.identity.clone(), parts.network.clone());
        let peers = Arc::new(peers);
        peers.update(&config.initial);
        let groups = open_groups(&config, &parts, peers.clone()).await?;
        let forward = Forward { own: id, groups: groups.clone(), peers: peers.clone() };
        let namespace = Arc::new(Self {
            node,
            peers,
            groups,
            forward,
            clock: parts.clock.clone(),
            content: parts.content.clone(),
            catalog: watch::Sender::new(Arc::default()),
            replicas: Mutex::default(),
            started_replicas: watch::Sender::new(0),
            sources: RwLock::default(),
            keeper: OnceLock::new(),
            digests: Digests::default(),
            joined: watch::Sender::new(Joined::NotYet),
            joined_before: incarnation.joined,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            started: Instant::now(),
            config,
        });
        service::serve(&namespace, listener, &parts.identity).map_err(StartError::Listen)?;
        namespace.tasks.spawn(join::run(namespace.clone(), parts, incarnation));
        namespace.tasks.spawn(namespace.clone().expire_locks());
        namespace.tasks.spawn(digests::run(namespace.clone()));
        Ok(namespace)
    }

    /// Waits until the node is part of the cluster and registered there.
    ///
    /// # Errors
    /// [`JoinError`]: it never will be as it is configured; shut it down. Cancel safe.
    pub async fn ready(&self) -> Result<(), JoinError> {
        let mut joined = self.joined.subscribe();
        loop {
            match &*joined.borrow_and_update() {
                Joined::NotYet => {}
                Joined::Yes => return Ok(()),
                Joined::Never(error) => return Err(error.clone()),
            }
            tokio::select! {
                _ = joined.changed() => {}
                () = self.stop.cancelled() => return Err(JoinError::ShuttingDown),
            }
        }
    }

    /// Ends everything: refuses new calls, lets those in work finish for a moment, stops the groups. What was acknowledged
    /// is durable before and after.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.groups.shutdown().await;
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Cancelled when the node shuts down.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Adds a part's share to the status, and its watermarks to waits.
    pub fn attach_status(&self, source: Arc<dyn StatusSource>) {
        self.sources.write().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    pub(crate) fn sources(&self) -> Vec<Arc<dyn StatusSource>> {
        self.sources.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.node.id
    }

    /// The incarnation of its disk.
    #[must_use]
    pub fn store(&self) -> Option<StoreId> {
        self.node.store
    }

    /// The groups of this node.
    #[must_use]
    pub fn groups(&self) -> &Arc<Groups> {
        &self.groups
    }

    /// The group of a volume, if it has a replica here that runs.
    #[must_use]
    pub fn group(&self, volume: VolumeId) -> Option<Arc<Group>> {
        self.groups.get(volume)
    }

    /// Cluster, nodes and volumes, as applied here.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.borrow().clone()
    }

    /// [`Namespace::catalog`], and every later one (the newest only, if several came).
    #[must_use]
    pub fn watch_catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.subscribe()
    }

    /// A volume by id, as this node knows it.
    ///
    /// # Errors
    /// [`Error::NoVolume`].
    pub fn volume(&self, id: VolumeId) -> Result<VolumeRecord, Error> {
        let catalog = self.catalog.borrow();
        catalog.volumes.get(&id).cloned().ok_or_else(|| Error::NoVolume(id.to_string()))
    }

    pub(crate) fn replica(&self, id: VolumeId) -> Option<Arc<Replica>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub(crate) fn has_joined_before(&self) -> bool {
        self.joined_before
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

fn check_certificate(config: &NamespaceConfig, parts: &Parts) -> Result<(), StartError> {
    use causeway_transport::PeerId;
    let expected = PeerId::node(config.node.site.clone(), config.node.id);
    let identity = parts.identity.current();
    let found = identity.peer();
    if *found == expected {
        return Ok(());
    }
    Err(StartError::Certificate { found: found.to_string(), expected: expected.to_string() })
}

async fn open_groups(config: &NamespaceConfig, parts: &Parts, peers: Arc<Peers>) -> Result<Arc<Groups>, StartError> {
    let (disk, kv, clock) = (parts.disk.clone(), parts.kv.clone(), parts.clock.clone());
    let (node, site, dir) = (config.node.id, config.node.site.clone(), parts.dir.clone());
    let groups = GroupsConfig::new(node, site, disk, dir, kv, peers, clock, config.seed);
    let (timing, retention) = (config.timing, config.retention);
    let wal = WalOptions { seed: config.seed, ..config.wal };
    Groups::open(GroupsConfig { timing, retention, wal, ..groups }).await.map_err(StartError::Groups)
}

/// Runs what blocks on a disk off the reactor.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Never aborted; so it panicked, and the panic goes on where it was waited for.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Pauses before something is tried again, longer each time.
#[derive(Debug)]
pub(crate) struct Pause(Duration);

impl Pause {
    pub(crate) const fn new() -> Self {
        Self(Duration::from_millis(10))
    }

    /// Waits; `false` if the node shuts down instead.
    pub(crate) async fn wait(&mut self, stop: &CancellationToken) -> bool {
        let pause = self.0;
        self.0 = (pause * 2).min(Duration::from_millis(500));
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = stop.cancelled() => false,
        }
    }
}

/// Whether trying the same again may help.
pub(crate) const fn may_retry(error: &Error) -> bool {
    matches!(error.retry_class(), RetryClass::Transient | RetryClass::Unknown)
}

/// The namespace's folder within a node's data folder.
#[must_use]
pub fn folder(data: &Path) -> std::path::PathBuf {
    data.join("namespace")
}
