//! Every flipped bit is found, and what it hit is healed by a new put.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

fn go() -> impl FnMut(u64) -> bool {
    |_| true
}

/// Several packs, the last one still open.
fn world(seed: u64) -> (World, ChunkStore, Vec<EncodedChunk>) {
    // Every other one with blocks.
    let world = World { block_bytes: if seed % 2 == 1 { 16 << 10 } else { 0 }, ..World::new(seed) };
    let (store, _) = world.open();
    let chunks: Vec<_> = (0..120).map(|number| chunk(number, 400 + 4_111 * (number as usize % 3))).collect();
    store.put_many(&chunks).unwrap();
    store.sync().unwrap();
    assert!(store.packs().len() > 4);
    (world, store, chunks)
}

/// Scrubs all; the chunks found bad.
fn scrub(store: &ChunkStore) -> (Vec<ChunkId>, Vec<u32>) {
    let (mut corrupt, mut bad) = (Vec::new(), Vec::new());
    for pack in store.packs() {
        let scrubbed = store.scrub_pack(pack).unwrap().unwrap();
        if !scrubbed.is_good() {
            bad.push(pack);
        }
        corrupt.extend(scrubbed.corrupt);
    }
    (corrupt, bad)
}

/// Puts what is missing again, and rewrites the packs.
fn heal(store: &ChunkStore, chunks: &[EncodedChunk], bad: &[u32]) {
    let missing: Vec<ChunkId> = store.missing(&chunks.iter().map(|chunk| chunk.id).collect::<Vec<_>>()).unwrap();
    let again: Vec<_> = chunks.iter().filter(|chunk| missing.contains(&chunk.id)).cloned().collect();
    store.put_many(&again).unwrap();
    store.sync().unwrap();
    let done = store.rewrite(bad, &mut go()).unwrap();
    assert_eq!((done.packs as usize, done.damaged), (bad.len(), 0), "{done:?}");
}

#[test]
fn ten_thousand_random_flips_are_all_found() {
    let (world, store, _) = world(1);
    let mut random = StdRng::seed_from_u64(7);
    let mut structural = 0;
    let packs: Vec<(u32, u64)> = store
        .packs()
        .into_iter()
        .map(|pack| {
            (pack, world.disk.open(&pack_path(pack), causeway_storage::disk::Open::Read).unwrap().len().unwrap())
        })
        .collect();
    for round in 0..10_000 {
        let (pack, len) = packs[random.random_range(0..packs.len())];
        // Every so often where there is no record: the header, the footer, the trailer.
        let offset = match round % 10 {
            0 => random.random_range(0..64),
            1 => len - 1 - random.random_range(0..64),
            _ => random.random_range(0..len),
        };
        let bit = random.random_range(0..8);
        world.disk.flip_bit(&pack_path(pack), offset, bit).unwrap();
        let seen = store.inspect(pack).unwrap();
        assert!(!seen.0.is_empty() || seen.1.is_some(), "a flip in pack {pack} at {offset}, bit {bit}, was not seen");
        structural += u32::from(seen.1.is_some());
        world.disk.flip_bit(&pack_path(pack), offset, bit).unwrap();
        if round % 1_000 == 0 {
            assert_eq!(scrub(&store), (vec![], vec![]), "all is well again");
        }
    }
    assert!(structural > 1_000, "{structural}");
}

#[test]
fn what_was_hit_is_healed_and_the_next_scrub_is_clean() {
    for seed in 0..40 {
        let (world, store, chunks) = world(seed);
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..random.random_range(1..12) {
            let packs = store.packs();
            let pack = packs[random.random_range(0..packs.len())];
            let len = world.disk.open(&pack_path(pack), causeway_storage::disk::Open::Read).unwrap().len().unwrap();
            world.flip(pack, random.random_range(0..len));
        }
        let (corrupt, bad) = scrub(&store);
        assert!(!bad.is_empty(), "seed {seed}");
        for id in &corrupt {
            assert_eq!(store.get(id).unwrap(), None, "seed {seed}: a bad chunk is missing");
        }
        heal(&store, &chunks, &bad);
        assert_holds(&store, &chunks);
        assert_eq!(scrub(&store), (vec![], vec![]), "seed {seed}");
        assert_eq!(store.corrupt_ids(), []);
        drop(store);
        let (store, report) = world.open();
        assert_eq!((report.damaged.len(), report.missing_packs.len()), (0, 0), "seed {seed}: {report:?}");
        assert_holds(&store, &chunks);
    }
}

#[test]
fn a_pack_that_is_gone_is_noticed() {
    let (world, store, chunks) = world(3);
    let pack = store.packs()[1];
    let here: Vec<ChunkId> =
        chunks.iter().filter(|chunk| location(&store, chunk).pack == pack).map(|chunk| chunk.id).collect();
    assert!(!here.is_empty());
    world.disk.remove(&pack_path(pack)).unwrap();
    let (mut corrupt, bad) = scrub(&store);
    let mut expected = here;
    corrupt.sort_unstable();
    expected.sort_unstable();
    assert_eq!((corrupt, bad), (expected, vec![pack]));
    heal(&store, &chunks, &[pack]);
    assert_holds(&store, &chunks);
    assert_eq!(scrub(&store), (vec![], vec![]));
}

#[test]
fn the_position_is_kept() {
    let (world, store, _) = world(4);
    assert_eq!(store.scrub_position(), ScrubPosition::default());
    let position = ScrubPosition { passes: 3, next_pack: 7, found: 2, healed: 1, ..ScrubPosition::default() };
    store.keep_scrub_position(&position).unwrap();
    assert_eq!(store.scrub_position(), position);
    world.disk.flip_bit(Path::new("/packs/scrub.position"), 21, 0).unwrap();
    assert_eq!(store.scrub_position(), ScrubPosition::default(), "damaged: begins anew");
}

/// A record whose payload was changed and whose checksums were made anew is one that was put under another chunk's name.
#[test]
fn what_was_forged_with_its_checksums_is_found_by_its_name_and_healed() {
    for seed in 0..4 {
        let (_world, store, mut chunks) = world(seed);
        // One record alone (it does not compress), and one in a block with others that are right.
        let mut forged = Vec::new();
        for number in [500, 501] {
            let right = chunk(number, 3_000);
            let wrong = chunk(number + 99, 3_000);
            forged.push(EncodedChunk::plain(right.id, wrong.decode(&realm()).unwrap()));
            chunks.push(right);
        }
        let (alone, with_others) = forged.split_at(1);
        store.put_many(alone).unwrap();
        let neighbours: Vec<_> = (0..6).map(|number| chunk(702 + 3 * number, 3_000)).collect();
        store.put_many(&[with_others, &neighbours[..]].concat()).unwrap();
        chunks.extend(neighbours);
        store.sync().unwrap();
        let ids: std::collections::BTreeSet<ChunkId> = forged.iter().map(|chunk| chunk.id).collect();
        assert_eq!(scrub(&store), (vec![], vec![]), "seed {seed}: every checksum holds");

        let verify = |store: &ChunkStore| {
            let (mut corrupt, mut bad, mut compared) = (std::collections::BTreeSet::new(), Vec::new(), 0);
            for pack in store.packs() {
                let mut is_right = |chunk: &EncodedChunk| chunk.decode(&realm()).is_ok();
                let found = store.verify_pack(pack, &mut is_right, &mut go()).unwrap();
                compared += found.chunks;
                if !found.corrupt.is_empty() {
                    bad.push(pack);
                }
                corrupt.extend(found.corrupt);
            }
            (corrupt, bad, compared)
        };
        let (corrupt, bad, compared) = verify(&store);
        assert_eq!((corrupt, compared), (ids.clone(), chunks.len() as u64), "seed {seed}");
        assert!(ids.iter().all(|id| store.get(id).unwrap().is_none()), "they count as missing");
        heal(&store, &chunks, &bad);
        assert_holds(&store, &chunks);
        assert_eq!(verify(&store).0, Default::default(), "seed {seed}: all is right again");
    }
}
