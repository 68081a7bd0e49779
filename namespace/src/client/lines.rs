//! Which line of each volume's history this client has seen: nothing of a lesser one is taken any more.
//!
//! A promotion begins its line at a seq far above all that the lines before can reach, so a seq tells its line. A read of the
//! present asks for no less than the line that was seen, which a node of an earlier one cannot give; a write that such a node
//! acknowledges counts as unknown.

use std::sync::PoisonError;

use causeway_base::{Seq, VolumeId};
use causeway_namespace_core::promotion::SEQ_STEP;

use super::NamespaceClient;
use crate::read::Freshness;

impl NamespaceClient {
    /// An answer about the present was of this seq. Whether it is of the newest line that was seen, or a newer one.
    pub(super) fn saw(&self, volume: VolumeId, seq: Seq) -> bool {
        let began = seq.0 - seq.0 % SEQ_STEP;
        let mut lines = self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lines.get(&volume).map_or(0, |seq| seq.0);
        if began > known {
            lines.insert(volume, Seq(began));
        }
        began >= known
    }

    /// A read that shows nothing of a line that has ended. One of a past state is left as it is.
    pub(super) fn in_line(&self, volume: VolumeId, freshness: Freshness) -> Freshness {
        if freshness.at.is_some() {
            return freshness;
        }
        let lines = self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
        freshness.after(lines.get(&volume).copied().unwrap_or(Seq::ZERO))
    }
}
