//! What to ask of whom next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_base::ChunkId;

use crate::limits::{Limits, LimitsError};
use crate::source::{Source, SourceId, SourceState};

/// Time since the shell's own start.
pub type Time = Duration;

/// A batch in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// A chunk that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Its name.
    pub id: ChunkId,
    /// Its plain length in bytes, as far as known: it counts towards the bounds.
    pub len: u32,
    /// Lower is sooner.
    pub priority: u8,
    /// The source that should have it.
    pub hint: Option<SourceId>,
}

/// What became of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A chunk of the batch arrived, was checked and stored.
    Arrived(BatchId, ChunkId),
    /// The source says that it does not have the chunk.
    Lacks(BatchId, ChunkId),
    /// The source sent other bytes than the name says.
    Corrupt(BatchId, ChunkId),
    /// The source sent the chunk in a form that cannot be read here. It is to be asked for in another, there or elsewhere.
    Unreadable(BatchId, ChunkId),
    /// The source said that the batch is complete.
    Ended(BatchId),
    /// The batch broke off: unreachable, reset, refused, out of bounds.
    Failed(BatchId),
    /// A source is new, has changed, or may have more chunks than before: all it lacked may be asked again.
    Changed(Source),
    /// The chunk came by another way.
    Obtained(ChunkId),
    /// Only time passed.
    Tick,
}

/// What the shell must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask a source for chunks.
    Fetch(FetchBatch),
    /// Stop a batch that stalled; what it still brings is welcome, but no longer waited for.
    Cancel(BatchId),
}

/// One request, in the order in which the chunks were wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchBatch {
    /// To report with.
    pub batch: BatchId,
    /// Whom to ask.
    pub source: SourceId,
    /// What for.
    pub ids: Vec<ChunkId>,
    /// Their plain bytes.
    pub bytes: u64,
}

/// A chunk that nobody gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub id: ChunkId,
    /// Why.
    pub why: WhyMissing,
}

/// Why a chunk could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WhyMissing {
    /// Every source was asked, and none has it.
    Nowhere,
    /// A source sent bytes that are not the chunk, and no other has it.
    Corrupt,
    /// A source that may have it could not be reached.
    Unreachable,
}

#[derive(Clone, Debug)]
struct Wanted {
    len: u32,
    priority: u8,
    order: u64,
    hint: Option<SourceId>,
    /// Sources that do not have it, and whether they sent other bytes.
    lacked_by: BTreeMap<SourceId, bool>,
    batch: Option<BatchId>,
    /// Its place among the waiting.
    wait_until: Option<Time>,
}

#[derive(Clone, Debug)]
struct Batch {
    source: SourceId,
    open: BTreeMap<ChunkId, u32>,
    progress_at: Time,
    progressed: bool,
}

/// See the crate's documentation.
#[derive(Clone, Debug)]
pub struct Planner {
    limits: Limits,
    sources: BTreeMap<SourceId, SourceState>,
    wanted: BTreeMap<ChunkId, Wanted>,
    /// Neither in flight nor waiting for a source to come back.
    queue: BTreeSet<(u8, u64, ChunkId)>,
    /// Wanted, but every source that may have it is waiting for its next try.
    waiting: BTreeSet<(Time, ChunkId)>,
    batches: BTreeMap<BatchId, Batch>,
    missing: BTreeMap<ChunkId, WhyMissing>,
    in_flight_bytes: u64,
    next_batch: u64,
    next_order: u64,
}

/// What can be done for a chunk now.
enum Choice {
    Ask(SourceId),
    /// The sources to ask are busy.
    Busy,
    /// The sources to ask are waiting for their next try, the first until then.
    Later(Time),
    Never(WhyMissing),
}

impl Planner {
    /// A planner that wants nothing.
    ///
    /// # Errors
    /// The limits allow no work.
    pub fn new(limits: Limits) -> Result<Self, LimitsError> {
        limits.check()?;
        Ok(Self {
            limits,
            sources: BTreeMap::new(),
            wanted: BTreeMap::new(),
            queue: BTreeSet::new(),
            waiting: BTreeSet::new(),
            batches: BTreeMap::new(),
            missing: BTreeMap::new(),
            in_flight_bytes: 0,
            next_batch: 0,
            next_order: 0,
        })
    }

    /// Adds chunks; one that is wanted already gets the higher priority of the two and keeps its place otherwise.
    pub fn want(&mut self, wants: impl IntoIterator<Item = Want>) {
        for want in wants {
            self.missing.remove(&want.id);
            let order = self.next_order;
            self.next_order += 1;
            let wanted = self.wanted.entry(want.id).or_insert_with(|| {
                self.queue.insert((want.priority, order, want.id));
                let Want { len, priority, hint, .. } = want;
                Wanted { len, priority, order, hint, lacked_by: BTreeMap::new(), batch: None, wait_until: None }
            });
            wanted.hint = wanted.hint.or(want.hint);
            if want.priority < wanted.priority {
                if self.queue.remove(&(wanted.priority, wanted.order, want.id)) {
                    self.queue.insert((want.priority, wanted.order, want.id));
                }
                wanted.priority = want.priority;
            }
        }
    }

    /// Takes an event. Events of batches that are over are fine.
    pub fn handle(&mut self, now: Time, event: Event) {
        match event {
            Event::Arrived(batch, id) => {
                self.close(now, batch, &id);
                if let Some(batch) = self.batches.get(&batch)
                    && let Some(state) = self.sources.get_mut(&batch.source)
                {
                    state.delivered();
                }
                self.obtained(&id);
            }
            Event::Lacks(batch, id) => self.lacked(now, batch, id, false),
            Event::Corrupt(batch, id) => self.lacked(now, batch, id, true),
            Event::Unreadable(batch, id) => {
                if self.close(now, batch, &id) {
                    self.again(batch, id);
                }
            }
            Event::Ended(batch) | Event::Failed(batch) => self.end(now, batch),
            Event::Changed(source) => self.changed(source),
            Event::Obtained(id) => self.obtained(&id),
            Event::Tick => {}
        }
    }

    /// What to do now. Call it after events, and at [`Planner::next_deadline`].
    pub fn commands(&mut self, now: Time) -> Vec<Command> {
        let stalled: Vec<BatchId> = self
            .batches
            .iter()
            .filter(|(_, batch)| batch.progress_at.saturating_add(self.limits.stall_timeout) <= now)
            .map(|(id, _)| *id)
            .collect();
        let mut commands: Vec<Command> = stalled.iter().map(|id| Command::Cancel(*id)).collect();
        for batch in stalled {
            self.end(now, batch);
        }
        self.requeue_waiting(now);
        while let Some(batch) = self.next_batch(now) {
            commands.push(Command::Fetch(batch));
        }
        commands
    }

    /// When [`Planner::commands`] should be called even if nothing happens; `None` if only an event can change anything.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let stall = self.batches.values().map(|batch| batch.progress_at.saturating_add(self.limits.stall_timeout));
        stall.chain(self.waiting.first().map(|(until, _)| *until)).min()
    }

    /// Whether every wanted chunk was obtained or is [`Planner::missing`].
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Chunks that nobody gave, by name. They are forgotten when wanted again.
    pub fn missing(&self) -> impl Iterator<Item = Missing> + '_ {
        self.missing.iter().map(|(id, why)| Missing { id: *id, why: *why })
    }

    /// Wanted chunks that are neither obtained nor missing, and their plain bytes.
    #[must_use]
    pub fn owed(&self) -> (u64, u64) {
        (self.wanted.len() as u64, self.wanted.values().map(|wanted| u64::from(wanted.len)).sum())
    }

    /// Plain bytes asked for and not yet arrived.
    #[must_use]
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    fn obtained(&mut self, id: &ChunkId) {
        self.missing.remove(id);
        if let Some(wanted) = self.wanted.remove(id) {
            self.queue.remove(&(wanted.priority, wanted.order, *id));
            if let Some(until) = wanted.wait_until {
                self.waiting.remove(&(until, *id));
            }
            // A batch that still has it open brings it a second time; its own events close it there.
        }
    }

    fn lacked(&mut self, now: Time, batch: BatchId, id: ChunkId, corrupt: bool) {
        let Some(source) = self.batches.get(&batch).map(|batch| batch.source) else { return };
        if !self.close(now, batch, &id) {
            return;
        }
        if let Some(wanted) = self.wanted.get_mut(&id) {
            wanted.lacked_by.insert(source, corrupt);
        }
        self.again(batch, id);
    }

    /// Wants a chunk again that a batch was to bring.
    fn again(&mut self, batch: BatchId, id: ChunkId) {
        if let Some(wanted) = self.wanted.get_mut(&id).filter(|wanted| wanted.batch == Some(batch)) {
            wanted.batch = None;
            self.queue.insert((wanted.priority, wanted.order, id));
        }
    }

    /// Takes a chunk out of a batch; `false` if it was not open there.
    fn close(&mut self, now: Time, id: BatchId, chunk: &ChunkId) -> bool {
        let Some(batch) = self.batches.get_mut(&id) else { return false };
        let Some(len) = batch.open.remove(chunk) else { return false };
        batch.progress_at = now;
        batch.progressed = true;
        self.in_flight_bytes -= u64::from(len);
        if let Some(state) = self.sources.get_mut(&batch.source) {
            state.in_flight_bytes -= u64::from(len);
        }
        true
    }

    /// Ends a batch: what it left open is wanted again. Leaving all of it open is a failure of the source.
    fn end(&mut self, now: Time, id: BatchId) {
        let Some(batch) = self.batches.remove(&id) else { return };
        let bytes: u64 = batch.open.values().map(|len| u64::from(*len)).sum();
        self.in_flight_bytes -= bytes;
        if let Some(state) = self.sources.get_mut(&batch.source) {
            state.batches -= 1;
            state.in_flight_bytes -= bytes;
            if !batch.open.is_empty() && !batch.progressed {
                state.failed(now, &self.limits);
            }
        }
        for chunk in batch.open.into_keys() {
            if let Some(wanted) = self.wanted.get_mut(&chunk).filter(|wanted| wanted.batch == Some(id)) {
                wanted.batch = None;
                self.queue.insert((wanted.priority, wanted.order, chunk));
            }
        }
    }

    fn changed(&mut self, source: Source) {
        self.sources
            .entry(source.id)
            .and_modify(|state| state.change(source))
            .or_insert_with(|| SourceState::new(source));
        for wanted in self.wanted.values_mut() {
            wanted.lacked_by.remove(&source.id);
        }
        self.requeue_waiting(Time::MAX);
    }

    fn requeue_waiting(&mut self, now: Time) {
        while self.waiting.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, id)) = self.waiting.pop_first() else { break };
            if let Some(wanted) = self.wanted.get_mut(&id) {
                wanted.wait_until = None;
                self.queue.insert((wanted.priority, wanted.order, id));
            }
        }
    }

    /// The next batch within the bounds: a source for the first chunk that can be asked for now, then what follows and
    /// can be had from the same source.
    fn next_batch(&mut self, now: Time) -> Option<FetchBatch> {
        let mut source = None;
        let mut taken: Vec<(ChunkId, u32)> = Vec::new();
        let mut bytes = 0;
        let mut settled: Vec<(ChunkId, Result<Time, WhyMissing>)> = Vec::new();
        let mut skipped = 0;
        for (.., id) in &self.queue {
            if taken.len() == self.limits.batch_chunks_max || skipped > self.limits.batch_chunks_max {
                break;
            }
            let Some(wanted) = self.wanted.get(id) else { continue };
            match self.choose(wanted, now, source) {
                Choice::Ask(chosen) => {
                    let more = bytes + u64::from(wanted.len);
                    if !self.fits(more, taken.is_empty()) {
                        break;
                    }
                    source = Some(chosen);
                    bytes = more;
                    taken.push((*id, wanted.len));
                }
                Choice::Busy => skipped += 1,
                Choice::Later(until) => settled.push((*id, Ok(until))),
                Choice::Never(why) => settled.push((*id, Err(why))),
            }
        }
        for (id, how) in settled {
            self.settle(id, how);
        }
        let source = source?;
        let batch = BatchId(self.next_batch);
        self.next_batch += 1;
        for (id, _) in &taken {
            if let Some(wanted) = self.wanted.get_mut(id) {
                wanted.batch = Some(batch);
                self.queue.remove(&(wanted.priority, wanted.order, *id));
            }
        }
        self.in_flight_bytes += bytes;
        if let Some(state) = self.sources.get_mut(&source) {
            state.batches += 1;
            state.in_flight_bytes += bytes;
        }
        let ids = taken.iter().map(|(id, _)| *id).collect();
        let open = taken.into_iter().collect();
        self.batches.insert(batch, Batch { source, open, progress_at: now, progressed: false });
        Some(FetchBatch { batch, source, ids, bytes })
    }

    fn fits(&self, batch_bytes: u64, first: bool) -> bool {
        let alone = first && self.in_flight_bytes == 0;
        alone
            || ((first || batch_bytes <= self.limits.batch_bytes_max)
                && self.in_flight_bytes + batch_bytes <= self.limits.in_flight_bytes_max)
    }

    /// Takes a chunk out of the queue: to wait until a time, or for good.
    fn settle(&mut self, id: ChunkId, how: Result<Time, WhyMissing>) {
        let Some(wanted) = self.wanted.get_mut(&id) else { return };
        self.queue.remove(&(wanted.priority, wanted.order, id));
        match how {
            Ok(until) => {
                wanted.wait_until = Some(until);
                self.waiting.insert((until, id));
            }
            Err(why) => {
                self.wanted.remove(&id);
                self.missing.insert(id, why);
            }
        }
    }

    /// Who to ask for a chunk; with `only`, whether that source would do as well as another.
    ///
    /// Sources that should have the chunk (by hint, or because they hold everything) come before those that only may.
    fn choose(&self, wanted: &Wanted, now: Time, only: Option<SourceId>) -> Choice {
        let may_have = |state: &&SourceState| state.source.allowed && !wanted.lacked_by.contains_key(&state.source.id);
        let usable = |state: &&SourceState| may_have(state) && !state.given_up(&self.limits);
        let should = |state: &&SourceState| state.source.complete || wanted.hint == Some(state.source.id);
        let ready: Vec<&SourceState> = self.sources.values().filter(usable).filter(|state| state.ready(now)).collect();
        if ready.is_empty() {
            let retry = self.sources.values().filter(usable).map(SourceState::retry_at).min();
            return if let Some(until) = retry {
                Choice::Later(until)
            } else if self.sources.values().any(|state| may_have(&state)) {
                Choice::Never(WhyMissing::Unreachable)
            } else if wanted.lacked_by.values().any(|corrupt| *corrupt) {
                Choice::Never(WhyMissing::Corrupt)
            } else {
                Choice::Never(WhyMissing::Nowhere)
            };
        }
        let likely: Vec<&SourceState> = ready.iter().copied().filter(should).collect();
        let pool = if likely.is_empty() { ready } else { likely };
        // What is in flight is part of the cost: a source that is busy and still the best is worth waiting for.
        let cost = |state: &SourceState| state.cost(u64::from(wanted.len), &self.limits);
        let best = pool.iter().min_by_key(|state| (cost(state), state.source.id));
        if let Some(only) = only {
            let least = best.map(|state| cost(state));
            let as_good = pool.iter().any(|state| state.source.id == only && Some(cost(state)) == least);
            return if as_good { Choice::Ask(only) } else { Choice::Busy };
        }
        let free = best.filter(|state| state.batches < self.limits.batches_per_source_max);
        free.map_or(Choice::Busy, |state| Choice::Ask(state.source.id))
    }
}
