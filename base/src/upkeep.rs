//! What the upkeep of a chunk store reports: written by the keeper of a node, carried by the namespace, shown by the command
//! line.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::ChunkId;

/// What a collection of garbage did; of a dry run, what it would have done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The epoch of its mark.
    pub epoch: u64,
    /// Chunks in the store.
    pub chunks: u64,
    /// Their bytes in packs.
    pub bytes: u64,
    /// Chunks that are in use, about; also of those that are not here.
    pub reached: u64,
    /// Chunks condemned now: what a later collection removes.
    pub condemned: u64,
    /// Their bytes in packs.
    pub condemned_bytes: u64,
    /// Chunks condemned before that must wait longer.
    pub waiting: u64,
    /// Of them, those that an upload or a transfer keeps.
    pub leased: u64,
    /// Chunks removed.
    pub removed: u64,
    /// Their bytes in packs.
    pub removed_bytes: u64,
    /// Condemned chunks that are in use again.
    pub revived: u64,
    /// Pack files rewritten and removed.
    pub packs: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Bytes written for that.
    pub moved_bytes: u64,
    /// Packs left alone since the disk is too full to copy what lives in them.
    pub packs_full: u64,
    /// Packs left alone since they are damaged.
    pub packs_damaged: u64,
    /// How long the mark took.
    pub marked_in: Duration,
    /// How long all of it took.
    pub took: Duration,
}

/// What a scrub found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScrubReport {
    /// Packs read.
    pub packs: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Chunk records checked.
    pub chunks: u64,
    /// Chunks that were compared with their names.
    pub verified: u64,
    /// Packs with any bad byte.
    pub bad_packs: u64,
    /// Of them, packs that were rewritten.
    pub rewritten: u64,
    /// Chunks that files name and that were corrupt or missing.
    pub bad: u64,
    /// Of them, those that are right again.
    pub healed: u64,
    /// Corrupt chunks that no file names: nothing is lost with them.
    pub unused: u64,
    /// The bad ones, the first 1000.
    pub named: Vec<BadChunk>,
    /// Volumes that were not wholly checked, and why.
    pub unchecked: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl ScrubReport {
    /// Chunks that files name and that are still bad.
    #[must_use]
    pub const fn unhealed(&self) -> u64 {
        self.bad.saturating_sub(self.healed)
    }
}

/// A chunk that was bad.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadChunk {
    /// Which; in hexadecimal where it is shown.
    #[serde(serialize_with = "as_text")]
    pub id: ChunkId,
    /// Whether a record was damaged; otherwise it was not there.
    pub corrupt: bool,
    /// Files that it belongs to, as `volume:path`; some of them, if there are many.
    pub files: Vec<String>,
    /// Why it is still bad, if it is.
    pub unhealed: Option<String>,
}

fn as_text<S: Serializer>(id: &ChunkId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}
