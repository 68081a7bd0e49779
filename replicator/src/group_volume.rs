//! A volume as this node's Raft group has it applied.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use causeway_base::{Epoch, NodeId, Seq, SiteName, VolumeId};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::records::{ReadError, Record, Records};
use causeway_namespace_core::root::{VolumeRecord, VolumeSpec};
use causeway_namespace_raft::Group;
use causeway_namespace_raft::store::{StateView, ViewError};
use tokio::sync::watch;

use crate::peers::Directory;
use crate::volume::{ChangedKeys, ChangesError, VolumeSource, VolumeView};

/// Implements [`VolumeSource`] over a [`Group`].
pub struct GroupVolume {
    group: Arc<Group>,
    node: NodeId,
    directory: Arc<dyn Directory>,
    /// As the directory said last: it says nothing of a volume that was just removed.
    record: Mutex<VolumeRecord>,
}

impl fmt::Debug for GroupVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupVolume").field("id", &self.group.id()).finish_non_exhaustive()
    }
}

impl GroupVolume {
    /// A volume with the settings it has now, as `node` (this one) has it; the directory is asked for newer settings.
    #[must_use]
    pub fn new(group: Arc<Group>, node: NodeId, directory: Arc<dyn Directory>, record: VolumeRecord) -> Self {
        Self { group, node, directory, record: Mutex::new(record) }
    }
}

/// A record for the root group, which has none of its own: it has no files and no replicas, and its image is published if
/// `archive`. `site` is any site.
#[must_use]
pub fn root_record(site: SiteName, epoch: Epoch, archive: bool) -> VolumeRecord {
    let spec = VolumeSpec {
        name: "root".to_owned(),
        mount: Bytes::from_static(b"/"),
        home: site,
        voters: Vec::new(),
        replicas: Vec::new(),
        caches: Vec::new(),
        archive,
        chunk_bytes_avg: 64 << 10,
        inline_bytes_max: 0,
        realm: String::new(),
    };
    VolumeRecord { id: VolumeId::ROOT, epoch, spec }
}

impl VolumeSource for GroupVolume {
    fn id(&self) -> VolumeId {
        self.group.id()
    }

    fn spec(&self) -> (VolumeSpec, Epoch) {
        let newer = self.directory.volume(self.group.id());
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner); // assigned as a whole
        if let Some(newer) = newer {
            *record = newer;
        }
        (record.spec.clone(), record.epoch)
    }

    fn watch_applied(&self) -> watch::Receiver<Seq> {
        self.group.watch_applied()
    }

    fn view(&self) -> Result<Box<dyn VolumeView>, ReadError> {
        let view = self.group.view().map_err(|error| ReadError::Store(error.to_string()))?;
        let digest = view.digest().ok_or_else(|| ReadError::Store("the newest state has no digest".to_owned()))?;
        Ok(Box::new(Newest { view, digest }))
    }

    fn changes(&self, after: Seq, until: Seq) -> Result<ChangedKeys, ChangesError> {
        let failed = |error: ViewError| match error {
            ViewError::TooOld { wanted, .. } => ChangesError::TooOld(wanted),
            ViewError::Read(error) => ChangesError::Read(error),
            other => ChangesError::Read(ReadError::Store(other.to_string())),
        };
        let changes = self.group.changes(after, until).map_err(failed)?;
        Ok(Box::new(changes.flat_map(move |changed| match changed {
            Ok(changed) => changed.keys.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(failed(error))],
        })))
    }

    fn leads(&self) -> Option<u64> {
        // Both from one look: a term taken after leadership was lost would be another leader's, and fence nobody.
        let status = self.group.status();
        (status.leader == Some(self.node)).then_some(status.term)
    }
}

#[derive(Debug)]
struct Newest {
    view: StateView,
    digest: Digest,
}

impl Records for Newest {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.view.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, ReadError> {
        self.view.scan(from, to, limit)
    }
}

impl VolumeView for Newest {
    fn seq(&self) -> Seq {
        self.view.seq()
    }

    fn digest(&self) -> Digest {
        self.digest
    }
}
