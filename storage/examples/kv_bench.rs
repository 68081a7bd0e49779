//! Compares the engines in one run: `cargo run --release -p causeway-storage --example kv_bench [FILES]`.
//!
//! The load is that of a namespace: a file is two records of 100 to 200 bytes (dirent and inode), a batch has 64
//! operations. Ratios between engines hold better than absolutes: compare within one run only.

use std::ops::Bound;
use std::path::Path;
use std::time::{Duration, Instant};

use causeway_base::ByteSize;
use causeway_storage::kv::{Batch, FjallKv, FjallOptions, Kv, KvError, MemoryKv, SledKv, SledOptions, Space};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SPACES: [Space; 2] = [DIRENTS, INODES];
const DIRENTS: Space = Space("dirents");
const INODES: Space = Space("inodes");
const FILES_DEFAULT: u64 = 200_000;
const FILES_PER_BATCH: u64 = 32;
const READS: u64 = 50_000;
const SMALL_WRITES: u64 = 2_000;
const PERSISTS: u64 = 200;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let files = std::env::args().nth(1).map_or(Ok(FILES_DEFAULT), |files| files.parse())?;
    println!("{files} files; per second unless said");
    println!(
        "{:<8} {:>10} {:>10} {:>10} {:>10} {:>12} {:>9} {:>10}",
        "engine", "load files", "gets", "scanned", "1-op batch", "persist p50", "reopen", "B/file"
    );
    let (root, open_fjall, open_sled) = (
        tempfile::tempdir()?,
        |path: &Path| FjallKv::open(path, &SPACES, &fjall()),
        |path: &Path| SledKv::open(path, &SPACES, &SledOptions { reserve: ByteSize(0), ..SledOptions::default() }),
    );
    let memory = measure(files, |_| Ok(Box::new(MemoryKv::new(&SPACES))), None)?;
    memory.print("memory");
    let path = root.path().join("fjall");
    measure(files, |path| Ok(Box::new(open_fjall(path)?)), Some(&path))?.print("fjall");
    let path = root.path().join("sled");
    measure(files, |path| Ok(Box::new(open_sled(path)?)), Some(&path))?.print("sled");
    Ok(())
}

fn fjall() -> FjallOptions {
    FjallOptions { reserve: ByteSize(0), ..FjallOptions::default() }
}

struct Figures {
    load: f64,
    gets: f64,
    scanned: f64,
    small: f64,
    persist: Duration,
    reopen: Duration,
    bytes_per_file: u64,
}

impl Figures {
    fn print(&self, engine: &str) {
        println!(
            "{engine:<8} {:>10.0} {:>10.0} {:>10.0} {:>10.0} {:>9} µs {:>6} ms {:>10}",
            self.load,
            self.gets,
            self.scanned,
            self.small,
            self.persist.as_micros(),
            self.reopen.as_millis(),
            self.bytes_per_file
        );
    }
}

fn measure(
    files: u64,
    open: impl Fn(&Path) -> Result<Box<dyn Kv>, KvError>,
    path: Option<&Path>,
) -> Result<Figures, Failure> {
    let place = path.unwrap_or_else(|| Path::new(""));
    let mut kv = open(place)?;
    let start = Instant::now();
    for first in (0..files).step_by(FILES_PER_BATCH as usize) {
        kv.write(file_batch(first..(first + FILES_PER_BATCH).min(files)))?;
    }
    kv.persist()?;
    let load = rate(files, start);
    let bytes_per_file = kv.disk_bytes() / files;

    let start = Instant::now();
    if path.is_some() {
        drop(kv);
        kv = open(place)?;
    }
    let reopen = start.elapsed();

    let mut rng = SmallRng::seed_from_u64(7);
    let start = Instant::now();
    for _ in 0..READS {
        let file = rng.random_range(0..files);
        kv.get(INODES, &inode_key(file))?.ok_or("a record is missing")?;
    }
    let gets = rate(READS, start);

    let start = Instant::now();
    let mut scanned = 0;
    for entry in kv.scan(DIRENTS, (Bound::Unbounded, Bound::Unbounded), false) {
        entry?;
        scanned += 1;
    }
    let scanned = rate(scanned, start);

    let start = Instant::now();
    for file in 0..SMALL_WRITES {
        let mut batch = Batch::new();
        batch.put(INODES, inode_key(file), vec![1; 150]);
        kv.write(batch)?;
    }
    let small = rate(SMALL_WRITES, start);

    let mut persists: Vec<Duration> = Vec::new();
    for file in 0..PERSISTS {
        kv.write(file_batch(file..file + 1))?;
        let start = Instant::now();
        kv.persist()?;
        persists.push(start.elapsed());
    }
    persists.sort();
    Ok(Figures { load, gets, scanned, small, persist: persists[persists.len() / 2], reopen, bytes_per_file })
}

fn file_batch(files: std::ops::Range<u64>) -> Batch {
    let mut batch = Batch::new();
    for file in files {
        // Folders of 1,000; values that compress about as records do.
        let mut dirent = (file / 1_000).to_be_bytes().to_vec();
        dirent.extend(format!("file-{:016x}.bin", file.wrapping_mul(0x9e37_79b9_7f4a_7c15)).bytes());
        batch.put(DIRENTS, dirent, file.to_be_bytes().to_vec());
        let mut inode = vec![0; 100];
        SmallRng::seed_from_u64(file).fill(&mut inode[20..70]);
        batch.put(INODES, inode_key(file), inode);
    }
    batch
}

fn inode_key(file: u64) -> Vec<u8> {
    file.to_be_bytes().to_vec()
}

fn rate(count: u64, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64()
}
