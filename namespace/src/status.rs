//! What a node says about itself, and where other parts of it add their share.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use causeway_base::{ClusterId, Epoch, NodeId, Seq, SiteName, VolumeId};
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::root::NodeRecord;

use crate::digest::DigestReport;
use crate::upkeep::UpkeepStatus;

/// Status of parts that the namespace does not know: chunk store, replicator, repository, data transport. Attached to a
/// node with [`crate::Namespace::attach_status`]; several may be, their lists are joined.
#[async_trait]
pub trait StatusSource: Send + Sync + std::fmt::Debug {
    /// The stores of this node.
    fn stores(&self) -> Vec<StoreStatus> {
        Vec::new()
    }

    /// How far every byte of a volume is here and verified.
    fn watermarks(&self) -> Vec<Watermark> {
        Vec::new()
    }

    /// How far volumes that this node archives are in their repository.
    fn archives(&self) -> Vec<ArchiveStatus> {
        Vec::new()
    }

    /// Bytes on the wire since the node started, by peer.
    fn wire(&self) -> Vec<WireBytes> {
        Vec::new()
    }

    /// Chunks exchanged since the node started, by whom with and what for.
    fn transfers(&self) -> Vec<Transfer> {
        Vec::new()
    }

    /// Waits until this node's watermark of `volume` is at least `seq`; answers with the watermark when it is, or after
    /// `deadline` with what it is then. `None` if this source keeps no watermark of the volume.
    async fn wait_watermark(&self, _volume: VolumeId, _seq: Seq, _deadline: Duration) -> Option<Seq> {
        None
    }

    /// As `wait_watermark`, for the HEAD in the repository that this node publishes.
    async fn wait_archived(&self, _volume: VolumeId, _seq: Seq, _deadline: Duration) -> Option<Seq> {
        None
    }
}

/// A store of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoreStatus {
    /// `chunks`, `log`, `state`.
    pub name: String,
    /// Chunks in it.
    pub chunks: u64,
    /// Packs in it.
    pub packs: u64,
    /// Bytes on disk.
    pub stored_bytes: u64,
    /// Bytes before compression.
    pub raw_bytes: u64,
    /// `ok`, `full`, or `read-only: …`.
    pub state: String,
}

/// How far a node holds every byte of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Watermark {
    /// Which volume.
    pub volume: VolumeId,
    /// Every byte up to this seq is here and verified.
    pub seq: Seq,
    /// The newest seq known here.
    pub target: Seq,
    /// Chunks known to be missing.
    pub missing_chunks: u64,
    /// Their plain bytes.
    pub missing_bytes: u64,
    /// Why there is no progress, if there is none.
    pub stalled: Option<String>,
}

/// How far a volume is in its repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ArchiveStatus {
    /// Which volume.
    pub volume: VolumeId,
    /// URL of the repository, without secrets.
    pub repository: String,
    /// Seq of HEAD; zero if none was published.
    pub seq: Seq,
    /// Generation of HEAD.
    pub generation: u64,
    /// Age of the oldest change that is not in the repository; `None` if all are.
    pub rpo: Option<Duration>,
    /// Why there is no progress, if there is none.
    pub stalled: Option<String>,
}

/// Bytes on the wire to and from a peer, since the node started. Of gRPC a node counts the connections that it made, so the
/// sum over all nodes counts every byte between nodes once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WireBytes {
    /// `site/zurich/node/1` or `client/name`.
    pub peer: String,
    /// `quic` or `grpc`.
    pub protocol: String,
    /// Sent by this node.
    pub sent: u64,
    /// Received by this node.
    pub received: u64,
}

/// Chunks exchanged since the node started, by whom with and what for: stream bytes, without what the transport adds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// `site/zurich`, `clients` or `repository`.
    pub place: String,
    /// `replication`, `read`, `repair`, `archive`, `upload` or `query`.
    pub cause: String,
    /// Sent, with requests, lists and frame heads.
    pub sent: u64,
    /// Received, likewise.
    pub received: u64,
    /// Plain bytes of the chunks received and verified.
    pub plain_received: u64,
    /// Their number.
    pub chunks_received: u64,
    /// Differences sent.
    pub sent_deltas: Deltas,
    /// Differences received.
    pub received_deltas: Deltas,
}

/// Chunks that went as differences from what the other end has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Deltas {
    /// How many.
    pub count: u64,
    /// Bytes of the differences.
    pub bytes: u64,
    /// Plain bytes of the chunks.
    pub plain_bytes: u64,
}

impl Deltas {
    /// Bytes that did not cross, against the plain ones.
    #[must_use]
    pub const fn saved(&self) -> u64 {
        self.plain_bytes.saturating_sub(self.bytes)
    }
}

/// A Raft group on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GroupReport {
    /// [`VolumeId::ROOT`] is the root group.
    pub volume: VolumeId,
    /// Which line of its history.
    #[serde(skip_serializing_if = "Lineage::is_first")]
    pub lineage: Lineage,
    /// As far as is known there.
    pub leader: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// Last entry in the log.
    pub last_log: Seq,
    /// Committed, as far as is known there.
    pub committed: Seq,
    /// Applied.
    pub applied: Seq,
    /// Members that vote.
    pub voters: Vec<NodeId>,
    /// Members that do not vote.
    pub learners: Vec<NodeId>,
    /// Last Raft snapshot.
    pub snapshot: Seq,
    /// The log is purged up to here.
    pub purged: Seq,
    /// Oldest seq whose state can be read.
    pub oldest_view: Seq,
    /// Of the records at `applied`, in hexadecimal: equal on all replicas at equal seqs.
    pub digest: String,
    /// Why the group stopped on that node, if it did.
    pub stopped: Option<String>,
    /// Whether it is the same as the other replicas.
    pub digests: DigestReport,
}

/// A node about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Its registration.
    pub node: NodeRecord,
    /// Version of its program.
    pub version: String,
    /// Since its start.
    pub uptime: Duration,
    /// Its groups, by volume.
    pub groups: Vec<GroupReport>,
    /// Its stores.
    pub stores: Vec<StoreStatus>,
    /// Its watermarks, by volume.
    pub watermarks: Vec<Watermark>,
    /// What it archives.
    pub archives: Vec<ArchiveStatus>,
    /// Its peers' bytes.
    pub wire: Vec<WireBytes>,
    /// Its chunks' bytes.
    pub transfers: Vec<Transfer>,
    /// The upkeep of its chunk store, if it has one.
    pub upkeep: Option<UpkeepStatus>,
    /// Messages sent to compare replicas, since its start.
    pub digest_messages: u64,
}

impl NodeStatus {
    /// Its report of a group.
    #[must_use]
    pub fn group(&self, volume: VolumeId) -> Option<&GroupReport> {
        self.groups.iter().find(|group| group.volume == volume)
    }

    /// Its watermark of a volume.
    #[must_use]
    pub fn watermark(&self, volume: VolumeId) -> Option<&Watermark> {
        self.watermarks.iter().find(|watermark| watermark.volume == volume)
    }
}

/// A node in the status of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeReport {
    /// Its registration.
    pub node: NodeRecord,
    /// What it says, or why it was not reached.
    pub status: Result<NodeStatus, String>,
}

/// All nodes, as one of them reaches the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// Its id.
    pub cluster: ClusterId,
    /// Raised by a restore.
    pub epoch: Epoch,
    /// By node id.
    pub nodes: Vec<NodeReport>,
}

impl ClusterStatus {
    /// The replicas on all nodes that were reached.
    pub fn groups(&self) -> impl Iterator<Item = (NodeId, &GroupReport)> {
        let up = self.nodes.iter().filter_map(|report| report.status.as_ref().ok());
        up.flat_map(|status| status.groups.iter().map(move |group| (status.node.id, group)))
    }

    /// For each site the lowest watermark of a volume over the site's nodes; a node that keeps none, or was not reached,
    /// counts as zero.
    #[must_use]
    pub fn site_watermarks(&self, volume: VolumeId) -> BTreeMap<SiteName, Seq> {
        let mut sites = BTreeMap::new();
        for report in &self.nodes {
            let watermark = report.status.as_ref().ok().and_then(|status| status.watermark(volume));
            let seq = watermark.map_or(Seq::ZERO, |watermark| watermark.seq);
            sites
                .entry(report.node.site.clone())
                .and_modify(|lowest: &mut Seq| *lowest = seq.min(*lowest))
                .or_insert(seq);
        }
        sites
    }
}

/// Whose watermark to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncTarget {
    /// Every node of a site.
    Site(SiteName),
    /// The volume's repository.
    Archive,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SyncWaited {
    /// Whether the watermark came in time.
    pub reached: bool,
    /// The lowest watermark of the target at the end.
    pub watermark: Seq,
    /// The seq waited for.
    pub seq: Seq,
}
