//! What one group has in the log.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use causeway_base::VolumeId;

use super::format::{FRAME_HEADER, Kind, RECORD_BYTES_MAX, RECORD_HEADER, Record, SEGMENT_HEADER};
use super::queue::Op;
use super::segment::Segment;
use super::{Shared, WalError, lock};

/// Called once, from the writer's thread, when what was asked is durable or has failed. Must not block.
pub type Done = Box<dyn FnOnce(Result<(), WalError>) + Send>;

/// Where a durable record is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u32,
    /// With its header.
    pub(super) len: u32,
}

impl Place {
    pub(super) fn is_at(&self, segment: &Arc<Segment>, offset: u64) -> bool {
        Arc::ptr_eq(&self.segment, segment) && u64::from(self.offset) == offset
    }

    fn read(&self, group: VolumeId, index: u64) -> Result<Bytes, WalError> {
        let mut buffer = vec![0; self.len as usize];
        let name = Segment::name(self.segment.number);
        self.segment
            .file
            .read_exact_at(&mut buffer, u64::from(self.offset))
            .map_err(|error| WalError::io("read", name.as_ref(), error))?;
        let mut bytes = Bytes::from(buffer);
        let record = Record::decode(&mut bytes)
            .filter(|record| record.group == group && record.index == index)
            .filter(|record| matches!(record.kind, Kind::Entry | Kind::Moved));
        record.map(|record| record.payload).ok_or_else(|| WalError::Damaged {
            file: name,
            offset: self.offset.into(),
            reason: format!("entry {index} of group {group} does not read back"),
        })
    }
}

/// An entry: in memory, durable, or both.
#[derive(Debug)]
pub(super) struct Slot {
    /// Of its record, with the header.
    pub(super) len: u32,
    /// Tells this entry from an earlier one of the same index that was truncated.
    pub(super) lsn: u64,
    pub(super) place: Option<Place>,
    pub(super) data: Option<Bytes>,
}

#[derive(Debug)]
pub(super) struct GroupState {
    pub(super) id: VolumeId,
    pub(super) inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    /// Index of the first slot, or of the next entry.
    pub(super) first: u64,
    /// Sum of the slots' lengths.
    pub(super) bytes: u64,
    pub(super) slots: VecDeque<Slot>,
    pub(super) purged: Option<(u64, Bytes)>,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) vote_place: Option<Place>,
    pub(super) committed_place: Option<Place>,
    pub(super) purge_place: Option<Place>,
    /// A record of `committed` waits to be written.
    pub(super) committed_dirty: bool,
    /// Lsns of entries that a failed write took away.
    pub(super) failed: Range<u64>,
    /// Given out last; 0 is for entries that recovery found.
    last_lsn: u64,
}

impl GroupState {
    pub(super) fn new(id: VolumeId) -> Self {
        Self { id, inner: Mutex::new(Inner::default()) }
    }
}

impl Inner {
    pub(super) fn next_index(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(super) fn slot(&mut self, index: u64) -> Option<&mut Slot> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(at)
    }

    fn push(&mut self, data: Bytes) -> u64 {
        self.last_lsn += 1;
        // Bounded by RECORD_BYTES_MAX.
        let len = u32::try_from(data.len() + RECORD_HEADER).unwrap_or(u32::MAX);
        self.bytes += u64::from(len);
        self.slots.push_back(Slot { len, lsn: self.last_lsn, place: None, data: Some(data) });
        self.last_lsn
    }

    /// Forgets the entries from `index` on.
    pub(super) fn cut_from(&mut self, index: u64) {
        let keep = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
        for slot in self.slots.drain(keep.min(self.slots.len())..) {
            release(slot.place.as_ref());
            self.bytes -= u64::from(slot.len);
        }
    }

    /// Forgets the entries from `index` on, whose write failed, also those that still wait for theirs.
    pub(super) fn fail_from(&mut self, index: u64, lsn: u64) {
        self.cut_from(index);
        self.failed = lsn..self.last_lsn + 1;
    }

    /// Forgets the entries up to and with `index`; the log goes on behind it, also if it had fewer.
    pub(super) fn cut_to(&mut self, index: u64) {
        let next = index.saturating_add(1);
        while self.first < next
            && let Some(slot) = self.slots.pop_front()
        {
            release(slot.place.as_ref());
            self.bytes -= u64::from(slot.len);
            self.first += 1;
        }
        self.first = self.first.max(next);
    }

    pub(super) fn clear(&mut self) {
        self.cut_from(0);
        for place in [self.vote_place.take(), self.committed_place.take(), self.purge_place.take()] {
            release(place.as_ref());
        }
        *self = Self { last_lsn: self.last_lsn, ..Self::default() };
    }

    /// The place of the newest control record of a kind.
    pub(super) fn control(&mut self, kind: Kind) -> Option<&mut Option<Place>> {
        match kind {
            Kind::Vote => Some(&mut self.vote_place),
            Kind::Committed => Some(&mut self.committed_place),
            Kind::Purge => Some(&mut self.purge_place),
            _ => None,
        }
    }
}

pub(super) fn release(place: Option<&Place>) {
    if let Some(place) = place {
        place.segment.sub_live(place.len.into());
    }
}

/// Puts `place` where another stood.
pub(super) fn replace(target: &mut Option<Place>, place: Place) {
    place.segment.add_live(place.len.into());
    release(target.replace(place).as_ref());
}

/// A group's own log within the node's. Cheap to clone. Writes of one group must come one after the other.
#[derive(Clone, Debug)]
pub struct GroupLog {
    shared: Arc<Shared>,
    state: Arc<GroupState>,
}

impl GroupLog {
    pub(super) fn new(shared: Arc<Shared>, state: Arc<GroupState>) -> Self {
        Self { shared, state }
    }

    /// Which group.
    #[must_use]
    pub fn id(&self) -> VolumeId {
        self.state.id
    }

    /// Appends entries; readable when this returns, durable when `done` is called with `Ok`. Waits for room in the
    /// writer's queue.
    ///
    /// Cancel safety: dropped before it returns, nothing was appended.
    ///
    /// # Errors
    /// [`WalError::Usage`] if the entries do not follow the end or are too large, [`WalError::Poisoned`],
    /// [`WalError::Closed`]; `done` is not called then. Through `done`: those, and [`WalError::Full`].
    pub async fn append(&self, entries: Vec<(u64, Bytes)>, done: Done) -> Result<(), WalError> {
        let bytes = entries.iter().map(|(_, payload)| payload.len() + RECORD_HEADER).sum();
        let permit = self.shared.queue.room(bytes).await?;
        self.enqueue(entries, done, permit)
    }

    fn enqueue(&self, entries: Vec<(u64, Bytes)>, done: Done, permit: OwnedSemaphorePermit) -> Result<(), WalError> {
        if let Some(error) = self.shared.poisoned() {
            return Err(error);
        }
        let segment = usize::try_from(self.shared.options.segment_bytes).unwrap_or(usize::MAX);
        let most = RECORD_BYTES_MAX.min(segment - SEGMENT_HEADER - 2 * (FRAME_HEADER + RECORD_HEADER));
        if let Some((index, payload)) = entries.iter().find(|(_, payload)| payload.len() > most) {
            return Err(WalError::Usage(format!("entry {index} has {} bytes, at most {most} fit", payload.len())));
        }
        let mut inner = lock(&self.state.inner);
        let first = if inner.slots.is_empty() && inner.purged.is_none() {
            entries.first().map_or(0, |(index, _)| *index)
        } else {
            inner.next_index()
        };
        if let Some(((index, _), next)) = entries.iter().zip(first..).find(|((index, _), next)| index != next) {
            return Err(WalError::Usage(format!("entry {index} does not follow the log's end {next}")));
        }
        if inner.slots.is_empty() {
            inner.first = first;
        }
        let entries =
            entries.into_iter().map(|(index, payload)| (index, inner.push(payload.clone()), payload)).collect();
        let op = Op::Entries { group: Arc::clone(&self.state), entries, done: Some(done), permit: Some(permit) };
        // Under the group's lock, so that the queue has the order of the index.
        let pushed = self.shared.queue.push(op);
        if pushed.is_err() {
            inner.cut_from(first);
        }
        drop(inner);
        self.shared.drive();
        pushed
    }

    /// Voids the entries from `index` on. Needs no wait: an append behind it is durable only after it.
    ///
    /// # Errors
    /// [`WalError::Poisoned`], [`WalError::Closed`].
    pub fn truncate_from(&self, index: u64) -> Result<(), WalError> {
        self.control(Kind::Truncate, index, Bytes::new(), None, |inner| inner.cut_from(index))
    }

    /// Gives up the entries up to `index`; `name` is what [`GroupLog::purged`] answers afterwards. The log goes on at
    /// `index + 1` even if it ended before.
    ///
    /// # Errors
    /// [`WalError::Poisoned`], [`WalError::Closed`].
    pub fn purge(&self, index: u64, name: Bytes) -> Result<(), WalError> {
        self.control(Kind::Purge, index, name.clone(), None, |inner| {
            inner.cut_to(index);
            inner.purged = Some((index, name));
        })
    }

    /// Stores the group's vote; durable on return.
    ///
    /// Cancel safety: dropped before it returns, the vote may be stored or not.
    ///
    /// # Errors
    /// Any [`WalError`].
    pub async fn save_vote(&self, vote: Bytes) -> Result<(), WalError> {
        self.control_durable(Kind::Vote, 0, vote.clone(), |inner| inner.vote = Some(vote)).await
    }

    /// Stores how far the log is committed; written with the next batch, no later than a fraction of a second.
    pub fn save_committed(&self, committed: Option<Bytes>) {
        let mut inner = lock(&self.state.inner);
        if inner.committed == committed {
            return;
        }
        inner.committed = committed;
        if !inner.committed_dirty {
            inner.committed_dirty = true;
            self.shared.queue.push_lazy(Arc::clone(&self.state));
        }
    }

    /// Forgets the group; durable on return.
    ///
    /// # Errors
    /// Any [`WalError`].
    pub async fn remove(&self) -> Result<(), WalError> {
        self.control_durable(Kind::Remove, 0, Bytes::new(), Inner::clear).await
    }

    /// Makes everything that was asked before durable.
    ///
    /// # Errors
    /// Any [`WalError`].
    pub async fn flush(&self) -> Result<(), WalError> {
        let (sender, receiver) = oneshot::channel();
        let done: Done = Box::new(move |result| drop(sender.send(result)));
        self.append(Vec::new(), done).await?;
        receiver.await.map_err(|_| WalError::Closed)?
    }

    async fn control_durable(
        &self,
        kind: Kind,
        index: u64,
        payload: Bytes,
        change: impl FnOnce(&mut Inner),
    ) -> Result<(), WalError> {
        let (sender, receiver) = oneshot::channel();
        let done: Done = Box::new(move |result| drop(sender.send(result)));
        self.control(kind, index, payload, Some(done), change)?;
        receiver.await.map_err(|_| WalError::Closed)?
    }

    fn control(
        &self,
        kind: Kind,
        index: u64,
        payload: Bytes,
        done: Option<Done>,
        change: impl FnOnce(&mut Inner),
    ) -> Result<(), WalError> {
        if let Some(error) = self.shared.poisoned() {
            return Err(error);
        }
        let mut inner = lock(&self.state.inner);
        let record = Record { kind, group: self.state.id, index, payload };
        self.shared.queue.push(Op::Control { group: Arc::clone(&self.state), record, done })?;
        change(&mut inner);
        drop(inner);
        self.shared.drive();
        Ok(())
    }

    /// The stored vote.
    #[must_use]
    pub fn vote(&self) -> Option<Bytes> {
        lock(&self.state.inner).vote.clone()
    }

    /// The stored commit mark; may be older than the last one saved after a crash.
    #[must_use]
    pub fn committed(&self) -> Option<Bytes> {
        lock(&self.state.inner).committed.clone()
    }

    /// Up to where entries were given up, and the name of the last of them.
    #[must_use]
    pub fn purged(&self) -> Option<(u64, Bytes)> {
        lock(&self.state.inner).purged.clone()
    }

    /// The indexes that the log holds.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        let inner = lock(&self.state.inner);
        inner.first..inner.next_index()
    }

    /// Bytes of the entries that the log holds, record headers included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        lock(&self.state.inner).bytes
    }

    /// Whether [`GroupLog::read`] of this range needs no disk.
    #[must_use]
    pub fn is_cached(&self, range: Range<u64>) -> bool {
        let mut inner = lock(&self.state.inner);
        let range = range.start.max(inner.first)..range.end.min(inner.next_index());
        range.clone().all(|index| inner.slot(index).is_some_and(|slot| slot.data.is_some()))
    }

    /// The entries of `range` that the log holds, from its start on, until `bytes_max` is reached (at least one).
    /// Reads the disk for what is not in memory: call it from a blocking thread unless [`GroupLog::is_cached`].
    ///
    /// # Errors
    /// [`WalError::Damaged`] names file and place, [`WalError::Io`].
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, WalError> {
        enum Source {
            Memory(Bytes),
            Disk(Place),
        }
        let mut found = Vec::new();
        {
            let mut inner = lock(&self.state.inner);
            let range = range.start.max(inner.first)..range.end.min(inner.next_index());
            let mut bytes = 0;
            for index in range {
                let Some(slot) = inner.slot(index) else { break };
                let (len, source) = match (&slot.data, &slot.place) {
                    (Some(data), _) => (data.len(), Source::Memory(data.clone())),
                    (None, Some(place)) => (place.len as usize - RECORD_HEADER, Source::Disk(place.clone())),
                    (None, None) => break, // Not reached: data goes only once the place is known.
                };
                if !found.is_empty() && bytes + len > bytes_max {
                    break;
                }
                bytes += len;
                found.push((index, source));
            }
        }
        let id = self.state.id;
        found
            .into_iter()
            .map(|(index, source)| match source {
                Source::Memory(data) => Ok((index, data)),
                Source::Disk(place) => Ok((index, place.read(id, index)?)),
            })
            .collect()
    }

    /// The last entry, if the log holds one.
    ///
    /// # Errors
    /// As [`GroupLog::read`].
    pub fn last(&self) -> Result<Option<(u64, Bytes)>, WalError> {
        let range = self.range();
        Ok(self.read(range.end.saturating_sub(1).max(range.start)..range.end, usize::MAX)?.pop())
    }
}
