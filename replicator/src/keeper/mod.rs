//! Keeps the chunk store of a node clean and sound: collects garbage, scrubs packs and heals what went bad.
//!
//! One task for the schedule, one for each run that is asked for; one run at a time. A crash loses the run under way and
//! nothing else: what a run does is safe at each step (`docs/gc.md`). Both know what is in use from [`Roots`]; what they
//! cannot know for certain makes them stop and say why, never go on.

mod collect;
mod evict;
mod listing;
mod names;
mod roots;
mod runs;
mod scrub;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_base::{Clock, GcReport, ScrubReport, Timestamp};
use causeway_dedup::ChunkStore;
use causeway_dedup::store::gc::RepackOptions;
use causeway_dedup::store::{ScrubPosition, StoreError};
use tokio_util::sync::CancellationToken;

use crate::local::{LocalError, Realms};
use crate::replicator::Replicator;
use crate::walk::WalkError;

pub use collect::GcAsk;
pub use listing::{CHANGED_MAX, Pages, add_inodes, list};
pub use roots::{RootVolume, Roots, RootsError};
pub use runs::{Outcome, Runs, Ticket};
pub use scrub::ScrubAsk;

/// Settings of a [`Keeper`].
#[derive(Clone, Copy, Debug)]
pub struct KeeperOptions {
    /// Bytes of packs above which copies of what other sites have are evicted; 0: never.
    pub capacity: u64,
    /// Between two collections; `None`: only when asked.
    pub gc_every: Option<Duration>,
    /// A chunk is removed this long after it was condemned, at the earliest.
    pub grace: Duration,
    /// Bytes per second that scheduled work reads and writes at most.
    pub rate: u64,
    /// Which packs are rewritten.
    pub repack: RepackOptions,
    /// Each byte is read once in this time; `None`: only when asked.
    pub scrub_cycle: Option<Duration>,
}

impl Default for KeeperOptions {
    fn default() -> Self {
        Self {
            capacity: 0,
            gc_every: Some(Duration::from_secs(6 * 3600)),
            grace: Duration::from_secs(3600),
            rate: 64 << 20,
            repack: RepackOptions::default(),
            scrub_cycle: Some(Duration::from_secs(14 * 24 * 3600)),
        }
    }
}

/// What a [`Keeper`] stands on.
#[derive(Debug)]
pub struct KeeperParts {
    /// The chunks.
    pub store: Arc<ChunkStore>,
    /// Brings back what went bad.
    pub replicator: Arc<Replicator>,
    /// Realms.
    pub realms: Arc<dyn Realms>,
    /// What is in use.
    pub roots: Arc<dyn Roots>,
    /// For the times in the status, and for the scrub's pace over restarts.
    pub clock: Arc<dyn Clock>,
}

/// Where the upkeep of a store stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeeperStatus {
    /// A collection is under way.
    pub gc_running: bool,
    /// The last one that ended, and when.
    pub gc_last: Option<(Timestamp, GcReport)>,
    /// Why the last one did not end well, if so.
    pub gc_error: Option<String>,
    /// Bytes of pack files that were given back since the node started, less those written for it.
    pub freed_bytes: u64,
    /// Sums since the node started.
    pub totals: KeeperTotals,
    /// Chunks that are condemned now.
    pub condemned: u64,
    /// Bytes above the capacity that could not be given back, as of the last attempt.
    pub over_capacity: u64,
    /// How far the scrub is.
    pub scrub: ScrubPosition,
    /// Chunks that could not be healed by the last attempt.
    pub unhealed: u64,
    /// Why the last scrub did not end well, if so.
    pub scrub_error: Option<String>,
}

/// What was done since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeeperTotals {
    /// Collections that ended well; dry runs are none.
    pub collections: u64,
    /// Collections that stopped before their end.
    pub collections_failed: u64,
    /// Chunks condemned.
    pub condemned: u64,
    /// Chunks removed.
    pub removed: u64,
    /// Their bytes in packs, at most.
    pub removed_bytes: u64,
    /// Evictions that ended well.
    pub evictions: u64,
    /// Bytes of pack files removed.
    pub freed_bytes: u64,
    /// Bytes written for that.
    pub moved_bytes: u64,
    /// Bytes read by scrubs.
    pub scrub_bytes: u64,
    /// Chunks that scrubs compared with their names.
    pub scrub_verified: u64,
}

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// What is in use cannot be known.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The names of a volume's chunks cannot be known.
    #[error("the realm {realm:?} of volume {volume:?} is not known here")]
    Realm {
        /// The volume.
        volume: String,
        /// Its realm.
        realm: String,
    },
    /// A volume's files cannot be read.
    #[error("the files of volume {volume:?} cannot all be read: {reason}")]
    Walk {
        /// The volume.
        volume: String,
        /// Why.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A worker failed.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The node ends.
    #[error("the node is stopping")]
    Stopped,
}

fn walk_error(volume: &RootVolume, error: &WalkError) -> KeepError {
    KeepError::Walk { volume: volume.name.clone(), reason: error.to_string() }
}

/// The upkeep of a node's chunk store.
#[derive(Debug)]
pub struct Keeper {
    parts: KeeperParts,
    options: KeeperOptions,
    /// One run at a time.
    turn: tokio::sync::Mutex<()>,
    status: Mutex<KeeperStatus>,
    stop: CancellationToken,
    gc_runs: Arc<Runs<GcReport>>,
    scrub_runs: Arc<Runs<ScrubReport>>,
}

impl Keeper {
    /// A keeper that does nothing before [`Keeper::run`] or a request.
    #[must_use]
    pub fn new(parts: KeeperParts, options: KeeperOptions) -> Arc<Self> {
        let status = KeeperStatus { scrub: parts.store.scrub_position(), ..KeeperStatus::default() };
        Arc::new(Self {
            parts,
            options,
            turn: tokio::sync::Mutex::default(),
            status: Mutex::new(status),
            stop: CancellationToken::new(),
            gc_runs: Arc::default(),
            scrub_runs: Arc::default(),
        })
    }

    /// Works by the schedule until [`Keeper::shutdown`].
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.collect_regularly(), self.scrub_regularly(), self.evict_regularly());
    }

    /// Begins a collection, or waits for one that was begun; see [`Runs::follow`].
    pub async fn gc(
        self: &Arc<Self>,
        ticket: Option<Ticket>,
        ask: GcAsk,
        wait: Duration,
    ) -> (Ticket, Outcome<GcReport>) {
        let keeper = self.clone();
        self.gc_runs.follow(ticket, wait, move || async move { keeper.collect(ask).await }).await
    }

    /// Begins a scrub, or waits for one that was begun.
    pub async fn scrub(
        self: &Arc<Self>,
        ticket: Option<Ticket>,
        ask: ScrubAsk,
        wait: Duration,
    ) -> (Ticket, Outcome<ScrubReport>) {
        let keeper = self.clone();
        self.scrub_runs.follow(ticket, wait, move || async move { keeper.scrub_all(ask).await }).await
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> KeeperStatus {
        let status = self.lock().clone();
        KeeperStatus { condemned: self.parts.store.condemned(), ..status }
    }

    /// Stops what is under way at its next step.
    pub fn shutdown(&self) {
        self.stop.cancel();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, KeeperStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner) // single assignments
    }

    /// A pace of so many bytes per second for blocking work; it ends when the node does.
    fn pace(&self, rate: u64) -> impl FnMut(u64) -> bool + Send + 'static {
        let stop = self.stop.clone();
        move |bytes| {
            if rate > 0 && bytes > 0 {
                std::thread::sleep(Duration::from_secs_f64(bytes as f64 / rate as f64));
            }
            !stop.is_cancelled()
        }
    }

    async fn sleep(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.stop.cancelled() => false,
        }
    }
}
