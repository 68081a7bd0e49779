//! A power cut on one machine: under load, on a disk of [`super::loop_disk`]; then it is mounted again, and looked at.

use causeway_storage::kv::{FjallKv, Kv, KvError, SledKv, SledOptions};

use super::loop_disk::{LoopDisk, cuts, in_namespace};
use super::writer::{self, Engine, SPACES, Writer};

const IMAGE_BYTES: u64 = 512 << 20;

#[test]
fn a_power_cut_loses_nothing_that_was_persisted() {
    in_namespace("power_cut::inside");
}

/// Started by the test above.
#[test]
#[ignore = "started by another test"]
fn inside() {
    let Some(disk) = LoopDisk::create(IMAGE_BYTES) else { return };
    let (mut fjall_before, mut sled_rounds) = (0, Vec::new());
    for cut in 0..cuts() {
        let (fjall, sled) = (disk.folder().join("fjall"), disk.folder().join(format!("sled-{cut}")));
        let fjall_writer = Writer::start(Engine::Fjall, &fjall);
        let sled_writer = Writer::start(Engine::Sled, &sled);
        sled_writer.wait_for_batches(100);
        fjall_writer.wait_for_batches(fjall_before + 100 + cut * 211);
        // What they say later does not count: after the shutdown, unlike after a power cut, they run on, and a sync that
        // was under way can come back with success although the file system has given up its end of it.
        let (fjall_said, sled_said) = disk.cut_power(cut % 2 == 1, || (fjall_writer.said(), sled_writer.said()));
        fjall_writer.kill();
        sled_writer.kill();
        disk.mount_again();

        let kv = FjallKv::open(&fjall, &SPACES, &writer::options()).unwrap();
        let found = writer::check(&kv).unwrap();
        eprintln!("fjall: {fjall_said:?}, found {found}");
        assert!(fjall_said.persisted > fjall_before, "{fjall_said:?}: nothing was persisted since {fjall_before}");
        assert!(found >= fjall_said.persisted, "found {found}, {fjall_said:?}");
        kv.persist().unwrap();
        fjall_before = found;

        // No promise here but this: a store that does not open says so, and does not take the process with it.
        let options = SledOptions::default();
        sled_rounds.push(match SledKv::open(&sled, &SPACES, &options) {
            Ok(kv) => format!("{sled_said:?}, found {:?}", writer::check(&kv)),
            Err(error @ KvError::Damaged { .. }) => error.to_string(),
            Err(error) => panic!("{error:?}"),
        });
    }
    eprintln!("sled: {sled_rounds:#?}");
}
