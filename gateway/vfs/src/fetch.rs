//! Reading many files at once: the entries of a walk become batches of chunk ids, a few batches are under way at once, and
//! what arrives is handed, in order, to a [`Sink`] on a thread of its own.

use std::sync::Arc;

use bytes::Bytes;
use causeway_base::{ChunkId, Ino, SiteName};
use causeway_dedup::manifest::{NodeContent, NodeRef};
use causeway_dedup::{Extent, ManifestRoot, Realm};
use causeway_namespace_core::inode::{Body, Content, Inode};
use tokio::sync::mpsc;

use crate::error::VfsError;
use crate::transfer::{ChunkStream, TransferError};
use crate::{Located, Progress, Vfs};

/// Plain bytes of chunks in one batch.
pub const BATCH_BYTES: u64 = 8 << 20;
/// Most chunks in one batch.
pub const BATCH_CHUNKS: usize = 4096;
/// Most entries in one batch.
pub const BATCH_ENTRIES: usize = 1024;
/// Batches under way at once.
pub const IN_FLIGHT_MAX: usize = 3;

/// An entry to be read.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path below the place where the read started; empty for that place itself.
    pub path: Bytes,
    /// Its inode's number: equal for the names of one file.
    pub ino: Ino,
    /// Its inode.
    pub inode: Inode,
}

/// Takes what was read. Called on a blocking thread, in order: `start`, any number of `data` and `hole`, `end`, for each
/// entry. A file's data and holes add up to its size (or to the range asked for). An error ends the read.
pub trait Sink: Send + 'static {
    /// An entry begins. `false`: its content is not wanted, only `end` follows.
    ///
    /// # Errors
    /// The sink's own.
    fn start(&mut self, entry: &Entry) -> Result<bool, VfsError>;

    /// The next bytes of the file.
    ///
    /// # Errors
    /// The sink's own.
    fn data(&mut self, bytes: &[u8]) -> Result<(), VfsError>;

    /// The next bytes of the file are zeros that no chunk holds.
    ///
    /// # Errors
    /// The sink's own.
    fn hole(&mut self, len: u64) -> Result<(), VfsError>;

    /// The entry is whole.
    ///
    /// # Errors
    /// The sink's own.
    fn end(&mut self, entry: &Entry) -> Result<(), VfsError>;
}

/// A part of a file.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Most bytes; less if the file ends before.
    pub len: u64,
}

impl Range {
    /// All of a file.
    pub const ALL: Self = Self { offset: 0, len: u64::MAX };

    fn end(self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

#[derive(Debug)]
enum Step {
    Start(Arc<Entry>),
    Inline(Bytes),
    /// Of the next chunk of the stream, these bytes.
    Chunk {
        from: usize,
        to: usize,
    },
    Hole(u64),
    End(Arc<Entry>),
}

#[derive(Debug, Default)]
struct Batch {
    steps: Vec<Step>,
    ids: Vec<ChunkId>,
    origin: Option<SiteName>,
    bytes: u64,
}

/// A batch whose chunks are coming.
type Coming = (Vec<Step>, Option<ChunkStream>);

impl Vfs {
    /// Reads everything below `place` (or the one file there) into `sink`, and gives it back.
    ///
    /// # Errors
    /// [`VfsError`], the sink's included. Cancel safe: dropping it ends the transfers; the sink's thread ends soon after.
    pub async fn fetch_tree<S: Sink>(&self, place: &Located, sink: S, progress: Arc<Progress>) -> Result<S, VfsError> {
        self.fetch_tree_at(place, causeway_namespace::Consistency::Linearizable, sink, progress).await
    }

    /// As [`Vfs::fetch_tree`], as fresh as asked, or of a past state.
    ///
    /// # Errors
    /// As [`Vfs::fetch_tree`].
    pub async fn fetch_tree_at<S: Sink>(
        &self,
        place: &Located,
        freshness: impl Into<causeway_namespace::Freshness>,
        sink: S,
        progress: Arc<Progress>,
    ) -> Result<S, VfsError> {
        let planner = Planner::new(self, place, Range::ALL, progress.clone()).await?;
        let walk = self.names.walk(place.volume.id, place.at(), true, freshness);
        run(planner, Source::Walk(Box::new(walk), place.clone()), sink, progress).await
    }

    /// Reads one file, or a range of it, into `sink`, and gives it back.
    ///
    /// # Errors
    /// As [`Vfs::fetch_tree`].
    pub async fn fetch_file<S: Sink>(
        &self,
        place: &Located,
        entry: Entry,
        range: Range,
        sink: S,
    ) -> Result<S, VfsError> {
        let progress = Arc::new(Progress::default());
        let planner = Planner::new(self, place, range, progress.clone()).await?;
        run(planner, Source::One(Some(entry)), sink, progress).await
    }
}

enum Source {
    Walk(Box<causeway_namespace::client::Walk>, Located),
    One(Option<Entry>),
}

impl Source {
    async fn next(&mut self) -> Result<Option<Vec<Entry>>, VfsError> {
        match self {
            Self::One(entry) => Ok(entry.take().map(|entry| vec![entry])),
            Self::Walk(walk, place) => match walk.next().await? {
                None => Ok(None),
                Some(Err(code)) => Err(place.error(code)),
                Some(Ok(batch)) => {
                    let whole = batch.entries.into_iter().map(|entry| {
                        let inode = entry.inode.ok_or_else(|| VfsError::Internal("a walk without inodes".into()))?;
                        Ok(Entry { path: entry.name, ino: entry.ino, inode })
                    });
                    whole.collect::<Result<_, VfsError>>().map(Some)
                }
            },
        }
    }
}

async fn run<S: Sink>(
    mut planner: Planner,
    mut source: Source,
    sink: S,
    progress: Arc<Progress>,
) -> Result<S, VfsError> {
    let (ready, coming) = mpsc::channel::<Coming>(IN_FLIGHT_MAX);
    let consumer = tokio::task::spawn_blocking(move || consume(coming, sink, &progress));
    let produced = async {
        while let Some(entries) = source.next().await? {
            for entry in entries {
                if !planner.entry(entry, &ready).await? {
                    return Ok(());
                }
            }
        }
        planner.flush(&ready).await.map(|_| ())
    }
    .await;
    drop(ready);
    let consumed = consumer.await.map_err(|error| VfsError::Internal(error.to_string()))?;
    // A sink that failed is the reason why nothing more could be delivered.
    let sink = consumed?;
    produced.map(|()| sink)
}

fn consume<S: Sink>(mut coming: mpsc::Receiver<Coming>, mut sink: S, progress: &Progress) -> Result<S, VfsError> {
    let mut wanted = true;
    while let Some((steps, mut chunks)) = coming.blocking_recv() {
        for step in steps {
            match step {
                Step::Start(entry) => wanted = sink.start(&entry)?,
                Step::Inline(bytes) if wanted => {
                    sink.data(&bytes)?;
                    progress.done(0, bytes.len() as u64);
                }
                Step::Chunk { from, to } => {
                    let chunk =
                        chunks.as_mut().and_then(ChunkStream::blocking_recv).unwrap_or_else(|| Err(cut_off()))?;
                    let part = chunk.get(from..to).ok_or_else(cut_off)?;
                    if wanted {
                        sink.data(part)?;
                        progress.done(0, part.len() as u64);
                    }
                }
                Step::Hole(len) if wanted => sink.hole(len)?,
                Step::Inline(_) | Step::Hole(_) => {}
                Step::End(entry) => {
                    sink.end(&entry)?;
                    progress.done(1, 0);
                }
            }
        }
    }
    Ok(sink)
}

/// The stream ended early, or a chunk is not as long as its manifest says.
fn cut_off() -> TransferError {
    TransferError {
        what: "read chunks".into(),
        reason: "the node sent less than was asked for; try again".into(),
        class: causeway_base::RetryClass::Transient,
        source: None,
    }
}

struct Planner {
    vfs: Vfs,
    realm: Realm,
    shown: Located,
    range: Range,
    batch: Batch,
    progress: Arc<Progress>,
}

impl Planner {
    async fn new(vfs: &Vfs, place: &Located, range: Range, progress: Arc<Progress>) -> Result<Self, VfsError> {
        let realm = vfs.realm(&place.volume).await?;
        Ok(Self { vfs: vfs.clone(), realm, shown: place.clone(), range, batch: Batch::default(), progress })
    }

    /// `false`: the sink is gone.
    async fn entry(&mut self, entry: Entry, ready: &mpsc::Sender<Coming>) -> Result<bool, VfsError> {
        self.progress.found(1, entry.inode.size());
        let entry = Arc::new(entry);
        self.batch.steps.push(Step::Start(entry.clone()));
        match &entry.inode.body {
            Body::File(Content::Inline(bytes)) => {
                let end = usize::try_from(self.range.end()).unwrap_or(usize::MAX).min(bytes.len());
                let start = usize::try_from(self.range.offset).unwrap_or(usize::MAX).min(end);
                self.batch.bytes += (end - start) as u64;
                self.batch.steps.push(Step::Inline(bytes.slice(start..end)));
            }
            Body::File(Content::Manifest(manifest)) => {
                let damaged = |source| VfsError::Manifest { path: self.shown.join(&entry.path).shown, source };
                let root = ManifestRoot::decode(&manifest.root).map_err(damaged)?;
                let content = root.content().map_err(damaged)?;
                let origin = Some(manifest.origin.clone());
                if self.batch.origin != origin && !self.batch.ids.is_empty() && !self.flush(ready).await? {
                    return Ok(false);
                }
                self.batch.origin = origin;
                if !self.content(content, &entry.path, ready).await? {
                    return Ok(false);
                }
            }
            Body::Directory { .. } | Body::Symlink(_) | Body::Mount { .. } => {}
        }
        self.batch.steps.push(Step::End(entry));
        let full = self.batch.steps.len() >= 2 * BATCH_ENTRIES || self.batch.bytes >= BATCH_BYTES;
        if full { self.flush(ready).await } else { Ok(true) }
    }

    /// Plans the extents of a manifest that lie in the range; nodes of a long one are read a level at a time.
    async fn content(
        &mut self,
        content: NodeContent,
        path: &Bytes,
        ready: &mpsc::Sender<Coming>,
    ) -> Result<bool, VfsError> {
        let mut at = 0;
        let mut stack = vec![content];
        while let Some(content) = stack.pop() {
            match content {
                NodeContent::Extents(extents) => {
                    for extent in extents {
                        if !self.extent(at, &extent, ready).await? {
                            return Ok(false);
                        }
                        at += extent.len();
                    }
                }
                NodeContent::Nodes(mut nodes) => {
                    // Those before the range are skipped whole, those after it are never reached.
                    let skipped = nodes.iter().take_while(|node| {
                        let before = at + node.span <= self.range.offset;
                        at += if before { node.span } else { 0 };
                        before
                    });
                    let skipped = skipped.count();
                    nodes.drain(..skipped);
                    let (mut start, end) = (at, self.range.end());
                    nodes.retain(|node| {
                        let inside = start < end;
                        start = start.saturating_add(node.span);
                        inside
                    });
                    let opened = self.open(&nodes, path).await?;
                    stack.extend(opened.into_iter().rev());
                }
            }
        }
        Ok(true)
    }

    async fn open(&self, nodes: &[NodeRef], path: &Bytes) -> Result<Vec<NodeContent>, VfsError> {
        let ids = nodes.iter().map(|node| node.id).collect();
        let mut chunks = self.vfs.chunks.read(&self.realm, ids, self.batch.origin.clone()).await?;
        let mut opened = Vec::with_capacity(nodes.len());
        for node in nodes {
            let plain = chunks.recv().await.unwrap_or_else(|| Err(cut_off()))?;
            let content = node.open(&plain);
            let path = || self.shown.join(path).shown;
            opened.push(content.map_err(|source| VfsError::Manifest { path: path(), source })?);
        }
        Ok(opened)
    }

    async fn extent(&mut self, at: u64, extent: &Extent, ready: &mpsc::Sender<Coming>) -> Result<bool, VfsError> {
        let start = at.max(self.range.offset);
        let end = (at + extent.len()).min(self.range.end());
        if start >= end {
            return Ok(true);
        }
        match *extent {
            Extent::Hole { .. } => self.batch.steps.push(Step::Hole(end - start)),
            Extent::Chunk { id, .. } => {
                // Both are within a chunk, which is at most 1 MiB long.
                let (from, to) = ((start - at) as usize, (end - at) as usize);
                self.batch.ids.push(id);
                self.batch.bytes += extent.len();
                self.batch.steps.push(Step::Chunk { from, to });
            }
        }
        if self.batch.bytes >= BATCH_BYTES || self.batch.ids.len() >= BATCH_CHUNKS {
            let origin = self.batch.origin.clone();
            let delivered = self.flush(ready).await?;
            self.batch.origin = origin;
            return Ok(delivered);
        }
        Ok(true)
    }

    async fn flush(&mut self, ready: &mpsc::Sender<Coming>) -> Result<bool, VfsError> {
        let batch = std::mem::take(&mut self.batch);
        let chunks = match batch.ids.is_empty() {
            true => None,
            false => Some(self.vfs.chunks.read(&self.realm, batch.ids, batch.origin).await?),
        };
        Ok(ready.send((batch.steps, chunks)).await.is_ok())
    }
}
