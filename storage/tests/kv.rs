//! Every engine against the suite.

#![allow(clippy::unwrap_used)] // also in the helpers of the tests

use std::collections::BTreeMap;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use causeway_base::ByteSize;
use causeway_storage::disk::{Disk, RealDisk};
use causeway_storage::kv::conformance::steps::{self, Step};
use causeway_storage::kv::conformance::{self, Engine, SPACES};
use causeway_storage::kv::{
    Batch, FjallKv, FjallOptions, Kv, KvError, KvRead, LostKv, MemoryKv, SledKv, SledOptions, Space, WatchedKv,
    prefix_range,
};
use proptest::prelude::*;

/// A folder in memory if there is one with room: syncs to a busy disk would be most of the time of these tests, and no
/// power is cut in them.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match RealDisk.free_bytes(memory) {
        Ok(free) if free > 1 << 30 => tempfile::tempdir_in(memory).unwrap(),
        _ => tempfile::tempdir().unwrap(),
    }
}

/// Keeps the stores by path, and gives back what a power cut would leave.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<PathBuf, Arc<MemoryKv>>>);

impl Engine for Memory {
    fn open(&self, path: &Path) -> Arc<dyn Kv> {
        let mut stores = self.0.lock().unwrap();
        let kv = match stores.get(path) {
            Some(before) => Arc::new(before.after_power_cut()),
            None => Arc::new(MemoryKv::new(&SPACES)),
        };
        stores.insert(path.to_path_buf(), Arc::clone(&kv));
        kv
    }
}

struct Fjall(FjallOptions);

impl Fjall {
    /// Memtables so small that the suite flushes and compacts.
    fn small() -> Self {
        Self(FjallOptions { memtable: ByteSize::kib(64), cache: ByteSize::mib(1), ..FjallOptions::default() })
    }
}

impl Engine for Fjall {
    fn open(&self, path: &Path) -> Arc<dyn Kv> {
        Arc::new(FjallKv::open(path, &SPACES, &self.0).unwrap())
    }
}

struct Sled;

impl Engine for Sled {
    fn open(&self, path: &Path) -> Arc<dyn Kv> {
        Arc::new(SledKv::open(path, &SPACES, &SledOptions::default()).unwrap())
    }

    fn has_snapshots(&self) -> bool {
        false
    }

    fn has_stable_scans(&self) -> bool {
        false
    }
}

#[test]
fn sled_conforms_but_for_snapshots() {
    let root = scratch();
    conformance::run(&Sled, root.path());
    let kv = Sled.open(&root.path().join("snapshot"));
    assert!(matches!(kv.snapshot().get(SPACES[0], b"k"), Err(KvError::Usage { .. })));
}

#[test]
fn a_damaged_sled_store_is_reported_and_can_be_made_anew() {
    let root = scratch();
    let path = root.path().join("index");
    let kv = SledKv::open(&path, &[DATA], &SledOptions::default()).unwrap();
    for i in 0..3_000_u32 {
        let mut batch = Batch::new();
        batch.put(DATA, i.to_be_bytes().to_vec(), blake_like(i));
        kv.write(batch).unwrap();
    }
    kv.persist().unwrap();
    drop(kv);
    // The file that the engine cannot do without: its parameters and its log.
    for name in ["conf", "db"] {
        let mut bytes = std::fs::read(path.join(name)).unwrap();
        for byte in bytes.iter_mut() {
            *byte ^= 0x55;
        }
        std::fs::write(path.join(name), bytes).unwrap();
    }
    let error = SledKv::open(&path, &[DATA], &SledOptions::default()).unwrap_err();
    assert!(matches!(error, KvError::Damaged { .. }), "{error:?}");
    std::fs::remove_dir_all(&path).unwrap();
    let kv = SledKv::open(&path, &[DATA], &SledOptions::default()).unwrap();
    assert_eq!(kv.get(DATA, &0_u32.to_be_bytes()).unwrap(), None);
}

#[test]
fn memory_conforms() {
    conformance::run(&Memory::default(), Path::new(""));
}

#[test]
fn fjall_conforms() {
    let root = scratch();
    conformance::run(&Fjall(FjallOptions::default()), root.path());
}

/// Fjall behind something that looks on.
#[derive(Debug)]
struct Watched;

impl Engine for Watched {
    fn open(&self, path: &Path) -> Arc<dyn Kv> {
        let kv = FjallKv::open(path, &SPACES, &FjallOptions::default()).unwrap();
        Arc::new(WatchedKv::new(Arc::new(kv), |error| panic!("nothing is damaged: {error}")))
    }
}

#[test]
fn a_watched_store_conforms() {
    let root = scratch();
    conformance::run(&Watched, root.path());
}

#[test]
fn damage_is_told_once_by_whatever_call_finds_it() {
    type Fails = fn(&WatchedKv) -> bool;
    let calls: [(&str, Fails); 5] = [
        ("get", |kv| kv.get(DATA, b"k").is_err()),
        ("scan", |kv| kv.scan(DATA, prefix_range(b""), false).any(|entry| entry.is_err())),
        ("persist", |kv| kv.persist().is_err()),
        ("get in a snapshot", |kv| kv.snapshot().get(DATA, b"k").is_err()),
        ("scan in a snapshot", |kv| kv.snapshot().scan(DATA, prefix_range(b""), true).any(|entry| entry.is_err())),
    ];
    for (what, call) in calls {
        let told = Arc::new(AtomicUsize::new(0));
        let count = told.clone();
        let kv = WatchedKv::new(Arc::new(LostKv), move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert!(matches!(kv.write(Batch::new()), Err(KvError::Full { .. })));
        assert_eq!(told.load(Ordering::Relaxed), 0, "a full disk is no damage");
        assert!(call(&kv) && call(&kv), "{what}: the error is passed on");
        assert_eq!(told.load(Ordering::Relaxed), 1, "{what}");
    }
}

#[test]
fn fjall_conforms_while_it_flushes() {
    let root = scratch();
    conformance::run(&Fjall::small(), root.path());
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0, 1, b'a', 0xff]), 1..4)
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)]
}

fn step() -> impl Strategy<Value = Step> {
    let op = (0..2_usize, key(), prop::option::of(prop::collection::vec(any::<u8>(), 0..40)));
    prop_oneof![
        8 => prop::collection::vec(op, 0..10).prop_map(Step::Write),
        1 => Just(Step::Persist),
        1 => Just(Step::Reopen),
        2 => Just(Step::Snapshot),
        1 => Just(Step::DropSnapshot),
        3 => (0..2_usize, bound(), bound(), any::<bool>()).prop_map(|(space, low, high, back)| Step::Scan(space, low, high, back)),
        1 => Just(Step::Compare),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn memory_is_a_map(steps in prop::collection::vec(step(), 0..60)) {
        steps::check(&Memory::default(), Path::new("m"), &steps);
    }

    #[test]
    fn fjall_is_a_map(steps in prop::collection::vec(step(), 0..40)) {
        let root = scratch();
        steps::check(&Fjall::small(), &root.path().join("f"), &steps);
    }
}

const DATA: Space = Space("data");

fn one(key: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(DATA, key.to_owned(), "value");
    batch
}

#[test]
fn a_second_open_is_refused_while_the_first_lives() {
    let root = scratch();
    let kv = FjallKv::open(root.path(), &[DATA], &FjallOptions::default()).unwrap();
    let refused = FjallKv::open(root.path(), &[DATA], &FjallOptions::default()).unwrap_err();
    assert!(matches!(refused, KvError::Other { .. }), "{refused:?}");
    let snapshot = kv.snapshot();
    drop(kv);
    let refused = FjallKv::open(root.path(), &[DATA], &FjallOptions::default()).unwrap_err();
    assert!(matches!(refused, KvError::Other { .. }), "a snapshot still reads: {refused:?}");
    drop(snapshot);
    FjallKv::open(root.path(), &[DATA], &FjallOptions::default()).unwrap();
}

#[test]
fn a_store_grows_new_spaces() {
    let root = scratch();
    let kv = FjallKv::open(root.path(), &[DATA], &FjallOptions::default()).unwrap();
    kv.write(one("k")).unwrap();
    drop(kv);
    let more = Space("more");
    let kv = FjallKv::open(root.path(), &[DATA, more], &FjallOptions::default()).unwrap();
    assert!(kv.get(DATA, b"k").unwrap().is_some(), "written without persist, closed cleanly");
    assert!(kv.get(more, b"k").unwrap().is_none());
}

#[test]
fn too_little_free_space_refuses_whole_batches() {
    let root = scratch();
    let options = FjallOptions { reserve: ByteSize(u64::MAX / 2), ..FjallOptions::default() };
    let kv = FjallKv::open(root.path(), &[DATA], &options).unwrap();
    let refused = kv.write(one("k")).unwrap_err();
    assert!(matches!(refused, KvError::Full { .. }), "{refused:?}");
    assert_eq!(kv.get(DATA, b"k").unwrap(), None);
    drop(kv);
    // Space is back.
    let kv = FjallKv::open(root.path(), &[DATA], &FjallOptions::default()).unwrap();
    kv.write(one("k")).unwrap();
}

#[test]
fn damaged_tables_are_noticed_and_stop_writes() {
    let root = scratch();
    let options = FjallOptions { memtable: ByteSize::kib(64), cache: ByteSize::kib(64), ..FjallOptions::default() };
    let kv = FjallKv::open(root.path(), &[DATA], &options).unwrap();
    for i in 0..2_000_u32 {
        let mut batch = Batch::new();
        batch.put(DATA, i.to_be_bytes().to_vec(), blake_like(i));
        kv.write(batch).unwrap();
    }
    kv.persist().unwrap();
    drop(kv);
    let mut damaged = 0;
    for file in walk(root.path()).into_iter().filter(|file| file.parent().is_some_and(|dir| dir.ends_with("tables"))) {
        let mut bytes = std::fs::read(&file).unwrap();
        // Data blocks are at the start of a table.
        for byte in bytes.iter_mut().take(2_000).skip(200) {
            *byte ^= 0x55;
        }
        std::fs::write(&file, bytes).unwrap();
        damaged += 1;
    }
    assert!(damaged > 0, "no table was found");
    // Either the store does not open, or the read finds it; a wrong value is never given out.
    let kv = match FjallKv::open(root.path(), &[DATA], &options) {
        Ok(kv) => kv,
        Err(error) => {
            assert!(matches!(error, KvError::Damaged { .. }), "{error:?}");
            return;
        }
    };
    let mut found = 0;
    for i in 0..2_000_u32 {
        match kv.get(DATA, &i.to_be_bytes()) {
            Ok(value) => assert!(value.is_none_or(|value| value == blake_like(i)), "a wrong value was given out"),
            Err(error) => {
                assert!(matches!(error, KvError::Damaged { .. }), "{error:?}");
                found += 1;
            }
        }
    }
    assert!(found > 0, "the damage was not noticed");
    assert!(kv.damage().is_some());
    let refused = kv.write(one("k")).unwrap_err();
    assert!(matches!(refused, KvError::Damaged { .. }), "{refused:?}");
    assert!(matches!(kv.persist(), Err(KvError::Damaged { .. })));
}

/// Bytes that do not compress.
fn blake_like(seed: u32) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    (0..100)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    found
}

/// The end of what a journal, whose space is allocated ahead, holds.
fn used(journal: &Path) -> usize {
    used_of(&std::fs::read(journal).unwrap())
}

fn used_of(bytes: &[u8]) -> usize {
    let last = bytes.chunks(4096).rposition(|block| block != &[0; 4096][..block.len()]).unwrap_or(0) * 4096;
    bytes[..bytes.len().min(last + 4096)].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// What a power cut can leave of what was written but not synced: any sectors of it.
#[test]
fn a_journal_torn_after_its_last_sync_opens_at_an_exact_prefix() {
    const PERSISTED: u32 = 5;
    const WRITTEN: u32 = 25;
    let root = scratch();
    let path = root.path().join("written");
    let options = FjallOptions::default();
    let kv = FjallKv::open(&path, &[DATA], &options).unwrap();
    let journal = path.join("0.jnl");
    let mut synced = 0;
    for i in 0..WRITTEN {
        let mut batch = Batch::new();
        for part in 0..2_u8 {
            batch.put(DATA, [&[part][..], &i.to_be_bytes()].concat(), blake_like(i).repeat(20));
        }
        kv.write(batch).unwrap();
        if i + 1 == PERSISTED {
            kv.persist().unwrap();
            synced = used(&journal);
        }
    }
    let end = used(&journal);
    assert!(synced > 0 && end > synced + 10_000);
    let mut refused = Vec::new();
    for (case, sector) in (synced.div_ceil(512)..end / 512).step_by(7).enumerate() {
        let copy = root.path().join(format!("torn-{case}"));
        copy_dir(&path, &copy);
        let torn = std::fs::OpenOptions::new().write(true).open(copy.join("0.jnl")).unwrap();
        torn.write_all_at(&[0; 512], sector as u64 * 512).unwrap();
        let kv = match FjallKv::open(&copy, &[DATA], &options) {
            Ok(kv) => kv,
            Err(error) => {
                refused.push((sector, error.to_string()));
                continue;
            }
        };
        let there: Vec<bool> =
            (0..WRITTEN).map(|i| kv.get(DATA, &[&[0][..], &i.to_be_bytes()].concat()).unwrap().is_some()).collect();
        let count = there.iter().filter(|there| **there).count();
        assert!(count >= PERSISTED as usize, "what was persisted is gone");
        assert!(there[..count].iter().all(|there| *there), "not a prefix: {there:?}");
        assert!(count < WRITTEN as usize, "a torn batch was taken for whole");
    }
    assert!(refused.is_empty(), "{} refused: {refused:?}", refused.len());
}

#[test]
fn a_loss_of_what_was_persisted_is_noticed() {
    let root = scratch();
    let path = root.path().join("written");
    let options = FjallOptions::default();
    let kv = FjallKv::open(&path, &[DATA], &options).unwrap();
    kv.write(one("a")).unwrap();
    let after_one = used(&path.join("0.jnl"));
    kv.write(one("b")).unwrap();
    let after_two = used(&path.join("0.jnl"));
    kv.persist().unwrap();
    kv.write(one("c")).unwrap();
    drop(kv);
    for (keep, is_lost) in [(after_one, true), (after_two, false)] {
        let copy = root.path().join(format!("{keep}"));
        copy_dir(&path, &copy);
        std::fs::OpenOptions::new().write(true).open(copy.join("0.jnl")).unwrap().set_len(keep as u64).unwrap();
        let opened = FjallKv::open(&copy, &[DATA], &options);
        if is_lost {
            let error = opened.unwrap_err();
            assert!(matches!(error, KvError::Damaged { .. }), "{error:?}");
        } else {
            let kv = opened.unwrap();
            assert!(kv.get(DATA, b"b").unwrap().is_some() && kv.get(DATA, b"c").unwrap().is_none());
        }
    }
}

#[test]
fn an_older_journal_must_be_whole() {
    let root = scratch();
    let options = FjallOptions::default();
    let kv = FjallKv::open(root.path(), &[DATA], &options).unwrap();
    for i in 0..20_u32 {
        kv.write(one(&i.to_string())).unwrap();
    }
    drop(kv);
    std::fs::write(root.path().join("1.jnl"), [0; 4096]).unwrap();
    let journal = root.path().join("0.jnl");
    let bytes = std::fs::read(&journal).unwrap();
    let middle = used(&journal) / 2;
    let value = middle + bytes[middle..].windows(5).position(|window| window == b"value").unwrap();
    let damaged = std::fs::OpenOptions::new().write(true).open(&journal).unwrap();
    damaged.write_all_at(b"V", value as u64).unwrap();
    let error = FjallKv::open(root.path(), &[DATA], &options).unwrap_err();
    assert!(matches!(error, KvError::Damaged { .. }), "{error:?}");
}

fn copy_dir(from: &Path, to: &Path) {
    for file in walk(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        // Journals are sparse, and their zeros need not be copied.
        let bytes = std::fs::read(&file).unwrap();
        let end = used_of(&bytes);
        let copy = std::fs::File::create(target).unwrap();
        copy.write_all_at(&bytes[..end], 0).unwrap();
        copy.set_len(bytes.len() as u64).unwrap();
    }
}
