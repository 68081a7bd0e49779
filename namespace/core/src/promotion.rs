//! Promotions: what a group begins with when it goes on without the majority that it lost.
//!
//! The line before may go on elsewhere until it hears of it, and count on: so seqs, and the numbers that a group gives out,
//! begin again far above what it can reach. No number then means one thing on one side and another on the other.

use serde::{Deserialize, Serialize};

use causeway_base::{Epoch, Ino, NodeId, Seq, SiteName, VolumeId};

use crate::lineage::Lineage;
use crate::meta::Meta;

/// Lines of a group begin at multiples of this seq.
pub const SEQ_STEP: u64 = 1_000_000_000_000;
/// How far the numbers of inodes, sessions and locks jump.
const NUMBER_STEP: u64 = 1 << 40;
/// How far the ids of volumes jump.
const VOLUME_STEP: u64 = 1_000_000;
/// How far the ids of nodes jump.
const NODE_STEP: u64 = 1000;

/// A promotion of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionRecord {
    /// The line that it began.
    pub lineage: Lineage,
    /// The line whose state it took over.
    pub before: Lineage,
    /// That state's seq: everything up to here stayed.
    pub fork: Seq,
    /// The newest seq in a log of the surviving side. What is above `fork` and up to here was not known to be committed.
    pub last: Seq,
    /// The seq that the new line begins with.
    pub seq: Seq,
    /// Where.
    pub site: SiteName,
}

/// The epoch that a promotion begins: above the one before, and another for each founder, so that two sides that do not know
/// of each other begin different ones.
#[must_use]
pub fn next_epoch(before: Epoch, founder: NodeId) -> Option<Epoch> {
    before.0.checked_add(founder.0.max(1)).map(Epoch)
}

/// The seq that a line begins with.
#[must_use]
pub fn next_seq(fork: Seq, epoch: Epoch) -> Option<Seq> {
    (fork.0 / SEQ_STEP).checked_add(1)?.max(epoch.0).checked_mul(SEQ_STEP).map(Seq)
}

/// The line of the root group that a promotion begins.
#[must_use]
pub fn root_lineage(epoch: Epoch, founder: NodeId) -> Lineage {
    Lineage { root_epoch: epoch, root_founder: founder, epoch, founder }
}

/// The counters that a line begins with.
#[must_use]
pub fn rewritten(meta: &Meta, epoch: Epoch) -> Meta {
    Meta {
        epoch: epoch.max(meta.epoch),
        next_ino: Ino(meta.next_ino.0.saturating_add(NUMBER_STEP)),
        next_session: meta.next_session.saturating_add(NUMBER_STEP),
        next_token: meta.next_token.saturating_add(NUMBER_STEP),
        next_volume: VolumeId(meta.next_volume.0.saturating_add(VOLUME_STEP)),
        next_node: NodeId(meta.next_node.0.saturating_add(NODE_STEP)),
        ..*meta
    }
}
