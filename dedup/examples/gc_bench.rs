//! How fast a store is marked, collected, repacked and scrubbed, beside plain reads and writes of the same files.
//!
//! `cargo run --release -p causeway-dedup --example gc_bench -- [FOLDER] [MIB]` (512 MiB of chunks by default)

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_base::ChunkId;
use causeway_dedup::store::gc::{RepackOptions, UNKNOWN_LEASE};
use causeway_dedup::{ChunkStore, EncodedChunk, INDEX_SPACES, Realm, StoreOptions};
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::{FjallKv, FjallOptions};

const CHUNK_BYTES: usize = 64 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().map_or_else(|| std::env::temp_dir().join("gc-bench"), PathBuf::from);
    let mib: usize = args.next().map_or(Ok(512), |mib| mib.parse())?;
    std::fs::create_dir_all(&folder)?;
    let done = bench(&folder, mib);
    std::fs::remove_dir_all(&folder)?;
    done
}

fn bench(folder: &Path, mib: usize) -> Result<(), Box<dyn std::error::Error>> {
    let kv = Arc::new(FjallKv::open(&folder.join("index"), INDEX_SPACES, &FjallOptions::default())?);
    let options = StoreOptions { reserve_bytes: 0, seed: 7, ..StoreOptions::default() };
    let packs = folder.join("packs");
    let (store, _) = ChunkStore::open(Arc::new(RealDisk), &packs, kv, options)?;
    let count = mib * (1 << 20) / CHUNK_BYTES;
    let realm = Realm::new("bench", [1; 32]);
    let mut ids = Vec::with_capacity(count);
    let began = Instant::now();
    for first in (0..count).step_by(64) {
        let chunks: Vec<EncodedChunk> = (first..count.min(first + 64))
            .map(|number| {
                let mut plain = vec![0; CHUNK_BYTES];
                blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut plain);
                EncodedChunk::encode(realm.chunk_id(&plain), plain.into(), 3)
            })
            .collect();
        ids.extend(chunks.iter().map(|chunk| chunk.id));
        store.put_many(&chunks)?;
    }
    store.sync()?;
    let bytes = store.stats().stored_bytes;
    println!("{count} chunks, {} MB put in {:.2} s", bytes / 1_000_000, began.elapsed().as_secs_f64());

    let plain = rate("plain read of the pack files", bytes, || {
        for entry in std::fs::read_dir(&packs)? {
            std::hint::black_box(std::fs::read(entry?.path())?.len());
        }
        Ok(())
    })?;
    let scrub = rate("scrub", bytes, || {
        for pack in store.packs() {
            assert!(store.scrub_pack(pack)?.is_some_and(|scrubbed| scrubbed.is_good()));
        }
        Ok(())
    })?;
    println!("  scrub / plain read: {:.2}", scrub / plain);

    // Two of three chunks go; of a mark the walk over manifests is not measured here.
    let kept: Vec<ChunkId> = ids.iter().copied().step_by(3).collect();
    let mut mark = store.begin_mark();
    let began = Instant::now();
    let rounds = 1 + 4_000_000 / kept.len().max(1);
    for _ in 0..rounds {
        for id in &kept {
            mark.reached.add(id);
        }
    }
    let marked = (kept.len() * rounds) as f64 / began.elapsed().as_secs_f64();
    println!("mark: {:.1} M chunks/s into the set of reached ones", marked / 1e6);
    let condemned = timed("condemn", count, || Ok(store.collect(mark, Duration::ZERO, false, &mut |_| true)?))?;
    assert!(condemned.removed == 0 && condemned.condemned > 0);
    let mut mark = store.begin_mark();
    for id in &kept {
        mark.reached.add(id);
    }
    let removed = timed("remove", count, || Ok(store.collect(mark, Duration::ZERO, false, &mut |_| true)?))?;
    assert_eq!(removed.waiting, 0, "no lease is open longer than {UNKNOWN_LEASE:?}");
    let began = Instant::now();
    let repacked = store.repack(&removed, RepackOptions::default(), &mut |_| true)?;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "repack: {} packs, {} MB given back, {} MB moved in {seconds:.2} s: {:.0} MB/s moved",
        repacked.packs,
        repacked.freed_bytes / 1_000_000,
        repacked.moved_bytes / 1_000_000,
        repacked.moved_bytes as f64 / 1e6 / seconds
    );
    for id in &kept {
        assert!(store.get(id)?.is_some());
    }
    Ok(())
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn rate(what: &str, bytes: u64, work: impl FnOnce() -> Outcome<()>) -> Outcome<f64> {
    let began = Instant::now();
    work()?;
    let rate = bytes as f64 / 1e6 / began.elapsed().as_secs_f64();
    println!("{what}: {rate:.0} MB/s");
    Ok(rate)
}

fn timed<T>(what: &str, chunks: usize, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let began = Instant::now();
    let done = work()?;
    println!("{what}: {:.0} k chunks/s", chunks as f64 / 1e3 / began.elapsed().as_secs_f64());
    Ok(done)
}
