//! Nodes, realms and data for the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use causeway_base::{ChunkId, ClusterId, NodeId, RetryClass, SystemClock};
use causeway_dedup::{EncodedChunk, Realm};
use causeway_replicator::wire::{Cause, Refusal};
use causeway_replicator::{
    About, ChunkClient, ChunkService, Counters, LocalChunks, LocalError, Needed, PutCounts, ReadThrough, Realms,
    ServiceLimits,
};
use causeway_transport::quic::{Endpoint, Handler, NoService, PeerAddr, QuicConfig};
use causeway_transport::{CertificateAuthority, ExpectPeer, Identity, IdentityStore, PeerId};

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn realm() -> Realm {
    Realm::new("default", [7; 32])
}

pub(crate) fn about() -> About {
    About { realm: realm(), volume: None, cause: Cause::Replication }
}

pub(crate) fn node(site: &str, node: u64) -> PeerId {
    PeerId::node(site.parse().unwrap(), NodeId(node))
}

/// A cluster's CA.
pub(crate) struct Trust(CertificateAuthority);

impl Trust {
    pub(crate) fn new() -> Self {
        Self(CertificateAuthority::create("test.example".parse().unwrap(), Arc::new(SystemClock)).unwrap())
    }

    pub(crate) fn identity(&self, peer: &PeerId) -> Arc<IdentityStore> {
        let issued = self.0.issue(peer, Duration::from_secs(3600)).unwrap();
        IdentityStore::new(Identity::from_issued(&issued).unwrap(), Arc::new(SystemClock))
    }

    pub(crate) fn endpoint(&self, peer: &PeerId, handler: Arc<dyn Handler>) -> Endpoint {
        let identity = self.identity(peer);
        let local: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        Endpoint::bind(local, identity, QuicConfig::new(ClusterId(0xcafe)), handler).unwrap()
    }

    pub(crate) fn client(&self, peer: &PeerId) -> ChunkClient {
        ChunkClient::new(self.endpoint(peer, Arc::new(NoService)), Arc::default(), PATIENCE)
    }

    /// Serves chunks; nothing is read through.
    pub(crate) fn serve(&self, peer: &PeerId, local: Arc<dyn LocalChunks>) -> (PeerAddr, Endpoint, Arc<Counters>) {
        self.serve_with(peer, local, Arc::new(Nowhere))
    }

    pub(crate) fn serve_with(
        &self,
        peer: &PeerId,
        local: Arc<dyn LocalChunks>,
        elsewhere: Arc<dyn ReadThrough>,
    ) -> (PeerAddr, Endpoint, Arc<Counters>) {
        let counters = Arc::<Counters>::default();
        let limits = ServiceLimits { ensure_timeout: PATIENCE, ..ServiceLimits::default() };
        let service = ChunkService::new(local, Arc::new(OneRealm), elsewhere, counters.clone(), limits);
        let endpoint = self.endpoint(peer, Arc::new(service));
        (address(&endpoint, peer), endpoint, counters)
    }
}

pub(crate) fn address(endpoint: &Endpoint, peer: &PeerId) -> PeerAddr {
    let addr = endpoint.local_addr().unwrap().to_string();
    PeerAddr { addr, expect: ExpectPeer::Exactly(peer.clone()) }
}

#[derive(Debug)]
pub(crate) struct OneRealm;

impl Realms for OneRealm {
    fn realm(&self, name: &str) -> Option<Realm> {
        (name == "default").then(realm)
    }

    fn all(&self) -> Result<Vec<Realm>, LocalError> {
        Ok(vec![realm()])
    }

    fn allows(&self, peer: &PeerId, _realm: &str) -> bool {
        !matches!(peer, PeerId::Client { name } if name == "stranger")
    }
}

#[derive(Debug)]
pub(crate) struct Nowhere;

#[async_trait]
impl ReadThrough for Nowhere {
    async fn ensure(&self, needed: Needed, _deadline: Duration) -> Result<(), Refusal> {
        let message = format!("chunk {} is nowhere", needed.ids[0]);
        Err(Refusal { class: RetryClass::Transient, message })
    }
}

/// Chunks in memory, with faults on demand.
#[derive(Debug, Default)]
pub(crate) struct MemoryChunks {
    pub(crate) chunks: Mutex<BTreeMap<ChunkId, EncodedChunk>>,
    pub(crate) unsynced: Mutex<BTreeSet<ChunkId>>,
    pub(crate) full: Mutex<bool>,
    damaged: Mutex<BTreeSet<ChunkId>>,
}

impl MemoryChunks {
    pub(crate) fn with(chunks: &[EncodedChunk]) -> Arc<Self> {
        let store = Self::default();
        store.put_many(chunks).unwrap();
        store.sync().unwrap();
        Arc::new(store)
    }

    pub(crate) fn has(&self, id: &ChunkId) -> bool {
        self.chunks.lock().unwrap().contains_key(id)
    }

    pub(crate) fn is_durable(&self, id: &ChunkId) -> bool {
        self.has(id) && !self.unsynced.lock().unwrap().contains(id)
    }

    /// A chunk whose checksum will not hold when it is read: missing from then on.
    pub(crate) fn damage(&self, id: &ChunkId) {
        self.damaged.lock().unwrap().insert(*id);
    }

    /// Other bytes under the name, as no checksum of a disk would notice.
    pub(crate) fn falsify(&self, id: &ChunkId) {
        let mut chunks = self.chunks.lock().unwrap();
        let chunk = chunks.get_mut(id).unwrap();
        let plain = chunk.decode(&realm()).unwrap();
        let mut wrong = plain.to_vec();
        wrong[0] ^= 1;
        *chunk = EncodedChunk { id: *id, ..EncodedChunk::encode(*id, wrong.into(), 3) };
    }
}

impl LocalChunks for MemoryChunks {
    fn get(&self, id: &ChunkId) -> Result<Option<EncodedChunk>, LocalError> {
        if self.damaged.lock().unwrap().remove(id) {
            self.chunks.lock().unwrap().remove(id);
        }
        Ok(self.chunks.lock().unwrap().get(id).cloned())
    }

    fn put_many(&self, chunks: &[EncodedChunk]) -> Result<PutCounts, LocalError> {
        if *self.full.lock().unwrap() {
            return Err(LocalError { class: RetryClass::Transient, reason: "the disk is full".to_owned() });
        }
        let mut counts = PutCounts::default();
        for chunk in chunks {
            assert_eq!(realm().chunk_id(&chunk.decode(&realm()).unwrap()), chunk.id, "unverified bytes were kept");
            if self.chunks.lock().unwrap().insert(chunk.id, chunk.clone()).is_some() {
                counts.known += 1;
            } else {
                self.unsynced.lock().unwrap().insert(chunk.id);
                counts.new += 1;
                counts.new_plain_bytes += u64::from(chunk.raw_len);
            }
        }
        Ok(counts)
    }

    fn sync(&self) -> Result<(), LocalError> {
        self.unsynced.lock().unwrap().clear();
        Ok(())
    }

    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, LocalError> {
        let chunks = self.chunks.lock().unwrap();
        let mut seen = BTreeSet::new();
        Ok(ids.iter().copied().filter(|id| !chunks.contains_key(id) && seen.insert(*id)).collect())
    }

    fn not_durable(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, LocalError> {
        Ok(ids.iter().copied().filter(|id| !self.is_durable(id)).collect())
    }
}

pub(crate) fn encode(plain: impl Into<Bytes>) -> EncodedChunk {
    let plain = plain.into();
    EncodedChunk::encode(realm().chunk_id(&plain), plain, 3)
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Bytes that compress, and more so beside each other.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let words = ["chunk ", "manifest ", "pack ", "seq ", "watermark ", "site ", "region ", "link ", "feed ", "sketch "];
    let mut text = Vec::with_capacity(len + 16);
    for byte in noise(seed, len / 4 + 1) {
        text.extend_from_slice(words[usize::from(byte) % words.len()].as_bytes());
        text.push(b'0' + byte / 32);
    }
    text.truncate(len);
    text
}

/// A mix of chunks of all kinds.
pub(crate) fn mixed(count: usize) -> Vec<EncodedChunk> {
    (0..count as u64)
        .map(|at| match at % 4 {
            0 => encode(noise(at, 40_000)),
            1 => encode(text(at, 65_000)),
            2 => encode(text(at, 300)),
            _ => encode(noise(at, 500)),
        })
        .collect()
}

pub(crate) fn ids(chunks: &[EncodedChunk]) -> Vec<ChunkId> {
    chunks.iter().map(|chunk| chunk.id).collect()
}
