//! Which line of a group's history: a promotion begins a new one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use causeway_base::{Epoch, NodeId, VolumeId};

/// A line of a group's history. All zeros is the one that a group begins with; every promotion begins a greater one, and
/// fences all lesser ones for ever.
///
/// Ordered by its fields. Two sides that promote the same group without knowing of each other have different founders, so
/// their lines differ, and one of them is the greater. What the root group decided comes first: a volume's line that was
/// begun under the root group's winning line wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lineage {
    /// Epoch of the root group's line under which it was begun; 0 if that was never promoted.
    pub root_epoch: Epoch,
    /// Founder of the root group's line.
    pub root_founder: NodeId,
    /// The epoch that the promotion began.
    pub epoch: Epoch,
    /// The node that it began on.
    pub founder: NodeId,
}

impl Lineage {
    /// Whether the group was never promoted.
    #[must_use]
    pub fn is_first(&self) -> bool {
        *self == Self::default()
    }

    /// Under which id a node keeps the group's log and state in this line. That of the first line is the volume's own; of
    /// others it has the top bit set, which no volume's has.
    #[must_use]
    pub fn storage(&self, group: VolumeId) -> VolumeId {
        if self.is_first() {
            return group;
        }
        self.hashed(b"causeway lineage", group)
    }

    /// Under which id a line that was left is read at a node that was in it: none that a volume has.
    #[must_use]
    pub fn aside(&self, group: VolumeId) -> VolumeId {
        self.hashed(b"causeway aside", group)
    }

    fn hashed(&self, what: &[u8], group: VolumeId) -> VolumeId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(what);
        let fields = [group.0, self.root_epoch.0, self.root_founder.0, self.epoch.0, self.founder.0];
        for field in fields {
            hasher.update(&field.to_le_bytes());
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        VolumeId(u64::from_le_bytes(first) | 1 << 63)
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.root_epoch.0, self.root_founder.0, self.epoch.0, self.founder.0)
    }
}

/// A text that is no lineage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no lineage: four numbers with dots between them are expected")]
pub struct ParseLineageError(String);

impl FromStr for Lineage {
    type Err = ParseLineageError;

    fn from_str(text: &str) -> Result<Self, ParseLineageError> {
        let bad = || ParseLineageError(text.chars().take(100).collect());
        let fields: Option<Vec<u64>> = text.split('.').map(|field| field.parse().ok()).collect();
        match fields.as_deref() {
            Some([root_epoch, root_founder, epoch, founder]) => Ok(Self {
                root_epoch: Epoch(*root_epoch),
                root_founder: NodeId(*root_founder),
                epoch: Epoch(*epoch),
                founder: NodeId(*founder),
            }),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_an_order_a_text_and_a_place_of_their_own() {
        let line = |root: u64, epoch: u64, founder: u64| Lineage {
            root_epoch: Epoch(root),
            root_founder: NodeId(root),
            epoch: Epoch(epoch),
            founder: NodeId(founder),
        };
        let ordered = [line(0, 0, 0), line(0, 2, 1), line(0, 2, 3), line(0, 3, 1), line(1, 2, 1)];
        assert!(ordered.is_sorted());
        let group = VolumeId(7);
        let mut places: Vec<_> = ordered.iter().map(|line| line.storage(group)).collect();
        assert_eq!(places[0], group);
        assert!(places[1..].iter().all(|place| place.0 >> 63 == 1));
        // A format: files on disk are found by it.
        assert_eq!(places[1].0, 15_809_519_853_447_826_745, "golden");
        places.push(ordered[1].storage(VolumeId::ROOT));
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 6);
        for line in ordered {
            assert_eq!(line.to_string().parse(), Ok(line));
        }
        for bad in ["", "1.2.3", "1.2.3.4.5", "1.2.3.x", "1.2.3.-4"] {
            assert!(bad.parse::<Lineage>().is_err(), "{bad}");
        }
    }
}
