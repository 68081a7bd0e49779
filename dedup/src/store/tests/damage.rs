//! Torn tails, rotten bits, wrong indexes, full and failing disks.

use std::time::Duration;

use causeway_storage::disk::Open;
use causeway_storage::disk::sim::{Fault, Operation};
use causeway_storage::kv::{Batch, Kv, Space};

use super::*;
use crate::store::gc::RepackOptions;

fn filled(world: &World, count: u64) -> (ChunkStore, Vec<EncodedChunk>) {
    let (store, _) = world.open();
    let chunks: Vec<_> = (0..count).map(|number| chunk(number, 3_000)).collect();
    store.put_many(&chunks).unwrap();
    store.sync().unwrap();
    (store, chunks)
}

#[test]
fn a_torn_tail_is_cut() {
    for tail in [&b"CWrc and no more"[..], &[0; 5_000], &[0xff; 61]] {
        let world = World::new(1);
        let (store, chunks) = filled(&world, 10);
        let end = u64::from(lock(&store.writer).active.as_ref().unwrap().offset);
        drop(store);
        world.disk.open(&pack_path(0), Open::Write).unwrap().write_all_at(tail, end).unwrap();
        let (store, report) = world.open();
        assert_eq!(report.tails_cut, [TailCut { pack: 0, offset: end, bytes: tail.len() as u64 }]);
        assert_eq!(report.damaged, []);
        assert_holds(&store, &chunks);
        store.put(&chunk(99, 500)).unwrap();
        store.sync().unwrap();
        drop(store);
        let (store, report) = world.open();
        assert_eq!(report.tails_cut, []);
        assert_holds(&store, &[chunk(99, 500)]);
    }
}

#[test]
fn a_bad_record_before_a_good_one_is_reported_and_never_cut() {
    for lost_index in [false, true] {
        for (what, at) in [("header", 4), ("payload", 100)] {
            let mut world = World::new(2);
            let (store, chunks) = filled(&world, 10);
            let bad = location(&store, &chunks[4]);
            // A record behind proves that this one was durable.
            let after = chunk(50, 800);
            store.put(&after).unwrap();
            store.sync().unwrap();
            drop(store);
            world.flip(0, u64::from(bad.offset) + at);
            let len = world.disk.open(&pack_path(0), Open::Read).unwrap().len().unwrap();
            if lost_index {
                world.lose_index();
            }
            let (store, report) = world.open();
            assert_eq!(world.disk.open(&pack_path(0), Open::Read).unwrap().len().unwrap(), len, "never cut");
            if !lost_index && what == "payload" {
                assert_eq!(report.damaged, [], "an indexed payload is not read again on open");
                assert!(matches!(store.get(&chunks[4].id), Err(StoreError::Corrupt { .. })));
            } else {
                let end = u64::from(bad.offset) + bad.record_len() as u64;
                let range = DamagedRange { pack: 0, from: bad.offset.into(), to: end, acknowledged: true };
                assert_eq!(report.damaged, [range], "{what}");
            }
            assert!(!store.contains(&chunks[4].id).unwrap(), "{what}");
            let others: Vec<_> = chunks.iter().filter(|chunk| chunk.id != chunks[4].id).cloned().collect();
            assert_holds(&store, &others);
            assert_holds(&store, std::slice::from_ref(&after));
            // It is healed by putting it again, and stays healed.
            assert_eq!(store.put(&chunks[4]).unwrap(), PutOutcome::New);
            store.sync().unwrap();
            assert_eq!(store.corrupt_ids(), []);
            drop(store);
            let (store, _) = world.open();
            assert_holds(&store, &chunks);
            world.lose_index();
            drop(store);
            assert_holds(&world.open().0, &chunks);
        }
    }
}

#[test]
fn rot_in_a_sealed_pack_is_found_on_read_and_healed() {
    let mut world = World::new(3);
    let (store, chunks) = filled(&world, 60);
    let bad = location(&store, &chunks[7]);
    assert_eq!(bad.pack, 0);
    world.flip(0, u64::from(bad.offset) + 777);
    let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
    let error = store.get_many(&ids).unwrap_err();
    let StoreError::Corrupt { id, pack: 0, offset, damage: Damage::PayloadChecksum } = error else { panic!("{error}") };
    assert_eq!((id, offset), (chunks[7].id, bad.offset));
    assert_eq!(store.missing(&ids).unwrap(), [chunks[7].id]);
    assert_eq!(store.corrupt_ids(), [chunks[7].id]);
    assert_eq!(store.stats().state, StoreState::Ok, "healing needs writes");
    drop(store);
    let (store, _) = world.open();
    assert_eq!(store.corrupt_ids(), [chunks[7].id]);
    // Its old place is not taken for good when the index is built anew.
    store.rebuild_index(|_| {}).unwrap();
    assert_eq!(store.missing(&ids).unwrap(), [chunks[7].id]);
    assert_eq!(store.put(&chunks[7]).unwrap(), PutOutcome::New);
    store.sync().unwrap();
    assert_holds(&store, &chunks);
    drop(store);
    world.lose_index();
    assert_holds(&world.open().0, &chunks);
}

#[test]
fn a_damaged_footer_or_trailer_costs_a_scan_and_no_chunk() {
    for from_end in [5, 41, 500] {
        let mut world = World::new(4);
        let (store, chunks) = filled(&world, 60);
        drop(store);
        let len = world.disk.open(&pack_path(0), Open::Read).unwrap().len().unwrap();
        world.flip(0, len - from_end);
        world.lose_index();
        let (store, report) = world.open();
        assert_eq!(report.damaged, [], "{from_end}");
        assert_holds(&store, &chunks);
        drop(store);
        let (_, report) = world.open();
        assert_eq!(report.packs_read, 1, "it was sealed again");
    }
}

#[test]
fn a_missing_pack_is_named_and_its_chunks_are_missing() {
    let world = World::new(5);
    let (store, chunks) = filled(&world, 60);
    let gone: Vec<ChunkId> =
        chunks.iter().filter(|chunk| location(&store, chunk).pack == 1).map(|chunk| chunk.id).collect();
    drop(store);
    world.disk.remove(&pack_path(1)).unwrap();
    let (store, report) = world.open();
    assert_eq!((report.missing_packs, report.rebuilt), (vec![1], Some(RebuildReason::PacksChanged)));
    let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
    assert_eq!(store.missing(&ids).unwrap(), gone);
    store.put_many(&chunks).unwrap();
    store.sync().unwrap();
    assert_holds(&store, &chunks);
    assert_eq!(world.open().1.missing_packs, []);
}

#[test]
fn a_pack_without_header_is_kept_and_reported() {
    let mut world = World::new(6);
    let (store, chunks) = filled(&world, 60);
    drop(store);
    world.flip(1, 20);
    world.lose_index();
    let (store, report) = world.open();
    assert_eq!(report.damaged.len(), 1);
    assert_eq!((report.damaged[0].pack, report.damaged[0].from), (1, 0));
    store.put_many(&chunks).unwrap();
    store.sync().unwrap();
    assert_holds(&store, &chunks);
    assert_eq!(store.stats().damaged_packs, 1);
}

#[test]
fn a_wrong_index_is_noticed_and_built_anew_by_itself() {
    let world = World::new(7);
    let (store, chunks) = filled(&world, 60);
    let key = |at: usize| Bytes::copy_from_slice(chunks[at].id.as_bytes());
    let index = Space("chunk-index");
    let value = |at: usize| {
        let mut batch = Batch::new();
        batch.put(index, key(0), world.kv.snapshot().get(index, &key(at)).unwrap().unwrap());
        batch
    };
    // The entry of one chunk leads to another's record.
    world.kv.write(value(5)).unwrap();
    assert_eq!(store.get(&chunks[0].id).unwrap().unwrap(), chunks[0]);
    // An entry that is none.
    let mut batch = Batch::new();
    batch.put(index, key(0), &b"???"[..]);
    world.kv.write(batch).unwrap();
    assert_eq!(store.get(&chunks[0].id).unwrap().unwrap(), chunks[0]);
    // An entry of a pack that never was.
    let mut batch = Batch::new();
    let mut bytes = world.kv.snapshot().get(index, &key(5)).unwrap().unwrap().to_vec();
    bytes[0] = 200;
    batch.put(index, key(0), bytes);
    world.kv.write(batch).unwrap();
    assert_eq!(store.get(&chunks[0].id).unwrap().unwrap(), chunks[0]);
    assert_eq!(store.corrupt_ids(), []);
    assert_holds(&store, &chunks);
    drop(store);

    // Entries are gone and the marks are not: found when the store is opened.
    let mut batch = Batch::new();
    for at in 0..chunks.len() {
        batch.delete(index, key(at));
    }
    world.kv.write(batch).unwrap();
    let (store, report) = world.open();
    assert_eq!(report.rebuilt, Some(RebuildReason::Damaged));
    assert_holds(&store, &chunks);
}

#[test]
fn a_stored_copy_of_a_pack_is_not_taken_for_records() {
    let mut world = World::new(8);
    let (store, chunks) = filled(&world, 6);
    drop(store);
    let file = world.disk.open(&pack_path(0), Open::Read).unwrap();
    let mut copy = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut copy, 0).unwrap();

    let other = World::new(9);
    let seeded = StoreOptions { seed: 43, pack_bytes: 1 << 20, ..options() };
    let open = || ChunkStore::open(Arc::new(other.disk.clone()), "/packs", kv(), seeded.clone()).unwrap();
    let (store, _) = open();
    let id = realm().chunk_id(&copy);
    let nested = EncodedChunk { id, raw_len: copy.len() as u32, codec: Codec::Raw, payload: copy.into() };
    store.put_many(&[nested.clone(), chunk(70, 100)]).unwrap();
    store.sync().unwrap();
    let offset = location(&store, &nested).offset;
    drop(store);
    other.flip(0, u64::from(offset) + 10);
    let (store, report) = open();
    assert_eq!(report.damaged.len(), 1);
    assert!(!store.contains(&chunks[0].id).unwrap(), "it never was stored here");
    assert_holds(&store, &[chunk(70, 100)]);
    world.lose_index();
}

#[test]
fn a_full_disk_refuses_early_and_recovers_by_itself() {
    let world = World::new(10);
    world.disk.set_capacity(400 << 10);
    let reserve = StoreOptions { reserve_bytes: 100 << 10, ..options() };
    let open = || ChunkStore::open(Arc::new(world.disk.clone()), "/packs", world.kv.clone(), reserve.clone()).unwrap();
    let (store, _) = open();
    let mut stored = Vec::new();
    let error = (0..).map(|number| chunk(1 + 3 * number, 20_000)).find_map(|chunk| match store.put(&chunk) {
        Ok(_) => {
            stored.push(chunk);
            None
        }
        Err(error) => Some((chunk, error)),
    });
    let (refused, error) = error.unwrap();
    assert!(matches!(error, StoreError::Full { reserve: 102_400, .. }), "{error}");
    assert_eq!(store.stats().state, StoreState::Full);
    assert!(world.disk.free_bytes(Path::new("/packs")).unwrap() >= 92 << 10, "the reserve is kept, but for rounding");
    store.sync().unwrap();
    assert_holds(&store, &stored);
    assert!(matches!(store.put(&refused), Err(StoreError::Full { .. })));

    world.disk.set_capacity(800 << 10);
    assert_eq!(store.put(&refused).unwrap(), PutOutcome::New);
    assert_eq!(store.stats().state, StoreState::Ok);
    store.sync().unwrap();
    stored.push(refused);
    drop(store);
    assert_holds(&open().0, &stored);
}

#[test]
fn a_disk_that_is_full_without_warning_loses_nothing() {
    // Without a reserve the write itself fails, in the middle of a record.
    let world = World::new(11);
    world.disk.set_capacity(200 << 10);
    let (store, _) = world.open();
    let chunks: Vec<_> = (0..100).map(|number| chunk(1 + 3 * number, 5_000)).collect();
    let mut stored = Vec::new();
    for chunk in &chunks {
        match store.put(chunk) {
            Ok(_) => stored.push(chunk.clone()),
            Err(error) => assert!(matches!(error, StoreError::Full { .. }), "{error}"),
        }
    }
    assert!(stored.len() > 20 && stored.len() < 60, "{}", stored.len());
    store.sync().unwrap();
    assert_holds(&store, &stored);
    world.disk.set_capacity(u64::MAX);
    store.put_many(&chunks).unwrap();
    store.sync().unwrap();
    assert_holds(&store, &chunks);
    drop(store);
    let (store, report) = world.open();
    assert_eq!(report.damaged, []);
    assert_holds(&store, &chunks);
}

#[test]
fn after_a_failed_fsync_nothing_is_written_and_reads_go_on() {
    for operation in [Operation::SyncData, Operation::SyncDir, Operation::Write] {
        let mut world = World::new(12);
        let (store, chunks) = filled(&world, 5);
        let new = chunk(200, 70_000); // needs a new pack, so that the folder is synced too
        world.disk.inject(Fault::next(&[operation]));
        let failed = store.put(&new).and_then(|_| store.sync());
        assert!(matches!(failed, Err(StoreError::Io { .. })), "{operation:?}: {failed:?}");
        assert!(matches!(store.stats().state, StoreState::ReadOnly(_)));
        assert!(matches!(store.put(&chunk(201, 10)), Err(StoreError::ReadOnly { .. })));
        if operation != Operation::Write {
            assert!(matches!(store.sync(), Err(StoreError::ReadOnly { .. })), "a second fsync would prove nothing");
        }
        assert!(!store.durable_and_present(&[new.id]).unwrap());
        assert_holds(&store, &chunks);
        drop(store);
        world.crash();
        let (store, _) = world.open();
        assert_holds(&store, &chunks);
        store.put(&new).unwrap();
        store.sync().unwrap();
        assert_holds(&store, &[new]);
    }
}

#[test]
fn an_index_that_was_built_anew_in_part_removes_nothing() {
    for (operation, skip) in [(Operation::Open, 1), (Operation::Read, 4), (Operation::List, 0)] {
        let world = World::new(13);
        let (store, chunks) = filled(&world, 60);
        let packs = store.packs();
        assert!(packs.len() > 2);
        let collected = store.collect(super::gc::mark(&store, &chunks), Duration::ZERO, false, &mut |_| true).unwrap();
        world.disk.inject(Fault::next(&[operation]).of("/packs").after(skip));
        store.rebuild_index(|_| {}).unwrap_err();
        assert!(!store.missing(&ids_of(&chunks)).unwrap().is_empty(), "{operation:?}: it failed on the way");
        assert!(matches!(store.stats().state, StoreState::ReadOnly(_)));
        let refused =
            |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::ReadOnly { .. })), "{result:?}");
        refused(store.rewrite(&packs, &mut |_| true).map(drop));
        refused(store.repack(&collected, RepackOptions { live_percent_min: 100 }, &mut |_| true).map(drop));
        refused(store.collect(super::gc::mark(&store, &[]), Duration::ZERO, false, &mut |_| true).map(drop));
        assert_eq!(
            world
                .disk
                .list(Path::new("/packs"))
                .unwrap()
                .iter()
                .filter(|name| name.to_string_lossy().ends_with(".pack"))
                .count(),
            packs.len()
        );
        store.rebuild_index(|_| {}).unwrap();
        assert_holds(&store, &chunks);
        drop(store);
        let (store, _) = world.open();
        assert_holds(&store, &chunks);
        store.rewrite(&packs, &mut |_| true).unwrap();
        assert_holds(&store, &chunks);
    }
}

fn ids_of(chunks: &[EncodedChunk]) -> Vec<ChunkId> {
    chunks.iter().map(|chunk| chunk.id).collect()
}

#[test]
fn a_pack_stays_while_an_entry_that_does_not_decode_may_lead_to_it() {
    let world = World::new(14);
    let (store, chunks) = filled(&world, 60);
    let bad = chunks.iter().find(|chunk| location(&store, chunk).pack == 1).unwrap();
    let mut batch = Batch::new();
    batch.put(Space("chunk-index"), Bytes::copy_from_slice(bad.id.as_bytes()), &b"???"[..]);
    world.kv.write(batch).unwrap();
    store.rewrite(&[0, 1], &mut |_| true).unwrap();
    assert_eq!(store.packs().iter().filter(|pack| **pack < 2).collect::<Vec<_>>(), [&1]);
    assert_same(&store.get(&bad.id).unwrap().unwrap(), bad);
    assert_holds(&store, &chunks);
}
