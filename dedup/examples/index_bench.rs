//! The chunk index at scale: synthetic ids through the index over a key-value engine.
//!
//! ```text
//! cargo run --release -p causeway-dedup --example index_bench -- [--count N] [--engine fjall|sled] [--cache-mib N] [--dir DIR]
//! ```
//! Prints bytes on disk and in memory, the rate of entries, of lookups of absent and of present ids, and the time to open.
//! The entries are written by another process, this one opens what is there: so its memory is not that of loading. With DIR
//! the index is kept there, and a second run with the same count reads it again; else it is temporary.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_base::{ByteSize, ChunkId};
use causeway_dedup::INDEX_SPACES;
use causeway_dedup::store::{BareIndex, FILTERED_SPACES};
use causeway_storage::kv::{FjallKv, FjallOptions, Kv, SledKv, SledOptions};

type Fallible<T = ()> = Result<T, Box<dyn std::error::Error>>;

const BATCH_ENTRIES: u64 = 4096;
const ABSENT: u64 = 1_000 * BATCH_ENTRIES;
const PRESENT: u64 = 250_000;

struct Args {
    count: u64,
    engine: String,
    cache: ByteSize,
    dir: Option<PathBuf>,
    /// Write the entries to `dir`, and no more.
    load: bool,
}

fn args() -> Fallible<Args> {
    let mut parsed =
        Args { count: 1_000_000, engine: "fjall".to_owned(), cache: ByteSize::mib(64), dir: None, load: false };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--count" => parsed.count = value.parse()?,
            "--engine" => parsed.engine = value,
            "--dir" => parsed.dir = Some(value.into()),
            "--load" => parsed.load = value.parse()?,
            "--cache-mib" => parsed.cache = ByteSize::mib(value.parse()?),
            _ => return Err(format!("no flag {flag}").into()),
        }
    }
    Ok(parsed)
}

fn open(args: &Args, dir: &Path) -> Fallible<Arc<dyn Kv>> {
    Ok(match args.engine.as_str() {
        "fjall" => {
            let options = FjallOptions { cache: args.cache, filtered: FILTERED_SPACES, ..FjallOptions::default() };
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
    let temporary = tempfile::tempdir()?;
    let path = args.dir.clone().unwrap_or_else(|| temporary.path().join("index"));
    if args.load {
        return load(&args, &path);
    }
    println!("{} chunks, {}, cache {}", args.count, args.engine, args.cache);
    if !path.exists() {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args().skip(1)).args(["--load", "true", "--dir"]).arg(&path);
        if !command.status()?.success() {
            return Err("the entries were not written".into());
        }
    }

    let idle = resident();
    let start = Instant::now();
    let index = BareIndex::new(open(&args, &path)?);
    println!("{:<28} {:>10.2} s", "open", start.elapsed().as_secs_f64());
    memory("opened", &args, &index, idle);
    present(&args, &index, "present ids, nothing cached")?;
    memory("cache filled", &args, &index, idle);

    for round in ["the filter learns", "first", "again"] {
        let mut all = Time::default();
        for first in (0..ABSENT).step_by(BATCH_ENTRIES as usize) {
            let ids: Vec<ChunkId> = (first..first + BATCH_ENTRIES).map(|number| id(args.count + number)).collect();
            let (found, time) = Time::of(|| Ok(ids.iter().map(|id| index.find(id)).collect::<Result<Vec<_>, _>>()?))?;
            assert!(found.iter().all(Option::is_none));
            all = Time { wall: all.wall + time.wall, cpu: all.cpu + time.cpu };
        }
        rate(&format!("absent ids, {round}"), ABSENT, all);
    }
    present(&args, &index, "present ids")?;
    memory("in the end", &args, &index, idle);
    let bytes = disk(&path)?;
    println!("{:<28} {:>10.1} B a chunk ({})", "on disk", bytes as f64 / args.count as f64, ByteSize(bytes));
    Ok(())
}

/// Writes the entries.
fn load(args: &Args, path: &Path) -> Fallible {
    let kv = open(args, path)?;
    let index = BareIndex::new(kv.clone());
    index.begin()?;
    let ((), time) = Time::of(|| {
        let mut next = 0;
        while next < args.count {
            let numbers = next..args.count.min(next + BATCH_ENTRIES);
            index.publish(numbers.map(|number| {
                let (pack, offset, raw_len) = place(number);
                (id(number), pack, offset, raw_len, (number % 9) as u8)
            }))?;
            next += BATCH_ENTRIES;
        }
        Ok(kv.persist()?)
    })?;
    rate("entries written", args.count, time);
    Ok(())
}

fn present(args: &Args, index: &BareIndex, what: &str) -> Fallible {
    let ((), time) = Time::of(|| {
        for number in 0..PRESENT {
            let number = number * 7_919 % args.count;
            assert_eq!(index.find(&id(number))?, Some(place(number)));
        }
        Ok(())
    })?;
    rate(what, PRESENT, time);
    Ok(())
}

fn memory(when: &str, args: &Args, index: &BareIndex, idle: u64) {
    let (filter, all) = (index.filter_bytes(), resident().saturating_sub(idle));
    let per_chunk = filter as f64 / args.count as f64;
    println!(
        "{:<28} {:>14} resident, the filter {} of it ({per_chunk:.2} B a chunk)",
        when,
        ByteSize(all),
        ByteSize(filter)
    );
}

/// Wall time, and the time that this thread was on a processor: the one that says something on a busy machine.
#[derive(Clone, Copy, Default)]
struct Time {
    wall: Duration,
    cpu: Duration,
}

impl Time {
    fn of<T>(work: impl FnOnce() -> Fallible<T>) -> Fallible<(T, Self)> {
        let (start, cpu) = (Instant::now(), on_processor());
        let done = work()?;
        Ok((done, Self { wall: start.elapsed(), cpu: on_processor() - cpu }))
    }
}

fn on_processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

fn rate(what: &str, count: u64, time: Time) {
    let per_second = |time: Duration| count as f64 / time.as_secs_f64();
    println!("{what:<28} {:>10.0} /s, {:.0} a second on the processor", per_second(time.wall), per_second(time.cpu));
}

fn id(number: u64) -> ChunkId {
    ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// Chunks come in the order in which they lie in packs, in blocks of nine: pack, offset, plain length.
fn place(number: u64) -> (u32, u32, u32) {
    let block = number / 9;
    ((block / 400) as u32, (block % 400 * 160_000 + 64) as u32, (number * 40_503 % 200_000) as u32)
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
