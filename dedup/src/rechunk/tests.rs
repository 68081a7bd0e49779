use std::collections::HashMap;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::chunker::chunks;
use crate::sparse::HOLE_BYTES_MIN;

fn realm() -> Realm {
    Realm::new("test", [9; 32])
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Chunks by id, and the new bytes of one edit.
#[derive(Default)]
struct Store {
    chunks: HashMap<ChunkId, Bytes>,
    new: Vec<u8>,
    emitted: u64,
}

impl Old for Store {
    type Error = String;

    fn chunk(&mut self, id: ChunkId) -> Result<Bytes, String> {
        self.chunks.get(&id).cloned().ok_or_else(|| format!("{id} is not there"))
    }

    fn new_bytes(&mut self, from: u64, buffer: &mut [u8]) -> Result<(), String> {
        buffer.copy_from_slice(&self.new[from as usize..][..buffer.len()]);
        Ok(())
    }

    fn emit(&mut self, id: ChunkId, plain: Bytes) -> Result<(), String> {
        assert_eq!(realm().chunk_id(&plain), id);
        self.emitted += plain.len() as u64;
        self.chunks.insert(id, plain);
        Ok(())
    }
}

/// A byte of the model: of a hole or not, and where the old file has it.
const NEW: u32 = u32::MAX;

/// The naive model: every byte by itself.
#[derive(Clone, Default)]
struct Model {
    bytes: Vec<u8>,
    hole: Vec<bool>,
    origin: Vec<u32>,
}

impl Model {
    /// Begins a round of edits.
    fn settle(&mut self) {
        self.origin = (0..self.bytes.len() as u32).collect();
    }

    fn splice(&mut self, at: usize, removed: usize, bytes: &[u8], hole: bool) {
        let end = at + removed;
        self.bytes.splice(at..end, bytes.iter().copied());
        self.hole.splice(at..end, std::iter::repeat_n(hole, bytes.len()));
        self.origin.splice(at..end, std::iter::repeat_n(NEW, bytes.len()));
    }

    /// The runs of a full pass: data where `hole` is false afterwards.
    fn normalize(&mut self) {
        let size = self.bytes.len();
        let mut at = 0;
        while at < size {
            let len = self.hole[at..].iter().take_while(|hole| **hole == self.hole[at]).count();
            if self.hole[at] {
                let (mut start, mut end) = (at, at + len);
                let follows = |before: usize, behind: usize| {
                    let (before, behind) = (self.origin[before], self.origin[behind]);
                    before != NEW && behind != NEW && behind == before + 1
                };
                if start > 0 && !follows(start - 1, start) {
                    start = start.next_multiple_of(4096);
                }
                if end < size && !follows(end - 1, end) {
                    end -= end % 4096;
                }
                if end.saturating_sub(start) < HOLE_BYTES_MIN as usize {
                    start = end;
                }
                for place in (at..at + len).filter(|place| *place < start || *place >= end) {
                    self.hole[place] = false;
                }
            }
            at += len;
        }
    }

    /// A full pass over all bytes.
    fn root(&self, sizes: ChunkSizes, store: &mut Store) -> ManifestRoot {
        let mut builder = ManifestBuilder::new(realm());
        let mut at = 0;
        let mut made = Vec::new();
        let runs: Vec<(bool, usize)> = self.hole.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
        for (hole, len) in runs {
            if hole {
                builder.push(Extent::Hole { len: len as u64 }, |id, plain| made.push((id, plain))).unwrap();
            } else {
                for chunk in chunks(Bytes::copy_from_slice(&self.bytes[at..at + len]), sizes) {
                    let extent = Extent::Chunk { id: realm().chunk_id(&chunk), len: chunk.len() as u32 };
                    made.push((realm().chunk_id(&chunk), chunk));
                    builder.push(extent, |id, plain| made.push((id, plain))).unwrap();
                }
            }
            at += len;
        }
        let root = builder.finish(|id, plain| made.push((id, plain))).unwrap();
        store.chunks.extend(made);
        root
    }
}

#[derive(Clone, Debug)]
enum Edit {
    Write { at: prop::sample::Index, len: usize },
    Past { gap: usize, len: usize },
    Insert { at: prop::sample::Index, len: usize },
    Remove { at: prop::sample::Index, len: usize },
    Truncate { at: prop::sample::Index },
    Grow { len: usize },
    Append { len: usize },
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let len = || prop_oneof![3 => 0_usize..40, 3 => 0_usize..5_000, 1 => 0_usize..300_000];
    let at = any::<prop::sample::Index>;
    let edit = prop_oneof![
        4 => (at(), len()).prop_map(|(at, len)| Edit::Write { at, len }),
        1 => (0_usize..200_000, len()).prop_map(|(gap, len)| Edit::Past { gap, len }),
        3 => (at(), len()).prop_map(|(at, len)| Edit::Insert { at, len }),
        2 => (at(), len()).prop_map(|(at, len)| Edit::Remove { at, len }),
        1 => at().prop_map(|at| Edit::Truncate { at }),
        1 => (0_usize..300_000).prop_map(|len| Edit::Grow { len }),
        2 => len().prop_map(|len| Edit::Append { len }),
    ];
    prop::collection::vec(edit, 1..5)
}

fn apply(edit: &Edit, model: &mut Model, plan: &mut Plan, new: &mut Vec<u8>, seed: u64) {
    let size = model.bytes.len();
    let from = new.len() as u64;
    let mut fresh = |len: usize| {
        let mut bytes = noise(seed ^ from << 20, len);
        if seed.is_multiple_of(3) {
            bytes.fill(0); // zeros that are data
        }
        new.extend_from_slice(&bytes);
        bytes
    };
    match edit {
        Edit::Write { at, len } => {
            let at = at.index(size + 1);
            let bytes = fresh(*len);
            model.splice(at, (*len).min(size - at), &bytes, false);
            plan.write(at as u64, from, *len as u64).unwrap();
        }
        Edit::Past { gap, len } => {
            let bytes = fresh(*len);
            if *len > 0 {
                model.splice(size, 0, &vec![0; *gap], true);
                model.splice(size + gap, 0, &bytes, false);
            }
            plan.write((size + gap) as u64, from, *len as u64).unwrap();
        }
        Edit::Insert { at, len } => {
            let at = at.index(size + 1);
            let bytes = fresh(*len);
            model.splice(at, 0, &bytes, false);
            plan.insert(at as u64, from, *len as u64).unwrap();
        }
        Edit::Remove { at, len } => {
            let at = at.index(size + 1);
            model.splice(at, (*len).min(size - at), &[], false);
            plan.remove(at as u64, *len as u64);
        }
        Edit::Truncate { at } => {
            let at = at.index(size + 1);
            model.splice(at, size - at, &[], false);
            plan.truncate(at as u64).unwrap();
        }
        Edit::Grow { len } => {
            model.splice(size, 0, &vec![0; *len], true);
            plan.truncate((size + len) as u64).unwrap();
        }
        Edit::Append { len } => {
            let bytes = fresh(*len);
            model.splice(size, 0, &bytes, false);
            plan.write(size as u64, from, *len as u64).unwrap();
        }
    }
}

fn options(sizes: ChunkSizes) -> RechunkOptions {
    RechunkOptions { realm: realm(), sizes, inline_bytes_max: 0 }
}

fn manifest(imported: Imported) -> ManifestRoot {
    match imported {
        Imported::Manifest(root) => root,
        Imported::Inline(bytes) => panic!("{} bytes inline", bytes.len()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Runs of data and holes, edited in rounds: each time the same manifest as a full pass, and all its chunks are there.
    #[test]
    fn an_edited_file_has_the_manifest_of_a_full_pass(
        seed in any::<u64>(),
        runs in prop::collection::vec((any::<bool>(), 0_usize..300_000), 0..6),
        rounds in prop::collection::vec(edits(), 1..4),
        size in 0_usize..3,
    ) {
        let sizes = [ChunkSizes::TINY, ChunkSizes::TINY, ChunkSizes::from_avg(16 << 10).unwrap()][size];
        let mut model = Model::default();
        for (number, (hole, len)) in runs.into_iter().enumerate() {
            let bytes = if hole { vec![0; len] } else { noise(seed + number as u64, len) };
            model.splice(model.bytes.len(), 0, &bytes, hole);
        }
        model.settle();
        model.normalize();
        let mut store = Store::default();
        let mut root = model.root(sizes, &mut store);
        for (number, edits) in rounds.iter().enumerate() {
            model.settle();
            let mut plan = Plan::new(root.size());
            store.new.clear();
            for edit in edits {
                apply(edit, &mut model, &mut plan, &mut store.new, seed ^ (number as u64) << 50);
            }
            model.normalize();
            // A whole file in memory, as small ones are given back.
            let all = RechunkOptions { inline_bytes_max: u64::MAX, ..options(sizes) };
            let (whole, _) = rechunk(&root, plan.clone(), &all, &mut store).unwrap();
            prop_assert!(whole == Imported::Inline(model.bytes.clone().into()), "round {number}: the bytes differ");

            let (edited, _) = rechunk(&root, plan, &options(sizes), &mut store).unwrap();
            let mut aside = Store::default();
            let full = model.root(sizes, &mut aside);
            let edited = match edited {
                Imported::Manifest(edited) => edited,
                // Nothing is in the inode even where nothing else may be.
                Imported::Inline(bytes) => {
                    prop_assert!(bytes.is_empty() && full.size() == 0);
                    full.clone()
                }
            };
            if edited != full {
                let load = |root: &ManifestRoot, store: &Store| root.load(|id| store.chunks.get(&id).cloned().ok_or(())).unwrap();
                let (edited, full) = (load(&edited, &store), load(&full, &aside));
                prop_assert_eq!(edited.extents, full.extents, "round {}", number);
                prop_assert!(false, "round {number}: the same extents in other nodes");
            }
            prop_assert!(aside.chunks.keys().all(|id| store.chunks.contains_key(id)), "a chunk was not emitted");
            root = edited;
        }
    }
}

/// A file of noise with a deep tree, its root and its store.
fn deep(len: usize) -> (Model, ManifestRoot, Store) {
    let mut model = Model { bytes: noise(1, len), hole: vec![false; len], ..Model::default() };
    model.settle();
    let mut store = Store::default();
    let root = model.root(ChunkSizes::TINY, &mut store);
    (model, root, store)
}

#[test]
fn an_edit_of_a_large_file_reads_a_few_chunks_and_nodes() {
    let (model, root, mut store) = deep(16 << 20);
    assert_eq!(root.level(), 2, "{root:?}");
    let sizes = ChunkSizes::TINY;
    let size = model.bytes.len();
    for number in 0..24_u64 {
        let at = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as usize % size;
        let len = [1, 17, 5_000][number as usize % 3];
        let (mut edited, mut plan) = (model.clone(), Plan::new(size as u64));
        store.new = noise(number, len);
        let changed = match number % 4 {
            0 => {
                plan.insert(at as u64, 0, len as u64).unwrap();
                edited.splice(at, 0, &store.new, false);
                len
            }
            1 => {
                plan.remove(at as u64, len as u64);
                edited.splice(at, len.min(size - at), &[], false);
                0
            }
            _ => {
                plan.write(at as u64, 0, len as u64).unwrap();
                edited.splice(at, len.min(size - at), &store.new, false);
                len
            }
        };
        store.emitted = 0;
        let (imported, stats) = rechunk(&root, plan, &options(sizes), &mut store).unwrap();
        // A full pass takes long where nothing is optimized.
        if number % 8 == 1 {
            assert!(manifest(imported) == edited.root(sizes, &mut Store::default()), "edit {number} at {at}");
        }
        // An edit and where boundaries fall together again; what is overwritten or removed is not read at all.
        let around = 6 * sizes.max() as u64;
        assert!(stats.bytes_read <= around, "edit {number}: {stats:?}");
        assert!(stats.bytes_cut <= changed as u64 + around, "edit {number}: {stats:?}");
        // The first nodes of a level may turn out to be entries of the root, so they are opened.
        assert!(stats.nodes_read <= 20, "edit {number}: {stats:?}");
        assert!(store.emitted <= changed as u64 + around + (64 << 10), "edit {number}: {} emitted", store.emitted);
    }
}

#[test]
fn several_edits_cost_as_much_as_each_alone() {
    let (model, root, mut store) = deep(4 << 20);
    let mut edited = model.clone();
    let mut plan = Plan::new(root.size());
    store.new = vec![0xaa; 100];
    for number in 0..10 {
        let at = 200_000 + number * 390_007;
        plan.write(at as u64, 0, 100).unwrap();
        edited.splice(at, 100, &[0xaa; 100], false);
    }
    let (imported, stats) = rechunk(&root, plan, &options(ChunkSizes::TINY), &mut store).unwrap();
    assert!(manifest(imported) == edited.root(ChunkSizes::TINY, &mut Store::default()));
    assert!(stats.bytes_read <= 10 * 6 * ChunkSizes::TINY.max() as u64, "{stats:?}");
    assert!(stats.nodes_kept > 20, "{stats:?}");
}

#[test]
fn appending_and_cutting_read_only_the_end() {
    let (model, root, mut store) = deep(4 << 20);
    let max = ChunkSizes::TINY.max() as u64;
    store.new = noise(2, 300_000);
    let mut plan = Plan::new(root.size());
    plan.write(root.size(), 0, 300_000).unwrap();
    let (imported, stats) = rechunk(&root, plan, &options(ChunkSizes::TINY), &mut store).unwrap();
    let mut longer = model.clone();
    longer.splice(model.bytes.len(), 0, &store.new, false);
    assert!(manifest(imported) == longer.root(ChunkSizes::TINY, &mut Store::default()));
    assert!(stats.bytes_read <= 4 * max, "{stats:?}");

    let mut plan = Plan::new(root.size());
    plan.truncate(1_000_001).unwrap();
    let (imported, stats) = rechunk(&root, plan, &options(ChunkSizes::TINY), &mut store).unwrap();
    let mut shorter = model.clone();
    shorter.splice(1_000_001, model.bytes.len() - 1_000_001, &[], false);
    assert!(manifest(imported) == shorter.root(ChunkSizes::TINY, &mut Store::default()));
    assert!(stats.bytes_read <= 4 * max, "{stats:?}");

    let (imported, stats) = rechunk(&root, Plan::new(root.size()), &options(ChunkSizes::TINY), &mut store).unwrap();
    assert!(manifest(imported) == root, "no edit, no change");
    assert_eq!((stats.bytes_read, stats.chunks_cut), (0, 0));
}

#[test]
fn a_terabyte_of_hole_costs_nothing() {
    let mut store = Store::default();
    let empty = Model::default().root(ChunkSizes::DEFAULT, &mut store);
    let mut plan = Plan::new(0);
    store.new = noise(3, 100);
    plan.write(1 << 40, 0, 100).unwrap();
    plan.truncate(2 << 40).unwrap();
    let (imported, _) = rechunk(&empty, plan, &options(ChunkSizes::DEFAULT), &mut store).unwrap();
    let root = manifest(imported);
    let manifest = root.load(|id| store.chunks.get(&id).cloned().ok_or(())).unwrap();
    // One block, as a file system would give it.
    assert!(
        matches!(manifest.extents[..], [Extent::Hole { len }, Extent::Chunk { len: 4096, .. }, Extent::Hole { .. }] if len == 1 << 40),
        "{:?}",
        manifest.extents
    );
    let mut plan = Plan::new(root.size());
    plan.remove(1 << 40, 4096);
    let (imported, stats) = rechunk(&root, plan, &options(ChunkSizes::DEFAULT), &mut store).unwrap();
    let Imported::Manifest(root) = imported else { panic!() };
    assert_eq!(stats.bytes_read, 0);
    assert_eq!(root.load(|_| Err::<Bytes, _>(())).unwrap().extents, [Extent::Hole { len: (2 << 40) - 4096 }]);
}

#[test]
fn a_sparse_local_file_that_is_edited_the_same_way_has_the_same_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let file = std::fs::File::create(&path).unwrap();
    let bytes = noise(4, 500_000);
    file.write_all_at(&bytes, 1 << 20).unwrap();
    file.set_len(8 << 20).unwrap();
    let mut store = Store::default();
    let mut root = full_pass(&path, &mut store);
    type Change = (Option<u64>, usize); // where, how much; or the new size
    let changes: [Change; 7] = [
        (Some(5), 10),                // in the first hole
        (Some((3 << 20) + 1), 1),     // in the second
        (Some((1 << 20) + 700), 100), // in data
        (Some(9 << 20), 5000),        // behind the end
        (None, 12 << 20),             // longer
        (None, 6 << 20),              // shorter, in a hole
        (None, (1 << 20) + 1234),     // shorter, in data
    ];
    for (number, (at, len)) in changes.into_iter().enumerate() {
        let mut plan = Plan::new(root.size());
        match at {
            Some(at) => {
                store.new = noise(number as u64, len);
                file.write_all_at(&store.new, at).unwrap();
                plan.write(at, 0, len as u64).unwrap();
            }
            None => {
                file.set_len(len as u64).unwrap();
                plan.truncate(len as u64).unwrap();
            }
        }
        let (imported, _) = rechunk(&root, plan, &options(ChunkSizes::DEFAULT), &mut store).unwrap();
        root = manifest(imported);
        let full = full_pass(&path, &mut Store::default());
        let load = |root: &ManifestRoot| root.load(|_| Err::<Bytes, _>(())).unwrap().extents;
        assert_eq!(load(&root), load(&full), "change {number}");
    }
}

/// The manifest of a local file, by the pipeline.
fn full_pass(path: &std::path::Path, store: &mut Store) -> ManifestRoot {
    use crate::pipeline::{PipelineOptions, Sink, import};
    use std::sync::Mutex;

    #[derive(Default)]
    struct All(Mutex<(Vec<crate::EncodedChunk>, Option<ManifestRoot>)>);
    impl Sink for All {
        type Error = ();
        fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, ()> {
            Ok(ids.to_vec())
        }
        fn store(&self, chunks: Vec<crate::EncodedChunk>) -> Result<(), ()> {
            self.0.lock().unwrap().0.extend(chunks);
            Ok(())
        }
        fn done(&self, _: usize, result: std::io::Result<Imported>) -> Result<(), ()> {
            self.0.lock().unwrap().1 = Some(manifest(result.unwrap()));
            Ok(())
        }
    }
    let all = All::default();
    let options = PipelineOptions { inline_bytes_max: 0, ..PipelineOptions::default() };
    import(&realm(), &options, std::iter::once(path.to_owned()), &all).unwrap();
    let (chunks, root) = all.0.into_inner().unwrap();
    store.chunks.extend(chunks.into_iter().map(|chunk| (chunk.id, chunk.decode(&realm()).unwrap())));
    root.unwrap()
}

#[test]
fn what_is_wrong_is_refused() {
    let (_, root, mut store) = deep(300_000);
    let wrong = rechunk(&root, Plan::new(7), &options(ChunkSizes::TINY), &mut store);
    assert!(matches!(wrong, Err(RechunkError::Manifest(ManifestError::Size { .. }))));

    // A chunk that is shorter than the manifest says, and one that is gone.
    let manifest = root.load(|id| store.chunks.get(&id).cloned().ok_or(())).unwrap();
    let Extent::Chunk { id, .. } = manifest.extents[0] else { panic!() };
    let mut plan = Plan::new(root.size());
    store.new = vec![1];
    plan.write(3, 0, 1).unwrap();
    store.chunks.insert(id, Bytes::from_static(b"short"));
    let short = rechunk(&root, plan.clone(), &options(ChunkSizes::TINY), &mut store);
    assert!(matches!(short, Err(RechunkError::Chunk { found: 5, .. })), "{short:?}");
    store.chunks.remove(&id);
    let gone = rechunk(&root, plan, &options(ChunkSizes::TINY), &mut store);
    assert!(matches!(gone, Err(RechunkError::Old(_))), "{gone:?}");
}
