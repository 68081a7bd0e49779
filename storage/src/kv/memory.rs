//! The store in memory: for tests and simulation.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Batch, KeyRange, Kv, KvError, KvRead, Scan, Space, range_is_empty};

const ENGINE: &str = "memory";

/// The store in memory. A snapshot copies nothing until the next write, which then copies the tables it touches.
///
/// It knows what a power cut would leave: see [`MemoryKv::after_power_cut`].
#[derive(Debug)]
pub struct MemoryKv {
    spaces: Vec<Space>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    now: BTreeMap<Space, Arc<BTreeMap<Bytes, Bytes>>>,
    durable: BTreeMap<Space, Arc<BTreeMap<Bytes, Bytes>>>,
}

impl MemoryKv {
    /// An empty store with these spaces.
    #[must_use]
    pub fn new(spaces: &[Space]) -> Self {
        let empty: BTreeMap<_, _> = spaces.iter().map(|space| (*space, Arc::default())).collect();
        Self { spaces: spaces.to_vec(), state: Mutex::new(State { now: empty.clone(), durable: empty }) }
    }

    /// What a power cut at this moment would leave, in the worst case: what was persisted and nothing else.
    #[must_use]
    pub fn after_power_cut(&self) -> Self {
        let durable = self.lock().durable.clone();
        Self { spaces: self.spaces.clone(), state: Mutex::new(State { now: durable.clone(), durable }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave a map half changed: each change is one `insert` or `remove` of a whole value.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> View {
        View { tables: self.lock().now.clone() }
    }
}

impl KvRead for MemoryKv {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.view().get(space, key)
    }

    fn scan(&self, space: Space, range: KeyRange, reverse: bool) -> Scan<'_> {
        self.view().owned_scan(space, range, reverse)
    }
}

impl Kv for MemoryKv {
    fn write(&self, batch: Batch) -> Result<(), KvError> {
        batch.validate(ENGINE, &self.spaces)?;
        let mut state = self.lock();
        for (space, key, value) in batch.ops {
            let table = Arc::make_mut(state.now.entry(space).or_default());
            match value {
                Some(value) => table.insert(key, value),
                None => table.remove(&key),
            };
        }
        Ok(())
    }

    fn persist(&self) -> Result<(), KvError> {
        let mut state = self.lock();
        state.durable = state.now.clone();
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn KvRead> {
        Box::new(self.view())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

#[derive(Clone, Debug)]
struct View {
    tables: BTreeMap<Space, Arc<BTreeMap<Bytes, Bytes>>>,
}

impl View {
    fn table(&self, space: Space) -> Result<&Arc<BTreeMap<Bytes, Bytes>>, KvError> {
        self.tables
            .get(&space)
            .ok_or_else(|| KvError::Usage { engine: ENGINE, reason: format!("no space {:?}", space.0) })
    }

    /// Steps by seeking from the last key: lazy, and free of a borrow of the tables.
    fn owned_scan(&self, space: Space, range: KeyRange, reverse: bool) -> Scan<'static> {
        let table = match self.table(space) {
            Ok(table) => Arc::clone(table),
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        let mut range = range;
        Box::new(std::iter::from_fn(move || {
            // `BTreeMap::range` panics on bounds that cross.
            if range_is_empty(&range) {
                return None;
            }
            let mut entries = table.range(range.clone());
            let (key, value) = if reverse { entries.next_back() } else { entries.next() }?;
            let bound = Bound::Excluded(key.clone());
            if reverse {
                range.1 = bound;
            } else {
                range.0 = bound;
            }
            Some(Ok((key.clone(), value.clone())))
        }))
    }
}

impl KvRead for View {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(self.table(space)?.get(key).cloned())
    }

    fn scan(&self, space: Space, range: KeyRange, reverse: bool) -> Scan<'_> {
        self.owned_scan(space, range, reverse)
    }
}
