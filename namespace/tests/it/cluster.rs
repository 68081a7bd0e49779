//! The nodes of a test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{ClientId, Clock, ClusterId, Ino, NodeId, Seq, StoreId, SystemClock, Timestamp, VolumeId};
use causeway_namespace::client::{ClientConfig, ClientError, NamespaceClient};
use causeway_namespace::{ContentCheck, DigestOptions, Limits, Namespace, NamespaceConfig, Parts, Unchecked};
use causeway_namespace_core::command::{At, Expect, Op};
use causeway_namespace_core::inode::{Attr, Content};
use causeway_namespace_core::root::{NodeRecord, RealmKey, VolumeRecord, VolumeSpec};
use causeway_namespace_raft::STATE_SPACES;
use causeway_namespace_raft::wal::WalOptions;
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::{FjallKv, FjallOptions};
use causeway_transport::{CertificateAuthority, Identity, IdentityStore, PeerId};
use tokio::net::TcpListener;

pub(crate) const CLUSTER: ClusterId = ClusterId(0x00c1_0572);
pub(crate) const SITES: [&str; 3] = ["zurich", "westeurope", "eastus"];
/// Longest wait for anything; reached only when a test fails.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) fn system_clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

pub(crate) struct Cluster {
    pub(crate) ca: CertificateAuthority,
    pub(crate) nodes: Vec<Option<Arc<Namespace>>>,
    /// The state stores of the nodes that run.
    pub(crate) kvs: Vec<Option<Arc<FjallKv>>>,
    records: Vec<NodeRecord>,
    content: Arc<dyn ContentCheck>,
    stores_drawn: u128,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Three nodes that have joined.
    pub(crate) async fn start() -> Self {
        Self::start_with(Arc::new(Unchecked)).await
    }

    pub(crate) async fn start_with(content: Arc<dyn ContentCheck>) -> Self {
        let mut cluster = Self::prepare(content).await;
        cluster.launch_all().await;
        cluster
    }

    /// Three nodes that do not run.
    pub(crate) async fn prepare(content: Arc<dyn ContentCheck>) -> Self {
        let ca = CertificateAuthority::create("test".parse().unwrap(), system_clock()).unwrap();
        let mut records = Vec::new();
        for (site, id) in SITES.iter().zip(1..) {
            // Reserves a free port; `launch` binds it again.
            let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
            let site = site.parse().unwrap();
            records.push(NodeRecord {
                id: NodeId(id),
                site,
                store: None,
                grpc,
                quic: "127.0.0.1:1".to_owned(),
                witness: false,
                state: Default::default(),
            });
        }
        let dir = tempfile::tempdir().unwrap();
        Self { ca, nodes: vec![None, None, None], kvs: vec![None, None, None], records, content, stores_drawn: 0, dir }
    }

    pub(crate) fn folder(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("node-{}", at + 1))
    }

    pub(crate) fn address(&self, at: usize) -> String {
        self.records[at].grpc.clone()
    }

    pub(crate) fn identity(&self, peer: &PeerId) -> Arc<IdentityStore> {
        identity_from(&self.ca, peer)
    }

    /// Starts a node; it may still be joining.
    pub(crate) async fn launch(&mut self, at: usize) {
        let (node, kv) = self.starting(at).await;
        (self.nodes[at], self.kvs[at]) = (Some(node), Some(kv));
    }

    fn starting(&mut self, at: usize) -> impl Future<Output = (Arc<Namespace>, Arc<FjallKv>)> + use<> {
        self.stores_drawn += 1;
        let record = self.records[at].clone();
        let peer = PeerId::node(record.site.clone(), record.id);
        let (initial, store, seed) = (self.records.clone(), StoreId(self.stores_drawn), record.id.0);
        let config = NamespaceConfig {
            digests: DigestOptions {
                compare_every: Duration::from_millis(300),
                verify_cycle: Duration::ZERO,
                ..DigestOptions::default()
            },
            limits: Limits { drain: Duration::from_millis(200), ..Limits::default() },
            // The default prepares 96 MiB a node, which costs more than the test.
            wal: WalOptions { segment_bytes: 2 << 20, ..WalOptions::default() },
            ..NamespaceConfig::new(CLUSTER, record, initial, RealmKey([7; 32]), store, seed)
        };
        let folder = self.folder(at);
        let (identity, content) = (self.identity(&peer), self.content.clone());
        async move {
            let kv = folder.clone();
            let kv = Arc::new(tokio::task::spawn_blocking(move || open_kv(&kv)).await.unwrap());
            let dir = folder.join("namespace");
            let parts = Parts::new(Arc::new(RealDisk), dir, kv.clone(), system_clock(), identity, content);
            let listener = TcpListener::bind(&config.node.grpc).await.unwrap();
            (Namespace::start(config, parts, listener).await.unwrap(), kv)
        }
    }

    /// Starts all nodes; they have joined.
    pub(crate) async fn launch_all(&mut self) {
        let starting: Vec<_> = (0..3).map(|at| self.starting(at)).collect();
        let started = futures::future::join_all(starting).await;
        (self.nodes, self.kvs) = started.into_iter().map(|(node, kv)| (Some(node), Some(kv))).unzip();
        for at in 0..3 {
            self.node(at).ready().await.unwrap();
        }
    }

    pub(crate) fn node(&self, at: usize) -> &Arc<Namespace> {
        self.nodes[at].as_ref().unwrap()
    }

    /// Stops a node; its folder stays.
    pub(crate) async fn stop(&mut self, at: usize) {
        if let Some(node) = self.nodes[at].take() {
            node.shutdown().await;
        }
        // The store's lock is free once the last task let go of it.
        let Some(kv) = self.kvs[at].take() else { return };
        let free = async {
            while Arc::strong_count(&kv) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, free).await.expect("something still holds the store of a stopped node");
    }

    pub(crate) async fn stop_all(mut self) {
        for at in 0..self.nodes.len() {
            self.stop(at).await;
        }
    }

    /// A client of these nodes, in this order.
    pub(crate) async fn client(&self, at: &[usize]) -> NamespaceClient {
        self.client_as(at, "tester", CLUSTER).await.unwrap()
    }

    pub(crate) async fn client_as(
        &self,
        at: &[usize],
        name: &str,
        cluster: ClusterId,
    ) -> Result<NamespaceClient, ClientError> {
        let identity = self.identity(&PeerId::client(name).unwrap());
        NamespaceClient::connect(self.client_config(at, cluster), &identity).await
    }

    pub(crate) fn client_config(&self, at: &[usize], cluster: ClusterId) -> ClientConfig {
        let nodes = at.iter().map(|at| self.address(*at)).collect();
        ClientConfig { deadline: LONG, ..ClientConfig::new(cluster, nodes, ClientId(9)) }
    }

    /// Index of the node that leads a group, as soon as all running nodes agree on one that runs.
    pub(crate) async fn leader(&self, volume: VolumeId) -> usize {
        let running = || self.nodes.iter().flatten();
        let agreed = async {
            loop {
                let leaders: Vec<_> =
                    running().map(|node| node.group(volume).and_then(|group| group.status().leader)).collect();
                let first = leaders.first().copied().flatten();
                if let Some(leader) = first
                    && leaders.iter().all(|other| *other == first)
                    && running().any(|node| node.id() == leader)
                {
                    return usize::try_from(leader.0 - 1).unwrap();
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, agreed).await.unwrap()
    }

    /// Waits until every running node has applied `seq`, and checks that equal seqs have equal digests.
    pub(crate) async fn assert_equal(&self, volume: VolumeId, seq: Seq) {
        let mut digests = std::collections::BTreeMap::new();
        for node in self.nodes.iter().flatten() {
            let group = node.group(volume).unwrap();
            group.wait_applied(seq, LONG).await.unwrap();
            let view = group.view().unwrap();
            let digest = view.digest().unwrap().to_string();
            assert_eq!(*digests.entry(view.seq()).or_insert_with(|| digest.clone()), digest, "{}", node.id());
        }
    }
}

pub(crate) fn identity_from(ca: &CertificateAuthority, peer: &PeerId) -> Arc<IdentityStore> {
    let issued = ca.issue(peer, Duration::from_secs(3600)).unwrap();
    IdentityStore::new(Identity::from_issued(&issued).unwrap(), system_clock())
}

fn open_kv(folder: &Path) -> FjallKv {
    std::fs::create_dir_all(folder).unwrap();
    FjallKv::open(&folder.join("state"), STATE_SPACES, &FjallOptions::default()).unwrap()
}

pub(crate) fn spec(name: &str) -> VolumeSpec {
    VolumeSpec {
        name: name.to_owned(),
        mount: Bytes::from(format!("/projects/{name}")),
        home: SITES[0].parse().unwrap(),
        survive: None,
        residency: Default::default(),
        learners: Vec::new(),
        voters: Vec::new(),
        replicas: vec![SITES[1].parse().unwrap()],
        caches: vec![SITES[2].parse().unwrap()],
        archive: false,
        chunk_bytes_avg: 64 << 10,
        inline_bytes_max: 4096,
        realm: "default".to_owned(),
    }
}

pub(crate) async fn volume(client: &NamespaceClient, name: &str) -> VolumeRecord {
    client.create_volume(spec(name)).await.unwrap()
}

pub(crate) fn at(path: impl AsRef<[u8]>) -> At {
    At { dir: Ino::ROOT, path: Bytes::copy_from_slice(path.as_ref()) }
}

pub(crate) fn attr() -> Attr {
    Attr { mode: 0o644, uid: 1000, gid: 1000, mtime: Timestamp(42), ctime: Timestamp(0) }
}

pub(crate) fn put(path: impl AsRef<[u8]>, content: &str) -> Op {
    let content = Content::Inline(Bytes::copy_from_slice(content.as_bytes()));
    Op::PutFile { at: at(path), attr: attr(), content, expect: Expect::Any }
}

pub(crate) fn create(path: impl AsRef<[u8]>) -> Op {
    let content = Content::Inline(Bytes::new());
    Op::PutFile { at: at(path), attr: attr(), content, expect: Expect::Absent }
}

pub(crate) fn mkdir(path: impl AsRef<[u8]>) -> Op {
    Op::Mkdir { at: at(path), attr: attr(), parents: true }
}
