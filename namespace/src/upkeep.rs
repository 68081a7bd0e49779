//! The upkeep of a node's chunk store, as the namespace passes it on: collection of garbage, scrub and heal.

use std::time::Duration;

use async_trait::async_trait;
use causeway_base::{GcReport, NodeId, ScrubReport, Timestamp, VolumeId};
use causeway_namespace_core::listing::{Listed, ManifestPage};
use serde::Serialize;
use tokio::sync::mpsc;

/// Runs the upkeep of this node's chunk store. Attached with [`crate::Namespace::attach_keeper`].
#[async_trait]
pub trait StoreKeeper: Send + Sync + std::fmt::Debug {
    /// Begins a collection, or waits for one that was begun, for at most `wait`.
    ///
    /// Cancel safe: the run goes on.
    async fn gc(&self, ask: GcAsk, wait: Duration) -> Run<GcReport>;

    /// As [`StoreKeeper::gc`], a scrub.
    async fn scrub(&self, ask: ScrubAsk, wait: Duration) -> Run<ScrubReport>;

    /// Lists what a volume names, in its newest state on this node and in the versions kept beside it, for a node without a
    /// replica; from `since` on if that is still known. A listing whose last page does not come is not whole.
    ///
    /// # Errors
    /// Why there is no such list now.
    async fn manifests(
        &self,
        volume: VolumeId,
        since: Option<Listed>,
        deadline: Duration,
    ) -> Result<mpsc::Receiver<Result<ManifestPage, String>>, String>;

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
    /// Also compare each chunk with its name.
    pub deep: bool,
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
