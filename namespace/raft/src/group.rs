//! One group on this node: proposing, reading, watching.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use tokio::sync::watch;
use tokio::time::Instant;

use causeway_base::{NodeId, Seq, VolumeId};
use causeway_namespace_core::command::Request;
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::records::ReadError;

use crate::coalesce::Coalescer;
use crate::consensus::receive::Receiver;
use crate::consensus::types::{Raft, TypeConfig};
use crate::error::{ProposeError, ReadIndexError, WaitError};
use crate::fence::Fences;
use crate::moved::Moved;
use crate::read_index::ReadIndex;
use crate::rest::Rest;
use crate::status::{GroupState, GroupStatus, Proposed};
use crate::store::{Changes, GroupStore, StateView, StoreError, ViewError};
use crate::wal::{GroupLog, Wal, WalState};

/// How often a waiter looks whether the group still runs.
const LOOK: Duration = Duration::from_secs(1);

/// A Raft group on this node.
pub struct Group {
    pub(crate) id: VolumeId,
    pub(crate) node: NodeId,
    pub(crate) raft: Raft,
    pub(crate) store: Arc<GroupStore>,
    pub(crate) log: GroupLog,
    pub(crate) wal: Arc<Wal>,
    pub(crate) coalescer: Coalescer,
    pub(crate) read_index: ReadIndex,
    pub(crate) receiver: Receiver,
    pub(crate) rest: Arc<Rest>,
    pub(crate) server: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    pub(crate) home: Mutex<Option<NodeId>>,
    pub(crate) home_changed: AtomicBool,
    pub(crate) moved: Arc<Moved>,
    pub(crate) lineage: Lineage,
    /// A greater line was heard of: nothing is acknowledged any more.
    pub(crate) fenced: Arc<AtomicBool>,
    /// The way to whoever waits for a greater line's number.
    pub(crate) fences: Arc<Fences>,
    /// Nodes whose replicas are known to be wrong: leadership does not go there.
    pub(crate) avoided: Mutex<BTreeSet<NodeId>>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("id", &self.id).field("node", &self.node).finish_non_exhaustive()
    }
}

impl Group {
    /// Which group.
    #[must_use]
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// Which line of the group's history this is.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// Whether a greater line was heard of: this one has ended.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::SeqCst)
    }

    /// Who leads, as far as is known here.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.server.borrow_watched().current_leader.map(NodeId)
    }

    /// Whether this node leads, as far as it knows: another may have taken over.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        if self.is_fenced() {
            return false;
        }
        let server = self.server.borrow_watched();
        server.state == ServerState::Leader && server.current_leader == Some(self.node.0)
    }

    /// The term in which this node leads, as far as it knows; term and leadership are from one look.
    #[must_use]
    pub fn leads(&self) -> Option<u64> {
        let server = self.server.borrow_watched();
        let leads = server.state == ServerState::Leader && server.current_leader == Some(self.node.0);
        (leads && !self.is_fenced()).then_some(server.vote.leader_id.term)
    }

    /// Puts a request into the log; answered when it is committed and applied here. Concurrent requests share entries.
    ///
    /// Cancel safety: dropped, the request may be applied or not.
    ///
    /// # Errors
    /// [`ProposeError::Unknown`] if it was handed over and no answer came within `deadline`: only a request that is safe to
    /// repeat may be tried again. All others say that nothing happened, but [`ProposeError::Stopped`].
    pub async fn propose(&self, request: Request, deadline: Duration) -> Result<Proposed, ProposeError> {
        if self.is_fenced() {
            return Err(ProposeError::Fenced(self.fences.lineage(self.id)));
        }
        if !self.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leader().filter(|leader| *leader != self.node) });
        }
        // Its outcomes would be wrong. It hands over within a moment: see upkeep.
        if self.store.diverged().is_some() {
            return Err(ProposeError::NotLeader { leader: None });
        }
        match self.wal.state() {
            WalState::Ok => {}
            WalState::Full => return Err(ProposeError::Full),
            WalState::Poisoned(reason) => return Err(ProposeError::Stopped(reason)),
        }
        let started = Instant::now();
        self.stir(deadline).await;
        let left = deadline.saturating_sub(started.elapsed());
        if left.is_zero() {
            // It woke too slowly: nothing is handed over for a caller that has gone.
            return Err(ProposeError::NotLeader { leader: None });
        }
        let answer = self.coalescer.propose(&request, left).await;
        // Committed in a line that has ended meanwhile: in what follows it may be missing.
        if self.is_fenced() && answer.is_ok() { Err(ProposeError::Unknown) } else { answer }
    }

    /// The seq that a linearizable read must see: a quorum confirms that this node leads. Wait for it to be applied here.
    ///
    /// Cancel safety: may be dropped at any time.
    ///
    /// # Errors
    /// Any [`ReadIndexError`].
    pub async fn read_index(&self, deadline: Duration) -> Result<Seq, ReadIndexError> {
        if !self.is_leader() {
            return Err(ReadIndexError::NotLeader { leader: self.leader().filter(|leader| *leader != self.node) });
        }
        let started = Instant::now();
        self.stir(deadline).await;
        let seq = self.read_index.get(deadline.saturating_sub(started.elapsed())).await?;
        if self.is_fenced() { Err(ReadIndexError::NotLeader { leader: None }) } else { Ok(seq) }
    }

    /// Waits until a seq is applied here.
    ///
    /// Cancel safety: may be dropped at any time.
    ///
    /// # Errors
    /// Any [`WaitError`].
    pub async fn wait_applied(&self, seq: Seq, deadline: Duration) -> Result<(), WaitError> {
        let end = Instant::now() + deadline;
        let mut applied = self.store.watch_applied();
        loop {
            let wait = LOOK.min(end.saturating_duration_since(Instant::now()));
            match tokio::time::timeout(wait, applied.wait_for(|applied| *applied >= seq)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) => return Err(WaitError::Stopped("it was shut down".to_owned())),
                Err(_) => {}
            }
            if let GroupState::Stopped(reason) = self.state() {
                return Err(WaitError::Stopped(reason));
            }
            if Instant::now() >= end {
                return Err(WaitError::Timeout { wanted: seq, applied: self.applied() });
            }
        }
    }

    /// The newest state here.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn view(&self) -> Result<StateView, StoreError> {
        self.store.check_sound()?;
        self.store.view()
    }

    /// The state at a seq.
    ///
    /// # Errors
    /// [`ViewError::TooOld`], [`ViewError::NotYet`], or the store failed.
    pub fn view_at(&self, seq: Seq) -> Result<StateView, ViewError> {
        self.check_sound()?;
        self.store.view_at(seq)
    }

    fn check_sound(&self) -> Result<(), ViewError> {
        self.store.check_sound().map_err(|error| ViewError::Read(ReadError::Store(error.to_string())))
    }

    /// The keys of the records that changed after one seq and up to another.
    ///
    /// # Errors
    /// [`ViewError::TooOld`]: the reader fell off and must start from a whole state.
    pub fn changes(&self, after: Seq, until: Seq) -> Result<Changes, ViewError> {
        self.check_sound()?;
        self.store.changes(after, until)
    }

    /// The newest seq applied here.
    #[must_use]
    pub fn applied(&self) -> Seq {
        self.store.applied()
    }

    /// Tells of newly applied seqs.
    #[must_use]
    pub fn watch_applied(&self) -> watch::Receiver<Seq> {
        self.store.watch_applied()
    }

    /// Whether it works here.
    #[must_use]
    pub fn state(&self) -> GroupState {
        match &self.raft.metrics().borrow_watched().running_state {
            Ok(()) => GroupState::Running,
            Err(fatal) => GroupState::Stopped(crate::store::chain(fatal)),
        }
    }

    /// What this node knows of the group.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let meta = self.store.meta();
        let seq = |id: &Option<crate::consensus::types::LogId>| Seq(id.as_ref().map_or(0, |id| id.index));
        GroupStatus {
            group: self.id,
            lineage: self.lineage,
            leader: metrics.current_leader.map(NodeId),
            term: metrics.current_term,
            last_log: Seq(metrics.last_log_index.unwrap_or(0)),
            committed: seq(&metrics.cluster_committed),
            applied: meta.seq(),
            voters: metrics.membership_config.voter_ids().map(NodeId).collect::<BTreeSet<_>>(),
            learners: metrics.membership_config.membership().learner_ids().map(NodeId).collect(),
            purged: seq(&metrics.purged),
            snapshot: seq(&metrics.snapshot),
            digest: meta.digest.to_string(),
            oldest_view: meta.oldest,
            state: match &metrics.running_state {
                Ok(()) => GroupState::Running,
                Err(fatal) => GroupState::Stopped(crate::store::chain(fatal)),
            },
        }
    }

    /// Asks for leadership to go to another voter; it may take some round trips, or not happen.
    ///
    /// Cancel safety: may be dropped at any time; the request may then be made or not.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`], [`ProposeError::Stopped`].
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        self.stir(LOOK).await;
        let asked = self.raft.trigger().transfer_leader(to.0).await;
        asked.map_err(|fatal| ProposeError::Stopped(crate::store::chain(&fatal)))
    }

    /// Asks for leadership to go home at once, if home votes and has caught up; `false` if there is nothing to do or it
    /// cannot be done now. What brings leadership back after a failure waits until home has been well for some seconds;
    /// this is for moves that a person asked for.
    ///
    /// Cancel safety: as [`Group::transfer_leader`].
    ///
    /// # Errors
    /// As [`Group::transfer_leader`].
    pub async fn go_home_now(&self, steady: Duration) -> Result<bool, ProposeError> {
        let Some(home) = self.home().filter(|home| *home != self.node) else { return Ok(false) };
        if !self.is_leader() || self.is_avoided(home) {
            return Ok(false);
        }
        self.stir(LOOK).await;
        if !self.is_caught_up(home, steady) {
            return Ok(false);
        }
        self.transfer_leader(home).await.map(|()| true)
    }

    /// Sets where leadership should be. A change of what was set is remembered for [`Group::take_home_changed`].
    pub fn set_home(&self, home: Option<NodeId>) {
        let before = std::mem::replace(&mut *lock(&self.home), home);
        if before.is_some() && before != home {
            self.home_changed.store(true, Ordering::Relaxed);
            self.moved.note(self.id);
        }
    }

    /// Whether home was changed since it was last asked.
    pub fn take_home_changed(&self) -> bool {
        self.home_changed.swap(false, Ordering::Relaxed)
    }

    /// Says whether a node's replica is known to be wrong: leadership is not handed there as long as it is.
    pub fn avoid(&self, node: NodeId, wrong: bool) {
        let mut avoided = lock(&self.avoided);
        if wrong {
            avoided.insert(node)
        } else {
            avoided.remove(&node)
        };
    }

    pub(crate) fn is_avoided(&self, node: NodeId) -> bool {
        lock(&self.avoided).contains(&node)
    }

    /// Where leadership should be.
    #[must_use]
    pub fn home(&self) -> Option<NodeId> {
        *lock(&self.home)
    }
}

/// The data under each lock is valid after any single statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
