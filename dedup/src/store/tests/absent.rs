//! Look-ups of chunks that are not there, and the filter that answers them.

use std::sync::atomic::{AtomicU64, Ordering};

use causeway_storage::kv::{Batch, Kv, KvError, KvRead, MemoryKv, Scan, Space};

use super::*;

/// Counts look-ups.
#[derive(Debug)]
struct CountingKv {
    kv: MemoryKv,
    gets: AtomicU64,
}

impl KvRead for CountingKv {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<bytes::Bytes>, KvError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.kv.get(space, key)
    }

    fn scan(&self, space: Space, range: causeway_storage::kv::KeyRange, reverse: bool) -> Scan<'_> {
        self.kv.scan(space, range, reverse)
    }
}

impl Kv for CountingKv {
    fn write(&self, batch: Batch) -> Result<(), KvError> {
        self.kv.write(batch)
    }

    fn persist(&self) -> Result<(), KvError> {
        self.kv.persist()
    }

    fn snapshot(&self) -> Box<dyn KvRead> {
        self.kv.snapshot()
    }

    fn disk_bytes(&self) -> u64 {
        self.kv.disk_bytes()
    }
}

#[test]
fn absent_chunks_do_not_reach_the_engine_and_all_others_are_found() {
    let disk = SimDisk::new(7);
    let kv = Arc::new(CountingKv { kv: MemoryKv::new(INDEX_SPACES), gets: AtomicU64::new(0) });
    let open = || ChunkStore::open(Arc::new(disk.clone()), "/packs", kv.clone(), options()).unwrap().0;
    let gets = || kv.gets.swap(0, Ordering::Relaxed);
    let chunks: Vec<EncodedChunk> = (0..600).map(|number| chunk(number, 40)).collect();
    let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
    let absent: Vec<ChunkId> = (0..20_000_u64).map(|n| ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes())).collect();

    let store = open();
    for part in chunks.chunks(50) {
        store.put_many(part).unwrap();
        store.sync().unwrap();
    }
    assert_holds(&store, &chunks);
    assert_eq!(store.missing(&absent).unwrap(), absent);
    store.close().unwrap();
    drop(store);

    // What was opened anew learns, and misses nothing before or after.
    let store = open();
    assert_holds(&store, &chunks);
    gets();
    assert_eq!(store.missing(&absent).unwrap(), absent);
    let learned = gets();
    assert_eq!(store.missing(&absent).unwrap(), absent);
    assert!(learned < 6_000 && gets() < 400, "{learned} look-ups to learn");
    assert_eq!(store.missing(&ids).unwrap(), []);
    assert_holds(&store, &chunks);

    // Built anew from the packs, with the filter begun anew.
    store.rebuild_index(|_| {}).unwrap();
    gets();
    assert_eq!(store.missing(&absent).unwrap(), absent);
    assert!(gets() < 400);
    assert_holds(&store, &chunks);
}

#[test]
fn what_is_removed_and_put_again_is_found() {
    let world = World::new(8);
    let (store, _) = world.open();
    let chunks: Vec<EncodedChunk> = (0..300).map(|number| chunk(number, 100)).collect();
    let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
    store.put_many(&chunks).unwrap();
    store.sync().unwrap();
    for round in 0..3 {
        store.collect(store.begin_mark(), std::time::Duration::ZERO, false, &mut |_| true).unwrap(); // condemns
        store.collect(store.begin_mark(), std::time::Duration::ZERO, false, &mut |_| true).unwrap(); // removes
        for _ in 0..40 {
            assert_eq!(store.missing(&ids).unwrap(), ids, "{round}");
        }
        store.put_many(&chunks).unwrap();
        assert_eq!(store.missing(&ids).unwrap(), []);
        store.sync().unwrap();
        assert_holds(&store, &chunks);
    }
}
