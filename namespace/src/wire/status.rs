//! Status of nodes, groups, stores and archives.

use std::time::Duration;

use causeway_base::{ClusterId, Epoch, NodeId, Seq, StoreId, VolumeId};
use causeway_namespace_core::root::{NodeRecord, NodeState};
use causeway_proto::v1;

use super::{
    Wire, WireError, all, all_into, id_bytes, id_from_bytes, millis, node_or_none, required, site, text_or_none,
};
use crate::digest::DigestReport;
use crate::entry::VolumeTotals;
use crate::status::{
    ArchiveStatus, ClusterStatus, Deltas, GroupReport, NodeReport, NodeStatus, StoreStatus, SyncTarget, SyncWaited,
    Transfer, Watermark, WireBytes,
};
use crate::upkeep::UpkeepStatus;

impl Wire for NodeRecord {
    type Message = v1::NodeRecord;

    fn into_wire(self) -> v1::NodeRecord {
        v1::NodeRecord {
            id: self.id.0,
            site: self.site.into(),
            store: self.store.map(|store| id_bytes(store.0)).unwrap_or_default(),
            grpc: self.grpc,
            quic: self.quic,
            witness: self.witness,
            state: match self.state {
                NodeState::Active => 0,
                NodeState::Joining => 1,
                NodeState::Draining => 2,
            },
        }
    }

    fn from_wire(message: v1::NodeRecord) -> Result<Self, WireError> {
        let store = match message.store.is_empty() {
            true => None,
            false => Some(StoreId(id_from_bytes(&message.store, "node.store")?)),
        };
        let site = site(message.site, "node.site")?;
        let state = match message.state {
            0 => NodeState::Active,
            1 => NodeState::Joining,
            2 => NodeState::Draining,
            other => return Err(WireError::bad("node.state", format!("{other} is none"))),
        };
        let v1::NodeRecord { id, grpc, quic, witness, .. } = message;
        Ok(Self { id: NodeId(id), site, store, grpc, quic, witness, state })
    }
}

impl Wire for GroupReport {
    type Message = v1::GroupStatus;

    fn into_wire(self) -> v1::GroupStatus {
        v1::GroupStatus {
            volume: self.volume.0,
            leader: self.leader.map_or(0, |node| node.0),
            term: self.term,
            last_log: self.last_log.0,
            committed: self.committed.0,
            applied: self.applied.0,
            voters: self.voters.into_iter().map(|node| node.0).collect(),
            snapshot: self.snapshot.0,
            digest: self.digest,
            stopped: self.stopped.unwrap_or_default(),
            purged: self.purged.0,
            oldest_view: self.oldest_view.0,
            learners: self.learners.into_iter().map(|node| node.0).collect(),
            lineage: super::lineage_text(self.lineage),
            digests: Some(self.digests.into_wire()),
        }
    }

    fn from_wire(message: v1::GroupStatus) -> Result<Self, WireError> {
        Ok(Self {
            lineage: super::lineage_from(&message.lineage, "lineage")?,
            volume: VolumeId(message.volume),
            leader: node_or_none(message.leader),
            term: message.term,
            last_log: Seq(message.last_log),
            committed: Seq(message.committed),
            applied: Seq(message.applied),
            voters: message.voters.into_iter().map(NodeId).collect(),
            learners: message.learners.into_iter().map(NodeId).collect(),
            snapshot: Seq(message.snapshot),
            purged: Seq(message.purged),
            oldest_view: Seq(message.oldest_view),
            digest: message.digest,
            stopped: text_or_none(message.stopped),
            digests: message.digests.map(DigestReport::from_wire).transpose()?.unwrap_or_default(),
        })
    }
}

impl Wire for StoreStatus {
    type Message = v1::StoreStats;

    fn into_wire(self) -> v1::StoreStats {
        let Self { name, chunks, packs, stored_bytes, raw_bytes, state } = self;
        v1::StoreStats { name, chunks, packs, stored_bytes, raw_bytes, state }
    }

    fn from_wire(message: v1::StoreStats) -> Result<Self, WireError> {
        let v1::StoreStats { name, chunks, packs, stored_bytes, raw_bytes, state } = message;
        Ok(Self { name, chunks, packs, stored_bytes, raw_bytes, state })
    }
}

impl Wire for Watermark {
    type Message = v1::Watermark;

    fn into_wire(self) -> v1::Watermark {
        v1::Watermark {
            volume: self.volume.0,
            seq: self.seq.0,
            target_seq: self.target.0,
            missing_chunks: self.missing_chunks,
            missing_bytes: self.missing_bytes,
            stalled: self.stalled.unwrap_or_default(),
        }
    }

    fn from_wire(message: v1::Watermark) -> Result<Self, WireError> {
        Ok(Self {
            volume: VolumeId(message.volume),
            seq: Seq(message.seq),
            target: Seq(message.target_seq),
            missing_chunks: message.missing_chunks,
            missing_bytes: message.missing_bytes,
            stalled: text_or_none(message.stalled),
        })
    }
}

impl Wire for ArchiveStatus {
    type Message = v1::ArchiveStatus;

    fn into_wire(self) -> v1::ArchiveStatus {
        v1::ArchiveStatus {
            volume: self.volume.0,
            repository: self.repository,
            seq: self.seq.0,
            generation: self.generation,
            // A change younger than a millisecond is still a change.
            rpo_millis: self.rpo.map_or(0, |rpo| millis(rpo).max(1)),
            stalled: self.stalled.unwrap_or_default(),
        }
    }

    fn from_wire(message: v1::ArchiveStatus) -> Result<Self, WireError> {
        Ok(Self {
            volume: VolumeId(message.volume),
            repository: message.repository,
            seq: Seq(message.seq),
            generation: message.generation,
            rpo: (message.rpo_millis != 0).then(|| Duration::from_millis(message.rpo_millis)),
            stalled: text_or_none(message.stalled),
        })
    }
}

impl Wire for WireBytes {
    type Message = v1::WireBytes;

    fn into_wire(self) -> v1::WireBytes {
        let Self { peer, protocol, sent, received } = self;
        v1::WireBytes { peer, protocol, sent_bytes: sent, received_bytes: received }
    }

    fn from_wire(message: v1::WireBytes) -> Result<Self, WireError> {
        let v1::WireBytes { peer, protocol, sent_bytes: sent, received_bytes: received } = message;
        Ok(Self { peer, protocol, sent, received })
    }
}

impl Wire for Transfer {
    type Message = v1::Transfer;

    fn into_wire(self) -> v1::Transfer {
        let Self { place, cause, sent, received, plain_received, chunks_received, sent_deltas, received_deltas } = self;
        v1::Transfer {
            place,
            cause,
            sent_bytes: sent,
            received_bytes: received,
            plain_received_bytes: plain_received,
            chunks_received,
            deltas_sent: sent_deltas.count,
            delta_sent_bytes: sent_deltas.bytes,
            delta_sent_plain_bytes: sent_deltas.plain_bytes,
            deltas_received: received_deltas.count,
            delta_received_bytes: received_deltas.bytes,
            delta_received_plain_bytes: received_deltas.plain_bytes,
        }
    }

    fn from_wire(message: v1::Transfer) -> Result<Self, WireError> {
        Ok(Self {
            place: message.place,
            cause: message.cause,
            sent: message.sent_bytes,
            received: message.received_bytes,
            plain_received: message.plain_received_bytes,
            chunks_received: message.chunks_received,
            sent_deltas: Deltas {
                count: message.deltas_sent,
                bytes: message.delta_sent_bytes,
                plain_bytes: message.delta_sent_plain_bytes,
            },
            received_deltas: Deltas {
                count: message.deltas_received,
                bytes: message.delta_received_bytes,
                plain_bytes: message.delta_received_plain_bytes,
            },
        })
    }
}

impl Wire for NodeStatus {
    type Message = v1::NodeStatusResponse;

    fn into_wire(self) -> v1::NodeStatusResponse {
        v1::NodeStatusResponse {
            node: Some(self.node.into_wire()),
            version: self.version,
            uptime_millis: millis(self.uptime),
            groups: all_into(self.groups),
            stores: all_into(self.stores),
            watermarks: all_into(self.watermarks),
            archives: all_into(self.archives),
            wire: all_into(self.wire),
            transfers: all_into(self.transfers),
            upkeep: self.upkeep.map(Wire::into_wire),
            digest_messages: self.digest_messages,
        }
    }

    fn from_wire(message: v1::NodeStatusResponse) -> Result<Self, WireError> {
        Ok(Self {
            node: required(message.node, "status.node")?,
            version: message.version,
            uptime: Duration::from_millis(message.uptime_millis),
            groups: all(message.groups)?,
            stores: all(message.stores)?,
            watermarks: all(message.watermarks)?,
            archives: all(message.archives)?,
            wire: all(message.wire)?,
            transfers: all(message.transfers)?,
            upkeep: message.upkeep.map(UpkeepStatus::from_wire).transpose()?,
            digest_messages: message.digest_messages,
        })
    }
}

impl Wire for NodeReport {
    type Message = v1::NodeReport;

    fn into_wire(self) -> v1::NodeReport {
        let (status, unreachable) = match self.status {
            Ok(status) => (Some(status.into_wire()), String::new()),
            Err(reason) => (None, reason),
        };
        v1::NodeReport { node: Some(self.node.into_wire()), status, unreachable }
    }

    fn from_wire(message: v1::NodeReport) -> Result<Self, WireError> {
        let status = match message.status {
            Some(status) => Ok(NodeStatus::from_wire(status)?),
            None => Err(message.unreachable),
        };
        Ok(Self { node: required(message.node, "report.node")?, status })
    }
}

impl Wire for ClusterStatus {
    type Message = v1::ClusterStatusResponse;

    fn into_wire(self) -> v1::ClusterStatusResponse {
        v1::ClusterStatusResponse {
            cluster: id_bytes(self.cluster.0),
            epoch: self.epoch.0,
            nodes: all_into(self.nodes),
        }
    }

    fn from_wire(message: v1::ClusterStatusResponse) -> Result<Self, WireError> {
        Ok(Self {
            cluster: ClusterId(id_from_bytes(&message.cluster, "status.cluster")?),
            epoch: Epoch(message.epoch),
            nodes: all(message.nodes)?,
        })
    }
}

impl Wire for VolumeTotals {
    type Message = v1::Totals;

    fn into_wire(self) -> v1::Totals {
        let Self { files, directories, symlinks, logical_bytes, sessions } = self;
        v1::Totals { files, directories, symlinks, logical_bytes, sessions }
    }

    fn from_wire(message: v1::Totals) -> Result<Self, WireError> {
        let v1::Totals { files, directories, symlinks, logical_bytes, sessions } = message;
        Ok(Self { files, directories, symlinks, logical_bytes, sessions })
    }
}

impl Wire for SyncTarget {
    type Message = v1::sync_wait_request::Target;

    fn into_wire(self) -> v1::sync_wait_request::Target {
        use v1::sync_wait_request::{Archive, Target};
        match self {
            Self::Site(site) => Target::Site(site.into()),
            Self::Archive => Target::Archive(Archive {}),
        }
    }

    fn from_wire(message: v1::sync_wait_request::Target) -> Result<Self, WireError> {
        use v1::sync_wait_request::Target;
        Ok(match message {
            Target::Site(name) => Self::Site(site(name, "target.site")?),
            Target::Archive(_) => Self::Archive,
        })
    }
}

impl Wire for SyncWaited {
    type Message = v1::SyncWaitResponse;

    fn into_wire(self) -> v1::SyncWaitResponse {
        v1::SyncWaitResponse { reached: self.reached, watermark: self.watermark.0, seq: self.seq.0 }
    }

    fn from_wire(message: v1::SyncWaitResponse) -> Result<Self, WireError> {
        Ok(Self { reached: message.reached, watermark: Seq(message.watermark), seq: Seq(message.seq) })
    }
}
