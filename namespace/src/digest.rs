//! Whether replicas are the same: how that is checked, and what is known of it. `docs/digest.md` tells the whole.

use std::time::Duration;

use causeway_base::{NodeId, Seq, Timestamp};
use serde::Serialize;

/// How replicas are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestOptions {
    /// Between two comparisons with the other replicas, give or take a quarter. What did not change since the last one
    /// costs nothing. Zero: none, and nothing is repaired.
    pub compare_every: Duration,
    /// All records of each replica are added up once in this time; zero: only when asked.
    pub verify_cycle: Duration,
    /// Bytes a second that this reads at most, outside of what a person asked for; at least 1 MiB is used.
    pub verify_rate: u64,
}

impl Default for DigestOptions {
    /// Compared every five seconds, added up once a day at 64 MiB/s.
    fn default() -> Self {
        let (compare_every, verify_cycle) = (Duration::from_secs(5), Duration::from_secs(24 * 3600));
        Self { compare_every, verify_cycle, verify_rate: 64 << 20 }
    }
}

/// What a node knows of its replica of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DigestReport {
    /// Newest seq at which it was the same as another replica since the node started; zero if none yet.
    pub equal_at: Seq,
    /// Newest seq at which its records, added up, came to its digest; zero if they were not since the node started.
    pub verified: Seq,
    /// When that was.
    pub verified_at: Timestamp,
    /// How it differs from others, if it does.
    pub divergence: Option<Divergence>,
    /// Its last repair since the node started.
    pub repaired: Option<Repaired>,
}

/// A difference between replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// The seq at which it was found: all compared replicas had applied the same entries.
    pub seq: Seq,
    /// When it was found.
    pub found_at: Timestamp,
    /// Which replica is wrong.
    pub verdict: Verdict,
    /// The nodes whose replicas differ from this one, as far as is known.
    pub from: Vec<NodeId>,
    /// In which records, once they were looked at.
    pub records: Option<DifferingRecords>,
    /// Where the repair stands, for people.
    pub repair: Option<String>,
}

/// Records in which a replica differs from another's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DifferingRecords {
    /// How many.
    pub count: u64,
    /// More differ than were counted.
    pub more: bool,
    /// The first hundred: by path, where they belong to one.
    pub named: Vec<DifferingRecord>,
    /// Why they are not known, if so.
    pub unknown: Option<String>,
}

/// A record in which a replica differs from another's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DifferingRecord {
    /// By path where it belongs to one; bytes that are not UTF-8 as `\xff`.
    pub name: String,
    /// How.
    pub how: RecordDiffers,
}

/// How a record differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordDiffers {
    /// Both have it, not the same.
    Changed,
    /// Only the wrong replica, or the one that was asked, has it.
    Surplus,
    /// It is missing there.
    Missing,
}

/// Which replica is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// This one: its records do not come to its own digest.
    Damaged,
    /// This one: more than half of all members are the same, and not as this one.
    Minority,
    /// This one: a person said so.
    Declared,
    /// Those that this one differs from: more than half of all members are as this one.
    Others,
    /// Nobody can tell: no state has more than half of the members, or some were not reached. A person decides.
    Undecided,
    /// The replicas have applied different entries: their histories part, which no comparison can mend.
    Forked,
}

impl Verdict {
    /// Whether the replica of the node that says so is the wrong one.
    #[must_use]
    pub const fn is_own(self) -> bool {
        matches!(self, Self::Damaged | Self::Minority | Self::Declared)
    }
}

/// A repair that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// The seq of the state that was taken over.
    pub seq: Seq,
    /// From which node.
    pub from: NodeId,
    /// When it was done.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// What was repaired.
    pub was: Divergence,
}

/// What the records of a replica come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// At this seq.
    pub seq: Seq,
    /// How many there are.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether they come to the replica's digest.
    pub right: bool,
    /// How long it took.
    pub took: Duration,
    /// What is known of differences to other replicas now.
    pub divergence: Option<Divergence>,
}
