//! The fuzz targets on the stable compiler: every decoder, over the committed corpus, over samples made here, and over
//! seeded mutations of both. `CAUSEWAY_FUZZ_SECONDS` makes it run longer, with other seeds each time round.

#![allow(clippy::unwrap_used)] // what fails here fails the test

#[path = "../../fuzz/src/targets.rs"]
#[allow(unreachable_pub)] // they are the fuzz crate's
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_base::{ChunkId, Ino, Seq, Timestamp, VolumeId};
use causeway_dedup::delta::{self, Base, BaseRef, DeltaRecord};
use causeway_dedup::store::{ChunkStore, INDEX_SPACES, LikelyBase, PutHints, StoreOptions};
use causeway_dedup::{EncodedChunk, Extent, Manifest};
use causeway_namespace_core::command::{At, Command, Expect, Op, Request, RequestBody, SessionId};
use causeway_namespace_core::encode;
use causeway_namespace_core::inode::{Attr, Body, Content, Inode, ManifestRef};
use causeway_namespace_raft::wal::{Wal, WalOptions};
use causeway_replicator::wire::{Bases, Cause, ChunkRequest, EndCounts, Form, Frame, StreamEncoder};
use causeway_repository::run::{RunKind, SegmentBuilder};
use causeway_storage::disk::{Disk, Open, SimDisk};
use causeway_storage::kv::MemoryKv;

use targets::{TARGETS, Target, realm};

/// Mutated inputs for each target when nothing else is said: a few seconds for all.
const ROUNDS: u64 = 4000;
/// Opening a store or a log, or decoding 80 KB against a base, takes longer than decoding a record.
const ROUNDS_OF_FILES: u64 = 600;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

fn committed(target: &str) -> Vec<Vec<u8>> {
    let Ok(listed) = std::fs::read_dir(corpus().join(target)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Runs a target; a panic is told with the input that led to it.
fn run(name: &str, target: Target, input: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        panic!("{name} panicked at {what}; input: {}", hex(input));
    }
}

fn hex(bytes: &[u8]) -> String {
    let text: String = bytes.iter().take(4096).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > 4096 { format!("{text}… ({} bytes)", bytes.len()) } else { text }
}

#[test]
fn decoders_survive_the_corpus_and_mutations_of_it() {
    let seconds = std::env::var("CAUSEWAY_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut pass = 0;
    loop {
        for (name, target) in TARGETS {
            let mut inputs = committed(name);
            assert!(!inputs.is_empty(), "fuzz/corpus/{name} is empty");
            inputs.extend(samples(name));
            for (number, input) in inputs.iter().enumerate() {
                run(name, *target, input, &format!("input {number}"));
            }
            let rounds =
                if matches!(*name, "delta" | "delta_record" | "pack" | "wal") { ROUNDS_OF_FILES } else { ROUNDS };
            for round in 0..rounds {
                let mut random = Random(pass << 32 | round);
                let input = mutate(&inputs, &mut random);
                run(name, *target, &input, &format!("pass {pass}, round {round}"));
            }
        }
        pass += 1;
        if until.is_none_or(|until| Instant::now() >= until) {
            break;
        }
    }
}

/// What is valid is taken: a target that refuses everything would test nothing.
#[test]
fn the_samples_decode() {
    for sample in samples("manifest_root") {
        causeway_dedup::ManifestRoot::decode(&sample).unwrap();
    }
    for sample in samples("request") {
        ChunkRequest::decode(&sample).unwrap();
    }
    for sample in samples("command") {
        Command::decode(&sample).unwrap();
    }
    for sample in samples("pack") {
        assert!(targets::stored(&sample) >= 4, "a pack's chunks are found");
    }
    for sample in samples("delta_record") {
        DeltaRecord::from_payload(&sample.into()).unwrap();
    }
    for sample in samples("wal") {
        assert!(targets::logged(&sample) >= 38, "a log's entries are found");
    }
    for sample in samples("run") {
        causeway_repository::run::Loaded::open(sample.into(), RunKind::Image).unwrap();
    }
    for (name, _) in TARGETS {
        assert!(samples(name).iter().any(|sample| sample.len() > 20), "{name}");
    }
}

#[test]
#[ignore = "writes fuzz/corpus anew, for when a format has changed"]
fn write_corpus() {
    for (name, _) in TARGETS {
        let folder = corpus().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, sample) in samples(name).iter().enumerate() {
            std::fs::write(folder.join(format!("sample-{number}")), sample).unwrap();
        }
    }
}

/// Steele and Lea's splitmix64: the same seed gives the same inputs on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// One of the inputs after one to four changes of the kinds that fuzzers make.
fn mutate(inputs: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = inputs[random.below(inputs.len())].clone();
    for _ in 0..=random.below(4) {
        let len = bytes.len();
        let at = random.below(len.max(1));
        match random.below(9) {
            _ if len == 0 => bytes = random.next().to_le_bytes().to_vec(),
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..(at + 1 + random.below(16)).min(len))),
            4 => {
                // Numbers at the edge of their types, where lengths may stand.
                let number: u64 = [0, 1, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 20, 1 << 63, u64::MAX][random.below(8)];
                let width = [1, 2, 4, 8][random.below(4)].min(len - at);
                bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
            }
            5 => {
                let part = bytes[at..(at + 1 + random.below(64)).min(len)].to_vec();
                bytes.splice(at..at, part);
            }
            6 => {
                let other = &inputs[random.below(inputs.len())];
                let from = random.below(other.len().max(1)).min(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            7 => bytes.extend((0..random.below(32)).map(|_| random.next() as u8)),
            _ => bytes[at] = random.next() as u8,
        }
    }
    bytes
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

fn extents(count: u64) -> Vec<Extent> {
    (0..count)
        .map(|number| match number % 7 {
            3 => Extent::Hole { len: (number + 1) << 20 },
            _ => Extent::Chunk { id: realm().chunk_id(&number.to_le_bytes()), len: 1 + (number as u32 * 977) % 70_000 },
        })
        .collect()
}

/// Valid inputs of a target.
fn samples(target: &str) -> Vec<Vec<u8>> {
    match target {
        "manifest_root" => [0, 1, 5, 200, 3000].map(|count| root(count).to_vec()).into(),
        "manifest_node" => nodes(),
        "chunk" => chunks().iter().map(|chunk| [&chunk.header()[..], &chunk.payload].concat()).collect(),
        "delta" => deltas(),
        "delta_record" => delta_records(),
        "pack" => vec![pack(false), pack(true), pack_of_deltas()],
        "wal" => vec![wal()],
        "run" => [0, 3, 2000].map(segment).into(),
        "request" => requests(),
        "wire_frames" => frames(),
        "command" => vec![command().encode().to_vec()],
        "inode" => inodes().iter().map(|inode| encode::to_bytes(inode).to_vec()).collect(),
        other => panic!("no samples of {other}"),
    }
}

fn root(count: u64) -> Bytes {
    let manifest = Manifest::new(extents(count)).unwrap();
    manifest.store(&realm(), |_, _| {}).unwrap().as_bytes().clone()
}

fn nodes() -> Vec<Vec<u8>> {
    let manifest = Manifest::new(extents(3000)).unwrap();
    let mut plain = std::collections::HashMap::new();
    let root = manifest.store(&realm(), |id, node| drop(plain.insert(id, node))).unwrap();
    let causeway_dedup::manifest::NodeContent::Nodes(nodes) = root.content().unwrap() else { panic!("{root:?}") };
    let sample = |node: &causeway_dedup::manifest::NodeRef| {
        [&node.span.to_le_bytes()[..], &[node.level], &plain[&node.id]].concat()
    };
    nodes.iter().take(2).map(sample).collect()
}

fn chunks() -> Vec<EncodedChunk> {
    let text: Vec<u8> = (0..3000_u32).flat_map(|number| format!("line {}\n", number % 97).into_bytes()).collect();
    [text, noise(1, 700), vec![0; 20_000], b"x".to_vec()]
        .into_iter()
        .map(|plain| EncodedChunk::encode(realm().chunk_id(&plain), plain.into(), 3))
        .collect()
}

/// One byte changed, and every number changed a little: the two codecs.
fn deltas() -> Vec<Vec<u8>> {
    let base = targets::base();
    let mut edited = base.clone();
    edited[40_000] ^= 1;
    let drifted: Vec<u8> =
        base.chunks(4).flat_map(|word| [word[0].wrapping_add(3), word[1], word[2], word[3]]).collect();
    [edited, drifted]
        .iter()
        .map(|plain| {
            let bases = [Base { plain: &base, align: Some(0), depth: 0 }];
            let delta = delta::encode(plain, &bases, plain.len(), 3).unwrap();
            let decoded = delta::decode(delta.codec, &delta.body, &base, plain.len() as u32).unwrap();
            assert_eq!(decoded, plain[..]);
            [&[delta.codec.to_byte()][..], &(plain.len() as u32).to_le_bytes(), &delta.body].concat()
        })
        .collect()
}

/// The same deltas as they rest, on one base and on two.
fn delta_records() -> Vec<Vec<u8>> {
    let base = targets::base();
    let record = |sample: Vec<u8>, chunks: Vec<ChunkId>| {
        let body = Bytes::copy_from_slice(&sample[5..]);
        DeltaRecord { base: BaseRef { chunks, len: base.len() as u32 }, depth: 1, body }.to_payload().to_vec()
    };
    let ids = [vec![ChunkId([0; 32])], vec![ChunkId([2; 32]), ChunkId([3; 32])]];
    deltas().into_iter().flat_map(|sample| ids.clone().map(|ids| record(sample.clone(), ids))).collect()
}

/// A pack in which chunks rest as deltas.
fn pack_of_deltas() -> Vec<u8> {
    let disk = SimDisk::new(1);
    let dir = Path::new("/packs");
    let options = StoreOptions { reserve_bytes: 0, seed: 1, ..StoreOptions::default() };
    let kv = Arc::new(MemoryKv::new(INDEX_SPACES));
    let (store, _) = ChunkStore::open(Arc::new(disk.clone()), dir, kv, options).unwrap();
    let plain = noise(1, 12_000);
    let first = EncodedChunk::plain(realm().chunk_id(&plain), plain.clone().into());
    store.put_many(std::slice::from_ref(&first)).unwrap();
    let edited = |at: usize| {
        let mut plain = plain.clone();
        plain[at] ^= 1;
        EncodedChunk::plain(realm().chunk_id(&plain), plain.into())
    };
    let like = LikelyBase { chunks: vec![first.id], align: 0 };
    for at in [100, 5000, 11_000] {
        let chunk = edited(at);
        let bases = [(chunk.id, vec![like.clone()])].into();
        store.put_with(std::slice::from_ref(&chunk), Some(&PutHints { realm: &realm(), bases })).unwrap();
        assert!(store.get_delta(&chunk.id).unwrap().is_some(), "it rests as a delta");
    }
    store.sync().unwrap();
    file(&disk, dir, "pack")
}

fn file(disk: &SimDisk, dir: &Path, extension: &str) -> Vec<u8> {
    let mut paths = disk.list(dir).unwrap();
    paths.sort();
    let path = paths.iter().find(|path| path.extension().is_some_and(|found| found == extension)).unwrap();
    let path = if path.is_absolute() { path.clone() } else { dir.join(path) };
    let file = disk.open(&path, Open::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// The first pack of a store: still open, or sealed because another was begun.
fn pack(sealed: bool) -> Vec<u8> {
    let disk = SimDisk::new(1);
    let dir = Path::new("/packs");
    let options = StoreOptions { pack_bytes: 64 << 10, reserve_bytes: 0, seed: 1, ..StoreOptions::default() };
    let kv = Arc::new(MemoryKv::new(INDEX_SPACES));
    let (store, _) = ChunkStore::open(Arc::new(disk.clone()), dir, kv, options).unwrap();
    store.put_many(&chunks()).unwrap();
    store.sync().unwrap();
    for number in 0..if sealed { 40 } else { 0 } {
        let plain = noise(number + 2, 4000);
        store.put(&EncodedChunk::encode(realm().chunk_id(&plain), plain.into(), 3)).unwrap();
    }
    store.sync().unwrap();
    file(&disk, dir, "pack")
}

fn wal() -> Vec<u8> {
    let disk = SimDisk::new(1);
    let dir = Path::new("/wal");
    let options =
        WalOptions { segment_bytes: 64 << 10, cache_bytes: 4 << 10, queue_bytes: 1 << 20, seed: 1, threaded: false };
    let (wal, _) = Wal::open(Arc::new(disk.clone()), dir, options).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for group in [1, 2] {
        let entries = (1..20).map(|index| (index, Bytes::from(noise(index, 50 + index as usize)))).collect();
        let log = wal.group(VolumeId(group));
        runtime.block_on(log.append(entries, Box::new(|result| result.unwrap()))).unwrap();
    }
    let mut bytes = file(&disk, dir, "log");
    // What follows the records are prepared zeros; a few show what they are.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate((used + 256).min(bytes.len()));
    bytes
}

fn segment(records: u32) -> Vec<u8> {
    let mut builder = SegmentBuilder::new(RunKind::Image);
    for number in 0..records {
        builder.push(format!("key {number:08}").as_bytes(), &noise(u64::from(number), 20)).unwrap();
    }
    builder.finish(7).bytes.to_vec()
}

fn requests() -> Vec<Vec<u8>> {
    let ids = |count: u8| (0..count).map(|number| realm().chunk_id(&[number])).collect::<Vec<_>>();
    let mut bases = Bases::default();
    assert!(bases.push(1, &ids(2), -9));
    [(0, Form::Stored, Bases::default()), (3, Form::WAN, bases)]
        .into_iter()
        .map(|(count, form, bases)| ChunkRequest {
            realm: "default".into(),
            volume: Some(VolumeId(3)),
            cause: Cause::Query,
            origin: Some("zurich".parse().unwrap()),
            form,
            any_base: count > 0,
            ids: ids(count),
            bases,
        })
        .map(|request| request.encode().unwrap().to_vec())
        .collect()
}

/// Answers to the request of `targets::wire_frames`.
fn frames() -> Vec<Vec<u8>> {
    let plain: Vec<Vec<u8>> = (0..4_u8).map(|number| vec![number; 500]).collect();
    let mut stream = StreamEncoder::new(3, 20).unwrap();
    let mut piece = stream.push(0, &plain[0]).unwrap().unwrap_or_default().to_vec();
    piece.extend_from_slice(&stream.push(1, &plain[1]).unwrap().unwrap_or_default());
    piece.extend_from_slice(&stream.finish().unwrap());
    let encoded = EncodedChunk::encode(realm().chunk_id(&plain[2]), plain[2].clone().into(), 3);
    let by_itself = Frame::Chunk {
        index: 2,
        codec: encoded.codec,
        base: 0,
        raw_len: encoded.raw_len,
        payload: encoded.payload.clone(),
    };
    let end = Frame::End(EndCounts { chunks: 3, missing: 1, ..EndCounts::default() });
    let answer = [Frame::Stream(piece.into()), by_itself.clone(), Frame::Missing(vec![3]), end.clone()];
    let stored = [by_itself, Frame::Missing(vec![0, 1, 3]), end];
    let upload = [Frame::Put(encoded), Frame::Sync(1), Frame::Bitmap(vec![5].into())];
    [&answer[..], &stored, &upload]
        .iter()
        .map(|frames| {
            let frame = |frame: &Frame| {
                let bytes = frame.pieces().concat();
                [&(bytes.len() as u32).to_le_bytes()[..], &bytes].concat()
            };
            frames.iter().flat_map(frame).collect()
        })
        .collect()
}

const ATTR: Attr = Attr { mode: 0o644, uid: 1, gid: 2, mtime: Timestamp(3), ctime: Timestamp(4) };

fn contents() -> [Content; 2] {
    let root = root(200);
    let size = causeway_dedup::ManifestRoot::decode(&root).unwrap().size();
    [
        Content::Inline(Bytes::from_static(b"some bytes")),
        Content::Manifest(ManifestRef { size, root, origin: "zurich".parse().unwrap() }),
    ]
}

fn command() -> Command {
    let at = |path: &'static str| At { dir: Ino::ROOT, path: Bytes::from_static(path.as_bytes()) };
    let put = |content| Op::PutFile { at: at("a/b"), attr: ATTR, content, expect: Expect::Version(Seq(9)) };
    let mut ops: Vec<Op> = contents().into_iter().map(put).collect();
    ops.push(Op::Mkdir { at: at("c"), attr: ATTR, parents: true });
    ops.push(Op::Rename { from: at("c"), to: at("d"), no_replace: false });
    ops.push(Op::SetXattr { at: at("d"), name: "user.x".into(), value: Some("y".into()) });
    let body = RequestBody::Mutate { session: SessionId(1), number: 2, acked_below: 1, ops };
    Command { requests: vec![Request { at: Timestamp(5), body }] }
}

fn inodes() -> Vec<Inode> {
    let bodies = contents().map(Body::File).into_iter().chain([Body::Symlink("target".into())]);
    let inode = |body| Inode {
        attr: ATTR,
        nlink: 1,
        version: Seq(7),
        body,
        xattrs: vec![("user.name".into(), "value".into())],
        quota: None,
    };
    bodies.map(inode).collect()
}
