//! What the planner makes of the cluster's tables: where a volume should be, and who should vote in the root group.

use std::collections::BTreeSet;

use causeway_base::{NodeId, SiteName};
use causeway_namespace_core::root::{NodeRecord, NodeState, TopologyRecord, VolumeSpec};
use causeway_topology::{Goal, Node, Placement, Survive, Topology, TopologySpec, Unplaceable, placement};

/// Why there is no placement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// The declaration and the nodes do not fit.
    #[error("the topology (version {version}) cannot be planned with: {reason}; `causeway topology apply` another")]
    Topology {
        /// Of the declaration.
        version: u64,
        /// What is wrong.
        reason: String,
    },
    /// The goal cannot be held.
    #[error("volume {name:?} cannot be placed: {reason}")]
    Unplaceable {
        /// Of the volume.
        name: String,
        /// What is missing.
        reason: Unplaceable,
    },
}

/// The topology with the nodes that something may be placed on. A node at a site that is not declared takes no part.
///
/// # Errors
/// [`PlaceError::Topology`].
pub fn topology<'a>(
    declared: &TopologyRecord,
    nodes: impl IntoIterator<Item = &'a NodeRecord>,
) -> Result<Topology, PlaceError> {
    let sites: BTreeSet<&SiteName> = declared.spec.sites.iter().map(|site| &site.name).collect();
    let placeable = |node: &&NodeRecord| node.state == NodeState::Active && sites.contains(&node.site);
    let node = |node: &NodeRecord| Node { id: node.id, site: node.site.clone(), witness: node.witness };
    let nodes = nodes.into_iter().filter(placeable).map(node).collect();
    let whole = TopologySpec { nodes, ..declared.spec.clone() };
    let reason = |error: causeway_topology::TopologyError| error.to_string();
    Topology::new(whole).map_err(|error| PlaceError::Topology { version: declared.version, reason: reason(error) })
}

/// Where a volume goes that survives `survive`.
///
/// # Errors
/// [`PlaceError::Unplaceable`] with what is missing.
pub fn plan(topology: &Topology, spec: &VolumeSpec, survive: Survive) -> Result<Placement, PlaceError> {
    let members = spec.replicas.iter().chain(&spec.caches).filter(|site| **site != spec.home).cloned().collect();
    let goal = Goal { survive, home: spec.home.clone(), members, residency: spec.residency.clone() };
    placement::plan(topology, &goal).map_err(|reason| PlaceError::Unplaceable { name: spec.name.clone(), reason })
}

/// The spec with its voters and learners as the planner wants them.
#[must_use]
pub fn placed(spec: &VolumeSpec, placement: &Placement) -> VolumeSpec {
    let voters = placement.voters.iter().chain(&placement.witnesses).copied().collect();
    VolumeSpec { voters, learners: placement.learners.clone(), ..spec.clone() }
}

/// Voters and learners of a volume whose voters were listed by hand, with no draining node among them: each such node gives
/// way to one of its site, or else to any, that has no part yet. `None` if there is none to give way to.
#[must_use]
pub fn without_draining(spec: &VolumeSpec, nodes: &[NodeRecord]) -> Option<VolumeSpec> {
    let state = |id: &NodeId| nodes.iter().find(|node| node.id == *id);
    let leaves = |id: &NodeId| state(id).is_none_or(|node| node.state == NodeState::Draining);
    let mut spec = spec.clone();
    for at in 0..spec.voters.len() {
        if !leaves(&spec.voters[at]) {
            continue;
        }
        let site = state(&spec.voters[at]).map(|node| node.site.clone());
        let free =
            |node: &&NodeRecord| node.state == NodeState::Active && !node.witness && !spec.voters.contains(&node.id);
        let next = nodes.iter().filter(free).min_by_key(|node| (Some(&node.site) != site.as_ref(), node.id))?.id;
        spec.voters[at] = next;
    }
    let voters = spec.voters.clone();
    spec.learners.retain(|id| !leaves(id) && !voters.contains(id));
    Some(spec)
}

/// Who votes in the root group: those that do and may stay, and as many more as keep an odd number of them, spread over as
/// many regions, and then sites, as can be: it must survive what any volume survives. One that votes gives way only if
/// that spreads them wider. All other nodes follow it without a vote. With two nodes both vote: an acknowledged change is on
/// both.
#[must_use]
pub fn root_voters(nodes: &[NodeRecord], declared: &TopologySpec, current: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let may_vote = |node: &&NodeRecord| node.state == NodeState::Active;
    let able: Vec<&NodeRecord> = nodes.iter().filter(may_vote).collect();
    let most = able.len().min(current.len().max(3));
    let count = if most > 2 && most.is_multiple_of(2) { most - 1 } else { most };
    let region = |node: &NodeRecord| declared.sites.iter().find(|site| site.name == node.site).map(|site| &site.region);
    // How many of `among` would be lost with the node's region, and with its site.
    let shares = |node: &NodeRecord, among: &[&NodeRecord]| {
        let others = || among.iter().filter(|one| one.id != node.id);
        let regions = others().filter(|one| region(one).is_some() && region(one) == region(node)).count();
        (regions, others().filter(|one| one.site == node.site).count())
    };
    let mut chosen: Vec<&NodeRecord> = able.iter().copied().filter(|node| current.contains(&node.id)).collect();
    loop {
        let free = able.iter().copied().filter(|node| chosen.iter().all(|one| one.id != node.id));
        let next = free.min_by_key(|node| (shares(node, &chosen), node.witness, node.id));
        let closest = chosen.iter().copied().max_by_key(|node| (shares(node, &chosen), node.witness, node.id));
        match (next, closest) {
            (_, Some(out)) if chosen.len() > count => chosen.retain(|node| node.id != out.id),
            (Some(next), _) if chosen.len() < count => chosen.push(next),
            // Each swap leaves fewer pairs in one region, or else in one site: this ends.
            (Some(next), Some(out)) if count > 2 => {
                let stay: Vec<&NodeRecord> = chosen.iter().copied().filter(|node| node.id != out.id).collect();
                if shares(next, &stay) >= shares(out, &stay) {
                    break;
                }
                chosen = stay;
                chosen.push(next);
            }
            _ => break,
        }
    }
    chosen.iter().map(|node| node.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, site: &str, state: NodeState) -> NodeRecord {
        let site = site.parse().unwrap();
        NodeRecord {
            id: NodeId(id),
            site,
            store: None,
            grpc: String::new(),
            quic: String::new(),
            witness: false,
            state,
        }
    }

    fn ids(list: &[u64]) -> BTreeSet<NodeId> {
        list.iter().map(|id| NodeId(*id)).collect()
    }

    #[test]
    fn the_root_group_keeps_its_voters_and_replaces_those_that_leave() {
        use NodeState::{Active, Draining, Joining};
        let root_voters = |nodes: &[NodeRecord], current: &BTreeSet<NodeId>| {
            super::root_voters(nodes, &TopologySpec::default(), current)
        };
        let three = [node(1, "a", Active), node(2, "b", Active), node(3, "c", Active)];
        assert_eq!(root_voters(&three, &ids(&[1, 2, 3])), ids(&[1, 2, 3]));
        let mut four = [three.as_slice(), &[node(4, "c", Joining)]].concat();
        four[2].state = Draining;
        assert_eq!(root_voters(&four, &ids(&[1, 2, 3])), ids(&[1, 2]), "one that never started is no help");
        four[3].state = Active;
        assert_eq!(root_voters(&four, &ids(&[1, 2, 3])), ids(&[1, 2, 4]));
        four[2].state = Active;
        assert_eq!(root_voters(&four, &ids(&[1, 2, 4])), ids(&[1, 2, 4]), "and it stays so");
        let spread = [node(1, "a", Active), node(2, "a", Active), node(3, "b", Active), node(4, "c", Active)];
        assert_eq!(root_voters(&spread, &ids(&[1])), ids(&[1, 3, 4]));
        assert_eq!(root_voters(&three[..1], &ids(&[1, 2, 3])), ids(&[1]));
    }

    #[test]
    fn the_root_group_survives_a_region_where_it_can() {
        use NodeState::Active;
        let region = |name: &str| name.parse::<causeway_topology::RegionName>().unwrap();
        let site = |name: &str, of: &str| causeway_topology::Site {
            name: name.parse().unwrap(),
            region: region(of),
            lan_rtt: std::time::Duration::ZERO,
            transit: false,
        };
        let declared = TopologySpec {
            sites: vec![site("a", "x"), site("b", "x"), site("c", "y"), site("d", "z")],
            ..TopologySpec::default()
        };
        let nodes = [node(1, "a", Active), node(2, "b", Active), node(3, "c", Active), node(4, "d", Active)];
        let voters = |count: usize, current: &[u64]| root_voters(&nodes[..count], &declared, &ids(current));
        assert_eq!(voters(4, &[1, 2, 3, 4]), ids(&[1, 3, 4]), "of four founders, one of the two in a region");
        assert_eq!(voters(3, &[1, 2, 3]), ids(&[1, 2, 3]), "there are no others");
        assert_eq!(voters(4, &[1, 2, 3]), ids(&[1, 3, 4]), "and now there is one");
        assert_eq!(voters(4, &[2, 3, 4]), ids(&[2, 3, 4]), "which is as good");
        assert_eq!(voters(4, &[1]), ids(&[1, 3, 4]));
    }
}
