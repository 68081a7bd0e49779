//! Runs the planner: asks sources, verifies, stores, until every wanted chunk is here or named as missing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use causeway_base::{ChunkId, SiteName, VolumeId};
use causeway_dedup::store::{LikelyBase, PutHints};
use causeway_dedup::{EncodedChunk, Realm};
use causeway_replicator_core::{BatchId, Command, Event, FetchBatch, Limits, Missing, Planner, SourceId, Time, Want};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::counters::Place;
use crate::local::{self, LocalChunks, LocalError};
use crate::previous::NeedBase;
use crate::source::{Ask, Candidate, Consumer, Sources};
use crate::wire::{Bases, Cause, Received};

/// Chunks are stored in groups of about this many plain bytes.
const GROUP_BYTES: usize = 2 << 20;
/// Or of this many chunks.
const GROUP_CHUNKS: usize = 256;
/// Or of what came in this time: on a slow link progress must be seen, and a reader waits.
const GROUP_TIME: Duration = Duration::from_millis(250);
/// So many chunks may come in vain in a run, against bases that the source chose and that are not here.
const GUESSES_MAX: usize = 16;
/// Events between the transfers and the planner.
const EVENTS_AHEAD: usize = 1024;

/// A chunk that is wanted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its name.
    pub id: ChunkId,
    /// Its plain length, if known.
    pub len: Option<u32>,
    /// The site that should have it.
    pub origin: Option<SiteName>,
    /// What is here that it may be sent against, the best first.
    pub bases: Vec<NeedBase>,
}

/// What a run is for.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where the ids are names.
    pub realm: Realm,
    /// For the books and the choice of sources.
    pub volume: Option<VolumeId>,
    /// What for.
    pub cause: Cause,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Chunks that arrived and were stored.
    pub chunks: u64,
    /// Their plain bytes.
    pub plain_bytes: u64,
    /// Chunks that nobody gave.
    pub missing: Vec<Missing>,
}

/// Called with the chunks and plain bytes that have arrived so far.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// Fetches chunks into the local store. Cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    local: Arc<dyn LocalChunks>,
    sources: Arc<dyn Sources>,
    limits: Limits,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What the transfers tell the loop.
enum Told {
    Stored { batch: BatchId, id: ChunkId, plain_len: u32 },
    Other(Event),
}

impl Fetcher {
    /// A fetcher into `local`, which compresses what it stores.
    #[must_use]
    pub fn new(local: Arc<dyn LocalChunks>, sources: Arc<dyn Sources>, limits: Limits) -> Self {
        Self { local, sources, limits }
    }

    /// The same, for chunks that someone waits for: a source that fails once is not tried again in the same run.
    #[must_use]
    pub fn impatient(&self) -> Self {
        Self { limits: Limits { failures_max: 1, ..self.limits }, ..self.clone() }
    }

    /// The local store.
    #[must_use]
    pub fn local(&self) -> &Arc<dyn LocalChunks> {
        &self.local
    }

    /// Brings `needs` here, which should not be here yet. On return they are stored, not necessarily durable.
    ///
    /// Cancel safe: what arrived is kept, up to the last group of 2 MiB a transfer.
    ///
    /// # Errors
    /// The local store failed. That sources fail is no error: what they did not give is in [`Fetched::missing`].
    pub async fn run(&self, job: &Job, needs: Vec<Need>, progress: Progress<'_>) -> Result<Fetched, LocalError> {
        let origin = needs.first().and_then(|need| need.origin.as_ref());
        let candidates = self.sources.candidates(job.volume, origin);
        let mut run = Run::new(self, job, candidates, needs)?;
        run.complete(progress).await
    }
}

struct Run<'a> {
    fetcher: &'a Fetcher,
    job: &'a Job,
    candidates: Vec<Candidate>,
    planner: Planner,
    lens: BTreeMap<ChunkId, Option<u32>>,
    bases: BTreeMap<ChunkId, Vec<NeedBase>>,
    /// Chunks that came against a base that could not be read here: they are asked for whole.
    baseless: Arc<Mutex<BTreeSet<ChunkId>>>,
    started: Instant,
    transfers: JoinSet<BatchId>,
    running: BTreeMap<BatchId, tokio::task::AbortHandle>,
    told: mpsc::Receiver<Told>,
    tell: mpsc::Sender<Told>,
    failed: Arc<OnceLock<LocalError>>,
}

impl<'a> Run<'a> {
    fn new(
        fetcher: &'a Fetcher,
        job: &'a Job,
        candidates: Vec<Candidate>,
        needs: Vec<Need>,
    ) -> Result<Self, LocalError> {
        let mut planner = Planner::new(fetcher.limits).map_err(|error| LocalError {
            class: causeway_base::RetryClass::Refused,
            reason: format!("limits of the fetcher: {error}"),
        })?;
        let mut first_of_site = BTreeMap::new();
        for (number, candidate) in (0_u32..).zip(&candidates) {
            let id = SourceId(number);
            planner.handle(Time::ZERO, Event::Changed(causeway_replicator_core::Source { id, ..candidate.figures }));
            if let Place::Site(site) = &candidate.place {
                first_of_site.entry(site.clone()).or_insert(id);
            }
        }
        let (mut lens, mut bases) = (BTreeMap::new(), BTreeMap::new());
        planner.want(needs.into_iter().map(|need| {
            lens.insert(need.id, need.len);
            if !need.bases.is_empty() {
                bases.insert(need.id, need.bases);
            }
            let hint = need.origin.as_ref().and_then(|site| first_of_site.get(site)).copied();
            // What is not known is counted as an average chunk.
            Want { id: need.id, len: need.len.unwrap_or(64 << 10), priority: 0, hint }
        }));
        let (tell, told) = mpsc::channel(EVENTS_AHEAD);
        Ok(Self {
            fetcher,
            job,
            candidates,
            planner,
            lens,
            bases,
            baseless: Arc::default(),
            started: Instant::now(),
            transfers: JoinSet::new(),
            running: BTreeMap::new(),
            told,
            tell,
            failed: Arc::default(),
        })
    }

    async fn complete(&mut self, progress: Progress<'_>) -> Result<Fetched, LocalError> {
        let mut fetched = Fetched::default();
        loop {
            for command in self.planner.commands(self.started.elapsed()) {
                match command {
                    Command::Fetch(batch) => self.begin(batch),
                    Command::Cancel(batch) => {
                        tracing::warn!(volume = ?self.job.volume, ?batch, "a transfer stalled; asking elsewhere");
                        if let Some(transfer) = self.running.remove(&batch) {
                            transfer.abort();
                        }
                    }
                }
            }
            if self.planner.is_done() {
                break;
            }
            let deadline = self.planner.next_deadline().map(|at| self.started + at);
            let told = tokio::select! {
                told = self.told.recv() => told,
                () = sleep_until(deadline) => None,
            };
            self.take(told, &mut fetched);
            while let Ok(told) = self.told.try_recv() {
                self.take(Some(told), &mut fetched);
            }
            while self.transfers.try_join_next().is_some() {}
            if let Some(error) = self.failed.get() {
                return Err(error.clone());
            }
            progress(fetched.chunks, fetched.plain_bytes);
        }
        fetched.missing = self.planner.missing().collect();
        Ok(fetched)
    }

    fn take(&mut self, told: Option<Told>, fetched: &mut Fetched) {
        let now = self.started.elapsed();
        let event = match told {
            None => Event::Tick,
            Some(Told::Stored { batch, id, plain_len }) => {
                fetched.chunks += 1;
                fetched.plain_bytes += u64::from(plain_len);
                Event::Arrived(batch, id)
            }
            Some(Told::Other(event)) => {
                if let Event::Ended(batch) | Event::Failed(batch) = event {
                    self.running.remove(&batch);
                }
                event
            }
        };
        self.planner.handle(now, event);
    }

    fn begin(&mut self, batch: FetchBatch) {
        let FetchBatch { batch, source, ids, .. } = batch;
        let Some(candidate) = self.candidates.get(source.0 as usize) else { return };
        let lens = ids.iter().map(|id| self.lens.get(id).copied().flatten()).collect();
        let Job { realm, volume, cause } = self.job.clone();
        let sink = Sink {
            local: self.fetcher.local.clone(),
            realm: realm.clone(),
            bases: self.before(&ids),
            batch,
            ids: ids.clone(),
            group: Vec::new(),
            group_bytes: 0,
            stored_at: Instant::now(),
            tell: self.tell.clone(),
            failed: self.failed.clone(),
            baseless: self.baseless.clone(),
        };
        let (bases, any_base, held_in) = (self.offer(&ids), self.may_guess(&ids), self.fetcher.local.clone());
        let mut ask = Ask { realm, volume, cause, ids, lens, bases, any_base, held_in };
        let (chunk_source, place, tell) = (candidate.source.clone(), candidate.place.clone(), self.tell.clone());
        let transfer = self.transfers.spawn(async move {
            // What was collected since, or is damaged, must not be offered: a delta against it would come in vain.
            let held = ask.bases.held().to_vec();
            if !held.is_empty() {
                let lacking = local::missing(&ask.held_in, held).await;
                ask.bases = lacking.map_or_else(|_| Bases::default(), |lacking| ask.bases.without(&lacking));
            }
            let ended = chunk_source.fetch(ask, Box::new(sink)).await;
            let event = match ended {
                Ok(()) => Event::Ended(batch),
                Err(error) => {
                    let why = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::info!(?place, %error, why, "a transfer broke off");
                    Event::Failed(batch)
                }
            };
            let _ = tell.send(Told::Other(event)).await;
            batch
        });
        self.running.insert(batch, transfer);
    }
}

impl Run<'_> {
    /// What lay where the chunks of a batch lie.
    fn before(&self, ids: &[ChunkId]) -> HashMap<ChunkId, Vec<LikelyBase>> {
        let likely = |base: &NeedBase| LikelyBase { chunks: base.chunks.clone(), align: i64::from(base.align) };
        let known = |id: &ChunkId| {
            let bases = self.bases.get(id)?;
            // A base at rest is a few chunks at the very place: the store has no use for a wide range, only the work.
            let near = 2 * bases.first()?.chunks.len() + 4;
            Some((*id, bases.iter().filter(|base| base.chunks.len() <= near).map(likely).collect()))
        };
        ids.iter().filter_map(known).collect()
    }

    /// Whether the source may send what it has at rest as deltas: it is likely that a replica of the volume has the bases,
    /// older versions of the same files. If it turns out otherwise, that was a few bytes in vain.
    fn may_guess(&self, ids: &[ChunkId]) -> bool {
        let baseless = self.baseless.lock().unwrap_or_else(PoisonError::into_inner);
        self.job.cause == Cause::Replication
            && baseless.len() < GUESSES_MAX
            && (baseless.is_empty() || !ids.iter().any(|id| baseless.contains(id)))
    }

    /// What a batch offers as bases.
    fn offer(&self, ids: &[ChunkId]) -> Bases {
        let baseless = self.baseless.lock().unwrap_or_else(PoisonError::into_inner);
        let mut offered = Bases::default();
        for (place, id) in (0_u32..).zip(ids).filter(|(_, id)| !baseless.contains(id)) {
            for base in self.bases.get(id).into_iter().flatten() {
                offered.push(place, &base.chunks, base.align);
            }
        }
        offered
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Stores what comes in groups, and tells the loop what is stored. What it holds when a transfer breaks off is stored too.
struct Sink {
    local: Arc<dyn LocalChunks>,
    realm: Realm,
    /// What lay in the places of the chunks before: they may rest as their difference from it, however they came.
    bases: HashMap<ChunkId, Vec<LikelyBase>>,
    batch: BatchId,
    ids: Vec<ChunkId>,
    group: Vec<EncodedChunk>,
    group_bytes: usize,
    stored_at: Instant,
    tell: mpsc::Sender<Told>,
    failed: Arc<OnceLock<LocalError>>,
    baseless: Arc<Mutex<BTreeSet<ChunkId>>>,
}

impl Sink {
    /// Whether more is wanted.
    fn store(&mut self) -> bool {
        self.group_bytes = 0;
        self.stored_at = Instant::now();
        let group = std::mem::take(&mut self.group);
        if group.is_empty() {
            return true;
        }
        let bases = group.iter().filter_map(|chunk| Some((chunk.id, self.bases.remove(&chunk.id)?))).collect();
        if let Err(error) = self.local.put_with(&group, &PutHints { realm: &self.realm, bases }) {
            let _ = self.failed.set(error);
            let _ = self.tell.blocking_send(Told::Other(Event::Tick));
            return false;
        }
        group.iter().all(|chunk| {
            let stored = Told::Stored { batch: self.batch, id: chunk.id, plain_len: chunk.raw_len };
            self.tell.blocking_send(stored).is_ok()
        })
    }
}

impl Consumer for Sink {
    fn take(&mut self, received: Received) -> bool {
        let event = match received {
            Received::Chunk { index, plain, encoded } => {
                let id = self.ids[index];
                self.group_bytes += plain.len();
                // Plain: the store compresses what comes together as one.
                let alone = encoded.filter(|chunk| !chunk.may_shrink());
                self.group.push(alone.unwrap_or_else(|| EncodedChunk::plain(id, plain)));
                let full = self.group_bytes >= GROUP_BYTES || self.group.len() >= GROUP_CHUNKS;
                return !(full || self.stored_at.elapsed() >= GROUP_TIME) || self.store();
            }
            Received::Missing { index } => Event::Lacks(self.batch, self.ids[index]),
            Received::Corrupt { index } => {
                tracing::warn!(id = %self.ids[index], "a source sent other bytes than the chunk's");
                Event::Corrupt(self.batch, self.ids[index])
            }
            Received::Baseless { index } => {
                tracing::debug!(id = %self.ids[index], "a delta came and its base cannot be read; asking for the whole chunk");
                self.baseless.lock().unwrap_or_else(PoisonError::into_inner).insert(self.ids[index]);
                Event::Unreadable(self.batch, self.ids[index])
            }
        };
        self.tell.blocking_send(Told::Other(event)).is_ok()
    }

    fn finish(&mut self) {
        self.store();
    }
}
