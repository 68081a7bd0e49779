//! One collection: marks everything in use, then both phases, then the sparse packs.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::{Epoch, GcReport, NodeId, VolumeId};
use causeway_dedup::store::gc::{Mark, Marked, Progress, Repacked};
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::listing::Listed;
use tokio::time::Instant;

use super::runs::chain;
use super::{KeepError, Keeper, RootVolume, RootsError, walk_error};
use crate::fetcher::{Job, Need};
use crate::local::blocking;
use crate::walk::{Opened, Walk};
use crate::wire::Cause;

/// Longest wait for the newest state of a volume.
const STATE_MAX: Duration = Duration::from_secs(30);
/// A mark is written down this often: 1.5 bytes a chunk.
const KEEP_EVERY: Duration = Duration::from_secs(300);
/// An eviction rewrites packs of which less than this many percent live.
const EVICT_LIVE_PERCENT: u8 = 85;
/// Wait after a collection that did not end well.
const AGAIN: Duration = Duration::from_secs(600);

/// How a collection is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcAsk {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Instead of the grace of the settings.
    pub grace: Option<Duration>,
    /// As fast as the disk gives.
    pub full_speed: bool,
    /// Also condemns so many bytes of what other sites have as well; and what was condemned so before goes.
    pub evict: Option<u64>,
}

impl Keeper {
    pub(super) async fn collect_regularly(self: &Arc<Self>) {
        let Some(every) = self.options.gc_every else { return };
        let mut wait = every;
        while self.sleep(wait).await {
            wait = match self.collect(GcAsk::default()).await {
                Ok(_) => every,
                Err(_) => every.min(AGAIN),
            };
        }
    }

    /// One collection. Waits for its turn.
    pub(super) async fn collect(&self, ask: GcAsk) -> Result<GcReport, KeepError> {
        let _turn = self.turn.lock().await;
        self.lock().gc_running = true;
        let collected = self.collect_now(ask).await;
        let mut status = self.lock();
        status.gc_running = false;
        match &collected {
            Ok(report) if report.dry_run => {}
            Ok(report) => {
                tracing::info!(?report, "chunks were collected");
                status.freed_bytes += report.freed_bytes.saturating_sub(report.moved_bytes);
                let totals = &mut status.totals;
                totals.collections += 1;
                totals.condemned += report.condemned;
                totals.removed += report.removed;
                totals.removed_bytes += report.removed_bytes;
                totals.freed_bytes += report.freed_bytes;
                totals.moved_bytes += report.moved_bytes;
                status.gc_last = Some((self.parts.clock.now(), report.clone()));
                status.gc_error = None;
            }
            Err(KeepError::Stopped) => {}
            Err(error) => {
                let error = chain(error);
                tracing::warn!(error, "no chunks were collected");
                status.totals.collections_failed += 1;
                status.gc_error = Some(error);
            }
        }
        drop(status);
        collected
    }

    async fn collect_now(&self, ask: GcAsk) -> Result<GcReport, KeepError> {
        let began = Instant::now();
        let store = self.parts.store.clone();
        // In this order: leases are looked at, then the states. What a lease kept is in a state when it ends.
        let (mark, mut progress) = match ask.evict {
            None => blocking(move || store.resume_mark()).await?,
            // What a mark reached before may be a copy.
            Some(bytes) => (blocking(move || store.begin_eviction(bytes)).await?, Progress::new()),
        };
        let roots = &self.parts.roots;
        // By a replica that was wrong some time it is not gone on; what it reached more than there is only stays longer.
        progress.retain(|volume, _| roots.generation(*volume) == 0);
        if !progress.is_empty() {
            tracing::info!(volumes = progress.len(), "an interrupted mark is gone on with");
        }
        let mut volumes = roots.volumes(STATE_MAX).await?;
        for volume in volumes.iter_mut().filter(|volume| ask.evict.is_some() && volume.evictable) {
            volume.evictable = self.may_evict(volume.id).await?;
        }
        let generations: Vec<u64> = volumes.iter().map(|volume| roots.generation(volume.id)).collect();
        let mut marking = Marking { mark, progress, opened: Opened::new(), kept_at: Instant::now() };
        for volume in &volumes {
            self.mark(volume, &mut marking, ask).await?;
        }
        let store = self.parts.store.clone();
        if ask.evict.is_none() {
            blocking(move || store.forget_mark()).await??;
        }
        for (volume, generation) in volumes.iter().zip(generations) {
            if roots.generation(volume.id) != generation {
                let reason =
                    "the replica here turned out to be wrong while it was read; the next collection reads it anew";
                return Err(RootsError {
                    what: format!("what volume {:?} names", volume.name),
                    reason: reason.to_owned(),
                }
                .into());
            }
        }
        let mark = marking.mark;
        let marked_in = began.elapsed();
        let reached = mark.reached.len();

        let store = self.parts.store.clone();
        let (grace, mut options) = (ask.grace.unwrap_or(self.options.grace), self.options.repack);
        if ask.evict.is_some() {
            // Room is needed: packs are rewritten for less of it.
            options.live_percent_min = options.live_percent_min.max(EVICT_LIVE_PERCENT);
        }
        let rate = if ask.full_speed { 0 } else { self.options.rate };
        let mut pace = self.pace(rate);
        let work = blocking(move || {
            // What was read through is in the index only when it is durable: a pack that is full of it would seem to be empty.
            store.sync()?;
            let collected = store.collect(mark, grace, ask.dry_run, &mut pace)?;
            if collected.stopped {
                return Err(KeepError::Stopped);
            }
            let repacked = match ask.dry_run {
                true => store.repack_plan(&collected, options),
                false => store.repack(&collected, options, &mut pace)?,
            };
            Ok((collected, repacked))
        });
        let (collected, repacked) = work.await??;
        let Repacked { packs, freed_bytes, moved_bytes, full, damaged, .. } = repacked;
        Ok(GcReport {
            dry_run: ask.dry_run,
            epoch: collected.epoch,
            chunks: collected.chunks,
            bytes: collected.bytes,
            reached,
            condemned: collected.condemned,
            condemned_bytes: collected.condemned_bytes,
            waiting: collected.waiting,
            leased: collected.leased,
            removed: collected.removed,
            removed_bytes: collected.removed_bytes,
            revived: collected.revived,
            packs,
            freed_bytes,
            moved_bytes,
            packs_full: full,
            packs_damaged: damaged,
            marked_in,
            took: began.elapsed(),
        })
    }

    /// Marks all that a volume names, in every version that is kept. If it cannot be done now, what was reached is kept for the
    /// next time.
    async fn mark(&self, volume: &RootVolume, marking: &mut Marking, ask: GcAsk) -> Result<(), KeepError> {
        let marked = self.mark_volume(volume, marking, ask).await;
        if marked.is_err() && marking.mark.copies.is_none() && !marking.progress.is_empty() {
            self.keep_mark(marking).await?;
        }
        marked
    }

    async fn mark_volume(&self, volume: &RootVolume, marking: &mut Marking, ask: GcAsk) -> Result<(), KeepError> {
        let job = self.job(volume, Cause::Repair)?;
        // What is only cached is walked in another way.
        let since = marking.progress.get(&volume.id).filter(|marked| marked.follows == volume.follows);
        let since = since.map(|marked| Listed { seq: marked.seq, below: marked.below, line: line_of(marked.line) });
        let pages = self.parts.roots.manifests(volume.id, since, STATE_MAX).await?;
        let replicator = &self.parts.replicator;
        let mut walk = Walk::listed(replicator.fetcher(), &job, pages).once(std::mem::take(&mut marking.opened));
        if !volume.follows {
            walk = walk.caches_at(replicator.site().clone());
        }
        loop {
            let needs = walk.next().await.map_err(|error| walk_error(volume, &error))?;
            for need in needs.iter().flatten() {
                self.reach(need, volume, &mut marking.mark);
            }
            if let Some(Listed { seq, below, line }) = walk.complete() {
                let line = [line.root_epoch.0, line.root_founder.0, line.epoch.0, line.founder.0];
                marking.progress.insert(volume.id, Marked { seq, below, line, follows: volume.follows });
            }
            let Some(needs) = needs else { break };
            if !ask.full_speed && self.options.rate > 0 {
                // A manifest has about 36 bytes for each chunk.
                let bytes = needs.len() as f64 * 36.0;
                self.sleep(Duration::from_secs_f64(bytes / self.options.rate as f64)).await;
            }
            if self.stop.is_cancelled() {
                return Err(KeepError::Stopped);
            }
            if marking.kept_at.elapsed() >= KEEP_EVERY && marking.mark.copies.is_none() {
                self.keep_mark(marking).await?;
            }
        }
        marking.opened = walk.opened();
        Ok(())
    }

    /// Whether what is here of a volume is nothing but copies: another site holds all of it now, and this one never did.
    async fn may_evict(&self, volume: VolumeId) -> Result<bool, KeepError> {
        let replicator = self.parts.replicator.clone();
        let held = blocking(move || replicator.has_held(volume)).await?;
        Ok(!held && self.parts.roots.is_held_elsewhere(volume, STATE_MAX).await)
    }

    /// What is named stays. A copy stays if it was read again lately; what this site wrote is no copy, others may not have it yet.
    fn reach(&self, need: &Need, volume: &RootVolume, mark: &mut Mark) {
        let from_elsewhere = || need.origin.as_ref().is_some_and(|origin| origin != self.parts.replicator.site());
        match &mut mark.copies {
            Some(copies) if volume.evictable && from_elsewhere() && !self.parts.store.is_hot(&need.id) => {
                copies.of.add(&need.id);
            }
            _ => {
                mark.reached.add(&need.id);
            }
        }
    }

    /// Keeps what was reached so far.
    async fn keep_mark(&self, marking: &mut Marking) -> Result<(), KeepError> {
        let (store, progress) = (self.parts.store.clone(), marking.progress.clone());
        // Shared with the thread that writes for as long as it takes; nothing is added meanwhile.
        let reached = marking.mark.reached.clone();
        let kept = blocking(move || store.keep_mark(&reached, &progress)).await?;
        marking.kept_at = Instant::now();
        if let Err(error) = kept {
            tracing::warn!(error = chain(&error), "the mark is not kept; if it is interrupted, it begins anew");
        }
        Ok(())
    }

    pub(super) fn job(&self, volume: &RootVolume, cause: Cause) -> Result<Job, KeepError> {
        let unknown = || KeepError::Realm { volume: volume.name.clone(), realm: volume.realm.clone() };
        let realm = self.parts.realms.realm(&volume.realm).ok_or_else(unknown)?;
        Ok(Job { realm, volume: Some(volume.id), cause })
    }
}

/// As the store keeps it, which knows no lines.
fn line_of([root_epoch, root_founder, epoch, founder]: [u64; 4]) -> Lineage {
    Lineage {
        root_epoch: Epoch(root_epoch),
        root_founder: NodeId(root_founder),
        epoch: Epoch(epoch),
        founder: NodeId(founder),
    }
}

/// A mark under way.
struct Marking {
    mark: Mark,
    /// How far it is, by volume.
    progress: Progress,
    /// Manifest nodes that need not be opened again.
    opened: Opened,
    /// When it was written down last.
    kept_at: Instant,
}
