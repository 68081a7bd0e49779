//! The replicator of a node: owns the workers.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use causeway_base::{Clock, ClusterId, SiteName, VolumeId};
use causeway_replicator_core::Limits;
use causeway_repository::archive::ChunkArchive;
use causeway_storage::disk::Disk;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::archiver::{ArchiveStatus, Archiver};
use crate::content::DurableContent;
use crate::counters::Counters;
use crate::ensure::Ensure;
use crate::fetcher::Fetcher;
use crate::follower::{Follower, FollowerStatus};
use crate::local::{LocalChunks, Realms, blocking};
use crate::service::{ChunkService, Needed, ReadThrough, ServiceLimits};
use crate::source::Sources;
use crate::volume::VolumeSource;
use crate::watermarks::Watermarks;
use crate::wire::Refusal;

/// Settings of a [`Replicator`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bounds of what is fetched at once.
    pub limits: Limits,
    /// Images are published at most this often; a volume that changes loses at most this and a publish's time.
    pub archive_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { limits: Limits::default(), archive_interval: Duration::from_secs(1) }
    }
}

/// What a [`Replicator`] stands on.
#[derive(Debug)]
pub struct Parts {
    /// The cluster, for images.
    pub cluster: ClusterId,
    /// This node's site.
    pub site: SiteName,
    /// This node's chunks.
    pub local: Arc<dyn LocalChunks>,
    /// Realms.
    pub realms: Arc<dyn Realms>,
    /// Who else may have chunks.
    pub sources: Arc<dyn Sources>,
    /// The archive, if there is one.
    pub archive: Option<ChunkArchive>,
    /// Shared with the client of the sources, so that all bytes are in one book.
    pub counters: Arc<Counters>,
    /// For the times of images.
    pub clock: Arc<dyn Clock>,
    /// Holds the watermarks.
    pub disk: Arc<dyn Disk>,
    /// Where.
    pub dir: PathBuf,
}

/// Where a volume stands on this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeStatus {
    /// As a replica.
    pub follower: FollowerStatus,
    /// As the publisher of its image.
    pub archive: ArchiveStatus,
}

/// The workers of a node, and what they share.
#[derive(Debug)]
pub struct Replicator {
    parts: Parts,
    options: Options,
    fetcher: Fetcher,
    ensure: Arc<Ensure>,
    watermarks: Watermarks,
    volumes: Mutex<BTreeMap<VolumeId, Volume>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Volume {
    follower: watch::Receiver<FollowerStatus>,
    archive: watch::Receiver<ArchiveStatus>,
    stop: CancellationToken,
}

impl Replicator {
    /// A replicator without volumes. Blocks shortly (a folder is made).
    ///
    /// # Errors
    /// The folder of the watermarks cannot be made.
    pub fn new(parts: Parts, options: Options) -> io::Result<Arc<Self>> {
        let watermarks = Watermarks::open(parts.disk.clone(), parts.dir.clone())?;
        let fetcher = Fetcher::new(parts.local.clone(), parts.sources.clone(), options.limits);
        let ensure = Arc::new(Ensure::new(fetcher.impatient()));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        Ok(Arc::new(Self { parts, options, fetcher, ensure, watermarks, volumes: Mutex::default(), stop, tasks }))
    }

    /// The chunk service of this node, with the default bounds: a handler for its QUIC endpoint.
    #[must_use]
    pub fn service(&self) -> ChunkService {
        let Parts { local, realms, counters, .. } = &self.parts;
        let limits = ServiceLimits::default();
        ChunkService::new(local.clone(), realms.clone(), self.elsewhere(), counters.clone(), limits)
    }

    /// Brings chunks here from elsewhere: what the node's [`crate::ChunkService`] reads through, by [`crate::service::Later`]. Lives
    /// as long as the replicator does.
    #[must_use]
    pub fn elsewhere(&self) -> Arc<dyn ReadThrough> {
        self.ensure.clone()
    }

    /// Whether this node was in sync with the volume some time: it may have what others were never asked to hold. Blocks.
    #[must_use]
    pub fn has_held(&self, volume: VolumeId) -> bool {
        self.watermarks.exists(volume)
    }

    /// The check of contents before they are committed through this node.
    #[must_use]
    pub fn content(&self) -> DurableContent {
        DurableContent::new(self.parts.local.clone(), self.parts.realms.clone())
    }

    pub(crate) fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    pub(crate) fn site(&self) -> &SiteName {
        &self.parts.site
    }

    /// Bytes on the wire.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.parts.counters
    }

    /// Begins to work on a volume: as a replica if this site is its home or a replica, as the publisher of its image while
    /// this node leads it. A volume that is attached already stays so. Must be called within a tokio runtime.
    pub fn attach(&self, source: Arc<dyn VolumeSource>) {
        let mut volumes = self.volumes();
        if self.stop.is_cancelled() || volumes.contains_key(&source.id()) {
            return;
        }
        let stop = self.stop.child_token();
        let (follower_status, follower) = watch::channel(FollowerStatus::default());
        let (archive_status, archive) = watch::channel(ArchiveStatus::default());
        volumes.insert(source.id(), Volume { follower, archive, stop: stop.clone() });
        if let Some(archive) = self.parts.archive.clone() {
            let archiver = Archiver {
                cluster: self.parts.cluster,
                source: source.clone(),
                fetcher: self.fetcher.clone(),
                realms: self.parts.realms.clone(),
                archive,
                counters: self.parts.counters.clone(),
                clock: self.parts.clock.clone(),
                interval: self.options.archive_interval,
                status: archive_status,
                stop: stop.clone(),
            };
            self.tasks.spawn(archiver.run());
        }
        let follower = Follower {
            site: self.parts.site.clone(),
            source,
            fetcher: self.fetcher.clone(),
            realms: self.parts.realms.clone(),
            watermarks: self.watermarks.clone(),
            status: follower_status,
            stop,
        };
        self.tasks.spawn(follower.run());
    }

    /// Ends the work on a volume. Its chunks and its watermark stay.
    pub fn detach(&self, volume: VolumeId) {
        if let Some(volume) = self.volumes().remove(&volume) {
            volume.stop.cancel();
        }
    }

    /// Where a volume stands; `None` if it is not attached.
    #[must_use]
    pub fn status(&self, volume: VolumeId) -> Option<VolumeStatus> {
        let volumes = self.volumes();
        let volume = volumes.get(&volume)?;
        Some(VolumeStatus { follower: volume.follower.borrow().clone(), archive: volume.archive.borrow().clone() })
    }

    /// Where all attached volumes stand.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<VolumeId, VolumeStatus> {
        let ids: Vec<VolumeId> = self.volumes().keys().copied().collect();
        ids.into_iter().filter_map(|id| Some((id, self.status(id)?))).collect()
    }

    /// A volume's status as a replica, as it changes.
    #[must_use]
    pub fn watch_follower(&self, volume: VolumeId) -> Option<watch::Receiver<FollowerStatus>> {
        self.volumes().get(&volume).map(|volume| volume.follower.clone())
    }

    /// A volume's status as a publisher, as it changes.
    #[must_use]
    pub fn watch_archive(&self, volume: VolumeId) -> Option<watch::Receiver<ArchiveStatus>> {
        self.volumes().get(&volume).map(|volume| volume.archive.clone())
    }

    /// Stops all workers and waits for them.
    ///
    /// Cancel safe: the workers stop all the same.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let local = self.parts.local.clone();
        if let Ok(Err(error)) = blocking(move || local.sync()).await {
            tracing::warn!(%error, "the last sync of the chunk store failed");
        }
    }

    fn volumes(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Volume>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner) // single inserts and removals
    }
}

#[async_trait]
impl ReadThrough for Replicator {
    async fn ensure(&self, needed: Needed, deadline: Duration) -> Result<(), Refusal> {
        self.ensure.ensure(needed, deadline).await
    }
}
