//! What a node's namespace is made of.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{Clock, ClusterId, Epoch, NodeId, StoreId};
use causeway_namespace_core::root::{NodeRecord, RealmKey};
use causeway_storage::disk::Disk;
use causeway_storage::kv::Kv;
use causeway_topology::TopologySpec;
use causeway_transport::IdentityStore;
use causeway_transport::grpc::IncomingLimits;
use causeway_transport::net::{Dial, Tcp};

use crate::content::ContentCheck;
use crate::digest::DigestOptions;
use causeway_namespace_raft::wal::WalOptions;
use causeway_namespace_raft::{Retention, Timing};

/// Who this node is and how it behaves.
#[derive(Clone, Debug)]
pub struct NamespaceConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node: id, site and the addresses under which others reach it. Its `store` is ignored.
    pub node: NodeRecord,
    /// Nodes that are known from the start, this one among them or not.
    pub initial: Vec<NodeRecord>,
    /// Those of `initial` that set up the cluster: the first voters of the root group. A node that was added later has none.
    pub founders: Vec<NodeId>,
    /// What is declared when the cluster is set up; counts only then.
    pub topology: TopologySpec,
    /// Key of the realm `default`; counts only when the cluster is set up.
    pub realm_key: RealmKey,
    /// Epoch of the cluster; counts only when it is set up. A restore raises it above the old one.
    pub epoch: Epoch,
    /// The store id that the data folder gets if it is empty: drawn at random by the caller.
    pub fresh_store: StoreId,
    /// Seed of all that is random and not secret: election times, jitter.
    pub seed: u64,
    /// Heartbeat and election times.
    pub timing: Timing,
    /// The shared log; its `seed` is replaced by one drawn from `seed`.
    pub wal: WalOptions,
    /// What is kept of log and old states.
    pub retention: Retention,
    /// How replicas are compared.
    pub digests: DigestOptions,
    /// Bounds of the services.
    pub limits: Limits,
}

impl NamespaceConfig {
    /// With all of `initial` as founders, no topology, epoch 1 and the defaults of everything that has one.
    #[must_use]
    pub fn new(
        cluster: ClusterId,
        node: NodeRecord,
        initial: Vec<NodeRecord>,
        realm_key: RealmKey,
        fresh_store: StoreId,
        seed: u64,
    ) -> Self {
        Self {
            cluster,
            node,
            founders: initial.iter().map(|node| node.id).collect(),
            topology: TopologySpec::default(),
            initial,
            realm_key,
            epoch: Epoch(1),
            fresh_store,
            seed,
            timing: Timing::default(),
            wal: WalOptions::default(),
            retention: Retention::default(),
            digests: DigestOptions::default(),
            limits: Limits::default(),
        }
    }
}

/// Bounds of the services of a node.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests of clients and peers in work at once, streams not counted; each may hold one message
    /// ([`causeway_transport::grpc::MESSAGE_BYTES_MAX`]) at worst. More are refused as overload. Default 4,096.
    pub requests_max: usize,
    /// Walks and waits at once. Default 256.
    pub streams_max: usize,
    /// Bounds of the listener.
    pub incoming: IncomingLimits,
    /// How long a shutdown waits for requests in work. Default 2 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 4096,
            streams_max: 256,
            incoming: IncomingLimits::default(),
            drain: Duration::from_secs(2),
        }
    }
}

/// What the node's namespace stands on: the seams to disk, time and network.
#[derive(Clone)]
pub struct Parts {
    /// The disk of the data folder.
    pub disk: Arc<dyn Disk>,
    /// The namespace's own folder on it: log, snapshots and `node.id`.
    pub dir: PathBuf,
    /// The ordered store of the state, with the spaces of [`causeway_namespace_raft`].
    pub kv: Arc<dyn Kv>,
    /// Wall-clock time, for the times in operations.
    pub clock: Arc<dyn Clock>,
    /// The node's certificate.
    pub identity: Arc<IdentityStore>,
    /// How connections to peers are made.
    pub network: Arc<dyn Dial>,
    /// The check before a commit of contents.
    pub content: Arc<dyn ContentCheck>,
}

impl Parts {
    /// With the machine's own TCP.
    #[must_use]
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        kv: Arc<dyn Kv>,
        clock: Arc<dyn Clock>,
        identity: Arc<IdentityStore>,
        content: Arc<dyn ContentCheck>,
    ) -> Self {
        Self { disk, dir, kv, clock, identity, network: Arc::new(Tcp), content }
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("dir", &self.dir).finish_non_exhaustive()
    }
}
