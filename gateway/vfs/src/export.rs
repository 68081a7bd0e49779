//! Copying out of the namespace to local files.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_base::Ino;
use causeway_namespace::Place;
use causeway_namespace_core::inode::{Attr, Body};

use crate::error::VfsError;
use crate::fetch::{Entry, Sink};
use crate::local::attr;
use crate::local::scan::LeftOut;
use crate::local::write::Writing;
use crate::vfs::join;
use crate::{Located, Progress, Vfs};

/// What an export did.
#[derive(Debug, Clone, Default)]
pub struct ExportReport {
    /// Files written.
    pub files: u64,
    /// Folders made.
    pub directories: u64,
    /// Symlinks made.
    pub symlinks: u64,
    /// Further names of files made.
    pub links: u64,
    /// Bytes of all files, holes included.
    pub logical_bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Where other volumes are mounted, and which.
    pub mounts: Vec<(Bytes, String)>,
    /// What could not be written, and why.
    pub left_out: Vec<LeftOut>,
}

impl Vfs {
    /// Copies everything at `place` to `target`, which becomes that file or folder, volumes mounted below it included. Files get their names only when they are
    /// whole. What cannot be written is in [`ExportReport::left_out`].
    ///
    /// # Errors
    /// [`VfsError`] if the cluster fails or the disk is full; what was written before stays. Cancel safe in that sense.
    pub async fn export(
        &self,
        place: &Located,
        target: &Path,
        progress: Arc<Progress>,
    ) -> Result<ExportReport, VfsError> {
        self.export_at(place, causeway_namespace::Consistency::Linearizable, target, progress).await
    }

    /// As [`Vfs::export`], as fresh as asked, or of a past state: then volumes mounted below are left out.
    ///
    /// # Errors
    /// As [`Vfs::export`].
    pub async fn export_at(
        &self,
        place: &Located,
        freshness: impl Into<causeway_namespace::Freshness>,
        target: &Path,
        progress: Arc<Progress>,
    ) -> Result<ExportReport, VfsError> {
        let started = Instant::now();
        let freshness = freshness.into();
        let sink = self.fetch_tree_at(place, freshness, ExportSink::new(target), progress.clone()).await?;
        let mut report = sink.finish();
        // What a mounted volume has mounted in it comes to the end of the list.
        let mut next = 0;
        while let Some((path, volume)) = report.mounts.get(next).cloned() {
            next += 1;
            let below = target.join(std::ffi::OsStr::from_bytes(&path));
            let mounted = self.names().resolve(&join(&place.absolute(), &path)).await?;
            let reason = match mounted {
                Place::InVolume { volume: found, path: inside } if inside.is_empty() && found.spec.name == volume => {
                    if freshness.at.is_none() {
                        let shown = place.join(&path).shown;
                        let mounted = Located { volume: *found, path: inside, shown };
                        let freshness = freshness.consistency;
                        let sink = ExportSink::new(&below);
                        let sink = self.fetch_tree_at(&mounted, freshness, sink, progress.clone()).await?;
                        report.add(&path, sink.finish());
                        continue;
                    }
                    "past states are read one volume at a time"
                }
                _ => "this node does not know it yet",
            };
            report.left_out.push(LeftOut { path, reason: format!("volume {volume} is mounted there, and {reason}") });
        }
        report.elapsed = started.elapsed();
        Ok(report)
    }
}

impl ExportReport {
    /// Takes in what was exported of a volume that is mounted at `path`.
    fn add(&mut self, path: &[u8], other: Self) {
        self.files += other.files;
        // Its top was there already.
        self.directories += other.directories.saturating_sub(1);
        self.symlinks += other.symlinks;
        self.links += other.links;
        self.logical_bytes += other.logical_bytes;
        self.mounts.extend(other.mounts.into_iter().map(|(below, volume)| (join(path, &below), volume)));
        let left_out = |item: LeftOut| LeftOut { path: join(path, &item.path), reason: item.reason };
        self.left_out.extend(other.left_out.into_iter().map(left_out));
    }
}

/// Writes entries below a local folder.
#[derive(Debug)]
pub struct ExportSink {
    target: PathBuf,
    writing: Option<Writing>,
    /// First name of each file with several.
    linked: HashMap<Ino, PathBuf>,
    /// Folders get their attributes when everything in them is written.
    folders: Vec<Folder>,
    report: ExportReport,
}

/// Attributes of a folder, to be set last.
type Folder = (PathBuf, Attr, Vec<(Bytes, Bytes)>);

impl ExportSink {
    /// Writes to `target`, which becomes the entry with the empty path.
    #[must_use]
    pub fn new(target: &Path) -> Self {
        Self {
            target: target.to_owned(),
            writing: None,
            linked: HashMap::new(),
            folders: Vec::new(),
            report: ExportReport::default(),
        }
    }

    /// Sets what had to wait for the end.
    #[must_use]
    pub fn finish(mut self) -> ExportReport {
        // Those below first, since a folder may become read-only.
        for (path, attributes, xattrs) in self.folders.into_iter().rev() {
            if let Err(error) = attr::apply(&path, &attributes, &xattrs, false) {
                let path = path.strip_prefix(&self.target).unwrap_or(&path);
                let path = Bytes::copy_from_slice(path.as_os_str().as_bytes());
                self.report.left_out.push(LeftOut { path, reason: format!("attributes cannot be set: {error}") });
            }
        }
        self.report
    }

    fn local(&self, entry: &Entry) -> PathBuf {
        if entry.path.is_empty() {
            return self.target.clone();
        }
        self.target.join(std::ffi::OsStr::from_bytes(&entry.path))
    }

    fn leave_out(&mut self, entry: &Entry, error: &std::io::Error) -> Result<(), VfsError> {
        if error.kind() == std::io::ErrorKind::StorageFull {
            let source = std::io::Error::new(error.kind(), error.to_string());
            return Err(VfsError::local("write", self.local(entry), source));
        }
        self.report.left_out.push(LeftOut { path: entry.path.clone(), reason: format!("cannot be written: {error}") });
        Ok(())
    }

    fn make(&mut self, entry: &Entry) -> std::io::Result<bool> {
        let path = self.local(entry);
        let inode = &entry.inode;
        match &inode.body {
            Body::Directory { .. } => {
                make_folder(&path)?;
                self.folders.push((path, inode.attr, inode.xattrs.clone()));
                self.report.directories += 1;
                Ok(false)
            }
            Body::Mount { volume, .. } => {
                make_folder(&path)?;
                self.report.directories += 1;
                self.report.mounts.push((entry.path.clone(), volume.clone()));
                Ok(false)
            }
            Body::Symlink(target) => {
                replace(&path, |path| std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), path))?;
                attr::apply(&path, &inode.attr, &[], true)?;
                self.report.symlinks += 1;
                Ok(false)
            }
            Body::File(_) => {
                if let Some(first) = self.linked.get(&entry.ino) {
                    replace(&path, |path| std::fs::hard_link(first, path))?;
                    self.report.links += 1;
                    return Ok(false);
                }
                self.writing = Some(Writing::create(&path)?);
                Ok(true)
            }
        }
    }
}

/// Makes a folder, or finds it there.
fn make_folder(path: &Path) -> std::io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// Makes something where another may stand in the way.
fn replace(path: &Path, make: impl Fn(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
    match make(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(path)?;
            make(path)
        }
        made => made,
    }
}

impl Sink for ExportSink {
    fn start(&mut self, entry: &Entry) -> Result<bool, VfsError> {
        match self.make(entry) {
            Ok(wanted) => Ok(wanted),
            Err(error) => self.leave_out(entry, &error).map(|()| false),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), VfsError> {
        match &mut self.writing {
            Some(writing) => writing.data(bytes).map_err(|error| VfsError::local("write below", &self.target, error)),
            None => Ok(()),
        }
    }

    fn hole(&mut self, len: u64) -> Result<(), VfsError> {
        if let Some(writing) = &mut self.writing {
            writing.hole(len);
        }
        Ok(())
    }

    fn end(&mut self, entry: &Entry) -> Result<(), VfsError> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let size = writing.len();
        match writing.finish(&entry.inode.attr, &entry.inode.xattrs) {
            Ok(()) => {
                if entry.inode.nlink > 1 {
                    self.linked.insert(entry.ino, self.local(entry));
                }
                self.report.files += 1;
                self.report.logical_bytes += size;
                Ok(())
            }
            Err(error) => self.leave_out(entry, &error),
        }
    }
}
