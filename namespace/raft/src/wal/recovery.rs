//! Reading the log back.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use causeway_base::VolumeId;
use causeway_storage::disk::Disk;

use super::format::{FRAME_HEADER, Kind, Record, SEGMENT_HEADER, find_frame, frame_at};
use super::group::{GroupState, Place, Slot, replace};
use super::segment::Segment;
use super::writer::Tail;
use super::{WalError, WalOptions, lock};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segments read.
    pub segments: u64,
    /// Records read.
    pub records: u64,
    /// Bytes behind the last valid frame that were cut: a write that was never acknowledged.
    pub cut_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) groups: BTreeMap<VolumeId, Arc<GroupState>>,
    pub(super) segments: VecDeque<Arc<Segment>>,
    pub(super) tail: Option<Tail>,
    pub(super) report: Recovery,
}

pub(super) fn recover(disk: &Arc<dyn Disk>, dir: &Path, options: &WalOptions) -> Result<Recovered, WalError> {
    let names = disk.list(dir).map_err(|error| WalError::io("list", dir, error))?;
    let numbers: Vec<u64> = names.iter().filter_map(|name| Segment::number_of(name, ".log")).collect();
    if let Some(pair) = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        let reason = format!("segments {} to {} are missing", pair[0] + 1, pair[1] - 1);
        return Err(WalError::Damaged { file: Segment::name(pair[1]), offset: 0, reason });
    }
    let last = numbers.last().copied();
    remove_old_spares(disk, dir, &names, last.map_or(1, |last| last + 1), options)?;

    let mut replay = Replay::default();
    let mut segments = VecDeque::new();
    let mut tail = None;
    let mut frame = None;
    for number in numbers {
        let segment = Arc::new(Segment::open(disk, dir, &Segment::name(number), number)?);
        let end = replay.read(&segment, frame, Some(number) == last)?;
        frame = end.frame;
        if Some(number) == last {
            let sealed = end.sealed;
            tail = Some(Tail { segment, offset: end.offset, frame: end.frame.unwrap_or(1), sealed });
        } else {
            segments.push_back(segment);
        }
    }
    let mut report = replay.report.clone();
    report.segments = segments.len() as u64 + u64::from(tail.is_some());
    Ok(Recovered { groups: replay.finish()?, segments, tail, report })
}

/// Spares that do not fit this run (another size, out of order) are made again.
fn remove_old_spares(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    names: &[std::path::PathBuf],
    next: u64,
    options: &WalOptions,
) -> Result<(), WalError> {
    for name in names {
        let Some(number) = Segment::number_of(name, ".log.new") else { continue };
        let opened = Segment::open(disk, dir, &Segment::spare_name(number), number);
        if number < next || !opened.is_ok_and(|segment| segment.bytes == options.segment_bytes) {
            let path = dir.join(name);
            disk.remove(&path).map_err(|error| WalError::io("remove", &path, error))?;
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Replay {
    groups: BTreeMap<VolumeId, Replayed>,
    report: Recovery,
}

#[derive(Debug, Default)]
struct Replayed {
    entries: BTreeMap<u64, Place>,
    purged: Option<(u64, Bytes, Place)>,
    vote: Option<(Bytes, Place)>,
    committed: Option<(Bytes, Place)>,
}

#[derive(Debug)]
struct End {
    offset: u64,
    /// Number of the next frame, if there is any frame.
    frame: Option<u64>,
    sealed: bool,
}

impl Replay {
    /// Reads a segment to its end; `frame` is the number that its first frame must have, if that is known.
    fn read(&mut self, segment: &Arc<Segment>, mut frame: Option<u64>, last: bool) -> Result<End, WalError> {
        let name = Segment::name(segment.number);
        let mut image = vec![0; usize::try_from(segment.bytes).unwrap_or(usize::MAX)];
        segment.file.read_exact_at(&mut image, 0).map_err(|error| WalError::io("read", name.as_ref(), error))?;
        let image = Bytes::from(image);
        let damaged =
            |offset: usize, reason: String| WalError::Damaged { file: name.clone(), offset: offset as u64, reason };
        let mut offset = SEGMENT_HEADER;
        while let Some(found) = frame_at(&image, offset, segment.salt) {
            if let Some(expected) = frame.filter(|expected| *expected != found.number) {
                return Err(damaged(offset, format!("frame {} stands where {expected} is expected", found.number)));
            }
            frame = Some(found.number + 1);
            let end = offset + FRAME_HEADER + found.body.len();
            let mut body = found.body;
            while !body.is_empty() {
                let at = end - body.len();
                let len = body.len();
                let record = Record::decode(&mut body)
                    .ok_or_else(|| damaged(at, "a record in a valid frame does not decode".to_owned()))?;
                if record.kind == Kind::Seal {
                    return Ok(End { offset: end as u64, frame, sealed: true });
                }
                let taken = u32::try_from(len - body.len()).unwrap_or(u32::MAX);
                let place =
                    Place { segment: Arc::clone(segment), offset: u32::try_from(at).unwrap_or(u32::MAX), len: taken };
                self.apply(record, place);
            }
            offset = end;
        }
        if !last {
            return Err(damaged(offset, "no valid frame, and the segment is not at its end".to_owned()));
        }
        if let Some(next) = find_frame(&image, offset, segment.salt) {
            return Err(damaged(offset, format!("an invalid frame before a valid one at byte {next}")));
        }
        self.cut(segment, &image, offset)?;
        Ok(End { offset: offset as u64, frame, sealed: false })
    }

    /// Zeros what an unfinished write left, so that nothing of it is met again.
    fn cut(&mut self, segment: &Segment, image: &Bytes, from: usize) -> Result<(), WalError> {
        let Some(end) = image[from..].iter().rposition(|byte| *byte != 0).map(|last| from + last + 1) else {
            return Ok(());
        };
        let name = Segment::name(segment.number);
        tracing::warn!(segment = name, from, to = end, "cut an unfinished write off the log's end");
        self.report.cut_bytes += (end - from) as u64;
        let zeros = vec![0; end - from];
        let written = segment.file.write_all_at(&zeros, from as u64).and_then(|()| segment.file.sync_data());
        written.map_err(|error| WalError::io("cut", name.as_ref(), error))
    }

    fn apply(&mut self, record: Record, place: Place) {
        self.report.records += 1;
        let Record { kind, group, index, payload } = record;
        if kind == Kind::Remove {
            self.groups.remove(&group);
            return;
        }
        let state = self.groups.entry(group).or_default();
        match kind {
            Kind::Entry => {
                // Normally nothing is there; what a failed write left is replaced.
                state.entries.split_off(&index);
                state.entries.insert(index, place);
            }
            Kind::Moved => {
                state.entries.insert(index, place);
            }
            Kind::Vote => state.vote = Some((payload, place)),
            Kind::Committed if payload.is_empty() => state.committed = None,
            Kind::Committed => state.committed = Some((payload, place)),
            Kind::Truncate => {
                state.entries.split_off(&index);
            }
            Kind::Purge => {
                state.entries = state.entries.split_off(&index.saturating_add(1));
                state.purged = Some((index, payload, place));
            }
            Kind::Remove | Kind::Seal => {}
        }
    }

    fn finish(self) -> Result<BTreeMap<VolumeId, Arc<GroupState>>, WalError> {
        self.groups.into_iter().map(|(id, replayed)| Ok((id, Arc::new(replayed.into_state(id)?)))).collect()
    }
}

impl Replayed {
    fn into_state(self, id: VolumeId) -> Result<GroupState, WalError> {
        let state = GroupState::new(id);
        {
            let mut inner = lock(&state.inner);
            let start = self.purged.as_ref().map(|(index, _, _)| index + 1);
            inner.first = start.or_else(|| self.entries.keys().next().copied()).unwrap_or(0);
            if let Some((index, name, place)) = self.purged {
                inner.purged = Some((index, name));
                replace(&mut inner.purge_place, place);
            }
            if let Some((vote, place)) = self.vote {
                inner.vote = Some(vote);
                replace(&mut inner.vote_place, place);
            }
            if let Some((committed, place)) = self.committed {
                inner.committed = Some(committed);
                replace(&mut inner.committed_place, place);
            }
            for (index, place) in self.entries {
                // An entry before the purge mark was moved before it was purged; nobody needs it.
                if index < inner.first {
                    continue;
                }
                if index != inner.next_index() {
                    return Err(WalError::Damaged {
                        file: Segment::name(place.segment.number),
                        offset: place.offset.into(),
                        reason: format!("group {id}: entry {index} follows {}", inner.next_index()),
                    });
                }
                let (len, mut at) = (place.len, None);
                replace(&mut at, place);
                inner.bytes += u64::from(len);
                inner.slots.push_back(Slot { len, lsn: 0, place: at, data: None });
            }
        }
        Ok(state)
    }
}
