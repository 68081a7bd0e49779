//! The groups of a node: the root group, and a group for each volume that has a replica here.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use causeway_base::{NodeId, Seq, VolumeId};
use causeway_namespace_core::audit::By;
use causeway_namespace_core::command::{Outcome, Request, RequestBody};
use causeway_namespace_core::root::{NodeState, RootOp, RootOutcome, VolumeRecord, VolumeSpec};
use causeway_topology::{Residency, Survive};
use causeway_transport::PeerId;
use tokio::time::Instant;

use super::join::JoinError;
use super::replica::Replica;
use super::{Namespace, Pause, blocking, placement};
use crate::catalog::Catalog;
use crate::error::Error;
use crate::rpc;
use causeway_namespace_raft::{Group, GroupSpec, Proposed};

/// The realm of a volume that names none.
const REALM: &str = "default";
/// Average chunk size of a volume that names none, in bytes.
const CHUNK_BYTES_AVG: u32 = 64 << 10;

impl Namespace {
    /// Starts the root group, and the task that follows its tables.
    pub(super) async fn start_root(self: &Arc<Self>) -> Result<(), JoinError> {
        let root = self.start_root_line().await.map_err(JoinError::Failed)?;
        self.tasks.spawn(follow(self.clone(), root));
        self.tasks.spawn(placement::run(self.clone()));
        Ok(())
    }

    /// Starts the line of the root group that this node follows.
    async fn start_root_line(&self) -> Result<Arc<Group>, String> {
        let lineage = self.groups.lineage(VolumeId::ROOT);
        if !lineage.is_first() {
            self.refound_root().await?;
            return self.start_group(VolumeId::ROOT, GroupSpec { lineage, ..GroupSpec::default() }).await;
        }
        let founders = &self.config.founders;
        let voters = founders.iter().map(|node| (*node, ())).collect();
        let spec = GroupSpec { voters, bootstrap: founders.contains(&self.id()), ..GroupSpec::default() };
        self.start_group(VolumeId::ROOT, spec).await
    }

    /// Says that a group's line has ended here, before anything is done for it.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub(crate) fn check_fence(&self, id: VolumeId) -> Result<(), Error> {
        let Some(fence) = self.groups.fence_of(id) else { return Ok(()) };
        let runs = self.group(id).is_some_and(|group| group.lineage() == fence.lineage);
        if runs || self.catalog().lineage(id) == fence.lineage {
            return Ok(());
        }
        Err(Error::Fenced { group: id, lineage: fence.lineage, by: fence.by })
    }

    /// What the root group decided of a volume's line, before the volume runs here: a lesser line is ended, and what this
    /// node founds is made. `false` if this node knows of a greater line than its tables have: it waits for them.
    async fn follow_line(&self, volume: &VolumeRecord, catalog: &Catalog) -> Result<bool, String> {
        let (id, decided) = (volume.id, catalog.lineage(volume.id));
        if decided < self.groups.lineage(id) {
            return Ok(false);
        }
        if decided.is_first() {
            return Ok(true);
        }
        self.groups.fence(id, decided, self.id()).await.map_err(|error| rpc::chain(&error))?;
        if let Some(promotion) = catalog.promotions.get(&id)
            && decided.founder == self.id()
            && volume.members.contains(&self.id())
        {
            self.refound_volume(id, promotion).await?;
        }
        Ok(true)
    }

    pub(super) async fn start_group(&self, id: VolumeId, spec: GroupSpec) -> Result<Arc<Group>, String> {
        let group = self.groups.start(id, spec).await.map_err(|error| rpc::chain(&error))?;
        let replica =
            Replica::new(group.clone(), self.id(), self.forward.clone(), &self.tasks, self.stop.child_token());
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner).insert(id, replica);
        self.started_replicas.send_modify(|count| *count += 1);
        Ok(group)
    }

    /// Starts what the catalog has here and does not run yet, and stops what it has here no more; `false` if one did not
    /// start.
    async fn start_volumes(&self, catalog: &Catalog) -> bool {
        self.stop_lost(catalog).await;
        let mut all = true;
        for volume in catalog.volumes.values() {
            match self.follow_line(volume, catalog).await {
                Ok(follows) => {
                    self.forget_fenced(volume.id);
                    if !follows {
                        continue;
                    }
                }
                Err(error) => {
                    tracing::error!(volume = %volume.id, error, "the promotion of a volume is not followed, trying again");
                    all = false;
                    continue;
                }
            }
            let runs = self.replica(volume.id).is_some();
            if !volume.members.contains(&self.id()) {
                if runs {
                    self.replicas.lock().unwrap_or_else(PoisonError::into_inner).remove(&volume.id);
                    self.groups.stop(volume.id).await;
                    tracing::info!(volume = %volume.id, name = volume.spec.name, "volume runs here no more");
                }
                continue;
            }
            if runs {
                if let Some(group) = self.group(volume.id) {
                    group.set_home(placement::home_of(volume, catalog));
                }
                continue;
            }
            let spec = group_spec(volume, catalog, self.id());
            match self.start_group(volume.id, spec).await {
                Ok(_) => tracing::info!(volume = %volume.id, name = volume.spec.name, "volume runs here"),
                Err(error) => {
                    tracing::error!(volume = %volume.id, error, "volume does not start here, trying again");
                    all = false;
                }
            }
        }
        all
    }

    /// Stops volumes that the tables do not know: no volume is ever removed from them, so these were created by a line of
    /// the root group that was left. What is here of them is aside.
    async fn stop_lost(&self, catalog: &Catalog) {
        if catalog.cluster.is_none() {
            return;
        }
        let lost = |id: &VolumeId| *id != VolumeId::ROOT && !catalog.volumes.contains_key(id);
        for id in self.groups.running().iter().map(|group| group.id()).filter(lost) {
            self.replicas.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            self.groups.stop(id).await;
            tracing::warn!(volume = %id, "the line of the root group that created this volume has ended: it is aside");
        }
    }

    /// Lets go of a replica whose line has ended.
    fn forget_fenced(&self, id: VolumeId) {
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        if replicas.get(&id).is_some_and(|replica| replica.group.lineage() < self.groups.lineage(id)) {
            replicas.remove(&id);
        }
    }

    /// Waits until the catalog is at least at `seq`, or the node shuts down.
    pub(crate) async fn wait_catalog(&self, seq: Seq) {
        let mut catalog = self.catalog.subscribe();
        tokio::select! {
            _ = catalog.wait_for(|catalog| catalog.seq >= seq) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// As [`Namespace::wait_catalog`], not longer than `deadline`.
    ///
    /// # Errors
    /// [`Error::Behind`].
    pub(crate) async fn wait_catalog_within(&self, seq: Seq, deadline: Duration) -> Result<(), Error> {
        let behind = |_| Error::Behind { group: VolumeId::ROOT, wanted: seq, applied: self.catalog().seq };
        tokio::time::timeout(deadline, self.wait_catalog(seq)).await.map_err(behind)
    }

    /// Proposes an operation of the root group, whoever leads it. All of them may be repeated.
    ///
    /// # Errors
    /// [`Error`]; that the root group refused is an outcome. Cancel safety: dropping it leaves the outcome unknown.
    pub async fn propose_root(&self, op: RootOp, deadline: Duration) -> Result<Proposed, Error> {
        self.propose_to_root(RequestBody::Root(op), deadline).await
    }

    async fn propose_to_root(&self, body: RequestBody, deadline: Duration) -> Result<Proposed, Error> {
        let request = Request { at: self.clock.now(), body };
        let voters: Vec<NodeId> = match self.catalog().nodes.keys().copied().collect::<Vec<_>>() {
            known if known.is_empty() => self.config.initial.iter().map(|node| node.id).collect(),
            known => known,
        };
        self.forward.propose(VolumeId::ROOT, &voters, &request, deadline).await
    }

    /// For the audit: who asks this node, without a reason.
    pub(crate) fn by(&self, who: String) -> By {
        By { who, node: self.id(), reason: String::new() }
    }

    /// As [`Namespace::propose_root`], recorded in the audit; a refusal is an error.
    ///
    /// # Errors
    /// [`Error::Root`] if the root group refused; else [`Error`].
    pub(crate) async fn audited(&self, op: RootOp, peer: &PeerId, deadline: Duration) -> Result<RootOutcome, Error> {
        self.audited_by(op, self.by(peer.to_string()), deadline).await.map(|(_, outcome)| outcome)
    }

    /// As [`Namespace::audited`], with the commit's seq.
    pub(crate) async fn audited_by(&self, op: RootOp, by: By, deadline: Duration) -> Result<(Seq, RootOutcome), Error> {
        let proposed = self.propose_to_root(RequestBody::Audited { op, by }, deadline).await?;
        match proposed.outcome {
            Outcome::Root(RootOutcome::Refused(refusal)) => Err(Error::Root(refusal)),
            Outcome::Root(done) => Ok((proposed.seq, done)),
            Outcome::Invalid(reason) => Err(Error::Invalid(reason)),
            other => Err(Error::Invalid(format!("the root group answered {other:?}"))),
        }
    }

    /// Creates a volume and waits until it takes writes. If its mount point lies in another volume, that one must be in
    /// reach, and must have nothing but an empty directory there. What the spec leaves empty is filled: voters by the planner, for
    /// what it should survive (or, if it does not say and lists no voters, for the loss of a site or else of a node, and with
    /// all nodes as voters where neither can be held); the realm with `default`, the chunk size with 64 KiB. The same again
    /// answers with the existing one.
    ///
    /// # Errors
    /// [`Error::Root`] with the reason if the spec cannot be; else [`Error`].
    pub async fn create_volume(&self, spec: VolumeSpec, deadline: Duration) -> Result<VolumeRecord, Error> {
        self.create_volume_by(spec, self.by(PeerId::node(self.node.site.clone(), self.id()).to_string()), deadline)
            .await
    }

    pub(crate) async fn create_volume_by(
        &self,
        mut spec: VolumeSpec,
        by: By,
        deadline: Duration,
    ) -> Result<VolumeRecord, Error> {
        let started = Instant::now();
        let left = || deadline.saturating_sub(started.elapsed());
        self.refresh_catalog(left()).await?;
        self.place_new(&mut spec)?;
        if spec.realm.is_empty() {
            REALM.clone_into(&mut spec.realm);
        }
        if spec.chunk_bytes_avg == 0 {
            spec.chunk_bytes_avg = CHUNK_BYTES_AVG;
        }
        // First there, so that it is never taken for a place to write: see `mounts`.
        let mount = self.mount_above(&spec, left()).await?;
        let created = self.audited_by(RootOp::CreateVolume { spec }, by, left()).await;
        if let (Err(Error::Root(_)), Some(mount)) = (&created, mount) {
            self.take_back(mount, left()).await;
        }
        let (seq, id) = match created? {
            (seq, RootOutcome::Volume(id)) => (seq, id),
            (_, other) => return Err(Error::Invalid(format!("the root group answered {other:?}"))),
        };
        self.wait_catalog_within(seq, left()).await?;
        let volume = self.volume(id)?;
        if volume.members.contains(&self.id()) {
            self.find_replica(id, left()).await?.confirm(left()).await?;
        }
        Ok(volume)
    }

    fn place_new(&self, spec: &mut VolumeSpec) -> Result<(), Error> {
        let catalog = self.catalog();
        if spec.survive.is_none() && !spec.voters.is_empty() {
            if spec.residency != Residency::Anywhere {
                let message =
                    "a volume that may not lie everywhere is placed by what it survives, not by a list of voters";
                return Err(Error::Invalid(message.to_owned()));
            }
            return Ok(());
        }
        let topology = crate::placement::topology(&catalog.topology, catalog.nodes.values());
        let plan = |survive| {
            let topology = topology.as_ref().map_err(Clone::clone)?;
            crate::placement::plan(topology, spec, survive).map(|plan| (survive, plan))
        };
        let planned = match spec.survive {
            Some(survive) => Some(plan(survive).map_err(Error::Placement)?),
            None => match plan(Survive::Site).or_else(|_| plan(Survive::Node)) {
                Ok(planned) => Some(planned),
                // All nodes are in no case where a restricted volume may lie.
                Err(error) if spec.residency != Residency::Anywhere => return Err(Error::Placement(error)),
                Err(_) => None,
            },
        };
        *spec = match planned {
            Some((survive, plan)) => VolumeSpec { survive: Some(survive), ..crate::placement::placed(spec, &plan) },
            None => {
                let able = catalog.nodes.values().filter(|node| node.state == NodeState::Active && !node.witness);
                VolumeSpec { voters: able.map(|node| node.id).collect(), ..spec.clone() }
            }
        };
        Ok(())
    }

    /// Changes a volume's settings and plans its placement anew; its leader then drives the group there.
    ///
    /// # Errors
    /// [`Error::Placement`] if what it should survive cannot be held, [`Error::Root`] if another change came first; else
    /// [`Error`].
    pub async fn set_volume(
        &self,
        id: VolumeId,
        expected: u64,
        mut spec: VolumeSpec,
        by: By,
        deadline: Duration,
    ) -> Result<VolumeRecord, Error> {
        let started = Instant::now();
        let left = || deadline.saturating_sub(started.elapsed());
        self.refresh_catalog(left()).await?;
        let before = self.volume(id)?;
        if before.revision == expected && !before.is_placed() {
            let message = "it is still moving to where the last change wants it; wait for that, and try again";
            return Err(Error::Busy(format!("volume {:?}: {message}", spec.name)));
        }
        if spec.survive.is_none() && spec.residency != Residency::Anywhere {
            let message = "a volume that may not lie everywhere is placed by what it survives: say what";
            return Err(Error::Invalid(message.to_owned()));
        }
        if let Some(survive) = spec.survive {
            let catalog = self.catalog();
            let topology = crate::placement::topology(&catalog.topology, catalog.nodes.values());
            let plan = topology.and_then(|topology| crate::placement::plan(&topology, &spec, survive));
            spec = crate::placement::placed(&spec, &plan.map_err(Error::Placement)?);
        }
        let (seq, _) = self.audited_by(RootOp::SetVolume { id, expected, spec }, by, left()).await?;
        self.wait_catalog_within(seq, left()).await?;
        self.volume(id)
    }

    /// Brings the catalog up to what the root group had when this was called.
    ///
    /// # Errors
    /// [`Error`] if no leader of it is in reach. Cancel safe.
    pub(crate) async fn refresh_catalog(&self, deadline: Duration) -> Result<(), Error> {
        let started = Instant::now();
        let Some(root) = self.replica(VolumeId::ROOT) else {
            let last = "this node has not joined its cluster yet".to_owned();
            return Err(Error::NoLeader { group: VolumeId::ROOT, waited: Duration::ZERO, last });
        };
        root.confirm(deadline).await?;
        let wanted = root.group.applied();
        self.wait_catalog_within(wanted, deadline.saturating_sub(started.elapsed())).await
    }

    /// A volume by id, asked of the root group if this node does not know it: it may be new.
    ///
    /// # Errors
    /// [`Error::NoVolume`]; else [`Error`]. Cancel safe.
    pub async fn find_volume(&self, id: VolumeId, deadline: Duration) -> Result<VolumeRecord, Error> {
        if let Ok(volume) = self.volume(id) {
            return Ok(volume);
        }
        self.refresh_catalog(deadline).await?;
        self.volume(id)
    }

    /// The replica of a volume that this node should have, though it may just be starting.
    pub(super) async fn find_replica(&self, id: VolumeId, deadline: Duration) -> Result<Arc<Replica>, Error> {
        let started = Instant::now();
        self.check_fence(id)?;
        if id != VolumeId::ROOT {
            let volume = self.find_volume(id, deadline).await?;
            if !volume.members.contains(&self.id()) {
                return Err(Error::NoReplica { volume: id, voters: volume.spec.voters });
            }
        }
        let left = deadline.saturating_sub(started.elapsed());
        let last = || "the group does not run on this node yet".to_owned();
        let late = |_| Error::NoLeader { group: id, waited: started.elapsed(), last: last() };
        tokio::time::timeout(left, self.wait_replica(id)).await.map_err(late)?
    }

    async fn wait_replica(&self, id: VolumeId) -> Result<Arc<Replica>, Error> {
        let mut starts = self.started_replicas.subscribe();
        loop {
            starts.borrow_and_update();
            if let Some(replica) = self.replica(id) {
                return Ok(replica);
            }
            tokio::select! {
                _ = starts.changed() => {}
                () = self.stop.cancelled() => return Err(Error::ShuttingDown),
            }
        }
    }
}

/// Follows the root group's tables: catalog, addresses of peers, volumes that are here.
async fn follow(namespace: Arc<Namespace>, mut root: Arc<Group>) {
    let mut applied = root.watch_applied();
    let mut fences = namespace.groups.watch_fences();
    let mut pause = Pause::new();
    loop {
        applied.borrow_and_update();
        fences.borrow_and_update();
        let mut all = true;
        if root.lineage() < namespace.groups.lineage(VolumeId::ROOT) {
            match namespace.start_root_line().await {
                Ok(started) => {
                    root = started;
                    applied = root.watch_applied();
                    applied.borrow_and_update();
                }
                Err(error) => {
                    tracing::error!(error, "the root group's new line does not start here, trying again");
                    all = false;
                }
            }
        }
        let group = root.clone();
        let read = move || {
            let view = group.view().map_err(|error| error.to_string())?;
            Catalog::read(&view, view.seq()).map_err(|error| error.to_string())
        };
        match blocking(read).await {
            Ok(catalog) => {
                // A new line is blank here at first: what was known stays until it has come.
                let behind = catalog.cluster.is_none() && namespace.catalog().cluster.is_some();
                let catalog = if behind { namespace.catalog() } else { Arc::new(catalog) };
                if !behind {
                    namespace.peers.update(catalog.nodes.values());
                    namespace.catalog.send_replace(catalog.clone());
                }
                all &= namespace.start_volumes(&catalog).await;
            }
            Err(error) => {
                tracing::error!(error, "the root group's tables cannot be read, trying again");
                all = false;
            }
        }
        if all {
            pause = Pause::new();
        } else {
            if !pause.wait(&namespace.stop).await {
                return;
            }
            fences.mark_changed();
        }
        tokio::select! {
            // A group that was fenced tells nothing more; then the fences do.
            changed = applied.changed() => if changed.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            },
            _ = fences.changed() => {}
            () = namespace.stop.cancelled() => return,
        }
    }
}

fn group_spec(volume: &VolumeRecord, catalog: &Catalog, own: NodeId) -> GroupSpec {
    let voters: BTreeMap<NodeId, ()> = volume.founders.iter().map(|node| (*node, ())).collect();
    let lineage = catalog.lineage(volume.id);
    GroupSpec { home: placement::home_of(volume, catalog), bootstrap: voters.contains_key(&own), voters, lineage }
}
