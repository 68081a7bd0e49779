//! Operations of the root group: the declared topology.

use causeway_topology::{Node, Topology, TopologySpec};

use super::cluster::{RootFault, cluster, invalid, nodes};
use super::transaction::Transaction;
use super::volumes;
use crate::encode::{self, RECORD_BYTES_MAX};
use crate::key;
use crate::root::{RootOutcome, RootRefusal, TopologyRecord};

/// Replaces the topology, if it is still the expected one and the new one has a place for everything there is.
pub(super) fn set(
    transaction: &mut Transaction<'_>,
    expected: u64,
    spec: &TopologySpec,
) -> Result<RootOutcome, RootFault> {
    cluster(transaction)?;
    let base = transaction.base;
    let current: TopologyRecord = transaction.others.get(base, &key::topology())?.unwrap_or_default();
    if current.version != expected {
        // The same again, whose answer was lost.
        if current.spec == *spec && current.version == expected.saturating_add(1) {
            return Ok(RootOutcome::Topology(current.version));
        }
        let what = "the topology".to_owned();
        return Err(RootRefusal::Changed { what, expected, found: current.version }.into());
    }
    if !spec.nodes.is_empty() {
        return Err(invalid("nodes are added and removed one by one, not with the topology"));
    }
    let all = nodes(transaction)?;
    let members = all.iter().map(|node| Node { id: node.id, site: node.site.clone(), witness: node.witness });
    let whole = TopologySpec { nodes: members.collect(), ..spec.clone() };
    let topology = Topology::new(whole).map_err(|error| invalid(error.to_string()))?;
    for volume in volumes::all(transaction)? {
        let spec = &volume.spec;
        for site in [&spec.home].into_iter().chain(&spec.replicas).chain(&spec.caches) {
            if topology.site(site).is_none() {
                return Err(invalid(format!("volume {:?} names site {site}, which is not declared", spec.name)));
            }
        }
    }
    let version = expected.checked_add(1).ok_or_else(|| invalid("versions are used up"))?;
    let record = TopologyRecord { version, spec: spec.clone() };
    let size = encode::to_bytes(&record).len();
    if size > RECORD_BYTES_MAX {
        return Err(invalid(format!("a topology of {size} bytes, at most {RECORD_BYTES_MAX} are allowed")));
    }
    transaction.others.set(base, key::topology(), Some(&record))?;
    Ok(RootOutcome::Topology(version))
}
