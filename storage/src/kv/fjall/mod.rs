//! fjall: the store of everything that must be kept.

mod journal;
mod mark;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::ByteSize;
use fjall::config::{CompressionPolicy, PartitioningPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use self::journal::Repair;
use self::mark::Mark;
use super::headroom::Headroom;
use super::{Batch, KeyRange, Kv, KvError, KvRead, Scan, Space, range_is_empty};
use crate::disk::{Disk, RealDisk};

const ENGINE: &str = "fjall";

/// Sealed memtables of a space, still to be flushed, at which writers wait. fjall itself waits at four, without looking
/// whether the thread that flushes still lives.
const SEALED_MEMTABLES_MAX: usize = 3;

/// Holds the number of the newest batch, so that it is journalled with it. See [`mark`].
const NUMBERS: &str = "causeway.batches";
const NUMBERS_MEMTABLE: u64 = 1 << 20;
const NUMBER_KEY: &[u8] = b"newest";

const LOCK: &str = "causeway.lock";

/// How often a waiting writer looks again.
const FLUSH_POLL: Duration = Duration::from_millis(1);

/// What a store may use.
///
/// Memory is at most about `cache` + spaces × 4 × `memtable` (one active, three waiting to be flushed) + 10–20 bytes of
/// filter and index a record of the upper levels; normally cache + one memtable a space in use.
#[derive(Clone, Debug)]
pub struct FjallOptions {
    /// Blocks of the tables kept in memory. Default 64 MiB.
    pub cache: ByteSize,
    /// Size at which the newest records of a space are flushed to a table. Applies to spaces when they are first
    /// created. Default 16 MiB.
    pub memtable: ByteSize,
    /// Size of all journals at which spaces are flushed to shorten them; bounds disk use and the time to reopen. At
    /// least 64 MiB. Default 128 MiB.
    pub journal: ByteSize,
    /// Free bytes of the file system under which writes are refused with [`KvError::Full`]; 0 never refuses. Default
    /// 128 MiB: the journal, the memtables and a compaction must still fit.
    pub reserve: ByteSize,
    /// Threads that flush and compact. Default 1.
    pub worker_threads: usize,
    /// Spaces of which the caller seldom asks for what is absent, as it has a filter of its own, and whose keys and values
    /// do not compress. Their oldest level, nine tenths of the records, has no filters. Applies to spaces when they are first
    /// created. Default none.
    pub filtered: &'static [Space],
}

impl Default for FjallOptions {
    fn default() -> Self {
        Self {
            cache: ByteSize::mib(64),
            memtable: ByteSize::mib(16),
            journal: ByteSize::mib(128),
            reserve: ByteSize::mib(128),
            worker_threads: 1,
            filtered: &[],
        }
    }
}

/// A store of the fjall engine (a log-structured merge tree with a journal).
///
/// - [`Kv::write`] hands the batch to the operating system without a sync: it survives the end of the process (also by
///   SIGKILL) but not a power cut.
/// - [`Kv::persist`] syncs the journal; callers at the same time share a sync.
/// - Snapshots are consistent over all spaces; they keep old versions from being compacted away, not from being flushed.
/// - After a power cut the store opens at an exact prefix of the batches. The torn end of a journal is cut (a copy stays
///   beside it as `.jnl.torn`); if a batch that a persist had confirmed is missing, opening fails.
/// - A failed write or sync, or a checksum that does not match, ends all writes until the store is opened again.
///   Whether the batch that met the failure took place is known only then.
pub struct FjallKv {
    database: Database,
    shared: Arc<Shared>,
    headroom: Headroom,
    /// Held while a batch is applied.
    turn: Mutex<()>,
    numbers: Keyspace,
    mark: Mark,
    /// The moment before the batch that is being applied, if one is. See [`FjallKv::apply`].
    before_batch: Mutex<Option<fjall::Snapshot>>,
    /// The number of the newest batch.
    written: AtomicU64,
    /// The number of the newest batch that the last sync covers, once there was one; locked while syncing.
    persisted: Mutex<Option<u64>>,
}

/// What opening gives.
struct Opened {
    database: Database,
    spaces: BTreeMap<Space, Keyspace>,
    numbers: Keyspace,
    mark: Mark,
    newest: u64,
    lock: File,
}

/// What a store and its snapshots share.
struct Shared {
    path: PathBuf,
    spaces: BTreeMap<Space, Keyspace>,
    names: Vec<Space>,
    damage: OnceLock<String>,
    /// Held as long as anything has the store open: the journals are looked at before the engine takes its own lock.
    _lock: File,
}

impl FjallKv {
    /// Opens or creates the store in the folder `path`, with these spaces. One process may have it open.
    ///
    /// # Errors
    /// [`KvError::Full`] if the disk has no room to open it, [`KvError::Damaged`] if what is there cannot be read,
    /// [`KvError::Usage`] for options out of range, [`KvError::Other`] if another process has it open.
    pub fn open(path: &Path, spaces: &[Space], options: &FjallOptions) -> Result<Self, KvError> {
        if options.worker_threads == 0 || options.journal < ByteSize::mib(64) || options.memtable.bytes() == 0 {
            let reason = format!("options out of range: {options:?}");
            return Err(KvError::Usage { engine: ENGINE, reason });
        }
        if spaces.iter().any(|space| space.0 == NUMBERS || space.0.is_empty() || space.0.len() > 255) {
            return Err(KvError::Usage { engine: ENGINE, reason: format!("a space cannot be named so: {spaces:?}") });
        }
        // What is damaged in a way that the engine did not foresee is found by its assertions.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_engine(path, spaces, options)));
        let Opened { database, spaces, numbers, mark, newest, lock } =
            opened.unwrap_or_else(|panic| Err(Failure::Damage(panic_text(&*panic)))).map_err(Failure::while_opening)?;
        let names = spaces.keys().copied().collect();
        let kv = Self {
            database,
            shared: Arc::new(Shared { path: path.to_path_buf(), spaces, names, damage: OnceLock::new(), _lock: lock }),
            headroom: Headroom::new(ENGINE, path.to_path_buf(), options.reserve.bytes()),
            turn: Mutex::new(()),
            numbers,
            mark,
            before_batch: Mutex::new(None),
            written: AtomicU64::new(newest),
            persisted: Mutex::new(None),
        };
        kv.persist()?;
        Ok(kv)
    }

    fn open_engine(path: &Path, spaces: &[Space], options: &FjallOptions) -> Result<Opened, Failure> {
        RealDisk.create_dir_all(path)?;
        let lock = File::create(path.join(LOCK))?;
        if lock.try_lock().is_err() {
            return Err(fjall::Error::Locked.into());
        }
        match journal::repair(path)? {
            Repair::Whole => {}
            Repair::Cut(bytes) => tracing::warn!(store = %path.display(), bytes, "cut a torn end off the journal"),
            Repair::Damaged(journal) => {
                return Err(Failure::Damage(format!("the journal {} is not whole", journal.display())));
            }
        }
        let database = Database::builder(path)
            .cache_size(options.cache.bytes())
            .max_journaling_size(options.journal.bytes())
            .worker_threads(options.worker_threads)
            .open()?;
        let create = |memtable: u64| in_parts(KeyspaceCreateOptions::default().max_memtable_size(memtable));
        let numbers = database.keyspace(NUMBERS, || create(NUMBERS_MEMTABLE))?;
        let mut keyspaces = BTreeMap::new();
        for space in spaces {
            let create = || {
                let created = create(options.memtable.bytes());
                if options.filtered.contains(space) { filtered(created) } else { created }
            };
            keyspaces.insert(*space, database.keyspace(space.0, create)?);
        }
        // The engine does not sync the names of the spaces' folders. Each time, since a kill may have come between.
        let mut folders = BTreeSet::new();
        for keyspace in keyspaces.values().chain([&numbers]) {
            folders.extend(keyspace.path().ancestors().take_while(|folder| folder.starts_with(path)));
        }
        for folder in folders {
            RealDisk.sync_dir(folder)?;
        }
        let newest = match numbers.get(NUMBER_KEY)? {
            None => 0,
            Some(bytes) => u64::from_be_bytes(
                bytes[..].try_into().map_err(|_| Failure::Damage("a batch number is not one".to_owned()))?,
            ),
        };
        let (mark, confirmed) = Mark::open(path)?;
        if newest < confirmed {
            let lost = confirmed - newest;
            return Err(Failure::Damage(format!("{lost} batches are missing that had been persisted")));
        }
        Ok(Opened { database, spaces: keyspaces, numbers, mark, newest, lock })
    }

    /// Why the store takes no writes any more, if so.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        self.shared.damage.get().cloned()
    }

    fn view(&self) -> View {
        let before = self.before_batch.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = before.as_ref().map_or_else(|| self.database.snapshot(), fjall::Snapshot::clone);
        View { snapshot, shared: Arc::clone(&self.shared) }
    }

    /// Applies a batch while readers are given the moment before it.
    ///
    /// The engine alone does not hide a batch that is being applied: a flush or a compaction that ends meanwhile takes the
    /// next sequence number for its new list of tables and publishes it, and with it all lower ones, among them that of
    /// the batch (lsm-tree 3.1.10, `SuperVersions::upgrade_version_with_seqno`). A snapshot opened then shows the part
    /// applied so far and, later, the rest. So no snapshot is opened between the two ends of a commit.
    fn apply(&self, mut batch: fjall::OwnedWriteBatch) -> Result<(), KvError> {
        let Ok(_turn) = self.turn.lock() else {
            // The engine panicked within a commit; readers stay at the moment before it.
            return Err(self.shared.stop("the engine panicked while it applied a batch".to_owned()));
        };
        let number = self.written.load(Ordering::Relaxed) + 1;
        batch.insert(&self.numbers, NUMBER_KEY, &number.to_be_bytes()[..]);
        let set = |moment| *self.before_batch.lock().unwrap_or_else(PoisonError::into_inner) = moment;
        set(Some(self.database.snapshot()));
        let done = batch.commit();
        set(None);
        done.map_err(|error| self.shared.fail(error))?;
        self.written.store(number, Ordering::Release);
        Ok(())
    }

    /// Waits while the flushing falls behind, so that memory stays bounded; ends with an error if flushing has died.
    fn wait_for_flush<'a>(&self, touched: impl Iterator<Item = &'a Keyspace>) -> Result<(), KvError> {
        for keyspace in touched {
            while keyspace.sealed_memtable_count() >= SEALED_MEMTABLES_MAX {
                // Fails if a worker thread has ended.
                self.database.persist(PersistMode::Buffer).map_err(|error| self.shared.fail(error))?;
                std::thread::sleep(FLUSH_POLL);
            }
        }
        Ok(())
    }
}

impl Shared {
    fn keyspace(&self, space: Space) -> Result<&Keyspace, KvError> {
        self.spaces
            .get(&space)
            .ok_or_else(|| KvError::Usage { engine: ENGINE, reason: format!("no space {:?}", space.0) })
    }

    fn check(&self) -> Result<(), KvError> {
        match self.damage.get() {
            None => Ok(()),
            Some(reason) => Err(KvError::Damaged { engine: ENGINE, reason: reason.clone() }),
        }
    }

    /// An engine's failure as ours; remembers it if writes must stop.
    fn fail(&self, error: fjall::Error) -> KvError {
        match Failure::Engine(error).into() {
            KvError::Damaged { reason, .. } => self.stop(reason),
            error => error,
        }
    }

    fn stop(&self, reason: String) -> KvError {
        if self.damage.set(reason.clone()).is_ok() {
            tracing::error!(store = %self.path.display(), reason, "the store takes no writes any more");
        }
        KvError::Damaged { engine: ENGINE, reason }
    }
}

impl KvRead for FjallKv {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        // Through a snapshot: the engine's own `get` sees the parts of a batch that is just being applied.
        self.view().get(space, key)
    }

    fn scan(&self, space: Space, range: KeyRange, reverse: bool) -> Scan<'_> {
        self.view().owned_scan(space, range, reverse)
    }
}

impl Kv for FjallKv {
    fn write(&self, batch: Batch) -> Result<(), KvError> {
        batch.validate(ENGINE, &self.shared.names)?;
        self.shared.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        self.headroom.admit(&batch)?;
        let touched: BTreeSet<Space> = batch.ops.iter().map(|(space, ..)| *space).collect();
        self.wait_for_flush(touched.iter().filter_map(|space| self.shared.spaces.get(space)))?;

        let mut engine_batch = self.database.batch();
        for (space, key, value) in batch.last_of_each_key() {
            let keyspace = self.shared.keyspace(space)?;
            match value {
                Some(value) => engine_batch.insert(keyspace, &key[..], &value[..]),
                None => engine_batch.remove(keyspace, &key[..]),
            }
        }
        self.apply(engine_batch)
    }

    fn persist(&self) -> Result<(), KvError> {
        let wanted = self.written.load(Ordering::Acquire);
        let mut persisted = self.persisted.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.check()?;
        if persisted.is_some_and(|persisted| persisted >= wanted) {
            return Ok(());
        }
        // Whatever was written while waiting for the lock is covered too.
        let covered = self.written.load(Ordering::Acquire);
        // Enough for the contents and what finds them; the times of the file are not worth a commit of the file system.
        self.database.persist(PersistMode::SyncData).map_err(|error| self.shared.fail(error))?;
        self.mark.set(covered);
        *persisted = Some(covered);
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn KvRead> {
        Box::new(self.view())
    }

    fn disk_bytes(&self) -> u64 {
        self.database.disk_space().unwrap_or(0)
    }
}

/// Filters and indexes of large tables are read in small parts. By default those of the upper levels are whole: of a table with four
/// million entries each read that missed the cache read 5 MB of filter, and ten million files did not load (docs/kv.md).
fn in_parts(options: KeyspaceCreateOptions) -> KeyspaceCreateOptions {
    // What comes straight from memory is small, and stays in memory.
    let parts = || PartitioningPolicy::new([false, true]);
    options.filter_block_partitioning_policy(parts()).index_block_partitioning_policy(parts())
}

/// The options of a space as in [`FjallOptions::filtered`].
fn filtered(options: KeyspaceCreateOptions) -> KeyspaceCreateOptions {
    options.expect_point_read_hits(true).data_block_compression_policy(CompressionPolicy::disabled())
}

/// The state at one moment.
struct View {
    snapshot: fjall::Snapshot,
    shared: Arc<Shared>,
}

impl View {
    fn owned_scan(&self, space: Space, range: KeyRange, reverse: bool) -> Scan<'static> {
        let keyspace = match self.shared.keyspace(space) {
            Ok(keyspace) => keyspace,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        if range_is_empty(&range) {
            return Box::new(std::iter::empty());
        }
        // Holds its own reference to the moment.
        let mut entries = Some(self.snapshot.range(keyspace, range));
        let shared = Arc::clone(&self.shared);
        Box::new(std::iter::from_fn(move || {
            let iter = entries.as_mut()?;
            let entry = if reverse { iter.next_back() } else { iter.next() }?;
            match entry.into_inner() {
                Ok((key, value)) => Some(Ok((copy(&key), copy(&value)))),
                Err(error) => {
                    entries = None;
                    Some(Err(shared.fail(error)))
                }
            }
        }))
    }
}

impl KvRead for View {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let keyspace = self.shared.keyspace(space)?;
        let value = self.snapshot.get(keyspace, key).map_err(|error| self.shared.fail(error))?;
        Ok(value.map(|value| copy(&value)))
    }

    fn scan(&self, space: Space, range: KeyRange, reverse: bool) -> Scan<'_> {
        self.owned_scan(space, range, reverse)
    }
}

impl fmt::Debug for FjallKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallKv")
            .field("path", &self.shared.path)
            .field("damage", &self.shared.damage)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallSnapshot")
            .field("path", &self.shared.path)
            .field("seqno", &self.snapshot.seqno())
            .finish_non_exhaustive()
    }
}

/// What went wrong below, before it is classed.
enum Failure {
    Engine(fjall::Error),
    Damage(String),
}

impl Failure {
    /// Nothing was being written, so a full disk is no more than that.
    fn while_opening(self) -> KvError {
        match &self {
            Self::Engine(fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io)))
                if io.kind() == io::ErrorKind::StorageFull =>
            {
                KvError::Full { engine: ENGINE }
            }
            _ => self.into(),
        }
    }
}

impl From<fjall::Error> for Failure {
    fn from(error: fjall::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Engine(error.into())
    }
}

impl From<Failure> for KvError {
    fn from(failure: Failure) -> Self {
        let error = match failure {
            Failure::Damage(reason) => return Self::Damaged { engine: ENGINE, reason },
            Failure::Engine(error) => error,
        };
        let reason = error.to_string();
        match &error {
            fjall::Error::Locked => Self::Other { engine: ENGINE, reason: "another process has it open".to_owned() },
            fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io)) if is_passing(io) => {
                Self::Other { engine: ENGINE, reason }
            }
            fjall::Error::Poisoned => {
                let reason = "an earlier write, sync or flush failed; open the store again".to_owned();
                Self::Damaged { engine: ENGINE, reason }
            }
            _ => Self::Damaged { engine: ENGINE, reason },
        }
    }
}

/// Failures that say nothing about the disk: out of file descriptors, of memory, or no permission.
fn is_passing(error: &io::Error) -> bool {
    let passing = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::NOMEM];
    error.kind() == io::ErrorKind::PermissionDenied
        || error.raw_os_error().is_some_and(|code| passing.iter().any(|errno| errno.raw_os_error() == code))
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the engine panicked: {}", text.unwrap_or("no message"))
}

/// The engine's slice keeps the whole block that it was read from in memory; a copy keeps only itself.
fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
