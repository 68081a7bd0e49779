//! Chunks that share a block.

use causeway_storage::disk::Open;

use super::*;

/// Text-like chunks that resemble each other, plain.
fn texts(count: u64, len: usize) -> Vec<EncodedChunk> {
    (0..count)
        .map(|number| {
            let mut plain = Vec::with_capacity(len + 80);
            for line in 0_u64.. {
                let word = blake3::hash(&(number % 4 * 7 + line % 40).to_le_bytes()).to_hex();
                plain.extend_from_slice(format!("fn {}(line: u64) -> {number} {{ {line} }}\n", &word[..12]).as_bytes());
                if plain.len() >= len {
                    break;
                }
            }
            plain.truncate(len);
            EncodedChunk::plain(realm().chunk_id(&plain), plain.into())
        })
        .collect()
}

fn blocky() -> StoreOptions {
    StoreOptions { pack_bytes: 1 << 20, block_bytes: 128 << 10, ..options() }
}

fn open(world: &World) -> (ChunkStore, RecoveryReport) {
    ChunkStore::open(Arc::new(world.disk.clone()), "/packs", world.kv.clone(), blocky()).unwrap()
}

#[test]
fn like_chunks_share_blocks_and_take_less_space() {
    let stored = |block_bytes| {
        let options = StoreOptions { block_bytes, ..blocky() };
        let (store, _) = ChunkStore::open(Arc::new(SimDisk::new(1)), "/packs", kv(), options).unwrap();
        let chunks = texts(60, 9_000);
        store.put_many(&chunks).unwrap();
        store.sync().unwrap();
        assert_holds(&store, &chunks);
        store.stats()
    };
    let (alone, together) = (stored(0), stored(128 << 10));
    assert_eq!((alone.chunks, alone.raw_bytes), (together.chunks, together.raw_bytes));
    assert!(together.stored_bytes * 3 < alone.stored_bytes * 2, "{} to {}", together.stored_bytes, alone.stored_bytes);
}

#[test]
fn what_does_not_compress_and_what_comes_alone_has_a_record_of_its_own() {
    let (store, _) = open(&World::new(2));
    let noise = chunk(1, 60_000);
    let text = texts(1, 60_000).remove(0);
    store.put_many(&[noise.clone(), text.clone()]).unwrap();
    assert_eq!((location(&store, &noise).member, location(&store, &noise).codec), (None, Codec::Raw));
    assert_eq!((location(&store, &text).member, location(&store, &text).codec), (None, Codec::Zstd));
    assert_eq!(store.get(&noise.id).unwrap().unwrap(), noise);
    let many = texts(9, 60_000);
    store.put_many(&many).unwrap();
    let blocks: HashSet<u32> = many[1..].iter().map(|chunk| location(&store, chunk).offset).collect();
    assert_eq!(blocks.len(), 4, "two of 60,000 bytes fill a block of 128 KiB");
    assert_eq!(location(&store, &many[2]).member, Some(1));
    store.sync().unwrap();
    assert_holds(&store, &many);
}

#[test]
fn blocks_are_found_again_by_footer_by_scan_and_by_the_mark() {
    for full in [false, true] {
        let mut world = World::new(3);
        let (store, _) = open(&world);
        let count = if full { 700 } else { 50 };
        let chunks = texts(count, 9_000);
        for some in chunks.chunks(20) {
            store.put_many(some).unwrap();
            store.sync().unwrap();
        }
        let stats = store.stats();
        drop(store);
        let (store, report) = open(&world);
        assert_eq!((report.indexed, report.rebuilt), (0, None));
        assert_eq!(store.stats(), stats);
        drop(store);
        world.kv = Arc::new(world.kv.after_power_cut());
        let (store, _) = open(&world);
        assert_holds(&store, &chunks);
        drop(store);
        world.lose_index();
        let (store, report) = open(&world);
        assert_eq!((report.indexed, report.damaged.len()), (count, 0));
        assert_eq!(store.stats(), stats);
        assert_holds(&store, &chunks);
        store.rebuild_index(|_| {}).unwrap();
        assert_holds(&store, &chunks);
    }
}

#[test]
fn rot_in_a_block_takes_its_chunks_out_and_they_heal() {
    for (what, at) in [("header", 10), ("directory", 100), ("body", 1_000)] {
        for lost_index in [false, true] {
            let mut world = World::new(4);
            let (store, _) = open(&world);
            let chunks = texts(40, 9_000);
            store.put_many(&chunks).unwrap();
            store.sync().unwrap();
            let after = chunk(900, 700); // proves that what is before it was durable
            store.put(&after).unwrap();
            store.sync().unwrap();
            let bad = location(&store, &chunks[0]).offset;
            let lost: Vec<ChunkId> =
                chunks.iter().filter(|chunk| location(&store, chunk).offset == bad).map(|chunk| chunk.id).collect();
            assert!(lost.len() > 5);
            drop(store);
            world.flip(0, u64::from(bad) + at);
            if lost_index {
                world.lose_index();
            }
            let (store, report) = open(&world);
            if lost_index || what != "body" {
                assert_eq!(report.damaged.len(), 1, "{what}: {report:?}");
                assert!(report.damaged[0].acknowledged);
            }
            for id in &lost {
                match store.get(id) {
                    Ok(None) | Err(StoreError::Corrupt { .. }) => {}
                    other => panic!("{what}: {other:?}"),
                }
            }
            let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
            assert_eq!(store.missing(&ids).unwrap(), lost, "{what}: the other block serves on");
            store.put_many(&chunks).unwrap();
            store.sync().unwrap();
            assert_holds(&store, &chunks);
            assert_holds(&store, std::slice::from_ref(&after));
            assert_eq!(store.corrupt_ids(), []);
        }
    }
}

#[test]
fn the_cache_is_bounded_and_a_block_is_decoded_once_for_who_reads_on() {
    let world = World::new(5);
    let small = StoreOptions { block_cache_bytes: 300 << 10, ..blocky() };
    let (store, _) = ChunkStore::open(Arc::new(world.disk.clone()), "/packs", world.kv.clone(), small).unwrap();
    let chunks = texts(80, 9_000);
    store.put_many(&chunks).unwrap();
    store.sync().unwrap();
    assert_holds(&store, &chunks);
    assert!(lock(&store.blocks).bytes() <= 300 << 10);
    // The last block is in memory: what happens to the disk is not seen by it, but by a fresh reader.
    let last = location(&store, &chunks[79]);
    world.flip(0, u64::from(last.offset) + 500);
    assert_same(&store.get(&chunks[78].id).unwrap().unwrap(), &chunks[78]);
    assert_same(&store.get(&chunks[0].id).unwrap().unwrap(), &chunks[0]);
    let fresh = open(&world).0;
    assert!(matches!(fresh.get(&chunks[78].id), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_torn_block_is_cut() {
    let mut world = World::new(6);
    let (store, _) = open(&world);
    let chunks = texts(10, 9_000);
    store.put_many(&chunks).unwrap();
    store.sync().unwrap();
    let later = texts(30, 5_000);
    store.put_many(&later).unwrap(); // never synced
    let at = location(&store, &later[0]).offset;
    drop(store);
    let file = world.disk.open(&pack_path(0), Open::Write).unwrap();
    file.set_len(u64::from(at) + 300).unwrap();
    world.lose_index();
    let (store, report) = open(&world);
    assert_eq!(report.tails_cut, [TailCut { pack: 0, offset: at.into(), bytes: 300 }]);
    assert_holds(&store, &chunks);
    assert!(!store.contains(&later[0].id).unwrap());
}

#[test]
fn chunks_that_many_threads_put_at_once_are_stored_once() {
    let (store, _) = open(&World::new(7));
    let chunks = texts(200, 6_000);
    let start = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, chunks, start) = (&store, &chunks, &start);
            scope.spawn(move || {
                start.wait();
                for some in chunks[thread * 5..].chunks(20) {
                    store.put_many(some).unwrap();
                }
            });
        }
    });
    store.put_many(&chunks).unwrap();
    store.sync().unwrap();
    assert_eq!(store.stats().chunks, 200);
    assert_holds(&store, &chunks);
}
