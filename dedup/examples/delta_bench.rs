//! What sketches cost, and what deltas save and cost, against floors computed in the same run.
//!
//! ```text
//! scripts/delta-sets /tmp/sets                                                # real release pairs, an ext4 image
//! cargo run --release -p causeway-dedup --example delta_bench -- [--mib 64] [--sets /tmp/sets] [--only NAME]
//! ```
//! `--mib` is the size of each generated tensor file. Each folder of `--sets` that has `old` and `new` in it is a version
//! step; files of the same path in both are two versions. Needs about five times the largest step in memory. Speeds are of
//! one core's time, so that other programs disturb them little; sizes are exact.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use causeway_base::ChunkId;
use causeway_dedup::chunk::LEVEL_DEFAULT;
use causeway_dedup::delta::{self, Base, BaseRef, Piece, align};
use causeway_dedup::sketch::{SIMILARITY_SPACE, SLOTS_LOG2_DEFAULT, SimilarityIndex, Sketcher};
use causeway_dedup::store::FILTERED_SPACES;
use causeway_dedup::{ChunkSizes, Codec, EncodedChunk, Extent, Manifest, Realm, chunker};
use causeway_storage::kv::{FjallKv, FjallOptions, Kv, MemoryKv};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::time::{ClockId, Timespec, clock_gettime};

type Fallible<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Files of two versions: path, old bytes, new bytes.
type Files = Vec<(String, Bytes, Bytes)>;

fn main() -> Fallible {
    let (mut mib, mut sets, mut only) = (64, None, String::new());
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or("a flag without a value")?;
        match flag.as_str() {
            "--mib" => mib = value.parse()?,
            "--sets" => sets = Some(PathBuf::from(value)),
            "--only" => only = value,
            other => return Err(format!("{other} is no flag: --mib, --sets and --only are").into()),
        }
    }
    let realm = Realm::new("bench", [1; 32]);
    if only.is_empty() || only == "parts" {
        parts(&realm, mib.min(256));
        index()?;
    }
    println!(
        "\n== Version steps: MB; `whole` is exact CDC + zstd-3 a chunk, `patch` zstd-3 of the new version with all of the"
    );
    println!(
        "   old one as prefix; `rest` finds bases by sketch and names them, `wire` has the ranges of the previous version"
    );
    println!(
        "{:<26} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}  codecs; MB/s a core: encode, decode; 2 cores starve above",
        "step", "size", "new", "whole", "patch", "rest", "wire", "wire/wh"
    );
    let step = |name: &str, make: &dyn Fn() -> Fallible<Files>| -> Fallible {
        if only.is_empty() || name.contains(&only) { run(&realm, name, &make()?) } else { Ok(()) }
    };
    let one = |(old, new): (Vec<u8>, Vec<u8>)| -> Fallible<Files> { Ok(vec![("file".into(), old.into(), new.into())]) };
    step("one byte in 200 MB", &|| one(one_byte(200_000_000)))?;
    for (kind, width) in [("float32", 4), ("bf16", 2)] {
        step(&format!("{kind}, a: a tenth new"), &|| one(tensors(width, mib << 20, true)))?;
        step(&format!("{kind}, b: all by 1e-3"), &|| one(tensors(width, mib << 20, false)))?;
    }
    step("table, 2 % of rows", &|| one(table(mib << 20)))?;
    let mut folders: Vec<PathBuf> = match &sets {
        Some(sets) => std::fs::read_dir(sets)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?,
        None => Vec::new(),
    };
    folders.sort();
    for folder in folders.iter().filter(|folder| folder.join("new").is_dir()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        step(&name, &|| pairs(folder))?;
    }
    Ok(())
}

/// Time of this thread on its processor. Not `/proc`'s, which goes by the scheduler's ticks, longer than a chunk takes.
struct Core(Timespec);

impl Core {
    fn start() -> Self {
        Self(clock_gettime(ClockId::ThreadCPUTime))
    }

    fn seconds(&self) -> f64 {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        (now.tv_sec - self.0.tv_sec) as f64 + (now.tv_nsec - self.0.tv_nsec) as f64 / 1e9
    }
}

/// Megabytes a core second of the best of three runs.
fn rate(what: &str, bytes: usize, mut work: impl FnMut()) -> f64 {
    let best = (0..3).map(|_| {
        let core = Core::start();
        work();
        core.seconds()
    });
    let rate = bytes as f64 / 1e6 / best.fold(f64::INFINITY, f64::min);
    println!("  {what:<28} {rate:>8.0} MB/s a core");
    rate
}

fn parts(realm: &Realm, mib: usize) {
    let sketcher = Sketcher::new(realm);
    let sizes = ChunkSizes::DEFAULT;
    let mut noise = vec![0; mib << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let text: Vec<u8> = (0_u32..).flat_map(line).take(mib << 20).collect();
    let (floats, _) = tensors(4, mib << 20, true);
    for (kind, bytes) in [("noise", noise), ("text", text), ("float32", floats)] {
        println!("== {} MiB of {kind} in memory, one thread", bytes.len() >> 20);
        let bytes = Bytes::from(bytes);
        let chunks: Vec<Bytes> = chunker::chunks(bytes.clone(), sizes).collect();
        let len = bytes.len();
        let mut copy = vec![0_u8; 1 << 20];
        rate("memcpy", len, || {
            for part in bytes.chunks_exact(1 << 20) {
                copy.copy_from_slice(std::hint::black_box(part));
                std::hint::black_box(&mut copy);
            }
        });
        rate("FastCDC", len, || assert!(chunker::chunks(bytes.clone(), sizes).count() > 0));
        rate("BLAKE3", len, || {
            for chunk in &chunks {
                std::hint::black_box(realm.chunk_id(chunk));
            }
        });
        rate("sketch", len, || {
            for chunk in &chunks {
                std::hint::black_box(sketcher.sketch(chunk));
            }
        });
        let without = rate("chunk + hash", len, || {
            for chunk in chunker::chunks(bytes.clone(), sizes) {
                std::hint::black_box(realm.chunk_id(&chunk));
            }
        });
        let with = rate("chunk + hash + sketch", len, || {
            for chunk in chunker::chunks(bytes.clone(), sizes) {
                std::hint::black_box((realm.chunk_id(&chunk), sketcher.sketch(&chunk)));
            }
        });
        println!("  with the sketch: {:.0} % of chunk + hash (goal 65 %)", 100.0 * with / without);
    }
}

/// The similarity index in fjall: what a million unlike chunks cost.
fn index() -> Fallible {
    const CHUNKS: u64 = 1_000_000;
    let dir = tempfile::tempdir()?;
    let options = FjallOptions { filtered: FILTERED_SPACES, ..FjallOptions::default() };
    let kv = Arc::new(FjallKv::open(dir.path(), &[SIMILARITY_SPACE], &options)?);
    let index = SimilarityIndex::new(kv.clone(), SIMILARITY_SPACE, SLOTS_LOG2_DEFAULT);
    let chunk = |n: u64| {
        let hash = blake3::hash(&n.to_le_bytes());
        let mut bytes = [0; 24];
        bytes.copy_from_slice(&hash.as_bytes()[..24]);
        (ChunkId(*hash.as_bytes()), causeway_dedup::sketch::Sketch::from_bytes(&bytes))
    };
    // As a store does: each new chunk is looked up before it is entered.
    let (mut looking, mut entering) = (Duration::ZERO, Duration::ZERO);
    for first in (0..CHUNKS).step_by(1000) {
        let chunks: Vec<_> = (first..first + 1000).map(chunk).collect();
        let start = Instant::now();
        for (_, sketch) in &chunks {
            assert_eq!(index.candidates(sketch, 1)?, []);
        }
        looking += start.elapsed();
        let start = Instant::now();
        index.insert_all(chunks)?;
        entering += start.elapsed();
    }
    let start = Instant::now();
    kv.persist()?;
    entering += start.elapsed();
    let rate = |count: u64, time: Duration| count as f64 / time.as_secs_f64();
    println!(
        "== Similarity index, {CHUNKS} unlike chunks in fjall: each looked up, {:.0}/s, and entered, {:.0}/s; {} B of disk a chunk",
        rate(CHUNKS, looking),
        rate(CHUNKS, entering),
        kv.disk_bytes() / CHUNKS,
    );
    let start = Instant::now();
    for n in 0..CHUNKS / 10 {
        index.candidates(&chunk(n * 10).1, 1)?;
    }
    println!("   candidates of present chunks: {:.0}/s", rate(CHUNKS / 10, start.elapsed()));
    let reopened = SimilarityIndex::new(kv, SIMILARITY_SPACE, SLOTS_LOG2_DEFAULT);
    for (what, index) in [("", &index), (" after opening, first", &reopened), (" after opening, then", &reopened)] {
        let start = Instant::now();
        for n in CHUNKS..CHUNKS + CHUNKS / 5 {
            assert_eq!(index.candidates(&chunk(n).1, 1)?, []);
        }
        println!("   candidates of absent chunks{what}: {:.0}/s", rate(CHUNKS / 5, start.elapsed()));
    }
    Ok(())
}

fn line(n: u32) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "region", "site", "node", "link", "home", "voter", "chunk", "pack", "manifest", "feed", "seq", "sketch", "of",
        "the", "a", "to",
    ];
    let word = |shift: u32| WORDS[(n.wrapping_mul(2_654_435_761) >> shift) as usize % 16];
    format!("{n} {} {} {} {}\n", word(28), word(20), word(11), word(3)).into_bytes()
}

fn one_byte(len: usize) -> (Vec<u8>, Vec<u8>) {
    let mut old = vec![0; len];
    StdRng::seed_from_u64(1).fill(old.as_mut_slice());
    let mut new = old.clone();
    new[len / 3] ^= 0x40;
    (old, new)
}

/// A checkpoint: normal weights of 4 bytes (float32) or 2 (bf16), in tensors of 4 MiB behind a header. Either a tenth of the
/// tensors are new, or all values are changed by up to a thousandth.
fn tensors(width: usize, len: usize, tenth: bool) -> (Vec<u8>, Vec<u8>) {
    let header = b"{\"layer.0.weight\":{\"dtype\":\"F\",\"shape\":[1024,1024]}}   ";
    let mut random = StdRng::seed_from_u64(2);
    let (mut old, mut new) = (header.to_vec(), header.to_vec());
    let mut renewed = false;
    let mut spare = None;
    for at in 0..len / width {
        if (at * width).is_multiple_of(4 << 20) {
            renewed = random.random_bool(0.1);
        }
        let mut normal = || match spare.take() {
            Some(value) => value,
            None => {
                let (u, v): (f32, f32) = (random.random::<f32>().max(1e-7), random.random());
                let radius = (-2.0 * u.ln()).sqrt();
                let (sin, cos) = (std::f32::consts::TAU * v).sin_cos();
                spare = Some(0.02 * radius * sin);
                0.02 * radius * cos
            }
        };
        let before = normal();
        let after = match (tenth, renewed) {
            (true, true) => normal(),
            (true, false) => before,
            (false, _) => before * (1.0 + random.random_range(-1e-3..1e-3_f32)),
        };
        for (file, value) in [(&mut old, before), (&mut new, after)] {
            match width {
                4 => file.extend_from_slice(&value.to_le_bytes()),
                _ => file.extend_from_slice(&(((value.to_bits() + 0x8000) >> 16) as u16).to_le_bytes()),
            }
        }
    }
    (old, new)
}

/// A columnar table as Parquet lays it out: row groups of 64 Ki rows, in each the columns one after the other (a key, a
/// price, a quantity, a day, a text from a dictionary, a comment), a footer. Two in a hundred rows are edited.
fn table(len: usize) -> (Vec<u8>, Vec<u8>) {
    const ROWS: usize = 64 << 10;
    let mut random = StdRng::seed_from_u64(3);
    let (mut old, mut new) = (b"PAR1".to_vec(), b"PAR1".to_vec());
    let mut key = 0_u64;
    while old.len() < len {
        let mut columns: [[Vec<u8>; 6]; 2] = Default::default();
        for _ in 0..ROWS {
            key += u64::from(random.random_range(1..4_u8));
            let mut row = || {
                let comment = line(random.random_range(0..1_000_000));
                (
                    random.random_range(100..9_000_000_u32),
                    random.random_range(1..50_u32),
                    18_000 + random.random_range(0..900_u32),
                    random.random_range(0..40_u8),
                    comment,
                )
            };
            let before = row();
            let after = if random.random_bool(0.02) {
                (before.0, 7, before.2 + 1, before.3, before.4.clone())
            } else {
                before.clone()
            };
            for (columns, (price, quantity, day, kind, comment)) in columns.iter_mut().zip([before, after]) {
                columns[0].extend_from_slice(&key.to_le_bytes());
                columns[1].extend_from_slice(&(f64::from(price) / 100.0).to_le_bytes());
                columns[2].extend_from_slice(&quantity.to_le_bytes());
                columns[3].extend_from_slice(&day.to_le_bytes());
                columns[4].push(kind);
                columns[5].extend_from_slice(&comment);
            }
        }
        let [before, after] = columns;
        old.extend(before.concat());
        new.extend(after.concat());
    }
    (old, new)
}

fn pairs(folder: &Path) -> Fallible<Files> {
    let mut versions: [BTreeMap<String, Bytes>; 2] = Default::default();
    for (version, name) in versions.iter_mut().zip(["old", "new"]) {
        let root = folder.join(name);
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if entry.file_type()?.is_file() {
                    let path = entry.path().strip_prefix(&root)?.to_string_lossy().into_owned();
                    version.insert(path, std::fs::read(entry.path())?.into());
                }
            }
        }
    }
    let [mut old, new] = versions;
    let mut files: Files =
        new.into_iter().map(|(path, bytes)| (path.clone(), old.remove(&path).unwrap_or_default(), bytes)).collect();
    files.extend(old.into_iter().map(|(path, bytes)| (path, bytes, Bytes::new())));
    Ok(files)
}

/// A version of a file, cut.
struct Cut {
    pieces: Vec<Piece>,
    chunks: Vec<(ChunkId, Bytes)>,
}

fn cut(realm: &Realm, bytes: &Bytes) -> Cut {
    let (mut pieces, mut offset) = (Vec::new(), 0);
    let chunks: Vec<(ChunkId, Bytes)> =
        chunker::chunks(bytes.clone(), ChunkSizes::DEFAULT).map(|plain| (realm.chunk_id(&plain), plain)).collect();
    for (id, plain) in &chunks {
        pieces.push(Piece { id: Some(*id), offset, len: plain.len() as u64 });
        offset += plain.len() as u64;
    }
    Cut { pieces, chunks }
}

#[derive(Default)]
struct Sums {
    new: usize,
    chunks: usize,
    whole: usize,
    rest: usize,
    wire: usize,
    prefix: usize,
    planes: usize,
    encode_seconds: f64,
    /// Against the first range alone.
    near: usize,
    near_seconds: f64,
    /// The smaller of `wire` and `near` and what rests at the source, which goes as it is.
    sent: usize,
    sent_near: usize,
    sent_seconds: f64,
    sent_near_seconds: f64,
    decode_seconds: f64,
    delta_plain: usize,
}

/// Bytes that a delta costs on the wire beside its body: head of the frame, and which base of the request.
const WIRE_BASE_BYTES: usize = 24;

/// What rests as a delta of at most this share of its chunk is sent without trying whether another is smaller.
const SURELY: usize = 16;

fn run(realm: &Realm, name: &str, files: &Files) -> Fallible {
    let sketcher = Sketcher::new(realm);
    let kv = Arc::new(MemoryKv::new(&[SIMILARITY_SPACE]));
    let index = SimilarityIndex::new(kv, SIMILARITY_SPACE, SLOTS_LOG2_DEFAULT);
    let mut held: HashMap<ChunkId, Bytes> = HashMap::new();
    let old: Vec<Cut> = files.iter().map(|(_, old, _)| cut(realm, old)).collect();
    for (id, plain) in old.iter().flat_map(|cut| &cut.chunks) {
        if held.insert(*id, plain.clone()).is_none()
            && let Some(sketch) = sketcher.sketch(plain)
        {
            index.insert(*id, &sketch)?;
        }
    }
    let mut sums = Sums::default();
    for ((_, _, new), old) in files.iter().zip(&old) {
        let new = cut(realm, new);
        let ranges: HashMap<usize, Vec<delta::BaseRange>> = align(&old.pieces, &new.pieces).into_iter().collect();
        for (place, (id, plain)) in new.chunks.iter().enumerate() {
            if held.insert(*id, plain.clone()).is_some() {
                continue;
            }
            let alike = alike(&index, &sketcher, *id, plain, &held)?;
            chunk(&mut sums, *id, plain, ranges.get(&place).map_or(&[], Vec::as_slice), old, &alike);
        }
    }
    let size: usize = files.iter().map(|(_, _, new)| new.len()).sum();
    let patch = patch(files);
    let mb = |bytes: usize| bytes as f64 / 1e6;
    let small = |bytes: usize| if bytes < 100_000 { format!("{bytes} B") } else { format!("{:.2}", mb(bytes)) };
    let (encode, near) = (mb(sums.new) / sums.encode_seconds, mb(sums.new) / sums.near_seconds);
    let starves = |rate: f64, wire: usize| 2.0 * rate * wire as f64 / sums.new.max(1) as f64 * 8.0 / 1000.0;
    println!(
        "{name:<26} {:>8.1} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8.3}  {} chunks: {} prefix, {} planes; {encode:.0}, {:.0}; {:.1} Gbit/s; first range alone {}, {near:.0} MB/s, {:.1} Gbit/s",
        mb(size),
        small(sums.new),
        small(sums.whole),
        patch.map_or_else(|| "–".into(), small),
        small(sums.rest),
        small(sums.wire),
        sums.wire as f64 / sums.whole.max(1) as f64,
        sums.chunks,
        sums.prefix,
        sums.planes,
        mb(sums.delta_plain) / sums.decode_seconds,
        starves(encode, sums.wire),
        small(sums.near),
        starves(near, sums.near),
    );
    let (encode, near) = (mb(sums.new) / sums.sent_seconds, mb(sums.new) / sums.sent_near_seconds);
    println!(
        "{:>26} with what rests at the source: {} ({:.3} of whole), {encode:.0} MB/s, {:.1} Gbit/s; first range alone {} ({:.3}), {near:.0} MB/s, {:.1} Gbit/s",
        "",
        small(sums.sent),
        sums.sent as f64 / sums.whole.max(1) as f64,
        starves(encode, sums.sent),
        small(sums.sent_near),
        sums.sent_near as f64 / sums.whole.max(1) as f64,
        starves(near, sums.sent_near),
    );
    if files.len() == 1 {
        manifest_bytes(realm, &files[0])?;
    }
    Ok(())
}

/// Stored chunks that resemble a new one, which is entered.
fn alike(
    index: &SimilarityIndex,
    sketcher: &Sketcher,
    id: ChunkId,
    plain: &Bytes,
    held: &HashMap<ChunkId, Bytes>,
) -> Fallible<Vec<(ChunkId, Bytes)>> {
    let Some(sketch) = sketcher.sketch(plain) else { return Ok(Vec::new()) };
    let found = index.candidates(&sketch, 2)?;
    index.insert(id, &sketch)?;
    Ok(found.into_iter().filter_map(|id| Some((id, held.get(&id)?.clone()))).collect())
}

fn chunk(
    sums: &mut Sums,
    id: ChunkId,
    plain: &Bytes,
    ranges: &[delta::BaseRange],
    old: &Cut,
    alike: &[(ChunkId, Bytes)],
) {
    sums.new += plain.len();
    sums.chunks += 1;
    let whole = EncodedChunk::encode(id, plain.clone(), LEVEL_DEFAULT).payload.len();
    sums.whole += whole;
    // At rest: depths are not followed here, as each old chunk stands alone.
    let named: Vec<([ChunkId; 1], &Bytes)> = alike.iter().map(|(id, plain)| ([*id], plain)).collect();
    let bases: Vec<(&[ChunkId], Base<'_>)> =
        named.iter().map(|(id, plain)| (id.as_slice(), Base::like(plain))).collect();
    let rests = EncodedChunk::encode_against(id, plain.clone(), &bases, LEVEL_DEFAULT);
    sums.rest += rests.payload.len();
    let rests = rests.codec.is_delta().then(|| rests.payload.len() + WIRE_BASE_BYTES);
    let at_once = rests.filter(|len| *len <= plain.len() / SURELY);
    // On the wire: the ranges of the previous version that the asker names, each tried if those before do not suffice.
    let joined: Vec<(Vec<u8>, i64)> = ranges
        .iter()
        .map(|range| {
            let bytes = old.chunks[range.pieces.clone()].iter().map(|(_, plain)| plain.as_ref()).collect::<Vec<_>>();
            (bytes.concat(), range.align)
        })
        .collect();
    // Ranges of the same bytes are seen to be the same, as they are on the wire.
    let first = |place: usize| ranges.iter().position(|range| range.pieces == ranges[place].pieces).unwrap_or(place);
    let bases: Vec<Base<'_>> = (0..joined.len())
        .map(|place| Base { plain: joined[first(place)].0.as_slice(), align: Some(joined[place].1), depth: 0 })
        .collect();
    let near = &bases[..ranges.iter().take_while(|range| range.pieces == ranges[0].pieces).count()];
    let core = Core::start();
    let delta = delta::encode(plain, near, whole.saturating_sub(WIRE_BASE_BYTES), delta::LEVEL_DEFAULT);
    let seconds = core.seconds();
    sums.near_seconds += seconds;
    let near = delta.map_or(whole, |delta| delta.body.len() + WIRE_BASE_BYTES);
    sums.near += near;
    sums.sent_near += at_once.unwrap_or_else(|| rests.unwrap_or(near).min(near));
    sums.sent_near_seconds += at_once.map_or(seconds, |_| 0.0);
    let core = Core::start();
    let delta = delta::encode(plain, &bases, whole.saturating_sub(WIRE_BASE_BYTES), delta::LEVEL_DEFAULT);
    let seconds = core.seconds();
    sums.encode_seconds += seconds;
    let wide = delta.as_ref().map_or(whole, |delta| delta.body.len() + WIRE_BASE_BYTES);
    sums.sent += at_once.unwrap_or_else(|| rests.unwrap_or(wide).min(wide));
    sums.sent_seconds += at_once.map_or(seconds, |_| 0.0);
    let Some(delta) = delta else {
        sums.wire += whole;
        return;
    };
    sums.wire += delta.body.len() + WIRE_BASE_BYTES;
    match delta.codec {
        Codec::Planes => sums.planes += 1,
        _ => sums.prefix += 1,
    }
    let core = Core::start();
    let decoded = delta::decode(delta.codec, &delta.body, bases[delta.base].plain, plain.len() as u32);
    sums.decode_seconds += core.seconds();
    sums.delta_plain += plain.len();
    assert!(decoded.is_ok_and(|decoded| decoded == *plain), "a delta must decode to what it was made from");
}

/// zstd of all of the new version with all of the old one as prefix: the floor of what a delta can reach. `None` over 1 GiB.
fn patch(files: &Files) -> Option<usize> {
    use zstd::zstd_safe::{CCtx, CParameter, compress_bound};
    let old = files.iter().map(|(_, old, _)| old.as_ref()).collect::<Vec<_>>().concat();
    let new = files.iter().map(|(_, _, new)| new.as_ref()).collect::<Vec<_>>().concat();
    if old.len() + new.len() > 1 << 30 {
        return None;
    }
    let mut context = CCtx::try_create()?;
    context.set_parameter(CParameter::CompressionLevel(3)).ok()?;
    context.set_parameter(CParameter::WindowLog(usize::BITS - (old.len() + new.len()).leading_zeros())).ok()?;
    context.set_parameter(CParameter::EnableLongDistanceMatching(true)).ok()?;
    context.ref_prefix(&old).ok()?;
    let mut output: Vec<u8> = Vec::with_capacity(compress_bound(new.len()));
    context.compress2(&mut output, &new).ok()
}

/// What the metadata costs: manifest nodes that changed, plain and as deltas against the nodes of the old version.
fn manifest_bytes(realm: &Realm, (_, old, new): &(String, Bytes, Bytes)) -> Fallible {
    let mut nodes: [BTreeMap<usize, (ChunkId, Bytes)>; 2] = Default::default();
    let mut roots = Vec::new();
    for (nodes, bytes) in nodes.iter_mut().zip([old, new]) {
        let cut = cut(realm, bytes);
        let extents = cut.chunks.iter().map(|(id, plain)| Extent::Chunk { id: *id, len: plain.len() as u32 });
        let root = Manifest::new(extents)?.store(realm, |id, plain| {
            nodes.insert(nodes.len(), (id, plain));
        })?;
        roots.push(root.as_bytes().len());
    }
    let [old, new] = nodes;
    let (mut count, mut plain_bytes, mut delta_bytes) = (0, 0, 0);
    for (place, (id, plain)) in &new {
        if old.values().any(|(other, _)| other == id) {
            continue;
        }
        count += 1;
        let whole = EncodedChunk::encode(*id, plain.clone(), LEVEL_DEFAULT).payload.len();
        plain_bytes += whole;
        let base = old.get(place).map_or(&[][..], |(_, plain)| plain.as_ref());
        let delta = delta::encode(plain, &[Base::like(base)], whole.saturating_sub(WIRE_BASE_BYTES), LEVEL_DEFAULT);
        delta_bytes += delta.map_or(whole, |delta| delta.body.len() + WIRE_BASE_BYTES);
    }
    println!(
        "{:>26} manifest: {count} nodes changed, {plain_bytes} B whole, {delta_bytes} B as deltas; root {} B (goes in the metadata); \
         a base at rest costs {} B",
        "",
        roots[1],
        BaseRef::cost(1)
    );
    Ok(())
}
