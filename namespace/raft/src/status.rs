//! What a group says about itself.

use std::collections::BTreeSet;
use std::time::Duration;

use causeway_base::{NodeId, Seq, VolumeId};
use causeway_namespace_core::command::Outcome;
use causeway_namespace_core::lineage::Lineage;

/// A proposal that was committed and applied here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The commit that holds it.
    pub seq: Seq,
    /// What it came to; a refusal is an outcome too.
    pub outcome: Outcome,
}

/// Whether a group works on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// It does.
    Running,
    /// It takes nothing any more, for this reason; a restart of the node may help.
    Stopped(String),
}

/// A group as this node sees it, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Which group.
    pub group: VolumeId,
    /// Which line of its history.
    pub lineage: Lineage,
    /// Who leads, as far as is known here.
    pub leader: Option<NodeId>,
    /// The Raft term.
    pub term: u64,
    /// Last entry in this node's log, committed or not.
    pub last_log: Seq,
    /// Committed, as far as is known here.
    pub committed: Seq,
    /// Applied on this node.
    pub applied: Seq,
    /// Members that vote.
    pub voters: BTreeSet<NodeId>,
    /// Members that do not vote.
    pub learners: BTreeSet<NodeId>,
    /// The log is purged up to here.
    pub purged: Seq,
    /// Last Raft snapshot built or installed here.
    pub snapshot: Seq,
    /// Digest of the records at `applied`, in hexadecimal.
    pub digest: String,
    /// Oldest seq whose state can still be read.
    pub oldest_view: Seq,
    /// Whether it works here.
    pub state: GroupState,
}

/// Heartbeat and election times. The heartbeat must exceed the round trip to the farthest voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// After so long without a word of its leader a member does not hold to it any more; then the shortest wait before an election.
    pub election_min: Duration,
    /// Longest such wait.
    pub election_max: Duration,
}

impl Default for Timing {
    /// For a LAN, or sites up to about 30 ms apart.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(1000),
        }
    }
}

impl Timing {
    /// For voters up to `rtt` apart: the heartbeat is twice the round trip, never below the LAN's.
    #[must_use]
    pub fn for_rtt(rtt: Duration) -> Self {
        let lan = Self::default();
        let heartbeat = (rtt * 2).max(lan.heartbeat);
        Self { heartbeat, election_min: heartbeat * 4, election_max: heartbeat * 8 }
    }
}
