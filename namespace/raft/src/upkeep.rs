//! What a node does for its groups beside serving them: snapshots and purging of the log, pruning of old versions,
//! leadership back to home.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;

use causeway_base::{NodeId, Seq, Timestamp};
use causeway_namespace_core::manage::RetentionRecord;

use crate::consensus::blocking::Blocking;
use crate::group::Group;
use crate::groups::Retention;
use crate::store::chain;

/// Between two rounds.
pub(crate) const ROUND: Duration = Duration::from_secs(1);
/// Rounds in a row in which home must be healthy and caught up before leadership goes there.
const HOME_STEADY: u32 = 3;
/// Groups whose leadership goes home in one round: each holds an election.
pub(crate) const TRANSFERS_MAX: u32 = 64;
/// Rounds before it is tried again.
const HOME_AGAIN: u32 = 10;
/// Rounds before a replica that is wrong tries again to hand leadership over.
const HAND_OVER_AGAIN: u32 = 3;
/// Entries that home may be behind when leadership goes there; the transfer waits for the rest.
const HOME_LAG: u64 = 64;
/// Changed seqs pruned at once; applying waits no longer than for these.
const PRUNE_STEP: usize = 64;
/// Time for pruning one group in one round.
const PRUNE_TIME: Duration = Duration::from_millis(100);

/// Rounds before a group at rest is looked at again.
const PRUNE_AGAIN: u32 = 60;

/// What is remembered of a group between rounds.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    home_steady: u32,
    home_wait: u32,
    /// The log's length at which a snapshot was last asked for.
    snapshot_asked: Seq,
    /// What was applied when old versions were last given up.
    pruned_at: Seq,
    /// Rounds before that is looked at again though nothing was applied since.
    prune_wait: u32,
}

impl Group {
    /// One round.
    pub(crate) async fn upkeep(
        &self,
        memory: &mut Memory,
        keep: &Retention,
        now: Timestamp,
        steady: Duration,
        blocking: Blocking,
        transfers: &mut u32,
    ) {
        // The log is what a repair goes on from.
        if self.diverged().is_some() {
            return self.hand_over(memory, steady).await;
        }
        self.compact(memory, keep).await;
        self.prune(memory, keep, now, blocking).await;
        self.go_home(memory, steady, transfers).await;
    }

    /// A snapshot costs a sync of the store; then the log may give up what it holds twice.
    async fn compact(&self, memory: &mut Memory, keep: &Retention) {
        let range = self.log.range();
        let too_many = range.end - range.start > keep.log_entries.saturating_mul(2);
        let too_large = self.log.bytes() > keep.log_bytes;
        if !too_many && !too_large {
            return;
        }
        let snapshot = self.raft.metrics().borrow_watched().snapshot.map_or(0, |id| id.index);
        let kept = if too_large { keep.log_entries / 8 } else { keep.log_entries };
        let upto = self.applied().0.saturating_sub(kept);
        if snapshot >= upto && upto > range.start {
            if let Err(fatal) = self.raft.trigger().purge_log(upto).await {
                tracing::debug!(group = %self.id, error = chain(&fatal), "the log was not purged");
            }
        } else if memory.snapshot_asked < self.applied() {
            memory.snapshot_asked = self.applied();
            if let Err(fatal) = self.raft.trigger().snapshot().await {
                tracing::debug!(group = %self.id, error = chain(&fatal), "no snapshot was made");
            }
        }
    }

    /// Gives up what is older than the volume keeps, and than the node keeps where the volume does not say.
    async fn prune(&self, memory: &mut Memory, keep: &Retention, now: Timestamp, blocking: Blocking) {
        // A volume at rest costs nothing but, now and then, a look at what time alone makes too old.
        let applied = self.applied();
        memory.prune_wait = memory.prune_wait.saturating_sub(1);
        if memory.pruned_at == applied && memory.prune_wait > 0 {
            return;
        }
        let store = Arc::clone(&self.store);
        let default = RetentionRecord { seqs: keep.seqs, seconds: 0 };
        let work = move || {
            let floor = store.retained_from(default, now)?;
            let start = std::time::Instant::now();
            let mut more = true;
            while more && start.elapsed() < PRUNE_TIME {
                more = store.prune(floor, PRUNE_STEP)?;
            }
            Ok::<_, crate::store::StoreError>(more)
        };
        match blocking.run(work).await {
            Ok(more) => (memory.pruned_at, memory.prune_wait) = (applied, if more { 0 } else { PRUNE_AGAIN }),
            Err(error) => tracing::warn!(group = %self.id, error = chain(&error), "old versions were not pruned"),
        }
    }

    /// A replica that is wrong must not lead.
    async fn hand_over(&self, memory: &mut Memory, steady: Duration) {
        memory.home_wait = memory.home_wait.saturating_sub(1);
        if !self.is_leader() || memory.home_wait > 0 {
            return;
        }
        if self.rest.is_resting() {
            self.stir(steady).await;
        }
        let able = |node: &NodeId| *node != self.node && !self.is_avoided(*node) && self.is_caught_up(*node, steady);
        let Some(other) = self.members().into_iter().find(able) else {
            tracing::error!(group = %self.id, "this node's replica is wrong and leads, and no other can take over now");
            return;
        };
        tracing::warn!(group = %self.id, to = %other, "this node's replica is wrong: it hands leadership over");
        memory.home_wait = HAND_OVER_AGAIN;
        if let Err(error) = self.transfer_leader(other).await {
            tracing::warn!(group = %self.id, %error, "leadership stayed");
        }
    }

    async fn go_home(&self, memory: &mut Memory, steady: Duration, transfers: &mut u32) {
        memory.home_wait = memory.home_wait.saturating_sub(1);
        let Some(home) = self.home().filter(|home| *home != self.node && !self.is_avoided(*home)) else { return };
        if !self.is_leader() {
            memory.home_steady = 0;
            return;
        }
        // It rests since home is away, and is woken when home answers; if home was changed, by who looks after the group.
        if self.rest.is_resting() {
            memory.home_steady = 0;
            return;
        }
        if !self.is_caught_up(home, steady) {
            memory.home_steady = 0;
            return;
        }
        memory.home_steady += 1;
        if memory.home_steady >= HOME_STEADY && memory.home_wait == 0 && *transfers > 0 {
            *transfers -= 1;
            tracing::info!(group = %self.id, %home, "leadership goes home");
            memory.home_steady = 0;
            memory.home_wait = HOME_AGAIN;
            if let Err(error) = self.transfer_leader(home).await {
                tracing::debug!(group = %self.id, %error, "leadership stayed");
            }
        }
    }

    /// Whether a voter answers, and has nearly all of the log.
    pub(crate) fn is_caught_up(&self, node: NodeId, steady: Duration) -> bool {
        let is_voter = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.voter_ids().any(|id| id == node.0)
        };
        is_voter && self.has_caught_up(node, steady)
    }

    /// Whether a member answers, and has nearly all of the log.
    pub(crate) fn has_caught_up(&self, node: NodeId, steady: Duration) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&node.0)).and_then(|id| *id);
        let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(&node.0)).and_then(|at| *at);
        let last = metrics.last_log_index.unwrap_or(0);
        matched.is_some_and(|id| id.index + HOME_LAG >= last) && heard.is_some_and(|at| at.elapsed() < steady)
    }
}
