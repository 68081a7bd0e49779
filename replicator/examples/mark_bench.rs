//! How fast a mark walks: a volume of many small files, each one chunk, and some large ones with manifest nodes. The records
//! are in memory, so that the walk is measured and not the state store; the manifest nodes are in a pack store.
//!
//! `cargo run --release -p causeway-replicator --example mark_bench -- [FILES] [LARGE] [CHUNKS OF A LARGE ONE]`
//! (1,000,000 and 64 with 8,192 by default)

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use causeway_base::{ChunkId, ClusterId, Ino, Seq, SiteName, SystemClock, Timestamp, VolumeId};
use causeway_dedup::{
    ChunkStore, EncodedChunk, Extent, INDEX_SPACES, ManifestBuilder, ManifestError, Realm, StoreOptions,
};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::inode::{Attr, Body, Content, Inode, ManifestRef};
use causeway_namespace_core::listing::Listed;
use causeway_namespace_core::memory::MemoryRecords;
use causeway_namespace_core::records::{ReadError, Record, Records};
use causeway_namespace_core::{encode, key};
use causeway_replicator::counters::Counters;
use causeway_replicator::keeper::{
    GcAsk, Keeper, KeeperOptions, KeeperParts, Outcome, Pages, RootVolume, Roots, RootsError, list,
};
use causeway_replicator::source::{Candidate, Sources};
use causeway_replicator::{LocalError, Options, Parts, Realms, Replicator, VolumeView};
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::{FjallKv, FjallOptions};

#[derive(Debug)]
struct View(Arc<MemoryRecords>);

impl Records for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.0.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, ReadError> {
        self.0.scan(from, to, limit)
    }
}

impl VolumeView for View {
    fn seq(&self) -> Seq {
        Seq(1)
    }

    fn digest(&self) -> Digest {
        self.0.digest()
    }

    fn older(&self, _: &(Bytes, Bytes), _: &[u8], _: usize) -> Result<(Vec<Record>, Option<Bytes>), ReadError> {
        Ok((Vec::new(), None))
    }

    fn line(&self) -> causeway_namespace_core::lineage::Lineage {
        Default::default()
    }

    fn keeps(&self, _: Seq) -> bool {
        true
    }
}

#[derive(Debug)]
struct OneVolume(Arc<MemoryRecords>);

#[async_trait]
impl Roots for OneVolume {
    async fn is_held_elsewhere(&self, _: VolumeId, _: Duration) -> bool {
        false
    }

    async fn volumes(&self, _: Duration) -> Result<Vec<RootVolume>, RootsError> {
        Ok(vec![RootVolume {
            id: VolumeId(1),
            name: "data".into(),
            realm: "bench".into(),
            follows: true,
            evictable: false,
        }])
    }

    async fn manifests(&self, _: VolumeId, since: Option<Listed>, _: Duration) -> Result<Pages, RootsError> {
        Ok(list(Arc::new(View(self.0.clone())), since))
    }

    async fn view(&self, _: VolumeId, _: Duration) -> Result<Option<Arc<dyn VolumeView>>, RootsError> {
        Ok(Some(Arc::new(View(self.0.clone()))))
    }
}

#[derive(Debug)]
struct OneRealm;

impl Realms for OneRealm {
    fn realm(&self, _: &str) -> Option<Realm> {
        Some(realm())
    }

    fn all(&self) -> Result<Vec<Realm>, LocalError> {
        Ok(vec![realm()])
    }
}

#[derive(Debug)]
struct Nobody;

impl Sources for Nobody {
    fn candidates(&self, _: Option<VolumeId>, _: Option<&SiteName>) -> Vec<Candidate> {
        Vec::new()
    }
}

fn realm() -> Realm {
    Realm::new("bench", [1; 32])
}

/// A manifest of chunks that are only names, and its nodes.
fn manifest(file: u64, chunks: u64, nodes: &mut Vec<EncodedChunk>) -> Result<Bytes, ManifestError> {
    let mut builder = ManifestBuilder::new(realm());
    for chunk in 0..chunks {
        let id = ChunkId(*blake3::hash(&[file.to_le_bytes(), chunk.to_le_bytes()].concat()).as_bytes());
        builder.push(Extent::Chunk { id, len: 64 << 10 }, |id, plain| nodes.push(EncodedChunk::plain(id, plain)))?;
    }
    Ok(Bytes::copy_from_slice(builder.finish(|id, plain| nodes.push(EncodedChunk::plain(id, plain)))?.as_bytes()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>());
    let files = args.next().transpose()?.unwrap_or(1_000_000);
    let large = args.next().transpose()?.unwrap_or(64);
    let chunks = args.next().transpose()?.unwrap_or(8_192);
    let folder = tempfile::tempdir()?;
    let kv = Arc::new(FjallKv::open(&folder.path().join("index"), INDEX_SPACES, &FjallOptions::default())?);
    let options = StoreOptions { reserve_bytes: 0, seed: 7, ..StoreOptions::default() };
    let (store, _) = ChunkStore::open(Arc::new(RealDisk), folder.path().join("packs"), kv, options)?;
    let store = Arc::new(store);

    let site: SiteName = "zurich".parse()?;
    let mut records = MemoryRecords::new();
    let (mut nodes, mut node_count) = (Vec::new(), 0);
    for number in 0..files + large {
        let count = if number < files { 1 } else { chunks };
        let root = manifest(number, count, &mut nodes)?;
        let content = Content::Manifest(ManifestRef { size: count * (64 << 10), root, origin: site.clone() });
        let attr = Attr { mode: 0o644, uid: 1, gid: 1, mtime: Timestamp(1), ctime: Timestamp(1) };
        let body = Body::File(content);
        let inode = Inode { attr, nlink: 1, version: Seq(1), body, xattrs: Vec::new(), quota: None };
        records.put(key::inode(Ino(number + 2)), encode::to_bytes(&inode));
        if !nodes.is_empty() {
            node_count += nodes.len();
            store.put_many(&std::mem::take(&mut nodes))?;
        }
    }
    store.sync()?;
    let named = files + large * chunks + node_count as u64;
    println!("{files} files of one chunk, {large} of {chunks}; {node_count} manifest nodes, {named} chunks named");

    let parts = Parts {
        cluster: ClusterId(1),
        site,
        local: store.clone(),
        realms: Arc::new(OneRealm),
        sources: Arc::new(Nobody),
        archive: None,
        counters: Arc::new(Counters::default()),
        clock: Arc::new(SystemClock),
        disk: Arc::new(RealDisk),
        dir: folder.path().join("sync"),
    };
    let roots = Arc::new(OneVolume(Arc::new(records)));
    let keeper = Keeper::new(
        KeeperParts {
            store,
            replicator: Replicator::new(parts, Options::default())?,
            realms: Arc::new(OneRealm),
            roots: roots.clone(),
            clock: Arc::new(SystemClock),
        },
        KeeperOptions::default(),
    );
    let began = Instant::now();
    let mut pages = list(Arc::new(View(roots.0.clone())), None);
    let mut listed = 0;
    while let Some(page) = pages.recv().await {
        listed += page?.manifests.len();
    }
    let list_seconds = began.elapsed().as_secs_f64();
    println!("listing alone: {listed} manifests in {list_seconds:.2} s, {:.0} a second", listed as f64 / list_seconds);
    for _ in 0..3 {
        let ask = GcAsk { dry_run: true, full_speed: true, ..GcAsk::default() };
        let Outcome::Done(report) = keeper.gc(None, ask, Duration::from_secs(3600)).await.1 else {
            return Err("the collection failed".into());
        };
        let seconds = report.marked_in.as_secs_f64();
        println!(
            "mark: {seconds:.2} s; {:.0} files, {:.0} chunks, {:.0} manifest nodes a second; {} reached",
            (files + large) as f64 / seconds,
            named as f64 / seconds,
            node_count as f64 / seconds,
            report.reached
        );
    }
    Ok(())
}
