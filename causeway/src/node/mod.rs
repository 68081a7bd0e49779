//! The node daemon: opens the stores, joins the parts, serves until it is told to end.
//!
//! Start: claim the data folder, open the stores, bind both sockets, start the namespace, then the replicator on its
//! volumes; the ready line is printed when the node has joined its cluster. End (SIGTERM, Ctrl-C, or the end of standard
//! input with `--exit-with-parent`): the namespace stops first, so that nothing new is acknowledged; then the data side; then
//! the stores are closed. Being killed at any moment instead loses nothing that was acknowledged.

mod bound;
pub(crate) mod folder;
mod keep;
mod metrics;
mod status;
pub(crate) mod stores;
mod volumes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use causeway_base::{Clock, NodeId, StoreId, SystemClock};
use causeway_namespace::{DigestOptions, Namespace, NamespaceConfig, Parts};
use causeway_namespace_core::root::{NodeRecord, NodeState, RealmKey};
use causeway_namespace_raft::Timing;
use causeway_replicator::counters::Counters;
use causeway_replicator::{
    ChunkClient, ChunkService, Keeper, KeeperParts, Later, Options, PeerSources, Replicator, ServiceLimits,
};
use causeway_repository::archive::{ChunkArchive, IndexMode};
use causeway_repository::{Repository, RepositoryOptions};
use causeway_transport::IdentityStore;
use causeway_transport::quic::{Endpoint, QuicConfig};
use rand::Rng as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::args::{Global, NodeArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cluster::READY;
use crate::config::{Config, NodeSection, Role};

use bound::{Bound, Durable};
use folder::DataFolder;
use status::DataStatus;
use stores::Stores;

/// How long the data side may take to finish calls when the node ends.
const DRAIN: Duration = Duration::from_secs(2);
/// Deadline of the start of one call to another node; its streams have progress timeouts of their own.
const CALL: Duration = Duration::from_secs(3);

pub(crate) async fn run(global: &Global, args: NodeArgs) -> anyhow::Result<Exit> {
    let Some(id) = args.id else {
        return Err(Failure::error(
            Exit::Usage,
            "which node? `causeway node --id N`, or one of `causeway node --help`",
        ));
    };
    let config = Config::load(&global.config)?;
    let Some(section) = config.node(NodeId(id)) else {
        let known: Vec<_> = config.nodes().map(|node| node.id.to_string()).collect();
        let message = format!("{} has no node {id}; nodes: {}", config.path.display(), known.join(", "));
        return Err(Failure::error(Exit::Usage, message));
    };
    let node = Node::start(&config, section).await?;
    let joined = tokio::select! {
        joined = node.namespace.ready() => joined.map_err(|error| Failure::error(Exit::Refused, error.to_string())),
        reason = told_to_end(args.exit_with_parent) => {
            tracing::info!(reason = reason?, "ends before it has joined");
            node.stop().await;
            return Ok(Exit::Done);
        }
    };
    if let Err(error) = joined {
        node.stop().await;
        return Err(error);
    }
    println!("{READY}: {} of site {} serves gRPC on {} and QUIC on {}", id, section.site, section.grpc, section.quic);
    let reason = told_to_end(args.exit_with_parent).await?;
    tracing::info!(reason, "ends");
    node.stop().await;
    Ok(Exit::Done)
}

/// Waits for the signal to end, and says which.
async fn told_to_end(with_parent: bool) -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let parent = async {
        if !with_parent {
            return std::future::pending().await;
        }
        let mut stdin = tokio::io::stdin();
        let mut nothing = [0; 64];
        while matches!(stdin.read(&mut nothing).await, Ok(read) if read > 0) {}
    };
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        ended = tokio::signal::ctrl_c() => ended.map(|()| "Ctrl-C").context("listen for Ctrl-C"),
        () = parent => Ok("the parent ended"),
    }
}

struct Node {
    namespace: Arc<Namespace>,
    replicator: Arc<Replicator>,
    endpoint: Endpoint,
    stores: Stores,
    follow: tokio::task::JoinHandle<()>,
    keeper: Arc<Keeper>,
    keeping: tokio::task::JoinHandle<()>,
    stop_metrics: CancellationToken,
    /// Tells the metrics, if it is to.
    telling: Option<tokio::task::JoinHandle<()>>,
    _folder: DataFolder,
}

impl Node {
    async fn start(config: &Config, section: &NodeSection) -> anyhow::Result<Self> {
        let folder = DataFolder::claim(config.resolve(&section.data))?;
        let tls = config.resolve(&section.tls);
        let identity = IdentityStore::load(&tls).with_context(|| format!("load the identity in {}", tls.display()))?;
        let seed = rand::rng().random();
        let limits = config.limits;
        let (stores, folder) = tokio::task::spawn_blocking(move || {
            let stores = Stores::open(&folder, &limits, seed)?;
            anyhow::Ok((stores, folder))
        })
        .await
        .context("a worker stopped")??;

        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let listener =
            TcpListener::bind(&section.grpc).await.with_context(|| format!("listen on {} (gRPC)", section.grpc))?;
        let metrics_listener = match &section.metrics {
            Some(address) => {
                Some(TcpListener::bind(address).await.with_context(|| format!("listen on {address} (metrics)"))?)
            }
            None => None,
        };
        let (archive, not_archiving) = match open_archive(config).await? {
            Ok(archive) => (archive, None),
            Err(why) => (None, Some(why)),
        };
        let bound = Arc::new(Bound::default());
        let counters = Arc::new(Counters::default());

        // The service reads through the replicator, which calls out by the endpoint that the service is served on.
        let elsewhere = Arc::new(Later::default());
        let service = ChunkService::new(
            stores.chunks.clone(),
            bound.clone(),
            elsewhere.clone(),
            counters.clone(),
            ServiceLimits {
                lease_linger: config.upkeep.gc_grace.0,
                holds_data: section.role == Role::Full,
                ..ServiceLimits::default()
            },
        );
        let quic = resolve(&section.quic).await?;
        let endpoint = Endpoint::bind(quic, identity.clone(), QuicConfig::new(config.cluster.id), Arc::new(service))
            .with_context(|| format!("listen on {} (QUIC)", section.quic))?;
        let client = ChunkClient::new(endpoint.clone(), counters.clone(), CALL);
        let own = (section.site.clone(), section.node_id());
        let sources = PeerSources::new(own, bound.clone(), client, archive.clone());
        let parts = causeway_replicator::Parts {
            cluster: config.cluster.id,
            site: section.site.clone(),
            local: stores.chunks.clone(),
            realms: bound.clone(),
            sources: Arc::new(sources),
            archive,
            counters,
            clock: clock.clone(),
            disk: stores.disk.clone(),
            dir: folder.sync(),
        };
        let replicator = Replicator::new(parts, Options::default()).context("open the watermarks")?;
        elsewhere.set(&replicator.elsewhere());

        let content = Arc::new(Durable(replicator.content()));
        let parts = Parts::new(stores.disk.clone(), folder.namespace(), stores.state.clone(), clock, identity, content);
        let namespace = Namespace::start(namespace_config(config, section, seed)?, parts, listener).await?;
        bound.bind(&namespace);
        namespace.attach_status(Arc::new(DataStatus {
            chunks: stores.chunks.clone(),
            replicator: replicator.clone(),
            endpoint: endpoint.clone(),
            repository: config.repository_url(),
            not_archiving,
        }));
        let follow = volumes::follow(namespace.clone(), replicator.clone(), section.site.clone());
        let follow = tokio::spawn(follow);
        let roots = Arc::new(keep::NodeRoots::new(&namespace, section.site.clone()));
        let parts = KeeperParts {
            store: stores.chunks.clone(),
            replicator: replicator.clone(),
            realms: bound,
            roots: roots.clone(),
            clock: Arc::new(SystemClock),
        };
        let keeper = Keeper::new(parts, keep::options(&config.upkeep, &config.limits));
        namespace.attach_keeper(Arc::new(keep::NodeKeeper { keeper: keeper.clone(), roots }));
        let keeping = tokio::spawn(keeper.clone().run());
        let stop_metrics = CancellationToken::new();
        let telling = match metrics_listener {
            Some(listener) => {
                let metrics = metrics::NodeMetrics {
                    namespace: namespace.clone(),
                    chunks: stores.chunks.clone(),
                    replicator: replicator.clone(),
                    keeper: keeper.clone(),
                    clock: Arc::new(SystemClock),
                };
                Some(tokio::spawn(metrics::serve(listener, Arc::new(metrics), stop_metrics.clone())))
            }
            None => None,
        };
        Ok(Self {
            namespace,
            replicator,
            endpoint,
            stores,
            follow,
            keeper,
            keeping,
            stop_metrics,
            telling,
            _folder: folder,
        })
    }

    async fn stop(self) {
        self.stop_metrics.cancel();
        self.keeper.shutdown();
        self.namespace.shutdown().await;
        if let Some(telling) = self.telling
            && let Err(error) = telling.await
        {
            tracing::error!(%error, "the endpoint of the metrics ended badly");
        }
        if let Err(error) = self.keeping.await {
            tracing::error!(%error, "the keeper of the chunk store ended badly");
        }
        if let Err(error) = self.follow.await {
            tracing::error!(%error, "the follower of volumes ended badly");
        }
        self.replicator.shutdown().await;
        self.endpoint.shutdown(DRAIN).await;
        let Stores { state, chunks, .. } = self.stores;
        let closed = tokio::task::spawn_blocking(move || {
            if let Err(error) = chunks.close() {
                tracing::error!(%error, "the chunk store was not closed cleanly; nothing acknowledged is lost");
            }
            if let Err(error) = state.persist() {
                tracing::error!(%error, "the metadata store was not closed cleanly; nothing acknowledged is lost");
            }
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "the stores were not closed");
        }
    }
}

fn namespace_config(config: &Config, section: &NodeSection, seed: u64) -> anyhow::Result<NamespaceConfig> {
    let key_file = config.resolve(&config.cluster.realm_key_file);
    let text =
        std::fs::read_to_string(&key_file).with_context(|| format!("read the realm key {}", key_file.display()))?;
    let mut realm_key = [0; 32];
    if hex::decode_to_slice(text.trim(), &mut realm_key).is_err() {
        bail!(Failure {
            exit: Exit::Usage,
            message: format!("{}: 64 hexadecimal digits are expected", key_file.display()),
        });
    }
    let fresh_store = StoreId(rand::rng().random());
    let initial = config.nodes().map(record).collect();
    let node = record(section);
    let topology = if section.added { Default::default() } else { config.topology()? };
    let mut namespace = NamespaceConfig::new(config.cluster.id, node, initial, RealmKey(realm_key), fresh_store, seed);
    namespace.founders = config.nodes().filter(|node| !node.added).map(NodeSection::node_id).collect();
    namespace.topology = topology;
    namespace.retention.seqs = config.upkeep.versions;
    namespace.digests = DigestOptions {
        compare_every: config.upkeep.compare_every.0,
        verify_cycle: config.upkeep.verify_cycle.0,
        verify_rate: config.upkeep.rate.bytes(),
    };
    namespace.timing = Timing {
        heartbeat: config.timing.heartbeat.0,
        election_min: config.timing.election_min.0,
        election_max: config.timing.election_max.0,
    };
    Ok(namespace)
}

fn record(node: &NodeSection) -> NodeRecord {
    NodeRecord {
        id: node.node_id(),
        site: node.site.clone(),
        store: None,
        grpc: node.grpc.clone(),
        quic: node.quic.clone(),
        witness: node.role == Role::Witness,
        state: NodeState::Active,
    }
}

async fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(address).await.with_context(|| format!("resolve {address}"))?;
    found.next().with_context(|| format!("{address} has no address"))
}

/// The archive, or why there is none now. A store that cannot be reached must not keep a node from serving what it holds;
/// an address that is wrong must.
async fn open_archive(config: &Config) -> anyhow::Result<Result<Option<ChunkArchive>, String>> {
    let Some(url) = config.repository_url() else { return Ok(Ok(None)) };
    let options = RepositoryOptions { create: true, ..RepositoryOptions::default() };
    let open = async { ChunkArchive::open(Repository::open(&url, options).await?, IndexMode::Loaded).await };
    match open.await {
        Ok(archive) => Ok(Ok(Some(archive))),
        Err(error) if error.retry_class().may_retry_idempotent() => {
            let why = format!("{:#}", anyhow::Error::from(error));
            tracing::error!(%url, %why, "the repository cannot be reached; nothing is archived until this node is started again");
            Ok(Err(format!("{why}; start the node again when the repository can be reached")))
        }
        Err(error) => Err(error).with_context(|| format!("open the repository {url}")),
    }
}
