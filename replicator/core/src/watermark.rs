//! What a site holds of a volume.

use causeway_base::Seq;
use serde::{Deserialize, Serialize};

/// "Verified in sync up to seq N": every chunk of the volume's state at `seq` was checked against its name and is durable
/// at the site, and that state's digest was `digest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// The seq.
    pub seq: Seq,
    /// The digest of the records at `seq`.
    pub digest: [u8; 32],
}

/// What is still owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// Seqs between the watermark and what is applied here.
    pub seqs: u64,
    /// Chunks known to be lacking.
    pub chunks: u64,
    /// Their plain bytes.
    pub bytes: u64,
}

/// A volume's watermark at a site and the target being worked on.
///
/// The order that makes the watermark true is held here: a target is begun from a view, its chunks are obtained, the
/// store is synced, and only then does [`SyncState::complete`] move the watermark, never backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncState {
    watermark: Option<Watermark>,
    target: Option<Watermark>,
    applied: Seq,
    owed_chunks: u64,
    owed_bytes: u64,
}

impl SyncState {
    /// Starts from what was persisted.
    #[must_use]
    pub fn new(watermark: Option<Watermark>) -> Self {
        Self { watermark, ..Self::default() }
    }

    /// The watermark; `None` before the first completed target.
    #[must_use]
    pub fn watermark(&self) -> Option<Watermark> {
        self.watermark
    }

    /// The seq up to which changes are covered.
    #[must_use]
    pub fn covered(&self) -> Seq {
        self.watermark.map_or(Seq::ZERO, |watermark| watermark.seq)
    }

    /// Notes what the replica of the metadata has applied.
    pub fn applied(&mut self, seq: Seq) {
        self.applied = self.applied.max(seq);
    }

    /// Whether there is something to do.
    #[must_use]
    pub fn behind(&self) -> bool {
        self.watermark.is_none() || self.applied > self.covered()
    }

    /// Begins to work on the state `target`; `false` if the watermark is already there.
    pub fn begin(&mut self, target: Watermark) -> bool {
        self.applied(target.seq);
        let ahead = self.watermark.is_none_or(|watermark| target.seq > watermark.seq);
        self.target = ahead.then_some(target);
        ahead
    }

    /// Notes what the target still lacks.
    pub fn owes(&mut self, chunks: u64, bytes: u64) {
        self.owed_chunks = chunks;
        self.owed_bytes = bytes;
    }

    /// The watermark to persist, once every chunk of the target is durable; `None` if no target was begun.
    pub fn complete(&mut self) -> Option<Watermark> {
        let target = self.target.take()?;
        self.watermark = Some(target);
        self.owes(0, 0);
        Some(target)
    }

    /// What is owed now.
    #[must_use]
    pub fn lag(&self) -> Lag {
        let seqs = self.applied.get().saturating_sub(self.covered().get());
        Lag { seqs, chunks: self.owed_chunks, bytes: self.owed_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64) -> Watermark {
        Watermark { seq: Seq(seq), digest: [7; 32] }
    }

    #[test]
    fn a_watermark_moves_only_forward_and_only_when_complete() {
        let mut state = SyncState::new(None);
        assert!(state.behind(), "an empty volume needs its first check too");
        assert_eq!(state.complete(), None);
        assert!(state.begin(at(5)));
        state.owes(2, 100);
        state.applied(Seq(9));
        assert_eq!(state.lag(), Lag { seqs: 9, chunks: 2, bytes: 100 });
        assert_eq!(state.watermark(), None);
        assert_eq!(state.complete(), Some(at(5)));
        assert_eq!(state.lag(), Lag { seqs: 4, chunks: 0, bytes: 0 });
        assert!(state.behind());
        assert!(!state.begin(at(5)) && !state.begin(at(4)));
        assert_eq!(state.complete(), None);
        assert_eq!(state.watermark(), Some(at(5)));
    }
}
