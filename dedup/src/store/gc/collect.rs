//! Condemns and removes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use causeway_base::ChunkId;
use causeway_storage::disk::Disk;

use super::Pace;
use super::bases::{Bases, worth_whole};
use super::leases::{Lease, Leases};
use super::marks::{CONDEMNED_MAX, Condemnation, Marks};
use super::reached::Reached;
use crate::store::index::{Lookup, PackMeta};
use crate::store::{ChunkStore, StoreError, lock};

/// Chunks removed at once: whoever revives waits for one batch at most.
const SWEEP: usize = 256;
/// Index entries read at once.
const PAGE: usize = 4096;
/// Most deltas that one collection has written whole.
const STAND_ALONE_MAX: usize = 1 << 16;
/// Most notes of deltas that once stood on a removed chunk which are taken back with it. More are harmless: each is looked up.
const STALE_PAIRS: usize = 256;
/// What an index entry costs when work is paced.
const ENTRY_BYTES: u64 = 64;

/// The state of the collection in a store.
#[derive(Debug)]
pub(in crate::store) struct Gc {
    marks: RwLock<Marks>,
    /// Length of `marks.condemned`: nothing is locked while it is 0.
    condemned: AtomicUsize,
    leases: Arc<Leases>,
}

/// A look at everything that is reached, under way.
#[derive(Debug)]
#[must_use = "it does nothing before it is collected by"]
pub struct Mark {
    epoch: u64,
    /// The oldest lease when it began.
    leased: Option<u64>,
    /// What was reached so far: the caller adds to it.
    pub reached: Reached,
    /// What is only a copy of what others have, if some of that is to go.
    pub copies: Option<Copies>,
}

/// Chunks that others have as well, and how many of them are to go.
#[derive(Clone, Debug)]
pub struct Copies {
    /// Which; the caller adds to it. One that is reached too is kept.
    pub of: Reached,
    /// So many bytes of them are condemned, those in the oldest packs. What was condemned before goes, though it is a copy.
    pub bytes: u64,
}

impl Mark {
    /// Its number.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// Live records of a pack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Live {
    pub(in crate::store) chunks: u64,
    pub(in crate::store) bytes: u64,
    pub(in crate::store) raw_bytes: u64,
}

/// What a collection did; of a dry run, what it would have done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Of the mark.
    pub epoch: u64,
    /// Chunks in the index.
    pub chunks: u64,
    /// Their bytes in packs.
    pub bytes: u64,
    /// Of them, chunks that the mark did not reach.
    pub unreached: u64,
    /// Their bytes in packs.
    pub unreached_bytes: u64,
    /// Chunks that the mark did not reach and that are kept, since deltas stand on them.
    pub based: u64,
    /// Their bytes in packs.
    pub based_bytes: u64,
    /// Chunks that are condemned now for the first time.
    pub condemned: u64,
    /// Their bytes in packs.
    pub condemned_bytes: u64,
    /// Chunks that were condemned before and wait: for the end of the grace, or of a lease.
    pub waiting: u64,
    /// Of them, those that only a lease keeps.
    pub leased: u64,
    /// Chunks removed from the index.
    pub removed: u64,
    /// Their bytes, which the next repack gives back.
    pub removed_bytes: u64,
    /// Chunks that had been condemned and were reached or told here again.
    pub revived: u64,
    /// It was told to stop before the end: what is above is not all.
    pub stopped: bool,
    pub(in crate::store) live: BTreeMap<u32, Live>,
    /// Deltas that a repack writes whole: what they stand on costs more than they save.
    pub(in crate::store) stand_alone: Vec<ChunkId>,
}

impl Gc {
    /// Reads the marks of the last run. All they condemn counts as condemned now; and whoever was told that a chunk is here by
    /// that run still counts on it.
    pub(in crate::store) fn open(disk: &dyn Disk, dir: &Path) -> Self {
        let leases = Arc::<Leases>::default();
        let now = Condemnation { order: leases.tick(), at: leases.uptime().now() };
        let marks = Marks::load(disk, dir, now).unwrap_or_default();
        if !marks.condemned.is_empty() {
            leases.begin_unknown();
        }
        Self { condemned: AtomicUsize::new(marks.condemned.len()), marks: RwLock::new(marks), leases }
    }

    #[cfg(test)]
    pub(in crate::store) fn pass(&self, time: Duration) {
        self.leases.uptime().pass(time);
    }

    /// Of the last mark that was completed.
    pub(super) fn epoch(&self) -> u64 {
        self.read().epoch
    }

    fn read(&self) -> RwLockReadGuard<'_, Marks> {
        self.marks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> Writing<'_> {
        Writing { gc: self, marks: self.marks.write().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Someone is about to be told that these chunks are here, if they are. Comes before the look into the index: what phase 2
    /// removed before is then seen to be gone, and what is seen to be here phase 2 finds condemned no more.
    pub(in crate::store) fn revive<'a>(&self, ids: impl Iterator<Item = &'a ChunkId>) {
        if self.condemned.load(Ordering::Acquire) == 0 {
            return;
        }
        let found: Vec<&ChunkId> = {
            let marks = self.read();
            ids.filter(|id| marks.condemned.contains_key(*id)).collect()
        };
        if found.is_empty() {
            return;
        }
        let mut writing = self.write();
        for id in found {
            if writing.marks.condemned.remove(id).is_some() {
                writing.marks.revived += 1;
            }
        }
    }
}

/// Changes the marks, and keeps their count.
struct Writing<'a> {
    gc: &'a Gc,
    marks: RwLockWriteGuard<'a, Marks>,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.gc.condemned.store(self.marks.condemned.len(), Ordering::Release);
    }
}

impl ChunkStore {
    /// Begins a lease: what was condemned since then is not removed while it lives, and `linger` longer. Calls of the same
    /// `holder` that follow each other within that time go on with one lease.
    pub fn lease(&self, holder: Option<&str>, linger: Duration) -> Lease {
        self.gc.leases.begin(holder, linger)
    }

    /// Begins a mark. What the caller looks at to find what is reached must be read after this, and must hold every commit that
    /// was settled before.
    pub fn begin_mark(&self) -> Mark {
        let leased = self.gc.leases.oldest();
        let epoch = self.gc.read().epoch + 1;
        let chunks = self.stats().chunks;
        Mark { epoch, leased, reached: Reached::new(chunks, epoch), copies: None }
    }

    /// Begins a mark for a collection that also condemns so many bytes of copies.
    pub fn begin_eviction(&self, bytes: u64) -> Mark {
        let mark = self.begin_mark();
        let of = Reached::new(self.stats().chunks, mark.epoch);
        Mark { copies: Some(Copies { of, bytes }), ..mark }
    }

    /// The number of condemned chunks now.
    #[must_use]
    pub fn condemned(&self) -> u64 {
        self.gc.condemned.load(Ordering::Acquire) as u64
    }

    /// Both phases, with a mark that has reached everything that is to be kept: removes what was condemned before it began,
    /// `grace` or longer ago, and is still condemned; then condemns what it did not reach. A dry run changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::ReadOnly`]: some may have been removed.
    pub fn collect(&self, mark: Mark, grace: Duration, dry_run: bool, pace: Pace<'_>) -> Result<Collected, StoreError> {
        let mut done = Collected { epoch: mark.epoch, ..Collected::default() };
        self.ensure_writable()?;
        self.ensure_whole_index()?;
        let bases = Bases::of(self, pace)?;
        let mut phases = Phases { store: self, mark: &mark, bases, grace, dry_run, done: &mut done };
        phases.remove(pace)?;
        if !phases.done.stopped {
            phases.condemn(pace)?;
        }
        if !dry_run {
            phases.finish()?;
        }
        Ok(done)
    }
}

struct Phases<'a> {
    store: &'a ChunkStore,
    mark: &'a Mark,
    /// What deltas stand on.
    bases: Bases,
    grace: Duration,
    dry_run: bool,
    done: &'a mut Collected,
}

/// What becomes of a condemned chunk.
enum Fate {
    Reached,
    Waits,
    Leased,
    Goes,
}

impl Phases<'_> {
    fn gc(&self) -> &Gc {
        &self.store.gc
    }

    /// Phase 2 of earlier epochs.
    fn remove(&mut self, pace: Pace<'_>) -> Result<(), StoreError> {
        let (mut condemned, epochs) = {
            let marks = self.gc().read();
            let condemned: Vec<(ChunkId, u64)> = marks.condemned.iter().map(|(id, epoch)| (*id, *epoch)).collect();
            (condemned, marks.epochs.clone())
        };
        condemned.sort_unstable();
        let now = self.gc().leases.uptime().now();
        let (mark, grace, bases) = (self.mark, self.grace, std::mem::take(&mut self.bases));
        let fate = |id: &ChunkId, epoch: &u64| match epochs.get(epoch) {
            _ if mark.reached.contains(id) || bases.contains(id) => Fate::Reached,
            // The mark must have begun after the chunk was condemned.
            Some(condemnation) if *epoch < mark.epoch && condemnation.at + grace <= now => {
                // A lease that is as old, or older, may be of someone who was told of the chunk before it was condemned.
                match mark.leased {
                    Some(oldest) if oldest <= condemnation.order => Fate::Leased,
                    _ => Fate::Goes,
                }
            }
            Some(_) | None => Fate::Waits,
        };
        for batch in condemned.chunks(SWEEP) {
            let (mut reached, mut going) = (Vec::new(), Vec::new());
            for (id, epoch) in batch {
                match fate(id, epoch) {
                    Fate::Reached => reached.push(*id),
                    Fate::Waits => self.done.waiting += 1,
                    Fate::Leased => {
                        self.done.waiting += 1;
                        self.done.leased += 1;
                    }
                    Fate::Goes => going.push((*id, *epoch)),
                }
            }
            self.sweep(&reached, &going)?;
            if !pace(batch.len() as u64 * ENTRY_BYTES) {
                self.done.stopped = true;
                break;
            }
        }
        self.bases = bases;
        Ok(())
    }

    /// Pardons some, removes others, unless they were revived meanwhile.
    fn sweep(&mut self, reached: &[ChunkId], going: &[(ChunkId, u64)]) -> Result<(), StoreError> {
        let _gate = self.store.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.store.ensure_whole_index()?; // else a base may seem to bear nothing
        let mut writing = self.store.gc.write();
        let condemned = &mut writing.marks.condemned;
        let still: Vec<ChunkId> =
            going.iter().filter(|(id, epoch)| condemned.get(id) == Some(epoch)).map(|(id, _)| *id).collect();
        let mut removed = Vec::with_capacity(still.len());
        let mut packs = BTreeSet::new();
        let (mut kept, mut stale) = (BTreeSet::new(), Vec::new());
        for id in &still {
            // Whatever `bases` saw: nothing goes that a delta stands on. One that is being made has pinned it, or will find it
            // gone, since it revives it first and that waits for this.
            if self.store.pins.holds(id) || self.store.has_dependents(id)? {
                kept.insert(*id);
                continue;
            }
            if let (Lookup::At(location), stood_on) = self.store.index.find(id)? {
                self.done.removed += 1;
                self.done.removed_bytes += location.share();
                stale.extend(self.store.index.dependents(Some(id), None, STALE_PAIRS)?);
                removed.push((*id, stood_on));
                packs.insert(location.pack);
            }
        }
        if self.dry_run {
            self.done.revived += reached.len() as u64;
            return Ok(());
        }
        let metas = self.thin(packs)?;
        self.store.index.remove(&removed, &metas)?;
        self.store.index.forget_dependents(&stale)?;
        for id in still.iter().filter(|id| !kept.contains(*id)) {
            condemned.remove(id);
        }
        for id in reached {
            self.done.revived += u64::from(condemned.remove(id).is_some());
        }
        Ok(())
    }

    /// Marks packs as thinned; gives the marks to write. They are those that are written, not those of the writer: its own
    /// may tell of records that are not in the index yet. (One that is written meanwhile is replaced by one that claims
    /// less, which does no harm.)
    fn thin(&self, packs: BTreeSet<u32>) -> Result<Vec<(u32, PackMeta)>, StoreError> {
        let mut metas = Vec::new();
        for pack in packs {
            let thinned = match lock(&self.store.writer).metas.get_mut(&pack) {
                Some(meta) => std::mem::replace(&mut meta.thinned, true),
                None => true,
            };
            if !thinned && let Some(written) = self.store.index.meta(pack)? {
                metas.push((pack, PackMeta { thinned: true, ..written }));
            }
        }
        Ok(metas)
    }

    /// Whether others have it as well, and nobody here needs it to stay.
    fn is_copy(&self, id: &ChunkId) -> bool {
        self.mark.copies.as_ref().is_some_and(|copies| copies.of.contains(id))
    }

    /// The first pack in which copies stay: those in older ones are as many bytes as are to be condemned.
    fn copies_from(&self) -> Result<u32, StoreError> {
        let Some(copies) = self.mark.copies.as_ref().filter(|copies| copies.bytes > 0) else { return Ok(0) };
        let mut in_pack = BTreeMap::<u32, u64>::new();
        let mut after = None;
        loop {
            let page = {
                let _gate = self.store.gate.read().unwrap_or_else(PoisonError::into_inner);
                self.store.index.page(after, PAGE)?
            };
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (id, location) in &page {
                if !self.mark.reached.contains(id) && copies.of.contains(id) {
                    *in_pack.entry(location.pack).or_default() += location.share();
                }
            }
        }
        let mut left = copies.bytes;
        for (pack, bytes) in &in_pack {
            if left == 0 {
                return Ok(*pack);
            }
            left = left.saturating_sub(*bytes);
        }
        Ok(u32::MAX)
    }

    /// Phase 1 of this epoch; also counts what lives in each pack.
    fn condemn(&mut self, pace: Pace<'_>) -> Result<(), StoreError> {
        let copies_from = self.copies_from()?;
        let mut after = None;
        loop {
            let page = {
                let _gate = self.store.gate.read().unwrap_or_else(PoisonError::into_inner);
                self.store.index.page(after, PAGE)?
            };
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            let (mut unreached, mut only_based) = (Vec::new(), Vec::new());
            for (id, location) in &page {
                let bytes = location.share();
                self.done.chunks += 1;
                self.done.bytes += bytes;
                let live = self.done.live.entry(location.pack).or_default();
                live.chunks += 1;
                live.bytes += bytes;
                live.raw_bytes += u64::from(location.raw_len);
                let stays = location.pack >= copies_from && self.is_copy(id);
                if !stays && !self.mark.reached.contains(id) {
                    self.done.unreached += 1;
                    self.done.unreached_bytes += bytes;
                    if self.bases.contains(id) {
                        self.done.based += 1;
                        self.done.based_bytes += bytes;
                        only_based.push((*id, *location));
                    } else {
                        unreached.push((*id, bytes));
                    }
                }
            }
            if !unreached.is_empty() {
                let mut writing = self.store.gc.write();
                let condemned = &mut writing.marks.condemned;
                for (id, bytes) in unreached {
                    if condemned.contains_key(&id) || condemned.len() >= CONDEMNED_MAX {
                        continue;
                    }
                    self.done.condemned += 1;
                    self.done.condemned_bytes += bytes;
                    if !self.dry_run {
                        condemned.insert(id, self.mark.epoch);
                    }
                }
            }
            for (id, location) in only_based {
                if self.done.stand_alone.len() < STAND_ALONE_MAX {
                    let deltas = worth_whole(self.store, &id, location, |id| self.mark.reached.contains(id))?;
                    self.done.stand_alone.extend(deltas);
                }
            }
            if !pace(page.len() as u64 * ENTRY_BYTES) {
                self.done.stopped = true;
                return Ok(());
            }
        }
    }

    /// Ends the epoch, and keeps the marks. Without them a restart only takes longer.
    fn finish(&mut self) -> Result<(), StoreError> {
        if !self.done.stopped {
            self.forget_corrupt()?;
        }
        // Whatever lease began before the last chunk was condemned comes before this.
        let leases = &self.gc().leases;
        let end = Condemnation { order: leases.tick(), at: leases.uptime().now() };
        let gc = &self.store.gc;
        let marks = {
            let mut writing = gc.write();
            let marks = &mut writing.marks;
            marks.epoch = self.mark.epoch;
            marks.epochs.insert(self.mark.epoch, end);
            marks.tidy();
            self.done.revived += std::mem::take(&mut marks.revived);
            Marks { epoch: marks.epoch, condemned: marks.condemned.clone(), ..Marks::default() }
        };
        let files = &self.store.files;
        if let Err(error) = marks.store(files.disk(), files.dir()) {
            tracing::warn!(%error, dir = %files.dir().display(), "the marks of the garbage collection were not written");
        }
        Ok(())
    }

    /// A corrupt chunk that nothing reaches, and on which nothing stands, is owed to nobody.
    fn forget_corrupt(&self) -> Result<(), StoreError> {
        let ids = self.store.corrupt_alone();
        let owed = |id: &ChunkId| self.mark.reached.contains(id) || self.bases.contains(id);
        let forgotten: Vec<ChunkId> = ids.into_iter().filter(|id| !owed(id)).collect();
        self.store.index.forget_corrupt(&forgotten)?;
        let mut corrupt = lock(&self.store.corrupt);
        for id in &forgotten {
            corrupt.remove(id);
        }
        Ok(())
    }
}
