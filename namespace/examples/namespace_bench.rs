//! What three nodes do through gRPC with mutual TLS and fsync, all on this machine.
//!
//! ```sh
//! cargo run --release -p causeway-namespace --example namespace_bench -- [SECONDS] [CLIENTS...]
//! ```
//! For each number of clients: creates of 256-byte files, each its own request, and stats of one of those, linearizable at
//! the leader, linearizable at a follower, and local. A client waits for each answer; up to 16 share a connection. One line
//! for each, with the rate and the latency of a request. SECONDS (default 5) for each line; CLIENTS default 1 64 1024.
#![allow(clippy::unwrap_used)] // a bench: what fails, fails loudly

use std::path::PathBuf;
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
use causeway_transport::{CertificateAuthority, Identity, IdentityStore, PeerId};
use futures::future::join_all;
use tokio::net::TcpListener;
use tokio::time::Instant;

const CLUSTER: ClusterId = ClusterId(1);
const CLIENTS_PER_CONNECTION: usize = 16;
const FILE_BYTES: usize = 256;

#[derive(Clone, Copy)]
enum Work {
    Create,
    Stat(Consistency),
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().unwrap());
    let seconds = Duration::from_secs(args.next().unwrap_or(5) as u64);
    let mut clients: Vec<usize> = args.collect();
    if clients.is_empty() {
        clients = vec![1, 64, 1024];
    }
    let dir = tempfile::tempdir().unwrap();
    let ca = CertificateAuthority::create("bench".parse().unwrap(), Arc::new(SystemClock)).unwrap();
    let (nodes, addresses) = cluster(&ca, dir.path().to_path_buf()).await;
    let volume = volume(&connect(&ca, &addresses[0], 0).await).await;
    // The leader goes home, to the first node, soon after the election.
    while nodes[0].group(volume).unwrap().leader() != Some(NodeId(1)) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!(
        "{:>7}  {:<26} {:>10} {:>10} {:>10} {:>10}",
        "clients", "request", "per second", "p50 ms", "p99 ms", "max ms"
    );
    for count in clients {
        let leader = connections(&ca, &addresses[0], count).await;
        let follower = connections(&ca, &addresses[1], count).await;
        run("create at the leader", &leader, volume, count, seconds, Work::Create).await;
        run("create at a follower", &follower, volume, count, seconds, Work::Create).await;
        run("stat, linearizable, leader", &leader, volume, count, seconds, Work::Stat(Consistency::Linearizable)).await;
        run("stat, linearizable, other", &follower, volume, count, seconds, Work::Stat(Consistency::Linearizable))
            .await;
        run("stat, local", &leader, volume, count, seconds, Work::Stat(Consistency::Local)).await;
    }
    for node in nodes {
        node.shutdown().await;
    }
}

async fn run(name: &str, connections: &[NamespaceClient], volume: VolumeId, count: usize, time: Duration, work: Work) {
    let end = Instant::now() + time;
    let started = Instant::now();
    let tasks = (0..count).map(|client| {
        let connection = connections[client % connections.len()].clone();
        let name = name.replace([' ', ','], "-");
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            for turn in 0_u64.. {
                let started = Instant::now();
                if started >= end {
                    break;
                }
                match work {
                    Work::Create => drop(
                        connection.mutate(volume, create(&format!("{name}-{count}-{client}-{turn}"))).await.unwrap(),
                    ),
                    Work::Stat(consistency) => {
                        let path = at(&format!("create-at-the-leader-{count}-{client}-0"));
                        assert!(connection.stat(volume, path, consistency).await.unwrap().value.is_ok());
                    }
                }
                latencies.push(started.elapsed());
            }
            latencies
        })
    });
    let mut latencies: Vec<Duration> = join_all(tasks).await.into_iter().flat_map(Result::unwrap).collect();
    let rate = latencies.len() as f64 / started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!("{count:>7}  {name:<26} {rate:>10.0} {:>10.2} {:>10.2} {:>10.1}", at(0.5), at(0.99), at(1.0));
}

fn at(path: &str) -> At {
    At { dir: Ino::ROOT, path: Bytes::copy_from_slice(path.as_bytes()) }
}

fn create(path: &str) -> Vec<Op> {
    let attr = Attr { mode: 0o644, uid: 0, gid: 0, mtime: Timestamp(0), ctime: Timestamp(0) };
    let content = Content::Inline(Bytes::from_static(&[7; FILE_BYTES]));
    vec![Op::PutFile { at: at(path), attr, content, expect: Expect::Absent }]
}

async fn connections(ca: &CertificateAuthority, address: &str, count: usize) -> Vec<NamespaceClient> {
    join_all((0..count.div_ceil(CLIENTS_PER_CONNECTION)).map(|n| connect(ca, address, n))).await
}

async fn connect(ca: &CertificateAuthority, address: &str, n: usize) -> NamespaceClient {
    let identity = identity(ca, &PeerId::client("bench").unwrap());
    let config = ClientConfig::new(CLUSTER, vec![address.to_owned()], ClientId(n as u128 + 1));
    NamespaceClient::connect(config, &identity).await.unwrap()
}

fn identity(ca: &CertificateAuthority, peer: &PeerId) -> Arc<IdentityStore> {
    let issued = ca.issue(peer, Duration::from_secs(24 * 3600)).unwrap();
    IdentityStore::new(Identity::from_issued(&issued).unwrap(), Arc::new(SystemClock))
}

async fn cluster(ca: &CertificateAuthority, dir: PathBuf) -> (Vec<Arc<Namespace>>, Vec<String>) {
    let (mut listeners, mut records) = (Vec::new(), Vec::new());
    for (id, site) in (1..).zip(["zurich", "westeurope", "eastus"]) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = listener.local_addr().unwrap().to_string();
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
        listeners.push(listener);
    }
    let mut nodes = Vec::new();
    for (record, listener) in records.iter().zip(listeners) {
        let store = StoreId(u128::from(record.id.0));
        let config =
            NamespaceConfig::new(CLUSTER, record.clone(), records.clone(), RealmKey([1; 32]), store, record.id.0);
        let folder = dir.join(record.site.as_str());
        std::fs::create_dir_all(&folder).unwrap();
        let kv = FjallKv::open(&folder.join("state"), STATE_SPACES, &FjallOptions::default()).unwrap();
        let peer = PeerId::node(record.site.clone(), record.id);
        let parts = Parts::new(
            Arc::new(RealDisk),
            folder.join("namespace"),
            Arc::new(kv),
            Arc::new(SystemClock),
            identity(ca, &peer),
            Arc::new(Unchecked),
        );
        nodes.push(Namespace::start(config, parts, listener).await.unwrap());
    }
    for node in &nodes {
        node.ready().await.unwrap();
    }
    (nodes, records.into_iter().map(|record| record.grpc).collect())
}

async fn volume(client: &NamespaceClient) -> VolumeId {
    let spec = VolumeSpec {
        name: "bench".to_owned(),
        mount: "/bench".into(),
        home: "zurich".parse().unwrap(),
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
    client.create_volume(spec).await.unwrap().id
}
