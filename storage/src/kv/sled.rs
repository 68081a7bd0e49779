//! sled: a choice for the chunk index, which packs can rebuild, and for nothing else.

use std::fmt;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::ByteSize;

use super::fjall::panic_text;
use super::headroom::Headroom;
use super::{Batch, KeyRange, Kv, KvError, KvRead, Scan, Space, range_is_empty};
use crate::disk::{Disk, RealDisk};

const ENGINE: &str = "sled";

/// Between the name of a space and a key, in the engine's one tree.
const SEPARATOR: u8 = 0;

/// The engine lets go of its lock some time after its last handle is gone; that long an open waits for it.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// What a store may use.
#[derive(Clone, Debug)]
pub struct SledOptions {
    /// Pages kept in memory; the engine's own tables come on top (about a tenth of the data on disk). Default 64 MiB.
    pub cache: ByteSize,
    /// Free bytes of the file system under which writes are refused with [`KvError::Full`]; 0 never refuses. Default
    /// 128 MiB.
    pub reserve: ByteSize,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { cache: ByteSize::mib(64), reserve: ByteSize::mib(128) }
    }
}

/// A store of the sled engine (0.34). **Only for what can be rebuilt.**
///
/// In eight power cuts under load everything that its flush had confirmed was lost twice, and opening panicked five
/// times (`docs/kv.md`). So [`Kv::persist`] promises nothing here, and a store that does not open is reported as
/// [`KvError::Damaged`]: remove it and rebuild. Beyond that it differs from the trait in one thing: there are no
/// snapshots. All reads of [`Kv::snapshot`] fail with [`KvError::Usage`], and a scan may show writes made while it runs.
pub struct SledKv {
    database: sled::Db,
    spaces: Vec<Space>,
    headroom: Headroom,
    damage: Arc<OnceLock<String>>,
}

impl SledKv {
    /// Opens or creates the store in the folder `path`, with these spaces.
    ///
    /// # Errors
    /// [`KvError::Damaged`] if what is there cannot be read, [`KvError::Usage`] for a bad name of a space,
    /// [`KvError::Other`] if another process has it open.
    pub fn open(path: &Path, spaces: &[Space], options: &SledOptions) -> Result<Self, KvError> {
        if let Some(bad) = spaces.iter().find(|space| space.0.is_empty() || space.0.as_bytes().contains(&SEPARATOR)) {
            return Err(KvError::Usage { engine: ENGINE, reason: format!("a space named {:?}", bad.0) });
        }
        let damage = Arc::new(OnceLock::new());
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(options.cache.bytes())
            .flush_every_ms(None)
            .print_profile_on_drop(false);
        let mut patience = LOCK_TRIES;
        let database = loop {
            let opened = call(&OnceLock::new(), || {
                RealDisk.create_dir_all(path)?;
                config.open()
            });
            match opened {
                Err(KvError::Damaged { reason, .. }) if reason.contains("could not acquire lock") => {
                    patience -= 1;
                    if patience == 0 {
                        let reason = "another process has it open".to_owned();
                        return Err(KvError::Other { engine: ENGINE, reason });
                    }
                    std::thread::sleep(LOCK_PAUSE);
                }
                opened => break opened?,
            }
        };
        let headroom = Headroom::new(ENGINE, path.to_path_buf(), options.reserve.bytes());
        Ok(Self { database, spaces: spaces.to_vec(), headroom, damage })
    }

    fn prefix(&self, space: Space) -> Result<Vec<u8>, KvError> {
        if !self.spaces.contains(&space) {
            return Err(KvError::Usage { engine: ENGINE, reason: format!("no space {:?}", space.0) });
        }
        let mut prefix = space.0.as_bytes().to_vec();
        prefix.push(SEPARATOR);
        Ok(prefix)
    }

    fn check(&self) -> Result<(), KvError> {
        match self.damage.get() {
            None => Ok(()),
            Some(reason) => Err(KvError::Damaged { engine: ENGINE, reason: reason.clone() }),
        }
    }
}

/// Calls the engine; a failure or a panic of it is damage, which is remembered.
///
/// The engine panics on damaged files, at open and later. Catching that is sound for us: after it nothing of the engine's
/// state is used for writes, and what reads give is checked by their reader (a chunk is verified against its name).
fn call<T>(damage: &OnceLock<String>, work: impl FnOnce() -> sled::Result<T>) -> Result<T, KvError> {
    let reason = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic_text(&*panic),
    };
    if damage.set(reason.clone()).is_ok() {
        tracing::error!(engine = ENGINE, reason, "the store takes no writes any more and must be rebuilt");
    }
    Err(KvError::Damaged { engine: ENGINE, reason })
}

impl KvRead for SledKv {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let mut full = self.prefix(space)?;
        full.extend_from_slice(key);
        let value = call(&self.damage, || self.database.get(full))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, space: Space, range: KeyRange, reverse: bool) -> Scan<'_> {
        let prefix = match self.prefix(space) {
            Ok(prefix) => prefix,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        if range_is_empty(&range) {
            return Box::new(std::iter::empty());
        }
        let skip = prefix.len();
        let mut entries = Some(self.database.range(full_range(&prefix, &range)));
        Box::new(std::iter::from_fn(move || {
            let iter = entries.as_mut()?;
            let next = call(&self.damage, || {
                let next = if reverse { iter.next_back() } else { iter.next() };
                next.transpose()
            });
            match next {
                Ok(entry) => {
                    entry.map(|(key, value)| Ok((Bytes::copy_from_slice(&key[skip..]), Bytes::copy_from_slice(&value))))
                }
                Err(error) => {
                    entries = None;
                    Some(Err(error))
                }
            }
        }))
    }
}

/// A range of a space as one of the whole tree.
fn full_range(prefix: &[u8], range: &KeyRange) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let full = |key: &Bytes| [prefix, key].concat();
    let low = match &range.0 {
        Bound::Unbounded => Bound::Included(prefix.to_vec()),
        bound => bound.as_ref().map(full),
    };
    let high = match &range.1 {
        Bound::Unbounded => {
            let mut end = prefix.to_vec();
            end.pop();
            end.push(SEPARATOR + 1);
            Bound::Excluded(end)
        }
        bound => bound.as_ref().map(full),
    };
    (low, high)
}

impl Kv for SledKv {
    fn write(&self, batch: Batch) -> Result<(), KvError> {
        batch.validate(ENGINE, &self.spaces)?;
        self.check()?;
        self.headroom.admit(&batch)?;
        let mut engine_batch = sled::Batch::default();
        for (space, key, value) in batch.ops {
            let mut full = self.prefix(space)?;
            full.extend_from_slice(&key);
            match value {
                Some(value) => engine_batch.insert(full, &value[..]),
                None => engine_batch.remove(full),
            }
        }
        call(&self.damage, || self.database.apply_batch(engine_batch))
    }

    fn persist(&self) -> Result<(), KvError> {
        self.check()?;
        call(&self.damage, || self.database.flush()).map(drop)
    }

    fn snapshot(&self) -> Box<dyn KvRead> {
        Box::new(NoSnapshot)
    }

    fn disk_bytes(&self) -> u64 {
        self.database.size_on_disk().unwrap_or(0)
    }
}

impl fmt::Debug for SledKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledKv").field("spaces", &self.spaces).field("damage", &self.damage).finish_non_exhaustive()
    }
}

/// What sled gives instead of a snapshot.
#[derive(Debug)]
struct NoSnapshot;

impl NoSnapshot {
    fn refuse() -> KvError {
        KvError::Usage { engine: ENGINE, reason: "this engine has no snapshots".to_owned() }
    }
}

impl KvRead for NoSnapshot {
    fn get(&self, _: Space, _: &[u8]) -> Result<Option<Bytes>, KvError> {
        Err(Self::refuse())
    }

    fn scan(&self, _: Space, _: KeyRange, _: bool) -> Scan<'_> {
        Box::new(std::iter::once(Err(Self::refuse())))
    }
}
