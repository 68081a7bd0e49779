//! The reader that needs no cluster: only the repository and the credentials for it.
//!
//! [`DrReader`] finds the volumes; [`DrVolume`] is one image, and implements
//! [`Records`](causeway_namespace_core::records::Records), so that the queries of the namespace (`stat`, `list`, `walk`, …)
//! work on it; [`Contents`] reads files; [`DrVolume::records`] gives everything in key order, verified, for a restore.

mod contents;
mod export;
mod records;
mod verify;
mod volume;

#[cfg(test)]
mod dr_test;

use std::sync::Arc;

use futures::{StreamExt, stream};
use tokio::sync::OnceCell;

use causeway_base::{ClusterId, VolumeId};

pub use contents::{Contents, Piece};
pub use export::{ExportReport, Unexported};
pub use records::DrRecords;
pub use verify::{PROBLEMS_MAX, ReadData, VerifyReport};
pub use volume::DrVolume;

use crate::archive::{ChunkArchive, IndexMode};
use crate::error::Error;
use crate::head::{self, Head};
use crate::names;
use crate::options::RepositoryOptions;
use crate::repository::Repository;

/// A repository, to be read; a cheap handle.
#[derive(Clone, Debug)]
pub struct DrReader {
    repository: Repository,
    lazy: Arc<OnceCell<ChunkArchive>>,
    loaded: Arc<OnceCell<ChunkArchive>>,
}

/// A volume in a repository, and its newest image.
#[derive(Debug)]
pub struct VolumeStatus {
    /// The volume's folder under `volumes/`.
    pub directory: String,
    /// The newest image; [`Error::HeadDamaged`] names an older one that can be opened instead.
    pub head: Result<Head, Error>,
}

impl DrReader {
    /// Opens a repository that is there; nothing is ever written.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub async fn open(url: &str, options: RepositoryOptions) -> Result<Self, Error> {
        Ok(Self::new(Repository::open(url, RepositoryOptions { create: false, ..options }).await?))
    }

    /// Reads an open repository.
    #[must_use]
    pub fn new(repository: Repository) -> Self {
        Self { repository, lazy: Arc::default(), loaded: Arc::default() }
    }

    /// The repository.
    #[must_use]
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// All volumes, by cluster and id; damaged ones last. Three requests for the first, two for each more.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// The store's.
    pub async fn volumes(&self) -> Result<Vec<VolumeStatus>, Error> {
        let folders = self.repository.store.folders(names::VOLUMES).await?;
        let mut volumes: Vec<_> = stream::iter(folders)
            .map(|directory| async move {
                let head = head::newest_listed(&self.repository.store, &directory).await;
                let missing = || Error::NoImage { volume: directory.clone() };
                let head = head.and_then(|head| head.ok_or_else(missing));
                VolumeStatus { directory, head }
            })
            .buffered(self.repository.options.concurrency.max(1))
            .collect()
            .await;
        // A folder without a head is a first publish that has not come to its end.
        volumes.retain(|volume| !matches!(volume.head, Err(Error::NoImage { .. })));
        let key = |volume: &VolumeStatus| volume.head.as_ref().map(|head| (head.cluster, head.volume)).ok();
        volumes.sort_by_key(|volume| (key(volume).is_none(), key(volume)));
        Ok(volumes)
    }

    /// The newest image of a volume by its name, or its id (`12` or `v12`); `cluster` chooses if several have one.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::NoImage`], [`Error::Ambiguous`], [`Error::HeadDamaged`] if the volume could be one whose head is damaged;
    /// the store's.
    pub async fn volume(&self, name: &str, cluster: Option<ClusterId>) -> Result<DrVolume, Error> {
        let id = name.strip_prefix('v').unwrap_or(name).parse().ok().map(VolumeId);
        let mut found = Vec::new();
        let mut damaged = None;
        for volume in self.volumes().await? {
            match volume.head {
                Ok(head) if cluster.is_some_and(|cluster| cluster != head.cluster) => {}
                Ok(head) if head.name == name || Some(head.volume) == id => found.push((volume.directory, head)),
                Ok(_) => {}
                Err(error) => damaged = Some(error),
            }
        }
        // A name that looks like an id is a name first.
        if found.iter().any(|(_, head)| head.name == name) {
            found.retain(|(_, head)| head.name == name);
        }
        if found.len() > 1 {
            let clusters = found.iter().map(|(_, head)| head.cluster).collect();
            return Err(Error::Ambiguous { volume: name.to_owned(), clusters });
        }
        match found.pop() {
            Some((directory, head)) => Ok(DrVolume::new(self.repository.clone(), directory, head)),
            None => Err(damaged.unwrap_or_else(|| Error::NoImage { volume: name.to_owned() })),
        }
    }

    /// The newest image of a volume by cluster and id.
    ///
    /// # Errors
    /// [`Error::NoImage`], [`Error::HeadDamaged`]; the store's.
    pub async fn volume_of(&self, cluster: ClusterId, volume: VolumeId) -> Result<DrVolume, Error> {
        let directory = names::volume_directory(cluster, volume);
        let head = head::newest_listed(&self.repository.store, &directory).await?;
        let head = head.ok_or_else(|| Error::NoImage { volume: volume.to_string() })?;
        Ok(DrVolume::new(self.repository.clone(), directory, head))
    }

    /// An older image that is still kept, by its volume's folder and its generation.
    ///
    /// # Errors
    /// [`Error::NoImage`], [`Error::Corrupt`]; the store's.
    pub async fn volume_at(&self, directory: &str, generation: u64) -> Result<DrVolume, Error> {
        let head = head::read(&self.repository.store, directory, generation).await?;
        let head =
            head.ok_or_else(|| Error::NoImage { volume: format!("{directory} at generation {generation}") })??;
        Ok(DrVolume::new(self.repository.clone(), directory.to_owned(), head))
    }

    /// The kept generations of a volume's folder, newest first; see [`DrReader::volume_at`].
    ///
    /// # Errors
    /// The store's.
    pub async fn generations(&self, directory: &str) -> Result<Vec<u64>, Error> {
        let listed = self.repository.store.list(&names::heads(directory), usize::MAX).await?;
        let mut generations: Vec<_> = listed.iter().filter_map(|object| names::head_generation(&object.name)).collect();
        generations.sort_unstable_by(|a, b| b.cmp(a));
        Ok(generations)
    }

    /// What reads the files of a volume. The realm's key comes from the image of the cluster's root group.
    ///
    /// # Errors
    /// [`Error::NoImage`] if there is no image of the root group, or it does not know the volume or its realm; the store's.
    pub async fn contents(&self, volume: &DrVolume, mode: IndexMode) -> Result<Contents, Error> {
        let realm = self.realm(volume).await?;
        Ok(Contents::new(self.archive(mode).await?.clone(), realm))
    }

    /// The archive, opened at first use; one that is loaded serves both modes.
    ///
    /// # Errors
    /// As [`ChunkArchive::open`].
    pub async fn archive(&self, mode: IndexMode) -> Result<&ChunkArchive, Error> {
        let open = || ChunkArchive::open(self.repository.clone(), mode);
        match (mode, self.loaded.get()) {
            (_, Some(loaded)) => Ok(loaded),
            (IndexMode::Loaded, None) => self.loaded.get_or_try_init(open).await,
            (IndexMode::Lazy, None) => self.lazy.get_or_try_init(open).await,
        }
    }
}
