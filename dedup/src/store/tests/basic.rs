//! What the store does when nothing goes wrong.

use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;

use causeway_storage::disk::{DiskFile, Open, RealDisk};
use causeway_storage::kv::{FjallKv, FjallOptions, SledKv, SledOptions};

use super::*;

#[test]
fn what_is_put_is_read_and_what_is_synced_is_durable() {
    let world = World::new(1);
    let (store, report) = world.open();
    assert_eq!(report, RecoveryReport::default());
    let (one, two) = (chunk(1, 5_000), chunk(3, 20_000));
    assert_eq!((one.codec, two.codec), (Codec::Raw, Codec::Zstd));
    assert_eq!(
        store.put_many(&[one.clone(), two.clone(), one.clone()]).unwrap(),
        [PutOutcome::New, PutOutcome::New, PutOutcome::Known]
    );
    assert_eq!(store.get(&one.id).unwrap().unwrap(), one);
    assert!(store.contains(&two.id).unwrap());
    assert_eq!(store.missing(&[one.id, chunk(9, 10).id]).unwrap(), [chunk(9, 10).id]);
    // Here, and yet a power cut could take it.
    assert!(!store.durable_and_present(&[one.id]).unwrap());
    assert_eq!(store.put(&one).unwrap(), PutOutcome::Known);

    store.sync().unwrap();
    assert!(store.durable_and_present(&[one.id, two.id]).unwrap());
    assert_eq!(store.put(&one).unwrap(), PutOutcome::Known);
    let stats = store.stats();
    assert_eq!((stats.chunks, stats.raw_bytes, stats.packs), (2, 25_000, 1));
    assert_eq!((stats.unsynced_bytes, stats.state), (0, StoreState::Ok));
    assert_eq!(stats.stored_bytes, (one.payload.len() + two.payload.len() + 120) as u64);
    assert_eq!(store.get(&chunk(9, 10).id).unwrap(), None);
}

#[test]
fn a_chunk_of_no_or_too_many_bytes_is_refused() {
    let (store, _) = World::new(1).open();
    let huge = EncodedChunk { payload: Bytes::from(vec![1; (1 << 20) + 1]), ..chunk(1, 10) };
    let empty = EncodedChunk { payload: Bytes::new(), ..chunk(1, 10) };
    assert!(matches!(store.put(&huge), Err(StoreError::Chunk(ChunkError::Length { .. }))));
    assert!(matches!(store.put(&empty), Err(StoreError::Chunk(ChunkError::Length { .. }))));
}

#[test]
fn many_packs_are_written_read_and_opened_without_reading_them() {
    let world = World::new(2);
    let (store, _) = world.open();
    let chunks: Vec<_> = (0..120).map(|number| chunk(number, 1_000 + 137 * number as usize)).collect();
    for some in chunks.chunks(7) {
        store.put_many(some).unwrap();
        if some[0].id.0[0] > 128 {
            store.sync().unwrap();
        }
    }
    store.sync().unwrap();
    assert!(store.stats().packs > 5, "{:?}", store.stats());
    assert_holds(&store, &chunks);
    let mut ids: Vec<ChunkId> = store.iter_ids().collect::<Result<_, _>>().unwrap();
    ids.sort_unstable();
    let mut expected: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
    expected.sort_unstable();
    assert_eq!(ids, expected);
    let stats = store.stats();
    drop(store);

    let (store, report) = world.open();
    assert_eq!(report.packs, stats.packs);
    assert_eq!((report.packs_read, report.indexed, report.rebuilt), (1, 0, None), "only the last one has no footer");
    assert_eq!(store.stats(), stats);
    assert_holds(&store, &chunks);
    assert_eq!(store.put(&chunks[5]).unwrap(), PutOutcome::Known);
    store.put(&chunk(1_000, 900)).unwrap();
    store.sync().unwrap();
    assert_holds(&store, &[chunk(1_000, 900)]);
    assert_eq!(store.stats().packs, stats.packs, "the last pack is gone on with");
}

#[test]
fn a_chunk_larger_than_a_pack_gets_one_of_its_own() {
    let world = World::new(3);
    let (store, _) = world.open();
    let chunks = [chunk(1, 1_000), chunk(2, 300_000), chunk(4, 1 << 20), chunk(5, 100)];
    store.put_many(&chunks).unwrap();
    store.sync().unwrap();
    assert_holds(&store, &chunks);
    drop(store);
    assert_holds(&world.open().0, &chunks);
}

#[test]
fn a_lost_index_is_built_anew_from_the_packs() {
    let mut world = World::new(4);
    let chunks: Vec<_> = (0..60).map(|number| chunk(number, 6_000)).collect();
    let (store, _) = world.open();
    store.put_many(&chunks).unwrap();
    store.sync().unwrap();
    let stats = store.stats();
    drop(store);
    world.lose_index();
    let (store, report) = world.open();
    assert_eq!((report.indexed, report.rebuilt), (60, Some(RebuildReason::Empty)));
    assert_eq!(report.damaged, []);
    assert_eq!(store.stats(), stats);
    assert_holds(&store, &chunks);

    let mut told = Vec::new();
    let report = store.rebuild_index(|report| told.push((report.packs_read, report.packs))).unwrap();
    assert_eq!((report.indexed, report.rebuilt), (60, Some(RebuildReason::Asked)));
    assert_eq!(told.last(), Some(&(stats.packs, stats.packs)));
    assert_holds(&store, &chunks);
    store.put(&chunk(100, 100)).unwrap();
    store.sync().unwrap();
    assert_eq!(store.stats().chunks, 61);
}

#[test]
fn an_index_that_lags_is_brought_up() {
    let mut world = World::new(5);
    let (store, _) = world.open();
    let chunks: Vec<_> = (0..40).map(|number| chunk(number, 5_000)).collect();
    for some in chunks.chunks(3) {
        store.put_many(some).unwrap();
        store.sync().unwrap();
    }
    drop(store);
    world.kv = Arc::new(world.kv.after_power_cut());
    let (store, report) = world.open();
    assert_eq!(report.rebuilt, None);
    assert!(report.indexed > 0 && report.indexed < 20, "only what it lost: {report:?}");
    assert_holds(&store, &chunks);
}

#[test]
fn realms_do_not_see_each_other() {
    let (store, _) = World::new(6).open();
    let mine = chunk(1, 100);
    store.put(&mine).unwrap();
    let plain = mine.decode(&realm()).unwrap();
    let theirs = Realm::new("other", [9; 32]).chunk_id(&plain);
    assert!(!store.contains(&theirs).unwrap());
}

#[test]
fn few_files_are_open() {
    let disk = Arc::new(SimDisk::new(7));
    let few = StoreOptions { open_files_max: 2, ..options() };
    let (store, _) = ChunkStore::open(disk, "/packs", kv(), few).unwrap();
    let chunks: Vec<_> = (0..50).map(|number| chunk(number, 9_000)).collect();
    store.put_many(&chunks).unwrap();
    store.sync().unwrap();
    assert_holds(&store, &chunks);
    assert!(store.stats().packs > 4);
    assert_eq!(store.files.open_count(), 2);
}

#[test]
fn puts_beyond_the_bound_sync_by_themselves() {
    let bounded = StoreOptions { unsynced_bytes_max: 50_000, ..options() };
    let (store, _) = ChunkStore::open(Arc::new(SimDisk::new(8)), "/packs", kv(), bounded).unwrap();
    for number in 0..40 {
        store.put(&chunk(number, 4_000)).unwrap();
        assert!(store.stats().unsynced_bytes <= 50_000);
    }
}

#[test]
fn a_closed_store_takes_no_puts_and_opens_without_distrust() {
    let world = World::new(9);
    let wary = || StoreOptions { trust_index_after_crash: false, ..options() };
    let open = || ChunkStore::open(Arc::new(world.disk.clone()), "/packs", world.kv.clone(), wary()).unwrap();
    let (store, _) = open();
    store.put(&chunk(1, 100)).unwrap();
    store.close().unwrap();
    assert!(matches!(store.put(&chunk(2, 100)), Err(StoreError::ReadOnly { .. })));
    assert_holds(&store, &[chunk(1, 100)]);
    drop(store);
    let (store, report) = open();
    assert_eq!(report.rebuilt, None);
    drop(store); // not closed
    assert_eq!(open().1.rebuilt, Some(RebuildReason::Crash));
}

#[test]
fn it_works_on_real_files_and_real_engines() {
    let dir = tempfile::tempdir().unwrap();
    let chunks: Vec<_> = (0..50).map(|number| chunk(number, 7_000)).collect();
    let packs = dir.path().join("packs");
    for round in 0..2 {
        let fjall = FjallKv::open(&dir.path().join("fjall"), INDEX_SPACES, &FjallOptions::default()).unwrap();
        let (store, report) = ChunkStore::open(Arc::new(RealDisk), &packs, Arc::new(fjall), options()).unwrap();
        assert_eq!(report.rebuilt, None);
        let outcomes = store.put_many(&chunks).unwrap();
        assert!(outcomes.iter().all(|outcome| (*outcome == PutOutcome::New) == (round == 0)));
        store.sync().unwrap();
        assert_holds(&store, &chunks);
    }
    let sled = SledKv::open(&dir.path().join("sled"), INDEX_SPACES, &SledOptions::default()).unwrap();
    let (store, report) = ChunkStore::open(Arc::new(RealDisk), &packs, Arc::new(sled), options()).unwrap();
    assert_eq!(report.rebuilt, Some(RebuildReason::Empty));
    assert_holds(&store, &chunks);
}

#[test]
fn many_threads_put_the_same_chunks_once() {
    let (store, _) = World::new(10).open();
    let chunks: Vec<_> = (0..200).map(|number| chunk(number, 700)).collect();
    let new = AtomicUsize::new(0);
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, chunks, new, start) = (&store, &chunks, &new, &start);
            scope.spawn(move || {
                start.wait();
                for step in 0..chunks.len() {
                    let at = (step * [1, 3, 7, 9][thread]) % chunks.len();
                    if store.put(&chunks[at]).unwrap() == PutOutcome::New {
                        new.fetch_add(1, Ordering::Relaxed);
                    }
                    if step % 16 == thread {
                        store.sync().unwrap();
                        assert!(store.durable_and_present(&[chunks[at].id]).unwrap());
                    }
                    store.get(&chunks[at].id).unwrap().unwrap();
                }
            });
        }
    });
    assert_eq!((new.into_inner(), store.stats().chunks), (200, 200));
}

/// A disk whose first sync of a file waits until it is let go.
#[derive(Debug)]
struct GatedDisk {
    disk: SimDisk,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    syncs: AtomicUsize,
    entered: Mutex<Option<mpsc::Sender<()>>>,
    release: Mutex<Option<mpsc::Receiver<()>>>,
}

#[derive(Debug)]
struct GatedFile(Arc<dyn DiskFile>, Arc<Gate>);

impl Disk for GatedDisk {
    fn open(&self, path: &Path, how: Open) -> std::io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(GatedFile(self.disk.open(path, how)?, Arc::clone(&self.gate))))
    }
    fn create_dir_all(&self, path: &Path) -> std::io::Result<()> {
        self.disk.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
        self.disk.list(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, path: &Path) -> std::io::Result<()> {
        self.disk.sync_dir(path)
    }
    fn free_bytes(&self, path: &Path) -> std::io::Result<u64> {
        self.disk.free_bytes(path)
    }
}

impl DiskFile for GatedFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.1.syncs.fetch_add(1, Ordering::SeqCst);
        if let Some(entered) = lock(&self.1.entered).take() {
            entered.send(()).unwrap();
        }
        let release = lock(&self.1.release).take();
        if let Some(release) = release {
            release.recv().unwrap();
        }
        self.0.sync_data()
    }
}

#[test]
fn callers_that_wait_share_one_fsync() {
    let gate = Arc::new(Gate::default());
    let disk = GatedDisk { disk: SimDisk::new(11), gate: Arc::clone(&gate) };
    let (store, _) = ChunkStore::open(Arc::new(disk), "/packs", kv(), options()).unwrap();
    let (entered_tx, entered) = mpsc::channel();
    let (release, release_rx) = mpsc::channel();
    *lock(&gate.entered) = Some(entered_tx);
    *lock(&gate.release) = Some(release_rx);
    std::thread::scope(|scope| {
        let store = &store;
        scope.spawn(move || {
            store.put(&chunk(0, 100)).unwrap();
            store.sync().unwrap();
        });
        entered.recv().unwrap(); // the first sync is on its way and covers chunk 0 only
        let put = Barrier::new(8);
        std::thread::scope(|inner| {
            for number in 1..8 {
                let put = &put;
                inner.spawn(move || {
                    store.put(&chunk(number, 100)).unwrap();
                    put.wait();
                    store.sync().unwrap();
                    assert!(store.durable_and_present(&[chunk(number, 100).id]).unwrap());
                });
            }
            put.wait();
            release.send(()).unwrap();
        });
    });
    assert_eq!(gate.syncs.load(Ordering::SeqCst), 2, "one for the first, one for the seven others");
}
