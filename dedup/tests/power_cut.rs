//! A power cut under a pack store, under load, on a disk as those of `storage`'s tests are. What was acknowledged must be there,
//! and nothing that is served may be wrong.

#![allow(clippy::unwrap_used)] // what fails here fails the test

#[path = "../../storage/tests/crash/heard.rs"]
mod heard;
#[path = "../../storage/tests/crash/loop_disk.rs"]
mod loop_disk;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use causeway_dedup::{ChunkStore, EncodedChunk, INDEX_SPACES, Realm, RecoveryReport, StoreOptions};
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::{FjallKv, FjallOptions};

use heard::Heard;
use loop_disk::{LoopDisk, cuts, in_namespace};

const IMAGE_BYTES: u64 = 1 << 30;
const FOLDER: &str = "CAUSEWAY_POWER_CUT_FOLDER";
const FIRST: &str = "CAUSEWAY_POWER_CUT_FIRST";

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    in_namespace("inside");
}

#[test]
#[ignore = "started by another test"]
fn inside() {
    let Some(disk) = LoopDisk::create(IMAGE_BYTES) else { return };
    let mut acknowledged = 0;
    for cut in 0..cuts() {
        let folder = disk.folder();
        let writer = start_writer(&folder, acknowledged);
        writer.wait_until(|durable| *durable >= acknowledged + 20 + cut * 13);
        // What it says later does not count: unlike after a power cut it runs on.
        acknowledged = disk.cut_power(cut % 2 == 1, || writer.said());
        writer.kill();
        disk.mount_again();
        let (store, report) = open(&folder);
        eprintln!("{acknowledged} batches were acknowledged; {report:?}");
        assert!(report.damaged.iter().all(|range| !range.acknowledged), "{report:?}");
        for number in 0..acknowledged {
            for chunk in batch(number) {
                let found = store.get(&chunk.id).unwrap().unwrap_or_else(|| panic!("batch {number}: {}", chunk.id));
                assert_eq!(found.decode(&realm()).unwrap(), chunk.payload, "batch {number}");
            }
        }
        for id in store.iter_ids() {
            store.get(&id.unwrap()).unwrap().unwrap().decode(&realm()).unwrap();
        }
    }
}

/// The process that is killed with its disk: puts batch after batch and says which are durable.
#[test]
#[ignore = "started by another test"]
fn writer() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let (store, _) = open(Path::new(&folder));
    for number in first.. {
        // After the cut it fails; until it is killed it says no more.
        if store.put_many(&batch(number)).is_err() || store.sync().is_err() {
            std::thread::park();
        }
        writeln!(std::io::stdout(), "durable {}", number + 1).unwrap();
    }
}

fn realm() -> Realm {
    Realm::new("power", [3; 32])
}

fn open(folder: &Path) -> (ChunkStore, RecoveryReport) {
    let kv = FjallKv::open(&folder.join("index"), INDEX_SPACES, &FjallOptions::default()).unwrap();
    let options = StoreOptions { pack_bytes: 4 << 20, reserve_bytes: 0, seed: 5, ..StoreOptions::default() };
    ChunkStore::open(Arc::new(RealDisk), folder.join("packs"), Arc::new(kv), options).unwrap()
}

/// Chunks that share a block, and some that do not compress.
fn batch(number: u64) -> Vec<EncodedChunk> {
    let chunk = |at: u64| {
        let mut plain = vec![0; 1_000 + (number * 7_919 + at * 4_001) as usize % 60_000];
        let mut noise = blake3::Hasher::new().update(&(number << 8 | at).to_le_bytes()).finalize_xof();
        noise.fill(&mut plain);
        if at < 5 {
            let half = plain.len() / 2;
            plain[half..].fill(number as u8);
        }
        EncodedChunk::plain(realm().chunk_id(&plain), plain.into())
    };
    (0..8).map(chunk).collect()
}

/// Starts it; it says how many batches are durable.
fn start_writer(folder: &Path, first: u64) -> Heard<u64> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["writer", "--exact", "--ignored", "--nocapture"]);
    command.env(FOLDER, folder).env(FIRST, first.to_string());
    Heard::start(&mut command, first, |durable, line| {
        if let Some(number) = line.strip_prefix("durable ").and_then(|number| number.parse().ok()) {
            *durable = number;
        }
    })
}
