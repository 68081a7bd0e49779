//! The groups of a node: the root group, and a group for each volume that has a replica here.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use causeway_base::{NodeId, Seq, VolumeId};
use causeway_namespace_core::command::{Outcome, Request, RequestBody};
use causeway_namespace_core::root::{RootOp, RootOutcome, VolumeRecord, VolumeSpec};
use tokio::time::Instant;

use super::join::JoinError;
use super::replica::Replica;
use super::{Namespace, Pause, blocking};
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
        let voters = self.config.initial.iter().map(|node| (node.id, ())).collect();
        let spec = GroupSpec { voters, home: None, bootstrap: true };
        let root = self.start_group(VolumeId::ROOT, spec).await.map_err(JoinError::Failed)?;
        self.tasks.spawn(follow(self.clone(), root));
        Ok(())
    }

    async fn start_group(&self, id: VolumeId, spec: GroupSpec) -> Result<Arc<Group>, String> {
        let group = self.groups.start(id, spec).await.map_err(|error| rpc::chain(&error))?;
        let replica =
            Replica::new(group.clone(), self.id(), self.forward.clone(), &self.tasks, self.stop.child_token());
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner).insert(id, replica);
        self.started_replicas.send_modify(|count| *count += 1);
        Ok(group)
    }

    /// Starts what the catalog has here and does not run yet; `false` if one did not start.
    async fn start_volumes(&self, catalog: &Catalog) -> bool {
        let mut all = true;
        for volume in catalog.volumes.values() {
            if !volume.spec.voters.contains(&self.id()) || self.replica(volume.id).is_some() {
                continue;
            }
            let spec = group_spec(volume, catalog);
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

    /// Waits until the catalog is at least at `seq`, or the node shuts down.
    pub(crate) async fn wait_catalog(&self, seq: Seq) {
        let mut catalog = self.catalog.subscribe();
        tokio::select! {
            _ = catalog.wait_for(|catalog| catalog.seq >= seq) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Proposes an operation of the root group, whoever leads it. All of them may be repeated.
    ///
    /// # Errors
    /// [`Error`]; that the root group refused is an outcome. Cancel safety: dropping it leaves the outcome unknown.
    pub async fn propose_root(&self, op: RootOp, deadline: Duration) -> Result<Proposed, Error> {
        let request = Request { at: self.clock.now(), body: RequestBody::Root(op) };
        let voters: Vec<NodeId> = self.config.initial.iter().map(|node| node.id).collect();
        self.forward.propose(VolumeId::ROOT, &voters, &request, deadline).await
    }

    /// Creates a volume and waits until it takes writes. What the spec leaves empty is filled: voters with the voters of
    /// the root group, the realm with `default`, the chunk size with 64 KiB. The same again answers with the existing one.
    ///
    /// # Errors
    /// [`Error::Root`] with the reason if the spec cannot be; else [`Error`].
    pub async fn create_volume(&self, mut spec: VolumeSpec, deadline: Duration) -> Result<VolumeRecord, Error> {
        let started = Instant::now();
        let left = || deadline.saturating_sub(started.elapsed());
        if spec.voters.is_empty() {
            spec.voters = self.config.initial.iter().map(|node| node.id).collect();
        }
        if spec.realm.is_empty() {
            REALM.clone_into(&mut spec.realm);
        }
        if spec.chunk_bytes_avg == 0 {
            spec.chunk_bytes_avg = CHUNK_BYTES_AVG;
        }
        let proposed = self.propose_root(RootOp::CreateVolume { spec }, deadline).await?;
        let id = match proposed.outcome {
            Outcome::Root(RootOutcome::Volume(id)) => id,
            Outcome::Root(RootOutcome::Refused(refusal)) => return Err(Error::Root(refusal)),
            other => return Err(Error::Invalid(format!("the root group answered {other:?}"))),
        };
        let behind = || Error::Behind { group: VolumeId::ROOT, wanted: proposed.seq, applied: self.catalog().seq };
        tokio::time::timeout(left(), self.wait_catalog(proposed.seq)).await.map_err(|_| behind())?;
        let volume = self.volume(id)?;
        if volume.spec.voters.contains(&self.id()) {
            self.find_replica(id, left()).await?.confirm(left()).await?;
        }
        Ok(volume)
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
        let left = deadline.saturating_sub(started.elapsed());
        let behind = |_| Error::Behind { group: VolumeId::ROOT, wanted, applied: self.catalog().seq };
        tokio::time::timeout(left, self.wait_catalog(wanted)).await.map_err(behind)
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
        if id != VolumeId::ROOT {
            let volume = self.find_volume(id, deadline).await?;
            if !volume.spec.voters.contains(&self.id()) {
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
async fn follow(namespace: Arc<Namespace>, root: Arc<Group>) {
    let mut applied = root.watch_applied();
    let mut pause = Pause::new();
    loop {
        applied.borrow_and_update();
        let group = root.clone();
        let read = move || {
            let view = group.view().map_err(|error| error.to_string())?;
            Catalog::read(&view, view.seq()).map_err(|error| error.to_string())
        };
        let all = match blocking(read).await {
            Ok(catalog) => {
                let catalog = Arc::new(catalog);
                namespace.peers.update(catalog.nodes.values());
                namespace.catalog.send_replace(catalog.clone());
                namespace.start_volumes(&catalog).await
            }
            Err(error) => {
                tracing::error!(error, "the root group's tables cannot be read, trying again");
                false
            }
        };
        if all {
            pause = Pause::new();
        } else {
            if !pause.wait(&namespace.stop).await {
                return;
            }
            applied.mark_changed();
        }
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            () = namespace.stop.cancelled() => return,
        }
    }
}

fn group_spec(volume: &VolumeRecord, catalog: &Catalog) -> GroupSpec {
    let at_home = |node: &&NodeId| catalog.nodes.get(node).is_some_and(|node| node.site == volume.spec.home);
    let voters: BTreeMap<NodeId, ()> = volume.spec.voters.iter().map(|node| (*node, ())).collect();
    GroupSpec { home: voters.keys().find(at_home).copied(), voters, bootstrap: true }
}
