//! Causeway's side: a node as a process, and what its client asks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{ClientId, ClusterId, Ino, NodeId, StoreId, SystemClock, Timestamp, VolumeId};
use causeway_namespace::client::{ClientConfig, NamespaceClient};
use causeway_namespace::{Consistency, Namespace, NamespaceConfig, Parts, Unchecked};
use causeway_namespace_core::command::{At, Expect, Op};
use causeway_namespace_core::inode::{Attr, Content};
use causeway_namespace_core::root::{NodeRecord, RealmKey, VolumeSpec};
use causeway_namespace_raft::STATE_SPACES;
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::{FjallKv, FjallOptions};
use causeway_transport::{CertificateAuthority, IdentityStore, PeerId};
use futures::future::join_all;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::{BYTES, addresses};

const CLUSTER: ClusterId = ClusterId(1);
const PORT: u16 = 7401;
const SITES: [&str; 3] = ["one", "two", "three"];
const DAY: Duration = Duration::from_secs(24 * 3600);
/// In which all nodes join.
const JOINED: Duration = Duration::from_secs(30);

pub(super) fn init(dir: &Path) {
    let ca = CertificateAuthority::create("bench".parse().unwrap(), Arc::new(SystemClock)).unwrap();
    let save = |name: &str, peer: PeerId| {
        let folder = dir.join("causeway").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        ca.issue(&peer, DAY).unwrap().save(&folder).unwrap();
    };
    save("client", PeerId::client("bench").unwrap());
    for (id, site) in (1..).zip(SITES) {
        save(site, PeerId::node(site.parse().unwrap(), NodeId(id)));
    }
}

fn records(dir: &Path) -> Vec<NodeRecord> {
    let one = |(id, (site, address)): (u64, (&str, String))| NodeRecord {
        id: NodeId(id),
        site: site.parse().unwrap(),
        store: None,
        grpc: format!("{address}:{}", port(id)),
        quic: "127.0.0.1:1".to_owned(),
        witness: false,
        state: Default::default(),
    };
    (1..).zip(SITES.into_iter().zip(addresses(dir))).map(one).collect()
}

/// Each node has another, so that all may have one address.
fn port(id: u64) -> u16 {
    PORT + u16::try_from(id).unwrap()
}

/// Runs a node until its standard input ends.
pub(super) async fn node(dir: &Path, id: u64) {
    let all = records(dir);
    let record = all.iter().find(|record| record.id.0 == id).unwrap().clone();
    let folder = dir.join("causeway").join(record.site.as_str());
    let identity = IdentityStore::load(folder.clone()).unwrap();
    let listener = TcpListener::bind(&record.grpc).await.unwrap();
    let kv = FjallKv::open(&folder.join("state"), STATE_SPACES, &FjallOptions::default()).unwrap();
    let parts = Parts::new(
        Arc::new(RealDisk),
        folder.join("namespace"),
        Arc::new(kv),
        Arc::new(SystemClock),
        identity,
        Arc::new(Unchecked), // no content in chunks is written
    );
    let config = NamespaceConfig::new(CLUSTER, record, all, RealmKey([1; 32]), StoreId(u128::from(id)), id);
    let namespace = Namespace::start(config, parts, listener).await.unwrap();
    let mut input = Vec::new();
    tokio::io::stdin().read_to_end(&mut input).await.unwrap();
    namespace.shutdown().await;
}

/// Clients of the first node.
pub(super) async fn connect(dir: &Path, count: usize) -> Vec<NamespaceClient> {
    let identity = IdentityStore::load(dir.join("causeway/client")).unwrap();
    let address = &records(dir)[0].grpc;
    let one = |n: usize| {
        let config = ClientConfig::new(CLUSTER, vec![address.clone()], ClientId(n as u128 + 1));
        let identity = &identity;
        async move { NamespaceClient::connect(config, identity).await.unwrap() }
    };
    join_all((0..count).map(one)).await
}

/// The volume that is measured, led by the first node.
pub(super) async fn volume(dir: &Path) -> VolumeId {
    let client = connect(dir, 1).await.remove(0);
    let spec = VolumeSpec {
        name: "bench".to_owned(),
        mount: "/bench".into(),
        home: SITES[0].parse().unwrap(),
        survive: None,
        residency: Default::default(),
        learners: Vec::new(),
        voters: Vec::new(),
        replicas: Vec::new(),
        caches: Vec::new(),
        archive: false,
        chunk_bytes_avg: 64 << 10,
        inline_bytes_max: 4096,
        realm: String::new(),
    };
    // Voters are taken from the nodes that have joined, which takes a moment.
    let started = Instant::now();
    let volume = loop {
        match client.create_volume(spec.clone()).await {
            Ok(volume) => break volume.id,
            Err(error) => assert!(started.elapsed() < JOINED, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let leads = |status: &causeway_namespace::NodeStatus| {
        let mut groups = status.groups.iter();
        groups.any(|group| group.volume == volume && group.leader == Some(NodeId(1)))
    };
    // It goes home, to the first node, soon after the election.
    while !leads(&client.node_status().await.unwrap()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    volume
}

fn at(path: String) -> At {
    At { dir: Ino::ROOT, path: path.into() }
}

pub(super) async fn create(client: &NamespaceClient, volume: VolumeId, path: String) {
    let attr = Attr { mode: 0o644, uid: 0, gid: 0, mtime: Timestamp(0), ctime: Timestamp(0) };
    let content = Content::Inline(Bytes::from_static(&[7; BYTES]));
    let op = Op::PutFile { at: at(path), attr, content, expect: Expect::Absent };
    client.mutate(volume, vec![op]).await.unwrap();
}

pub(super) async fn stat(client: &NamespaceClient, volume: VolumeId, path: String, fresh: bool) {
    let consistency = if fresh { Consistency::Linearizable } else { Consistency::Local };
    client.stat(volume, at(path), consistency).await.unwrap().value.unwrap();
}

pub(super) async fn stat_many(client: &NamespaceClient, volume: VolumeId, path: String, count: usize) {
    let paths = vec![at(path); count];
    let found = client.stat_many(volume, paths, Consistency::Local).await.unwrap().value;
    assert!(found.len() == count && found.iter().all(Result::is_ok));
}
