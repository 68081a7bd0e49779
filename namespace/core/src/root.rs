//! The root group's records: cluster, sites, nodes, volumes.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use causeway_base::{ClusterId, Epoch, NodeId, SiteName, StoreId, VolumeId};

/// Longest mount point in bytes: shorter than a path, so that it fits into a key.
pub const MOUNT_BYTES_MAX: usize = 1024;
/// The average chunk sizes that a volume may have, in bytes; powers of two only.
pub const CHUNK_BYTES_AVG: std::ops::RangeInclusive<u32> = (16 << 10)..=(256 << 10);

/// The cluster as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Drawn by `init`; kept by a restore.
    pub id: ClusterId,
    /// Raised by a restore.
    pub epoch: Epoch,
}

/// A node and the incarnation of its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Never reused.
    pub id: NodeId,
    /// Its site.
    pub site: SiteName,
    /// Set once by the node's first start: another store id under this node id is a lost disk, and refused.
    pub store: Option<StoreId>,
    /// `host:port` of gRPC.
    pub grpc: String,
    /// `host:port` of QUIC.
    pub quic: String,
}

/// A dedup realm: the key under which chunk ids are made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealmKey(pub [u8; 32]);

impl std::fmt::Debug for RealmKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RealmKey(…)")
    }
}

/// What a volume is and where it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Unique; 1 to 63 of `a-z 0-9 -`, not starting with `-`.
    pub name: String,
    /// Absolute path where it is mounted in the namespace, without a trailing `/` (but `/` itself is one), empty names,
    /// `.` or `..`; at most [`MOUNT_BYTES_MAX`].
    pub mount: Bytes,
    /// The site where its leader should be.
    pub home: SiteName,
    /// Nodes that vote.
    pub voters: Vec<NodeId>,
    /// Sites that hold every byte.
    pub replicas: Vec<SiteName>,
    /// Sites that hold what was read there.
    pub caches: Vec<SiteName>,
    /// Whether its image and chunks go to the repository.
    pub archive: bool,
    /// Average chunk size in bytes: a power of two from 16 KiB to 256 KiB.
    pub chunk_bytes_avg: u32,
    /// Largest inline file in bytes, at most [`crate::inode::INLINE_BYTES_MAX`].
    pub inline_bytes_max: u32,
    /// The dedup realm's name; volumes of one realm share chunks.
    pub realm: String,
}

/// A volume as the root group stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Never reused.
    pub id: VolumeId,
    /// Raised by a restore or promotion.
    pub epoch: Epoch,
    /// What was declared.
    pub spec: VolumeSpec,
}

/// Operations of the root group. Idempotent as said, so that a retry after an unknown outcome is safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootOp {
    /// Sets up the cluster with its first nodes; the same again is fine, another cluster id is refused.
    Bootstrap {
        /// The cluster.
        cluster: ClusterRecord,
        /// Its first nodes (their `store` is `None`).
        nodes: Vec<NodeRecord>,
        /// Key of the realm `default`.
        realm_key: RealmKey,
    },
    /// Records a node's store id at its first start, and its addresses at each start. Refused with
    /// [`RootRefusal::StoreMismatch`] if another store is registered.
    RegisterNode {
        /// The node (its `store` is `Some`).
        node: NodeRecord,
    },
    /// Creates a volume; the same name with the same spec again answers with the existing id.
    CreateVolume {
        /// What is declared; voters and sites must be known.
        spec: VolumeSpec,
    },
    /// Raises the epochs of the cluster and of every volume, and replaces nodes and voters: the first command after a
    /// restore. The same again is fine. The list must name every volume there is; one that is not there yet comes in
    /// under the given id. Node ids may be used again: the raised epoch fences the nodes that had them.
    Reseed {
        /// With the raised epoch.
        cluster: ClusterRecord,
        /// The new nodes.
        nodes: Vec<NodeRecord>,
        /// New voters and sites of each volume.
        volumes: BTreeMap<VolumeId, VolumeSpec>,
    },
}

/// What a root operation came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootOutcome {
    /// Done.
    Done,
    /// The volume exists now.
    Volume(VolumeId),
    /// Nothing changed.
    Refused(RootRefusal),
}

/// Why a root operation was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RootRefusal {
    /// The cluster was set up with another id.
    #[error("this is cluster {found}, not {asked}")]
    OtherCluster {
        /// Stored.
        found: ClusterId,
        /// Asked for.
        asked: ClusterId,
    },
    /// The cluster is not set up yet.
    #[error("the cluster is not set up yet")]
    NoCluster,
    /// No such node.
    #[error("node {0} is not part of the cluster")]
    UnknownNode(NodeId),
    /// The node's disk is not the one it registered.
    #[error("node {node} registered store {registered}, not {asked}: its disk was lost or swapped")]
    StoreMismatch {
        /// Which node.
        node: NodeId,
        /// The store it registered.
        registered: StoreId,
        /// The store that came.
        asked: StoreId,
    },
    /// No such site.
    #[error("site {0} is not part of the cluster")]
    UnknownSite(SiteName),
    /// The name is taken by a volume with another spec.
    #[error("volume {0:?} exists with other settings")]
    NameTaken(String),
    /// The mount point is taken, or lies in or above another volume's.
    #[error("mount point {mount:?} collides with volume {volume:?}")]
    MountTaken {
        /// Asked for.
        mount: String,
        /// Who has it.
        volume: String,
    },
    /// A field breaks its rule.
    #[error("invalid: {0}")]
    Invalid(String),
}
