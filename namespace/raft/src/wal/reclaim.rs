//! Removing old segments.
//!
//! Segments go oldest first. One goes when nothing in it is needed; if little is (the votes and last entries of idle groups,
//! or any live part once dead bytes outweigh live ones), that is written again at the end of the log first. Oldest first
//! makes this safe: a truncation or purge record is never lost before the entries that it is about.

use std::sync::Arc;

use bytes::Bytes;

use super::format::{FRAME_HEADER, Kind, Record, SEGMENT_HEADER, frame_at};
use super::group::GroupState;
use super::segment::Segment;
use super::writer::{Writer, entry};
use super::{WalError, WalState, lock};

/// Live bytes up to which an old segment is emptied at once.
const LITTLE: u64 = 256 << 10;
/// Most bytes moved between two batches, so that appends hardly wait.
const STEP_BYTES: usize = 1 << 20;

/// How far the oldest segment was looked through.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    segment: Option<(Arc<Segment>, Bytes)>,
    offset: usize,
}

impl Writer {
    /// Whether [`Writer::reclaim_step`] has something to do.
    pub(super) fn can_reclaim(&self) -> bool {
        let Some(oldest) = self.sealed.front() else { return false };
        if self.shared.poisoned().is_some() {
            return false;
        }
        let live = oldest.live();
        if live == 0 {
            return true;
        }
        // Moving needs space, of which there is none.
        if *lock(&self.shared.state) != WalState::Ok {
            return false;
        }
        let used: u64 = self.sealed.iter().map(|segment| segment.bytes).sum();
        let outweighed = used > 2 * self.live_bytes() + 4 * self.shared.options.segment_bytes;
        live <= LITTLE.min(oldest.bytes / 8) || outweighed
    }

    /// Does a part of the work; whether there is more.
    pub(super) fn reclaim_step(&mut self) -> bool {
        if !self.can_reclaim() {
            return false;
        }
        let Some(oldest) = self.sealed.front().cloned() else { return false };
        let result = if oldest.live() == 0 { self.remove_oldest(&oldest) } else { self.move_some(&oldest) };
        self.publish();
        match result {
            Ok(()) => true,
            Err(WalError::Full) => {
                self.shared.set_state(WalState::Full);
                false
            }
            Err(error) => {
                self.shared.set_state(WalState::Poisoned(error.to_string()));
                false
            }
        }
    }

    fn remove_oldest(&mut self, oldest: &Segment) -> Result<(), WalError> {
        let path = self.shared.dir.join(Segment::name(oldest.number));
        self.shared.disk.remove(&path).map_err(|error| WalError::io("remove", &path, error))?;
        let dir = &self.shared.dir;
        self.shared.disk.sync_dir(dir).map_err(|error| WalError::io("sync", dir, error))?;
        self.sealed.pop_front();
        self.reclaim = Reclaim::default();
        Ok(())
    }

    fn move_some(&mut self, oldest: &Arc<Segment>) -> Result<(), WalError> {
        let name = Segment::name(oldest.number);
        let image = match &self.reclaim.segment {
            Some((segment, image)) if Arc::ptr_eq(segment, oldest) => image.clone(),
            _ => {
                let mut image = vec![0; usize::try_from(oldest.bytes).unwrap_or(usize::MAX)];
                let read = oldest.file.read_exact_at(&mut image, 0);
                read.map_err(|error| WalError::io("read", name.as_ref(), error))?;
                let image = Bytes::from(image);
                self.reclaim = Reclaim { segment: Some((Arc::clone(oldest), image.clone())), offset: SEGMENT_HEADER };
                image
            }
        };
        self.begin_frame();
        let (mut moved, mut ended) = (0, false);
        while moved < STEP_BYTES && !ended {
            let offset = self.reclaim.offset;
            let Some(frame) = frame_at(&image, offset, oldest.salt) else {
                let reason = "a frame that recovery or this run has read before is gone".to_owned();
                return Err(WalError::Damaged { file: name, offset: offset as u64, reason });
            };
            let mut body = frame.body;
            let end = offset + FRAME_HEADER + body.len();
            while !body.is_empty() {
                let at = end - body.len();
                let Some(record) = Record::decode(&mut body) else {
                    let reason = "a record in a valid frame does not decode".to_owned();
                    return Err(WalError::Damaged { file: name, offset: at as u64, reason });
                };
                ended |= record.kind == Kind::Seal;
                moved += self.move_one(oldest, at as u64, record)?;
            }
            self.reclaim.offset = end;
        }
        lock(&self.shared.stats).moved_bytes += moved as u64;
        self.commit_frame()?;
        if ended {
            debug_assert_eq!(oldest.live(), 0, "all that is needed of segment {} was moved", oldest.number);
            self.reclaim = Reclaim::default();
        }
        Ok(())
    }

    /// Writes a record again if it is still needed; the bytes it takes.
    fn move_one(&mut self, oldest: &Arc<Segment>, at: u64, record: Record) -> Result<usize, WalError> {
        let groups = self.shared.groups.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(group) = groups.get(&record.group).cloned() else { return Ok(0) };
        drop(groups);
        let Some(lsn) = needed(&group, oldest, at, &record) else { return Ok(0) };
        let record = match record.kind {
            Kind::Entry | Kind::Moved => entry(group.id, record.index, record.payload, Kind::Moved),
            _ => record,
        };
        self.add(&group, &record, lsn)?;
        Ok(record.len())
    }
}

/// Whether the index says that the record at this place is the one; the lsn of its entry.
fn needed(group: &GroupState, segment: &Arc<Segment>, at: u64, record: &Record) -> Option<u64> {
    let mut inner = lock(&group.inner);
    match record.kind {
        Kind::Entry | Kind::Moved => {
            let slot = inner.slot(record.index)?;
            slot.place.as_ref()?.is_at(segment, at).then_some(slot.lsn)
        }
        kind => inner.control(kind)?.as_ref()?.is_at(segment, at).then_some(0),
    }
}
