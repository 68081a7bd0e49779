//! Operations of the root group: the cluster and its nodes.

use std::collections::BTreeSet;

use causeway_base::{NodeId, SiteName};

use super::transaction::Transaction;
use super::volumes;
use crate::key;
use crate::meta::GroupKind;
use crate::records::ReadError;
use crate::root::{ClusterRecord, NodeRecord, RealmKey, RootOp, RootOutcome, RootRefusal};

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
    fn of(nodes: &[NodeRecord]) -> Self {
        Self {
            nodes: nodes.iter().map(|node| node.id).collect(),
            sites: nodes.iter().map(|node| node.site.clone()).collect(),
        }
    }
}

/// Applies one; refused ones leave nothing.
pub(super) fn apply(transaction: &mut Transaction<'_>, op: &RootOp) -> Result<RootOutcome, ReadError> {
    let result = match op {
        RootOp::Bootstrap { cluster, nodes, realm_key } => bootstrap(transaction, cluster, nodes, realm_key),
        RootOp::RegisterNode { node } => register(transaction, node),
        RootOp::CreateVolume { spec } => create_volume(transaction, spec),
        RootOp::Reseed { cluster, nodes, volumes } => volumes::reseed(transaction, cluster, nodes, volumes),
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

fn bootstrap(
    transaction: &mut Transaction<'_>,
    cluster: &ClusterRecord,
    nodes: &[NodeRecord],
    realm_key: &RealmKey,
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
    transaction.others.set(base, key, Some(node))?;
    Ok(RootOutcome::Done)
}

fn create_volume(transaction: &mut Transaction<'_>, spec: &crate::root::VolumeSpec) -> Result<RootOutcome, RootFault> {
    let epoch = cluster(transaction)?.epoch;
    let known = Known::of(&nodes(transaction)?);
    volumes::create(transaction, spec, epoch, &known)
}
