//! Keeps a replica complete: what the metadata refers to is fetched, verified, made durable; then the watermark moves.
//!
//! One task a volume. A crash loses at most the last watermark written (they are written at most once a second): the
//! chunks that arrived are found again by asking the store, and are not fetched twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{ChunkId, Epoch, Seq, SiteName, VolumeId};
use causeway_namespace_core::key;
use causeway_replicator_core::{Lag, Missing, SyncState, Watermark};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fetcher::{Fetcher, Job, Need};
use crate::local::{self, LocalError, Realms, blocking};
use crate::volume::{ChangesError, PastView, VolumeSource, VolumeView, changed};
use crate::walk::{Files, Walk, WalkError};
use crate::watermarks::Watermarks;
use crate::wire::Cause;

/// Missing chunks that are named in a status.
const NAMED_MAX: usize = 16;
/// Arrived chunks that are made durable and asked for together.
const SETTLE: usize = 1 << 16;
/// Watermarks are written at most this often.
const PERSIST_EVERY: Duration = Duration::from_secs(1);
/// First wait after a failure; doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(200);
/// Longest wait after a failure.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Where a replica stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FollowerStatus {
    /// Whether this site is to hold every byte of the volume. If not, nothing else is said here.
    pub follows: bool,
    /// "Verified in sync up to seq": every chunk of that state is here, checked and durable.
    pub watermark: Option<Watermark>,
    /// The seq that is applied here.
    pub applied: Seq,
    /// What is owed.
    pub lag: Lag,
    /// Chunks that nobody gave in the last run, the first few.
    pub missing: Vec<Missing>,
    /// How many there are.
    pub missing_count: u64,
    /// Why the last run failed, if it did.
    pub error: Option<String>,
    /// Chunks fetched since the node started.
    pub fetched_chunks: u64,
    /// Their plain bytes.
    pub fetched_plain_bytes: u64,
}

/// Why a run did not complete.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Walk(#[from] WalkError),
    #[error(transparent)]
    Local(#[from] LocalError),
    #[error(transparent)]
    Changes(#[from] ChangesError),
    #[error("there is no realm {0:?}")]
    Realm(String),
    #[error("{count} chunks cannot be had, such as {}", first.id)]
    Missing { count: usize, first: Missing },
    #[error(
        "{count} chunks arrived and were taken, such as {first}, and the store does not have them; run `causeway store scrub`"
    )]
    Gone { count: usize, first: ChunkId },
}

pub(crate) struct Follower {
    pub(crate) site: SiteName,
    pub(crate) source: Arc<dyn VolumeSource>,
    pub(crate) fetcher: Fetcher,
    pub(crate) realms: Arc<dyn Realms>,
    pub(crate) watermarks: Watermarks,
    pub(crate) status: watch::Sender<FollowerStatus>,
    pub(crate) stop: CancellationToken,
}

impl Follower {
    /// Runs until it is stopped.
    pub(crate) async fn run(self) {
        let mut applied = self.source.watch_applied();
        let mut settings = self.source.watch_settings();
        let (volume, (_, epoch)) = (self.source.id(), self.source.spec());
        let watermarks = self.watermarks.clone();
        let persisted = blocking(move || watermarks.load(volume, epoch)).await.ok().flatten();
        let mut work = Work {
            follower: &self,
            state: SyncState::new(persisted),
            persisted,
            persisted_at: None,
            epoch,
            generation: 0,
            brought: Vec::new(),
        };
        let mut retry = RETRY_MIN;
        loop {
            let seq = *applied.borrow_and_update();
            work.check_generation().await;
            work.state.applied(seq);
            let wait = match work.step().await {
                Ok(()) => {
                    retry = RETRY_MIN;
                    None
                }
                Err(error) => {
                    tracing::warn!(%volume, %error, "replication is held up");
                    self.status.send_modify(|status| status.error = Some(error.to_string()));
                    let wait = retry;
                    retry = (retry * 2).min(RETRY_MAX);
                    Some(wait)
                }
            };
            work.publish();
            if let Some(wait) = wait {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.stop.cancelled() => break,
                }
                continue;
            }
            let unpersisted = work.unpersisted_until();
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { break },
                () = changed(&mut settings) => {}
                () = sleep_until(unpersisted) => work.persist().await,
                () = self.stop.cancelled() => break,
            }
        }
        work.persist().await;
    }

    fn follows(&self) -> bool {
        let (spec, _) = self.source.spec();
        self.source.id() != VolumeId::ROOT && (spec.home == self.site || spec.replicas.contains(&self.site))
    }
}

struct Work<'a> {
    follower: &'a Follower,
    state: SyncState,
    persisted: Option<Watermark>,
    persisted_at: Option<Instant>,
    epoch: Epoch,
    generation: u64,
    /// What arrived in this run, and is not known to be durable.
    brought: Vec<ChunkId>,
}

impl Work<'_> {
    /// Forgets what was verified against metadata that turned out to be wrong.
    async fn check_generation(&mut self) {
        let generation = self.follower.source.generation();
        if generation == self.generation {
            return;
        }
        (self.generation, self.state, self.persisted) = (generation, SyncState::new(None), None);
        let (watermarks, volume) = (self.follower.watermarks.clone(), self.follower.source.id());
        tracing::warn!(%volume, "the replica of the metadata was wrong: every chunk of the volume is looked for again");
        let local = self.follower.fetcher.local().clone();
        if let Ok(Err(error)) = blocking(move || local.forget_mark()).await {
            tracing::error!(%volume, %error, "an interrupted collection's mark was not removed, and has what the replica named");
        }
        if let Ok(Err(error)) = blocking(move || watermarks.remove(volume)).await {
            tracing::error!(%volume, %error, "the watermark was not removed; it is replaced when the volume is checked");
        }
    }

    /// Brings here what the newest state needs, if that is not here yet.
    async fn step(&mut self) -> Result<(), RunError> {
        let (spec, epoch) = self.follower.source.spec();
        if epoch != self.epoch {
            // Another authority, maybe another history: what was verified under the old one says nothing.
            (self.epoch, self.state, self.persisted) = (epoch, SyncState::new(None), None);
        }
        let follows = self.follower.follows();
        self.follower.status.send_modify(|status| status.follows = follows);
        if !follows || !self.state.behind() {
            return Ok(());
        }
        let realm = self.follower.realms.realm(&spec.realm).ok_or_else(|| RunError::Realm(spec.realm.clone()))?;
        let job = Job { realm, volume: Some(self.follower.source.id()), cause: Cause::Replication };
        // What is fetched, and what is found here, stays until the watermark names it.
        let _lease = self.follower.fetcher.local().lease(None, Duration::ZERO);
        let view = view_of(&self.follower.source).await?;
        let target = Watermark { seq: view.seq(), digest: *view.digest().as_bytes() };
        let covered = self.state.watermark().map(|watermark| watermark.seq);
        if !self.state.begin(target) {
            return Ok(());
        }
        let files = match changed_keys(&self.follower.source, covered, target.seq, true).await {
            Ok(keys) => keys.map_or_else(Files::all, |keys| Files::Changed(keys.into_iter())),
            Err(error) => return Err(error.into()),
        };
        let before = state_at(&self.follower.source, covered).await;
        let mut walk = Walk::new(&self.follower.fetcher, &job, view, files).since(before);
        let mut missing = Vec::new();
        self.brought.clear();
        while let Some(needs) = walk.next().await? {
            missing.extend(self.bring(&job, needs).await?);
        }
        if let Some(first) = missing.first().copied() {
            let count = missing.len();
            missing.truncate(NAMED_MAX);
            self.follower.status.send_modify(|status| {
                status.missing = missing;
                status.missing_count = count as u64;
            });
            return Err(RunError::Missing { count, first });
        }
        self.settle().await?;
        self.state.complete();
        self.follower.status.send_modify(|status| {
            status.error = None;
            status.missing.clear();
            status.missing_count = 0;
        });
        Ok(())
    }

    /// Fetches what of a batch is not here; gives what cannot be had.
    async fn bring(&mut self, job: &Job, needs: Vec<Need>) -> Result<Vec<Missing>, RunError> {
        let fetcher = &self.follower.fetcher;
        let ids = needs.iter().map(|need| need.id).collect();
        let lacking: BTreeSet<_> = local::missing(fetcher.local(), ids).await?.into_iter().collect();
        if lacking.is_empty() {
            return Ok(Vec::new());
        }
        let needs: Vec<Need> = needs.into_iter().filter(|need| lacking.contains(&need.id)).collect();
        let chunks = needs.len() as u64;
        let bytes = needs.iter().map(|need| u64::from(need.len.unwrap_or(0))).sum::<u64>();
        self.state.owes(chunks, bytes);
        self.publish();
        let (before, before_bytes) = {
            let status = self.follower.status.borrow();
            (status.fetched_chunks, status.fetched_plain_bytes)
        };
        let progress = |arrived: u64, arrived_bytes: u64| {
            self.follower.status.send_modify(|status| {
                status.lag.chunks = chunks.saturating_sub(arrived);
                status.lag.bytes = bytes.saturating_sub(arrived_bytes);
                status.fetched_chunks = before + arrived;
                status.fetched_plain_bytes = before_bytes + arrived_bytes;
            });
        };
        let fetched = fetcher.run(job, needs, &progress).await?;
        progress(fetched.chunks, fetched.plain_bytes);
        self.state.owes(fetched.missing.len() as u64, 0);
        let missing: BTreeSet<_> = fetched.missing.iter().map(|missing| missing.id).collect();
        self.brought.extend(lacking.difference(&missing));
        if self.brought.len() >= SETTLE {
            self.settle().await?;
        }
        Ok(fetched.missing)
    }

    /// Makes what was brought durable, and asks the store for it again: what it took and does not give must hold the watermark
    /// up.
    async fn settle(&mut self) -> Result<(), RunError> {
        let (local, brought) = (self.follower.fetcher.local().clone(), std::mem::take(&mut self.brought));
        let gone = blocking(move || {
            local.sync()?;
            local.not_durable(&brought)
        });
        match gone.await??.as_slice() {
            [] => Ok(()),
            gone @ [first, ..] => Err(RunError::Gone { count: gone.len(), first: *first }),
        }
    }

    fn publish(&self) {
        self.follower.status.send_modify(|status| {
            status.watermark = self.state.watermark();
            status.lag = self.state.lag();
            status.applied = *self.follower.source.watch_applied().borrow();
        });
    }

    /// When the watermark should be written, if it has moved.
    fn unpersisted_until(&self) -> Option<Instant> {
        let moved = self.state.watermark() != self.persisted;
        moved.then(|| self.persisted_at.map_or_else(Instant::now, |at| at + PERSIST_EVERY))
    }

    async fn persist(&mut self) {
        let Some(watermark) = self.state.watermark().filter(|_| self.state.watermark() != self.persisted) else {
            return;
        };
        let (watermarks, volume, epoch) = (self.follower.watermarks.clone(), self.follower.source.id(), self.epoch);
        match blocking(move || watermarks.store(volume, epoch, watermark)).await {
            Ok(Ok(())) => self.persisted = Some(watermark),
            Ok(Err(error)) => tracing::warn!(%volume, %error, "the watermark cannot be written; a restart checks more"),
            Err(error) => tracing::warn!(%volume, %error, "the watermark was not written"),
        }
        self.persisted_at = Some(Instant::now());
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The newest state, taken off the reactor.
pub(crate) async fn view_of(source: &Arc<dyn VolumeSource>) -> Result<Arc<dyn VolumeView>, RunError> {
    let source = source.clone();
    let view = blocking(move || source.view()).await?.map_err(ChangesError::from)?;
    Ok(Arc::from(view))
}

/// The state at a seq, if it is still kept. Without it chunks come whole, so a failure is only told.
async fn state_at(source: &Arc<dyn VolumeSource>, seq: Option<Seq>) -> Option<Arc<dyn PastView>> {
    let (source, seq) = (source.clone(), seq?);
    let volume = source.id();
    match blocking(move || source.view_at(seq)).await {
        Ok(Ok(view)) => view.map(Arc::from),
        Ok(Err(error)) => {
            tracing::warn!(%volume, %seq, %error, "the state before cannot be read; changed files come without deltas");
            None
        }
        Err(_) => None,
    }
}

/// The keys that changed after `covered` up to `until`, of inodes only or all; `None` if that cannot be told and everything
/// must be walked.
pub(crate) async fn changed_keys(
    source: &Arc<dyn VolumeSource>,
    covered: Option<Seq>,
    until: Seq,
    inodes: bool,
) -> Result<Option<BTreeSet<Bytes>>, ChangesError> {
    let Some(covered) = covered else { return Ok(None) };
    let source = source.clone();
    let read = blocking(move || {
        let wanted = |key: &Bytes| !inodes || key::inode_of(key).is_some();
        let keys = source.changes(covered, until)?;
        keys.filter(|key| key.as_ref().map_or(true, wanted)).collect::<Result<BTreeSet<Bytes>, ChangesError>>()
    });
    let read = read
        .await
        .map_err(|error| ChangesError::Read(causeway_namespace_core::records::ReadError::Store(error.to_string())))?;
    match read {
        Ok(keys) => Ok(Some(keys)),
        Err(ChangesError::TooOld(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
