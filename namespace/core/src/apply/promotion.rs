//! Operations of the root group: promotions.

use std::collections::BTreeSet;

use causeway_base::{NodeId, Seq, SiteName, VolumeId};

use super::cluster::{Known, RootFault, cluster, invalid, nodes};
use super::transaction::Transaction;
use super::volumes;
use crate::key;
use crate::lineage::Lineage;
use crate::promotion::{self, PromotionRecord};
use crate::records::ReadError;
use crate::root::{ClusterRecord, NodeRecord, RootOutcome, RootRefusal, VolumeRecord};

/// What is asked of a promotion.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) before: Lineage,
    pub(super) site: &'a SiteName,
    pub(super) founder: NodeId,
    pub(super) fork: Seq,
    pub(super) last: Seq,
}

fn current(transaction: &Transaction<'_>, group: VolumeId) -> Result<Option<PromotionRecord>, ReadError> {
    transaction.others.get(transaction.base, &key::promotion(group))
}

fn lineage(record: Option<&PromotionRecord>) -> Lineage {
    record.map(|record| record.lineage).unwrap_or_default()
}

/// A volume goes on with what one node has of it.
pub(super) fn volume(
    transaction: &mut Transaction<'_>,
    id: VolumeId,
    asked: &Asked<'_>,
) -> Result<RootOutcome, RootFault> {
    let base = transaction.base;
    let raised = cluster(transaction)?;
    let found = transaction.others.get::<VolumeRecord>(base, &key::volume(id))?;
    let mut volume = found.ok_or(RootRefusal::UnknownVolume(id))?;
    let known = current(transaction, id)?;
    if let Some(done) = &known
        && (done.before, done.lineage.founder, done.fork) == (asked.before, asked.founder, asked.fork)
    {
        // The same again, whose answer was lost.
        return Ok(RootOutcome::Promoted(done.lineage));
    }
    if lineage(known.as_ref()) != asked.before {
        return Err(changed(format!("the line of volume {:?}", volume.spec.name), asked.before, known.as_ref()));
    }
    let nodes = nodes(transaction)?;
    founder(&nodes, asked)?;
    if !volume.members.contains(&asked.founder) {
        return Err(invalid(format!("{} has no replica of volume {:?}", asked.founder, volume.spec.name)));
    }
    let epoch = promotion::next_epoch(volume.epoch, asked.founder)
        .ok_or_else(|| invalid("epochs are used up, or the node's id is too high"))?;
    let root = lineage(current(transaction, VolumeId::ROOT)?.as_ref());
    let begun = Lineage { root_epoch: root.epoch, root_founder: root.founder, epoch, founder: asked.founder };
    let record = record(asked, begun)?;

    // It stays at the site until somebody says what it shall survive again: others follow it without a vote.
    let at_site = |id: &NodeId| nodes.iter().any(|node| node.id == *id && node.site == *asked.site);
    let placed: BTreeSet<NodeId> = volume.spec.placed().filter(|id| nodes.iter().any(|node| node.id == *id)).collect();
    let witness = |id: &NodeId| nodes.iter().any(|node| node.id == *id && node.witness);
    volume.spec.voters = [asked.founder]
        .into_iter()
        .chain(
            volume.spec.voters.iter().copied().filter(|id| *id != asked.founder && placed.contains(id) && at_site(id)),
        )
        .collect();
    let votes: BTreeSet<NodeId> = volume.spec.voters.iter().copied().collect();
    volume.spec.learners = placed.into_iter().filter(|id| !votes.contains(id) && !witness(id)).collect();
    volume.spec.survive = None;
    volume.spec.home = asked.site.clone();
    if !volume.spec.replicas.contains(asked.site) {
        volume.spec.replicas.push(asked.site.clone());
        volume.spec.caches.retain(|site| site != asked.site);
    }
    volumes::check_spec(transaction, &volume.spec, &Known::of(&nodes))?;
    volume.members = volume.spec.placed().collect();
    volume.founders.clear();
    volume.revision += 1;
    volume.epoch = epoch;
    transaction.others.set(base, key::volume(id), Some(&volume))?;
    transaction.others.set(base, key::promotion(id), Some(&record))?;
    // A volume that is created or restored later begins above it.
    let raised = ClusterRecord { epoch: raised.epoch.max(epoch), ..raised };
    transaction.meta.epoch = transaction.meta.epoch.max(epoch);
    transaction.others.set(base, key::cluster(), Some(&raised))?;
    Ok(RootOutcome::Promoted(begun))
}

/// The root group itself does: the command at the seq that its new line begins with, and nowhere else.
pub(super) fn root(transaction: &mut Transaction<'_>, asked: &Asked<'_>) -> Result<RootOutcome, RootFault> {
    let base = transaction.base;
    let before = cluster(transaction)?;
    let known = current(transaction, VolumeId::ROOT)?;
    if lineage(known.as_ref()) != asked.before {
        return Err(changed("the line of the root group".to_owned(), asked.before, known.as_ref()));
    }
    founder(&nodes(transaction)?, asked)?;
    let epoch = promotion::next_epoch(before.epoch, asked.founder)
        .ok_or_else(|| invalid("epochs are used up, or the node's id is too high"))?;
    let begun = promotion::root_lineage(epoch, asked.founder);
    let record = record(asked, begun)?;
    if transaction.seq != record.seq {
        return Err(invalid("the root group is promoted by beginning a new line of it, not by its own log"));
    }
    transaction.meta = promotion::rewritten(&transaction.meta, epoch);
    transaction.others.set(base, key::cluster(), Some(&ClusterRecord { epoch, ..before }))?;
    transaction.others.set(base, key::promotion(VolumeId::ROOT), Some(&record))?;
    Ok(RootOutcome::Promoted(begun))
}

fn record(asked: &Asked<'_>, begun: Lineage) -> Result<PromotionRecord, RootFault> {
    let seq = promotion::next_seq(asked.fork, begun.epoch).ok_or_else(|| invalid("seqs are used up"))?;
    if begun <= asked.before || asked.last < asked.fork || asked.fork == Seq::ZERO {
        return Err(invalid(format!("line {begun} cannot follow {} at seq {}", asked.before, asked.fork)));
    }
    let (before, fork, last, site) = (asked.before, asked.fork, asked.last, asked.site.clone());
    Ok(PromotionRecord { lineage: begun, before, fork, last, seq, site })
}

fn founder(nodes: &[NodeRecord], asked: &Asked<'_>) -> Result<(), RootFault> {
    let node = nodes.iter().find(|node| node.id == asked.founder);
    let node = node.ok_or(RootRefusal::UnknownNode(asked.founder))?;
    if node.site != *asked.site || node.witness {
        return Err(invalid(format!("{} is no node with data of site {}", asked.founder, asked.site)));
    }
    Ok(())
}

fn changed(what: String, expected: Lineage, found: Option<&PromotionRecord>) -> RootFault {
    RootRefusal::Changed { what, expected: expected.epoch.0, found: lineage(found).epoch.0 }.into()
}
