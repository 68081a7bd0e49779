//! Volumes as the replicator works on them, attached and detached as the root group's table says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use causeway_base::{Epoch, Ino, Seq, SiteName, VolumeId};
use causeway_namespace::{Catalog, Namespace};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::records::{ReadError, Record, Records};
use causeway_namespace_core::root::{VolumeRecord, VolumeSpec};
use causeway_namespace_raft::store::ViewError;
use causeway_namespace_raft::{Group, StateView};
use causeway_replicator::keeper::add_inodes;
use causeway_replicator::{ChangedKeys, ChangesError, PastView, Replicator, VolumeSource, VolumeView};
use tokio::sync::watch;

use super::bound::root_spec;

/// A volume (or the root group) of this node.
#[derive(Debug)]
struct NodeVolume {
    id: VolumeId,
    /// As it was attached. A repair replaces the group; the state under it is the same.
    group: Arc<Group>,
    namespace: Arc<Namespace>,
    site: SiteName,
    settings: watch::Receiver<()>,
}

#[derive(Debug)]
pub(super) struct View(pub(super) StateView, pub(super) Digest, pub(super) Lineage);

impl Records for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.0.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, ReadError> {
        self.0.scan(from, to, limit)
    }
}

impl VolumeView for View {
    fn seq(&self) -> Seq {
        self.0.seq()
    }

    fn digest(&self) -> Digest {
        self.1
    }

    fn older(
        &self,
        table: &(Bytes, Bytes),
        from: &[u8],
        limit: usize,
    ) -> Result<(Vec<Record>, Option<Bytes>), ReadError> {
        self.0.replaced(table, from, limit)
    }

    fn line(&self) -> Lineage {
        self.2
    }

    fn keeps(&self, seq: Seq) -> bool {
        self.0.at(seq).is_ok()
    }

    fn changed_inodes(&self, after: Seq) -> Result<Option<BTreeSet<Ino>>, ReadError> {
        /// Seqs read at once.
        const SEQS: usize = 1024;
        let (mut at, until) = (after, self.0.seq());
        let mut inodes = BTreeSet::new();
        while at < until {
            let read = match self.0.changes(at, until, SEQS) {
                Ok(read) => read,
                Err(ViewError::TooOld { .. }) => return Ok(None),
                Err(error) => return Err(ReadError::Store(error.to_string())),
            };
            let Some(last) = read.last() else { break };
            at = last.seq;
            if !add_inodes(&mut inodes, read.into_iter().flat_map(|seq| seq.keys).map(|(key, _)| key)) {
                return Ok(None);
            }
        }
        Ok(Some(inodes))
    }
}

impl VolumeSource for NodeVolume {
    fn id(&self) -> VolumeId {
        self.id
    }

    fn spec(&self) -> (VolumeSpec, Epoch) {
        let catalog = self.namespace.catalog();
        match catalog.volumes.get(&self.id) {
            // Of a group that is not of the line that the table has, seqs count under no epoch of it.
            Some(volume) if self.group.lineage() != catalog.lineage(self.id) => (volume.spec.clone(), Epoch(0)),
            Some(volume) => (volume.spec.clone(), volume.epoch),
            // One that only a line of the root group knew that was left: it publishes nothing.
            None if self.id != VolumeId::ROOT => (root_spec(self.site.clone()), Epoch(0)),
            None => {
                let epoch = catalog.cluster.as_ref().map_or(Epoch(0), |cluster| cluster.epoch);
                (root_spec(self.site.clone()), epoch)
            }
        }
    }

    fn watch_applied(&self) -> watch::Receiver<Seq> {
        self.group.watch_applied()
    }

    fn watch_settings(&self) -> watch::Receiver<()> {
        self.settings.clone()
    }

    fn view(&self) -> Result<Box<dyn VolumeView>, ReadError> {
        let view = self.group.view().map_err(|error| ReadError::Store(error.to_string()))?;
        // A view of the newest state knows its digest.
        let digest = view.digest().ok_or_else(|| ReadError::Store("a view without a digest".into()))?;
        Ok(Box::new(View(view, digest, self.group.lineage())))
    }

    fn view_at(&self, seq: Seq) -> Result<Option<Box<dyn PastView>>, ReadError> {
        match self.group.view_at(seq) {
            Ok(view) => Ok(Some(Box::new(view))),
            Err(ViewError::TooOld { .. }) => Ok(None),
            Err(error) => Err(ReadError::Store(error.to_string())),
        }
    }

    fn changes(&self, after: Seq, until: Seq) -> Result<ChangedKeys, ChangesError> {
        let changes = self.group.changes(after, until).map_err(changes_error)?;
        Ok(Box::new(changes.flat_map(|changed| match changed {
            Ok(changed) => changed.keys.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(changes_error(error))],
        })))
    }

    fn generation(&self) -> u64 {
        self.group.generation()
    }

    fn leads(&self) -> Option<u64> {
        // The table may have the epoch of a line that this group is not of: nothing is published in its name.
        let catalog = self.namespace.catalog();
        let decided = catalog.promotions.get(&self.id).map(|promotion| promotion.lineage).unwrap_or_default();
        let known = self.id == VolumeId::ROOT || catalog.volumes.contains_key(&self.id);
        if self.group.is_fenced() || self.group.lineage() != decided || !known {
            return None;
        }
        // Both from one look: a term read after leadership was lost would be the next leader's, and fence nobody.
        self.namespace.group(self.id)?.leads()
    }
}

fn changes_error(error: ViewError) -> ChangesError {
    match error {
        ViewError::TooOld { wanted, .. } => ChangesError::TooOld(wanted),
        other => ChangesError::Read(ReadError::Store(other.to_string())),
    }
}

/// A volume that the replicator works on.
struct Attached {
    group: Arc<Group>,
    settings: watch::Sender<()>,
    /// What of the tables concerns it.
    seen: Seen,
}

/// What of the root group's tables is told on as a volume's settings.
#[derive(PartialEq, Eq)]
struct Seen {
    volume: Option<VolumeRecord>,
    cluster: Option<Epoch>,
    line: Lineage,
}

impl Seen {
    fn of(catalog: &Catalog, id: VolumeId) -> Self {
        let cluster = catalog.cluster.as_ref().map(|cluster| cluster.epoch).filter(|_| id == VolumeId::ROOT);
        Self { volume: catalog.volumes.get(&id).cloned(), cluster, line: catalog.lineage(id) }
    }

    fn is_of(&self, catalog: &Catalog, id: VolumeId) -> bool {
        self.volume.as_ref() == catalog.volumes.get(&id)
            && self.line == catalog.lineage(id)
            && (id != VolumeId::ROOT || self.cluster == catalog.cluster.as_ref().map(|cluster| cluster.epoch))
    }
}

/// Attaches the groups that run here to the replicator, as they come and go. Ends when the node shuts down.
pub(super) async fn follow(namespace: Arc<Namespace>, replicator: Arc<Replicator>, site: SiteName) {
    let mut catalog = namespace.watch_catalog();
    let mut fences = namespace.groups().watch_fences();
    let stop = namespace.stopping().clone();
    let mut attached: BTreeMap<VolumeId, Attached> = BTreeMap::new();
    loop {
        fences.borrow_and_update();
        let now = catalog.borrow_and_update().clone();
        let wanted: BTreeSet<VolumeId> = {
            let here = now.volumes.values().filter(|volume| volume.members.contains(&namespace.id()));
            here.map(|volume| volume.id).chain([VolumeId::ROOT]).collect()
        };
        let mut waiting = false;
        // A promoted volume is another group: what was followed of the one before says nothing about it.
        attached.retain(|id, volume| {
            let keep = !volume.group.is_fenced();
            if !keep {
                replicator.detach(*id);
            }
            keep
        });
        for id in &wanted {
            if let Some(volume) = attached.get_mut(id) {
                if !volume.seen.is_of(&now, *id) {
                    volume.seen = Seen::of(&now, *id);
                    volume.settings.send_replace(());
                }
                continue;
            }
            match namespace.group(*id) {
                Some(group) => {
                    let (settings, watched) = watch::channel(());
                    let volume = Attached { group: group.clone(), settings, seen: Seen::of(&now, *id) };
                    attached.insert(*id, volume);
                    let (namespace, site) = (namespace.clone(), site.clone());
                    let volume = NodeVolume { id: *id, group, namespace, site, settings: watched };
                    replicator.attach(Arc::new(volume));
                }
                // Without a replica here there is nothing to wait for; one that starts is seen at the next look.
                None => waiting = true,
            }
        }
        attached.retain(|id, _| {
            let keep = wanted.contains(id);
            if !keep {
                replicator.detach(*id);
            }
            keep
        });
        let look_again = async {
            match waiting {
                true => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = catalog.changed() => if changed.is_err() { return },
            _ = fences.changed() => {}
            () = look_again => {}
            () = stop.cancelled() => return,
        }
    }
}
