//! A filter in memory before an ordered store: it answers for nearly all keys that are not there, without a look into the store.
//!
//! A blocked Bloom filter in shards; a look-up touches one cache line. A shard covers a range of the store's keys, and is
//! built from a scan of that range, so nothing is kept on disk and nothing can be stale. That happens
//!
//! - when look-ups of absent keys have cost about as much as the scan does (a store that was just opened knows nothing),
//! - when the shard is full: it gets twice the room. The shards' sizes differ, so that they do not all grow at once,
//! - when many of its keys were removed, and look-ups of absent keys pay for it.
//!
//! **It never says that a key is absent which is there.** A key is entered before it is written, and nobody is between the two
//! when a scan begins; what is entered during a scan goes to the old bits and to the new ones. A removed key leaves its bits.
//! What it says wrongly the other way costs a look into the store.

mod bits;

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use causeway_storage::kv::KvError;

use bits::Bits;

/// Keys for which a shard has room at first; up to twice as many, by its number.
const CAPACITY_MIN: f64 = 64.0;
/// A look into the store costs as much as scanning so many keys.
const KEYS_A_LOOK: usize = 32;

/// Where a key falls. The parts must be as good as random, and the shard must follow from a range of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) shard: usize,
    pub(crate) block: u64,
    pub(crate) bits: u64,
}

/// Is told a key that is in the store; whether to go on.
pub(crate) type Found<'a> = dyn FnMut(Probe) -> bool + 'a;
/// Tells the keys of a shard that are in the store.
type Keys = dyn Fn(usize, &mut Found<'_>) -> Result<(), KvError> + Send + Sync;

/// The filter.
pub(crate) struct Filter {
    shards: Box<[Shard]>,
    bits_per_key: usize,
    /// Shared by who enters keys and writes them; exclusive for a moment when a scan begins.
    adding: RwLock<()>,
    keys: Box<Keys>,
}

#[derive(Default)]
struct Shard {
    state: RwLock<State>,
    /// Held by who builds it.
    building: Mutex<()>,
    /// Keys entered since it was built, removed ones too.
    entered: AtomicU32,
    removed: AtomicU32,
    /// Look-ups that went to the store in vain since it was built.
    misses: AtomicU32,
}

#[derive(Default)]
struct State {
    /// `None` while it knows nothing.
    bits: Option<Bits>,
    /// What was entered while it is being built.
    late: Option<Mutex<Vec<Probe>>>,
}

impl Filter {
    /// A filter that knows nothing yet, with a number of shards, and of bits for each key when a shard is full: 12 leave 0.4 %
    /// of look-ups of absent keys to the store, 8 leave 2.5 %. `keys` tells all keys of a shard that are in the store.
    pub(crate) fn new(
        shards: usize,
        bits_per_key: usize,
        keys: impl Fn(usize, &mut Found<'_>) -> Result<(), KvError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            bits_per_key,
            adding: RwLock::default(),
            keys: Box::new(keys),
        }
    }

    /// What `find` finds in the store, which is asked only if the key may be there.
    pub(crate) fn find<T>(
        &self,
        probe: Probe,
        find: impl FnOnce() -> Result<Option<T>, KvError>,
    ) -> Result<Option<T>, KvError> {
        let shard = &self.shards[probe.shard];
        if read(&shard.state).bits.as_ref().is_some_and(|bits| !bits.has(probe)) {
            return Ok(None);
        }
        let found = find()?;
        if found.is_none() {
            let misses = shard.misses.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            if shard.may_be_worth_a_scan(misses) {
                self.build(probe.shard, misses as usize * KEYS_A_LOOK);
            }
        }
        Ok(found)
    }

    /// Enters keys, then has them written. All keys that come into the store come this way.
    pub(crate) fn add<T>(&self, probes: &[Probe], write: impl FnOnce() -> T) -> T {
        let mut full = Vec::new();
        let done = {
            let _adding = read(&self.adding);
            for probe in probes {
                if self.enter(*probe) {
                    full.push(probe.shard);
                }
            }
            write()
        };
        full.sort_unstable();
        full.dedup();
        full.into_iter().for_each(|shard| self.build(shard, usize::MAX));
        done
    }

    /// A key was removed.
    pub(crate) fn removed(&self, probe: Probe) {
        self.shards[probe.shard].removed.fetch_add(1, Ordering::Relaxed);
    }

    /// Has everything removed by `clear`, while nothing is entered. Only if that succeeds are all keys forgotten.
    pub(crate) fn clear<E>(&self, clear: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let _adding = write(&self.adding);
        clear()?;
        for shard in &self.shards {
            let mut state = write(&shard.state);
            state.bits = Some(Bits::default()); // a build under way ends as one that saw what is gone now
            shard.count(0);
        }
        Ok(())
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        let bits = |shard: &Shard| read(&shard.state).bits.as_ref().map_or(0, Bits::bytes);
        self.shards.iter().map(bits).sum::<u64>() + size_of_val(&*self.shards) as u64
    }

    /// True if the shard is over its capacity.
    fn enter(&self, probe: Probe) -> bool {
        let shard = &self.shards[probe.shard];
        loop {
            let state = read(&shard.state);
            match &state.bits {
                Some(bits) if bits.is_empty() => {}
                bits => {
                    if let Some(late) = &state.late {
                        late.lock().unwrap_or_else(PoisonError::into_inner).push(probe);
                    }
                    let Some(bits) = bits else { return false };
                    let new = u32::from(bits.set(probe));
                    return shard.entered.fetch_add(new, Ordering::Relaxed) + new > bits.capacity();
                }
            }
            drop(state);
            let mut state = write(&shard.state);
            if state.bits.as_ref().is_some_and(Bits::is_empty) {
                state.bits = Some(self.room_for(probe.shard, 0));
            }
        }
    }

    /// Builds a shard from what the store has, unless that are more than `most` keys, or it is under way, or keys are being
    /// entered: there will be another time.
    fn build(&self, number: usize, most: usize) {
        let shard = &self.shards[number];
        let _building = match shard.building.try_lock() {
            Ok(building) => building,
            Err(TryLockError::Poisoned(building)) => building.into_inner(), // it begins anew below
            Err(TryLockError::WouldBlock) => return,
        };
        {
            // Whoever entered a key before this has written it, so the scan finds it; the others add it to `late`.
            let _adding = match self.adding.try_write() {
                Ok(adding) => adding,
                Err(TryLockError::Poisoned(adding)) => adding.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            write(&shard.state).late = Some(Mutex::default());
        }
        let mut found = Vec::new();
        let scanned = (self.keys)(number, &mut |probe| {
            found.push(probe);
            found.len() <= most
        });
        if scanned.is_err() || found.len() > most {
            write(&shard.state).late = None;
            if let Err(error) = scanned {
                tracing::warn!(%error, "a part of a filter was not built: more look-ups go to the store");
            }
            return;
        }
        let bits = self.room_for(number, found.len());
        let enter = |probes: &[Probe]| probes.iter().filter(|probe| bits.set(**probe)).count();
        let mut entered = enter(&found);
        let mut state = write(&shard.state);
        let late = state.late.take().unwrap_or_default().into_inner().unwrap_or_else(PoisonError::into_inner);
        entered += enter(&late);
        shard.count(entered);
        state.bits = Some(bits);
    }

    /// Room for a quarter more keys than there are, at least. A shard's sizes are powers of two times a factor of its own.
    fn room_for(&self, shard: usize, keys: usize) -> Bits {
        let mixed = (shard as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let mut capacity = CAPACITY_MIN * (mixed as f64 / f64::from(1 << 24)).exp2();
        while capacity < keys as f64 * 1.25 {
            capacity *= 2.0;
        }
        Bits::new(capacity as usize, self.bits_per_key)
    }
}

impl Shard {
    /// How many keys a scan would find is known only afterwards: one that finds too many is given up, until there are twice
    /// as many misses.
    fn may_be_worth_a_scan(&self, misses: u32) -> bool {
        let removed = || u64::from(self.removed.load(Ordering::Relaxed));
        let entered = || u64::from(self.entered.load(Ordering::Relaxed));
        misses.is_power_of_two() && (read(&self.state).bits.is_none() || removed() * 4 > entered())
    }

    fn count(&self, entered: usize) {
        self.entered.store(u32::try_from(entered).unwrap_or(u32::MAX / 2), Ordering::Relaxed);
        self.removed.store(0, Ordering::Relaxed);
        self.misses.store(0, Ordering::Relaxed);
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("shards", &self.shards.len())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// Nothing here is left half changed by a panic: a build that ended in one is begun anew, and its `late` only grows till then.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// The finalizer of splitmix64.
pub(crate) const fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests;
