//! The power goes at every single operation of a workload, with torn sectors, lost names and a lagging index.

use super::*;

/// Puts, syncs, packs that fill; gives the chunks that were acknowledged as durable and all that were tried.
fn work(world: &World, round: u64) -> (Vec<EncodedChunk>, Vec<EncodedChunk>) {
    let (mut durable, mut tried) = (Vec::new(), Vec::new());
    let opened = ChunkStore::open(Arc::new(world.disk.clone()), "/packs", world.kv.clone(), world.options());
    let Ok((store, _)) = opened else { return (durable, tried) };
    for step in 0..10 {
        let first = round * 1_000 + step * 10;
        let chunks: Vec<_> =
            (first..first + 3).map(|number| chunk(number, 500 + 4_111 * (step as usize % 4))).collect();
        tried.extend(chunks.iter().cloned());
        if store.put_many(&chunks).is_err() {
            break;
        }
        if step % 3 == 1 {
            if store.sync().is_err() {
                break;
            }
            durable = tried.clone();
        }
    }
    (durable, tried)
}

/// Everything acknowledged is there; nothing that is served is wrong.
fn check(store: &ChunkStore, durable: &[EncodedChunk], tried: &[EncodedChunk], context: &str) {
    let ids: Vec<ChunkId> = durable.iter().map(|chunk| chunk.id).collect();
    assert_eq!(store.missing(&ids).unwrap(), [], "{context}");
    for chunk in tried {
        if let Some(found) = store.get(&chunk.id).unwrap_or_else(|error| panic!("{context}: {error}")) {
            assert_eq!(found.decode(&realm()), chunk.decode(&realm()), "{context}");
        }
    }
    for id in store.iter_ids() {
        let found = store.get(&id.unwrap()).unwrap().unwrap();
        found.decode(&realm()).unwrap();
    }
}

fn mutations_of_work() -> u64 {
    let world = World::new(0);
    assert_eq!(work(&world, 0).1.len(), 30);
    world.disk.mutations()
}

#[test]
fn the_power_goes_at_every_operation() {
    let mutations = mutations_of_work();
    assert!(mutations > 20, "{mutations}");
    let (mut cuts, mut reports) = (0, 0);
    for seed in 0..4 {
        for n in 0..=mutations {
            let context = format!("seed {seed}, power cut at mutation {n}");
            let mut world = World::new(seed * 1_000 + n);
            world.block_bytes = if seed < 2 { 0 } else { 16 << 10 };
            world.disk.cut_power_at(n);
            let (durable, tried) = work(&world, 0);
            world.crash();
            if seed % 2 == 1 {
                world.lose_index();
            }
            let (store, report) = world.open();
            cuts += report.tails_cut.len();
            reports += report.damaged.len();
            assert!(report.damaged.iter().all(|range| !range.acknowledged), "{context}: {report:?}");
            assert_eq!(report.missing_packs, [], "{context}");
            check(&store, &durable, &tried, &context);

            // It goes on: what is put now is durable, also over another crash.
            let more: Vec<_> = (500..505).map(|number| chunk(number, 3_000)).collect();
            store.put_many(&more).unwrap();
            store.sync().unwrap();
            drop(store);
            world.crash();
            let (store, _) = world.open();
            check(&store, &[durable, more].concat(), &tried, &context);
        }
    }
    assert!(cuts > 10 && reports > 0, "the crashes were not harsh: {cuts} tails, {reports} reports");
}

#[test]
fn the_power_goes_while_recovery_runs() {
    for seed in 0..3 {
        let mut cut = 0;
        loop {
            let context = format!("seed {seed}, recovery cut at mutation {cut}");
            let mut world = World::new(seed * 77 + cut);
            world.block_bytes = if seed == 1 { 0 } else { 16 << 10 };
            world.disk.cut_power_at(17 + seed * 4);
            let (durable, tried) = work(&world, 0);
            world.crash();
            world.disk.cut_power_at(cut);
            let opened = ChunkStore::open(Arc::new(world.disk.clone()), "/packs", world.kv.clone(), world.options());
            let survived = opened.is_ok();
            drop(opened);
            world.crash();
            let (store, _) = world.open();
            check(&store, &durable, &tried, &context);
            if survived {
                break;
            }
            cut += 1;
        }
        assert!(cut > 2, "recovery did nothing");
    }
}

#[test]
fn crash_after_crash() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let (mut durable, mut tried) = (Vec::new(), Vec::new());
        for round in 0..6 {
            world.disk.cut_power_at(5 + (seed * 7 + round * 3) % 30);
            let (some, all) = work(&world, round);
            durable.extend(some);
            tried.extend(all);
            world.crash();
            if (seed + round) % 5 == 0 {
                world.lose_index();
            }
            let (store, _) = world.open();
            check(&store, &durable, &tried, &format!("seed {seed}, round {round}"));
        }
    }
}
