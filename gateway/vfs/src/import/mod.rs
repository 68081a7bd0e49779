//! Copying local files into the namespace.
//!
//! One thread walks the folder. The chunk engine's pipeline (`causeway_dedup::pipeline`) reads, cuts and hashes the files that
//! it finds, asks the node which chunks it lacks, and compresses and uploads those alone, on a few threads. What is durable
//! is committed here as atomic batches, as large as they get while the one before is under way: folders first and in order
//! (what is in them needs them), then files. Other names of files (hard links) and the times of folders, which everything put
//! into them changes, come at the end.
//!
//! Each step waits for the next one, so memory is bounded by the pipeline's; dropping the import ends all of them.
//!
//! An item that fails is listed and the rest goes on; only what would fail for every item ends the import.

mod commit;
mod walk;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_base::Seq;
use causeway_dedup::ChunkSizes;
use causeway_dedup::pipeline::{self, Imported, PipelineOptions};
use causeway_namespace_core::command::{Expect, Op};
use causeway_namespace_core::inode::{Content, ManifestRef};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::error::VfsError;
use crate::local::scan::{LeftOut, LocalEntry, LocalKind, Scan};
use crate::node_sink::NodeSink;
use crate::vfs::join;
use crate::{Located, Progress, Vfs};

use commit::Item;
use walk::{ChunksOnly, Event};

/// Plain bytes of chunks that a node is asked about at once: large, because each question is a round trip.
pub const BATCH_BYTES: usize = 4 << 20;
/// Items that are committed together.
pub const COMMIT_ITEMS: usize = 256;
/// Commits under way at once.
pub const COMMITS_MAX: usize = 4;
/// Items that are durable and wait for being committed.
const EVENTS_AHEAD: usize = 512;

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
    /// Chunks that the site had already.
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

/// What all steps of an import share.
#[derive(Debug, Clone)]
struct Import {
    vfs: Vfs,
    target: Located,
    realm: causeway_dedup::Realm,
    options: Arc<PipelineOptions>,
    root: Arc<Path>,
    progress: Arc<Progress>,
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
        let realm = self.realm(&target.volume).await?;
        let import = Import {
            vfs: self.clone(),
            target: target.clone(),
            options: Arc::new(options(target)?),
            root: scan.root().into(),
            progress,
            realm: realm.clone(),
        };
        let node = Arc::new(NodeSink::new(self.chunks.clone(), None, realm));
        let (events, received) = mpsc::channel(EVENTS_AHEAD);
        let (cutting, sink) = (import.clone(), node.clone());
        // Ends by itself when the receiver is dropped.
        let cut = tokio::task::spawn_blocking(move || {
            walk::run(scan, &cutting.realm, &cutting.options, &sink, &events, &cutting.progress)
        });
        let committed = import.commit_all(received).await;
        let cut = cut.await.map_err(|error| VfsError::Internal(error.to_string()))?;
        // If commits failed, the cutting ended because of that.
        let mut report = committed?;
        cut?;
        let sent = node.counts();
        report.chunks_known = sent.known;
        report.chunks_new = sent.chunks;
        report.new_bytes = sent.plain_bytes;
        report.stored_bytes = sent.stored_bytes;
        report.elapsed = started.elapsed();
        Ok(report)
    }
}

/// How a volume's files are cut and sent.
pub(crate) fn options(place: &Located) -> Result<PipelineOptions, VfsError> {
    let spec = &place.volume.spec;
    let sizes = ChunkSizes::from_avg(spec.chunk_bytes_avg)
        .map_err(|error| VfsError::Internal(format!("volume {}: {error}", spec.name)))?;
    // Some wait for the network while others cut and compress.
    let threads = 2 + 2 * std::thread::available_parallelism().map_or(2, usize::from).min(8);
    let inline_bytes_max = u64::from(spec.inline_bytes_max);
    Ok(PipelineOptions { threads, sizes, inline_bytes_max, batch_bytes: BATCH_BYTES, ..PipelineOptions::default() })
}

/// What is to be committed next.
#[derive(Debug, Default)]
struct Waiting {
    /// Before everything else.
    directories: Vec<LocalEntry>,
    items: Vec<Item>,
    bytes: usize,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.items.is_empty()
    }

    fn is_full(&self) -> bool {
        self.items.len() + self.directories.len() >= COMMIT_ITEMS || self.bytes >= commit::BATCH_BYTES
    }
}

/// What comes at the end.
#[derive(Debug, Default)]
struct Last {
    directories: Vec<LocalEntry>,
    links: Vec<LocalEntry>,
}

impl Import {
    async fn commit_all(&self, mut events: mpsc::Receiver<Event>) -> Result<ImportReport, VfsError> {
        let mut report = ImportReport::default();
        let mut tasks: JoinSet<Result<ImportReport, VfsError>> = JoinSet::new();
        let (mut waiting, mut last) = (Waiting::default(), Last::default());
        let mut more = true;
        while more || !waiting.is_empty() || !tasks.is_empty() {
            tokio::select! {
                event = events.recv(), if more && !waiting.is_full() => match event {
                    Some(event) => self.note(event, &mut waiting, &mut last, &mut report),
                    None => more = false,
                },
                Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                    report.add(done.map_err(|error| VfsError::Internal(error.to_string()))??);
                }
                else => {}
            }
            while !waiting.is_full()
                && let Ok(event) = events.try_recv()
            {
                self.note(event, &mut waiting, &mut last, &mut report);
            }
            if waiting.is_empty() || !(tasks.is_empty() || waiting.is_full() && tasks.len() < COMMITS_MAX) {
                continue;
            }
            let Waiting { directories, items, .. } = std::mem::take(&mut waiting);
            report.add(self.commit(directories.iter().map(|entry| self.directory(entry)).collect()).await?);
            last.directories.extend(directories);
            if !items.is_empty() {
                let import = self.clone();
                tasks.spawn(async move { import.commit(items).await });
            }
        }
        let Last { directories, links } = last;
        report.add(self.commit(links.iter().filter_map(|entry| self.link(entry)).collect()).await?);
        // Deepest first is not needed: setting a folder's time changes no other's.
        let times = self.commit(directories.iter().map(|entry| self.directory_times(entry)).collect()).await?;
        report.seq = report.seq.max(times.seq);
        report.left_out.extend(times.left_out);
        Ok(report)
    }

    fn note(&self, event: Event, waiting: &mut Waiting, last: &mut Last, report: &mut ImportReport) {
        let item = match event {
            Event::LeftOut(left_out) => return report.left_out.push(left_out),
            Event::Directory(entry) => return waiting.directories.push(entry),
            Event::HardLink(entry) => return last.links.push(entry),
            Event::Symlink(entry) => match &entry.kind {
                LocalKind::Symlink(target) => self.symlink(&entry, target),
                _ => return,
            },
            Event::File(entry, imported) => self.file(&entry, imported, report),
        };
        waiting.bytes += item.bytes();
        waiting.items.push(item);
    }

    /// Sends the chunks of a file again, to a node that says that it lacks some. A file that cannot be read any more is
    /// left for the commit to refuse.
    async fn resend(&self, path: &Bytes, node: &str) -> Result<(), VfsError> {
        let sink = NodeSink::new(self.vfs.chunks.clone(), Some(node.to_owned()), self.realm.clone());
        let (this, path) = (self.clone(), walk::local(&self.root, path));
        blocking(move || pipeline::import(&this.realm, &this.options, std::iter::once(path), &ChunksOnly(&sink)))
            .await?
    }

    fn file(&self, entry: &LocalEntry, imported: Imported, report: &mut ImportReport) -> Item {
        if let Imported::Inline(bytes) = &imported {
            report.inline_bytes += bytes.len() as u64;
        }
        let content = content(imported, &self.target);
        let at = self.place(&entry.path);
        let mut item = Item::new(entry);
        item.ops.push(Op::PutFile { at: at.clone(), attr: entry.attr, content, expect: Expect::Any });
        item.set_xattrs(&at, &entry.xattrs);
        item
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
            expect: Expect::Any,
        });
        item.set_xattrs(&at, &entry.xattrs);
        item
    }

    fn link(&self, entry: &LocalEntry) -> Option<Item> {
        let LocalKind::HardLink(first) = &entry.kind else { return None };
        let (from, to) = (self.place(first), self.place(&entry.path));
        let mut item = Item::new(entry);
        item.ops.push(Op::Link { from: from.clone(), to: to.clone() });
        item.instead = Some(vec![Op::Unlink { at: to.clone(), expect: Expect::Any }, Op::Link { from, to }]);
        Some(item)
    }

    fn symlink(&self, entry: &LocalEntry, target: &Bytes) -> Item {
        let at = self.place(&entry.path);
        let make = Op::Symlink { at: at.clone(), attr: entry.attr, target: target.clone() };
        let mut item = Item::new(entry);
        item.ops.push(make.clone());
        item.instead = Some(vec![Op::Unlink { at, expect: Expect::Any }, make]);
        item
    }
}

/// What was cut, as the namespace keeps it.
pub(crate) fn content(imported: Imported, place: &Located) -> Content {
    match imported {
        Imported::Inline(bytes) => Content::Inline(bytes),
        Imported::Manifest(root) => Content::Manifest(ManifestRef {
            size: root.size(),
            root: root.as_bytes().clone(),
            // Set by the node that commits it.
            origin: place.volume.spec.home.clone(),
        }),
    }
}

/// Runs work that takes processor time or blocks off the reactor.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, VfsError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| VfsError::Internal(error.to_string()))
}
