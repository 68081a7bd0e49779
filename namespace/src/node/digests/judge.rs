//! Which of several replicas is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causeway_base::{NodeId, VolumeId};
use causeway_namespace_raft::Group;
use causeway_namespace_raft::digests::{Compared, DigestAsk};
use causeway_namespace_raft::store::DigestMark;
use futures::future::join_all;

use super::{ASK, Found, name, verify};
use crate::digest::{Divergence, Verdict};
use crate::node::Namespace;

/// What the members of a group say of one seq.
#[derive(Debug, PartialEq, Eq)]
struct Votes {
    own: DigestMark,
    /// Members, this node among them, whether they answered or not.
    members: usize,
    /// What those have that could compare; whoever knows itself to be wrong is left out.
    others: BTreeMap<NodeId, DigestMark>,
}

impl Votes {
    /// Those that differ.
    fn differing(&self) -> Vec<NodeId> {
        self.others.iter().filter(|(_, mark)| **mark != self.own).map(|(node, _)| *node).collect()
    }

    /// The members that most agree with.
    fn majority(&self) -> BTreeSet<NodeId> {
        let with = |mark: &DigestMark| self.others.values().filter(|other| *other == mark).count();
        let same_entries = self.others.values().filter(|mark| mark.position == self.own.position);
        let most = same_entries.max_by_key(|mark| with(mark));
        let same = |mark: &DigestMark| most == Some(mark);
        self.others.iter().filter(|(_, mark)| same(mark)).map(|(node, _)| *node).collect()
    }

    /// More than half of *all* members decide, not of those that answered: a replica is not thrown away on the word of
    /// one other.
    fn verdict(&self) -> Verdict {
        let with = |mark: &DigestMark| self.others.values().filter(|other| *other == mark).count();
        let is_majority = |count: usize| count * 2 > self.members;
        if is_majority(1 + with(&self.own)) {
            return Verdict::Others;
        }
        // One that applied other entries says nothing of this replica's records.
        let is_against = |mark: &&DigestMark| **mark != self.own && mark.position == self.own.position;
        if self.others.values().filter(is_against).any(|mark| is_majority(with(mark))) {
            return Verdict::Minority;
        }
        let forked = self.others.values().any(|mark| mark.position != self.own.position);
        if forked { Verdict::Forked } else { Verdict::Undecided }
    }

    /// Whether more answers would change nothing.
    fn is_decided(&self) -> bool {
        matches!(self.verdict(), Verdict::Minority | Verdict::Others)
    }
}

/// Judges a group in which a peer's replica differs, and says so.
pub(super) async fn run(namespace: &Arc<Namespace>, id: VolumeId) {
    let Some(group) = namespace.group(id) else { return };
    if namespace.digests.divergence(id).is_some_and(|known| known.verdict.is_own()) {
        return;
    }
    let generation = group.generation();
    // The oldest first: it is known to most. One that is too far behind to know any says nothing, like one that is away.
    let mut best: Option<Votes> = None;
    for own in group.digest_marks().into_iter().rev() {
        let votes = ask_all(namespace, &group, own).await;
        if votes.differing().is_empty() {
            continue;
        }
        let all = votes.others.len() + 1 == votes.members;
        if best.as_ref().is_none_or(|best| votes.is_decided() || votes.others.len() > best.others.len()) {
            best = Some(votes);
        }
        if all || best.as_ref().is_some_and(Votes::is_decided) {
            break;
        }
    }
    if let Some(votes) = best {
        record(namespace, &group, &votes, generation).await;
    }
}

/// All answers about one seq.
async fn ask_all(namespace: &Namespace, group: &Group, own: DigestMark) -> Votes {
    let (id, members) = (group.id(), group.members());
    let asks = [DigestAsk { group: id, lineage: group.lineage(), marks: vec![own] }];
    let peers: Vec<NodeId> = members.iter().copied().filter(|node| *node != namespace.id()).collect();
    let asked = peers.iter().map(|peer| {
        namespace.digests.count_message();
        namespace.groups.ask_digests(*peer, &asks, ASK)
    });
    let mut votes = Votes { own, members: members.len(), others: BTreeMap::new() };
    for (peer, answers) in peers.iter().zip(join_all(asked).await) {
        // One that does not answer counts as a member and decides nothing.
        let Some(answer) = answers.ok().and_then(|answers| answers.into_iter().next()) else { continue };
        match answer.compared {
            _ if answer.diverged => {}
            Compared::Equal { .. } => _ = votes.others.insert(*peer, own),
            Compared::Differs { theirs } => _ = votes.others.insert(*peer, theirs),
            Compared::Unknown { .. } | Compared::NotHere => {}
        }
    }
    votes
}

async fn record(namespace: &Arc<Namespace>, group: &Arc<Group>, votes: &Votes, generation: u64) {
    let id = group.id();
    let (mut verdict, from, seq) = (votes.verdict(), votes.differing(), votes.own.seq());
    if verdict == Verdict::Minority && group.is_trusted() {
        // A person decided for this one, and repairs the others.
        verdict = Verdict::Undecided;
    }
    let known = namespace.digests.divergence(id);
    if known.is_some_and(|known| known.verdict == verdict && known.from == from) {
        return;
    }
    if verdict == Verdict::Minority {
        namespace.condemn(group, generation, Found { verdict, seq, from, sound: votes.majority() }).await;
        return;
    }
    let divergence =
        Divergence { seq, found_at: namespace.clock.now(), verdict, from: from.clone(), records: None, repair: None };
    namespace.digests.change(id, |known| known.report.divergence = Some(divergence));
    tracing::error!(
        group = %id, name = namespace.name_of(id), %seq, differs_from = ?from, ?verdict,
        "DIVERGENCE: replicas differ though they have applied the same entries"
    );
    if verdict != Verdict::Undecided {
        return;
    }
    // The records themselves may tell: those of one that was damaged at rest do not come to its digest. That takes its time,
    // and the other groups go on meanwhile.
    let namespace = namespace.clone();
    namespace.clone().tasks.spawn(async move {
        let work = async {
            match verify::verify(&namespace, id, namespace.config.digests.verify_rate).await {
                Ok(report) if report.right => name::run(&namespace, id, &from).await,
                Ok(_) => {}
                Err(why) => tracing::error!(group = %id, why, "the records of a replica were not added up"),
            }
        };
        tokio::select! {
            () = work => {}
            () = namespace.stop.cancelled() => {}
        }
    });
}

#[cfg(test)]
mod tests {
    use causeway_namespace_core::digest::Digest;
    use causeway_namespace_raft::store::Position;

    use super::*;

    fn mark(term: u64, digest: u8) -> DigestMark {
        DigestMark { position: Position { term, index: 9 }, digest: Digest::from_bytes([digest; 32]) }
    }

    /// What this node, which has digest 0, makes of what the others have.
    fn verdict(members: usize, others: &[u8]) -> Verdict {
        let others = (2..).map(NodeId).zip(others.iter().map(|digest| mark(1, *digest))).collect();
        Votes { own: mark(1, 0), members, others }.verdict()
    }

    #[test]
    fn more_than_half_of_all_members_decide() {
        assert_eq!(verdict(3, &[1, 1]), Verdict::Minority);
        assert_eq!(verdict(3, &[0, 1]), Verdict::Others);
        assert_eq!(verdict(3, &[1, 2]), Verdict::Undecided);
        // One of three is down: one against one.
        assert_eq!(verdict(3, &[1]), Verdict::Undecided);
        assert_eq!(verdict(2, &[1]), Verdict::Undecided);
        assert_eq!(verdict(4, &[0, 1, 1]), Verdict::Undecided);
        assert_eq!(verdict(5, &[1, 1]), Verdict::Undecided);
        assert_eq!(verdict(5, &[1, 1, 1]), Verdict::Minority);
        assert_eq!(verdict(5, &[1, 1, 0, 0]), Verdict::Others);
    }

    #[test]
    fn other_entries_are_another_history() {
        let others = BTreeMap::from([(NodeId(2), mark(2, 1)), (NodeId(3), mark(2, 1))]);
        assert_eq!(Votes { own: mark(1, 0), members: 3, others }.verdict(), Verdict::Forked);
        // One of them does not hide what the others say.
        let others = (2..).map(NodeId).zip([mark(2, 1), mark(1, 1), mark(1, 1), mark(1, 1)]).collect();
        let votes = Votes { own: mark(1, 0), members: 5, others };
        assert_eq!((votes.verdict(), votes.majority()), (Verdict::Minority, [3, 4, 5].map(NodeId).into()));
        let others = (2..).map(NodeId).zip([mark(2, 1), mark(1, 0)]).collect();
        assert_eq!(Votes { own: mark(1, 0), members: 3, others }.verdict(), Verdict::Others);
    }
}
