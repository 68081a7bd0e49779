//! Power cuts, full disks and failing syncs, on the simulated disk.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::executor::block_on;

use causeway_base::VolumeId;
use causeway_storage::disk::sim::{Fault, Operation, SimDisk};

use super::{append, options, payload};
use crate::wal::{GroupLog, Wal, WalError, WalState};

const DIR: &str = "wal";

fn open(disk: &SimDisk) -> Result<Wal, WalError> {
    Wal::open(Arc::new(disk.clone()), Path::new(DIR), options()).map(|(wal, _)| wal)
}

/// What was acknowledged to a group, and what was asked but not acknowledged.
#[derive(Debug, Default)]
struct Promised {
    /// One past the last entry acknowledged.
    end: u64,
    /// One past the last entry asked for.
    asked: u64,
    purged: u64,
    vote: u64,
    vote_asked: u64,
}

fn size(index: u64) -> usize {
    usize::try_from(index * 1237 % 7000).unwrap()
}

/// Appends, purges and votes on two groups, one of them mostly idle, until the power goes.
fn work(disk: &SimDisk, promised: &mut [Promised; 2]) -> Result<(), WalError> {
    let wal = open(disk)?;
    for round in 0..40_u64 {
        for (group, state) in (0..).zip(promised.iter_mut()) {
            if group == 1 && !round.is_multiple_of(13) {
                continue;
            }
            step(&wal.group(VolumeId(group)), round, state)?;
        }
    }
    Ok(())
}

fn step(log: &GroupLog, round: u64, state: &mut Promised) -> Result<(), WalError> {
    if round.is_multiple_of(5) {
        state.vote_asked = round;
        block_on(log.save_vote(Bytes::from(round.to_string())))?;
        state.vote = round;
    }
    let first = log.range().end.max(1);
    let payloads: Vec<Bytes> = (first..first + 3).map(|index| payload(index, size(index))).collect();
    state.asked = first + 3;
    append(log, first, &payloads)?;
    state.end = first + 3;
    if round % 4 == 3 {
        state.purged = state.end - 4;
        log.purge(state.purged, Bytes::from(state.purged.to_string()))?;
    }
    log.save_committed(Some(Bytes::from(round.to_string())));
    Ok(())
}

fn check(wal: &Wal, promised: &[Promised; 2]) {
    for (group, state) in (0..).zip(promised) {
        let log = wal.group(VolumeId(group));
        let range = log.range();
        assert!(range.end >= state.end && range.end <= state.asked.max(1), "{group}: {range:?} of {state:?}");
        let purged = log.purged().map_or(0, |(index, _)| index);
        assert!(purged <= state.purged, "{group}: purged {purged} of {state:?}");
        for (index, data) in log.read(range.clone(), usize::MAX).unwrap() {
            assert_eq!(data, payload(index, size(index)), "{group}: {index}");
        }
        let vote = log.vote().map_or(0, |vote| std::str::from_utf8(&vote).unwrap().parse().unwrap());
        assert!(vote == state.vote || vote == state.vote_asked, "{group}: vote {vote} of {state:?}");
    }
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    let disk = SimDisk::new(0);
    work(&disk, &mut Default::default()).unwrap();
    let mutations = disk.mutations();
    assert!(mutations > 100, "{mutations}");
    for at in 0..mutations {
        let disk = SimDisk::new(at);
        disk.cut_power_at(at);
        let mut promised = <[Promised; 2]>::default();
        // At the end only the background may notice.
        let _ = work(&disk, &mut promised);
        disk.crash();
        let wal = open(&disk).unwrap_or_else(|error| panic!("cut at {at}: {error}"));
        check(&wal, &promised);
        // The log goes on, and a second restart says the same.
        let log = wal.group(VolumeId(0));
        let next = log.range().end;
        append(&log, next, &[payload(next, 5)]).unwrap();
        drop(wal);
        disk.crash();
        let wal = open(&disk).unwrap_or_else(|error| panic!("cut at {at}, again: {error}"));
        assert_eq!(wal.group(VolumeId(0)).last().unwrap(), Some((next, payload(next, 5))), "cut at {at}");
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    for operation in [Operation::SyncData, Operation::Write] {
        let disk = SimDisk::new(5);
        let wal = open(&disk).unwrap();
        let log = wal.group(VolumeId(1));
        append(&log, 1, &[payload(1, 10)]).unwrap();
        disk.inject(Fault::next(&[operation]));
        append(&log, 2, &[payload(2, 10)]).unwrap_err();
        assert!(matches!(wal.state(), WalState::Poisoned(_)));
        assert!(matches!(append(&log, 2, &[payload(2, 10)]), Err(WalError::Poisoned(_))));
        assert!(matches!(block_on(log.save_vote(Bytes::from_static(b"v"))), Err(WalError::Poisoned(_))));
        drop(wal);
        disk.crash();
        let wal = open(&disk).unwrap();
        assert!(wal.group(VolumeId(1)).range().end >= 2);
    }
}

#[test]
fn a_full_disk_is_announced_early_and_passes() {
    let disk = SimDisk::new(7);
    let wal = open(&disk).unwrap();
    let log = wal.group(VolumeId(1));
    disk.set_capacity(disk.used_bytes());
    let mut next = 1;
    while wal.state() == WalState::Ok {
        append(&log, next, &[payload(next, 6000)]).unwrap();
        next += 1;
    }
    assert_eq!(wal.state(), WalState::Full);
    // What was accepted at the door before still fits: a whole segment of it.
    for _ in 0..9 {
        append(&log, next, &[payload(next, 6000)]).unwrap();
        next += 1;
    }
    let error = loop {
        match append(&log, next, &[payload(next, 6000)]) {
            Ok(()) => next += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, WalError::Full), "{error}");
    assert_eq!(log.range().end, next, "what failed is not in the log");
    disk.set_capacity(u64::MAX);
    block_on(log.flush()).unwrap();
    append(&log, next, &[payload(next, 6000)]).unwrap();
    assert_eq!(wal.state(), WalState::Ok);
    drop(wal);
    let wal = open(&disk).unwrap();
    assert_eq!(wal.group(VolumeId(1)).range(), 1..next + 1);
}

#[test]
fn a_flipped_bit_in_an_old_segment_is_refused_by_name() {
    let disk = SimDisk::new(9);
    let wal = open(&disk).unwrap();
    let log = wal.group(VolumeId(1));
    for index in 1..40 {
        append(&log, index, &[payload(index, 6000)]).unwrap();
    }
    drop(wal);
    disk.flip_bit(&Path::new(DIR).join("00000000000000000002.log"), 5000, 3).unwrap();
    let error = open(&disk).unwrap_err();
    assert!(matches!(&error, WalError::Damaged { file, .. } if file.starts_with("00000000000000000002")), "{error}");
}
