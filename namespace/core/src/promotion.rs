//! Promotions: what a group begins with when it goes on without the majority that it lost.
//!
//! The line before may go on elsewhere until it hears of it, and count on: so seqs, and the numbers that a group gives out,
//! begin again far above what it can reach. No number then means one thing on one side and another on the other.

use serde::{Deserialize, Serialize};

use causeway_base::{Epoch, Ino, NodeId, Seq, SiteName, VolumeId};

use crate::lineage::Lineage;
use crate::meta::Meta;

/// Lines of a group begin at multiples of this seq: three years of a thousand a second, and room for 2,800 promotions.
pub const SEQ_STEP: u64 = 100_000_000_000;
/// Epochs of promotions are a multiple of this and the founder's id, which is below it.
pub const EPOCH_STEP: u64 = 1 << 16;
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

/// The epoch that a promotion begins: above the one before, and of no other founder, however often each side is promoted, so
/// that two sides that do not know of each other begin different ones. `None` if they are used up, or the founder's id is too
/// high.
#[must_use]
pub fn next_epoch(before: Epoch, founder: NodeId) -> Option<Epoch> {
    let begun = (before.0 / EPOCH_STEP).checked_add(1)?.checked_mul(EPOCH_STEP)?;
    (founder.0 > 0 && founder.0 < EPOCH_STEP).then(|| begun.checked_add(founder.0).map(Epoch))?
}

/// The epoch of a cluster that is restored from images, the greatest of which has `last`: above it, and of no promotion.
/// `None` if they are used up.
#[must_use]
pub fn restored_epoch(last: Epoch) -> Option<Epoch> {
    (last.0 / EPOCH_STEP).checked_add(1)?.checked_mul(EPOCH_STEP).map(Epoch)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_that_do_not_know_of_each_other_never_begin_the_same() {
        let begin = |before, founder| next_epoch(before, NodeId(founder)).unwrap();
        let one = begin(Epoch(1), 3);
        let (other, two) = (begin(Epoch(1), 1), begin(begin(Epoch(1), 1), 2));
        assert_eq!((one.0, other.0, two.0), (65_539, 65_537, 131_074));
        let seqs = [one, other, two].map(|epoch| next_seq(Seq(9), epoch).unwrap());
        assert!(seqs[1] < seqs[0] && seqs[0] < seqs[2]);
        assert_eq!(next_epoch(Epoch(1), NodeId(EPOCH_STEP)), None);
        assert_eq!(next_epoch(Epoch(u64::MAX), NodeId(1)), None);
        // Nor a restore, from whichever of their images.
        assert_eq!(restored_epoch(Epoch(1)), Some(Epoch(65_536)));
        let restored = restored_epoch(one).unwrap();
        assert!(restored > one && ![one, other, two].contains(&restored));
        assert_eq!(restored_epoch(Epoch(u64::MAX)), None);
    }

    #[test]
    fn there_is_room_for_thousands_of_promotions() {
        let (mut epoch, mut fork) = (Epoch(1), Seq(7));
        for promoted in 0..2800 {
            epoch = next_epoch(epoch, NodeId(EPOCH_STEP - 1 - promoted % 2)).unwrap();
            let seq = next_seq(fork, epoch).unwrap();
            assert!(seq > fork && seq.0.is_multiple_of(SEQ_STEP));
            fork = Seq(seq.0 + SEQ_STEP / 2);
        }
    }
}
