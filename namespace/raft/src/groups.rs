//! All groups of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use causeway_base::{Clock, NodeId, SiteName, VolumeId};
use causeway_namespace_core::lineage::Lineage;
use causeway_storage::disk::Disk;
use causeway_storage::kv::Kv;

use crate::coalesce::Coalescer;
use crate::consensus::blocking::Blocking;
use crate::consensus::log_store::LogStore;
use crate::consensus::network::{Heard, NetworkFactory};
use crate::consensus::receive::Receiver;
use crate::consensus::state_machine::StateMachine;
use crate::consensus::types::Raft;
use crate::consensus::wire::kind;
use crate::digests;
use crate::election;
use crate::error::{HandleError, StartError};
use crate::fence::Fences;
use crate::group::Group;
use crate::lines::HEARD_MAX;
use crate::link::{PeerLink, PeerRequest};
use crate::moved::{self, Moved};
use crate::read_index::ReadIndex;
use crate::rejoin::Rejoining;
use crate::rest::{Neighbours, Rest};
use crate::status::Timing;
use crate::store::{StateStore, chain};
use crate::together::Together;
use crate::upkeep;
use crate::wal::{Recovery, Wal, WalOptions, WalState, WalStats};

/// What is kept beyond what is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Log entries kept behind the newest snapshot, so that a follower that was away is sent these and not the whole state.
    pub log_entries: u64,
    /// Bytes of log entries of a group above which fewer are kept.
    pub log_bytes: u64,
    /// Seqs whose states and changes can be read.
    pub seqs: u64,
}

impl Default for Retention {
    /// A group that writes 100 entries a second can be read at any moment of the last 16 minutes.
    fn default() -> Self {
        Self { log_entries: 10_000, log_bytes: 64 << 20, seqs: 100_000 }
    }
}

/// What a node's groups stand on. [`GroupsConfig::new`] fills in what has a default.
#[derive(Clone, Debug)]
pub struct GroupsConfig {
    /// This node.
    pub node: NodeId,
    /// Its site.
    pub site: SiteName,
    /// The disk of the log and of received snapshots.
    pub disk: Arc<dyn Disk>,
    /// The folder for both.
    pub dir: PathBuf,
    /// The store of the states; it has [`crate::store::STATE_SPACES`].
    pub kv: Arc<dyn Kv>,
    /// The way to the peers.
    pub link: Arc<dyn PeerLink>,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// Where all randomness comes from.
    pub seed: u64,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// The log.
    pub wal: WalOptions,
    /// What is kept.
    pub retention: Retention,
    /// A group of which nothing was asked for so long rests; `None`: never.
    pub rest_after: Option<Duration>,
    /// Blocking work in the caller's task and no threads: for deterministic simulation only.
    pub inline: bool,
}

impl GroupsConfig {
    /// With default timing, log and retention.
    #[must_use]
    #[allow(clippy::too_many_arguments)] // one each
    pub fn new(
        node: NodeId,
        site: SiteName,
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        kv: Arc<dyn Kv>,
        link: Arc<dyn PeerLink>,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Self {
        let (timing, retention) = (Timing::default(), Retention::default());
        let wal = WalOptions { seed, ..WalOptions::default() };
        let rest_after = Some(REST_AFTER);
        Self { node, site, disk, dir, kv, link, clock, seed, timing, wal, retention, rest_after, inline: false }
    }
}

/// Time without a request after which a group rests.
const REST_AFTER: Duration = Duration::from_secs(10);

/// What a group is on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSpec {
    /// The nodes that vote, when the group is new.
    pub voters: BTreeMap<NodeId, ()>,
    /// Where leadership should be.
    pub home: Option<NodeId>,
    /// Whether to begin the group with `voters` if it is blank here. Every voter may do so, with the same voters. Only the
    /// first line of a group is begun so.
    pub bootstrap: bool,
    /// Which line of its history.
    pub lineage: Lineage,
}

/// The groups of a node: one log, one store, one upkeep.
pub struct Groups {
    pub(crate) config: GroupsConfig,
    pub(crate) wal: Arc<Wal>,
    pub(crate) states: Arc<StateStore>,
    pub(crate) blocking: Blocking,
    groups: Mutex<BTreeMap<VolumeId, Arc<Group>>>,
    /// One start at a time.
    pub(crate) starting: tokio::sync::Mutex<()>,
    pub(crate) fences: Arc<Fences>,
    /// Counts the times that a greater line was heard of.
    pub(crate) fence_changes: watch::Sender<u64>,
    heard: mpsc::Sender<Heard>,
    /// Replicas that turned out to differ when another node asked.
    pub(crate) contested: Mutex<BTreeSet<(VolumeId, NodeId)>>,
    /// Places for comparisons that others ask for.
    pub(crate) comparing: Arc<Semaphore>,
    recovery: Recovery,
    pub(crate) neighbours: Neighbours,
    together: Together,
    moved: Arc<Moved>,
    pub(crate) rejoining: Arc<Rejoining>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").field("node", &self.config.node).finish_non_exhaustive()
    }
}

impl Groups {
    /// Opens log and states, and finishes what a crash interrupted. Groups run once started.
    ///
    /// Cancel safety: none; start-up only.
    ///
    /// # Errors
    /// Any [`StartError`].
    pub async fn open(mut config: GroupsConfig) -> Result<Arc<Self>, StartError> {
        let blocking = if config.inline { Blocking::Inline } else { Blocking::Pool };
        config.wal.threaded = !config.inline;
        let opened = config.clone();
        let open = move || {
            let wal = Wal::open(Arc::clone(&opened.disk), &opened.dir.join("wal"), opened.wal);
            let (wal, recovery) = wal.map_err(StartError::Wal)?;
            let states = StateStore::open(opened.kv, Arc::clone(&opened.disk), &opened.dir.join("snapshots"));
            let states = states.map_err(StartError::Store)?;
            let fences = Fences::open(opened.disk, opened.dir.join("lineages"))?;
            Ok::<_, StartError>((wal, recovery, states, fences))
        };
        let (wal, recovery, states, fences) = blocking.run(open).await?;
        let (heard, listening) = mpsc::channel(HEARD_MAX);
        let boot = config.seed ^ config.clock.now().0.cast_unsigned();
        let together = Together::new(Arc::clone(&config.link));
        let groups = Arc::new(Self {
            fences: Arc::new(fences),
            fence_changes: watch::Sender::new(0),
            heard,
            config,
            wal: Arc::new(wal),
            states,
            blocking,
            groups: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            contested: Mutex::default(),
            comparing: Arc::new(Semaphore::new(digests::COMPARING_MAX)),
            recovery,
            neighbours: Neighbours::new(boot),
            rejoining: Arc::default(),
            together,
            moved: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        groups.forget_logs().await?;
        groups.tasks.spawn(Self::upkeep(Arc::downgrade(&groups), groups.stop.clone()));
        groups.tasks.spawn(Self::watch_leaders(Arc::downgrade(&groups), groups.stop.clone()));
        let rejoining = Arc::clone(&groups.rejoining);
        groups.tasks.spawn(Self::rejoin(Arc::downgrade(&groups), rejoining, groups.stop.clone()));
        groups.tasks.spawn(Self::listen(Arc::downgrade(&groups), listening, groups.stop.clone()));
        Ok(groups)
    }

    /// Runs a group, also after a restart. Asked again it gives the running one, with the new home.
    ///
    /// Cancel safety: dropped before it returns, the group may run; ask again.
    ///
    /// # Errors
    /// Any [`StartError`].
    pub async fn start(self: &Arc<Self>, id: VolumeId, spec: GroupSpec) -> Result<Arc<Group>, StartError> {
        let _one = self.starting.lock().await;
        let followed = self.fences.lineage(id);
        if spec.lineage < followed {
            return Err(StartError::Fenced { group: id, asked: spec.lineage, followed });
        }
        if self.is_forgotten(id, spec.lineage) {
            // It would vote again without its memory of what it voted for.
            let reason =
                format!("what this node had of line {} of group {id} was given up: add the node anew", spec.lineage);
            return Err(StartError::Config(reason));
        }
        self.leave(id, spec.lineage, self.config.node, None).await?;
        if let Some(group) = self.get(id) {
            group.set_home(spec.home);
            return Ok(group);
        }
        if self.stop.is_cancelled() {
            return Err(StartError::Config("the node shuts down".to_owned()));
        }
        let group = self.make(id, &spec).await?;
        let raft_error = |reason: String| StartError::Raft { group: id, reason };
        let blank = !group.raft.is_initialized().await.map_err(|error| raft_error(chain(&error)))?;
        if spec.bootstrap && blank && spec.lineage.is_first() {
            let voters: BTreeMap<u64, ()> = spec.voters.keys().map(|node| (node.0, ())).collect();
            group.raft.initialize(voters).await.map_err(|error| raft_error(chain(&error)))?;
            if spec.home == Some(self.config.node) {
                self.tasks.spawn(election::first(Arc::clone(&group), self.config.timing.heartbeat, self.stop.clone()));
            }
        }
        if blank {
            self.lock().insert(id, Arc::clone(&group));
        } else {
            // Before a message can come that wakes it.
            self.begin_to_rejoin(&group);
            self.lock().insert(id, Arc::clone(&group));
            self.rejoining.push(id);
        }
        // It may lead already, and whoever was told could not find it.
        self.moved.note(id);
        Ok(group)
    }

    async fn make(&self, id: VolumeId, spec: &GroupSpec) -> Result<Arc<Group>, StartError> {
        let config = election::raft_config(&self.config, id, spec.home)?;
        let states = Arc::clone(&self.states);
        let storage = spec.lineage.storage(id);
        let open = move || {
            let store = states.group(storage)?;
            store.resume_install().map(|()| store)
        };
        let store = self.blocking.run(open).await.map_err(StartError::Store)?;
        let log = self.wal.group(storage);
        let fenced = Arc::new(AtomicBool::new(false));
        let network = NetworkFactory {
            link: Arc::clone(&self.config.link),
            together: self.together.clone(),
            group: id,
            node: self.config.node,
            blocking: self.blocking,
            stall: (self.config.timing.election_max * 4).max(Duration::from_secs(4)),
            lineage: spec.lineage,
            heard: self.heard.clone(),
            fenced: Arc::clone(&fenced),
        };
        let machine = StateMachine::new(Arc::clone(&self.states), Arc::clone(&store), self.blocking);
        let log_store = LogStore::new(log.clone(), self.blocking);
        let seed = self.config.seed ^ self.config.node.0.rotate_left(32) ^ id.0;
        let made = Raft::new(self.config.node.0, Arc::new(config), network, log_store, machine);
        let made = DeterministicRng::<TokioRuntime>::scope(seed, Box::pin(made)).await;
        let raft = made.map_err(|error| StartError::Raft { group: id, reason: chain(&error) })?;
        let (coalescer, run) = Coalescer::new(raft.clone(), self.stop.clone());
        self.tasks.spawn(run);
        let rest = Rest::new(raft.clone());
        let receiver = Receiver {
            group: id,
            raft: raft.clone(),
            store: Arc::clone(&store),
            wal: Arc::clone(&self.wal),
            blocking: self.blocking,
            receiving: Arc::default(),
            seed: seed.rotate_left(17),
            rest: Arc::clone(&rest),
            fenced: Arc::clone(&fenced),
        };
        let server = raft.server_metrics();
        self.tasks.spawn(moved::follow(id, server.clone(), Arc::clone(&self.moved), self.stop.clone()));
        Ok(Arc::new(Group {
            id,
            node: self.config.node,
            read_index: ReadIndex::new(raft.clone()),
            server,
            store,
            log,
            wal: Arc::clone(&self.wal),
            coalescer,
            receiver,
            rest,
            home: Mutex::new(spec.home),
            home_changed: AtomicBool::new(false),
            moved: Arc::clone(&self.moved),
            lineage: spec.lineage,
            fenced,
            fences: Arc::clone(&self.fences),
            avoided: Mutex::default(),
            raft,
        }))
    }

    /// Ends a group that this node is no member of any more. Its log and state stay on the disk: should the node become a
    /// member again, it comes back with its memory of what it voted for.
    ///
    /// Cancel safety: dropped, the group may run on; ask again.
    pub async fn stop(&self, id: VolumeId) {
        let _one = self.starting.lock().await;
        let Some(group) = self.get(id) else { return };
        self.end(&group).await;
    }

    /// Ends a running group, under the lock of starts.
    pub(crate) async fn end(&self, group: &Group) {
        self.lock().remove(&group.id);
        if let Err(error) = group.raft.shutdown().await {
            tracing::warn!(group = %group.id, %error, "a group did not stop in order");
        }
    }

    /// A running group.
    #[must_use]
    pub fn get(&self, id: VolumeId) -> Option<Arc<Group>> {
        self.lock().get(&id).cloned()
    }

    /// Tells of groups that somebody has to look after again.
    #[must_use]
    pub fn moved(&self) -> &Moved {
        &self.moved
    }

    /// All running groups.
    #[must_use]
    pub fn running(&self) -> Vec<Arc<Group>> {
        self.lock().values().cloned().collect()
    }

    /// Handles a peer's request; `from` is whom the link authenticated.
    ///
    /// Cancel safety: dropped, the request may be handled or not.
    ///
    /// # Errors
    /// Any [`HandleError`]; it goes back to the peer.
    pub async fn handle(&self, from: NodeId, request: PeerRequest) -> Result<Bytes, HandleError> {
        match request.kind {
            kind::REST | kind::PING => return self.handle_node(from, request.kind, &request.payload),
            kind::REJOIN => return self.handle_rejoin(from, &request.payload),
            kind::TOGETHER => return self.handle_together(from, &request.payload).await,
            _ => {}
        }
        if digests::is_about_digests(request.kind) {
            return self.handle_digests(from, &request).await;
        }
        let group = self.of_line(from, request.group, request.lineage).await?;
        group.receiver.handle(from, request.kind, request.payload).await
    }

    /// Handles a stream that a peer opened: its messages in, the answers out. Both end together.
    ///
    /// # Errors
    /// Any [`HandleError`], at once or as the last answer; it goes back to the peer.
    pub async fn handle_stream(
        &self,
        from: NodeId,
        request: PeerRequest,
        incoming: BoxStream<'static, Bytes>,
    ) -> Result<BoxStream<'static, Result<Bytes, HandleError>>, HandleError> {
        let group = self.of_line(from, request.group, request.lineage).await?;
        if request.kind == kind::STATE_STREAM {
            return self.send_state(from, group).await;
        }
        group.receiver.handle_stream(from, request.kind, request.payload, incoming).await
    }

    /// What was found when the log was opened.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Whether the log takes entries.
    #[must_use]
    pub fn wal_state(&self) -> WalState {
        self.wal.state()
    }

    /// Sizes and counts of the log.
    #[must_use]
    pub fn wal_stats(&self) -> WalStats {
        self.wal.stats()
    }

    /// Stops all groups and makes everything durable. Proposals that wait end with an unknown outcome.
    ///
    /// Cancel safety: dropped, a part is stopped; call it again.
    pub async fn shutdown(&self) {
        let _one = self.starting.lock().await;
        self.stop.cancel();
        for group in self.running() {
            if let Err(error) = group.raft.shutdown().await {
                tracing::warn!(group = %group.id, %error, "a group did not stop in order");
            }
        }
        self.lock().clear();
        self.tasks.close();
        self.tasks.wait().await;
        let (states, wal) = (Arc::clone(&self.states), Arc::clone(&self.wal));
        let persist = move || {
            if let Err(error) = states.persist() {
                tracing::warn!(error = chain(&error), "states were not made durable; the log has them");
            }
            wal.close();
        };
        self.blocking.run(persist).await;
    }

    async fn upkeep(groups: std::sync::Weak<Self>, stop: CancellationToken) {
        let mut memories: BTreeMap<VolumeId, upkeep::Memory> = BTreeMap::new();
        let mut round = 0_u64;
        loop {
            tokio::select! {
                () = tokio::time::sleep(upkeep::ROUND) => {}
                () = stop.cancelled() => return,
            }
            let Some(groups) = groups.upgrade() else { return };
            round += 1;
            let steady = groups.config.timing.election_min;
            let mut transfers = upkeep::TRANSFERS_MAX;
            for group in groups.running() {
                let memory = memories.entry(group.id).or_default();
                let now = groups.config.clock.now();
                let keep = &groups.config.retention;
                let work = group.upkeep(memory, keep, now, steady, groups.blocking, &mut transfers);
                tokio::select! {
                    () = work => {}
                    () = stop.cancelled() => return,
                }
            }
            if let Some(idle) = groups.config.rest_after {
                tokio::select! {
                    () = groups.rest_idle(idle) => {}
                    () = stop.cancelled() => return,
                }
            }
            if round.is_multiple_of(2) {
                groups.states.expire_views();
            }
            if round.is_multiple_of(5) {
                groups.persist().await;
            }
        }
    }

    /// Bounds what a power cut makes the next start apply again.
    async fn persist(&self) {
        if self.running().iter().all(|group| group.store.persisted() >= group.applied()) {
            return;
        }
        let states = Arc::clone(&self.states);
        if let Err(error) = self.blocking.run(move || states.persist()).await {
            tracing::error!(error = chain(&error), "states were not made durable");
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Arc<Group>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
