//! Checks with several threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::single::{all, get};
use super::{Check, LEFT, Place, RIGHT};
use crate::kv::{Batch, Kv};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("no_reader_sees_half_a_batch", no_reader_sees_half_a_batch),
    ("single_reads_never_go_back", single_reads_never_go_back),
    ("concurrent_writers_lose_nothing", concurrent_writers_lose_nothing),
];

const KEYS: u8 = 40;
const ROUNDS: u64 = 300;

/// A batch that sets all keys of both spaces to one number.
fn round_batch(round: u64) -> Batch {
    let mut batch = Batch::new();
    for key in 0..KEYS {
        let space = if key % 2 == 0 { LEFT } else { RIGHT };
        // Padded, so that engines with small buffers flush every few rounds.
        let mut value = round.to_be_bytes().to_vec();
        value.resize(200, 0);
        batch.put(space, vec![key], value);
    }
    batch
}

fn number(value: &[u8]) -> u64 {
    u64::from_be_bytes(value[..8].try_into().expect("eight bytes"))
}

/// Runs `read` in two threads while all rounds are written; it gets the newest round whose write has returned.
fn while_writing(kv: &dyn Kv, read: impl Fn(u64) + Sync) {
    kv.write(round_batch(0)).expect("a write");
    let done = AtomicBool::new(false);
    let written = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let last = done.load(Ordering::Acquire);
                    read(written.load(Ordering::Acquire));
                    if last {
                        break;
                    }
                }
            });
        }
        for round in 1..=ROUNDS {
            kv.write(round_batch(round)).expect("a write");
            written.store(round, Ordering::Release);
        }
        done.store(true, Ordering::Release);
    });
}

fn no_reader_sees_half_a_batch(place: &Place<'_>) {
    if !place.engine.has_snapshots() {
        return;
    }
    let kv = place.open();
    while_writing(&*kv, |written| {
        let snapshot = kv.snapshot();
        let scanned: Vec<u64> = [LEFT, RIGHT]
            .into_iter()
            .flat_map(|space| all(&*snapshot, space))
            .map(|(_, value)| number(&value))
            .collect();
        assert_eq!(scanned.len(), usize::from(KEYS));
        assert!(scanned.iter().all(|round| *round == scanned[0]), "a snapshot shows half a batch: {scanned:?}");
        assert!(scanned[0] >= written, "a snapshot misses round {written}, whose write had returned");
        let direct = all(&*kv, LEFT);
        let first = number(&direct[0].1);
        assert!(direct.iter().all(|(_, value)| number(value) == first), "a scan shows half a batch");
    });
}

fn single_reads_never_go_back(place: &Place<'_>) {
    let kv = place.open();
    while_writing(&*kv, |written| {
        let mut newest = written;
        for key in (0..KEYS).rev() {
            let space = if key % 2 == 0 { LEFT } else { RIGHT };
            let round = number(&get(&*kv, space, &[key]).expect("always there"));
            assert!(round >= newest, "key {key} is at round {round} after a read at {newest}");
            newest = round;
        }
    });
}

fn concurrent_writers_lose_nothing(place: &Place<'_>) {
    const WRITERS: u8 = 4;
    const WRITES: u32 = 250;
    let kv = place.open();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let kv = &kv;
            scope.spawn(move || {
                for i in 0..WRITES {
                    let mut key = vec![writer];
                    key.extend(i.to_be_bytes());
                    let mut batch = Batch::new();
                    batch.put(LEFT, key.clone(), vec![writer; 64]);
                    batch.put(RIGHT, key.clone(), vec![writer; 8]);
                    batch.put(RIGHT, vec![0xff], key);
                    kv.write(batch).expect("a write");
                    if i % 50 == 0 {
                        kv.persist().expect("persist");
                    }
                }
            });
        }
    });
    kv.persist().expect("persist");
    drop(kv);
    let kv = place.open();
    let per_space = usize::from(WRITERS) * WRITES as usize;
    assert_eq!(all(&*kv, LEFT).len(), per_space);
    assert_eq!(all(&*kv, RIGHT).len(), per_space + 1);
    let last = get(&*kv, RIGHT, &[0xff]).expect("the contended key");
    assert_eq!(last[1..], (WRITES - 1).to_be_bytes(), "the contended key is not what some writer wrote last");
}
