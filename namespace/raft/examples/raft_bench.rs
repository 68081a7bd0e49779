//! Creates per second on three nodes of this process, each with its own log and store on a real disk.
//!
//! `cargo run --release -p causeway-namespace-raft --example raft_bench [DIR]`

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_base::{ClientId, Ino, NodeId, SystemClock, Timestamp, VolumeId};
use causeway_namespace_core::command::{At, Expect, Op, Outcome, Request, RequestBody, SessionId};
use causeway_namespace_core::inode::{Attr, Content};
use causeway_namespace_raft::memory_link::MemoryNet;
use causeway_namespace_raft::{Group, GroupSpec, Groups, GroupsConfig, STATE_SPACES};
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::{FjallKv, FjallOptions};

type Failure = Box<dyn Error + Send + Sync>;

const GROUP: VolumeId = VolumeId(1);
const DEADLINE: Duration = Duration::from_secs(30);
const RUN: Duration = Duration::from_secs(4);
/// Bytes of a file's content.
const CONTENT: usize = 256;

async fn cluster(base: &Path, delay: Duration) -> Result<Vec<Arc<Groups>>, Failure> {
    let net = MemoryNet::new(delay);
    let mut nodes = Vec::new();
    for node in (1..=3).map(NodeId) {
        let dir = base.join(node.to_string());
        let kv = Arc::new(FjallKv::open(&dir.join("kv"), STATE_SPACES, &FjallOptions::default())?);
        let clock = Arc::new(SystemClock);
        let disk = Arc::new(RealDisk);
        let config = GroupsConfig::new(node, "bench".parse()?, disk, dir, kv, net.link(node), clock, node.0);
        let groups = Groups::open(config).await?;
        net.attach(&groups);
        nodes.push(groups);
    }
    let voters: BTreeMap<NodeId, ()> = (1..=3).map(|node| (NodeId(node), ())).collect();
    for groups in &nodes {
        groups.start(GROUP, GroupSpec { voters: voters.clone(), bootstrap: true, ..GroupSpec::default() }).await?;
    }
    Ok(nodes)
}

async fn leader(nodes: &[Arc<Groups>]) -> Result<Arc<Group>, Failure> {
    let end = Instant::now() + DEADLINE;
    loop {
        for group in nodes.iter().filter_map(|groups| groups.get(GROUP)) {
            if group.is_leader() && group.read_index(DEADLINE).await.is_ok() {
                return Ok(group);
            }
        }
        if Instant::now() > end {
            return Err("no leader".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn request(body: RequestBody) -> Request {
    Request { at: Timestamp(1), body }
}

fn create(session: SessionId, number: u64) -> Request {
    let op = Op::PutFile {
        at: At { dir: Ino::ROOT, path: format!("{}-{number}", session.0).into() },
        attr: Attr { mode: 0o644, uid: 0, gid: 0, mtime: Timestamp(1), ctime: Timestamp(1) },
        content: Content::Inline(vec![7; CONTENT].into()),
        expect: Expect::Any,
    };
    request(RequestBody::Mutate { session, number, acked_below: number, ops: vec![op] })
}

async fn client(group: Arc<Group>, end: Instant) -> Result<Vec<Duration>, Failure> {
    let opened = group.propose(request(RequestBody::OpenSession { client: ClientId(1) }), DEADLINE).await?;
    let Outcome::Session(session) = opened.outcome else { return Err("no session".into()) };
    let mut times = Vec::new();
    let mut number = 0;
    while Instant::now() < end {
        number += 1;
        let start = Instant::now();
        group.propose(create(session, number), DEADLINE).await?;
        times.push(start.elapsed());
    }
    Ok(times)
}

async fn measure(base: &Path, delay: Duration, clients: usize) -> Result<(), Failure> {
    let dir = tempfile::tempdir_in(base)?;
    let nodes = cluster(dir.path(), delay).await?;
    let group = leader(&nodes).await?;
    let start = Instant::now();
    let tasks: Vec<_> = (0..clients).map(|_| tokio::spawn(client(Arc::clone(&group), start + RUN))).collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let elapsed = start.elapsed().as_secs_f64();
    times.sort();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    let status = group.status();
    println!(
        "{clients:>5} clients, {:>3} ms each way: {:>7.0} creates/s, p50 {:>8.2?}, p99 {:>8.2?}, {:>5.1} creates an entry",
        delay.as_millis(),
        times.len() as f64 / elapsed,
        at(50),
        at(99),
        times.len() as f64 / status.applied.0.max(1) as f64,
    );
    for groups in &nodes {
        groups.shutdown().await;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, Into::into);
    for clients in [1, 64, 1024] {
        measure(&base, Duration::ZERO, clients).await?;
    }
    for clients in [1, 1024] {
        measure(&base, Duration::from_millis(10), clients).await?;
    }
    Ok(())
}
