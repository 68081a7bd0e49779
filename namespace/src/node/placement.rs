//! Keeps groups where they should be.
//!
//! Each node looks after the groups that it leads. The root group's leader also plans: it compares each volume's placement
//! with the planner's and, where they differ, proposes the new one, which the volume's own leader then drives. All of it is
//! decided from replicated tables and from the groups' own state, so whoever leads next goes on.
//!
//! Nothing is looked at that nothing happened to: what wakes this is a change of the tables, and leadership that came here or
//! should go. Only what is left unfinished is tried again after a while.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{NodeId, VolumeId};
use causeway_namespace_core::root::{NodeRecord, RootOp, VolumeRecord, VolumeSpec};
use causeway_namespace_raft::{Driven, Group, Members};
use causeway_topology::Topology;
use tokio::time::Instant;

use super::Namespace;
use super::mounts::{self, MountsSeen};
use crate::catalog::Catalog;
use crate::placement::{self, PlaceError};

/// Before what is unfinished is tried again.
const ROUND: Duration = Duration::from_millis(500);
/// Time for one step.
const STEP: Duration = Duration::from_secs(10);
/// Steps of one group in one round.
const STEPS_MAX: usize = 16;
/// How often leadership is offered to a home that was just set, a round after the other. Afterwards it waits for home as after any failure,
/// so that a home that is down does not keep the group awake.
const HOME_TRIES: u32 = 20;
/// Plans that are remembered while all volumes are planned: most volumes want the same as another.
const PLANS_MAX: usize = 16;

pub(super) async fn run(namespace: Arc<Namespace>) {
    let mut catalog = namespace.watch_catalog();
    let mut keeper = Keeper { catalog: Arc::new(Catalog::default()), ..Keeper::default() };
    let mut mounts_at = Instant::now() + mounts::LOOK_AGAIN;
    loop {
        let mut mounts_due = false;
        tokio::select! {
            () = tokio::time::sleep(ROUND), if keeper.is_unfinished() => {}
            () = tokio::time::sleep_until(mounts_at) => {
                mounts_due = true;
                mounts_at = Instant::now() + mounts::LOOK_AGAIN;
            }
            changed = catalog.changed() => if changed.is_err() { return },
            moved = namespace.groups.moved().next() => keeper.due.extend(moved),
            () = namespace.stop.cancelled() => return,
        }
        let now = catalog.borrow_and_update().clone();
        let work = async {
            keeper.look(&namespace, now.clone()).await;
            if mounts_due {
                keeper.mounts.look_again(&namespace, &now).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = namespace.stop.cancelled() => return,
        }
    }
}

/// What is left to do.
#[derive(Default)]
struct Keeper {
    /// The tables as they were looked at last.
    catalog: Arc<Catalog>,
    /// Groups in which something may have to be done.
    due: BTreeSet<VolumeId>,
    /// Volumes whose plan was not proposed.
    unplanned: BTreeSet<VolumeId>,
    /// All are to be planned: this node may just have begun to lead the root group.
    plan_all: bool,
    told: BTreeMap<VolumeId, String>,
    /// Groups whose home was set anew, and how often leadership will still be offered to it.
    homeward: BTreeMap<VolumeId, u32>,
    mounts: MountsSeen,
}

impl Keeper {
    fn is_unfinished(&self) -> bool {
        !self.due.is_empty() || !self.unplanned.is_empty()
    }

    async fn look(&mut self, namespace: &Namespace, now: Arc<Catalog>) {
        let before = std::mem::replace(&mut self.catalog, now.clone());
        let changed = |id: &&VolumeId| !now.is_same(&before, **id);
        let changed: BTreeSet<VolumeId> = now.volumes.keys().filter(changed).copied().collect();
        self.told.retain(|id, _| now.volumes.contains_key(id));
        self.homeward.retain(|id, _| now.volumes.contains_key(id));
        let nodes_changed = (&now.nodes, &now.topology) != (&before.nodes, &before.topology);
        if nodes_changed {
            // Who may lead depends on the nodes, too.
            self.due.insert(VolumeId::ROOT);
            self.due.extend(now.volumes.keys());
        }
        let mut due = std::mem::take(&mut self.due);
        due.extend(&changed);
        let root_due = due.remove(&VolumeId::ROOT);
        self.plan_all |= root_due;
        self.unplanned.extend(changed);
        match namespace.group(VolumeId::ROOT).filter(|root| root.is_leader()) {
            Some(root) if now.cluster.is_some() => self.look_after_root(namespace, &root, &now).await,
            // Whoever begins to lead plans all.
            _ => self.unplanned.clear(),
        }
        for id in due {
            let Some(volume) = now.volumes.get(&id) else { continue };
            match namespace.group(id) {
                Some(group) if group.is_leader() => {
                    let tries = self.homeward.remove(&id).unwrap_or(0);
                    let tries = if group.take_home_changed() { HOME_TRIES } else { tries };
                    let left = go_home(namespace, &group, tries).await;
                    if left > 0 {
                        self.homeward.insert(id, left);
                    }
                    let done = look_after(namespace, &group, volume, &now).await;
                    if !done || left > 0 {
                        self.due.insert(id);
                    }
                    self.mounts.look_after(namespace, &group, volume, &now).await;
                }
                // For the leader to follow; who leads later waits for home as after any failure.
                Some(group) => {
                    group.take_home_changed();
                    self.homeward.remove(&id);
                    self.mounts.forget(id);
                }
                // When it runs and this node leads it, that is told.
                None => {}
            }
        }
    }

    async fn look_after_root(&mut self, namespace: &Namespace, root: &Arc<Group>, catalog: &Catalog) {
        let nodes: Vec<NodeRecord> = catalog.nodes.values().cloned().collect();
        if self.plan_all {
            let voters = placement::root_voters(&nodes, &catalog.topology.spec, &root.status().voters);
            if !voters.is_empty() {
                let learners = nodes.iter().map(|node| node.id).filter(|id| !voters.contains(id)).collect();
                if !drive(namespace, root, &Members { voters, learners }).await {
                    self.due.insert(VolumeId::ROOT);
                }
            }
            self.unplanned.extend(catalog.volumes.keys());
            self.plan_all = false;
        }
        let topology = placement::topology(&catalog.topology, &nodes);
        let mut plans = VecDeque::new();
        for id in std::mem::take(&mut self.unplanned) {
            let Some(volume) = catalog.volumes.get(&id).filter(|volume| volume.is_placed()) else { continue };
            match wanted(volume, &nodes, &topology, &mut plans) {
                Ok(spec) => {
                    self.told.remove(&id);
                    let same = spec.voters.iter().collect::<BTreeSet<_>>() == volume.spec.voters.iter().collect()
                        && spec.learners == volume.spec.learners;
                    if same {
                        continue;
                    }
                    tracing::info!(volume = spec.name, voters = ?spec.voters, learners = ?spec.learners, "placed anew");
                    let op = RootOp::SetVolume { id, expected: volume.revision, spec };
                    if let Err(error) = namespace.propose_root(op, STEP).await {
                        tracing::warn!(volume = %id, %error, "the new placement was not proposed, trying again");
                        self.unplanned.insert(id);
                    }
                }
                Err(why) if self.told.get(&id) == Some(&why) => {}
                Err(why) => {
                    tracing::warn!(volume = %id, why, "the volume stays where it is");
                    self.told.insert(id, why);
                }
            }
        }
    }
}

type Plans<'a> = VecDeque<(&'a VolumeSpec, Result<causeway_topology::Placement, String>)>;

/// Where a volume should be.
fn wanted<'a>(
    volume: &'a VolumeRecord,
    nodes: &[NodeRecord],
    topology: &Result<Topology, PlaceError>,
    plans: &mut Plans<'a>,
) -> Result<VolumeSpec, String> {
    let spec = &volume.spec;
    let Some(survive) = spec.survive else {
        return placement::without_draining(spec, nodes)
            .ok_or_else(|| format!("volume {:?} has a draining node and no other to go to", spec.name));
    };
    let wants = |spec: &'a VolumeSpec| (spec.survive, &spec.home, &spec.replicas, &spec.caches, &spec.residency);
    // What cannot be planned is told with the volume's own name.
    let known = plans.iter().find(|(other, plan)| plan.is_ok() && wants(other) == wants(spec));
    let plan = match known {
        Some((_, plan)) => plan.clone(),
        None => {
            let plan = topology.as_ref().map_err(Clone::clone);
            let plan = plan.and_then(|topology| placement::plan(topology, spec, survive));
            let plan = plan.map_err(|error| error.to_string());
            if plans.len() == PLANS_MAX {
                plans.pop_front();
            }
            plans.push_back((spec, plan.clone()));
            plan
        }
    };
    plan.map(|plan| placement::placed(spec, &plan))
}

/// Where leadership of a volume should be: on its first voter at home.
pub(super) fn home_of(volume: &VolumeRecord, catalog: &Catalog) -> Option<NodeId> {
    let at_home =
        |node: &&NodeId| catalog.nodes.get(node).is_some_and(|node| node.site == volume.spec.home && !node.witness);
    volume.spec.voters.iter().filter(at_home).min().copied()
}

/// Somebody moved home: leadership follows at once, and not only when home has been well for a while. Gives how many more tries are
/// left of `tries`; none if it needs no more.
async fn go_home(namespace: &Namespace, group: &Group, tries: u32) -> u32 {
    if tries == 0 || group.home().is_none_or(|home| home == namespace.id()) {
        return 0;
    }
    match group.go_home_now(namespace.config.timing.election_min).await {
        Ok(true) => 0,
        Ok(false) | Err(_) => tries - 1,
    }
}

/// Whether nothing is left to do.
async fn look_after(namespace: &Namespace, group: &Arc<Group>, volume: &VolumeRecord, catalog: &Catalog) -> bool {
    let members = Members {
        voters: volume.spec.voters.iter().copied().collect(),
        learners: volume.spec.learners.iter().copied().collect(),
    };
    let mut done = drive(namespace, group, &members).await;
    if done && !volume.is_placed() {
        let op = RootOp::Placed { id: volume.id, revision: volume.revision };
        if let Err(error) = namespace.propose_root(op, STEP).await {
            tracing::debug!(volume = %volume.id, %error, "not yet recorded as placed, trying again");
            done = false;
        }
    }
    // A witness leads for as long as no other can: images are published by the leader, which needs the data for them.
    let is_witness = |id: &NodeId| catalog.nodes.get(id).is_some_and(|node| node.witness);
    if is_witness(&namespace.id()) {
        let able = members.voters.iter().copied().filter(|id| !is_witness(id)).collect();
        match group.hand_over_to(&able, namespace.config.timing.election_min).await {
            Ok(true) => {
                tracing::info!(group = %group.id(), "this witness hands leadership over");
                done = false; // till another leads
            }
            Ok(false) => done = false,
            Err(error) => {
                tracing::debug!(group = %group.id(), %error, "leadership stayed with this witness");
                done = false;
            }
        }
    }
    done
}

/// Makes steps until there is nothing more to do now; whether the members are as wanted.
async fn drive(namespace: &Namespace, group: &Group, members: &Members) -> bool {
    for _ in 0..STEPS_MAX {
        match group.drive(members, namespace.config.timing.election_min, STEP).await {
            Ok(Driven::There) => return true,
            Ok(Driven::Stepped(what)) => tracing::info!(group = %group.id(), what, "membership"),
            Ok(Driven::Waiting(nodes)) => {
                tracing::debug!(group = %group.id(), ?nodes, "membership waits");
                return false;
            }
            Err(error) => {
                tracing::debug!(group = %group.id(), %error, "membership step not made");
                return false;
            }
        }
    }
    false
}
