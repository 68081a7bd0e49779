//! The namespace as the repository holds it.

use anyhow::Context as _;
use bytes::Bytes;
use causeway_base::{Clock as _, SystemClock, VolumeId};
use causeway_namespace::{Catalog, Place};
use causeway_namespace_core::command::Errno;
use causeway_namespace_core::inode::{FileKind, Inode};
use causeway_namespace_core::query;
use causeway_repository::archive::IndexMode;
use causeway_repository::dr::{Contents, DrReader, DrVolume};
use causeway_repository::{Head, RepositoryOptions};
use serde::Serialize;

use crate::cli::exit::{Exit, Failure};
use crate::output::show_name;

/// Entries read from an image at once.
const PAGE: usize = 1000;

/// An open repository and the tables of its cluster's root group.
pub(crate) struct Image {
    pub(crate) reader: DrReader,
    pub(crate) root: Head,
    pub(crate) catalog: Catalog,
}

/// A path of the namespace, found in an image.
pub(crate) struct Found {
    pub(crate) volume: DrVolume,
    pub(crate) path: Bytes,
}

/// What the repository holds of a volume.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct VolumeImage {
    pub(crate) volume: String,
    pub(crate) id: u64,
    pub(crate) mount: String,
    pub(crate) epoch: u64,
    pub(crate) term: u64,
    pub(crate) seq: u64,
    pub(crate) generation: u64,
    pub(crate) age_seconds: f64,
    pub(crate) files: u64,
    pub(crate) folders: u64,
    pub(crate) logical_bytes: u64,
    pub(crate) image_bytes: u64,
    pub(crate) digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) damaged: Option<String>,
}

/// Runs work that blocks on range requests.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a worker stopped")?
}

impl Image {
    /// Opens a repository and reads the image of its root group.
    pub(crate) async fn open(url: &str) -> anyhow::Result<Self> {
        let reader = DrReader::open(url, RepositoryOptions::default()).await?;
        let heads = reader.volumes().await?;
        let roots: Vec<_> = heads
            .iter()
            .filter_map(|volume| volume.head.as_ref().ok())
            .filter(|head| head.volume == VolumeId::ROOT)
            .collect();
        let root = match roots.as_slice() {
            [root] => (*root).clone(),
            [] => {
                let message = format!("{url} holds no image of a cluster: nothing has been archived there yet");
                return Err(Failure::error(Exit::NotFound, message));
            }
            several => {
                let clusters: Vec<_> = several.iter().map(|head| head.cluster.to_string()).collect();
                let message =
                    format!("{url} holds images of several clusters ({}): use one prefix each", clusters.join(", "));
                return Err(Failure::error(Exit::Refused, message));
            }
        };
        let volume = reader.volume_of(root.cluster, VolumeId::ROOT).await?;
        let seq = root.seq;
        let catalog = blocking(move || Ok(Catalog::read(&volume, seq)?)).await?;
        Ok(Self { reader, root, catalog })
    }

    /// Every volume that the cluster had, with what is held of it.
    pub(crate) async fn volumes(&self) -> anyhow::Result<Vec<VolumeImage>> {
        let now = SystemClock.now();
        let mut images = Vec::new();
        for record in self.catalog.volumes.values() {
            let mut image = VolumeImage {
                volume: record.spec.name.clone(),
                id: record.id.get(),
                mount: show_name(&record.spec.mount),
                epoch: record.epoch.get(),
                term: 0,
                seq: 0,
                generation: 0,
                age_seconds: 0.0,
                files: 0,
                folders: 0,
                logical_bytes: 0,
                image_bytes: 0,
                digest: String::new(),
                damaged: None,
            };
            match self.reader.volume_of(self.root.cluster, record.id).await {
                Ok(volume) => {
                    let head = volume.head();
                    image.epoch = head.epoch.get();
                    image.term = head.term;
                    image.seq = head.seq.get();
                    image.generation = head.generation;
                    image.age_seconds = now.since(head.at).as_secs_f64();
                    image.files = head.totals.files;
                    image.folders = head.totals.directories;
                    image.logical_bytes = head.totals.logical_bytes;
                    image.image_bytes = head.runs.iter().map(causeway_repository::Run::bytes).sum();
                    image.digest = head.digest.to_string();
                }
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    image.damaged = Some(if record.spec.archive {
                        format!("{error:#}")
                    } else {
                        "not archived, by its policy".to_owned()
                    });
                }
            }
            images.push(image);
        }
        Ok(images)
    }

    /// Where a path of the namespace leads.
    pub(crate) fn resolve(&self, path: &[u8]) -> anyhow::Result<Place> {
        let path = Bytes::copy_from_slice(path);
        self.catalog.resolve(&path).map_err(|code| posix(&path, code))
    }

    /// A path within a volume.
    pub(crate) async fn locate(&self, path: &[u8]) -> anyhow::Result<Found> {
        match self.resolve(path)? {
            Place::InVolume { volume, path } => {
                Ok(Found { volume: self.reader.volume_of(self.root.cluster, volume.id).await?, path })
            }
            Place::Above { .. } | Place::Nowhere => Err(posix(path, Errno::NotFound)),
        }
    }

    /// What reads the files of a volume.
    pub(crate) async fn contents(&self, volume: &DrVolume, mode: IndexMode) -> anyhow::Result<Contents> {
        Ok(self.reader.contents(volume, mode).await?)
    }
}

impl Found {
    /// The inode there.
    pub(crate) async fn stat(&self) -> anyhow::Result<Inode> {
        let (volume, path) = (self.volume.clone(), self.path.clone());
        blocking(move || {
            let (_, inode) = query::stat(&volume, &path)?.map_err(|code| posix(&path, code))?;
            Ok(inode)
        })
        .await
    }

    /// The entries of the folder there (the file itself, if it is one), with those below if `recursive`.
    pub(crate) async fn list(&self, recursive: bool) -> anyhow::Result<Vec<(Bytes, Inode)>> {
        let (volume, path) = (self.volume.clone(), self.path.clone());
        blocking(move || {
            let (ino, inode) = query::stat(&volume, &path)?.map_err(|code| posix(&path, code))?;
            if inode.kind() != FileKind::Directory {
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                return Ok(vec![(Bytes::copy_from_slice(name), inode)]);
            }
            let mut all = Vec::new();
            let mut folders = vec![(ino, Bytes::new())];
            while let Some((folder, above)) = folders.pop() {
                let mut after: Option<Bytes> = None;
                loop {
                    let page = query::readdir_plus(&volume, folder, after.as_deref(), PAGE)?;
                    after = page.last().map(|(entry, _)| entry.name.clone());
                    let last = page.len() < PAGE;
                    for (entry, inode) in page {
                        let path =
                            if above.is_empty() { entry.name } else { [&above[..], b"/", &entry.name].concat().into() };
                        if recursive && inode.kind() == FileKind::Directory {
                            folders.push((entry.ino, path.clone()));
                        }
                        all.push((path, inode));
                    }
                    if last {
                        break;
                    }
                }
            }
            all.sort_by(|(a, _), (b, _)| a.cmp(b));
            Ok(all)
        })
        .await
    }
}

fn posix(path: &[u8], code: Errno) -> anyhow::Error {
    let exit = if code == Errno::NotFound { Exit::NotFound } else { Exit::Refused };
    Failure::error(exit, format!("{}: {code} (in the image)", show_name(path)))
}
