//! Keeps groups where they should be.
//!
//! Each node looks after the groups that it leads. The root group's leader also plans: it compares each volume's placement
//! with the planner's and, where they differ, proposes the new one, which the volume's own leader then drives. All of it is
//! decided from replicated tables and from the groups' own state, so whoever leads next goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{NodeId, VolumeId};
use causeway_namespace_core::root::{NodeRecord, RootOp, VolumeRecord};
use causeway_namespace_raft::{Driven, Group, Members};

use super::Namespace;
use super::mounts::MountsSeen;
use crate::catalog::Catalog;
use crate::placement;

/// Between two looks, and between two steps of a group that moves.
const ROUND: Duration = Duration::from_millis(500);
/// Time for one step.
const STEP: Duration = Duration::from_secs(10);
/// Steps of one group in one round.
const STEPS_MAX: usize = 16;

pub(super) async fn run(namespace: Arc<Namespace>) {
    let mut catalog = namespace.watch_catalog();
    let mut told: BTreeMap<VolumeId, String> = BTreeMap::new();
    let mut mounts = MountsSeen::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            changed = catalog.changed() => if changed.is_err() { return },
            () = namespace.stop.cancelled() => return,
        }
        let now = catalog.borrow_and_update().clone();
        let work = async {
            look_after_root(&namespace, &now, &mut told).await;
            for volume in now.volumes.values() {
                match namespace.group(volume.id) {
                    Some(group) if group.is_leader() => {
                        look_after(&namespace, &group, volume, &now).await;
                        mounts.look_after(&namespace, &group, volume, &now).await;
                    }
                    // For the leader to follow; who leads later waits for home as after any failure.
                    Some(group) => {
                        group.take_home_changed();
                        mounts.forget(volume.id);
                    }
                    None => {}
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = namespace.stop.cancelled() => return,
        }
    }
}

async fn look_after_root(namespace: &Namespace, catalog: &Catalog, told: &mut BTreeMap<VolumeId, String>) {
    let Some(root) = namespace.group(VolumeId::ROOT).filter(|root| root.is_leader()) else { return };
    if catalog.cluster.is_none() {
        return;
    }
    let nodes: Vec<NodeRecord> = catalog.nodes.values().cloned().collect();
    let voters = placement::root_voters(&nodes, &catalog.topology.spec, &root.status().voters);
    if !voters.is_empty() {
        let learners = nodes.iter().map(|node| node.id).filter(|id| !voters.contains(id)).collect();
        drive(namespace, &root, &Members { voters, learners }).await;
    }
    let topology = placement::topology(&catalog.topology, &nodes);
    for volume in catalog.volumes.values().filter(|volume| volume.is_placed()) {
        let wanted = match volume.spec.survive {
            None => placement::without_draining(&volume.spec, &nodes)
                .ok_or_else(|| format!("volume {:?} has a draining node and no other to go to", volume.spec.name)),
            Some(survive) => topology
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|topology| placement::plan(topology, &volume.spec, survive))
                .map(|plan| placement::placed(&volume.spec, &plan))
                .map_err(|error| error.to_string()),
        };
        match wanted {
            Ok(spec) => {
                told.remove(&volume.id);
                let same = spec.voters.iter().collect::<BTreeSet<_>>() == volume.spec.voters.iter().collect()
                    && spec.learners == volume.spec.learners;
                if same {
                    continue;
                }
                tracing::info!(volume = spec.name, voters = ?spec.voters, learners = ?spec.learners, "placed anew");
                let op = RootOp::SetVolume { id: volume.id, expected: volume.revision, spec };
                if let Err(error) = namespace.propose_root(op, STEP).await {
                    tracing::warn!(volume = %volume.id, %error, "the new placement was not proposed, trying again");
                }
            }
            Err(why) if told.get(&volume.id) == Some(&why) => {}
            Err(why) => {
                tracing::warn!(volume = %volume.id, why, "the volume stays where it is");
                told.insert(volume.id, why);
            }
        }
    }
}

/// Where leadership of a volume should be: on its first voter at home.
pub(super) fn home_of(volume: &VolumeRecord, catalog: &Catalog) -> Option<NodeId> {
    let at_home =
        |node: &&NodeId| catalog.nodes.get(node).is_some_and(|node| node.site == volume.spec.home && !node.witness);
    volume.spec.voters.iter().filter(at_home).min().copied()
}

async fn look_after(namespace: &Namespace, group: &Arc<Group>, volume: &VolumeRecord, catalog: &Catalog) {
    let members = Members {
        voters: volume.spec.voters.iter().copied().collect(),
        learners: volume.spec.learners.iter().copied().collect(),
    };
    if drive(namespace, group, &members).await && !volume.is_placed() {
        let op = RootOp::Placed { id: volume.id, revision: volume.revision };
        if let Err(error) = namespace.propose_root(op, STEP).await {
            tracing::debug!(volume = %volume.id, %error, "not yet recorded as placed, trying again");
        }
    }
    // Somebody moved home: leadership follows at once, and not only when home has been well for a while.
    let changed = group.take_home_changed() && group.home() != Some(namespace.id());
    if changed && !matches!(group.go_home_now(namespace.config.timing.election_min).await, Ok(true)) {
        group.mark_home_changed();
    }
    // A witness leads for as long as no other can: images are published by the leader, which needs the data for them.
    let is_witness = |id: &NodeId| catalog.nodes.get(id).is_some_and(|node| node.witness);
    if is_witness(&namespace.id()) {
        let able = members.voters.iter().copied().filter(|id| !is_witness(id)).collect();
        match group.hand_over_to(&able, namespace.config.timing.election_min).await {
            Ok(true) => tracing::info!(group = %group.id(), "this witness hands leadership over"),
            Ok(false) => {}
            Err(error) => tracing::debug!(group = %group.id(), %error, "leadership stayed with this witness"),
        }
    }
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
