//! Operations of the root group: the cluster and its nodes.

use std::collections::BTreeSet;

use causeway_base::{NodeId, SiteName};

use super::promotion::{self, Asked};
use super::transaction::Transaction;
use super::{topology, volumes};
use crate::key;
use crate::meta::GroupKind;
use crate::records::ReadError;
use crate::root::{
    ClusterRecord, NodeRecord, NodeState, Note, RealmKey, RootOp, RootOutcome, RootRefusal, TopologyRecord,
};

/// Longest address in bytes: a DNS name and a port.
const ADDRESS_BYTES_MAX: usize = 300;

/// Why an operation of the root group stops.
#[derive(Debug)]
pub(super) enum RootFault {
    Refused(RootRefusal),
    Read(ReadError),
}

impl From<RootRefusal> for RootFault {
    fn from(refusal: RootRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ReadError> for RootFault {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// A refusal for a field that breaks its rule.
pub(super) fn invalid(reason: impl Into<String>) -> RootFault {
    RootFault::Refused(RootRefusal::Invalid(reason.into()))
}

/// The nodes and sites that volumes may name.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) nodes: BTreeSet<NodeId>,
    pub(super) sites: BTreeSet<SiteName>,
}

impl Known {
    pub(super) fn of(nodes: &[NodeRecord]) -> Self {
        Self {
            nodes: nodes.iter().map(|node| node.id).collect(),
            sites: nodes.iter().map(|node| node.site.clone()).collect(),
        }
    }
}

/// Applies one; refused ones leave nothing.
pub(super) fn apply(transaction: &mut Transaction<'_>, op: &RootOp) -> Result<RootOutcome, ReadError> {
    let result = match op {
        RootOp::Bootstrap { cluster, nodes, realm_key, topology } => {
            bootstrap(transaction, cluster, nodes, realm_key, topology)
        }
        RootOp::RegisterNode { node } => register(transaction, node),
        RootOp::CreateVolume { spec } => create_volume(transaction, spec),
        RootOp::Reseed { cluster, nodes, volumes } => volumes::reseed(transaction, cluster, nodes, volumes),
        RootOp::SetTopology { expected, spec } => topology::set(transaction, *expected, spec),
        RootOp::SetVolume { id, expected, spec } => volumes::set(transaction, *id, *expected, spec),
        RootOp::Placed { id, revision } => volumes::placed(transaction, *id, *revision),
        RootOp::AddNode { site, grpc, quic, witness } => add_node(transaction, site, grpc, quic, *witness),
        RootOp::DrainNode { id, draining } => drain_node(transaction, *id, *draining),
        RootOp::RemoveNode { id } => remove_node(transaction, *id),
        RootOp::PromoteVolume { id, before, site, founder, fork, last } => {
            let asked = Asked { before: *before, site, founder: *founder, fork: *fork, last: *last };
            promotion::volume(transaction, *id, &asked)
        }
        RootOp::PromoteRoot { before, site, founder, fork, last } => {
            let asked = Asked { before: *before, site, founder: *founder, fork: *fork, last: *last };
            promotion::root(transaction, &asked)
        }
        RootOp::Note(note) => check_note(transaction, note),
    };
    match result {
        Ok(outcome) => Ok(outcome),
        Err(RootFault::Read(error)) => Err(error),
        Err(RootFault::Refused(refusal)) => {
            transaction.roll_back();
            Ok(RootOutcome::Refused(refusal))
        }
    }
}

/// Longest name in a note, in bytes: of a volume.
const NOTED_NAME_BYTES_MAX: usize = 63;

fn check_note(transaction: &Transaction<'_>, note: &Note) -> Result<RootOutcome, RootFault> {
    cluster(transaction)?;
    let (Note::ForgetAside { name, node, .. } | Note::TrustReplica { name, node, .. }) = note;
    if name.len() > NOTED_NAME_BYTES_MAX {
        return Err(invalid("no volume has such a long name"));
    }
    let known: Option<NodeRecord> = transaction.others.get(transaction.base, &key::node(*node))?;
    known.map(|_| RootOutcome::Done).ok_or_else(|| RootRefusal::UnknownNode(*node).into())
}

fn bootstrap(
    transaction: &mut Transaction<'_>,
    cluster: &ClusterRecord,
    nodes: &[NodeRecord],
    realm_key: &RealmKey,
    declared: &causeway_topology::TopologySpec,
) -> Result<RootOutcome, RootFault> {
    let base = transaction.base;
    if let Some(found) = transaction.others.get::<ClusterRecord>(base, &key::cluster())? {
        if found.id != cluster.id {
            return Err(RootRefusal::OtherCluster { found: found.id, asked: cluster.id }.into());
        }
        return Ok(RootOutcome::Done);
    }
    transaction.meta.kind = GroupKind::Root;
    transaction.meta.epoch = cluster.epoch.max(transaction.meta.epoch);
    transaction.others.set(base, key::cluster(), Some(cluster))?;
    transaction.others.set(base, key::realm(DEFAULT_REALM), Some(realm_key))?;
    replace_nodes(transaction, nodes)?;
    if !declared.sites.is_empty() {
        topology::set(transaction, 0, declared)?;
    }
    Ok(RootOutcome::Done)
}

/// The realm that a cluster begins with.
pub(super) const DEFAULT_REALM: &str = "default";

/// The cluster, once it is set up.
pub(super) fn cluster(transaction: &Transaction<'_>) -> Result<ClusterRecord, RootFault> {
    let found = transaction.others.get(transaction.base, &key::cluster())?;
    found.ok_or_else(|| RootRefusal::NoCluster.into())
}

/// All nodes.
pub(super) fn nodes(transaction: &Transaction<'_>) -> Result<Vec<NodeRecord>, ReadError> {
    let (from, to) = key::table(key::NODE);
    transaction.others.all(transaction.base, &from, &to)
}

/// Makes these the only nodes.
pub(super) fn replace_nodes(transaction: &mut Transaction<'_>, list: &[NodeRecord]) -> Result<Known, RootFault> {
    let base = transaction.base;
    for node in nodes(transaction)? {
        transaction.others.set::<NodeRecord>(base, key::node(node.id), None)?;
    }
    let known = Known::of(list);
    if list.is_empty() || known.nodes.len() != list.len() {
        return Err(invalid("a cluster has nodes, each with an id of its own"));
    }
    for node in list {
        check_addresses(node)?;
        if node.store.is_some() {
            return Err(invalid(format!("node {}: its store is registered by its first start", node.id)));
        }
        transaction.others.set(base, key::node(node.id), Some(node))?;
        let above = node.id.0.checked_add(1).map(NodeId).ok_or_else(|| invalid("node ids are used up"))?;
        transaction.meta.next_node = transaction.meta.next_node.max(above);
    }
    Ok(known)
}

fn check_addresses(node: &NodeRecord) -> Result<(), RootFault> {
    let short = [&node.grpc, &node.quic].into_iter().all(|address| address.len() <= ADDRESS_BYTES_MAX);
    if short { Ok(()) } else { Err(invalid(format!("node {}: an address over {ADDRESS_BYTES_MAX} bytes", node.id))) }
}

fn register(transaction: &mut Transaction<'_>, node: &NodeRecord) -> Result<RootOutcome, RootFault> {
    cluster(transaction)?;
    let (base, key) = (transaction.base, key::node(node.id));
    let Some(known) = transaction.others.get::<NodeRecord>(base, &key)? else {
        return Err(RootRefusal::UnknownNode(node.id).into());
    };
    let Some(asked) = node.store else {
        return Err(invalid(format!("node {} registers without a store", node.id)));
    };
    if let Some(registered) = known.store.filter(|registered| *registered != asked) {
        return Err(RootRefusal::StoreMismatch { node: node.id, registered, asked }.into());
    }
    if known.site != node.site {
        return Err(invalid(format!("node {} is of site {}, not {}", node.id, known.site, node.site)));
    }
    check_addresses(node)?;
    let state = if known.state == NodeState::Joining { NodeState::Active } else { known.state };
    let registered = NodeRecord { store: node.store, grpc: node.grpc.clone(), quic: node.quic.clone(), state, ..known };
    transaction.others.set(base, key, Some(&registered))?;
    Ok(RootOutcome::Done)
}

fn add_node(
    transaction: &mut Transaction<'_>,
    site: &SiteName,
    grpc: &str,
    quic: &str,
    witness: bool,
) -> Result<RootOutcome, RootFault> {
    cluster(transaction)?;
    let all = nodes(transaction)?;
    for other in &all {
        if other.grpc != grpc && other.quic != quic {
            continue;
        }
        let same = other.grpc == grpc && other.quic == quic && other.site == *site && other.witness == witness;
        if same && other.state == NodeState::Joining {
            return Ok(RootOutcome::Node(other.id));
        }
        return Err(invalid(format!("node {} has the address {} or {} already", other.id, grpc, quic)));
    }
    let declared: Option<TopologyRecord> = transaction.others.get(transaction.base, &key::topology())?;
    let declared = declared.unwrap_or_default();
    if !declared.spec.sites.iter().any(|known| known.name == *site) && !all.iter().any(|node| node.site == *site) {
        return Err(RootRefusal::UnknownSite(site.clone()).into());
    }
    let id = transaction.meta.next_node;
    transaction.meta.next_node = id.0.checked_add(1).map(NodeId).ok_or_else(|| invalid("node ids are used up"))?;
    let (site, grpc, quic) = (site.clone(), grpc.to_owned(), quic.to_owned());
    let node = NodeRecord { id, site, store: None, grpc, quic, witness, state: NodeState::Joining };
    check_addresses(&node)?;
    transaction.others.set(transaction.base, key::node(id), Some(&node))?;
    Ok(RootOutcome::Node(id))
}

fn drain_node(transaction: &mut Transaction<'_>, id: NodeId, draining: bool) -> Result<RootOutcome, RootFault> {
    let (base, key) = (transaction.base, key::node(id));
    let known: NodeRecord = transaction.others.get(base, &key)?.ok_or(RootRefusal::UnknownNode(id))?;
    let state = match draining {
        true => NodeState::Draining,
        false if known.state != NodeState::Draining => return Ok(RootOutcome::Done),
        false if known.store.is_none() => NodeState::Joining,
        false => NodeState::Active,
    };
    transaction.others.set(base, key, Some(&NodeRecord { state, ..known }))?;
    Ok(RootOutcome::Done)
}

fn remove_node(transaction: &mut Transaction<'_>, id: NodeId) -> Result<RootOutcome, RootFault> {
    let (base, key) = (transaction.base, key::node(id));
    let Some(node) = transaction.others.get::<NodeRecord>(base, &key)? else { return Ok(RootOutcome::Done) };
    if node.state == NodeState::Active {
        return Err(RootRefusal::NotEmpty { node: id, what: "work to do".to_owned() }.into());
    }
    if let Some(volume) = volumes::all(transaction)?.iter().find(|volume| volume.members.contains(&id)) {
        let what = format!("a replica of volume {:?}", volume.spec.name);
        return Err(RootRefusal::NotEmpty { node: id, what }.into());
    }
    transaction.others.set::<NodeRecord>(base, key, None)?;
    Ok(RootOutcome::Done)
}

fn create_volume(transaction: &mut Transaction<'_>, spec: &crate::root::VolumeSpec) -> Result<RootOutcome, RootFault> {
    let epoch = cluster(transaction)?.epoch;
    let known = Known::of(&nodes(transaction)?);
    volumes::create(transaction, spec, epoch, &known)
}
