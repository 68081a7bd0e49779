use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::Manifest;

#[derive(Default)]
struct Memory {
    chunks: Mutex<HashMap<ChunkId, EncodedChunk>>,
    done: Mutex<BTreeMap<usize, io::Result<Imported>>>,
    stores: AtomicUsize,
    /// Chunks handed over, with repeats.
    taken: AtomicUsize,
    /// Fails at this store.
    fail_at: Option<usize>,
}

impl Sink for Memory {
    type Error = String;

    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, String> {
        let chunks = self.chunks.lock().unwrap();
        Ok(ids.iter().filter(|id| !chunks.contains_key(id)).copied().collect())
    }

    fn store(&self, chunks: Vec<EncodedChunk>) -> Result<(), String> {
        if self.fail_at == Some(self.stores.fetch_add(1, Ordering::Relaxed)) {
            return Err("the disk is full".into());
        }
        self.taken.fetch_add(chunks.len(), Ordering::Relaxed);
        self.chunks.lock().unwrap().extend(chunks.into_iter().map(|chunk| (chunk.id, chunk)));
        Ok(())
    }

    fn done(&self, position: usize, result: io::Result<Imported>) -> Result<(), String> {
        if let Ok(imported) = &result {
            // All that the root leads to must be there already.
            self.read(imported);
        }
        assert!(self.done.lock().unwrap().insert(position, result).is_none(), "told twice of {position}");
        Ok(())
    }
}

fn realm() -> Realm {
    Realm::new("test", [5; 32])
}

impl Memory {
    fn chunk(&self, id: &ChunkId) -> Bytes {
        let chunk = self.chunks.lock().unwrap().get(id).cloned();
        chunk.expect("the chunk is stored").decode(&realm()).unwrap()
    }

    fn manifest(&self, root: &ManifestRoot) -> Manifest {
        root.load(|id| Ok::<_, ()>(self.chunk(&id))).unwrap()
    }

    /// The file's bytes; holes as zeros.
    fn read(&self, imported: &Imported) -> Vec<u8> {
        let root = match imported {
            Imported::Inline(bytes) => return bytes.to_vec(),
            Imported::Manifest(root) => root,
        };
        let mut bytes = Vec::new();
        for extent in self.manifest(root).extents {
            match extent {
                Extent::Hole { len } => bytes.resize(bytes.len() + len as usize, 0),
                Extent::Chunk { id, .. } => bytes.extend_from_slice(&self.chunk(&id)),
            }
        }
        bytes
    }

    fn root(&self, position: usize) -> ManifestRoot {
        match &self.done.lock().unwrap()[&position] {
            Ok(Imported::Manifest(root)) => root.clone(),
            other => panic!("{other:?}"),
        }
    }
}

fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn options(threads: usize) -> PipelineOptions {
    PipelineOptions {
        threads,
        sizes: ChunkSizes::from_avg(16 << 10).unwrap(),
        batch_bytes: 100_000,
        ..PipelineOptions::default()
    }
}

/// Small, large, empty, repeated, missing and unreadable files.
fn tree(dir: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut files = Vec::new();
    for number in 0..300 {
        files.push((format!("small-{number}"), Some(noise(&number.to_string(), number * 37))));
    }
    files.push(("large".into(), Some(noise("large", 9_000_000))));
    files.push(("again".into(), Some(noise("large", 9_000_000))));
    files.push(("other".into(), Some([noise("large", 5_000_000), noise("other", 3_000_000)].concat())));
    files.push(("missing".into(), None));
    files.push(("folder".into(), None));
    fs::create_dir(dir.join("folder")).unwrap();
    files
        .into_iter()
        .map(|(name, bytes)| {
            let path = dir.join(name);
            if let Some(bytes) = &bytes {
                fs::write(&path, bytes).unwrap();
            }
            (path, bytes)
        })
        .collect()
}

#[test]
fn every_file_comes_out_as_it_went_in_with_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let files = tree(dir.path());
    let mut roots = Vec::new();
    for threads in [1, 2, 5] {
        let sink = Memory::default();
        import(&realm(), &options(threads), files.iter().map(|(path, _)| path.clone()), &sink).unwrap();
        assert_eq!(sink.done.lock().unwrap().len(), files.len());
        for (position, (path, bytes)) in files.iter().enumerate() {
            match (&sink.done.lock().unwrap()[&position], bytes) {
                (Ok(imported), Some(bytes)) => {
                    assert!(sink.read(imported) == *bytes, "{}", path.display());
                    assert_eq!(matches!(imported, Imported::Inline(_)), bytes.len() <= 4096);
                    assert_eq!(imported.size(), bytes.len() as u64);
                }
                (Err(_), None) => {}
                (result, _) => panic!("{}: {result:?}", path.display()),
            }
        }
        assert_eq!(sink.root(300), sink.root(301), "the same file");
        let (taken, distinct) = (sink.taken.load(Ordering::Relaxed), sink.chunks.lock().unwrap().len());
        assert_eq!(taken, distinct, "no chunk is handed over twice, whoever holds it at once");
        roots.push((sink.root(300), sink.root(302)));
    }
    assert!(roots.windows(2).all(|pair| pair[0] == pair[1]), "threads do not change a manifest");
}

#[test]
fn what_is_known_is_not_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let files = tree(dir.path());
    let sink = Memory::default();
    let paths = || files.iter().map(|(path, _)| path.clone());
    import(&realm(), &options(2), paths(), &sink).unwrap();
    let stores = sink.stores.load(Ordering::Relaxed);
    sink.done.lock().unwrap().clear();
    import(&realm(), &options(2), paths(), &sink).unwrap();
    assert_eq!(sink.stores.load(Ordering::Relaxed), stores);
}

#[test]
fn a_sparse_file_stays_sparse() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(20 << 20).unwrap();
    file.write_all_at(&noise("here", 50_000), 2 << 20).unwrap();
    file.write_all_at(&noise("there", 50_000), 12 << 20).unwrap();
    let sink = Memory::default();
    import(&realm(), &options(2), std::iter::once(path.clone()), &sink).unwrap();
    let root = sink.root(0);
    let manifest = sink.manifest(&root);
    let chunked: u64 = manifest.extents.iter().filter(|extent| extent.chunk_id().is_some()).map(Extent::len).sum();
    assert!(chunked < 120_000, "{chunked}");
    assert!(sink.read(&Imported::Manifest(root)) == fs::read(&path).unwrap());
}

#[test]
fn an_error_of_the_sink_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let files = tree(dir.path());
    for threads in [1, 3] {
        let sink = Memory { fail_at: Some(7), ..Memory::default() };
        let result = import(&realm(), &options(threads), files.iter().map(|(path, _)| path.clone()), &sink);
        assert_eq!(result, Err("the disk is full".into()));
        assert!(sink.done.lock().unwrap().len() < files.len());
    }
}

#[test]
fn a_sink_that_panics_ends_the_run() {
    struct Panics;
    impl Sink for Panics {
        type Error = ();
        fn missing(&self, _: &[ChunkId]) -> Result<Vec<ChunkId>, ()> {
            panic!("on purpose")
        }
        fn store(&self, _: Vec<EncodedChunk>) -> Result<(), ()> {
            Ok(())
        }
        fn done(&self, _: usize, _: io::Result<Imported>) -> Result<(), ()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let files = tree(dir.path());
    let run = || import(&realm(), &options(3), files.iter().map(|(path, _)| path.clone()), &Panics);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
}
