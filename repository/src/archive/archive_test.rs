use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use causeway_base::{ByteSize, ChunkId};
use causeway_dedup::{EncodedChunk, Realm};

use super::*;
use crate::fault::{FaultPlan, FaultyStore};
use crate::{RepositoryOptions, names};

type Chunks = BTreeMap<ChunkId, Bytes>;

fn realm() -> Realm {
    Realm::new("default", [7; 32])
}

fn options() -> RepositoryOptions {
    RepositoryOptions { pack_bytes: ByteSize::kib(64), seed: Some(1), ..RepositoryOptions::creating() }
}

async fn archive(object: Arc<dyn ObjectStore>, mode: IndexMode, options: RepositoryOptions) -> ChunkArchive {
    let repository = Repository::with_store(object, "memory:", options).await.unwrap();
    ChunkArchive::open(repository, mode).await.unwrap()
}

fn chunks(rng: &mut StdRng, count: usize) -> Chunks {
    let chunk = |_| {
        let mut plain = vec![0; rng.random_range(1..9_000)];
        rng.fill(&mut plain[..]);
        (realm().chunk_id(&plain), Bytes::from(plain))
    };
    (0..count).map(chunk).collect()
}

fn iter(chunks: &Chunks) -> ChunkIter {
    let encoded: Vec<_> = chunks.iter().map(|(id, plain)| Ok(EncodedChunk::encode(*id, plain.clone(), 3))).collect();
    Box::new(encoded.into_iter())
}

async fn assert_holds(archive: &ChunkArchive, chunks: &Chunks) {
    let ids: Vec<_> = chunks.keys().copied().collect();
    let got = archive.get_many(&ids).await.unwrap();
    for (chunk, (id, plain)) in got.into_iter().zip(chunks) {
        let chunk = chunk.unwrap_or_else(|| panic!("{id} is missing"));
        assert_eq!(&chunk.decode(&realm()).unwrap(), plain);
    }
}

#[tokio::test]
async fn what_is_put_is_held_once_and_read_back_by_any_reader() {
    let object: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let writer = archive(Arc::clone(&object), IndexMode::Loaded, options()).await;
    let mut rng = StdRng::seed_from_u64(3);
    let (first, second) = (chunks(&mut rng, 100), chunks(&mut rng, 50));
    let report = writer.put_chunks(iter(&first)).await.unwrap();
    assert_eq!((report.new_chunks, report.known_chunks), (100, 0));
    assert!(report.packs > 3, "{report:?}");
    let both: Chunks = first.clone().into_iter().chain(second.clone()).collect();
    let report = writer.put_chunks(iter(&both)).await.unwrap();
    assert_eq!((report.new_chunks, report.known_chunks), (50, 100));
    assert_eq!(report.raw_bytes, second.values().map(|plain| plain.len() as u64).sum::<u64>());

    for mode in [IndexMode::Loaded, IndexMode::Lazy] {
        // Index objects beyond the memory allowed are read as needed.
        let small = RepositoryOptions { index_bytes: ByteSize(0), ..options() };
        assert_holds(&archive(Arc::clone(&object), mode, small).await, &both).await;
    }
    let unknown = realm().chunk_id(b"never put");
    assert_eq!(writer.get(unknown).await.unwrap(), None);
    assert_eq!(writer.missing(&[unknown, *first.keys().next().unwrap()]).await.unwrap(), [unknown]);
    assert_eq!(writer.put_chunks(iter(&Chunks::new())).await.unwrap(), PutReport::default());
}

#[tokio::test]
async fn neighbours_share_a_request() {
    let writer = archive(Arc::new(InMemory::new()), IndexMode::Loaded, options()).await;
    let held = chunks(&mut StdRng::seed_from_u64(4), 12);
    let report = writer.put_chunks(iter(&held)).await.unwrap();
    let before = writer.repository().requests();
    assert_holds(&writer, &held).await;
    assert_eq!(writer.repository().requests().gets - before.gets, report.packs);
}

#[tokio::test]
async fn several_writers_at_once_and_their_merges_lose_nothing() {
    let object: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut writing = Vec::new();
    for n in 0..3_u64 {
        let object = Arc::clone(&object);
        writing.push(tokio::spawn(async move {
            let writer = archive(object, IndexMode::Loaded, RepositoryOptions { seed: Some(n), ..options() }).await;
            let mut rng = StdRng::seed_from_u64(n);
            let mut mine = Chunks::new();
            let mut merged = 0;
            for _ in 0..20 {
                let new = chunks(&mut rng, 4);
                writer.put_chunks(iter(&new)).await.unwrap();
                mine.extend(new);
                merged += writer.merge_indexes().await.unwrap();
            }
            assert_holds(&writer, &mine).await;
            (mine, merged)
        }));
    }
    let mut all = Chunks::new();
    let mut merged_by_all = 0;
    for writing in writing {
        let (mine, merged) = writing.await.unwrap();
        merged_by_all += merged;
        all.extend(mine);
    }
    assert!(merged_by_all > 0);
    let reader = archive(object, IndexMode::Loaded, options()).await;
    assert!(reader.stats().index_objects <= 40, "{:?}", reader.stats());
    assert_holds(&reader, &all).await;
}

#[tokio::test]
async fn a_reader_with_an_old_index_finds_what_was_added_and_merged() {
    let object: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let writer = archive(Arc::clone(&object), IndexMode::Loaded, options()).await;
    let reader = archive(Arc::clone(&object), IndexMode::Lazy, options()).await;
    let mut all = Chunks::new();
    for seed in 0..20 {
        let new = chunks(&mut StdRng::seed_from_u64(seed), 3);
        writer.put_chunks(iter(&new)).await.unwrap();
        all.extend(new);
    }
    assert!(writer.merge_indexes().await.unwrap() > 1);
    assert_holds(&reader, &all).await;
}

#[tokio::test]
async fn the_index_is_made_anew_from_packs_and_damage_is_named() {
    let object: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let writer = archive(Arc::clone(&object), IndexMode::Loaded, options()).await;
    let held = chunks(&mut StdRng::seed_from_u64(6), 40);
    writer.put_chunks(iter(&held)).await.unwrap();
    let store = &writer.repository().store;
    for listed in store.list(names::INDEX, usize::MAX).await.unwrap() {
        store.delete(&format!("{}/{}", names::INDEX, listed.name)).await.unwrap();
    }
    let blind = archive(Arc::clone(&object), IndexMode::Loaded, options()).await;
    assert_eq!(blind.get(*held.keys().next().unwrap()).await.unwrap(), None);
    assert_eq!(blind.rebuild_index().await.unwrap(), (40, Vec::new()));
    assert_holds(&archive(Arc::clone(&object), IndexMode::Loaded, options()).await, &held).await;

    let pack = store.list(names::PACKS, 1).await.unwrap().remove(0);
    let path = names::pack(names::number(&pack.name).unwrap());
    let mut bytes = store.get(&path, 1 << 20).await.unwrap().unwrap().to_vec();
    bytes[100] ^= 1;
    store.delete(&path).await.unwrap();
    store.create(&path, bytes.into()).await.unwrap();
    let mut failed = 0;
    for id in held.keys() {
        match blind.get(*id).await {
            Ok(Some(chunk)) => assert_eq!(chunk.decode(&realm()).unwrap(), held[id]),
            Err(Error::ChunkDamaged { id: damaged, .. }) => {
                assert_eq!(damaged, *id);
                failed += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(failed, 1);
    assert_eq!(blind.rebuild_index().await.unwrap().1, [path]);
}

#[tokio::test]
async fn a_writer_that_dies_at_any_request_leaves_garbage_that_is_swept_and_no_harm() {
    let mut outcomes = std::collections::BTreeSet::new();
    for dies_after in 0..12 {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let honest = archive(Arc::clone(&memory), IndexMode::Loaded, options()).await;
        let held = chunks(&mut StdRng::seed_from_u64(1), 20);
        honest.put_chunks(iter(&held)).await.unwrap();
        let packs = honest.repository().store.list(names::PACKS, usize::MAX).await.unwrap().len();

        let faulty = FaultyStore::new(memory, FaultPlan::default(), 1);
        let once = RepositoryOptions { attempts: 1, concurrency: 1, seed: Some(9), ..options() };
        let dying = archive(Arc::new(faulty.clone()), IndexMode::Loaded, once).await;
        faulty.die_after(dies_after);
        let new = chunks(&mut StdRng::seed_from_u64(2), 40);
        let died = dying.put_chunks(iter(&new)).await;

        assert_eq!(honest.sweep(Duration::ZERO).await.unwrap(), Swept::default(), "younger than the floor");
        let swept = honest.sweep_with_floor(Duration::ZERO, Duration::ZERO).await.unwrap();
        assert_holds(&honest, &held).await;
        let left = honest.repository().store.list(names::PACKS, usize::MAX).await.unwrap().len();
        match died {
            Ok(_) => {
                assert_eq!(swept, Swept::default());
                assert_holds(&honest, &new).await;
            }
            Err(_) => assert_eq!(left, packs, "what the dead one put is gone"),
        }
        outcomes.insert((died.is_ok(), swept.packs));
    }
    assert!(
        outcomes.contains(&(false, 0)) && outcomes.contains(&(false, 2)) && outcomes.contains(&(true, 0)),
        "{outcomes:?}"
    );
}

async fn archive_through_faults(seed: u64) -> u64 {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let honest = archive(Arc::clone(&memory), IndexMode::Loaded, options()).await;
    let faulty = FaultyStore::new(memory, FaultPlan::all(0.03), seed);
    let quick = RepositoryOptions {
        request_timeout: Duration::from_millis(40),
        backoff: Duration::from_millis(1),
        seed: Some(seed),
        ..options()
    };
    let repository = loop {
        let object: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
        if let Ok(repository) = Repository::with_store(object, "memory:", quick.clone()).await {
            break repository;
        }
    };
    let writer = loop {
        if let Ok(writer) = ChunkArchive::open(repository.clone(), IndexMode::Loaded).await {
            break writer;
        }
    };
    let mut rng = StdRng::seed_from_u64(seed);
    let mut durable = Chunks::new();
    let mut failures = 0;
    for _ in 0..25 {
        let new = chunks(&mut rng, 5);
        match writer.put_chunks(iter(&new)).await {
            Ok(_) => durable.extend(new),
            Err(_) => failures += 1,
        }
        failures += u64::from(writer.merge_indexes().await.is_err());
        // Told to be durable: readable by others at once, whatever happens to this writer.
        honest.refresh().await.unwrap();
        assert_holds(&honest, &durable).await;
    }
    let ids: Vec<_> = durable.keys().copied().collect();
    match writer.get_many(&ids).await {
        Ok(found) => assert!(found.iter().all(Option::is_some)),
        Err(Error::Store { .. } | Error::Deadline { .. }) => failures += 1,
        Err(other) => panic!("seed {seed}: {other:?}"),
    }
    failures
}

#[test]
fn what_was_told_to_be_durable_is_there_through_every_fault() {
    let runs = (0..8).map(|seed| {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let failures = runtime.block_on(archive_through_faults(seed));
            runtime.shutdown_background();
            failures
        })
    });
    let failures: u64 = runs.collect::<Vec<_>>().into_iter().map(|run| run.join().unwrap()).sum();
    assert!(failures > 0, "the faults must bite");
}
