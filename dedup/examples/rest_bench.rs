//! What deltas at rest save and cost: version steps, and any folder, imported into a pack store with and without them.
//!
//! ```text
//! scripts/delta-sets SETS
//! cargo run --release -p causeway-dedup --example rest_bench -- FOLDER...
//! ```
//! A FOLDER with `old` and `new` in it is a version step: the old one is imported, then the new one. Any other is imported as it is.
//! Each is done three times: without deltas, with those against like chunks, and with those against what was in the same place
//! of the file before (named by path, as a follower or an edit knows it) or else like chunks. Bytes are those that the import
//! added to the packs; the time of one run includes reading, cutting, hashing and the sync.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use causeway_base::ChunkId;
use causeway_dedup::delta::{Piece, align};
use causeway_dedup::pipeline::{Imported, PipelineOptions, Sink, import};
use causeway_dedup::store::{ChunkStore, Deltas, INDEX_SPACES, LikelyBase, PutHints, StoreError, StoreOptions};
use causeway_dedup::{ChunkSizes, EncodedChunk, Extent, Realm, chunker};
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::{FjallKv, FjallOptions};

type Fallible<T = ()> = Result<T, Box<dyn std::error::Error>>;
type Bases = HashMap<ChunkId, Vec<LikelyBase>>;

fn main() -> Fallible {
    let realm = Realm::new("bench", [1; 32]);
    println!("| set | deltas | old, MB | stored | MB/s | new, MB | stored | MB/s | deltas | read back, MB/s |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for folder in std::env::args().skip(1).map(PathBuf::from) {
        let name = folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let step = folder.join("old").is_dir() && folder.join("new").is_dir();
        let (old, new) = if step { (folder.join("old"), folder.join("new")) } else { (folder, PathBuf::new()) };
        let (old, new) = (list(&old)?, if step { list(&new)? } else { Vec::new() });
        let named = if step { bases(&realm, &old, &new)? } else { Bases::new() };
        let modes = [("none", Deltas::Off, false), ("like", Deltas::Similar, false), ("place", Deltas::Similar, true)];
        for (mode, deltas, place) in &modes[..if step { 3 } else { 2 }] {
            let dir = tempfile::tempdir()?;
            let named = if *place { named.clone() } else { Bases::new() };
            run(&realm, &format!("{name} | {mode}"), dir.path(), *deltas, &old, &new, &named)?;
        }
    }
    Ok(())
}

fn run(
    realm: &Realm,
    what: &str,
    dir: &Path,
    deltas: Deltas,
    old: &[PathBuf],
    new: &[PathBuf],
    named: &Bases,
) -> Fallible {
    let options = StoreOptions { deltas, seed: 7, ..StoreOptions::default() };
    let kv = FjallKv::open(&dir.join("index"), INDEX_SPACES, &FjallOptions::default())?;
    let (store, _) = ChunkStore::open(Arc::new(RealDisk), dir.join("packs"), Arc::new(kv), options)?;
    let empty = Bases::new();
    let mut line = format!("| {what}");
    let mut done = Vec::new();
    for (files, named) in [(old, &empty), (new, named)] {
        let before = store.stats().stored_bytes;
        let bytes: u64 = files.iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum();
        let sink = StoreSink { store: &store, realm, named, done: Mutex::default() };
        let start = Instant::now();
        let pipeline = PipelineOptions { level: None, ..PipelineOptions::default() };
        import(realm, &pipeline, files.iter().cloned(), &sink)?;
        store.sync()?;
        let seconds = start.elapsed().as_secs_f64();
        let added = (store.stats().stored_bytes - before) as f64 / 1e6;
        line += &format!(" | {:.1} | {added:.3} | {:.0}", bytes as f64 / 1e6, bytes as f64 / 1e6 / seconds);
        if !files.is_empty() {
            done = sink.done.into_inner()?;
        }
    }
    let (bytes, seconds) = read_back(realm, &store, &done)?;
    println!("{line} | {} | {:.0} |", store.stats().delta_chunks, bytes as f64 / 1e6 / seconds);
    Ok(())
}

struct StoreSink<'a> {
    store: &'a ChunkStore,
    realm: &'a Realm,
    named: &'a Bases,
    done: Mutex<Vec<Imported>>,
}

impl Sink for StoreSink<'_> {
    type Error = StoreError;

    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, StoreError> {
        self.store.missing(ids)
    }

    fn store(&self, chunks: Vec<EncodedChunk>) -> Result<(), StoreError> {
        let named = chunks.iter().filter_map(|chunk| Some((chunk.id, self.named.get(&chunk.id)?.clone()))).collect();
        self.store.put_with(&chunks, Some(&PutHints { realm: self.realm, bases: named })).map(drop)
    }

    fn done(&self, _: usize, result: io::Result<Imported>) -> Result<(), StoreError> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).extend(result);
        Ok(())
    }
}

/// Reads all files once, from the page cache, verified; gives bytes and seconds.
fn read_back(realm: &Realm, store: &ChunkStore, done: &[Imported]) -> Fallible<(usize, f64)> {
    let start = Instant::now();
    let mut bytes = 0;
    for imported in done {
        let Imported::Manifest(root) = imported else { continue };
        let fetch = |id| -> Fallible<Bytes> { Ok(store.get(&id)?.ok_or("missing")?.decode(realm)?) };
        let manifest = root.load(fetch).map_err(|error| error.to_string())?;
        let ids: Vec<ChunkId> = manifest.extents.iter().filter_map(Extent::chunk_id).collect();
        for ids in ids.chunks(64) {
            for chunk in store.get_many(ids)? {
                bytes += chunk.ok_or("missing")?.decode(realm)?.len();
            }
        }
    }
    Ok((bytes, start.elapsed().as_secs_f64()))
}

/// What was in the place of each new chunk of the files that both versions have. Paths are compared below `old` and `new`.
fn bases(realm: &Realm, old: &[PathBuf], new: &[PathBuf]) -> Fallible<Bases> {
    let mut found = Bases::new();
    for path in new {
        let before = path.to_string_lossy().replacen("/new/", "/old/", 1);
        if !old.iter().any(|old| old.to_string_lossy() == before) {
            continue;
        }
        let (before, after) = (cut(realm, Path::new(&before))?, cut(realm, path)?);
        for (place, ranges) in align(&before, &after) {
            let Some(id) = after[place].id else { continue };
            let ranges = ranges.into_iter().map(|range| LikelyBase {
                chunks: before[range.pieces].iter().filter_map(|piece| piece.id).collect(),
                align: range.align,
            });
            found.insert(id, ranges.collect());
        }
    }
    Ok(found)
}

fn cut(realm: &Realm, path: &Path) -> Fallible<Vec<Piece>> {
    let mut offset = 0;
    let pieces = chunker::chunks(Bytes::from(std::fs::read(path)?), ChunkSizes::DEFAULT).map(|plain| {
        let piece = Piece { id: Some(realm.chunk_id(&plain)), offset, len: plain.len() as u64 };
        offset += plain.len() as u64;
        piece
    });
    Ok(pieces.collect())
}

fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}
