//! Operations on a volume as a whole, and what they record.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use causeway_base::{Seq, Timestamp};

use crate::command::At;
use crate::meta::Meta;

/// Most snapshots of a volume.
pub const SNAPSHOTS_MAX: u64 = 4096;

/// Most directories of a volume with a quota.
pub const QUOTAS_MAX: u64 = 65_536;

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
    /// Sets, changes or (`None`) removes the quota of a directory: what is below it, at any depth, may use so much. The
    /// top's holds for the whole volume and may be set at any time; any other directory must be empty when it gets one.
    SetQuota {
        /// Which directory.
        at: At,
        /// How much. Less than is used refuses what would use more, and takes nothing away. `None` for a directory with
        /// something in it lifts the limits and counts on; for an empty one, and for the top, it ends the quota.
        limit: Option<QuotaLimit>,
    },
}

impl ManageOp {
    /// The path or name that it is about.
    pub(crate) fn about(&self) -> &Bytes {
        match self {
            Self::CreateSnapshot { name } | Self::DeleteSnapshot { name } => name,
            Self::SetQuota { at, .. } => &at.path,
        }
    }
}

/// How much may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaLimit {
    /// Sum of the lengths of files in bytes; one with several names counts once.
    pub bytes: Option<u64>,
    /// Number of files, directories and symlinks.
    pub files: Option<u64>,
}

/// A directory's quota. Of the top only the limit is kept, what it uses are the volume's totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaRecord {
    /// How much may be used.
    pub limit: QuotaLimit,
    /// Files, directories and symlinks below the directory.
    pub files: u64,
    /// Bytes of the files below it.
    pub bytes: u128,
}

impl QuotaRecord {
    /// The top's record with what the whole volume uses.
    pub(crate) fn of_volume(self, meta: &Meta) -> Self {
        // The top itself is no use of its own quota.
        let files = (meta.files + meta.dirs + meta.symlinks).saturating_sub(1);
        Self { limit: self.limit, files, bytes: meta.logical_bytes }
    }

    /// Whether it uses more than before in a way that has a limit, and more than that.
    pub(crate) fn grown_over(&self, before: &Self) -> bool {
        let files = self.files > before.files && self.limit.files.is_some_and(|limit| self.files > limit);
        let over = |limit| self.bytes > u128::from(limit);
        files || self.bytes > before.bytes && self.limit.bytes.is_some_and(over)
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
