//! The blocking part of a change: reading at the edges, cutting, sending what is new.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use causeway_base::{ChunkId, SiteName};
use causeway_dedup::manifest::LoadError;
use causeway_dedup::pipeline::{self, Imported};
use causeway_dedup::rechunk::{Old, Plan, RechunkError, RechunkOptions, RechunkStats, rechunk};
use causeway_dedup::{EncodedChunk, Extent, Manifest, ManifestError, ManifestRoot};
use causeway_namespace_core::inode::Content;

use super::new_bytes::NewBytes;
use crate::error::VfsError;
use crate::import::BATCH_BYTES;
use crate::node_sink::NodeSink;
use crate::transfer::TransferError;

/// Threads that compress and send while one cuts.
const SENDERS: usize = 2;
/// Most chunks in one batch.
const BATCH_CHUNKS: usize = 1024;

type Batch = Vec<(ChunkId, Bytes)>;

/// What the change makes of the file; all its chunks are durable then.
pub(super) fn rechunked(
    old: &Content,
    plan: Plan,
    options: &RechunkOptions,
    new: &NewBytes,
    node: &NodeSink,
    level: Option<i32>,
    shown: &str,
) -> Result<(Imported, RechunkStats), VfsError> {
    let damaged = |source| VfsError::Manifest { path: shown.to_owned(), source };
    // A small file is as if it were one chunk, which no node has.
    let mut inline = None;
    let (root, origin) = match old {
        Content::Manifest(manifest) => {
            (ManifestRoot::decode(&manifest.root).map_err(damaged)?, Some(manifest.origin.clone()))
        }
        Content::Inline(bytes) => {
            let id = options.realm.chunk_id(bytes);
            let len = u32::try_from(bytes.len()).map_err(|_| damaged(ManifestError::Extent(bytes.len() as u64)))?;
            let extents = (len > 0).then_some(Extent::Chunk { id, len });
            inline = extents.map(|_| (id, bytes.clone()));
            let root = Manifest::new(extents).and_then(|manifest| manifest.store(&options.realm, |_, _| {}));
            (root.map_err(damaged)?, None)
        }
    };
    let whole = plan.size() <= options.inline_bytes_max;
    let (batches, received) = sync_channel(1);
    let received = Mutex::new(received);
    let (cut, sent) = std::thread::scope(|scope| {
        let senders: [_; SENDERS] = std::array::from_fn(|_| scope.spawn(|| send(&received, node, level)));
        let mut host = Host { new, node, origin, inline, batches, batch: Vec::new(), bytes: 0 };
        let cut = host.cut(&root, plan, options, whole);
        drop(host);
        (cut, senders.map(|sender| sender.join().unwrap_or_else(|_| Err(VfsError::Internal("a sender died".into())))))
    });
    // A sender that failed is the reason why the cutting ended.
    for sent in sent {
        sent?;
    }
    cut.map_err(|error| match error {
        RechunkError::Manifest(source) => damaged(source),
        RechunkError::Old(error) => error,
        other => VfsError::Internal(format!("{shown}: {other}")),
    })
}

/// Sends batches until there are no more, or one fails; then nobody takes any, and who gives them is told.
fn send(batches: &Mutex<Receiver<Batch>>, node: &NodeSink, level: Option<i32>) -> Result<(), VfsError> {
    loop {
        let batch = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = batch else { return Ok(()) };
        if let Err(error) = store(node, batch, level) {
            // The rest is taken and dropped, so that the one who cuts never waits for ever.
            let batches = batches.lock().unwrap_or_else(PoisonError::into_inner);
            while batches.recv().is_ok() {}
            return Err(error.into());
        }
    }
}

fn store(node: &NodeSink, batch: Batch, level: Option<i32>) -> Result<(), TransferError> {
    let mut ids: Vec<ChunkId> = batch.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    pipeline::store(&ChunksOf(node), &ids, batch, level)
}

struct ChunksOf<'a>(&'a NodeSink);

impl pipeline::Sink for ChunksOf<'_> {
    type Error = TransferError;

    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, TransferError> {
        self.0.missing(ids)
    }

    fn store(&self, chunks: Vec<EncodedChunk>) -> Result<(), TransferError> {
        self.0.store(chunks)
    }

    fn done(&self, _: usize, _: io::Result<Imported>) -> Result<(), TransferError> {
        Ok(())
    }
}

struct Host<'a> {
    new: &'a NewBytes,
    node: &'a NodeSink,
    origin: Option<SiteName>,
    /// The one chunk of a file that is not in chunks.
    inline: Option<(ChunkId, Bytes)>,
    batches: SyncSender<Batch>,
    batch: Batch,
    bytes: usize,
}

impl Host<'_> {
    fn cut(
        &mut self,
        root: &ManifestRoot,
        plan: Plan,
        options: &RechunkOptions,
        whole: bool,
    ) -> Result<(Imported, RechunkStats), RechunkError<VfsError>> {
        if let Some((id, plain)) = self.inline.clone().filter(|_| !whole) {
            // It may be taken over unread, and then it must be there.
            self.emit(id, plain).map_err(RechunkError::Old)?;
        }
        let cut = rechunk(root, plan, options, self)?;
        self.flush().map_err(RechunkError::Old)?;
        Ok(cut)
    }

    fn flush(&mut self) -> Result<(), VfsError> {
        self.bytes = 0;
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.batches.send(batch).map_err(|_| VfsError::Internal("no sender is left".into()))
    }
}

impl Old for Host<'_> {
    type Error = VfsError;

    fn chunk(&mut self, id: ChunkId) -> Result<Bytes, VfsError> {
        match &self.inline {
            Some((inline, plain)) if *inline == id => Ok(plain.clone()),
            _ => Ok(self.node.read(id, self.origin.clone())?),
        }
    }

    fn new_bytes(&mut self, from: u64, buffer: &mut [u8]) -> Result<(), VfsError> {
        self.new.fill(from, buffer).map_err(|error| VfsError::local("read", "the new bytes", error))
    }

    fn emit(&mut self, id: ChunkId, plain: Bytes) -> Result<(), VfsError> {
        self.bytes += plain.len();
        self.batch.push((id, plain));
        if self.bytes >= BATCH_BYTES || self.batch.len() >= BATCH_CHUNKS { self.flush() } else { Ok(()) }
    }
}

/// Reads all chunks of a file that `to` lacks, through whichever node has or finds them, and sends them there.
pub(super) fn bring(
    root: &[u8],
    from: &NodeSink,
    origin: Option<SiteName>,
    to: &NodeSink,
    level: Option<i32>,
    shown: &str,
) -> Result<(), VfsError> {
    let damaged = |source| VfsError::Manifest { path: shown.to_owned(), source };
    let root = ManifestRoot::decode(root).map_err(damaged)?;
    let mut ids = Vec::new();
    let nodes = std::cell::RefCell::new(Vec::new());
    let pass = |ids: &mut Vec<ChunkId>| -> Result<(), VfsError> {
        ids.append(&mut nodes.borrow_mut());
        ids.sort_unstable();
        ids.dedup();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for id in to.missing(ids)? {
            let plain = from.read(id, origin.clone())?;
            bytes += plain.len();
            batch.push(EncodedChunk::encode_at(id, plain, level));
            if bytes >= BATCH_BYTES {
                bytes = 0;
                to.store(std::mem::take(&mut batch))?;
            }
        }
        if !batch.is_empty() {
            to.store(batch)?;
        }
        ids.clear();
        Ok(())
    };
    let fetch = |id| {
        nodes.borrow_mut().push(id);
        from.read(id, origin.clone())
    };
    for placed in root.walk(0, fetch) {
        let placed = placed.map_err(|error| match error {
            LoadError::Manifest(source) => damaged(source),
            LoadError::Fetch { source, .. } => source.into(),
            other => VfsError::Internal(format!("{shown}: {other}")),
        })?;
        ids.extend(placed.extent.chunk_id());
        if ids.len() >= BATCH_CHUNKS {
            pass(&mut ids)?;
        }
    }
    pass(&mut ids)
}
