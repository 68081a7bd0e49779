//! One comparison of all replicas of this node with those of all others.

use std::collections::{BTreeMap, BTreeSet};

use causeway_base::{NodeId, Seq, VolumeId};
use causeway_namespace_raft::Groups;
use causeway_namespace_raft::digests::{ASKS_MAX, Compared, DigestAnswer, DigestAsk};
use futures::future::join_all;

use super::{ASK, Digests, Known};
use crate::node::Namespace;

/// Asks every node about the groups that changed since they were last the same; the groups in which one differs.
pub(super) async fn run(namespace: &Namespace) -> BTreeSet<VolumeId> {
    let asks = questions(&namespace.groups, &namespace.digests, namespace.id());
    let rounds = asks.into_iter().map(|(peer, asks)| ask(namespace, peer, asks));
    join_all(rounds).await.into_iter().flatten().collect()
}

/// What is to be asked of whom.
fn questions(groups: &Groups, digests: &Digests, own: NodeId) -> BTreeMap<NodeId, Vec<DigestAsk>> {
    let mut questions: BTreeMap<NodeId, Vec<DigestAsk>> = BTreeMap::new();
    let mut known = digests.lock();
    known.retain(|id, known| known.repairing || groups.get(*id).is_some());
    for (id, peer) in groups.take_contested() {
        let known = known.entry(id).or_default();
        (known.settled, _) = (None, known.equal.remove(&peer));
    }
    for group in groups.running() {
        let known = known.entry(group.id()).or_default();
        // Promoted: nothing that was known of the line before says anything of this one.
        if known.lineage != group.lineage() && !known.repairing {
            *known = Known { lineage: group.lineage(), ..Known::default() };
        }
        let marks = group.digest_marks();
        let Some(newest) = marks.first().map(causeway_namespace_raft::store::DigestMark::seq) else { continue };
        if known.settled == Some(newest) {
            continue;
        }
        let peers: Vec<NodeId> = group.members().into_iter().filter(|peer| *peer != own).collect();
        known.equal.retain(|peer, _| peers.contains(peer));
        if let Some(divergence) = known.report.divergence.as_mut().filter(|it| !it.verdict.is_own()) {
            divergence.from.retain(|peer| peers.contains(peer));
            if divergence.from.is_empty() {
                // Who differed is no member any more.
                known.report.divergence = None;
            }
        }
        let open = peers.into_iter().filter(|peer| known.equal.get(peer) != Some(&newest));
        let mut settled = true;
        for peer in open {
            settled = false;
            questions.entry(peer).or_default().push(DigestAsk {
                group: group.id(),
                lineage: group.lineage(),
                marks: marks.clone(),
            });
        }
        if settled {
            known.settled = Some(newest);
            if group.is_trusted()
                && let Err(error) = group.end_trust()
            {
                tracing::debug!(group = %group.id(), %error, "the mark of trust stays for now");
            }
        }
    }
    questions
}

async fn ask(namespace: &Namespace, peer: NodeId, asks: Vec<DigestAsk>) -> Vec<VolumeId> {
    let mut differing = Vec::new();
    for asks in asks.chunks(ASKS_MAX) {
        namespace.digests.count_message();
        match namespace.groups.ask_digests(peer, asks, ASK).await {
            Ok(answers) => differing.extend(answers.into_iter().filter_map(|answer| take(namespace, peer, &answer))),
            Err(error) => {
                // It may be down, or of a release that cannot compare; who shows in the status what was compared.
                tracing::debug!(%peer, %error, "replicas were not compared");
                break;
            }
        }
    }
    differing
}

/// Takes in an answer; the group if the replicas differ.
fn take(namespace: &Namespace, peer: NodeId, answer: &DigestAnswer) -> Option<VolumeId> {
    if let Some(group) = namespace.group(answer.group) {
        group.avoid(peer, answer.diverged);
    }
    match answer.compared {
        Compared::Equal { at } => {
            equal(namespace, answer.group, peer, at);
            None
        }
        Compared::Differs { .. } => Some(answer.group),
        Compared::NotHere | Compared::Unknown { .. } => None,
    }
}

/// A replica was the same as a peer's at a seq. What was known of a difference to it before is over.
fn equal(namespace: &Namespace, group: VolumeId, peer: NodeId, at: Seq) {
    namespace.digests.change(group, |known| {
        known.equal.insert(peer, at);
        let report = &mut known.report;
        report.equal_at = report.equal_at.max(at);
        // What makes this replica the wrong one ends with its repair only.
        let Some(divergence) = report.divergence.as_mut().filter(|it| !it.verdict.is_own()) else { return };
        // At an earlier seq they may well have been the same.
        if at >= divergence.seq {
            divergence.from.retain(|from| *from != peer);
        }
        if divergence.from.is_empty() {
            tracing::warn!(%group, seq = %divergence.seq, "the replicas are the same again");
            report.divergence = None;
        }
    });
}
