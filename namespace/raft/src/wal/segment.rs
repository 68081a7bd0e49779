//! Segment files: named by number, pre-zeroed, with spare ones prepared ahead.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use causeway_storage::disk::{Disk, DiskFile, Open};

use super::format::{SEGMENT_HEADER, SegmentHeader};
use super::{WalError, WalOptions, lock};

/// Spare segments kept ready. With one left a full disk is announced, and that one takes what was accepted before.
pub(super) const SPARES: usize = 2;
/// How often a full disk is looked at again.
const FULL_RETRY: Duration = Duration::from_millis(500);
const ZEROS: usize = 1 << 20;

/// A segment file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) salt: u64,
    pub(super) bytes: u64,
    pub(super) file: Arc<dyn DiskFile>,
    /// Bytes of its records that are still needed.
    live: AtomicU64,
}

impl Segment {
    pub(super) fn name(number: u64) -> String {
        format!("{number:020}.log")
    }

    pub(super) fn spare_name(number: u64) -> String {
        format!("{number:020}.log.new")
    }

    /// The number in a file name; `None` for any other file.
    pub(super) fn number_of(name: &Path, suffix: &str) -> Option<u64> {
        let digits = name.to_str()?.strip_suffix(suffix)?;
        (digits.len() == 20).then(|| digits.parse().ok())?
    }

    /// Opens an existing file and checks its header.
    pub(super) fn open(disk: &Arc<dyn Disk>, dir: &Path, name: &str, number: u64) -> Result<Self, WalError> {
        let path = dir.join(name);
        let file = disk.open(&path, Open::Write).map_err(|error| WalError::io("open", &path, error))?;
        let damaged = |reason: String| WalError::Damaged { file: name.to_owned(), offset: 0, reason };
        let mut header = [0; SEGMENT_HEADER];
        match file.read_exact_at(&mut header, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(damaged("shorter than a header".to_owned()));
            }
            other => other.map_err(|error| WalError::io("read", &path, error))?,
        }
        let header = SegmentHeader::decode(&header).map_err(damaged)?;
        let len = file.len().map_err(|error| WalError::io("size", &path, error))?;
        if header.segment != number || header.bytes != len {
            return Err(damaged(format!(
                "the header says segment {} of {} bytes, the file is {number} of {len}",
                header.segment, header.bytes
            )));
        }
        Ok(Self { number, salt: header.salt, bytes: len, file, live: AtomicU64::new(0) })
    }

    pub(super) fn live(&self) -> u64 {
        self.live.load(Ordering::Acquire)
    }

    pub(super) fn add_live(&self, bytes: u64) {
        self.live.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(super) fn sub_live(&self, bytes: u64) {
        let before = self.live.fetch_sub(bytes, Ordering::AcqRel);
        debug_assert!(before >= bytes, "segment {} has fewer live bytes than are taken away", self.number);
    }
}

/// Makes spare segments.
#[derive(Debug)]
pub(super) struct Preparer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) options: WalOptions,
    pub(super) next: u64,
}

impl Preparer {
    /// Makes the next spare, or takes one that an earlier run left. Leaves nothing behind when it fails.
    pub(super) fn prepare(&mut self) -> Result<Arc<Segment>, WalError> {
        let name = Segment::spare_name(self.next);
        let path = self.dir.join(&name);
        if let Ok(left) = Segment::open(&self.disk, &self.dir, &name, self.next)
            && left.bytes == self.options.segment_bytes
        {
            self.next += 1;
            return Ok(Arc::new(left));
        }
        match self.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(WalError::io("remove", &path, error));
            }
            _ => {}
        }
        // Never take the last bytes of a disk: databases beside the log need room to shrink.
        let free = self.disk.free_bytes(&self.dir).map_err(|error| WalError::io("look at", &self.dir, error))?;
        if free < self.options.segment_bytes.saturating_mul(2) {
            return Err(WalError::Full);
        }
        let made = self.fill(&path);
        if made.is_err() {
            // Best effort: the next try removes it too.
            let _ = self.disk.remove(&path);
        }
        let segment = made.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => WalError::Full,
            _ => WalError::io("prepare", &path, error),
        })?;
        self.next += 1;
        Ok(Arc::new(segment))
    }

    /// Zeros first, header last: a file with a valid header is whole.
    fn fill(&self, path: &Path) -> io::Result<Segment> {
        let bytes = self.options.segment_bytes;
        let file = self.disk.open(path, Open::CreateNew)?;
        let zeros = vec![0; ZEROS];
        let mut at = 0;
        while at < bytes {
            let step = usize::try_from(bytes - at).unwrap_or(ZEROS).min(ZEROS);
            file.write_all_at(&zeros[..step], at)?;
            at += step as u64;
        }
        file.sync_data()?;
        let salt = StdRng::seed_from_u64(self.options.seed ^ self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15)).next_u64();
        let header = SegmentHeader { segment: self.next, salt, bytes };
        file.write_all_at(&header.encode(), 0)?;
        file.sync_data()?;
        Ok(Segment { number: self.next, salt, bytes, file, live: AtomicU64::new(0) })
    }
}

/// The spare segments, between the thread that prepares and the one that writes.
#[derive(Debug, Default)]
pub(super) struct Spares {
    state: Mutex<SpareState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SpareState {
    ready: VecDeque<Arc<Segment>>,
    failed: Option<WalError>,
    stop: bool,
}

impl Spares {
    /// Keeps spares ready until [`Spares::stop`]; tells `report` after each try.
    pub(super) fn run(&self, mut preparer: Preparer, report: impl Fn(Option<&WalError>)) {
        loop {
            let mut state = lock(&self.state);
            while !state.stop && state.ready.len() >= SPARES {
                state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
            if state.stop {
                return;
            }
            drop(state);
            let made = preparer.prepare();
            report(made.as_ref().err());
            let mut state = lock(&self.state);
            match made {
                Ok(segment) => {
                    state.ready.push_back(segment);
                    state.failed = None;
                    self.changed.notify_all();
                }
                Err(error) => {
                    state.failed = Some(error);
                    self.changed.notify_all();
                    if !state.stop {
                        let waited = self.changed.wait_timeout(state, FULL_RETRY);
                        drop(waited);
                    }
                }
            }
        }
    }

    pub(super) fn stop(&self) {
        lock(&self.state).stop = true;
        self.changed.notify_all();
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.state).ready.len()
    }

    pub(super) fn push(&self, segment: Arc<Segment>) {
        lock(&self.state).ready.push_back(segment);
    }

    pub(super) fn put_back(&self, segment: Arc<Segment>) {
        lock(&self.state).ready.push_front(segment);
    }

    /// The next spare. `wait`: until one is ready or preparing failed.
    pub(super) fn take(&self, wait: bool) -> Result<Arc<Segment>, WalError> {
        let mut state = lock(&self.state);
        loop {
            if let Some(segment) = state.ready.pop_front() {
                self.changed.notify_all();
                return Ok(segment);
            }
            if state.stop || !wait {
                return Err(state.failed.clone().unwrap_or(WalError::Full));
            }
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}
