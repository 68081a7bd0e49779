//! Engines in processes that die: killed, and on a disk whose power goes.

#![allow(clippy::unwrap_used)] // also in the helpers of the tests

mod heard;
mod loop_disk;
mod power_cut;
mod writer;

use std::path::Path;

use causeway_storage::kv::{FjallKv, Kv};
use writer::{Engine, SPACES, Writer};

/// Kills the writer this many times, each time after another number of batches.
const KILLS: u64 = 6;

#[test]
fn a_killed_process_loses_no_batch_and_no_half() {
    let root = tempfile::tempdir().unwrap();
    let mut before = 0;
    for kill in 0..KILLS {
        let writer = Writer::start(Engine::Fjall, root.path());
        writer.wait_for_batches(before + 40 + kill * 61);
        let said = writer.kill();
        let found = check(root.path());
        // Handed to the operating system, which lives on.
        assert!(found >= said.written, "found {found}, {said:?}");
        assert!(said.persisted > before, "{said:?}: nothing was persisted since {before}");
        before = found;
    }
}

/// Checks that a store holds whole batches 1 to some number and nothing else, and gives that number.
fn check(path: &Path) -> u64 {
    let kv = FjallKv::open(path, &SPACES, &writer::options()).unwrap();
    let newest = writer::check(&kv).unwrap();
    // It goes on from there.
    kv.write(writer::batch(newest + 1)).unwrap();
    kv.persist().unwrap();
    newest + 1
}
