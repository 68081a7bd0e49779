//! Groups at rest: a group in which nothing happens sends and wakes nothing.
//!
//! A leader whose group was idle for a while stops its clock and asks its members to stop theirs, all groups of a node in one
//! message a peer. Whoever is spoken to wakes: a proposal or a read wakes the leader, whose messages wake the others. What
//! heartbeats told is then told by node instead of by group: the members of groups at rest ping the node that leads them,
//! and wake when it is gone or was started anew; a node that starts says so to its peers. Safety stands on Raft alone: a
//! group that wakes too often, or whose members disagree about it, at worst elects a leader.
//!
//! The idea is that of TiKV's hibernating regions and CockroachDB's quiescent ranges.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use causeway_base::{NodeId, VolumeId};

use crate::consensus::types::Raft;
use crate::consensus::wire::{self, kind};
use crate::error::HandleError;
use crate::group::Group;
use crate::groups::Groups;
use crate::link::{LinkError, PeerRequest};

/// Groups in one message.
pub(crate) const GROUPS_MAX: usize = 4096;
/// Pings in a row without an answer after which a node counts as gone.
const MISSES: u32 = 2;
/// Groups are woken again for a home that answers and did not come to lead them: perhaps its replica does not run.
const HOME_AGAIN: Duration = Duration::from_secs(30);
/// Groups that are woken at once, when many are to be.
const ROUSED_MAX: usize = 32;
/// Between as many and the next.
const ROUSE_EVERY: Duration = Duration::from_millis(25);
/// Groups that a node leads and that are awake, above which an idle one rests sooner: what is awake costs some fifty timers a
/// second on each of its members.
const AWAKE_MANY: usize = 64;

/// Whether a group rests on this node.
#[derive(Debug)]
pub(crate) struct Rest {
    raft: Raft,
    resting: AtomicBool,
    /// Counts what speaks against resting.
    stirred: AtomicU64,
    start: Instant,
    /// Milliseconds after `start`.
    active: AtomicU64,
    /// The leader that asked for it; `None` on the leader itself.
    under: Mutex<Option<NodeId>>,
    waking: tokio::sync::Mutex<()>,
}

impl Rest {
    pub(crate) fn new(raft: Raft) -> Arc<Self> {
        Arc::new(Self {
            raft,
            resting: AtomicBool::new(false),
            stirred: AtomicU64::new(0),
            start: Instant::now(),
            active: AtomicU64::new(0),
            under: Mutex::default(),
            waking: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Acquire)
    }

    /// Something was asked of the group.
    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.active.store(now, Ordering::Relaxed);
        self.stirred.fetch_add(1, Ordering::AcqRel);
    }

    fn idle(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.active.load(Ordering::Relaxed)))
    }

    /// Lets the clock run again.
    pub(crate) fn rouse(&self) {
        self.stirred.fetch_add(1, Ordering::AcqRel);
        if self.resting.swap(false, Ordering::AcqRel) {
            self.raft.runtime_config().tick(true);
        }
    }

    pub(crate) fn lie_down(&self, under: Option<NodeId>) -> u64 {
        let stirred = self.stirred.load(Ordering::Acquire);
        *self.under.lock().unwrap_or_else(PoisonError::into_inner) = under;
        self.raft.runtime_config().tick(false);
        self.resting.store(true, Ordering::Release);
        stirred
    }

    pub(crate) fn under(&self) -> Option<NodeId> {
        *self.under.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// Whether the group rests here: nobody asked anything of it for a while, and it costs nothing.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.rest.is_resting()
    }

    /// Before something is asked of the leader. At rest its word is out of date, so that it could not take a proposal: a
    /// quorum confirms it first. Whoever comes meanwhile waits for that.
    pub(crate) async fn stir(&self, deadline: Duration) {
        self.rest.touch();
        if !self.rest.is_resting() {
            return;
        }
        let started = Instant::now();
        let Ok(_one) = tokio::time::timeout(deadline, self.rest.waking.lock()).await else { return };
        if self.rest.is_resting() {
            // If it fails, what was to be asked will say so.
            let confirmed = self.read_index.get(deadline.saturating_sub(started.elapsed())).await;
            tracing::debug!(group = %self.id, confirmed = confirmed.is_ok(), "the group wakes");
            self.rest.rouse();
        }
    }

    /// The members that must rest with this leader; `None` if the group should not rest.
    fn members_to_rest(&self, idle: Duration, steady: Duration) -> Option<(Resting, BTreeSet<NodeId>)> {
        if self.id == VolumeId::ROOT || self.rest.is_resting() || self.rest.idle() < idle || !self.is_leader() {
            return None;
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let [voters] = membership.get_joint_config().as_slice() else { return None };
        let last = metrics.last_log_index?;
        let all_applied = metrics.last_applied.as_ref().is_some_and(|id| id.index == last);
        if !all_applied || metrics.running_state.is_err() {
            return None;
        }
        let mut present = BTreeSet::new();
        for (id, ()) in membership.nodes().filter(|(id, ())| **id != self.node.0) {
            let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(id)).and_then(|at| *at);
            if heard.is_none_or(|at| at.elapsed() >= steady) {
                continue;
            }
            let matched = metrics.replication.as_ref().and_then(|all| all.get(id)).and_then(|id| *id);
            if matched.is_none_or(|id| id.index != last) {
                return None;
            }
            present.insert(NodeId(*id));
        }
        // Leadership is about to go there.
        if self.home().is_some_and(|home| present.contains(&home) && voters.contains(&home.0)) {
            return None;
        }
        // Who is away will say so when it comes back, and home is asked for.
        let votes = 1 + present.iter().filter(|node| voters.contains(&node.0)).count();
        let one = Resting { group: self.id.0, term: metrics.current_term, last };
        (votes * 2 > voters.len()).then_some((one, present))
    }

    /// Home, if the group rests here under this node while another voter is home.
    fn home_away(&self) -> Option<NodeId> {
        let home = self.home().filter(|home| *home != self.node && self.rest.under().is_none())?;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.voter_ids().any(|id| id == home.0).then_some(home)
    }

    /// What this node has of the group, if all of it is applied.
    pub(crate) fn settled(&self) -> Option<Resting> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index?;
        let all_applied = metrics.last_applied.as_ref().is_some_and(|id| id.index == last);
        all_applied.then_some(Resting { group: self.id.0, term: metrics.current_term, last })
    }

    /// Whether the group may rest here for a leader: it knows of nothing that the leader does not.
    fn rest_under(&self, leader: NodeId, asked: &Resting) -> bool {
        let agrees = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.current_leader == Some(leader.0)
                && metrics.current_term == asked.term
                && metrics.last_log_index == Some(asked.last)
                && metrics.last_applied.as_ref().is_some_and(|id| id.index == asked.last)
        };
        if agrees && leader != self.node {
            self.rest.lie_down(Some(leader));
        }
        agrees && leader != self.node
    }
}

/// A group that is to rest, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resting {
    group: u64,
    term: u64,
    last: u64,
}

impl Resting {
    /// What no leader has: no group begins with term 0.
    pub(crate) fn never(group: VolumeId) -> Self {
        Self { group: group.0, term: 0, last: 0 }
    }

    pub(crate) fn group(&self) -> VolumeId {
        VolumeId(self.group)
    }
}

/// What a node knows of the others.
#[derive(Debug)]
pub(crate) struct Neighbours {
    /// Of this run of this node.
    boot: u64,
    /// Of the runs of others.
    boots: Mutex<BTreeMap<NodeId, u64>>,
}

impl Neighbours {
    pub(crate) fn new(boot: u64) -> Self {
        Self { boot, boots: Mutex::default() }
    }

    /// Whether the node runs anew since it was last heard of. One that is heard of for the first time does not: whoever starts
    /// says so, see [`crate::rejoin`].
    fn is_new(&self, node: NodeId, boot: u64) -> bool {
        let before = self.boots.lock().unwrap_or_else(PoisonError::into_inner).insert(node, boot);
        before.is_some_and(|before| before != boot)
    }
}

impl Groups {
    /// Lets the groups rest that nobody asked anything for so long and that are led here.
    pub(crate) async fn rest_idle(&self, idle: Duration) {
        let timing = self.config.timing;
        let mut asked: BTreeMap<NodeId, Vec<Resting>> = BTreeMap::new();
        let mut resting: Vec<(Arc<Group>, u64)> = Vec::new();
        let running = self.running();
        let awake = running.iter().filter(|group| !group.rest.is_resting() && group.is_leader()).count();
        let idle = match awake.checked_div(AWAKE_MANY) {
            None | Some(0) => idle,
            Some(times) => idle / u32::try_from(times.min(10)).unwrap_or(1),
        };
        for group in running {
            if resting.len() == GROUPS_MAX {
                break;
            }
            let Some((one, members)) = group.members_to_rest(idle, timing.election_min) else { continue };
            let stirred = group.rest.lie_down(None);
            resting.push((group, stirred));
            members.into_iter().for_each(|member| asked.entry(member).or_default().push(one));
        }
        if resting.is_empty() {
            return;
        }
        // Heartbeats that are under way arrive first.
        tokio::time::sleep(timing.heartbeat).await;
        let within = (timing.election_min / 2).max(timing.heartbeat);
        let ask = asked.into_iter().map(|(to, list)| async move {
            let asked: Vec<VolumeId> = list.iter().map(|one| VolumeId(one.group)).collect();
            let answer = self.node_call(to, kind::REST, wire::encode(&list), within).await;
            let refused: Option<Vec<u64>> = answer.ok().and_then(|answer| wire::decode(&answer).ok());
            match refused {
                Some(refused) => refused.into_iter().map(VolumeId).collect(),
                None => asked,
            }
        });
        let refused: BTreeSet<VolumeId> = futures::future::join_all(ask).await.into_iter().flatten().collect();
        let mut rest = 0_u64;
        for (group, stirred) in resting {
            let disturbed = group.rest.stirred.load(Ordering::Acquire) != stirred;
            if disturbed || refused.contains(&group.id) {
                group.rest.touch();
                group.rest.rouse();
            } else {
                rest += 1;
            }
        }
        tracing::debug!(groups = rest, "groups rest");
    }

    /// Watches over the leaders of groups that rest here, until the node stops.
    pub(crate) async fn watch_leaders(groups: std::sync::Weak<Self>, stop: tokio_util::sync::CancellationToken) {
        let mut misses: BTreeMap<NodeId, u32> = BTreeMap::new();
        // When groups were last woken to go home to a node that has answered since.
        let mut went_home: BTreeMap<NodeId, Instant> = BTreeMap::new();
        loop {
            let Some(groups) = groups.upgrade() else { return };
            let every = groups.config.timing.election_min;
            let leaders: BTreeSet<NodeId> = groups.resting().filter_map(|group| group.rest.under()).collect();
            let homes: BTreeSet<NodeId> = groups.resting().filter_map(|group| group.home_away()).collect();
            misses.retain(|node, _| leaders.contains(node));
            went_home.retain(|node, at| homes.contains(node) || at.elapsed() < HOME_AGAIN);
            let groups_ref = &groups;
            let pings = leaders.union(&homes).map(|node| async move { (*node, groups_ref.ping(*node, every).await) });
            for (node, answered) in futures::future::join_all(pings).await {
                if answered.is_err() {
                    went_home.remove(&node);
                } else if homes.contains(&node) && went_home.get(&node).is_none_or(|at| at.elapsed() >= HOME_AGAIN) {
                    went_home.insert(node, Instant::now());
                    groups.rouse_to_go_home(node);
                }
                if !leaders.contains(&node) {
                    continue;
                }
                let missed = misses.entry(node).or_default();
                *missed = if answered.is_ok() { 0 } else { *missed + 1 };
                if *missed >= MISSES {
                    groups.rouse(node, "its node does not answer");
                }
            }
            drop(groups);
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    pub(crate) async fn ping(&self, node: NodeId, deadline: Duration) -> Result<(), LinkError> {
        let answer = self.node_call(node, kind::PING, wire::encode(&self.neighbours.boot), deadline).await?;
        let boot: u64 = wire::decode(&answer).map_err(LinkError::Refused)?;
        if self.neighbours.is_new(node, boot) {
            self.rouse(node, "its node was started anew");
        }
        Ok(())
    }

    pub(crate) async fn node_call(
        &self,
        to: NodeId,
        kind: u8,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, LinkError> {
        let called = self.config.link.call(
            to,
            PeerRequest { group: VolumeId::ROOT, lineage: Default::default(), kind, payload },
            deadline,
        );
        tokio::time::timeout(deadline, called).await.unwrap_or(Err(LinkError::Timeout))
    }

    /// Handles what is said from node to node.
    pub(crate) fn handle_node(&self, from: NodeId, kind: u8, payload: &[u8]) -> Result<Bytes, HandleError> {
        match kind {
            kind::REST => {
                let asked: Vec<Resting> = wire::decode(payload).map_err(HandleError::Bad)?;
                if asked.len() > GROUPS_MAX {
                    return Err(HandleError::Bad(format!("{} groups at once", asked.len())));
                }
                let refuses = |one: &&Resting| {
                    let group = self.get(VolumeId(one.group));
                    !group.is_some_and(|group| group.rest_under(from, one))
                };
                let refused: Vec<u64> = asked.iter().filter(refuses).map(|one| one.group).collect();
                Ok(wire::encode(&refused))
            }
            kind::PING => {
                let boot: u64 = wire::decode(payload).map_err(HandleError::Bad)?;
                if self.neighbours.is_new(from, boot) {
                    self.rouse(from, "its node was started anew");
                }
                Ok(wire::encode(&self.neighbours.boot))
            }
            other => Err(HandleError::UnknownKind(other)),
        }
    }

    /// Wakes the groups that rest here under a node.
    fn rouse(&self, node: NodeId, why: &str) {
        let under: Vec<Arc<Group>> = self.resting().filter(|group| group.rest.under() == Some(node)).collect();
        if !under.is_empty() {
            tracing::info!(%node, groups = under.len(), why, "groups at rest wake");
        }
        self.rouse_in_turn(under);
    }

    /// Wakes the groups that rested while their home was away: leadership goes there.
    fn rouse_to_go_home(&self, home: NodeId) {
        let away: Vec<Arc<Group>> = self.resting().filter(|group| group.home_away() == Some(home)).collect();
        if away.is_empty() {
            return;
        }
        tracing::info!(%home, groups = away.len(), "home is back: groups at rest wake");
        self.rouse_in_turn(away);
    }

    /// Wakes groups, a few at a time: each of them may hold an election, and a thousand at once would make each other late.
    pub(crate) fn rouse_in_turn(&self, groups: Vec<Arc<Group>>) {
        let mut groups = groups.into_iter();
        let wake = |group: Arc<Group>| {
            if group.rest.is_resting() {
                group.rest.touch();
                group.rest.rouse();
            }
        };
        groups.by_ref().take(ROUSED_MAX).for_each(wake);
        if groups.len() == 0 {
            return;
        }
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            while groups.len() > 0 {
                tokio::select! {
                    () = tokio::time::sleep(ROUSE_EVERY) => {}
                    () = stop.cancelled() => return,
                }
                groups.by_ref().take(ROUSED_MAX).for_each(wake);
            }
        });
    }

    fn resting(&self) -> impl Iterator<Item = Arc<Group>> {
        self.running().into_iter().filter(|group| group.rest.is_resting())
    }
}
