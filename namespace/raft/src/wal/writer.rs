//! The one that writes: takes what waits, writes it as frames, syncs once, answers.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

use causeway_base::VolumeId;

use super::format::{FRAME_HEADER, Kind, RECORD_HEADER, Record, SEGMENT_HEADER, finish_frame, start_frame};
use super::group::{GroupState, Place, release, replace};
use super::queue::{Op, Queue};
use super::reclaim::Reclaim;
use super::segment::{Preparer, SPARES, Segment, Spares};
use super::{Shared, WalError, WalState, lock};

/// How long a commit mark may wait for company.
const LAZY: Duration = Duration::from_millis(200);
/// What a seal takes; always left free at the end of a segment.
const SEAL_BYTES: u64 = (FRAME_HEADER + RECORD_HEADER) as u64;

/// Where the log ends.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u64,
    /// Number of the next frame.
    pub(super) frame: u64,
    /// It was ended, and the next segment not begun: what a crash in between leaves.
    pub(super) sealed: bool,
}

/// Whose record is at which place of the frame that is being built.
#[derive(Debug)]
struct Placed {
    group: Arc<GroupState>,
    kind: Kind,
    index: u64,
    lsn: u64,
    offset: u32,
    len: u32,
}

/// Owns the end of the log.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    /// Ended segments, oldest first.
    pub(super) sealed: VecDeque<Arc<Segment>>,
    pub(super) reclaim: Reclaim,
    tail: Tail,
    spares: Arc<Spares>,
    /// Who prepares spares: this writer, or a thread.
    preparer: Option<Preparer>,
    preparing: Option<JoinHandle<()>>,
    frame: Vec<u8>,
    placed: Vec<Placed>,
    /// Entries in memory in the order in which they became durable, with their size.
    cached: VecDeque<(Arc<GroupState>, u64, u64, usize)>,
    cached_bytes: usize,
}

impl Writer {
    pub(super) fn start(
        shared: Arc<Shared>,
        sealed: VecDeque<Arc<Segment>>,
        tail: Option<Tail>,
    ) -> Result<Self, WalError> {
        let next = tail.as_ref().map_or(1, |tail| tail.segment.number + 1);
        let (disk, dir) = (Arc::clone(&shared.disk), shared.dir.clone());
        let mut preparer = Preparer { disk, dir, options: shared.options.clone(), next };
        let tail = match tail {
            Some(tail) => tail,
            None => activate(&shared, preparer.prepare()?, 1)?,
        };
        let spares = Arc::new(Spares::default());
        let mut writer = Self {
            sealed,
            reclaim: Reclaim::default(),
            tail,
            spares: Arc::clone(&spares),
            preparer: None,
            preparing: None,
            frame: Vec::new(),
            placed: Vec::new(),
            cached: VecDeque::new(),
            cached_bytes: 0,
            shared,
        };
        if writer.shared.options.threaded {
            let shared = Arc::downgrade(&writer.shared);
            let run = move || {
                spares.run(preparer, |failed| {
                    if let Some(shared) = shared.upgrade() {
                        shared.set_state(if failed.is_some() { WalState::Full } else { WalState::Ok });
                        shared.queue.nudge();
                    }
                });
            };
            let spawned = std::thread::Builder::new().name("wal-spares".to_owned()).spawn(run);
            let dir = &writer.shared.dir;
            writer.preparing = Some(spawned.map_err(|error| WalError::io("start the preparer of", dir, error))?);
        } else {
            writer.preparer = Some(preparer);
            writer.top_up();
        }
        writer.publish();
        Ok(writer)
    }

    /// Until the queue is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            let (ops, lazy, closed) = self.wait();
            let idle = ops.is_empty() && lazy.is_empty();
            self.write(ops, lazy);
            self.reclaim_step();
            if closed && idle {
                break;
            }
        }
    }

    fn wait(&self) -> (Vec<Op>, Vec<Arc<GroupState>>, bool) {
        let mut waiting = lock(&self.shared.queue.waiting);
        while waiting.ops.is_empty() && !waiting.closed && !waiting.nudged && !self.can_reclaim() {
            let before = waiting.lazy.len();
            let result = self.shared.queue.wake.wait_timeout(waiting, LAZY);
            let (guard, timeout) = result.unwrap_or_else(PoisonError::into_inner);
            waiting = guard;
            if timeout.timed_out() && before > 0 {
                break;
            }
        }
        waiting.nudged = false;
        (Queue::take(&mut waiting), std::mem::take(&mut waiting.lazy), waiting.closed)
    }

    /// Writes all that waits, in the caller's thread.
    pub(super) fn drain(&mut self) {
        loop {
            let (ops, lazy) = {
                let mut waiting = lock(&self.shared.queue.waiting);
                (Queue::take(&mut waiting), std::mem::take(&mut waiting.lazy))
            };
            if ops.is_empty() && lazy.is_empty() {
                break;
            }
            self.write(ops, lazy);
            self.top_up();
            while self.reclaim_step() {}
        }
        self.top_up();
    }

    fn top_up(&mut self) {
        let Some(preparer) = &mut self.preparer else { return };
        while self.spares.len() < SPARES {
            match preparer.prepare() {
                Ok(segment) => self.spares.push(segment),
                Err(error) => {
                    tracing::debug!(%error, "no spare log segment");
                    self.shared.set_state(WalState::Full);
                    return;
                }
            }
        }
        self.shared.set_state(WalState::Ok);
    }

    fn write(&mut self, mut ops: Vec<Op>, lazy: Vec<Arc<GroupState>>) {
        ops.retain_mut(|op| {
            let failed = went_with_a_failure(op);
            if failed && let Some(done) = op.done() {
                done(Err(WalError::Full));
            }
            !failed
        });
        if ops.is_empty() && lazy.is_empty() {
            return;
        }
        let result = match self.shared.poisoned() {
            Some(error) => Err(error),
            None => self.write_ops(&ops, &lazy),
        };
        if let Err(error) = &result {
            self.frame.clear();
            self.placed.clear();
            for op in &ops {
                forget_unwritten(op);
            }
            if !matches!(error, WalError::Full) {
                self.shared.set_state(WalState::Poisoned(error.to_string()));
            }
        }
        self.publish();
        for op in &mut ops {
            if let Some(done) = op.done() {
                done(result.clone());
            }
        }
    }

    pub(super) fn begin_frame(&mut self) {
        self.placed.clear();
        start_frame(&mut self.frame);
    }

    fn write_ops(&mut self, ops: &[Op], lazy: &[Arc<GroupState>]) -> Result<(), WalError> {
        self.begin_frame();
        for op in ops {
            match op {
                Op::Control { group, record, .. } => self.add(group, record, 0)?,
                Op::Entries { group, entries, permit, .. } => {
                    debug_assert!(permit.is_some(), "entries hold room in the queue until they are written");
                    for (index, lsn, payload) in entries {
                        // Also one that was truncated meanwhile: the log says all in the order in which it was asked.
                        self.add(group, &entry(group.id, *index, payload.clone(), Kind::Entry), *lsn)?;
                    }
                }
            }
        }
        for group in lazy {
            let payload = {
                let mut inner = lock(&group.inner);
                inner.committed_dirty = false;
                inner.committed.clone().unwrap_or_default()
            };
            self.add(group, &Record { kind: Kind::Committed, group: group.id, index: 0, payload }, 0)?;
        }
        self.commit_frame()
    }

    /// Adds a record to the frame; goes on in the next segment if it does not fit.
    pub(super) fn add(&mut self, group: &Arc<GroupState>, record: &Record, lsn: u64) -> Result<(), WalError> {
        let room = self.tail.segment.bytes.saturating_sub(self.tail.offset + SEAL_BYTES);
        if self.tail.sealed || (self.frame.len() + record.len()) as u64 > room {
            self.commit_frame()?;
            self.rotate()?;
            start_frame(&mut self.frame);
        }
        let offset = self.tail.offset + self.frame.len() as u64;
        // Segments are at most 1 GiB.
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
        record.encode(&mut self.frame);
        let placed = Placed { group: Arc::clone(group), kind: record.kind, index: record.index, lsn, offset, len };
        self.placed.push(placed);
        Ok(())
    }

    /// Writes and syncs the frame; its records are durable on return, and the groups know where they are.
    pub(super) fn commit_frame(&mut self) -> Result<(), WalError> {
        if self.placed.is_empty() {
            return Ok(());
        }
        self.write_frame()?;
        for placed in std::mem::take(&mut self.placed) {
            self.settle(&placed);
        }
        self.evict();
        Ok(())
    }

    fn write_frame(&mut self) -> Result<(), WalError> {
        let segment = &self.tail.segment;
        finish_frame(&mut self.frame, segment.salt, self.tail.frame);
        let name = Segment::name(segment.number);
        segment.file.write_all_at(&self.frame, self.tail.offset).map_err(|error| match error.kind() {
            // Nothing was synced: the same place is written again when there is space.
            std::io::ErrorKind::StorageFull => WalError::Full,
            _ => WalError::io("write", name.as_ref(), error),
        })?;
        segment.file.sync_data().map_err(|error| WalError::io("sync", name.as_ref(), error))?;
        self.tail.offset += self.frame.len() as u64;
        self.tail.frame += 1;
        let mut stats = lock(&self.shared.stats);
        stats.syncs += 1;
        stats.records += self.placed.len() as u64;
        stats.written_bytes += self.frame.len() as u64;
        drop(stats);
        Ok(())
    }

    fn settle(&mut self, placed: &Placed) {
        let place = Place { segment: Arc::clone(&self.tail.segment), offset: placed.offset, len: placed.len };
        let mut inner = lock(&placed.group.inner);
        match placed.kind {
            Kind::Entry | Kind::Moved => {
                let Some(slot) = inner.slot(placed.index).filter(|slot| slot.lsn == placed.lsn) else { return };
                let fresh = slot.place.is_none();
                let cached = slot.data.as_ref().map(Bytes::len);
                let mut old = slot.place.take();
                replace(&mut old, place);
                slot.place = old;
                drop(inner);
                if let Some(bytes) = cached.filter(|_| fresh) {
                    self.cached.push_back((Arc::clone(&placed.group), placed.index, placed.lsn, bytes));
                    self.cached_bytes += bytes;
                }
            }
            kind => {
                // A group that was removed meanwhile needs nothing.
                let wanted = match kind {
                    Kind::Vote => inner.vote.is_some(),
                    Kind::Committed => inner.committed.is_some(),
                    Kind::Purge => inner.purged.is_some(),
                    _ => false,
                };
                if let Some(control) = inner.control(kind) {
                    match wanted {
                        true => replace(control, place),
                        false => release(control.take().as_ref()),
                    }
                }
            }
        }
    }

    /// Drops the oldest entries from memory; all of them are durable.
    fn evict(&mut self) {
        while self.cached_bytes > self.shared.options.cache_bytes
            && let Some((group, index, lsn, bytes)) = self.cached.pop_front()
        {
            self.cached_bytes -= bytes;
            let mut inner = lock(&group.inner);
            if let Some(slot) = inner.slot(index).filter(|slot| slot.lsn == lsn) {
                slot.data = None;
            }
        }
    }

    /// Ends the segment and goes on in a spare.
    fn rotate(&mut self) -> Result<(), WalError> {
        let spare = self.spares.take(self.shared.options.threaded)?;
        if !self.tail.sealed {
            start_frame(&mut self.frame);
            let payload = Bytes::new();
            Record { kind: Kind::Seal, group: VolumeId(0), index: spare.number, payload }.encode(&mut self.frame);
            if let Err(error) = self.write_frame() {
                self.spares.put_back(spare);
                return Err(error);
            }
            self.tail.sealed = true;
        }
        let tail = activate(&self.shared, spare, self.tail.frame)?;
        let ended = std::mem::replace(&mut self.tail, tail);
        self.sealed.push_back(ended.segment);
        self.top_up();
        Ok(())
    }

    pub(super) fn publish(&self) {
        let live = self.live_bytes();
        let mut stats = lock(&self.shared.stats);
        stats.segments = self.sealed.len() as u64 + 1;
        stats.live_bytes = live;
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.sealed.iter().map(|segment| segment.live()).sum::<u64>() + self.tail.segment.live()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.spares.stop();
        if let Some(preparing) = self.preparing.take()
            && preparing.join().is_err()
        {
            tracing::error!("the log's preparer panicked");
        }
    }
}

pub(super) fn entry(group: VolumeId, index: u64, payload: Bytes, kind: Kind) -> Record {
    Record { kind, group, index, payload }
}

/// Gives a prepared segment its name; it is part of the log afterwards.
fn activate(shared: &Shared, segment: Arc<Segment>, frame: u64) -> Result<Tail, WalError> {
    let from = shared.dir.join(Segment::spare_name(segment.number));
    let to = shared.dir.join(Segment::name(segment.number));
    shared.disk.rename(&from, &to).map_err(|error| WalError::io("rename", &from, error))?;
    shared.disk.sync_dir(&shared.dir).map_err(|error| WalError::io("sync", &shared.dir, error))?;
    Ok(Tail { segment, offset: SEGMENT_HEADER as u64, frame, sealed: false })
}

/// Whether entries went with an earlier failed write: writing them would leave a hole before them.
fn went_with_a_failure(op: &Op) -> bool {
    let Op::Entries { group, entries, .. } = op else { return false };
    let inner = lock(&group.inner);
    entries.iter().any(|(_, lsn, _)| inner.failed.contains(lsn))
}

/// After a failed write: entries that are not durable are not in the log, nor are those behind them.
fn forget_unwritten(op: &Op) {
    if let Op::Entries { group, entries, .. } = op {
        let mut inner = lock(&group.inner);
        for (index, lsn, _) in entries {
            if inner.slot(*index).is_some_and(|slot| slot.lsn == *lsn && slot.place.is_none()) {
                inner.fail_from(*index, *lsn);
                break;
            }
        }
    }
}
