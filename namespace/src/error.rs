//! Why the namespace of a node does not do what it is asked.

use std::time::Duration;

use causeway_base::{NodeId, RetryClass, Seq, Timestamp, VolumeId};
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::records::ReadError;
use causeway_namespace_core::root::RootRefusal;

use crate::content::ContentError;

/// Why there is no answer. The variants say what, to what, why, and by [`Error::retry_class`] what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The volume table, as this node knows it, has no such volume.
    #[error("there is no volume {0}")]
    NoVolume(String),
    /// The volume is elsewhere.
    #[error("volume {volume} has no replica on this node; its voters are {voters:?}")]
    NoReplica {
        /// Which.
        volume: VolumeId,
        /// Where to ask.
        voters: Vec<NodeId>,
    },
    /// No leader took it in time; nothing happened.
    #[error("no leader of group {group} answered within {:.1} s ({last}); nothing was done", waited.as_secs_f64())]
    NoLeader {
        /// Which group.
        group: VolumeId,
        /// For how long it was tried.
        waited: Duration,
        /// What the last attempt came to.
        last: String,
    },
    /// It was handed to a leader and no answer came.
    #[error("group {group}: the outcome is unknown: {reason}")]
    Unknown {
        /// Which group.
        group: VolumeId,
        /// How the answer was lost.
        reason: String,
    },
    /// Too much waits already; nothing happened.
    #[error("group {0} has too much to do; nothing was done")]
    Overloaded(VolumeId),
    /// The leader's disk is full; nothing happened.
    #[error("group {0}: the disk of its leader is full; nothing was done, free some space")]
    Full(VolumeId),
    /// Committed entries did not arrive here in time for the read.
    #[error("group {group}: this node is at seq {applied} and did not reach {wanted} in time")]
    Behind {
        /// Which group.
        group: VolumeId,
        /// Needed.
        wanted: Seq,
        /// Reached.
        applied: Seq,
    },
    /// A state that is not kept any more at this node: its retention has passed, or it was installed later. Nothing was
    /// skipped to hide it.
    #[error("volume {group}: seq {wanted} is not kept any more at this node, the oldest is {oldest}")]
    TooOld {
        /// Which volume.
        group: VolumeId,
        /// Asked for.
        wanted: Seq,
        /// The oldest from which on every state is kept.
        oldest: Seq,
    },
    /// A time of which no state is kept any more at this node.
    #[error(
        "volume {group}: no state of that time is kept any more at this node; the oldest is seq {oldest}, of {since}"
    )]
    TooEarly {
        /// Which volume.
        group: VolumeId,
        /// The oldest state.
        oldest: Seq,
        /// From when it is.
        since: Timestamp,
    },
    /// Too much differs to be told; nothing was.
    #[error("volume {group}: more than {max} records changed; compare less, or walk both states")]
    TooMuch {
        /// Which volume.
        group: VolumeId,
        /// The most.
        max: usize,
    },
    /// The replica on this node is known to be wrong, and is not read.
    #[error(
        "group {group}: the replica on {node} differs from the others since seq {seq} and is not read until it is \
         repaired; ask another node"
    )]
    Diverged {
        /// Which group.
        group: VolumeId,
        /// The node.
        node: NodeId,
        /// The seq at which it was found.
        seq: Seq,
    },
    /// The group stopped on this node: its disk or its state failed.
    #[error("group {group} is stopped on this node: {reason}")]
    Stopped {
        /// Which group.
        group: VolumeId,
        /// Why.
        reason: String,
    },
    /// The request breaks a bound or rule; nothing happened.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The contents of a batch are not all here; nothing happened.
    #[error("content: {0}")]
    Content(#[from] ContentError),
    /// The root group refused; nothing happened.
    #[error("refused: {0}")]
    Root(#[from] RootRefusal),
    /// The planner finds no place; nothing happened.
    #[error("{0}")]
    Placement(#[from] crate::placement::PlaceError),
    /// An earlier change is under way; nothing happened.
    #[error("{0}")]
    Busy(String),
    /// A promotion is not possible; nothing happened.
    #[error("not promoted: {0}")]
    NotPromoted(String),
    /// The group was promoted, and this node had a part in what was before: that has ended. Nothing happened.
    #[error(
        "group {group} was promoted (line {lineage}, heard from {by}), and what this node had of it before takes nothing \
         any more; it is kept aside, and the node follows the new line once it has the root group's newest tables"
    )]
    Fenced {
        /// Which group.
        group: VolumeId,
        /// The line that began.
        lineage: Lineage,
        /// Who said so.
        by: NodeId,
    },
    /// Stored records cannot be read.
    #[error("stored records: {0}")]
    Read(#[from] ReadError),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

impl Error {
    /// What the caller may do next.
    #[must_use]
    pub const fn retry_class(&self) -> RetryClass {
        match self {
            Self::TooOld { .. } | Self::TooEarly { .. } | Self::TooMuch { .. } => RetryClass::Refused,
            Self::NoVolume(_)
            | Self::Invalid(_)
            | Self::Root(_)
            | Self::Placement(_)
            | Self::Busy(_)
            | Self::NotPromoted(_)
            | Self::Content(ContentError::Invalid(_)) => RetryClass::Refused,
            Self::NoReplica { .. }
            | Self::NoLeader { .. }
            | Self::Overloaded(_)
            | Self::Full(_)
            | Self::Behind { .. }
            | Self::Fenced { .. }
            | Self::Content(_)
            | Self::ShuttingDown => RetryClass::Transient,
            Self::Unknown { .. } => RetryClass::Unknown,
            // Another node may have it whole; this one needs a person.
            Self::Stopped { .. } | Self::Diverged { .. } => RetryClass::Transient,
            Self::Read(_) => RetryClass::Damaged,
        }
    }

    /// A stable word for programs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoVolume(_) => "no-volume",
            Self::NoReplica { .. } => "no-replica",
            Self::NoLeader { .. } => "no-leader",
            Self::Unknown { .. } => "unknown-outcome",
            Self::Overloaded(_) => "overloaded",
            Self::Full(_) => "disk-full",
            Self::Behind { .. } => "behind",
            Self::TooOld { .. } | Self::TooEarly { .. } => "too-old",
            Self::TooMuch { .. } => "too-much",
            Self::Stopped { .. } => "stopped",
            Self::Diverged { .. } => "diverged",
            Self::Invalid(_) => "invalid",
            Self::Content(ContentError::Missing { .. }) => "content-missing",
            Self::Content(ContentError::Invalid(_)) => "content-invalid",
            Self::Content(_) => "content-unreadable",
            Self::Root(_) => "root-refused",
            Self::Placement(_) => "unplaceable",
            Self::Busy(_) => "busy",
            Self::NotPromoted(_) => "not-promoted",
            Self::Fenced { .. } => "fenced",
            Self::Read(_) => "damaged",
            Self::ShuttingDown => "shutting-down",
        }
    }
}
