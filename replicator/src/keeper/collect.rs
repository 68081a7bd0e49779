//! One collection: marks everything in use, then both phases, then the sparse packs.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::GcReport;
use causeway_dedup::store::gc::{Mark, Repacked};
use causeway_namespace_core::query;
use tokio::time::Instant;

use super::runs::chain;
use super::{KeepError, Keeper, RootVolume, walk_error};
use crate::fetcher::Job;
use crate::local::blocking;
use crate::volume::VolumeView;
use crate::walk::{Files, Opened, Walk};
use crate::wire::Cause;

/// Longest wait for the newest state of a volume.
const STATE_MAX: Duration = Duration::from_secs(30);
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
                status.gc_last = Some((self.parts.clock.now(), report.clone()));
                status.gc_error = None;
            }
            Err(KeepError::Stopped) => {}
            Err(error) => {
                let error = chain(error);
                tracing::warn!(error, "no chunks were collected");
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
        let mut mark = blocking(move || store.begin_mark()).await?;
        let volumes = self.parts.roots.volumes(STATE_MAX).await?;
        let mut opened = Opened::new();
        for volume in &volumes {
            opened = self.mark(volume, &mut mark, opened, ask).await?;
        }
        let marked_in = began.elapsed();
        let reached = mark.reached.len();

        let store = self.parts.store.clone();
        let (grace, options) = (ask.grace.unwrap_or(self.options.grace), self.options.repack);
        let rate = if ask.full_speed { 0 } else { self.options.rate };
        let mut pace = self.pace(rate);
        let work = blocking(move || {
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

    /// Marks all that a volume names, in every version that is kept.
    async fn mark(
        &self,
        volume: &RootVolume,
        mark: &mut Mark,
        opened: Opened,
        ask: GcAsk,
    ) -> Result<Opened, KeepError> {
        let view = self.parts.roots.view(volume.id, STATE_MAX).await?;
        let job = self.job(volume, Cause::Repair)?;
        snapshots_are_kept(volume, view.clone()).await?;
        let replicator = &self.parts.replicator;
        let mut walk = Walk::new(replicator.fetcher(), &job, view, Files::retained()).once(opened);
        if !volume.follows {
            walk = walk.caches_at(replicator.site().clone());
        }
        while let Some(needs) = walk.next().await.map_err(|error| walk_error(volume, &error))? {
            for need in &needs {
                mark.reached.add(&need.id);
            }
            if !ask.full_speed && self.options.rate > 0 {
                // A manifest has about 36 bytes for each chunk.
                let bytes = needs.len() as f64 * 36.0;
                self.sleep(Duration::from_secs_f64(bytes / self.options.rate as f64)).await;
            }
            if self.stop.is_cancelled() {
                return Err(KeepError::Stopped);
            }
        }
        Ok(walk.opened())
    }

    pub(super) fn job(&self, volume: &RootVolume, cause: Cause) -> Result<Job, KeepError> {
        let unknown = || KeepError::Realm { volume: volume.name.clone(), realm: volume.realm.clone() };
        let realm = self.parts.realms.realm(&volume.realm).ok_or_else(unknown)?;
        Ok(Job { realm, volume: Some(volume.id), cause })
    }
}

/// A snapshot whose state is not kept here may name chunks that are.
async fn snapshots_are_kept(volume: &RootVolume, view: Arc<dyn VolumeView>) -> Result<(), KeepError> {
    let snapshots = blocking(move || {
        let snapshots = query::snapshots(view.as_ref())?;
        let lost = snapshots.into_iter().find(|(_, snapshot)| !view.keeps(snapshot.seq));
        Ok::<_, causeway_namespace_core::records::ReadError>(lost)
    })
    .await?;
    let snapshots = snapshots.map_err(|error| walk_error(volume, &error.into()))?;
    match snapshots {
        None => Ok(()),
        Some((name, snapshot)) => Err(KeepError::Snapshot {
            volume: volume.name.clone(),
            snapshot: String::from_utf8_lossy(&name).into_owned(),
            seq: snapshot.seq.get(),
        }),
    }
}
