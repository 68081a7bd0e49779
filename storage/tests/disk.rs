//! Disks against the suite, and what the simulated one holds against its users.

#![allow(clippy::unwrap_used)] // also in the helpers of the tests

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use causeway_storage::disk::sim::{Fault, Operation};
use causeway_storage::disk::{Disk, DiskFile, Open, RealDisk, SimDisk, conformance};
use proptest::prelude::*;

const SECTOR: usize = 512;

#[test]
fn the_real_disk_conforms() {
    let root = tempfile::tempdir().unwrap();
    conformance::run(&RealDisk, root.path());
}

#[test]
fn the_simulated_disk_conforms() {
    conformance::run(&SimDisk::new(1), Path::new("/data"));
}

fn create(disk: &SimDisk, path: &str) -> Arc<dyn DiskFile> {
    disk.open(Path::new(path), Open::CreateNew).unwrap()
}

fn contents(disk: &SimDisk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(Path::new(path), Open::Read)?;
    let mut bytes = vec![0; file.len()? as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn sync_root(disk: &SimDisk) {
    disk.sync_dir(Path::new("/")).unwrap();
}

#[test]
fn what_was_synced_survives_any_crash() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let file = create(&disk, "f");
        file.write_all_at(&[1; 3_000], 0).unwrap();
        file.sync_data().unwrap();
        sync_root(&disk);
        disk.create_dir_all(Path::new("a/b")).unwrap();
        disk.crash();
        assert_eq!(contents(&disk, "f").unwrap(), [1; 3_000]);
        assert_eq!(disk.list(Path::new("a")).unwrap(), [PathBuf::from("b")]);
    }
}

#[test]
fn a_handle_of_before_a_crash_is_dead() {
    let disk = SimDisk::new(1);
    let file = create(&disk, "f");
    sync_root(&disk);
    disk.crash();
    assert!(file.write_all_at(b"x", 0).is_err());
    assert!(file.sync_data().is_err());
    assert!(file.len().is_err());
}

/// What is there after a crash, over many seeds.
fn outcomes(prepare: impl Fn(&SimDisk)) -> BTreeSet<Vec<(PathBuf, Vec<u8>)>> {
    (0..300)
        .map(|seed| {
            let disk = SimDisk::new(seed);
            prepare(&disk);
            disk.crash();
            let names = disk.list(Path::new("")).unwrap();
            names.into_iter().map(|name| (name.clone(), contents(&disk, name.to_str().unwrap()).unwrap())).collect()
        })
        .collect()
}

#[test]
fn names_without_a_sync_are_kept_or_lost_in_any_combination() {
    let found = outcomes(|disk| {
        for name in ["a", "b"] {
            let file = create(disk, name);
            file.write_all_at(name.as_bytes(), 0).unwrap();
            file.sync_data().unwrap();
        }
        disk.rename(Path::new("a"), Path::new("c")).unwrap();
    });
    let of = |names: &[(&str, &str)]| -> Vec<(PathBuf, Vec<u8>)> {
        names.iter().map(|(name, bytes)| (PathBuf::from(name), bytes.as_bytes().to_vec())).collect()
    };
    let expected = BTreeSet::from([
        of(&[]),
        of(&[("a", "a")]),
        of(&[("b", "b")]),
        of(&[("a", "a"), ("b", "b")]),
        of(&[("c", "a")]),
        of(&[("b", "b"), ("c", "a")]),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn a_removal_without_a_sync_can_come_undone() {
    let found = outcomes(|disk| {
        let file = create(disk, "f");
        file.write_all_at(b"x", 0).unwrap();
        file.sync_data().unwrap();
        sync_root(disk);
        drop(file);
        disk.remove(Path::new("f")).unwrap();
    });
    assert_eq!(found.len(), 2);
}

#[test]
fn writes_are_torn_at_sectors_and_only_there() {
    let mut kinds = BTreeSet::new();
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let file = create(&disk, "f");
        file.write_all_at(&[b'o'; 8 * SECTOR], 0).unwrap();
        file.sync_data().unwrap();
        sync_root(&disk);
        file.write_all_at(&[b'n'; 6 * SECTOR], SECTOR as u64 + 100).unwrap();
        disk.crash();
        let bytes = contents(&disk, "f").unwrap();
        assert_eq!(bytes.len(), 8 * SECTOR);
        let mut news = 0;
        for (at, sector) in bytes.chunks(SECTOR).enumerate() {
            let (start, end) = (at * SECTOR, (at + 1) * SECTOR);
            let written = start.max(SECTOR + 100)..end.min(7 * SECTOR + 100);
            let news_here = sector.iter().filter(|byte| **byte == b'n').count();
            assert!(news_here == 0 || news_here == written.len(), "sector {at} is torn inside");
            news += usize::from(news_here > 0);
        }
        kinds.insert(news);
    }
    assert!(kinds.contains(&0) && kinds.contains(&7) && kinds.len() > 4, "{kinds:?}");
}

#[test]
fn the_length_is_durable_apart_from_the_contents() {
    let mut zeros_at_the_end = 0;
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let file = create(&disk, "f");
        sync_root(&disk);
        file.write_all_at(&[1; 4 * SECTOR], 0).unwrap();
        file.write_all_at(&[2; 4 * SECTOR], 4 * SECTOR as u64).unwrap();
        disk.crash();
        let bytes = contents(&disk, "f").unwrap();
        assert!([0, 4 * SECTOR, 8 * SECTOR].contains(&bytes.len()), "{}", bytes.len());
        zeros_at_the_end += usize::from(bytes.last() == Some(&0));
    }
    assert!(zeros_at_the_end > 0);
}

#[test]
fn after_a_failed_sync_the_next_success_means_nothing() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let file = create(&disk, "f");
        sync_root(&disk);
        file.write_all_at(&[1; 4 * SECTOR], 0).unwrap();
        disk.inject(Fault::next(&[Operation::SyncData]));
        file.sync_data().unwrap_err();
        let mut shown = [0; 4 * SECTOR];
        file.read_exact_at(&mut shown, 0).unwrap();
        assert_eq!(shown, [1; 4 * SECTOR], "reads go on showing it");
        file.sync_data().unwrap();
        disk.crash();
        lost += usize::from(contents(&disk, "f").unwrap() != [1; 4 * SECTOR]);
    }
    assert!(lost > 10, "the loss showed in {lost} of 50 seeds");
}

#[test]
fn a_full_disk_takes_a_part_and_goes_on_when_there_is_room() {
    let disk = SimDisk::new(1);
    disk.set_capacity(5 * 4096);
    let ballast = create(&disk, "ballast");
    ballast.write_all_at(&[1; 3 * 4096], 0).unwrap();
    let file = create(&disk, "f");
    let full = file.write_all_at(&[2; 4 * 4096], 0).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 2 * 4096, "what fits was written");
    assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 0);
    assert_eq!(disk.open(Path::new("g"), Open::CreateNew).unwrap_err().kind(), ErrorKind::StorageFull);
    file.write_all_at(&[3; 4096], 4096).unwrap();
    drop(ballast);
    disk.remove(Path::new("ballast")).unwrap();
    file.write_all_at(&[2; 4 * 4096], 0).unwrap();
    assert_eq!(disk.used_bytes(), 4 * 4096);
}

#[test]
fn faults_strike_where_they_should() {
    let disk = SimDisk::new(1);
    disk.create_dir_all(Path::new("/d")).unwrap();
    let (good, bad) = (create(&disk, "/good"), create(&disk, "/d/bad"));
    disk.inject(Fault::next(&[Operation::Write, Operation::Read]).of("/d").after(1).always());
    bad.write_all_at(b"one goes well", 0).unwrap();
    let error = bad.write_all_at(b"x", 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "EIO");
    bad.read_exact_at(&mut [0], 0).unwrap_err();
    good.write_all_at(b"x", 0).unwrap();
    bad.sync_data().unwrap();
    disk.clear_faults();
    bad.write_all_at(b"x", 0).unwrap();

    let before = disk.operations();
    disk.inject(Fault::nth(2));
    assert!(good.write_all_at(b"x", 0).is_ok());
    assert!(disk.list(Path::new("/")).is_ok());
    assert!(disk.rename(Path::new("/good"), Path::new("/better")).is_err());
    assert_eq!(disk.list(Path::new("/")).unwrap(), ["d", "good"].map(PathBuf::from), "a failed rename did nothing");
    assert_eq!(disk.operations(), before + 4);
}

#[test]
fn flipped_bits_are_read_and_stay() {
    let disk = SimDisk::new(1);
    let file = create(&disk, "f");
    file.write_all_at(&[0; 100], 0).unwrap();
    file.sync_data().unwrap();
    sync_root(&disk);
    disk.flip_bit(Path::new("f"), 40, 3).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 40).unwrap();
    assert_eq!(byte, [8]);
    disk.crash();
    assert_eq!(contents(&disk, "f").unwrap().iter().filter(|byte| **byte != 0).count(), 1);
    assert!(disk.flip_bit(Path::new("f"), 100, 0).is_err());
}

/// Replaces a file's contents as one should, or leaving out a sync.
fn replace(disk: &SimDisk, bytes: &[u8], sync_contents: bool, sync_name: bool) -> io::Result<()> {
    let (aside, place) = (Path::new("/d/f.new"), Path::new("/d/f"));
    match disk.remove(aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open(aside, Open::CreateNew)?;
    file.write_all_at(bytes, 0)?;
    if sync_contents {
        file.sync_data()?;
    }
    disk.rename(aside, place)?;
    if sync_name {
        disk.sync_dir(Path::new("/d"))?;
    }
    Ok(())
}

/// Cuts the power at every mutation of a replacement, over many seeds; the number of broken promises.
fn broken_replacements(sync_contents: bool, sync_name: bool) -> usize {
    let (old, new) = (vec![b'o'; 3_000], vec![b'n'; 5_000]);
    let mut broken = 0;
    for seed in 0..40 {
        for cut_at in 0.. {
            let disk = SimDisk::new(seed);
            disk.create_dir_all(Path::new("/d")).unwrap();
            replace(&disk, &old, true, true).unwrap();
            disk.cut_power_at(cut_at);
            let done = replace(&disk, &new, sync_contents, sync_name).is_ok();
            assert_eq!(done, !disk.is_off(), "only the power cut lets it fail");
            disk.crash();
            let found = contents(&disk, "/d/f").unwrap_or_default();
            broken += usize::from(found != new && (done || found != old));
            if done {
                break;
            }
        }
    }
    broken
}

#[test]
fn the_careful_way_to_replace_a_file_holds_and_careless_ones_are_caught() {
    assert_eq!(broken_replacements(true, true), 0);
    let without_contents = broken_replacements(false, true);
    let without_name = broken_replacements(true, false);
    assert!(without_contents > 10, "caught {without_contents} times");
    assert!(without_name > 10, "caught {without_name} times");
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        let file = create(&disk, "f");
        sync_root(&disk);
        for i in 0..20_u8 {
            file.write_all_at(&[i; 700], u64::from(i) * 350).unwrap();
            create(&disk, &format!("f{i}"));
        }
        disk.crash();
        (disk.list(Path::new("")).unwrap(), contents(&disk, "f").unwrap())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[derive(Clone, Debug)]
enum Step {
    Write(u16, u16, u8),
    SetLen(u16),
    Sync,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..9_000_u16, 0..3_000_u16, 1..255_u8).prop_map(|(offset, len, fill)| Step::Write(offset, len, fill)),
        2 => (0..12_000_u16).prop_map(Step::SetLen),
        2 => Just(Step::Sync),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Reads show what was done; a crash leaves each sector as it was at some moment since the last sync, and what was
    /// synced if nothing was done since.
    #[test]
    fn contents_follow_a_plain_vector(seed: u64, steps in prop::collection::vec(step(), 1..40)) {
        let disk = SimDisk::new(seed);
        let mut file = create(&disk, "f");
        sync_root(&disk);
        // All states since the last sync, the last one being the present.
        let mut states: Vec<Vec<u8>> = vec![Vec::new()];
        for step in steps {
            let mut state = states.last().unwrap().clone();
            match step {
                Step::Write(offset, len, fill) => {
                    let (from, to) = (usize::from(offset), usize::from(offset) + usize::from(len));
                    file.write_all_at(&vec![fill; usize::from(len)], u64::from(offset)).unwrap();
                    if len > 0 {
                        state.resize(state.len().max(to), 0);
                        state[from..to].fill(fill);
                    }
                    states.push(state);
                }
                Step::SetLen(len) => {
                    file.set_len(u64::from(len)).unwrap();
                    state.resize(usize::from(len), 0);
                    states.push(state);
                }
                Step::Sync => {
                    file.sync_data().unwrap();
                    states = vec![state];
                }
                Step::Crash => {
                    disk.crash();
                    let found = contents(&disk, "f").unwrap();
                    prop_assert!(states.iter().any(|state| state.len() == found.len()));
                    for at in (0..found.len()).step_by(SECTOR) {
                        let sector = &found[at..found.len().min(at + SECTOR)];
                        let fits = |state: &Vec<u8>| {
                            (0..sector.len()).all(|i| state.get(at + i).copied().unwrap_or(0) == sector[i])
                        };
                        prop_assert!(states.iter().any(fits), "sector at {at} was never like that");
                    }
                    file = disk.open(Path::new("f"), Open::Write).unwrap();
                    states = vec![found];
                }
            }
            prop_assert_eq!(&contents(&disk, "f").unwrap(), states.last().unwrap());
        }
    }
}
