//! The upkeep of a node's chunk store, as the namespace passes it on: collection of garbage, scrub and heal.

use std::time::Duration;

use async_trait::async_trait;
use causeway_base::{NodeId, Timestamp};
use serde::Serialize;

/// Runs the upkeep of this node's chunk store. Attached with [`crate::Namespace::attach_keeper`].
#[async_trait]
pub trait StoreKeeper: Send + Sync + std::fmt::Debug {
    /// Begins a collection, or waits for one that was begun, for at most `wait`.
    ///
    /// Cancel safe: the run goes on.
    async fn gc(&self, ask: GcAsk, wait: Duration) -> Run<GcReport>;

    /// As [`StoreKeeper::gc`], a scrub.
    async fn scrub(&self, ask: ScrubAsk, wait: Duration) -> Run<ScrubReport>;

    /// Where it stands.
    fn status(&self) -> UpkeepStatus;
}

/// How a collection is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcAsk {
    /// The run to wait for; 0 begins one.
    pub ticket: u64,
    /// Change nothing.
    pub dry_run: bool,
    /// Instead of the node's setting.
    pub grace: Option<Duration>,
}

/// How a scrub is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubAsk {
    /// The run to wait for; 0 begins one.
    pub ticket: u64,
    /// Read all packs; otherwise only what is known to be bad, or is missing, is named and healed.
    pub now: bool,
}

/// A run, as far as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run<T> {
    /// On which node; set by the namespace.
    pub node: NodeId,
    /// Its name there.
    pub ticket: u64,
    /// `None`: it is under way. Otherwise what it did, or why it stopped.
    pub outcome: Option<Result<T, String>>,
}

/// What a collection did; of a dry run, what it would have done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Of its mark.
    pub epoch: u64,
    /// Chunks in the store.
    pub chunks: u64,
    /// Their bytes in packs.
    pub bytes: u64,
    /// Chunks in use, here or not.
    pub reached: u64,
    /// Chunks condemned: what a later collection removes.
    pub condemned: u64,
    /// Their bytes in packs.
    pub condemned_bytes: u64,
    /// Chunks condemned before that wait longer.
    pub waiting: u64,
    /// Of them, those that an upload or a transfer keeps.
    pub leased: u64,
    /// Chunks removed.
    pub removed: u64,
    /// Their bytes in packs.
    pub removed_bytes: u64,
    /// Condemned chunks that are in use again.
    pub revived: u64,
    /// Packs rewritten and removed.
    pub packs: u64,
    /// Bytes of their files.
    pub freed_bytes: u64,
    /// Bytes written for that.
    pub moved_bytes: u64,
    /// Packs left since the disk is too full.
    pub packs_full: u64,
    /// Packs left since they are damaged.
    pub packs_damaged: u64,
    /// How long the mark took.
    pub marked_in: Duration,
    /// How long all took.
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
    /// Packs with a bad byte.
    pub bad_packs: u64,
    /// Packs rewritten.
    pub rewritten: u64,
    /// Chunks of files that were corrupt or missing.
    pub bad: u64,
    /// Of them, those that are right again.
    pub healed: u64,
    /// Corrupt chunks that no file names.
    pub unused: u64,
    /// The bad ones, the first 1000.
    pub named: Vec<BadChunk>,
    /// Volumes that were not wholly checked, and why.
    pub unchecked: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// A chunk that was bad.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BadChunk {
    /// In hexadecimal.
    pub id: String,
    /// A record was damaged; otherwise it was not there.
    pub corrupt: bool,
    /// Files it belongs to, as `volume:path`.
    pub files: Vec<String>,
    /// Why it is still bad, if it is.
    pub unhealed: Option<String>,
}

/// Where the upkeep of a store stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UpkeepStatus {
    /// A collection is under way.
    pub gc_running: bool,
    /// The last collection since the node started.
    pub gc_last: Option<GcReport>,
    /// When it ended.
    pub gc_last_at: Timestamp,
    /// Why the last one did not end well, if so.
    pub gc_error: Option<String>,
    /// Bytes given back since the node started.
    pub freed_bytes: u64,
    /// Chunks condemned now.
    pub condemned: u64,
    /// Passes of the scrub that were completed.
    pub scrub_passes: u64,
    /// When the last one was; 0 if none.
    pub scrub_completed_at: Timestamp,
    /// Bad chunks found, over all passes.
    pub scrub_found: u64,
    /// Of them, those healed.
    pub scrub_healed: u64,
    /// Chunks that the last attempt could not heal.
    pub unhealed: u64,
    /// Why the last scrub did not end well, if so.
    pub scrub_error: Option<String>,
}
