//! Compares this node's replicas with those of the other nodes, judges where they differ, and repairs its own.
//!
//! Every node asks for itself. So the one whose replica is wrong finds that out by itself, from all others at once, and no
//! node takes another's word for what to do with its own disk.

mod asked;
mod judge;
mod name;
mod repair;
mod round;
mod runs;
mod trust;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use causeway_base::{NodeId, Seq, VolumeId};
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_raft::Group;
use causeway_namespace_raft::digests::{Compared, DigestAnswer, DigestAsk};
use causeway_namespace_raft::store::DivergedMark;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::Namespace;
use crate::digest::{DigestReport, Divergence, Repaired, Verdict, VerifyReport};
use runs::Runs;

/// Deadline of one question to another node.
const ASK: Duration = Duration::from_secs(2);

/// What is known of this node's replicas.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    groups: Mutex<BTreeMap<VolumeId, Known>>,
    /// Messages sent.
    asked: AtomicU64,
    /// One repair at a time: each reads and writes a whole state.
    repairing: tokio::sync::Mutex<()>,
    verifies: Runs<VerifyReport>,
    repairs: Runs<Repaired>,
}

/// What is known of one replica.
#[derive(Debug, Default)]
struct Known {
    /// The line of the group's history of which all this is.
    lineage: Lineage,
    /// By peer, the newest seq at which it was the same.
    equal: BTreeMap<NodeId, Seq>,
    /// It was the same as all others at this seq: nothing is asked until it has another.
    settled: Option<Seq>,
    /// The nodes whose replicas are right, when this one was judged wrong.
    sound: BTreeSet<NodeId>,
    /// A repair is under way.
    repairing: bool,
    /// The next one not before this: the last one failed.
    repair_after: Option<Instant>,
    report: DigestReport,
}

impl Digests {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Known>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner) // single inserts
    }

    pub(crate) fn report(&self, group: VolumeId) -> DigestReport {
        self.lock().get(&group).map(|known| known.report.clone()).unwrap_or_default()
    }

    /// Messages sent to compare, since the node started.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    fn count_message(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    fn change(&self, group: VolumeId, change: impl FnOnce(&mut Known)) {
        change(self.lock().entry(group).or_default());
    }

    fn change_divergence(&self, group: VolumeId, change: impl FnOnce(&mut Divergence)) {
        self.change(group, |known| {
            if let Some(divergence) = &mut known.report.divergence {
                change(divergence);
            }
        });
    }

    fn divergence(&self, group: VolumeId) -> Option<Divergence> {
        self.lock().get(&group).and_then(|known| known.report.divergence.clone())
    }
}

/// Compares and repairs until the node shuts down.
pub(super) async fn run(namespace: Arc<Namespace>) {
    let every = namespace.config.digests.compare_every;
    namespace.tasks.spawn(verify::run(namespace.clone()));
    if every.is_zero() {
        return;
    }
    // So that the nodes of a cluster, which often start together, do not all ask at the same moment.
    let mut random = StdRng::seed_from_u64(namespace.config.seed ^ namespace.id().0.rotate_left(17));
    loop {
        let pause = every.mul_f64(random.random_range(0.75..1.25));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = namespace.stop.cancelled() => return,
        }
        let work = async {
            for group in round::run(&namespace).await {
                judge::run(&namespace, group).await;
            }
            repair::begin_due(&namespace);
        };
        tokio::select! {
            () = work => {}
            () = namespace.stop.cancelled() => return,
        }
    }
}

/// What was found of this node's replica.
#[derive(Debug)]
struct Found {
    verdict: Verdict,
    seq: Seq,
    /// Whose replicas are not as this one.
    from: Vec<NodeId>,
    /// Whose may be taken instead.
    sound: BTreeSet<NodeId>,
}

/// What the other nodes say of their replicas.
#[derive(Clone, Copy, Debug, Default)]
struct Others {
    serve: usize,
    wrong: usize,
}

impl Others {
    fn are_all_wrong(self) -> bool {
        self.serve == 0 && self.wrong > 0
    }
}

impl Namespace {
    /// Whether this node's replica is wrong, or may be: what it says of a volume is then no ground to throw anything away.
    #[must_use]
    pub fn may_be_wrong(&self, volume: VolumeId) -> bool {
        self.digests.divergence(volume).is_some_and(|known| known.verdict != Verdict::Others)
    }

    /// How many of the other nodes serve a replica that they do not know to be wrong, and how many know that.
    async fn others(&self, group: &Group, among: &BTreeSet<NodeId>) -> Others {
        let ask = DigestAsk { group: group.id(), lineage: group.lineage(), marks: group.digest_marks() };
        let asks = among.iter().map(|peer| {
            self.digests.count_message();
            self.groups.ask_digests(*peer, std::slice::from_ref(&ask), ASK)
        });
        let mut others = Others::default();
        for answer in futures::future::join_all(asks).await.into_iter().filter_map(Result::ok).flatten() {
            match answer {
                DigestAnswer { diverged: true, .. } => others.wrong += 1,
                DigestAnswer { compared: Compared::NotHere, .. } => {}
                _ => others.serve += 1,
            }
        }
        others
    }

    /// The name of a group, for people.
    fn name_of(&self, id: VolumeId) -> String {
        self.volume(id).map_or_else(|_| "(root)".to_owned(), |volume| volume.spec.name)
    }

    /// Takes in that this node's replica is wrong: it is marked on the disk, is not read any more and leads no more. If all
    /// others that answer are marked already it is only reported: where every replica is judged wrong, the judgement may
    /// be, and the last one is still read. So is one without other members. Nothing is made of what was found of a line
    /// that has ended meanwhile, or of a state that was replaced since it had this `generation`.
    async fn condemn(&self, group: &Arc<Group>, generation: u64, found: Found) {
        let Found { verdict, seq, from, sound } = found;
        let (id, group) = (group.id(), Arc::clone(group));
        if group.is_fenced() || group.lineage() != self.groups.lineage(id) {
            return;
        }
        let why = match verdict {
            Verdict::Damaged => "its records do not come to its own digest".to_owned(),
            Verdict::Declared => "a person said so".to_owned(),
            _ => format!("the replicas of {from:?} are the same and not as this one"),
        };
        let found_at = self.clock.now();
        let marks = group.members().len() > 1 && !self.others(&group, &sound).await.are_all_wrong();
        if marks {
            let mark = DivergedMark { seq, at: found_at, why: why.clone() };
            let marking = Arc::clone(&group);
            match super::blocking(move || marking.mark_diverged(generation, mark)).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let error = crate::rpc::chain(&error);
                    tracing::error!(group = %id, error, "the mark of a wrong replica was not written");
                }
            }
        } else if group.generation() != generation {
            return;
        }
        let divergence = Divergence { seq, found_at, verdict, from, records: None, repair: None };
        self.digests.change(id, |known| {
            known.sound = sound;
            known.repair_after = None;
            known.report.divergence = Some(divergence);
        });
        let name = self.name_of(id);
        tracing::error!(group = %id, name, %seq, why, marks, "DIVERGENCE: this node's replica is wrong");
    }
}
