//! The bodies of the fuzz targets: each takes any bytes, and panics if a decoder does something that it must not.
//!
//! `fuzz/fuzz_targets` runs them under cargo-fuzz; `chaos-tests/tests/decoders.rs` replays the corpus and mutations of it with
//! the stable compiler.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use causeway_base::{ChunkId, VolumeId};
use causeway_dedup::delta::{DeltaRecord, Resolver};
use causeway_dedup::manifest::{NodeContent, NodeRef};
use causeway_dedup::store::{ChunkStore, INDEX_SPACES, StoreOptions};
use causeway_dedup::{ChunkError, Codec, EncodedChunk, Manifest, ManifestRoot, Realm};
use causeway_namespace_core::command::Command;
use causeway_namespace_core::encode;
use causeway_namespace_core::inode::Inode;
use causeway_namespace_raft::wal::{Wal, WalOptions};
use causeway_replicator::wire::{ChunkRequest, Frame, Received, Receiver};
use causeway_repository::run::{Loaded, RunKind};
use causeway_storage::disk::{Disk, Open, SimDisk};
use causeway_storage::kv::MemoryKv;

/// A decoder under test.
pub type Target = fn(&[u8]);

/// All of them, by the names of their folders in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("chunk", chunk),
    ("command", command),
    ("delta", delta),
    ("delta_record", delta_record),
    ("inode", inode),
    ("manifest_node", manifest_node),
    ("manifest_root", manifest_root),
    ("pack", pack),
    ("request", request),
    ("run", run),
    ("wal", wal),
    ("wire_frames", wire_frames),
];

/// Of the log's segments.
const SEGMENT_BYTES: usize = 64 << 10;

/// The realm of the corpus.
#[must_use]
pub fn realm() -> Realm {
    Realm::new("fuzz", *b"a key that everybody may know...")
}

/// A root that decodes is the encoding of what it decodes to, and adds up.
pub fn manifest_root(bytes: &[u8]) {
    root(bytes);
    // And with a checksum that holds, as an attacker would seal it.
    if let Some(covered) = bytes.len().checked_sub(4) {
        let mut sealed = bytes[..covered].to_vec();
        sealed.extend_from_slice(&crc32c::crc32c(&sealed).to_le_bytes());
        root(&sealed);
    }
}

fn root(bytes: &[u8]) {
    let Ok(root) = ManifestRoot::decode(bytes) else { return };
    assert_eq!(root.as_bytes(), bytes);
    match root.content().expect("it was checked") {
        NodeContent::Extents(extents) => {
            let manifest = Manifest::new(extents).expect("each extent was checked");
            assert_eq!(manifest.size, root.size());
            assert_eq!(manifest.store(&realm(), |_, _| {}).expect("it was one").size(), root.size());
        }
        NodeContent::Nodes(nodes) => assert_eq!(nodes.iter().map(|node| node.span).sum::<u64>(), root.size()),
    }
    let walked = root.walk(root.size() / 2, |_| Err::<Bytes, ()>(())).take(100_000).last();
    assert!(root.level() > 0 || walked.is_none_or(|placed| placed.is_ok()));
}

/// Eight bytes of span and one of level, then a node.
pub fn manifest_node(bytes: &[u8]) {
    let Some((span, rest)) = bytes.split_first_chunk() else { return };
    let Some((level, plain)) = rest.split_first() else { return };
    let span = u64::from_le_bytes(*span);
    let node = NodeRef { id: ChunkId([0; 32]), span, level: *level };
    let sum: u64 = match node.open(plain) {
        Err(_) => return,
        Ok(NodeContent::Extents(extents)) => extents.iter().map(causeway_dedup::Extent::len).sum(),
        Ok(NodeContent::Nodes(nodes)) => {
            assert!(nodes.iter().all(|below| below.level + 1 == node.level));
            nodes.iter().map(|below| below.span).sum()
        }
    };
    assert_eq!(sum, span);
}

/// The wire header of a chunk and its payload: what decodes is what the id names.
pub fn chunk(bytes: &[u8]) {
    let Some((header, payload)) = bytes.split_first_chunk::<{ EncodedChunk::HEADER_BYTES }>() else { return };
    let Ok((mut chunk, len)) = EncodedChunk::from_header(header) else { return };
    chunk.payload = Bytes::copy_from_slice(&payload[..payload.len().min(len)]);
    if let Ok(plain) = chunk.decode(&realm()) {
        assert_eq!(plain.len(), chunk.raw_len as usize);
        assert_eq!(realm().chunk_id(&plain), chunk.id);
    }
}

/// What deltas of the corpus are made against.
#[must_use]
pub fn base() -> Vec<u8> {
    (0..20_000_u32).flat_map(|number| (number.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect()
}

/// A codec, four bytes of plain length, and the body of a delta against [`base`].
pub fn delta(bytes: &[u8]) {
    let Some((codec, rest)) = bytes.split_first() else { return };
    let Some((raw_len, body)) = rest.split_first_chunk() else { return };
    let (Ok(codec), raw_len) = (Codec::from_byte(*codec), u32::from_le_bytes(*raw_len)) else { return };
    if let Ok(plain) = causeway_dedup::delta::decode(codec, body, &base(), raw_len) {
        assert_eq!(plain.len(), raw_len as usize);
    }
}

/// The payload of a delta at rest, which names its bases: what is taken is written the same.
pub fn delta_record(bytes: &[u8]) {
    let payload = Bytes::copy_from_slice(bytes);
    let Ok(record) = DeltaRecord::from_payload(&payload) else { return };
    assert_eq!(record.to_payload(), payload);
    assert!(record.depth > 0 && !record.base.chunks.is_empty());
    // Every base is as [`base`]: the chain must end, and no more be read than a reader may.
    for codec in [Codec::ZstdPrefix, Codec::Planes] {
        let delta = EncodedChunk { id: ChunkId([1; 32]), raw_len: 80_000, codec, payload: payload.clone() };
        let mut reads = 0_usize;
        let read = |id: &ChunkId| -> Result<Option<EncodedChunk>, ChunkError> {
            reads += 1;
            // Odd ones stand on themselves.
            let odd = id.as_bytes()[0] % 2 == 1;
            Ok(Some(if odd { delta.clone() } else { EncodedChunk::plain(*id, base().into()) }))
        };
        if let Ok(plain) = Resolver::new(read).plain::<ChunkError>(&delta) {
            assert_eq!(plain.len(), 80_000);
        }
        assert!(reads <= 33, "{reads} reads");
    }
}

/// A pack file: the store opens and says what is wrong, or gives what was stored.
pub fn pack(bytes: &[u8]) {
    stored(bytes);
}

/// How many chunks a store finds in a pack.
pub fn stored(bytes: &[u8]) -> usize {
    let disk = SimDisk::new(1);
    let dir = Path::new("/packs");
    // The number is in the header too: that of a store's first pack.
    put(&disk, dir, "00000000.pack", bytes);
    let kv = Arc::new(MemoryKv::new(INDEX_SPACES));
    let options = StoreOptions { reserve_bytes: 0, seed: 1, ..StoreOptions::default() };
    let Ok((store, _)) = ChunkStore::open(Arc::new(disk), dir, kv, options) else { return 0 };
    let ids: Vec<ChunkId> = store.iter_ids().flatten().take(10_000).collect();
    for id in &ids {
        if let Ok(Some(chunk)) = store.get(id) {
            assert_eq!(chunk.id, *id);
            // A pack's checksums are no proof against forgery; the id is.
            let _ = chunk.decode(&realm());
        }
    }
    ids.len()
}

/// A segment of the write-ahead log.
pub fn wal(bytes: &[u8]) {
    logged(bytes);
}

/// How many entries a log finds in a segment.
pub fn logged(bytes: &[u8]) -> usize {
    let disk = SimDisk::new(1);
    let dir = Path::new("/wal");
    // A segment has its full length from the start.
    let mut segment = bytes.to_vec();
    segment.resize(segment.len().max(SEGMENT_BYTES), 0);
    put(&disk, dir, "00000000000000000001.log", &segment);
    let options = WalOptions {
        segment_bytes: SEGMENT_BYTES as u64,
        cache_bytes: 4 << 10,
        queue_bytes: 1 << 20,
        seed: 1,
        threaded: false,
    };
    let Ok((wal, _)) = Wal::open(Arc::new(disk), dir, options) else { return 0 };
    let mut entries = 0;
    for group in wal.groups().into_iter().chain([VolumeId(1)]) {
        let log = wal.group(group);
        let _ = (log.vote(), log.purged());
        entries += log.read(log.range(), 1 << 20).map_or(0, |read| read.len());
    }
    entries
}

fn put(disk: &SimDisk, dir: &Path, name: &str, bytes: &[u8]) {
    disk.create_dir_all(dir).expect("a folder in memory");
    let file = disk.open(&dir.join(name), Open::CreateNew).expect("a file in memory");
    file.write_all_at(bytes, 0).expect("memory");
    file.sync_data().expect("memory");
    disk.sync_dir(dir).expect("memory");
}

/// A segment of an image's run, and what it lists.
pub fn run(bytes: &[u8]) {
    for kind in [RunKind::Image, RunKind::ChunkIndex] {
        let Ok(loaded) = Loaded::open(Bytes::copy_from_slice(bytes), kind) else { continue };
        let _ = loaded.iter().take(100_000).last();
    }
}

/// A request of the chunk service: what decodes encodes to something that decodes to the same.
pub fn request(bytes: &[u8]) {
    let Ok(request) = ChunkRequest::decode(bytes) else { return };
    if let Ok(again) = request.encode() {
        assert_eq!(ChunkRequest::decode(&again).as_ref(), Ok(&request));
    }
}

/// Frames, each with four bytes of length before it, as a client receives them.
pub fn wire_frames(bytes: &[u8]) {
    let plain: Vec<Bytes> = (0..4_u8).map(|number| vec![number; 500].into()).collect();
    let chunks = plain.iter().map(|plain| (realm().chunk_id(plain), None)).collect();
    let mut receiver = Receiver::new(realm(), chunks);
    let mut rest = bytes;
    while let Some((len, behind)) = rest.split_first_chunk() {
        let len = (u32::from_le_bytes(*len) as usize).min(behind.len());
        let (frame, behind) = behind.split_at(len);
        rest = behind;
        let Ok(frame) = Frame::parse(Bytes::copy_from_slice(frame)) else { continue };
        let taken = receiver.frame(frame, |received| {
            if let Received::Chunk { index, plain: found, .. } = received {
                assert_eq!(found, plain[index]);
            }
        });
        if taken.is_err() {
            return;
        }
    }
}

/// An entry of a volume's log.
pub fn command(bytes: &[u8]) {
    if let Ok(command) = Command::decode(bytes) {
        assert_eq!(Command::decode(&command.encode()).ok(), Some(command));
    }
}

/// An inode as the state store and the images keep it.
pub fn inode(bytes: &[u8]) {
    if let Ok(inode) = encode::from_bytes::<Inode>(bytes, 1 << 20) {
        assert_eq!(encode::from_bytes(&encode::to_bytes(&inode), 1 << 20).ok(), Some(inode));
    }
}
