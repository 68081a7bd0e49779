//! Volumes that are mounted in others.
//!
//! What is mounted where is decided by the root group's table, by path. In the volume above there is an entry besides, so
//! that a node that does not know of the mount yet is refused there, and does not write into what the mount hides. The
//! entry is made before the volume is; whatever lost it since, or never had it, the leader of the volume above mends.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{Seq, VolumeId};
use causeway_namespace_core::command::{Outcome, RequestBody};
use causeway_namespace_core::manage::MountOp;
use causeway_namespace_core::query::{self, Mount};
use causeway_namespace_core::records::ReadError;
use causeway_namespace_core::root::{VolumeRecord, VolumeSpec};
use causeway_namespace_raft::Group;
use tokio::time::Instant;

use super::{Namespace, blocking};
use crate::catalog::Catalog;
use crate::error::Error;

/// Between two looks at the volumes in which something was committed since their mounts were in order.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Time for one change.
const STEP: Duration = Duration::from_secs(10);
/// An entry is left alone for so long though no volume is mounted there: the volume may just be being created. More than a
/// request may last.
const ORPHAN_AFTER: Duration = Duration::from_secs(600);

/// A mount that was made for a volume that is being created.
#[derive(Debug)]
pub(super) struct MadeMount {
    above: VolumeRecord,
    path: Bytes,
    volume: String,
}

impl Namespace {
    /// Makes the entry in the volume above a new volume's mount point, if there is one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if something is there already; else [`Error`]. May be repeated.
    pub(super) async fn mount_above(&self, spec: &VolumeSpec, deadline: Duration) -> Result<Option<MadeMount>, Error> {
        let catalog = self.catalog();
        let Some((above, path)) = catalog.above(&spec.mount) else { return Ok(None) };
        if catalog.volumes.values().any(|volume| volume.spec.mount == spec.mount || volume.spec.name == spec.name) {
            // The root group says what is wrong with that, or that it is there already.
            return Ok(None);
        }
        let mount = MadeMount { above: above.clone(), path, volume: spec.name.clone() };
        self.set_mount(&mount, true, deadline).await?;
        Ok(Some(mount))
    }

    /// Takes a mount back whose volume was refused. What fails here is mended later.
    pub(super) async fn take_back(&self, mount: MadeMount, deadline: Duration) {
        let started = Instant::now();
        let work = async {
            self.refresh_catalog(deadline).await?;
            // It was refused because another that is the same came first, say: the entry is that one's.
            if self.catalog().mounted_in(mount.above.id).any(|(path, _)| *path == mount.path) {
                return Ok(());
            }
            self.set_mount(&mount, false, deadline.saturating_sub(started.elapsed())).await
        };
        if let Err(error) = work.await {
            tracing::info!(volume = mount.volume, %error, "a mount of a volume that was not created stays for now");
        }
    }

    async fn set_mount(&self, mount: &MadeMount, mounted: bool, deadline: Duration) -> Result<(), Error> {
        let MadeMount { above, path, volume } = mount;
        let op = MountOp { path: path.clone(), volume: volume.clone(), mounted };
        match self.propose(above, RequestBody::Mount(op), deadline).await?.outcome {
            Outcome::Done(_) => Ok(()),
            Outcome::Refused(refusal) => Err(Error::Invalid(format!(
                "volume {volume:?} cannot be mounted at {:?} of volume {:?}: {}; take another mount point, or move what is there",
                String::from_utf8_lossy(path),
                above.spec.name,
                refusal.code
            ))),
            other => Err(Error::Invalid(format!("volume {:?} answered {other:?}", above.spec.name))),
        }
    }
}

/// What a node knows of the mounts in the volumes that it leads.
#[derive(Debug, Default)]
pub(super) struct MountsSeen {
    seen: BTreeMap<VolumeId, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// What was to be mounted there.
    mounted: BTreeMap<Bytes, String>,
    /// Applied before that was looked at.
    applied: Seq,
    /// Whether time alone may change what is to be done.
    waits: bool,
}

impl MountsSeen {
    /// Another leads the volume.
    pub(super) fn forget(&mut self, volume: VolumeId) {
        self.seen.remove(&volume);
    }

    /// Makes the entries of mounts that are missing, and takes away those that belong to no volume, if what is to be mounted
    /// has changed.
    pub(super) async fn look_after(
        &mut self,
        namespace: &Namespace,
        group: &Group,
        volume: &VolumeRecord,
        catalog: &Catalog,
    ) {
        let mounted = catalog.mounted_in(volume.id).map(|(path, name)| (path.clone(), name.to_owned())).collect();
        if self.seen.get(&volume.id).is_none_or(|seen| seen.mounted != mounted) {
            self.look(namespace, group, volume, catalog, mounted).await;
        }
    }

    /// Looks at the volumes in which something was committed since: it may be what a mount needs.
    pub(super) async fn look_again(&mut self, namespace: &Namespace, catalog: &Catalog) {
        self.seen.retain(|id, _| catalog.volumes.contains_key(id));
        let due = |(id, seen): (&VolumeId, &Seen)| {
            let group = namespace.group(*id).filter(|group| group.is_leader())?;
            (seen.waits || seen.applied != group.applied()).then_some((group, seen.mounted.clone()))
        };
        let due: Vec<_> = self.seen.iter().filter_map(due).collect();
        for (group, mounted) in due {
            if let Some(volume) = catalog.volumes.get(&group.id()) {
                self.look(namespace, &group, volume, catalog, mounted).await;
            }
        }
    }

    async fn look(
        &mut self,
        namespace: &Namespace,
        group: &Group,
        volume: &VolumeRecord,
        catalog: &Catalog,
        mounted: BTreeMap<Bytes, String>,
    ) {
        let applied = group.applied();
        // What cannot be mended is tried and told again as rarely as what is in order.
        let waits = mend(namespace, group, volume, catalog).await.unwrap_or_else(|error| {
            tracing::warn!(volume = volume.spec.name, %error, "the mounts in this volume are not in order");
            true
        });
        self.seen.insert(volume.id, Seen { mounted, applied, waits });
    }
}

/// Whether there are entries that may be orphans, too young to be taken away.
async fn mend(namespace: &Namespace, group: &Group, above: &VolumeRecord, catalog: &Catalog) -> Result<bool, Error> {
    let view = group.view().map_err(|error| Error::Read(ReadError::Store(error.to_string())))?;
    let found: Vec<Mount> = blocking(move || query::mounts(&view)).await?;
    let is_there = |path: &Bytes, name: &str| found.iter().any(|mount| mount.path == *path && mount.volume == name);
    let made =
        |path: &Bytes, name: &str| MadeMount { above: above.clone(), path: path.clone(), volume: name.to_owned() };
    // One that cannot be mended does not keep the others from it.
    let mut mended = Ok(());
    for (path, name) in catalog.mounted_in(above.id) {
        if !is_there(path, name) {
            mended = mended.and(namespace.set_mount(&made(path, name), true, STEP).await);
        }
    }
    let now = namespace.clock.now();
    let old = |mount: &Mount| now.since(mount.since) > ORPHAN_AFTER;
    let orphan = |catalog: &Catalog, mount: &Mount| {
        !catalog.mounted_in(above.id).any(|(path, name)| mount.path == *path && mount.volume == name)
    };
    let (orphans, young): (Vec<&Mount>, Vec<&Mount>) =
        found.iter().filter(|mount| orphan(catalog, mount)).partition(|mount| old(mount));
    if !orphans.is_empty() {
        if let Err(error) = namespace.refresh_catalog(STEP).await {
            return mended.and(Err(error));
        }
        let catalog = namespace.catalog();
        for mount in orphans.into_iter().filter(|mount| orphan(&catalog, mount)) {
            let taken = namespace.set_mount(&made(&mount.path, &mount.volume), false, STEP).await;
            if taken.is_ok() {
                tracing::info!(volume = mount.volume, "took away the mount of a volume that was never created");
            }
            mended = mended.and(taken);
        }
    }
    mended.map(|()| !young.is_empty())
}
