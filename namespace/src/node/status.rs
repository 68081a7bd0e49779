//! What the node and its cluster say about themselves.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::{Epoch, NodeId, VolumeId};
use causeway_namespace_core::query;
use causeway_namespace_core::root::{NodeRecord, RealmKey, VolumeRecord};
use causeway_proto::v1::NodeStatusRequest;
use futures::future::join_all;

use super::Namespace;
use crate::digest::DigestReport;
use crate::entry::{VolumeReport, VolumeTotals};
use crate::error::Error;
use crate::read::{Consistency, Freshness, Read};
use crate::rpc;
use crate::status::{ClusterStatus, GroupReport, NodeReport, NodeStatus};
use crate::wire::Wire;
use causeway_namespace_raft::{Group, GroupState, GroupStatus};

/// Longest wait for one node's status: a cluster's status must come even when nodes do not.
const NODE_MAX: Duration = Duration::from_secs(2);

impl Namespace {
    /// This node about itself.
    #[must_use]
    pub fn node_status(&self) -> NodeStatus {
        let groups =
            self.replicas_now().iter().map(|group| report(group.status(), self.digests.report(group.id()))).collect();
        let sources = self.sources();
        let mut status = NodeStatus {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: self.uptime(),
            groups,
            stores: sources.iter().flat_map(|source| source.stores()).collect(),
            watermarks: sources.iter().flat_map(|source| source.watermarks()).collect(),
            archives: sources.iter().flat_map(|source| source.archives()).collect(),
            transfers: sources.iter().flat_map(|source| source.transfers()).collect(),
            digest_messages: self.digests.asked(),
            upkeep: self.keeper().map(|keeper| keeper.status()),
            wire: self.peers.wire().into_iter().chain(sources.iter().flat_map(|source| source.wire())).collect(),
        };
        status.watermarks.sort_by_key(|watermark| watermark.volume);
        status.archives.sort_by_key(|archive| archive.volume);
        status
    }

    /// All nodes that the catalog has (the configured ones before there is one), each asked at once, for at most two
    /// seconds.
    ///
    /// Cancel safe.
    pub async fn cluster_status(&self, deadline: Duration) -> ClusterStatus {
        let catalog = self.catalog();
        let nodes: Vec<NodeRecord> = match catalog.nodes.is_empty() {
            true => self.config.initial.clone(),
            false => catalog.nodes.values().cloned().collect(),
        };
        let limit = deadline.min(NODE_MAX);
        let ask = |node: NodeRecord| async move {
            let status = match node.id == self.id() {
                true => Ok(self.node_status()),
                false => self.ask_status(node.id, limit).await,
            };
            NodeReport { node, status }
        };
        let nodes = join_all(nodes.into_iter().map(ask)).await;
        let epoch = catalog.cluster.as_ref().map_or(Epoch(0), |cluster| cluster.epoch);
        ClusterStatus { cluster: self.config.cluster, epoch, nodes }
    }

    async fn ask_status(&self, node: NodeId, limit: Duration) -> Result<NodeStatus, String> {
        let mut stub = self.peers.admin(node).map_err(|error| error.to_string())?;
        let request = self.peers.request(NodeStatusRequest {}, Some(limit));
        let answer = stub.node_status(request).await.map_err(|status| rpc::message_of(&status))?;
        NodeStatus::from_wire(answer.into_inner()).map_err(|error| format!("its answer does not decode: {error}"))
    }

    /// A volume with its totals and digest.
    ///
    /// # Errors
    /// [`Error`]. Cancel safe.
    pub async fn volume_report(
        &self,
        volume: VolumeRecord,
        freshness: impl Into<Freshness>,
        deadline: Duration,
    ) -> Result<VolumeReport, Error> {
        let snapshot = self.snapshot(volume.id, freshness, deadline).await?;
        let totals = query::totals(&snapshot.view)?;
        let value = VolumeTotals {
            files: totals.files,
            directories: totals.dirs,
            symlinks: totals.symlinks,
            logical_bytes: totals.logical_bytes,
            sessions: totals.sessions,
        };
        let leader = self.group(volume.id).and_then(|group| group.status().leader);
        let digest = snapshot.view.digest().map(|digest| digest.to_string()).unwrap_or_default();
        Ok(VolumeReport { volume, totals: Read { state: snapshot.state, value }, digest, leader })
    }

    /// A volume by name, asked of the root group if this node does not know it (it may be new).
    ///
    /// # Errors
    /// [`Error::NoVolume`]; else [`Error`]. Cancel safe.
    pub async fn volume_named(&self, name: &str, deadline: Duration) -> Result<VolumeRecord, Error> {
        if let Some(volume) = self.catalog().volume_named(name) {
            return Ok(volume.clone());
        }
        let root = self.snapshot(VolumeId::ROOT, Consistency::Linearizable, deadline).await?;
        query::volume_by_name(&root.view, name)?.ok_or_else(|| Error::NoVolume(format!("{name:?}")))
    }

    /// The key of a dedup realm.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such realm; else [`Error`]. Cancel safe.
    pub async fn realm_key(&self, realm: &str, deadline: Duration) -> Result<RealmKey, Error> {
        // Keys never change, so what is here is right; what is not here may be new.
        let local = self.snapshot(VolumeId::ROOT, Consistency::Local, deadline).await?;
        if let Some(key) = query::realm_key(&local.view, realm)? {
            return Ok(key);
        }
        let root = self.snapshot(VolumeId::ROOT, Consistency::Linearizable, deadline).await?;
        query::realm_key(&root.view, realm)?.ok_or_else(|| Error::Invalid(format!("there is no realm {realm:?}")))
    }

    fn replicas_now(&self) -> Vec<Arc<Group>> {
        let replicas = self.replicas.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        replicas.values().map(|replica| replica.group.clone()).collect()
    }
}

fn report(status: GroupStatus, digests: DigestReport) -> GroupReport {
    GroupReport {
        digests,
        volume: status.group,
        lineage: status.lineage,
        leader: status.leader,
        term: status.term,
        last_log: status.last_log,
        committed: status.committed,
        applied: status.applied,
        voters: status.voters.into_iter().collect(),
        learners: status.learners.into_iter().collect(),
        snapshot: status.snapshot,
        purged: status.purged,
        oldest_view: status.oldest_view,
        digest: status.digest,
        stopped: match status.state {
            GroupState::Running => None,
            GroupState::Stopped(reason) => Some(reason),
        },
    }
}
