//! The root group's records: cluster, sites, nodes, volumes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use causeway_base::{ClusterId, Epoch, NodeId, Seq, SiteName, StoreId, VolumeId};
use causeway_topology::{Residency, Survive, TopologySpec};

use crate::lineage::Lineage;

/// Whether a volume may be called so: 1 to 63 of a-z, 0-9 and `-`, not starting with `-`.
#[must_use]
pub fn is_volume_name(name: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(letters) && !name.starts_with('-')
}

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

/// Where a node is on its way through the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Takes part.
    #[default]
    Active,
    /// Was added and has not started yet: nothing is placed on it.
    Joining,
    /// Is being emptied: nothing new is placed on it, and what it has moves away.
    Draining,
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
    /// Whether it only votes and holds no file data.
    pub witness: bool,
    /// Where it is on its way through the cluster.
    pub state: NodeState,
}

/// The declared topology: regions, sites, links, repositories. Its nodes are those of the node table, so that list is empty
/// here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyRecord {
    /// Counts up from 1 with each change; 0 is a cluster that declared none.
    pub version: u64,
    /// What was declared, checked.
    pub spec: TopologySpec,
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
    /// What it survives. The planner then places voters and learners, and moves them when topology or nodes change; `None`
    /// leaves them as they are listed.
    pub survive: Option<Survive>,
    /// Where it may lie.
    pub residency: Residency,
    /// Nodes that vote, witnesses among them.
    pub voters: Vec<NodeId>,
    /// Nodes with the whole metadata and no vote.
    pub learners: Vec<NodeId>,
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

impl VolumeSpec {
    /// Every node that has the metadata, voters first.
    pub fn placed(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.iter().chain(&self.learners).copied()
    }

    /// Whether the same is declared, wherever it was placed.
    #[must_use]
    pub fn same_declared(&self, other: &Self) -> bool {
        let placed =
            |spec: &Self| Self { voters: self.voters.clone(), learners: self.learners.clone(), ..spec.clone() };
        let either_planned = self.survive.is_some() && other.survive.is_some();
        if either_planned { *self == placed(other) } else { self == other }
    }
}

/// A volume as the root group stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Never reused.
    pub id: VolumeId,
    /// Raised by a restore or promotion.
    pub epoch: Epoch,
    /// Counts the changes of `spec`.
    pub revision: u64,
    /// What was declared, and the placement that is wanted.
    pub spec: VolumeSpec,
    /// Nodes that run the group: those of `spec`, and while it moves those that it still has to leave.
    pub members: BTreeSet<NodeId>,
    /// The voters that begin the group; none once it has moved, so that no blank disk ever begins it a second time.
    pub founders: Vec<NodeId>,
}

impl VolumeRecord {
    /// A volume that begins where its spec says.
    #[must_use]
    pub fn new(id: VolumeId, epoch: Epoch, spec: VolumeSpec) -> Self {
        let (members, founders) = (spec.placed().collect(), spec.voters.clone());
        Self { id, epoch, revision: 0, spec, members, founders }
    }

    /// Whether its members are where they should be.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        self.spec.placed().collect::<BTreeSet<_>>() == self.members
    }
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
        /// Becomes version 1 of the topology; without any site there is none yet.
        topology: TopologySpec,
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
    /// Replaces the topology if its version is still the expected one. The same again is fine.
    SetTopology {
        /// The version that it replaces; 0 for the first.
        expected: u64,
        /// What is declared; without nodes.
        spec: TopologySpec,
    },
    /// Changes a volume's settings if they are still of the expected revision. Name, mount, realm and chunk size stay. The
    /// same again is fine.
    SetVolume {
        /// Which.
        id: VolumeId,
        /// The revision that it replaces.
        expected: u64,
        /// All settings, new and old.
        spec: VolumeSpec,
    },
    /// The volume's group has exactly the voters and learners of a revision: nodes that it left stop it.
    Placed {
        /// Which.
        id: VolumeId,
        /// The revision; an older one is ignored.
        revision: u64,
    },
    /// Adds a node under the next id. The same addresses again, before it has started, answer with the same id.
    AddNode {
        /// Its site, which the topology has.
        site: SiteName,
        /// `host:port` of gRPC.
        grpc: String,
        /// `host:port` of QUIC.
        quic: String,
        /// Whether it only votes and holds no file data.
        witness: bool,
    },
    /// Begins or ends the emptying of a node.
    DrainNode {
        /// Which.
        id: NodeId,
        /// Whether it is emptied.
        draining: bool,
    },
    /// Takes out a node that is empty, for ever. One that is not there is fine.
    RemoveNode {
        /// Which.
        id: NodeId,
    },
    /// A volume that lost its majority goes on with what one node has of it, under a new epoch. The same again is fine.
    PromoteVolume {
        /// Which.
        id: VolumeId,
        /// The line that it replaces.
        before: Lineage,
        /// Where it goes on.
        site: SiteName,
        /// The node whose state it goes on with.
        founder: NodeId,
        /// That state's seq.
        fork: Seq,
        /// The newest seq in a log of the surviving side.
        last: Seq,
    },
    /// As `PromoteVolume`, of the root group. Applied offline, at the seq that the new line begins with.
    PromoteRoot {
        /// The line that it replaces.
        before: Lineage,
        /// Where it goes on.
        site: SiteName,
        /// The node whose state it goes on with.
        founder: NodeId,
        /// That state's seq.
        fork: Seq,
        /// The newest seq in a log of the surviving side.
        last: Seq,
    },
    /// Changes no table: only what is recorded of it, before a node does on its own disk what a person told it.
    Note(Note),
}

/// What a person tells one node to do to its own disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// Give up what it has of a line that ended.
    ForgetAside {
        /// Of which volume.
        id: VolumeId,
        /// Its name, which the table may not have.
        name: String,
        /// Which node.
        node: NodeId,
        /// Which line.
        line: Lineage,
    },
    /// Take the mark of a wrong replica back.
    TrustReplica {
        /// Of which volume.
        id: VolumeId,
        /// Its name.
        name: String,
        /// Which node.
        node: NodeId,
    },
}

/// What a root operation came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootOutcome {
    /// Done.
    Done,
    /// The volume exists now.
    Volume(VolumeId),
    /// The node is part of the cluster now.
    Node(NodeId),
    /// The topology has this version now.
    Topology(u64),
    /// Nothing changed.
    Refused(RootRefusal),
    /// The group's new line.
    Promoted(Lineage),
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
    /// The mount point is taken.
    #[error("mount point {mount:?} is that of volume {volume:?}")]
    MountTaken {
        /// Asked for.
        mount: String,
        /// Who has it.
        volume: String,
    },
    /// A field breaks its rule.
    #[error("invalid: {0}")]
    Invalid(String),
    /// Somebody else was faster.
    #[error("{what} is at version {found}, not {expected}: somebody else changed it; look at it and try again")]
    Changed {
        /// `the topology` or a volume.
        what: String,
        /// Asked for.
        expected: u64,
        /// Stored.
        found: u64,
    },
    /// No such volume.
    #[error("volume {0} is not there")]
    UnknownVolume(VolumeId),
    /// The node still has something.
    #[error("node {node} still has {what}: drain it first, and wait")]
    NotEmpty {
        /// Which.
        node: NodeId,
        /// What it has.
        what: String,
    },
}
