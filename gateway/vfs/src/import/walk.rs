//! The walk of a local folder, and the cutting of the files that it finds.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use causeway_base::ChunkId;
use causeway_dedup::pipeline::{self, Imported, PipelineOptions};
use causeway_dedup::{EncodedChunk, Realm};
use tokio::sync::mpsc;

use crate::Progress;
use crate::error::VfsError;
use crate::local::scan::{LeftOut, LocalEntry, LocalKind, Scan};
use crate::node_sink::NodeSink;

/// Files found and not opened yet.
const FILES_AHEAD: usize = 1024;

/// Something to be committed, in an order in which it can be.
#[derive(Debug)]
pub(super) enum Event {
    /// A folder; before everything in it.
    Directory(LocalEntry),
    Symlink(LocalEntry),
    HardLink(LocalEntry),
    /// A file whose chunks are all durable.
    File(LocalEntry, Imported),
    LeftOut(LeftOut),
}

/// Walks and cuts until the end, or until nobody receives any more. Blocks.
pub(super) fn run(
    scan: Scan,
    realm: &Realm,
    options: &PipelineOptions,
    node: &NodeSink,
    events: &mpsc::Sender<Event>,
    progress: &Progress,
) -> Result<(), VfsError> {
    let root = scan.root().to_owned();
    let sink = ImportSink { node, events, entries: Mutex::default() };
    let (files, found) = sync_channel(FILES_AHEAD);
    std::thread::scope(|scope| {
        let sink = &sink;
        // Ends when its receivers are dropped.
        scope.spawn(move || walk(scan, files, sink, progress));
        let paths = found.into_iter().enumerate().map(|(position, entry): (usize, LocalEntry)| {
            let path = local(&root, &entry.path);
            sink.lock().insert(position, entry);
            path
        });
        pipeline::import(realm, options, paths, sink)
    })
}

fn walk(scan: Scan, files: SyncSender<LocalEntry>, sink: &ImportSink<'_>, progress: &Progress) {
    for found in scan {
        let size = match &found {
            Ok(LocalEntry { kind: LocalKind::File { size }, .. }) => *size,
            _ => 0,
        };
        if found.is_ok() {
            progress.found(1, size);
        }
        let received = match found {
            Err(left_out) => sink.tell(Event::LeftOut(left_out)).is_ok(),
            Ok(entry) => match entry.kind {
                LocalKind::Directory => sink.tell(Event::Directory(entry)).is_ok(),
                LocalKind::HardLink(_) => sink.tell(Event::HardLink(entry)).is_ok(),
                LocalKind::Symlink(_) => sink.tell(Event::Symlink(entry)).is_ok(),
                // Sent after the folder that it is in, so committed after it.
                LocalKind::File { .. } => files.send(entry).is_ok(),
            },
        };
        if !received {
            return;
        }
    }
}

/// The local path of an entry.
pub(super) fn local(root: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { root.to_owned() } else { root.join(Path::new(std::ffi::OsStr::from_bytes(path))) }
}

struct ImportSink<'a> {
    node: &'a NodeSink,
    events: &'a mpsc::Sender<Event>,
    /// The files that are being cut, by their position.
    entries: Mutex<HashMap<usize, LocalEntry>>,
}

impl ImportSink<'_> {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<usize, LocalEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room: commits that are slow make cutting slow.
    fn tell(&self, event: Event) -> Result<(), VfsError> {
        self.events.blocking_send(event).map_err(|_| over())
    }

    fn wanted(&self) -> Result<(), VfsError> {
        if self.events.is_closed() { Err(over()) } else { Ok(()) }
    }
}

/// Nobody waits for the import any more, so nobody is told this.
fn over() -> VfsError {
    VfsError::Internal("the import has ended".into())
}

impl pipeline::Sink for ImportSink<'_> {
    type Error = VfsError;

    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, VfsError> {
        self.wanted()?;
        Ok(self.node.missing(ids)?)
    }

    fn store(&self, chunks: Vec<EncodedChunk>) -> Result<(), VfsError> {
        self.wanted()?;
        Ok(self.node.store(chunks)?)
    }

    fn done(&self, position: usize, result: io::Result<Imported>) -> Result<(), VfsError> {
        let entry = self.lock().remove(&position);
        let Some(entry) = entry else { return Ok(()) };
        self.tell(match result {
            Ok(imported) => Event::File(entry, imported),
            Err(error) => Event::LeftOut(LeftOut { path: entry.path, reason: format!("cannot be read: {error}") }),
        })
    }
}

/// Chunks of files whose commit is another's business.
pub(super) struct ChunksOnly<'a>(pub(super) &'a NodeSink);

impl pipeline::Sink for ChunksOnly<'_> {
    type Error = VfsError;

    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, VfsError> {
        Ok(self.0.missing(ids)?)
    }

    fn store(&self, chunks: Vec<EncodedChunk>) -> Result<(), VfsError> {
        Ok(self.0.store(chunks)?)
    }

    fn done(&self, _: usize, _: io::Result<Imported>) -> Result<(), VfsError> {
        Ok(())
    }
}
