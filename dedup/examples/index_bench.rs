//! The chunk index at scale: synthetic ids through a store's key-value engine, in the form that the index has.
//!
//! ```text
//! cargo run --release -p causeway-dedup --example index_bench -- [--count N] [--engine fjall|sled] [--cache-mib N]
//! ```
//! Prints bytes on disk and resident memory a chunk, the rate of entries, of lookups of absent and of present ids, and the
//! time to open. Writes to a temporary folder and removes it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use causeway_base::ByteSize;
use causeway_dedup::INDEX_SPACES;
use causeway_storage::kv::{Batch, FjallKv, FjallOptions, Kv, SledKv, SledOptions};

type Fallible<T = ()> = Result<T, Box<dyn std::error::Error>>;

const BATCH_ENTRIES: u64 = 4096;
const LOOKUPS: u64 = 1_000_000;

struct Args {
    count: u64,
    engine: String,
    cache: ByteSize,
}

fn args() -> Fallible<Args> {
    let mut parsed = Args { count: 1_000_000, engine: "fjall".to_owned(), cache: ByteSize::mib(64) };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--count" => parsed.count = value.parse()?,
            "--engine" => parsed.engine = value,
            "--cache-mib" => parsed.cache = ByteSize::mib(value.parse()?),
            _ => return Err(format!("no flag {flag}").into()),
        }
    }
    Ok(parsed)
}

fn open(args: &Args, dir: &Path) -> Fallible<Arc<dyn Kv>> {
    Ok(match args.engine.as_str() {
        "fjall" => {
            let options = FjallOptions { cache: args.cache, ..FjallOptions::default() };
            Arc::new(FjallKv::open(dir, INDEX_SPACES, &options)?)
        }
        "sled" => {
            let options = SledOptions { cache: args.cache, ..SledOptions::default() };
            Arc::new(SledKv::open(dir, INDEX_SPACES, &options)?)
        }
        other => return Err(format!("no engine {other}").into()),
    })
}

fn main() -> Fallible {
    let args = args()?;
    let space = INDEX_SPACES[0];
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("index");
    let idle = resident();
    let kv = open(&args, &path)?;
    println!("{} chunks, {}, cache {}", args.count, args.engine, args.cache);

    let start = Instant::now();
    let mut next = 0;
    while next < args.count {
        let mut batch = Batch::new();
        for number in next..args.count.min(next + BATCH_ENTRIES) {
            batch.put(space, id(number), value(number));
        }
        next += BATCH_ENTRIES;
        kv.write(batch)?;
    }
    kv.persist()?;
    rate("entries written", args.count, start);
    drop(kv);
    let start = Instant::now();
    let kv = open(&args, &path)?;
    println!("{:<28} {:>10.2} s", "open", start.elapsed().as_secs_f64());

    for round in ["first", "again"] {
        let start = Instant::now();
        let mut found = 0;
        for number in 0..LOOKUPS {
            found += u64::from(kv.get(space, &id(args.count + number))?.is_some());
        }
        rate(&format!("absent ids, {round}"), LOOKUPS, start);
        assert_eq!(found, 0);
    }
    let start = Instant::now();
    for number in 0..LOOKUPS / 4 {
        let number = number * 7_919 % args.count;
        assert_eq!(kv.get(space, &id(number))?.as_deref(), Some(value(number).as_ref()));
    }
    rate("present ids", LOOKUPS / 4, start);

    let per_chunk = |bytes: u64| bytes as f64 / args.count as f64;
    println!("{:<28} {:>10.1} B a chunk", "on disk", per_chunk(disk(&path)?));
    let memory = resident().saturating_sub(idle);
    println!("{:<28} {:>10.1} B a chunk ({})", "resident", per_chunk(memory), ByteSize(memory));
    Ok(())
}

fn rate(what: &str, count: u64, start: Instant) {
    println!("{what:<28} {:>10.0} /s", count as f64 / start.elapsed().as_secs_f64());
}

fn id(number: u64) -> Bytes {
    Bytes::copy_from_slice(blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// As a location in a block: chunks come in the order in which they lie in packs.
fn value(number: u64) -> Bytes {
    let (block, place) = (number / 9, number % 9);
    let mut out = [0; 16];
    out[..4].copy_from_slice(&((block / 400) as u32).to_le_bytes());
    out[4..8].copy_from_slice(&((block % 400 * 160_000 + 64) as u32).to_le_bytes());
    out[8..11].copy_from_slice(&160_000_u32.to_le_bytes()[..3]);
    out[11..14].copy_from_slice(&((number * 40_503 % 200_000) as u32).to_le_bytes()[..3]);
    out[14] = 0x11;
    out[15] = place as u8;
    Bytes::copy_from_slice(&out)
}

/// Resident bytes that are the process's own, not a file's pages.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

fn disk(path: &Path) -> Fallible<u64> {
    let mut bytes = 0;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                bytes += std::os::unix::fs::MetadataExt::blocks(&entry.metadata()?) * 512;
            }
        }
    }
    Ok(bytes)
}
