//! Speed of the chunk engine on this machine: each part alone, and the whole import of a folder into a pack store.
//!
//! ```text
//! cargo run --release -p causeway-dedup --example store_bench -- [FOLDER] [MiB of noise] [KiB of a block]…
//! ```
//! FOLDER defaults to the cargo registry's sources. Writes to a folder next to the system's temporary ones and removes it.
//! One run: ratios hold better than absolutes.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use causeway_base::{ByteSize, ChunkId};
use causeway_dedup::chunk::LEVEL_DEFAULT;
use causeway_dedup::pipeline::{Imported, PipelineOptions, Sink, import};
use causeway_dedup::store::{ChunkStore, INDEX_SPACES, StoreError, StoreOptions};
use causeway_dedup::{ChunkSizes, Codec, EncodedChunk, Extent, Realm, chunker};
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::{FjallKv, FjallOptions};

type Fallible<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible {
    let mut args = std::env::args().skip(1);
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"));
    let folder =
        args.next().map_or_else(|| PathBuf::from(home.unwrap_or_default()).join("registry/src"), PathBuf::from);
    let mib: usize = args.next().map_or(Ok(256), |text| text.parse())?;
    let realm = Realm::new("bench", [1; 32]);

    println!("== {mib} MiB of noise in memory, one thread");
    let mut noise = vec![0; mib << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    parts(&realm, noise.into());

    println!("\n== {} in memory (up to 256 MiB), one thread", folder.display());
    let files = list(&folder)?;
    let mut text = Vec::new();
    for path in &files {
        text.extend(std::fs::read(path)?);
        if text.len() > 256 << 20 {
            break;
        }
    }
    parts(&realm, text.into());

    let mut blocks: Vec<u32> = args.map(|text| text.parse()).collect::<Result<_, _>>()?;
    if blocks.is_empty() {
        blocks = vec![0, StoreOptions::default().block_bytes >> 10];
    }
    for block in blocks {
        println!("\n== {} into a pack store, blocks of {block} KiB (0: each chunk by itself)", folder.display());
        let dir = tempfile::tempdir()?;
        whole(&realm, &files, dir.path(), block << 10)?;
    }
    Ok(())
}

fn rate(what: &str, bytes: usize, start: Instant, note: &str) {
    let seconds = start.elapsed().as_secs_f64();
    println!("{what:<28} {:>8.0} MB/s  {seconds:>7.3} s  {note}", bytes as f64 / 1e6 / seconds);
}

/// Times work of this thread on its processor: other programs do not disturb it much.
struct Core(Instant, Option<u64>);

impl Core {
    fn start() -> Self {
        Self(Instant::now(), Self::nanos())
    }

    fn nanos() -> Option<u64> {
        std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
    }

    fn rate(self, what: &str, bytes: usize, note: &str) {
        let wall = self.0.elapsed().as_secs_f64();
        let seconds = match (self.1, Self::nanos()) {
            (Some(before), Some(after)) if after > before => (after - before) as f64 / 1e9,
            _ => wall,
        };
        println!("{what:<28} {:>8.0} MB/s a core  {seconds:>7.3} s of {wall:.3}  {note}", bytes as f64 / 1e6 / seconds);
    }
}

fn parts(realm: &Realm, bytes: Bytes) {
    let len = bytes.len();
    let sizes = ChunkSizes::DEFAULT;
    let start = Core::start();
    let mut copy = vec![0_u8; 1 << 20];
    for part in bytes.chunks_exact(1 << 20) {
        copy.copy_from_slice(std::hint::black_box(part));
        std::hint::black_box(&mut copy);
    }
    start.rate("memcpy", len, "");

    let start = Core::start();
    let chunks: Vec<Bytes> = chunker::chunks(bytes.clone(), sizes).collect();
    start.rate("FastCDC", len, &format!("{} chunks of {}", chunks.len(), ByteSize((len / chunks.len()) as u64)));

    let start = Core::start();
    let ids: Vec<ChunkId> = chunks.iter().map(|chunk| realm.chunk_id(chunk)).collect();
    start.rate("BLAKE3 of chunks", len, "");

    let start = Core::start();
    let hashed: Vec<ChunkId> = chunker::chunks(bytes.clone(), sizes).map(|chunk| realm.chunk_id(&chunk)).collect();
    start.rate("FastCDC + BLAKE3", len, &format!("{} chunks", hashed.len()));

    let start = Core::start();
    let encoded: Vec<EncodedChunk> =
        chunks.iter().zip(&ids).map(|(plain, id)| EncodedChunk::encode(*id, plain.clone(), LEVEL_DEFAULT)).collect();
    let stored: usize = encoded.iter().map(|chunk| chunk.payload.len()).sum();
    let raw = encoded.iter().filter(|chunk| chunk.codec == Codec::Raw).count();
    start.rate("encode, adaptive", len, &format!("{:.3} of the bytes, {raw} chunks raw", stored as f64 / len as f64));

    let start = Core::start();
    let good = encoded.iter().filter(|chunk| chunk.decode(realm).is_ok()).count();
    start.rate("decode + verify", len, &format!("{good} chunks"));
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

#[derive(Debug)]
struct StoreSink<'a> {
    store: &'a ChunkStore,
    done: std::sync::Mutex<Vec<Imported>>,
}

impl Sink for StoreSink<'_> {
    type Error = StoreError;

    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, StoreError> {
        self.store.missing(ids)
    }

    fn store(&self, chunks: Vec<EncodedChunk>) -> Result<(), StoreError> {
        self.store.put_many(&chunks).map(drop)
    }

    fn done(&self, _: usize, result: io::Result<Imported>) -> Result<(), StoreError> {
        self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(result);
        Ok(())
    }
}

fn whole(realm: &Realm, files: &[PathBuf], dir: &Path, block_bytes: u32) -> Fallible {
    let total: u64 = files.iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum();
    let len = usize::try_from(total)?;

    // The floor: read every file, write the bytes to one file, sync once.
    let start = Instant::now();
    let mut plain = std::fs::File::create(dir.join("plain"))?;
    for path in files {
        plain.write_all(&std::fs::read(path)?)?;
    }
    plain.sync_all()?;
    rate("read, write, fsync", len, start, &format!("{} files", files.len()));
    std::fs::remove_file(dir.join("plain"))?;

    let options = StoreOptions { block_bytes, ..StoreOptions::default() };
    // Without blocks the pipeline compresses each chunk, with them the store does.
    let pipeline = PipelineOptions { level: (block_bytes == 0).then_some(LEVEL_DEFAULT), ..PipelineOptions::default() };
    let open = || -> Fallible<ChunkStore> {
        let kv = FjallKv::open(&dir.join("index"), INDEX_SPACES, &FjallOptions::default())?;
        Ok(ChunkStore::open(Arc::new(RealDisk), dir.join("packs"), Arc::new(kv), options.clone())?.0)
    };
    let store = open()?;
    for round in ["import", "import again, all known"] {
        let sink = StoreSink { store: &store, done: std::sync::Mutex::default() };
        let start = Instant::now();
        import(realm, &pipeline, files.iter().cloned(), &sink)?;
        store.sync()?;
        let stats = store.stats();
        let done = sink.done.into_inner()?;
        let inline: u64 = done.iter().filter(|done| matches!(done, Imported::Inline(_))).map(Imported::size).sum();
        let note = format!(
            "{:.0} files/s; {} chunks, {} plain, {} stored, {} inline",
            files.len() as f64 / start.elapsed().as_secs_f64(),
            stats.chunks,
            ByteSize(stats.raw_bytes),
            ByteSize(stats.stored_bytes),
            ByteSize(inline),
        );
        rate(round, len, start, &note);
        if round == "import" {
            read_back(realm, &store, &done)?;
        }
    }
    let stats = store.stats();
    let bytes = stats.index_bytes as f64 / stats.chunks as f64;
    println!("{:<28} {bytes:>8.1} B a chunk on disk (journal included)", "index");
    absent(&store)?;
    drop(store);

    let start = Instant::now();
    let store = open()?;
    println!("{:<28} {:>8.1} ms", "open", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    let report = store.rebuild_index(|_| {})?;
    let seconds = start.elapsed().as_secs_f64();
    let rate = report.indexed as f64 / seconds;
    println!("{:<28} {rate:>8.0} chunks/s from {} packs' footers", "index rebuilt", report.packs);
    Ok(())
}

fn read_back(realm: &Realm, store: &ChunkStore, done: &[Imported]) -> Fallible {
    let start = Instant::now();
    let mut bytes = 0;
    for imported in done {
        let Imported::Manifest(root) = imported else { continue };
        let fetch = |id| -> Fallible<Bytes> { Ok(store.get(&id)?.ok_or("missing")?.decode(realm)?) };
        let ids: Vec<ChunkId> =
            root.load(fetch).map_err(|error| error.to_string())?.extents.iter().filter_map(Extent::chunk_id).collect();
        for ids in ids.chunks(64) {
            for chunk in store.get_many(ids)? {
                bytes += chunk.ok_or("missing")?.decode(realm)?.len();
            }
        }
    }
    rate("read back, one thread", bytes, start, "from the page cache, verified");
    Ok(())
}

fn absent(store: &ChunkStore) -> Fallible {
    let ids: Vec<ChunkId> =
        (0..200_000_u32).map(|number| ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())).collect();
    let start = Instant::now();
    let missing = store.missing(&ids)?.len();
    let rate = missing as f64 / start.elapsed().as_secs_f64();
    println!("{:<28} {:>8.0} ids/s", "lookup of absent chunks", rate);
    Ok(())
}
