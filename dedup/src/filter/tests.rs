use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use proptest::prelude::*;

use super::*;

const SHARDS: usize = 4;
const FAILED: KvError = KvError::Usage { engine: "test", reason: String::new() };

/// Keys are their numbers.
#[derive(Debug, Default)]
struct Store {
    keys: Mutex<BTreeSet<u64>>,
    looks: AtomicUsize,
    scans: AtomicUsize,
    scans_fail: AtomicBool,
}

fn probe(key: u64) -> Probe {
    let hash = blake3::hash(&key.to_le_bytes());
    let word = |at: usize| u64::from_le_bytes(hash.as_bytes()[at..at + 8].try_into().unwrap());
    Probe { shard: key as usize % SHARDS, block: word(0), bits: word(8) }
}

impl Store {
    fn has(&self, filter: &Filter, key: u64) -> bool {
        let look = || {
            self.looks.fetch_add(1, Ordering::Relaxed);
            Ok(self.keys.lock().unwrap().contains(&key).then_some(()))
        };
        filter.find(probe(key), look).unwrap().is_some()
    }

    fn put(&self, filter: &Filter, keys: &[u64]) {
        let probes: Vec<Probe> = keys.iter().map(|key| probe(*key)).collect();
        filter.add(&probes, || self.keys.lock().unwrap().extend(keys));
    }

    fn remove(&self, filter: &Filter, key: u64) {
        if self.keys.lock().unwrap().remove(&key) {
            filter.removed(probe(key));
        }
    }
}

fn world() -> (Arc<Store>, Filter) {
    let store = Arc::new(Store::default());
    let scanned = store.clone();
    let filter = Filter::new(SHARDS, 12, move |shard, found| {
        scanned.scans.fetch_add(1, Ordering::Relaxed);
        let keys = scanned.keys.lock().unwrap().clone();
        for (n, key) in keys.into_iter().filter(|key| *key as usize % SHARDS == shard).enumerate() {
            if n == 3 && scanned.scans_fail.load(Ordering::Relaxed) {
                return Err(FAILED);
            }
            std::thread::yield_now(); // what is put during a scan must count
            if !found(probe(key)) {
                break;
            }
        }
        Ok(())
    });
    (store, filter)
}

#[derive(Clone, Debug)]
enum Op {
    Put(Vec<u64>),
    Remove(u64),
    Look(u64),
    Scans(bool),
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0_u64..600;
    prop_oneof![
        3 => prop::collection::vec(key.clone(), 1..80).prop_map(Op::Put),
        6 => key.clone().prop_map(Op::Remove),
        6 => key.prop_map(Op::Look),
        1 => any::<bool>().prop_map(Op::Scans),
        1 => Just(Op::Clear),
    ]
}

proptest! {
    #[test]
    fn it_tells_what_the_store_has(before in prop::collection::btree_set(0_u64..600, 0..200), ops in prop::collection::vec(op(), 1..60)) {
        let (store, filter) = world();
        *store.keys.lock().unwrap() = before.clone();
        let mut model = before;
        for op in ops {
            match op {
                Op::Put(keys) => {
                    store.put(&filter, &keys);
                    model.extend(keys);
                }
                Op::Remove(key) => {
                    store.remove(&filter, key);
                    model.remove(&key);
                }
                Op::Look(key) => prop_assert_eq!(store.has(&filter, key), model.contains(&key)),
                Op::Scans(fail) => store.scans_fail.store(fail, Ordering::Relaxed),
                Op::Clear if model.len() % 2 == 0 => {
                    filter.clear(|| -> Result<(), ()> { store.keys.lock().unwrap().clear(); Ok(()) }).unwrap();
                    model.clear();
                }
                Op::Clear => filter.clear(|| Err(())).unwrap_err(),
            }
        }
        for key in 0..600 {
            prop_assert_eq!(store.has(&filter, key), model.contains(&key), "{}", key);
        }
    }
}

/// Threads put and look while others make the shards be built all the time.
#[test]
fn what_was_put_is_found_whatever_is_built_meanwhile() {
    let (store, filter) = world();
    let stop = AtomicBool::new(false);
    let (stop, store, filter) = (&stop, &*store, &filter);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    (0..SHARDS).for_each(|shard| filter.build(shard, usize::MAX));
                }
            });
        }
        let writers: Vec<_> = (0..3_u64)
            .map(|thread| {
                scope.spawn(move || {
                    for n in 0..2_000 {
                        let key = n * 3 + thread;
                        filter.add(&[probe(key)], || {
                            std::thread::yield_now();
                            store.keys.lock().unwrap().insert(key);
                        });
                        assert!(store.has(filter, key), "{key} was just put");
                        assert!(store.has(filter, (n / 2) * 3 + thread), "an older key");
                        if n % 64 == 63 {
                            std::thread::sleep(std::time::Duration::from_millis(1)); // else nothing is ever built
                        }
                    }
                })
            })
            .collect();
        let failed = writers.into_iter().filter_map(|writer| writer.join().err()).count();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0);
    });
    // How many there are depends on the machine.
    assert!(store.scans.load(Ordering::Relaxed) > 2);
    (0..6_000).for_each(|key| assert!(store.has(filter, key), "{key}"));
}

#[test]
fn few_absent_keys_reach_the_store() {
    const KEYS: u64 = 20_000;
    let (store, filter) = world();
    filter.clear(|| Ok::<_, ()>(())).unwrap(); // known to be empty
    for key in 0..KEYS {
        store.put(&filter, &[key]);
    }
    let bytes = filter.bytes();
    assert!((KEYS * 12 / 8..KEYS * 12 / 8 * 2 + 2_000).contains(&bytes), "{bytes}");
    (KEYS..KEYS * 2).for_each(|key| assert!(!store.has(&filter, key)));
    let looks = store.looks.swap(0, Ordering::Relaxed) as u64;
    assert!(looks < KEYS / 200, "{looks}");

    // What was removed comes to the store until that has cost as much as a scan.
    (0..KEYS / 2).for_each(|key| store.remove(&filter, key));
    let scans = store.scans.swap(0, Ordering::Relaxed);
    (0..KEYS / 2).for_each(|key| assert!(!store.has(&filter, key)));
    let looks = store.looks.swap(0, Ordering::Relaxed) as u64;
    assert!(looks < 2 * KEYS / 32 + KEYS / 200, "{looks}");
    assert!(store.scans.load(Ordering::Relaxed) <= SHARDS * 10, "{store:?}; {scans} to grow");
    assert!(filter.bytes() < bytes, "half of it was enough");
}

#[test]
fn a_filter_that_knows_nothing_learns_from_look_ups() {
    let (store, filter) = world();
    let keys: Vec<u64> = (0..4_000).collect();
    store.keys.lock().unwrap().extend(&keys);
    keys.iter().for_each(|key| assert!(store.has(&filter, *key)));
    assert_eq!(store.scans.load(Ordering::Relaxed), 0, "what is there need not be filtered");
    store.looks.store(0, Ordering::Relaxed);
    (4_000..40_000).for_each(|key| assert!(!store.has(&filter, key)));
    let looks = store.looks.load(Ordering::Relaxed);
    assert!(looks < 2 * 4_000 / 32 + SHARDS + 36_000 / 200, "{looks}");
    assert_eq!(store.scans.load(Ordering::Relaxed), SHARDS * 6, "after 1, 2, 4 … 32 misses");
    keys.iter().for_each(|key| assert!(store.has(&filter, *key)));
}
