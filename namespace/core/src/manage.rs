//! Operations on a volume as a whole, and what they record.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use causeway_base::{Seq, Timestamp};

/// Most snapshots of a volume.
pub const SNAPSHOTS_MAX: u64 = 4096;

/// An operation on the volume as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ManageOp {
    /// Names the state after this commit. Costs one record, whatever the volume's size: earlier states are kept by seq, and
    /// a snapshot's seq is not pruned.
    CreateSnapshot {
        /// A name as of a directory entry; must not exist.
        name: Bytes,
    },
    /// Forgets a snapshot; its state is pruned when nothing else needs it.
    DeleteSnapshot {
        /// Which.
        name: Bytes,
    },
}

impl ManageOp {
    /// The path or name that it is about.
    pub(crate) fn about(&self) -> &Bytes {
        match self {
            Self::CreateSnapshot { name } | Self::DeleteSnapshot { name } => name,
        }
    }
}

/// A named state of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The commit whose state it is, whole: also what the same log entry applied after it.
    pub seq: Seq,
    /// When it was made.
    pub at: Timestamp,
}
