//! The replicated state of all groups of a node, in one key-value store, versioned by seq.
//!
//! A record is kept with the seq that wrote it; what a later seq replaced is kept too, with the interval in which it was
//! valid, until it is pruned. So a view of any retained seq, the changes between two of them, and a Raft snapshot taken
//! while applying all come from one mechanism. The layout is in `docs/formats/state.md`.
//!
//! Applying is atomic: records, digest, changes and the applied log id go into one batch of the store. It is not synced;
//! [`StateStore::persist`] is called before the log gives up entries, and a crash before that applies them again.

mod apply;
mod between;
mod cache;
mod changes;
mod forget;
mod install;
mod kept;
mod layout;
mod mark;
mod ring;
mod snapshot;
mod verify;
mod view;

#[cfg(test)]
mod kept_test;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use causeway_base::{Seq, Timestamp, VolumeId};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::records::ReadError;
use causeway_storage::disk::Disk;
use causeway_storage::kv::{Kv, KvError, KvRead, Space};

pub use apply::{Entry, Payload};
pub use between::{ChangedRecords, SeqChanges};
use cache::{RecordCache, Tenant};
pub use changes::{Changed, Changes};
pub use forget::ForgottenLine;
pub use layout::{Meta, Named, Position};
pub use mark::{DivergedMark, TrustMark};
pub use ring::{DigestMark, MARKS_MAX};
pub use snapshot::{SnapshotBlocks, SnapshotFile, SnapshotHeader, SnapshotReceiver};
pub use verify::AddedUp;
pub use view::StateView;
use view::ViewState;

/// Newest records: group, key → seq, value.
pub const CURRENT: Space = Space("state");
/// Replaced records: group, key, seq written (descending) → seq replaced, value.
pub const OLD: Space = Space("state-old");
/// What each seq changed: group, seq → keys.
pub const CHANGES: Space = Space("state-changes");
/// What is kept for snapshots: group, seq of the snapshot, key → seq of the version that it sees.
pub const KEPT: Space = Space("state-kept");
/// What a group has applied.
pub const META: Space = Space("state-meta");

/// The spaces that a store must have to hold states.
pub const STATE_SPACES: &[Space] = &[CURRENT, OLD, CHANGES, KEPT, META];

/// Why the state store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The key-value store refused.
    #[error("state of group {group}")]
    Kv {
        /// Which group.
        group: VolumeId,
        /// Why.
        #[source]
        source: KvError,
    },
    /// A record was not read, or does not decode.
    #[error("state of group {group}")]
    Read {
        /// Which group.
        group: VolumeId,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// Something that this store wrote does not read back.
    #[error("state of group {group} is damaged: {reason}")]
    Damaged {
        /// Which group.
        group: VolumeId,
        /// What is wrong.
        reason: String,
    },
    /// A snapshot that breaks its format or its checksums; the state is as it was.
    #[error("snapshot for group {group}: {reason}")]
    Snapshot {
        /// Which group.
        group: VolumeId,
        /// What is wrong.
        reason: String,
    },
    /// The replica is known to be wrong: read another.
    #[error(
        "this replica of group {group} differs from the others since seq {seq}; it is not read until it is repaired"
    )]
    Diverged {
        /// Which group.
        group: VolumeId,
        /// The seq at which it was found.
        seq: Seq,
    },
    /// The state was replaced under a part that still worked on the one before; nothing was changed.
    #[error("the state of group {0} was replaced")]
    Replaced(VolumeId),
    /// The operating system refused.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl StoreError {
    /// Whether the disk is full: nothing was changed, and it may go better later.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Kv { source, .. } => matches!(source, KvError::Full { .. }),
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

/// Why there is no view of a seq.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// Its versions were pruned, or are from before this replica's snapshot.
    #[error("seq {wanted} is not kept any more, the oldest is {oldest}")]
    TooOld {
        /// Asked for.
        wanted: Seq,
        /// The oldest that can be had.
        oldest: Seq,
    },
    /// Nothing that old is kept.
    #[error("states of that time are not kept any more; the oldest is seq {oldest}, of {since}")]
    TooEarly {
        /// The oldest that can be had.
        oldest: Seq,
        /// From when it is.
        since: Timestamp,
    },
    /// It is not applied here yet.
    #[error("seq {wanted} is not applied here yet, the newest is {applied}")]
    NotYet {
        /// Asked for.
        wanted: Seq,
        /// The newest.
        applied: Seq,
    },
    /// The store failed.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The states of all groups of a node. Calls block: from async code they go to a blocking thread, but for views and their
/// reads of single records, which are short.
pub struct StateStore {
    kv: Arc<dyn Kv>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cache: Arc<RecordCache>,
    groups: Mutex<BTreeMap<VolumeId, Arc<GroupStore>>>,
    /// Lines of which everything here was given up.
    forgotten: Mutex<BTreeSet<(VolumeId, Lineage)>>,
}

impl fmt::Debug for StateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateStore").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl StateStore {
    /// Opens the states in `kv`, which has [`STATE_SPACES`]; received snapshots go to the folder `dir`. What a crash left
    /// half installed is finished.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn open(kv: Arc<dyn Kv>, disk: Arc<dyn Disk>, dir: &Path) -> Result<Arc<Self>, StoreError> {
        let io = |source| StoreError::Io { action: "create", path: dir.to_owned(), source };
        disk.create_dir_all(dir).map_err(io)?;
        let forgotten = Mutex::new(forget::read(kv.as_ref())?);
        let (dir, cache) = (dir.to_owned(), Arc::default());
        let store = Arc::new(Self { kv, disk, dir, cache, groups: Mutex::default(), forgotten });
        // What a killed process wrote is readable but not yet durable, and the log may be purged up to it.
        let persisted = store.kv.persist();
        persisted.map_err(|source| StoreError::Kv { group: VolumeId::ROOT, source })?;
        let needed = store.finish_installs()?;
        store.remove_partial_snapshots(&needed)?;
        for (group, lineage) in store.forgotten() {
            store.clear_forgotten(group, lineage)?;
        }
        Ok(store)
    }

    /// The state of one group; blank if it has none.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn group(&self, id: VolumeId) -> Result<Arc<GroupStore>, StoreError> {
        let mut groups = lock(&self.groups);
        if let Some(group) = groups.get(&id) {
            return Ok(Arc::clone(group));
        }
        let group = Arc::new(GroupStore::open(self, id)?);
        groups.insert(id, Arc::clone(&group));
        Ok(group)
    }

    /// The newest state of a group. Repeated calls between two commits cost nothing.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn view(&self, group: VolumeId) -> Result<StateView, StoreError> {
        self.group(group)?.view()
    }

    /// The state of a group at a seq.
    ///
    /// # Errors
    /// Any [`ViewError`].
    pub fn view_at(&self, group: VolumeId, seq: Seq) -> Result<StateView, ViewError> {
        let group = self.group(group).map_err(|error| ReadError::Store(chain(&error)))?;
        group.view_at(seq)
    }

    /// Makes everything applied so far durable.
    ///
    /// # Errors
    /// [`KvError::Damaged`]: the store takes no writes any more.
    pub fn persist(&self) -> Result<(), KvError> {
        let applied: Vec<_> = lock(&self.groups).values().map(|group| (Arc::clone(group), group.applied())).collect();
        self.kv.persist()?;
        for (group, seq) in applied {
            group.persisted.fetch_max(seq.0, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Lets go of views that nobody asked for since the last call: a view keeps old data alive in the store.
    pub fn expire_views(&self) {
        let groups: Vec<_> = lock(&self.groups).values().cloned().collect();
        for group in groups {
            group.expire_view();
        }
    }

    fn snapshot_dir(&self) -> &Path {
        &self.dir
    }
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Who may apply; see [`GroupStore::enter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Era(u64);

/// The state of one group.
pub struct GroupStore {
    id: VolumeId,
    kv: Arc<dyn Kv>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cache: Arc<RecordCache>,
    /// Under which records of this state are in the cache.
    tenant: Mutex<Tenant>,
    /// Held while the state is written, which may take long.
    meta: Mutex<Meta>,
    /// The same for those who look; held for a moment only.
    published: Mutex<Meta>,
    applied: watch::Sender<Seq>,
    /// What can be compared with other replicas.
    ring: Mutex<ring::Ring>,
    diverged: Mutex<Option<DivergedMark>>,
    trusted: Mutex<Option<TrustMark>>,
    /// Counts those that were let in to apply, one after the other: only the last one may.
    era: AtomicU64,
    /// Counts what makes earlier states of this replica unreliable.
    generation: AtomicU64,
    persisted: AtomicU64,
    /// The newest view that was asked for.
    view: Mutex<Option<(Arc<ViewState>, bool)>>,
}

impl fmt::Debug for GroupStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupStore").field("id", &self.id).field("applied", &self.applied()).finish_non_exhaustive()
    }
}

impl GroupStore {
    fn open(store: &StateStore, id: VolumeId) -> Result<Self, StoreError> {
        let kv = Arc::clone(&store.kv);
        let meta = layout::read_meta(kv.as_ref() as &dyn KvRead, id)?;
        let applied = meta.seq();
        let ring = Mutex::new(ring::Ring::of(&meta));
        let diverged = mark::read(store.kv.as_ref(), id)?;
        Ok(Self {
            id,
            kv,
            disk: Arc::clone(&store.disk),
            dir: store.dir.clone(),
            tenant: Mutex::new(store.cache.tenant()),
            cache: Arc::clone(&store.cache),
            published: Mutex::new(meta.clone()),
            meta: Mutex::new(meta),
            applied: watch::Sender::new(applied),
            ring,
            generation: AtomicU64::new(diverged.is_some().into()),
            diverged: Mutex::new(diverged),
            trusted: Mutex::new(mark::read_trust(store.kv.as_ref(), id)?),
            era: AtomicU64::new(0),
            persisted: AtomicU64::new(applied.0),
            view: Mutex::default(),
        })
    }

    /// Which group.
    #[must_use]
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// The newest applied seq.
    #[must_use]
    pub fn applied(&self) -> Seq {
        *self.applied.borrow()
    }

    /// Tells of every newly applied seq (the newest only, if several were).
    #[must_use]
    pub fn watch_applied(&self) -> watch::Receiver<Seq> {
        self.applied.subscribe()
    }

    /// The newest seq that survives a power cut.
    #[must_use]
    pub fn persisted(&self) -> Seq {
        Seq(self.persisted.load(Ordering::Acquire))
    }

    /// What is applied: its log id, membership, digest, oldest seq.
    #[must_use]
    pub fn meta(&self) -> Meta {
        lock(&self.published).clone()
    }

    /// The newest state.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn view(&self) -> Result<StateView, StoreError> {
        let mut cached = lock(&self.view);
        let applied = self.applied();
        if let Some((state, used)) = &mut *cached
            && state.meta.seq() == applied
        {
            *used = true;
            return Ok(StateView::newest(Arc::clone(state)));
        }
        let state = ViewState::take(self.kv.as_ref(), self.id)?;
        let state = Arc::new(state.cached(&self.cache, *lock(&self.tenant)));
        *cached = Some((Arc::clone(&state), true));
        Ok(StateView::newest(state))
    }

    /// The state at a seq.
    ///
    /// # Errors
    /// Any [`ViewError`].
    pub fn view_at(&self, seq: Seq) -> Result<StateView, ViewError> {
        let newest = self.view().map_err(|error| ReadError::Store(chain(&error)))?;
        newest.at(seq)
    }

    fn expire_view(&self) {
        // While a snapshot is installed the view of before is the only whole one.
        let Ok(_idle) = self.meta.try_lock() else { return };
        let mut cached = lock(&self.view);
        if let Some((_, used)) = &mut *cached
            && !std::mem::take(used)
        {
            *cached = None;
        }
    }

    /// Shows what was written; `current` is what the writer holds.
    fn publish(&self, current: &mut Meta, written: Meta) {
        lock(&self.published).clone_from(&written);
        *current = written;
    }

    fn kv_error(&self, source: KvError) -> StoreError {
        StoreError::Kv { group: self.id, source }
    }

    fn damaged(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Damaged { group: self.id, reason: reason.into() }
    }

    /// The digest at the newest seq.
    #[must_use]
    pub fn digest(&self) -> Digest {
        lock(&self.published).digest
    }

    /// The membership at the newest seq, as the adaptor encoded it; empty if there is none.
    #[must_use]
    pub fn membership(&self) -> Bytes {
        lock(&self.published).membership.clone()
    }
}

/// The data under each lock is valid after any single statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
