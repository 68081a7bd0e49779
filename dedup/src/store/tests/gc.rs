//! What is reached stays, whatever happens; what is not goes, in time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::deltas::{hinted, version};
use super::*;
use crate::delta::DEPTH_MAX;
use crate::store::gc::{Collected, Lease, Mark, RepackOptions, UNKNOWN_LEASE};

const GRACE: Duration = Duration::from_secs(3600);

pub(super) fn go() -> impl FnMut(u64) -> bool {
    |_| true
}

pub(super) fn mark(store: &ChunkStore, reached: &[EncodedChunk]) -> Mark {
    let mut mark = store.begin_mark();
    for chunk in reached {
        mark.reached.add(&chunk.id);
    }
    mark
}

pub(super) fn collect(store: &ChunkStore, reached: &[EncodedChunk], grace: Duration) -> Collected {
    store.collect(mark(store, reached), grace, false, &mut go()).unwrap()
}

fn same(found: &EncodedChunk, chunk: &EncodedChunk) -> bool {
    found.decode(&realm()).unwrap() == chunk.decode(&realm()).unwrap()
}

pub(super) fn pass(store: &ChunkStore, time: Duration) {
    store.gc.pass(time);
}

fn stored(world: &World, numbers: std::ops::Range<u64>) -> (ChunkStore, Vec<EncodedChunk>) {
    let (store, _) = world.open();
    let chunks: Vec<_> = numbers.map(|number| chunk(number, 3_000)).collect();
    store.put_many(&chunks).unwrap();
    store.sync().unwrap();
    (store, chunks)
}

pub(super) fn present(store: &ChunkStore) -> BTreeSet<ChunkId> {
    store.iter_ids().map(|id| id.unwrap()).collect()
}

pub(super) fn ids(chunks: &[EncodedChunk]) -> Vec<ChunkId> {
    chunks.iter().map(|chunk| chunk.id).collect()
}

#[test]
fn garbage_goes_after_two_marks_and_the_grace() {
    let (store, chunks) = stored(&World::new(1), 0..60);
    let (kept, garbage) = chunks.split_at(20);
    let first = collect(&store, kept, GRACE);
    assert_eq!((first.epoch, first.chunks, first.condemned, first.removed), (1, 60, 40, 0));
    let early = collect(&store, kept, GRACE);
    assert_eq!((early.condemned, early.waiting, early.removed), (0, 40, 0), "in the grace");
    pass(&store, GRACE);
    let dry = store.collect(mark(&store, kept), GRACE, true, &mut go()).unwrap();
    assert_eq!((dry.removed, store.condemned()), (40, 40), "a dry run does nothing");
    let done = collect(&store, kept, GRACE);
    assert_eq!((done.removed, done.waiting, store.condemned()), (40, 0, 0));
    assert!(done.removed_bytes > 40 * 1_500, "{done:?}");
    assert_eq!(present(&store), ids(kept).into_iter().collect());
    assert_eq!(ids(garbage), store.missing(&ids(garbage)).unwrap());
    assert_holds(&store, kept);
}

#[test]
fn whoever_is_told_that_a_chunk_is_here_can_count_on_it() {
    type Tell = fn(&ChunkStore, &EncodedChunk);
    let tells: [Tell; 4] = [
        |store, chunk| assert_eq!(store.put(chunk).unwrap(), PutOutcome::Known),
        |store, chunk| assert_eq!(store.missing(&[chunk.id]).unwrap(), []),
        |store, chunk| assert!(store.durable_and_present(&[chunk.id]).unwrap()),
        |store, chunk| assert!(store.contains(&chunk.id).unwrap()),
    ];
    for tell in tells {
        let (store, chunks) = stored(&World::new(2), 0..3);
        assert_eq!(collect(&store, &[], GRACE).condemned, 3);
        pass(&store, GRACE);
        tell(&store, &chunks[1]);
        let done = collect(&store, &[], GRACE);
        assert_eq!((done.removed, done.revived, done.condemned), (2, 1, 1), "condemned anew");
        assert_eq!(present(&store), [chunks[1].id].into());
        pass(&store, GRACE);
        assert_eq!(collect(&store, &[], GRACE).removed, 1, "and goes when nobody wants it");
    }
}

#[test]
fn a_mark_pardons_what_it_reaches() {
    let (store, chunks) = stored(&World::new(3), 0..9);
    collect(&store, &[], GRACE);
    pass(&store, GRACE);
    let done = collect(&store, &chunks[..5], GRACE);
    assert_eq!((done.removed, done.revived), (4, 5));
    assert_holds(&store, &chunks[..5]);
}

#[test]
fn a_lease_keeps_what_was_condemned_after_it_began() {
    let (store, chunks) = stored(&World::new(4), 0..8);
    let lease = store.lease(None, Duration::ZERO);
    assert_eq!(store.missing(&ids(&chunks)).unwrap(), [], "the holder is told before they are condemned");
    collect(&store, &[], Duration::ZERO);
    let done = collect(&store, &[], Duration::ZERO);
    assert_eq!((done.removed, done.waiting, done.leased), (0, 8, 8));
    // A later lease is no reason to keep what was condemned before it.
    let later = store.lease(Some("client/a"), GRACE);
    lease.settle();
    let done = collect(&store, &[], Duration::ZERO);
    assert_eq!((done.removed, done.leased), (8, 0));
    drop(later);
}

#[test]
fn a_lease_that_ends_while_a_mark_is_under_way_still_counts() {
    let (store, chunks) = stored(&World::new(5), 0..8);
    let lease = store.lease(None, Duration::ZERO);
    assert!(store.durable_and_present(&ids(&chunks)).unwrap());
    collect(&store, &[], Duration::ZERO);
    // This mark looks at the state before the holder's commit, which comes before it ends.
    let old = mark(&store, &[]);
    lease.settle();
    let done = store.collect(old, Duration::ZERO, false, &mut go()).unwrap();
    assert_eq!(done.removed, 0);
    collect(&store, &chunks, Duration::ZERO);
    assert_holds(&store, &chunks);
}

#[test]
fn marks_outlive_a_restart_but_the_grace_begins_anew() {
    let mut world = World::new(6);
    let (store, chunks) = stored(&world, 0..10);
    collect(&store, &chunks[..4], GRACE);
    pass(&store, 2 * GRACE);
    drop(store);
    world.crash();
    let (store, _) = world.open();
    assert_eq!(store.condemned(), 6);
    assert_eq!(collect(&store, &chunks[..4], GRACE).waiting, 6);
    // Not even without a grace: what the last run told is not known.
    assert_eq!(collect(&store, &chunks[..4], Duration::ZERO).leased, 6);
    pass(&store, UNKNOWN_LEASE);
    assert_eq!(collect(&store, &chunks[..4], Duration::ZERO).removed, 6);
    assert_holds(&store, &chunks[..4]);
}

#[test]
fn damaged_marks_only_delay() {
    let world = World::new(7);
    let (store, _) = stored(&world, 0..10);
    collect(&store, &[], GRACE);
    drop(store);
    world.disk.flip_bit(Path::new("/packs/gc.marks"), 50, 1).unwrap();
    let (store, _) = world.open();
    assert_eq!(store.condemned(), 0);
    assert_eq!(collect(&store, &[], GRACE).condemned, 10);
}

#[test]
fn a_collection_that_is_stopped_goes_on_later() {
    let (store, chunks) = stored(&World::new(8), 0..600);
    let stopped = store.collect(mark(&store, &[]), GRACE, false, &mut |_| false).unwrap();
    assert!(stopped.stopped);
    pass(&store, GRACE);
    let stopped = store.collect(mark(&store, &[]), GRACE, false, &mut |_| false).unwrap();
    assert!(stopped.stopped && stopped.removed == 256, "{stopped:?}");
    collect(&store, &[], GRACE);
    pass(&store, GRACE);
    collect(&store, &[], GRACE);
    assert_eq!(present(&store), [].into());
    assert_eq!(store.missing(&ids(&chunks)).unwrap().len(), 600);
}

/// Two marks without a grace.
fn remove(store: &ChunkStore, kept: &[EncodedChunk]) -> Collected {
    collect(store, kept, Duration::ZERO);
    let done = collect(store, kept, Duration::ZERO);
    assert_eq!(done.waiting, 0, "{done:?}");
    done
}

#[test]
fn sparse_packs_are_rewritten_and_full_ones_left() {
    let world = World::new(9);
    let (store, chunks) = stored(&world, 0..200);
    let before = store.stats();
    assert!(before.packs > 6, "{before:?}");
    // All of the first half, every tenth of the second.
    let kept: Vec<_> =
        chunks.iter().enumerate().filter(|(at, _)| *at < 100 || at % 10 == 0).map(|(_, chunk)| chunk.clone()).collect();
    let collected = remove(&store, &kept);
    let plan = store.repack_plan(&collected, RepackOptions::default());
    let done = store.repack(&collected, RepackOptions::default(), &mut go()).unwrap();
    assert_eq!((done.packs, done.moved, done.moved_bytes), (plan.packs, plan.moved, plan.moved_bytes));
    assert!(done.packs >= 3 && done.moved <= 20, "{done:?}");
    let after = store.stats();
    assert!(after.stored_bytes < before.stored_bytes * 7 / 10, "{before:?} {after:?}");
    assert_eq!(world.disk.list(Path::new("/packs")).unwrap().len() as u64, after.packs + 1, "and gc.marks");
    assert_holds(&store, &kept);
    drop(store);
    let (store, report) = world.open();
    assert_eq!((report.missing_packs.len(), report.rebuilt), (0, None));
    assert_holds(&store, &kept);
    drop(store);
    let mut world = world;
    world.lose_index();
    let (store, _) = world.open();
    assert_holds(&store, &kept);
}

#[test]
fn a_full_disk_gets_space_back() {
    let world = World::new(10);
    let reserve = 256 << 10;
    world.disk.set_capacity(2 << 20);
    let options = StoreOptions { reserve_bytes: reserve, ..options() };
    let (store, _) = ChunkStore::open(Arc::new(world.disk.clone()), "/packs", world.kv.clone(), options).unwrap();
    let mut chunks = Vec::new();
    for number in 0.. {
        let chunk = chunk(3 * number + 1, 3_000);
        match store.put(&chunk) {
            Ok(_) => chunks.push(chunk),
            Err(StoreError::Full { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    store.sync().unwrap();
    let kept: Vec<_> = chunks.iter().step_by(5).cloned().collect();
    let collected = remove(&store, &kept);
    let done = store.repack(&collected, RepackOptions::default(), &mut go()).unwrap();
    assert!(done.packs > 20 && done.full == 0, "{done:?}");
    store.put(&chunk(1_000_000, 3_000)).unwrap();
    store.sync().unwrap();
    assert_holds(&store, &kept);
    assert!(world.disk.free_bytes(Path::new("/packs")).unwrap() > (1 << 20));
}

/// What a crash must not take: chunks that were committed, in the model's sense.
fn crash_work(world: &World) -> (Vec<EncodedChunk>, bool) {
    let kept: Vec<_> = (0..60).filter(|number| number % 4 == 0).map(|number| chunk(number, 3_000)).collect();
    let work = || -> Result<(), StoreError> {
        let (store, _) = ChunkStore::open(Arc::new(world.disk.clone()), "/packs", world.kv.clone(), options())?;
        for round in 0..2 {
            store.collect(mark(&store, &kept), Duration::ZERO, false, &mut go())?;
            if round == 0 {
                pass(&store, UNKNOWN_LEASE);
            }
        }
        let collected = store.collect(mark(&store, &kept), Duration::ZERO, false, &mut go())?;
        store.repack(&collected, RepackOptions { live_percent_min: 90 }, &mut go())?;
        let more: Vec<_> = (100..110).map(|number| chunk(number, 3_000)).collect();
        store.put_many(&more)?;
        store.sync()
    };
    let ended = work().is_ok();
    (kept, ended)
}

#[test]
fn the_power_goes_at_every_operation_of_a_collection() {
    let fresh = |seed: u64| {
        let mut world = World::new(seed);
        drop(stored(&world, 0..60));
        world.crash();
        world
    };
    let world = fresh(0);
    let before = world.disk.mutations();
    assert!(crash_work(&world).1);
    let mutations = world.disk.mutations() - before;
    assert!(mutations > 15, "{mutations}");
    let mut removed = 0;
    for seed in 0..4 {
        for n in 0..=mutations {
            let context = format!("seed {seed}, power cut at mutation {n}");
            let mut world = fresh(1 + seed * 1_000 + n);
            let now = world.disk.mutations();
            world.disk.cut_power_at(now + n);
            let (kept, _) = crash_work(&world);
            world.crash();
            if seed % 2 == 1 {
                world.lose_index();
            }
            let (store, report) = world.open();
            assert_eq!(report.missing_packs, [], "{context}");
            assert!(report.damaged.iter().all(|range| !range.acknowledged), "{context}: {report:?}");
            assert_eq!(store.missing(&ids(&kept)).unwrap(), [], "{context}");
            for found in store.get_many(&ids(&kept)).unwrap() {
                found.unwrap().decode(&realm()).unwrap();
            }
            removed += 60_usize.saturating_sub(present(&store).len());
            drop(store);
            // And once more, undisturbed.
            let (kept, ended) = crash_work(&world);
            assert!(ended, "{context}");
            let (store, _) = world.open();
            assert_holds(&store, &kept);
            let all = present(&store).len();
            assert!(all <= kept.len() + 10, "{context}: {all} chunks");
        }
    }
    assert!(removed > 100, "the cuts all came before anything was removed");
}

#[test]
fn reads_puts_and_commits_go_on_while_chunks_are_collected_and_packs_rewritten() {
    all_at_once(|number| chunk(number, 1_500));
}

#[test]
fn reads_puts_and_commits_of_deltas_go_on_while_chunks_are_collected_and_packs_rewritten() {
    all_at_once(|number| version(number / 6, number % 6, 2_100));
}

fn all_at_once(of: impl Fn(u64) -> EncodedChunk + Sync) {
    let world = World { block_bytes: 16 << 10, ..World::new(11) };
    let (store, _) = world.open();
    // Committed chunks, as a namespace would have them: by number, with how many files name each.
    let committed: Mutex<BTreeMap<u64, u64>> = Mutex::default();
    let (stop, reads, rounds) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for worker in 0..3_u64 {
            let (store, committed, stop, reads, of) = (&store, &committed, &stop, &reads, &of);
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(worker);
                while !stop.load(Ordering::Relaxed) {
                    let some: BTreeSet<u64> =
                        (0..random.random_range(1..6)).map(|_| random.random_range(0..120)).collect();
                    let chunks: Vec<_> = some.iter().map(|number| of(*number)).collect();
                    // An upload, then a commit, as the chunk service and the check before a commit do it.
                    let upload = store.lease(Some(if worker == 0 { "a" } else { "b" }), Duration::ZERO);
                    let lacking: BTreeSet<ChunkId> = store.missing(&ids(&chunks)).unwrap().into_iter().collect();
                    let new: Vec<_> = chunks.iter().filter(|chunk| lacking.contains(&chunk.id)).cloned().collect();
                    let before: Vec<_> = some.iter().map(|number| of(number.saturating_sub(1))).collect();
                    let realm = realm();
                    let hints = hinted(&realm, &chunks.iter().zip(&before).collect::<Vec<_>>());
                    store.put_with(&new, Some(&hints)).unwrap();
                    store.sync().unwrap();
                    drop(upload);
                    if random.random_bool(0.3) {
                        continue; // never committed
                    }
                    let lease = store.lease(None, UNKNOWN_LEASE);
                    if store.durable_and_present(&ids(&chunks)).unwrap() {
                        let mut all = lock(committed);
                        some.iter().for_each(|number| *all.entry(*number).or_default() += 1);
                    }
                    lease.settle();
                    // All that is committed can be read; then some files go.
                    let mine: Vec<u64> = {
                        let all = lock(committed);
                        all.keys().copied().filter(|_| random.random_bool(0.1)).collect()
                    };
                    for number in mine {
                        let wanted = of(number);
                        let found = store.get(&wanted.id).unwrap();
                        let mut all = lock(committed);
                        if let Some(count) = all.get_mut(&number) {
                            // Another worker may have dropped and committed it again meanwhile, so only what is there counts.
                            assert!(found.is_none_or(|found| same(&found, &wanted)));
                            assert!(store.get(&wanted.id).unwrap().is_some(), "committed chunk {number} is gone");
                            reads.fetch_add(1, Ordering::Relaxed);
                            *count -= 1;
                            if *count == 0 {
                                all.remove(&number);
                            }
                        }
                    }
                }
            });
        }
        let (mut removed, mut freed) = (0, 0);
        while removed < 300 || freed < 5 || rounds.load(Ordering::Relaxed) < 60 {
            let mut mark = store.begin_mark();
            for number in lock(&committed).keys() {
                mark.reached.add(&of(*number).id);
            }
            let collected = store.collect(mark, Duration::ZERO, false, &mut go()).unwrap();
            removed += collected.removed;
            freed += store.repack(&collected, RepackOptions::default(), &mut go()).unwrap().packs;
            rounds.fetch_add(1, Ordering::Relaxed);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reads.load(Ordering::Relaxed) > 100);
    let kept: Vec<_> = lock(&committed).keys().map(|number| of(*number)).collect();
    assert_holds(&store, &kept);
}

#[derive(Clone, Debug)]
enum Step {
    /// Someone is told that chunks are here, or puts them; under a lease of its own.
    Upload(Vec<u8>),
    /// The oldest upload under way is committed, if its chunks are still here.
    Commit,
    /// The oldest upload under way is given up, without a word.
    GiveUp,
    /// A committed chunk is not named any more.
    Forget(u8),
    /// A mark begins; what it sees is what is committed now.
    Mark,
    /// The mark under way is collected by.
    Collect(bool),
    Pass(u8),
    Repack,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::collection::vec(0..24_u8, 1..5).prop_map(Step::Upload),
        3 => Just(Step::Commit),
        1 => Just(Step::GiveUp),
        3 => (0..24_u8).prop_map(Step::Forget),
        3 => Just(Step::Mark),
        4 => any::<bool>().prop_map(Step::Collect),
        2 => (1..90_u8).prop_map(Step::Pass),
        1 => Just(Step::Repack),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Against a model that knows what is committed: nothing of it is ever gone, whatever the order; in the end nothing else is left.
    #[test]
    fn what_is_committed_stays_and_the_rest_goes(steps in steps(), seed in any::<u64>(), blocks in any::<bool>(), deltas in any::<bool>()) {
        let mut world = World { block_bytes: if blocks { 8 << 10 } else { 0 }, ..World::new(seed) };
        let (mut store, _) = world.open();
        let mut committed: BTreeSet<u8> = BTreeSet::new();
        let mut uploads: Vec<(Vec<u8>, Lease)> = Vec::new();
        let mut marking: Option<Mark> = None;
        let mut collected = None;
        // With deltas: six versions of four ranges, each put as its difference from the one before if that is here.
        let of = |number: &u8| match deltas {
            true => version(u64::from(number / 6), u64::from(number % 6), 2_500),
            false => chunk(u64::from(*number), 2_000),
        };
        let realm = realm();
        for step in steps {
            match step {
                Step::Upload(numbers) => {
                    let lease = store.lease(None, GRACE);
                    let chunks: Vec<_> = numbers.iter().map(of).collect();
                    let lacking = store.missing(&ids(&chunks)).unwrap();
                    let new: Vec<_> = chunks.into_iter().filter(|chunk| lacking.contains(&chunk.id)).collect();
                    let before: Vec<_> = numbers.iter().map(|number| of(&number.saturating_sub(1))).collect();
                    let asked: Vec<_> = numbers.iter().map(of).collect();
                    let hints = hinted(&realm, &asked.iter().zip(&before).collect::<Vec<_>>());
                    store.put_with(&new, deltas.then_some(&hints)).unwrap();
                    store.sync().unwrap();
                    uploads.push((numbers, lease));
                }
                Step::Commit if !uploads.is_empty() => {
                    let (numbers, lease) = uploads.remove(0);
                    let chunks: Vec<_> = numbers.iter().map(of).collect();
                    prop_assert!(store.durable_and_present(&ids(&chunks)).unwrap(), "a lease was open");
                    committed.extend(numbers);
                    lease.settle();
                }
                Step::GiveUp if !uploads.is_empty() => drop(uploads.remove(0)),
                Step::Forget(number) => {
                    committed.remove(&number);
                }
                Step::Mark => {
                    let chunks: Vec<_> = committed.iter().map(of).collect();
                    marking = Some(mark(&store, &chunks));
                }
                Step::Collect(grace) => if let Some(mark) = marking.take() {
                    let grace = if grace { GRACE } else { Duration::ZERO };
                    collected = Some(store.collect(mark, grace, false, &mut go()).unwrap());
                }
                Step::Pass(minutes) => pass(&store, Duration::from_secs(60 * u64::from(minutes))),
                Step::Repack => if let Some(collected) = &collected {
                    store.repack(collected, RepackOptions::default(), &mut go()).unwrap();
                }
                Step::Crash => {
                    // Who had uploads under way asks again what is here; marks under way are over.
                    (marking, collected) = (None, None);
                    uploads.clear();
                    drop(store);
                    world.crash();
                    store = world.open().0;
                }
                Step::Commit | Step::GiveUp => {}
            }
            let chunks: Vec<_> = committed.iter().map(of).collect();
            // Not by `missing`, which would revive them.
            for chunk in &chunks {
                prop_assert!(store.get(&chunk.id).unwrap().is_some_and(|found| same(&found, chunk)), "{:?} is gone", chunk.id);
            }
        }
        uploads.clear();
        let chunks: Vec<_> = committed.iter().map(of).collect();
        pass(&store, GRACE.max(UNKNOWN_LEASE));
        // Deltas go before what they stand on.
        for _ in 0..if deltas { 4 * (DEPTH_MAX + 1) } else { 2 } {
            let collected = collect(&store, &chunks, GRACE);
            pass(&store, GRACE);
            store.repack(&collected, RepackOptions::default(), &mut go()).unwrap();
        }
        let mut expected: BTreeSet<ChunkId> = ids(&chunks).into_iter().collect();
        for _ in 0..DEPTH_MAX {
            for id in expected.clone() {
                expected.extend(store.entry(&id, true).unwrap().unwrap().bases);
            }
        }
        prop_assert_eq!(present(&store), expected);
        assert_holds(&store, &chunks);
    }
}
