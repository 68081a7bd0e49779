//! The record of a group's counters and totals.

use serde::{Deserialize, Serialize};

use causeway_base::{Epoch, Ino, NodeId, Seq, Timestamp, VolumeId};

use crate::inode::{Attr, Body, Inode};

/// What a group holds. Its first commands decide, for ever: see [`crate::apply`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupKind {
    /// Nothing was applied yet that decides.
    #[default]
    Blank,
    /// A volume's tree.
    Volume,
    /// The cluster's nodes and volumes.
    Root,
}

/// Counters and totals; one record, written at most once per command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// What the group holds.
    pub kind: GroupKind,
    /// The generation of authority; raised by a restore or promotion.
    pub epoch: Epoch,
    /// The number of the next inode; those below are never given again.
    pub next_ino: Ino,
    /// The number of the next session; those below are never given again.
    pub next_session: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Regular files; one with several names counts once.
    pub files: u64,
    /// Directories, the top included.
    pub dirs: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Sum of the lengths of all files in bytes; `u128`, since a few sparse files of the largest size overflow `u64`.
    pub logical_bytes: u128,
    /// The id of the next volume (root group); those below are never given again.
    pub next_volume: VolumeId,
    /// The id of the next node (root group); those below are never given again.
    pub next_node: NodeId,
    /// Named snapshots.
    pub snapshots: u64,
    /// Directories with a quota.
    pub quotas: u64,
    /// Advisory locks and holds, expired ones that are not collected yet included.
    pub locks: u64,
    /// The token of the next lock; those below are never given again.
    pub next_token: u64,
    /// The latest time that an operation on locks carried: leases end by it, so it never goes back.
    pub clock: Timestamp,
}

impl Default for Meta {
    /// Of a group to which nothing was applied.
    fn default() -> Self {
        Self {
            kind: GroupKind::Blank,
            epoch: Epoch(0),
            next_ino: Ino(Ino::ROOT.0 + 1),
            next_session: 1,
            sessions: 0,
            files: 0,
            dirs: 0,
            symlinks: 0,
            logical_bytes: 0,
            next_volume: VolumeId(VolumeId::ROOT.0 + 1),
            next_node: NodeId(1),
            snapshots: 0,
            quotas: 0,
            locks: 0,
            next_token: 1,
            clock: Timestamp(0),
        }
    }
}

/// The top directory of a volume that nobody has touched: owned by root, mode 0755, as old as the epoch.
///
/// It is written when the first session opens; until then queries answer with it.
#[must_use]
pub fn blank_top() -> Inode {
    Inode {
        attr: Attr { mode: 0o755, uid: 0, gid: 0, mtime: Default::default(), ctime: Default::default() },
        nlink: 1,
        version: Seq::ZERO,
        body: Body::Directory { parent: Ino::ROOT, name: bytes::Bytes::new(), entries: 0 },
        xattrs: Vec::new(),
        quota: None,
    }
}
