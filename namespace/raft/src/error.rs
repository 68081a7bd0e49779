//! What callers of a group are told when it does not do what they asked.

use std::path::PathBuf;

use causeway_base::{NodeId, RetryClass, Seq, VolumeId};
use causeway_namespace_core::lineage::Lineage;

/// Why a proposal has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This node does not lead the group; nothing happened.
    #[error("this node does not lead the group")]
    NotLeader {
        /// Who does, as far as is known here.
        leader: Option<NodeId>,
    },
    /// It was handed to the log and no answer came: it may or may not be applied, now or later.
    #[error("the outcome is unknown: no answer before the deadline, or leadership was lost")]
    Unknown,
    /// The disk of this node is full; nothing happened.
    #[error("the node's disk is full")]
    Full,
    /// Too many proposals wait already; nothing happened.
    #[error("too many proposals wait")]
    Overloaded,
    /// The group does not run any more on this node; whether the proposal happened is unknown if it waited.
    #[error("the group is stopped: {0}")]
    Stopped(String),
    /// It breaks a bound; nothing happened.
    #[error("refused: {0}")]
    Refused(String),
    /// The group was promoted elsewhere, and this node's line of it is fenced; nothing happened.
    #[error("the group was promoted: line {0} began, and this node's is fenced")]
    Fenced(Lineage),
}

impl ProposeError {
    /// What the caller may do next.
    #[must_use]
    pub const fn retry_class(&self) -> RetryClass {
        match self {
            Self::NotLeader { .. } | Self::Overloaded | Self::Full | Self::Fenced(_) => RetryClass::Transient,
            Self::Unknown | Self::Stopped(_) => RetryClass::Unknown,
            Self::Refused(_) => RetryClass::Refused,
        }
    }
}

/// Why no read index was obtained. A read has no effect, so it may be tried again here or elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadIndexError {
    /// This node does not lead the group.
    #[error("this node does not lead the group")]
    NotLeader {
        /// Who does, as far as is known here.
        leader: Option<NodeId>,
    },
    /// A quorum did not confirm leadership before the deadline.
    #[error("leadership was not confirmed by a quorum before the deadline")]
    Timeout,
    /// The group does not run any more on this node.
    #[error("the group is stopped: {0}")]
    Stopped(String),
}

/// Why waiting for a seq ended without it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// It was not applied before the deadline.
    #[error("seq {wanted} was not applied before the deadline; this node is at {applied}")]
    Timeout {
        /// Waited for.
        wanted: Seq,
        /// Reached.
        applied: Seq,
    },
    /// The group does not run any more on this node.
    #[error("the group is stopped: {0}")]
    Stopped(String),
}

/// Why a peer's message was not handled. The text goes back to the peer; it names nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// The group does not run on this node (yet).
    #[error("group {0} does not run on this node")]
    UnknownGroup(VolumeId),
    /// This node's disk is full; reads and votes go on.
    #[error("the node's disk is full")]
    Full,
    /// A kind that this node does not know.
    #[error("unknown kind of message {0}")]
    UnknownKind(u8),
    /// The message does not decode or breaks a bound.
    #[error("bad message: {0}")]
    Bad(String),
    /// It claims to come from another node than the one that the link authenticated.
    #[error("message of {claimed} came from {from}")]
    Impostor {
        /// Authenticated by the link.
        from: NodeId,
        /// In the message.
        claimed: NodeId,
    },
    /// The group does not run any more on this node.
    #[error("the group is stopped: {0}")]
    Stopped(String),
    /// The message is of a line of the group that a promotion has ended: its sender must stop.
    #[error("group {group} was promoted: line {lineage} began, the message is of a lesser one")]
    Fenced {
        /// Which.
        group: VolumeId,
        /// The line that this node follows.
        lineage: Lineage,
    },
}
/// Why a group was not opened or started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The log refused.
    #[error("the write-ahead log")]
    Wal(#[source] crate::wal::WalError),
    /// The state store refused.
    #[error("the state store")]
    Store(#[source] crate::store::StoreError),
    /// The consensus library refused.
    #[error("group {group}: {reason}")]
    Raft {
        /// Which.
        group: VolumeId,
        /// What it says.
        reason: String,
    },
    /// The configuration cannot work.
    #[error("configuration: {0}")]
    Config(String),
    /// A fence is not read or written.
    #[error("fence {path}: {reason}")]
    Fence {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// This node follows a greater line of the group than the one that is asked for: that one is fenced for ever.
    #[error("group {group} was promoted: this node follows line {followed} of it, not the lesser line {asked}")]
    Fenced {
        /// Which.
        group: VolumeId,
        /// Asked for.
        asked: Lineage,
        /// Followed.
        followed: Lineage,
    },
}
