//! What is told of a volume as a whole: snapshots, quotas, locks, and what changed.

use bytes::Bytes;

use causeway_base::{Ino, Seq, Timestamp};
use causeway_namespace_core::manage::{LockRecord, OwnerRecord, QuotaRecord, RetentionRecord, SnapshotRecord};
use causeway_namespace_core::query::TreeChange;

/// The snapshots of a volume, and how far back a node can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshots {
    /// By name.
    pub snapshots: Vec<(Bytes, SnapshotRecord)>,
    /// Every state from here on can be read at the answering node.
    pub oldest: Seq,
    /// When that was; `None` if it is not known.
    pub oldest_time: Option<Timestamp>,
    /// How long states are kept; `None`: as the nodes like.
    pub retention: Option<RetentionRecord>,
}

/// Which past state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// Of a snapshot.
    Snapshot(Bytes),
    /// The newest one that was there at a time.
    Time(Timestamp),
}

/// A directory with a quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryQuota {
    /// Its inode.
    pub ino: Ino,
    /// Its path in the volume; empty for the volume itself.
    pub path: Bytes,
    /// Limits and use.
    pub record: QuotaRecord,
}

/// Everything that is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Directories with a quota.
    pub directories: Vec<DirectoryQuota>,
    /// All users that own something or have a quota.
    pub owners: Vec<(u32, OwnerRecord)>,
}

/// A lock that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLock {
    /// Of what.
    pub ino: Ino,
    /// Where that is below the volume's top, if it has a name that was found.
    pub path: Option<Bytes>,
    /// Its token.
    pub token: u64,
    /// The rest.
    pub record: LockRecord,
}

/// Where a reader of a feed is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FeedPlace {
    /// It has everything up to this seq.
    pub after: Seq,
    /// And so many events of the next one.
    pub skip: u64,
}

/// An event of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEvent {
    /// The commit.
    pub seq: Seq,
    /// Counts up from 0 within the commit.
    pub index: u64,
    /// When it was committed, by the proposer's clock; never earlier than the event before.
    pub at: Timestamp,
    /// What happened.
    pub change: TreeChange,
}

/// Some events of one commit, and how far the feed has come with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedBatch {
    /// In order.
    pub events: Vec<FeedEvent>,
    /// Everything up to here is delivered; `None`: more of the commit follows.
    pub through: Option<Seq>,
    /// Nothing newer was committed at the answering node.
    pub newest: bool,
}
