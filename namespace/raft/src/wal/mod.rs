//! One write-ahead log per node, shared by all groups.
//!
//! Appends of all groups that arrive while a sync runs are written together by the next one: the cost of an fsync is shared,
//! also between groups. One writer writes frame after frame into pre-zeroed segments (so that a sync has no metadata to
//! write); the next frame is written only after the one before is durable. That order is what recovery rests on: an invalid
//! frame with a valid one behind it is damage, and refused; one with nothing valid behind it was never acknowledged, and cut.
//!
//! - `format`: frames and records as bytes (`docs/formats/wal.md`).
//! - `segment`: the files, spare ones prepared ahead.
//! - `group`: what a group has in the log: its index, and recent entries in memory.
//! - `writer`: batches, syncs, rotates.
//! - `reclaim`: removes old segments; moves what lives in them if little does, so that no idle group pins the log.
//! - `recovery`: reads it all back.
//!
//! Lost on a crash: what was not acknowledged. After a failed write or sync nothing is acknowledged any more
//! ([`WalError::Poisoned`]) until a restart has read what is really there.

mod format;
mod group;
mod queue;
mod reclaim;
mod recovery;
mod segment;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use causeway_base::VolumeId;
use causeway_storage::disk::Disk;

pub use format::RECORD_BYTES_MAX;
use group::GroupState;
pub use group::{Done, GroupLog};
use queue::Queue;
pub use recovery::Recovery;
use writer::Writer;

/// How the log behaves.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// Size of a segment file in bytes, at least 64 KiB and twice the largest record in use. Two prepared spares and the
    /// active one exist at any time, so a node needs three times this and what it stores.
    pub segment_bytes: u64,
    /// Bytes of recent entries kept in memory, over all groups; not yet durable entries are kept beyond it.
    pub cache_bytes: usize,
    /// Bytes that may wait for the writer before an append waits: bounds memory.
    pub queue_bytes: usize,
    /// Where the salts of new segments come from.
    pub seed: u64,
    /// Whether a thread writes. `false` writes in the caller's thread: for simulation.
    pub threaded: bool,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self { segment_bytes: 32 << 20, cache_bytes: 64 << 20, queue_bytes: 64 << 20, seed: 0, threaded: true }
    }
}

/// Why the log did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// The disk is full: new entries are refused, what was accepted is finished. Goes away by itself when space returns.
    #[error("the log's disk is full")]
    Full,
    /// A write or a sync failed: nothing can be promised any more until a restart.
    #[error("the log takes no writes since: {0}")]
    Poisoned(String),
    /// A frame that was durable does not read back. Nothing was changed on disk.
    #[error("log segment {file} is damaged at byte {offset}: {reason}")]
    Damaged {
        /// File name.
        file: String,
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The operating system refused.
    #[error("log {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
    /// Entries that do not follow the log's end, or are too large.
    #[error("bad use of the log: {0}")]
    Usage(String),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

impl WalError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }
}

impl From<WalError> for io::Error {
    fn from(error: WalError) -> Self {
        let kind = match &error {
            WalError::Full => io::ErrorKind::StorageFull,
            WalError::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Whether the log takes entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalState {
    /// It does.
    Ok,
    /// The disk is full: callers refuse new work at the door. What they accepted before still fits.
    Full,
    /// A write or sync failed.
    Poisoned(String),
}

/// Sizes and counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Segment files with records.
    pub segments: u64,
    /// Bytes of records that are still needed.
    pub live_bytes: u64,
    /// Syncs.
    pub syncs: u64,
    /// Records written.
    pub records: u64,
    /// Bytes written, frames included.
    pub written_bytes: u64,
    /// Bytes of live records moved out of old segments.
    pub moved_bytes: u64,
}

/// The log of a node. Dropping it closes it.
pub struct Wal {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").field("dir", &self.shared.dir).field("state", &self.state()).finish_non_exhaustive()
    }
}

/// What the handles, the writer and the groups share.
#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: WalOptions,
    groups: RwLock<BTreeMap<VolumeId, Arc<GroupState>>>,
    queue: Queue,
    state: Mutex<WalState>,
    stats: Mutex<WalStats>,
    /// The writer, when no thread owns it.
    inline: Mutex<Option<Writer>>,
}

impl Wal {
    /// Opens the log in `dir`, or starts one, and reads back what it holds. Blocks; start-up only.
    ///
    /// # Errors
    /// [`WalError::Damaged`] names the file and place; nothing on disk was changed then. [`WalError::Io`].
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: WalOptions) -> Result<(Self, Recovery), WalError> {
        if options.segment_bytes < 64 << 10 || options.segment_bytes > 1 << 30 {
            return Err(WalError::Usage(format!("segments of {} bytes: 64 KiB to 1 GiB", options.segment_bytes)));
        }
        disk.create_dir_all(dir).map_err(|error| WalError::io("create", dir, error))?;
        let recovered = recovery::recover(&disk, dir, &options)?;
        let shared = Arc::new(Shared {
            disk,
            dir: dir.to_owned(),
            queue: Queue::new(options.queue_bytes),
            groups: RwLock::new(recovered.groups),
            state: Mutex::new(WalState::Ok),
            stats: Mutex::new(WalStats::default()),
            inline: Mutex::new(None),
            options,
        });
        let writer = Writer::start(Arc::clone(&shared), recovered.segments, recovered.tail)?;
        let thread = if shared.options.threaded {
            let spawned = std::thread::Builder::new().name("wal".to_owned()).spawn(move || writer.run());
            Some(spawned.map_err(|error| WalError::io("start the writer of", dir, error))?)
        } else {
            *lock(&shared.inline) = Some(writer);
            None
        };
        Ok((Self { shared, thread: Mutex::new(thread) }, recovered.report))
    }

    /// The log of a group; empty if nothing was written for it yet.
    #[must_use]
    pub fn group(&self, id: VolumeId) -> GroupLog {
        let mut groups = self.shared.groups.write().unwrap_or_else(PoisonError::into_inner);
        let state = Arc::clone(groups.entry(id).or_insert_with(|| Arc::new(GroupState::new(id))));
        GroupLog::new(Arc::clone(&self.shared), state)
    }

    /// The groups that have something in the log.
    #[must_use]
    pub fn groups(&self) -> Vec<VolumeId> {
        self.shared.groups.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Whether it takes entries.
    #[must_use]
    pub fn state(&self) -> WalState {
        lock(&self.shared.state).clone()
    }

    /// Sizes and counts.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        self.shared.stats()
    }

    /// Writes out what waits, and stops. Appends fail with [`WalError::Closed`] afterwards. Blocks.
    pub fn close(&self) {
        self.shared.queue.close();
        self.shared.drive();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the log's writer panicked");
        }
        lock(&self.shared.inline).take();
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Runs the writer in this thread, if no other does.
    fn drive(&self) {
        if !self.options.threaded
            && let Some(writer) = lock(&self.inline).as_mut()
        {
            writer.drain();
        }
    }

    fn stats(&self) -> WalStats {
        *lock(&self.stats)
    }

    fn set_state(&self, state: WalState) {
        let mut current = lock(&self.state);
        if matches!(*current, WalState::Poisoned(_)) || *current == state {
            return;
        }
        match &state {
            WalState::Ok => tracing::info!("the log has space again"),
            WalState::Full => tracing::error!("the log's disk is full: new entries are refused"),
            WalState::Poisoned(reason) => tracing::error!(reason, "the log takes no writes any more"),
        }
        *current = state;
    }

    fn poisoned(&self) -> Option<WalError> {
        match &*lock(&self.state) {
            WalState::Poisoned(reason) => Some(WalError::Poisoned(reason.clone())),
            WalState::Ok | WalState::Full => None,
        }
    }
}

/// The data under each lock is valid after any single statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
