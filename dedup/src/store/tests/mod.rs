mod absent;
mod basic;
mod blocks;
mod crash;
mod damage;
mod deltas;
mod gc;
mod scrub;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use causeway_base::ChunkId;
use causeway_storage::disk::{Disk, SimDisk};
use causeway_storage::kv::MemoryKv;

use super::*;
use crate::chunk::LEVEL_DEFAULT;
use crate::{Codec, Realm};

fn realm() -> Realm {
    Realm::new("test", [7; 32])
}

/// A chunk of `len` bytes that depend on `number`; every third one compresses.
fn chunk(number: u64, len: usize) -> EncodedChunk {
    let mut plain = vec![0; len];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut plain);
    if number.is_multiple_of(3) {
        plain[len / 2..].fill(b'.');
    }
    EncodedChunk::encode(realm().chunk_id(&plain), plain.into(), LEVEL_DEFAULT)
}

/// Small packs and no reserve, so that a few chunks make several packs; each chunk a record, unless a test is about blocks.
fn options() -> StoreOptions {
    StoreOptions { pack_bytes: 64 << 10, reserve_bytes: 0, block_bytes: 0, seed: 42, ..StoreOptions::default() }
}

fn kv() -> Arc<MemoryKv> {
    Arc::new(MemoryKv::new(INDEX_SPACES))
}

struct World {
    disk: SimDisk,
    kv: Arc<MemoryKv>,
    block_bytes: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        Self { disk: SimDisk::new(seed), kv: kv(), block_bytes: 0 }
    }

    fn options(&self) -> StoreOptions {
        StoreOptions { block_bytes: self.block_bytes, ..options() }
    }

    fn open(&self) -> (ChunkStore, RecoveryReport) {
        ChunkStore::open(Arc::new(self.disk.clone()), "/packs", self.kv.clone(), self.options()).unwrap()
    }

    /// As after a power cut, in the worst case for the index.
    fn crash(&mut self) {
        self.disk.crash();
        self.kv = Arc::new(self.kv.after_power_cut());
    }

    fn lose_index(&mut self) {
        self.kv = kv();
    }

    fn flip(&self, pack: u32, offset: u64) {
        self.disk.flip_bit(&pack_path(pack), offset, 3).unwrap();
    }
}

fn pack_path(pack: u32) -> std::path::PathBuf {
    Path::new("/packs").join(format!("{pack:08x}.pack"))
}

fn location(store: &ChunkStore, chunk: &EncodedChunk) -> Location {
    store.locate(&chunk.id).unwrap().unwrap()
}

/// The same verified bytes; out of a block a chunk comes plain.
fn assert_same(found: &EncodedChunk, chunk: &EncodedChunk) {
    assert_eq!(found.decode(&realm()).unwrap(), chunk.decode(&realm()).unwrap());
}

/// All chunks are there, durable and right.
fn assert_holds(store: &ChunkStore, chunks: &[EncodedChunk]) {
    let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
    assert_eq!(store.not_durable(&ids).unwrap(), []);
    for (found, chunk) in store.get_many(&ids).unwrap().iter().zip(chunks) {
        assert_same(found.as_ref().unwrap(), chunk);
    }
}
