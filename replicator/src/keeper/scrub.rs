//! Scrub and heal: reads packs, names what is bad by the files it belongs to, brings it back from elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_base::{BadChunk, ChunkId, Ino, ScrubReport, Seq, Timestamp};
use causeway_dedup::store::Scrubbed;
use causeway_dedup::{EncodedChunk, Realm};
use causeway_replicator_core::WhyMissing;
use tokio::time::Instant;

use super::names::paths;
use super::runs::chain;
use super::{KeepError, Keeper, RootVolume, walk_error};
use crate::fetcher::Need;
use crate::local::{LocalError, blocking};
use crate::walk::{Files, Walk};
use crate::wire::Cause;

/// Longest wait for the newest state of a volume.
const STATE_MAX: Duration = Duration::from_secs(30);
/// Files that are named for a chunk.
const FILES_MAX: usize = 16;
/// Chunks that are named in a report.
const NAMED_MAX: usize = 1000;
/// Chunks that are looked for at once: 16 MB of memory.
const LOOKED_FOR_MAX: usize = 256 << 10;
/// Between two looks at whether a pack is due.
const DUE_MAX: Duration = Duration::from_secs(3600);

/// How a scrub is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubAsk {
    /// Read all packs. Otherwise only what is known to be bad or missing is named and healed.
    pub read: bool,
    /// Also compare each chunk that is read with its name.
    pub deep: bool,
}

impl Keeper {
    /// Reads everything, then names and heals.
    pub(super) async fn scrub_all(&self, ask: ScrubAsk) -> Result<ScrubReport, KeepError> {
        let began = Instant::now();
        let mut report = ScrubReport::default();
        let mut bad = Vec::new();
        if ask.read {
            for pack in self.parts.store.packs() {
                bad.extend(self.scrub_pack(pack, ask.deep, &mut report).await?);
                if self.stop.is_cancelled() {
                    return Err(KeepError::Stopped);
                }
            }
        }
        self.heal(&mut report, &bad, true).await?;
        report.took = began.elapsed();
        let mut position = self.parts.store.scrub_position();
        if ask.read {
            position.passes += 1;
            (position.next_pack, position.began, position.completed) = (0, Timestamp(0), self.parts.clock.now());
        }
        self.keep(position, &report).await;
        Ok(report)
    }

    /// Reads one pack in its turn, and compares its chunks with their names if `deep`; gives its number if anything is wrong
    /// with it.
    async fn scrub_pack(&self, pack: u32, deep: bool, report: &mut ScrubReport) -> Result<Option<u32>, KeepError> {
        let _turn = self.turn.lock().await;
        let store = self.parts.store.clone();
        let Some(scrubbed) = blocking(move || store.scrub_pack(pack)).await?? else { return Ok(None) };
        report.packs += 1;
        report.bytes += scrubbed.bytes;
        report.chunks += scrubbed.chunks;
        let forged = match deep {
            true => self.verify_pack(pack, report).await?,
            false => 0,
        };
        if scrubbed.is_good() && forged == 0 {
            return Ok(None);
        }
        let Scrubbed { corrupt, dead, structure, .. } = scrubbed;
        tracing::error!(pack, corrupt = corrupt.len(), dead, ?structure, forged, "the scrub found damage");
        report.bad_packs += 1;
        Ok(Some(pack))
    }

    /// Compares the chunks of a pack with their names; gives how many are wrong. Which realm a chunk is of is not written
    /// with it: one that is right in any realm is right, since nobody can make bytes for a name.
    async fn verify_pack(&self, pack: u32, report: &mut ScrubReport) -> Result<u64, KeepError> {
        let (store, source, mut pace) = (self.parts.store.clone(), self.parts.realms.clone(), self.pace(0));
        let work = blocking(move || {
            let mut realms = source.all()?;
            let mut unknown = None;
            let mut is_right = |chunk: &EncodedChunk| {
                let right = |realms: &[Realm]| realms.iter().position(|realm| chunk.decode(realm).is_ok());
                let found = right(&realms).or_else(|| {
                    // Its realm may be newer than the list: it had to be known here before the chunk came.
                    match source.all() {
                        Ok(newer) => realms = newer,
                        Err(error) => {
                            unknown = Some(error);
                            return Some(0);
                        }
                    }
                    right(&realms)
                });
                // The next one is most likely of the same realm.
                found.inspect(|at| realms[..=*at].rotate_right(1)).is_some()
            };
            let verified = store.verify_pack(pack, &mut is_right, &mut pace)?;
            match unknown {
                Some(error) => Err(KeepError::Local(error)),
                None => Ok(verified),
            }
        });
        let verified = work.await??;
        if verified.stopped {
            return Err(KeepError::Stopped);
        }
        report.verified += verified.chunks;
        Ok(verified.corrupt.len() as u64)
    }

    /// Names what is corrupt (and, if `all`, what is missing of the volumes that are to be here), brings it back, and
    /// rewrites the packs that are bad.
    async fn heal(&self, report: &mut ScrubReport, packs: &[u32], all: bool) -> Result<(), KeepError> {
        let corrupt: BTreeSet<ChunkId> = self.parts.store.corrupt_ids().into_iter().take(LOOKED_FOR_MAX).collect();
        let mut owed = corrupt.clone();
        if all || !corrupt.is_empty() {
            let volumes = self.parts.roots.volumes(STATE_MAX).await?;
            if all {
                for volume in volumes.iter().filter(|volume| volume.follows) {
                    match self.missing_of(volume).await {
                        Ok(missing) => owed.extend(missing.into_iter().take(LOOKED_FOR_MAX)),
                        Err(error) => report.unchecked.push(format!("{}: {}", volume.name, chain(&error))),
                    }
                }
            }
            if !owed.is_empty() {
                let mut found = BTreeMap::new();
                for volume in &volumes {
                    self.heal_volume(volume, &owed, &corrupt, &mut found, report).await?;
                }
                report.unused = corrupt.iter().filter(|id| !found.contains_key(*id)).count() as u64;
                report.bad = found.len() as u64;
                report.healed = found.values().filter(|bad| bad.unhealed.is_none()).count() as u64;
                report.named = found.into_values().take(NAMED_MAX).collect();
            }
        }
        let mut packs = packs.to_vec();
        if report.unhealed() == 0 {
            packs.extend(self.parts.store.damaged_packs());
        }
        packs.sort_unstable();
        packs.dedup();
        if !packs.is_empty() {
            let _turn = self.turn.lock().await;
            let (store, mut pace) = (self.parts.store.clone(), self.pace(0));
            report.rewritten = blocking(move || store.rewrite(&packs, &mut pace)).await??.packs;
        }
        Ok(())
    }

    /// Chunks of a volume's newest state that are not here, though all of it was said to be.
    async fn missing_of(&self, volume: &RootVolume) -> Result<Vec<ChunkId>, KeepError> {
        let Some(view) = self.parts.roots.view(volume.id, STATE_MAX).await? else { return Ok(Vec::new()) };
        let status = self.parts.replicator.status(volume.id).unwrap_or_default();
        let verified = status.follower.watermark.map_or(Seq::ZERO, |watermark| watermark.seq);
        if verified < view.seq() {
            let reason =
                format!("it is in sync up to seq {verified} of {}; what is missing is being fetched", view.seq());
            return Err(KeepError::Walk { volume: volume.name.clone(), reason });
        }
        let job = self.job(volume, Cause::Repair)?;
        let mut walk = Walk::new(self.parts.replicator.fetcher(), &job, view, Files::all()).once(Default::default());
        let mut missing = Vec::new();
        while let Some(needs) = walk.next().await.map_err(|error| walk_error(volume, &error))? {
            let store = self.parts.store.clone();
            let ids: Vec<ChunkId> = needs.iter().map(|need| need.id).collect();
            missing.extend(blocking(move || store.missing(&ids)).await??);
        }
        Ok(missing)
    }

    /// Names the owed chunks of a volume and brings them back.
    async fn heal_volume(
        &self,
        volume: &RootVolume,
        owed: &BTreeSet<ChunkId>,
        corrupt: &BTreeSet<ChunkId>,
        found: &mut BTreeMap<ChunkId, BadChunk>,
        report: &mut ScrubReport,
    ) -> Result<(), KeepError> {
        let pages = self.parts.roots.manifests(volume.id, None, STATE_MAX).await?;
        let job = self.job(volume, Cause::Repair)?;
        let replicator = &self.parts.replicator;
        let mut walk = Walk::listed(replicator.fetcher(), &job, pages).watch(owed.clone());
        if !volume.follows {
            walk = walk.caches_at(replicator.site().clone());
        }
        let (mut needs, mut files) = (BTreeMap::<ChunkId, Need>::new(), BTreeMap::<ChunkId, BTreeSet<Ino>>::new());
        loop {
            let next = match walk.next().await {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => {
                    report.unchecked.push(format!("{}: {}", volume.name, chain(&error)));
                    break;
                }
            };
            needs.extend(next.into_iter().filter(|need| owed.contains(&need.id)).map(|need| (need.id, need)));
            for (ino, id) in walk.found() {
                let files = files.entry(id).or_default();
                if files.len() < FILES_MAX {
                    files.insert(ino);
                }
            }
        }
        for (ino, id) in walk.found() {
            files.entry(id).or_default().insert(ino);
        }
        if needs.is_empty() {
            return Ok(());
        }
        let inodes: BTreeSet<Ino> = files.values().flatten().copied().collect();
        let names = match self.parts.roots.view(volume.id, STATE_MAX).await? {
            Some(view) => {
                let names = blocking(move || paths(view.as_ref(), &inodes)).await?;
                Some(names.map_err(|error| walk_error(volume, &error.into()))?)
            }
            // The list of manifests has no names.
            None => None,
        };
        let name = |ino: &Ino| match names.as_ref().map(|names| names.get(ino)) {
            Some(Some(path)) => format!("{}:{path}", volume.name),
            Some(None) => format!("{}:(an older version of inode {})", volume.name, ino.0),
            None => format!("{}:(inode {})", volume.name, ino.0),
        };
        let unhealed = self.bring(&job, needs.values().cloned().collect()).await?;
        for id in needs.keys() {
            let bad = found.entry(*id).or_insert_with(|| BadChunk {
                id: *id,
                corrupt: corrupt.contains(id),
                files: Vec::new(),
                unhealed: None,
            });
            bad.files.extend(files.get(id).into_iter().flatten().map(name));
            bad.unhealed = unhealed.get(id).cloned();
            match &bad.unhealed {
                None => tracing::warn!(%id, files = ?bad.files, "a bad chunk was healed"),
                Some(why) => tracing::error!(%id, files = ?bad.files, why, "a bad chunk cannot be healed"),
            }
        }
        Ok(())
    }

    /// Fetches what is not here; gives what could not be had, and why.
    async fn bring(
        &self,
        job: &crate::fetcher::Job,
        mut needs: Vec<Need>,
    ) -> Result<BTreeMap<ChunkId, String>, LocalError> {
        let fetcher = self.parts.replicator.fetcher();
        let ids: Vec<ChunkId> = needs.iter().map(|need| need.id).collect();
        let lacking: BTreeSet<ChunkId> = crate::local::missing(fetcher.local(), ids).await?.into_iter().collect();
        needs.retain(|need| lacking.contains(&need.id));
        if needs.is_empty() {
            return Ok(BTreeMap::new());
        }
        let fetched = fetcher.run(job, needs, &|_, _| ()).await?;
        let local = fetcher.local().clone();
        blocking(move || local.sync()).await??;
        let why = |why| match why {
            WhyMissing::Nowhere => "no other site and no repository has it",
            WhyMissing::Corrupt => "it is damaged wherever it is",
            WhyMissing::Unreachable => "the sites that may have it cannot be reached",
        };
        Ok(fetched.missing.into_iter().map(|missing| (missing.id, why(missing.why).to_owned())).collect())
    }

    async fn keep(&self, mut position: causeway_dedup::store::ScrubPosition, report: &ScrubReport) {
        position.found += report.bad;
        position.healed += report.healed;
        {
            let mut status = self.lock();
            (status.scrub, status.scrub_error) = (position, None);
            status.totals.scrub_bytes += report.bytes;
            status.totals.scrub_verified += report.verified;
            if report.bad > 0 || position.began == Timestamp(0) {
                status.unhealed = report.unhealed();
            }
        }
        let store = self.parts.store.clone();
        if let Ok(Err(error)) = blocking(move || store.keep_scrub_position(&position)).await {
            tracing::warn!(error = chain(&error), "the scrub's position was not kept");
        }
    }

    /// One pass in each cycle, evenly: a pack is due when as much of the cycle has passed as packs come before it.
    pub(super) async fn scrub_regularly(&self) {
        let Some(cycle) = self.options.scrub_cycle else { return };
        loop {
            let wait = match self.scrub_next(cycle).await {
                Ok(wait) => wait,
                Err(KeepError::Stopped) => return,
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(error, "the scrub is held up");
                    self.lock().scrub_error = Some(error);
                    Duration::from_secs(60)
                }
            };
            if !self.sleep(wait).await {
                return;
            }
        }
    }

    /// Reads the next pack if it is due; gives how long to wait before the next look.
    async fn scrub_next(&self, cycle: Duration) -> Result<Duration, KeepError> {
        let store = &self.parts.store;
        let mut position = store.scrub_position();
        let now = self.parts.clock.now();
        if position.began == Timestamp(0) {
            let over = now.since(position.completed);
            if position.completed != Timestamp(0) && over < cycle {
                return Ok((cycle - over).min(DUE_MAX));
            }
            position.began = now;
            position.next_pack = 0;
        }
        let packs = store.packs();
        let done = packs.iter().filter(|pack| **pack < position.next_pack).count();
        let due = cycle.mul_f64(done as f64 / packs.len().max(1) as f64);
        let passed = now.since(position.began);
        if passed < due {
            return Ok((due - passed).min(DUE_MAX));
        }
        let mut report = ScrubReport::default();
        let next = packs.iter().copied().find(|pack| *pack >= position.next_pack);
        match next {
            Some(pack) => {
                let bad: Vec<u32> = self.scrub_pack(pack, true, &mut report).await?.into_iter().collect();
                position.next_pack = pack + 1;
                if !bad.is_empty() || !store.corrupt_ids().is_empty() {
                    self.heal(&mut report, &bad, false).await?;
                }
            }
            None => {
                self.heal(&mut report, &[], true).await?;
                position.passes += 1;
                (position.next_pack, position.began, position.completed) = (0, Timestamp(0), now);
            }
        }
        let wait = match self.options.rate {
            0 => Duration::ZERO,
            // Each byte is read for its checksums, and again for the names.
            rate => Duration::from_secs_f64(report.bytes as f64 * 2.0 / rate as f64),
        };
        self.keep(position, &report).await;
        Ok(wait)
    }
}
