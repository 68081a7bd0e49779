//! The audit: what people changed about the cluster, kept in the root group.
//!
//! A change and its record are one command: there is never one without the other. What changed nothing is not recorded, so a
//! request that is repeated after a lost answer is there once.

use serde::{Deserialize, Serialize};

use causeway_base::{Epoch, NodeId, Seq, SiteName, Timestamp, VolumeId};

use crate::lineage::Lineage;
use crate::promotion::PromotionRecord;

/// Records that are kept; the oldest makes room. Some 2 MiB in all.
pub const RECORDS_MAX: u64 = 10_000;
/// Longest name of a caller in bytes.
pub const WHO_BYTES_MAX: usize = 512;
/// Longest reason in bytes.
pub const REASON_BYTES_MAX: usize = 1024;

/// By whom, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// The identity in the caller's certificate, or the local user of an offline command.
    pub who: String,
    /// The node that took the request; 0 for an offline command.
    pub node: NodeId,
    /// What the caller gave as the reason; empty for none.
    pub reason: String,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When the node took the request, by its clock.
    pub at: Timestamp,
    /// The root group's commit.
    pub seq: Seq,
    /// By whom, and why.
    pub by: By,
    /// What was done.
    pub action: AuditAction,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditAction {
    /// The topology was replaced.
    TopologySet {
        /// By this version.
        version: u64,
    },
    /// A volume was created.
    VolumeCreated {
        /// Its id.
        id: VolumeId,
        /// Its name.
        name: String,
        /// Its home.
        home: SiteName,
    },
    /// A volume's settings were changed.
    VolumeSet {
        /// Which.
        id: VolumeId,
        /// Its name.
        name: String,
        /// The new revision.
        revision: u64,
        /// Home before.
        home_before: SiteName,
        /// Home now.
        home: SiteName,
    },
    /// A node was added.
    NodeAdded {
        /// Its id.
        id: NodeId,
        /// Its site.
        site: SiteName,
    },
    /// A node's emptying began or was called off.
    NodeDrained {
        /// Which.
        id: NodeId,
        /// Whether it is emptied.
        draining: bool,
    },
    /// A node was taken out.
    NodeRemoved {
        /// Which.
        id: NodeId,
    },
    /// The cluster was restored from its repository.
    Restored {
        /// The epoch that the restore began.
        epoch: Epoch,
    },
    /// A volume was promoted.
    VolumePromoted {
        /// Which.
        id: VolumeId,
        /// Its name.
        name: String,
        /// How.
        promotion: PromotionRecord,
    },
    /// The root group was promoted.
    RootPromoted {
        /// How.
        promotion: PromotionRecord,
    },
    /// What a node had of a line that ended was given up.
    AsideForgotten {
        /// Of which volume.
        id: VolumeId,
        /// Its name.
        name: String,
        /// On which node.
        node: NodeId,
        /// Which line.
        line: Lineage,
    },
    /// A replica that was marked as wrong was declared right.
    ReplicaTrusted {
        /// Of which volume.
        id: VolumeId,
        /// Its name.
        name: String,
        /// On which node.
        node: NodeId,
    },
}

/// Which records there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRange {
    /// The number of the oldest.
    pub first: u64,
    /// The number of the next.
    pub next: u64,
}

impl Default for AuditRange {
    /// None yet; numbers begin at 1.
    fn default() -> Self {
        Self { first: 1, next: 1 }
    }
}
