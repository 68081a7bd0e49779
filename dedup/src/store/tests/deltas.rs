//! Chunks that rest as deltas: small, readable, never more than they replace, and never without what they stand on.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::gc::{collect, go, ids, mark, pass, present};
use super::*;
use crate::delta::{BaseRef, DEPTH_MAX, Delta, DeltaRecord};
use crate::store::gc::{RepackOptions, UNKNOWN_LEASE};
use crate::store::shape::Item;

/// Version `version` of a range: noise that depends on `family`, of which each version changed some bytes.
pub(super) fn version(family: u64, version: u64, len: usize) -> EncodedChunk {
    let mut plain = vec![0; len];
    blake3::Hasher::new().update(&family.to_le_bytes()).finalize_xof().fill(&mut plain);
    for change in 1..=version {
        let at = (change as usize * 701) % (len - 16);
        plain[at..at + 16].copy_from_slice(&blake3::hash(&change.to_le_bytes()).as_bytes()[..16]);
    }
    EncodedChunk::plain(realm().chunk_id(&plain), plain.into())
}

/// The base of each chunk is named.
pub(super) fn hinted<'a>(realm: &'a Realm, pairs: &[(&EncodedChunk, &EncodedChunk)]) -> PutHints<'a> {
    let base = |base: &EncodedChunk| vec![LikelyBase { chunks: vec![base.id], align: 0 }];
    PutHints { realm, bases: pairs.iter().map(|(chunk, on)| (chunk.id, base(on))).collect() }
}

fn put_on(store: &ChunkStore, chunk: &EncodedChunk, base: &EncodedChunk) {
    store.put_with(std::slice::from_ref(chunk), Some(&hinted(&realm(), &[(chunk, base)]))).unwrap();
}

fn depth(store: &ChunkStore, chunk: &EncodedChunk) -> u8 {
    location(store, chunk).depth
}

/// Versions 0, 1, ... of one family, each on the one before; synced.
fn chain(store: &ChunkStore, family: u64, versions: u64) -> Vec<EncodedChunk> {
    let chunks: Vec<_> = (0..versions).map(|number| version(family, number, 8_000)).collect();
    store.put(&chunks[0]).unwrap();
    for pair in chunks.windows(2) {
        put_on(store, &pair[1], &pair[0]);
    }
    store.sync().unwrap();
    chunks
}

#[test]
fn a_version_on_a_named_base_takes_its_difference_and_reads_as_itself() {
    let mut world = World::new(1);
    let (store, _) = world.open();
    let chunks = chain(&store, 1, 2);
    assert_eq!((depth(&store, &chunks[0]), depth(&store, &chunks[1])), (0, 1));
    let stats = store.stats();
    assert_eq!((stats.delta_chunks, stats.delta_raw_bytes), (1, 8_000));
    assert!(stats.delta_stored_bytes < 300 && stats.delta_saved_bytes > 7_000, "{stats:?}");
    assert_holds(&store, &chunks);
    assert!(!store.get(&chunks[1].id).unwrap().unwrap().codec.is_delta(), "no reader is asked to have the base");
    drop(store);
    let (store, _) = world.open();
    assert_eq!(store.stats().delta_chunks, 1);
    assert_holds(&store, &chunks);
    drop(store);
    world.lose_index();
    let (store, _) = world.open();
    assert_eq!(depth(&store, &chunks[1]), 1);
    assert!(store.has_dependents(&chunks[0].id).unwrap());
    assert_holds(&store, &chunks);
}

#[test]
fn a_like_chunk_is_found_by_its_sketch_and_only_in_its_realm() {
    let (store, _) = World::new(2).open();
    let (old, new, newer) = (version(2, 0, 40_000), version(2, 2, 40_000), version(2, 3, 40_000));
    let realm = realm();
    store.put_with(&[old], Some(&PutHints::of(&realm))).unwrap();
    store.put(&new).unwrap();
    assert_eq!(depth(&store, &new), 0, "nothing was said of its realm");
    store.put_with(std::slice::from_ref(&newer), Some(&PutHints::of(&realm))).unwrap();
    assert_eq!(depth(&store, &newer), 1);
    let other = Realm::new("other", [8; 32]);
    let theirs = EncodedChunk::plain(other.chunk_id(&newer.payload), newer.payload.clone());
    store.put_with(std::slice::from_ref(&theirs), Some(&PutHints::of(&other))).unwrap();
    assert_eq!(depth(&store, &theirs), 0);
    // Not even when it is named.
    let named = version(2, 4, 40_000);
    let named = EncodedChunk::plain(other.chunk_id(&named.payload), named.payload);
    store.put_with(std::slice::from_ref(&named), Some(&hinted(&other, &[(&named, &newer)]))).unwrap();
    assert_eq!(store.entry(&named.id, true).unwrap().unwrap().bases, [theirs.id], "found by its sketch");
    store.sync().unwrap();
    assert_eq!(store.get(&named.id).unwrap().unwrap().decode(&other).unwrap(), named.payload);
}

#[test]
fn a_named_range_is_cut_to_where_the_chunk_lies() {
    let (store, _) = World::new(3).open();
    let old: Vec<_> = (0..9).map(|number| version(100 + number, 0, 4_000)).collect();
    store.put_many(&old).unwrap();
    // What was there before had other boundaries: from within the sixth chunk into the eighth.
    let all: Vec<u8> = old.iter().flat_map(|chunk| chunk.payload.to_vec()).collect();
    let mut plain = all[21_000..30_000].to_vec();
    plain[77] ^= 1;
    let new = EncodedChunk::plain(realm().chunk_id(&plain), plain.into());
    let realm = realm();
    let likely = LikelyBase { chunks: ids(&old), align: 21_000 };
    let hints = PutHints { realm: &realm, bases: [(new.id, vec![likely])].into() };
    store.put_with(std::slice::from_ref(&new), Some(&hints)).unwrap();
    store.sync().unwrap();
    assert_eq!(store.entry(&new.id, false).unwrap().unwrap().bases, ids(&old[5..8]));
    assert_holds(&store, &[new]);
}

/// Versions of a file, each cut at other places than the one before: a chunk of it has `wider` times the bytes, so that it lies
/// over several chunks of that. The chunks with hints, in their order; some bytes of each were changed.
fn recut(family: u64, len: usize, small: usize, wider: &[(usize, usize)]) -> Vec<Vec<(EncodedChunk, LikelyBase)>> {
    let mut plain = vec![0; len];
    blake3::Hasher::new().update(&family.to_le_bytes()).finalize_xof().fill(&mut plain);
    let mut size = small;
    let mut cuts: Vec<(usize, usize)> = Vec::new(); // start and length
    let mut before: Vec<ChunkId> = Vec::new();
    let mut versions = Vec::new();
    for (number, (times, shift)) in std::iter::once(&(1, 0)).chain(wider).enumerate() {
        size *= times;
        let mut cut = Vec::new();
        let mut at = 0;
        while at < len {
            let part = if at == 0 && *shift > 0 { *shift } else { size };
            cut.push((at, part.min(len - at)));
            at += part;
        }
        let mut version = Vec::new();
        for (start, len) in &cut {
            plain[*start] ^= number as u8; // all of its chunks are new
            let bytes = Bytes::copy_from_slice(&plain[*start..start + len]);
            let chunk = EncodedChunk::plain(realm().chunk_id(&bytes), bytes);
            let over: Vec<usize> = (0..cuts.len())
                .filter(|old| cuts[*old].0 < start + len && cuts[*old].0 + cuts[*old].1 > *start)
                .collect();
            let align = over.first().map_or(0, |first| *start as i64 - cuts[*first].0 as i64);
            let chunks = over.iter().map(|old| before[*old]).take(20).collect();
            version.push((chunk, LikelyBase { chunks, align }));
        }
        before = version.iter().map(|(chunk, _)| chunk.id).collect();
        cuts = cut;
        versions.push(version);
    }
    versions
}

/// Puts versions one after the other; whatever was taken can be read: at once, after a sync, and after opening anew.
fn put_recut(seed: u64, versions: &[Vec<(EncodedChunk, LikelyBase)>]) -> BTreeSet<u8> {
    let mut world = World::new(seed);
    let (store, _) = world.open();
    let realm = realm();
    let mut all = Vec::new();
    for version in versions {
        let chunks: Vec<EncodedChunk> = version.iter().map(|(chunk, _)| chunk.clone()).collect();
        let bases = version.iter().map(|(chunk, base)| (chunk.id, vec![base.clone()])).collect();
        store.put_with(&chunks, Some(&PutHints { realm: &realm, bases })).unwrap();
        all.extend(chunks);
        assert_eq!(store.missing(&ids(&all)).unwrap(), []);
        for chunk in &all {
            assert_same(&store.get(&chunk.id).unwrap().unwrap(), chunk);
        }
    }
    store.sync().unwrap();
    assert_holds(&store, &all);
    let depths = all.iter().map(|chunk| depth(&store, chunk)).collect();
    drop(store);
    assert_holds(&world.open().0, &all);
    world.lose_index();
    assert_holds(&world.open().0, &all);
    depths
}

#[test]
fn a_chain_over_several_bases_a_link_ends_where_its_reader_does() {
    // Three chunks below each: 3, 9 and 27 reads.
    let depths = put_recut(30, &recut(30, 162_000, 2_000, &[(3, 0), (3, 0), (3, 0), (1, 900)]));
    assert!(depths.contains(&2), "{depths:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_put_took_can_be_read(family: u64, wider in prop::collection::vec((1..5_usize, 0..3_000_usize), 3..5)) {
        put_recut(31, &recut(family, 120_000, 2_000, &wider));
    }
}

#[test]
fn chains_end_at_their_bound_and_go_on_from_below() {
    let mut world = World::new(4);
    let (store, _) = world.open();
    let mut chunks = vec![version(4, 0, 40_000)];
    let realm = realm();
    store.put_with(&chunks, Some(&PutHints::of(&realm))).unwrap();
    for number in 1..12 {
        let chunk = version(4, number, 40_000);
        let hints = hinted(&realm, &[(&chunk, &chunks[number as usize - 1])]);
        store.put_with(std::slice::from_ref(&chunk), Some(&hints)).unwrap();
        chunks.push(chunk);
    }
    store.sync().unwrap();
    let depths: Vec<u8> = chunks.iter().map(|chunk| depth(&store, chunk)).collect();
    assert_eq!(depths[..4], [0, 1, 2, 3]);
    assert!(depths[4..].iter().all(|depth| (1..=DEPTH_MAX).contains(depth)), "{depths:?}");
    assert_holds(&store, &chunks);
    drop(store);
    world.lose_index();
    assert_holds(&world.open().0, &chunks);
}

#[test]
fn without_the_option_nothing_becomes_a_delta_and_those_there_are_read() {
    let world = World::new(5);
    let chunks = chain(&world.open().0, 5, 3);
    let off = StoreOptions { deltas: Deltas::Off, ..world.options() };
    let (store, _) = ChunkStore::open(Arc::new(world.disk.clone()), "/packs", world.kv.clone(), off).unwrap();
    let more = version(5, 3, 8_000);
    put_on(&store, &more, &chunks[2]);
    store.sync().unwrap();
    assert_eq!((depth(&store, &more), store.stats().delta_chunks), (0, 2));
    assert_holds(&store, &chunks);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Text in blocks, noise alone, like chunks in one put and in several: the packs are never larger than without deltas.
    #[test]
    fn packs_are_never_larger_than_without(puts in prop::collection::vec(prop::collection::vec((0..4_u64, 0..6_u64, any::<bool>()), 1..12), 1..8)) {
        let make = |(family, number, text): &(u64, u64, bool)| {
            let chunk = version(*family, *number, 6_000);
            if !text {
                return chunk;
            }
            let plain: Vec<u8> = chunk.payload.iter().flat_map(|byte| [b'a' + byte % 16, b'a' + byte / 16, b' ']).collect();
            EncodedChunk::plain(realm().chunk_id(&plain), plain.into())
        };
        let bytes = |deltas: Deltas| {
            let world = World { block_bytes: 128 << 10, ..World::new(6) };
            let options = StoreOptions { deltas, ..world.options() };
            let (store, _) = ChunkStore::open(Arc::new(world.disk.clone()), "/packs", world.kv.clone(), options).unwrap();
            let realm = realm();
            let mut all = Vec::new();
            for put in &puts {
                let chunks: Vec<_> = put.iter().map(make).collect();
                store.put_with(&chunks, Some(&PutHints::of(&realm))).unwrap();
                all.extend(chunks);
            }
            store.sync().unwrap();
            assert_holds(&store, &all);
            let stats = store.stats();
            (stats.stored_bytes, stats.delta_saved_bytes)
        };
        let ((with, saved), (without, none)) = (bytes(Deltas::Similar), bytes(Deltas::Off));
        prop_assert!(none == 0 && with + saved <= without + 400 * u64::from(with != without), "{with} {saved} {without}");
        prop_assert!(with <= without);
    }
}

#[test]
fn a_corrupt_base_takes_its_deltas_out_and_brings_them_back() {
    for scrub in [false, true] {
        let world = World::new(7);
        let (store, _) = world.open();
        let chunks = chain(&store, 7, 4);
        let bystander = version(70, 0, 8_000);
        store.put(&bystander).unwrap();
        store.sync().unwrap();
        let at = location(&store, &chunks[0]);
        world.flip(at.pack, u64::from(at.offset) + 500);
        if scrub {
            assert_eq!(store.scrub_pack(at.pack).unwrap().unwrap().corrupt, [chunks[0].id]);
        } else {
            let error = store.get(&chunks[3].id).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { id, .. } if id == chunks[0].id), "{error}");
        }
        assert_eq!(store.get_many(&ids(&chunks)).unwrap(), vec![None; 4]);
        assert_eq!(store.missing(&ids(&chunks)).unwrap(), ids(&chunks));
        assert_eq!(store.not_durable(&ids(&chunks)).unwrap(), ids(&chunks));
        assert!(!store.contains(&chunks[2].id).unwrap());
        let named: BTreeSet<ChunkId> = store.corrupt_ids().into_iter().collect();
        assert_eq!(named, ids(&chunks).into_iter().collect(), "with what stands on it, for its files to be named");
        // One is put again before the base is: as a chunk of its own.
        store.put(&chunks[2]).unwrap();
        store.sync().unwrap();
        assert_holds(&store, &chunks[2..]);
        assert_eq!(store.missing(&ids(&chunks)).unwrap(), ids(&chunks[..2]));
        store.put(&chunks[0]).unwrap();
        store.sync().unwrap();
        assert_holds(&store, &chunks);
        assert_holds(&store, &[bystander]);
        assert_eq!(store.corrupt_ids(), []);
    }
}

#[test]
fn a_base_that_is_put_again_stands_alone_whatever_it_resembles() {
    for (published, by_sketch) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut world = World::new(17);
        let (store, _) = world.open();
        let realm = realm();
        let like = version(17, 9, 8_000);
        let chunks: Vec<_> = (0..4).map(|number| version(17, number, 8_000)).collect();
        store.put(&chunks[0]).unwrap();
        store.sync().unwrap();
        for pair in chunks.windows(2) {
            put_on(&store, &pair[1], &pair[0]);
        }
        let hints = PutHints::of(&realm);
        // A delta on the last, or something that only resembles it.
        let end = version(17, 5, 8_000);
        store.put_with(std::slice::from_ref(&like), by_sketch.then_some(&hints)).unwrap();
        if published {
            store.sync().unwrap();
        }
        let at = location(&store, &chunks[0]);
        store.quarantine(&chunks[0].id, at, Damage::OtherBytes);
        assert_eq!(store.missing(&ids(&chunks)).unwrap().len(), 4);
        store.put(&end).unwrap();
        if by_sketch {
            store.put_with(std::slice::from_ref(&chunks[0]), Some(&hints)).unwrap();
        } else {
            put_on(&store, &chunks[0], &end);
        }
        assert_eq!(depth(&store, &chunks[0]), 0);
        assert_eq!(store.missing(&ids(&chunks)).unwrap(), []);
        store.sync().unwrap();
        assert_holds(&store, &chunks);
        drop(store);
        world.lose_index();
        assert_holds(&world.open().0, &chunks);
    }
}

#[test]
fn a_delta_that_waits_for_its_sync_and_lost_its_base_is_put_again() {
    let (store, _) = World::new(18).open();
    let chunks: Vec<_> = (0..2).map(|number| version(18, number, 8_000)).collect();
    store.put(&chunks[0]).unwrap();
    put_on(&store, &chunks[1], &chunks[0]);
    store.quarantine(&chunks[0].id, location(&store, &chunks[0]), Damage::OtherBytes);
    assert_eq!(store.put(&chunks[1]).unwrap(), PutOutcome::New, "not merely known");
    store.sync().unwrap();
    assert_holds(&store, &chunks[1..]);
    assert_eq!(store.pins.all(), []);
}

#[test]
fn a_corrupt_delta_does_no_harm_to_its_base() {
    let world = World::new(8);
    let (store, _) = world.open();
    let chunks = chain(&store, 8, 3);
    let at = location(&store, &chunks[1]);
    world.flip(at.pack, u64::from(at.offset) + 70);
    store.get(&chunks[1].id).unwrap_err();
    assert_eq!(store.missing(&ids(&chunks)).unwrap(), ids(&chunks[1..]));
    put_on(&store, &chunks[1], &chunks[0]);
    store.sync().unwrap();
    assert_holds(&store, &chunks);
}

/// A chain whose first chunk has other bytes than those of its name, under checksums that hold.
fn chain_on_wrong_bytes(store: &ChunkStore, family: u64) -> Vec<EncodedChunk> {
    let chunks: Vec<_> = (0..3).map(|number| version(family, number, 8_000)).collect();
    let other = version(family, 77, 8_000);
    store.put(&EncodedChunk::plain(chunks[0].id, other.payload)).unwrap();
    for (pair, depth) in chunks.windows(2).zip(1..) {
        let delta =
            crate::delta::encode(&pair[1].payload, &[crate::delta::Base::like(&pair[0].payload)], 8_000, 1).unwrap();
        let base = BaseRef { chunks: vec![pair[0].id], len: 8_000 };
        let delta = DeltaRecord::chunk(pair[1].id, 8_000, base, Delta { depth, ..delta });
        append(store, Item::delta(&delta, depth, vec![pair[0].id]));
    }
    store.sync().unwrap();
    chunks
}

#[test]
fn of_a_good_delta_on_wrong_bytes_the_base_is_blamed() {
    for backwards in [false, true] {
        let (store, _) = World::new(20).open();
        // The deltas in a pack of their own, so that they may be looked at first.
        let filler = chunk(1, 60_000);
        let chunks = chain_on_wrong_bytes(&store, 20);
        store.put(&filler).unwrap();
        let mut is_right = |chunk: &EncodedChunk| chunk.decode(&realm()).is_ok();
        let mut found = BTreeSet::new();
        if backwards {
            let mut verified = Verified::default();
            let newest = store.get(&chunks[2].id).unwrap().unwrap();
            assert!(!is_right(&newest));
            store.blame(&chunks[2].id, DEPTH_MAX, &mut is_right, &mut verified).unwrap();
            found.extend(verified.corrupt);
            assert_eq!(found, [chunks[0].id].into());
        }
        for pack in store.packs() {
            found.extend(store.verify_pack(pack, &mut is_right, &mut go()).unwrap().corrupt);
        }
        assert_eq!(store.corrupt_alone(), [chunks[0].id], "its record alone is wrong");
        assert_eq!(store.missing(&ids(&chunks)).unwrap(), ids(&chunks));
        assert_eq!(store.corrupt_ids().into_iter().collect::<BTreeSet<_>>(), ids(&chunks).into_iter().collect());
        store.put(&chunks[0]).unwrap();
        store.sync().unwrap();
        assert_holds(&store, &chunks);
        assert_eq!((depth(&store, &chunks[2]), store.corrupt_ids()), (2, vec![]));
    }
}

#[test]
fn a_delta_that_does_not_decode_is_missing_and_judged_by_the_scrub() {
    let (store, _) = World::new(21).open();
    let chunks = chain(&store, 21, 1);
    let new = version(21, 1, 8_000);
    forge(&store, new.id, 1, &[chunks[0].id], 8_000);
    store.sync().unwrap();
    let error = store.get(&new.id).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { id, .. } if id == new.id), "{error}");
    assert_eq!(store.missing(&[chunks[0].id, new.id]).unwrap(), [new.id]);
    assert_eq!(
        (store.corrupt_alone(), store.corrupt_ids()),
        (vec![], vec![new.id]),
        "nobody can say whose fault it is"
    );
    let mut is_right = |chunk: &EncodedChunk| chunk.decode(&realm()).is_ok();
    let verified = store.verify_pack(0, &mut is_right, &mut go()).unwrap();
    assert_eq!((verified.corrupt, store.corrupt_alone()), (vec![new.id], vec![new.id]), "what it stands on is right");
    put_on(&store, &new, &chunks[0]);
    store.sync().unwrap();
    assert_holds(&store, &[chunks[0].clone(), new]);
    assert_eq!(store.corrupt_ids(), []);
}

#[test]
fn an_older_delta_without_its_base_heals_nothing() {
    for reopened in [false, true] {
        let mut world = World::new(22);
        let (store, _) = world.open();
        let chunks = chain(&store, 22, 2);
        store.quarantine(&chunks[0].id, location(&store, &chunks[0]), Damage::OtherBytes);
        store.put(&chunks[1]).unwrap();
        store.sync().unwrap();
        store.quarantine(&chunks[1].id, location(&store, &chunks[1]), Damage::OtherBytes);
        assert_eq!(store.corrupt_alone().len(), 2);
        let store = if reopened {
            let list = CorruptList::read(&*world.kv).unwrap();
            drop(store);
            world.lose_index();
            list.write(&*world.kv).unwrap();
            world.open().0
        } else {
            store.rebuild_index(|_| {}).unwrap();
            store
        };
        assert_eq!(store.corrupt_alone().len(), 2, "both are still owed");
        assert_eq!(store.missing(&ids(&chunks)).unwrap(), ids(&chunks));
        store.put(&chunks[0]).unwrap();
        store.sync().unwrap();
        assert_holds(&store, &chunks);
        store.rebuild_index(|_| {}).unwrap();
        assert_eq!(store.corrupt_alone(), []);
        assert_holds(&store, &chunks);
    }
}

/// Appends a record without the checks of a put.
fn append(store: &ChunkStore, item: Item) {
    lock(&store.writer).append(&store.files, &store.options, &[item], |entry| store.pend(entry)).unwrap();
}

#[test]
fn a_copy_that_was_read_before_its_chunk_was_put_again_is_dropped() {
    for published in [true, false] {
        let mut world = World::new(19);
        let (store, _) = world.open();
        let chunks = chain(&store, 19, 2);
        let neighbours: Vec<_> = (0..3).map(|number| version(190 + number, 0, 3_000)).collect();
        store.put_many(&neighbours).unwrap();
        store.sync().unwrap();
        // As a repack reads it.
        let place = location(&store, &chunks[1]);
        let read = store.stored_at(&chunks[1].id, place).unwrap().unwrap();
        // Its base goes bad, and it is put again.
        store.quarantine(&chunks[0].id, location(&store, &chunks[0]), Damage::OtherBytes);
        assert_eq!(store.put(&chunks[1]).unwrap(), PutOutcome::New);
        if published {
            store.sync().unwrap();
        }
        let now = location(&store, &chunks[1]);
        let delta = Item::delta(&read, place.depth, vec![chunks[0].id]);
        let mut done = Default::default();
        assert!(store.write_whole(&ids(&neighbours), vec![(delta, place)], &mut done).unwrap());
        assert_eq!((done.moved, location(&store, &chunks[1])), (3, now));
        store.sync().unwrap();
        assert_holds(&store, &chunks[1..]);
        assert_holds(&store, &neighbours);
        drop(store);
        world.lose_index();
        assert_holds(&world.open().0, &chunks[1..]);
    }
}

/// Appends a delta that no writer of this program would make.
fn forge(store: &ChunkStore, id: ChunkId, depth: u8, base: &[ChunkId], base_len: u32) {
    let delta = Delta { base: 0, codec: Codec::ZstdPrefix, depth, body: b"no frame".as_slice().into() };
    let reference = BaseRef { chunks: base.to_vec(), len: base_len };
    let item = Item::delta(&DeltaRecord::chunk(id, 8_000, reference, delta), depth, base.to_vec());
    append(store, item);
}

#[test]
fn loops_and_lies_on_disk_end_in_a_missing_or_a_corrupt_chunk() {
    let mut world = World::new(9);
    let (store, _) = world.open();
    let chunks = chain(&store, 9, 4);
    let id = |byte: u8| ChunkId([byte; 32]);
    forge(&store, id(1), 1, &[id(1)], 8_000); // itself
    forge(&store, id(2), 1, &[id(3)], 8_000); // a cycle
    forge(&store, id(3), 2, &[id(2)], 8_000);
    forge(&store, id(4), 1, &[chunks[3].id], 8_000); // a fourth link
    forge(&store, id(5), 1, &[id(99)], 8_000); // nothing
    forge(&store, id(6), 1, &[chunks[0].id], 9_000); // another length
    forge(&store, id(7), 1, &[chunks[0].id], 8_000); // no frame
    let wide = [chunks[0].id; 4];
    forge(&store, id(8), 1, &wide, 32_000);
    for (number, below) in [(9, 8), (10, 9)] {
        forge(&store, id(number), number - 7, &[id(below); 4], 32_000); // 84 reads
    }
    store.sync().unwrap();
    let check = |store: &ChunkStore| {
        for number in 1..=10 {
            match store.get(&id(number)) {
                Ok(None) | Err(StoreError::Corrupt { .. }) => {}
                found => panic!("{number}: {found:?}"),
            }
        }
        assert_eq!(store.missing(&(1..=10).map(id).collect::<Vec<_>>()).unwrap().len(), 10);
        assert!(store.corrupt_ids().iter().all(|id| !ids(&chunks).contains(id)));
        assert_holds(store, &chunks);
        for pack in store.packs() {
            assert!(store.scrub_pack(pack).unwrap().unwrap().structure.is_none());
        }
        for _ in 0..2 * (DEPTH_MAX + 2) {
            collect(store, &chunks, Duration::ZERO);
        }
        assert_holds(store, &chunks);
    };
    check(&store);
    drop(store);
    world.lose_index();
    check(&world.open().0);
}

#[test]
fn packs_of_the_first_version_are_read_and_not_gone_on_with() {
    let mut world = World::new(10);
    let chunk = version(10, 0, 8_000);
    {
        let (store, _) = world.open();
        store.put(&chunk).unwrap();
        store.sync().unwrap();
    }
    let file = world.disk.open(&pack_path(0), causeway_storage::disk::Open::Write).unwrap();
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).unwrap();
    header[8] = 1;
    let sum = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&header, 0).unwrap();
    file.sync_data().unwrap();
    drop(file);
    world.lose_index();
    let (store, report) = world.open();
    assert_eq!(report.damaged, []);
    let new = version(10, 1, 8_000);
    put_on(&store, &new, &chunk);
    store.sync().unwrap();
    assert_eq!((location(&store, &chunk).pack, location(&store, &new).pack, depth(&store, &new)), (0, 1, 1));
    assert_holds(&store, &[chunk, new]);
}

/// Collections until nothing changes any more.
fn collect_all(store: &ChunkStore, kept: &[EncodedChunk]) {
    for _ in 0..2 * (DEPTH_MAX + 1) {
        collect(store, kept, Duration::ZERO);
    }
}

#[test]
fn what_a_delta_stands_on_stays_as_long_as_it_does() {
    let (store, _) = World::new(11).open();
    let chunks = chain(&store, 11, 4);
    let newest = &chunks[3..];
    let first = collect(&store, newest, Duration::ZERO);
    assert_eq!((first.unreached, first.based, first.condemned), (3, 3, 0));
    collect_all(&store, newest);
    assert_eq!(present(&store).len(), 4);
    assert_holds(&store, newest);
    let dry = store.collect(mark(&store, &[]), Duration::ZERO, true, &mut go()).unwrap();
    assert_eq!((dry.condemned, dry.based), (1, 3), "the newest goes first");
    collect_all(&store, &[]);
    assert_eq!(present(&store), [].into());
    assert_eq!(store.index.dependents(None, None, 10).unwrap(), []);
}

#[test]
fn a_base_that_is_condemned_is_revived_by_the_delta_and_pinned_until_that_is_published() {
    let (store, _) = World::new(12).open();
    let (old, new) = (version(12, 0, 8_000), version(12, 1, 8_000));
    store.put(&old).unwrap();
    store.sync().unwrap();
    assert_eq!(collect(&store, &[], Duration::ZERO).condemned, 1);
    put_on(&store, &new, &old);
    assert_eq!(depth(&store, &new), 1);
    for _ in 0..4 {
        assert_eq!(collect(&store, &[], Duration::ZERO).removed, 0);
    }
    store.sync().unwrap();
    assert!(!store.pins.holds(&old.id), "the index names it now");
    assert_holds(&store, std::slice::from_ref(&new));
    collect(&store, std::slice::from_ref(&new), Duration::ZERO);
    collect(&store, std::slice::from_ref(&new), Duration::ZERO);
    assert_holds(&store, &[new]);
}

#[test]
fn a_base_that_was_removed_is_no_base() {
    let (store, _) = World::new(13).open();
    let (old, new) = (version(13, 0, 8_000), version(13, 1, 8_000));
    let realm = realm();
    store.put_with(std::slice::from_ref(&old), Some(&PutHints::of(&realm))).unwrap();
    store.sync().unwrap();
    collect_all(&store, &[]);
    put_on(&store, &new, &old);
    store.sync().unwrap();
    assert_eq!(depth(&store, &new), 0);
    assert_holds(&store, &[new]);
}

#[test]
fn a_repack_moves_deltas_as_they_are_and_their_bases_too() {
    let mut world = World::new(14);
    let (store, _) = world.open();
    let mut kept = Vec::new();
    let mut garbage = Vec::new();
    for family in 0..30 {
        let chunks = chain(&store, 1_400 + family, 3);
        if family % 5 == 0 { kept.extend(chunks) } else { garbage.extend(chunks) }
    }
    for _ in 0..2 * (DEPTH_MAX + 1) {
        collect(&store, &kept, Duration::ZERO);
    }
    let collected = collect(&store, &kept, Duration::ZERO);
    let done = store.repack(&collected, RepackOptions { live_percent_min: 90 }, &mut go()).unwrap();
    assert!(done.packs >= 3 && done.moved >= 9 && done.whole == 0, "{done:?}");
    assert!(store.stats().delta_chunks < 40, "of 60");
    assert!(kept.chunks(3).all(|chunks| depth(&store, &chunks[2]) == 2));
    assert_holds(&store, &kept);
    assert_eq!(store.missing(&ids(&garbage)).unwrap().len(), garbage.len());
    drop(store);
    world.lose_index();
    assert_holds(&world.open().0, &kept);
}

#[test]
fn a_delta_whose_base_costs_more_than_it_saves_is_written_whole() {
    let (store, _) = World::new(15).open();
    let old = version(15, 0, 8_000);
    // A little less than half of it is new, so that the delta is just taken.
    let mut plain = old.payload.to_vec();
    blake3::Hasher::new().update(b"new").finalize_xof().fill(&mut plain[..3_300]);
    let new = EncodedChunk::plain(realm().chunk_id(&plain), plain.into());
    store.put(&old).unwrap();
    put_on(&store, &new, &old);
    store.sync().unwrap();
    assert_eq!(depth(&store, &new), 1);
    let both = [old.clone(), new.clone()];
    assert_eq!(collect(&store, &both, Duration::ZERO).stand_alone, [], "the base is in use");
    let kept = std::slice::from_ref(&new);
    let collected = collect(&store, kept, Duration::ZERO);
    assert_eq!(collected.stand_alone, [new.id]);
    assert_eq!(store.repack(&collected, RepackOptions { live_percent_min: 0 }, &mut go()).unwrap().whole, 1);
    assert_eq!(depth(&store, &new), 0);
    assert_holds(&store, kept);
    collect_all(&store, kept);
    assert_eq!(present(&store), [new.id].into());
    assert_holds(&store, kept);
}

#[test]
fn the_power_goes_at_every_operation_with_deltas() {
    // Bases and deltas in several packs, part of it collected, the rest rewritten.
    let kept: Vec<_> = (0..6).flat_map(|family| (0..4).map(move |number| version(family, number, 8_000))).collect();
    let work = |world: &World, acknowledged: &mut Vec<EncodedChunk>| -> Result<(), StoreError> {
        let (store, _) = ChunkStore::open(Arc::new(world.disk.clone()), "/packs", world.kv.clone(), options())?;
        let realm = realm();
        for family in 0..12 {
            let chunks: Vec<_> = (0..4).map(|number| version(family, number, 8_000)).collect();
            for number in 0..4 {
                let before = number.max(1) - 1;
                let hints = hinted(&realm, &[(&chunks[number], &chunks[before])]);
                store.put_with(std::slice::from_ref(&chunks[number]), Some(&hints))?;
            }
            store.sync()?;
            if family < 6 {
                acknowledged.extend(chunks);
            }
        }
        for round in 0..4 {
            let collected = store.collect(mark(&store, &kept), Duration::ZERO, false, &mut go())?;
            if round == 0 {
                pass(&store, UNKNOWN_LEASE);
            }
            store.repack(&collected, RepackOptions { live_percent_min: 90 }, &mut go())?;
        }
        store.sync()
    };
    let world = World::new(0);
    work(&world, &mut Vec::new()).unwrap();
    let mutations = world.disk.mutations();
    assert!(mutations > 40, "{mutations}");
    let mut deltas = 0;
    for seed in 0..3 {
        for n in 0..=mutations {
            let context = format!("seed {seed}, power cut at mutation {n}");
            let mut world = World::new(1 + seed * 1_000 + n);
            world.disk.cut_power_at(n);
            let mut acknowledged = Vec::new();
            let _ = work(&world, &mut acknowledged);
            world.crash();
            if seed % 2 == 1 {
                world.lose_index();
            }
            let (store, report) = world.open();
            assert!(report.damaged.iter().all(|range| !range.acknowledged), "{context}: {report:?}");
            assert_eq!(store.missing(&ids(&acknowledged)).unwrap(), [], "{context}");
            assert_holds(&store, &acknowledged);
            // What is said to be here can be read.
            for chunk in &kept {
                assert_eq!(store.contains(&chunk.id).unwrap(), store.get(&chunk.id).unwrap().is_some(), "{context}");
            }
            deltas += store.stats().delta_chunks;
            drop(store);
            work(&world, &mut Vec::new()).unwrap();
            assert_holds(&world.open().0, &kept);
        }
    }
    assert!(deltas > 500, "{deltas}");
}

#[test]
fn equal_puts_at_once_store_one_and_leave_no_pin() {
    let (store, _) = World::new(16).open();
    let old = version(16, 0, 8_000);
    store.put(&old).unwrap();
    let chunks: Vec<_> = (1..30).map(|number| version(16, number, 8_000)).collect();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for chunk in &chunks {
                    put_on(&store, chunk, &old);
                }
            });
        }
    });
    store.sync().unwrap();
    assert_eq!(store.pins.all(), []);
    assert_eq!(store.stats().chunks, 30);
    assert_holds(&store, &chunks);
}
