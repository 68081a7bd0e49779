//! Three nodes in this process, with real logs and stores in a temporary folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use causeway_base::{ClientId, Ino, NodeId, Seq, SystemClock, Timestamp, VolumeId};
use causeway_namespace_core::command::{At, Expect, Op, Outcome, Request, RequestBody, SessionId};
use causeway_namespace_core::inode::{Attr, Content};
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_raft::memory_link::MemoryNet;
use causeway_namespace_raft::{Group, GroupSpec, Groups, GroupsConfig, Proposed, Retention, STATE_SPACES, Timing};
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::{FjallKv, FjallOptions, Kv};

pub(crate) const GROUP: VolumeId = VolumeId(7);
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    pub(crate) net: MemoryNet,
    pub(crate) nodes: BTreeMap<NodeId, Arc<Groups>>,
    pub(crate) size: u64,
    pub(crate) home: Option<NodeId>,
    pub(crate) retention: Retention,
    pub(crate) rest_after: Option<Duration>,
    stores: BTreeMap<NodeId, Weak<dyn Kv>>,
}

impl Cluster {
    pub(crate) async fn new(size: u64) -> Self {
        Self::with(size, None, Retention::default()).await
    }

    pub(crate) async fn with(size: u64, home: Option<NodeId>, retention: Retention) -> Self {
        let mut cluster = Self { home, retention, ..Self::stopped(size) };
        for node in cluster.ids() {
            cluster.start(node).await;
        }
        cluster
    }

    /// Three nodes whose groups rest after so long.
    pub(crate) async fn resting(rest_after: Duration) -> Self {
        let mut cluster = Self { rest_after: Some(rest_after), ..Self::stopped(3) };
        for node in cluster.ids() {
            cluster.start(node).await;
        }
        cluster
    }

    /// As [`Cluster::resting`], with a home.
    pub(crate) async fn resting_at(rest_after: Duration, home: NodeId) -> Self {
        let mut cluster = Self { rest_after: Some(rest_after), home: Some(home), ..Self::stopped(3) };
        for node in cluster.ids() {
            cluster.start(node).await;
        }
        cluster
    }

    /// Nodes that do not run yet.
    pub(crate) fn stopped(size: u64) -> Self {
        let (dir, net) = (tempfile::tempdir().unwrap(), MemoryNet::default());
        let retention = Retention::default();
        Self {
            dir,
            net,
            nodes: BTreeMap::new(),
            size,
            home: None,
            retention,
            rest_after: None,
            stores: BTreeMap::new(),
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.size).map(NodeId)
    }

    fn path(&self, node: NodeId) -> PathBuf {
        self.dir.path().join(node.to_string())
    }

    pub(crate) fn config(&self, node: NodeId) -> GroupsConfig {
        // Whoever let go of the last reference may still be closing it.
        let end = std::time::Instant::now() + DEADLINE;
        let kv = loop {
            match FjallKv::open(&self.path(node).join("kv"), STATE_SPACES, &FjallOptions::default()) {
                Err(error) if error.to_string().contains("has it open") => {
                    assert!(std::time::Instant::now() < end, "{error}");
                    std::thread::yield_now();
                }
                opened => break opened.unwrap(),
            }
        };
        self.config_on(node, Arc::new(kv))
    }

    pub(crate) fn config_on(&self, node: NodeId, kv: Arc<dyn Kv>) -> GroupsConfig {
        let path = self.path(node);
        let mut config = GroupsConfig::new(
            node,
            "zurich".parse().unwrap(),
            Arc::new(RealDisk),
            path,
            kv,
            self.net.link(node),
            Arc::new(SystemClock),
            node.0,
        );
        config.wal.segment_bytes = 1 << 20;
        // Slower than a LAN needs: the tests run on machines that are busy with others.
        config.timing = Timing {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(700),
            election_max: Duration::from_millis(1400),
        };
        config.retention = self.retention;
        config.rest_after = self.rest_after;
        config
    }

    pub(crate) fn spec(&self) -> GroupSpec {
        let voters = self.ids().map(|node| (node, ())).collect();
        GroupSpec { voters, home: self.home, bootstrap: true, ..GroupSpec::default() }
    }

    pub(crate) async fn start(&mut self, node: NodeId) {
        self.start_on(self.config(node)).await;
    }

    pub(crate) async fn start_on(&mut self, config: GroupsConfig) {
        let node = config.node;
        self.stores.insert(node, Arc::downgrade(&config.kv));
        let groups = Groups::open(config).await.unwrap();
        self.net.attach(&groups);
        groups.start(GROUP, self.spec()).await.unwrap();
        self.nodes.insert(node, groups);
    }

    /// As a process that is killed, as far as one process can: nothing is flushed in order first.
    pub(crate) async fn kill(&mut self, node: NodeId) {
        self.net.detach(node);
        let groups = self.nodes.remove(&node).unwrap();
        groups.shutdown().await;
        drop(groups);
        // Its lock is free once the last task, and whoever still asks, let go of it.
        let store = self.stores.remove(&node).unwrap();
        until("the node's store is closed", || store.strong_count() == 0).await;
    }

    pub(crate) fn group(&self, node: NodeId) -> Arc<Group> {
        self.nodes[&node].get(GROUP).unwrap()
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = Arc<Group>> + '_ {
        self.nodes.values().filter_map(|groups| groups.get(GROUP))
    }

    /// The leader that a quorum of reachable nodes follows.
    pub(crate) async fn leader(&self) -> Arc<Group> {
        let end = Instant::now() + DEADLINE;
        loop {
            for group in self.groups() {
                if group.is_leader() && group.read_index(Duration::from_millis(500)).await.is_ok() {
                    return group;
                }
            }
            assert!(Instant::now() < end, "no leader");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The leader of a line, as it sees itself.
    pub(crate) async fn leader_of_line(&self, lineage: Lineage) -> Arc<Group> {
        let leads = |group: &Arc<Group>| group.lineage() == lineage && group.is_leader();
        until("a leader of the line", || self.groups().any(|group| leads(&group))).await;
        self.groups().find(leads).unwrap()
    }

    /// Opens a session; one that is opened twice does no harm.
    pub(crate) async fn session(&self) -> SessionId {
        let end = Instant::now() + DEADLINE;
        loop {
            let leader = self.leader().await;
            match leader.propose(request(RequestBody::OpenSession { client: ClientId(1) }), DEADLINE).await {
                Ok(Proposed { outcome: Outcome::Session(id), .. }) => return id,
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert!(error.retry_class().may_retry_idempotent() && Instant::now() < end, "{error}"),
            }
        }
    }

    /// Puts a file, wherever the leader is: the session makes a repetition harmless.
    pub(crate) async fn put(&self, session: SessionId, number: u64, name: &str) -> Proposed {
        let end = Instant::now() + DEADLINE;
        loop {
            let leader = self.leader().await;
            match leader.propose(create(session, number, name), DEADLINE).await {
                Ok(proposed) => {
                    assert!(matches!(proposed.outcome, Outcome::Done(_)), "{:?}", proposed.outcome);
                    return proposed;
                }
                Err(error) => assert!(error.retry_class().may_retry_idempotent() && Instant::now() < end, "{error}"),
            }
        }
    }

    /// Waits until all nodes have applied as much as the leader, and compares their digests.
    pub(crate) async fn converge(&self) -> Seq {
        let leader = self.leader().await;
        let seq = leader.read_index(DEADLINE).await.unwrap();
        for group in self.groups() {
            group.wait_applied(seq, DEADLINE).await.unwrap();
        }
        let digests: Vec<_> = self.groups().map(|group| (group.applied(), group.status().digest)).collect();
        assert!(digests.windows(2).all(|pair| pair[0].0 != pair[1].0 || pair[0].1 == pair[1].1), "{digests:?}");
        seq
    }

    pub(crate) async fn shutdown(&self) {
        for groups in self.nodes.values() {
            groups.shutdown().await;
        }
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn request(body: RequestBody) -> Request {
    Request { at: Timestamp(1), body }
}

pub(crate) fn attr() -> Attr {
    Attr { mode: 0o644, uid: 0, gid: 0, mtime: Timestamp(1), ctime: Timestamp(1) }
}

pub(crate) fn create(session: SessionId, number: u64, name: &str) -> Request {
    create_with(session, number, name, 40)
}

pub(crate) fn create_with(session: SessionId, number: u64, name: &str, bytes: usize) -> Request {
    let op = Op::PutFile {
        at: At { dir: Ino::ROOT, path: name.to_owned().into() },
        attr: attr(),
        content: Content::Inline(vec![7; bytes].into()),
        expect: Expect::Any,
    };
    request(RequestBody::Mutate { session, number, acked_below: number, ops: vec![op] })
}
