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

static NO_PATH: Bytes = Bytes::new();

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
    /// Sets, changes or (`None`) removes the quota of a user: what has this `uid` anywhere in the volume may use so much.
    /// Less than is used refuses what would use more, and takes nothing away.
    SetOwnerQuota {
        /// The user.
        uid: u32,
        /// How much.
        limit: Option<QuotaLimit>,
    },
    /// Sets how long old states are kept, or (`None`) leaves it to the nodes.
    SetRetention {
        /// How long.
        keep: Option<RetentionRecord>,
    },
    /// Takes an advisory lock; refused with [`crate::command::Errno::Locked`] while another holds one that excludes it. The
    /// version in the answer is the lock's token: every later lock of the volume has a greater one.
    AcquireLock {
        /// Of what: a file, directory or symlink.
        at: At,
        /// What it excludes.
        kind: LockKind,
        /// First byte.
        start: u64,
        /// Number of bytes; 0: to the end, however long it becomes.
        len: u64,
        /// Who takes it, for people; at most [`LOCK_HOLDER_BYTES_MAX`] bytes.
        holder: Bytes,
        /// It ends so many milliseconds after the request's time unless it is renewed; at most [`LEASE_MILLIS_MAX`].
        lease_millis: u64,
    },
    /// Lets a lock that has not ended last until so long after the request's time.
    RenewLock {
        /// Of what.
        at: At,
        /// Which.
        token: u64,
        /// As in `AcquireLock`.
        lease_millis: u64,
    },
    /// Gives a lock back. One that has ended is not found.
    ReleaseLock {
        /// Of what.
        at: At,
        /// Which.
        token: u64,
    },
}

/// Makes a place where another volume is mounted, missing directories above it included, or takes it away. Nodes ask for it
/// as often as they like: what is there already is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOp {
    /// Where, from the top of the volume that it is mounted in. What is there already must be an empty directory, or a mount
    /// of the same volume.
    pub path: Bytes,
    /// The name of the volume that is mounted.
    pub volume: String,
    /// Whether it is to be there.
    pub mounted: bool,
}

/// Most volumes that are mounted in a volume: a rename of a directory looks at all of them.
pub const MOUNTS_MAX: usize = 4096;

/// Longest name of a lock's holder in bytes.
pub const LOCK_HOLDER_BYTES_MAX: usize = 255;
/// Longest lease in milliseconds: a day.
pub const LEASE_MILLIS_MAX: u64 = 24 * 3600 * 1000;
/// Most locks of a volume.
pub const LOCKS_MAX: u64 = 65_536;
/// Most locks of an inode.
pub const LOCKS_OF_INODE_MAX: usize = 1024;

/// What a lock excludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockKind {
    /// Exclusive locks whose ranges overlap.
    Shared,
    /// Any lock whose range overlaps, but for holds.
    Exclusive,
    /// Nothing: it keeps an inode that loses its last name, as an open file does, until it is given back or ends.
    Hold,
}

/// A lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    /// What it excludes.
    pub kind: LockKind,
    /// First byte.
    pub start: u64,
    /// Behind the last byte; `u64::MAX`: to the end of the file.
    pub end: u64,
    /// Who has it.
    pub holder: Bytes,
    /// Since when.
    pub since: Timestamp,
    /// It has ended at this time.
    pub ends: Timestamp,
}

impl LockRecord {
    /// Whether the two cannot be held at once.
    pub(crate) fn excludes(&self, other: &Self) -> bool {
        let overlap = self.start < other.end && other.start < self.end;
        let kinds = match (self.kind, other.kind) {
            (LockKind::Hold, _) | (_, LockKind::Hold) | (LockKind::Shared, LockKind::Shared) => false,
            (LockKind::Exclusive, _) | (_, LockKind::Exclusive) => true,
        };
        overlap && kinds
    }
}

/// How long old states of a volume can be read. What either asks for is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionRecord {
    /// The newest so many seqs.
    pub seqs: u64,
    /// Those of the last so many seconds.
    pub seconds: u64,
}

/// What a user owns in the volume: files, directories and symlinks, the top too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRecord {
    /// How much it may be.
    pub limit: Option<QuotaLimit>,
    /// Files, directories and symlinks.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u128,
}

impl ManageOp {
    /// The path or name that it is about.
    pub(crate) fn about(&self) -> &Bytes {
        match self {
            Self::CreateSnapshot { name } | Self::DeleteSnapshot { name } => name,
            Self::SetQuota { at, .. }
            | Self::AcquireLock { at, .. }
            | Self::RenewLock { at, .. }
            | Self::ReleaseLock { at, .. } => &at.path,
            Self::SetOwnerQuota { .. } | Self::SetRetention { .. } => &NO_PATH,
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
