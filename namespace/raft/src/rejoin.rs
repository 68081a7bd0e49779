//! A node that starts, and the groups at rest that it is a member of.
//!
//! Its groups begin at rest under the leader that they know from before, and it asks all members' nodes at once, for all
//! groups that have just started: the leader at rest of the same term, with the same last entry, says that nothing has
//! happened, and neither side wakes. A leader that has something to tell wakes and does. What no leader vouches for runs its
//! clock, a few groups at a time. So a node with a thousand idle volumes comes back with a few messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use causeway_base::{NodeId, VolumeId};

use crate::consensus::wire::{self, kind};
use crate::error::HandleError;
use crate::group::Group;
use crate::groups::Groups;
use crate::link::LinkError;
use crate::rest::{GROUPS_MAX, Resting};

/// How long groups that start wait for others that do: they are asked about together.
const COMPANY: Duration = Duration::from_millis(50);
/// How often a node that starts tries to say so to a peer.
const TRIES: u32 = 5;

/// Groups that have started and were not asked about yet.
#[derive(Debug, Default)]
pub(crate) struct Rejoining {
    started: Mutex<Vec<VolumeId>>,
    some: Notify,
    /// Groups that started and whose answers are not there yet.
    open: AtomicUsize,
}

impl Rejoining {
    pub(crate) fn push(&self, group: VolumeId) {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.lock().push(group);
        self.some.notify_one();
    }

    fn take(&self) -> Vec<VolumeId> {
        let mut started = self.lock();
        let count = started.len().min(GROUPS_MAX);
        let taken = started.drain(..count).collect();
        if !started.is_empty() {
            self.some.notify_one();
        }
        taken
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<VolumeId>> {
        // Valid after any single statement.
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Groups {
    /// Stops the clock of a group that has just started, until the other members were asked about it: openraft counts no lease of
    /// a leader that it heard before the start, and would stand for election too soon.
    pub(crate) fn begin_to_rejoin(&self, group: &Group) {
        if self.config.rest_after.is_none() || group.id == VolumeId::ROOT {
            return;
        }
        let others = || group.members().into_iter().filter(|member| *member != self.config.node);
        let leader = group.leader().filter(|leader| *leader != self.config.node);
        // Whom it rests under is watched: should that one be gone, it wakes.
        if let Some(under) = leader.or_else(|| others().next()) {
            group.rest.lie_down(Some(under));
        }
    }

    /// Asks about the groups that start, until the node stops.
    pub(crate) async fn rejoin(groups: Weak<Self>, rejoining: Arc<Rejoining>, stop: CancellationToken) {
        loop {
            let some = async {
                rejoining.some.notified().await;
                tokio::time::sleep(COMPANY).await;
            };
            tokio::select! {
                () = some => {}
                () = stop.cancelled() => return,
            }
            let Some(groups) = groups.upgrade() else { return };
            let taken = rejoining.take();
            let count = taken.len();
            let started: Vec<_> = taken.into_iter().filter_map(|id| groups.get(id)).collect();
            tokio::select! {
                () = groups.ask_to_rest(started) => {}
                () = stop.cancelled() => return,
            }
            rejoining.open.fetch_sub(count, Ordering::AcqRel);
        }
    }

    /// Whether the other members were asked about all groups that have started here.
    #[must_use]
    pub fn has_rejoined(&self) -> bool {
        self.rejoining.open.load(Ordering::Acquire) == 0
    }

    async fn ask_to_rest(self: &Arc<Self>, started: Vec<Arc<Group>>) {
        let mut asks: BTreeMap<NodeId, Vec<Resting>> = BTreeMap::new();
        for group in &started {
            let may_rest = group.is_at_rest() && group.leader() == group.rest.under();
            let one = group.settled().filter(|_| may_rest).unwrap_or_else(|| Resting::never(group.id));
            for member in group.members().into_iter().filter(|member| *member != self.config.node) {
                asks.entry(member).or_default().push(one);
            }
        }
        let within = self.config.timing.election_min;
        let unheard = AtomicBool::new(false);
        let failed = &unheard;
        let asks = asks.into_iter().map(|(to, list)| async move {
            let answer = self.node_call(to, kind::REJOIN, wire::encode(&list), within).await;
            let vouched: Option<Vec<u64>> = answer.ok().and_then(|answer| wire::decode(&answer).ok());
            if vouched.is_none() {
                failed.store(true, Ordering::Relaxed);
                // It may lead some of them, and must hear of this node before the others elect.
                self.tasks.spawn(tell_again(Arc::downgrade(self), to, list, self.stop.clone()));
            }
            vouched.unwrap_or_default().into_iter().map(move |group| (VolumeId(group), to))
        });
        let vouched: BTreeSet<(VolumeId, NodeId)> = join_all(asks).await.into_iter().flatten().collect();
        let rests = |group: &Group| group.rest.under().is_some_and(|leader| vouched.contains(&(group.id, leader)));
        let all = started.len();
        let wake: Vec<_> = started.into_iter().filter(|group| group.is_at_rest() && !rests(group)).collect();
        tracing::debug!(groups = all, wake = wake.len(), "groups have started");
        if wake.is_empty() {
            return;
        }
        let (this, stop) = (Arc::clone(self), self.stop.clone());
        // The heartbeats of leaders that woke for it wake it, and are to come first; also of one that is told once more.
        let first = this.config.timing.heartbeat * 2;
        let first = if unheard.into_inner() { first + within / 2 } else { first };
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(first) => this.rouse_in_turn(wake),
                () = stop.cancelled() => {}
            }
        });
    }

    /// Says which of the groups may rest under this node, and wakes the others that it leads.
    pub(crate) fn handle_rejoin(&self, from: NodeId, payload: &[u8]) -> Result<Bytes, HandleError> {
        let asked: Vec<Resting> = wire::decode(payload).map_err(HandleError::Bad)?;
        if asked.len() > GROUPS_MAX {
            return Err(HandleError::Bad(format!("{} groups at once", asked.len())));
        }
        let (mut vouched, mut wake) = (Vec::new(), Vec::new());
        for one in asked {
            // What led it has forgotten that.
            wake.extend(self.get(one.group()).filter(|group| group.rest.under() == Some(from)));
            let led = self.get(one.group()).filter(|group| group.is_leader() && group.members().contains(&from));
            let Some(group) = led else { continue };
            if group.is_at_rest() && group.settled() == Some(one) {
                vouched.push(one.group().0);
            } else {
                // Not to rest again before the other has heard of it.
                group.rest.touch();
                wake.push(group);
            }
        }
        self.rouse_in_turn(wake);
        Ok(wire::encode(&vouched))
    }
}

/// Says to a node that this one has started; its leaders wake, since nobody waits for what it vouches for any more.
async fn tell_again(groups: Weak<Groups>, to: NodeId, list: Vec<Resting>, stop: CancellationToken) {
    let list: Vec<Resting> = list.iter().map(|one| Resting::never(one.group())).collect();
    for _ in 0..TRIES {
        let Some(groups) = groups.upgrade() else { return };
        let every = groups.config.timing.election_min / 2;
        match groups.node_call(to, kind::REJOIN, wire::encode(&list), every).await {
            Ok(_) => return,
            // An older build: it hears of it by a ping.
            Err(LinkError::Refused(_)) => drop(groups.ping(to, every).await),
            Err(_) => {}
        }
        drop(groups);
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = stop.cancelled() => return,
        }
    }
}
