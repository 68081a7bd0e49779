//! Repairs this node's replicas: takes over the whole state of one that is right.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use causeway_base::{NodeId, VolumeId};
use causeway_namespace_raft::digests::RepairError;
use causeway_namespace_raft::{Group, GroupSpec};
use tokio::time::Instant;

use super::{Found, Known, name};
use crate::digest::{Divergence, Repaired, Verdict};
use crate::node::Namespace;
use crate::rpc;

/// Before the next try, after one that failed.
const AGAIN: Duration = Duration::from_secs(10);

/// Begins what is due: replicas that are known to be wrong. Each repair is a task of its own; the comparisons go on.
pub(super) fn begin_due(namespace: &Arc<Namespace>) {
    for group in namespace.groups.running() {
        let id = group.id();
        remember(namespace, &group);
        let mut due = false;
        namespace.digests.change(id, |known| {
            due = known.is_due();
            known.repairing |= due;
        });
        if !due {
            continue;
        }
        let (namespace, stop) = (namespace.clone(), namespace.stop.clone());
        namespace.clone().tasks.spawn(async move {
            tokio::select! {
                repaired = repair(&namespace, id) => if let Err(why) = repaired {
                    tracing::error!(group = %id, why, "a replica that is wrong was not repaired, trying again");
                },
                () = stop.cancelled() => {}
            }
        });
    }
}

impl Known {
    fn is_due(&self) -> bool {
        let wrong = self.report.divergence.as_ref().is_some_and(|it| it.verdict.is_own());
        wrong && !self.repairing && self.repair_after.is_none_or(|after| after <= Instant::now())
    }
}

/// Takes a mark up again that was made before the node started.
fn remember(namespace: &Namespace, group: &Group) {
    let Some(mark) = group.diverged() else { return };
    let others = || group.members().into_iter().filter(|node| *node != namespace.id()).collect();
    namespace.digests.change(group.id(), |known| {
        if known.report.divergence.as_ref().is_some_and(|it| it.verdict.is_own()) {
            return;
        }
        tracing::error!(group = %group.id(), seq = %mark.seq, why = mark.why, "DIVERGENCE: this node's replica is wrong");
        known.sound = others();
        known.report.divergence = Some(Divergence {
            seq: mark.seq,
            found_at: mark.at,
            verdict: Verdict::Declared,
            from: Vec::new(),
            records: None,
            repair: None,
        });
    });
}

/// Names what differs, if that was not done yet, and replaces the state. Of a group in which the replica here is known to
/// be wrong.
pub(super) async fn repair(namespace: &Arc<Namespace>, id: VolumeId) -> Result<Repaired, String> {
    let _one = namespace.digests.repairing.lock().await;
    namespace.digests.change(id, |known| known.repairing = true);
    let repaired = replace(namespace, id).await;
    let now = namespace.clock.now();
    namespace.digests.change(id, |known| {
        known.repairing = false;
        match &repaired {
            Ok(repaired) => {
                known.equal.clear();
                known.settled = None;
                known.report.divergence = None;
                known.report.repaired = Some(repaired.clone());
            }
            Err(why) => {
                known.repair_after = Some(Instant::now() + AGAIN);
                if let Some(divergence) = &mut known.report.divergence {
                    divergence.repair = Some(format!("failed: {why}"));
                }
            }
        }
    });
    if let Ok(Repaired { seq, from, took, .. }) = &repaired {
        tracing::warn!(group = %id, name = namespace.name_of(id), %seq, %from, ?took, ?now, "the replica is repaired");
    }
    repaired
}

async fn replace(namespace: &Arc<Namespace>, id: VolumeId) -> Result<Repaired, String> {
    let started = Instant::now();
    let (divergence, sound) = {
        let known = namespace.digests.lock();
        let known = known.get(&id).ok_or("the group does not run here")?;
        (known.report.divergence.clone().ok_or("the replica is not known to be wrong")?, known.sound.clone())
    };
    // Also if nobody answered when it was tried before.
    if divergence.records.as_ref().is_none_or(|records| records.unknown.is_some()) {
        name::run(namespace, id, &sound.iter().copied().collect::<Vec<_>>()).await;
    }
    namespace.digests.change_divergence(id, |divergence| divergence.repair = Some("under way".to_owned()));
    let mut last = "no other member has a state that could be taken".to_owned();
    for from in sound {
        match take_over(namespace, id, from).await {
            Ok(seq) => {
                let was = namespace.digests.divergence(id).unwrap_or(divergence);
                let was = Divergence { repair: None, ..was };
                return Ok(Repaired { seq, from, at: namespace.clock.now(), took: started.elapsed(), was });
            }
            Err(error) => last = rpc::chain(&error),
        }
    }
    Err(last)
}

/// Fetches the state of another node and goes on from it.
async fn take_over(namespace: &Namespace, id: VolumeId, from: NodeId) -> Result<causeway_base::Seq, RepairError> {
    let group = namespace.group(id).ok_or(RepairError::NotHere(id))?;
    let file = namespace.groups.fetch_state(from, id).await?;
    // Reads wait for the replica that comes. One of another line is not this repair's.
    {
        let mut replicas = namespace.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        if replicas.get(&id).is_some_and(|replica| replica.group.lineage() == group.lineage()) {
            replicas.remove(&id);
        }
    }
    let replaced = namespace.groups.replace_state(id, file).await;
    // Without success it is as it was, or this start finishes what was begun.
    loop {
        // Promoted meanwhile: the line has ended here, and what follows the root group's tables starts the new one.
        if namespace.groups.lineage(id) != group.lineage() {
            return Err(RepairError::NotHere(id));
        }
        let spec = GroupSpec { home: group.home(), lineage: group.lineage(), ..GroupSpec::default() };
        match namespace.start_group(id, spec).await {
            Ok(_) => return replaced,
            Err(error) => tracing::error!(group = %id, error, "a group does not start after its repair, trying again"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

impl Namespace {
    /// Declares this node's replica wrong, as a person has decided, and repairs it.
    pub(super) async fn declare_wrong(self: Arc<Self>, id: VolumeId) -> Result<Repaired, String> {
        let group = self.group(id).ok_or_else(|| format!("group {id} does not run on this node"))?;
        let others: BTreeSet<NodeId> = group.members().into_iter().filter(|node| *node != self.id()).collect();
        if others.is_empty() {
            return Err("this is the only replica: there is none to repair it from".to_owned());
        }
        let known = self.digests.divergence(id);
        match known {
            Some(known) if known.verdict == Verdict::Forked => {
                return Err("the histories of the replicas part: take the node out and add it as a new one".to_owned());
            }
            Some(known) if known.verdict.is_own() => {}
            known => {
                let from = known.map(|known| known.from).unwrap_or_default();
                let sound = if from.is_empty() { others } else { from.iter().copied().collect() };
                if self.others(&group, &sound).await.serve == 0 {
                    let why = "no other member answers with a replica that could be taken; nothing is marked, try again when one is up";
                    return Err(why.to_owned());
                }
                let found = Found { verdict: Verdict::Declared, seq: group.applied(), from, sound };
                self.condemn(&group, group.generation(), found).await;
            }
        }
        tokio::select! {
            repaired = repair(&self, id) => repaired,
            () = self.stop.cancelled() => Err("the node shuts down".to_owned()),
        }
    }
}
