//! Records of the newest states that were read or changed lately.
//!
//! An entry is what the newest state of a group holds under a key. Before the writer changes a record it takes the entry out and
//! raises the shard's floor to the seq of the change; only a reader whose snapshot of the store has at least that seq may put an
//! entry in again. So an entry is true for every seq from the one that wrote it on, and a view that is older than that seq does
//! not use it. A state that is replaced as a whole gets another [`Tenant`], so that nothing of the one before is found.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use causeway_base::Seq;

use super::lock;

/// Parts with a lock each.
const SHARDS: usize = 32;
/// Bytes after which a shard's generation is the older one, and what was the older one goes.
const GENERATION_BYTES: usize = 512 << 10;
/// What an entry takes beside key and value, about.
const ENTRY_BYTES: usize = 112;
/// Larger values are not kept.
const VALUE_BYTES_MAX: usize = 16 << 10;

/// Whose records: one state of one group. Ids are never used again within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tenant(u64);

/// Bounded: at most 32 MiB for all groups of a node.
#[derive(Debug)]
pub(super) struct RecordCache {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    tenants: AtomicU64,
}

#[derive(Debug)]
struct Cached {
    tenant: Tenant,
    written: Seq,
    value: Bytes,
}

#[derive(Debug, Default)]
struct Shard {
    /// By key in the store, which begins with the group.
    young: HashMap<Bytes, Cached>,
    old: HashMap<Bytes, Cached>,
    /// Of `young`.
    bytes: usize,
    /// The newest seq that changed a record of the shard.
    floors: BTreeMap<Tenant, Seq>,
}

impl Shard {
    fn put(&mut self, key: Bytes, cached: Cached) {
        self.bytes += key.len() + cached.value.len() + ENTRY_BYTES;
        self.young.insert(key, cached);
        if self.bytes > GENERATION_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
    }

    fn take(&mut self, key: &[u8]) -> Option<Cached> {
        let young = self.young.remove(key);
        if let Some(cached) = &young {
            self.bytes = self.bytes.saturating_sub(key.len() + cached.value.len() + ENTRY_BYTES);
        }
        let old = self.old.remove(key);
        young.or(old)
    }
}

impl Default for RecordCache {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::new(), tenants: AtomicU64::new(0) }
    }
}

impl RecordCache {
    /// For another state.
    pub(super) fn tenant(&self) -> Tenant {
        Tenant(self.tenants.fetch_add(1, Ordering::Relaxed))
    }

    fn shard(&self, key: &[u8]) -> &Mutex<Shard> {
        // Fewer than fit into any integer.
        &self.shards[(self.hasher.hash_one(key) % SHARDS as u64) as usize]
    }

    /// The record at a seq, if what the newest state has is known and as old as that.
    pub(super) fn get(&self, tenant: Tenant, key: &[u8], at: Seq) -> Option<(Seq, Bytes)> {
        let mut shard = lock(self.shard(key));
        let usable = |cached: &&Cached| cached.tenant == tenant && cached.written <= at;
        if let Some(cached) = shard.young.get(key) {
            return Some(cached).filter(usable).map(|cached| (cached.written, cached.value.clone()));
        }
        let (key, cached) = shard.old.remove_entry(key)?;
        let found = Some(&cached).filter(usable).map(|cached| (cached.written, cached.value.clone()));
        shard.put(key, cached);
        found
    }

    /// Keeps what a reader found in a snapshot of the store of this seq, unless it may have been changed since.
    pub(super) fn keep(&self, tenant: Tenant, key: Bytes, snapshot: Seq, written: Seq, value: &Bytes) {
        if value.len() > VALUE_BYTES_MAX {
            return;
        }
        let mut shard = lock(self.shard(&key));
        if shard.floors.get(&tenant).is_none_or(|floor| *floor <= snapshot) {
            shard.take(&key);
            shard.put(key, Cached { tenant, written, value: value.clone() });
        }
    }

    /// Before a record is changed at a seq. Whether it was kept.
    pub(super) fn forget(&self, tenant: Tenant, key: &[u8], seq: Seq) -> bool {
        let mut shard = lock(self.shard(key));
        let floor = shard.floors.entry(tenant).or_default();
        *floor = (*floor).max(seq);
        shard.take(key).is_some()
    }

    /// A state is gone: nobody writes it any more.
    pub(super) fn leave(&self, tenant: Tenant) {
        for shard in &self.shards {
            // Whoever still reads it keeps nothing.
            lock(shard).floors.insert(tenant, Seq(u64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Bytes {
        Bytes::copy_from_slice(&number.to_be_bytes())
    }

    #[test]
    fn a_reader_of_before_a_change_neither_finds_it_nor_undoes_it() {
        let cache = RecordCache::default();
        let tenant = cache.tenant();
        let (old, new) = (Bytes::from_static(b"old"), Bytes::from_static(b"new"));
        cache.keep(tenant, key(1), Seq(5), Seq(3), &old);
        assert_eq!(cache.get(tenant, &key(1), Seq(2)), None, "it was written later");
        assert_eq!(cache.get(tenant, &key(1), Seq(3)), Some((Seq(3), old.clone())));
        assert!(cache.forget(tenant, &key(1), Seq(6)));
        cache.keep(tenant, key(1), Seq(5), Seq(3), &old);
        assert_eq!(cache.get(tenant, &key(1), Seq(9)), None, "a slow reader put back what was replaced");
        cache.keep(tenant, key(1), Seq(6), Seq(6), &new);
        assert_eq!(cache.get(tenant, &key(1), Seq(5)), None);
        assert_eq!(cache.get(tenant, &key(1), Seq(6)), Some((Seq(6), new)));
    }

    #[test]
    fn nothing_of_a_replaced_state_is_found_or_kept() {
        let cache = RecordCache::default();
        let (before, after) = (cache.tenant(), cache.tenant());
        let value = Bytes::from_static(b"wrong");
        cache.keep(before, key(1), Seq(5), Seq(3), &value);
        assert_eq!(cache.get(after, &key(1), Seq(9)), None);
        cache.leave(before);
        cache.keep(before, key(2), Seq(5), Seq(3), &value);
        assert_eq!(cache.get(before, &key(2), Seq(9)), None);
    }

    #[test]
    fn what_is_used_stays_and_the_whole_is_bounded() {
        let cache = RecordCache::default();
        let tenant = cache.tenant();
        let value = Bytes::from(vec![1; 4096]);
        for number in 0..20_000 {
            cache.keep(tenant, key(number), Seq(1), Seq(1), &value);
            assert!(cache.get(tenant, &key(7.min(number)), Seq(1)).is_some());
        }
        let entries = |shard: &Mutex<Shard>| {
            let shard = lock(shard);
            shard.young.len() + shard.old.len()
        };
        let all: usize = cache.shards.iter().map(entries).sum();
        assert!(all * 4096 <= 2 * SHARDS * (GENERATION_BYTES + 4096 + 2 * ENTRY_BYTES), "{all} entries");
    }
}
