//! Copying local files into the namespace.
//!
//! One thread walks the folder and makes groups of items. For each group: folders are created first and in order (what is
//! in them needs them); then its files are read, cut and hashed, the node is asked which chunks it lacks, those alone are
//! compressed and uploaded, and the group is committed as atomic batches. A few groups are under way at once. Other names
//! of files (hard links) and the times of folders, which everything put into them changes, come at the end.
//!
//! An item that fails is listed and the rest goes on; only what would fail for every item ends the import.

mod claims;
mod commit;
mod group;
mod send;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_base::Seq;
use causeway_dedup::ChunkSizes;
use causeway_namespace_core::command::Op;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::error::VfsError;
use crate::local::scan::{LeftOut, LocalEntry, LocalKind, Scan};
use crate::prepare::Rules;
use crate::vfs::join;
use crate::{Located, Progress, Vfs};

use claims::Claims;
use commit::Item;
use group::Group;

/// Bytes of files in one group.
pub const GROUP_BYTES: u64 = 8 << 20;
/// Most items in one group.
pub const GROUP_ITEMS: usize = 256;
/// Groups under way at once: memory is about twice this times [`GROUP_BYTES`] (plain and compressed).
pub const IN_FLIGHT_MAX: usize = 4;

/// What an import did.
#[derive(Debug, Clone, Default)]
pub struct ImportReport {
    /// Files, folders, symlinks and further names committed.
    pub files: u64,
    /// Folders.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Further names of files.
    pub links: u64,
    /// Bytes of all files, holes included.
    pub logical_bytes: u64,
    /// Of these, bytes in files small enough to be kept in the metadata.
    pub inline_bytes: u64,
    /// Chunks that the site had already, or that came twice in a group.
    pub chunks_known: u64,
    /// Chunks uploaded.
    pub chunks_new: u64,
    /// Their plain bytes.
    pub new_bytes: u64,
    /// Their bytes as stored.
    pub stored_bytes: u64,
    /// A read with this `seq_min` sees everything.
    pub seq: Seq,
    /// How long it took.
    pub elapsed: Duration,
    /// What was left out, and why.
    pub left_out: Vec<LeftOut>,
}

impl ImportReport {
    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.directories += other.directories;
        self.symlinks += other.symlinks;
        self.links += other.links;
        self.logical_bytes += other.logical_bytes;
        self.inline_bytes += other.inline_bytes;
        self.chunks_known += other.chunks_known;
        self.chunks_new += other.chunks_new;
        self.new_bytes += other.new_bytes;
        self.stored_bytes += other.stored_bytes;
        self.seq = self.seq.max(other.seq);
        self.left_out.extend(other.left_out);
    }
}

/// What all groups of an import share.
#[derive(Debug, Clone)]
struct Import {
    vfs: Vfs,
    target: Located,
    rules: Arc<Rules>,
    root: Arc<Path>,
    progress: Arc<Progress>,
    claims: Arc<Claims>,
}

impl Vfs {
    /// Copies a local file or folder to `target`, which becomes that file or folder: a folder there is filled, a file there
    /// is replaced. What cannot be read or stored is in [`ImportReport::left_out`].
    ///
    /// # Errors
    /// [`VfsError`] if the source cannot be looked at or the cluster fails; what was committed before stays. Cancel safe
    /// in that sense.
    pub async fn import(
        &self,
        source: &Path,
        target: &Located,
        progress: Arc<Progress>,
    ) -> Result<ImportReport, VfsError> {
        let started = Instant::now();
        let scan = Scan::new(source).map_err(|error| VfsError::local("read", source, error))?;
        let spec = &target.volume.spec;
        let sizes = ChunkSizes::from_avg(spec.chunk_bytes_avg)
            .map_err(|error| VfsError::Internal(format!("volume {}: {error}", spec.name)))?;
        let rules = Rules {
            realm: self.realm(&target.volume).await?,
            sizes,
            inline_bytes_max: u64::from(spec.inline_bytes_max),
        };
        let import = Import {
            vfs: self.clone(),
            target: target.clone(),
            rules: Arc::new(rules),
            root: scan.root().into(),
            progress,
            claims: Claims::new(),
        };
        let (groups, received) = mpsc::channel(IN_FLIGHT_MAX);
        let walk_progress = import.progress.clone();
        // Ends by itself when the receiver is dropped.
        let walk = tokio::task::spawn_blocking(move || group::walk(scan, &groups, &walk_progress));
        let mut report = import.run(received).await?;
        walk.await.map_err(|error| VfsError::Internal(error.to_string()))?;
        report.elapsed = started.elapsed();
        Ok(report)
    }
}

impl Import {
    async fn run(&self, mut groups: mpsc::Receiver<Group>) -> Result<ImportReport, VfsError> {
        let mut report = ImportReport::default();
        let mut tasks: JoinSet<Result<ImportReport, VfsError>> = JoinSet::new();
        let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let mut directories = Vec::new();
        let mut links = Vec::new();
        while let Some(group) = groups.recv().await {
            report.left_out.extend(group.left_out);
            // In order, and before anything that is in them.
            report.add(self.commit(group.directories.iter().map(|entry| self.directory(entry)).collect()).await?);
            directories.extend(group.directories);
            links.extend(group.links);
            while let Some(done) = tasks.try_join_next() {
                report.add(done.map_err(|error| VfsError::Internal(error.to_string()))??);
            }
            let place = Arc::clone(&places).acquire_owned().await.map_err(|_| VfsError::Internal("closed".into()))?;
            let import = self.clone();
            tasks.spawn(async move {
                let _place = place;
                if group.large { import.large(group.files).await } else { import.small(group.files).await }
            });
        }
        while let Some(done) = tasks.join_next().await {
            report.add(done.map_err(|error| VfsError::Internal(error.to_string()))??);
        }
        report.add(self.commit(links.iter().filter_map(|entry| self.link(entry)).collect()).await?);
        // Deepest first is not needed: setting a folder's time changes no other's.
        let times = self.commit(directories.iter().map(|entry| self.directory_times(entry)).collect()).await?;
        report.seq = report.seq.max(times.seq);
        report.left_out.extend(times.left_out);
        Ok(report)
    }

    fn place(&self, path: &[u8]) -> causeway_namespace_core::command::At {
        causeway_namespace_core::command::At { dir: causeway_base::Ino::ROOT, path: join(&self.target.path, path) }
    }

    fn directory(&self, entry: &LocalEntry) -> Item {
        let at = self.place(&entry.path);
        let mut item = Item::new(entry);
        // The top of a volume exists, and `mkdir` of it is no operation.
        if !at.path.is_empty() {
            item.ops.push(Op::Mkdir { at, attr: entry.attr, parents: true });
        }
        item
    }

    fn directory_times(&self, entry: &LocalEntry) -> Item {
        let at = self.place(&entry.path);
        let attr = entry.attr;
        let mut item = Item::new(entry);
        item.counts = false;
        item.ops.push(Op::SetAttr {
            at: at.clone(),
            mode: Some(attr.mode),
            uid: Some(attr.uid),
            gid: Some(attr.gid),
            mtime: Some(attr.mtime),
            expect: causeway_namespace_core::command::Expect::Any,
        });
        item.set_xattrs(&at, &entry.xattrs);
        item
    }

    fn link(&self, entry: &LocalEntry) -> Option<Item> {
        let LocalKind::HardLink(first) = &entry.kind else { return None };
        let (from, to) = (self.place(first), self.place(&entry.path));
        let mut item = Item::new(entry);
        item.ops.push(Op::Link { from: from.clone(), to: to.clone() });
        item.instead = Some(vec![
            Op::Unlink { at: to.clone(), expect: causeway_namespace_core::command::Expect::Any },
            Op::Link { from, to },
        ]);
        Some(item)
    }

    fn symlink(&self, entry: &LocalEntry, target: &Bytes) -> Item {
        let at = self.place(&entry.path);
        let make = Op::Symlink { at: at.clone(), attr: entry.attr, target: target.clone() };
        let mut item = Item::new(entry);
        item.ops.push(make.clone());
        item.instead = Some(vec![Op::Unlink { at, expect: causeway_namespace_core::command::Expect::Any }, make]);
        item
    }
}
