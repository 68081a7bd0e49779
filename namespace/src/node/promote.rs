//! Break-glass promotion: a group that lost its majority goes on with what one node has of it. `docs/promotion.md` says
//! what holds before and after.
//!
//! Any node takes the request and looks who has what; the node with the newest state at the site founds the new line. For a
//! volume the root group's commit decides, and every node follows its record (`volumes.rs`). The root group's own promotion is
//! decided by its founder's durable mark.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{NodeId, RetryClass, Seq, SiteName, VolumeId};
use causeway_namespace_core::apply::apply;
use causeway_namespace_core::audit::By;
use causeway_namespace_core::command::{Command, Outcome, Request, RequestBody};
use causeway_namespace_core::promotion::{self, PromotionRecord};
use causeway_namespace_core::records::{ReadError, Records};
use causeway_namespace_core::root::{RootOp, RootOutcome, VolumeRecord};
use causeway_namespace_core::{encode, query};
use causeway_namespace_raft::{Founding, Refounding, Rewritten};
use causeway_proto::peer::v1 as proto;
use tokio::time::Instant;

use super::{Namespace, Pause};
use crate::error::Error;
use crate::rpc;
use crate::status::GroupReport;

/// How long a leader is looked for before a group counts as without one: some elections, and never less than this.
const LEADER_MIN: Duration = Duration::from_secs(2);
/// What is left of a deadline for the way back.
const MARGIN: Duration = Duration::from_millis(250);

/// What a promotion came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// The volume, as it is now.
    pub volume: VolumeRecord,
    /// How it was promoted.
    pub promotion: PromotionRecord,
    /// How the root group was promoted before it, if it was.
    pub root: Option<PromotionRecord>,
    /// It was promoted to this site before, and nothing was done.
    pub already: bool,
}

/// A replica of the surviving side.
struct Survivor {
    node: NodeId,
    site: SiteName,
    witness: bool,
    /// Its replica is known to be wrong (docs/digest.md).
    wrong: bool,
    group: GroupReport,
}

/// The node that founds a line, and the newest seq in any log of the surviving side.
struct Choice {
    founder: NodeId,
    last: Seq,
}

impl Namespace {
    /// Promotes a volume at a site, and the root group before it if that is `root` too and has lost its majority as well.
    /// The same again is fine.
    ///
    /// # Errors
    /// [`Error::NotPromoted`] says what stands against it; nothing happened then. Cancel safety: dropped, it may happen.
    pub async fn promote_volume(
        self: &Arc<Self>,
        name: &str,
        site: &SiteName,
        root: bool,
        by: By,
        deadline: Duration,
    ) -> Result<Promoted, Error> {
        let started = Instant::now();
        let left = || deadline.saturating_sub(started.elapsed());
        let promoted_root = match self.refresh_catalog(left().min(self.leader_max())).await {
            Ok(()) => None,
            Err(error) if error.retry_class() == RetryClass::Refused => return Err(error),
            Err(_) => {
                let choice = self.choose(VolumeId::ROOT, site, left()).await?;
                if !root {
                    let message = "the root group has lost its majority too, and it must be promoted first: say --root";
                    return Err(Error::NotPromoted(message.to_owned()));
                }
                let done = self.promote_at(&choice, VolumeId::ROOT, site, by.clone(), left()).await?;
                self.follow_root(left()).await?;
                Some(done)
            }
        };
        let volume = self.volume_named(name, left()).await?;
        let known = self.catalog().promotions.get(&volume.id).cloned();
        if let Some(known) = known.filter(|known| known.site == *site)
            && self.has_leader(volume.id, left().min(self.leader_max())).await
        {
            return Ok(Promoted { volume, promotion: known, root: promoted_root, already: true });
        }
        let choice = self.choose(volume.id, site, left()).await?;
        let promotion = self.promote_at(&choice, volume.id, site, by, left()).await?;
        self.refresh_catalog(left()).await?;
        let volume = self.volume(volume.id)?;
        Ok(Promoted { volume, promotion, root: promoted_root, already: false })
    }

    /// Waits until this node has the new root group's tables.
    async fn follow_root(&self, deadline: Duration) -> Result<(), Error> {
        let started = Instant::now();
        let mut pause = Pause::new();
        loop {
            let left = deadline.saturating_sub(started.elapsed());
            match self.refresh_catalog(left.min(self.leader_max())).await {
                Err(error) if error.retry_class() == RetryClass::Transient && !left.is_zero() => {
                    if !pause.wait(&self.stop).await {
                        return Err(Error::ShuttingDown);
                    }
                }
                done => return done,
            }
        }
    }

    fn leader_max(&self) -> Duration {
        LEADER_MIN.max(self.config.timing.election_max * 3)
    }

    async fn has_leader(&self, group: VolumeId, deadline: Duration) -> bool {
        match self.find_replica(group, deadline).await {
            Ok(replica) => replica.confirm(deadline).await.is_ok(),
            Err(_) => false,
        }
    }

    /// Who founds a line of a group at a site, if its majority is gone.
    async fn choose(&self, group: VolumeId, site: &SiteName, deadline: Duration) -> Result<Choice, Error> {
        let what = if group == VolumeId::ROOT { "the root group".to_owned() } else { format!("volume {group}") };
        let refused = |message: String| Err(Error::NotPromoted(format!("{what}: {message}; nothing was done")));
        if self.has_leader(group, deadline.min(self.leader_max())).await {
            return refused("it has a leader that a majority follows".to_owned());
        }
        let status = self.cluster_status(deadline).await;
        let answering: Vec<NodeId> =
            status.nodes.iter().filter(|report| report.status.is_ok()).map(|report| report.node.id).collect();
        let survivor = |report: crate::status::NodeReport| {
            let groups = report.status.ok()?.groups;
            let found = groups.into_iter().find(|found| found.volume == group && found.stopped.is_none())?;
            let (node, site, witness) = (report.node.id, report.node.site, report.node.witness);
            let wrong = found.digests.divergence.as_ref().is_some_and(|known| known.verdict.is_own());
            Some(Survivor { node, site, witness, wrong, group: found })
        };
        let mut survivors: Vec<Survivor> = status.nodes.into_iter().filter_map(survivor).collect();
        let line = survivors.iter().map(|survivor| survivor.group.lineage).max().unwrap_or_default();
        survivors.retain(|survivor| survivor.group.lineage == line);
        let able = |survivor: &&Survivor| !survivor.witness && !survivor.wrong;
        let here = survivors.iter().filter(able).filter(|survivor| survivor.site == *site);
        let Some(best) = here.max_by_key(|survivor| (survivor.group.applied, Reverse(survivor.node))) else {
            return refused(format!(
                "no node of site {site} has a replica of it that runs and is not known to be wrong"
            ));
        };
        let voters = &best.group.voters;
        let voting = voters.iter().filter(|voter| answering.contains(voter)).count();
        if voting * 2 > voters.len() {
            let of = voters.len();
            return refused(format!(
                "{voting} of its {of} voters answer, which is a majority: it goes on by itself. Stop those that shall not"
            ));
        }
        if best.group.applied == Seq::ZERO {
            return refused(format!("site {site} has nothing of it"));
        }
        let newest = survivors.iter().filter(able).max_by_key(|other| other.group.applied);
        if let Some(other) = newest.filter(|other| other.group.applied > best.group.applied) {
            return refused(format!(
                "{} at site {} has seq {} of it, {} at site {site} only {}: promote it there",
                other.node, other.site, other.group.applied, best.node, best.group.applied
            ));
        }
        let last = survivors.iter().map(|survivor| survivor.group.last_log).max().unwrap_or_default();
        Ok(Choice { founder: best.node, last })
    }

    /// Has the founder do it.
    async fn promote_at(
        self: &Arc<Self>,
        choice: &Choice,
        group: VolumeId,
        site: &SiteName,
        by: By,
        deadline: Duration,
    ) -> Result<PromotionRecord, Error> {
        if choice.founder == self.id() {
            return self.promote_here(group, site, choice.last, by, deadline).await;
        }
        let founder = choice.founder;
        let mut stub = self.peers.control(founder).map_err(|error| Error::NotPromoted(error.to_string()))?;
        let message = proto::PromoteRequest {
            group: group.0,
            site: site.to_string(),
            last: choice.last.0,
            by: encode::to_bytes(&by),
        };
        let request = self.peers.request(message, Some(deadline.saturating_sub(MARGIN)));
        let answer = stub.promote(request).await.map_err(|status| match rpc::class_of(&status) {
            RetryClass::Refused => Error::NotPromoted(format!("{founder}: {}", rpc::message_of(&status))),
            _ => Error::Unknown { group, reason: format!("{founder}: {}", rpc::message_of(&status)) },
        })?;
        encode::from_bytes(&answer.into_inner().record, encode::RECORD_BYTES_MAX)
            .map_err(|error| Error::Unknown { group, reason: format!("{founder} answered badly: {error}") })
    }

    /// Founds a line of a group on this node.
    ///
    /// # Errors
    /// As [`Namespace::promote_volume`].
    pub(crate) async fn promote_here(
        self: &Arc<Self>,
        id: VolumeId,
        site: &SiteName,
        last: Seq,
        by: By,
        deadline: Duration,
    ) -> Result<PromotionRecord, Error> {
        let started = Instant::now();
        let left = || deadline.saturating_sub(started.elapsed());
        let group = self.group(id).ok_or_else(|| Error::NotPromoted(format!("{id} does not run on this node")))?;
        if group.diverged().is_some() {
            let message =
                "this node's replica of it differs from the others and is known to be wrong; nothing was done";
            return Err(Error::NotPromoted(format!("{id}: {message}")));
        }
        let (before, fork) = (group.lineage(), group.applied());
        let last = last.max(group.status().last_log).max(fork);
        // From now on this state is what the volume is: a power cut must not take it.
        let persisted = self.groups.persist_states().await;
        persisted.map_err(|error| Error::Read(ReadError::Store(rpc::chain(&error))))?;
        let (site, founder) = (site.clone(), self.id());
        tracing::warn!(group = %id, %fork, %last, who = by.who, reason = by.reason, "promoting");
        if id == VolumeId::ROOT {
            drop(group);
            let op = RootOp::PromoteRoot { before, site, founder, fork, last };
            self.found_root(op, by, before, fork).await?;
        } else {
            drop(group);
            let op = RootOp::PromoteVolume { id, before, site, founder, fork, last };
            let (seq, outcome) = self.audited_by(op, by, left()).await?;
            if !matches!(outcome, RootOutcome::Promoted(_)) {
                return Err(Error::Invalid(format!("the root group answered {outcome:?}")));
            }
            self.wait_catalog_within(seq, left()).await?;
        }
        let record = self.wait_line(id, before, left()).await?;
        Ok(record)
    }

    /// Waits until the group's next line has a leader here, and its record is known.
    async fn wait_line(
        &self,
        id: VolumeId,
        before: causeway_namespace_core::lineage::Lineage,
        deadline: Duration,
    ) -> Result<PromotionRecord, Error> {
        let started = Instant::now();
        let mut pause = Pause::new();
        loop {
            let left = deadline.saturating_sub(started.elapsed());
            let record = self.catalog().promotions.get(&id).cloned().filter(|record| record.lineage > before);
            let leads = self.group(id).is_some_and(|group| group.lineage() > before && group.is_leader());
            if let Some(record) = record.filter(|_| leads) {
                return Ok(record);
            }
            if left.is_zero() {
                let reason = "the new line has no leader yet; it comes by itself, ask again".to_owned();
                return Err(Error::Unknown { group: id, reason });
            }
            if !pause.wait(&self.stop).await {
                return Err(Error::ShuttingDown);
            }
        }
    }

    /// The mark that decides a promotion of the root group; the task that follows its tables does the rest.
    async fn found_root(
        &self,
        op: RootOp,
        by: By,
        before: causeway_namespace_core::lineage::Lineage,
        fork: Seq,
    ) -> Result<(), Error> {
        let state = self.groups.line_view(VolumeId::ROOT, before).await;
        let state = state.map_err(|error| Error::Read(ReadError::Store(rpc::chain(&error))))?;
        // Of what is taken over, not of what came since.
        let state = state.at(fork).map_err(|error| {
            let error = rpc::chain(&error);
            Error::NotPromoted(format!("the state at seq {fork} is not here any more, ask again: {error}"))
        })?;
        let cluster =
            query::cluster(&state)?.ok_or_else(|| Error::NotPromoted("there is no cluster yet".to_owned()))?;
        let used_up = || Error::NotPromoted("epochs or seqs are used up, or this node's id is too high".to_owned());
        let epoch = promotion::next_epoch(cluster.epoch, self.id()).ok_or_else(used_up)?;
        let seq = promotion::next_seq(fork, epoch).ok_or_else(used_up)?;
        let lineage = promotion::root_lineage(epoch, self.id());
        let request = Request { at: self.clock.now(), body: RequestBody::Audited { op, by } };
        let command = Command { requests: vec![request] };
        // What cannot be done is refused before anything is promised.
        root_rewritten(&state, seq, &command)?.map_err(Error::NotPromoted)?;
        let founding = Founding { before, fork, seq, command: command.encode() };
        let founded = self.groups.fence_founding(VolumeId::ROOT, lineage, founding).await;
        founded.map_err(|error| Error::Unknown { group: VolumeId::ROOT, reason: rpc::chain(&error) })
    }

    /// Finishes what the mark of a founded root group promises.
    pub(super) async fn refound_root(&self) -> Result<(), String> {
        let Some(fence) = self.groups.fence_of(VolumeId::ROOT) else { return Ok(()) };
        let Some(Founding { before, fork, seq, command }) = fence.founding else { return Ok(()) };
        let command = Command::decode(&command).map_err(|error| error.to_string())?;
        let plan = Refounding { lineage: fence.lineage, before, fork, seq };
        let rewrite = move |view: &causeway_namespace_raft::StateView| {
            root_rewritten(view, seq, &command)?.map_err(ReadError::Store)
        };
        self.groups.refound(VolumeId::ROOT, plan, rewrite).await.map_err(|error| rpc::chain(&error))
    }

    /// Makes this node's line of a volume that it founds.
    pub(super) async fn refound_volume(&self, id: VolumeId, promotion: &PromotionRecord) -> Result<(), String> {
        let PromotionRecord { lineage, before, fork, seq, .. } = *promotion;
        let plan = Refounding { lineage, before, fork, seq };
        let rewrite = move |view: &causeway_namespace_raft::StateView| volume_rewritten(view, lineage.epoch);
        self.groups.refound(id, plan, rewrite).await.map_err(|error| rpc::chain(&error))
    }
}

/// The root group's records that its promotion changes; the inner error is why it is refused.
fn root_rewritten(records: &dyn Records, seq: Seq, command: &Command) -> Result<Result<Rewritten, String>, ReadError> {
    let applied = apply(records, seq, command)?;
    Ok(match applied.outcomes.as_slice() {
        [Outcome::Root(RootOutcome::Promoted(_))] => {
            Ok(applied.changes.into_iter().map(|change| (change.key, change.new)).collect())
        }
        [Outcome::Root(RootOutcome::Refused(refusal))] => Err(refusal.to_string()),
        other => Err(format!("the root group's promotion came to {other:?}")),
    })
}

/// A volume's records that its promotion changes: the counters.
fn volume_rewritten(records: &dyn Records, epoch: causeway_base::Epoch) -> Result<Rewritten, ReadError> {
    let key = causeway_namespace_core::key::meta();
    let Some(value) = records.get(&key)? else { return Ok(Rewritten::new()) };
    let meta = encode::record(&key, &value)?;
    let meta: Bytes = encode::to_bytes(&promotion::rewritten(&meta, epoch));
    Ok([(key, Some(meta))].into())
}
