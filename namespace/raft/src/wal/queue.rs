//! What waits for the writer.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::format::{RECORD_HEADER, Record};
use super::group::{Done, GroupState};
use super::{WalError, lock};

/// Most record bytes in one batch: bounds the time of one sync and the frame that recovery must read whole.
const BATCH_BYTES: usize = 4 << 20;
/// What a group asks of the writer.
pub(super) enum Op {
    /// New entries.
    Entries {
        group: Arc<GroupState>,
        /// Index, lsn, payload.
        entries: Vec<(u64, u64, Bytes)>,
        done: Option<Done>,
        permit: Option<OwnedSemaphorePermit>,
    },
    /// Anything else.
    Control { group: Arc<GroupState>, record: Record, done: Option<Done> },
}

impl Op {
    fn bytes(&self) -> usize {
        match self {
            Self::Entries { entries, .. } => entries.iter().map(|(_, _, payload)| payload.len() + RECORD_HEADER).sum(),
            Self::Control { record, .. } => record.len(),
        }
    }

    pub(super) fn done(&mut self) -> Option<Done> {
        match self {
            Self::Entries { done, .. } | Self::Control { done, .. } => done.take(),
        }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries { group, entries, .. } => write!(f, "{} entries of {}", entries.len(), group.id),
            Self::Control { record, .. } => write!(f, "{record:?}"),
        }
    }
}

/// What waits for the writer.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) waiting: Mutex<Waiting>,
    pub(super) wake: Condvar,
    room: Arc<Semaphore>,
    room_max: u32,
}

#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) ops: VecDeque<Op>,
    pub(super) lazy: Vec<Arc<GroupState>>,
    /// Something besides ops is to be done.
    pub(super) nudged: bool,
    pub(super) closed: bool,
}

impl Queue {
    pub(super) fn new(bytes: usize) -> Self {
        let room_max = u32::try_from(bytes.clamp(1 << 20, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new(room_max as usize)),
            room_max,
        }
    }

    /// Room for `bytes`; more than the whole queue takes the whole queue.
    pub(super) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, WalError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.room_max);
        Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(|_| WalError::Closed)
    }

    pub(super) fn push(&self, op: Op) -> Result<(), WalError> {
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return Err(WalError::Closed);
        }
        waiting.ops.push_back(op);
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    /// Asks for a record of the group's commit mark some time soon.
    pub(super) fn push_lazy(&self, group: Arc<GroupState>) {
        lock(&self.waiting).lazy.push(group);
    }

    pub(super) fn nudge(&self) {
        lock(&self.waiting).nudged = true;
        self.wake.notify_one();
    }

    pub(super) fn close(&self) {
        lock(&self.waiting).closed = true;
        self.room.close();
        self.wake.notify_one();
    }

    /// Up to a batch of what waits.
    pub(super) fn take(waiting: &mut Waiting) -> Vec<Op> {
        let mut bytes = 0;
        let mut ops = Vec::new();
        while let Some(op) = waiting.ops.front() {
            bytes += op.bytes();
            if !ops.is_empty() && bytes > BATCH_BYTES {
                break;
            }
            ops.extend(waiting.ops.pop_front());
        }
        ops
    }
}
