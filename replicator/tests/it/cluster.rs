//! Nodes with real stores and real QUIC, around a volume whose metadata reaches all of them at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{
    ChunkId, ClientId, ClusterId, Epoch, Ino, NodeId, Seq, SiteName, SystemClock, Timestamp, VolumeId,
};
use causeway_dedup::store::{INDEX_SPACES, PutHints};
use causeway_dedup::{ChunkSizes, ChunkStore, Chunker, EncodedChunk, Extent, ManifestBuilder, StoreOptions};
use causeway_namespace_core::command::{At, Command, Expect, Op, Outcome, Request, RequestBody, SessionId};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::inode::{Attr, Content, ManifestRef};
use causeway_namespace_core::manage::ManageOp;
use causeway_namespace_core::memory::MemoryRecords;
use causeway_namespace_core::records::{ReadError, Record, Records};
use causeway_namespace_core::root::{NodeRecord, VolumeSpec};
use causeway_replicator::{
    ChangedKeys, ChangesError, ChunkClient, ChunkService, Counters, Directory, FollowerStatus, Later, LocalChunks,
    Options, Parts, PastView, PeerSources, Replicator, ServiceLimits, VolumeSource, VolumeView, Way,
};
use causeway_repository::archive::ChunkArchive;
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::MemoryKv;
use causeway_transport::quic::{Endpoint, PeerAddr, QuicConfig};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::common::*;

pub(crate) const VOLUME: VolumeId = VolumeId(5);
pub(crate) const CLUSTER: ClusterId = ClusterId(0xcafe);

/// The metadata of one volume: a state machine and its history, the same for all nodes.
#[derive(Debug)]
pub(crate) struct Volume {
    state: Mutex<State>,
    applied: watch::Sender<Seq>,
    pub(crate) spec: Mutex<(VolumeSpec, Epoch)>,
    pub(crate) leader: Mutex<(NodeId, u64)>,
}

#[derive(Debug)]
struct State {
    records: Arc<MemoryRecords>,
    log: Vec<(Seq, Vec<Bytes>)>,
    past: BTreeMap<Seq, Arc<MemoryRecords>>,
    oldest: Seq,
    session: SessionId,
    number: u64,
}

pub(crate) fn site(name: &str) -> SiteName {
    name.parse().unwrap()
}

impl Volume {
    pub(crate) fn new(home: &str, replicas: &[&str]) -> Arc<Self> {
        let spec = VolumeSpec {
            name: "data".to_owned(),
            mount: Bytes::from_static(b"/data"),
            home: site(home),
            survive: None,
            residency: Default::default(),
            learners: Vec::new(),
            voters: vec![NodeId(1)],
            replicas: replicas.iter().map(|name| site(name)).collect(),
            caches: vec![],
            archive: true,
            chunk_bytes_avg: 16 << 10,
            inline_bytes_max: 4096,
            realm: "default".to_owned(),
        };
        let state = State {
            records: Arc::default(),
            log: Vec::new(),
            past: BTreeMap::new(),
            oldest: Seq(0),
            session: SessionId(0),
            number: 0,
        };
        let volume = Arc::new(Self {
            state: Mutex::new(state),
            applied: watch::channel(Seq(0)).0,
            spec: Mutex::new((spec, Epoch(1))),
            leader: Mutex::new((NodeId(1), 1)),
        });
        let opened = volume.commit(RequestBody::OpenSession { client: ClientId(1) });
        let Outcome::Session(session) = opened else { panic!("{opened:?}") };
        volume.state.lock().unwrap().session = session;
        volume
    }

    fn commit(&self, body: RequestBody) -> Outcome {
        let mut state = self.state.lock().unwrap();
        let seq = Seq(state.log.last().map_or(0, |(seq, _)| seq.get()) + 1);
        let mut records = MemoryRecords::clone(&state.records);
        let command = Command { requests: vec![Request { at: Timestamp(seq.0 as i64), body }] };
        let applied = records.apply(seq, &command).unwrap();
        state.records = Arc::new(records);
        let now = state.records.clone();
        state.past.insert(seq, now);
        state.log.push((seq, applied.changes.into_iter().map(|change| change.key).collect()));
        drop(state);
        self.applied.send_replace(seq);
        applied.outcomes.into_iter().next().unwrap()
    }

    pub(crate) fn mutate(&self, ops: Vec<Op>) -> Seq {
        let body = {
            let mut state = self.state.lock().unwrap();
            state.number += 1;
            let (session, number) = (state.session, state.number);
            RequestBody::Mutate { session, number, acked_below: number, ops }
        };
        let outcome = self.commit(body);
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        self.seq()
    }

    pub(crate) fn seq(&self) -> Seq {
        *self.applied.borrow()
    }

    pub(crate) fn digest(&self) -> Digest {
        self.state.lock().unwrap().records.digest()
    }

    /// As a node sees it.
    pub(crate) fn seen_by(self: &Arc<Self>, node: &Node) -> Arc<dyn VolumeSource> {
        Arc::new(Seen { volume: self.clone(), node: node.id })
    }

    /// Names the newest state; gives its seq.
    pub(crate) fn snapshot(&self, name: &str) -> Seq {
        let op = ManageOp::CreateSnapshot { name: Bytes::copy_from_slice(name.as_bytes()) };
        let body = {
            let mut state = self.state.lock().unwrap();
            state.number += 1;
            let (session, number) = (state.session, state.number);
            RequestBody::Manage { session, number, acked_below: number, op }
        };
        let outcome = self.commit(body);
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        self.seq()
    }

    /// Changes up to here are not kept any more.
    pub(crate) fn forget_changes(&self) {
        let seq = self.seq();
        self.state.lock().unwrap().oldest = seq;
    }
}

pub(crate) fn at(path: &str) -> At {
    At { dir: Ino::ROOT, path: Bytes::copy_from_slice(path.as_bytes()) }
}

const ATTR: Attr = Attr { mode: 0o644, uid: 0, gid: 0, mtime: Timestamp(0), ctime: Timestamp(0) };

pub(crate) fn put(path: &str, content: Content) -> Op {
    Op::PutFile { at: at(path), attr: ATTR, content, expect: Expect::Any }
}

pub(crate) fn rename(from: &str, to: &str) -> Op {
    Op::Rename { from: at(from), to: at(to), no_replace: true }
}

/// A node's view of the volume.
#[derive(Debug)]
struct Seen {
    volume: Arc<Volume>,
    node: NodeId,
}

#[derive(Debug)]
struct View {
    records: Arc<MemoryRecords>,
    seq: Seq,
}

impl Records for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.records.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, ReadError> {
        self.records.scan(from, to, limit)
    }
}

impl VolumeView for View {
    fn seq(&self) -> Seq {
        self.seq
    }

    fn digest(&self) -> Digest {
        self.records.digest()
    }

    fn older(&self, _: &(Bytes, Bytes), _: &[u8], _: usize) -> Result<(Vec<Record>, Option<Bytes>), ReadError> {
        Ok((Vec::new(), None)) // this volume keeps its newest state only
    }

    fn line(&self) -> causeway_namespace_core::lineage::Lineage {
        Default::default()
    }

    fn keeps(&self, seq: Seq) -> bool {
        seq == self.seq
    }
}

impl VolumeSource for Seen {
    fn id(&self) -> VolumeId {
        VOLUME
    }

    fn spec(&self) -> (VolumeSpec, Epoch) {
        self.volume.spec.lock().unwrap().clone()
    }

    fn watch_applied(&self) -> watch::Receiver<Seq> {
        self.volume.applied.subscribe()
    }

    fn view(&self) -> Result<Box<dyn VolumeView>, ReadError> {
        let state = self.volume.state.lock().unwrap();
        let seq = state.log.last().map_or(Seq(0), |(seq, _)| *seq);
        Ok(Box::new(View { records: state.records.clone(), seq }))
    }

    fn view_at(&self, seq: Seq) -> Result<Option<Box<dyn PastView>>, ReadError> {
        let state = self.volume.state.lock().unwrap();
        let records = state.past.get(&seq).filter(|_| seq >= state.oldest).cloned();
        Ok(records.map(|records| Box::new(View { records, seq }) as Box<dyn PastView>))
    }

    fn changes(&self, after: Seq, until: Seq) -> Result<ChangedKeys, ChangesError> {
        let state = self.volume.state.lock().unwrap();
        if after < state.oldest {
            return Err(ChangesError::TooOld(after));
        }
        let keys: Vec<Bytes> = state
            .log
            .iter()
            .filter(|(seq, _)| *seq > after && *seq <= until)
            .flat_map(|(_, keys)| keys.iter().cloned())
            .collect();
        Ok(Box::new(keys.into_iter().map(Ok)))
    }

    fn leads(&self) -> Option<u64> {
        let (leader, term) = *self.volume.leader.lock().unwrap();
        (leader == self.node).then_some(term)
    }
}

/// Who is where. Shared by the nodes of a test.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) nodes: Mutex<Vec<NodeRecord>>,
    pub(crate) volume: Mutex<Option<Arc<Volume>>>,
    /// A site that is asked last.
    pub(crate) far: Mutex<Option<SiteName>>,
}

impl Directory for Book {
    fn nodes(&self) -> Vec<NodeRecord> {
        self.nodes.lock().unwrap().clone()
    }

    fn volume(&self, _: VolumeId) -> Option<VolumeSpec> {
        let volume = self.volume.lock().unwrap();
        let spec = volume.as_ref()?.spec.lock().unwrap().0.clone();
        Some(spec)
    }

    fn way(&self, to: &SiteName) -> Way {
        let far = self.far.lock().unwrap().as_ref() == Some(to);
        Way { rtt: Duration::from_millis(if far { 60_000 } else { 1 }), ..Way::default() }
    }
}

/// Bytes that do not change between runs of a node: its folder.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn packs(&self) -> Vec<PathBuf> {
        let dir = std::fs::read_dir(self.0.path().join("chunks")).unwrap();
        let mut paths: Vec<PathBuf> = dir.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
        paths.sort();
        paths
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) site: SiteName,
    pub(crate) store: Arc<ChunkStore>,
    pub(crate) replicator: Arc<Replicator>,
    pub(crate) endpoint: Endpoint,
    pub(crate) addr: PeerAddr,
}

/// Settings that let tests of failures end soon.
pub(crate) fn options() -> Options {
    let mut options = Options { archive_interval: Duration::from_millis(50), ..Options::default() };
    options.limits.failures_max = 3;
    options.limits.batch_bytes_max = 1 << 20;
    options.limits.retry_max = Duration::from_millis(200);
    options
}

impl Node {
    pub(crate) fn start(
        trust: &Trust,
        book: &Arc<Book>,
        home: &Home,
        site_name: &str,
        id: u64,
        archive: Option<ChunkArchive>,
    ) -> Self {
        Self::start_over(trust, book, home, (site_name, id), archive, |store| store)
    }

    /// With something between the node and its chunk store.
    pub(crate) fn start_over(
        trust: &Trust,
        book: &Arc<Book>,
        home: &Home,
        (site_name, id): (&str, u64),
        archive: Option<ChunkArchive>,
        over: impl FnOnce(Arc<ChunkStore>) -> Arc<dyn LocalChunks>,
    ) -> Self {
        let (id, site) = (NodeId(id), site(site_name));
        let store = Arc::new(open(&home.path("chunks")));
        let counters = Arc::<Counters>::default();
        let later = Arc::new(Later::default());
        let local = over(store.clone());
        let limits = ServiceLimits { ensure_timeout: PATIENCE, ..ServiceLimits::default() };
        let service = ChunkService::new(local.clone(), Arc::new(OneRealm), later.clone(), counters.clone(), limits);
        let peer = node(site_name, id.0);
        let local_addr: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let endpoint =
            Endpoint::bind(local_addr, trust.identity(&peer), QuicConfig::new(CLUSTER), Arc::new(service)).unwrap();
        let client = ChunkClient::new(endpoint.clone(), counters.clone(), Duration::from_secs(3));
        let sources = PeerSources::new((site.clone(), id), book.clone(), client.clone(), archive.clone());
        let parts = Parts {
            cluster: CLUSTER,
            site: site.clone(),
            local,
            realms: Arc::new(OneRealm),
            sources: Arc::new(sources),
            archive,
            counters,
            clock: Arc::new(SystemClock),
            disk: Arc::new(RealDisk),
            dir: home.path("watermarks"),
        };
        let replicator = Replicator::new(parts, options()).unwrap();
        later.set(&replicator.elsewhere());
        let addr = address(&endpoint, &peer);
        let mut nodes = book.nodes.lock().unwrap();
        nodes.retain(|node| node.id != id);
        let record = NodeRecord {
            id,
            site: site.clone(),
            store: None,
            grpc: String::new(),
            quic: addr.addr.clone(),
            witness: false,
            state: Default::default(),
        };
        nodes.push(record);
        drop(nodes);
        Self { id, site, store, replicator, endpoint, addr }
    }

    pub(crate) fn attach(&self, volume: &Arc<Volume>) {
        self.replicator.attach(Arc::new(Seen { volume: volume.clone(), node: self.id }));
    }

    /// Waits until this node says that it is in sync up to `seq`.
    pub(crate) async fn in_sync(&self, seq: Seq) -> FollowerStatus {
        self.status_until(|status| status.watermark.is_some_and(|watermark| watermark.seq >= seq)).await
    }

    pub(crate) async fn status_until(&self, until: impl FnMut(&FollowerStatus) -> bool) -> FollowerStatus {
        let mut status = self.replicator.watch_follower(VOLUME).unwrap();
        let reached = tokio::time::timeout(PATIENCE, status.wait_for(until)).await;
        match reached {
            Ok(status) => status.unwrap().clone(),
            Err(_) => panic!("{}: {:?}", self.site, self.replicator.status(VOLUME)),
        }
    }

    /// Whether any chunk that [`Node::write`] cuts these bytes into is not here.
    pub(crate) fn lacks_any_of(&self, bytes: &[u8]) -> bool {
        let here = self.chunk_ids();
        let mut chunks = Chunker::new(bytes, ChunkSizes::from_avg(16 << 10).unwrap());
        chunks.any(|plain| !here.contains(&realm().chunk_id(&plain.unwrap())))
    }

    /// Cuts a file, stores its chunks here durably, and gives what the namespace is told.
    pub(crate) fn write(&self, bytes: &[u8]) -> Content {
        self.write_with(bytes, None)
    }

    /// The same, as uploads do: chunks that resemble others rest as deltas.
    pub(crate) fn upload(&self, bytes: &[u8]) -> Content {
        self.write_with(bytes, Some(&PutHints::of(&realm())))
    }

    fn write_with(&self, bytes: &[u8], hints: Option<&PutHints<'_>>) -> Content {
        let mut chunks = Vec::new();
        let mut builder = ManifestBuilder::new(realm());
        for plain in Chunker::new(bytes, ChunkSizes::from_avg(16 << 10).unwrap()) {
            let plain = plain.unwrap();
            let id = realm().chunk_id(&plain);
            let len = plain.len() as u32;
            chunks.push(EncodedChunk::encode(id, plain, 3));
            let mut meta = Vec::new();
            builder.push(Extent::Chunk { id, len }, |id, plain| meta.push(EncodedChunk::encode(id, plain, 3))).unwrap();
            chunks.extend(meta);
        }
        let mut meta = Vec::new();
        let root = builder.finish(|id, plain| meta.push(EncodedChunk::encode(id, plain, 3))).unwrap();
        chunks.extend(meta);
        self.store.put_with(&chunks, hints).unwrap();
        self.store.sync().unwrap();
        let origin = self.site.clone();
        Content::Manifest(ManifestRef { size: bytes.len() as u64, root: root.as_bytes().clone(), origin })
    }

    pub(crate) async fn stop(&self) {
        self.replicator.shutdown().await;
        self.endpoint.shutdown(Duration::from_millis(100)).await;
    }

    pub(crate) fn chunk_ids(&self) -> BTreeSet<ChunkId> {
        self.store.iter_ids().map(Result::unwrap).collect()
    }
}

fn open(dir: &Path) -> ChunkStore {
    // The index is in memory: each start builds it from the packs, as after a lost index.
    let kv = Arc::new(MemoryKv::new(INDEX_SPACES));
    let options = StoreOptions { reserve_bytes: 0, ..StoreOptions::default() };
    ChunkStore::open(Arc::new(RealDisk), dir, kv, options).unwrap().0
}
